"""`Relaying`: what a client says to a relay, and how often."""

from __future__ import annotations

import random
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from swarm.config import RelayLimits
from swarm.connect.dial import Link
from swarm.connect.relay_host import RelayHost
from swarm.connect.relay_report import RelayClientCounts
from swarm.connect.relaying import ANSWER_WITHIN, RESERVE_AGAIN, Relaying
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.ext.relay import Relay
from swarm.ext.relay_desk import RelayDesk
from swarm.ext.relay_message import Accept, Connect, Incoming, Opened, Refused, RelayMessage, WayOut
from tests.relays import SWARM, Client, World

NOWHERE = Endpoint("20.0.9.1", 4000)


class Host:
    """A node behind a NAT that it knows as ``word``."""

    is_client = True

    def __init__(self) -> None:
        self.word: WayOut = "other"
        self.reachable = False
        self.counts = RelayClientCounts()
        self.desk = RelayDesk(RelayLimits(), random.Random(1), serves=lambda: False)

    def is_reachable(self) -> bool:
        return self.reachable

    def way_out(self) -> WayOut:
        return self.word


class Here:
    """A `Relaying` connected to the relay of a world."""

    def __init__(self, world: World, host: str = "20.0.2.1") -> None:
        self.world = world
        self.host = Host()
        self.arrived: list[Link] = []
        self.relaying = Relaying(
            SWARM,
            cast(RelayHost, self.host),
            random.Random(2),
            wants=lambda endpoint: True,
            welcome=self.arrived.append,
            relays_changed=lambda: None,
        )
        self.client = world.client(host, side=self.relaying)

    def tick(self) -> None:
        self.world.now += 1.0
        self.relaying.tick(self.world.now)
        self.world.pump()


def refusals(client: Client) -> list[str]:
    return [message.reason for message in client.told if isinstance(message, Refused)]


def test_a_relay_learns_with_which_nat_it_has_to_do_when_we_do() -> None:
    world = World()
    here, other = Here(world), world.client("20.0.3.1")
    here.tick()
    other.say(Connect(1, here.client.observed, "random", if_hopeless=True))
    assert refusals(other) == ["not-hopeless"]
    here.host.word = "blocked"
    here.tick()
    assert world.desk.statistics().reservations == 1
    other.say(Connect(2, here.client.observed, "random", if_hopeless=True))
    assert [message.number for message in other.told if isinstance(message, Opened)] == [2]
    assert len(here.arrived) == 1


def test_what_the_relay_knows_is_not_said_again() -> None:
    world = World()
    here = Here(world)
    here.tick()
    here.client.far.reads = False  # so that what is said stays where it can be counted
    for _ in range(100):
        here.tick()
    assert not here.client.near.small
    here.host.word = "random"
    for _ in range(100):
        here.tick()
    assert len(here.client.near.small) == 1


def test_a_connection_is_of_use_while_a_reservation_may_come_of_it_and_no_longer() -> None:
    world = World()
    here, silent = Here(world), world.client("20.0.3.1")
    assert silent.far.freight.kept, "it may reserve any moment"
    here.tick()
    assert here.client.near.freight.kept and here.client.far.freight.kept
    world.pass_time(10)
    assert here.client.far.freight.kept, "it has reserved"
    assert not silent.far.freight.kept


def test_a_relay_that_refuses_is_no_reason_to_stay_and_asked_again_later() -> None:
    world = World(RelayLimits(reservations=0))
    here = Here(world)
    for _ in range(3 * round(RESERVE_AGAIN)):
        here.tick()
        assert not here.client.near.freight.kept
    assert world.desk.statistics().refused == {"busy": 3}


async def test_a_relay_that_does_not_know_the_target_is_asked_once_for_each_try(autojump_clock: MockClock) -> None:
    world = World()
    here = Here(world)
    async with trio.open_nursery() as nursery:

        async def pump() -> None:
            while True:
                world.pump()
                await trio.sleep(0.01)

        nursery.start_soon(pump)
        for tries in range(1, 4):
            started = trio.current_time()
            with pytest.raises(RemoteError) as refusal:
                await here.relaying.reach(NOWHERE, lambda endpoint: False)
            assert refusal.value.reason == "not-connected"
            assert trio.current_time() - started < ANSWER_WITHIN / 10
            assert world.desk.statistics().asked == here.host.counts.asked == tries
        assert here.host.counts.refused == {"not-connected": 3}
        nursery.cancel_scope.cancel()


async def test_a_relay_that_does_not_answer_is_given_up_and_its_late_circuit_is_reset(
    autojump_clock: MockClock,
) -> None:
    world = World()
    here, target = Here(world), world.client("20.0.3.1", reserved=True)
    target.near.reads = target.far.reads = False
    started = trio.current_time()
    with pytest.raises(RemoteError) as refusal:
        await here.relaying.reach(target.observed, lambda endpoint: True)
    assert refusal.value.reason == "no-answer"
    assert trio.current_time() - started == pytest.approx(ANSWER_WITHIN)
    target.near.reads = target.far.reads = True

    def accept(by: Relay, message: RelayMessage) -> None:
        if isinstance(message, Incoming):
            by.tell(Accept(message.circuit))

    target.side.on_told = accept
    world.pump()
    assert not world.desk.statistics().circuits
    assert world.desk.statistics().ended == {"cancelled": 1}
