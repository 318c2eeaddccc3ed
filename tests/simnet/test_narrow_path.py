"""µTP streams over the real mux on a simulated path that begins to carry less."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.net.udp_port import UdpPort
from swarm.simnet.host import Host
from swarm.simnet.internet import open_internet
from swarm.simnet.link import Link
from utp.config import UtpConfig
from utp.service import UtpService

CONTENT = random.Random(1).randbytes(4 << 20)
PORT = 6881
PLAIN = Link(delay=0.01)


@asynccontextmanager
async def utp_on(host: Host, seed: int) -> AsyncIterator[UtpService]:
    socket = await host.bind_udp(Endpoint(host.ipv4, PORT))
    port = UdpPort(socket, random.Random(seed), utp=UtpConfig())
    assert port.utp is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(port.run)
        yield port.utp._service
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("place", ["first link", "last link"])
async def test_a_stream_outlives_a_link_that_becomes_a_tunnel(autojump_clock: MockClock, place: str) -> None:
    """On the first link the socket says so (EMSGSIZE), on a later one nobody does."""
    async with open_internet(seed=1) as internet:
        left, right = internet.host("left", link=PLAIN), internet.host("right", link=PLAIN)
        async with utp_on(left, 1) as sending, utp_on(right, 2) as receiving:
            got = bytearray()

            async def receive() -> None:
                stream = await receiving.accept()
                while data := await stream.receive_some():
                    got.extend(data)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                stream = await sending.connect(Endpoint(right.ipv4, PORT))
                await stream.send_all(CONTENT[: 1 << 20])
                assert stream.statistics().packet_size == 1472
                line = (left if place == "first link" else right).attachments[0].port
                for one in (line.up, line.down):
                    one.change(replace(PLAIN, mtu=1400))
                start = trio.current_time()
                await stream.send_all(CONTENT[1 << 20 :])
                await stream.send_eof()
            assert got == CONTENT
            assert trio.current_time() - start < (1 if place == "first link" else 4)
            assert stream.statistics().packet_size <= 1372
