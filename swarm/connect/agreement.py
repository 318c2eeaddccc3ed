"""Both ends' part of ``sw_punch`` in one torrent: agree through an introducer, be measured, shoot, and have a stream.

`Agreements` is what the connections' `Punch` extensions report to, in all three roles; the introducer's is passed on to
`PunchDesk`.  As initiator a rung calls `Agreements.reach`; as target what arrives is handed to `MeetingSide`.
The initiator dials µTP, the target accepts it, both on the port that met (`swarm.connect.shot_port`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

import trio

from swarm.connect.birthday import meet_by_birthday
from swarm.connect.dial import Link
from swarm.connect.knock import Knocker
from swarm.connect.predict import Plan, make_plan, predict_ports
from swarm.connect.shot_port import ShotPort, ShotPorts
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.events import INDIRECT_PATHS, PathName
from swarm.ext.allowance import Allowances, account_of
from swarm.ext.extension import Say
from swarm.ext.holepunch import may_meet
from swarm.ext.punch import OFFERED_BURST, OFFERED_SECONDS, Located, Punch
from swarm.ext.punch_desk import Observes, PunchDesk
from swarm.ext.punch_message import (
    NONCE_SIZE,
    Answer,
    Answered,
    Go,
    Measure,
    Offer,
    Offered,
    PunchMessage,
    Refusal,
    Terms,
    usable,
)
from swarm.net.network import Stream

MESSAGE_WITHIN = 3.0
"""Seconds for each message of the introducer's; measuring takes 2 at worst."""

TURN_KEPT = 0.75
"""Seconds for which an initiator that has no answer keeps other meetings waiting: the one that it asks for may be gone,
and the introducer not know it yet."""

MAX_ATTENDED = 12
"""Meetings as target at once, in one torrent."""

PAIR_BURST, PAIR_SECONDS = 4, 20.0
"""Meetings with one peer that one introducer may call us to: so many at once, then one in so many seconds.  While one
is on we do not ask for that peer ourselves: who says that it wants us, and lies, must not keep us from it."""

MAX_WAITING = 8
"""Messages of one meeting that wait to be read; there are four in all."""

TURN_WITHIN = 2.5
"""Seconds that one who asks for us waits for other meetings of ours."""

TRIES = 2
"""Meetings for one prediction: others may have taken too many ports in between."""

STREAM_WITHIN = 4.0
"""Seconds for µTP to connect once the ends have heard each other."""

Key = tuple[Punch, bytes]
M = TypeVar("M", Answered, Measure, Go)


class MeetingSide(Protocol):
    """What becomes of meetings, of those that others asked for above all."""

    def wants(self, peer: Endpoint) -> bool:
        """Whether a connection with who is seen there is of use: it is not connected, not us, there is room."""

    def terms_heard(self, peer: Endpoint, terms: Terms) -> None:
        """In both roles: what the peer that is seen there says of itself, without candidates that lead elsewhere."""

    def meeting_begun(self, peer: Endpoint, introducer: Endpoint) -> None:
        """As target: we have agreed to a meeting; `meeting_arrived` or `meeting_failed` follows."""

    def meeting_arrived(self, link: Link, seconds: float) -> None:
        """An inbound stream, to be shaken hands with; to be closed by whoever takes it."""

    def meeting_failed(self, peer: Endpoint, reason: str, seconds: float) -> None: ...


