"""The STUN client as a core without I/O (RFC 8489 §6): binding requests over the shared UDP socket.

It asks on the socket that matters: what it learns is the mapping that peers see.  Knows transactions and
retransmission, and the CHANGE-REQUEST of RFC 5780.  Does not resolve names, authenticate or draw conclusions: the async
face is `swarm.net.stun_service`, NAT behaviour discovery `swarm.net.nat_discovery`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError, RemoteProtocolError
from swarm.net.network import Buffer, Outgoing, Path
from swarm.wire.stun import (
    BINDING,
    CHANGE_IP,
    CHANGE_PORT,
    AttributeType,
    MessageClass,
    StunMessage,
    change_request_value,
    parse_stun_untrusted,
    peek_header,
)


class Patience(NamedTuple):
    """When a request is repeated, and when given up (RFC 8489 §6.2.1).  Unanswered it takes `total` seconds."""

    rto: float = 0.5
    """Seconds until the first retransmission; doubled at each."""

    requests: int = 7
    """How often it is sent in all (Rc)."""

    last: float = 16.0
    """So many times ``rto`` after the last one it has failed (Rm)."""

    @property
    def total(self) -> float:
        return self.rto * ((1 << self.requests - 1) - 1 + self.last)


PATIENT = Patience()
"""The RFC's: 39.5 s."""

BRISK = Patience(rto=0.25, requests=3, last=4.0)
"""1.75 s: three tries, and a second for the last answer.  For tests in which silence is an answer."""


class StunAnswer(NamedTuple):
    """What a server told us."""

    mapped: Endpoint
    """Our address and port as the server sees them."""

    source: Endpoint
    """Where the answer came from: not where we sent to, if that was asked for and the server can."""

    origin: Endpoint | None
    """RESPONSE-ORIGIN: where the server says that it came from; not the same behind a NAT of its own."""

    other: Endpoint | None
    """OTHER-ADDRESS: the server's other address and other port, if it does RFC 5780."""


class StunResult(NamedTuple):
    """What became of the request ``handle``.

    Errors are RemoteError: "timed-out"; "stun-refused" for an error response, with code and phrase; and "bad-stun"
    (RemoteProtocolError) for an answer that is none.
    """

    handle: bytes
    outcome: StunAnswer | RemoteError


