"""An unconnected UDP socket on the kernel, by the batch: `swarm.net.network.DatagramSocket`.

Receiving drains the socket into one reused buffer; sending hands over whole runs.  Where Linux offers it, UDP_GRO and
UDP_SEGMENT carry up to 64 datagrams a call (`swarm.net.gso`), elsewhere one call carries one.  Every datagram tells
which of our addresses it came to (IP_PKTINFO, RFC 3542 IPV6_PKTINFO), and a send may name the address it leaves from.
DF is set on IPv4 datagrams and IPv6 ones are not fragmented: whoever sends finds the path MTU itself (RFC 8899), and
marks the runs that may go in pieces.  Does not dispatch, retry or wait: see `swarm.net.mux`.
"""

from __future__ import annotations

import errno
import mmap
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeVar

import trio

from swarm.endpoint import Endpoint
from swarm.net import gso, multicast
from swarm.net.device import pin_to_device
from swarm.net.gso import Ancillary
from swarm.net.network import Buffer, Outgoing, Path, Received
from swarm.net.sockaddr import (
    WILDCARDS,
    SockAddr,
    family_of,
    from_sockaddr,
    scope_id,
    to_sockaddr,
    with_scope,
)

SOCKET_BUFFER = 4 << 20  # bytes asked for each direction; the kernel may grant less (net.core.rmem_max)
RECEIVE_BUFFER = 512 << 10  # bytes of datagrams one receive_nowait may return
RECEIVE_LIMIT = 256  # datagrams after which one receive_nowait stops
MAX_DATAGRAM = 65_536  # bytes kept free for the next datagram, or the next run of GRO
CACHED_ENDPOINTS = 4096  # remembered conversions of addresses; beyond it the cache starts anew

# linux/in.h and linux/in6.h; the socket module does not name them.
_IP_PKTINFO = 8
_IP_MTU_DISCOVER = 10
_IP_PMTUDISC_DONT = 0
_IP_PMTUDISC_PROBE = 3
_IPV6_MTU_DISCOVER = 23
_IPV6_MTU = 24
_IPV6_PMTUDISC_DONT = 0
_IPV6_PMTUDISC_PROBE = 3
_IPV6_MIN_MTU = 1280  # RFC 8200 §5: what every IPv6 path carries, and so the size of our fragments

_INT = struct.Struct("=i")
_U32 = struct.Struct("=I")
_ANCILLARY_SPACE = socket.CMSG_SPACE(20) + socket.CMSG_SPACE(4)  # bytes: the larger pktinfo, and the segment size

# What ICMP leaves on a socket; on an unconnected one it names nobody.
_REPORTED_BY_ICMP = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EMSGSIZE,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOPROTOOPT,
        errno.EACCES,
        errno.EPROTO,
        errno.ETIMEDOUT,
    }
)

K = TypeVar("K")
V = TypeVar("V")


