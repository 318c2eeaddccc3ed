"""The introducer's further ports: whom they see, whom they answer, and that they close."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from swarm.connect.knock import MEASURE_SIZE, encode_measure, encode_measured
from swarm.connect.second_port import MAX_AT_ONCE, PATIENCE, PORTS, SILENCE, SecondPorts
from swarm.endpoint import Endpoint
from swarm.ext.punch_desk import Observation
from swarm.net.network import Outgoing, Path
from swarm.simnet.host import Host
from swarm.simnet.internet import open_internet
from swarm.simnet.udp import SimDatagramSocket

NONCE, OTHER = bytes(range(16)), bytes(16)


class Scene:
    """An introducer that observes a peer; ``seen`` is None until it is done."""

    def __init__(self, introducer: Host, peer: Host, stranger: Host) -> None:
        self.introducer, self.peer, self.stranger = introducer, peer, stranger
        self.second_ports = SecondPorts(introducer)
        self.ports: tuple[int, ...] = ()
        self.seen: Mapping[bytes, Observation] | None = None

    def observe(self, ends: Mapping[bytes, str]) -> bool:
        return self.second_ports.observe(ends, self._opened, self._done)

    def _opened(self, ports: tuple[int, ...]) -> None:
        self.ports = ports

    def _done(self, seen: Mapping[bytes, Observation]) -> None:
        self.seen = seen

    def ask(self, socket: SimDatagramSocket, number: int, datagram: bytes) -> None:
        to = Endpoint(self.introducer.ipv4, self.ports[number])
        socket.send_nowait(Outgoing((datagram,), len(datagram), Path(None, to)))


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    async with open_internet(seed=1) as internet, trio.open_nursery() as nursery:
        made = Scene(internet.host("introducer"), internet.host("peer"), internet.host("stranger"))
        nursery.start_soon(made.second_ports.run)
        await wait_all_tasks_blocked()
        yield made
        nursery.cancel_scope.cancel()


async def answers(socket: SimDatagramSocket) -> list[tuple[bytes, Endpoint]]:
    await trio.sleep(0.2)
    return [(bytes(data), path.remote) for data, _, path in socket.receive_nowait()]


async def bound(host: Host) -> SimDatagramSocket:
    return await host.bind_udp(Endpoint("0.0.0.0", 0))


async def test_a_peer_is_seen_in_the_order_of_our_ports_and_told_what_we_see(autojump_clock: MockClock) -> None:
    async with scene() as made:
        assert made.observe({NONCE: made.peer.ipv4})
        await wait_all_tasks_blocked()
        assert len(set(made.ports)) == PORTS
        sockets = [await bound(made.peer) for _ in range(PORTS)]  # as many as a NAT would show
        for number in reversed(range(PORTS)):
            made.ask(sockets[number], number, encode_measure(NONCE))
        for number, socket in enumerate(sockets):
            mine = Endpoint(made.peer.ipv4, socket.local.port)
            assert await answers(socket) == [
                (encode_measured(NONCE, mine), Endpoint(made.introducer.ipv4, made.ports[number]))
            ]
        assert made.seen is not None
        assert made.seen[NONCE].ports == tuple(socket.local.port for socket in sockets)
        assert 0 < made.seen[NONCE].seconds < 0.1
        assert not made.introducer.udp._sockets


@pytest.mark.parametrize(
    "datagram", [encode_measure(OTHER), encode_measure(NONCE)[:-1], encode_measure(NONCE) + b"\0", bytes(MEASURE_SIZE)]
)
async def test_who_has_not_the_nonce_or_asks_in_fewer_bytes_is_not_answered(
    autojump_clock: MockClock, datagram: bytes
) -> None:
    async with scene() as made:
        made.observe({NONCE: made.peer.ipv4})
        await wait_all_tasks_blocked()
        socket = await bound(made.peer)
        made.ask(socket, 0, datagram)
        assert await answers(socket) == []


async def test_a_nonce_is_good_from_one_address_only(autojump_clock: MockClock) -> None:
    async with scene() as made:
        made.observe({NONCE: made.peer.ipv4})
        await wait_all_tasks_blocked()
        socket = await bound(made.stranger)
        for number in range(PORTS):
            made.ask(socket, number, encode_measure(NONCE))
        assert await answers(socket) == []
        await trio.sleep(PATIENCE)
        assert made.seen == {}


async def test_one_lost_probe_is_no_harm_two_are(autojump_clock: MockClock) -> None:
    for arrived, known in ((PORTS - 1, True), (PORTS - 2, False)):
        async with scene() as made:
            made.observe({NONCE: made.peer.ipv4})
            await wait_all_tasks_blocked()
            socket = await bound(made.peer)
            for number in range(arrived):
                made.ask(socket, number, encode_measure(NONCE))
            await trio.sleep(PATIENCE + 0.1)
            assert made.seen is not None
            assert (NONCE in made.seen) is known
            assert not made.introducer.udp._sockets


async def test_an_end_that_is_not_heard_at_all_ends_it_early_and_one_that_is_heard_late_does_not(
    autojump_clock: MockClock,
) -> None:
    for late, known in ((SILENCE + 0.1, {NONCE}), (SILENCE - 0.1, {NONCE, OTHER})):
        async with scene() as made:
            made.observe({NONCE: made.peer.ipv4, OTHER: made.stranger.ipv4})
            await wait_all_tasks_blocked()
            one, other = await bound(made.peer), await bound(made.stranger)
            for number in range(PORTS):
                made.ask(one, number, encode_measure(NONCE))
            await trio.sleep(late)
            assert (made.seen is None) is (OTHER in known)
            made.ask(other, 0, encode_measure(OTHER))
            await trio.sleep(0.5)
            for number in range(1, PORTS):
                made.ask(other, number, encode_measure(OTHER))
            await trio.sleep(0.1)
            assert made.seen is not None
            assert set(made.seen) == known
            assert not made.introducer.udp._sockets


async def test_so_many_at_once_and_none_while_offline(autojump_clock: MockClock) -> None:
    async with scene() as made:
        assert not SecondPorts(made.introducer).observe({NONCE: "20.0.0.1"}, made._opened, made._done)
        results = [made.observe({NONCE: made.peer.ipv4}) for _ in range(MAX_AT_ONCE + 1)]
        assert results == [True] * MAX_AT_ONCE + [False]
        await trio.sleep(PATIENCE + 0.1)
        assert made.observe({NONCE: made.peer.ipv4})
