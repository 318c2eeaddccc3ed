"""Requests to one TURN server and what becomes of them (RFC 8489 §6, §9.2): transactions, retransmission, challenges.

A core without I/O, part of `swarm.net.turn_client`.  What a request is for its two callbacks know.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError, RemoteProtocolError
from swarm.net.stun import Patience
from swarm.net.turn_auth import LongTermCredentials
from swarm.wire.stun import (
    BINDING,
    MessageClass,
    StunHeader,
    StunMessage,
    parse_stun_untrusted,
    xor_address_value,
)
from swarm.wire.turn import KNOWN, TurnAttribute

PATIENCE = Patience(rto=0.5, requests=5, last=4.0)
"""9.5 s: seven requests in 39.5 s as RFC 8489 has it would keep a peer waiting for a dead server."""

MAX_CHALLENGES = 3
"""Nonces that one request is repeated for."""

Attributes = tuple[tuple[int, bytes], ...]

Succeeded = Callable[[StunMessage, float], None]
Failed = Callable[[int, StunMessage | None, float], None]
"""With the error code and the response, or with 0 and None where no answer came."""


class Requests:
    """Those under way.  ``broken`` is told of an answer that makes no sense: nothing more is to be had from the server.

    ``reliable`` is for TCP and TLS: nothing is sent twice.
    """

    def __init__(
        self,
        credentials: LongTermCredentials,
        rng: random.Random,
        broken: Callable[[RemoteError], None],
        *,
        reliable: bool,
    ) -> None:
        self._credentials = credentials
        self._rng = rng
        self._broken = broken
        self._reliable = reliable
        self._pending: dict[bytes, _Request] = {}  # by transaction id
        self._outbox: list[bytes] = []

    def ask(
        self,
        method: int,
        attributes: Attributes,
        succeeded: Succeeded,
        failed: Failed,
        now: float,
        *,
        peers: Sequence[Endpoint] = (),
    ) -> None:
        self._transmit(_Request(method, attributes, tuple(peers), succeeded, failed), now)

    def _transmit(self, request: _Request, now: float) -> None:
        """As a new transaction, signed with what is known of the server now."""
        transaction_id = self._rng.randbytes(12)
        peers = tuple(
            (TurnAttribute.XOR_PEER_ADDRESS, xor_address_value(peer, transaction_id)) for peer in request.peers
        )
        attributes = request.attributes + peers
        request.signed = self._credentials.signs and request.method != BINDING
        if request.signed:
            request.message = self._credentials.sign(request.method, transaction_id, attributes)
        else:
            request.message = StunMessage(MessageClass.REQUEST, request.method, transaction_id, attributes).encode()
        request.sent = 0
        self._pending[transaction_id] = request
        self._send_again(transaction_id, request, now)

    def _send_again(self, transaction_id: bytes, request: _Request, now: float) -> None:
        rto, requests, last = PATIENCE
        if request.sent >= (1 if self._reliable else requests):
            del self._pending[transaction_id]
            request.failed(0, None, now)
            return
        request.sent += 1
        if self._reliable:
            request.deadline = now + PATIENCE.total
        else:
            request.deadline = now + rto * (last if request.sent >= requests else 1 << request.sent - 1)
        self._outbox.append(request.message)

    def _answered_untrusted(self, request: _Request, transaction_id: bytes, response: StunMessage, now: float) -> bool:
        if request.signed and not self._credentials.vouches_for(response):
            return False  # as if it had not come (RFC 8489 §9.2.5)
        if response.message_class not in (MessageClass.SUCCESS, MessageClass.ERROR):
            return False
        del self._pending[transaction_id]
        try:
            if unknown := response.unknown_required(KNOWN):
                raise RemoteProtocolError("bad-turn", f"attribute {unknown[0]:#06x} must be understood")
            if response.message_class == MessageClass.SUCCESS:
                request.succeeded(response, now)
            else:
                self._error_untrusted(request, response, now)
        except RemoteProtocolError as error:
            self._broken(RemoteProtocolError("bad-turn", error.detail))
        return True

    def _error_untrusted(self, request: _Request, response: StunMessage, now: float) -> None:
        error = response.error_code_untrusted()
        code = error.code if error is not None else 500
        challenged = code == 438 or (code == 401 and not request.signed)
        if challenged and request.method != BINDING and request.challenges < MAX_CHALLENGES:
            request.challenges += 1
            self._credentials.challenged_untrusted(response)
            self._transmit(request, now)
        else:
            request.failed(code, response, now)

    def receive_untrusted(self, header: StunHeader, message: memoryview, now: float) -> bool:
        """Whether it is the answer to a request.  RemoteProtocolError("bad-stun") if it is damaged."""
        request = self._pending.get(header.transaction_id)
        if request is None or header.method != request.method:
            return False
        return self._answered_untrusted(request, header.transaction_id, parse_stun_untrusted(message), now)

    def messages_to_send(self) -> list[bytes]:
        outbox, self._outbox = self._outbox, []
        return outbox

    def next_deadline(self) -> float | None:
        return min((request.deadline for request in self._pending.values()), default=None)

    def handle_deadline(self, now: float) -> None:
        for transaction_id, request in list(self._pending.items()):
            if request.deadline <= now and transaction_id in self._pending:
                self._send_again(transaction_id, request, now)

    def clear(self) -> None:
        """Nothing is sent any more, and no answer heeded."""
        self._pending.clear()
        self._outbox.clear()


@dataclass(slots=True)
class _Request:
    method: int
    attributes: Attributes
    peers: tuple[Endpoint, ...]
    """XOR-PEER-ADDRESS depends on the transaction id."""
    succeeded: Succeeded
    failed: Failed
    message: bytes = b""
    signed: bool = False
    sent: int = 0
    challenges: int = 0
    deadline: float = 0.0


def refusal(code: int) -> RemoteError:
    """What an error code means; 0 is no answer.  The server's own phrase is not repeated."""
    if code == 0:
        return RemoteError("timed-out", "the TURN server does not answer")
    reason, detail = _REASONS.get(code, ("turn-refused", "the TURN server refuses"))
    return RemoteError(reason, f"{detail} (error {code})")


_REASONS = {
    401: ("turn-unauthorized", "the TURN server does not accept the user name or password"),
    403: ("turn-forbidden", "the TURN server forbids it"),
    437: ("turn-mismatch", "the TURN server knows this allocation otherwise"),
    440: ("turn-no-family", "the TURN server has no address of this family"),
    441: ("turn-unauthorized", "the TURN server knows the allocation under other credentials"),
    443: ("turn-no-family", "the TURN server relays to the other address family only"),
    486: ("turn-quota", "this user has as many allocations as it may"),
    508: ("turn-full", "the TURN server has no capacity left"),
}
