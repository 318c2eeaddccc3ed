"""Both ends' part of ``sw_punch`` in one torrent: agree through an introducer, be measured, shoot, and have a stream.

`Agreements` is what the connections' `Punch` extensions report to, in all three roles; the introducer's is passed on to
`PunchDesk`.  As initiator a rung calls `Agreements.reach`; as target what arrives is handed to `TargetSide`.
The initiator dials µTP, the target accepts it, both on the port that met (`swarm.connect.shot_port`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar

import trio

from swarm.connect.birthday import meet_by_birthday
from swarm.connect.dial import Link
from swarm.connect.knock import Knocker
from swarm.connect.predict import Plan, make_plan
from swarm.connect.shot_port import ShotPort, ShotPorts
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.ext.extension import Say
from swarm.ext.holepunch import may_meet
from swarm.ext.holepunch_relay import INDIRECT_PATHS
from swarm.ext.punch import Located, Punch
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
)
from swarm.net.network import Stream

MESSAGE_WITHIN = 3.0
"""Seconds for each message of the introducer's; measuring takes 2 at worst."""

MAX_ATTENDED = 4
"""Meetings as target at once, in one torrent."""

MAX_WAITING = 8
"""Messages of one meeting that wait to be read; there are four in all."""

STREAM_WITHIN = 4.0
"""Seconds for µTP to connect once the ends have heard each other."""

Key = tuple[Punch, bytes]
M = TypeVar("M", Answered, Measure, Go)


class TargetSide(Protocol):
    """What becomes of meetings that others asked for."""

    def wants(self, peer: Endpoint) -> bool:
        """Whether a connection with who is seen there is of use: it is not connected, not us, there is room."""

    def meeting_begun(self, peer: Endpoint, introducer: Endpoint) -> None:
        """We are about to shoot, as target."""

    def meeting_arrived(self, link: Link, seconds: float) -> None:
        """An inbound stream, to be shaken hands with; to be closed by whoever takes it."""

    def meeting_failed(self, peer: Endpoint, reason: str, seconds: float) -> None: ...


