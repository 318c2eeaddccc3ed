"""Prediction and birthday between three on the simulated internet."""

from __future__ import annotations

import random
from collections.abc import Callable

import trio
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.net.network import Outgoing, Path
from swarm.simnet.catalogue import KINDS, behind
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.replay import seeded_scheduler
from tests.connect.three import Member, Three, three

RUNS = 20


def outside(internet: Internet, host: Host, kind: str) -> str:
    """The address under which others see a host."""
    what = KINDS[kind]
    if what.home is None:
        return host.ipv4
    return internet.routers[f"{host.name}-{'carrier' if what.carrier else 'home'}"].wan


async def meet(
    kinds: tuple[str, str], seed: int, trouble: Callable[[Internet, Three], None] | None = None
) -> float | str:
    """Seconds until a word and its answer have crossed; the reason if they do not meet."""
    async with open_internet(seed=seed) as internet:
        members = []
        for number, kind in enumerate((*kinds, "open")):
            host = behind(internet, kind, f"h{number}")
            members.append(Member(host, outside(internet, host, kind), seed * 3 + number))
        async with three(*members) as made:
            if trouble is not None:
                trouble(internet, made)
            try:
                link, seconds = await made.reach()
            except RemoteError as error:
                return error.reason
            assert len(made.target.arrived) == 1
            assert made.target.arrived[0].path == link.path
            return seconds


def run(kinds: tuple[str, str], seed: int) -> float | str:
    with seeded_scheduler(seed):
        return trio.run(meet, kinds, seed, clock=MockClock(autojump_threshold=0))


def disturb(internet: Internet, made: Three, per_second: float) -> None:
    """Somebody else behind each of the NATs speaks to a new stranger so often: each takes a port of a sequence."""

    async def speak(host: Host, rng: random.Random) -> None:
        socket = await host.bind_udp(Endpoint("0.0.0.0", 0))
        for number in range(60_000):
            await trio.sleep(rng.expovariate(per_second))
            to = Endpoint(f"198.18.{number >> 8}.{number & 255}", 9)
            socket.send_nowait(Outgoing((b"x",), 1, Path(None, to)))

    for number in range(2):
        other = internet.host(f"other{number}", router=internet.routers[f"h{number}-home"])
        made.nursery.start_soon(speak, other, random.Random(number))
