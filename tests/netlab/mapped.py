"""Run inside a laboratory machine: opens a port by one method, answers whoever comes, closes it when told.

    python -m tests.netlab.mapped METHOD GATEWAY INSIDE PORT

METHOD is pcp, nat-pmp, upnp, pinhole, miniupnpc, or mapper for the whole of it.  Prints one JSON object a line: each
mapping, each event.  Datagrams and streams are sent back as they come.  Ends when standard input does.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from swarm.endpoint import Endpoint
from swarm.events import Event
from swarm.gateway.clients.igd import FoundDevice, IgdClient, PinholeClient, discover
from swarm.gateway.clients.miniupnpc import open_miniupnpc
from swarm.gateway.clients.natpmp import NatPmpClient
from swarm.gateway.clients.pcp import PcpClient
from swarm.gateway.lans import find_lans
from swarm.gateway.mapper import Mapper
from swarm.gateway.method import Method
from swarm.net.network import DatagramSocket, Listener, Outgoing, Path, Stream
from swarm.net.real import RealNetwork

NETWORK = RealNetwork()
RNG = random.SystemRandom()


async def main(method: str, gateway: str, inside: str, port: int) -> None:
    async with trio.open_nursery() as nursery:
        for wildcard in ("0.0.0.0", "::"):
            nursery.start_soon(echo_datagrams, await NETWORK.bind_udp(Endpoint(wildcard, port)))
            nursery.start_soon(echo_streams, await NETWORK.listen_tcp(Endpoint(wildcard, port)))
        if method == "mapper":
            mapper = Mapper(NETWORK, port, emit=partial(tell_event, trio.current_time()), rng=RNG)
            async with trio.open_nursery() as inner:
                inner.start_soon(mapper.run)
                await end_of_input()
                tell({"what": "statistics", "leases": len(mapper.statistics()), "double_nat": mapper.double_nat})
                inner.cancel_scope.cancel()
        else:
            client = await open_client(method, gateway, inside)
            async with mapped(client, port):
                await end_of_input()
        tell({"what": "closed"})
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def mapped(client: Method, port: int) -> AsyncIterator[None]:
    udp = await client.map("udp", port, port, 600)
    tcp = await client.map("tcp", port, udp.external_port, 600)
    mappings = [await client.map(each.transport, port, each.external_port, 600) for each in (udp, tcp)]  # renewed
    for mapping in mappings:
        tell({"what": client.name, "transport": mapping.transport, "external": mapping.external})
    yield
    for mapping in mappings:
        await client.unmap(mapping)
        await client.unmap(mapping)  # twice is no error


async def open_client(method: str, gateway: str, inside: str) -> Method:
    restarted = partial(tell, {"what": "restarted"})
    match method:
        case "pcp":
            clock = trio.current_time
            return PcpClient(NETWORK, gateway, inside, clock=clock, on_restart=restarted, rng=RNG, nonces={})
        case "nat-pmp":
            return NatPmpClient(NETWORK, gateway, inside, clock=trio.current_time, on_restart=restarted)
        case "miniupnpc":
            return await open_miniupnpc(inside, RNG)
    (lan,) = find_lans(NETWORK)
    device = await first_device(inside, lan.interface)
    if method == "pinhole":
        return PinholeClient(NETWORK, inside, device, inside)
    return IgdClient(NETWORK, inside, device, RNG)


async def first_device(inside: str, interface: str) -> FoundDevice:
    devices: list[FoundDevice] = []
    with trio.CancelScope() as scope:

        def found(device: FoundDevice) -> None:
            devices.append(device)
            scope.cancel()

        await discover(NETWORK, inside, interface, found, lambda host, error: tell({"what": f"{host} {error}"}))
    return devices[0]


async def echo_datagrams(bound: DatagramSocket) -> None:
    while True:
        await bound.wait_readable()
        for received in bound.receive_nowait():
            data = bytes(received.data)
            bound.send_nowait(Outgoing([data], len(data), Path(received.path.local, received.path.remote)))


async def echo_streams(listener: Listener) -> None:
    async with trio.open_nursery() as nursery:
        while True:
            nursery.start_soon(echo_one, await listener.accept())


async def echo_one(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)
    await stream.aclose()


async def end_of_input() -> None:
    await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


def tell_event(started: float, event: Event) -> None:
    values = {name: getattr(event, name) for name in type(event).__slots__}
    tell({"what": type(event).__name__, "seconds": trio.current_time() - started, **values})


def tell(message: dict[str, object]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    _, method, gateway, inside, port = sys.argv
    trio.run(main, method, gateway, inside, int(port))
