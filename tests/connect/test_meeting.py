"""Where we shoot when introducers answer, and when somebody answers whom nobody has asked (BEP 55)."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import trio
from trio.testing import MockClock

from swarm.connect.punching import Punching
from swarm.endpoint import Endpoint
from swarm.events import Event, PunchAsked
from swarm.ext.holepunch import UNASKED_BURST, Connect
from swarm.knownpeer import KnownPeer

TARGET = Endpoint("22.0.0.1", 6881)
MAPPED = Endpoint(TARGET.host, 40_001)
WRONG = Endpoint(TARGET.host, 9)


@dataclass(eq=False)
class Introducer:
    """As far as `Punching` looks at one that says where to dial."""

    observed: Endpoint
    path: str = "utp"


@dataclass
class Scene:
    """A torrent without connections that wants to meet TARGET."""

    events: list[Event] = field(default_factory=list)
    shots: list[Endpoint] = field(default_factory=list)
    answers: list[Endpoint] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.punching = Punching(
            b"h" * 20,
            [],  # type: ignore[arg-type]
            emit=self.events.append,
            owns=lambda endpoint: False,
            shoot=lambda at, introducer: self.shots.append(at),
            swap=lambda peer: False,
        )

    async def meet(self) -> None:
        self.answers.append(await self.punching.meeting(KnownPeer(TARGET, 0.0)).agree(10.0))

    def told(self, by: Any, where: Endpoint, *, asked: Endpoint | None) -> None:
        self.punching.connect_told(by, where, trio.current_time(), asked=asked)


LIAR, HONEST, OTHER = (Introducer(Endpoint(f"21.0.0.{number}", 6881)) for number in range(3))


async def scene(*told: tuple[Introducer, Endpoint, Endpoint | None]) -> Scene:
    """What comes of what introducers say, one after the other."""
    here = Scene()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.meet)
        await trio.testing.wait_all_tasks_blocked()
        for by, where, asked in told:
            here.told(by, where, asked=asked)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return here


async def test_who_was_not_asked_does_not_tell_us_where_to_meet(autojump_clock: MockClock) -> None:
    here = await scene((LIAR, WRONG, None), (HONEST, MAPPED, TARGET))
    assert here.answers == [MAPPED]
    assert here.shots == [WRONG], "somebody there may want to meet us: a shot like any other"
    assert [event.role for event in here.events if isinstance(event, PunchAsked)] == ["target"]


async def test_a_peer_that_asks_for_us_meanwhile_is_met_where_we_would_dial_it(autojump_clock: MockClock) -> None:
    here = await scene((OTHER, TARGET, None))
    assert (here.answers, here.shots) == ([TARGET], [])


async def test_a_guess_at_the_very_endpoint_does_not_spoil_the_answer_that_follows(autojump_clock: MockClock) -> None:
    here = await scene((LIAR, TARGET, None), (HONEST, MAPPED, TARGET))
    assert here.answers == [TARGET]
    assert here.shots == [MAPPED]


async def test_introducers_that_agree_make_us_shoot_once(autojump_clock: MockClock) -> None:
    here = await scene((HONEST, MAPPED, TARGET), (OTHER, MAPPED, TARGET))
    assert (here.answers, here.shots) == ([MAPPED], [])


async def test_an_answer_that_comes_when_nobody_waits_any_more_is_nothing(autojump_clock: MockClock) -> None:
    here = Scene()
    here.told(HONEST, MAPPED, asked=TARGET)
    assert (here.shots, here.events) == ([], [])


def test_an_introducer_that_comes_again_has_no_more_than_before() -> None:
    here = Scene()
    for number in range(10):
        for host in ("21.0.0.1", "21.0.0.2"):
            peer = SimpleNamespace(identity=SimpleNamespace(endpoint=Endpoint(host, 1000 + number), path="utp"))
            holepunch = here.punching.extension(lambda payload: None, peer)  # type: ignore[arg-type]
            for port in range(1, 20):
                holepunch.receive_untrusted(Connect(Endpoint(TARGET.host, port)).encode(), 0.0)
            holepunch.closed()
    assert len(here.shots) == 2 * UNASKED_BURST