class UdpSocket:
    """A bound UDP socket.  ``offload`` False forces one datagram a call, as on kernels that cannot do better."""

    def __init__(self, sock: socket.socket, *, offload: bool = True, local: Endpoint | None = None) -> None:
        """Takes over ``sock``, which is bound; ``local`` stands for its name when that is a multicast group."""
        sock.setblocking(False)
        self._sock = sock
        name = from_sockaddr(sock.getsockname())
        self._local = name if local is None else local
        self._v6 = sock.family == socket.AF_INET6
        self._any_address = self._local.host in WILDCARDS
        # Bound to an IPv6 group, the kernel would send from whatever address of the interface it likes best.
        self._names_source = self._any_address or (self._v6 and name.address.is_multicast)
        _prepare(sock, pktinfo=self._any_address)
        self._segments = offload and gso.can_segment(sock)
        self._gro = offload and gso.enable_gro(sock)
        self._max_segments = gso.MAX_SEGMENTS if self._segments else 1
        self._max_payload = gso.MAX_PAYLOAD_V6 if self._v6 else gso.MAX_PAYLOAD_V4
        self._space = _ANCILLARY_SPACE if self._gro or self._any_address else 0
        self._buffer = memoryview(mmap.mmap(-1, RECEIVE_BUFFER))  # takes memory as it is used: most sockets hear little
        self._paths: dict[tuple[SockAddr, bytes], Path] = {}
        self._sockaddrs: dict[Endpoint, SockAddr] = {}
        self._messages: dict[tuple[int, str | None, int | None], list[Ancillary]] = {}

    @property
    def local(self) -> Endpoint:
        return self._local

    @property
    def offload(self) -> tuple[bool, bool]:
        """Whether sends are segmented by the kernel (UDP_SEGMENT), and whether receives come as runs (UDP_GRO)."""
        return self._segments, self._gro

    @property
    def buffer_sizes(self) -> tuple[int, int]:
        """Bytes granted for receiving and for sending, bookkeeping included (Linux doubles what is asked for)."""
        return (
            self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
            self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
        )

    def receive_nowait(self) -> list[Received]:
        """What waits, up to RECEIVE_LIMIT datagrams or RECEIVE_BUFFER bytes; valid until the next call.

        Empty datagrams are passed over: none of our protocols has one.
        """
        received: list[Received] = []
        receive, buffer, space = self._sock.recvmsg_into, self._buffer, self._space
        start = count = 0
        while count < RECEIVE_LIMIT and start + MAX_DATAGRAM <= RECEIVE_BUFFER:
            try:
                size, ancillary, _, address = receive((buffer[start:],), space)
            except BlockingIOError:
                break
            except OSError as error:
                if not self._is_icmp(error):
                    raise
                count += 1  # bounded like datagrams: a stranger can make ICMP too
                continue
            count += 1
            if not size:
                continue
            segment_size, pktinfo = size, b""
            for _, kind, content in ancillary:
                if kind == gso.UDP_GRO:
                    segment_size = min(gso.unpack_segment_size(content), size)
                    count += size // segment_size
                else:
                    pktinfo = content
            path = self._paths.get((address, pktinfo)) or self._new_path(address, pktinfo)
            received.append(Received(buffer[start : start + size], segment_size, path))
            start += size
        return received

    def send_nowait(self, outgoing: Outgoing) -> None:
        """Hand one run to the kernel, in as few calls as it allows.

        Raises BlockingIOError when the send buffer is full; its ``characters_written`` is how many bytes of the run,
        whole datagrams, had been taken before.  Any other OSError ends the run where it stands.
        """
        buffers, segment_size = outgoing.buffers, outgoing.segment_size
        if segment_size < 1:
            raise ValueError("a segment has at least one byte")
        sockaddr = self._sockaddrs.get(outgoing.path.remote) or self._new_sockaddr(outgoing.path.remote)
        if len(buffers) == 1 and len(buffers[0]) <= segment_size and self._is_plain(outgoing):
            self._send_plain(buffers[0], sockaddr)
            return
        size = sum(map(len, buffers))
        if outgoing.fragment:
            self._send_fragmentable(outgoing, sockaddr)
        elif len(buffers) > gso.MAX_BUFFERS or size > self._max_segments * segment_size or size > self._max_payload:
            self._send_in_pieces(outgoing, sockaddr, max_segments=self._max_segments)
        elif size > segment_size:
            self._send_segmented(outgoing, sockaddr)
        else:
            self._send(buffers, self._ancillary(0, outgoing), sockaddr)

    async def wait_readable(self) -> None:
        self._require_open()
        await trio.lowlevel.wait_readable(self._sock)

    async def wait_writable(self) -> None:
        self._require_open()
        await trio.lowlevel.wait_writable(self._sock)

    def close(self) -> None:
        if self._sock.fileno() != -1:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    def _is_plain(self, outgoing: Outgoing) -> bool:
        """Whether nothing has to be said about it to the kernel."""
        bare = outgoing.ttl is None and not outgoing.fragment
        return bare and (not self._names_source or outgoing.path.local is None)

    def _send_plain(self, datagram: Buffer, sockaddr: SockAddr) -> None:
        try:
            self._sock.sendto(datagram, sockaddr)
        except OSError:
            self._require_open()
            raise

    def _send(self, buffers: Sequence[Buffer], ancillary: list[Ancillary], sockaddr: SockAddr) -> None:
        try:
            self._sock.sendmsg(buffers, ancillary, 0, sockaddr)
        except OSError:
            self._require_open()
            raise

    def _send_segmented(self, outgoing: Outgoing, sockaddr: SockAddr) -> None:
        try:
            self._send(outgoing.buffers, self._ancillary(outgoing.segment_size, outgoing), sockaddr)
        except OSError as error:
            # IPsec and odd devices cannot segment (EIO); a segment larger than the device's MTU was EINVAL before 6.13.
            if error.errno not in (errno.EIO, errno.EINVAL):
                raise
            self._send_in_pieces(outgoing, sockaddr, max_segments=1)

    def _send_fragmentable(self, outgoing: Outgoing, sockaddr: SockAddr) -> None:
        """DF is an option of the socket, not of a send; nothing else can leave in between."""
        self._require_open()
        _allow_fragments(self._sock, True)
        try:
            self._send_in_pieces(outgoing, sockaddr, max_segments=1)  # UDP_SEGMENT takes no segment beyond the MTU
        finally:
            _allow_fragments(self._sock, False)

    def _send_in_pieces(self, outgoing: Outgoing, sockaddr: SockAddr, *, max_segments: int) -> None:
        segment_size = outgoing.segment_size
        taken = 0
        for piece, size in gso.split_run(outgoing.buffers, segment_size, max_segments, self._max_payload):
            try:
                self._send(piece, self._ancillary(segment_size if size > segment_size else 0, outgoing), sockaddr)
            except BlockingIOError as error:
                raise BlockingIOError(error.errno, error.strerror, taken) from None
            taken += size

    def _ancillary(self, segment_size: int, outgoing: Outgoing) -> list[Ancillary]:
        """The control messages of a send; ``segment_size`` 0 leaves it whole."""
        local = outgoing.path.local if self._names_source else None
        key = (segment_size, None if local is None else local[0], outgoing.ttl)
        messages = self._messages.get(key)
        if messages is None:
            segment = [gso.segment_message(segment_size)] if segment_size else []
            messages = segment + self._source_message(key[1]) + self._ttl_message(outgoing.ttl)
            _remember(self._messages, key, messages)
        return messages

    def _source_message(self, host: str | None) -> list[Ancillary]:
        if host is None:
            return []
        if self._v6:
            bare, _, scope = host.partition("%")
            content = socket.inet_pton(socket.AF_INET6, bare) + _U32.pack(scope_id(scope))
            return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, content)]
        content = _U32.pack(0) + socket.inet_aton(host) + bytes(4)
        return [(socket.IPPROTO_IP, _IP_PKTINFO, content)]

    def _ttl_message(self, ttl: int | None) -> list[Ancillary]:
        if ttl is None:
            return []
        if self._v6:
            return [(socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT, _INT.pack(ttl))]
        return [(socket.IPPROTO_IP, socket.IP_TTL, _INT.pack(ttl))]

    def _new_sockaddr(self, remote: Endpoint) -> SockAddr:
        remote = Endpoint(*remote)
        if family_of(remote) != self._sock.family:
            raise OSError(errno.EAFNOSUPPORT, f"{remote} is of another address family than this socket")
        sockaddr = to_sockaddr(remote)
        _remember(self._sockaddrs, remote, sockaddr)
        return sockaddr

    def _new_path(self, address: SockAddr, pktinfo: bytes) -> Path:
        path = Path(self._arrived_at(pktinfo), from_sockaddr(address))
        _remember(self._paths, (address, pktinfo), path)
        return path

    def _arrived_at(self, pktinfo: bytes) -> Endpoint | None:
        """Our address in a received pktinfo; None if it names a multicast group and nothing of ours."""
        if not self._any_address:
            return self._local
        if not pktinfo:
            return None
        if not self._v6:  # struct in_pktinfo: interface index, the local address (also for multicast), the destination
            return Endpoint(socket.inet_ntoa(pktinfo[4:8]), self._local.port)
        host = socket.inet_ntop(socket.AF_INET6, pktinfo[:16])  # struct in6_pktinfo: the destination, interface index
        if host.startswith("ff"):
            return None
        return Endpoint(with_scope(host, _U32.unpack_from(pktinfo, 16)[0]), self._local.port)

    def _is_icmp(self, error: OSError) -> bool:
        self._require_open()
        return error.errno in _REPORTED_BY_ICMP

    def _require_open(self) -> None:
        if self._sock.fileno() == -1:
            raise trio.ClosedResourceError("this socket was closed")


