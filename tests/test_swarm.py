"""Whole swarms of our own nodes on the simulated internet, in virtual time: a tracker, a seed, eight leeches."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from swarm.discover.embedded_tracker import EmbeddedTracker, open_tracker
from swarm.endpoint import Endpoint
from swarm.events import ConnectionRefused, PeerBanned, PieceFailed, TorrentCompleted
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.link import Link
from swarm.torrent.torrent import Torrent
from tests.nodes import PORT, Recorded, Sample, make_sample, node_on, seeding, tasks_below

SIZE = 1 << 20
LEECHES = 8
SEED_RATE = 100_000  # bytes per second, so that the leeches have a reason to share
TRACKER = "http://20.99.0.10:6969/announce"


@dataclass
class Swarm:
    internet: Internet
    tracker: EmbeddedTracker
    seed: Recorded
    seeded: Torrent
    leeches: list[Recorded]
    torrents: list[Torrent]


@asynccontextmanager
async def swarm_on(
    internet: Internet, sample: Sample, directory: Path, link: Link | None = None
) -> AsyncIterator[Swarm]:
    """A tracker, a seed with a limited uplink and leeches that know nothing but the tracker."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    internet.dice.seed(seed)
    async with AsyncExitStack() as stack:
        tracker = EmbeddedTracker(random.Random(seed), interval=60, min_interval=5)
        await stack.enter_async_context(
            open_tracker(internet.host("tracker", "20.99.0.10"), Endpoint("0.0.0.0", 6969), tracker)
        )
        first = await stack.enter_async_context(
            node_on(internet.host("seed", link=link), seed, trackers=True, upload_rate=SEED_RATE)
        )
        seeded = await seeding(first, sample)
        leeches, torrents = [], []
        for number in range(1, LEECHES + 1):
            host = internet.host(f"leech{number}", link=link)
            leech = await stack.enter_async_context(node_on(host, seed + number, trackers=True))
            leeches.append(leech)
            torrents.append(leech.node.add(sample.metainfo, directory / f"leech{number}"))
        yield Swarm(internet, tracker, first, seeded, leeches, torrents)


async def all_complete(swarm: Swarm, seconds: float) -> None:
    with trio.fail_after(seconds):
        for torrent in swarm.torrents:
            await torrent.wait_complete()


@pytest.mark.parametrize("link", [Link(), Link(delay=0.03, jitter=0.005, loss=0.01)], ids=["latency", "loss"])
async def test_one_seed_serves_eight_leeches_that_exchange_pieces(
    autojump_clock: MockClock, tmp_path: Path, link: Link
) -> None:
    sample = make_sample(tmp_path / "seed", SIZE, 32 << 10, trackers=[TRACKER])
    async with open_internet() as internet, swarm_on(internet, sample, tmp_path, link) as swarm:
        await all_complete(swarm, 300)
        uploaded = swarm.seeded.uploaded
        print(f"seed uploaded {uploaded / SIZE:.2f} times the size by {trio.current_time():.1f} s")
        assert uploaded < 4 * SIZE
        assert sum(torrent.downloaded for torrent in swarm.torrents) < 1.1 * LEECHES * SIZE
        for number, (leech, torrent) in enumerate(zip(swarm.leeches, swarm.torrents, strict=True), 1):
            assert sample.is_whole_in(tmp_path / f"leech{number}")
            assert torrent.state == "seeding"
            assert len(leech.of(TorrentCompleted)) == 1
            assert not leech.of(PieceFailed)
            assert not leech.of(PeerBanned)


async def test_no_two_connections_between_the_same_two_nodes(autojump_clock: MockClock, tmp_path: Path) -> None:
    sample = make_sample(tmp_path / "seed", SIZE, 32 << 10, trackers=[TRACKER])
    async with open_internet() as internet, swarm_on(internet, sample, tmp_path) as swarm:
        await trio.sleep(3)
        for torrent in (swarm.seeded, *swarm.torrents):
            ids = [peer.identity.peer_id for peer in torrent.connections]
            assert len(ids) == len(set(ids)) == LEECHES
        refused = [event for node in swarm.leeches for event in node.of(ConnectionRefused)]
        assert {event.reason for event in refused} <= {"duplicate"}


async def test_leaving_says_goodbye_and_leaves_nothing_behind(autojump_clock: MockClock, tmp_path: Path) -> None:
    sample = make_sample(tmp_path / "seed", SIZE, 32 << 10, trackers=[TRACKER])
    task = trio.lowlevel.current_task()
    async with open_internet() as internet:
        before = len(list(tasks_below(task)))
        async with swarm_on(internet, sample, tmp_path) as swarm:
            await trio.sleep(3)
            assert len(list(tasks_below(task))) > before + LEECHES
        assert len(list(tasks_below(task))) == before
        stopped = {announced.peer_id for announced in swarm.tracker.announces if announced.event == "stopped"}
        assert len(stopped) == LEECHES + 1
        await trio.sleep(300)  # TIME-WAIT is over
        for host in internet.hosts.values():
            assert not host.tcp.connections, host.name
            (await host.bind_udp(Endpoint("0.0.0.0", PORT))).close()  # EADDRINUSE if it were still bound
            with pytest.raises(OSError, match="refused"):
                await host.dial_tcp(Endpoint(host.ipv4, PORT))
