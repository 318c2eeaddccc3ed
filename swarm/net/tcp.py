"""TCP on the kernel: a stream, a listener, a dial (RFC 9293; socket rules of Linux from the field notes).

Listening and dialling sockets carry SO_REUSEADDR and SO_REUSEPORT, so that a dial may leave from the listening port:
that is what keeps one NAT mapping for both directions and makes simultaneous open possible.
Does not choose ports, race addresses or encrypt.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled, wait_readable, wait_writable

from swarm.endpoint import Endpoint
from swarm.net.device import pin_to_device
from swarm.net.network import Buffer
from swarm.net.one_task import OneTask
from swarm.net.sockaddr import family_of, from_sockaddr, to_sockaddr

T = TypeVar("T")

DEFAULT_RECEIVE_SIZE = 65536  # bytes, of receive_some without a size
IOV_MAX = os.sysconf("SC_IOV_MAX")  # buffers one sendmsg takes
LISTEN_BACKLOG = 1024  # connections; the kernel lowers it to net.core.somaxconn
NO_HANDLES_PAUSE = 0.1  # seconds between tries to accept while the process has no file handle left

_NO_HANDLES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
# A connection that died in the backlog; accept(2): "treat them like EAGAIN".
_DIED_IN_BACKLOG = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPERM,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ETIMEDOUT,
    }
)
# What sendfile reports about its socket; all else is about the file.
_CONNECTION_LOST = frozenset(
    {
        errno.EPIPE,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ENETDOWN,
    }
)
_ABORT_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds
_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h
_TCPI_RTT = struct.Struct("=68xI")  # struct tcp_info of linux/tcp.h up to tcpi_rtt, microseconds
_TCPI_UNACKED = struct.Struct("=24xI28xI")  # the same: tcpi_unacked, packets; tcpi_last_ack_recv, milliseconds


class TcpStream(trio.abc.HalfCloseableStream):
    """A connected TCP socket as `swarm.net.network.Stream`, with all three optional capabilities.

    Each call tries the system call first and waits for readiness only when it would block.  Every call is a full trio
    checkpoint, so that one fast peer cannot keep all others from running.  Leaving the schedule point out was measured
    and is no gain: 1.6 instead of 2.2 GB/s at 64 KiB a call, since the pause lets more bytes gather for the next one.
    """

    def __init__(self, sock: socket.socket, local: Endpoint, remote: Endpoint) -> None:
        """Takes over ``sock``, which is connected."""
        sock.setblocking(False)  # an accepted socket does not inherit it
        self._sock = sock
        self._local = local
        self._remote = remote
        self._sending = OneTask("sending on")
        self._sent_eof = False
        with suppress(OSError):  # the other end may have reset it already; the first call will say so
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._under_way_since: float | None = None

    @property
    def local(self) -> Endpoint:
        return self._local

    @property
    def remote(self) -> Endpoint:
        return self._remote

    def round_trip(self) -> float | None:
        """Seconds, as the kernel measures them; None where it does not say, and once closed."""
        if sys.platform != "linux" or self._sock.fileno() == -1:
            return None
        told = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCPI_RTT.size)
        microseconds: int = _TCPI_RTT.unpack(told)[0]
        return microseconds / 1e6 or None

    def unanswered(self) -> float:
        """Not by TCP_USER_TIMEOUT, which ends connections to slow readers, too, although they answer every probe."""
        if sys.platform != "linux" or self._sock.fileno() == -1:
            return 0.0
        told = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCPI_UNACKED.size)
        unacknowledged, milliseconds = _TCPI_UNACKED.unpack(told)
        if not unacknowledged:
            self._under_way_since = None
            return 0.0
        now = trio.current_time()
        if self._under_way_since is None:
            self._under_way_since = now
        return float(min(milliseconds / 1000, now - self._under_way_since))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is None:
            max_bytes = DEFAULT_RECEIVE_SIZE
        if max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        return await self._attempt(wait_readable, self._sock.recv, max_bytes)

    async def receive_into(self, buffer: memoryview) -> int:
        """Fill the front of ``buffer``; the count, 0 after the other end's half-close.  Cancellation loses nothing."""
        if not buffer:
            raise ValueError("an empty buffer would read as the end of the stream")
        return await self._attempt(wait_readable, self._sock.recv_into, buffer)

    async def send_all(self, data: Buffer) -> None:
        await self.send_vectored((data,))

    async def send_vectored(self, buffers: Sequence[Buffer]) -> None:
        """Send ``buffers`` in order without joining them; cancelled, the stream may have sent a part."""
        with self._sending:
            self._require_not_ended()
            unsent = [view for view in (memoryview(buffer).cast("B") for buffer in buffers) if view.nbytes]
            if not unsent:
                self._require_open()
                await checkpoint()
            while unsent:
                _advance(unsent, await self._attempt(wait_writable, self._sock.sendmsg, unsent[:IOV_MAX]))

    async def send_file(self, fd: int, offset: int, count: int) -> None:
        """Send ``count`` bytes of the open file from ``offset``, in the kernel.

        Pages that are not in the page cache are read from the disk in this thread.  Raises OSError for a fault of the
        file: EIO if it ends early, else what the kernel says.  Cancelled, the stream may have sent a part.
        """
        with self._sending:
            self._require_not_ended()
            self._require_open()
            if not count:
                await checkpoint()
            while count:
                sent = await self._attempt(wait_writable, self._sendfile, fd, offset, count)
                if sent == 0:
                    raise OSError(errno.EIO, f"the file ends {count} bytes early")
                offset += sent
                count -= sent

    async def wait_send_all_might_not_block(self) -> None:
        with self._sending:
            self._require_open()
            await wait_writable(self._sock)

    async def send_eof(self) -> None:
        with self._sending:
            await checkpoint()
            if not self._sent_eof:
                self._shut_down_writing()

    async def aclose(self) -> None:
        """Close; the kernel goes on delivering what was sent.  Cancellation does not keep it from closing."""
        self._close()
        await checkpoint()

    def abort(self) -> None:
        """Close with RST at once: nothing unsent lingers, and no TIME_WAIT blocks a new dial between the same ports."""
        if self._sock.fileno() != -1:
            with suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT_ON_CLOSE)
            self._close()

    async def _attempt(self, wait: Callable[[socket.socket], Awaitable[None]], call: Callable[..., T], *args: Any) -> T:
        """The result of a system call as soon as it does not block; always a full checkpoint."""
        await checkpoint_if_cancelled()
        waited = False
        while True:
            try:
                result = call(*args)
            except BlockingIOError:
                self._require_open()
                await wait(self._sock)
                waited = True
            except OSError as error:
                raise self._translated(error) from error
            else:
                if not waited:
                    await cancel_shielded_checkpoint()
                return result

    def _translated(self, error: OSError) -> Exception:
        if self._sock.fileno() == -1:
            return trio.ClosedResourceError("this stream was closed")
        if isinstance(error, _FileFault):
            return OSError(error.errno, error.strerror)
        return trio.BrokenResourceError(f"connection broken: {error}")

    def _sendfile(self, fd: int, offset: int, count: int) -> int:
        try:
            return os.sendfile(self._sock.fileno(), fd, offset, count)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno in _CONNECTION_LOST:
                raise
            raise _FileFault(error.errno, error.strerror) from error

    def _shut_down_writing(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._translated(error) from error
        self._sent_eof = True

    def _require_not_ended(self) -> None:
        if self._sent_eof:
            raise trio.ClosedResourceError("nothing can be sent after send_eof")

    def _require_open(self) -> None:
        if self._sock.fileno() == -1:
            raise trio.ClosedResourceError("this stream was closed")

    def _close(self) -> None:
        if self._sock.fileno() != -1:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


class TcpListener:
    """A listening TCP socket as `swarm.net.network.Listener`."""

    def __init__(self, sock: socket.socket) -> None:
        """Takes over ``sock``, which listens and is non-blocking."""
        self._sock = sock
        self._local = from_sockaddr(sock.getsockname())

    @property
    def local(self) -> Endpoint:
        return self._local

    async def accept(self) -> TcpStream:
        """The next inbound stream; trio.ClosedResourceError once closed.

        Connections that die in the backlog are passed over.  While no file handle is left the backlog waits, and we
        look again every 100 ms: nothing tells when one becomes free.
        """
        await checkpoint()
        while True:
            if self._sock.fileno() == -1:
                raise trio.ClosedResourceError("this listener was closed")
            try:
                sock, address = self._sock.accept()
                return TcpStream(sock, from_sockaddr(sock.getsockname()), from_sockaddr(address))
            except BlockingIOError:
                await wait_readable(self._sock)
            except OSError as error:
                await self._wait_out(error)

    def close(self) -> None:
        """Free the port; a task in ``accept`` gets trio.ClosedResourceError.  Accepted streams live on."""
        if self._sock.fileno() != -1:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    async def _wait_out(self, error: OSError) -> None:
        if error.errno in _NO_HANDLES:
            await trio.sleep(NO_HANDLES_PAUSE)
        elif error.errno in _DIED_IN_BACKLOG:
            await checkpoint()
        else:
            raise error


def listen_tcp(local: Endpoint, *, device: str | None = None) -> TcpListener:
    """Listen on ``local``; SO_REUSEADDR and SO_REUSEPORT are set, so that `dial_tcp` may leave from it.

    On Linux anybody of the same user may then listen on the same port: the UDP socket is the lock (`open_ports`).
    Raises OSError.
    """
    sock = _tcp_socket(local, device)
    try:
        _share_port(sock)
        sock.bind(to_sockaddr(local))
        sock.listen(LISTEN_BACKLOG)
        return TcpListener(sock)
    except BaseException:
        sock.close()
        raise


async def dial_tcp(remote: Endpoint, *, local: Endpoint | None = None, device: str | None = None) -> TcpStream:
    """Connect to ``remote``, from ``local`` when given; ``local.port`` 0 leaves the port to the kernel.

    Raises OSError as the kernel does.  A connection that met itself (a dial to a port of ours that nobody listens on)
    counts as refused.  Cancellation closes the socket.
    """
    sock = _tcp_socket(remote, device)
    try:
        if local is not None:
            _bind_for_dial(sock, local)
        await _connect(sock, remote)
        ours, theirs = from_sockaddr(sock.getsockname()), from_sockaddr(sock.getpeername())
        if ours == theirs:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "the connection met itself")
        return TcpStream(sock, ours, theirs)
    except BaseException:
        sock.close()
        raise


