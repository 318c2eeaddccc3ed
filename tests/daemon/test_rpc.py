"""Transmission's RPC as its clients speak it: shapes of requests recorded from them, and what nobody should send."""

from __future__ import annotations

import json
import random
import time
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from swarm.bitfield import Bitfield
from swarm.daemon.access import SESSION_AGE, SessionId
from swarm.daemon.http import Request, Response
from swarm.daemon.rpc import Rpc
from swarm.daemon.rpc_fields import FIELDS
from swarm.daemon.rpc_torrents import RECENTLY
from swarm.stats.snapshot import Reachability
from swarm.torrent.metainfo import encode_torrent
from tests.daemon.plain_session import PlainSession, sample
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases


def words(text: str) -> list[str]:
    return text.split()


# The whole table of torrent-get in Transmission 4.0.6's rpc-spec.md.
SPECIFIED = words("""
    activityDate addedDate availability bandwidthPriority comment corruptEver creator dateCreated desiredAvailable
    doneDate downloadDir downloadedEver downloadLimit downloadLimited editDate error errorString eta etaIdle
    file-count files fileStats group hashString haveUnchecked haveValid honorsSessionLimits id isFinished isPrivate
    isStalled labels leftUntilDone magnetLink manualAnnounceTime maxConnectedPeers metadataPercentComplete name
    peer-limit peers peersConnected peersFrom peersGettingFromUs peersSendingToUs percentComplete percentDone pieces
    pieceCount pieceSize priorities primary-mime-type queuePosition rateDownload rateUpload recheckProgress
    secondsDownloading secondsSeeding seedIdleLimit seedIdleMode seedRatioLimit seedRatioMode sizeWhenDone startDate
    status trackers trackerList trackerStats totalSize torrentFile uploadedEver uploadLimit uploadLimited
    uploadRatio wanted webseeds webseedsSendingToUs
""")

SESSION_FIELDS = words("""
    alt-speed-down alt-speed-enabled alt-speed-time-begin alt-speed-time-day alt-speed-time-enabled
    alt-speed-time-end alt-speed-up blocklist-enabled blocklist-size blocklist-url cache-size-mb config-dir
    default-trackers dht-enabled download-dir download-dir-free-space download-queue-enabled download-queue-size
    encryption idle-seeding-limit-enabled idle-seeding-limit incomplete-dir-enabled incomplete-dir lpd-enabled
    peer-limit-global peer-limit-per-torrent peer-port-random-on-start peer-port pex-enabled port-forwarding-enabled
    queue-stalled-enabled queue-stalled-minutes rename-partial-files rpc-version-minimum rpc-version-semver
    rpc-version script-torrent-added-enabled script-torrent-added-filename script-torrent-done-enabled
    script-torrent-done-filename script-torrent-done-seeding-enabled script-torrent-done-seeding-filename
    seed-queue-enabled seed-queue-size seedRatioLimit seedRatioLimited session-id speed-limit-down-enabled
    speed-limit-down speed-limit-up-enabled speed-limit-up start-added-torrents trash-original-torrent-files units
    utp-enabled version
""")


