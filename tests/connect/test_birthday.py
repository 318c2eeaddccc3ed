"""Prediction and birthday between three on the simulated internet, and what is left of them afterwards."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from typing import cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from swarm.connect.agreement import TURN_KEPT
from swarm.connect.birthday import FEWEST, meet_by_birthday
from swarm.connect.dial import Link
from swarm.connect.predict import MAX_PROBES, PROBES_PER_SECOND, Plan, make_plan
from swarm.connect.second_port import PATIENCE
from swarm.connect.shot_port import BIRTHDAY_BURST, CLOSING_LOOK, ShotPorts
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.ext.punch import Punch
from swarm.ext.punch_message import Terms
from swarm.net.network import DatagramSocket, Network, Outgoing, Path
from swarm.simnet.catalogue import KINDS, behind
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.replay import seeded_scheduler
from tests.connect.three import HANDSHAKE, HELLO, WELCOME, Located, Member, Three, three
from tests.nodes import node_on

RUNS = 20
RANDOM, FIXED = (20481, 1777, 60123, 33333), (6881,) * 4


def outside(internet: Internet, host: Host, kind: str) -> str:
    """The address under which others see a host."""
    what = KINDS[kind]
    if what.home is None:
        return host.ipv4
    return internet.routers[f"{host.name}-{'carrier' if what.carrier else 'home'}"].wan


@asynccontextmanager
async def between(kinds: tuple[str, str], seed: int = 1) -> AsyncIterator[tuple[Internet, Three]]:
    """An initiator and a target behind these NATs, and a public introducer."""
    async with open_internet(seed=seed, trace=True) as internet:
        members: list[Member] = []
        for number, kind in enumerate((*kinds, "open")):
            host = behind(internet, kind, f"h{number}")
            terms = Terms(udp=(Endpoint("20.99.0.1", 1), Endpoint(outside(internet, host, kind), 7)))
            members.append(Member(host, outside(internet, host, kind), seed * 3 + number, terms))
        initiator, target, introducer = members
        async with three(initiator, target, introducer) as made:
            yield internet, made


Trouble = Callable[[Internet, Three], None]


def run(kinds: tuple[str, str], seed: int, trouble: Trouble = lambda internet, made: None) -> tuple[str, float]:
    """The path by which a word and its answer have crossed and in how many seconds, or the reason why not."""

    async def meet() -> tuple[str, float]:
        async with between(kinds, seed) as (internet, made):
            trouble(internet, made)
            try:
                link, seconds = await made.reach()
            except RemoteError as error:
                return error.reason, 0.0
            assert [each.path for each in made.target.arrived] == [link.path]
            return link.path, seconds

    with seeded_scheduler(seed):
        return trio.run(meet, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    ("kinds", "path"),
    [
        (("cone", "cone"), "predicted"),
        (("cone", "symseq"), "predicted"),
        (("symseq", "cone"), "predicted"),
        (("symseq", "symseq"), "predicted"),
        (("symseq", "cgn"), "predicted"),
        (("cone", "symrand"), "birthday"),
        (("symrand", "cone"), "birthday"),
        (("cgn", "cgnsym"), "birthday"),
        (("symrand", "symseq"), "hopeless"),
        (("symseq", "symrand"), "hopeless"),
        (("symrand", "cgnsym"), "hopeless"),
        (("udpblock", "cone"), "not-measured"),
    ],
)
def test_who_can_meet_whom(kinds: tuple[str, str], path: str) -> None:
    assert run(kinds, 1)[0] == path


@pytest.mark.parametrize("kinds", [("cone", "symrand"), ("symrand", "cone")])
@pytest.mark.parametrize("end", ["initiator", "target"])
def test_who_takes_part_in_no_birthdays_says_that_it_is_hopeless(kinds: tuple[str, str], end: str) -> None:
    """The other end has begun already: it hears it within a round trip, and a relay may be asked at once."""

    async def meet() -> None:
        async with between(kinds) as (internet, made):
            member: Member = getattr(made, end)
            member.ports = ShotPorts(member.network, random.Random(1), birthdays=False)
            member.agreements._ports = member.ports
            made.nursery.start_soon(member.ports.run)
            await wait_all_tasks_blocked()
            started, before = trio.current_time(), len(internet.trace)
            with pytest.raises(RemoteError) as caught:
                await made.reach()
            assert caught.value.reason == "hopeless"
            assert trio.current_time() - started < 1.5
            assert len(internet.trace) - before < 700

    with seeded_scheduler(1):
        trio.run(meet, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("birthday", [True, False])
async def test_a_node_takes_part_unless_it_is_told_not_to(autojump_clock: MockClock, birthday: bool) -> None:
    async with open_internet() as internet, node_on(internet.host("h"), 1, birthday=birthday) as node:
        with ExitStack() as stack:
            if not birthday:
                stack.enter_context(pytest.raises(RemoteError, match="hopeless"))
            with node.node._shot_ports.shooting("birthday"):
                pass
            assert birthday


@pytest.mark.parametrize("kinds", [("cone", "symseq"), ("symseq", "symseq")])
def test_predictions_take_less_than_a_second(kinds: tuple[str, str]) -> None:
    met = [run(kinds, seed) for seed in range(RUNS)]
    assert {path for path, _ in met} == {"predicted"}
    seconds = [each for _, each in met]
    print(f"{kinds}: median {statistics.median(seconds):.2f} s, at most {max(seconds):.2f} s")
    assert max(seconds) < 1.0


@pytest.mark.parametrize("kinds", [("cone", "symrand"), ("symrand", "cone")])
def test_birthdays_take_few_seconds(kinds: tuple[str, str]) -> None:
    met = [run(kinds, seed) for seed in range(RUNS)]
    assert {path for path, _ in met} == {"birthday"}
    seconds = sorted(each for _, each in met)
    print(f"{kinds}: median {statistics.median(seconds):.2f} s, at most {seconds[-1]:.2f} s")
    assert statistics.median(seconds) <= 6
    assert seconds[RUNS - 2] <= 15


def disturbed(per_second: float) -> Trouble:
    """Somebody else behind each of the NATs speaks to a new stranger so often: each takes a port of a sequence."""

    async def speak(host: Host, rng: random.Random) -> None:
        socket = await host.bind_udp(Endpoint("0.0.0.0", 0))
        for number in range(60_000):
            await trio.sleep(rng.expovariate(per_second))
            to = Endpoint(f"198.18.{number >> 8}.{number & 255}", 9)
            socket.send_nowait(Outgoing((b"x",), 1, Path(None, to)))

    def begin(internet: Internet, made: Three) -> None:
        for number in range(2):
            other = internet.host(f"other{number}", router=internet.routers[f"h{number}-home"])
            made.nursery.start_soon(speak, other, random.Random(number))

    return begin


@pytest.mark.parametrize("kinds", [("cone", "symseq"), ("symseq", "symseq")])
def test_others_behind_the_same_nats_do_not_spoil_predictions(kinds: tuple[str, str]) -> None:
    met = [run(kinds, seed, disturbed(per_second=100)) for seed in range(RUNS // 2)]
    assert {path for path, _ in met} == {"predicted"}


def lossy(internet: Internet, made: Three) -> None:
    for host in internet.hosts.values():
        if host.name.startswith("h"):
            port = host.port()
            for line in (port.up, port.down):
                line.change(replace(line.link, loss=0.05))


@pytest.mark.parametrize("kinds", [("cone", "symseq"), ("symseq", "symseq"), ("cone", "symrand")])
def test_a_twentieth_of_all_packets_may_be_lost_on_every_line(kinds: tuple[str, str]) -> None:
    met = [run(kinds, seed, lossy) for seed in range(RUNS // 2)]
    assert sum(path in ("predicted", "birthday") for path, _ in met) == RUNS // 2, met


# ---- what is sent, and what is left


def udp_ports(host: Host) -> int:
    return len(host.udp._sockets)


async def test_a_birthday_keeps_to_its_probes_a_second_and_in_all(autojump_clock: MockClock) -> None:
    """The random side's 256 sockets are deaf, so that nothing is ever met."""
    async with between(("cone", "symrand")) as (internet, made):
        internet.hosts["h1"].port().down.drop_if = lambda packet: packet.source.host == made.initiator.external.host
        with pytest.raises(RemoteError, match="timed-out"):
            await made.reach()
        assert internet.trace is not None
        sent = [line.time for line in internet.trace if line.what == "sent" and line.where == "h0"]
        sent = [time for time in sent if time > 0.3]  # agreement and measurement are over
    assert MAX_PROBES - 2 * PROBES_PER_SECOND < len(sent) <= MAX_PROBES
    for start in range(len(sent) - PROBES_PER_SECOND):
        assert sent[start + PROBES_PER_SECOND] - sent[start] > 0.999


