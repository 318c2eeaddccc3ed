"""The introducer's part of ``sw_punch`` among the connections of one torrent.

Anyone connected may ask, so it is bounded: in meetings under way, in offers by source, by pair and by target.  Targets
are found as a relay of BEP 55 finds them (`swarm.ext.holepunch_relay`).  What one end is told of the other is what we
saw ourselves.  Does no I/O: `Observes` opens the ports.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from swarm.endpoint import Endpoint, is_dialable
from swarm.events import INDIRECT_PATHS
from swarm.ext.allowance import Allowances
from swarm.ext.holepunch import may_meet
from swarm.ext.punch import Punch
from swarm.ext.punch_message import (
    MAX_DELAY,
    MAX_RTT,
    NONCE_SIZE,
    Answer,
    Answered,
    Go,
    Measure,
    Offer,
    Offered,
    Refusal,
)

SESSION_SECONDS = 10.0
"""A meeting is forgotten after so long; messages and measuring take three round trips, the shooting 14 seconds."""

SHOOTING_SECONDS = 20.0
"""After go, for so long a refusal is passed on to the other end."""

MAX_SESSIONS = 16
"""Meetings in one torrent that have not come to go; beyond it "busy" is answered."""

MAX_KNOWN = 256
"""Meetings likewise, those included whose ends are shooting."""

SOURCE_BURST, SOURCE_SECONDS = 24, 3.0
PAIR_BURST, PAIR_SECONDS = 3, 20.0
TARGET_BURST, TARGET_SECONDS = 12, 5.0
"""Offers from one address, from one address for one target, and for one target: so many at once, then one in so many
seconds.  A birthday makes the target send 2,048 datagrams."""

LEAD = 0.02
"""Seconds after the slower end's go has arrived, to get sockets ready."""


class Observation(NamedTuple):
    """From which ports of theirs one end sent to our ports, in the order of ours, and how long the first took."""

    ports: tuple[int, ...]
    seconds: float


class Observes(Protocol):
    """A `swarm.connect.second_port.SecondPorts`."""

    def observe(
        self,
        ends: Mapping[bytes, str],
        opened: Callable[[tuple[int, ...]], None],
        done: Callable[[Mapping[bytes, Observation]], None],
    ) -> bool:
        """Begin: ``opened`` is called with our ports, then ``done`` with what was seen, by nonce; not at all, or only
        ``done`` with nothing, if the node goes offline or has no port left.  False: no room now.

        ``ends`` are the nonces and the addresses from which they must come.
        """


@dataclass(eq=False, slots=True)
class _Session:
    session: bytes
    initiator: Punch
    target: Punch
    until: float
    nonces: tuple[bytes, bytes] = (b"", b"")
    measuring: bool = False
    gone: bool = False
    tells_only: bool = False
    """The ends only tell each other where servers receive for them: nothing is measured."""

    def other(self, one: Punch) -> Punch:
        return self.target if one is self.initiator else self.initiator


@dataclass(frozen=True, slots=True)
class PunchDeskStatistics:
    """Offers ``asked`` of us, how many came to a ``go``, and what was refused, by reason."""

    asked: int
    gone: int
    refused: Mapping[str, int]