class Remote:
    """A client that knows the session id."""

    def __init__(self, session: PlainSession) -> None:
        self.session = session
        self.id = SessionId()
        self.rpc = Rpc(session, self.id)  # type: ignore[arg-type]

    async def post(self, body: bytes) -> Response:
        request = Request("POST", "/transmission/rpc", "/transmission/rpc", headers=self.headers, body=body)
        return await self.rpc.answer(request)

    @property
    def headers(self) -> dict[str, str]:
        return {"x-transmission-session-id": self.id.value}

    async def call(self, method: str, arguments: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        response = await self.post(json.dumps({"method": method, "arguments": arguments or {}, **more}).encode())
        assert response.status == 200
        assert isinstance(response.body, bytes)
        document: dict[str, Any] = json.loads(response.body)
        return document

    async def ask(self, method: str, **arguments: Any) -> Any:
        """The arguments of a success."""
        answer = await self.call(method, {name.replace("_", "-"): value for name, value in arguments.items()})
        assert answer["result"] == "success", answer
        return answer["arguments"]

    async def error(self, method: str, arguments: dict[str, Any]) -> str:
        answer = await self.call(method, arguments)
        assert answer["result"] != "success"
        return str(answer["result"])


@pytest.fixture
async def remote(tmp_path: Path) -> Remote:
    return Remote(PlainSession(tmp_path))


@pytest.fixture
async def with_torrents(remote: Remote) -> Remote:
    for index in range(3):
        await remote.session.add(sample(index), paused=True)
    return remote


# -- the session id -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_without_the_session_id_it_is_told_whatever_is_asked(remote: Remote, method: str) -> None:
    for headers in ({}, {"x-transmission-session-id": "wrong"}, {"x-transmission-session-id": "ä"}):
        response = await remote.rpc.answer(Request(method, "/", "/", headers=headers))
        assert response.status == 409
        assert dict(response.headers)["X-Transmission-Session-Id"] == remote.id.value
        assert not any(name.lower() == "x-transmission-rpc-version" for name, _ in response.headers)


async def test_with_it_only_post_is_taken(remote: Remote) -> None:
    response = await remote.rpc.answer(Request("GET", "/", "/", headers=remote.headers))
    assert (response.status, dict(response.headers)["Allow"]) == (405, "POST")


async def test_the_session_id_is_another_after_an_hour(autojump_clock: MockClock) -> None:
    session_id = SessionId()
    first = session_id.value
    assert session_id.value == first
    await trio.sleep(SESSION_AGE + 1)
    assert session_id.value != first


# -- the envelope ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", [0, 7, 2**40, 1.5, "abc", "\ud800"])
async def test_the_tag_comes_back(remote: Remote, tag: object) -> None:
    assert (await remote.call("session-close", tag=tag))["tag"] == tag
    assert (await remote.call("no-such-method", tag=tag))["tag"] == tag


async def test_what_is_unknown_is_answered_as_transmission_does(remote: Remote) -> None:
    assert await remote.call("torrent-fly") == {"arguments": {}, "result": "method name not recognized"}
    for body in (b"{}", b'{"method": 5}', b'{"method": null}'):
        response = await remote.post(body)
        assert json.loads(response.body)["result"] == "no method name"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"[]",
        b"5",
        b'"method"',
        b"\xff\xfe\x00",
        b'{"method": "session-get"',
        b"[" * 500_000,
        b'{"a":' * 400_000,
        b"[" * (1 << 20),
        b'{"method": "session-get", "tag": NaN}',
        b'{"method": "session-get", "tag": ' + b"9" * 5000 + b"}",
        b'{"method": "session-get", "arguments": []}',
        b'{"method": "session-get", "arguments": 5}',
        b'{"a": [' + b"1," * 1_000_001 + b"1]}",
    ],
)
async def test_what_is_no_request_is_an_error_and_no_crash(remote: Remote, body: bytes) -> None:
    response = await remote.post(body)
    assert response.status == 200
    answer = json.loads(response.body)  # type: ignore[arg-type]
    assert answer["result"] not in ("", "success")


async def test_a_megabyte_of_request_is_answered(remote: Remote) -> None:
    answer = await remote.call("session-get", {"x": "y" * (1 << 20), "fields": ["rpc-version"]})
    assert answer["arguments"] == {"rpc-version": 17}


# -- torrent-get ----------------------------------------------------------------------------------------------------


async def test_every_field_of_the_specification_is_there(with_torrents: Remote) -> None:
    assert set(SPECIFIED) <= FIELDS.keys()
    magnet = "magnet:?xt=urn:btih:" + "ab" * 20 + "&dn=a%20link"
    await with_torrents.ask("torrent-add", filename=magnet)
    torrents = (await with_torrents.ask("torrent-get", fields=list(FIELDS)))["torrents"]
    assert len(torrents) == 4
    for torrent in torrents:
        assert torrent.keys() == FIELDS.keys()
    metainfo, told = sample(0), torrents[0]
    assert told["name"] == metainfo.name
    assert told["hashString"] == metainfo.info_hash.hex()
    assert told["totalSize"] == told["sizeWhenDone"] == told["leftUntilDone"] == metainfo.total_size
    assert told["pieceCount"] == metainfo.piece_count
    assert len(b64decode(told["pieces"])) == (metainfo.piece_count + 7) // 8
    assert told["status"] == 0
    assert told["availability"] == [0] * metainfo.piece_count
    assert [file["length"] for file in told["files"]] == [file.size for file in metainfo.files]
    assert told["wanted"] == [1] * len(metainfo.files)
    assert told["uploadRatio"] == -1
    assert told["metadataPercentComplete"] == 1
    link = torrents[3]
    assert (link["name"], link["totalSize"], link["files"], link["metadataPercentComplete"]) == ("a link", 0, [], 0)


