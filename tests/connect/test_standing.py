"""What a node concludes from gateways, STUN servers, the DHT, trackers and peers about where it stands."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import trio
from trio.testing import MockClock

from dht.results import AddressObserved, NodeIdChanged
from swarm.config import Config
from swarm.connect.own_addresses import Family
from swarm.connect.standing import ADVICE_AFTER, Standing
from swarm.endpoint import Endpoint
from swarm.events import Event, Warned
from swarm.net.nat_discovery import Binds
from swarm.net.udp_port import UdpPort
from swarm.simnet.catalogue import CONE, behind
from swarm.simnet.gateway import open_gateway
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.opener import GatewayBehaviour
from swarm.simnet.router import Router
from tests.net.stun_server import StunServer

PORT = 6881
OURS = "21.1.2.3"
REPORTERS = [f"30.{number}.0.1" for number in range(1, 12)]


class Node:
    """A standing, and what it told its owner."""

    def __init__(self, host: Host, **config: Any) -> None:
        self.learnt: list[list[Endpoint]] = []
        self.moved: list[bool] = []
        self.events: list[Event] = []
        self.host = host
        self.config = Config(**config)
        self.standing = Standing(
            self.config,
            host,
            rng=random.Random(4),
            emit=self.events.append,
            asks_gateways=True,
            miniupnpc=False,
            learnt=lambda: self.learnt.append(self.standing.own_endpoints()),
            moved=self.moved.append,
        )

    def warnings(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Warned)]

    @asynccontextmanager
    async def online(self) -> AsyncIterator[Standing]:
        """With a UDP socket to ask STUN servers from."""
        port = UdpPort(
            await self.host.bind_udp(Endpoint("0.0.0.0", PORT)), random.Random(5), utp=None, stun=bool(self.config.stun)
        )
        self.standing.online(PORT)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(port.run)
            stun: dict[Family, Binds] = {4: port.stun} if port.stun is not None else {}
            nursery.start_soon(self.standing.run, stun, {})
            yield self.standing
            nursery.cancel_scope.cancel()
        self.standing.offline()


def at_home(internet: Internet, *protocols: Any) -> tuple[Router, Host]:
    router = internet.router("r", CONE, wan=OURS)
    if protocols:
        open_gateway(internet, router, GatewayBehaviour(protocols=frozenset(protocols)))
    return router, internet.host("h", router=router)


@contextmanager
def told_by_peers(standing: Standing, host: str, count: int = 4) -> Iterator[None]:
    for reporter in REPORTERS[:count]:
        standing.address_seen(reporter, host, "bep10")
    yield


async def test_handshakes_trackers_and_the_dht_tell_our_address_together(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        node = Node(at_home(internet)[1])
        async with node.online() as standing:
            standing.address_seen(REPORTERS[0], OURS, "bep10")
            standing.address_seen(REPORTERS[1], OURS, "tracker")
            for reporter in REPORTERS[2:4]:
                assert standing.external_host(ipv6=False) is None, "too few"
                standing.dht_fact(AddressObserved((reporter, 1), (OURS, 40000)))
            assert standing.external_host(ipv6=False) == OURS
            assert node.learnt == [[], [Endpoint(OURS, PORT)]]
            assert node.moved == [], "nobody was told anything else"
            assert "(" in standing.report(4).evidence[0]
            assert standing.report(6).external == ()


async def test_other_facts_of_the_dht_and_liars_with_odd_addresses_are_nothing(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        node = Node(at_home(internet)[1])
        async with node.online() as standing:
            standing.dht_fact(NodeIdChanged(bytes(20), OURS))
            for host in ("10.0.0.1", "2a0e::1", "0.0.0.0", "255.255.255.255", "fe80::1", "::"):
                for reporter in (*REPORTERS, "fe80::1%eth0"):
                    standing.address_seen(reporter, host, "bep10")
                    standing.dht_fact(AddressObserved((reporter, 0), (host, 0)))
            assert standing.external_host(ipv6=False) is None
            assert node.learnt == [[]]


async def test_another_outside_address_is_told_as_moved_but_not_as_another_port(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        node = Node(at_home(internet)[1])
        async with node.online() as standing:
            with told_by_peers(standing, OURS):
                assert node.moved == []
            with told_by_peers(standing, "21.9.9.9", 8):
                assert node.moved == [False]
                assert standing.external_host(ipv6=False) == "21.9.9.9"


async def test_who_has_a_public_address_knows_it_at_once_and_asks_nobody(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        node = Node(internet.host("h", "21.5.5.5", "2a0e:5::5"))
        async with node.online() as standing:
            assert standing.own_endpoints() == [Endpoint("21.5.5.5", PORT), Endpoint("2a0e:5::5", PORT)]
            assert (standing.own_address(False), standing.own_address(True)) == ("21.5.5.5", "2a0e:5::5")
            await trio.sleep(3 * ADVICE_AFTER)
            assert node.warnings() == []


async def test_behind_a_closed_nat_our_address_is_told_to_nobody(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        node = Node(at_home(internet)[1])
        async with node.online() as standing:
            with told_by_peers(standing, OURS):
                assert standing.own_endpoints() == [Endpoint(OURS, PORT)], "we know it ourselves"
                assert standing.own_address(False) is None


async def test_a_neighbour_on_our_port_is_not_us_once_we_are_seen_at_another(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        node = Node(at_home(internet)[1])
        async with node.online() as standing:
            assert not standing.is_at(Endpoint(OURS, PORT))
            with told_by_peers(standing, OURS):
                assert standing.is_at(Endpoint(OURS, PORT)), "most NATs keep the port"
                assert not standing.is_at(Endpoint(OURS, 40000)) and not standing.is_at(Endpoint("21.9.9.9", PORT))
            standing.dht_fact(AddressObserved((REPORTERS[0], 1), (OURS, 40000)))
            assert standing.is_at(Endpoint(OURS, 40000)) and not standing.is_at(Endpoint(OURS, PORT))


async def test_of_a_public_address_our_port_is_ours_whatever_is_said(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        node = Node(internet.host("h", OURS))
        async with node.online() as standing:
            standing.dht_fact(AddressObserved((REPORTERS[0], 1), (OURS, 40000)))
            assert standing.is_at(Endpoint(OURS, PORT)) and not standing.is_at(Endpoint(OURS, 40000))


async def test_our_ipv4_address_is_not_told_where_it_has_another_port_than_ipv6(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        router, host = at_home(internet, "pcp")
        neighbour = Endpoint(internet.host("n", router=router).ipv4, PORT)
        assert router.nat is not None
        assert all(
            router.nat.add_forward(protocol, PORT, neighbour, trio.current_time()) for protocol in ("udp", "tcp")
        )
        node = Node(host)
        async with node.online() as standing:
            await trio.sleep(1)
            port = standing.port_to_announce(ipv6=False)
            assert port != PORT == standing.port_to_announce(ipv6=True)
            assert standing.own_endpoints() == [Endpoint(OURS, port)]
            assert standing.own_address(False) is None
            assert node.moved == [True]
            assert standing.port_for(Endpoint("30.0.0.1", 1)) == port
            assert standing.port_for(neighbour) == standing.port_for(Endpoint("2a0e::1", 1)) == PORT
        assert standing.port_to_announce(ipv6=False) == standing.port_for(neighbour) == 0, "offline"
        assert standing.leases() is None


async def test_udp_is_not_opened_where_nothing_uses_it(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        node = Node(at_home(internet, "natpmp")[1], utp=False, dht=False)
        async with node.online() as standing:
            await trio.sleep(1)
            assert {lease.transport for lease in standing.leases() or ()} == {"tcp"}


# ---- STUN


@asynccontextmanager
async def open_server(internet: Internet) -> AsyncIterator[StunServer]:
    hosts = internet.free_ipv4(), internet.free_ipv4()
    server = StunServer(internet.host("stun", *hosts), hosts)
    async with trio.open_nursery() as nursery:
        await server.open(nursery)
        yield server
        nursery.cancel_scope.cancel()


async def test_stun_servers_are_asked_one_after_the_other_and_again_after_a_change(autojump_clock: MockClock) -> None:
    async with open_internet() as internet, open_server(internet) as server:
        host = behind(internet, "symrand", "h")
        node = Node(host, stun=("20.250.0.1:3478", str(server.endpoint)), mapping=False)
        async with node.online() as standing:
            await trio.sleep(10)
            report = standing.report(4)
            assert (report.mapping, report.filtering) == ("address-and-port-dependent",) * 2
            assert node.warnings() == []
            asked = server.heard
            host.add_address("10.200.0.9")
            standing.network_changed()
            assert standing.report(4).mapping == "unknown", "it may be another router"
            await trio.sleep(10)
            assert server.heard == 2 * asked
            assert standing.report(4).mapping == report.mapping


async def test_stun_sees_where_there_is_no_nat(autojump_clock: MockClock) -> None:
    async with open_internet() as internet, open_server(internet) as server:
        node = Node(internet.host("h"), stun=(str(server.endpoint),))
        async with node.online() as standing:
            await trio.sleep(5)
            assert (standing.report(4).mapping, standing.report(4).filtering) == ("none", "none")


async def test_silent_and_unknown_stun_servers_are_named_once(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        node = Node(at_home(internet)[1], stun=("20.250.0.1:3478", "nowhere.example:1"), mapping=False)
        async with node.online():
            await trio.sleep(60)
            unknown, silent = node.warnings()
            assert unknown.startswith("cannot find the address of the STUN server nowhere.example:1")
            assert silent == "no STUN server answers: 20.250.0.1:3478"
