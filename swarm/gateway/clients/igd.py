"""UPnP clients over `Network`: finding gateways (SSDP), mapping on IPv4, pinholes on IPv6.

Documents are in `swarm.gateway.igd`, searches in `swarm.gateway.ssdp`.  No eventing: a restart shows when a mapping is
asked for again, which ``longest_silence`` makes happen every few minutes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from collections.abc import Mapping as Results
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address

import trio

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError, RemoteProtocolError
from swarm.gateway import igd, ssdp
from swarm.gateway.markup import MAX_BYTES
from swarm.gateway.method import NO_ADDRESS, PERMANENT, Mapping, MethodName, Transport
from swarm.gateway.pcp import PROTOCOLS
from swarm.net.bound import BoundNetwork
from swarm.net.http import HttpError, fetch
from swarm.net.network import DatagramSocket, Network, Outgoing, Path

LONGEST_SILENCE = 300.0  # seconds
DESCRIPTION = "swarm"  # what the gateway's table shows its owner
OTHER_PORTS = 4  # tried on a conflict where the gateway cannot choose one itself
DYNAMIC_PORTS = range(49152, 65536)  # RFC 6335 §6
MAX_DEVICES = 8  # that one search makes us ask for their description
DESCRIPTION_LIMIT = 10.0  # seconds a device has to describe itself


@dataclass(frozen=True, slots=True)
class FoundDevice:
    """A gateway that answered a search from the address ``host``."""

    host: str
    device: igd.Device


async def discover(
    network: Network,
    inside: str,
    interface: str,
    found: Callable[[FoundDevice], None],
    failed: Callable[[str, RemoteError], None],
) -> None:
    """Search the LAN of our address ``inside`` for ANSWER_WINDOW seconds, and wait for the last description.

    ``found`` is called as soon as a device has described itself, ``failed`` with the address of one that did not.
    Raises RemoteError("unreachable") when the search cannot be sent.
    """
    asked: set[str] = set()

    def answered(data: bytes, sender: str) -> None:
        try:
            answer = ssdp.parse_search_answer_untrusted(data, sender)
        except RemoteProtocolError:
            return  # all kinds of devices answer all kinds of searches
        if answer.location not in asked and len(asked) < MAX_DEVICES:
            asked.add(answer.location)
            nursery.start_soon(describe, answer.location, sender)

    async def describe(location: str, host: str) -> None:
        try:
            with trio.move_on_after(DESCRIPTION_LIMIT) as scope:
                body = await _fetch(BoundNetwork(network, inside), location)
            if scope.cancelled_caught:
                raise RemoteError("timed-out", f"{location} does not answer")
            found(FoundDevice(host, igd.parse_description_untrusted(body, location, host)))
        except RemoteError as error:
            failed(host, error)

    try:
        bound = await network.bind_udp(Endpoint(inside, 0), interface=interface)
    except OSError as error:
        raise RemoteError("unreachable", f"{inside}: {error.strerror or error}") from None
    try:
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(ssdp.ANSWER_WINDOW):
                async with trio.open_nursery() as searching:
                    searching.start_soon(_collect, bound, answered)
                    await _send_searches(bound, Endpoint(ssdp.GROUPS[6 if ":" in inside else 4], ssdp.PORT))
    finally:
        bound.close()


async def _collect(bound: DatagramSocket, answered: Callable[[bytes, str], None]) -> None:
    while True:
        await bound.wait_readable()
        for received in bound.receive_nowait():
            answered(bytes(received.data[: received.segment_size]), received.path.remote.host)


async def _send_searches(bound: DatagramSocket, group: Endpoint) -> None:
    path = Path(None, group)
    sent_at = 0.0
    for at in ssdp.SEARCH_TIMES:
        await trio.sleep(at - sent_at)
        sent_at = at
        for target in ssdp.TARGETS:
            message = ssdp.encode_search(target, group)
            try:
                bound.send_nowait(Outgoing([message], len(message), path, ttl=ssdp.TTL))
            except BlockingIOError:
                pass  # the next time will do
            except OSError as error:
                raise RemoteError("unreachable", f"{group}: {error.strerror or error}") from None


class _Caller:
    """Calls one service of one device."""

    def __init__(self, network: Network, inside: str, service: igd.Service) -> None:
        self._network = BoundNetwork(network, inside)
        self._service = service

    async def call(self, action: str, arguments: Sequence[tuple[str, str | int]] = ()) -> Results[str, str]:
        """The results.  Raises igd.SoapFault and RemoteError."""
        kind = self._service.service_type
        body = igd.encode_call(kind, action, arguments)
        answer = await _fetch(self._network, self._service.control_url, igd.call_headers(kind, action), body)
        return igd.parse_results_untrusted(answer, action)


class IgdClient:
    """WANIPConnection of an IGD 1 or 2; see `swarm.gateway.method.Method`.

    What the gateway cannot do is learned and remembered: leases that end (error 725), choosing a free port (401).
    """

    longest_silence = LONGEST_SILENCE

    def __init__(self, network: Network, inside: str, found: FoundDevice, rng: random.Random) -> None:
        """ValueError for a device without a connection service."""
        if not found.device.connections:
            raise ValueError(f"{found.host} has no connection service")
        service = found.device.connections[0]
        self.name: MethodName = "upnp-igd2" if service.short_type.endswith("WANIPConnection:2") else "upnp-igd1"
        self.gateway = found.host
        self.inside = inside
        self._caller = _Caller(network, inside, service)
        self._rng = rng
        self._permanent_only = False
        self._chooses_ports = self.name == "upnp-igd2"

    async def map(self, transport: Transport, internal_port: int, external_port: int, lifetime: int) -> Mapping:
        internal = Endpoint(self.inside, internal_port)
        opened = await self._open(transport, internal, external_port or internal_port, lifetime)
        lasts = PERMANENT if self._permanent_only else lifetime
        return Mapping(transport, internal, opened, await self.external_host(), lasts)

    async def unmap(self, mapping: Mapping) -> None:
        try:
            await self._caller.call("DeletePortMapping", igd.entry_arguments(mapping.transport, mapping.external_port))
        except igd.SoapFault as fault:
            if fault.code != igd.NO_SUCH_ENTRY:
                raise

    async def external_host(self) -> str | None:
        text = (await self._caller.call("GetExternalIPAddress")).get("NewExternalIPAddress", "")
        try:
            address = IPv4Address(text)
        except AddressValueError:
            address = IPv4Address(NO_ADDRESS)
        if not address.is_unspecified:
            return str(address)
        return NO_ADDRESS if await self._is_connected() else None

    async def probe(self) -> None:
        await self._caller.call("GetExternalIPAddress")

    async def _is_connected(self) -> bool:
        """Whether its line is up, by its own word: while it is down, some devices tell an empty address, too."""
        try:
            return (await self._caller.call("GetStatusInfo")).get("NewConnectionStatus") == "Connected"
        except igd.SoapFault:
            return False

    async def _open(self, transport: Transport, internal: Endpoint, wanted: int, lifetime: int) -> int:
        """The port that was opened: ``wanted``, or another where that one is somebody else's."""
        port = wanted
        for _ in range(1 + OTHER_PORTS):
            try:
                if await self._is_anothers(transport, internal, port):
                    raise igd.SoapFault(igd.CONFLICT, f"{transport} {port} is forwarded to another host")
                await self._add("AddPortMapping", transport, internal, port, lifetime)
                return port
            except igd.SoapFault as fault:
                conflict = fault
            if conflict.code == igd.SAME_PORT_REQUIRED and port == wanted != internal.port:
                port = internal.port
                continue
            if conflict.code != igd.CONFLICT:
                raise conflict
            chosen = await self._add_any(transport, internal, port, lifetime)
            if chosen is not None:
                return chosen
            port = self._rng.choice(DYNAMIC_PORTS)
        raise conflict

    async def _is_anothers(self, transport: Transport, internal: Endpoint, port: int) -> bool:
        """Whether the port belongs to another host: there are gateways that would give it to us all the same."""
        try:
            entry = await self._caller.call("GetSpecificPortMappingEntry", igd.entry_arguments(transport, port))
        except igd.SoapFault:
            return False
        return (entry.get("NewInternalClient"), entry.get("NewInternalPort")) != (internal.host, str(internal.port))

    async def _add_any(self, transport: Transport, internal: Endpoint, port: int, lifetime: int) -> int | None:
        """The free port that the gateway chose; None if it cannot choose."""
        if not self._chooses_ports:
            return None
        try:
            results = await self._add("AddAnyPortMapping", transport, internal, port, lifetime)
        except igd.SoapFault as fault:
            if fault.reason != "unsupported":
                raise
            self._chooses_ports = False
            return None
        return igd.port_untrusted(results, "NewReservedPort")

    async def _add(
        self, action: str, transport: Transport, internal: Endpoint, port: int, lifetime: int
    ) -> Results[str, str]:
        """Call with a lease that ends, or with one that does not once the gateway has insisted on it."""
        lease = 0 if self._permanent_only else lifetime
        try:
            return await self._caller.call(action, igd.mapping_arguments(transport, internal, port, lease, DESCRIPTION))
        except igd.SoapFault as fault:
            if fault.code != igd.PERMANENT_ONLY or self._permanent_only:
                raise
        self._permanent_only = True
        return await self._add(action, transport, internal, port, 0)


