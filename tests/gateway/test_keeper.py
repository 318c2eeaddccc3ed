"""When a keeper gives its gateway up, by a method that answers as the test says."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import chain, repeat

import trio
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.gateway.keeper import Keeper
from swarm.gateway.lease import Change, Lease
from swarm.gateway.method import NO_ADDRESS, PERMANENT, Mapping, Method, MethodName, Transport

INSIDE = Endpoint("10.0.1.2", 6881)


class Scripted:
    """Its requests end as ``script`` says: "" is success, "silence" no answer at all, anything else the reason."""

    name: MethodName = "nat-pmp"
    gateway = "10.0.1.1"
    inside = INSIDE.host
    longest_silence = PERMANENT

    def __init__(self, *script: str, then: str, hosts: Iterable[str | None] = ()) -> None:
        self._script = chain(script, repeat(then))
        self._hosts = iter(hosts)
        self.asked: list[float] = []
        self.probed = 0

    async def map(self, transport: Transport, internal_port: int, external_port: int, lifetime: int) -> Mapping:
        self.asked.append(trio.current_time())
        await self._act(next(self._script))
        return Mapping(transport, INSIDE, external_port, "20.50.0.1", 600)

    async def unmap(self, mapping: Mapping) -> None:
        raise RemoteError("refused")

    async def external_host(self) -> str | None:
        for host in self._hosts:
            return host
        await self._act("silence")
        return None

    async def probe(self) -> None:
        self.probed += 1

    async def _act(self, outcome: str) -> None:
        if outcome == "silence":
            await trio.sleep_forever()
        elif outcome:
            raise RemoteError(outcome)


def keeper_of(method: Scripted) -> tuple[Keeper, list[tuple[Change, str]]]:
    told: list[tuple[Change, str]] = []

    def report(_method: Method, _lease: Lease, change: Change, detail: str) -> None:
        told.append((change, detail))

    lease = Lease("udp", INSIDE, 6881, now=trio.current_time(), rng=random.Random(1))
    return Keeper(method, [lease], clock=trio.current_time, report=report), told


async def test_three_unanswered_requests_end_it(autojump_clock: MockClock) -> None:
    method = Scripted(then="silence")
    keeper, told = keeper_of(method)
    await keeper.run()
    assert len(method.asked) == 3
    assert [change for change, _ in told] == ["failed", "kept", "kept"]


async def test_an_answer_in_between_counts_as_a_sign_of_life(autojump_clock: MockClock) -> None:
    method = Scripted("timed-out", "timed-out", "refused", "timed-out", "timed-out", "refused", then="timed-out")
    keeper, _ = keeper_of(method)
    await keeper.run()
    assert len(method.asked) == 9


async def test_probes_go_on_while_the_lease_is_held(autojump_clock: MockClock) -> None:
    method = Scripted(then="")
    keeper, told = keeper_of(method)
    with trio.move_on_after(1000):
        await keeper.run()
    assert method.probed == 16
    assert told[0] == ("made", "")
    assert {change for change, _ in told[1:]} == {"renewed"}


async def test_a_refused_release_is_no_error(autojump_clock: MockClock) -> None:
    keeper, _ = keeper_of(Scripted(then=""))
    with trio.move_on_after(1):
        await keeper.run()
    assert keeper.held
    await keeper.release()
    assert not keeper.held


async def test_a_gateway_that_says_it_has_no_address_is_heard_again_soon(autojump_clock: MockClock) -> None:
    started = trio.current_time()
    keeper, _ = keeper_of(Scripted(then="failed", hosts=[NO_ADDRESS] * 3 + ["20.50.0.1"]))
    with trio.move_on_after(1):
        await keeper.run()
    assert (keeper.outside_host, keeper.addressless) == (NO_ADDRESS, (started, started))
    with trio.move_on_after(5):
        await keeper.run()
    assert keeper.addressless is not None
    assert keeper.addressless[0] == started
    assert 4 <= keeper.addressless[1] - started < 5
    with trio.move_on_after(100):
        await keeper.run()
    assert (keeper.outside_host, keeper.addressless) == ("20.50.0.1", None)


async def test_a_mapping_shows_that_there_is_an_address_after_all(autojump_clock: MockClock) -> None:
    keeper, _ = keeper_of(Scripted("failed", then="", hosts=[NO_ADDRESS]))
    with trio.move_on_after(10):
        await keeper.run()
    assert (keeper.outside_host, keeper.addressless) == ("20.50.0.1", None)


async def test_restarts_announced_all_the_time_make_us_ask_every_four_seconds(autojump_clock: MockClock) -> None:
    """Anybody on the LAN can speak in the gateway's name; it was asked after each, 6,001 times in this minute."""
    method = Scripted(then="")
    keeper, told = keeper_of(method)
    with trio.move_on_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.run)
            while True:
                await trio.sleep(0.01)
                keeper.forget()
    assert 14 <= len(method.asked) <= 17
    assert len(told) <= 2 * len(method.asked)
