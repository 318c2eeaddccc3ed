"""Data that is there when a torrent is added, all, in part or too much of it; and data that is there no more."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from swarm.daemon.entry import Entry
from swarm.daemon.session import Session
from swarm.simnet.host import Host
from swarm.torrent.metainfo import Metainfo, encode_torrent
from tests.daemon.test_live_changes import FILE, FILES, PIECE, Fetching, fetching
from tests.daemon.whole import Daemon, wait_until
from tests.nodes import endpoints, make_sample, node_on

SIZE = FILE * FILES
TRACK = "2.flac"


@asynccontextmanager
async def lying_there(directory: Path) -> AsyncIterator[tuple[Fetching, Path]]:
    """A daemon, and a copy of the album where it is going to look for it."""
    async with fetching(directory) as at:
        there = directory / "there"
        shutil.copytree(directory / "seed" / "album", there / "album")
        yield at, there


async def added(at: Fetching, there: Path) -> Entry:
    told = await at.daemon.ask(
        "torrent-add", filename=str(torrent_file(at)), download_dir=str(there)
    )  # what transmission-remote -w DIR -a does
    entry = at.daemon.session.entries[told["torrent-added"]["id"]]
    assert entry.torrent is not None
    entry.torrent.admission.found(endpoints(at.host.ipv4), "manual")
    return entry


def torrent_file(at: Fetching) -> Path:
    path = at.directory / "album.torrent"
    path.write_bytes(encode_torrent(at.metainfo))
    return path


async def test_data_that_is_there_is_verified_and_shared(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with lying_there(tmp_path) as (at, there):
        entry = await added(at, there)
        await wait_until(lambda: entry.status == "seed")
        assert entry.downloaded == 0
        assert entry.torrent is not None
        assert entry.torrent.statistics().to_check == SIZE // PIECE
        assert await at.daemon.get(entry, "percentDone", "haveValid", "downloadedEver") == [1.0, SIZE, 0]


def cut(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(FILE - 2 * PIECE - 5)


def lengthen(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def spoil(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(PIECE + 7)
        file.write(b"?")


def lengthen_and_spoil(path: Path) -> None:
    lengthen(path)
    spoil(path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "missing"),
    [(Path.unlink, 4), (cut, 3), (spoil, 1), (lengthen_and_spoil, 1), (empty, 4)],
)
async def test_of_data_that_is_there_in_part_the_rest_is_fetched(
    autojump_clock: MockClock, tmp_path: Path, damage: Any, missing: int
) -> None:
    async with lying_there(tmp_path) as (at, there):
        damage(there / "album" / TRACK)
        entry = await added(at, there)
        await wait_until(lambda: entry.status == "download")
        had = await at.daemon.get(entry, "haveValid")
        assert had == SIZE - missing * PIECE
        await wait_until(lambda: entry.status == "seed")
        assert at.whole(there) == [True] * FILES
        assert missing * PIECE <= entry.downloaded < (missing + 1) * PIECE


async def test_a_file_that_is_longer_is_shared_and_left_as_it_is(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with lying_there(tmp_path) as (at, there):
        lengthen(there / "album" / TRACK)
        entry = await added(at, there)
        await wait_until(lambda: entry.status == "seed")
        assert entry.downloaded == 0
        assert (there / "album" / TRACK).stat().st_size == FILE + 4


async def test_a_directory_in_the_place_of_a_file_is_said(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with lying_there(tmp_path) as (at, there):
        (there / "album" / TRACK).unlink()
        (there / "album" / TRACK).mkdir()
        entry = await added(at, there)
        await wait_until(lambda: entry.error is not None)
        number, words, status = await at.daemon.get(entry, "error", "errorString", "status")
        assert (number, status) == (3, 0)
        assert str(there / "album" / TRACK) in words
        (there / "album" / TRACK).rmdir()
        await at.daemon.ask("torrent-start", ids=[entry.id])
        await wait_until(lambda: entry.status == "download")


# -- gone -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def started_again(directory: Path) -> AsyncIterator[tuple[Fetching, Entry]]:
    """A daemon that had shared the album, which is gone since."""
    async with fetching(directory, download_dir=directory / "mount") as at:
        entry = await at.add()
        await wait_until(lambda: entry.status == "seed")
        await at.daemon.session.add(sample_of(directory), directory=directory / "seed-of-another")
    (directory / "mount").rename(directory / "unmounted")
    (directory / "mount").mkdir()
    shutil.rmtree(directory / "seed")
    async with fetching(directory, download_dir=directory / "mount") as at:
        again = at.daemon.session.find(at.metainfo.info_hash)
        assert again is not None
        yield at, again


def sample_of(directory: Path) -> Metainfo:
    return make_sample(directory / "seed-of-another", SIZE).metainfo


def others(session: Session, entry: Entry) -> list[Entry]:
    return [each for each in session.entries.values() if each is not entry]


async def test_what_is_on_a_disk_that_is_not_mounted_is_not_fetched_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with started_again(tmp_path) as (at, entry):
        (other,) = others(at.daemon.session, entry)
        await wait_until(lambda: other.status == "seed")
        await _is_said_to_be_gone(at.daemon, entry)
        await at.daemon.ask("torrent-start", ids=[entry.id])  # still not there
        await _is_said_to_be_gone(at.daemon, entry)
        assert list((tmp_path / "mount").iterdir()) == []
        (tmp_path / "mount").rmdir()
        (tmp_path / "unmounted").rename(tmp_path / "mount")
        await at.daemon.ask("torrent-start", ids=[entry.id])
        await wait_until(lambda: entry.status == "seed")
        assert entry.torrent is not None
        assert entry.torrent.statistics().to_check == 0


async def _is_said_to_be_gone(daemon: Daemon, entry: Entry) -> None:
    assert entry.torrent is None
    number, words, status = await daemon.get(entry, "error", "errorString", "status")
    assert (number, status) == (3, 0)
    assert words.startswith("nothing of album is left in ")


async def test_what_is_gone_is_fetched_again_if_the_user_has_it_verified(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with started_again(tmp_path) as (at, entry):
        entry.peers = tuple(endpoints(at.host.ipv4))
        await at.daemon.ask("torrent-verify", ids=[entry.id])
        await wait_until(lambda: entry.status == "download")
        await wait_until(lambda: entry.status == "seed")
        assert at.whole(tmp_path / "mount") == [True] * FILES


async def test_data_that_goes_while_it_is_shared_is_noticed_and_comes_back(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with fetching(tmp_path) as at:
        entry = await at.add()
        await wait_until(lambda: entry.status == "seed")
        shutil.copytree(at.downloads, tmp_path / "kept")
        for path in (at.downloads / "album").iterdir():
            path.write_bytes(b"")  # as seen by whoever has it open
            path.unlink()
        host = at.daemon.node.node.network
        assert isinstance(host, Host)
        async with node_on(at.internet.host("leech"), 9) as leech:
            fetched = leech.node.add(at.metainfo, tmp_path / "leech", peers=endpoints(host.ipv4))
            await wait_until(lambda: entry.status == "stopped")
            words = await at.daemon.get(entry, "errorString")
            assert words.startswith(f"cannot read {at.downloads}")
            shutil.copytree(tmp_path / "kept", at.downloads, dirs_exist_ok=True)
            await at.daemon.ask("torrent-start", ids=[entry.id])
            await wait_until(lambda: entry.status == "seed")
            fetched.admission.found(endpoints(at.host.ipv4), "manual")
            await fetched.wait_complete()
