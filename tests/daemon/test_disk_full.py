"""A disk that is full under load: a torrent waits for room and goes on by itself, and nothing verified is lost."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from swarm.daemon import room
from swarm.daemon.data import free_space
from swarm.daemon.entry import Entry
from swarm.daemon.room import LOOK
from swarm.events import StorageFailed
from swarm.simnet.internet import open_internet
from tests.daemon.program import STOPPED
from tests.daemon.whole import Daemon, daemon_on, wait_until
from tests.nodes import Sample, endpoints, make_sample, node_on
from tests.nodes import seeding as seeded

PIECE = 64 << 10


class SmallDisk:
    """``room`` bytes for writes beneath ``directory``; nothing that was written is given back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path, room: int, tells: int | None = None) -> None:
        self.room = room
        self.tells = tells
        """What it says is free, if that is not true."""
        self._directory = directory
        self._write = os.pwritev
        monkeypatch.setattr(os, "pwritev", self.pwritev)
        monkeypatch.setattr("swarm.daemon.archive.free_space", self.free_space)

    def pwritev(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        if Path(os.readlink(f"/proc/self/fd/{fd}")).is_relative_to(self._directory):
            size = sum(map(len, buffers))
            if size > self.room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.room -= size
        return self._write(fd, buffers, offset)

    def free_space(self, directory: Path) -> int:
        return self.room if self.tells is None else self.tells


@asynccontextmanager
async def fetching(directory: Path) -> AsyncIterator[tuple[Daemon, Entry, Sample]]:
    """A daemon that fetches a megabyte from a seed, its downloads on the disk that is small."""
    sample = make_sample(directory / "seed", 16 * PIECE, PIECE)
    async with open_internet(1) as internet, node_on(internet.host("seed"), 1) as seed:
        await seeded(seed, sample)
        async with daemon_on(internet.host("daemon"), 2, directory) as daemon:
            peers = endpoints(internet.hosts["seed"].ipv4)
            yield daemon, await daemon.session.add(sample.metainfo, peers=peers), sample


async def test_it_says_so_and_goes_on_by_itself_with_what_it_had(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SmallDisk(monkeypatch, tmp_path / "downloads", 5 * PIECE)
    async with fetching(tmp_path) as (daemon, entry, sample):
        await wait_until(lambda: entry.problem is not None and entry.torrent is None)
        status, error, sentence = await daemon.get(entry, "status", "error", "errorString")
        assert (status, error) == (STOPPED, 3)
        assert sentence.endswith("sample.bin: the disk is full; it goes on by itself once there is room")
        assert await daemon.get(entry, "haveValid") == 5 * PIECE
        disk.room = 5 * PIECE  # less than it lacks
        await trio.sleep(5 * LOOK)
        assert entry.status == "stopped"
        disk.room = 11 * PIECE
        await wait_until(lambda: entry.done, LOOK + 10)
        assert entry.problem is None
        assert sample.is_whole_in(tmp_path / "downloads")
        assert disk.room == 0, "nothing was written twice"


async def test_one_that_does_not_get_on_with_room_is_tried_ever_more_seldom(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LONGEST_PAUSE", 4 * LOOK)
    disk = SmallDisk(monkeypatch, tmp_path / "downloads", 0, tells=1 << 30)
    async with fetching(tmp_path) as (daemon, entry, _):
        await trio.sleep(20 * LOOK)
        tries = [at for at, event in daemon.node.events if isinstance(event, StorageFailed)]
        pauses = [later - earlier for earlier, later in pairwise(tries)]
        assert pauses[:2] == [pytest.approx(LOOK, abs=5), pytest.approx(2 * LOOK, abs=5)]
        assert all(pause == pytest.approx(4 * LOOK, abs=5) for pause in pauses[2:])
        assert len(pauses) >= 5
        disk.room = 1 << 30
        await daemon.session.start(entry)  # whoever asks need not wait
        await wait_until(lambda: entry.done)


async def test_one_that_the_user_stopped_or_removed_stays_so(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SmallDisk(monkeypatch, tmp_path / "downloads", 0)
    async with fetching(tmp_path) as (daemon, entry, _):
        await wait_until(lambda: entry.problem is not None and entry.torrent is None)
        await daemon.session.stop(entry)
        disk.room = 1 << 30
        await trio.sleep(3 * LOOK)
        assert (entry.status, entry.torrent) == ("stopped", None)
        await daemon.session.remove(entry)
        await trio.sleep(3 * LOOK)
        assert not daemon.session.entries


def test_the_free_space_is_that_of_the_place_where_the_directory_will_be(tmp_path: Path) -> None:
    free = free_space(tmp_path / "not" / "there" / "yet")
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free, abs=1 << 30)
    assert free_space(tmp_path / ("x" * 300)) == 0