@pytest.mark.parametrize("kinds", [("symseq", "cone"), ("symrand", "cone"), ("cone", "symrand")])
async def test_the_port_that_met_lives_as_long_as_its_connection(
    autojump_clock: MockClock, kinds: tuple[str, str]
) -> None:
    async with between(kinds) as (internet, made):
        link, _ = await made.reach()
        await trio.sleep(3 * CLOSING_LOOK)
        assert [udp_ports(internet.hosts[name]) for name in ("h0", "h1", "h2")] == [1, 1, 0]
        await link.stream.aclose()
        await made.target.arrived[0].stream.aclose()
        await trio.sleep(3 * CLOSING_LOOK)
        assert [udp_ports(internet.hosts[name]) for name in ("h0", "h1")] == [0, 0]


async def test_candidates_of_third_parties_are_not_passed_on(autojump_clock: MockClock) -> None:
    async with between(("cone", "symseq")) as (_, made):
        await made.reach()
        for one, other in ((made.initiator, made.target), (made.target, made.initiator)):
            assert one.heard[other.external].udp == (Endpoint(other.external.host, 7),)


async def failed(attempt: Awaitable[tuple[Link, float]]) -> str:
    with pytest.raises(RemoteError) as caught:
        await attempt
    return caught.value.reason


async def test_a_target_that_does_not_want_us_says_so(autojump_clock: MockClock) -> None:
    async with between(("cone", "symseq")) as (internet, made):
        made.target.willing = False
        assert await failed(made.reach()) == "not-wanted"
        await trio.sleep(CLOSING_LOOK)
        assert udp_ports(internet.hosts["h0"]) == udp_ports(internet.hosts["h1"]) == 0


