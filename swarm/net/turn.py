"""An allocation on a TURN server as a `DatagramSocket` (RFC 8656): the async face of `swarm.net.turn_client`.

Resolves the server, reaches it over UDP, TCP or TLS, follows it to an alternate one, and moves frames.  What peers send
to the relayed address is what the socket receives; what the socket sends leaves from there.
Does not choose between servers nor try one again: `swarm.connect.turning` does.
"""

from __future__ import annotations

import errno
import random
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import trio

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.net.happy_eyeballs import interleave_families
from swarm.net.network import Buffer, DatagramSocket, Network, Outgoing, Path, Received, Stream
from swarm.net.secured import TrioStream, system_trust, tls_failure
from swarm.net.turn_auth import LongTermCredentials
from swarm.net.turn_client import LIFETIME, Allocated, Ended, PeerRefused, Redirected, TurnClient
from swarm.wire.turn import FrameReader
from swarm.wire.turn_uri import TurnServer, TurnTransport

HEAD_START = 1.0
"""Seconds that one way to the server has before the next is tried beside it: UDP may be blocked."""

CONNECT_WITHIN = 10.0
"""Seconds for TCP and TLS to the server."""

MAX_REDIRECTS = 2

MAX_PLACES = 4
"""Addresses of one server that are tried."""

RECEIVE_BUFFER = 4 << 20
"""Bytes that wait to be read; beyond it datagrams are dropped and counted."""

SEND_BUFFER = 256 << 10
"""Bytes that wait to leave over TCP or TLS; beyond it sending would block."""

READ_SIZE = 64 << 10

FRESH_SOCKETS = 3
"""Tries with other ports of ours where the server takes us for somebody else (error 437)."""


@asynccontextmanager
async def open_allocation(
    network: Network,
    server: TurnServer,
    rng: random.Random,
    *,
    ipv6: bool = False,
    tls: ssl.SSLContext | None = None,
    lifetime: int = LIFETIME,
) -> AsyncIterator[TurnSocket]:
    """An allocation for as long as the block lasts; then it is given back.

    ``ipv6`` asks for a relayed address of that family, whatever the server is reached by.  ``tls`` replaces the
    system's trust.  RemoteError if it does not come about: "no-address" for a name without one, "refused",
    "unreachable", "tls-failed", "connection-lost", "timed-out" for the way there, and those of
    `swarm.net.turn_client.Ended`.  Once it stands it may still be lost: the socket is closed then, see
    `TurnSocket.error`.
    """

    def make_client(transport: TurnTransport) -> TurnClient:
        credentials = LongTermCredentials(server.username, server.password)
        return TurnClient(credentials, rng, ipv6=ipv6, reliable=transport != "udp", lifetime=lifetime)

    refusal = None
    async with trio.open_nursery() as nursery:
        try:
            socket = await _Opening(network, server, nursery, make_client, tls).run()
        except RemoteError as error:
            refusal = error
        else:
            try:
                yield socket
            finally:
                socket.close()
        nursery.cancel_scope.cancel()
    if refusal is not None:  # raised in there a nursery would wrap it
        raise refusal


