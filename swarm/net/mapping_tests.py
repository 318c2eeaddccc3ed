"""Two tests of a NAT by STUN binding requests (RFC 8489) over the shared UDP socket, as a core without I/O.

*Hairpinning*: a request to our own outside endpoint, which comes back in where the NAT does that (RFC 4787 §6).
*Late answers*, for a peer that measures for how long its NAT keeps an idle mapping: a STUN server's part of RFC 5780
§4.6, with a silence in place of RESPONSE-PORT.  A request is answered at once, and again after the silence that it asks
for, unless another one with its transaction id comes before that.  Its transaction id (no RFC; ours) is

    nonce     8 bytes    drawn by who measures, and told beforehand by `sw_reach`
    silence   4          seconds, big-endian; 0: no second answer

Only requests that were told of beforehand are answered, only to the host that told, and never by more bytes than came:
this is no STUN server for strangers.  How the tests are used is `swarm.connect.lifetime`'s and `nat_tests`' business.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from swarm.endpoint import Endpoint
from swarm.net.network import Buffer, Outgoing, Path
from swarm.wire.stun import (
    BINDING,
    TRANSACTION_ID_SIZE,
    AttributeType,
    MessageClass,
    StunMessage,
    peek_header,
    xor_address_value,
)

HAIRPIN_TIMES = (0.0, 0.5, 1.0)
HAIRPIN_PATIENCE = 2.0
"""Seconds at which a request to ourselves leaves, and after which none of them has come back."""

NONCE_SIZE = 8
MAX_SILENCE = 600
"""Seconds; longer ones are answered at once only."""

LATE_TIMES = (0.0, 0.3)
"""Seconds after the silence at which the second answer leaves: one of them may be lost."""

GRANT_SECONDS = 660.0
"""For so long a nonce is good."""

MAX_GRANTS = 8
"""Peers that measure at once; the oldest makes room."""

MAX_ANSWERS = 100
"""Answers at once, and as many silences begun, for one of them: twelve mappings and what is repeated of them."""

MAX_LATE = 16
"""Silences at once, for one of them."""


class Hairpin(NamedTuple):
    """What became of the request ``handle`` to ourselves: whether it came back."""

    handle: bytes
    outcome: bool


class MappingTests:
    """One socket's; a `swarm.net.mux.DatagramCore`.  ``rng`` must not be guessable: a `random.SystemRandom`."""

    first_bytes = frozenset({0x00})
    """Requests for a method below 0x80 begin so: the mux asks about nothing of µTP and the DHT."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._hairpins: dict[bytes, _Hairpinning] = {}  # by transaction id, which is also the handle
        self._grants: dict[bytes, _Grant] = {}  # by nonce, the oldest first
        self._outbox: list[Outgoing] = []
        self._results: list[Hairpin] = []

    # -- what is asked of it ----------------------------------------------------------------------------------------

    def hairpin(self, outside: Endpoint, now: float) -> bytes:
        """Begin to send to ``outside``, where others see us; the handle of the result."""
        transaction_id = self._rng.randbytes(TRANSACTION_ID_SIZE)
        self._hairpins[transaction_id] = _Hairpinning(outside, now)
        return transaction_id

    def cancel(self, handle: bytes) -> None:
        """Forget a request to ourselves.  Harmless for one that has ended."""
        self._hairpins.pop(handle, None)

    def grant(self, nonce: bytes, host: str, now: float) -> bool:
        """Give late answers to requests from ``host`` whose transaction id begins with ``nonce``.

        False if that nonce is known already.
        """
        self._forget_old(now)
        if nonce in self._grants:
            return False
        self._grants[nonce] = _Grant(host, now + GRANT_SECONDS)
        if len(self._grants) > MAX_GRANTS:
            del self._grants[next(iter(self._grants))]
        return True

    # -- DatagramCore -----------------------------------------------------------------------------------------------

    def wants(self, datagram: Buffer, path: Path) -> bool:
        """Whether it is a binding request whose transaction id was told, or drawn by ourselves."""
        if not self._hairpins and not self._grants:
            return False
        header = peek_header(datagram)
        if header is None or (header.message_class, header.method) != (MessageClass.REQUEST, BINDING):
            return False
        transaction_id = header.transaction_id
        return transaction_id in self._hairpins or transaction_id[:NONCE_SIZE] in self._grants

    def receive_batch(self, datagrams: Sequence[Buffer], path: Path, now: float) -> None:
        for datagram in datagrams:
            if self.wants(datagram, path):
                self._receive(datagram, path, now)

    def datagrams_to_send(self, now: float) -> list[Outgoing]:
        for handle, request in self._hairpins.items():
            while request.sent < len(HAIRPIN_TIMES) and request.began + HAIRPIN_TIMES[request.sent] <= now:
                request.sent += 1
                self._send(StunMessage(MessageClass.REQUEST, BINDING, handle), Path(None, request.outside))
        outbox, self._outbox = self._outbox, []
        return outbox

    def next_deadline(self) -> float | None:
        times = [request.deadline for request in self._hairpins.values()]
        times += [late.deadline for grant in self._grants.values() for late in grant.late.values()]
        return min(times, default=None)

    def handle_deadline(self, now: float) -> None:
        for handle, request in list(self._hairpins.items()):
            if request.began + HAIRPIN_PATIENCE <= now:
                self._end(handle, False)
        for grant in self._grants.values():
            for transaction_id, late in list(grant.late.items()):
                if late.deadline <= now:
                    self._answer_late(grant, transaction_id, late)

    def take_results(self) -> list[Hairpin]:
        results, self._results = self._results, []
        return results

    # -- inside -----------------------------------------------------------------------------------------------------

    def _receive(self, datagram: Buffer, path: Path, now: float) -> None:
        header = peek_header(datagram)
        assert header is not None, "wants() was asked"
        transaction_id = header.transaction_id
        if transaction_id in self._hairpins:
            self._end(transaction_id, True)
            return
        grant = self._grants[transaction_id[:NONCE_SIZE]]
        answer = late_answer(transaction_id, path.remote)
        if path.remote.host != grant.host or grant.until <= now or grant.answered >= MAX_ANSWERS:
            return
        if len(answer.encode()) > len(datagram):
            return
        grant.answered += 1
        self._send(answer, path)
        silence = int.from_bytes(transaction_id[NONCE_SIZE:], "big")
        if 0 < silence <= MAX_SILENCE and (transaction_id in grant.late or len(grant.late) < MAX_LATE):
            grant.late[transaction_id] = _Late(path, now + silence)

    def _answer_late(self, grant: _Grant, transaction_id: bytes, late: _Late) -> None:
        self._send(late_answer(transaction_id, late.path.remote), late.path)
        late.sent += 1
        if late.sent == len(LATE_TIMES):
            del grant.late[transaction_id]

    def _send(self, message: StunMessage, path: Path) -> None:
        datagram = message.encode()
        self._outbox.append(Outgoing((datagram,), len(datagram), path))

    def _end(self, handle: bytes, outcome: bool) -> None:
        del self._hairpins[handle]
        self._results.append(Hairpin(handle, outcome))

    def _forget_old(self, now: float) -> None:
        self._grants = {nonce: grant for nonce, grant in self._grants.items() if grant.until > now}


def late_request(nonce: bytes, silence: int) -> StunMessage:
    """A request for an answer at once, and another one after ``silence`` seconds; as long as the answer."""
    padding = ((AttributeType.PADDING, bytes(20)),)  # 24 bytes, as XOR-MAPPED-ADDRESS of IPv6 has
    return StunMessage(MessageClass.REQUEST, BINDING, nonce + silence.to_bytes(4, "big"), padding)


def late_answer(transaction_id: bytes, seen_at: Endpoint) -> StunMessage:
    """The answer to one that was sent from ``seen_at``."""
    mapped = ((AttributeType.XOR_MAPPED_ADDRESS, xor_address_value(seen_at, transaction_id)),)
    return StunMessage(MessageClass.SUCCESS, BINDING, transaction_id, mapped)


@dataclass(slots=True)
class _Hairpinning:
    outside: Endpoint
    began: float
    sent: int = 0

    @property
    def deadline(self) -> float:
        return self.began + (HAIRPIN_TIMES[self.sent] if self.sent < len(HAIRPIN_TIMES) else HAIRPIN_PATIENCE)


@dataclass(slots=True)
class _Late:
    """A second answer that is due."""

    path: Path
    at: float
    sent: int = 0

    @property
    def deadline(self) -> float:
        return self.at + LATE_TIMES[self.sent]


class _Grant:
    """A peer that measures."""

    def __init__(self, host: str, until: float) -> None:
        self.host = host
        self.until = until
        self.answered = 0
        self.late: dict[bytes, _Late] = {}
