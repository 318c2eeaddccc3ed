"""The TURN client as a core without I/O (RFC 8656): one allocation on one server.

Knows the allocation's life (allocate, refresh, release), permissions, channels, indications, and requests with their
retransmission and challenges.  Messages go in and come out whole: datagrams, or frames of a TCP or TLS connection.
Does not resolve, dial, follow an alternate server or retry a server that failed: the async face is `swarm.net.turn`.
Not spoken: TCP to peers (RFC 6062), EVEN-PORT, reservation, mobility, DTLS.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError, RemoteProtocolError
from swarm.net.network import Buffer
from swarm.net.stun import Patience
from swarm.net.turn_auth import LongTermCredentials
from swarm.wire.stun import (
    BINDING,
    AttributeType,
    MessageClass,
    StunMessage,
    parse_stun_untrusted,
    peek_header,
    xor_address_value,
)
from swarm.wire.turn import (
    CHANNEL_HEADER,
    FIRST_CHANNEL,
    KNOWN,
    LAST_CHANNEL,
    UDP,
    Method,
    TurnAttribute,
    is_channel_data,
    parse_channel_data_untrusted,
    parse_lifetime_untrusted,
)

LIFETIME = 600
"""Seconds asked for an allocation; the server may grant other ones."""

REFRESH_MARGIN = 60.0
"""Seconds before its end at which an allocation is refreshed; half of a shorter life."""

SOON = 1.0
"""Seconds that an allocation is left alone at least: a server that grants nothing is not to be asked without end."""

RENEW_AFTER = 200.0
"""Seconds after which permissions, which last 300, and channels, which last 600 and bring one, are made again."""

CHANNEL_SECONDS, CHANNEL_COOLING = 600.0, 300.0
"""How long a channel stands, and for how long after that neither its number nor its peer may be bound anew (§12)."""

PERMITTED_FOR = 900.0
"""Seconds for which a permission is renewed after it was asked for last."""

MAX_PERMISSIONS = 512
"""Addresses permitted at once; those asked for longest ago go first."""

PER_REQUEST = 10
"""Addresses in one CreatePermission: 300 bytes of IPv6 ones."""

MAX_REQUESTS = 8
"""Permission requests under way at once."""

MAX_CHANNELS = 256
"""Beyond it data goes in indications."""

MAX_PEERS = 1024
"""Peers that are remembered, with a channel or without.  Only for these anything waits."""

MAX_WAITING = 16
"""Datagrams to one peer that wait for its channel; beyond it the newest are dropped."""

MAX_INDICATED = 1200
"""Bytes of data that go in an indication, which is 36 to 51 longer: larger ones wait for the channel."""

QUIET = 15.0
"""Seconds of silence after which the server is asked whether it is there; keeps the NAT's mapping, too."""

LOOK = 5.0
"""Seconds between looks at what is to be renewed."""

PATIENCE = Patience(rto=0.5, requests=5, last=4.0)
"""9.5 s: seven requests in 39.5 s as RFC 8489 has it would keep a peer waiting for a dead server."""

MAX_CHALLENGES = 3
"""Nonces that one request is repeated for."""

Attributes = tuple[tuple[int, bytes], ...]


class Allocated(NamedTuple):
    """The server relays for us now."""

    relayed: Endpoint
    mapped: Endpoint | None
    """Where the server sees us."""


class Redirected(NamedTuple):
    """Error 300: ask there instead.  Nobody vouches for it."""

    server: Endpoint


class PeerRefused(NamedTuple):
    """The server relays nothing to and from this address."""

    host: str
    reason: str


class Ended(NamedTuple):
    """There is no allocation (any more).

    Reasons: "timed-out"; "turn-unauthorized" (401 to signed requests, 441), "turn-forbidden" (403), "turn-mismatch"
    (437), "turn-no-family" (440), "turn-quota" (486), "turn-full" (508), "turn-refused" with the code in the detail
    for others, and "bad-turn" for answers that are none.
    """

    error: RemoteError


Result = Allocated | Redirected | PeerRefused | Ended


class Delivery(NamedTuple):
    """A datagram that a peer sent to the relayed address; a view of the message that it came in."""

    peer: Endpoint
    data: memoryview


