"""Everything that is done to open our ports on one LAN: which methods are tried, in which order, and what came of it.

For each router PCP, then NAT-PMP (RFC 6887 §9), each with a short head start; UPnP is searched for meanwhile and used
where those have not opened the ports.  IPv6 gets PCP and pinholes.  One `Keeper` per method holds the leases.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import trio

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.events import Emit, PortMapped, PortMappingFailed, PortMappingLost
from swarm.gateway import pcp
from swarm.gateway.clients.igd import FoundDevice, IgdClient, PinholeClient, discover
from swarm.gateway.clients.miniupnpc import MiniupnpcClient, open_miniupnpc
from swarm.gateway.clients.natpmp import NatPmpClient
from swarm.gateway.clients.negotiation import PortControl, negotiate
from swarm.gateway.clients.pcp import Nonces, PcpClient
from swarm.gateway.keeper import Keeper, Period
from swarm.gateway.lans import Lan
from swarm.gateway.lease import Change, Lease
from swarm.gateway.method import NO_ADDRESS, Method, MethodName, Transport
from swarm.gateway.report import LeaseReport
from swarm.net.network import Network

PORT_CONTROL_HEAD_START = 0.5  # seconds before UPnP maps as well
IPV6_SEARCH_HEAD_START = 3.5  # seconds before pinholes are asked for by IPv4, which not every gateway allows
MENDING = 5.0  # seconds in which the better method may get its ports back, after the router's restart say
FIRST_SEARCH_AGAIN, LONGEST_SEARCH_AGAIN = 60.0, 1800.0  # seconds until gateways are looked for again, doubling


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What the sessions of one mapper have in common.

    ``clock`` goes on while the machine is suspended.  ``port`` is the node's own, ``wanted_port`` the one to ask for
    outside.  ``miniupnpc`` allows the library's own sockets where our client finds no UPnP gateway.
    """

    network: Network
    port: int
    wanted_port: int
    transports: tuple[Transport, ...]
    clock: Callable[[], float]
    rng: random.Random
    emit: Emit
    miniupnpc: bool
    nonces: Nonces = field(default_factory=dict)


