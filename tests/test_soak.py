"""Nothing grows: after minutes of churn, liars and loss a node holds as many tasks, files and bytes as before.

In virtual time, two minutes and more a round: three rounds by default, forty by ``make soak``.
"""

from __future__ import annotations

import gc
import os
import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError
from swarm.peer import PeerConnection
from swarm.simnet.host import Host
from swarm.simnet.internet import open_internet
from swarm.simnet.link import Link
from swarm.wire.messages import HaveAll, Interested, Requests, Unchoke
from tests.nodes import Sample, endpoints, make_sample, node_on, seeding, tasks_below
from tests.rawpeer import RawPeer, block_message

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


@pytest.mark.parametrize("rounds", [3, pytest.param(40, marks=pytest.mark.soak)])
async def test_nothing_grows_under_churn(autojump_clock: MockClock, tmp_path: Path, rounds: int) -> None:
    """A seed and a leech that never gets the last piece, visited by strangers over a lossy link."""
    dice = random.Random(rounds)
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
    root = trio.lowlevel.current_root_task()
    assert root is not None
    return Figures(
        sum(1 for _ in tasks_below(root)),
        len(os.listdir("/proc/self/fd")),
        connections,
        tracemalloc.get_traced_memory()[0],
    )
