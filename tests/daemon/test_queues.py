"""Queues, limits of seeding and the schedule of rates, with torrents that are really fetched and shared."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from swarm.daemon import rounds
from swarm.daemon.entry import Entry
from swarm.simnet.host import Host
from swarm.simnet.internet import open_internet
from tests.daemon.whole import Daemon, daemon_on, states, wait_until
from tests.nodes import Recorded, Sample, endpoints, make_sample, node_on, seeding

SIZE = 256 << 10
RATE = 50_000
"""Bytes per second of the other side: a download takes five seconds."""


@asynccontextmanager
async def daemon_and_other(directory: Path, **options: Any) -> AsyncIterator[tuple[Daemon, Recorded, Host]]:
    async with open_internet(1) as internet, AsyncExitStack() as stack:
        host = internet.host("other")
        other = await stack.enter_async_context(node_on(host, 1, upload_rate=RATE))
        daemon = await stack.enter_async_context(daemon_on(internet.host("daemon"), 2, directory, **options))
        yield daemon, other, host


def samples(directory: Path, count: int) -> list[Sample]:
    return [
        make_sample(directory / f"seed-{number}", SIZE, 16 << 10, seed=number + 1)  # all are called sample.bin
        for number in range(count)
    ]


async def fetched_by(daemon: Daemon, other: Recorded, host: Host, given: Sequence[Sample], where: Path) -> list[Entry]:
    """The torrents, to be fetched from ``other``, each to a directory of its own."""
    entries = []
    for number, sample in enumerate(given):
        await seeding(other, sample)
        peers = endpoints(host.ipv4)
        entries.append(await daemon.session.add(sample.metainfo, directory=where / str(number), peers=peers))
    return entries


async def test_downloads_wait_for_their_place_and_are_all_fetched_in_the_order_of_the_queue(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    given = samples(tmp_path, 4)
    queue = {"download_queue": 1, "download_queue_enabled": True}
    async with daemon_and_other(tmp_path, **queue) as (daemon, other, host):
        entries = await fetched_by(daemon, other, host, given, tmp_path)
        await daemon.ask("queue-move-bottom", ids=[entries[1].id])
        await daemon.ask("queue-move-top", ids=[entries[2].id])
        await daemon.ask("queue-move-up", ids=[entries[3].id])
        expected = [entries[number] for number in (2, 3, 0, 1)]
        assert [entry.queue_position for entry in expected] == [0, 1, 2, 3]
        done: list[Entry] = []
        while len(done) < len(entries):
            downloading = [entry for entry in entries if entry.status in ("download", "check", "check-wait")]
            assert len(downloading) <= 1
            assert [await daemon.get(entry, "status") for entry in expected[len(done) + 1 :]] == [3] * (3 - len(done))
            await wait_until(lambda: expected[len(done)].status == "seed")
            done.append(expected[len(done)])
            await trio.sleep(1.5)
        assert all(sample.is_whole_in(tmp_path / str(number)) for number, sample in enumerate(given))


async def test_one_that_is_moved_to_the_front_takes_the_place_of_the_last_that_ran(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    given = samples(tmp_path, 3)
    queue = {"download_queue": 2, "download_queue_enabled": True}
    async with daemon_and_other(tmp_path, **queue) as (daemon, other, host):
        entries = await fetched_by(daemon, other, host, given, tmp_path)
        await wait_until(lambda: states(entries) == ["download", "download", "download-wait"])
        had = entries[1].downloaded
        await daemon.ask("torrent-set", ids=[entries[2].id], queuePosition=0)
        await wait_until(lambda: states(entries) == ["download", "download-wait", "download"])
        assert entries[1].downloaded >= had  # what it had is kept, and told
        await daemon.ask("torrent-start-now", ids=[entries[1].id])
        await wait_until(lambda: states(entries) == ["download"] * 3)
        await wait_until(lambda: states(entries) == ["seed"] * 3)
        assert given[1].is_whole_in(tmp_path / "1")
        assert entries[1].downloaded < SIZE + (64 << 10)  # nothing that was verified came twice


async def test_the_order_of_the_queue_and_who_is_stopped_outlive_the_daemon(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    given = samples(tmp_path, 3)
    async with daemon_and_other(tmp_path) as (daemon, _, _):
        for sample in given:
            await daemon.session.add(sample.metainfo, directory=tmp_path / "none")
        await daemon.ask("queue-move-top", ids=[3])
        await daemon.ask("torrent-stop", ids=[2])
    async with daemon_and_other(tmp_path) as (daemon, _, _):
        order = [given[index].metainfo.info_hash for index in (2, 0, 1)]
        assert [entry.info_hash for entry in daemon.session.queue] == order
        assert [entry.paused for entry in daemon.session.queue] == [False, False, True]


async def shared_to(daemon: Daemon, other: Recorded, sample: Sample, where: Path, **wishes: Any) -> Entry:
    """A torrent of which the daemon has all, and ``other``, which begins to fetch it, nothing."""
    entry = await daemon.session.add(sample.metainfo, directory=sample.directory)
    if wishes:
        await daemon.ask("torrent-set", ids=[entry.id], **wishes)
    await wait_until(lambda: entry.status == "seed")
    host = daemon.node.node.network
    assert isinstance(host, Host)
    other.node.add(sample.metainfo, where, peers=endpoints(host.ipv4), download_rate=RATE)
    return entry


async def test_seeding_stops_at_the_ratio_and_what_is_started_again_goes_on(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    sample = samples(tmp_path, 1)[0]
    limit = {"seed_ratio": 0.5, "seed_ratio_limited": True}
    async with daemon_and_other(tmp_path, **limit) as (daemon, other, _):
        entry = await shared_to(daemon, other, sample, tmp_path / "other")
        await wait_until(lambda: entry.status == "stopped")
        assert 0.5 <= (entry.ratio or 0) < 0.9
        assert await daemon.get(entry, "isFinished", "status", "error") == [True, 0, 0]
        await daemon.ask("torrent-start", ids=[entry.id])
        await wait_until(lambda: entry.uploaded == SIZE)
        assert await daemon.get(entry, "isFinished", "seedRatioMode") == [False, 2]  # as Transmission does
        assert entry.status == "seed"


async def test_a_ratio_of_its_own_and_none_outweigh_the_sessions(autojump_clock: MockClock, tmp_path: Path) -> None:
    given = samples(tmp_path, 2)
    limit = {"seed_ratio": 0.1, "seed_ratio_limited": True}
    async with daemon_and_other(tmp_path, **limit) as (daemon, other, _):
        own = await shared_to(daemon, other, given[0], tmp_path / "0", seedRatioMode=1, seedRatioLimit=0.6)
        free = await shared_to(daemon, other, given[1], tmp_path / "1", seedRatioMode=2)
        await wait_until(lambda: own.status == "stopped" and free.uploaded == SIZE)
        assert 0.6 <= (own.ratio or 0) < 1.0
        assert free.status == "seed"


async def test_seeding_stops_when_nobody_has_asked_for_anything_for_a_while(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    given = samples(tmp_path, 2)
    limit = {"seed_idle": 60.0, "seed_idle_limited": True}
    async with daemon_and_other(tmp_path, **limit) as (daemon, other, _):
        entry = await shared_to(daemon, other, given[0], tmp_path / "other")
        free = await daemon.session.add(given[1].metainfo, directory=given[1].directory)
        await daemon.ask("torrent-set", ids=[free.id], seedIdleMode=2)
        await wait_until(lambda: entry.uploaded == SIZE)
        quiet_since = trio.current_time()
        await wait_until(lambda: entry.status == "stopped")
        assert 58 < trio.current_time() - quiet_since < 63
        assert (entry.finished, free.status) == (True, "seed")
        await daemon.ask("torrent-start", ids=[entry.id])  # it has another minute
        await trio.sleep(50)
        assert entry.status == "seed"
        await wait_until(lambda: entry.status == "stopped")


async def test_seeds_wait_for_their_place_too(autojump_clock: MockClock, tmp_path: Path) -> None:
    given = samples(tmp_path, 3)
    queue = {"seed_queue": 1, "seed_queue_enabled": True, "stalled_enabled": False}
    async with daemon_and_other(tmp_path, **queue) as (daemon, _, _):
        entries = [await daemon.session.add(sample.metainfo, directory=sample.directory) for sample in given]
        await wait_until(lambda: states(entries) == ["seed", "seed-wait", "seed-wait"])
        await daemon.ask("torrent-stop", ids=[1])
        await wait_until(lambda: states(entries) == ["stopped", "seed", "seed-wait"])
        await daemon.ask("session-set", seed_queue_enabled=False)
        await wait_until(lambda: states(entries) == ["stopped", "seed", "seed"])


async def test_the_alternative_rates_hold_by_the_clock_on_the_wall(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = ["2026-08-03 08:59"]
    told = type("Clock", (), {"localtime": lambda: time.strptime(wall[0], "%Y-%m-%d %H:%M"), "time": time.time})
    monkeypatch.setattr(rounds, "time", told)
    sample = make_sample(tmp_path / "seed", 4 << 20)
    async with open_internet(1) as internet, AsyncExitStack() as stack:
        host = internet.host("other")
        other = await stack.enter_async_context(node_on(host, 1))
        daemon = await stack.enter_async_context(daemon_on(internet.host("daemon"), 2, tmp_path))
        times = {"alt_speed_time_begin": 540, "alt_speed_time_end": 1020, "alt_speed_time_enabled": True}
        rates = {"speed_limit_down": 100, "speed_limit_down_enabled": True, "alt_speed_down": 20}
        await daemon.ask("session-set", **times, **rates)
        (entry,) = await fetched_by(daemon, other, host, [sample], tmp_path)

        async def rate() -> float:
            await trio.sleep(3)
            before = entry.downloaded
            await trio.sleep(8)
            return (entry.downloaded - before) / 8

        assert await rate() == pytest.approx(100_000, rel=0.1)
        wall[0] = "2026-08-03 09:00"
        assert await rate() == pytest.approx(20_000, rel=0.1)
        assert (await daemon.ask("session-get"))["alt-speed-enabled"] is True
        await daemon.ask("session-set", alt_speed_enabled=False)  # by hand, until the next time
        assert await rate() == pytest.approx(100_000, rel=0.1)
        await daemon.ask("session-set", alt_speed_enabled=True)
        wall[0] = "2026-08-03 17:00"
        assert await rate() == pytest.approx(100_000, rel=0.1)
