"""The trio face: nodes on loopback sockets, searches that stream, end and are cancelled, and the mux of swarm."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import dht
from dht import DhtConfig, DhtNode, DhtService, open_node
from dht.datagram import Address
from dht.errors import LocalProtocolError
from dht.results import AddressObserved, OtherFamilyHeard, PeersFound, Result, SearchEnded
from swarm.endpoint import Endpoint
from swarm.net.mux import Mux, Priority
from swarm.net.udp import UdpSocket, bind_udp

HASH = b"h" * 20


def bound(host: str = "127.0.0.1") -> UdpSocket:
    return bind_udp(Endpoint(host, 0))


ADDRESSES: dict[DhtService, Address] = {}


async def acquainted(services: list[DhtService], count: int) -> None:
    """Wait until each knows so many nodes.  There is no event for that, and no need for one but here."""
    while any(service.statistics().nodes < count for service in services):
        await trio.sleep(0.02)


@asynccontextmanager
async def network(size: int, host: str = "127.0.0.1") -> AsyncIterator[list[DhtService]]:
    """Nodes that all know the first."""
    async with AsyncExitStack() as stack:
        services: list[DhtService] = []
        routers: tuple[Address, ...] = ()
        for number in range(size):
            socket = bound(host)
            config = DhtConfig(routers=routers, datagrams_per_second_per_host=None)
            services.append(await stack.enter_async_context(open_node(socket, config, rng=random.Random(number))))
            ADDRESSES[services[-1]] = socket.local
            routers = routers or (socket.local,)
        with trio.fail_after(10):
            await acquainted(services, min(4, size - 1))
        yield services


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_what_one_announces_another_finds(host: str) -> None:
    async with network(10, host) as services:
        with trio.fail_after(10):
            assert await services[3].announce(HASH, 6881) >= 5
            found = [peer async for peers in services[7].get_peers(HASH) for peer in peers]
        assert found == [(host, 6881)]


async def test_an_implied_port_is_the_one_of_our_socket() -> None:
    facts: list[Result] = []
    async with network(4) as services, open_node(bound(), DhtConfig(), on_fact=facts.append) as service:
        for other in services:
            service.add_address(ADDRESSES[other])
        with trio.fail_after(10):
            await acquainted([service], 4)
            await service.announce(HASH, 1, implied_port=True)
            found = [peer async for peers in services[2].get_peers(HASH) for peer in peers]
        own = {fact.observed for fact in facts if isinstance(fact, AddressObserved)}
        assert len(own) == 1
        assert found == list(own)


class Recorder:
    """A service without a socket: what it sends goes nowhere, time is the test's."""

    def __init__(self) -> None:
        self.node = DhtNode(DhtConfig(), random.Random(1))
        self.wakes = 0
        self.facts: list[Result] = []
        self.service = DhtService(self.node, self._wake, on_fact=self.facts.append)

    def _wake(self) -> None:
        self.wakes += 1


async def test_a_search_streams_in_order_and_then_ends() -> None:
    recorder = Recorder()
    search = recorder.service.get_peers(HASH)
    assert recorder.wakes == 1
    first, second = (("192.0.2.1", 1),), (("192.0.2.2", 2), ("192.0.2.3", 3))
    ended = SearchEnded(1, 5, 4, 0, 2)
    recorder.service.deliver([PeersFound(1, first), PeersFound(2, first), PeersFound(1, second), ended])
    assert [peers async for peers in search] == [first, second]
    assert search.ended is ended
    assert [peers async for peers in search] == []


async def test_a_search_waits_for_more(nursery: trio.Nursery) -> None:
    recorder = Recorder()
    search = recorder.service.get_peers(HASH)
    seen: list[tuple[Address, ...]] = []

    async def collect() -> None:
        async for peers in search:
            seen.append(peers)
        seen.append(())

    nursery.start_soon(collect)
    await wait_all_tasks_blocked()
    assert seen == []
    recorder.service.deliver([PeersFound(1, (("192.0.2.1", 1),))])
    await wait_all_tasks_blocked()
    assert len(seen) == 1
    recorder.service.deliver([SearchEnded(1, 0, 0, 0, 0)])
    await wait_all_tasks_blocked()
    assert seen[-1] == ()


async def test_cancelling_closing_and_leaving_end_a_search_in_the_node(autojump_clock: MockClock) -> None:
    recorder = Recorder()
    with trio.move_on_after(1) as scope:
        async for _ in recorder.service.get_peers(HASH):
            pass
    assert scope.cancelled_caught
    with recorder.service.get_peers(HASH) as search:
        pass
    assert [peers async for peers in search] == []
    with trio.move_on_after(1) as scope:
        await recorder.service.announce(HASH, 6881)
    assert scope.cancelled_caught
    assert recorder.node.statistics().searches_waiting == 0


async def test_mistakes_are_told_at_once() -> None:
    service = Recorder().service
    with pytest.raises(LocalProtocolError):
        service.get_peers(b"short")
    for port in (0, 65536):
        with pytest.raises(LocalProtocolError):
            service.get_peers(HASH, port)


async def test_nodes_of_the_other_family_go_to_the_other_service() -> None:
    four = Recorder()
    six = DhtService(DhtNode(DhtConfig(), random.Random(2), ipv6=True), lambda: None)
    four.service.pair_with(six)
    four.service.deliver([OtherFamilyHeard(((b"i" * 20, ("2001:db8::1", 7)),))])
    assert [outgoing.path.remote for outgoing in six.node.datagrams_to_send(0.0)] == [("2001:db8::1", 7)]


async def test_many_announces_queue_and_all_come_through() -> None:
    async with network(5) as services:
        stored: list[int] = []

        async def announce(number: int) -> None:
            stored.append(await services[1].announce(number.to_bytes(20, "big"), 6881))

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for number in range(60):
                    nursery.start_soon(announce, number)
        assert len(stored) == 60
        assert min(stored) >= 1


async def test_a_node_hangs_off_the_mux_of_swarm() -> None:
    async with network(4) as services:
        mux = Mux(bound())
        node = DhtNode(DhtConfig(routers=(ADDRESSES[services[1]],)), random.Random(5))
        service = DhtService(node, mux.wake)
        mux.add(node, priority=Priority.DHT, name="dht", on_results=service.deliver)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mux.run)
            service.start()
            with trio.fail_after(10):
                await acquainted([service], 2)
                assert await service.announce(HASH, 6881) >= 2
                found = [peer async for peers in services[3].get_peers(HASH) for peer in peers]
            assert found == [("127.0.0.1", 6881)]
            nursery.cancel_scope.cancel()
        mux.close()


async def test_a_state_saved_is_a_way_back_in() -> None:
    async with network(8) as services:
        saved = dht.decode_state_untrusted(services[4].saved_state().encode())
        assert saved.node_id == services[4].node.node_id
        async with open_node(bound(), saved=saved) as service:
            assert service.node.node_id == saved.node_id
            with trio.fail_after(10):
                await acquainted([service], 4)


def test_the_core_is_imported_without_trio() -> None:
    program = (
        "import sys, dht; dht.DhtNode; assert 'trio' not in sys.modules; dht.open_node; assert 'trio' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
