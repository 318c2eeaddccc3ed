"""One circuit of ``sw_relay`` at the relay: what passes between its two ends, the credit that pays for it, and its end.

What passes is paid for with credit that the receiving end has granted and that is passed on as the limits allow, so
that an end that reads slowly stops its sender and not us; of each direction no more waits here than WINDOW.  Nobody
looks into what passes, which is encrypted end to end.  Who gets a circuit, and when credit is passed on, is the desk's
business (`swarm.ext.relay_desk`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from swarm.config import RelayLimits
from swarm.ext import relay_message
from swarm.ext.freight import Lane, Receives
from swarm.ext.punch import Located
from swarm.ext.relay_message import HEADER, Opened, RelayMessage, Reset, cost_of, credit_frame, credit_of

WINDOW = 512 << 10
"""Credit that may be granted and not used up, in one direction of a circuit: 1 MiB/s over half a second of round trips,
and on loopback 2.5 times the rate of half as much.  At worst so much waits here for each."""

ACCEPT_WITHIN = 10.0
"""Seconds that the target of a circuit has for accepting it."""


class Leg(Protocol):
    """A connection that circuits may cross; a `swarm.ext.relay.Relay`."""

    @property
    def located(self) -> Located: ...

    @property
    def swarm(self) -> bytes:
        """The info-hash of its torrent."""

    @property
    def backlog(self) -> int:
        """The cost of what waits to be sent on it."""

    @property
    def circuits(self) -> dict[int, Receives]:
        """Those that cross it, by number."""

    def tell(self, message: RelayMessage) -> None: ...

    def tell_frame(self, frame: bytes) -> None:
        """Ahead of all data."""

    def carry(self, lane: Lane, frame: bytes, cost: int = 0) -> None:
        """Behind all data that waits."""

    def drop(self, lane: Lane) -> None: ...

    def reserve(self, stands: bool) -> None:
        """Circuits may lead over the connection, or no longer."""

    def expect(self, reservation: bool) -> None:
        """The connection is of use for a while, as it may come to a reservation; or no longer."""


class Desk(Protocol):
    """What a circuit needs of who gave it."""

    @property
    def max_bytes(self) -> int | float:
        """That one circuit may carry."""

    @property
    def circuit_rate(self) -> int:
        """Bytes per second, 0 unlimited."""

    def moved(self, count: int) -> None:
        """So many bytes of data have passed."""

    def pass_credit(self, half: Half, now: float) -> None:
        """Let the sender have what the receiver granted, as far as the limits allow; the rest later."""

    def refused_by_target(self, circuit: Circuit, reason: str) -> None: ...

    def forget(self, circuit: Circuit, reason: str) -> None:
        """It has ended."""


class Circuit:
    """One circuit, from being asked for to its end; ``request`` is the initiator's number for it."""

    def __init__(self, desk: Desk, number: int, initiator: Leg, target: Leg, request: int, now: float) -> None:
        self.desk = desk
        self.number = number
        self.request = request
        self.initiator = Half(self, initiator)
        self.target = Half(self, target)
        self.initiator.other, self.target.other = self.target, self.initiator
        self.halves = (self.initiator, self.target)
        self.accepted = False
        self.pace = Pace(desk.circuit_rate)
        self.bytes = 0
        self.moved_at = self._asked_at = now
        for half in self.halves:
            half.leg.circuits[number] = half

    def accept(self, now: float) -> bool:
        """False if that was said before."""
        if self.accepted:
            return False
        self.accepted = True
        self.moved_at = now
        self.initiator.leg.tell(Opened(self.request, self.number))
        return True

    def reason_to_end(self, limits: RelayLimits, now: float) -> str | None:
        """What of our limits it has reached."""
        if not self.accepted:
            return "not-accepted" if now - self._asked_at >= ACCEPT_WITHIN else None
        if now - self._asked_at >= limits.circuit_seconds:
            return "too-long"
        return "idle" if now - self.moved_at >= limits.idle_seconds else None

    def end(self, reason: str, *, by: Half | None = None) -> None:
        """Reset it: tell both ends, or the one that does not know, and forget what waits."""
        self.forget(reason)
        for half in self.halves:
            half.leg.drop(half.other)
            if half is by:
                continue
            if half is self.initiator and not self.accepted:
                self.desk.refused_by_target(self, reason)
            else:
                half.leg.tell(Reset(self.number, reason))

    def forget(self, reason: str) -> None:
        """Nothing more comes for it; what waits is still sent."""
        for half in self.halves:
            half.leg.circuits.pop(self.number, None)
        self.desk.forget(self, reason)