async def test_what_is_verified_is_counted_by_file(with_torrents: Remote) -> None:
    entry = with_torrents.session.entries[1]
    assert entry.metainfo is not None
    metainfo = entry.metainfo
    rng = random.Random(2)
    have = Bitfield(metainfo.piece_count)
    for index in range(metainfo.piece_count):
        if rng.random() < 0.6:
            have.add(index)
    entry.kept_have = have
    told = (await with_torrents.ask("torrent-get", ids=1, fields=list(FIELDS)))["torrents"][0]
    verified = bytearray(metainfo.total_size)
    for index in have:
        start = index * metainfo.piece_length
        verified[start : start + metainfo.piece_size(index)] = b"x" * metainfo.piece_size(index)
    by_file = [verified[file.offset : file.offset + file.size].count(b"x") for file in metainfo.files]
    assert [file["bytesCompleted"] for file in told["files"]] == by_file
    assert [file["bytesCompleted"] for file in told["fileStats"]] == by_file
    assert told["haveValid"] == sum(by_file)
    assert told["leftUntilDone"] == metainfo.total_size - sum(by_file)
    assert told["percentDone"] == pytest.approx(sum(by_file) / metainfo.total_size)
    assert told["availability"] == [-1 if index in have else 0 for index in range(metainfo.piece_count)]


async def test_unwanted_files_are_not_missing(with_torrents: Remote) -> None:
    await with_torrents.ask("torrent-set", ids=[1], files_unwanted=[])
    told = await with_torrents.ask(
        "torrent-get", ids=1, fields=["wanted", "leftUntilDone", "sizeWhenDone", "fileStats"]
    )
    count = len(sample(0).files)
    assert told["torrents"][0]["wanted"] == [0] * count
    assert told["torrents"][0]["leftUntilDone"] == told["torrents"][0]["sizeWhenDone"] == 0
    assert not any(each["wanted"] for each in told["torrents"][0]["fileStats"])


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (2, [2]),
        ([3, 1], [3, 1]),
        ([1, 1], [1]),
        ([], []),
        ([99], []),
        (99, []),
        (None, [1, 2, 3]),
        ("recently-active", [1, 2, 3]),
        ("no hash", []),
        ([sample(1).info_hash.hex(), 1], [2, 1]),
        (sample(1).info_hash.hex(), [2]),
    ],
)
async def test_ids_may_be_one_several_hashes_recent_or_absent(
    with_torrents: Remote, ids: object, expected: list[int]
) -> None:
    arguments = {"fields": ["id"]} | ({} if ids is None else {"ids": ids})
    answer = await with_torrents.ask("torrent-get", **arguments)
    assert [torrent["id"] for torrent in answer["torrents"]] == expected
    assert ("removed" in answer) is (ids == "recently-active")


@pytest.mark.parametrize("ids", [1.5, True, {"a": 1}, [[1]], [None], [True], [{}]])
async def test_ids_of_a_wrong_type_touch_nothing(with_torrents: Remote, ids: object) -> None:
    for method in ("torrent-get", "torrent-remove", "torrent-set"):
        assert (await with_torrents.error(method, {"ids": ids, "fields": ["id"]})).startswith("ids: ")
    assert len(with_torrents.session.entries) == 3


async def test_a_table_has_the_names_first(with_torrents: Remote) -> None:
    answer = await with_torrents.ask("torrent-get", fields=["id", "nonsense", 5, "status"], format="table")
    assert answer["torrents"] == [["id", "status"], [1, 0], [2, 0], [3, 0]]


async def test_no_fields_is_an_error_with_an_empty_list(with_torrents: Remote) -> None:
    answer = await with_torrents.call("torrent-get", {})
    assert answer == {"result": "no fields specified", "arguments": {"torrents": []}}


