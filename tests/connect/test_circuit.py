"""`Circuit`: trio's conformance tests through a relay, and what they do not ask."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing

from swarm.config import RelayLimits
from swarm.connect.circuit import Circuit
from swarm.errors import RemoteProtocolError
from swarm.ext.relay import Relay
from swarm.ext.relay_circuit import WINDOW
from swarm.ext.relay_message import MAX_DATA, Accept, Connect, Incoming, Opened, RelayMessage, credit_frame, data_frame
from tests.relays import Client, World

FREE = RelayLimits(circuit_rate=0, total_rate=0, circuits_per_client=1000, circuits_per_address=1000, circuits=1000)
Maker = Callable[[], Awaitable[tuple[Circuit, Circuit]]]


class Relayed:
    """A relay between two clients that is pumped whenever everybody waits."""

    def __init__(self) -> None:
        self.world = World(FREE)
        self.world.now = trio.current_time()
        self.clients: list[Client] = []

    async def run(self) -> None:
        while True:
            self.world.now = trio.current_time()
            self.world.desk.handle_deadline(self.world.now)
            self.world.pump()
            await trio.sleep(0.001)

    async def meet(self) -> tuple[Circuit, Circuit]:
        """A circuit between two new clients."""
        number = len(self.world.clients) + 1
        one = self.world.client(f"20.1.{number}.1")
        other = self.world.client(f"20.2.{number}.1", reserved=True)
        ends: list[Circuit] = []

        def told(by: Relay, message: RelayMessage) -> None:
            if isinstance(message, Incoming):
                by.tell(Accept(message.circuit))
                ends.append(Circuit(by, message.circuit, one.observed))
            elif isinstance(message, Opened):
                ends.insert(0, Circuit(by, message.circuit, other.observed))

        one.side.on_told = other.side.on_told = told
        one.say(Connect(1, other.observed))
        self.clients = [one, other]
        return ends[0], ends[1]


@pytest.fixture
async def relayed(nursery: trio.Nursery) -> AsyncIterator[Relayed]:
    relayed = Relayed()
    nursery.start_soon(relayed.run)
    yield relayed


async def test_it_is_a_half_closeable_stream_as_trio_wants_it() -> None:
    relayed = Relayed()

    async def make_clogged() -> tuple[Circuit, Circuit]:
        one, other = await relayed.meet()
        for stream in (one, other):
            with trio.move_on_after(0.05):
                await stream.send_all(bytes(2 * WINDOW))
        return one, other

    async with trio.open_nursery() as nursery:
        nursery.start_soon(relayed.run)
        await trio.testing.check_half_closeable_stream(relayed.meet, make_clogged)
        nursery.cancel_scope.cancel()


async def test_bytes_arrive_whole_and_in_order_both_ways(relayed: Relayed) -> None:
    one, other = await relayed.meet()
    rng = random.Random(1)
    sent = rng.randbytes(3 * WINDOW + 12345)

    async def send(stream: Circuit) -> None:
        at = 0
        while at < len(sent):
            size = rng.randrange(1, 100_000)
            await stream.send_all(sent[at : at + size])
            at += size
        await stream.send_eof()

    async def receive(stream: Circuit, into: bool) -> None:
        got = bytearray()
        buffer = memoryview(bytearray(50_000))
        while True:
            if into:
                part: bytes | memoryview = buffer[: await stream.receive_into(buffer)]
            else:
                part = await stream.receive_some(rng.randrange(1, 90_000))
            if not part:
                break
            got += part
        assert got == sent

    async with trio.open_nursery() as nursery:
        for stream, into in ((one, False), (other, True)):
            nursery.start_soon(send, stream)
            nursery.start_soon(receive, stream, into)


async def test_an_end_that_does_not_read_stops_its_sender_after_a_window(relayed: Relayed) -> None:
    one, other = await relayed.meet()
    with trio.move_on_after(0.2) as scope:
        await one.send_all(bytes(10 * WINDOW))
    assert scope.cancelled_caught
    await trio.sleep(0.01)
    received = len(await other.receive_some(10 * WINDOW))
    assert 0.95 * WINDOW <= received <= WINDOW
    assert relayed.world.carried <= 2 * WINDOW + 1000


async def test_many_small_messages_do_not_use_up_the_window_for_ever(relayed: Relayed) -> None:
    one, other = await relayed.meet()

    async def read() -> None:
        count = 0
        while count < 20_000:
            count += len(await other.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for _ in range(20_000):
            await one.send_all(b"x")


async def test_abort_breaks_the_other_end_with_a_reason(relayed: Relayed) -> None:
    one, other = await relayed.meet()
    one.abort()
    with pytest.raises(trio.BrokenResourceError, match="aborted"):
        await other.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await one.send_all(b"x")
    one.abort()
    assert relayed.world.desk.statistics().ended == {"aborted": 1}


async def test_it_breaks_with_the_connection_to_the_relay(relayed: Relayed) -> None:
    one, other = await relayed.meet()
    async with trio.open_nursery() as nursery:

        async def wait_broken(stream: Circuit, reason: str) -> None:
            with pytest.raises(trio.BrokenResourceError, match=reason):
                await stream.receive_some()

        nursery.start_soon(wait_broken, one, "relay-lost")
        nursery.start_soon(wait_broken, other, "lost")
        await trio.testing.wait_all_tasks_blocked()
        relayed.clients[0].close()


async def test_what_was_accepted_before_closing_is_delivered(relayed: Relayed) -> None:
    one, other = await relayed.meet()
    await one.send_all(bytes(WINDOW // 2))
    await one.aclose()
    got = 0
    while part := await other.receive_some():
        got += len(part)
    assert got == WINDOW // 2


async def test_a_relay_that_sends_more_than_was_granted_breaks_the_rules() -> None:
    relayed = Relayed()
    one, _ = await relayed.meet()
    relay = relayed.clients[0].near.relay
    (number,) = relay.circuits
    with pytest.raises(RemoteProtocolError, match="relay-violation"):
        for _ in range(WINDOW // MAX_DATA + 1):
            relay.receive_untrusted(data_frame(number, bytes(MAX_DATA)), 0.0)
    assert sum(map(len, one._arrived)) <= WINDOW


async def test_a_relay_that_passes_on_more_credit_than_there_can_be_breaks_the_rules() -> None:
    relayed = Relayed()
    await relayed.meet()
    relay = relayed.clients[0].near.relay
    (number,) = relay.circuits
    with pytest.raises(RemoteProtocolError, match="relay-violation"):
        relay.receive_untrusted(credit_frame(number, WINDOW), 0.0)
        relay.receive_untrusted(credit_frame(number, 1), 0.0)


async def test_two_tasks_in_one_direction_are_one_too_many(relayed: Relayed) -> None:
    one, _ = await relayed.meet()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await one.receive_some()
        nursery.cancel_scope.cancel()