class TurnSocket:
    """The relayed address as a socket; a `swarm.net.network.DatagramSocket` made by `open_allocation`.

    Datagrams pass only between it and addresses that were permitted; whom we send to is.
    """

    def __init__(self, carrier: Carrier, client: TurnClient, server: TurnServer) -> None:
        self.server = server
        self.transport: TurnTransport = carrier.name
        self.mapped: Endpoint | None = None
        """Where the server sees us."""
        self.error: RemoteError | None = None
        """Why the allocation was lost, once it is."""
        self.dropped = 0
        """Datagrams for which there was no room when they came."""
        self.refused: dict[str, str] = {}
        """Addresses that the server does not relay to, and why."""
        self._carrier = carrier
        self._client = client
        self._relayed: Endpoint | None = None
        self._paths: dict[Endpoint, Path] = {}
        self._waiting: deque[Received] = deque()
        self._waiting_bytes = 0
        self._readers = trio.lowlevel.ParkingLot()
        self._kicked = trio.Event()
        self._decided = trio.Event()
        self._redirected: Endpoint | None = None
        self._closed = False

    @property
    def local(self) -> Endpoint:
        """The relayed address and port."""
        assert self._relayed is not None, "made by open_allocation"
        return self._relayed

    @property
    def overhead(self) -> int:
        """Bytes that each datagram is longer on the way to the server."""
        return 4

    def permit(self, hosts: Iterable[str]) -> None:
        """Let datagrams from these addresses in; to be said again within 15 minutes.  Bounded: the latest 512 hold."""
        if not self._closed:
            self._client.permit(hosts, trio.current_time())
            self._flush()

    def receive_nowait(self) -> list[Received]:
        self._check_open()
        received, self._waiting = list(self._waiting), deque()
        self._waiting_bytes = 0
        return received

    def send_nowait(self, outgoing: Outgoing) -> None:
        """As `DatagramSocket.send_nowait`; the TTL is not passed on.  OSError(EAFNOSUPPORT) for the other family."""
        if self._closed:
            raise OSError(errno.EBADF, "the allocation is gone")
        peer = Endpoint(*outgoing.path.remote)
        if peer.is_ipv6 != self.local.is_ipv6:
            raise OSError(errno.EAFNOSUPPORT, f"{peer} is of another address family than {self.local}")
        self._carrier.check_room()
        size = outgoing.segment_size
        data = memoryview(outgoing.buffers[0] if len(outgoing.buffers) == 1 else b"".join(outgoing.buffers))
        segments = [data[start : start + size] for start in range(0, len(data), size)]
        frames = self._client.send(peer, segments, trio.current_time())
        if frames is None:
            self._flush()
        else:
            self._carrier.send_frames(frames, size)

    async def wait_readable(self) -> None:
        self._check_open()
        if self._waiting:
            await trio.lowlevel.checkpoint()
        else:
            await self._readers.park()
            self._check_open()

    async def wait_writable(self) -> None:
        self._check_open()
        await self._carrier.wait_writable()
        self._check_open()

    def close(self) -> None:
        """Give the allocation back.  Safe to call twice."""
        if not self._closed:
            self._client.release(trio.current_time())
            self._flush()
            self._shut()

    # -- inside -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Move frames until the allocation is closed or lost.  Raises nothing."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_time)
                await self._read()
                nursery.cancel_scope.cancel()
        finally:
            self._shut()

    async def allocate(self) -> Endpoint | None:
        """Block until it stands, or is refused: RemoteError.  Returns the server that this one names instead of itself,
        if it does.  `run` must run."""
        self._client.allocate(trio.current_time())
        self._flush()
        await self._decided.wait()
        if self.error is not None:
            raise self.error
        return self._redirected

    async def _read(self) -> None:
        try:
            while not self._closed:
                await self._carrier.receive(self._receive)
                self._flush()
                if self._readers and self._waiting:
                    self._readers.unpark_all()
        except trio.ClosedResourceError:
            pass
        except RemoteError as error:
            self._lose(error)

    async def _keep_time(self) -> None:
        while True:
            deadline = self._client.next_deadline()
            with trio.move_on_at(float("inf") if deadline is None else deadline):
                await self._kicked.wait()
            self._kicked = trio.Event()
            now = trio.current_time()
            if deadline is not None and deadline <= now:
                self._client.handle_deadline(now)
                self._flush()

    def _receive(self, frames: Iterable[memoryview]) -> None:
        now = trio.current_time()
        for frame in frames:
            delivery = self._client.receive(frame, now)
            if delivery is not None and delivery.data:
                self._deliver(*delivery)

    def _deliver(self, peer: Endpoint, data: memoryview) -> None:
        if self._waiting_bytes + len(data) > RECEIVE_BUFFER:
            self.dropped += 1
            return
        path = self._paths.get(peer)
        if path is None:
            if len(self._paths) >= 1024:
                self._paths.clear()
            path = self._paths[peer] = Path(None, peer)
        self._waiting_bytes += len(data)
        self._waiting.append(Received(memoryview(bytes(data)), len(data), path))  # the carrier's buffer is used again

    def _flush(self) -> None:
        """Send what the core has to say, and heed what it found out."""
        for message in self._client.messages_to_send():
            with suppress(OSError):  # lost, as any datagram may be; over TCP the reader sees it, too
                self._carrier.send_message(message)
        for result in self._client.take_results():
            match result:
                case Allocated(relayed, mapped):
                    self._relayed, self.mapped = relayed, mapped
                    self._decided.set()
                case Redirected(server):
                    self._redirected = server
                    self._decided.set()
                case PeerRefused(host, reason):
                    self.refused[host] = reason
                case Ended(error):
                    self._lose(error)
        self._kicked.set()

    def _lose(self, error: RemoteError) -> None:
        if not self._closed:
            self.error = error
            self._shut()

    def _shut(self) -> None:
        self._closed = True
        self._carrier.close()
        self._waiting.clear()
        self._readers.unpark_all()
        if not self._decided.is_set():
            self.error = self.error or RemoteError("cancelled")
            self._decided.set()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the allocation is gone")