def bind_udp(
    local: Endpoint,
    *,
    shared: bool = False,
    multicast_group: str | None = None,
    interface: str | None = None,
    device: str | None = None,
    offload: bool = True,
) -> UdpSocket:
    """A UDP socket on ``local``; see `swarm.net.network.Network.bind_udp`.  ``device`` pins it to an interface.

    With ``multicast_group`` and a ``local`` that is one address of ours, the socket is bound to the group itself (a
    socket bound to a unicast address gets no multicast on Linux) and sends from ``local``; with the wildcard address it
    also gets what is sent to us alone.
    """
    sock = socket.socket(family_of(local), socket.SOCK_DGRAM)
    try:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if device is not None:
            pin_to_device(sock, device)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        multicast.send_through(sock, local.host, interface)
        at = local
        if multicast_group is not None:
            multicast.join(sock, local.host, multicast_group, interface)
            if local.host not in WILDCARDS:
                at = multicast.scoped(Endpoint(multicast_group, local.port), interface)
        sock.bind(to_sockaddr(at))
        port = sock.getsockname()[1]
        return UdpSocket(sock, offload=offload, local=Endpoint(local.host, port))
    except BaseException:
        sock.close()
        raise


def _prepare(sock: socket.socket, *, pktinfo: bool) -> None:
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        with suppress(OSError):  # the BSDs refuse more than their limit instead of granting less
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
    if sock.family == socket.AF_INET6 and pktinfo:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    if sock.family == socket.AF_INET and sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, int(pktinfo))
    _allow_fragments(sock, False)


def _allow_fragments(sock: socket.socket, allowed: bool) -> None:
    """Let the path cut what is too large for it (IPv4), or cut it here (IPv6: routers do not); or neither."""
    linux = sys.platform == "linux"
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DONTFRAG, int(not allowed))
        if linux:
            discovery = _IPV6_PMTUDISC_DONT if allowed else _IPV6_PMTUDISC_PROBE
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, discovery)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU, _IPV6_MIN_MTU if allowed else 0)
    elif linux:
        discovery = _IP_PMTUDISC_DONT if allowed else _IP_PMTUDISC_PROBE
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, discovery)


def _remember(cache: dict[K, V], key: K, value: V) -> None:
    if len(cache) >= CACHED_ENDPOINTS:
        cache.clear()
    cache[key] = value
