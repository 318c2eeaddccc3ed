"""The RPC answers what known programs ask, in the types in which they read it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swarm.bitfield import Bitfield
from swarm.daemon.rpc_fields import TorrentView
from tests.daemon.client_calls import CALLS, SESSIONS, STATISTICS, TORRENTS, Shape, call, fits, version_in
from tests.daemon.plain_session import sample
from tests.daemon.test_rpc import Remote
from tests.daemon.test_rpc import remote as remote
from tests.daemon.test_rpc import with_torrents as with_torrents

MAGNET = "magnet:?xt=urn:btih:" + "ab" * 20


@pytest.mark.parametrize("shape", TORRENTS.values(), ids=TORRENTS)
async def test_torrents_are_told_as_clients_read_them(with_torrents: Remote, shape: Shape) -> None:
    """Whether a torrent has nothing, a part, all, an error, or is a link of which nobody knows more."""
    await with_torrents.ask("torrent-add", filename=MAGNET)
    entries = with_torrents.session.entries
    for number, indices in ((2, range(1)), (3, range(sample(2).piece_count))):
        entries[number].kept_have = have = Bitfield(sample(number - 1).piece_count)
        for index in indices:
            have.add(index)
    entries[2].problem = "no space left on device"
    torrents = (await with_torrents.ask("torrent-get", fields=list(shape)))["torrents"]
    assert len(torrents) == 4
    for torrent in torrents:
        for name in shape:
            assert name in torrent, name
            assert fits(torrent[name], shape[name]), (name, torrent[name])


@pytest.mark.parametrize("shape", SESSIONS.values(), ids=SESSIONS)
async def test_the_session_is_told_as_clients_read_it(remote: Remote, shape: Shape) -> None:
    told = await remote.ask("session-get")
    for name in shape:
        assert fits(told[name], shape[name]), (name, told[name])
    assert fits(await remote.ask("session-stats"), STATISTICS)


async def test_the_version_is_one_that_clients_know(remote: Remote) -> None:
    told = await remote.ask("session-get", fields=["version", "rpc-version"])
    assert version_in(told["version"]) >= (4, 0)  # from which on Sonarr sends labels
    assert float(told["version"].split()[0].rpartition(".")[0]) >= 4.0  # tremc takes the first word
    assert told["rpc-version"] == 17  # from 18 on tremc asks for what only Transmission 4.1 has


@pytest.mark.parametrize(("client", "text"), CALLS)
async def test_calls_succeed_as_clients_send_them(with_torrents: Remote, client: str, text: str) -> None:
    body = call(text, sample(0).info_hash.hex())
    response = await with_torrents.post(body)
    assert isinstance(response.body, bytes)
    answer = json.loads(response.body)
    assert answer["result"] == "success", (client, answer)
    assert answer.get("tag") == json.loads(body).get("tag")


async def test_what_is_no_object_never_stands_for_all_torrents(with_torrents: Remote) -> None:
    for method in ("torrent-remove", "torrent-stop", "torrent-get", "session-set"):
        document: Any = {"method": method, "arguments": [1]}
        response = await with_torrents.post(json.dumps(document).encode())
        assert isinstance(response.body, bytes)
        assert json.loads(response.body)["result"] == "arguments: an object is expected"
    assert len(with_torrents.session.entries) == 3


async def test_a_rate_with_a_fraction_is_one_without(with_torrents: Remote) -> None:
    await with_torrents.ask("session-set", speed_limit_up=488.28125, speed_limit_down=0.5)
    told = await with_torrents.ask("session-get", fields=["speed-limit-up", "speed-limit-down"])
    assert told == {"speed-limit-up": 488, "speed-limit-down": 0}


async def test_torrent_files_are_where_clients_look_for_them(with_torrents: Remote) -> None:
    """Flood and cross-seeding programs read ``config-dir``/torrents/HASH.torrent."""
    await with_torrents.ask("torrent-add", filename=MAGNET)
    directory = Path((await with_torrents.ask("session-get", fields=["config-dir"]))["config-dir"])
    told = (await with_torrents.ask("torrent-get", fields=["torrentFile"]))["torrents"]
    assert told[0]["torrentFile"] == str(directory / "torrents" / f"{sample(0).info_hash.hex()}.torrent")
    assert told[3]["torrentFile"] == str(directory / "torrents" / f"{'ab' * 20}.magnet")


def trouble(remote: Remote, *trackers: tuple[str, str]) -> tuple[int, str]:
    """What is told of a torrent whose trackers, by their URLs, have failed so."""
    view: Any = TorrentView(remote.session.entries[1], remote.session, 0.0, 0.0)  # type: ignore[arg-type]
    statuses = [SimpleNamespace(state="failing", last_error=error, url=url) for url, error in trackers]
    view.torrent = SimpleNamespace(tracker_statuses=lambda: statuses)
    told: tuple[int, str] = view.trouble
    return told


async def test_an_error_names_a_trackers_host_and_not_what_it_knows_us_by(with_torrents: Remote) -> None:
    """Sonarr and others write it into their logs."""
    url = "https://name:word@t.example/0123456789abcdef/announce?passkey=SECRET"
    told = trouble(with_torrents, (url, "tracker-refused: unregistered torrent"))
    assert told == (2, "t.example:443: tracker-refused: unregistered torrent")


async def test_a_tracker_that_does_not_answer_is_no_error_of_the_torrent(with_torrents: Remote) -> None:
    """With one, Sonarr would import nothing of it."""
    here, there = "http://a.example/announce", "udp://b.example:6969"
    assert trouble(with_torrents, (here, "refused: Connection refused"), (there, "timed-out: no answer")) == (0, "")
    assert trouble(with_torrents, (here, "tracker-refused: no"), (there, "timed-out: no answer")) == (0, "")
    assert trouble(with_torrents, (here, "tracker-refused: no"), (there, "tracker-refused: never"))[0] == 2
    assert trouble(with_torrents) == (0, "")


def test_the_check_of_shapes_finds_what_does_not_fit() -> None:
    for value, shape in (
        (True, int),
        (1.5, int),
        (1 << 53, int),
        (True, float),
        (float("inf"), float),
        ("1", float),
        (None, str),
        (0, bool),
        ({}, {"a": int}),
        ([1, "x"], [int]),
        ("xy", [str]),
    ):
        assert not fits(value, shape), (value, shape)
    assert fits({"a": [1, 2], "b": None}, {"a": [int]})
    assert version_in("4.0.6 (38c164933e)") == version_in("4.0.6 (swarm 0.1.0)") == (4, 0, 6)