class Carrier(Protocol):
    """How frames travel between us and the server."""

    @property
    def name(self) -> TurnTransport: ...

    async def receive(self, take: Callable[[Iterable[memoryview]], None]) -> None:
        """Block for what comes next and hand its frames on, valid during the call.  RemoteError when it is lost;
        trio.ClosedResourceError after `close`."""

    def check_room(self) -> None:
        """BlockingIOError while nothing more should be sent."""

    def send_frames(self, frames: Sequence[Buffer], size: int) -> None:
        """Headers and datagrams of at most ``size`` bytes in turn; errors as `DatagramSocket.send_nowait`."""

    def send_message(self, message: bytes) -> None:
        """One frame of the protocol itself, for which there is always room."""

    async def wait_writable(self) -> None: ...

    def close(self) -> None: ...


class _Datagrams:
    """UDP: a frame is a datagram."""

    name: TurnTransport = "udp"

    def __init__(self, socket: DatagramSocket, server: Endpoint) -> None:
        self._socket = socket
        self._path = Path(None, server)

    async def receive(self, take: Callable[[Iterable[memoryview]], None]) -> None:
        received = self._socket.receive_nowait()
        if not received:
            await self._socket.wait_readable()
            return
        for data, size, path in received:
            if path.remote == self._path.remote:
                take(data[start : start + size] for start in range(0, len(data), size or 1))
        await trio.lowlevel.checkpoint()

    def check_room(self) -> None:
        """The socket itself says when it is full."""

    def send_frames(self, frames: Sequence[Buffer], size: int) -> None:
        try:
            self._socket.send_nowait(Outgoing(frames, size + 4, self._path))
        except BlockingIOError as error:  # what was taken is counted with headers
            taken = getattr(error, "characters_written", 0) // (size + 4) * size
            raise BlockingIOError(error.errno, error.strerror, taken) from None

    def send_message(self, message: bytes) -> None:
        self._socket.send_nowait(Outgoing((message,), len(message), self._path))

    async def wait_writable(self) -> None:
        await self._socket.wait_writable()

    def close(self) -> None:
        self._socket.close()


class _Frames:
    """TCP and TLS: frames follow each other."""

    def __init__(self, stream: trio.abc.Stream, below: Stream, name: TurnTransport, nursery: trio.Nursery) -> None:
        self.name: TurnTransport = name
        self._stream = stream
        self._below = below
        self._reader = FrameReader()
        self._queue: deque[Buffer] = deque()
        self._queued = 0
        self._filled = trio.Event()
        self._drained = trio.Event()
        self._closed = False
        nursery.start_soon(self._write)

    async def receive(self, take: Callable[[Iterable[memoryview]], None]) -> None:
        try:
            data = await self._stream.receive_some(READ_SIZE)
        except trio.BrokenResourceError as error:
            raise RemoteError("connection-lost", tls_failure(error) or "") from None
        if self._closed:
            raise trio.ClosedResourceError
        if not data:
            raise RemoteError("connection-lost", "the TURN server hung up")
        take(self._reader.feed_untrusted(data))

    def check_room(self) -> None:
        if self._queued >= SEND_BUFFER:
            raise BlockingIOError(errno.EAGAIN, "the connection to the TURN server is full")

    def send_frames(self, frames: Sequence[Buffer], size: int) -> None:
        self.send_message(b"".join(frames))

    def send_message(self, message: bytes) -> None:
        self._queue.append(message)
        self._queued += len(message)
        self._filled.set()

    async def wait_writable(self) -> None:
        while self._queued > SEND_BUFFER // 2 and not self._closed:
            await self._drained.wait()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """What waits is given one try to leave: it may be the goodbye."""
        if not self._closed:
            self._closed = True
            self._filled.set()
            self._drained.set()

    async def _write(self) -> None:
        """Until closed; the connection is aborted then."""
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # the reader says so
                while True:
                    await self._filled.wait()
                    self._filled = trio.Event()
                    while self._queue:
                        data = b"".join(self._queue)
                        self._queue.clear()
                        await self._stream.send_all(data)
                        self._queued -= len(data)
                        self._drained.set()
                        self._drained = trio.Event()
                    if self._closed:
                        break
        finally:
            self._closed = True
            self._below.abort()


