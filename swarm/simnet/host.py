"""A host of the simulated internet; it *is* a `swarm.net.network.Network`, so a whole node runs on it unchanged.

Addresses, interfaces, routes and names are here; sockets are in `udp` and `stream`.  The loopback interface is
always there.
Not simulated: link-local addresses, IPv6 temporary addresses, thread-based look-ups.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, NamedTuple

import trio

from swarm.endpoint import Endpoint, normalise_host
from swarm.net.network import Gateway, Interface, InterfaceAddress, Network
from swarm.simnet.link import Link
from swarm.simnet.packet import Packet, TcpSegment, is_loopback, is_multicast, is_wildcard
from swarm.simnet.ports import os_error
from swarm.simnet.stream import SimListener, SimStream
from swarm.simnet.switch import Port, Switch
from swarm.simnet.tcpstack import TcpStack
from swarm.simnet.udp import SimDatagramSocket, UdpStack

if TYPE_CHECKING:
    from swarm.simnet.internet import Internet

LOOPBACK_DELAY = 20e-6  # seconds
RESOLVE_DELAY = 0.02  # seconds that a look-up takes
PREFIX_LENGTHS = {False: 24, True: 64}  # by is_ipv6: the networks of this internet are all of one size


class Attachment(NamedTuple):
    """A network interface: its name, its place on a switch, and its addresses, the preferred one first."""

    interface: str
    port: Port
    addresses: list[str]


class Host:
    """A machine: interfaces, addresses, UDP and TCP.  Made by `Internet.host`.

    Packets leave by the interface that has their source address.  A socket bound to a wildcard address sends from the
    first address of the destination's family; without one it gets ENETUNREACH.
    """

    def __init__(self, internet: Internet, name: str) -> None:
        self.internet = internet
        self.name = name
        self.attachments: list[Attachment] = []
        self.udp = UdpStack(self)
        self.tcp = TcpStack(self)
        self._by_address: dict[str, Attachment] = {}
        self._address_change = trio.Event()

    # ---- the Network protocol

    async def bind_udp(
        self, local: Endpoint, *, shared: bool = False, multicast_group: str | None = None, interface: str | None = None
    ) -> SimDatagramSocket:
        """See `Network.bind_udp`.  Only ``shared`` sockets share a port, and multicast reaches each that joined."""
        await trio.lowlevel.checkpoint()
        return self.udp.bind(local, shared=shared, multicast_group=multicast_group, interface=interface)

    async def listen_tcp(self, local: Endpoint) -> SimListener:
        """See `Network.listen_tcp`.  Of several listeners on one endpoint each connection goes to one at random."""
        await trio.lowlevel.checkpoint()
        return SimListener(self.tcp, local)

    async def dial_tcp(self, remote: Endpoint, *, local: Endpoint | None = None) -> SimStream:
        """See `Network.dial_tcp`.  SYNs are resent as Linux does: ETIMEDOUT after 127 s."""
        await trio.lowlevel.checkpoint_if_cancelled()
        stream = SimStream(self.tcp.connect(remote, local))
        await stream.wait_connected()
        return stream

    async def resolve(self, host: str, port: int) -> list[Endpoint]:
        """See `Network.resolve`; the names are those given to `Internet.name`, and "localhost"."""
        try:
            literal = normalise_host(host)
        except ValueError:
            pass
        else:
            await trio.lowlevel.checkpoint()
            return [Endpoint(literal, port)]
        await trio.sleep(RESOLVE_DELAY)
        addresses = ["127.0.0.1", "::1"] if host == "localhost" else self.internet.names.get(host)
        if addresses is None:
            raise socket.gaierror(socket.EAI_NONAME, f"{host}: name not known")
        return [Endpoint(address, port) for address in addresses]

    def interfaces(self) -> list[Interface]:
        loopback = (InterfaceAddress("127.0.0.1", 8), InterfaceAddress("::1", 128))
        found = [Interface("lo", 1, True, True, False, loopback)]
        for index, (name, port, addresses) in enumerate(self.attachments, start=2):
            listed = tuple(InterfaceAddress(host, PREFIX_LENGTHS[":" in host]) for host in addresses)
            found.append(Interface(name, index, port.up.up, False, True, listed))
        return found

    def gateways(self) -> list[Gateway]:
        """The LAN's router; on the core the first address of the host's /24, where nobody answers."""
        found = []
        for name, port, addresses in self.attachments:
            if not port.up.up:
                continue
            routers = port.switch.router_addresses
            ipv4 = next((host for host in addresses if ":" not in host), None)
            if routers:
                found += [Gateway(router, name) for router in routers if router not in addresses]
            elif ipv4 is not None:
                found.append(Gateway(f"{ipv4.rpartition('.')[0]}.1", name))
        return found

    async def wait_address_change(self) -> None:
        await self._address_change.wait()

    # ---- changing the machine

    def attach(
        self,
        switch: Switch,
        *addresses: str,
        link: Link | None = None,
        down: Link | None = None,
        interface: str = "eth0",
    ) -> Port:
        """Plug an interface named ``interface`` into ``switch``.  ValueError if the host has that interface."""
        if any(attachment.interface == interface for attachment in self.attachments):
            raise ValueError(f"{self.name} has an interface {interface!r} already")
        port = self.internet.port(switch, f"{self.name}/{interface}", link, down)
        port.receive = self.receive
        self.attachments.append(Attachment(interface, port, []))
        for address in addresses:
            self.add_address(address, interface=interface)
        return port

    def add_address(self, address: str, *, interface: str = "eth0") -> None:
        """Give the interface one more address, after those it has.  Wakes `wait_address_change`."""
        host = normalise_host(address)
        attachment = self._attachment(interface)
        attachment.port.switch.add_route(host, attachment.port)
        attachment.addresses.append(host)
        self._by_address[host] = attachment
        self._changed()

    def remove_address(self, address: str) -> None:
        """Take an address away.  Sockets bound to it stay, but send and receive nothing.  Wakes as `add_address`."""
        host = normalise_host(address)
        attachment = self._by_address.pop(host)
        attachment.addresses.remove(host)
        attachment.port.switch.remove_route(host, attachment.port)
        self._changed()

    def connect(self, connected: bool, *, interface: str = "eth0") -> None:
        """Pull the interface's cable, or put it back.  Wakes as `add_address`."""
        self._attachment(interface).port.connect(connected)
        self._changed()

    def port(self, interface: str = "eth0") -> Port:
        """The interface's lines: their counters, `Line.drop_if`, `Line.change`."""
        return self._attachment(interface).port

    @property
    def ipv4(self) -> str:
        """The first IPv4 address; LookupError without one."""
        return next(host for host in self._by_address if ":" not in host)

    @property
    def ipv6(self) -> str:
        """The first IPv6 address; LookupError without one."""
        return next(host for host in self._by_address if ":" in host)

    # ---- for the sockets

    def owns(self, host: str) -> bool:
        """Whether packets to this address are ours."""
        return host in self._by_address or is_loopback(host)

    def has_interface(self, name: str) -> bool:
        """Whether there is an interface of that name."""
        return name == "lo" or any(attachment.interface == name for attachment in self.attachments)

    def check_bindable(self, host: str) -> None:
        """Raise OSError(EADDRNOTAVAIL) for an address that is not ours."""
        if not (is_wildcard(host) or is_multicast(host) or self.owns(host)):
            raise os_error(errno.EADDRNOTAVAIL)

    def source_for(self, remote: str, interface: str | None = None) -> str:
        """The address we send from to ``remote``; OSError(ENETUNREACH) if we have none of its family."""
        source = self.find_source(remote, interface)
        if source is None:
            raise os_error(errno.ENETUNREACH)
        return source

    def find_source(self, remote: str, interface: str | None = None) -> str | None:
        """As `source_for`, but None if there is none."""
        if is_loopback(remote) or remote in self._by_address:
            return remote
        family = ":" in remote
        for attachment in self.attachments:
            if interface is None or attachment.interface == interface:
                for host in attachment.addresses:
                    if (":" in host) == family:
                        return host
        return None

    def port_of(self, source: str) -> Port | None:
        """The port that packets from ``source`` leave by; None: they stay on the host or cannot leave."""
        attachment = self._by_address.get(source)
        return attachment.port if attachment is not None else None

    def mtu_from(self, source: str) -> int:
        """Bytes: what the interface with this address takes."""
        port = self.port_of(source)
        return 65535 if port is None else port.up.link.mtu

    def send(self, packet: Packet) -> None:
        """Put a packet on its way.  OSError(ENETUNREACH) if its source address is no longer ours."""
        destination = packet.destination.host
        if self.internet.trace is not None:
            self.internet.note(packet, "sent", self.name)
        attachment = self._by_address.get(packet.source.host)
        if destination in self._by_address or is_loopback(destination):
            self.internet.call_later(LOOPBACK_DELAY, self.receive, packet)
        elif attachment is not None:
            attachment.port.send(packet)
        else:
            raise os_error(errno.ENETUNREACH)

    def receive(self, packet: Packet) -> None:
        """Take what came out of a line."""
        host = packet.destination.host
        if host not in self._by_address and not packet.multicast and not is_loopback(host):
            self.internet.drop(packet, "not-here", self.name)
            return
        if self.internet.trace is not None:
            self.internet.note(packet, "delivered", self.name)
        if isinstance(packet, TcpSegment):
            self.tcp.receive(packet)
        else:
            self.udp.receive(packet)

    def _attachment(self, interface: str) -> Attachment:
        for attachment in self.attachments:
            if attachment.interface == interface:
                return attachment
        raise LookupError(f"{self.name} has no interface {interface!r}")

    def _changed(self) -> None:
        self._address_change.set()
        self._address_change = trio.Event()


if TYPE_CHECKING:
    _host_is_a_network: type[Network] = Host
