"""The TURN client as a core without I/O (RFC 8656): one allocation on one server.

Knows the allocation's life (allocate, refresh, release); requests are `swarm.net.turn_requests`, permissions and
channels `swarm.net.turn_peers`.  Messages go in and come out whole: datagrams, or frames of a TCP or TLS connection.
Does not resolve, dial, follow an alternate server or retry a server that failed: the async face is `swarm.net.turn`.
Not spoken: TCP to peers (RFC 6062), EVEN-PORT, reservation, mobility, DTLS.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError, RemoteProtocolError
from swarm.net.network import Buffer
from swarm.net.turn_auth import LongTermCredentials
from swarm.net.turn_peers import PeerRefused, Peers
from swarm.net.turn_requests import Attributes, Requests, refusal
from swarm.wire.stun import BINDING, AttributeType, MessageClass, StunMessage, parse_stun_untrusted, peek_header
from swarm.wire.turn import (
    KNOWN,
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

QUIET = 15.0
"""Seconds of silence after which the server is asked whether it is there; keeps the NAT's mapping, too."""

LOOK = 5.0
"""Seconds between looks at what is to be renewed."""


class Allocated(NamedTuple):
    """The server relays for us now."""

    relayed: Endpoint
    mapped: Endpoint | None
    """Where the server sees us."""


class Redirected(NamedTuple):
    """Error 300: ask there instead.  Nobody vouches for it."""

    server: Endpoint


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
        self.relayed: Endpoint | None = None
        self._ipv6 = ipv6
        self._lifetime = lifetime
        self._results: list[Result] = []
        self._requests = Requests(credentials, rng, self._end, reliable=reliable)
        self._peers = Peers(
            self._requests,
            rng,
            ipv6=ipv6,
            reliable=reliable,
            refused=self._peer_refused,
            lost=self._end,
        )
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
        self._requests.ask(Method.ALLOCATE, attributes, self._allocated_untrusted, self._refused_untrusted, now)

    def release(self, now: float) -> None:
        """Give the allocation back; no answer is waited for."""
        if self.relayed is not None and not self._over:
            self._requests.ask(Method.REFRESH, _lifetime(0), lambda *answer: None, lambda *refusal: None, now)
        self._over = True
        self._peers.stands = False

    def _allocated_untrusted(self, response: StunMessage, now: float) -> None:
        relayed = response.xor_address_untrusted(TurnAttribute.XOR_RELAYED_ADDRESS)
        if relayed is None or relayed.is_ipv6 != self._ipv6 or relayed.port == 0:
            raise RemoteProtocolError("bad-turn", "no relayed address of the family asked for")
        self._granted_untrusted(response, now)
        self.relayed = relayed
        self._peers.stands = True
        self._look_at = now + LOOK
        mapped = response.xor_address_untrusted(AttributeType.XOR_MAPPED_ADDRESS)
        self._results.append(Allocated(relayed, mapped))

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
        self._end(refusal(code))

    def _end(self, error: RemoteError) -> None:
        if not self._over:
            self._over = True
            self._results.append(Ended(error))
        self._peers.stands = False
        self._requests.clear()

    def _peer_refused(self, refused: PeerRefused) -> None:
        self._results.append(refused)

    # -- peers ------------------------------------------------------------------------------------------------------

    def permit(self, hosts: Iterable[str], now: float) -> None:
        """As `Peers.permit`."""
        self._peers.permit(hosts, now)

    def send(self, peer: Endpoint, segments: Sequence[Buffer], now: float) -> list[Buffer] | None:
        """As `Peers.send`."""
        return self._peers.send(peer, segments, now)

    @property
    def dropped(self) -> int:
        """Datagrams that waited in vain, or in a crowd, for their channel."""
        return self._peers.dropped

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
        peer = self._peers.peer_of(number, now)
        if peer is None:
            self.ignored += 1
            return None
        return Delivery(peer, data)

    def _message_untrusted(self, message: memoryview, now: float) -> Delivery | None:
        header = peek_header(message)
        if header is not None and (header.message_class, header.method) == (MessageClass.INDICATION, Method.DATA):
            return self._indication_untrusted(parse_stun_untrusted(message))
        if header is None or not self._requests.receive_untrusted(header, message, now):
            self.ignored += 1
        return None

    def _indication_untrusted(self, message: StunMessage) -> Delivery | None:
        peer = message.xor_address_untrusted(TurnAttribute.XOR_PEER_ADDRESS)
        data = message.get(TurnAttribute.DATA)
        if peer is None or data is None or not self._peers.is_permitted(peer.host) or message.unknown_required(KNOWN):
            self.ignored += 1
            return None
        return Delivery(peer, memoryview(data))

    def messages_to_send(self) -> list[bytes]:
        """What is to leave now, each a datagram or a frame of its own."""
        return self._requests.messages_to_send() + self._peers.messages_to_send()

    def next_deadline(self) -> float | None:
        """When `handle_deadline` is due; None once it is over, or before `allocate`."""
        due = self._requests.next_deadline()
        if self.relayed is None or self._over:
            return due
        return min(self._refresh_at, self._look_at, float("inf") if due is None else due)

    def handle_deadline(self, now: float) -> None:
        self._requests.handle_deadline(now)
        if self._over:
            return
        if now >= self._refresh_at:
            self._refresh_at = float("inf")  # until it is granted anew
            self._requests.ask(
                Method.REFRESH, _lifetime(self._lifetime), self._granted_untrusted, self._refused_untrusted, now
            )
        if now >= self._look_at:
            self._look_at = now + LOOK
            self._peers.forget_and_renew(now)
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

        self._requests.ask(BINDING, (), answered, failed, now)


def _lifetime(seconds: int) -> Attributes:
    return ((TurnAttribute.LIFETIME, seconds.to_bytes(4, "big")),)