async def test_an_introducer_that_is_silent_is_not_waited_for_long(autojump_clock: MockClock) -> None:
    async with between(("cone", "symseq")) as (_, made):
        made.introducer.agreements.punch_told = lambda by, message, now: None  # type: ignore[method-assign]
        started = trio.current_time()
        assert await failed(made.reach()) == "no-answer"
        assert trio.current_time() - started < 3.5


async def test_a_meeting_with_somebody_who_is_gone_holds_up_no_other_one_for_long(autojump_clock: MockClock) -> None:
    async with between(("cone", "symseq")) as (_, made):
        gone = Endpoint("20.0.9.1", 6881)  # and the introducer does not know it yet
        silent = made.introducer.agreements.extension(lambda payload: None, Located(gone))
        silent.handshake_received(HANDSHAKE, 0.0)
        (introducer,) = made.target.agreements.introducers(gone)
        reasons: list[str] = []

        async def ask() -> None:
            with pytest.raises(RemoteError) as caught:
                await made.target.agreements.reach(introducer, gone)
            reasons.append(caught.value.reason)

        made.nursery.start_soon(ask)
        await trio.sleep(0.1)
        link, seconds = await made.reach()
        assert link.path == "predicted"
        assert seconds < TURN_KEPT + 1.0
        await trio.sleep(3)
        assert reasons == ["no-answer"]


@pytest.mark.parametrize("after", [0.05, 0.15, 0.3, 1.0])
async def test_a_meeting_given_up_leaves_nothing_on_either_side(autojump_clock: MockClock, after: float) -> None:
    async with between(("cone", "symrand")) as (internet, made):
        internet.hosts["h1"].port().down.drop_if = lambda packet: packet.source.host == made.initiator.external.host
        with trio.move_on_after(after) as scope:
            await made.reach()
        assert scope.cancelled_caught
        await trio.sleep(2 * PATIENCE)
        assert [udp_ports(host) for host in internet.hosts.values()] == [0] * len(internet.hosts)
        assert made.target.failed == ["cancelled"]


async def test_a_node_has_one_birthday_at_a_time_and_not_too_many(autojump_clock: MockClock) -> None:
    async with between(("cone", "symrand")) as (_, made):
        ports = made.initiator.ports
        with ports.shooting("birthday"):
            assert await failed(made.reach()) == "busy"
        await trio.sleep(1)
        assert made.target.failed == ["busy"]
        for _ in range(2 * BIRTHDAY_BURST):  # those that meet are not counted
            with ports.shooting("birthday"):
                pass
        for _ in range(BIRTHDAY_BURST):
            with pytest.raises(RemoteError, match="timed-out"), ports.shooting("birthday"):
                raise RemoteError("timed-out")
        with pytest.raises(RemoteError, match="busy"), ports.shooting("birthday"):
            pass