class _Opening:
    """One allocation about to be made: over each transport to each address, with head starts (RFC 8305 §5)."""

    def __init__(
        self,
        network: Network,
        server: TurnServer,
        nursery: trio.Nursery,
        make_client: Callable[[TurnTransport], TurnClient],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._network = network
        self._server = server
        self._nursery = nursery
        self._make_client = make_client
        self._tls = tls
        self._made: TurnSocket | None = None
        self._failures: list[RemoteError] = []

    async def run(self) -> TurnSocket:
        """The first that stands; RemoteError: what the server said, or what went wrong first."""
        places = await self._places()
        async with trio.open_nursery() as racing:
            for transport in self._server.transports:
                for place in places:
                    over = trio.Event()
                    racing.start_soon(self._attempt, transport, place, over, racing.cancel_scope)
                    with trio.move_on_after(HEAD_START):
                        await over.wait()
        if self._made is None:
            raise max(self._failures, key=_weight)
        return self._made

    async def _attempt(
        self, transport: TurnTransport, place: Endpoint, over: trio.Event, racing: trio.CancelScope
    ) -> None:
        try:
            socket = await self._allocate(transport, place)
        except RemoteError as error:
            self._failures.append(error)
            if error.reason.startswith("turn-"):  # it has been heard, and says no
                racing.cancel()
        else:
            if self._made is None:
                self._made = socket
                racing.cancel()
            else:
                socket.close()
        finally:
            over.set()

    async def _allocate(self, transport: TurnTransport, place: Endpoint) -> TurnSocket:
        tries = redirects = 0
        while True:
            carrier = await self._reach(transport, place)
            socket = TurnSocket(carrier, self._make_client(transport), self._server)
            self._nursery.start_soon(socket.run)
            try:
                elsewhere = await socket.allocate()
            except RemoteError as error:
                tries += 1
                if error.reason != "turn-mismatch" or tries >= FRESH_SOCKETS:
                    raise
                continue
            except trio.Cancelled:
                socket.close()
                raise
            if elsewhere is None:
                return socket
            socket.close()
            redirects += 1
            if redirects > MAX_REDIRECTS or not _may_lead_to(place, elsewhere):
                raise RemoteError("turn-redirected", "the TURN server sends us on and on, or where it must not")
            place = elsewhere

    async def _places(self) -> list[Endpoint]:
        host = self._server.host
        try:
            resolved = await self._network.resolve(host, self._server.port)
        except OSError as error:
            raise RemoteError("no-address", f"{host}: {error.strerror}") from None
        if not resolved:
            raise RemoteError("no-address", host)
        return interleave_families(resolved)[:MAX_PLACES]

    async def _reach(self, transport: TurnTransport, place: Endpoint) -> Carrier:
        try:
            if transport == "udp":
                local = Endpoint("::" if place.is_ipv6 else "0.0.0.0", 0)
                return _Datagrams(await self._network.bind_udp(local), place)
            with trio.fail_after(CONNECT_WITHIN):
                stream = await self._network.dial_tcp(place)
        except ConnectionRefusedError:
            raise RemoteError("refused", f"{place} takes no connections") from None
        except OSError as error:
            raise RemoteError("unreachable", error.strerror or str(error)) from None
        except trio.TooSlowError:
            raise RemoteError("timed-out", f"{place} does not answer") from None
        carried = TrioStream(stream) if transport == "tcp" else await _secured(stream, self._server.host, self._tls)
        return _Frames(carried, stream, transport, self._nursery)


def _weight(error: RemoteError) -> int:
    """What the server said counts most, silence least."""
    return 2 if error.reason.startswith("turn-") else int(error.reason != "timed-out")


def _may_lead_to(place: Endpoint, elsewhere: Endpoint) -> bool:
    """A server out there does not choose what we talk to in our own network."""
    return elsewhere.port != 0 and (elsewhere.address.is_global or not place.address.is_global)


async def _secured(stream: Stream, host: str, tls: ssl.SSLContext | None) -> trio.abc.Stream:
    secured = trio.SSLStream(TrioStream(stream), tls or system_trust(), server_hostname=host)
    try:
        with trio.fail_after(CONNECT_WITHIN):
            await secured.do_handshake()
    except trio.BrokenResourceError as error:
        stream.abort()
        raise RemoteError("tls-failed", tls_failure(error) or "the connection was lost") from None
    except trio.TooSlowError:
        stream.abort()
        raise RemoteError("timed-out", "no TLS handshake") from None
    except trio.Cancelled:
        stream.abort()
        raise
    return secured
