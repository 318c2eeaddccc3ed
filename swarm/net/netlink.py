"""The interfaces, addresses and default routes of this machine as rtnetlink tells them (RFC 3549; rtnetlink(7)).

Linux only.  Messages come from the kernel, which is trusted; the parsers still stop at the end of what they got.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import trio

from swarm.net.network import Gateway, Interface, InterfaceAddress
from swarm.net.sockaddr import interface_name, with_scope

RECEIVE_SIZE = 64 << 10  # bytes; the kernel cuts a dump into messages of at most 32 KiB
ANSWER_DEADLINE = 2.0  # seconds for the kernel to answer a dump, which it does within the send call

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWLINK, _RTM_GETLINK = 16, 18
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300

_IFLA_IFNAME = 3
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_TEMPORARY, _IFA_F_DEPRECATED = 0x01, 0x20
_RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH, _RTA_TABLE = 4, 5, 6, 9, 15
_RT_TABLE_MAIN, _RTN_UNICAST = 254, 1
_IFF_UP, _IFF_LOOPBACK, _IFF_MULTICAST = 0x1, 0x8, 0x1000

# RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE.  A link going down takes its IPv4 routes with it
# without a word about them, so links are listened to as well.
_CHANGES = 0x1 | 0x10 | 0x40 | 0x100 | 0x400

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, device type, index, flags, change mask
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, dst length, src length, tos, table, protocol, scope, type, flags
_NEXT_HOP = struct.Struct("=HBBi")  # rtnexthop: length, flags, hops, interface index
_U32 = struct.Struct("=I")


class _Route(NamedTuple):
    metric: int
    gateway: Gateway


def interfaces() -> list[Interface]:
    """All interfaces with their addresses, in the kernel's order."""
    addresses: dict[int, list[InterfaceAddress]] = {}
    for body in _dump(_RTM_GETADDR, _RTM_NEWADDR, _ADDRESS.size):
        index, address = _address(body)
        if address is not None:
            addresses.setdefault(index, []).append(address)
    found = []
    for body in _dump(_RTM_GETLINK, _RTM_NEWLINK, _LINK.size):
        _, _, index, flags, _ = _LINK.unpack_from(body)
        name = _attributes(body, _LINK.size).get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
        found.append(
            Interface(
                name=name,
                index=index,
                up=bool(flags & _IFF_UP),
                loopback=bool(flags & _IFF_LOOPBACK),
                multicast=bool(flags & _IFF_MULTICAST),
                addresses=tuple(addresses.get(index, ())),
            )
        )
    return found


def gateways() -> list[Gateway]:
    """The default routes of the main table that have a router, best metric first; IPv4 before IPv6 when equal."""
    routes: list[_Route] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for body in _dump(_RTM_GETROUTE, _RTM_NEWROUTE, _ROUTE.size, family):
            routes += _default_routes(body)
    routes.sort(key=lambda route: route.metric)
    return list(dict.fromkeys(route.gateway for route in routes))


async def wait_change(is_news: Callable[[], bool]) -> None:
    """Block until an address or route was added or removed, or a link changed in a way that ``is_news`` confirms.

    ``is_news`` is first asked once the subscription stands, so that nothing slips between two calls.  Routers refresh
    addresses and drivers repeat link messages all day long: those alone do not return.
    """
    with _open(_CHANGES) as sock:
        sock.setblocking(False)
        await trio.lowlevel.checkpoint()
        while not is_news():
            await trio.lowlevel.wait_readable(sock)
            if _drain_changes(sock):
                return


def _drain_changes(sock: socket.socket) -> bool:
    """Read what waits; whether it says by itself that an address or a route came or went."""
    certain = False
    while True:
        try:
            data = sock.recv(RECEIVE_SIZE)
        except BlockingIOError:
            return certain
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # messages were lost: something changed
                raise
            return True
        certain |= any(kind in (_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_DELADDR) for kind, _ in _messages(data))


def _address(body: memoryview) -> tuple[int, InterfaceAddress | None]:
    family, prefix_length, flags, _, index = _ADDRESS.unpack_from(body)
    attributes = _attributes(body, _ADDRESS.size)
    # On a point-to-point link IFA_ADDRESS is the other end.
    raw = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    if raw is None or family not in (socket.AF_INET, socket.AF_INET6):
        return index, None
    if _IFA_FLAGS in attributes:
        flags = _U32.unpack_from(attributes[_IFA_FLAGS])[0]
    v6 = family == socket.AF_INET6
    host = with_scope(socket.inet_ntop(family, raw), index)
    return index, InterfaceAddress(
        host,
        prefix_length,
        temporary=v6 and bool(flags & _IFA_F_TEMPORARY),  # the same bit means "secondary" on IPv4
        deprecated=v6 and bool(flags & _IFA_F_DEPRECATED),
    )


def _default_routes(body: memoryview) -> Iterator[_Route]:
    family, dst_length, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
    attributes = _attributes(body, _ROUTE.size)
    if _RTA_TABLE in attributes:
        table = _U32.unpack_from(attributes[_RTA_TABLE])[0]
    if dst_length or table != _RT_TABLE_MAIN or kind != _RTN_UNICAST:
        return
    metric = _U32.unpack_from(attributes.get(_RTA_PRIORITY, bytes(4)))[0]
    hops = [(attributes.get(_RTA_GATEWAY), _U32.unpack_from(attributes.get(_RTA_OIF, bytes(4)))[0])]
    hops += _multipath(attributes.get(_RTA_MULTIPATH, b""))
    for raw, index in hops:
        if raw is not None:
            host = with_scope(socket.inet_ntop(family, raw), index)
            yield _Route(metric, Gateway(host, interface_name(index)))


def _multipath(data: bytes) -> Iterator[tuple[bytes | None, int]]:
    view = memoryview(data)
    while len(view) >= _NEXT_HOP.size:
        length, _, _, index = _NEXT_HOP.unpack_from(view)
        if not _NEXT_HOP.size <= length <= len(view):
            return
        yield _attributes(view[:length], _NEXT_HOP.size).get(_RTA_GATEWAY), index
        view = view[_aligned(length) :]


def _dump(request: int, answer: int, body_size: int, family: int = socket.AF_UNSPEC) -> Iterator[memoryview]:
    """The bodies of all messages of type ``answer`` that the kernel lists for ``request``."""
    with _open(0) as sock:
        sock.settimeout(ANSWER_DEADLINE)
        body = bytes([family]) + bytes(body_size - 1)
        sock.send(_HEADER.pack(_HEADER.size + body_size, request, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0) + body)
        while True:
            for kind, content in _messages(sock.recv(RECEIVE_SIZE)):
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    code = -struct.unpack_from("=i", content)[0]
                    if code in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT):  # a kernel without IPv6
                        return
                    raise OSError(code, os.strerror(code))
                if kind == answer and len(content) >= body_size:
                    yield content


def _open(groups: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        sock.bind((0, groups))
    except BaseException:
        sock.close()
        raise
    return sock


def _messages(data: bytes) -> Iterator[tuple[int, memoryview]]:
    view = memoryview(data)
    while len(view) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(view)
        if not _HEADER.size <= length <= len(view):
            return
        yield kind, view[_HEADER.size : length]
        view = view[_aligned(length) :]


def _attributes(body: memoryview, start: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    view = body[_aligned(start) :]
    while len(view) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(view)
        if not _ATTRIBUTE.size <= length <= len(view):
            break
        found[kind & 0x3FFF] = bytes(view[_ATTRIBUTE.size : length])  # less the flags "nested" and "network order"
        view = view[_aligned(length) :]
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3
