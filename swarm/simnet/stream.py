"""The async face of simulated TCP: a half-closeable trio stream and a listener.

`SimStream` has the optional capabilities `receive_into` and `send_vectored`, not `send_file`.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from swarm.endpoint import Endpoint
from swarm.net.network import Buffer, Listener, ReceivesInto, SendsVectored, Stream
from swarm.net.one_task import OneTask
from swarm.simnet.tcp import RUN, Connection, State
from swarm.simnet.tcpstack import TcpStack

BACKLOG = 128  # connections that wait to be accepted
RECEIVE_SIZE = 64 << 10  # bytes, when the caller does not say


class SimStream(trio.abc.HalfCloseableStream):
    """One end of a TCP connection; see `swarm.net.network.Stream`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._closed = False
        self._sending = OneTask("sending on")
        self._receiving = OneTask("receiving from")

    @property
    def local(self) -> Endpoint:
        return self.connection.local

    @property
    def remote(self) -> Endpoint:
        return self.connection.remote

    def unanswered(self) -> float:
        return self.connection.unanswered()

    async def wait_connected(self) -> None:
        """Block until the handshake is over.  Raises its OSError; any failure and cancellation close the stream."""
        connection = self.connection
        try:
            while connection.state in (State.SYN_SENT, State.SYN_RECEIVED):
                await connection.writers.park()
        finally:
            if connection.state in (State.SYN_SENT, State.SYN_RECEIVED):
                self.abort()
        if connection.error is not None:
            self._closed = True
            raise connection.error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        max_bytes = RECEIVE_SIZE if max_bytes is None else operator.index(max_bytes)
        if max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._receiving:
            await self._wait_data()
            return bytes(self.connection.read(max_bytes))

    async def receive_into(self, buffer: memoryview) -> int:
        with self._receiving:
            await self._wait_data()
            filled = 0
            while filled < len(buffer):
                chunk = self.connection.read(len(buffer) - filled)
                if not chunk:
                    break
                buffer[filled : filled + len(chunk)] = chunk
                filled += len(chunk)
            return filled

    async def send_all(self, data: Buffer) -> None:
        with self._sending:
            await self._check_sendable()
            await self._send(data)

    async def send_vectored(self, buffers: Sequence[Buffer]) -> None:
        with self._sending:
            await self._check_sendable()
            for buffer in buffers:
                await self._send(buffer)

    async def wait_send_all_might_not_block(self) -> None:
        with self._sending:
            await self._check_sendable()
            while not self._writable():
                await self.connection.writers.park()

    async def send_eof(self) -> None:
        with self._sending:
            await trio.lowlevel.checkpoint()
            self._check_open()
            if self.connection.state is State.CLOSED and not self.connection.sending_ended:
                raise trio.BrokenResourceError("the connection is gone") from self.connection.error
            self.connection.shutdown()

    async def aclose(self) -> None:
        """Close; what was accepted by `send_all` is still delivered, unless received data was left unread (RST)."""
        if not self._closed:
            self._closed = True
            self.connection.close()
            self._wake()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Close at once with RST; what is queued is lost."""
        if not self._closed:
            self._closed = True
            self.connection.abort()
            self._wake()

    async def _wait_data(self) -> None:
        self._check_open()
        connection = self.connection
        if connection.readable:
            await trio.lowlevel.checkpoint()
            self._check_open()
        while not connection.readable:
            await connection.readers.park()
            self._check_open()
        if connection.error is not None and not connection.unread and not connection.end_received:
            raise trio.BrokenResourceError(str(connection.error)) from connection.error

    async def _check_sendable(self) -> None:
        await trio.lowlevel.checkpoint()
        self._writable()

    def _writable(self) -> bool:
        """Whether bytes would be taken now; raises if they never will be."""
        self._check_open()
        if self.connection.state is State.CLOSED:
            raise trio.BrokenResourceError("the connection is gone") from self.connection.error
        if self.connection.sending_ended:
            raise trio.ClosedResourceError("send_eof was called")
        return self.connection.send_space > 0

    async def _send(self, data: Buffer) -> None:
        view = memoryview(data)
        sent = 0
        while sent < len(view):
            while not self._writable():
                await self.connection.writers.park()
            part = view[sent : sent + min(self.connection.send_space, RUN)]
            self.connection.write(data if isinstance(data, bytes) and len(part) == len(data) else bytes(part))
            sent += len(part)

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")

    def _wake(self) -> None:
        self.connection.readers.unpark_all()
        self.connection.writers.unpark_all()


class SimListener:
    """A listening TCP socket with a backlog of 128; see `swarm.net.network.Listener`.

    While the backlog is full SYNs are dropped, so that the other end tries again.
    """

    def __init__(self, stack: TcpStack, local: Endpoint) -> None:
        self.backlog = BACKLOG
        self._stack = stack
        self._local = stack.listening_endpoint(local)
        self._established: deque[Connection] = deque()
        self._waiting = trio.lowlevel.ParkingLot()
        self._closed = False
        stack.add_listener(self)

    @property
    def local(self) -> Endpoint:
        return self._local

    @property
    def full(self) -> bool:
        return len(self._established) >= self.backlog

    async def accept(self) -> SimStream:
        await trio.lowlevel.checkpoint()
        while True:
            if self._closed:
                raise trio.ClosedResourceError("this listener was closed")
            if self._established:
                return SimStream(self._established.popleft())
            await self._waiting.park()

    def close(self) -> None:
        """Stop listening; connections that nobody accepted are reset.  Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._stack.remove_listener(self)
        for connection in self._established:
            connection.abort()
        self._established.clear()
        self._waiting.unpark_all()

    def offer(self, connection: Connection) -> bool:
        """Queue an established connection; False if it cannot be accepted any more."""
        if self._closed:
            return False
        self._established.append(connection)
        self._waiting.unpark()
        return True


if TYPE_CHECKING:
    _is_a_stream: type[Stream] = SimStream
    _receives_into: type[ReceivesInto] = SimStream
    _sends_vectored: type[SendsVectored] = SimStream
    _is_a_listener: type[Listener] = SimListener
