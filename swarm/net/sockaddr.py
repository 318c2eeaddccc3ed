"""Between `Endpoint` and the kernel's socket addresses, scopes of link-local IPv6 included.

Never resolves a name: a host that is not a literal address is refused, since the standard library would silently
look it up and block the whole program.
"""

from __future__ import annotations

import errno
import os
import socket
from ipaddress import IPv6Address

from swarm.endpoint import Endpoint, normalise_host

MAX_SCOPE_DIGITS = 9  # of an interface index: 32 bits in the kernel
WILDCARDS = frozenset({"0.0.0.0", "::"})  # all addresses of a family

SockAddr = tuple[str, int] | tuple[str, int, int, int]


def family_of(endpoint: Endpoint) -> socket.AddressFamily:
    """AF_INET or AF_INET6."""
    return socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET


def to_sockaddr(endpoint: Endpoint) -> SockAddr:
    """What ``bind``, ``connect`` and ``sendmsg`` take.

    Raises ValueError for a host that is not a literal address, OSError for a scope that names no interface.
    """
    host, port = endpoint
    if ":" not in host:
        _require_literal(socket.AF_INET, host)
        return host, port
    bare, _, scope = host.partition("%")
    _require_literal(socket.AF_INET6, bare)
    return bare, port, 0, scope_id(scope)


def from_sockaddr(sockaddr: SockAddr) -> Endpoint:
    """The endpoint of what ``getpeername`` or ``recvfrom`` returned; a link-local one keeps its scope.

    The standard library leaves the scope in the fourth item and out of the text.
    """
    host, port = sockaddr[0], sockaddr[1]
    if ":" not in host:
        return Endpoint(host, port)
    if len(sockaddr) == 4 and sockaddr[3] and "%" not in host:
        host = with_scope(host, sockaddr[3])
    return Endpoint(normalise_host(host), port)


def with_scope(host: str, index: int) -> str:
    """A link-local IPv6 address with the name of interface ``index``; any other address as it is."""
    if ":" in host and IPv6Address(host).is_link_local:
        return f"{host}%{interface_name(index)}"
    return host


def scope_id(scope: str) -> int:
    """The interface index a scope names; 0 for an empty one.  Raises OSError if there is no such interface."""
    if not scope:
        return 0
    if scope.isdecimal() and len(scope) <= MAX_SCOPE_DIGITS:
        return int(scope)
    if "\0" in scope:
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
    return socket.if_nametoindex(scope)


def interface_name(index: int) -> str:
    """The name of an interface, or the number itself when it has just gone."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)


def _require_literal(family: int, host: str) -> None:
    try:
        socket.inet_pton(family, host)
    except OSError:
        raise ValueError(f"{host!r} is not a literal IP address") from None