async def test_what_was_removed_is_told_to_who_asks_what_is_recent(with_torrents: Remote) -> None:
    await with_torrents.ask("torrent-remove", ids=[2], delete_local_data=True)
    answer = await with_torrents.ask("torrent-get", ids="recently-active", fields=["id"])
    assert answer["removed"] == [2]
    assert with_torrents.session.calls == [("remove", 2, True)]


async def test_a_change_of_status_is_recent_and_a_quiet_torrent_is_not(
    with_torrents: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def recent() -> list[int]:
        answer = await with_torrents.ask("torrent-get", ids="recently-active", fields=["id"])
        return [torrent["id"] for torrent in answer["torrents"]]

    began = time.time()
    assert await recent() == [1, 2, 3]  # just added
    monkeypatch.setattr(time, "time", lambda: began + RECENTLY + 1)
    assert await recent() == []
    with_torrents.session.entries[1].problem = "gone"
    told = (await with_torrents.ask("torrent-get", fields=["id", "error", "errorString"], ids=1))["torrents"][0]
    assert (told["error"], told["errorString"]) == (3, "gone")
    assert await recent() == [1]
    monkeypatch.setattr(time, "time", lambda: began + 2 * RECENTLY)
    assert await recent() == [1], "whoever asks a little later is told, too"
    monkeypatch.setattr(time, "time", lambda: began + 2 * RECENTLY + 2)
    assert await recent() == []


# -- torrent-add ----------------------------------------------------------------------------------------------------


async def test_a_torrent_is_added_once_and_then_a_duplicate(remote: Remote, tmp_path: Path) -> None:
    metainfo = sample(0)
    packed = b64encode(encode_torrent(metainfo)).decode()
    told = {"id": 1, "name": metainfo.name, "hashString": metainfo.info_hash.hex()}
    directory = str(tmp_path / "elsewhere")
    added = await remote.ask("torrent-add", metainfo=packed, paused=True, download_dir=directory, labels=["a", " b "])
    assert added == {"torrent-added": told}
    assert await remote.ask("torrent-add", metainfo=packed) == {"torrent-duplicate": told}
    entry = remote.session.entries[1]
    assert (str(entry.directory), entry.paused, entry.wishes.labels) == (directory, True, ("a", "b"))


async def test_a_path_and_a_magnet_link_are_added(remote: Remote, tmp_path: Path) -> None:
    path = tmp_path / "x.torrent"
    path.write_bytes(encode_torrent(sample(1)))
    assert (await remote.ask("torrent-add", filename=str(path)))["torrent-added"]["name"] == sample(1).name
    link = await remote.ask("torrent-add", filename="magnet:?xt=urn:btih:" + "0" * 40)
    assert link["torrent-added"]["hashString"] == "0" * 40


async def test_base64_may_be_broken_into_lines_and_lack_its_padding(remote: Remote) -> None:
    packed = b64encode(encode_torrent(sample(0))).decode().rstrip("=")
    lines = "\r\n".join(packed[start : start + 76] for start in range(0, len(packed), 76))
    assert "torrent-added" in await remote.ask("torrent-add", metainfo=lines)


async def test_files_and_priorities_are_taken_with_the_torrent(remote: Remote) -> None:
    packed = b64encode(encode_torrent(sample(1))).decode()
    await remote.ask(
        "torrent-add",
        **{"metainfo": packed, "files-unwanted": [0], "priority-high": [1], "priority-low": [], "peer-limit": 7},
    )
    wishes = remote.session.entries[1].wishes
    assert (wishes.unwanted, wishes.high, wishes.low, wishes.peer_limit) == ({0}, {1}, set(), 7)
    packed = b64encode(encode_torrent(sample(0))).decode()
    beyond = {"metainfo": packed, "files-unwanted": [10_000]}
    assert await remote.error("torrent-add", beyond) == "file index out of range"


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"filename": ""},
        {"filename": "/nowhere/x.torrent"},
        {"filename": "-"},
        {"filename": "a\0b"},
        {"filename": "magnet:?xt=urn:btih:zz"},
        {"filename": "http://127.0.0.1:1/x.torrent"},
        {"filename": "http://127.0.0.1:1/x.torrent", "cookies": "a=b\r\nX: y"},
        {"filename": 5},
        {"filename": "\ud800"},
        {"metainfo": "!"},
        {"metainfo": "ä"},
        {"metainfo": "AAAA"},
        {"metainfo": "ZDg6"},
        {"filename": "magnet:?xt=urn:btih:" + "0" * 40, "download-dir": "relative"},
        {"filename": "magnet:?xt=urn:btih:" + "0" * 40, "download-dir": "/a\0b"},
        {"filename": "magnet:?xt=urn:btih:" + "0" * 40, "labels": ["a,b"]},
        {"filename": "magnet:?xt=urn:btih:" + "0" * 40, "labels": "a"},
        {"filename": "magnet:?xt=urn:btih:" + "0" * 40, "paused": "perhaps"},
        {"filename": "magnet:?xt=urn:btih:" + "0" * 40, "files-wanted": [-1]},
    ],
)
async def test_what_cannot_be_added_is_an_error_in_words(remote: Remote, arguments: dict[str, Any]) -> None:
    assert await remote.error("torrent-add", arguments)
    assert not remote.session.entries


