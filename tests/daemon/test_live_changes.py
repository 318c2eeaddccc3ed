"""What the user changes while torrents are fetched and shared holds at once; with real transfers, in virtual time."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from swarm.daemon.entry import Entry
from swarm.discover.embedded_tracker import EmbeddedTracker, open_tracker
from swarm.endpoint import Endpoint
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.torrent.create import create
from swarm.torrent.metainfo import Metainfo, parse_torrent_untrusted
from tests.daemon.whole import Daemon, daemon_on, wait_until
from tests.nodes import Recorded, endpoints, node_on

PIECE = 16 << 10
FILE = 4 * PIECE
FILES = 4
RATE = 40_000
"""Bytes per second of the other side: a file takes a second and a half."""


@dataclass(frozen=True)
class Fetching:
    """A daemon that fetches an album from one seed."""

    internet: Internet
    daemon: Daemon
    seed: Recorded
    host: Host
    metainfo: Metainfo
    directory: Path

    @property
    def downloads(self) -> Path:
        return self.directory / "downloads"

    async def add(self, **wishes: Any) -> Entry:
        entry = await self.daemon.session.add(self.metainfo, paused=True, peers=endpoints(self.host.ipv4))
        if wishes:
            await self.daemon.ask("torrent-set", ids=[entry.id], **wishes)
        await self.daemon.ask("torrent-start", ids=[entry.id])
        return entry

    def whole(self, where: Path) -> list[bool]:
        """Which files are there, all of each."""
        names = [Path(*file.path) for file in self.metainfo.files]
        wanted = self.directory / "seed"
        return [
            (where / name).exists() and (where / name).read_bytes() == (wanted / name).read_bytes() for name in names
        ]


def make_album(directory: Path, files: int = FILES, size: int = FILE, **more: Any) -> Metainfo:
    album = directory / "album"
    album.mkdir(parents=True)
    dice = random.Random(7)
    for number in range(files):
        (album / f"{number}.flac").write_bytes(dice.randbytes(size))
    return parse_torrent_untrusted(create(album, piece_length=PIECE, **more))


@asynccontextmanager
async def fetching(
    directory: Path, *, rate: int = RATE, size: int = FILE, config: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Fetching]:
    metainfo = make_album(directory / "seed", size=size)
    async with open_internet(1) as internet, AsyncExitStack() as stack:
        host = internet.host("seed")
        seed = await stack.enter_async_context(node_on(host, 1, upload_rate=rate))
        seed.node.add(metainfo, directory / "seed")
        where = internet.host("daemon")
        daemon = await stack.enter_async_context(daemon_on(where, 2, directory, config=config, **options))
        yield Fetching(internet, daemon, seed, host, metainfo, directory)


def damage(path: Path) -> None:
    """A piece of it."""
    with open(path, "r+b") as file:
        file.write(bytes(100))


# -- files ----------------------------------------------------------------------------------------------------------


async def test_files_that_are_not_wanted_are_left_out_until_they_are(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fetching(tmp_path) as at:
        entry = await at.add(files_unwanted=[0, 1, 2])
        await wait_until(lambda: entry.status == "seed")
        assert at.whole(at.downloads) == [False, False, False, True]
        told = await at.daemon.get(entry, "percentDone", "leftUntilDone", "sizeWhenDone", "wanted")
        assert told == [1.0, 0, FILE, [0, 0, 0, 1]]
        await at.daemon.ask("torrent-set", ids=[entry.id], files_wanted=[1])
        assert entry.status == "download"
        assert await at.daemon.get(entry, "percentDone", "leftUntilDone", "doneDate") == [0.5, FILE, 0]
        await wait_until(lambda: entry.status == "seed")
        assert at.whole(at.downloads) == [False, True, False, True]
        await at.daemon.ask("torrent-set", ids=[entry.id], files_wanted=[])  # all
        await trio.sleep(1)
        await at.daemon.ask("torrent-set", ids=[entry.id], files_unwanted=[0, 2])
        await wait_until(lambda: entry.status == "seed")
        assert at.whole(at.downloads)[1::2] == [True, True]
        await at.daemon.ask("torrent-set", ids=[entry.id], files_wanted=[])
        await wait_until(lambda: at.whole(at.downloads) == [True] * FILES)
        assert entry.downloaded < FILES * FILE + (64 << 10)


async def test_files_come_in_the_order_of_their_priorities(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fetching(tmp_path, size=6 * FILE) as at:
        entry = await at.add()
        await wait_until(lambda: entry.downloaded > PIECE)
        await at.daemon.ask("torrent-set", ids=[entry.id], priority_high=[2], priority_low=[0, 1])
        order: list[int] = []
        while len(order) < FILES:
            completed = [file["bytesCompleted"] for file in await at.daemon.get(entry, "files")]
            order += [index for index, count in enumerate(completed) if count == 6 * FILE and index not in order]
            await trio.sleep(0.3)
        assert order[:2] == [2, 3]


async def test_wishes_outlive_the_daemon(autojump_clock: MockClock, tmp_path: Path) -> None:
    wishes: dict[str, Any] = {"files_unwanted": [0, 1], "priority_high": [3], "downloadLimit": 77, "labels": ["a", "b"]}
    fields = ["wanted", "priorities", "downloadLimit", "labels", "peer-limit", "status"]
    async with fetching(tmp_path) as at:
        entry = await at.add(**wishes, peer_limit=3)
        told = await at.daemon.get(entry, *fields)
        await at.daemon.ask("torrent-stop", ids=[entry.id])
        metainfo = at.metainfo
    async with open_internet(1) as internet, daemon_on(internet.host("daemon"), 2, tmp_path) as daemon:
        again = daemon.session.find(metainfo.info_hash)
        assert again is not None
        assert (await daemon.get(again, *fields))[:5] == told[:5]
        assert again.status == "stopped"


# -- rates and peers ------------------------------------------------------------------------------------------------


async def test_rates_of_the_session_and_of_a_torrent_hold_at_once(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fetching(tmp_path, rate=0, size=640 << 10) as at:
        await at.daemon.ask("session-set", speed_limit_down=50, speed_limit_down_enabled=True)
        entry = await at.add()
        await wait_until(lambda: entry.downloaded)

        async def rate(**wishes: Any) -> float:
            await at.daemon.ask("torrent-set", ids=[entry.id], **wishes)
            await trio.sleep(2)
            before = entry.downloaded
            await trio.sleep(6)
            assert entry.status == "download"
            return (entry.downloaded - before) / 6

        assert await rate() == pytest.approx(50_000, rel=0.1)
        assert await rate(downloadLimit=20, downloadLimited=True) == pytest.approx(20_000, rel=0.15)
        assert await rate(downloadLimit=80) == pytest.approx(50_000, rel=0.1)  # the session's is lower
        assert await rate(honorsSessionLimits=False) == pytest.approx(80_000, rel=0.1)
        assert await rate(downloadLimited=False, honorsSessionLimits=True) == pytest.approx(50_000, rel=0.1)
        await at.daemon.ask("session-set", speed_limit_down_enabled=False)
        await wait_until(lambda: entry.status == "seed", 5)


async def test_rates_of_sharing_hold_at_once(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fetching(tmp_path, size=1 << 20) as at:
        entry = await at.daemon.session.add(at.metainfo, directory=tmp_path / "seed")
        await wait_until(lambda: entry.status == "seed")
        other = at.internet.host("other")
        host = at.daemon.node.node.network
        assert isinstance(host, Host)

        async def rate() -> float:
            await trio.sleep(2)
            before = entry.uploaded
            await trio.sleep(6)
            return (entry.uploaded - before) / 6

        async with node_on(other, 5) as leech:
            await at.daemon.ask("session-set", speed_limit_up=60, speed_limit_up_enabled=True)
            leech.node.add(at.metainfo, tmp_path / "other", peers=endpoints(host.ipv4))
            await wait_until(lambda: entry.uploaded)
            assert await rate() == pytest.approx(60_000, rel=0.1)
            await at.daemon.ask("torrent-set", ids=[entry.id], uploadLimit=25, uploadLimited=True)
            assert await rate() == pytest.approx(25_000, rel=0.15)
            await at.daemon.ask("torrent-set", ids=[entry.id], uploadLimit=90, honorsSessionLimits=False)
            assert await rate() == pytest.approx(90_000, rel=0.1)


async def test_a_limit_of_nothing_moves_nothing(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fetching(tmp_path, size=16 * FILE) as at:
        entry = await at.add()
        await wait_until(lambda: entry.downloaded)
        await at.daemon.ask("session-set", speed_limit_down=0, speed_limit_down_enabled=True)
        await trio.sleep(15)  # what was asked for before still comes
        before = entry.downloaded
        await trio.sleep(60)
        assert before <= entry.downloaded <= before + PIECE
        assert entry.status == "download"
        await at.daemon.ask("session-set", speed_limit_down_enabled=False)
        await trio.sleep(10)
        assert entry.downloaded > before + 5 * RATE


async def test_a_share_that_was_limited_to_nothing_goes_on_at_once(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fetching(tmp_path, size=1 << 20) as at:
        entry = await at.daemon.session.add(at.metainfo, directory=tmp_path / "seed")
        await wait_until(lambda: entry.status == "seed")
        host = at.daemon.node.node.network
        assert isinstance(host, Host)
        async with node_on(at.internet.host("other"), 5) as leech:
            await at.daemon.ask("session-set", speed_limit_up=60, speed_limit_up_enabled=True)
            leech.node.add(at.metainfo, tmp_path / "other", peers=endpoints(host.ipv4))
            await wait_until(lambda: entry.uploaded)
            await at.daemon.ask("torrent-set", ids=[entry.id], uploadLimit=0, uploadLimited=True)
            await trio.sleep(2)
            before = entry.uploaded
            await trio.sleep(60)
            assert entry.uploaded <= before + PIECE
            await at.daemon.ask("torrent-set", ids=[entry.id], uploadLimit=50)
            await trio.sleep(5)
            assert entry.uploaded > before + 4 * 45_000


async def test_a_lower_limit_of_peers_parts_with_some(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fetching(tmp_path, rate=5_000) as at, AsyncExitStack() as stack:
        entry = await at.add()
        torrent = entry.torrent
        assert torrent is not None
        for number in range(4):
            host = at.internet.host(f"other{number}")
            await stack.enter_async_context(node_on(host, 10 + number, upload_rate=5_000))
            torrent.admission.found(endpoints(host.ipv4), "manual")
            other = await stack.enter_async_context(
                node_on(at.internet.host(f"leech{number}"), 20 + number, upload_rate=5_000)
            )
            address = at.daemon.node.node.network
            assert isinstance(address, Host)
            other.node.add(at.metainfo, tmp_path / f"leech{number}", peers=endpoints(address.ipv4))
        await wait_until(lambda: torrent.connected >= 4)
        await at.daemon.ask("torrent-set", ids=[entry.id], peer_limit=2)
        await trio.sleep(5)
        assert 1 <= torrent.connected <= 2
        await at.daemon.ask("session-set", peer_limit_global=1)
        await trio.sleep(5)
        assert torrent.connected == 1
        assert entry.status == "download"


# -- trackers -------------------------------------------------------------------------------------------------------


async def test_trackers_that_are_changed_are_asked_and_those_left_are_told(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with fetching(tmp_path, rate=2_000, config={"trackers": True}) as at, AsyncExitStack() as stack:
        trackers, urls = [], []
        for number in range(2):
            host = at.internet.host(f"tracker{number}")
            trackers.append(EmbeddedTracker(random.Random(number), interval=60, min_interval=5))
            await stack.enter_async_context(open_tracker(host, Endpoint("0.0.0.0", 6969), trackers[-1]))
            urls.append(f"http://{host.ipv4}:6969/announce")
        entry = await at.add()
        await wait_until(lambda: entry.status == "download")
        await at.daemon.ask("torrent-set", ids=[entry.id], trackerAdd=[urls[0]])
        await wait_until(lambda: [each.event for each in trackers[0].announces] == ["started"])
        told = (await at.daemon.get(entry, "trackerStats"))[0]
        assert (told["announce"], told["lastAnnounceSucceeded"]) == (urls[0], True)
        await at.daemon.ask("torrent-set", ids=[entry.id], trackerList=urls[1])
        await wait_until(lambda: [each.event for each in trackers[0].announces] == ["started", "stopped"])
        await wait_until(lambda: [each.event for each in trackers[1].announces] == ["started"])
        assert [row["announce"] for row in await at.daemon.get(entry, "trackers")] == [urls[1]]
        await at.daemon.ask("torrent-stop", ids=[entry.id])
        await wait_until(lambda: [each.event for each in trackers[1].announces] == ["started", "stopped"])
        await at.daemon.ask("torrent-start", ids=[entry.id])  # with what was wished, not what it names
        await wait_until(lambda: len(trackers[1].announces) == 3)
        assert len(trackers[0].announces) == 2


# -- where its files are --------------------------------------------------------------------------------------------


async def test_a_download_is_moved_and_goes_on_where_it_was(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fetching(tmp_path) as at:
        entry = await at.add()
        await wait_until(lambda: entry.downloaded > 2 * FILE)
        moved = tmp_path / "moved" / "here"
        await at.daemon.ask("torrent-set-location", ids=[entry.id], location=str(moved), move=True)
        await wait_until(lambda: entry.status == "seed")
        assert at.whole(moved) == [True] * FILES
        assert await at.daemon.get(entry, "downloadDir") == str(moved)
        assert not (at.downloads / "album").exists()
        assert entry.downloaded < FILES * FILE + (64 << 10)
        assert not at.daemon.warnings()


async def test_data_that_was_moved_by_hand_is_found_and_verified(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fetching(tmp_path) as at:
        entry = await at.add()
        await wait_until(lambda: entry.status == "seed")
        had = entry.downloaded
        (tmp_path / "elsewhere").mkdir()
        (at.downloads / "album").rename(tmp_path / "elsewhere" / "album")
        damage(tmp_path / "elsewhere" / "album" / "1.flac")
        await at.daemon.ask("torrent-set-location", ids=[entry.id], location=str(tmp_path / "elsewhere"), move=False)
        await wait_until(lambda: entry.status == "download")
        await wait_until(lambda: entry.status == "seed")
        assert at.whole(tmp_path / "elsewhere") == [True] * FILES
        assert PIECE <= entry.downloaded - had < 3 * PIECE


async def test_a_move_that_fails_in_the_middle_is_undone_and_said(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fetching(tmp_path) as at:
        entry = await at.add()
        await wait_until(lambda: entry.status == "seed")
        rename, moved = os.rename, tmp_path / "moved"

        def broken(old: Path, new: Path) -> None:
            if Path(new) == moved / "album" / "2.flac":
                raise OSError(errno.EIO, "Input/output error")
            rename(old, new)

        monkeypatch.setattr(os, "rename", broken)
        await at.daemon.ask("torrent-set-location", ids=[entry.id], location=str(moved), move=True)
        await wait_until(lambda: entry.status == "stopped")
        assert at.whole(at.downloads) == [True] * FILES
        assert list(moved.rglob("*")) == []
        number, words = await at.daemon.get(entry, "error", "errorString")
        assert (number, words) == (3, f"cannot move album to {moved}: Input/output error")
        assert await at.daemon.get(entry, "downloadDir") == str(at.downloads)
        await at.daemon.ask("torrent-start", ids=[entry.id])
        await wait_until(lambda: entry.status == "seed")
        assert entry.torrent is not None
        assert entry.torrent.statistics().to_check == 0


async def test_what_is_in_the_way_is_not_overwritten(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fetching(tmp_path) as at:
        entry = await at.add()
        await wait_until(lambda: entry.status == "seed")
        taken = tmp_path / "moved" / "album" / "3.flac"
        taken.parent.mkdir(parents=True)
        taken.write_text("mine")
        await at.daemon.ask("torrent-set-location", ids=[entry.id], location=str(tmp_path / "moved"), move=True)
        await wait_until(lambda: entry.status == "stopped")
        assert await at.daemon.get(entry, "errorString") == f"cannot move {at.downloads / 'album' / '3.flac'}: " + (
            f"{taken} is in the way"
        )
        assert taken.read_text() == "mine"
        assert at.whole(at.downloads) == [True] * FILES


async def test_a_move_is_finished_even_if_the_daemon_ends_meanwhile(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fetching(tmp_path) as at:
        entry = await at.add()
        await wait_until(lambda: entry.status == "seed")
        await at.daemon.ask("torrent-set-location", ids=[entry.id], location=str(tmp_path / "moved"), move=True)
        metainfo, whole = at.metainfo, at.whole
    assert whole(tmp_path / "moved") == [True] * FILES
    async with open_internet(1) as internet, daemon_on(internet.host("daemon"), 2, tmp_path) as daemon:
        again = daemon.session.find(metainfo.info_hash)
        assert again is not None
        await wait_until(lambda: again.status == "seed")
        assert again.directory == tmp_path / "moved"
        assert again.torrent is not None
        assert again.torrent.statistics().to_check == 0


async def test_data_that_is_to_be_deleted_is_deleted_even_if_the_daemon_ends_meanwhile(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with fetching(tmp_path) as at:
        entry = await at.add()
        await wait_until(lambda: entry.status == "seed")
        await at.daemon.ask("torrent-remove", ids=[entry.id], delete_local_data=True)
    assert not (tmp_path / "downloads" / "album").exists()
    assert list((tmp_path / "state" / "resume").iterdir()) == []
