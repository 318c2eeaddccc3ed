"""Opening the node's port: UDP and TCP, IPv4 and IPv6, on one number.

UDP is bound first and without SO_REUSEPORT: it is the lock on the number.  TCP needs SO_REUSEPORT to dial from its
listening port, and with it a second instance would bind silently and steal part of the inbound connections.
Draws no port and keeps none: the caller brings the candidates.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol, TypeVar

from swarm.endpoint import Endpoint
from swarm.errors import SwarmError
from swarm.net.network import DatagramSocket, Listener, Network

FIRST_DYNAMIC_PORT = 49_152  # RFC 6335: 49152–65535 belong to nobody
LAST_DYNAMIC_PORT = 65_535
NEXT_PORTS = 32  # ports tried after a remembered one that is taken
ANY_PORT_TRIES = 16  # numbers the kernel may propose until one is free for both transports and families

_NO_SUCH_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


class Closable(Protocol):
    def close(self) -> None: ...


S = TypeVar("S", bound=Closable)


class PortInUse(SwarmError):
    """Another program holds the port, or all candidates are held."""


class PortForbidden(SwarmError):
    """The system does not let this user have the port."""


@dataclass(frozen=True, slots=True)
class OpenPorts:
    """What the node listens on.  A family this machine or bind does not have is None, and so is TCP when not wanted."""

    port: int
    udp4: DatagramSocket | None
    udp6: DatagramSocket | None
    tcp4: Listener | None
    tcp6: Listener | None

    def close(self) -> None:
        for opened in (self.udp4, self.udp6, self.tcp4, self.tcp6):
            if opened is not None:
                opened.close()


def following_ports(remembered: int) -> list[int]:
    """A remembered port and the ones to take instead, in order, around within the dynamic range; at last any (0)."""
    span = LAST_DYNAMIC_PORT - FIRST_DYNAMIC_PORT + 1
    start = max(remembered + 1, FIRST_DYNAMIC_PORT) - FIRST_DYNAMIC_PORT
    return [remembered, *(FIRST_DYNAMIC_PORT + (start + step) % span for step in range(NEXT_PORTS)), 0]


async def open_ports(network: Network, candidates: Iterable[int], *, tcp: bool = True) -> OpenPorts:
    """Bind the first candidate that is free for both transports and both families; 0 stands for any number.

    Pass ``[port]`` for a port the user insists on and `following_ports` for a remembered one; the result's ``port``
    tells which it became.  A family is left out only if this machine or the bind does not have it.

    Raises PortInUse when all candidates are taken, PortForbidden when the user may not have one, and OSError when
    neither family can be had (EADDRNOTAVAIL: the address of ``--bind`` is gone) or the kernel refuses otherwise.
    Cancelled, it has closed what it had opened.
    """
    tried = []
    for candidate in candidates:
        for _ in range(1 if candidate else ANY_PORT_TRIES):
            try:
                return await _open(network, candidate, tcp)
            except OSError as error:
                if error.errno == errno.EACCES and candidate:
                    raise PortForbidden(f"port {candidate} may not be used by this user") from error
                if error.errno != errno.EADDRINUSE:
                    raise
        tried.append(candidate)
    if len(tried) == 1 and tried[0]:
        raise PortInUse(f"port {tried[0]} is in use by another program")
    raise PortInUse("no free port was found")


async def _open(network: Network, port: int, tcp: bool) -> OpenPorts:
    with ExitStack() as opened:
        udp4 = await _if_supported(opened, network.bind_udp(Endpoint("0.0.0.0", port)))
        if udp4 is not None:
            port = udp4.local.port
        # With neither family there is nothing to stand on: let the second refusal through.
        v6 = network.bind_udp(Endpoint("::", port))
        udp6 = await (_if_supported(opened, v6) if udp4 is not None else _kept(opened, v6))
        if udp6 is not None:
            port = udp6.local.port
        tcp4 = tcp6 = None
        if tcp and udp4 is not None:
            tcp4 = await _if_supported(opened, network.listen_tcp(Endpoint("0.0.0.0", port)))
        if tcp and udp6 is not None:
            tcp6 = await _if_supported(opened, network.listen_tcp(Endpoint("::", port)))
        opened.pop_all()
        return OpenPorts(port, udp4, udp6, tcp4, tcp6)


async def _if_supported(opened: ExitStack, opening: Awaitable[S]) -> S | None:
    try:
        return await _kept(opened, opening)
    except OSError as error:
        if error.errno not in _NO_SUCH_FAMILY:
            raise
        return None


async def _kept(opened: ExitStack, opening: Awaitable[S]) -> S:
    """What was opened, to be closed again if the rest cannot be."""
    result = await opening
    opened.callback(result.close)
    return result
