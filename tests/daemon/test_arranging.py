"""What a change of one torrent costs, and that it takes effect even where it cannot be written down."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from trio.testing import MockClock

from swarm.daemon import runs
from swarm.daemon.entry import Entry
from swarm.daemon.options import Options
from swarm.daemon.policy import allowed
from swarm.simnet.internet import open_internet
from tests.daemon.whole import Daemon, daemon_on, wait_until
from tests.nodes import make_sample


@asynccontextmanager
async def several(directory: Path, count: int) -> AsyncIterator[tuple[Daemon, list[Entry]]]:
    """Torrents of a daemon that shares them all."""
    async with open_internet(1) as internet, daemon_on(internet.host("here"), 1, directory) as daemon:
        entries = []
        for number in range(count):
            sample = make_sample(directory / f"data-{number}", 20_000, seed=number)
            entries.append(await daemon.session.add(sample.metainfo, directory=sample.directory))
        await wait_until(lambda: all(entry.times.done_at is not None for entry in entries))
        yield daemon, entries


async def test_a_change_of_one_does_not_look_at_all_unless_it_may_concern_them(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def counted(queue: Iterable[Entry], options: Options, now: float) -> set[Entry]:
        nonlocal looks
        looks += 1
        return allowed(queue, options, now)

    async with several(tmp_path, 3) as (daemon, entries):
        session = daemon.session
        monkeypatch.setattr(runs, "allowed", counted)
        for entry in entries:
            await session.stop(entry)
        await wait_until(lambda: all(entry.torrent is None for entry in entries))
        for entry in entries:
            await session.start(entry)
        await session.change(entries[0], bandwidth_priority=1)
        await session.remove(entries.pop())
        assert looks == 0
        assert [entry.torrent is not None for entry in entries] == [True, True]
        await session.change(entries[0], bandwidth_priority=-1)
        assert looks == 1, "the others have more of the limits now"
        await session.set_options(seed_queue=1, seed_queue_enabled=True)
        await session.start(entries[0], now=False)
        assert [entry.allowed for entry in entries] == [True, False]
        await session.stop(entries[0])
        assert [entry.allowed for entry in entries] == [False, True]


async def test_what_cannot_be_written_down_is_told_and_done_all_the_same(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with several(tmp_path, 2) as (daemon, (entry, other)):
        replace = os.replace

        def full(source: Path, target: Path) -> None:
            if Path(target).is_relative_to(tmp_path / "state" / "daemon"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            replace(source, target)

        monkeypatch.setattr(os, "replace", full)
        answer = await daemon.call("torrent-stop", ids=[entry.id])
        assert answer["result"].endswith(f"{entry.info_hash.hex()}.json: No space left on device")
        await wait_until(lambda: entry.torrent is None)
        assert await daemon.get(entry, "status") == 0
        await wait_until(lambda: any("cannot save" in warning for warning in daemon.warnings()), 70)
        assert await daemon.get(other, "status") == 6
        monkeypatch.setattr(os, "replace", replace)
        assert (await daemon.call("torrent-start", ids=[entry.id]))["result"] == "success"
        await wait_until(lambda: entry.status == "seed")
