"""Hole punching in one torrent (BEP 55): whom to ask to introduce us, and where to shoot when they have.

`Punching` is what the connections' `Holepunch` extensions report to, in all three roles.  As initiator the ladder's
punched rungs ask it for a `Meeting`; as target it has the dialer shoot at once; as relay it passes on to
`HolepunchRelay`.  Dials nothing itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import trio

from swarm.connect.dial import Link
from swarm.connect.report import Behaviour
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.events import (
    INDIRECT_PATHS,
    Emit,
    PathName,
    PunchAsked,
    PunchConnected,
    PunchFailed,
    PunchRole,
    RendezvousRefused,
    RendezvousRelayed,
)
from swarm.ext.allowance import Allowances, account_of
from swarm.ext.extension import Say
from swarm.ext.holepunch import UNASKED_BURST, UNASKED_SECONDS, ErrorCode, Holepunch, may_meet
from swarm.ext.holepunch_relay import UTP_PATHS, HolepunchRelay, RelayStatistics
from swarm.knownpeer import KnownPeer
from swarm.peer import PeerConnection
from swarm.torrent.connections import Connections

MAX_ASKED = 3
"""Introducers asked at once for one peer; another one is asked when one of them refuses."""

NOBODY = "no-introducer"
"""The reason where there was nobody to ask: no punch was tried then."""

ANSWER_WITHIN = 3.0
"""Seconds until an introducer that says nothing counts as refusing: most never send errors."""

EXPECTED_FOR = 15.0
"""Seconds after a ``connect`` in which a stream from that address is the punch's doing."""

MAX_EXPECTED = 200


class Introducer:
    """A connection as the relay looks at it, and as whom we may ask; the key of its `Holepunch`."""

    def __init__(self, peer: PeerConnection, say: Say) -> None:
        self.peer = peer
        self.say = say

    @property
    def observed(self) -> Endpoint:
        return self.peer.identity.endpoint

    @property
    def listens(self) -> Endpoint | None:
        if self.peer.identity.direction == "out":
            return self.observed
        port = self.peer.theirs.p if self.peer.theirs is not None else None
        return Endpoint(self.observed.host, port) if port is not None else None

    @property
    def is_hidden(self) -> bool:
        theirs = self.peer.theirs
        return theirs is not None and theirs.hidden is True and self.peer.identity.direction == "in"

    @property
    def path(self) -> PathName:
        return self.peer.identity.path

    @property
    def sees_us_at(self) -> str | None:
        """At which address of ours the peer sees us, by its own word."""
        return self.peer.theirs.yourip if self.peer.theirs is not None else None

    @property
    def speaks_holepunch(self) -> bool:
        return self.peer.extensions.speaks(Holepunch.NAME)


