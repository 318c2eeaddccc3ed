"""Whole nodes behind simulated gateways: what they have opened is what trackers, the DHT and peers are told."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from swarm.discover.embedded_tracker import EmbeddedTracker
from swarm.endpoint import Endpoint
from swarm.events import PeerConnected, PeerDiscovered, PortMapped, PortMappingLost, Warned
from swarm.gateway.session import PORT_CONTROL_HEAD_START
from swarm.simnet.catalogue import CONE
from swarm.simnet.gateway import open_gateway
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.nat import FirewallBehaviour
from swarm.simnet.opener import GatewayBehaviour
from swarm.simnet.router import Router
from swarm.torrent.torrent import Torrent
from tests.nodes import PORT, Recorded, Sample, make_sample, node_on, seeding

WAN = "20.50.0.1"
TRACKER = "http://tracker.example:6969/announce"
INTERVAL, MIN_INTERVAL = 1800, 300
STARTS = {"pcp": 0.1, "natpmp": 0.1, "upnp": PORT_CONTROL_HEAD_START + 0.2}
"""Seconds from opening the node to the last opened port."""


@dataclass
class Place:
    """A home with a gateway and two machines, a tracker, and room for peers outside."""

    internet: Internet
    tracker: EmbeddedTracker
    router: Router
    host: Host
    neighbour: Host
    sample: Sample
    directory: Path

    def told_tracker(self) -> list[Endpoint]:
        """Where the home said that it is, in order."""
        return [each for announced in self.tracker.announces for each in announced.endpoints if each.host == WAN]

    def take_port(self, number: int) -> None:
        """Somebody else in the house has the port for good."""
        assert self.router.nat is not None
        for protocol in ("udp", "tcp"):
            owner = Endpoint(self.neighbour.ipv4, number)
            assert self.router.nat.add_forward(protocol, number, owner, trio.current_time())

    def forwards(self) -> int:
        assert self.router.nat is not None
        return self.router.nat.forward_count(trio.current_time())

    @asynccontextmanager
    async def stranger(self, name: str, number: int, **config: Any) -> AsyncIterator[Recorded]:
        """A leech outside that asks the tracker."""
        host = self.internet.host(name)
        async with node_on(host, number, **{"trackers": True, **config}) as node:
            node.node.add(self.sample.metainfo, self.directory / name)
            yield node


@asynccontextmanager
async def home(
    directory: Path, *protocols: Any, carrier: bool = False, ipv6: bool = False, **behaviour: Any
) -> AsyncIterator[Place]:
    async with open_internet() as internet, trio.open_nursery() as nursery:
        tracker = EmbeddedTracker(random.Random(1), interval=INTERVAL, min_interval=MIN_INTERVAL)
        await nursery.start(tracker.serve, internet.host("tracker", "20.70.0.1"), Endpoint("20.70.0.1", 6969))
        internet.name("tracker.example", "20.70.0.1")
        outside = internet.router("carrier", CONE, lan="100.64.0.1", wan=WAN) if carrier else None
        wan = {} if carrier else {"wan": WAN}
        firewall = FirewallBehaviour() if ipv6 else None
        router = internet.router("home", CONE, behind=outside, firewall=firewall, **wan)  # type: ignore[arg-type]
        addresses = [router.free_lan_address()]
        if ipv6:
            router.add_lan_ipv6("2a0e:50::1")
            addresses.append("2a0e:50::a")
        if protocols:
            open_gateway(internet, router, GatewayBehaviour(protocols=frozenset(protocols), **behaviour))
        host = internet.host("host", *addresses, router=router)
        neighbour = internet.host("neighbour", router=router)
        sample = make_sample(directory / "seed", 200_000, trackers=[TRACKER])
        yield Place(internet, tracker, router, host, neighbour, sample, directory)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def seed(place: Place, **config: Any) -> AsyncIterator[Recorded]:
    async with node_on(place.host, 1, **{"mapping": True, "trackers": True, **config}) as node:
        await seeding(node, place.sample)
        yield node


# ---- what is told


async def test_what_a_tracker_says_of_our_address_counts(autojump_clock: MockClock, tmp_path: Path) -> None:
    """BEP 24: the one tracker that there is names it, and is one voice of the four that decide."""
    async with home(tmp_path) as place, seed(place, mapping=False) as node:
        await trio.sleep(2)
        assert "(trackers 1)" in node.node.standing.report(4).evidence[0]
        for reporter in ("20.71.0.1", "20.72.0.1", "20.73.0.1"):
            assert node.node.standing.external_host(ipv6=False) is None
            node.node.standing.address_seen(reporter, WAN, "bep10")
        assert node.node.standing.external_host(ipv6=False) == WAN


@pytest.mark.parametrize("protocol", STARTS)
async def test_the_port_that_the_gateway_gave_is_what_the_tracker_and_peers_are_told(
    autojump_clock: MockClock, tmp_path: Path, protocol: str
) -> None:
    async with home(tmp_path, protocol) as place:
        place.take_port(PORT)
        opened = trio.current_time()
        async with seed(place) as node:
            await trio.sleep(2)
            mapped = [(time - opened, event) for time, event in node.events if isinstance(event, PortMapped)]
            (port,) = {event.external.port for _, event in mapped}
            assert port != PORT
            assert max(seconds for seconds, _ in mapped) < STARTS[protocol]
            assert [each.port for each in place.told_tracker()] in ([port], [PORT, port])
            assert node.node.standing.external_host(ipv6=False) == WAN
            async with place.stranger("leech", 2) as leech:
                peer = await leech.wait_for(PeerConnected)
                assert peer.endpoint == Endpoint(WAN, port), "dialled through the gateway"
                await trio.sleep(1)
                assert {event.direction for event in node.of(PeerConnected)} == {"in"}
            async with node_on(place.neighbour, 3) as neighbour:
                torrent = slow_leech(neighbour, place, Endpoint(place.host.ipv4, PORT))
                await neighbour.wait_for(PeerConnected)
                await trio.sleep(1)
                assert ports_told(torrent) == [PORT], "a neighbour reaches us on the inside port"
        assert place.forwards() == 2, "our two are closed, the other's two are not"


async def test_peers_connected_by_ipv6_are_told_where_our_ipv4_port_is_open_now(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with home(tmp_path, ipv6=True) as place, seed(place, trackers=False) as node:
        outside = place.internet.host("outside", "20.60.0.1", "2a0e:60::1")
        async with node_on(outside, 2) as leech:
            theirs = slow_leech(leech, place)
            (ours,) = node.node.torrents.values()
            ours.admission.found([Endpoint(outside.ipv6, PORT)], "manual")
            await trio.sleep(20)
            assert ipv4_told(theirs) == [None], "nobody gets in there"
            open_gateway(place.internet, place.router, GatewayBehaviour(protocols=frozenset({"pcp"})))
            await node.wait_for(PortMapped)
            await trio.sleep(20)  # blocks that are on their way to a slow leech come first
            assert ipv4_told(theirs) == [WAN]


def ipv4_told(torrent: Torrent) -> list[str | None]:
    return [peer.theirs.ipv4 for peer in torrent.connections if peer.theirs is not None]


def slow_leech(node: Recorded, place: Place, *peers: Endpoint) -> Torrent:
    """One that is still there after minutes."""
    where = place.directory / f"slow{id(node)}"
    return node.node.add(place.sample.metainfo, where, peers=peers, download_rate=1000)


def ports_told(torrent: Torrent) -> list[int | None]:
    """By the peers that are connected (BEP 10, ``p``)."""
    return [peer.theirs.p for peer in torrent.connections if peer.theirs is not None]


async def test_the_dht_is_told_the_outside_port_and_not_to_go_by_our_datagrams(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with home(tmp_path, "upnp") as place:
        place.take_port(PORT)
        others = [place.internet.host(f"dht{number}") for number in range(6)]
        way_in = {"dht": True, "dht_bootstrap": (f"{others[0].ipv4}:{PORT}",)}
        async with trio.open_nursery() as nursery:
            for number, host in enumerate(others):
                nursery.start_soon(dht_node, host, 10 + number, way_in)
            await trio.sleep(10)
            async with seed(place, trackers=False, **way_in) as node:
                assert node.node.standing.implied_port(ipv6=False)
                await trio.sleep(60)
                port = node.node.standing.port_to_announce(ipv6=False)
                assert port != PORT
                assert not node.node.standing.implied_port(ipv6=False)
                async with place.stranger("leech", 3, trackers=False, **way_in) as leech:
                    await trio.sleep(30)
                    found = {event.endpoint for event in leech.of(PeerDiscovered, source="dht")}
                    assert Endpoint(WAN, port) in found
                    assert leech.of(PeerConnected)
                report = node.node.standing.report(4)
                assert (report.mapping, report.double_nat) == ("endpoint-independent", False)
                assert report.external == (Endpoint(WAN, port),), "the simulated gateway sends from there, too"
            nursery.cancel_scope.cancel()


async def dht_node(host: Host, number: int, way_in: dict[str, Any]) -> None:
    async with node_on(host, number, **way_in):
        await trio.sleep_forever()


async def test_we_are_no_peer_of_ours_though_sources_name_our_outside_endpoint(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with home(tmp_path, "pcp") as place, seed(place) as node:
        await trio.sleep(1)
        (torrent,) = node.node.torrents.values()
        torrent.admission.found([Endpoint(WAN, PORT)], "tracker")
        assert Endpoint(WAN, PORT) not in torrent.admission.peers
        second = make_sample(tmp_path / "second", 10_000, seed=2)
        torrent = await seeding(node, second)
        torrent.admission.found([Endpoint(WAN, PORT)], "tracker")
        assert Endpoint(WAN, PORT) not in torrent.admission.peers


# ---- changes


async def test_after_a_reboot_with_the_same_port_and_address_nobody_is_told_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with home(tmp_path, "pcp", announces=False) as place, seed(place) as node:
        await trio.sleep(600)
        told = len(place.told_tracker())
        place.router.reboot()
        await trio.sleep(120)  # the next look at the epoch is a minute away
        assert [event.reason for event in node.of(PortMappingLost)] == ["gateway-restarted"] * 2
        assert place.forwards() == 2
        assert len(place.told_tracker()) == told


async def test_after_a_reboot_another_port_is_announced_at_once(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with home(tmp_path, "pcp") as place, seed(place) as node:
        await trio.sleep(10)
        assert [each.port for each in place.told_tracker()] == [PORT]
        place.router.reboot()
        place.take_port(PORT)  # somebody was faster
        await trio.sleep(5)
        port = node.node.standing.port_to_announce(ipv6=False)
        assert port != PORT
        assert [each.port for each in place.told_tracker()] == [PORT, port], "before the minimum interval is over"


async def test_another_outside_address_is_announced_when_the_tracker_allows(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with home(tmp_path, "natpmp") as place, seed(place) as node:
        await trio.sleep(10)
        place.router.change_wan("20.50.0.2")
        await trio.sleep(10)
        assert node.node.standing.external_host(ipv6=False) == "20.50.0.2"
        await trio.sleep(MIN_INTERVAL)
        last = place.tracker.announces[-1].endpoints[0]
        assert last == Endpoint("20.50.0.2", PORT)


async def test_a_port_that_is_lost_for_good_is_announced_no_more_after_half_a_minute(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with home(tmp_path, "pcp", longest_lease=120) as place:
        place.take_port(PORT)
        async with seed(place) as node:
            await trio.sleep(10)
            standing = node.node.standing
            assert standing.port_to_announce(ipv6=False) != PORT
            place.router.inside.connect(False)
            await node.wait_for(PortMappingLost)
            await trio.sleep(20)
            assert standing.port_to_announce(ipv6=False) != PORT
            await trio.sleep(20)
            assert standing.port_to_announce(ipv6=False) == PORT
            assert standing.implied_port(ipv6=False)


# ---- what the user asks for, and is told


async def test_a_manual_forward_is_announced_whatever_the_gateway_says(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with home(tmp_path, "pcp") as place:
        place.take_port(7777)
        async with seed(place, announce_port=7777) as node:
            await trio.sleep(30)
            assert {each.port for each in place.told_tracker()} == {7777}
            assert not node.node.standing.implied_port(ipv6=False)
            assert node.node.standing.advice() == []
            assert not node.of(Warned)


async def test_without_mapping_no_gateway_is_asked(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with home(tmp_path, "pcp", "upnp") as place, seed(place, mapping=False) as node:
        await trio.sleep(30)
        assert node.node.standing.leases() is None
        assert node.node.snapshot().leases is None
        assert place.forwards() == 0
        assert not node.of(Warned)


async def test_where_nothing_opens_the_user_is_told_once_how_to_do_it_by_hand(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with home(tmp_path) as place, seed(place) as node:
        await trio.sleep(9)
        assert not node.of(Warned)
        await trio.sleep(600)
        (warned,) = node.of(Warned)
        gateway = place.router.inside.ipv4
        assert f"forward port {PORT}, TCP and UDP, on the router at {gateway} to {place.host.ipv4}" in warned.message


async def test_who_is_reached_needs_no_advice(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with home(tmp_path) as place:
        place.router.nat.add_forward("tcp", PORT, Endpoint(place.host.ipv4, PORT), 0.0)  # type: ignore[union-attr]
        async with seed(place) as node, place.stranger("leech", 2):
            await node.wait_for(PeerConnected, direction="in")
            await trio.sleep(60)
            assert not node.of(Warned)


async def test_double_nat_is_reported_and_its_port_not_announced(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with home(tmp_path, "natpmp", carrier=True) as place:
        place.take_port(PORT)
        async with seed(place) as node:
            await trio.sleep(15)
            standing = node.node.standing
            assert {each.external.host for each in standing.leases() or () if each.external} == {place.router.wan}
            assert standing.report(4).double_nat is True
            assert standing.port_to_announce(ipv6=False) == PORT
            assert standing.external_host(ipv6=False) is None
            (warned,) = node.of(Warned)
            assert "another router or the carrier translates too" in warned.message


@pytest.mark.parametrize("silent", [False, True])
async def test_ports_are_closed_within_the_three_seconds_of_leaving(
    autojump_clock: MockClock, tmp_path: Path, silent: bool
) -> None:
    async with home(tmp_path, "upnp", "natpmp") as place:
        place.take_port(PORT)
        async with seed(place):
            await trio.sleep(5)
            assert place.forwards() == 4
            place.internet.hosts["tracker"].connect(False)  # saying goodbye takes as long as it may
            if silent:
                place.router.inside.connect(False)
            leaving = trio.current_time()
        assert trio.current_time() - leaving < 3
        assert place.forwards() == (4 if silent else 2)


async def test_goodbyes_name_the_port_that_was_announced(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with home(tmp_path, "pcp") as place:
        place.take_port(PORT)
        async with seed(place) as node:
            await trio.sleep(5)
            port = node.node.standing.port_to_announce(ipv6=False)
        last = place.tracker.announces[-1]
        assert (last.event, last.endpoints[0].port) == ("stopped", port)