async def test_a_url_is_fetched_with_its_cookies_which_a_redirect_elsewhere_does_not_get(
    remote: Remote, nursery: trio.Nursery
) -> None:
    body = encode_torrent(sample(0))
    seen: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        request = await stream.receive_some()
        seen.append(request)
        if b"GET /away" in request:
            head = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%d/x\r\nContent-Length: 0\r\n\r\n" % ports[1]
            await stream.send_all(head)
        else:
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await stream.aclose()

    listeners = [(await trio.open_tcp_listeners(0, host="127.0.0.1"))[0] for _ in range(2)]
    ports = [listener.socket.getsockname()[1] for listener in listeners]
    nursery.start_soon(trio.serve_listeners, serve, listeners)
    url = f"http://127.0.0.1:{ports[0]}"
    assert "torrent-added" in await remote.ask("torrent-add", filename=url + "/x", cookies="pass=1; uid=2")
    assert "torrent-duplicate" in await remote.ask("torrent-add", filename=url + "/away", cookies="pass=1")
    assert [b"pass=1" in request for request in seen] == [True, True, False]
    nursery.cancel_scope.cancel()


# -- torrent-set and its like ---------------------------------------------------------------------------------------


async def test_what_is_set_is_told(with_torrents: Remote) -> None:
    wished = {
        "bandwidthPriority": 1,
        "downloadLimit": 100,
        "downloadLimited": True,
        "honorsSessionLimits": False,
        "labels": ["one", "two"],
        "peer-limit": 12,
        "seedIdleLimit": 45,
        "seedIdleMode": 1,
        "seedRatioLimit": 1.5,
        "seedRatioMode": 2,
        "uploadLimit": 0,
        "uploadLimited": True,
        "trackerList": "http://a.example/announce\nhttp://b.example/announce\n\nudp://c.example:80",
    }
    await with_torrents.call("torrent-set", {"ids": [2], **wished})
    told = (await with_torrents.ask("torrent-get", ids=2, fields=list(wished)))["torrents"][0]
    assert told == wished
    assert with_torrents.session.entries[2].wishes.download_rate == 100_000


async def test_an_empty_list_of_files_means_all(with_torrents: Remote) -> None:
    await with_torrents.ask("torrent-set", ids=1, priority_high=[])
    assert set((await with_torrents.ask("torrent-get", ids=1, fields=["priorities"]))["torrents"][0]["priorities"]) == {
        1
    }
    await with_torrents.ask("torrent-set", ids=1, priority_low=[0])
    priorities = (await with_torrents.ask("torrent-get", ids=1, fields=["priorities"]))["torrents"][0]["priorities"]
    assert priorities[0] == -1
    await with_torrents.ask("torrent-set", ids=1, priority_normal=[])
    assert not with_torrents.session.entries[1].wishes.high | with_torrents.session.entries[1].wishes.low


