"""An allocation on a TURN server as a `DatagramSocket` (RFC 8656): the async face of `swarm.net.turn_client`.

What peers send to the relayed address is what the socket receives; what the socket sends leaves from there.  Made by
`swarm.net.turn_opening`, which also finds the way to the server.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterable
from contextlib import suppress

import trio

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.net.network import Outgoing, Path, Received
from swarm.net.turn_carrier import Carrier
from swarm.net.turn_client import Allocated, Ended, Redirected, TurnClient
from swarm.net.turn_peers import PeerRefused
from swarm.wire.turn_uri import TurnServer, TurnTransport

RECEIVE_BUFFER = 4 << 20
"""Bytes that wait to be read; beyond it datagrams are dropped and counted."""

MAX_PATHS = 1024
"""Peers whose address is kept at hand."""


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
            if len(self._paths) >= MAX_PATHS:
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
