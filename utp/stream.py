"""`UtpStream`: a connection as a `trio.abc.HalfCloseableStream`.

The core does everything; here tasks wait for it.  ``flush`` is called after each local action: it makes the owner of
the socket collect what the endpoint has to send, at once or soon.  Whoever drives the core calls `notify` on a change.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from types import TracebackType

import trio

from utp.connection import Connection, ConnectionStatistics, State
from utp.path import Address, Buffer

RECEIVE_SIZE = 1 << 20  # the most bytes that receive_some gives when it is not told


class UtpStream(trio.abc.HalfCloseableStream):
    """A reliable byte stream over µTP.

    Who opened the stream must send at once: libutp hangs up after three seconds without data and speaks second.
    trio.BrokenResourceError (its ``__cause__`` a `ConnectionLost`) when the other end or the path is at fault,
    trio.ClosedResourceError after our own close, trio.BusyResourceError for two tasks in one direction.
    """

    __slots__ = ("_arrived", "_closed", "_drained", "_flush", "_receiving", "_sending", "_shut", "connection")

    def __init__(self, connection: Connection, flush: Callable[[], None]) -> None:
        self.connection = connection
        self._flush = flush
        self._arrived = trio.lowlevel.ParkingLot()
        self._drained = trio.lowlevel.ParkingLot()
        self._receiving = _OneTask("another task is receiving on this stream")
        self._sending = _OneTask("another task is sending on this stream")
        self._closed = False
        self._shut = False

    @property
    def local(self) -> Address | None:
        """The address of ours that the other end sends to, if the socket could tell."""
        return self.connection.path.local

    @property
    def remote(self) -> Address:
        return self.connection.path.remote

    @property
    def closed(self) -> bool:
        """Whether this end has closed it; what it still delivers then is nobody's concern any more."""
        return self._closed

    def statistics(self) -> ConnectionStatistics:
        return self.connection.statistics()

    def round_trip(self) -> float | None:
        """Seconds to the other end and back, smoothed (RFC 6298); None before the first measurement."""
        return self.statistics().round_trip or None

    def notify(self) -> None:
        """The connection changed: let the waiting tasks look."""
        self._arrived.unpark_all()
        self._drained.unpark_all()

    async def wait_connected(self) -> None:
        """Return when the connection stands; ConnectionLost if it came to nothing.  Cancellation leaves it dialling."""
        while self.connection.state is State.SYN_SENT:
            await self._arrived.park()
        if self.connection.error is not None:
            raise self.connection.error

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """At least one byte, in as large a piece as arrived; b"" after the other end's half-close."""
        limit = RECEIVE_SIZE if max_bytes is None else operator.index(max_bytes)
        if limit < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._receiving:
            await self._wait_readable()
            data = self.connection.receive(limit)
            self._flush_if_due()
            return data if isinstance(data, bytes) else bytes(data)

    async def receive_into(self, buffer: memoryview) -> int:
        """Fill the front of ``buffer`` with what is there; the count, 0 after the other end's half-close."""
        with self._receiving:
            await self._wait_readable()
            count = self.connection.receive_into(buffer)
            self._flush_if_due()
            return count

    async def send_all(self, data: Buffer) -> None:
        """Returns when all bytes are accepted.  After cancellation a part may have been sent.

        A short message on an idle stream leaves in a packet of its own, whatever is sent right after it.
        ``bytes`` are sent without being copied; other buffers are copied before this returns.
        """
        await self.send_vectored((data,))

    async def send_vectored(self, buffers: Sequence[Buffer]) -> None:
        """As `send_all` for the concatenation of ``buffers``, without joining them."""
        with self._sending:
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            connection = self.connection
            for buffer in buffers:
                sent = connection.send(buffer)
                if sent == len(buffer):
                    continue
                rest = memoryview(buffer).cast("B")[sent:]
                while rest:
                    await self._wait_writable()
                    rest = rest[connection.send(rest) :]
            connection.end_packet()
            self._flush()

    async def wait_send_all_might_not_block(self) -> None:
        with self._sending:
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            if not self.connection.writable:
                self.connection.request_space()
                await self._wait_writable()

    async def send_eof(self) -> None:
        """Finish our direction; the other end reads b"" once it has everything."""
        with self._sending:
            await trio.lowlevel.checkpoint()
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed")
            if not self._shut:
                self._check_sendable()
                self._shut = True
                self.connection.shutdown()
                self._flush()

    async def aclose(self) -> None:
        """Close without waiting: what was accepted goes on being delivered by whoever drives the endpoint."""
        if not self._closed:
            self._closed = True
            self.connection.close(trio.current_time())
            self._flush()
            self.notify()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Reset the connection; nothing more is delivered.  Safe to call twice."""
        self._closed = True
        self.connection.abort(trio.current_time())
        self._flush()
        self.notify()

    async def _wait_readable(self) -> None:
        if self._is_readable():
            await trio.lowlevel.checkpoint()
        while not self._is_readable():
            await self._arrived.park()

    def _is_readable(self) -> bool:
        """Whether there are bytes or the end; raises if neither will ever come."""
        connection = self.connection
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if connection.unread:
            return True
        if connection.error is not None:
            raise trio.BrokenResourceError(str(connection.error)) from connection.error
        return connection.at_eof or connection.state is State.CLOSED

    async def _wait_writable(self) -> None:
        self._flush()
        while not self.connection.writable:
            await self._drained.park()
            self._check_sendable()

    def _check_sendable(self) -> None:
        connection = self.connection
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._shut:
            raise trio.ClosedResourceError("this stream's sending side was closed")
        if connection.error is not None:
            raise trio.BrokenResourceError(str(connection.error)) from connection.error

    def _flush_if_due(self) -> None:
        if self.connection.has_window_news:
            self._flush()


class _OneTask:
    """Admits one task at a time."""

    __slots__ = ("_message", "_taken")

    def __init__(self, message: str) -> None:
        self._message = message
        self._taken = False

    def __enter__(self) -> None:
        if self._taken:
            raise trio.BusyResourceError(self._message)
        self._taken = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        self._taken = False