async def test_trackers_are_added_replaced_and_removed_by_id(with_torrents: Remote) -> None:
    async def trackers() -> list[tuple[int, int, str]]:
        told = (await with_torrents.ask("torrent-get", ids=1, fields=["trackers"]))["torrents"][0]["trackers"]
        return [(each["id"], each["tier"], each["announce"]) for each in told]

    await with_torrents.ask("torrent-set", ids=1, trackerList="http://a.example/announce\n\nhttp://b.example/announce")
    await with_torrents.ask("torrent-set", ids=1, trackerAdd=["udp://c.example:1"])
    await with_torrents.ask("torrent-set", ids=1, trackerReplace=[0, "http://d.example/announce"])
    await with_torrents.ask("torrent-set", ids=1, trackerRemove=[1])
    assert await trackers() == [(0, 0, "http://d.example/announce"), (1, 1, "udp://c.example:1")]
    for wrong in ({"trackerRemove": [9]}, {"trackerReplace": [9, "http://x.example/"]}, {"trackerAdd": ["nonsense"]}):
        await with_torrents.error("torrent-set", {"ids": 1, **wrong})
    stats = (await with_torrents.ask("torrent-get", ids=1, fields=["trackerStats"]))["torrents"][0]["trackerStats"]
    assert (stats[0]["host"], stats[0]["sitename"], stats[0]["scrape"]) == (
        "d.example:80",
        "d",
        "http://d.example/scrape",
    )
    assert len(stats[0]) == 27


@pytest.mark.parametrize(
    "arguments",
    [
        {"bandwidthPriority": 5},
        {"downloadLimit": -1},
        {"downloadLimit": "5"},
        {"downloadLimited": 7},
        {"seedRatioLimit": "x"},
        {"seedRatioMode": 3},
        {"labels": [""]},
        {"labels": [5]},
        {"labels": ["\ud800"]},
        {"labels": [str(n) for n in range(101)]},
        {"files-wanted": [10**6]},
        {"files-wanted": {}},
        {"files-wanted": [True]},
        {"priority-low": [-1]},
        {"peer-limit": 10**9},
        {"trackerList": "gopher://x.example/"},
        {"trackerList": "http://[/"},
        {"queuePosition": -1},
        {"group": "fast"},
    ],
)
async def test_a_wrong_value_is_an_error_and_changes_nothing(with_torrents: Remote, arguments: dict[str, Any]) -> None:
    before = [entry.wishes for entry in with_torrents.session.entries.values()]
    assert await with_torrents.error("torrent-set", arguments)
    assert [entry.wishes for entry in with_torrents.session.entries.values()] == before


async def test_actions_reach_the_session(with_torrents: Remote, tmp_path: Path) -> None:
    remote, calls = with_torrents, with_torrents.session.calls
    await remote.ask("torrent-start", ids=[1])
    await remote.ask("torrent-start-now", ids=2)
    await remote.ask("torrent-stop", ids=[sample(2).info_hash.hex()])
    await remote.ask("torrent-verify", ids=1)
    await remote.ask("torrent-reannounce", ids=1)
    await remote.ask("torrent-set-location", ids=1, location=str(tmp_path), move=True)
    await remote.ask("queue-move-top", ids=[3, 2])
    await remote.ask("torrent-set", ids=1, queuePosition=2)
    assert calls == [
        ("start", 1, False),
        ("start", 2, True),
        ("stop", 3),
        ("verify", 1),
        ("reannounce", 1),
        ("set_location", 1, str(tmp_path), True),
        ("queue_move", [3, 2], "top"),
        ("queue_place", 1, 2),
    ]
    assert await remote.error("torrent-set-location", {"ids": 1}) == "no location"
    assert "not absolute" in await remote.error("torrent-set-location", {"ids": 1, "location": "x"})
    for where in ("up", "down", "bottom"):
        await remote.ask(f"queue-move-{where}", ids=[1])


async def test_a_path_is_not_renamed_and_that_is_said(with_torrents: Remote) -> None:
    assert "requires 1 torrent" in await with_torrents.error("torrent-rename-path", {})
    answer = await with_torrents.call("torrent-rename-path", {"ids": [1], "path": "a", "name": "b"})
    assert answer["result"] != "success"
    assert answer["arguments"] == {"id": 1, "path": "a", "name": "b"}


# -- the session ----------------------------------------------------------------------------------------------------


async def test_session_get_tells_everything_that_is_specified(remote: Remote, tmp_path: Path) -> None:
    told = await remote.ask("session-get")
    assert set(SESSION_FIELDS) <= told.keys()
    assert told["version"].startswith("4.0.6 (swarm ")
    assert (told["rpc-version"], told["rpc-version-minimum"], told["download-dir"]) == (17, 14, str(tmp_path))
    assert (told["peer-port"], told["encryption"]) == (51413, "preferred")
    assert told["session-id"] == remote.id.value
    assert await remote.ask("session-get", fields=["peer-port", "x", 5]) == {"peer-port": 51413}


