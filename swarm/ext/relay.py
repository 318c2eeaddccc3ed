"""The extension ``sw_relay`` (no BEP; ours) on one connection: a reachable peer carries data between two of its peers
that cannot meet.

    initiator                relay                  target
                              <------------ reserve
                             reserved ------------->
       connect  ------------>
                             incoming ------------->
                              <------------- accept
       <-------------- opened
       <===== data, credit, eof, close =============>

The messages are `swarm.ext.relay_message`'s; the relay's part is `swarm.ext.relay_desk`, the ends' is
`swarm.connect.relaying`.  Circuits run over the connections that the two have to the relay, whatever transport these
use.  The relay learns who exchanges how much about which torrent; the payload is encrypted between the ends.  Not
spoken about private torrents.  Does no I/O.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from swarm.errors import RemoteProtocolError
from swarm.ext.allowance import Allowance
from swarm.ext.extension import Say
from swarm.ext.freight import Freight, Lane, Receives
from swarm.ext.punch import Located
from swarm.ext.relay_message import (
    CREDIT,
    RelayMessage,
    Reset,
    circuit_of_frame_untrusted,
    credit_of,
    is_frame,
    parse_relay_message_untrusted,
)
from swarm.wire.extended import ExtendedHandshake

MESSAGES_BURST, MESSAGES_SECONDS = 64, 0.5
"""Control messages but resets: so many at once, then one in so many seconds; three belong to a circuit."""


class RelaySide(Protocol):
    """What the extension on a connection needs of its torrent."""

    def relay_joined(self, by: Relay) -> None:
        """The peer speaks the extension."""

    def relay_told(self, by: Relay, message: RelayMessage, now: float) -> None:
        """Any message but a reset, of a peer that keeps to the limits."""

    def relay_closed(self, by: Relay) -> None:
        """The connection has ended, and every circuit that crossed it."""


class Relay:
    """The extension on one connection, for which it also stands at the desk (`swarm.ext.relay_desk.Leg`).

    ``ignored`` counts what was not passed on: "unknown-type", "too-many-messages", "unknown-circuit"; of the last some
    come while a reset is on its way.
    """

    NAME = "sw_relay"

    def __init__(self, say: Say, side: RelaySide, located: Located, swarm: bytes, freight: Freight) -> None:
        self.supported = False
        """The peer's handshake names the extension."""
        self.serves = False
        """The peer relays for others, by its latest word."""
        self.ignored: Counter[str] = Counter()
        self.located = located
        self.swarm = swarm
        self._ext_id = 0
        self._say = say
        self._side = side
        self._freight = freight
        self._messages = Allowance(MESSAGES_BURST, MESSAGES_SECONDS)

    @property
    def circuits(self) -> dict[int, Receives]:
        return self._freight.circuits

    @property
    def backlog(self) -> int:
        return self._freight.backlog

    @property
    def reserved(self) -> bool:
        return self._freight.reserved

    def reserve(self, stands: bool) -> None:
        self._freight.reserved = stands

    def expect(self, reservation: bool) -> None:
        self._freight.expected = reservation

    def tell(self, message: RelayMessage) -> None:
        self._say(message.encode())

    def tell_frame(self, frame: bytes) -> None:
        self._say(frame)

    def carry(self, lane: Lane, frame: bytes, cost: int = 0) -> None:
        if self._ext_id:
            self._freight.put(lane, self._ext_id, frame, cost)

    def drop(self, lane: Lane) -> None:
        self._freight.drop(lane)

    def handshake_received(self, theirs: ExtendedHandshake, now: float) -> None:
        ext_id = theirs.m.get(self.NAME)
        if ext_id is None:
            return
        self._ext_id = ext_id
        self.supported = ext_id > 0
        if self.supported:
            self._side.relay_joined(self)

    def receive_untrusted(self, payload: bytes, now: float) -> None:
        """RemoteProtocolError("bad-relay-message") as the messages' readers; "relay-violation" for more data than was
        granted, more credit than there may be, and whatever else breaks the rules of a circuit."""
        if is_frame(payload):
            self._frame_arrived_untrusted(payload, now)
            return
        message = parse_relay_message_untrusted(payload)
        if isinstance(message, Reset):
            circuit = self.circuits.get(message.circuit)
            if circuit is not None:
                circuit.reset_arrived(message.reason)
        elif message is None:
            self.ignored["unknown-type"] += 1
        elif not self._messages.take(now):
            self.ignored["too-many-messages"] += 1
        else:
            self._side.relay_told(self, message, now)

    def tick(self, now: float) -> None:
        """Nothing is timed here."""

    def closed(self) -> None:
        self.supported = self.serves = False
        for circuit in tuple(self.circuits.values()):
            circuit.carrier_closed()
        self._freight.clear()
        self._side.relay_closed(self)

    def _frame_arrived_untrusted(self, frame: bytes, now: float) -> None:
        circuit = self.circuits.get(circuit_of_frame_untrusted(frame))
        if circuit is None:
            self.ignored["unknown-circuit"] += 1
            return
        if not circuit.frame_arrived(frame, now):
            raise RemoteProtocolError("relay-violation", f"frame {frame[0]} of {len(frame)} bytes")
        self._freight.arrived(len(frame), credit_of(frame) if frame[0] == CREDIT else len(frame))