class Agreements:
    """``is_own`` knows our own endpoints; ``terms`` is what we say of ourselves, ``relayed`` where servers receive for
    us; ``external_host(ipv6)`` is our address as most others see it, which is what the introducer says while that is
    not known; ``is_neighbour(host)`` whether a host is in a network of ours; ``introduces`` as for `PunchDesk`."""

    def __init__(
        self,
        ports: ShotPorts,
        observes: Observes,
        side: MeetingSide,
        *,
        is_own: Callable[[Endpoint], bool],
        introduces: Callable[[], bool] = lambda: True,
        terms: Callable[[], Terms] = Terms,
        relayed: Callable[[], tuple[Endpoint, ...]] = tuple,
        external_host: Callable[[bool], str | None] = lambda ipv6: None,
        is_neighbour: Callable[[str], bool] = lambda host: False,
    ) -> None:
        self._ports = ports
        self._side = side
        self._is_own = is_own
        self._terms = terms
        self._relayed = relayed
        self._external_host = external_host
        self._is_neighbour = is_neighbour
        self._punches: dict[Punch, None] = {}
        self._meetings: dict[Key, _Meeting] = {}
        self._attending: set[trio.CancelScope] = set()
        self._offered_by = Allowances(OFFERED_BURST, OFFERED_SECONDS)
        self._pairs = Allowances(PAIR_BURST, PAIR_SECONDS)
        self.desk = PunchDesk(
            lambda: self._punches, is_own=is_own, observes=observes, rng=ports.rng, introduces=introduces
        )

    def extension(self, say: Say, located: Located) -> Punch:
        """``sw_punch`` for a connection."""
        punch = Punch(say, self, located, partial(self._offered_by.take, account_of(located.observed)))
        self._punches[punch] = None
        return punch

    def introducers(self, target: Endpoint) -> list[Punch]:
        """Who may be asked to bring us together with ``target``."""
        return [
            punch
            for punch in self._punches
            if punch.supported
            and punch.located.path not in INDIRECT_PATHS
            and may_meet(punch.located.observed, target)
            and target not in (punch.located.observed, punch.located.listens)
        ]

    async def reach(self, introducer: Punch, target: Endpoint) -> Link:
        """As initiator: a stream to ``target``, a peer of ``introducer``'s, by "predicted" or "birthday".

        The caller must send at once.  RemoteError: what introducer or target refused with; "no-answer"; "hopeless" for
        NATs between which only a relay helps; "busy", "no-ports", "timed-out"; "crossed" if the target is asking
        for us meanwhile, so that the stream comes from there.  Takes up to 5 s for prediction, 15 for a birthday.
        Cancellation gives it up and lets the other end know.
        """
        for tries_left in reversed(range(TRIES)):
            meeting = _Meeting(self._meetings, introducer, self._ports.rng.randbytes(NONCE_SIZE), target)
            try:
                if any(each.peer.host == target.host and not each.tells_only for each in self._meetings.values()):
                    raise RemoteError("crossed")
                return await self._ask_and_meet(meeting, target)
            except RemoteError as error:
                if error.reason != "timed-out" or meeting.path != "predicted" or not tries_left:
                    raise
        raise AssertionError("the last try returns or raises")

    async def tell_relayed(self, introducer: Punch, target: Endpoint, relayed: tuple[Endpoint, ...]) -> None:
        """Let ``target`` know where servers receive for us, and hear where they do for it: nobody shoots.

        RemoteError: what introducer or target refused with, or "no-answer".
        """
        session = self._ports.rng.randbytes(NONCE_SIZE)
        with _Meeting(self._meetings, introducer, session, target, tells_only=True) as meeting:
            introducer.tell(Offer(session, target, replace(self._terms(), relayed=relayed)))
            self._hear_from(introducer, target, await meeting.next(Answered))

    def stop(self) -> None:
        """Give up the meetings that others asked for; those of our own end with their callers."""
        for scope in self._attending:
            scope.cancel()

    # -- PunchSide --------------------------------------------------------------------------------------------------

    def punch_told(self, by: Punch, message: PunchMessage, now: float) -> None:
        match message:
            case Offer():
                self.desk.offer_made(by, message, now)
            case Answer():
                self.desk.answer_made(by, message, now)
            case Offered():
                self._offered(by, message, now)
            case Refusal() if self.desk.refused(by, message, now):
                pass
            case _:
                meeting = self._meetings.get((by, message.session))
                if meeting is not None:
                    meeting.tell(message)

    def punch_closed(self, by: Punch) -> None:
        """Meetings that have come to go do without the introducer."""
        self._punches.pop(by, None)
        self.desk.closed(by)
        for (introducer, _), meeting in list(self._meetings.items()):
            if introducer is by and meeting.path is None:
                meeting.tell(Refusal(meeting.session, "not-connected"))

    # -- as target --------------------------------------------------------------------------------------------------

    def _offered(self, by: Punch, offered: Offered, now: float) -> None:
        reason = self._reason_to_refuse(by, offered, now)
        if reason is not None:
            by.tell(Refusal(offered.session, reason))
            return
        self._hear(by, offered.sender, offered.terms)
        if offered.terms.relayed:
            by.tell(Answer(offered.session, replace(self._terms(), relayed=self._relayed())))
            return
        scope = trio.CancelScope()
        self._attending.add(scope)
        self._side.meeting_begun(offered.sender, by.located.observed)
        self._ports.start_soon(self._attend, by, offered, scope)

    def _reason_to_refuse(self, by: Punch, offered: Offered, now: float) -> str | None:
        if not may_meet(by.located.observed, offered.sender) or self._is_own(offered.sender):
            return "not-bridged"
        if not self._side.wants(offered.sender):
            return "not-wanted"
        if not self._pairs.take((account_of(by.located.observed), account_of(offered.sender)), now):
            return "too-many-of-pair"
        if offered.terms.relayed:
            return None
        if self._gives_way(offered):
            return "crossed"
        taken = (by, offered.session) in self._meetings or len(self._attending) >= MAX_ATTENDED
        if taken or not self._ports.has_room or not self._ports.attended.take(now):
            return "busy"
        return None

    def _gives_way(self, offered: Offered) -> bool:
        """Whether a meeting with the same peer that we asked for goes on instead; if not, that one is given up.

        Both would spoil each other's predictions.  Both ends see both, and keep the one with the smaller session.
        """
        ours = [each for each in self._meetings.values() if each.ours and not each.tells_only]
        crossing = [each for each in ours if each.peer.host == offered.sender.host]
        if any(each.session < offered.session for each in crossing):
            return True
        for each in crossing:
            each.introducer.tell(Refusal(each.session, "crossed"))
            each.tell(Refusal(each.session, "crossed"))
        return False

    async def _attend(self, by: Punch, offered: Offered, scope: trio.CancelScope) -> None:
        started = trio.current_time()
        meeting = _Meeting(self._meetings, by, offered.session, offered.sender, ours=False)
        try:
            with scope, meeting:
                async with (
                    self._ports.turn(TURN_WITHIN) as meeting.end_turn,
                    self._ports.open(offered.session, ipv6=offered.sender.is_ipv6) as port,
                ):
                    by.tell(Answer(offered.session, self._terms()))
                    link = await self._meet(meeting, port, offered.sender, initiator=False)
                    self._side.meeting_arrived(link, trio.current_time() - started)
        except RemoteError as error:
            self._side.meeting_failed(offered.sender, error.reason, trio.current_time() - started)
        finally:
            self._attending.discard(scope)

    # -- as initiator -----------------------------------------------------------------------------------------------

    async def _ask_and_meet(self, meeting: _Meeting, target: Endpoint) -> Link:
        introducer = meeting.introducer
        async with (
            self._ports.turn() as end_turn,
            self._ports.open(meeting.session, ipv6=introducer.located.observed.is_ipv6) as port,
        ):
            with meeting:
                meeting.end_turn = end_turn
                introducer.tell(Offer(meeting.session, target, self._terms()))
                answered = await meeting.next(Answered, keeping=end_turn)
                self._hear_from(introducer, target, answered)
                return await self._meet(meeting, port, answered.sender, initiator=True)

    # -- both -------------------------------------------------------------------------------------------------------

    def _hear_from(self, introducer: Punch, target: Endpoint, answered: Answered) -> None:
        if answered.sender.host != target.host:
            raise RemoteError("elsewhere", f"{answered.sender} is not at {target.host}")
        self._hear(introducer, answered.sender, answered.terms)

    def _hear(self, introducer: Punch, peer: Endpoint, terms: Terms) -> None:
        ours = self._external_host(peer.is_ipv6) or introducer.located.sees_us_at
        self._side.terms_heard(peer, usable(terms, peer.host, ours, self._is_neighbour))

    async def _meet(self, meeting: _Meeting, port: ShotPort, peer: Endpoint, *, initiator: bool) -> Link:
        measure = await meeting.next(Measure)
        host = meeting.introducer.located.observed.host
        port.measure([Endpoint(host, number) for number in measure.ports], measure.nonce)
        go = await meeting.next(Go)
        started = trio.current_time()
        ours = predict_ports(go.ours)
        self._ports.in_sequence = ours is not None and ours.step != 0
        plan = make_plan(go.ours, go.theirs, initiator=initiator, rng=self._ports.rng)
        if plan is None:
            raise RemoteError("hopeless", "the NATs of both hand out ports that nobody can know")
        meeting.path = plan.path
        await trio.sleep_until(started + go.delay / 1000)
        with meeting.scope:
            return Link(await self._shoot(meeting, port, peer.host, plan, initiator), plan.path)
        raise RemoteError(meeting.refused or "failed")

    async def _shoot(self, meeting: _Meeting, port: ShotPort, host: str, plan: Plan, initiator: bool) -> Stream:
        with self._ports.shooting(plan.path):
            if plan.sockets > 1:
                return await self._shoot_from_many(meeting, host, plan, initiator)
            port.shoot(host, plan.shots)
            meeting.end_turn()
            with _timed_out_after(plan.seconds):
                met = await port.meet()
            return await _connect(port, met, initiator)

    async def _shoot_from_many(self, meeting: _Meeting, host: str, plan: Plan, initiator: bool) -> Stream:
        meeting.end_turn()
        with _timed_out_after(plan.seconds):
            socket, met = await meet_by_birthday(self._ports.network, plan, meeting.session, host)
        with self._ports.adopt(socket, Knocker(meeting.session)) as winner:
            winner.greet(met)
            return await _connect(winner, met, initiator)