class Agreements:
    """``is_own`` knows our own endpoints; ``terms`` what we say of ourselves; ``introduces`` as for `PunchDesk`."""

    def __init__(
        self,
        ports: ShotPorts,
        observes: Observes,
        side: TargetSide,
        *,
        is_own: Callable[[Endpoint], bool],
        introduces: Callable[[], bool] = lambda: True,
        terms: Callable[[], Terms] = Terms,
    ) -> None:
        self._ports = ports
        self._side = side
        self._is_own = is_own
        self._terms = terms
        self._punches: dict[Punch, None] = {}
        self._meetings: dict[Key, _Meeting] = {}
        self._attended = 0
        self.desk = PunchDesk(
            lambda: self._punches, is_own=is_own, observes=observes, rng=ports.rng, introduces=introduces
        )

    def extension(self, say: Say, located: Located) -> Punch:
        """``sw_punch`` for a connection."""
        punch = Punch(say, self, located)
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
        NATs between which only a relay helps; "busy", "no-ports", "timed-out".  Takes up to 3 s for prediction, 15 for
        a birthday.  Cancellation gives it up and lets the other end know.
        """
        meeting = _Meeting(self._meetings, introducer, self._ports.rng.randbytes(NONCE_SIZE))
        introducer_at = introducer.located.observed
        async with self._ports.open(meeting.session, ipv6=introducer_at.is_ipv6) as port:
            with meeting:
                introducer.tell(Offer(meeting.session, target, self._terms()))
                answered = await meeting.next(Answered)
                if answered.sender.host != target.host:
                    raise RemoteError("elsewhere", f"{answered.sender} is not at {target.host}")
                return await self._meet(meeting, port, answered.sender, initiator=True)

    # -- PunchSide --------------------------------------------------------------------------------------------------

    def punch_told(self, by: Punch, message: PunchMessage, now: float) -> None:
        match message:
            case Offer():
                self.desk.offer_made(by, message, now)
            case Answer():
                self.desk.answer_made(by, message, now)
            case Offered():
                self._offered(by, message)
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
            if introducer is by and not meeting.gone:
                meeting.tell(Refusal(meeting.session, "not-connected"))

    # -- as target --------------------------------------------------------------------------------------------------

    def _offered(self, by: Punch, offered: Offered) -> None:
        reason = self._reason_to_refuse(by, offered)
        if reason is not None:
            by.tell(Refusal(offered.session, reason))
            return
        self._attended += 1
        self._side.meeting_begun(offered.sender, by.located.observed)
        self._ports.start_soon(self._attend, by, offered)

    def _reason_to_refuse(self, by: Punch, offered: Offered) -> str | None:
        if not may_meet(by.located.observed, offered.sender) or self._is_own(offered.sender):
            return "not-bridged"
        if not self._side.wants(offered.sender):
            return "not-wanted"
        taken = (by, offered.session) in self._meetings or self._attended >= MAX_ATTENDED
        return "busy" if taken or not self._ports.has_room else None

    async def _attend(self, by: Punch, offered: Offered) -> None:
        started = trio.current_time()
        meeting = _Meeting(self._meetings, by, offered.session)
        try:
            async with self._ports.open(offered.session, ipv6=offered.sender.is_ipv6) as port:
                with meeting:
                    by.tell(Answer(offered.session, self._terms()))
                    link = await self._meet(meeting, port, offered.sender, initiator=False)
                    self._side.meeting_arrived(link, trio.current_time() - started)
        except RemoteError as error:
            self._side.meeting_failed(offered.sender, error.reason, trio.current_time() - started)
        finally:
            self._attended -= 1

    # -- both -------------------------------------------------------------------------------------------------------

    async def _meet(self, meeting: _Meeting, port: ShotPort, peer: Endpoint, *, initiator: bool) -> Link:
        measure = await meeting.next(Measure)
        host = meeting.introducer.located.observed.host
        port.measure([Endpoint(host, number) for number in measure.ports], measure.nonce)
        go = await meeting.next(Go)
        started = trio.current_time()
        plan = make_plan(go.ours, go.theirs, initiator=initiator, rng=self._ports.rng)
        if plan is None:
            raise RemoteError("hopeless", "the NATs of both hand out ports that nobody can know")
        meeting.gone = True
        await trio.sleep_until(started + go.delay / 1000)
        with meeting.scope:
            return Link(await self._shoot(meeting, port, peer.host, plan, initiator), plan.path)
        raise RemoteError(meeting.refused or "failed")

    async def _shoot(self, meeting: _Meeting, port: ShotPort, host: str, plan: Plan, initiator: bool) -> Stream:
        if plan.path == "birthday":
            try:
                self._ports.birthday.acquire_on_behalf_of_nowait(plan)
            except trio.WouldBlock:
                raise RemoteError("busy", "one birthday at a time") from None
        try:
            if plan.sockets > 1:
                return await self._shoot_from_many(meeting, host, plan, initiator)
            port.shoot(host, plan.shots)
            with _timed_out_after(plan.seconds):
                met = await port.meet()
            return await _connect(port, met, initiator)
        finally:
            if plan.path == "birthday":
                self._ports.birthday.release_on_behalf_of(plan)

    async def _shoot_from_many(self, meeting: _Meeting, host: str, plan: Plan, initiator: bool) -> Stream:
        with _timed_out_after(plan.seconds):
            socket, met = await meet_by_birthday(self._ports.network, plan, meeting.session, host)
        with self._ports.adopt(socket, Knocker(meeting.session)) as winner:
            winner.greet(met)
            return await _connect(winner, met, initiator)


class _Meeting:
    """One meeting as one end of it sees it; a context manager while it is on."""

    def __init__(self, meetings: dict[Key, _Meeting], introducer: Punch, session: bytes) -> None:
        self.introducer = introducer
        self.session = session
        self.refused: str | None = None
        """Why the others have ended it."""
        self.gone = False
        self.scope = trio.CancelScope()
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

    async def next(self, kind: type[M]) -> M:
        """The next message of that kind; RemoteError with the reason of a refusal, or "no-answer"."""
        with trio.move_on_after(MESSAGE_WITHIN):
            while self.refused is None:
                message = await self._receive.receive()
                if isinstance(message, kind):
                    return message
        raise RemoteError(self.refused or "no-answer")


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
