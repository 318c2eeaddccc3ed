"""One network of libtorrent's DHT nodes and ours on loopback: each finds what the other announced."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

from dht import DhtConfig, DhtService, open_node
from swarm.endpoint import Endpoint
from swarm.net.udp import bind_udp
from tests.dht.test_service import acquainted
from tests.interop.clients import free_port
from tests.needs import need_module

pytestmark = pytest.mark.interop

SETTINGS = {  # each node has an address of its own, or else these would ban and forget most of them
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "dht_bootstrap_nodes": "",
    "dht_block_ratelimit": 100_000,
    "dht_upload_rate_limit": 100_000_000,
    "dht_restrict_routing_ips": False,
    "dht_restrict_search_ips": False,
    "dht_ignore_dark_internet": False,
    "dht_prefer_verified_node_ids": False,
    "dht_enforce_node_id": False,
}


class Sessions:
    """libtorrent nodes and what they reported."""

    def __init__(self, endpoints: list[Endpoint]) -> None:
        import libtorrent as lt

        self._lt = lt
        mask = lt.alert.category_t.dht_notification | lt.alert.category_t.dht_operation_notification
        self.sessions = [
            lt.session({**SETTINGS, "enable_dht": True, "listen_interfaces": str(endpoint), "alert_mask": mask})
            for endpoint in endpoints
        ]

    def __getitem__(self, index: int) -> Any:
        return self.sessions[index]

    def hash(self, raw: bytes) -> Any:
        return self._lt.sha1_hash(raw)

    async def get_peers(self, index: int, info_hash: bytes) -> set[tuple[str, int]]:
        """What the node's searches bring within ten seconds, one begun each second: their end is not told."""
        self.sessions[index].pop_alerts()
        found: set[tuple[str, int]] = set()
        for turn in range(200):
            if found:
                break
            if turn % 20 == 0:
                self.sessions[index].dht_get_peers(self.hash(info_hash))
            await trio.sleep(0.05)
            for alert in self.sessions[index].pop_alerts():
                if isinstance(alert, self._lt.dht_get_peers_reply_alert):
                    found.update((host, port) for host, port in alert.peers())
        return found


@pytest.fixture
def sessions() -> Iterator[Callable[[list[Endpoint]], Sessions]]:
    need_module("libtorrent")
    opened: list[Sessions] = []

    def start(endpoints: list[Endpoint]) -> Sessions:
        opened.append(Sessions(endpoints))
        return opened[-1]

    yield start
    for group in opened:
        group.sessions.clear()


async def searched(service: DhtService, info_hash: bytes, peer: tuple[str, int]) -> bool:
    """libtorrent announces without telling the end: ask until it is there, ten seconds at most."""
    with trio.move_on_after(10):
        while True:
            async for peers in service.get_peers(info_hash):
                if peer in peers:
                    return True
            await trio.sleep(0.1)
    return False


async def test_twenty_libtorrent_nodes_and_ours_find_what_the_other_announced(
    sessions: Callable[[list[Endpoint]], Sessions],
) -> None:
    port = free_port()
    endpoints = [Endpoint(f"127.0.{number}.1", port) for number in range(20, 40)]
    theirs = sessions(endpoints)
    rng = random.Random(7)
    for session in theirs.sessions:
        for endpoint in rng.sample(endpoints, 8):  # they take ten seconds to get acquainted by way of one
            session.add_dht_node((endpoint.host, port))
    async with AsyncExitStack() as stack:
        ours = []
        for number in range(60, 65):
            socket = bind_udp(Endpoint(f"127.0.{number}.1", port))
            config = DhtConfig(routers=(endpoints[number % 20],))
            ours.append(await stack.enter_async_context(open_node(socket, config)))
        with trio.fail_after(20):
            await acquainted(ours, 8)
        for number in range(4):
            info_hash = rng.randbytes(20)
            with trio.fail_after(20):
                assert await ours[number].announce(info_hash, 6000 + number) >= 4
            peer = (f"127.0.{60 + number}.1", 6000 + number)
            assert await theirs.get_peers(3 + number, info_hash) == {peer}
            assert await searched(ours[4], info_hash, peer)
        for number in range(4):
            info_hash = rng.randbytes(20)
            theirs[number].dht_announce(theirs.hash(info_hash), 7000 + number, 0)
            assert await searched(ours[number], info_hash, (endpoints[number].host, 7000 + number))
        observed = [service.statistics() for service in ours]
        assert all(statistics.queries_in > 0 and statistics.malformed == 0 for statistics in observed)


async def test_over_ipv6_too(sessions: Callable[[list[Endpoint]], Sessions]) -> None:
    """There is one loopback address in IPv6: the nodes differ by their ports."""
    endpoints = [Endpoint("::1", free_port()) for _ in range(4)]
    theirs = sessions(endpoints)
    for session in theirs.sessions[1:]:
        session.add_dht_node((endpoints[0].host, endpoints[0].port))
    info_hash, other = random.Random(8).randbytes(20), random.Random(9).randbytes(20)
    router = (endpoints[0].host, endpoints[0].port)
    async with (
        open_node(bind_udp(Endpoint("::1", 0)), DhtConfig(routers=(router,))) as first,
        open_node(bind_udp(Endpoint("::1", 0)), DhtConfig(routers=(router,))) as second,
    ):
        for endpoint in endpoints:
            first.add_address(endpoint)
            second.add_address(endpoint)
        with trio.fail_after(20):
            await acquainted([first, second], 4)
            assert await first.announce(info_hash, 6000) >= 3
        assert await searched(second, info_hash, ("::1", 6000))
        assert ("::1", 6000) in await theirs.get_peers(2, info_hash)
        theirs[1].dht_announce(theirs.hash(other), 7000, 0)
        assert await searched(first, other, ("::1", 7000))
