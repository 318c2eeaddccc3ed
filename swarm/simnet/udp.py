"""UDP of one simulated host: binding, port conflicts, bounded receive buffers, multicast.

ICMP does not exist here: a datagram to a closed port is counted ("no-socket") and nobody is told, which is all that an
unconnected socket sees on a real network too.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING

import trio

from swarm.endpoint import Endpoint
from swarm.net.network import DatagramSocket, Outgoing, Path, Received
from swarm.simnet.packet import DEFAULT_TTL, Packet, is_multicast, is_wildcard
from swarm.simnet.ports import free_port, os_error

if TYPE_CHECKING:
    from swarm.simnet.host import Host

RECEIVE_BUFFER = 1 << 20  # bytes that wait unread in one socket
SEND_BUFFER = 212_992  # bytes on the host's own line beyond which sending would block: Linux's wmem_default
RECEIVE_BATCH = 256  # runs handed over at once


class SimDatagramSocket:
    """A UDP socket; see `swarm.net.network.DatagramSocket`.

    A run that met no link with effects of its own arrives as one `Received`, as with GRO.  What does not fit into
    ``receive_buffer`` bytes is dropped and counted.
    """

    def __init__(self, host: Host, local: Endpoint, shared: bool, group: str | None, interface: str | None) -> None:
        self.host = host
        self.shared = shared
        self.group = group
        self.interface = interface
        self.receive_buffer = RECEIVE_BUFFER
        self._local = local
        self._is_ipv6 = local.is_ipv6
        self._wildcard = is_wildcard(local.host) or is_multicast(local.host)
        self._waiting: deque[Received] = deque()
        self._waiting_bytes = 0
        self._readers = trio.lowlevel.ParkingLot()
        self._closed = False

    @property
    def local(self) -> Endpoint:
        return self._local

    def receive_nowait(self) -> list[Received]:
        """Up to 256 runs; an empty list when nothing waits.  trio.ClosedResourceError after `close`."""
        self._check_open()
        waiting = self._waiting
        batch = [waiting.popleft() for _ in range(min(len(waiting), RECEIVE_BATCH))]
        self._waiting_bytes = sum(len(received.data) for received in waiting) if waiting else 0
        return batch

    def send_nowait(self, outgoing: Outgoing) -> None:
        """Put one run on its way.

        BlockingIOError while the host's own line has more than 212,992 bytes waiting.  OSError: EMSGSIZE for datagrams
        beyond the line's MTU, ENETUNREACH without a source address, EAFNOSUPPORT for the other family, EINVAL for a
        port out of range, EBADF after `close`.
        """
        self._check_usable()
        buffers, segment_size, path, ttl, _, fragment = outgoing
        remote = Endpoint(*path.remote)  # the leaf packages give plain tuples
        source = self._source(path, remote)
        payload = bytes(buffers[0]) if len(buffers) == 1 else b"".join(buffers)
        packet = Packet(source, remote, payload, max(segment_size, 1), DEFAULT_TTL if ttl is None else ttl, fragment)
        port = self.host.port_of(source.host)
        if port is not None:
            if packet.largest > port.up.link.mtu and not fragment:
                raise os_error(errno.EMSGSIZE)
            if port.up.backlog > SEND_BUFFER:
                raise BlockingIOError(errno.EAGAIN, "the line is full")
        if packet.multicast:
            self.host.udp.loop_multicast(packet)
        self.host.send(packet)

    async def wait_readable(self) -> None:
        self._check_open()
        if self._waiting:
            await trio.lowlevel.checkpoint()
        else:
            await self._readers.park()
            self._check_open()

    async def wait_writable(self) -> None:
        """Block until half of what fits has left every line of the host."""
        self._check_open()
        lines = [attachment.port.up for attachment in self.host.attachments]
        await trio.sleep(max((line.seconds_to_drain(SEND_BUFFER // 2) for line in lines), default=0.0))
        self._check_open()

    def close(self) -> None:
        """Free the port; what waits is lost.  Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._waiting.clear()
            self.host.udp.unbind(self)
            self._readers.unpark_all()

    def deliver(self, packet: Packet) -> None:
        """Take a packet that is for us."""
        size = len(packet.payload)
        if self._waiting_bytes + size > self.receive_buffer:
            self.host.internet.drop(packet, "receive-buffer-full", self.host.name)
            return
        self._waiting_bytes += size
        local: Endpoint | None = packet.destination
        if packet.multicast:
            source = self.host.find_source(packet.source.host, self.interface)
            local = None if source is None else Endpoint(source, self._local.port)
        path = Path(local, packet.source)
        self._waiting.append(Received(memoryview(packet.payload), packet.segment_size, path))
        if self._readers:
            self._readers.unpark_all()

    def takes(self, packet: Packet) -> bool:
        """Whether a packet that has our port is for us."""
        host = packet.destination.host
        if packet.multicast:
            return self.group == host
        return self._local.host == host or (self._wildcard and self._is_ipv6 == (":" in host))

    def conflicts(self, local: Endpoint, shared: bool) -> bool:
        """Whether our bind keeps another socket from ``local``, which has our port."""
        if self._is_ipv6 != local.is_ipv6 or (shared and self.shared):
            return False
        return self._wildcard or is_wildcard(local.host) or self._local.host == local.host

    def _source(self, path: Path, remote: Endpoint) -> Endpoint:
        if (":" in remote.host) != self._is_ipv6:
            raise os_error(errno.EAFNOSUPPORT)
        if not 0 < remote.port <= 65535:
            raise os_error(errno.EINVAL)
        if path.local is not None and not is_wildcard(path.local.host):
            return Endpoint(path.local.host, self._local.port)
        if not self._wildcard:
            return self._local
        return Endpoint(self.host.source_for(remote.host, self.interface), self._local.port)

    def _check_usable(self) -> None:
        if self._closed:
            raise os_error(errno.EBADF)

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this socket was closed")


