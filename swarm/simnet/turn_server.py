"""A TURN server (RFC 8656) on any `Network`: stands in for coturn where whole nodes meet in the simulated internet.

One user; UDP and TCP; IPv4 and IPv6 allocations; permissions, channels and their lifetimes.  A test double: it trusts
its clients' messages to be well formed, and drops those that are not.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import trio

from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError
from swarm.net.network import DatagramSocket, Network, Outgoing, Path, Stream
from swarm.wire.stun import (
    BINDING,
    AttributeType,
    MessageClass,
    StunMessage,
    address_value,
    error_code_value,
    long_term_key,
    parse_stun_untrusted,
    xor_address_value,
)
from swarm.wire.turn import (
    CHANNEL_HEADER,
    FrameReader,
    Method,
    TurnAttribute,
    is_channel_data,
    parse_channel_data_untrusted,
)

REALM = "example.org"
ALGORITHMS = bytes((0, 2, 0, 0, 0, 1, 0, 0))
"""SHA-256, then MD5."""

PERMISSION_SECONDS, CHANNEL_SECONDS = 300.0, 600.0


@dataclass(eq=False, slots=True)
class Relaying:
    """One allocation."""

    relay: DatagramSocket
    reply: Callable[[bytes], None]
    expires_at: float
    padded: bool
    permissions: dict[str, float] = field(default_factory=dict)
    channels: dict[int, Endpoint] = field(default_factory=dict)
    bound: dict[Endpoint, tuple[int, float]] = field(default_factory=dict)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class TurnServer:
    """Serves at ``host``; change what it does while it runs.

    ``sha256`` offers password algorithms (RFC 8489), ``nonce_seconds`` is the life of a nonce, ``lifetime`` the longest
    that is granted, ``alternate`` is named to whoever wants an allocation, ``forbidden`` addresses are relayed to by
    none, ``error`` is the code of all answers to Allocate if set.  ``bytes_relayed`` counts payload in both directions.
    """

    def __init__(
        self, network: Network, host: str, rng: random.Random, *, username: str = "user", password: str = "secret"
    ) -> None:
        self.endpoint = Endpoint(host, 3478)
        self.sha256 = False
        self.nonce_seconds = float("inf")
        self.lifetime = 600
        self.alternate: Endpoint | None = None
        self.forbidden: set[str] = set()
        self.error: int | None = None
        self.relay_hosts = {":" in host: host}
        """Where allocations are, by whether they are IPv6 ones."""
        self.bytes_relayed = 0
        self.heard: list[tuple[int, int]] = []
        """Methods of requests, and with what code they were answered; 0 is success."""
        self.allocations: dict[object, Relaying] = {}
        self._network = network
        self._rng = rng
        self._username = username
        self._password = password
        self._nonces: dict[str, float] = {}
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope()

    @property
    def uri(self) -> str:
        """Without ``?transport=``."""
        return f"turn:{self._username}:{self._password}@{self.endpoint}"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled or `stop`."""
        socket = await self._network.bind_udp(self.endpoint)
        listener = await self._network.listen_tcp(self.endpoint)
        try:
            with self._scope:
                async with trio.open_nursery() as self._nursery:
                    self._nursery.start_soon(self._serve_udp, socket)
                    task_status.started()
                    while True:
                        self._nursery.start_soon(self._serve_tcp, await listener.accept())
        finally:
            socket.close()
            listener.close()
            for relaying in self.allocations.values():
                relaying.relay.close()
            self.allocations.clear()

    def stop(self) -> None:
        """Die without a word."""
        self._scope.cancel()

    # -- transports -------------------------------------------------------------------------------------------------

    async def _serve_udp(self, socket: DatagramSocket) -> None:
        while True:
            for data, size, path in socket.receive_nowait():
                reply = partial(_send_back, socket, path)
                for start in range(0, len(data), size or 1):
                    await self._take(path.remote, path.remote, data[start : start + size], reply, padded=False)
            await socket.wait_readable()

    async def _serve_tcp(self, stream: Stream) -> None:
        reader, queue, filled = FrameReader(), deque[bytes](), trio.Event()

        def reply(message: bytes) -> None:
            queue.append(message)
            filled.set()

        async def write() -> None:
            nonlocal filled
            while True:
                await filled.wait()
                filled = trio.Event()
                while queue:
                    await stream.send_all(queue.popleft())

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                while data := await stream.receive_some(65536):
                    for frame in reader.feed_untrusted(data):
                        await self._take(stream, stream.remote, frame, reply, padded=True)
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, RemoteProtocolError):
            pass
        finally:
            stream.abort()
            self._drop(stream)

    # -- messages ---------------------------------------------------------------------------------------------------

    async def _take(
        self, client: object, remote: Endpoint, message: memoryview, reply: Callable[[bytes], None], *, padded: bool
    ) -> None:
        try:
            if is_channel_data(message):
                self._channel_data(client, message)
                return
            request = parse_stun_untrusted(message)
            if request.message_class == MessageClass.INDICATION:
                self._indication(client, request)
            elif request.message_class == MessageClass.REQUEST:
                await self._request(client, remote, request, reply, padded=padded)
        except RemoteProtocolError:
            return

    async def _request(
        self, client: object, remote: Endpoint, request: StunMessage, reply: Callable[[bytes], None], *, padded: bool
    ) -> None:
        now, integrity = trio.current_time(), self._integrity
        if request.method == BINDING:
            mapped = (AttributeType.XOR_MAPPED_ADDRESS, xor_address_value(remote, request.transaction_id))
            reply(StunMessage(MessageClass.SUCCESS, BINDING, request.transaction_id, (mapped,)).encode())
            return
        code = self._check(request, now)
        attributes: tuple[tuple[int, bytes], ...] = ()
        if not code:
            code, attributes = await self._do(client, remote, request, reply, padded=padded)
        self.heard.append((request.method, code))
        if code:
            attributes = ((AttributeType.ERROR_CODE, error_code_value(code, "No")), *attributes)
        if code in (401, 438):
            reply(
                StunMessage(
                    MessageClass.ERROR, request.method, request.transaction_id, attributes + self._challenge(now)
                ).encode()
            )
            return
        kind = MessageClass.ERROR if code else MessageClass.SUCCESS
        response = StunMessage(kind, request.method, request.transaction_id, attributes)
        reply(response.encode(integrity=integrity, key=self._key))

    async def _do(
        self, client: object, remote: Endpoint, request: StunMessage, reply: Callable[[bytes], None], *, padded: bool
    ) -> tuple[int, tuple[tuple[int, bytes], ...]]:
        now, relaying = trio.current_time(), self.allocations.get(client)
        asked = int.from_bytes(request.get(TurnAttribute.LIFETIME) or b"\0\0\2\x58", "big")
        granted = min(asked, self.lifetime)
        lifetime = (TurnAttribute.LIFETIME, granted.to_bytes(4, "big"))
        if request.method == Method.ALLOCATE:
            return await self._allocate(client, remote, request, reply, lifetime, padded=padded)
        if relaying is None:
            return 437, ()
        if request.method == Method.REFRESH:
            relaying.expires_at = now + granted
            if not asked:
                self._drop(client)
            return 0, (lifetime,)
        peers = self._peers(request)
        if not peers:
            return 400, ()
        if any(peer.is_ipv6 != relaying.relay.local.is_ipv6 for peer in peers):
            return 443, ()
        if any(peer.host in self.forbidden for peer in peers):
            return 403, ()
        if request.method == Method.CHANNEL_BIND:
            number = int.from_bytes((request.get(TurnAttribute.CHANNEL_NUMBER) or bytes(4))[:2], "big")
            standing = relaying.bound.get(peers[0], (number, 0.0))[0]
            if standing != number or relaying.channels.get(number, peers[0]) != peers[0]:
                return 400, ()
            relaying.channels[number] = peers[0]
            relaying.bound[peers[0]] = number, now + CHANNEL_SECONDS
        for peer in peers:
            relaying.permissions[peer.host] = now + PERMISSION_SECONDS
        return 0, ()

    async def _allocate(
        self,
        client: object,
        remote: Endpoint,
        request: StunMessage,
        reply: Callable[[bytes], None],
        lifetime: tuple[int, bytes],
        *,
        padded: bool,
    ) -> tuple[int, tuple[tuple[int, bytes], ...]]:
        if self.alternate is not None:
            return 300, ((AttributeType.ALTERNATE_SERVER, address_value(self.alternate)),)
        if self.error is not None:
            return self.error, ()
        if client in self.allocations:
            return 437, ()
        host = self.relay_hosts.get(request.get(TurnAttribute.REQUESTED_ADDRESS_FAMILY) == b"\2\0\0\0")
        if host is None:
            return 440, ()
        relay = await self._network.bind_udp(Endpoint(host, 0))
        until = trio.current_time() + int.from_bytes(lifetime[1], "big")
        relaying = self.allocations[client] = Relaying(relay, reply, until, padded)
        assert self._nursery is not None
        self._nursery.start_soon(self._relay, client, relaying)
        relayed = (TurnAttribute.XOR_RELAYED_ADDRESS, xor_address_value(relay.local, request.transaction_id))
        mapped = (AttributeType.XOR_MAPPED_ADDRESS, xor_address_value(remote, request.transaction_id))
        return 0, (relayed, mapped, lifetime)

    def _peers(self, request: StunMessage) -> list[Endpoint]:
        values = [value for type_, value in request.attributes if type_ == TurnAttribute.XOR_PEER_ADDRESS]
        found = []
        for value in values:
            alone = StunMessage(request.message_class, request.method, request.transaction_id, ((0x12, value),))
            found.append(alone.xor_address_untrusted(TurnAttribute.XOR_PEER_ADDRESS))
        return [peer for peer in found if peer is not None]

    # -- relaying ---------------------------------------------------------------------------------------------------

    def _indication(self, client: object, message: StunMessage) -> None:
        peer = message.xor_address_untrusted(TurnAttribute.XOR_PEER_ADDRESS)
        data = message.get(TurnAttribute.DATA)
        relaying = self.allocations.get(client)
        if message.method == Method.SEND and relaying is not None and peer is not None and data is not None:
            self._send(relaying, peer, data)

    def _channel_data(self, client: object, message: memoryview) -> None:
        number, data = parse_channel_data_untrusted(message)
        relaying = self.allocations.get(client)
        peer = relaying.channels.get(number) if relaying is not None else None
        if relaying is not None and peer is not None:
            self._send(relaying, peer, bytes(data))

    def _send(self, relaying: Relaying, peer: Endpoint, data: bytes) -> None:
        now = trio.current_time()
        if relaying.permissions.get(peer.host, 0.0) > now and relaying.expires_at > now:
            self.bytes_relayed += len(data)
            with suppress(OSError):
                relaying.relay.send_nowait(Outgoing((data,), len(data), Path(None, peer)))

    async def _relay(self, client: object, relaying: Relaying) -> None:
        with relaying.scope:
            while trio.current_time() < relaying.expires_at:
                for data, size, path in relaying.relay.receive_nowait():
                    for start in range(0, len(data), size or 1):
                        self._deliver(relaying, path.remote, bytes(data[start : start + size]))
                with trio.move_on_at(relaying.expires_at):
                    await relaying.relay.wait_readable()
            self._drop(client)

    def _deliver(self, relaying: Relaying, peer: Endpoint, data: bytes) -> None:
        now = trio.current_time()
        if relaying.permissions.get(peer.host, 0.0) <= now:
            return
        self.bytes_relayed += len(data)
        number, until = relaying.bound.get(peer, (0, 0.0))
        if until > now:
            padding = bytes(-len(data) % 4) if relaying.padded else b""
            relaying.reply(CHANNEL_HEADER.pack(number, len(data)) + data + padding)
            return
        transaction_id = self._rng.randbytes(12)
        attributes = (
            (TurnAttribute.XOR_PEER_ADDRESS, xor_address_value(peer, transaction_id)),
            (TurnAttribute.DATA, data),
        )
        relaying.reply(StunMessage(MessageClass.INDICATION, Method.DATA, transaction_id, attributes).encode())

    def _drop(self, client: object) -> None:
        relaying = self.allocations.pop(client, None)
        if relaying is not None:
            relaying.scope.cancel()
            relaying.relay.close()

    # -- credentials ------------------------------------------------------------------------------------------------

    @property
    def _key(self) -> bytes:
        return long_term_key(self._username, REALM, self._password, sha256=self.sha256)

    @property
    def _integrity(self) -> AttributeType:
        return AttributeType.MESSAGE_INTEGRITY_SHA256 if self.sha256 else AttributeType.MESSAGE_INTEGRITY

    def _challenge(self, now: float) -> tuple[tuple[int, bytes], ...]:
        features = "obMatJos2AAAB" if self.sha256 else ""
        nonce = features + self._rng.randbytes(8).hex()
        self._nonces[nonce] = now + self.nonce_seconds
        attributes = [(AttributeType.REALM, REALM.encode()), (AttributeType.NONCE, nonce.encode())]
        if self.sha256:
            attributes.append((AttributeType.PASSWORD_ALGORITHMS, ALGORITHMS))
        return tuple(attributes)

    def _check(self, request: StunMessage, now: float) -> int:
        if not request.integrity:
            return 401
        if self._nonces.get(request.text_untrusted(AttributeType.NONCE) or "", 0.0) <= now:
            return 438
        known = request.text_untrusted(AttributeType.USERNAME) == self._username
        return 0 if known and request.verify(self._key, self._integrity) else 401


def _send_back(socket: DatagramSocket, path: Path, message: bytes) -> None:
    with suppress(OSError):
        socket.send_nowait(Outgoing((message,), len(message), path))