class PinholeClient:
    """WANIPv6FirewallControl of an IGD 2, for our IPv6 address ``inside``; see `swarm.gateway.method.Method`.

    ``caller`` is the address of ours that found the device and calls it.  miniupnpd opens pinholes only for the very
    address that calls, and answers 606 to a call by IPv4; other gateways listen on IPv4 alone.
    """

    name: MethodName = "pinhole"
    longest_silence = LONGEST_SILENCE

    def __init__(self, network: Network, inside: str, found: FoundDevice, caller: str) -> None:
        """ValueError for a device without firewall control."""
        if found.device.firewall is None:
            raise ValueError(f"{found.host} has no firewall control")
        self.gateway = found.host
        self.inside = inside
        self._caller = _Caller(network, caller, found.device.firewall)
        self._unique_ids: dict[tuple[Transport, int], int] = {}

    async def map(self, transport: Transport, internal_port: int, external_port: int, lifetime: int) -> Mapping:
        """See `Method.map`; a pinhole translates nothing, so ``external_port`` is disregarded."""
        internal = Endpoint(self.inside, internal_port)
        lease = max(1, min(lifetime, igd.LONGEST_PINHOLE))
        key = transport, internal_port
        if key not in self._unique_ids or not await self._update(self._unique_ids[key], lease):
            arguments = igd.pinhole_arguments(PROTOCOLS[transport], internal, lease)
            self._unique_ids[key] = igd.unique_id_untrusted(await self._caller.call("AddPinhole", arguments))
        return Mapping(transport, internal, internal_port, self.inside, lease)

    async def unmap(self, mapping: Mapping) -> None:
        unique_id = self._unique_ids.pop((mapping.transport, mapping.internal.port), None)
        if unique_id is None:
            return
        try:
            await self._caller.call("DeletePinhole", [("UniqueID", unique_id)])
        except igd.SoapFault as fault:
            if fault.code != igd.NO_SUCH_PINHOLE:
                raise

    async def external_host(self) -> str | None:
        return self.inside

    async def probe(self) -> None:
        await self._caller.call("GetFirewallStatus")

    async def _update(self, unique_id: int, lease: int) -> bool:
        """Whether the pinhole was still there to be renewed."""
        try:
            await self._caller.call("UpdatePinhole", [("UniqueID", unique_id), ("NewLeaseTime", lease)])
        except igd.SoapFault as fault:
            if fault.code != igd.NO_SUCH_PINHOLE:
                raise
            return False
        return True


async def _fetch(
    network: Network, url: str, headers: Sequence[tuple[str, str]] = (), post: bytes | None = None
) -> bytes:
    """The body of the answer, also of one with status 500: SOAP faults come with it (SOAP 1.1 §6.2).

    Redirects are not followed: whoever answers a search would have us ask others, and this machine itself.
    """
    try:
        return (await fetch(network, url, max_body=MAX_BYTES, headers=headers, post=post, redirects=0)).body
    except HttpError as error:
        if post is not None and error.response is not None and error.response.status == 500:
            return error.response.body
        unreachable = error.reason in ("unreachable", "refused", "connection-lost", "no-address")
        raise RemoteError("unreachable" if unreachable else "bad-response", str(error)) from None