class UdpStack:
    """The UDP ports of one host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._sockets: dict[int, list[SimDatagramSocket]] = {}

    def bind(
        self, local: Endpoint, *, shared: bool, multicast_group: str | None, interface: str | None
    ) -> SimDatagramSocket:
        """A socket on ``local``.  OSError: EADDRINUSE, EADDRNOTAVAIL, ENODEV for an unknown interface."""
        self.host.check_bindable(local.host)
        if interface is not None and not self.host.has_interface(interface):
            raise os_error(errno.ENODEV)
        if local.port == 0:
            free = free_port(
                self.host.internet.dice, lambda port: self._taken(Endpoint(local.host, port), shared=False)
            )
            local = Endpoint(local.host, free)
        elif self._taken(local, shared=shared):
            raise os_error(errno.EADDRINUSE)
        bound = SimDatagramSocket(self.host, local, shared, multicast_group, interface)
        self._sockets.setdefault(local.port, []).append(bound)
        return bound

    def unbind(self, closed: SimDatagramSocket) -> None:
        """Forget a closed socket."""
        sockets = self._sockets[closed.local.port]
        sockets.remove(closed)
        if not sockets:
            del self._sockets[closed.local.port]

    def receive(self, packet: Packet) -> None:
        """Hand a packet to its socket, a multicast to all that joined the group."""
        for bound in self._sockets.get(packet.destination.port, ()):
            if bound.takes(packet):
                bound.deliver(packet)
                if not packet.multicast:
                    return
        if not packet.multicast:
            self.host.internet.drop(packet, "no-socket", self.host.name)

    def loop_multicast(self, packet: Packet) -> None:
        """Our own members hear what we say to their group (IP_MULTICAST_LOOP)."""
        for bound in self._sockets.get(packet.destination.port, ()):
            if bound.takes(packet):
                bound.deliver(packet)

    def _taken(self, local: Endpoint, *, shared: bool) -> bool:
        return any(bound.conflicts(local, shared) for bound in self._sockets.get(local.port, ()))


if TYPE_CHECKING:
    _is_a_datagram_socket: type[DatagramSocket] = SimDatagramSocket