class Half:
    """What one end sends, and the `Lane` in which that waits on the other end's connection.

    ``held`` is credit that the other end has granted and that waits to be passed on, ``unused`` what this end may send.
    """

    __slots__ = ("circuit", "ended", "held", "leg", "other", "queued", "unused", "waits")

    other: Half

    def __init__(self, circuit: Circuit, leg: Leg) -> None:
        self.circuit = circuit
        self.leg = leg
        self.held = self.unused = self.queued = 0
        self.ended = False
        self.waits = False

    # -- Receives: of what this end says ----------------------------------------------------------------------------

    def frame_arrived(self, frame: bytes, now: float) -> bool:
        """What breaks the rules ends the circuit, too: its other end is to learn why."""
        if self.circuit.accepted and self._take(frame, now):
            return True
        self.circuit.end("violation")
        return False

    def _take(self, frame: bytes, now: float) -> bool:
        match frame[0]:
            case relay_message.DATA:
                return self._data_arrived(frame, now)
            case relay_message.CREDIT:
                return self._credit_arrived(credit_of(frame), now)
            case relay_message.EOF if self.ended:
                return False
            case kind:
                self._end_arrived(frame, closes=kind == relay_message.CLOSE)
                return True

    def reset_arrived(self, reason: str) -> None:
        self.circuit.end(reason, by=self)

    def carrier_closed(self) -> None:
        self.circuit.end("lost", by=self)

    def _data_arrived(self, frame: bytes, now: float) -> bool:
        cost, circuit = cost_of(frame), self.circuit
        if self.ended or cost > self.unused:
            return False
        self.unused -= cost
        size = len(frame) - HEADER
        circuit.bytes += size
        circuit.moved_at = now
        circuit.desk.moved(size)
        self.other.leg.carry(self, frame, cost)
        if circuit.bytes >= circuit.desk.max_bytes:
            circuit.end("too-much")
        return True

    def _credit_arrived(self, count: int, now: float) -> bool:
        sender = self.other
        if not count or sender.unused + sender.held + sender.queued + count > WINDOW:
            return False
        sender.held += count
        sender.circuit.desk.pass_credit(sender, now)
        return True

    def _end_arrived(self, frame: bytes, *, closes: bool) -> None:
        """The other end learns of it behind what was sent before."""
        self.ended = True
        self.other.leg.carry(self, frame)
        if closes or self.other.ended:
            if closes:
                self.leg.drop(self.other)
            self.circuit.forget("closed")

    # -- credit -----------------------------------------------------------------------------------------------------

    def ready_at(self, total: Pace) -> float:
        """When the limits allow this end more."""
        return max(total.free_at, self.circuit.pace.free_at)

    def pass_on(self, count: int, now: float) -> None:
        self.circuit.pace.take(count, now)
        self.held -= count
        self.unused += count
        self.leg.tell_frame(credit_frame(self.circuit.number, count))


@dataclass(slots=True)
class Pace:
    """A rate in bytes per second, 0 unlimited: what is taken now puts off the next."""

    rate: float
    free_at: float = field(default=float("-inf"))

    def take(self, count: int, now: float) -> None:
        if self.rate:
            self.free_at = max(self.free_at, now) + count / self.rate
