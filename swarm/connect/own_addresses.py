"""What the interfaces of this machine have: the addresses of one moment, by what others can do with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface
from typing import Literal

from swarm.net.network import Network
from swarm.net.ownaddress import global_address

Family = Literal[4, 6]
FAMILIES: tuple[Family, Family] = (4, 6)


@dataclass(frozen=True, slots=True)
class OwnAddresses:
    """Addresses as text; families are 4 and 6."""

    by_family: Mapping[Family, frozenset[str]] = field(default_factory=lambda: dict.fromkeys(FAMILIES, frozenset()))
    public: Mapping[Family, str | None] = field(default_factory=lambda: dict.fromkeys(FAMILIES))
    """One that the internet routes, of each family; None without one."""
    inside: tuple[str, ...] = ()
    """Private IPv4 addresses, loopback's left out."""
    lans: tuple[IPv4Network | IPv6Network, ...] = ()
    """Private networks that we are on."""

    def has(self, host: str) -> bool:
        return any(host in addresses for addresses in self.by_family.values())

    def is_neighbour(self, host: str) -> bool:
        """Whether an address is in a private network that we are on."""
        return any(ip_address(host) in lan for lan in self.lans)

    def lead_out(self, family: Family) -> bool:
        """Whether there is an address by which anybody but neighbours could be reached."""
        return any(_leads_out(host) for host in self.by_family[family])


def own_addresses(network: Network) -> OwnAddresses:
    """What interfaces that are up have now."""
    here = [
        (interface, ip_interface(f"{address.host.partition('%')[0]}/{address.prefix_length}"))
        for interface in network.interfaces()
        if interface.up
        for address in interface.addresses
    ]
    hosts = {address.ip for _, address in here}
    private = [address for interface, address in here if address.ip.is_private and not interface.loopback]
    return OwnAddresses(
        {family: frozenset(str(host) for host in hosts if host.version == family) for family in FAMILIES},
        {family: global_address(network, ipv6=family == 6) for family in FAMILIES},
        tuple(str(address.ip) for address in private if address.version == 4),
        tuple(address.network for address in private),
    )


def _leads_out(host: str) -> bool:
    address = ip_address(host)
    return not (address.is_loopback or address.is_link_local)