@pytest.mark.parametrize("introducers", [1, 2])
@pytest.mark.parametrize("seed", range(4))
async def test_of_two_that_ask_for_each_other_at_once_one_is_answered(
    autojump_clock: MockClock, introducers: int, seed: int
) -> None:
    async with between(("symseq", "symseq"), seed) as (internet, made):
        one, other = made.initiator, made.target
        through = [one.agreements.introducers(other.external)[0], other.agreements.introducers(one.external)[0]]
        if introducers == 2:
            host = behind(internet, "open", "second")
            second = Member(host, host.ipv4, 99)
            made.nursery.start_soon(second.second_ports.run)
            await wait_all_tasks_blocked()
            through[1] = made.join(other, second, 0.025)[0]
            made.join(one, second, 0.035)
        met = Counter[str]()

        async def reach(member: Member, introducer: Punch, target: Endpoint) -> None:
            try:
                link = await member.agreements.reach(introducer, target)
            except RemoteError as error:
                met[error.reason] += 1
            else:
                met[link.path] += 1
                await link.stream.send_all(HELLO)
                assert await link.stream.receive_some() == WELCOME

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reach, one, through[0], other.external)
            nursery.start_soon(reach, other, through[1], one.external)
        assert met == {"predicted": 1, "crossed": 1}
        assert len(one.arrived) + len(other.arrived) == 1


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("kind", ["cone", "symseq"])
async def test_a_sequence_of_ports_bears_many_meetings_at_once(
    autojump_clock: MockClock, kind: str, asked: bool
) -> None:
    """Of one behind a NAT that allocates in sequence, who asks for all the others or is ``asked`` for by them."""
    async with between(("symseq", kind)) as (internet, made):
        one, others = made.initiator, [made.target]
        for number in range(7):
            host = behind(internet, kind, f"o{number}")
            others.append(Member(host, outside(internet, host, kind), 50 + number))
            made.nursery.start_soon(others[-1].ports.run)
            await wait_all_tasks_blocked()
            made.join(others[-1], made.introducer, 0.01 + 0.007 * number)
        met = Counter[str]()

        async def reach(initiator: Member, target: Member) -> None:
            (introducer,) = initiator.agreements.introducers(target.external)
            link = await initiator.agreements.reach(introducer, target.external)
            await link.stream.send_all(HELLO)
            assert await link.stream.receive_some() == WELCOME
            met[link.path] += 1

        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for other in others:
                nursery.start_soon(reach, *((other, one) if asked else (one, other)))
        assert met == {"predicted": 8}
        print(f"8 × {kind}: {trio.current_time() - started:.2f} s")


@pytest.fixture
def many() -> Plan:
    plan = make_plan(RANDOM, FIXED, initiator=True, rng=random.Random(1))
    assert plan is not None
    return plan


async def test_a_birthday_is_tried_with_few_sockets(autojump_clock: MockClock, many: Plan) -> None:
    async with open_internet() as internet:
        host = internet.host("h")
        with trio.move_on_after(1) as scope:
            await meet_by_birthday(cast(Network, Scarce(host, FEWEST)), many, bytes(16), "20.9.9.9")
        assert scope.cancelled_caught
        assert udp_ports(host) == 0


async def test_a_birthday_is_not_tried_with_too_few_sockets(autojump_clock: MockClock, many: Plan) -> None:
    async with open_internet() as internet:
        host = internet.host("h")
        with pytest.raises(RemoteError, match="no-ports"):
            await meet_by_birthday(cast(Network, Scarce(host, FEWEST - 1)), many, bytes(16), "20.9.9.9")
        assert udp_ports(host) == 0


class Scarce:
    """A network with so many sockets left."""

    def __init__(self, host: Host, left: int) -> None:
        self._host = host
        self._left = left

    async def bind_udp(self, local: Endpoint) -> DatagramSocket:
        self._left -= 1
        if self._left < 0:
            raise OSError(24, "Too many open files")
        return await self._host.bind_udp(local)