class Punching:
    """``owns`` knows our own endpoints; ``shoot`` dials a peer at once, because a ``connect`` says that it does;
    ``swap`` exchanges a TCP connection for one over µTP."""

    def __init__(
        self,
        info_hash: bytes,
        connections: Connections,
        *,
        emit: Emit,
        owns: Callable[[Endpoint], bool],
        shoot: Callable[[Endpoint, Endpoint], None],
        swap: Callable[[PeerConnection], bool],
        predict: Callable[[Endpoint], Awaitable[Link]] | None = None,
        mapping: Callable[[bool], Behaviour] = lambda ipv6: "unknown",
    ) -> None:
        self._info_hash = info_hash
        self._connections = connections
        self._emit = emit
        self._owns = owns
        self._shoot = shoot
        self._swap = swap
        self._mapping = mapping
        self.predict = predict
        """A stream to a peer through ports that the NATs are expected to hand out; None where that is not spoken."""
        self._unasked = Allowances(UNASKED_BURST, UNASKED_SECONDS)
        self._relay = HolepunchRelay(self._introducers, owns)
        self._meetings: dict[Endpoint, Meeting] = {}
        self._expected: dict[str, float] = {}  # hosts, and until when
        self._changed = trio.Event()

    def extension(self, say: Say, peer: PeerConnection) -> Holepunch[Introducer]:
        """``ut_holepunch`` for a connection."""
        may_be_unasked = partial(self._unasked.take, account_of(peer.identity.endpoint))
        return Holepunch(say, self, Introducer(peer, say), may_be_unasked)

    def introducers_changed(self) -> None:
        """A connection said what it speaks: it may be the introducer that somebody waits for."""
        self._changed.set()
        self._changed = trio.Event()

    def expects(self, endpoint: Endpoint) -> bool:
        """Whether a stream from there is a punch's doing.  By its address alone: a NAT may send from any port."""
        until = self._expected.get(endpoint.host)
        return until is not None and trio.current_time() < until

    def statistics(self) -> RelayStatistics:
        """Our part as the relay."""
        return self._relay.statistics()

    # -- as initiator -----------------------------------------------------------------------------------------------

    def meeting(self, peer: KnownPeer) -> Meeting:
        """For one climb towards ``peer``."""
        return Meeting(self, peer)

    def begun(self, meeting: Meeting) -> None:
        self._meetings[meeting.target] = meeting

    def ended(self, meeting: Meeting) -> None:
        if self._meetings.get(meeting.target) is meeting:
            del self._meetings[meeting.target]

    def ask(self, introducer: Introducer, target: Endpoint) -> None:
        holepunch = introducer.peer.extensions.get(Holepunch.NAME)
        assert isinstance(holepunch, Holepunch)
        self._emit(PunchAsked(self._info_hash, target, "initiator", introducer.observed))
        holepunch.ask(target)

    def suitable(self, peer: KnownPeer) -> list[Introducer]:
        """Who may introduce us to a peer, the best first: those who named it, then those who see our UDP mapping."""
        able = [
            introducer
            for introducer in self._introducers()
            if introducer.speaks_holepunch
            and introducer.path not in INDIRECT_PATHS
            and peer.endpoint not in (introducer.observed, introducer.listens)
            and may_meet(introducer.observed, peer.endpoint)
        ]
        return sorted(able, key=lambda each: (each.path not in UTP_PATHS, each.observed not in peer.introducers))

    def swap(self, introducer: Introducer) -> bool:
        """Hold an introducer by µTP instead of TCP, over which it does not see the UDP mapping that a punch needs.

        Not doubled, because clients allow one connection per address.  False if that was tried, or is of no use.
        """
        return introducer.observed.address.is_global and self._swap(introducer.peer)

    async def wait_introducers(self) -> None:
        """Block until there may be another one."""
        await self._changed.wait()

    def outcome(self, endpoint: Endpoint, role: PunchRole) -> Outcome:
        """For one punch, by whichever transports it goes."""
        return Outcome(self, endpoint, role)

    def met(self, outcome: Outcome, link: Link) -> None:
        ours = self._mapping(outcome.endpoint.is_ipv6)
        self._emit(PunchConnected(self._info_hash, outcome.endpoint, outcome.role, link.path, outcome.seconds, ours))

    def missed(self, outcome: Outcome, reason: str) -> None:
        """No event if there was nobody to ask, or if the peer came to us meanwhile."""
        if reason != NOBODY and not self._is_connected(outcome.endpoint):
            ours = self._mapping(outcome.endpoint.is_ipv6)
            self._emit(PunchFailed(self._info_hash, outcome.endpoint, outcome.role, reason, outcome.seconds, ours))

    # -- HolepunchSide ----------------------------------------------------------------------------------------------

    def rendezvous_asked(self, asker: Introducer, target: Endpoint, now: float) -> None:
        refused = self._relay.rendezvous_asked(asker, target, now)
        if refused is None:
            self._emit(RendezvousRelayed(self._info_hash, asker.observed, target))
        else:
            self._emit(RendezvousRefused(self._info_hash, asker.observed, refused))

    def connect_told(self, introducer: Introducer, peer: Endpoint, now: float, *, asked: Endpoint | None) -> None:
        if not may_meet(introducer.observed, peer) or self._owns(peer) or self._is_connected(peer):
            return
        self._expect(peer, now)
        # Who was not asked may be right, since the peer may ask for us, too; but he says nothing of where we shoot at
        # the moment that an introducer of our choice will tell, unless it is where we would shoot anyway.
        meeting = self._meetings.get(asked or peer)
        if meeting is not None and meeting.tell(peer, introducer):
            return
        if asked is None:
            self._emit(PunchAsked(self._info_hash, peer, "target", introducer.observed))
        if asked is None or meeting is not None:
            self._shoot(peer, introducer.observed)

    def rendezvous_failed(self, introducer: Introducer, target: Endpoint, code: ErrorCode | None, now: float) -> None:
        meeting = self._meetings.get(target)
        if meeting is not None:
            meeting.refused(introducer, code.slug if code is not None else "unknown-error")

    # -- inside -----------------------------------------------------------------------------------------------------

    def _introducers(self) -> Iterator[Introducer]:
        for peer in self._connections:
            holepunch = peer.extensions.get(Holepunch.NAME)
            if isinstance(holepunch, Holepunch) and not peer.closing:
                yield holepunch.key

    def _is_connected(self, endpoint: Endpoint) -> bool:
        """Directly: a relay is to be replaced."""
        direct = (each for each in self._introducers() if each.path not in INDIRECT_PATHS)
        return any(endpoint in (each.observed, each.listens) for each in direct)

    def _expect(self, endpoint: Endpoint, now: float) -> None:
        self._expected.pop(endpoint.host, None)
        self._expected[endpoint.host] = now + EXPECTED_FOR
        if len(self._expected) > MAX_EXPECTED:
            del self._expected[next(iter(self._expected))]


