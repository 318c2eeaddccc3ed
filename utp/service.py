"""µTP for trio programs: `UtpService` turns an endpoint's results into streams; `open_utp` drives one on a socket.

In a program whose socket is shared with other protocols a demultiplexer owns it: that one drives the endpoint and
calls `UtpService.publish`.  Alone on a socket, `open_utp` does both.
"""

from __future__ import annotations

import errno
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from utp.config import UtpConfig
from utp.connection import Connection, State
from utp.endpoint import Accepted, Result, UtpEndpoint
from utp.path import Address, Outgoing, Path
from utp.stream import UtpStream


class UtpService:
    """``flush`` makes the driver of ``endpoint`` collect what it has to send; `publish` is the driver's to call."""

    def __init__(self, endpoint: UtpEndpoint, flush: Callable[[], None], *, accept_backlog: int = 128) -> None:
        self._endpoint = endpoint
        self._flush = flush
        self._backlog = accept_backlog
        self._streams: dict[Connection, UtpStream] = {}
        self._accepted: deque[UtpStream] = deque()
        self._arrival = trio.lowlevel.ParkingLot()

    async def connect(
        self,
        remote: Address,
        *,
        local: Address | None = None,
        syn_times: Sequence[float] | None = None,
        syn_ttls: Sequence[int | None] = (),
        patience: float | None = None,
    ) -> UtpStream:
        """A stream to ``remote``; send something on it at once.

        `UtpEndpoint.connect` explains the options.  ConnectionLost when nobody answers ("timed-out") or somebody
        does not want us ("refused").  Cancellation gives the attempt up silently.
        """
        connection = self._endpoint.connect(
            Path(local, remote), trio.current_time(), syn_times=syn_times, syn_ttls=syn_ttls, patience=patience
        )
        stream = self._streams[connection] = UtpStream(connection, self._flush)
        self._flush()
        try:
            await stream.wait_connected()
        except BaseException:
            stream.abort()
            raise
        return stream

    async def accept(self) -> UtpStream:
        """The next inbound stream.  At most ``accept_backlog`` wait; what comes beyond is reset."""
        await trio.lowlevel.checkpoint()
        while not self._accepted:
            await self._arrival.park()
        return self._accepted.popleft()

    def publish(self, results: Iterable[Result]) -> None:
        """Wake the tasks that wait for these results."""
        for result in results:
            connection = result.connection
            if isinstance(result, Accepted):
                self._admit(connection)
                continue
            stream = self._streams.get(connection)
            if stream is not None:
                stream.notify()
                if connection.state is State.CLOSED:
                    del self._streams[connection]

    def _admit(self, connection: Connection) -> None:
        if len(self._accepted) >= self._backlog:
            connection.abort(trio.current_time())
            self._flush()
            return
        stream = self._streams[connection] = UtpStream(connection, self._flush)
        self._accepted.append(stream)
        self._arrival.unpark_all()  # one of them may be cancelled in the same moment


# A run of equal-sized datagrams from one sender (the last may be shorter): data, segment size, path.  Valid until the
# next receive.
Received = tuple[memoryview, int, Path]


class DatagramSocket(Protocol):
    """The UDP socket that `open_utp` needs; `send_nowait` raises BlockingIOError when the send buffer is full."""

    def receive_nowait(self) -> Sequence[Received]: ...

    def send_nowait(self, outgoing: Outgoing) -> None: ...

    async def wait_readable(self) -> None: ...

    async def wait_writable(self) -> None: ...


@asynccontextmanager
async def open_utp(
    socket: DatagramSocket, config: UtpConfig | None = None, rng: random.Random | None = None
) -> AsyncIterator[UtpService]:
    """A service on a socket that carries nothing else; on leaving, what is still open is reset."""
    config = config or UtpConfig()
    endpoint = UtpEndpoint(config, rng or random.SystemRandom())
    driver = _Driver(endpoint, socket)
    service = UtpService(endpoint, driver.flush, accept_backlog=config.accept_backlog)
    driver.publish = service.publish
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.read)
        nursery.start_soon(driver.keep_time)
        nursery.start_soon(driver.wait_for_buffer)
        try:
            yield service
        finally:
            endpoint.abort_all(trio.current_time())
            driver.flush()
            nursery.cancel_scope.cancel()


class _Driver:
    """Moves datagrams between one endpoint and one socket: a reader, a timer, and a wait for the send buffer."""

    def __init__(self, endpoint: UtpEndpoint, socket: DatagramSocket) -> None:
        self._endpoint = endpoint
        self._socket = socket
        self._unsent: deque[Outgoing] = deque()
        self._blocked = trio.Event()
        self._timer = trio.CancelScope()
        self.publish: Callable[[Iterable[Result]], None]

    async def read(self) -> None:
        while True:
            received = self._socket.receive_nowait()
            if not received:
                await self._socket.wait_readable()
                continue
            now = trio.current_time()
            for data, size, path in received:
                datagrams = [data[start : start + size] for start in range(0, len(data), size)]
                self._endpoint.receive_batch(datagrams, path, now)
            self.flush()
            await trio.lowlevel.checkpoint()

    async def keep_time(self) -> None:
        while True:
            with self._timer:
                await trio.sleep_forever()
            self._timer = trio.CancelScope()
            self._endpoint.handle_deadline(trio.current_time())
            self.flush()

    async def wait_for_buffer(self) -> None:
        while True:
            await self._blocked.wait()
            await self._socket.wait_writable()
            self._blocked = trio.Event()
            self.flush()

    def flush(self) -> None:
        """Send what there is until the socket is full, wake who waits, and set the timer."""
        now = trio.current_time()
        while not self._blocked.is_set():
            if not self._unsent:
                self._unsent.extend(self._endpoint.datagrams_to_send(now))
            if not self._unsent:
                break
            self._send(self._unsent[0])
        self.publish(self._endpoint.take_results())
        deadline = self._endpoint.next_deadline()
        self._timer.deadline = float("inf") if deadline is None else deadline

    def _send(self, outgoing: Outgoing) -> None:
        try:
            self._socket.send_nowait(outgoing)
        except BlockingIOError:
            self._blocked.set()
            return
        except OSError as error:
            # Whatever the kernel has against this destination, to the protocol it is a lost packet.
            if error.errno == errno.EMSGSIZE:
                self._endpoint.datagram_too_big(outgoing.path, outgoing.segment_size)
        self._unsent.popleft()
