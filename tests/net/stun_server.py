"""A small STUN server (RFC 8489, RFC 5780) on four sockets of any `Network`, honest or not."""

from __future__ import annotations

from typing import Literal

import trio

from swarm.endpoint import Endpoint
from swarm.net.network import DatagramSocket, Network, Outgoing, Path
from swarm.wire.stun import (
    BINDING,
    CHANGE_IP,
    CHANGE_PORT,
    AttributeType,
    MessageClass,
    StunMessage,
    address_value,
    change_request_value,
    error_code_value,
    parse_stun_untrusted,
    xor_address_value,
)

PORTS = 3478, 3479

Kind = Literal["full", "plain", "refuses-change", "ignores-change", "half-dead"]
"""``plain`` is without OTHER-ADDRESS and RESPONSE-PORT; a ``half-dead`` one sends and hears nothing at its other
address."""


class StunServer:
    """Serves at two ports of each of two addresses of ``network``.  ``heard`` counts requests."""

    def __init__(self, network: Network, hosts: tuple[str, str], kind: Kind = "full") -> None:
        self.endpoint = Endpoint(hosts[0], PORTS[0])
        self.other = Endpoint(hosts[1], PORTS[1])
        self.heard = 0
        self._network = network
        self._hosts = hosts
        self._kind = kind
        self._sockets: dict[Endpoint, DatagramSocket] = {}

    async def open(self, nursery: trio.Nursery) -> None:
        for host in self._hosts:
            for port in PORTS:
                endpoint = Endpoint(host, port)
                self._sockets[endpoint] = await self._network.bind_udp(endpoint)
                nursery.start_soon(self._serve, endpoint)

    async def _serve(self, at: Endpoint) -> None:
        while True:
            await self._sockets[at].wait_readable()
            for received in self._sockets[at].receive_nowait():
                if not (self._kind == "half-dead" and at.host == self.other.host):
                    self._answer(parse_stun_untrusted(received.data), at, received.path.remote)

    def _answer(self, request: StunMessage, at: Endpoint, client: Endpoint) -> None:
        assert (request.message_class, request.method) == (MessageClass.REQUEST, BINDING)
        self.heard += 1
        flags = request.change_request_untrusted() or 0
        if flags and self._kind == "refuses-change":
            attributes = (
                (AttributeType.ERROR_CODE, error_code_value(420, "Unknown Attribute")),
                (AttributeType.UNKNOWN_ATTRIBUTES, change_request_value(AttributeType.CHANGE_REQUEST)[2:]),
            )
            self._send(at, client, StunMessage(MessageClass.ERROR, BINDING, request.transaction_id, attributes))
            return
        source = at if self._kind == "ignores-change" else self._changed(at, flags)
        if self._kind == "half-dead" and source.host == self.other.host:
            return
        answer = [(AttributeType.XOR_MAPPED_ADDRESS, xor_address_value(client, request.transaction_id))]
        if self._kind != "plain":
            other = self._changed(at, CHANGE_IP | CHANGE_PORT)
            answer.append((AttributeType.RESPONSE_ORIGIN, address_value(source)))
            answer.append((AttributeType.OTHER_ADDRESS, address_value(other)))
        port = request.response_port_untrusted() if self._kind != "plain" else None
        to = client if port is None else Endpoint(client.host, port)
        self._send(source, to, StunMessage(MessageClass.SUCCESS, BINDING, request.transaction_id, tuple(answer)))

    def _changed(self, at: Endpoint, flags: int) -> Endpoint:
        host = next(host for host in self._hosts if host != at.host) if flags & CHANGE_IP else at.host
        port = next(port for port in PORTS if port != at.port) if flags & CHANGE_PORT else at.port
        return Endpoint(host, port)

    def _send(self, source: Endpoint, client: Endpoint, message: StunMessage) -> None:
        data = message.encode()
        self._sockets[source].send_nowait(Outgoing((data,), len(data), Path(None, client)))
