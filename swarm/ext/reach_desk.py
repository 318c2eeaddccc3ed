"""The helper's and the dialler's part of sw_reach, for the connections of one torrent.

Anyone connected may ask, so that it must not be worth anything to an attacker: what is dialled is at the address from
which the asker comes (AutoNAT v2 makes one pay for anything else; here it is refused), once, with a handshake of 68
bytes; a helper may lie about that, so dialling is rationed for each peer and for the whole node, and never crosses
from the internet at large into private networks.  Does no I/O: `DialBack` dials.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Protocol

from swarm.endpoint import Endpoint
from swarm.events import INDIRECT_PATHS, PathName
from swarm.ext.allowance import Allowance
from swarm.ext.holepunch import may_meet
from swarm.ext.reach_message import Forward, Idle, Outcome, Probe, ProbeResult, Seen, Transport

PROBE_SECONDS = 30.0
"""For so long a nonce is good.  Helper and dialler take a round trip each, the dial up to DIAL_SECONDS."""

DIAL_SECONDS = 6.0
"""After so long the dialler gives up: three tries of µTP, or of a SYN, are in it."""

DIALLER_SECONDS = DIAL_SECONDS + 2.0
"""So long a dialler is waited for; one that says nothing by then is passed over for the next."""

MAX_ERRANDS = 64
"""Probes under way with us as helper; the oldest is forgotten."""

MAX_DIALLERS = 3
"""Peers handed one probe, one after the other, until one of them can dial: three that say nothing take 24 s, within
PROBE_SECONDS."""

HELPS_BURST, HELPS_SECONDS = 20, 3.0
DIALS_BURST, DIALS_SECONDS = 10, 6.0
"""Probes helped with, and endpoints dialled, by the whole node: so many at once, then one in so many seconds."""

ANOTHER_MAY: frozenset[Outcome] = frozenset({"unable", "acquainted", "busy", "failed"})
"""Outcomes that say something of the dialler only."""


class Speaks(Protocol):
    """A `swarm.ext.reach.Reach`."""

    supported: bool

    def forward(self, forward: Forward) -> None: ...

    def tell(self, nonce: bytes, outcome: Outcome) -> None: ...


class Acquaintance(Protocol):
    """A connection of the torrent, as far as the desk looks at it."""

    @property
    def observed(self) -> Endpoint:
        """Where we see it: the remote endpoint of its stream."""

    @property
    def path(self) -> PathName: ...

    @property
    def reach(self) -> Speaks: ...


class Asker(Protocol):
    """What becomes of our own probes: a `swarm.connect.reachability.Reachability`."""

    def answered(self, helper: Endpoint, nonce: bytes, outcome: Outcome, now: float) -> None: ...


class DialBack(Protocol):
    """What dials for others.  It does not know the asker, and is told nothing but the endpoint."""

    def able(self, transport: Transport, *, ipv6: bool) -> bool:
        """Whether we have got through to anybody by it: else our failure would mean nothing."""

    def knows(self, host: str, transport: Transport) -> bool:
        """Whether that address may have sent to us lately: then our getting through to it proves nothing."""

    def dial_back(self, helper: Acquaintance, forward: Forward) -> None:
        """Begin to dial, from our listening port, with `dial_back_peer_id`; close once the handshake is answered.

        To be followed, within DIAL_SECONDS, by `ReachDesk.dial_ended` with "connected", "timed-out", "refused" or
        "failed"; also if the peer hangs up instead of answering, which is "connected".
        """

    def grant_late_answers(self, asker: Acquaintance, idle: Idle) -> None:
        """Answer what this peer sends us over UDP with that nonce, at once and late; at its own address only."""


class ReachLimits:
    """Our patience as a node, shared by the desks of all torrents."""

    def __init__(self) -> None:
        self.helps = Allowance(HELPS_BURST, HELPS_SECONDS)
        self.dials = Allowance(DIALS_BURST, DIALS_SECONDS)


@dataclass(frozen=True, slots=True)
class DeskStatistics:
    """``helped``: probes handed on, ``dialled``: endpoints dialled for others, and what was refused, by outcome."""

    helped: int
    dialled: int
    refused: Mapping[str, int]


class ReachDesk:
    """A `swarm.ext.reach.ReachSide`, whose keys are the connections themselves.

    ``connections`` lists them; ``is_own`` knows our own addresses, inside and outside; ``endpoint_seen`` is told where
    a peer (its endpoint) sees us.
    """

    def __init__(
        self,
        connections: Callable[[], Iterable[Acquaintance]],
        *,
        is_own: Callable[[str], bool],
        endpoint_seen: Callable[[Endpoint, Seen, float], None],
        asker: Asker,
        dialler: DialBack,
        limits: ReachLimits,
        rng: random.Random,
    ) -> None:
        self._connections = connections
        self._is_own = is_own
        self._endpoint_seen = endpoint_seen
        self._asker = asker
        self._dialler = dialler
        self._limits = limits
        self._rng = rng
        self._errands: dict[bytes, _Errand] = {}  # by nonce, the oldest first
        self._helped = self._dialled = 0
        self._refused: Counter[str] = Counter()

    def endpoint_seen(self, by: Acquaintance, seen: Seen, now: float) -> None:
        if by.path not in INDIRECT_PATHS and seen.endpoint.is_ipv6 is by.observed.is_ipv6:
            self._endpoint_seen(by.observed, seen, now)

    def probe_asked(self, asker: Acquaintance, probe: Probe, now: float) -> None:
        """Hand the probe to somebody who can dial, or answer that none can."""
        self._forget_old(now)
        reason = self._reason_to_refuse(asker, probe, now)
        if reason is not None:
            self._refuse(asker, probe.nonce, reason)
            return
        errand = _Errand(asker, Forward(*_fields(probe)), self._diallers(asker), now)
        if not errand.diallers:
            self._refuse(asker, probe.nonce, "no-dialler")
            return
        self._errands[probe.nonce] = errand
        if len(self._errands) > MAX_ERRANDS:
            del self._errands[next(iter(self._errands))]
        self._helped += 1
        errand.hand_on(now)

    def forward_asked(self, helper: Acquaintance, forward: Forward, now: float) -> None:
        """Dial, or answer why not."""
        reason = self._reason_not_to_dial(helper, forward, now)
        if reason is not None:
            self._refuse(helper, forward.nonce, reason)
            return
        self._dialled += 1
        self._dialler.dial_back(helper, forward)

    def dial_ended(self, helper: Acquaintance, nonce: bytes, outcome: Outcome) -> None:
        """What became of `DialBack.dial_back`.  Harmless if the helper has gone."""
        helper.reach.tell(nonce, outcome)

    def idle_asked(self, asker: Acquaintance, idle: Idle, now: float) -> None:
        """Have it answered, or do nothing."""
        if asker.path not in INDIRECT_PATHS and self._limits.helps.take(now):
            self._helped += 1
            self._dialler.grant_late_answers(asker, idle)

    def result_told(self, by: Acquaintance, result: ProbeResult, now: float) -> None:
        """Pass on what a dialler of ours says, or try the next one; what we did not hand out is about ourselves."""
        self._forget_old(now)
        errand = self._errands.get(result.nonce)
        if errand is None or errand.dialler is not by:
            self._asker.answered(by.observed, result.nonce, result.outcome, now)
            return
        if result.outcome in ANOTHER_MAY and errand.diallers:
            errand.hand_on(now)
            return
        del self._errands[result.nonce]
        errand.asker.reach.tell(result.nonce, result.outcome)

    def tick(self, now: float) -> None:
        """Once a second: pass over diallers that say nothing, and tell the asker when there is none left."""
        for nonce, errand in list(self._errands.items()):
            if errand.handed_on + DIALLER_SECONDS > now:
                continue
            if errand.diallers:
                errand.hand_on(now)
            else:
                del self._errands[nonce]
                self._refuse(errand.asker, nonce, "no-dialler")

    def statistics(self) -> DeskStatistics:
        return DeskStatistics(self._helped, self._dialled, dict(self._refused))

    def _refuse(self, whom: Acquaintance, nonce: bytes, outcome: Outcome) -> None:
        self._refused[outcome] += 1
        whom.reach.tell(nonce, outcome)

    def _reason_to_refuse(self, asker: Acquaintance, probe: Probe, now: float) -> Outcome | None:
        theirs = asker.path not in INDIRECT_PATHS and probe.endpoint.host == asker.observed.host
        if not theirs or not may_meet(asker.observed, probe.endpoint):
            return "not-yours"
        if probe.nonce in self._errands or not self._limits.helps.take(now):
            return "busy"
        return None

    def _reason_not_to_dial(self, helper: Acquaintance, forward: Forward, now: float) -> Outcome | None:
        endpoint = forward.endpoint
        if helper.path in INDIRECT_PATHS or not may_meet(helper.observed, endpoint) or self._is_own(endpoint.host):
            return "failed"
        if not self._dialler.able(forward.transport, ipv6=endpoint.is_ipv6):
            return "unable"
        if self._dialler.knows(endpoint.host, forward.transport):
            return "acquainted"
        return None if self._limits.dials.take(now) else "busy"

    def _diallers(self, asker: Acquaintance) -> list[Acquaintance]:
        """Who may dial ``asker``, the best last: another network is less likely to have met it."""
        able = [each for each in self._connections() if each is not asker and self._may_dial(each, asker)]
        self._rng.shuffle(able)
        able.sort(key=lambda each: _region(each.observed) != _region(asker.observed))
        return able[-MAX_DIALLERS:]

    def _may_dial(self, each: Acquaintance, asker: Acquaintance) -> bool:
        """Not from the asker's address, which is on its side of the NAT, nor from ours, to which it has sent."""
        host = each.observed.host
        known = host == asker.observed.host or self._is_own(host)
        meets = each.path not in INDIRECT_PATHS and may_meet(each.observed, asker.observed)
        return each.reach.supported and meets and not known

    def _forget_old(self, now: float) -> None:
        for nonce, errand in list(self._errands.items()):
            if errand.since + PROBE_SECONDS > now:
                break
            del self._errands[nonce]


class _Errand:
    """A probe that we help with."""

    def __init__(self, asker: Acquaintance, forward: Forward, diallers: list[Acquaintance], now: float) -> None:
        self.asker = asker
        self.diallers = diallers
        self.dialler: Acquaintance | None = None
        self.since = self.handed_on = now
        self._forward = forward

    def hand_on(self, now: float) -> None:
        self.handed_on = now
        self.dialler = self.diallers.pop()
        self.dialler.reach.forward(self._forward)


def _fields(probe: Probe) -> tuple[Transport, Endpoint, bytes]:
    return probe.transport, probe.endpoint, probe.nonce


def _region(endpoint: Endpoint) -> int:
    """The /16 of an IPv4 address, the /32 of an IPv6 one."""
    address = endpoint.address
    return int(address) >> (96 if isinstance(address, IPv6Address) else 16)
