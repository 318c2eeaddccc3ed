"""The scheduler can be seeded, and with it a run of many tasks repeats packet by packet."""

from __future__ import annotations

import random

import pytest
import trio
import trio._core._run as trio_run
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.net.network import Outgoing, Path
from swarm.simnet import replay
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, TraceEntry, open_internet

PORT = 6881


async def chatter(internet: Internet, host: Host, peers: list[Endpoint]) -> None:
    """Echo to a random peer, drawn from dice that all tasks share: the order of tasks decides what is drawn."""
    bound = await host.bind_udp(Endpoint("0.0.0.0", PORT))
    for _ in range(5):
        await trio.sleep(0.1)
        bound.send_nowait(Outgoing([b"x"], 1, Path(None, internet.dice.choice(peers))))


async def run() -> list[TraceEntry]:
    async with open_internet(seed=1, trace=True) as internet:
        hosts = [internet.host(f"h{n}") for n in range(12)]
        peers = [Endpoint(host.ipv4, PORT) for host in hosts]
        async with trio.open_nursery() as nursery:
            for host in hosts:
                nursery.start_soon(chatter, internet, host, peers)
        await trio.sleep(1)
        assert internet.trace is not None
        return internet.trace


def traced(seed: int) -> list[TraceEntry]:
    with replay.seeded_scheduler(seed):
        return trio.run(run, clock=MockClock(autojump_threshold=0))


def test_many_tasks_replay_with_the_scheduler_seeded() -> None:
    first = traced(5)
    assert len(first) > 100
    assert traced(5) == first
    assert traced(6) != first


def test_trio_still_has_the_switch_and_its_dice() -> None:
    assert isinstance(getattr(trio_run, replay.SWITCH), bool)  # True where Hypothesis is loaded
    assert isinstance(getattr(trio_run, replay.DICE), random.Random)


def test_the_scheduler_is_put_back_even_after_an_error() -> None:
    before = getattr(trio_run, replay.SWITCH), getattr(trio_run, replay.DICE)
    with pytest.raises(RuntimeError), replay.seeded_scheduler(1):
        assert getattr(trio_run, replay.SWITCH) is True
        raise RuntimeError
    assert (getattr(trio_run, replay.SWITCH), getattr(trio_run, replay.DICE)) == before


def test_a_trio_without_the_switch_is_not_silently_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(trio_run, replay.SWITCH)
    with pytest.raises(AttributeError), replay.seeded_scheduler(1):
        pass
