"""`Network` on this machine's kernel.

Only puts the parts together: `swarm.net.tcp`, `swarm.net.udp`, `swarm.net.netlink`.  Outside Linux the interface list
holds what a socket can find out without speaking to anybody, and there are no gateways.
"""

from __future__ import annotations

import socket
import sys
import weakref
from contextlib import suppress

import trio

from swarm.endpoint import Endpoint, normalise_host
from swarm.net import netlink, tcp, udp
from swarm.net.network import Gateway, Interface, InterfaceAddress
from swarm.net.sockaddr import family_of, from_sockaddr
from swarm.net.tcp import TcpListener, TcpStream
from swarm.net.udp import UdpSocket

POLL_INTERVAL = 10.0  # seconds between looks at the addresses where there is no netlink

# Never sent to: connecting a UDP socket only asks the routing table (documentation ranges, RFC 5737 and RFC 3849).
_FAR_AWAY = (Endpoint("192.0.2.1", 9), Endpoint("2001:db8::1", 9))

_Addresses = tuple[tuple[Interface, ...], tuple[Gateway, ...]]


class RealNetwork:
    """The kernel's network.  ``offload`` False forces plain UDP; ``device`` pins every socket to one interface.

    Name look-ups go to the system's resolver, which no socket option reaches: neither ``device`` nor a bind governs
    them.
    """

    def __init__(self, *, offload: bool = True, device: str | None = None) -> None:
        self._offload = offload
        self._device = device
        # What each task that waits for changes knows: a change between two waits must not be lost on it.
        self._seen: weakref.WeakKeyDictionary[trio.lowlevel.Task, _Addresses] = weakref.WeakKeyDictionary()

    def pinned_to(self, device: str) -> RealNetwork:
        """The same network through one interface only, whatever the routes say (`swarm.net.device`)."""
        return RealNetwork(offload=self._offload, device=device)

    async def bind_udp(
        self, local: Endpoint, *, shared: bool = False, multicast_group: str | None = None, interface: str | None = None
    ) -> UdpSocket:
        await trio.lowlevel.checkpoint()
        return udp.bind_udp(
            local,
            shared=shared,
            multicast_group=multicast_group,
            interface=interface,
            device=self._device,
            offload=self._offload,
        )

    async def listen_tcp(self, local: Endpoint) -> TcpListener:
        await trio.lowlevel.checkpoint()
        return tcp.listen_tcp(local, device=self._device)

    async def dial_tcp(self, remote: Endpoint, *, local: Endpoint | None = None) -> TcpStream:
        return await tcp.dial_tcp(remote, local=local, device=self._device)

    async def resolve(self, host: str, port: int) -> list[Endpoint]:
        """See `Network.resolve`.  The look-up runs in a thread; cancelled, it is left to end by itself."""
        try:
            literal = normalise_host(host)
        except ValueError:
            return await _look_up(host, port)
        await trio.lowlevel.checkpoint()
        return [Endpoint(literal, port)]

    def interfaces(self) -> list[Interface]:
        return netlink.interfaces() if sys.platform == "linux" else guessed_interfaces()

    def gateways(self) -> list[Gateway]:
        return netlink.gateways() if sys.platform == "linux" else []

    async def wait_address_change(self) -> None:
        """See `Network.wait_address_change`; what changed since this task last asked is news at once."""
        task = trio.lowlevel.current_task()
        if task not in self._seen:
            self._seen[task] = self._addresses()
        seen = self._seen[task]
        if sys.platform == "linux":
            await netlink.wait_change(lambda: self._addresses() != seen)
        else:
            while self._addresses() == seen:  # noqa: ASYNC110  (nobody sets an event: the kernel does not tell)
                await trio.sleep(POLL_INTERVAL)
        self._seen[task] = self._addresses()

    def _addresses(self) -> _Addresses:
        return tuple(self.interfaces()), tuple(self.gateways())


async def _look_up(host: str, port: int) -> list[Endpoint]:
    try:
        answers = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except ValueError as error:  # a label that is empty or too long, an embedded NUL: no name at all
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is not a host name: {error}") from error
    return list(dict.fromkeys(from_sockaddr(sockaddr) for *_, sockaddr in answers))  # type: ignore[arg-type]


def guessed_interfaces() -> list[Interface]:
    """Without netlink: the address the kernel would leave from, per family, each as an interface of its own."""
    found = []
    for index, far in enumerate(_FAR_AWAY, start=1):
        with suppress(OSError), socket.socket(family_of(far), socket.SOCK_DGRAM) as sock:
            sock.connect(far)
            host = from_sockaddr(sock.getsockname()).host
            address = InterfaceAddress(host, 128 if far.is_ipv6 else 32)
            found.append(Interface(f"source{index}", index, True, False, True, (address,)))
    return found
