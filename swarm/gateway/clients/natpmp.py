"""A NAT-PMP client (RFC 6886) for one gateway.  The datagrams are in `swarm.gateway.natpmp`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError, RemoteProtocolError
from swarm.gateway import natpmp
from swarm.gateway.clients.exchange import ask
from swarm.gateway.epoch import EpochWatch
from swarm.gateway.method import NO_ADDRESS, PERMANENT, Mapping, MethodName, Transport
from swarm.net.network import Network

UNMAP_WAITS = (0.25, 0.5)  # seconds: on the way out nobody waits long
PROBE_WAITS = (0.25, 0.5, 1.0, 2.0)  # seconds
NOWHERE = "network-failure"  # the reason of a gateway that has no outside address (RFC 6886 §3.5)

ResponseT = TypeVar("ResponseT", natpmp.AddressResponse, natpmp.MapResponse)


class NatPmpClient:
    """See `swarm.gateway.method.Method`.

    ``clock`` goes on while the machine is suspended.  ``on_restart`` is called when a response, or an announcement
    given to `hear`, shows that the gateway has lost its mappings, before that response is returned.
    """

    name: MethodName = "nat-pmp"
    longest_silence = PERMANENT

    def __init__(
        self,
        network: Network,
        gateway: str,
        inside: str,
        *,
        clock: Callable[[], float],
        on_restart: Callable[[], None],
    ) -> None:
        self.gateway = gateway
        self.inside = inside
        self._network = network
        self._server = Endpoint(gateway, natpmp.SERVER_PORT)
        self._clock = clock
        self._on_restart = on_restart
        self._watch = EpochWatch("nat-pmp")
        self._external_host: str | None = None

    async def map(self, transport: Transport, internal_port: int, external_port: int, lifetime: int) -> Mapping:
        request = natpmp.encode_map_request(transport, internal_port, external_port, lifetime)
        response = await self._ask_map(request, transport, internal_port, natpmp.retransmission_waits())
        if response.lifetime == 0 or response.external_port == 0:
            raise RemoteError("refused", "a mapping without a life or a port")
        return Mapping(
            transport,
            Endpoint(self.inside, internal_port),
            response.external_port,
            await self._outside_host(),
            response.lifetime,
        )

    async def unmap(self, mapping: Mapping) -> None:
        request = natpmp.encode_map_request(mapping.transport, mapping.internal.port, 0, 0)
        await self._ask_map(request, mapping.transport, mapping.internal.port, UNMAP_WAITS)

    async def external_host(self) -> str | None:
        """See `Method.external_host`; asked once, and again after every restart."""
        try:
            return await self._outside_host()
        except RemoteError as error:
            if error.reason != NOWHERE:
                raise
            return NO_ADDRESS

    async def probe(self) -> None:
        try:
            await self._ask_address(PROBE_WAITS)
        except RemoteError as error:
            if error.reason != NOWHERE:
                raise  # else it has answered all the same

    async def _outside_host(self) -> str | None:
        if self._external_host is None:
            await self._ask_address(natpmp.retransmission_waits())
        return self._external_host

    def hear(self, announcement: bytes) -> None:
        """Take what the gateway has multicast; anything but an address response is passed over."""
        try:
            response = natpmp.parse_response_untrusted(announcement)
        except RemoteProtocolError:
            return
        if isinstance(response, natpmp.AddressResponse):
            self._note_address(response)

    async def _ask_map(
        self, request: bytes, transport: Transport, internal_port: int, waits: Iterable[float]
    ) -> natpmp.MapResponse:
        def accept(data: bytes) -> natpmp.MapResponse | natpmp.ErrorResponse | None:
            response = natpmp.parse_response_untrusted(data)
            match response:
                case natpmp.MapResponse() if (response.transport, response.internal_port) == (transport, internal_port):
                    return response
                case natpmp.ErrorResponse() if response.opcode in (natpmp.OPCODES[transport], 0):
                    return response
            return None

        response: natpmp.MapResponse | natpmp.ErrorResponse
        response = await ask(self._network, self.inside, self._server, request, waits, accept)
        self._note_epoch(response.epoch)
        return _checked(response)

    async def _ask_address(self, waits: Iterable[float]) -> None:
        def accept(data: bytes) -> natpmp.AddressResponse | natpmp.ErrorResponse | None:
            response = natpmp.parse_response_untrusted(data)
            return None if isinstance(response, natpmp.MapResponse) else response

        request = natpmp.encode_address_request()
        response: natpmp.AddressResponse | natpmp.ErrorResponse
        response = await ask(self._network, self.inside, self._server, request, waits, accept)
        self._note_address(_checked(response))

    def _note_address(self, response: natpmp.AddressResponse) -> None:
        self._note_epoch(response.epoch)
        if self._external_host not in (None, response.external_host):
            self._on_restart()  # another outside address: what was mapped is worth nothing
        self._external_host = response.external_host

    def _note_epoch(self, epoch: int) -> None:
        if self._watch.heard(epoch, self._clock()):
            self._external_host = None
            self._on_restart()


def _checked(response: ResponseT | natpmp.ErrorResponse) -> ResponseT:
    if isinstance(response, natpmp.ErrorResponse):
        raise RemoteError(natpmp.REASONS.get(response.result, "refused"), f"NAT-PMP result {response.result}")
    return response
