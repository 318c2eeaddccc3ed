"""An IP address and a port.  Does not resolve names and opens nothing."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple


class Endpoint(NamedTuple):
    """An IP address in its canonical text form and a port; also a plain ``(host, port)`` socket address.

    ``host`` is what `ipaddress` prints ("192.0.2.1", "2001:db8::1"); an IPv4-mapped IPv6 address is stored as IPv4;
    a link-local IPv6 address keeps its scope ("fe80::1%eth0").  Build one from outside text with `parse_endpoint` or
    from socket addresses with `from_sockaddr`, so that equal endpoints compare equal.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.host

    @property
    def address(self) -> IPv4Address | IPv6Address:
        return ip_address(self.host)

    @property
    def party(self) -> str:
        """What one party has many ports of: an IPv4 address, or an IPv6 /64, in which anybody has 2^64 addresses."""
        return str(IPv6Address(int(self.address) >> 64 << 64)) if self.is_ipv6 else self.host


def normalise_host(host: str) -> str:
    """The canonical text of an IP address; ValueError if it is not one."""
    address = ip_address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def parse_endpoint(text: str) -> Endpoint:
    """``192.0.2.1:6881`` or ``[2001:db8::1]:6881``; ValueError if the address or the port (1–65535) is not one."""
    host, port = split_host_port(text)
    return Endpoint(normalise_host(host), port)


def split_host_port(text: str) -> tuple[str, int]:
    """The host (a name or an address, without brackets) and the port (1–65535) of ``HOST:PORT``; ValueError else."""
    host, colon, port_text = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not host or (":" in host and not bracketed):
        raise ValueError(f"{text!r} is not HOST:PORT")
    if not (port_text.isascii() and port_text.isdecimal() and len(port_text) <= 5 and 1 <= int(port_text) <= 65535):
        raise ValueError(f"{text!r} has no port between 1 and 65535")
    return host, int(port_text)


def from_sockaddr(sockaddr: tuple[str, int] | tuple[str, int, int, int]) -> Endpoint:
    """The endpoint of what ``getpeername`` or ``recvfrom`` returned (IPv4 or IPv6 form)."""
    host = sockaddr[0]
    if ":" not in host:
        return Endpoint(host, sockaddr[1])
    return Endpoint(normalise_host(host), sockaddr[1])


def is_dialable(endpoint: Endpoint) -> bool:
    """Whether a stranger may make us dial this: not port 0, unspecified, multicast, broadcast or reserved."""
    address = endpoint.address
    return not (
        endpoint.port == 0
        or address.is_unspecified
        or address.is_multicast
        or (address.is_reserved and address.version == 4)
        or endpoint.host.startswith("0.")
    )
