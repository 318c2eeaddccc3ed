"""Asking the configured STUN servers how our NAT maps, at the start and whenever the network changes.

Off unless servers are configured.  How one is asked is `swarm.net.nat_discovery`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import trio

from swarm.connect.own_addresses import Family
from swarm.endpoint import Endpoint, split_host_port
from swarm.events import Emit, Warned
from swarm.net.nat_discovery import Binds, NatObservations, discover_nat
from swarm.net.network import Network


class StunAsking:
    """``servers`` are HOST:PORT; ``own`` tells our endpoints of a family, ``found`` is told what was observed of it."""

    def __init__(
        self,
        network: Network,
        servers: Sequence[str],
        emit: Emit,
        *,
        own: Callable[[Family], list[Endpoint]],
        found: Callable[[Family, NatObservations], None],
    ) -> None:
        self.servers: list[Endpoint] = []
        """Their addresses, as found last."""
        self._network = network
        self._names = servers
        self._emit = emit
        self._own = own
        self._found = found
        self._changed = trio.Event()

    def network_changed(self) -> None:
        """Ask again."""
        self._changed.set()

    async def run(self, stun: Mapping[Family, Binds]) -> None:
        """Ask through the sockets of each family, until cancelled."""
        while True:
            self._changed = trio.Event()
            self.servers = await self._resolve()
            async with trio.open_nursery() as nursery:
                for family, service in stun.items():
                    if of_family := [server for server in self.servers if server.is_ipv6 is (family == 6)]:
                        nursery.start_soon(self._discover, family, service, of_family)
            await self._changed.wait()

    async def _resolve(self) -> list[Endpoint]:
        servers: list[Endpoint] = []
        for text in self._names:
            try:
                servers += await self._network.resolve(*split_host_port(text))
            except OSError as error:
                self._emit(Warned(f"cannot find the address of the STUN server {text}: {error.strerror}"))
        return servers

    async def _discover(self, family: Family, stun: Binds, servers: list[Endpoint]) -> None:
        """Ask one server after the other until the answers tell how the NAT maps."""
        own, silent = self._own(family), True
        for server in servers:
            second = next((other for other in servers if other.host != server.host), None)
            observations = await discover_nat(stun, server, second=second, own=own)
            if observations.evidence:
                silent = False
                self._found(family, observations)
            if observations.mapping != "unknown":
                return
        if silent:
            self._emit(Warned(f"no STUN server answers: {', '.join(map(str, servers))}"))