class Outcome:
    """What becomes of one punch: one event, however many transports try and however many of them get through."""

    def __init__(self, punching: Punching, endpoint: Endpoint, role: PunchRole) -> None:
        self.endpoint = endpoint
        self.role = role
        self._punching = punching
        self._started = trio.current_time()
        self._trying = 0
        self._met = False

    @property
    def seconds(self) -> float:
        """Since the first transport began."""
        return trio.current_time() - self._started

    def watched(self, attempt: Callable[[], Awaitable[Link]]) -> Callable[[], Awaitable[Link]]:
        """``attempt`` by one transport; the last of them to fail makes the punch a failed one."""

        async def watched() -> Link:
            if not self._trying:
                self._started = trio.current_time()
            self._trying += 1
            try:
                return self.met(await attempt())
            except RemoteError as error:
                if self._trying == 1 and not self._met:
                    self._punching.missed(self, error.reason)
                raise
            finally:
                self._trying -= 1

        return watched

    def met(self, link: Link) -> Link:
        """The peer was reached by this link, the first or another one."""
        if not self._met:
            self._met = True
            self._punching.met(self, link)
        return link


class Meeting:
    """One climb's wish to be introduced to one peer; several rungs may wait for it."""

    def __init__(self, punching: Punching, peer: KnownPeer) -> None:
        self._punching = punching
        self._peer = peer
        self._asked: dict[Introducer, float] = {}  # and until when an answer may come
        self._used: set[Introducer] = set()
        self._reason = NOBODY
        self._teller: Introducer | None = None
        self._where: Endpoint | None = None
        self._news = trio.Event()
        self._lock = trio.Lock()

    @property
    def target(self) -> Endpoint:
        return self._peer.endpoint

    async def agree(self, patience: float) -> Endpoint:
        """Ask introducers until one has told both of us to dial; where.

        Those that connect meanwhile are asked, too.  RemoteError with the last refusal, or "no-introducer", after
        ``patience`` seconds.
        """
        with trio.move_on_after(patience):
            async with self._lock:  # the others wait for what the first finds out
                if self._where is None:
                    await self._ask_around()
        if self._where is None:
            raise RemoteError(self._reason)
        return self._where

    def tell(self, endpoint: Endpoint, introducer: Introducer) -> bool:
        """An introducer says: dial there now.  False if we shoot somewhere else already."""
        if self._where is None:
            self._where = endpoint
            self._teller = introducer
            self._news.set()
        return self._where == endpoint

    @property
    def told_over_tcp(self) -> bool:
        """Whether the introducer does not see our UDP mapping, so that the other end may have been told a wrong one."""
        return self._teller is not None and self._teller.path not in UTP_PATHS

    def swap(self) -> bool:
        """A punch came to nothing: have the introducer held by µTP, and ask again.  False where that cannot help."""
        teller = self._teller
        if teller is None or not self.told_over_tcp or not self._punching.swap(teller):
            return False
        self._where = self._teller = None
        self._used.discard(teller)
        return True

    def refused(self, introducer: Introducer, reason: str) -> None:
        """An introducer cannot help."""
        if self._asked.pop(introducer, None) is not None:
            self._reason = reason
            self._news.set()

    async def _ask_around(self) -> None:
        punching = self._punching
        punching.begun(self)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_introducers)
                while self._where is None:
                    self._news = trio.Event()
                    self._ask_more(trio.current_time())
                    with trio.move_on_at(min(self._asked.values(), default=float("inf"))):
                        await self._news.wait()
                nursery.cancel_scope.cancel()
        finally:
            punching.ended(self)

    def _ask_more(self, now: float) -> None:
        for introducer, until in tuple(self._asked.items()):
            if until <= now:
                self.refused(introducer, "no-answer")
        for introducer in self._punching.suitable(self._peer):
            if len(self._asked) >= MAX_ASKED:
                break
            if introducer not in self._used:
                self._used.add(introducer)
                self._asked[introducer] = now + ANSWER_WITHIN
                self._punching.ask(introducer, self.target)

    async def _watch_introducers(self) -> None:
        while True:
            await self._punching.wait_introducers()
            self._news.set()
