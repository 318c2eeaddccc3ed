"""A PCP client (RFC 6887) for one server and one of our addresses, IPv4 or IPv6.  Datagrams: `swarm.gateway.pcp`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, MutableMapping
from contextlib import suppress
from itertools import islice

import trio

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError, RemoteProtocolError
from swarm.gateway import pcp
from swarm.gateway.clients.exchange import ask
from swarm.gateway.clients.natpmp import NatPmpClient
from swarm.gateway.epoch import EpochWatch
from swarm.gateway.method import PERMANENT, Mapping, MethodName, Transport
from swarm.net.network import Network

UNMAP_WAITS = (0.25, 0.5)  # seconds: on the way out nobody waits long
PROBE_ATTEMPTS = 2  # 3 s and 6 s
NATPMP_PATIENCE = 2.0  # seconds for an answer by the older protocol

Nonces = MutableMapping[tuple[Transport, Endpoint], bytes]
"""The nonce of every mapping by transport and internal endpoint: whoever has another may not renew it."""


class UnsupportedVersion(RemoteError):
    """The server speaks another ``version``: 0 is NAT-PMP (RFC 6887 §9)."""

    def __init__(self, version: int) -> None:
        super().__init__("unsupported", f"the server speaks version {version}")
        self.version = version


class PcpRefusal(RemoteError):
    """An error response; the same request fails for another ``retry_in`` seconds."""

    def __init__(self, response: pcp.Response) -> None:
        super().__init__(pcp.REASONS.get(response.result, "refused"), f"PCP result {response.result}")
        self.retry_in = float(response.lifetime)


class PcpClient:
    """See `swarm.gateway.method.Method`, and `swarm.gateway.clients.natpmp` for ``clock`` and ``on_restart``.

    ``nonces`` outlives the client, so that a mapping can be renewed by its successor.  ``natpmp`` is a client of the
    older protocol for the same server, which tells the outside address where no mapping does.
    """

    name: MethodName = "pcp"
    longest_silence = PERMANENT

    def __init__(
        self,
        network: Network,
        gateway: str,
        inside: str,
        *,
        clock: Callable[[], float],
        on_restart: Callable[[], None],
        rng: random.Random,
        nonces: Nonces,
        natpmp: NatPmpClient | None = None,
    ) -> None:
        self.gateway = gateway
        self.inside = inside
        self._network = network
        self._server = Endpoint(gateway, pcp.SERVER_PORT)
        self._clock = clock
        self._on_restart = on_restart
        self._rng = rng
        self._nonces = nonces
        self._natpmp = natpmp
        self._watch = EpochWatch("pcp")
        self._external_host: str | None = None

    async def map(self, transport: Transport, internal_port: int, external_port: int, lifetime: int) -> Mapping:
        waits = pcp.retransmission_waits(self._rng)
        response = await self._ask_map(transport, internal_port, external_port, lifetime, waits)
        mapped = response.mapped
        if mapped is None or response.lifetime == 0 or mapped.external.port == 0:
            raise RemoteError("refused", "a mapping without a life or a port")
        self._external_host = mapped.external.host
        internal = Endpoint(self.inside, internal_port)
        return Mapping(transport, internal, mapped.external.port, mapped.external.host, response.lifetime)

    async def unmap(self, mapping: Mapping) -> None:
        try:
            await self._ask_map(mapping.transport, mapping.internal.port, 0, 0, UNMAP_WAITS)
        except PcpRefusal as refusal:
            # What miniupnpd 2.3.1 says about a mapping that is not there; RFC 6887 §15.1 asks for SUCCESS.
            if refusal.reason != "out-of-resources":
                raise

    async def external_host(self) -> str | None:
        """See `Method.external_host`; a mapping tells it.  Until there is one, servers that also speak NAT-PMP do."""
        if self._external_host is None and self._natpmp is not None:
            with trio.move_on_after(NATPMP_PATIENCE), suppress(RemoteError):  # which says nothing about PCP
                return await self._natpmp.external_host()
        return self._external_host

    async def probe(self) -> None:
        """Ask for the epoch.  Raises UnsupportedVersion if the server does not speak PCP."""

        def accept(data: bytes) -> pcp.Response | None:
            response = pcp.parse_response_untrusted(data)
            return response if response.version != pcp.VERSION or response.opcode == pcp.OPCODE_ANNOUNCE else None

        request = pcp.encode_announce(self.inside)
        waits = islice(pcp.retransmission_waits(self._rng), PROBE_ATTEMPTS)
        response = await ask(self._network, self.inside, self._server, request, waits, accept)
        try:
            self._check(response)
        except PcpRefusal as refusal:
            # A server without ANNOUNCE has answered all the same, and its epoch counts.
            if refusal.reason != "unsupported":
                raise

    def hear(self, announcement: bytes) -> None:
        """Take what the server has multicast; anything but an ANNOUNCE is passed over."""
        try:
            response = pcp.parse_response_untrusted(announcement)
        except RemoteProtocolError:
            return
        if response.version == pcp.VERSION and response.opcode == pcp.OPCODE_ANNOUNCE and not response.result:
            self._note_epoch(response.epoch)

    async def _ask_map(
        self, transport: Transport, internal_port: int, external_port: int, lifetime: int, waits: Iterable[float]
    ) -> pcp.Response:
        nonce = self._nonce(transport, internal_port)
        anywhere = Endpoint("::" if ":" in self.inside else "0.0.0.0", external_port)

        def accept(data: bytes) -> pcp.Response | None:
            response = pcp.parse_response_untrusted(data)
            mapped = response.mapped
            if response.version != pcp.VERSION or (response.opcode == pcp.OPCODE_MAP and mapped is None):
                return response  # another protocol, or an error that does not repeat the request
            ours = mapped is not None and (mapped.nonce, mapped.transport, mapped.internal_port) == (
                nonce,
                transport,
                internal_port,
            )
            return response if ours else None

        request = pcp.encode_map_request(self.inside, transport, internal_port, anywhere, lifetime, nonce=nonce)
        response = await ask(self._network, self.inside, self._server, request, waits, accept)
        self._check(response)
        return response

    def _nonce(self, transport: Transport, internal_port: int) -> bytes:
        key = transport, Endpoint(self.inside, internal_port)
        if key not in self._nonces:
            self._nonces[key] = self._rng.randbytes(pcp.NONCE_SIZE)
        return self._nonces[key]

    def _check(self, response: pcp.Response) -> None:
        if response.version != pcp.VERSION:
            raise UnsupportedVersion(response.version)
        self._note_epoch(response.epoch)
        if response.result:
            raise PcpRefusal(response)

    def _note_epoch(self, epoch: int) -> None:
        if self._watch.heard(epoch, self._clock()):
            self._on_restart()
