"""Which LANs we are on: our addresses there, and the routers that may open ports for us.  Asks nobody but `Network`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address, ip_interface

from swarm.net.network import Interface, InterfaceAddress, Network

MAX_IPV6 = 4  # addresses of one interface for which pinholes are made: the stable one and some temporary ones


@dataclass(frozen=True, slots=True)
class Lan:
    """One interface.  ``ipv4`` is our address there; ``gateways`` are the default routers' addresses by family."""

    interface: str
    ipv4: str | None
    ipv6: tuple[str, ...]
    gateways_v4: tuple[str, ...]
    gateways_v6: tuple[str, ...]


def find_lans(network: Network) -> tuple[Lan, ...]:
    """The LANs with a default route.

    Where none is known, all interfaces that could be one, each with the router guessed that most LANs have: so it is
    without netlink, and in tunnels, whose routes name no router though NAT-PMP is spoken at the other end.
    """
    gateways = network.gateways()
    routed = {gateway.interface for gateway in gateways}
    found = []
    for interface in network.interfaces():
        if not interface.up or interface.loopback or (routed and interface.name not in routed):
            continue
        hosts = list(dict.fromkeys(each.host for each in gateways if each.interface == interface.name))
        v4 = tuple(host for host in hosts if ":" not in host)
        v6 = tuple(host for host in hosts if ":" in host)
        ipv4 = _ipv4(interface, v4)
        if not gateways and ipv4 is not None:
            v4 = _guessed_gateway(ipv4)
        lan = Lan(interface.name, ipv4, _ipv6(interface.addresses), v4, v6)
        if lan.ipv4 is not None or lan.ipv6:
            found.append(lan)
    return tuple(found)


def _ipv4(interface: Interface, gateways: Iterable[str]) -> str | None:
    """The address in whose network a gateway is, else the first."""
    addresses = [each for each in interface.addresses if ":" not in each.host]
    for address in addresses:
        network = ip_interface(f"{address.host}/{address.prefix_length}").network
        if any(ip_address(gateway) in network for gateway in gateways):
            return address.host
    return addresses[0].host if addresses else None


def _guessed_gateway(ipv4: str) -> tuple[str, ...]:
    """The first address of the /24; none for a public address or one that no router gave."""
    address = IPv4Address(ipv4)
    guess = f"{ipv4.rpartition('.')[0]}.1"
    return (guess,) if address.is_private and not address.is_link_local and guess != ipv4 else ()


def _ipv6(addresses: Iterable[InterfaceAddress]) -> tuple[str, ...]:
    """The global ones that are not on their way out, stable before temporary."""
    usable = [each for each in addresses if ":" in each.host and not each.deprecated and _is_global(each.host)]
    return tuple(each.host for each in sorted(usable, key=lambda each: each.temporary)[:MAX_IPV6])


def _is_global(host: str) -> bool:
    address = ip_address(host.partition("%")[0])
    return address.is_global and not address.is_multicast
