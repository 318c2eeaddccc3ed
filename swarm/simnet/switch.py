"""Where hosts and routers meet: the core of the internet, or the LAN of a router.  Forwards by destination address."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from swarm.simnet.link import Line, Link
from swarm.simnet.packet import Packet

if TYPE_CHECKING:
    from swarm.simnet.internet import Internet

LAN_DELAYS = (0.0001, 0.0005)  # seconds: the range from which the links of a LAN draw theirs


class Port:
    """A place on a switch: the line into it (``up``), the line out of it (``down``), and who takes what comes out."""

    __slots__ = ("down", "name", "receive", "switch", "up")

    def __init__(self, name: str, switch: Switch, up: Line, down: Line) -> None:
        self.name = name
        self.switch = switch
        self.up = up
        self.down = down
        self.receive: Callable[[Packet], None] = self._unattended
        switch.ports.append(self)

    def send(self, packet: Packet) -> None:
        """Put a packet on the line towards the switch."""
        if packet.multicast:
            self.up.carry(packet, self._flood)
        else:
            self.up.carry(packet, self.switch.forward)

    def connect(self, connected: bool) -> None:
        """Pull the cable or put it back; packets under way arrive all the same."""
        self.up.up = self.down.up = connected

    def _flood(self, packet: Packet) -> None:
        self.switch.flood(packet, self)

    def _unattended(self, packet: Packet) -> None:
        self.down.internet.drop(packet, "not-here", self.name)


class Switch:
    """Forwards to the port that has the destination's address, else to ``uplink``, else nowhere.

    ``hops`` is what crossing it costs a packet of its TTL: nothing on a LAN.  Multicast crosses LANs only.
    ``announce(host, present)`` is told of every address that comes or goes.
    """

    def __init__(
        self,
        internet: Internet,
        name: str,
        *,
        hops: int = 0,
        uplink: Callable[[Packet], None] | None = None,
        announce: Callable[[str, bool], None] | None = None,
    ) -> None:
        self.internet = internet
        self.name = name
        self.hops = hops
        self.ports: list[Port] = []
        self.router_addresses: list[str] = []
        self._uplink = uplink
        self._announce = announce
        self._routes: dict[str, Port] = {}

    def add_route(self, host: str, port: Port) -> None:
        """Send packets for ``host`` to ``port``.  ValueError if another port has that address."""
        if self._routes.setdefault(host, port) is not port:
            raise ValueError(f"{host} is {self._routes[host].name}'s address on {self.name}")
        if self._announce is not None:
            self._announce(host, True)

    def remove_route(self, host: str, port: Port) -> None:
        """Forget the address, if it is that port's."""
        if self._routes.get(host) is port:
            del self._routes[host]
            if self._announce is not None:
                self._announce(host, False)

    def same_port(self, one: str, other: str) -> bool:
        """Whether two addresses are known here, at one port."""
        return one in self._routes and self._routes[one] is self._routes.get(other)

    def default_link(self) -> Link:
        """What links here are like that do not say: a drawn delay on the core, much less on a LAN."""
        return Link() if self.hops else Link(delay=self.internet.dice.uniform(*LAN_DELAYS))

    def forward(self, packet: Packet) -> None:
        if self.hops:
            packet.ttl -= self.hops
            if packet.ttl <= 0:
                self.internet.drop(packet, "ttl-expired", self.name)
                return
        if self._uplink is not None and packet.destination.host not in self._routes:
            self._uplink(packet)
        else:
            self.deliver(packet)

    def deliver(self, packet: Packet) -> None:
        """Send a packet to the port that has its address; without one it is dropped."""
        port = self._routes.get(packet.destination.host)
        if port is not None:
            port.down.carry(packet, port.receive)
        else:
            self.internet.drop(packet, "no-route", self.name)

    def flood(self, packet: Packet, sender: Port) -> None:
        """Deliver a multicast to everyone else on the LAN; whether they joined the group, their sockets decide."""
        if self.hops:
            self.internet.drop(packet, "no-route", self.name)
            return
        for port in self.ports:
            if port is not sender:
                port.down.carry(packet.copy(), port.receive)