class PunchDesk:
    """``connections`` lists the torrent's; ``is_own`` knows our own endpoints.

    ``introduces`` says whether we can be an introducer now: strangers must reach any UDP port of ours.
    """

    def __init__(
        self,
        connections: Callable[[], Iterable[Punch]],
        *,
        is_own: Callable[[Endpoint], bool],
        observes: Observes,
        rng: random.Random,
        introduces: Callable[[], bool] = lambda: True,
    ) -> None:
        self._connections = connections
        self._is_own = is_own
        self._observes = observes
        self._rng = rng
        self._introduces = introduces
        self._sessions: dict[bytes, _Session] = {}
        self._sources = Allowances(SOURCE_BURST, SOURCE_SECONDS)
        self._pairs = Allowances(PAIR_BURST, PAIR_SECONDS)
        self._targets = Allowances(TARGET_BURST, TARGET_SECONDS)
        self._asked = self._gone = 0
        self._refused: Counter[str] = Counter()

    def offer_made(self, by: Punch, offer: Offer, now: float) -> None:
        """Pass it on, or refuse."""
        self._asked += 1
        self._forget_old(now)
        found = self._find(by, offer, now)
        if isinstance(found, str):
            self._refused[found] += 1
            by.tell(Refusal(offer.session, found))
            return
        session = _Session(offer.session, by, found, now + SESSION_SECONDS, tells_only=bool(offer.terms.relayed))
        self._sessions[offer.session] = session
        found.tell(Offered(offer.session, by.located.observed, offer.terms))

    def answer_made(self, by: Punch, answer: Answer, now: float) -> None:
        """Pass it on and begin to measure; an answer to nothing is ignored."""
        self._forget_old(now)
        session = self._sessions.get(answer.session)
        if session is None or session.target is not by or session.measuring:
            return
        session.initiator.tell(Answered(answer.session, by.located.observed, answer.terms))
        if session.tells_only:
            del self._sessions[answer.session]
        else:
            self._measure(session)

    def refused(self, by: Punch, refusal: Refusal, now: float) -> bool:
        """Whether it belonged to a meeting of ours; then the other end is told and the meeting has ended."""
        self._forget_old(now)
        session = self._sessions.get(refusal.session)
        if session is None or by not in (session.initiator, session.target):
            return False
        self._end(session, refusal.reason, session.other(by))
        return True

    def closed(self, by: Punch) -> None:
        """A connection has ended, and with it its meetings that did not come to go."""
        for session in [each for each in self._sessions.values() if by in (each.initiator, each.target)]:
            if session.gone:
                del self._sessions[session.session]
            else:
                self._end(session, "not-connected", session.other(by))

    def statistics(self) -> PunchDeskStatistics:
        return PunchDeskStatistics(self._asked, self._gone, dict(self._refused))

    def _measure(self, session: _Session) -> None:
        ends = session.initiator, session.target
        nonces = session.nonces = (self._rng.randbytes(NONCE_SIZE), self._rng.randbytes(NONCE_SIZE))
        session.measuring = True

        def opened(ports: tuple[int, ...]) -> None:
            if self._sessions.get(session.session) is session:
                for end, nonce in zip(ends, nonces, strict=True):
                    end.tell(Measure(session.session, nonce, ports))

        def done(seen: Mapping[bytes, Observation]) -> None:
            if self._sessions.get(session.session) is session:
                self._measured(session, seen)

        hosts = {nonce: end.located.observed.host for end, nonce in zip(ends, nonces, strict=True)}
        if not self._observes.observe(hosts, opened, done):
            self._end(session, "busy", *ends)

    def _measured(self, session: _Session, seen: Mapping[bytes, Observation]) -> None:
        ends = session.initiator, session.target
        if any(nonce not in seen for nonce in session.nonces):
            self._end(session, "not-measured", *ends)
            return
        self._gone += 1
        session.gone = True
        session.until += SHOOTING_SECONDS
        first, second = (seen[nonce] for nonce in session.nonces)
        slowest = max(first.seconds, second.seconds)
        for end, own, other in ((ends[0], first, second), (ends[1], second, first)):
            delay = min(round(1000 * (LEAD + (slowest - own.seconds) / 2)), MAX_DELAY)
            rtt = min(round(1000 * (first.seconds + second.seconds)), MAX_RTT)
            end.tell(Go(session.session, delay, rtt, own.ports, other.ports))

    def _end(self, session: _Session, reason: str, *told: Punch) -> None:
        del self._sessions[session.session]
        self._refused[reason] += 1
        for end in told:
            end.tell(Refusal(session.session, reason))

    def _find(self, by: Punch, offer: Offer, now: float) -> Punch | str:
        """Whom to bring together with ``by``, accounted for; or why nobody."""
        asker, target = by.located, offer.target
        if not self._introduces():
            return "no-introducer"
        if not self._sources.take(asker.observed.party, now):
            return "too-many-of-source"
        if not is_dialable(target):
            return "no-such-peer"
        if self._is_own(target) or target == asker.observed:
            return "no-self"
        known = [each for each in self._connections() if each is not by and _is_at(each, target)]
        if not known:  # two neighbours behind one NAT may listen on one port
            return "no-self" if target == asker.listens else "not-connected"
        found = next((each for each in known if each.supported), None)
        if found is None:
            return "no-support"
        if asker.path in INDIRECT_PATHS or not may_meet(asker.observed, found.located.observed):
            return "not-bridged"
        return self._reason_to_wait(by, found, offer, now) or found

    def _reason_to_wait(self, by: Punch, found: Punch, offer: Offer, now: float) -> str | None:
        under_way = sum(not each.gone for each in self._sessions.values())
        if under_way >= MAX_SESSIONS or len(self._sessions) >= MAX_KNOWN or offer.session in self._sessions:
            return "busy"
        target = found.located.observed
        if not self._pairs.take((by.located.observed.party, target), now):
            return "too-many-of-pair"
        return None if self._targets.take(target, now) else "too-many-of-target"

    def _forget_old(self, now: float) -> None:
        for session in [each for each in self._sessions.values() if each.until <= now]:
            del self._sessions[session.session]


def _is_at(connection: Punch, target: Endpoint) -> bool:
    located = connection.located
    return located.path not in INDIRECT_PATHS and target in (located.observed, located.listens)
