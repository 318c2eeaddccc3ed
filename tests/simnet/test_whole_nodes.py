"""Whole nodes on the simulated internet, unchanged: a seed and leeches behind NATs, and the run repeats by its seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio
from trio.testing import MockClock

from swarm.config import Config
from swarm.endpoint import Endpoint
from swarm.node import open_node
from swarm.simnet.catalogue import behind
from swarm.simnet.host import Host
from swarm.simnet.internet import TraceEntry, open_internet
from swarm.simnet.replay import seeded_scheduler
from swarm.torrent.create import create
from swarm.torrent.metainfo import Metainfo, parse_torrent_untrusted

T = TypeVar("T")
CONTENT = random.Random(1).randbytes(1 << 20)
CONFIG = Config(port=6881)


async def inline(function: Callable[..., T], /, *arguments: object) -> T:
    """A disk runner without threads: under MockClock a thread's 0.2 s are an hour."""
    await trio.lowlevel.checkpoint()
    return function(*arguments)


async def leech(host: Host, metainfo: Metainfo, directory: Path, seed: Endpoint, number: int) -> None:
    async with open_node(CONFIG, network=host, rng=random.Random(number), runner=inline) as node:
        await node.add(metainfo, directory, peers=[seed]).wait_complete()
    assert (directory / "content").read_bytes() == CONTENT


async def swarm(directory: Path) -> list[TraceEntry]:
    """One public seed, three leeches behind cones; the packets of the whole run."""
    metainfo = parse_torrent_untrusted(create(directory / "seed" / "content"))
    async with open_internet(seed=1, trace=True) as internet:
        seed = internet.host("seed")
        leeches = [behind(internet, "cone") for _ in range(3)]
        async with open_node(CONFIG, network=seed, rng=random.Random(0), runner=inline) as node:
            node.add(metainfo, directory / "seed")
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    for number, host in enumerate(leeches, start=1):
                        where = directory / f"leech{number}"
                        nursery.start_soon(leech, host, metainfo, where, Endpoint(seed.ipv4, 6881), number)
        assert internet.trace is not None
        return internet.trace


def test_leeches_behind_nats_download_and_the_run_repeats_packet_by_packet(tmp_path: Path) -> None:
    def run(name: str, scheduling: int) -> list[TraceEntry]:
        for directory in ("seed", "leech1", "leech2", "leech3"):
            (tmp_path / name / directory).mkdir(parents=True)
        (tmp_path / name / "seed" / "content").write_bytes(CONTENT)
        with seeded_scheduler(scheduling):
            return trio.run(swarm, tmp_path / name, clock=MockClock(autojump_threshold=0))

    first = run("first", 5)
    assert run("second", 5) == first
    assert run("other", 6) != first
