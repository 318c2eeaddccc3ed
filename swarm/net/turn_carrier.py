"""How frames travel between us and a TURN server (RFC 8656): as datagrams over UDP, or in a row on a stream."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Protocol

import trio

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.net.network import Buffer, DatagramSocket, Outgoing, Path, Stream
from swarm.net.secured import tls_failure
from swarm.wire.turn import FrameReader
from swarm.wire.turn_uri import TurnTransport

SEND_BUFFER = 256 << 10
"""Bytes that wait to leave over TCP or TLS; beyond it sending would block."""

READ_SIZE = 64 << 10


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


class Datagrams:
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


class Frames:
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
