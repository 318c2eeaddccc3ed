"""`UtpStream` and `open_utp`: trio's own conformance tests, and what they do not ask."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.utp.sockets import Wire
from utp import ConnectionLost, UtpConfig
from utp.service import UtpService, open_utp
from utp.stream import UtpStream

A, B = ("192.0.2.1", 1), ("192.0.2.2", 2)
SMALL = UtpConfig(receive_buffer=16 << 10, send_buffer=8 << 10, linger=2.0)
Maker = Callable[[], Awaitable[tuple[UtpStream, UtpStream]]]


@pytest.fixture
def clock() -> trio.testing.MockClock:
    # Larger than the cushion of wait_all_tasks_blocked, which the conformance tests use.
    return trio.testing.MockClock(autojump_threshold=0.001)


@asynccontextmanager
async def services(wire: Wire, config: UtpConfig = SMALL) -> AsyncIterator[tuple[UtpService, UtpService]]:
    async with (
        open_utp(wire.socket(A), config, random.Random(1)) as a,
        open_utp(wire.socket(B), config, random.Random(2)) as b,
    ):
        yield a, b


async def pair(a: UtpService, b: UtpService) -> tuple[UtpStream, UtpStream]:
    opened: list[UtpStream] = []

    async def accept() -> None:
        opened.append(await b.accept())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        opened.insert(0, await a.connect(B))
    return opened[0], opened[-1]


def makers(a: UtpService, b: UtpService) -> tuple[Maker, Maker]:
    async def make() -> tuple[UtpStream, UtpStream]:
        return await pair(a, b)

    async def make_clogged() -> tuple[UtpStream, UtpStream]:
        s, r = await pair(a, b)
        for stream in (s, r):
            with trio.move_on_after(5):
                await stream.send_all(bytes(1 << 20))
        return s, r

    return make, make_clogged


@pytest.mark.parametrize("loss", [0.0, 0.05])
async def test_it_is_a_half_closeable_stream(clock: trio.testing.MockClock, loss: float) -> None:
    wire = Wire(delay=0.01, loss=loss)
    async with services(wire) as (a, b):
        await trio.testing.check_half_closeable_stream(*makers(a, b))
