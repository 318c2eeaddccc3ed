"""Socket options of multicast (RFC 1112, RFC 3493 §5.2): join a group, choose the interface and the source.

Speaks no protocol: LSD, SSDP and the announcements of NAT-PMP do.
"""

from __future__ import annotations

import socket
import struct
import sys

from swarm.endpoint import Endpoint
from swarm.net.sockaddr import WILDCARDS

_IP_MULTICAST_ALL = 49  # linux/in.h
_IPV6_MULTICAST_ALL = 29  # linux/in6.h
_U32 = struct.Struct("=I")


def send_through(sock: socket.socket, host: str, interface: str | None) -> None:
    """Send multicast through ``interface`` and from ``host``, where either is given.  Raises OSError for none such."""
    if interface is None and host in WILDCARDS:
        return
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _mreqn("0.0.0.0", host, interface))
    elif interface is not None:
        index = _U32.pack(socket.if_nametoindex(interface))
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)


def join(sock: socket.socket, host: str, group: str, interface: str | None) -> None:
    """Receive what is sent to ``group`` on ``interface``, on that of ``host``, or on the one the routes name."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, _mreqn(group, host, interface))
        if sys.platform == "linux":  # else every group that anybody on this machine joined comes in
            sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        return
    index = 0 if interface is None else socket.if_nametoindex(interface)
    request = socket.inet_pton(socket.AF_INET6, group) + _U32.pack(index)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)


def scoped(group: Endpoint, interface: str | None) -> Endpoint:
    """The group as something to bind to: a link-local IPv6 one needs its interface."""
    if group.is_ipv6 and interface is not None and "%" not in group.host:
        return Endpoint(f"{group.host}%{interface}", group.port)
    return group


def _mreqn(group: str, host: str, interface: str | None) -> bytes:
    """struct ip_mreqn: the group, our address, the interface index (each may be zero)."""
    index = 0 if interface is None else socket.if_nametoindex(interface)
    return socket.inet_aton(group) + socket.inet_aton(host) + struct.pack("=i", index)
