"""Magnet links in the daemon: what is told before, while and after the metadata comes, and what outlives a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from swarm.daemon.entry import Entry
from swarm.simnet.internet import Internet, open_internet
from swarm.torrent.create import create
from swarm.torrent.magnet import Magnet, format_magnet
from swarm.torrent.metainfo import Metainfo, parse_torrent_untrusted
from tests.daemon.test_live_changes import FILE, FILES, make_album
from tests.daemon.whole import Daemon, daemon_on, wait_until
from tests.nodes import node_on

RATE = 40_000
SIZE = FILE * FILES
FIELDS = ["totalSize", "pieceCount", "pieceSize", "name", "file-count", "files"]
FIELDS += ["metadataPercentComplete", "percentDone", "leftUntilDone"]


@dataclass(frozen=True)
class World:
    internet: Internet
    daemon: Daemon
    magnet: Magnet
    directory: Path

    @asynccontextmanager
    async def seed(self) -> AsyncIterator[None]:
        async with node_on(self.internet.hosts["seed"], 1, upload_rate=RATE) as node:
            node.node.add(album_in(self.directory), self.directory / "seed")
            yield

    async def add(self, **more: Any) -> Entry:
        added = await self.daemon.ask("torrent-add", filename=format_magnet(self.magnet), **more)
        return self.daemon.session.entries[added["torrent-added"]["id"]]


def album_in(directory: Path) -> Metainfo:
    return parse_torrent_untrusted(create(directory / "seed" / "album", piece_length=16 << 10))


@asynccontextmanager
async def world(directory: Path, **options: Any) -> AsyncIterator[World]:
    if not (directory / "seed").exists():
        make_album(directory / "seed")
    metainfo = album_in(directory)
    async with open_internet(1) as internet, AsyncExitStack() as stack:
        host = internet.host("seed")
        daemon = await stack.enter_async_context(daemon_on(internet.host("daemon"), 2, directory, **options))
        magnet = Magnet(info_hash=metainfo.info_hash, name="what the link calls it", peers=((host.ipv4, 6881),))
        yield World(internet, daemon, magnet, directory)


async def test_the_size_is_never_wrong_from_the_metadata_to_the_end(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        entry = await at.add()
        before = [0, 0, 0, "what the link calls it", 0, [], 0.0, 0.0, 0]
        assert await at.daemon.get(entry, *FIELDS) == before
        assert await at.daemon.get(entry, "status") == 4
        async with at.seed():
            seen: list[list[Any]] = []
            with trio.fail_after(60):
                while not seen or seen[-1][7] < 1.0:
                    told = await at.daemon.get(entry, *FIELDS)
                    if not seen or seen[-1] != told:
                        seen.append(told)
                    await trio.sleep(0.002)
        known = [told for told in seen if told[0]]
        assert [told for told in seen if not told[0] and (told[4] or told[6] == 1.0 or told[7])] == []
        assert all(told[:5] == [SIZE, SIZE >> 14, 16 << 10, "album", FILES] for told in known)
        assert seen[len(seen) - len(known) :] == known  # once known it stays so
        done = [told[7] for told in known]
        assert done == sorted(done)
        assert (done[0], done[-1]) == (0.0, 1.0)


async def test_one_that_is_removed_as_soon_as_its_metadata_is_there_leaves_nothing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with world(tmp_path) as at, at.seed():
        entry = await at.add()
        await wait_until(lambda: entry.downloaded)
        await at.daemon.ask("torrent-remove", ids=[entry.id], delete_local_data=True)
        await trio.sleep(5)
        assert not (tmp_path / "downloads" / "album").exists()
        assert list((tmp_path / "state" / "daemon" / "torrents").iterdir()) == []
        assert list((tmp_path / "state" / "resume").iterdir()) == []


async def test_one_that_is_moved_as_soon_as_its_metadata_is_there_takes_its_data_along(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with world(tmp_path) as at, at.seed():
        entry = await at.add()
        with trio.fail_after(60):
            while not entry.downloaded:
                await trio.sleep(0.01)
        await trio.sleep(0.5)
        await at.daemon.ask("torrent-set-location", ids=[entry.id], location=str(tmp_path / "moved"), move=True)
        await wait_until(lambda: entry.status == "seed")
        assert sorted(path.name for path in (tmp_path / "moved" / "album").iterdir()) == [
            f"{number}.flac" for number in range(FILES)
        ]
        assert not (tmp_path / "downloads" / "album").exists()
        kept = tmp_path / "state" / "daemon" / "torrents" / f"{entry.info_hash.hex()}.torrent"
        await wait_until(kept.exists)


async def test_wishes_that_came_with_the_link_hold_when_its_metadata_is_there(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with world(tmp_path) as at, at.seed():
        entry = await at.add(labels=["one"], files_unwanted=[0, 3])
        await wait_until(lambda: entry.status == "seed")
        names = sorted(path.name for path in (tmp_path / "downloads" / "album").iterdir())
        assert names == ["1.flac", "2.flac"]
        assert await at.daemon.get(entry, "wanted", "labels", "leftUntilDone") == [[0, 1, 1, 0], ["one"], 0]


@pytest.mark.parametrize("paused", [False, True])
async def test_a_link_without_metadata_is_the_same_after_a_restart(
    autojump_clock: MockClock, tmp_path: Path, paused: bool
) -> None:
    async with world(tmp_path) as at:
        entry = await at.add(paused=paused, labels=["one"], download_dir=str(tmp_path / "elsewhere"))
        await trio.sleep(3)
        assert entry.status == ("stopped" if paused else "download")
    async with world(tmp_path) as at:
        entry = at.daemon.session.entries[1]
        told = await at.daemon.get(entry, "name", "totalSize", "status", "labels", "downloadDir")
        assert told == ["what the link calls it", 0, 0 if paused else 4, ["one"], str(tmp_path / "elsewhere")]
        async with at.seed():
            await at.daemon.ask("torrent-start", ids=[1])
            await wait_until(lambda: entry.status == "seed")
        assert entry.name == "album"


async def test_metadata_that_has_come_is_not_asked_for_again(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with world(tmp_path) as at, at.seed():
        entry = await at.add()
        await wait_until(lambda: entry.metainfo is not None and entry.downloaded > FILE)
        had = entry.bytes_had
    async with world(tmp_path) as at:  # nobody to ask
        entry = at.daemon.session.entries[1]
        await wait_until(lambda: entry.status == "download")
        told = await at.daemon.get(entry, "totalSize", "name", "metadataPercentComplete", "haveValid")
        assert told[:3] == [SIZE, "album", 1.0]
        assert told[3] >= had > 0
        assert entry.torrent is not None
        assert entry.torrent.statistics().to_check == 0


async def test_a_link_to_what_is_there_already_is_a_duplicate(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with world(tmp_path) as at, at.seed():
        entry = await at.add()
        link = format_magnet(at.magnet)
        assert (await at.daemon.ask("torrent-add", filename=link))["torrent-duplicate"]["id"] == entry.id
        await wait_until(lambda: entry.status == "seed")
        told = (await at.daemon.ask("torrent-add", filename=link))["torrent-duplicate"]
        assert told == {"id": entry.id, "name": "album", "hashString": entry.info_hash.hex()}
