"""Which kind of address a host is, as far as the DHT cares (BEP 42 exemptions, one node per network).

Hosts are canonical text, as `dht.compact` writes it.  Resolves nothing.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from dht.datagram import Address

IPV6_NETWORK_BYTES = 8  # a /64 is one customer's link: whoever has one address of it has them all


@lru_cache(maxsize=4096)
def is_local(host: str) -> bool:
    """Loopback, private (RFC 1918, ULA) or link-local: exempt from the rules against Sybils (BEP 42)."""
    if ":" in host:
        first = IPv6Address(host.partition("%")[0]).packed
        return first[0] & 0xFE == 0xFC or (first[0] == 0xFE and first[1] & 0xC0 == 0x80) or host == "::1"
    first_octet, second = host.split(".", 2)[:2]
    return (
        first_octet in ("10", "127")
        or (first_octet == "172" and 16 <= int(second) <= 31)
        or (first_octet, second) in (("192", "168"), ("169", "254"))
    )


@lru_cache(maxsize=4096)
def network_of(host: str) -> str:
    """A name for the network whose hosts probably have one owner: the /24 of an IPv4 host, the /64 of an IPv6 one.

    Local hosts are each a network of their own.
    """
    if is_local(host):
        return host
    if ":" in host:
        return IPv6Address(host.partition("%")[0]).packed[:IPV6_NETWORK_BYTES].hex()
    return host.rpartition(".")[0]


def owner_of(address: Address) -> Hashable:
    """Who is counted as one: an IPv4 host, a /64 of IPv6, or where many nodes share a local host, each address."""
    host = address[0]
    if is_local(host):
        return address
    return network_of(host) if ":" in host else host


def neighbourhood_of(address: Address) -> Hashable:
    """Who is suspected to be one: a network, or where many nodes share a local host, each address."""
    return address if is_local(address[0]) else network_of(address[0])


def is_usable(address: Address, *, ipv6: bool) -> bool:
    """Whether a node can live there: the right family, a port, not unspecified, multicast, broadcast or reserved."""
    host, port = address
    if (":" in host) is not ipv6 or not 0 < port < 65536:
        return False
    if ipv6:
        return not host.startswith("ff") and host != "::"
    return 0 < int(host.partition(".")[0]) < 224


def canonical_host(host: str) -> str:
    """The canonical text of an IP address, without a scope; ValueError if it is not one."""
    return str(ip_address(host.partition("%")[0]))
