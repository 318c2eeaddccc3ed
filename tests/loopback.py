"""A `Network` of this machine's loopback for tests: real sockets, names from a table, no interfaces to speak of."""

from __future__ import annotations

import socket

import trio

from swarm.endpoint import Endpoint, normalise_host
from swarm.net.network import Gateway, Interface
from swarm.net.tcp import TcpListener, TcpStream, dial_tcp, listen_tcp
from swarm.net.udp import UdpSocket, bind_udp


class LoopbackNetwork:
    """``names`` stands in for DNS; ``dialled`` lists the connections that were tried."""

    def __init__(self, names: dict[str, list[str]] | None = None) -> None:
        self.names = names or {}
        self.dialled: list[Endpoint] = []

    async def bind_udp(
        self, local: Endpoint, *, shared: bool = False, multicast_group: str | None = None, interface: str | None = None
    ) -> UdpSocket:
        assert not shared
        assert multicast_group is None
        return bind_udp(local)

    async def listen_tcp(self, local: Endpoint) -> TcpListener:
        return listen_tcp(local)

    async def dial_tcp(self, remote: Endpoint, *, local: Endpoint | None = None) -> TcpStream:
        self.dialled.append(remote)
        return await dial_tcp(remote, local=local)

    async def resolve(self, host: str, port: int) -> list[Endpoint]:
        try:
            return [Endpoint(normalise_host(host), port)]
        except ValueError:
            pass
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "name not known")
        return [Endpoint(address, port) for address in self.names[host]]

    def interfaces(self) -> list[Interface]:
        return []

    def gateways(self) -> list[Gateway]:
        return []

    async def wait_address_change(self) -> None:
        await trio.sleep_forever()
