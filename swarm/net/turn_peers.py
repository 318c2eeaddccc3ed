"""Whom one allocation lets in, and how data for them is framed: permissions and channels (RFC 8656 §9, §11, §12).

A core without I/O, part of `swarm.net.turn_client`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.net.network import Buffer
from swarm.net.turn_requests import Requests, refusal
from swarm.wire.stun import MessageClass, StunMessage, xor_address_value
from swarm.wire.turn import CHANNEL_HEADER, FIRST_CHANNEL, LAST_CHANNEL, Method, TurnAttribute

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

PERMISSION_SECONDS = 300.0

ASK_AGAIN = 1.0
"""Seconds between requests for one permission at least."""


class PeerRefused(NamedTuple):
    """The server relays nothing to and from this address."""

    host: str
    reason: str


class Peers:
    """Those of one allocation.  ``lost`` is told when the server does not know the allocation any more."""

    def __init__(
        self,
        requests: Requests,
        rng: random.Random,
        *,
        ipv6: bool,
        reliable: bool,
        refused: Callable[[PeerRefused], None],
        lost: Callable[[RemoteError], None],
    ) -> None:
        self.dropped = 0
        """Datagrams that waited in vain, or in a crowd, for their channel."""
        self.stands = False
        """Whether there is an allocation: nothing can be asked before."""
        self._requests = requests
        self._rng = rng
        self._ipv6 = ipv6
        self._reliable = reliable
        self._refused = refused
        self._lost = lost
        self._outbox: list[bytes] = []
        self._permissions: dict[str, _Permission] = {}
        self._permitting = 0  # requests under way
        self._channels: dict[Endpoint, _Channel] = {}
        self._by_number: dict[int, _Channel] = {}
        self._next_number = FIRST_CHANNEL

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
        self._requests.ask(
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
            self._lost(refusal(code))
        elif code in (403, 443):
            self._peer_refused(channel.peer.host, code)

    def _peer_refused(self, host: str, code: int) -> None:
        permission = self._permissions.get(host)
        if permission is not None and not permission.refused:
            permission.refused = True
            self._refused(PeerRefused(host, refusal(code).reason))

    def _permit_due(self, now: float) -> None:
        """Ask for what is not permitted yet, or not for much longer."""
        if not self.stands:
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
        self._requests.ask(
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
            self._lost(refusal(code))
        elif len(hosts) > 1 and code not in (0, 508):
            for half in (hosts[: len(hosts) // 2], hosts[len(hosts) // 2 :]):
                self._ask_for_permissions([host for host in half if host in self._permissions], now)
        elif code:
            for host in hosts:
                self._peer_refused(host, code)
        self._permit_due(now)

    def forget_and_renew(self, now: float) -> None:
        """Now and then."""
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

    def is_permitted(self, host: str) -> bool:
        """Whether datagrams from there were asked for."""
        return host in self._permissions

    def peer_of(self, number: int, now: float) -> Endpoint | None:
        """Whose channel that is; it is in use."""
        channel = self._by_number.get(number)
        if channel is None:
            return None
        channel.used_at = now
        return channel.peer

    def messages_to_send(self) -> list[bytes]:
        outbox, self._outbox = self._outbox, []
        return outbox


@dataclass(slots=True)
class _Permission:
    wanted_until: float = 0.0
    granted_at: float = float("-inf")
    asked_at: float = float("-inf")
    asked: bool = False
    refused: bool = False

    def stands(self, now: float) -> bool:
        return now < self.granted_at + PERMISSION_SECONDS

    def is_due(self, now: float) -> bool:
        again = self.asked_at + (RENEW_AFTER if self.refused else ASK_AGAIN)
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