class _Meeting:
    """One meeting as one end of it sees it; a context manager while it is on."""

    def __init__(
        self,
        meetings: dict[Key, _Meeting],
        introducer: Punch,
        session: bytes,
        peer: Endpoint,
        *,
        ours: bool = True,
        tells_only: bool = False,
    ) -> None:
        """``ours``: we are the initiator; ``tells_only``: nobody is to shoot."""
        self.introducer = introducer
        self.session = session
        self.peer = peer
        self.ours = ours
        self.tells_only = tells_only
        self.refused: str | None = None
        """Why the others have ended it."""
        self.path: PathName | None = None
        """How we shoot, once that has been agreed."""
        self.scope = trio.CancelScope()
        self.end_turn: Callable[[], None] = lambda: None
        self._meetings = meetings
        self._send, self._receive = trio.open_memory_channel[PunchMessage](MAX_WAITING)

    def __enter__(self) -> _Meeting:
        self._meetings[self.introducer, self.session] = self
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """The others are told if we are the ones who give up."""
        del self._meetings[self.introducer, self.session]
        if error is not None and self.refused is None:
            reason = error.reason if isinstance(error, RemoteError) else "cancelled"
            self.introducer.tell(Refusal(self.session, reason))

    def tell(self, message: PunchMessage) -> None:
        """Something for us; what nobody waits for is lost once MAX_WAITING messages wait."""
        if isinstance(message, Refusal):
            self.refused = message.reason
            self.scope.cancel()
        with suppress(trio.WouldBlock):
            self._send.send_nowait(message)

    async def next(self, kind: type[M], *, keeping: Callable[[], None] | None = None) -> M:
        """The next message of that kind; RemoteError with the reason of a refusal, or "no-answer".

        ``keeping`` is called where it does not come within TURN_KEPT.
        """
        until = trio.current_time() + MESSAGE_WITHIN
        if keeping is not None:
            with trio.move_on_after(TURN_KEPT):
                return await self._next(kind)
            keeping()
        with trio.move_on_at(until):
            return await self._next(kind)
        raise RemoteError(self.refused or "no-answer")

    async def _next(self, kind: type[M]) -> M:
        while self.refused is None:
            message = await self._receive.receive()
            if isinstance(message, kind):
                return message
        raise RemoteError(self.refused)


async def _connect(port: ShotPort, met: Endpoint, initiator: bool) -> Stream:
    if initiator:
        return await port.dial(met)
    with _timed_out_after(STREAM_WITHIN):
        return await port.accept(met.host)


@contextmanager
def _timed_out_after(seconds: float) -> Iterator[None]:
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise RemoteError("timed-out") from None