class Session:
    """The work on one LAN; `run` it in a task of its own."""

    def __init__(self, lan: Lan, terms: Terms) -> None:
        self.lan = lan
        self.keepers: list[Keeper] = []
        self._terms = terms
        self._failures: dict[tuple[MethodName, str, str], str] = {}  # (method, gateway, inside): reason
        self._changed = trio.Event()
        self._checked = trio.Event()
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Open ports and keep them open until `stop`."""
        lan = self.lan
        with self._scope:
            async with trio.open_nursery() as nursery:
                if lan.ipv4 is not None:
                    nursery.start_soon(self._upnp, lan.ipv4)
                    for gateway in lan.gateways_v4:
                        nursery.start_soon(self._port_control, gateway, lan.ipv4)
                for inside in lan.ipv6:
                    nursery.start_soon(self._upnp, inside)
                    for gateway in lan.gateways_v6:
                        nursery.start_soon(self._port_control, gateway, inside)
                if lan.gateways_v4:
                    nursery.start_soon(self._hear, "0.0.0.0", pcp.ANNOUNCEMENT_GROUPS[4])
                if lan.gateways_v6:
                    nursery.start_soon(self._hear, "::", pcp.ANNOUNCEMENT_GROUPS[6])

    def stop(self, reason: str) -> None:
        """End `run`; what was open counts as lost."""
        self._scope.cancel()
        for keeper in self.keepers:
            for lease in keeper.leases:
                if lease.held:
                    self._report(keeper.method, lease, "lost", reason)

    def outside_hosts(self) -> Iterator[tuple[str, str]]:
        """(gateway, its outside IPv4 address) of those that have told it, whether they opened a port or not."""
        for keeper in self.keepers:
            host = keeper.outside_host
            if host is not None and host != NO_ADDRESS and ":" not in host:
                yield keeper.method.gateway, host

    def addressless(self) -> Iterator[tuple[str, Period]]:
        """(gateway, from when to when it said so) of those that say they have no outside address."""
        for keeper in self.keepers:
            if keeper.addressless is not None:
                yield keeper.method.gateway, keeper.addressless

    def check(self) -> None:
        """Something has changed: see whether the ports are open, and look for gateways again where they are not."""
        for keeper in self.keepers:
            keeper.check()
        self._checked.set()
        self._checked = trio.Event()

    async def release(self) -> None:
        """Close what was opened.  The caller bounds the time."""
        async with trio.open_nursery() as nursery:
            for keeper in self.keepers:
                nursery.start_soon(keeper.release)

    def reports(self) -> Iterator[LeaseReport]:
        """One for each lease, and for each method that was tried in vain."""
        now = self._terms.clock()
        for keeper in self.keepers:
            method = keeper.method
            for lease in keeper.leases:
                yield LeaseReport(
                    method.name,
                    lease.transport,
                    method.gateway,
                    lease.internal,
                    lease.external,
                    lease.expires_in(now),
                    lease.error,
                    "miniupnpc" if isinstance(method, MiniupnpcClient) else "swarm",
                )
        for (name, gateway, inside), reason in self._failures.items():
            for transport in self._terms.transports:
                internal = Endpoint(inside, self._terms.port)
                yield LeaseReport(name, transport, gateway, internal, None, None, reason)

    # ---- PCP and NAT-PMP

    async def _port_control(self, gateway: str, inside: str) -> None:
        wait = FIRST_SEARCH_AGAIN
        while True:
            client = await self._negotiated(gateway, inside)
            if client is not None:
                wait = FIRST_SEARCH_AGAIN
                await self._keep(client)
            else:
                await self._pause(wait)
                wait = min(2 * wait, LONGEST_SEARCH_AGAIN)

    async def _negotiated(self, gateway: str, inside: str) -> PortControl | None:
        """A client of the best protocol that the gateway speaks."""

        def failed(client: PortControl, error: RemoteError) -> None:
            self._fail(client.name, gateway, inside, error)

        client = await negotiate(self._port_controls(gateway, inside), failed)
        if client is not None:
            self._forget_failures(inside, "pcp", "nat-pmp")
        return client

    def _port_controls(self, gateway: str, inside: str) -> list[PortControl]:
        terms = self._terms
        network, clock, rng = terms.network, terms.clock, terms.rng

        def on_restart() -> None:
            self._restarted(gateway)

        natpmp = None
        if ":" not in inside:
            natpmp = NatPmpClient(network, gateway, inside, clock=clock, on_restart=on_restart)
        client = PcpClient(
            network, gateway, inside, clock=clock, on_restart=on_restart, rng=rng, nonces=terms.nonces, natpmp=natpmp
        )
        return [client] if natpmp is None else [client, natpmp]

    async def _hear(self, wildcard: str, group: str) -> None:
        """Hand announcements to the clients of the gateway that sent them."""
        try:
            bound = await self._terms.network.bind_udp(
                Endpoint(wildcard, pcp.ANNOUNCEMENT_PORT),
                shared=True,
                multicast_group=group,
                interface=self.lan.interface,
            )
        except OSError:
            return  # another program has the port to itself; the probes see a restart too, a minute later
        with closing(bound):
            while True:
                await bound.wait_readable()
                for received in bound.receive_nowait():
                    sender = received.path.remote
                    if sender.port == pcp.SERVER_PORT:
                        self._announced(sender.host, bytes(received.data[: received.segment_size]))

    def _announced(self, gateway: str, announcement: bytes) -> None:
        for keeper in self.keepers:
            if keeper.method.gateway == gateway and isinstance(keeper.method, PortControl):
                keeper.method.hear(announcement)

    def _restarted(self, gateway: str) -> None:
        """Its ports are gone; the others of the LAN are looked after, as routers have more than one address."""
        for keeper in self.keepers:
            if keeper.method.gateway == gateway:
                keeper.forget()
            else:
                keeper.check()

    # ---- UPnP

    async def _upnp(self, inside: str) -> None:
        wait = FIRST_SEARCH_AGAIN
        while True:
            if await self._use_devices(inside) or await self._use_miniupnpc(inside):
                wait = FIRST_SEARCH_AGAIN
            else:
                await self._pause(wait)
                wait = min(2 * wait, LONGEST_SEARCH_AGAIN)

    async def _use_devices(self, inside: str) -> bool:
        """Whether there was a device of use; returns when all that were found are gone."""
        names: tuple[MethodName, ...] = ("pinhole",) if ":" in inside else ("upnp-igd1", "upnp-igd2")
        gateways = self.lan.gateways_v6 if ":" in inside else self.lan.gateways_v4
        useful = failures = 0

        def found(device: FoundDevice) -> None:
            nonlocal useful
            for method, head_start in self._methods(device, inside):
                useful += 1
                self._forget_failures(inside, *names)
                nursery.start_soon(self._keep_where_needed, method, head_start)

        def failed(gateway: str, error: RemoteError) -> None:
            nonlocal failures
            failures += 1
            self._fail(names[0], gateway, inside, error)

        async with trio.open_nursery() as nursery:
            try:
                await discover(self._terms.network, inside, self.lan.interface, found, failed)
            except RemoteError as error:
                failed(next(iter(gateways), ""), error)
            if useful + failures == 0:
                failed(next(iter(gateways), ""), RemoteError("no-gateway", "nobody answers a search"))
        return useful > 0

    def _methods(self, device: FoundDevice, inside: str) -> Iterator[tuple[Method, float]]:
        """What a device that was found from ``inside`` is good for, and the head start that better methods get."""
        network = self._terms.network
        if ":" in inside:
            if device.device.firewall is not None:
                yield PinholeClient(network, inside, device, inside), PORT_CONTROL_HEAD_START
            return
        if device.device.connections:
            yield IgdClient(network, inside, device, self._terms.rng), PORT_CONTROL_HEAD_START
        if device.device.firewall is not None:
            for host in self.lan.ipv6:
                yield PinholeClient(network, host, device, inside), IPV6_SEARCH_HEAD_START

    async def _use_miniupnpc(self, inside: str) -> bool:
        if not self._terms.miniupnpc or ":" in inside:
            return False
        try:
            client = await open_miniupnpc(inside, self._terms.rng)
        except RemoteError:
            return False  # our own search has said why already
        await self._keep_where_needed(client, PORT_CONTROL_HEAD_START)
        return True

    async def _keep_where_needed(self, method: Method, head_start: float) -> None:
        """`_keep` once no better method holds the ports: after its head start, at once if one was refused."""
        with trio.move_on_after(head_start):
            while not self._is_refused_otherwise(method):
                await self._changed.wait()
        while self._is_held_otherwise(method):
            await self._changed.wait()
            await trio.sleep(MENDING)
        await self._keep(method)

    def _is_held_otherwise(self, method: Method) -> bool:
        return any(keeper.held for keeper in self._rivals(method))

    def _is_refused_otherwise(self, method: Method) -> bool:
        return any(lease.error for keeper in self._rivals(method) for lease in keeper.leases)

    def _rivals(self, method: Method) -> list[Keeper]:
        """Those that open the same ports: at the same router, or on IPv6, where it has many addresses, at any."""
        return [
            keeper
            for keeper in self.keepers
            if keeper.method.inside == method.inside
            and (":" in method.inside or keeper.method.gateway == method.gateway)
        ]

    # ---- all

    async def _keep(self, method: Method) -> None:
        """Returns when the gateway is gone."""
        terms = self._terms
        now = terms.clock()
        leases = [
            Lease(
                transport,
                Endpoint(method.inside, terms.port),
                terms.wanted_port,
                now=now,
                rng=terms.rng,
                longest_silence=method.longest_silence,
            )
            for transport in terms.transports
        ]
        keeper = Keeper(method, leases, clock=terms.clock, report=self._report)
        self.keepers.append(keeper)
        await keeper.run()
        self.keepers.remove(keeper)  # not when cancelled: then there is something left to release
        reason = next((lease.error for lease in keeper.leases if lease.error is not None), "timed-out")
        self._failures[method.name, method.gateway, method.inside] = reason
        self._change()

    async def _pause(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._checked.wait()

    def _report(self, method: Method, lease: Lease, change: Change, detail: str) -> None:
        emit, external = self._terms.emit, lease.external
        if change in ("made", "moved") and external is not None:
            self._failures.pop((method.name, method.gateway, method.inside), None)
            emit(PortMapped(method.name, lease.transport, method.gateway, lease.internal, external))
        elif change == "lost":
            emit(PortMappingLost(method.name, lease.transport, method.gateway, lease.internal, detail))
        elif change == "failed":
            reason = lease.error or ""
            emit(PortMappingFailed(method.name, lease.transport, method.gateway, lease.internal, reason, detail))
        self._change()

    def _fail(self, name: MethodName, gateway: str, inside: str, error: RemoteError) -> None:
        """A method could not even be started."""
        key = name, gateway, inside
        if self._failures.get(key) == error.reason:
            return
        self._failures[key] = error.reason
        for transport in self._terms.transports:
            internal = Endpoint(inside, self._terms.port)
            self._terms.emit(PortMappingFailed(name, transport, gateway, internal, error.reason, str(error)))

    def _forget_failures(self, inside: str, *names: MethodName) -> None:
        for key in list(self._failures):
            if key[0] in names and key[2] == inside:
                del self._failures[key]

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
