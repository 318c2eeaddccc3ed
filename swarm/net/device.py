"""Pinning a socket to one network interface, whatever the routing table says.

A socket that is merely bound to an interface's address still leaves through another interface when the routes point
there, as they do once a VPN client has gone.  Linux: SO_BINDTODEVICE, free for every user since kernel 5.7.
macOS: IP_BOUND_IF.  Elsewhere there is nothing of the kind and the address alone binds.
"""

from __future__ import annotations

import errno
import os
import socket
import sys

_IP_BOUND_IF = 25  # macOS netinet/in.h
_IPV6_BOUND_IF = 125  # macOS netinet6/in6.h


def pin_to_device(sock: socket.socket, device: str) -> None:
    """Let ``sock`` send and receive through ``device`` only.

    Raises OSError(EADDRNOTAVAIL) when the interface is not there, OSError(EPERM) when this user may not (Linux before
    5.7): refusing is the point, since nobody who asked for an interface wants another one.
    """
    try:
        if sys.platform == "linux":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
        elif sys.platform == "darwin":
            level, option = (
                (socket.IPPROTO_IPV6, _IPV6_BOUND_IF)
                if sock.family == socket.AF_INET6
                else (socket.IPPROTO_IP, _IP_BOUND_IF)
            )
            sock.setsockopt(level, option, socket.if_nametoindex(device))
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENXIO):
            raise OSError(errno.EADDRNOTAVAIL, f"{os.strerror(error.errno)}: {device}") from error
        raise
