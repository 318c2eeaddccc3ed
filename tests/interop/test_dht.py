"""Twenty of libtorrent's DHT nodes and five of ours in one network on loopback: each finds what the other announced."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio

from dht import DhtConfig, DhtService, open_node
from dht.datagram import Address
from swarm.endpoint import Endpoint
from swarm.net.udp import bind_udp
from tests.interop.clients import free_port
from tests.needs import need_module

pytestmark = pytest.mark.interop

THEIRS, OURS = 20, 5
EACH_WAY = 4  # announces of theirs, and of ours
SETTINGS = {  # or else they would ban and forget most of these neighbours
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

    def acquaint(self, endpoints: list[Endpoint], rng: random.Random) -> None:
        """By way of one node they take ten seconds."""
        for session in self.sessions:
            for endpoint in rng.sample(endpoints, 8):
                session.add_dht_node((endpoint.host, endpoint.port))

    def announce(self, index: int, info_hash: bytes, port: int) -> None:
        """Without telling when it is done."""
        self.sessions[index].dht_announce(self._lt.sha1_hash(info_hash), port, 0)

    async def get_peers(self, index: int, info_hash: bytes) -> set[Address]:
        """What the node's searches bring within ten seconds, one begun each second: their end is not told."""
        session: Any = self.sessions[index]
        session.pop_alerts()
        found: set[Address] = set()
        for turn in range(200):
            if found:
                break
            if turn % 20 == 0:
                session.dht_get_peers(self._lt.sha1_hash(info_hash))
            await trio.sleep(0.05)
            for alert in session.pop_alerts():
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


@asynccontextmanager
async def joined(locals_: list[Endpoint], routers: list[Endpoint]) -> AsyncIterator[list[DhtService]]:
    """Nodes of ours, each of which begins with one router, once each knows eight nodes."""
    async with AsyncExitStack() as stack:
        services = []
        for local, router in zip(locals_, routers, strict=False):
            config = DhtConfig(routers=((router.host, router.port),))
            services.append(await stack.enter_async_context(open_node(bind_udp(local), config)))
        with trio.fail_after(20):
            while any(service.statistics().nodes < 8 for service in services):
                await trio.sleep(0.02)
        yield services


async def searched(service: DhtService, info_hash: bytes, peer: Address) -> bool:
    """libtorrent announces without telling the end: ask until it is there, ten seconds at most."""
    with trio.move_on_after(10):
        while True:
            async for peers in service.get_peers(info_hash):
                if peer in peers:
                    return True
            await trio.sleep(0.1)
    return False


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
async def test_each_finds_what_the_other_announced(sessions: Callable[[list[Endpoint]], Sessions], family: str) -> None:
    """Over IPv4 each node has an address of its own; IPv6 has one on loopback, its nodes differ by their ports."""
    if family == "IPv4":
        port = free_port()
        endpoints = [Endpoint(f"127.0.{20 + number}.1", port) for number in range(THEIRS)]
        locals_ = [Endpoint(f"127.0.{60 + number}.1", port) for number in range(OURS)]
        hosts = [local.host for local in locals_]
    else:
        ports: set[int] = set()
        while len(ports) < THEIRS:
            ports.add(free_port())
        endpoints = [Endpoint("::1", port) for port in ports]
        locals_ = [Endpoint("::1", 0)] * OURS
        hosts = ["::1"] * OURS
    theirs = sessions(endpoints)
    rng = random.Random(7)
    theirs.acquaint(endpoints, rng)
    async with joined(locals_, endpoints) as ours:
        for number in range(EACH_WAY):
            info_hash = rng.randbytes(20)
            with trio.fail_after(20):
                assert await ours[number].announce(info_hash, 6000 + number) >= 4
            peer = (hosts[number], 6000 + number)
            assert await searched(ours[-1], info_hash, peer)
            assert await theirs.get_peers(3 + number, info_hash) == {peer}
        for number in range(EACH_WAY):
            info_hash = rng.randbytes(20)
            theirs.announce(number, info_hash, 7000 + number)
            assert await searched(ours[number], info_hash, (endpoints[number].host, 7000 + number))
        assert sum(service.statistics().queries_in for service in ours) > 0  # not each is worth asking
        assert not any(service.statistics().malformed for service in ours)