class TurnClient:
    """One allocation.  ``ignored`` counts messages that were not for us or made no sense.

    ``reliable`` is for TCP and TLS: nothing is sent twice, and ChannelData is padded.
    """

    def __init__(
        self,
        credentials: LongTermCredentials,
        rng: random.Random,
        *,
        ipv6: bool = False,
        reliable: bool = False,
        lifetime: int = LIFETIME,
    ) -> None:
        """``rng`` makes transaction ids, which must not be guessed.  ``ipv6`` asks for an IPv6 relayed address."""
        self.ignored = 0
        self.dropped = 0
        """Datagrams that waited in vain, or in a crowd, for their channel."""
        self.relayed: Endpoint | None = None
        self._credentials = credentials
        self._rng = rng
        self._ipv6 = ipv6
        self._reliable = reliable
        self._lifetime = lifetime
        self._requests: dict[bytes, _Request] = {}  # by transaction id
        self._outbox: list[bytes] = []
        self._results: list[Result] = []
        self._permissions: dict[str, _Permission] = {}
        self._permitting = 0  # requests under way
        self._channels: dict[Endpoint, _Channel] = {}
        self._by_number: dict[int, _Channel] = {}
        self._next_number = FIRST_CHANNEL
        self._refresh_at = self._look_at = float("inf")
        self._heard_at = 0.0
        self._asking_whether_there = False
        self._over = False

    # -- the allocation ---------------------------------------------------------------------------------------------

    def allocate(self, now: float) -> None:
        """Begin; `Allocated`, `Redirected` or `Ended` is the result."""
        attributes: Attributes = (
            (TurnAttribute.REQUESTED_TRANSPORT, bytes((UDP, 0, 0, 0))),
            (TurnAttribute.LIFETIME, self._lifetime.to_bytes(4, "big")),
        )
        if self._ipv6:  # the default is IPv4, and servers from before RFC 6156 do not know the attribute
            attributes += ((TurnAttribute.REQUESTED_ADDRESS_FAMILY, b"\2\0\0\0"),)
        self._ask(Method.ALLOCATE, attributes, self._allocated_untrusted, self._refused_untrusted, now)

    def release(self, now: float) -> None:
        """Give the allocation back; no answer is waited for."""
        if self.relayed is not None and not self._over:
            self._ask(Method.REFRESH, _lifetime(0), lambda message, now: None, lambda code, message, now: None, now)
        self._over = True

    def _allocated_untrusted(self, response: StunMessage, now: float) -> None:
        relayed = response.xor_address_untrusted(TurnAttribute.XOR_RELAYED_ADDRESS)
        if relayed is None or relayed.is_ipv6 != self._ipv6 or relayed.port == 0:
            raise RemoteProtocolError("bad-turn", "no relayed address of the family asked for")
        self._granted_untrusted(response, now)
        self.relayed = relayed
        self._look_at = now + LOOK
        self._results.append(
            Allocated(relayed, response.xor_address_untrusted(AttributeType.XOR_MAPPED_ADDRESS)),
        )

    def _granted_untrusted(self, response: StunMessage, now: float) -> None:
        granted = parse_lifetime_untrusted(response.get(TurnAttribute.LIFETIME))
        if granted == 0:
            raise RemoteProtocolError("bad-turn", "an allocation for 0 s")
        self._refresh_at = now + max(granted - min(REFRESH_MARGIN, granted / 2), SOON)

    def _refused_untrusted(self, code: int, response: StunMessage | None, now: float) -> None:
        """An allocation, or its refresh, was refused."""
        if code == 300 and response is not None and self.relayed is None:
            server = response.address_untrusted(AttributeType.ALTERNATE_SERVER)
            if server is None:
                raise RemoteProtocolError("bad-turn", "an alternate server that is not named")
            self._over = True
            self._results.append(Redirected(server))
            return
        self._end(_refusal(code))

    def _end(self, error: RemoteError) -> None:
        if not self._over:
            self._over = True
            self._results.append(Ended(error))
        self._requests.clear()
        self._outbox.clear()

    # -- peers ------------------------------------------------------------------------------------------------------

    def permit(self, hosts: Iterable[str], now: float) -> None:
        """Let datagrams from these addresses through, from now on and for PERMITTED_FOR seconds.

        Of the other family none can be; of more than MAX_PERMISSIONS those asked for first are dropped.
        """
        for host in hosts:
            if (":" in host) is self._ipv6:
                permission = self._permissions.pop(host, None) or _Permission()
                permission.wanted_until = now + PERMITTED_FOR
                self._permissions[host] = permission
                if len(self._permissions) > MAX_PERMISSIONS:
                    del self._permissions[next(iter(self._permissions))]
        self._permit_due(now)

    def send(self, peer: Endpoint, segments: Sequence[Buffer], now: float) -> list[Buffer] | None:
        """Datagrams for ``peer``: the frames they are, as pairs of a header and a datagram, padded where needed.

        None where there is no channel yet: then they leave by `messages_to_send` in time, or are dropped.
        """
        channel = self._channels.get(peer)
        if channel is None:
            channel = self._bind(peer, now)
        channel.used_at = now
        if channel.bound:
            return self._frames(channel.number, segments)
        for segment in segments:
            self._send_without_channel(channel, bytes(segment), now)
        return None

    def _frames(self, number: int, segments: Sequence[Buffer]) -> list[Buffer]:
        frames: list[Buffer] = []
        pack = CHANNEL_HEADER.pack
        for segment in segments:
            size = len(segment)
            frames += (pack(number, size), segment)
            if self._reliable and size % 4:
                frames.append(bytes(-size % 4))
        return frames

    def _send_without_channel(self, channel: _Channel, data: bytes, now: float) -> None:
        permission = self._permissions.get(channel.peer.host)
        fits = len(data) <= MAX_INDICATED or not channel.number
        if fits and permission is not None and permission.stands(now):
            transaction_id = self._rng.randbytes(12)
            attributes = (
                (TurnAttribute.XOR_PEER_ADDRESS, xor_address_value(channel.peer, transaction_id)),
                (TurnAttribute.DATA, data),
            )
            self._outbox.append(
                StunMessage(MessageClass.INDICATION, Method.SEND, transaction_id, attributes).encode(),
            )
        elif len(channel.waiting) < MAX_WAITING and not channel.refused and channel.peer in self._channels:
            channel.waiting.append(data)
        else:
            self.dropped += 1

    def _bind(self, peer: Endpoint, now: float) -> _Channel:
        """A channel to ``peer``, about to be bound; without a number where there is none left."""
        number = self._free_number(now)
        channel = _Channel(peer, number)
        self.permit([peer.host], now)
        if number or len(self._channels) < MAX_PEERS:
            self._channels[peer] = channel
        if number:
            self._by_number[number] = channel
            self._ask_for_channel(channel, now)
        return channel

    def _free_number(self, now: float) -> int:
        if len(self._by_number) >= MAX_CHANNELS:
            return 0
        for _ in range(LAST_CHANNEL - FIRST_CHANNEL + 1):
            number = self._next_number
            self._next_number = number + 1 if number < LAST_CHANNEL else FIRST_CHANNEL
            if number not in self._by_number:
                return number
        return 0

    def _ask_for_channel(self, channel: _Channel, now: float) -> None:
        channel.asked_at = now
        self._ask(
            Method.CHANNEL_BIND,
            ((TurnAttribute.CHANNEL_NUMBER, channel.number.to_bytes(2, "big") + bytes(2)),),
            partial(self._channel_bound, channel),
            partial(self._channel_refused, channel),
            now,
            peers=(channel.peer,),
        )

    def _channel_bound(self, channel: _Channel, response: StunMessage, now: float) -> None:
        channel.bound_until = now + CHANNEL_SECONDS
        channel.bound = True
        self._permissions.setdefault(channel.peer.host, _Permission()).granted_at = now
        waiting, channel.waiting = channel.waiting, deque()
        for data in waiting:
            self._outbox.append(b"".join(self._frames(channel.number, [data])))

    def _channel_refused(self, channel: _Channel, code: int, response: StunMessage | None, now: float) -> None:
        """Data goes in indications if the address is permitted, nowhere otherwise.  A renewal that was not answered
        leaves a channel as it is."""
        if code == 0 and channel.bound:
            return
        channel.refused, channel.bound = code != 0, False
        self.dropped += len(channel.waiting)
        channel.waiting.clear()
        if code == 437:
            self._end(_refusal(code))
        elif code in (403, 443):
            self._peer_refused(channel.peer.host, code)

    def _peer_refused(self, host: str, code: int) -> None:
        permission = self._permissions.get(host)
        if permission is not None and not permission.refused:
            permission.refused = True
            self._results.append(PeerRefused(host, _refusal(code).reason))

    def _permit_due(self, now: float) -> None:
        """Ask for what is not permitted yet, or not for much longer."""
        if self.relayed is None or self._over:
            return
        due = [host for host, permission in self._permissions.items() if permission.is_due(now)]
        for start in range(0, len(due), PER_REQUEST):
            if self._permitting >= MAX_REQUESTS:
                break
            self._ask_for_permissions(due[start : start + PER_REQUEST], now)

    def _ask_for_permissions(self, hosts: Sequence[str], now: float) -> None:
        self._permitting += 1
        for host in hosts:
            self._permissions[host].asked = True
        self._ask(
            Method.CREATE_PERMISSION,
            (),
            partial(self._permitted, hosts),
            partial(self._permissions_refused, hosts),
            now,
            peers=[Endpoint(host, 9) for host in hosts],  # the port does not matter (§9.1)
        )

    def _permitted(self, hosts: Sequence[str], response: StunMessage, now: float) -> None:
        self._permitting -= 1
        for permission in filter(None, map(self._permissions.get, hosts)):
            permission.granted_at, permission.asked, permission.refused = now, False, False
        self._flush_waiting(frozenset(hosts), now)
        self._permit_due(now)

    def _flush_waiting(self, hosts: frozenset[str], now: float) -> None:
        """What waits for a channel that is not to come may go in indications."""
        for channel in self._channels.values():
            if channel.waiting and channel.peer.host in hosts:
                waiting, channel.waiting = channel.waiting, deque()
                for data in waiting:
                    self._send_without_channel(channel, data, now)

    def _permissions_refused(self, hosts: Sequence[str], code: int, response: StunMessage | None, now: float) -> None:
        """Refused for the sake of one of them, perhaps: ask for each half."""
        self._permitting -= 1
        for permission in filter(None, map(self._permissions.get, hosts)):
            permission.asked = False
            permission.asked_at = now
        if code == 437:
            self._end(_refusal(code))
        elif len(hosts) > 1 and code not in (0, 508):
            for half in (hosts[: len(hosts) // 2], hosts[len(hosts) // 2 :]):
                self._ask_for_permissions([host for host in half if host in self._permissions], now)
        elif code:
            for host in hosts:
                self._peer_refused(host, code)
        self._permit_due(now)

    def _forget_and_renew(self, now: float) -> None:
        for host, permission in list(self._permissions.items()):
            if permission.wanted_until <= now and not permission.asked:
                del self._permissions[host]
        for channel in list(self._channels.values()):
            in_use = channel.used_at + CHANNEL_SECONDS > now
            if in_use and channel.number and now >= channel.asked_at + RENEW_AFTER:
                self._ask_for_channel(channel, now)
            elif not in_use and now >= max(channel.bound_until, channel.asked_at) + CHANNEL_COOLING:
                del self._channels[channel.peer]
                self._by_number.pop(channel.number, None)
            if channel.bound and now >= channel.bound_until:
                channel.bound = False
        self._permit_due(now)

    # -- messages ---------------------------------------------------------------------------------------------------

    def receive(self, message: memoryview, now: float) -> Delivery | None:
        """One message of the server's; what it delivers, if it does.  Never raises."""
        self._heard_at = now
        try:
            if is_channel_data(message):
                return self._channel_data_untrusted(message, now)
            return self._message_untrusted(message, now)
        except RemoteProtocolError:
            self.ignored += 1
            return None

    def _channel_data_untrusted(self, message: memoryview, now: float) -> Delivery | None:
        number, data = parse_channel_data_untrusted(message)
        channel = self._by_number.get(number)
        if channel is None:
            self.ignored += 1
            return None
        channel.used_at = now
        return Delivery(channel.peer, data)

    def _message_untrusted(self, message: memoryview, now: float) -> Delivery | None:
        header = peek_header(message)
        if header is not None and (header.message_class, header.method) == (MessageClass.INDICATION, Method.DATA):
            return self._indication_untrusted(parse_stun_untrusted(message))
        request = self._requests.get(header.transaction_id) if header is not None else None
        if header is None or request is None or header.method != request.method:
            self.ignored += 1
            return None
        self._answered_untrusted(request, header.transaction_id, parse_stun_untrusted(message), now)
        return None

    def _indication_untrusted(self, message: StunMessage) -> Delivery | None:
        peer = message.xor_address_untrusted(TurnAttribute.XOR_PEER_ADDRESS)
        data = message.get(TurnAttribute.DATA)
        if peer is None or data is None or peer.host not in self._permissions or message.unknown_required(KNOWN):
            self.ignored += 1
            return None
        return Delivery(peer, memoryview(data))

    def messages_to_send(self) -> list[bytes]:
        """What is to leave now, each a datagram or a frame of its own."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def next_deadline(self) -> float | None:
        """When `handle_deadline` is due; None once it is over, or before `allocate`."""
        deadlines = [request.deadline for request in self._requests.values()]
        if self.relayed is not None and not self._over:
            deadlines += (self._refresh_at, self._look_at)
        return min(deadlines, default=None)

    def handle_deadline(self, now: float) -> None:
        for transaction_id, request in list(self._requests.items()):
            if request.deadline <= now and transaction_id in self._requests:
                self._send_again(transaction_id, request, now)
        if self._over:
            return
        if now >= self._refresh_at:
            self._refresh_at = float("inf")  # until it is granted anew
            self._ask(Method.REFRESH, _lifetime(self._lifetime), self._granted_untrusted, self._refused_untrusted, now)
        if now >= self._look_at:
            self._look_at = now + LOOK
            self._forget_and_renew(now)
            if now >= self._heard_at + QUIET and not self._asking_whether_there:
                self._ask_whether_there(now)

    def take_results(self) -> list[Result]:
        results, self._results = self._results, []
        return results

    def _ask_whether_there(self, now: float) -> None:
        """Any answer will do."""
        self._asking_whether_there = True

        def answered(response: StunMessage, now: float) -> None:
            self._asking_whether_there = False

        def failed(code: int, response: StunMessage | None, now: float) -> None:
            self._asking_whether_there = False
            if not code:
                self._end(RemoteError("timed-out", "the TURN server does not answer any more"))

        self._ask(BINDING, (), answered, failed, now)

    # -- requests ---------------------------------------------------------------------------------------------------

    def _ask(
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
        self._requests[transaction_id] = request
        self._send_again(transaction_id, request, now)

    def _send_again(self, transaction_id: bytes, request: _Request, now: float) -> None:
        rto, requests, last = PATIENCE
        if request.sent >= (1 if self._reliable else requests):
            del self._requests[transaction_id]
            request.failed(0, None, now)
            return
        request.sent += 1
        if self._reliable:
            request.deadline = now + PATIENCE.total
        else:
            request.deadline = now + rto * (last if request.sent >= requests else 1 << request.sent - 1)
        self._outbox.append(request.message)

    def _answered_untrusted(self, request: _Request, transaction_id: bytes, response: StunMessage, now: float) -> None:
        if request.signed and not self._credentials.vouches_for(response):
            self.ignored += 1  # as if it had not come (RFC 8489 §9.2.5)
            return
        if response.message_class not in (MessageClass.SUCCESS, MessageClass.ERROR):
            self.ignored += 1
            return
        del self._requests[transaction_id]
        try:
            if unknown := response.unknown_required(KNOWN):
                raise RemoteProtocolError("bad-turn", f"attribute {unknown[0]:#06x} must be understood")
            if response.message_class == MessageClass.SUCCESS:
                request.succeeded(response, now)
            else:
                self._error_untrusted(request, response, now)
        except RemoteProtocolError as error:
            self._end(RemoteProtocolError("bad-turn", error.detail))

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


Succeeded = Callable[[StunMessage, float], None]
Failed = Callable[[int, StunMessage | None, float], None]
"""With the error code and the response, or with 0 and None where no answer came."""


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


@dataclass(slots=True)
class _Permission:
    wanted_until: float = 0.0
    granted_at: float = float("-inf")
    asked_at: float = float("-inf")
    asked: bool = False
    refused: bool = False

    def stands(self, now: float) -> bool:
        return now < self.granted_at + 300.0

    def is_due(self, now: float) -> bool:
        again = self.asked_at + (RENEW_AFTER if self.refused else SOON)
        return not self.asked and now >= self.granted_at + RENEW_AFTER and now >= again


@dataclass(slots=True, eq=False)
class _Channel:
    peer: Endpoint
    number: int
    """0 where there was none left."""
    bound: bool = False
    refused: bool = False
    bound_until: float = 0.0
    asked_at: float = 0.0
    used_at: float = 0.0
    waiting: deque[bytes] = field(default_factory=deque)


def _lifetime(seconds: int) -> Attributes:
    return ((TurnAttribute.LIFETIME, seconds.to_bytes(4, "big")),)


def _refusal(code: int) -> RemoteError:
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