async def _connect(sock: socket.socket, remote: Endpoint) -> None:
    await checkpoint()
    try:
        sock.connect(to_sockaddr(remote))
        return
    except BlockingIOError:
        await wait_writable(sock)
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _tcp_socket(endpoint: Endpoint, device: str | None) -> socket.socket:
    sock = socket.socket(family_of(endpoint), socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if device is not None:
            pin_to_device(sock, device)
        return sock
    except BaseException:
        sock.close()
        raise


def _bind_for_dial(sock: socket.socket, local: Endpoint) -> None:
    if local.port:
        _share_port(sock)
    elif sys.platform == "linux":
        # Pick the port at connect: one that is taken towards another remote will do, so ports do not run out.
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
    sock.bind(to_sockaddr(local))


def _share_port(sock: socket.socket) -> None:
    # REUSEPORT alone would do on Linux while both sockets live; REUSEADDR is for the TIME_WAIT of earlier connections.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _advance(unsent: list[memoryview], count: int) -> None:
    """Drop the first ``count`` bytes."""
    done = 0
    while done < len(unsent) and count >= unsent[done].nbytes:
        count -= unsent[done].nbytes
        done += 1
    del unsent[:done]
    if count:
        unsent[0] = unsent[0][count:]


class _FileFault(OSError):
    """What sendfile reported about its file, not about the connection."""
