"""The relay's part of ``sw_relay``, for all torrents of a node: reservations, who gets a circuit, and its cost.

A circuit joins two connections of one torrent, and only where the one that is called has reserved: nobody is led to
who has not asked for it.  What passes in it is `swarm.ext.relay_circuit`.

Does no I/O and reads no clock: call `handle_deadline` when `next_deadline` says so.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

from swarm.config import RelayLimits
from swarm.endpoint import Endpoint, is_dialable
from swarm.events import INDIRECT_PATHS
from swarm.ext.allowance import Allowances
from swarm.ext.relay_circuit import WINDOW, Circuit, Half, Leg, Pace
from swarm.ext.relay_message import (
    MAX_NUMBER,
    Connect,
    Incoming,
    Refused,
    Reserve,
    Reserved,
    Serve,
    WayOut,
    cannot_meet,
)

PASSED_AT_ONCE = 64 << 10
"""Credit passed on in one turn: circuits take turns under the limit of all."""

LEAST_PASSED = 4 << 10
"""Less is kept until there is more, unless the sender has none."""

LOOK_EVERY = 1.0
"""Seconds between looks for circuits whose time is over, and for whether we serve still."""

LOOKS_TO_RESERVE = 5
"""Looks for which a connection is kept whose other end may be about to reserve: two seeds would hang up before."""

ASKED_BURST, ASKED_SECONDS = 16, 4.0
"""Circuits asked for from one address: so many at once, then one in so many seconds."""

CALLED_BURST, CALLED_SECONDS = 16, 4.0
"""The same for those asked for to one target."""


@dataclass(frozen=True, slots=True)
class RelayDeskStatistics:
    """What was carried for others.  ``bytes`` are data, counted once; ``refused`` and ``ended`` are by reason."""

    serving: bool
    reservations: int
    circuits: int
    asked: int
    opened: int
    bytes: int
    refused: Mapping[str, int]
    ended: Mapping[str, int]


class RelayDesk:
    """``serves`` says whether we relay now, ``is_own`` knows our own endpoints; ``rng`` draws circuits' numbers.

    ``due_changed`` is called when `next_deadline` may have become earlier.
    """

    def __init__(
        self,
        limits: RelayLimits,
        rng: random.Random,
        *,
        serves: Callable[[], bool],
        is_own: Callable[[Endpoint], bool] = lambda endpoint: False,
        due_changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._limits = limits
        self._rng = rng
        self._serves = serves
        self._is_own = is_own
        self._due_changed = due_changed
        self._serving = False
        self._legs: dict[Leg, None] = {}
        self._reserved: dict[Leg, WayOut] = {}
        self._expected: dict[Leg, int] = {}  # who may be about to reserve, and for how many looks more
        self._circuits: dict[Circuit, None] = {}
        self._sources = Allowances(ASKED_BURST, ASKED_SECONDS)
        self._targets = Allowances(CALLED_BURST, CALLED_SECONDS)
        self._pace = Pace(limits.total_rate)
        self._waiting: deque[Half] = deque()  # for the rate limits, to be passed credit that is there
        self._look_at = float("-inf")
        self._asked = self._opened = self._bytes = 0
        self._refused: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()

    # -- connections ------------------------------------------------------------------------------------------------

    def joined(self, leg: Leg) -> None:
        """A peer that speaks sw_relay; it is told if we serve."""
        if leg not in self._legs:
            if not self._legs:  # nobody has looked since the last one left
                self._serving = self._serves()
            self._legs[leg] = None
            if self._serving:
                leg.tell(Serve(True))
                leg.expect(True)
                self._expected[leg] = LOOKS_TO_RESERVE
            self._due_changed()

    def left(self, leg: Leg) -> None:
        """Its connection has ended, or it does not speak it any more.  Circuits are told by the connection."""
        self._legs.pop(leg, None)
        self._reserved.pop(leg, None)
        self._expected.pop(leg, None)

    # -- what clients ask -------------------------------------------------------------------------------------------

    def reserve_asked(self, leg: Leg, message: Reserve, now: float) -> None:
        self._expect_no_longer(leg)
        reason = self._reason_not_to_reserve(leg)
        if reason is not None:
            self._refuse(leg, message.number, reason)
            return
        self._reserved[leg] = message.way_out
        leg.reserve(True)
        leg.tell(Reserved(message.number))

    def connect_asked(self, leg: Leg, message: Connect, now: float) -> None:
        """The target is told, or the asker why not."""
        self._asked += 1
        found = self._find(leg, message, now)
        if isinstance(found, str):
            self._refuse(leg, message.number, found)
            return
        circuit = Circuit(self, self._draw(leg, found), leg, found, message.number, now)
        self._circuits[circuit] = None
        circuit.target.leg.tell(Incoming(circuit.number, leg.located.observed))
        self._due_changed()

    def accepted(self, leg: Leg, number: int, now: float) -> None:
        half = leg.circuits.get(number)
        if isinstance(half, Half) and half is half.circuit.target and half.circuit.accept(now):
            self._opened += 1

    # -- time -------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `handle_deadline` has something to do; None if never."""
        if not self._legs:
            return None
        ready = min((half.ready_at(self._pace) for half in self._waiting), default=self._look_at)
        return min(ready, self._look_at)

    def handle_deadline(self, now: float) -> None:
        for _ in range(len(self._waiting)):
            if self._pace.free_at > now:
                break
            half = self._waiting.popleft()
            half.waits = False
            self.pass_credit(half, now)
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            self._look(now)

    def statistics(self) -> RelayDeskStatistics:
        return RelayDeskStatistics(
            serving=self._serves(),
            reservations=len(self._reserved),
            circuits=len(self._circuits),
            asked=self._asked,
            opened=self._opened,
            bytes=self._bytes,
            refused=dict(self._refused),
            ended=dict(self._ended),
        )

    def _look(self, now: float) -> None:
        for circuit in tuple(self._circuits):
            reason = circuit.reason_to_end(self._limits, now)
            if reason is not None:
                circuit.end(reason)
        for leg in tuple(self._expected):
            self._expected[leg] -= 1
            if not self._expected[leg]:
                self._expect_no_longer(leg)
        serving = self._serves()
        if serving != self._serving:
            self._serving = serving
            for leg in self._legs:
                leg.tell(Serve(serving))
            if not serving:  # circuits that stand may go on
                for leg in self._reserved:
                    leg.reserve(False)
                self._reserved.clear()

    def _expect_no_longer(self, leg: Leg) -> None:
        if self._expected.pop(leg, None) is not None:
            leg.expect(False)

    # -- for circuits -----------------------------------------------------------------------------------------------

    def moved(self, count: int) -> None:
        self._bytes += count

    @property
    def max_bytes(self) -> int | float:
        return self._limits.circuit_bytes or float("inf")

    @property
    def circuit_rate(self) -> int:
        return self._limits.circuit_rate

    def pass_credit(self, half: Half, now: float) -> None:
        """Let the sender have what the receiver granted, as far as the limits allow; the rest later."""
        while half.held and not half.waits:
            if half.held < LEAST_PASSED <= half.unused:
                return
            if half.ready_at(self._pace) > now:
                half.waits = True
                self._waiting.append(half)
                self._due_changed()
                return
            count = min(half.held, PASSED_AT_ONCE)
            self._pace.take(count, now)
            half.pass_on(count, now)

    def forget(self, circuit: Circuit, reason: str) -> None:
        self._circuits.pop(circuit, None)
        self._ended[reason] += 1
        for half in circuit.halves:
            if half.waits:
                half.waits = False
                self._waiting.remove(half)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _refuse(self, leg: Leg, number: int, reason: str) -> None:
        self._refused[reason] += 1
        leg.tell(Refused(number, reason))

    def refused_by_target(self, circuit: Circuit, reason: str) -> None:
        self._refused[reason] += 1
        circuit.initiator.leg.tell(Refused(circuit.request, reason))

    def _reason_not_to_reserve(self, leg: Leg) -> str | None:
        if not self._serving:
            return "not-serving"
        if leg in self._reserved:
            return None
        if leg.located.path in INDIRECT_PATHS or not is_dialable(leg.located.observed):
            return "not-direct"
        if len(self._reserved) >= self._limits.reservations:
            return "busy"
        party = _party(leg)
        if sum(_party(each) == party for each in self._reserved) >= self._limits.reservations_per_address:
            return "too-many-of-address"
        return None

    def _find(self, leg: Leg, message: Connect, now: float) -> Leg | str:
        """The connection to be called, accounted for; or why nobody."""
        if not self._serving:
            return "not-serving"
        if not self._sources.take(_party(leg), now):
            return "too-many-of-source"
        located, target = leg.located, message.target
        if not is_dialable(target) or located.path in INDIRECT_PATHS:
            return "no-such-peer"
        if self._is_own(target) or target in (located.observed, located.listens):
            return "no-self"
        found = next((each for each in self._reserved if each is not leg and _is_at(each, leg.swarm, target)), None)
        if found is None:
            connected = any(_is_at(each, leg.swarm, target) for each in self._legs if each is not leg)
            return "not-reserved" if connected else "not-connected"
        if _scope(located.observed) != _scope(found.located.observed):
            return "not-bridged"
        if message.if_hopeless and not cannot_meet(message.way_out, self._reserved[found]):
            return "not-hopeless"
        return self._reason_to_wait(leg, found, now) or found

    def _reason_to_wait(self, leg: Leg, found: Leg, now: float) -> str | None:
        limits = self._limits
        if any({leg, found} == {half.leg for half in circuit.halves} for circuit in self._circuits):
            return "already"
        if len(self._circuits) >= limits.circuits:
            return "busy"
        for each in (leg, found):
            if self._crossing(each) >= limits.circuits_per_client:
                return "too-many-of-client"
            if self._of_party(each) >= limits.circuits_per_address:
                return "too-many-of-address"
            if each.backlog >= WINDOW:
                return "slow-client"
        return None if self._targets.take(found.located.observed, now) else "too-many-of-target"

    def _crossing(self, leg: Leg) -> int:
        return sum(any(half.leg is leg for half in circuit.halves) for circuit in self._circuits)

    def _of_party(self, leg: Leg) -> int:
        party = _party(leg)
        return sum(any(_party(half.leg) == party for half in circuit.halves) for circuit in self._circuits)

    def _draw(self, one: Leg, other: Leg) -> int:
        """A number that is free on both connections, of which their far ends may have drawn some, too."""
        while True:
            number = self._rng.randrange(MAX_NUMBER + 1)
            if number not in one.circuits and number not in other.circuits:
                return number


def _is_at(leg: Leg, swarm: bytes, target: Endpoint) -> bool:
    located = leg.located
    at = target in (located.observed, located.listens)
    return at and leg.swarm == swarm and located.path not in INDIRECT_PATHS


def _party(leg: Leg) -> Hashable:
    """Who it is: an IPv4 address or an IPv6 /64, but each endpoint by itself on this machine, where all share one."""
    observed = leg.located.observed
    return observed if observed.address.is_loopback else observed.party


def _scope(endpoint: Endpoint) -> str:
    """Circuits do not lead from the world at large into a private network, nor into this machine."""
    address = endpoint.address
    if address.is_link_local:
        return f"link {endpoint.host}"
    return "loopback" if address.is_loopback else "global" if address.is_global else "private"
