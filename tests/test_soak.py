"""Nothing grows: after minutes of churn, liars and loss a node holds as many tasks, files and bytes as before.

And nothing is left: of nodes that came behind any NAT, found each other by the DHT, peer exchange and rendezvous, and
went at any moment.  In virtual time, minutes a round: one or three rounds by default, forty by ``make soak``, which
draws its own seeds and prints them (``SWARM_SOAK_SEED`` repeats one).
"""

from __future__ import annotations

import gc
import os
import random
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
from trio.testing import MockClock

import utp.connection
from dht.lookup import Lookup
from dht.service import PeerSearch
from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError
from swarm.events import PeerConnected, PeerDiscovered
from swarm.node import Node
from swarm.peer import PeerConnection
from swarm.simnet.catalogue import KINDS, behind
from swarm.simnet.host import Host
from swarm.simnet.internet import open_internet
from swarm.simnet.link import Link
from swarm.simnet.stream import SimListener, SimStream
from swarm.simnet.udp import SimDatagramSocket
from swarm.torrent.magnet import Magnet
from swarm.wire.messages import HaveAll, Interested, Requests, Unchoke
from tests.nodes import PORT, Sample, endpoints, make_sample, node_on, seeding, tasks_below
from tests.rawpeer import RawPeer, block_message

SOAK_ROUNDS = 40
ROUND_SECONDS = 60.0
IDLE = 160.0
"""Seconds after which a silent connection is gone (Config.idle_timeout and a tick)."""


async def mischief(peer: RawPeer, sample: Sample, dice: random.Random) -> None:
    """Some of what peers do: they claim, ask, send one block or rubbish, and leave without a word."""
    sayings = [
        HaveAll().encode() + Unchoke().encode(),
        Interested().encode() + Requests([(dice.randrange(16), 0, 16 << 10)]).encode() * 40,
        block_message(dice.randrange(16), 0, bytes(16 << 10)),
        dice.randbytes(64),
    ]
    dice.shuffle(sayings)
    with trio.move_on_after(dice.uniform(0, 20)):
        for saying in sayings:
            await peer.say(saying)
            await trio.sleep(dice.uniform(0, 5))
        await peer.serve(lambda index, begin: dice.random() < 0.1, pause=0.5)


def dice_for(rounds: int) -> random.Random:
    """The same dice in every test run, and other ones in every soak."""
    chosen = os.environ.get("SWARM_SOAK_SEED")
    seed = int(chosen) if chosen else random.SystemRandom().getrandbits(32) if rounds == SOAK_ROUNDS else rounds
    print(f"SWARM_SOAK_SEED={seed}")
    return random.Random(seed)


@pytest.mark.parametrize("rounds", [3, pytest.param(SOAK_ROUNDS, marks=pytest.mark.soak)])
async def test_nothing_grows_under_churn(autojump_clock: MockClock, tmp_path: Path, rounds: int) -> None:
    """A seed and a leech that never gets the last piece, visited by strangers over a lossy link."""
    dice = dice_for(rounds)
    sample = make_sample(tmp_path / "seed", 1 << 20)
    tracemalloc.start()
    try:
        async with open_internet(5) as internet:
            seed_host, leech_host = internet.host("seed"), internet.host("leech")
            async with node_on(seed_host, 1) as seed, node_on(leech_host, 2) as leech:
                torrents = [await seeding(seed, sample), leech.node.add(sample.metainfo, tmp_path / "leech")]
                await torrents[1].wait_checked()
                targets = endpoints(seed_host.ipv4, leech_host.ipv4)
                stranger = internet.host("stranger", link=Link(delay=0.02, loss=0.01))
                figures = []
                for number in range(rounds):
                    await one_round(stranger, targets, sample, dice, number)
                    seed.drain()
                    leech.drain()
                    figures.append(measured())
                    assert not any(torrent.connections for torrent in torrents)
                first, last = figures[1], figures[-1]
                print(f"tasks, files, connections, bytes: {first} after 2 rounds, {last} after {rounds}")
                assert last.tasks <= first.tasks
                assert last.files <= first.files + 2
                assert last.connections <= 64  # kept by blocks of theirs in pieces that are not whole
                assert last.allocated - first.allocated < 8 << 20
    finally:
        tracemalloc.stop()


async def one_round(host: Host, targets: Sequence[Endpoint], sample: Sample, dice: random.Random, number: int) -> None:
    """A dozen visits at once, then silence until every time-out has run."""
    with trio.move_on_after(ROUND_SECONDS):
        async with trio.open_nursery() as nursery:
            for visit in range(12):
                nursery.start_soon(visit_one, host, dice.choice(targets), sample, dice, f"{number}.{visit}")
    await trio.sleep(ROUND_SECONDS + IDLE)


async def visit_one(host: Host, target: Endpoint, sample: Sample, dice: random.Random, name: str) -> None:
    try:
        peer = await RawPeer.connect(host, target, sample, name=name, fast=True)
    except (OSError, trio.BrokenResourceError, RemoteProtocolError):
        return  # banned by now
    try:
        await mischief(peer, sample, dice)
    except trio.BrokenResourceError:
        pass
    finally:
        peer.stream.abort()


