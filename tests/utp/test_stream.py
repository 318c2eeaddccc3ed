"""`UtpStream` and `open_utp`: trio's own conformance tests, and what they do not ask."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.utp.pair import Pair
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


async def meet(a: UtpService, b: UtpService) -> tuple[UtpStream, UtpStream]:
    opened: list[UtpStream] = []

    async def accept() -> None:
        opened.append(await b.accept())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        opened.insert(0, await a.connect(B))
    return opened[0], opened[-1]


def makers(a: UtpService, b: UtpService) -> tuple[Maker, Maker]:
    async def make() -> tuple[UtpStream, UtpStream]:
        return await meet(a, b)

    async def make_clogged() -> tuple[UtpStream, UtpStream]:
        s, r = await meet(a, b)
        for stream in (s, r):
            with trio.move_on_after(5):
                await stream.send_all(bytes(1 << 20))
        return s, r

    return make, make_clogged


@pytest.mark.parametrize("loss", [0.0, 0.05])
async def test_it_is_a_half_closeable_stream(clock: trio.testing.MockClock, loss: float) -> None:
    async with services(Wire(delay=0.01, loss=loss)) as (a, b):
        await trio.testing.check_half_closeable_stream(*makers(a, b))


async def test_vectored_sends_and_receive_into_carry_the_same_bytes(clock: trio.testing.MockClock) -> None:
    rng = random.Random(3)
    parts = [rng.randbytes(rng.randrange(1, 20_000)) for _ in range(30)]
    got = bytearray()

    async def receive(stream: UtpStream) -> None:
        buffer = memoryview(bytearray(5000))
        while count := await stream.receive_into(buffer):
            got.extend(buffer[:count])

    async with services(Wire(delay=0.01)) as (a, b), trio.open_nursery() as nursery:
        s, r = await meet(a, b)
        nursery.start_soon(receive, r)
        await s.send_vectored([parts[0], bytearray(parts[1]), memoryview(parts[2])])
        for start in range(3, 30, 3):
            await s.send_vectored(parts[start : start + 3])
        await s.send_eof()
    assert bytes(got) == b"".join(parts)


async def test_connecting_to_nobody_times_out_and_cancelling_it_leaves_nothing(clock: trio.testing.MockClock) -> None:
    async with services(Wire()) as (a, _):
        with pytest.raises(ConnectionLost, match="timed-out"):
            await a.connect(("192.0.2.99", 9))
        with trio.move_on_after(0.5) as scope:
            await a.connect(("192.0.2.99", 9))
        assert scope.cancelled_caught
        assert a._streams == {}


async def test_beyond_the_backlog_inbound_streams_are_reset(clock: trio.testing.MockClock) -> None:
    config = UtpConfig(accept_backlog=2)
    async with services(Wire(delay=0.01), config) as (a, b):
        streams = [await a.connect(B) for _ in range(4)]
        await trio.sleep(0.1)
        broken = 0
        for stream in streams:
            with trio.move_on_after(0.1):
                try:
                    await stream.receive_some()
                except trio.BrokenResourceError as error:
                    assert isinstance(error.__cause__, ConnectionLost)
                    broken += 1
        assert broken == 2
        assert len(b._accepted) == 2


async def test_a_full_socket_holds_packets_back_and_loses_none(clock: trio.testing.MockClock) -> None:
    wire = Wire(delay=0.01)
    async with services(wire) as (a, b):
        s, r = await meet(a, b)
        socket = wire._sockets[A]
        socket.full = True
        await s.send_all(b"waits")
        with trio.move_on_after(0.2) as scope:
            await r.receive_some()
        assert scope.cancelled_caught
        socket.full = False
        assert await r.receive_some() == b"waits"
        assert s.statistics().packets_retransmitted <= 5


async def test_abort_resets_the_other_end_at_once(clock: trio.testing.MockClock) -> None:
    async with services(Wire(delay=0.01)) as (a, b):
        s, r = await meet(a, b)
        s.abort()
        s.abort()
        with pytest.raises(trio.ClosedResourceError):
            await s.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await r.receive_some()


async def test_closing_delivers_what_was_accepted(clock: trio.testing.MockClock) -> None:
    async with services(Wire(delay=0.01, loss=0.1)) as (a, b):
        s, r = await meet(a, b)
        await s.send_all(bytes(8 << 10))
        await s.aclose()
        got = 0
        while data := await r.receive_some():
            got += len(data)
        assert got == 8 << 10


async def test_a_handshake_shares_no_packet_with_what_follows_it() -> None:
    """Even where whoever owns the socket collects later what several calls gave."""
    pair = Pair(record=True)
    connection, _ = pair.open()
    stream = UtpStream(connection, lambda: None)
    pair.a.sent.clear()
    await stream.send_all(bytes(68))
    await stream.send_vectored([bytes(5), bytes(20)])
    await stream.send_all(bytes(9))
    pair.flush()
    assert [len(datagram) for _, datagram in pair.a.sent] == [20 + 68, 20 + 34]
