"""A router: a switched LAN inside, a link outside, and between them a NAT, a firewall, or nothing.

It decrements TTL before it translates, as Linux does: what dies here has opened nothing.  Uninvited packets for the
router itself are dropped without a trace in its table.  Its own services (`swarm.simnet.gateway`) run on ``inside``,
a host on the LAN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from swarm.simnet.host import Host
from swarm.simnet.link import Link
from swarm.simnet.nat import Firewall, FirewallBehaviour, Nat, NatBehaviour
from swarm.simnet.packet import Packet, TcpSegment
from swarm.simnet.switch import Switch
from swarm.simnet.tcpstack import reset_for

if TYPE_CHECKING:
    from swarm.simnet.internet import Internet


class Router:
    """Made by `Internet.router`.  ``nat`` translates IPv4; ``firewall`` guards whatever is not translated.

    ``booted`` is when it last started, in seconds: gateway protocols tell their clients.
    """

    def __init__(
        self,
        internet: Internet,
        name: str,
        parent: Switch,
        wan: str,
        lan: str,
        *,
        nat: NatBehaviour | None,
        firewall: FirewallBehaviour | None,
        blocks: frozenset[str],
        link: Link | None,
        down: Link | None,
    ) -> None:
        self.internet = internet
        self.name = name
        self.parent = parent
        self.wan = wan
        self.nat = Nat(nat, wan, internet.dice) if nat is not None else None
        self.firewall = Firewall(firewall) if firewall is not None else None
        self.blocks = blocks
        self.booted = internet.now
        self.port = internet.port(parent, f"{name}/wan", link, down)
        self.port.receive = self._from_wan
        parent.add_route(wan, self.port)
        self._own_addresses = {lan}
        self.lan = Switch(internet, f"{name}/lan", uplink=self._from_lan, announce=self._announce)
        self.lan.router_addresses.append(lan)
        self.inside = Host(internet, name)
        self.inside.attach(self.lan, lan)
        self._lan_addresses = 1
        self._rebooted = trio.Event()

    def free_lan_address(self) -> str:
        """An IPv4 address that nobody has: of the LAN's /24, or a public one where nothing is translated."""
        if self.nat is None:
            return self.internet.free_ipv4()
        self._lan_addresses += 1
        return f"{self.inside.ipv4.rpartition('.')[0]}.{self._lan_addresses}"

    def add_lan_ipv6(self, host: str) -> None:
        """Give the router an IPv6 address inside, as which it is its hosts' gateway."""
        self._own_addresses.add(host)
        self.inside.add_address(host)
        self.lan.router_addresses.append(host)

    def reboot(self) -> None:
        """Forget every mapping, permission, forward and pinhole."""
        self.booted = self.internet.now
        for table in (self.nat, self.firewall):
            if table is not None:
                table.forget_mappings()
        self._rebooted.set()
        self._rebooted = trio.Event()

    async def wait_reboot(self) -> None:
        """Block until the router starts anew."""
        await self._rebooted.wait()

    def change_wan(self, wan: str) -> None:
        """Get another address outside, as after a reconnect: all mappings are gone."""
        self.parent.remove_route(self.wan, self.port)
        self.parent.add_route(wan, self.port)
        self.wan = wan
        if self.nat is not None:
            self.nat.external = wan
        self.reboot()

    def _from_lan(self, packet: Packet) -> None:
        if not self._may_pass(packet):
            return
        nat = self.nat
        now = self.internet.now
        if nat is not None and not packet.source.is_ipv6:
            hairpin = packet.destination.host == self.wan
            if hairpin and not nat.behaviour.hairpin:
                self.internet.drop(packet, "filtered", self.name)
                return
            external = nat.outbound(packet.protocol, packet.source, packet.destination, now)
            if external is None:
                self.internet.drop(packet, "no-mapping", self.name)
                return
            packet.source = external
            if hairpin:
                self._translate_inbound(packet, nat)
                return
        elif self.firewall is not None:
            self.firewall.outbound(packet.protocol, packet.source, packet.destination, now)
        self.port.send(packet)

    def _from_wan(self, packet: Packet) -> None:
        if not self._may_pass(packet):
            return
        if self.nat is not None and not packet.destination.is_ipv6:
            self._translate_inbound(packet, self.nat)
        elif self.firewall is None or self.firewall.inbound(
            packet.protocol, packet.destination, packet.source, self.internet.now
        ):
            self.lan.deliver(packet)
        else:
            self._filtered(packet, self.firewall.behaviour.unsolicited_tcp == "reset")

    def _translate_inbound(self, packet: Packet, nat: Nat) -> None:
        internal = None
        if packet.destination.host == self.wan:
            internal = nat.inbound(packet.protocol, packet.destination.port, packet.source, self.internet.now)
        if internal is None:
            self._filtered(packet, nat.behaviour.unsolicited_tcp == "reset")
        else:
            packet.destination = internal
            self.lan.deliver(packet)

    def _filtered(self, packet: Packet, resets: bool) -> None:
        self.internet.drop(packet, "filtered", self.name)
        if resets and isinstance(packet, TcpSegment) and packet.syn:
            self.port.send(reset_for(packet))

    def _may_pass(self, packet: Packet) -> bool:
        packet.ttl -= 1
        if packet.ttl <= 0:
            self.internet.drop(packet, "ttl-expired", self.name)
        elif packet.protocol in self.blocks:
            self.internet.drop(packet, "blocked", self.name)
        else:
            return True
        return False

    def _announce(self, host: str, present: bool) -> None:
        """Tell the parent about an inside address that is reachable from there: one that is not translated."""
        if host in self._own_addresses or (self.nat is not None and ":" not in host):
            return
        if present:
            self.parent.add_route(host, self.port)
        else:
            self.parent.remove_route(host, self.port)