class Figures(NamedTuple):
    tasks: int
    files: int
    connections: int
    allocated: int


def measured() -> Figures:
    gc.collect()
    connections = sum(isinstance(each, PeerConnection) for each in gc.get_objects())
    return Figures(
        tasks(),
        len(os.listdir("/proc/self/fd")),
        connections,
        tracemalloc.get_traced_memory()[0],
    )


# -- nodes that come and go -------------------------------------------------------------------------------------------

VISITORS = 4  # a round
LEAVING = 100.0  # seconds after which all have gone, at the latest
FORGOTTEN = 400.0  # seconds until DHT searches, dead links and NAT mappings of theirs have ended, too
MIDDLE_RATE = 10  # bytes per second: whoever is in the middle has nothing to give but introductions

NOT_TO_REMAIN = (
    Node,
    PeerConnection,
    PeerSearch,
    Lookup,
    utp.connection.Connection,
    SimDatagramSocket,
    SimListener,
    SimStream,
)


class Visits:
    """What became of all visits."""

    def __init__(self) -> None:
        self.complete = 0
        self.paths: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()


@pytest.mark.parametrize("rounds", [1, pytest.param(SOAK_ROUNDS, marks=pytest.mark.soak)])
async def test_nothing_is_left_of_nodes_that_came_and_went(
    autojump_clock: MockClock, tmp_path: Path, rounds: int
) -> None:
    """Behind NATs of all kinds, by bare info-hash: the DHT, peer exchange, mapping and punching are all there is."""
    dice = dice_for(rounds)
    sample = make_sample(tmp_path / "seed", 1 << 18)
    async with open_internet(dice.getrandbits(32)) as internet:
        places = [behind(internet, kind, f"{kind}{number}") for number in range(2) for kind in KINDS]
        places_of_the_swarm = [internet.host(name) for name in ("router", "middle")] + [
            behind(internet, "cone", "seed")
        ]
        await trio.sleep(1)
        before, tasks_before = left(), tasks()  # of the gateways
        visits = Visits()
        if rounds == SOAK_ROUNDS:  # it takes twice the time
            tracemalloc.start()
        try:
            figures = await come_and_go(places_of_the_swarm, places, sample, tmp_path, dice, visits, rounds)
        finally:
            tracemalloc.stop()
        await trio.sleep(IDLE)
        assert left() == before
        assert tasks() == tasks_before
    first, last = figures[:2][-1], figures[-1]
    print(f"{visits.complete} complete, {dict(visits.paths)}, {dict(visits.sources)}")
    print(f"after 2 rounds {first}, at last {last}")
    assert visits.complete >= rounds
    assert last.tasks <= first.tasks + VISITORS
    assert last.allocated - first.allocated < 8 << 20


async def come_and_go(
    swarm: Sequence[Host],
    places: Sequence[Host],
    sample: Sample,
    directory: Path,
    dice: random.Random,
    visits: Visits,
    rounds: int,
) -> list[Figures]:
    """A router of the DHT, a peer that can only introduce, and a seed stay; whoever else comes goes again."""
    online = {"dht": True, "mapping": True, "dht_bootstrap": (f"{swarm[0].ipv4}:{PORT}",)}
    figures = []
    async with (
        node_on(swarm[0], 1, **online),
        node_on(swarm[1], 2, download_rate=MIDDLE_RATE, **online) as middle,
        node_on(swarm[2], 3, **online) as seed,
    ):
        middle.node.add(sample.metainfo, directory / "middle")
        await seeding(seed, sample)
        for number in range(rounds):
            async with trio.open_nursery() as nursery:
                for place in dice.sample(places, VISITORS):
                    nursery.start_soon(visit, place, sample, directory / f"{number}.{place.name}", dice, online, visits)
            await trio.sleep(FORGOTTEN)
            for name, router in swarm[0].internet.routers.items():  # it is the nodes' memory that counts
                if router.nat is not None and not name.startswith("seed"):
                    router.nat.forget_mappings()
            middle.forget()
            seed.forget()
            figures.append(measured())
    return figures


async def visit(
    host: Host, sample: Sample, directory: Path, dice: random.Random, online: dict[str, Any], visits: Visits
) -> None:
    """Download by a bare info-hash, share for a while, and go; or go in the middle of whatever it is."""
    await trio.sleep(dice.uniform(0, LEAVING / 4))
    async with node_on(host, dice.getrandbits(32), **online) as node:
        torrent = node.node.add(Magnet(info_hash=sample.metainfo.info_hash), directory)
        with trio.move_on_after(dice.uniform(0, LEAVING / 2)):
            await torrent.wait_complete()
            visits.complete += 1
            await trio.sleep(dice.uniform(0, LEAVING / 4))
    visits.paths.update(event.path for event in node.of(PeerConnected))
    visits.sources.update(event.source for event in node.of(PeerDiscovered))


def left() -> Counter[str]:
    """How many of each class of `NOT_TO_REMAIN` there are."""
    gc.collect()
    return Counter(type(each).__qualname__ for each in gc.get_objects() if isinstance(each, NOT_TO_REMAIN))


def tasks() -> int:
    root = trio.lowlevel.current_root_task()
    assert root is not None
    return sum(1 for _ in tasks_below(root))
