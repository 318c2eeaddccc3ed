"""``--bind ADDR|IFACE``: a `Network` whose every socket leaves from one address or interface, or not at all.

An address binds its family only.  An interface name binds the best address of each family on it and, where the
network below can, pins the socket to the interface as well (`swarm.net.device`): an address alone does not keep packets
from leaving elsewhere once the routing table points there.  While the address or interface is gone, new sockets raise
OSError(EADDRNOTAVAIL); there is no fall-back.  Name look-ups go to the system's resolver and cannot be bound.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface
from typing import Protocol, runtime_checkable

from swarm.endpoint import Endpoint, normalise_host
from swarm.net.network import DatagramSocket, Gateway, Interface, InterfaceAddress, Listener, Network, Stream
from swarm.net.sockaddr import WILDCARDS


@runtime_checkable
class PinsToDevice(Protocol):
    """Optional capability of a network."""

    def pinned_to(self, device: str) -> Network: ...


class BoundNetwork:
    """``inner`` through ``bind`` only: a literal address, or else the name of an interface."""

    def __init__(self, inner: Network, bind: str) -> None:
        self._host = _literal(bind)
        self._interface = bind if self._host is None else None
        if self._interface is not None and isinstance(inner, PinsToDevice):
            inner = inner.pinned_to(bind)
        self._inner = inner
        self.bind = bind

    def available(self) -> bool:
        """Whether the address is configured, or the interface is up with an address, right now."""
        if self._interface is not None:
            return any(True for _ in self._usable())
        return bool(self.interfaces())

    @property
    def is_loopback(self) -> bool:
        """Whether nobody beyond this machine can be reached: there is no network to look for peers in."""
        if self._host is not None:
            return ip_address(self._host).is_loopback
        return any(interface.loopback for interface in self.interfaces())

    async def bind_udp(
        self, local: Endpoint, *, shared: bool = False, multicast_group: str | None = None, interface: str | None = None
    ) -> DatagramSocket:
        """See `Network.bind_udp`; the wildcard address becomes the bound one."""
        bound = self._bound(local)
        names = [owner.name for owner in self.interfaces()]
        if multicast_group is not None and interface is None:
            interface = self._interface or next(iter(names), None)
        if interface is not None and interface not in names:
            raise _refusal(errno.EADDRNOTAVAIL, f"{interface} is not what this network is bound to ({self.bind})")
        return await self._inner.bind_udp(bound, shared=shared, multicast_group=multicast_group, interface=interface)

    async def listen_tcp(self, local: Endpoint) -> Listener:
        return await self._inner.listen_tcp(self._bound(local))

    async def dial_tcp(self, remote: Endpoint, *, local: Endpoint | None = None) -> Stream:
        """See `Network.dial_tcp`; without ``local`` it leaves from the bound address and a port the kernel picks."""
        if local is None:
            local = Endpoint("::" if remote.is_ipv6 else "0.0.0.0", 0)
        bound = self._bound(local)
        if bound.is_ipv6 != remote.is_ipv6:
            raise _refusal(errno.EAFNOSUPPORT, f"cannot dial {remote} from {bound.host}")
        return await self._inner.dial_tcp(remote, local=bound)

    async def resolve(self, host: str, port: int) -> list[Endpoint]:
        return await self._inner.resolve(host, port)

    def interfaces(self) -> list[Interface]:
        """Only what is bound to: the interface, or those that hold the address and of them only that address."""
        if self._interface is not None:
            return [interface for interface in self._inner.interfaces() if interface.name == self._interface]
        found = []
        for interface in self._inner.interfaces():
            addresses = tuple(address for address in interface.addresses if self._is_held(interface, address))
            if addresses:
                found.append(interface._replace(addresses=addresses))
        return found

    def gateways(self) -> list[Gateway]:
        """The default routes through what is bound to, of its family."""
        names = {interface.name for interface in self.interfaces()}
        return [
            gateway
            for gateway in self._inner.gateways()
            if gateway.interface in names and (self._host is None or (":" in gateway.host) == (":" in self._host))
        ]

    async def wait_address_change(self) -> None:
        await self._inner.wait_address_change()

    def _bound(self, local: Endpoint) -> Endpoint:
        """``local`` with the bound address for the wildcard; OSError for an address that is not bound to."""
        if self._host is not None:
            if local.is_ipv6 != (":" in self._host):
                raise _refusal(errno.EAFNOSUPPORT, f"bound to {self._host}, which is of the other family")
            if local.host in WILDCARDS or local.host == self._host:
                return Endpoint(self._host, local.port)
        elif local.host in WILDCARDS:
            return Endpoint(self._best(local.is_ipv6), local.port)
        elif any(address.host == local.host for address in self._usable()):
            return local
        raise _refusal(errno.EADDRNOTAVAIL, f"{local.host} is not what this network is bound to ({self.bind})")

    def _best(self, is_ipv6: bool) -> str:
        candidates = [address for address in self._usable() if (":" in address.host) == is_ipv6]
        # A link-local IPv6 address reaches nobody beyond the link and would only make dials fail later.
        candidates = [address for address in candidates if not (is_ipv6 and ip_address(address.host).is_link_local)]
        if not candidates:
            raise _refusal(errno.EADDRNOTAVAIL, f"{self._interface} has no IPv{6 if is_ipv6 else 4} address")
        return min(candidates, key=_preference).host

    def _usable(self) -> Iterator[InterfaceAddress]:
        for interface in self.interfaces():
            if interface.up:
                yield from interface.addresses

    def _is_held(self, interface: Interface, address: InterfaceAddress) -> bool:
        assert self._host is not None
        if address.host == self._host:
            return True
        if not interface.loopback or (":" in address.host) != (":" in self._host):
            return False
        # All of 127.0.0.0/8 is ours although the kernel lists one address of it.
        return ip_address(self._host) in ip_interface(f"{address.host}/{address.prefix_length}").network


def bound(network: Network, bind: str | None) -> Network:
    """``network`` through ``bind`` only; as it is where that is None."""
    return network if bind is None else BoundNetwork(network, bind)


def is_loopback(network: Network) -> bool:
    """Whether it is bound to an address that reaches this machine only."""
    return isinstance(network, BoundNetwork) and network.is_loopback


def _preference(address: InterfaceAddress) -> tuple[bool, bool, bool, bool]:
    """Smallest first: reachable from afar, not on its way out, and stable rather than temporary (we listen on it)."""
    parsed = ip_address(address.host)
    return parsed.is_link_local, address.deprecated, not parsed.is_global, address.temporary


def _literal(bind: str) -> str | None:
    try:
        return normalise_host(bind)
    except ValueError:
        return None


def _refusal(code: int, detail: str) -> OSError:
    return OSError(code, f"{os.strerror(code)}: {detail}")