async def test_what_session_set_changes_session_get_tells(remote: Remote) -> None:
    changes = {
        "alt-speed-down": 11,
        "alt-speed-enabled": True,
        "alt-speed-time-begin": 60,
        "alt-speed-time-day": 65,
        "alt-speed-time-enabled": True,
        "alt-speed-time-end": 120,
        "alt-speed-up": 12,
        "default-trackers": "http://a.example/announce\n\nudp://b.example:1",
        "download-dir": "/srv/data",
        "download-queue-enabled": True,
        "download-queue-size": 3,
        "idle-seeding-limit": 7,
        "idle-seeding-limit-enabled": True,
        "peer-limit-global": 99,
        "peer-limit-per-torrent": 9,
        "queue-stalled-enabled": False,
        "queue-stalled-minutes": 5,
        "seed-queue-enabled": True,
        "seed-queue-size": 4,
        "seedRatioLimit": 3.25,
        "seedRatioLimited": True,
        "speed-limit-down": 500,
        "speed-limit-down-enabled": True,
        "speed-limit-up": 50,
        "speed-limit-up-enabled": True,
        "start-added-torrents": False,
    }
    assert (await remote.call("session-set", changes))["result"] == "success"
    assert await remote.ask("session-get", fields=list(changes)) == changes
    assert remote.session.options.download_rate == 500_000


async def test_what_is_settled_at_the_start_can_be_confirmed_but_not_changed(remote: Remote) -> None:
    told = await remote.ask("session-get")
    fixed = ("dht-enabled", "pex-enabled", "utp-enabled", "lpd-enabled", "peer-port", "encryption", "incomplete-dir")
    assert (await remote.call("session-set", {name: told[name] for name in fixed}))["result"] == "success"
    for name, value in (("dht-enabled", False), ("peer-port", 1), ("encryption", "required"), ("incomplete-dir", "/x")):
        error = await remote.error("session-set", {name: value, "speed-limit-up": 3})
        assert error == f"{name} cannot be changed while the daemon runs"
    assert remote.session.options.upload_rate == 100_000
    assert "download directory" in await remote.error("session-set", {"download-dir": "x"})


async def test_statistics_free_space_and_the_rest(with_torrents: Remote, tmp_path: Path) -> None:
    remote = with_torrents
    told = await remote.ask("session-stats")
    assert (told["torrentCount"], told["activeTorrentCount"], told["pausedTorrentCount"]) == (3, 0, 3)
    assert told["cumulative-stats"] == {
        "downloadedBytes": 20,
        "filesAdded": 30,
        "secondsActive": 50,
        "sessionCount": 40,
        "uploadedBytes": 10,
    }
    space = await remote.ask("free-space", path=str(tmp_path))
    assert space["path"] == str(tmp_path)
    assert 0 < space["size-bytes"] <= space["total_size"]
    missing = await remote.call("free-space", {"path": str(tmp_path / "missing")})
    assert missing["result"] != "success"
    assert missing["arguments"]["size-bytes"] == -1
    assert await remote.error("free-space", {}) == "directory path argument is missing"
    assert await remote.error("free-space", {"path": "x"}) == "directory path is not absolute"
    assert "no blocklist" in await remote.error("blocklist-update", {})
    assert await remote.ask("swarm-connectivity") == {"schema": 1}
    assert await remote.ask("group-get") == {"group": []}
    await remote.ask("session-close")
    assert remote.session.close_requested.is_set()


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((None, None, None, None), None),
        ((False, None, None, None), False),
        ((False, True, None, None), True),
        ((None, None, True, False), True),
    ],
)
async def test_the_port_is_open_if_peers_found_it_so(
    remote: Remote, verdicts: tuple[bool | None, ...], expected: bool | None
) -> None:
    remote.session.node.reachability = Reachability(*verdicts)
    answer = await remote.call("port-test")
    if expected is None:
        assert answer["result"].startswith("not known yet")
    else:
        assert answer["arguments"] == {"port-is-open": expected}


# -- what clients ask, as recorded ----------------------------------------------------------------------------------