class StunClient:
    """All our binding requests from one socket; a `swarm.net.mux.DatagramCore` of priority STUN.

    ``ignored`` counts datagrams with a transaction id of ours that came from where we did not ask.
    """

    first_bytes = frozenset({0x01})
    """Responses to a method below 0x80 begin so: the mux asks about nothing else."""

    def __init__(self, rng: random.Random) -> None:
        """``rng`` makes transaction ids, which must not be guessed: a `random.SystemRandom`."""
        self._rng = rng
        self._requests: dict[bytes, _Request] = {}  # by transaction id, which is also the handle
        self._outbox: list[Outgoing] = []
        self._results: list[StunResult] = []
        self.ignored = 0

    def bind(
        self,
        server: Endpoint,
        now: float,
        *,
        change_ip: bool = False,
        change_port: bool = False,
        patience: Patience = PATIENT,
    ) -> bytes:
        """Begin to ask ``server`` where it sees us; the handle of the result.

        ``change_ip`` and ``change_port`` ask for the answer to come from the server's other address, other port, or
        both (RFC 5780); servers that cannot answer with error 420, or take no notice: see `StunAnswer.source`.
        """
        transaction_id = self._rng.randbytes(12)
        flags = CHANGE_IP * change_ip | CHANGE_PORT * change_port
        attributes = ((AttributeType.CHANGE_REQUEST, change_request_value(flags)),) if flags else ()
        datagram = StunMessage(MessageClass.REQUEST, BINDING, transaction_id, attributes).encode()
        request = self._requests[transaction_id] = _Request(server, datagram, patience, bool(flags))
        self._send(request, now)
        return transaction_id

    def cancel(self, handle: bytes) -> None:
        """Forget a request: nothing more is sent and no result comes.  Harmless for one that has ended."""
        self._requests.pop(handle, None)
        self._results = [result for result in self._results if result.handle != handle]

    def wants(self, datagram: Buffer, path: Path) -> bool:
        """Whether it has the magic cookie and a transaction id that is pending."""
        # Asked about every data packet of µTP too, which begin alike, and mostly while nothing is pending.
        if not self._requests:
            return False
        header = peek_header(datagram)
        return header is not None and header.transaction_id in self._requests

    def receive_batch(self, datagrams: Sequence[Buffer], path: Path, now: float) -> None:
        for datagram in datagrams:
            if self.wants(datagram, path):
                self._receive(datagram, path.remote)

    def datagrams_to_send(self, now: float) -> list[Outgoing]:
        outbox, self._outbox = self._outbox, []
        return outbox

    def next_deadline(self) -> float | None:
        """When the next retransmission or giving up is due; None while nothing is asked."""
        return min((request.deadline for request in self._requests.values()), default=None)

    def handle_deadline(self, now: float) -> None:
        for handle, request in list(self._requests.items()):
            if request.deadline > now:
                continue
            if request.sent < request.patience.requests:
                self._send(request, now)
            else:
                self._end(handle, RemoteError("timed-out", f"{request.server} does not answer"))

    def take_results(self) -> list[StunResult]:
        results, self._results = self._results, []
        return results

    def _send(self, request: _Request, now: float) -> None:
        rto, requests, last = request.patience
        request.sent += 1
        request.deadline = now + rto * (last if request.sent >= requests else 1 << request.sent - 1)
        self._outbox.append(Outgoing((request.datagram,), len(request.datagram), Path(None, request.server)))

    def _receive(self, datagram: Buffer, source: Endpoint) -> None:
        header = peek_header(datagram)
        assert header is not None, "wants() was asked"
        request = self._requests[header.transaction_id]
        if (source != request.server and not request.elsewhere) or header.method != BINDING:
            self.ignored += 1
            return
        outcome: StunAnswer | RemoteError
        try:
            outcome = _answer_untrusted(parse_stun_untrusted(datagram), source)
        except RemoteProtocolError as error:
            outcome = error
        self._end(header.transaction_id, outcome)

    def _end(self, handle: bytes, outcome: StunAnswer | RemoteError) -> None:
        del self._requests[handle]
        self._results.append(StunResult(handle, outcome))


@dataclass(slots=True)
class _Request:
    """One binding request under way."""

    server: Endpoint
    datagram: bytes
    patience: Patience
    elsewhere: bool
    """The answer was asked to come from another address or port."""
    sent: int = 0
    deadline: float = 0.0


def _answer_untrusted(message: StunMessage, source: Endpoint) -> StunAnswer | RemoteError:
    """RemoteProtocolError("bad-stun") for a response without a mapped address or that we do not understand."""
    if unknown := message.unknown_required():
        raise RemoteProtocolError("bad-stun", f"attribute {unknown[0]:#06x} must be understood")
    if message.message_class == MessageClass.ERROR:
        error = message.error_code_untrusted()
        return RemoteError("stun-refused", "" if error is None else f"{error.code} {_printable(error.reason)}".rstrip())
    mapped = message.xor_address_untrusted(AttributeType.XOR_MAPPED_ADDRESS)
    mapped = mapped or message.address_untrusted(AttributeType.MAPPED_ADDRESS)
    if message.message_class != MessageClass.SUCCESS or mapped is None:
        raise RemoteProtocolError("bad-stun", "no mapped address")
    return StunAnswer(
        mapped,
        source,
        message.address_untrusted(AttributeType.RESPONSE_ORIGIN),
        message.address_untrusted(AttributeType.OTHER_ADDRESS),
    )


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:100]