SONARR = words("""
    id hashString name downloadDir totalSize leftUntilDone isFinished eta status secondsDownloading secondsSeeding
    errorString uploadedEver downloadedEver seedRatioLimit seedRatioMode seedIdleLimit seedIdleMode fileCount
    file-count labels
""")
FLOOD = words("""
    hashString downloadDir name addedDate activityDate dateCreated isPrivate status error errorString totalSize
    percentDone eta rateDownload rateUpload downloadedEver uploadedEver uploadRatio peersConnected peersSendingToUs
    peersGettingFromUs labels trackers doneDate
""")
TREMC = words("""
    id name downloadDir status trackerStats desiredAvailable rateDownload rateUpload eta uploadRatio sizeWhenDone
    haveValid haveUnchecked addedDate uploadedEver error errorString recheckProgress peersConnected uploadLimit
    downloadLimit uploadLimited downloadLimited bandwidthPriority peersSendingToUs peersGettingFromUs totalSize
    seedRatioLimit seedRatioMode isPrivate magnetLink honorsSessionLimits metadataPercentComplete queuePosition
    labels
""")


@pytest.mark.parametrize("fields", [SONARR, FLOOD, TREMC], ids=["sonarr", "flood", "tremc"])
async def test_every_column_of_known_tools_is_filled(with_torrents: Remote, fields: list[str]) -> None:
    answer = await with_torrents.ask("torrent-get", fields=fields)
    unknown = {"fileCount"}  # Sonarr asks for two spellings; Transmission knows one of them
    for torrent in answer["torrents"]:
        assert torrent.keys() == set(fields) - unknown


# -- fuzz -----------------------------------------------------------------------------------------------------------

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**63, 2**70, 0.5, -1e300, "", "x", "recently-active", "/", "\ud800", "a\0b", [], [0],
    [1, "x"], [[]], [None], {}, {"a": []}, ["http://a.example/announce"], sample(0).info_hash.hex(),
]  # fmt: skip
METHODS = words("""
    blocklist-update free-space group-get group-set port-test queue-move-bottom queue-move-down queue-move-top
    queue-move-up session-close session-get session-set session-stats torrent-add torrent-get torrent-reannounce
    torrent-remove torrent-rename-path torrent-set torrent-set-location torrent-start torrent-start-now torrent-stop
    torrent-verify swarm-connectivity
""")
NAMES = [
    "ids", "fields", "format", "labels", "filename", "metainfo", "cookies", "paused", "download-dir", "location",
    "move",
    "path", "name", "group", "files-wanted", "files-unwanted", "priority-high", "priority-low", "priority-normal",
    "trackerAdd", "trackerRemove", "trackerReplace", "trackerList", "seedRatioLimit", "seedRatioMode", "seedIdleLimit",
    "seedIdleMode", "queuePosition", "peer-limit", "bandwidthPriority", "downloadLimit", "delete-local-data",
    *SESSION_FIELDS,
]  # fmt: skip


async def test_fuzzed_arguments_are_answered_and_never_crash(with_torrents: Remote) -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    for _ in range(min(fuzz_count(), 100_000)):
        if not with_torrents.session.entries:
            await with_torrents.session.add(sample(0))
        arguments = {rng.choice(NAMES): rng.choice(VALUES) for _ in range(rng.randrange(4))}
        answer = await with_torrents.call(rng.choice(METHODS), arguments)
        assert isinstance(answer["result"], str), (seed, arguments)


async def test_fuzzed_bodies_are_answered_and_never_crash(with_torrents: Remote) -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    valid = [
        json.dumps({"method": "torrent-get", "arguments": {"ids": [1], "fields": SPECIFIED}, "tag": 3}).encode(),
        json.dumps({"method": "torrent-set", "arguments": {"labels": ["a"], "files-wanted": [0]}}).encode(),
        json.dumps({"method": "session-set", "arguments": {"speed-limit-up": 5, "download-dir": "/x"}}).encode(),
    ]
    cut = [message[:end] for message in valid for end in range(len(message))]
    count = min(fuzz_count(), 100_000)
    for body in [*cut, *mutations(rng, valid, count), *random_bytes_cases(rng, 100, count)]:
        response = await with_torrents.post(body)
        assert isinstance(json.loads(response.body)["result"], str), (seed, body)  # type: ignore[arg-type]
