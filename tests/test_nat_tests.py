"""Whole nodes that test the NAT before them, and keep their mappings alive by what they have found out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from swarm.connect.nat_tests import DEFAULT_KEEP_ALIVE, SHARE, UNTRANSLATED
from swarm.endpoint import Endpoint
from swarm.events import ConnectionClosed, PeerConnected
from swarm.simnet.catalogue import CONE, FULLCONE, SYMRAND
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.nat import NatBehaviour
from swarm.torrent.torrent import Torrent
from tests.net.stun_server import StunServer
from tests.nodes import PORT, Recorded, make_sample, node_on

HELPERS = 4
MEASURED = 700.0
"""Seconds until two helpers, one after the other, have told."""

LASTED = {10: 8.0, 30: 27.0, 120: 115.0}
"""What is found, by the lifetime in seconds."""

QUIET = 600.0
"""Seconds for which idle connections are watched."""


@dataclass
class Place:
    """A node at home that has dialled helpers on the open internet.  Nobody has anything that another one wants."""

    internet: Internet
    node: Recorded
    torrent: Torrent
    host: Host
    helpers: list[Host]

    @property
    def nat(self) -> dict[str, Any]:
        """The report, as the statistics have it."""
        report: dict[str, Any] = self.node.node.document()["nat"]["v4"]
        return report

    def gaps(self, protocol: str, since: float) -> list[float]:
        """Seconds between packets of the node's to its first helper."""
        assert self.internet.trace is not None
        way = f"{protocol} {self.host.ipv4}:{PORT} > {self.helpers[0].ipv4}:{PORT} "
        times = [entry.time for entry in self.internet.trace if entry.what == "sent" and entry.packet.startswith(way)]
        return [later - earlier for earlier, later in pairwise(time for time in times if time >= since)]


@asynccontextmanager
async def home(
    directory: Path, nat: NatBehaviour | None, *, trace: bool = False, helpers: int = HELPERS, **config: Any
) -> AsyncIterator[Place]:
    """Behind that NAT; None: with a public address."""
    async with open_internet(seed=1, trace=trace) as internet, AsyncExitStack() as stack:
        sample = make_sample(directory / "seed", 1 << 16)
        hosts = [internet.host(f"helper{number}") for number in range(helpers)]
        for number, host in enumerate(hosts):
            other = await stack.enter_async_context(node_on(host, 10 + number, pex=False, punch=False))
            other.node.add(sample.metainfo, directory / host.name)
        host = internet.host("a", router=internet.router("home", nat)) if nat is not None else internet.host("a")
        node = await stack.enter_async_context(node_on(host, 1, pex=False, punch=False, **config))
        endpoints = [Endpoint(each.ipv4, PORT) for each in hosts]
        torrent = node.node.add(sample.metainfo, directory / "a", peers=endpoints)
        for endpoint in endpoints:
            await node.wait_for(PeerConnected, endpoint=endpoint)
        yield Place(internet, node, torrent, host, hosts)


@pytest.mark.parametrize("seconds", LASTED)
@pytest.mark.parametrize("kind", [CONE, SYMRAND])
async def test_idle_connections_outlive_their_mappings_because_these_are_measured(
    autojump_clock: MockClock, tmp_path: Path, kind: NatBehaviour, seconds: int
) -> None:
    async with home(tmp_path, replace(kind, udp_lifetime=float(seconds)), trace=True, tcp=False) as there:
        await trio.sleep(MEASURED)
        assert there.nat["lifetime"] == LASTED[seconds]
        there.node.forget()
        since = trio.current_time()
        await trio.sleep(QUIET)
        assert there.node.of(ConnectionClosed) == []
        assert len(there.torrent.connections) == HELPERS
        gaps = there.gaps("udp", since)
        assert max(gaps) < seconds
        assert max(gaps) == pytest.approx(min(SHARE * LASTED[seconds], UNTRANSLATED), abs=1.5)


async def test_until_it_is_measured_a_mapping_is_kept_alive_as_most_need_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with home(tmp_path, CONE, trace=True, tcp=False, helpers=3) as there:  # too few to know of the NAT
        since = trio.current_time()
        await trio.sleep(QUIET)
        assert (there.nat["mapping"], there.nat["lifetime"]) == ("unknown", None)
        assert max(there.gaps("udp", since)) == pytest.approx(DEFAULT_KEEP_ALIVE, abs=1.5)


@pytest.mark.parametrize("seconds", LASTED)
async def test_mappings_of_tcp_are_kept_alive_likewise(autojump_clock: MockClock, tmp_path: Path, seconds: int) -> None:
    nat = replace(CONE, udp_lifetime=float(seconds), tcp_lifetime=30.0)
    async with home(tmp_path, nat, trace=True, utp=False) as there:
        since = trio.current_time()
        await trio.sleep(QUIET)
        assert there.node.of(ConnectionClosed) == []
        assert max(there.gaps("tcp", since)) < 30.0


@pytest.mark.parametrize("transport", ["tcp", "utp"])
async def test_without_a_nat_nobody_speaks_more_often_than_bittorrent_does(
    autojump_clock: MockClock, tmp_path: Path, transport: str
) -> None:
    off = "utp" if transport == "tcp" else "tcp"
    async with home(tmp_path, None, trace=True, **{off: False}) as there:
        await trio.sleep(MEASURED)
        since = trio.current_time()
        await trio.sleep(QUIET)
        assert there.nat["lifetime"] is there.nat["hairpin"] is None
        gaps = there.gaps("tcp" if transport == "tcp" else "udp", since)
        spoken = sum(gap > 1.0 for gap in gaps)
        assert spoken < 2 * QUIET / UNTRANSLATED + 8, "ours, answers to those of the other end, and sw_reach"


async def test_one_peers_word_for_a_long_lifetime_is_not_enough(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with home(tmp_path, CONE) as there:
        tests, remote = there.node.node.standing.nat_tests, Endpoint(there.helpers[0].ipv4, PORT)
        while there.nat["lifetime"] is None:
            await trio.sleep(1)
        assert tests.keep_alive(remote) == DEFAULT_KEEP_ALIVE
        await trio.sleep(MEASURED)
        assert tests.keep_alive(remote) == SHARE * 115
        assert tests.keep_alive(Endpoint("10.0.0.9", PORT)) == UNTRANSLATED, "a neighbour's is not translated"


async def test_in_another_network_everything_is_measured_anew(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with home(tmp_path, replace(CONE, udp_lifetime=30.0)) as there:
        await trio.sleep(MEASURED)
        assert there.nat["lifetime"] == 27
        there.internet.routers["home"].change_wan(there.internet.free_ipv4())
        for helper in there.helpers:
            there.torrent.admission.found([Endpoint(helper.ipv4, PORT)], "manual")
        await trio.sleep(120)
        tests = there.node.node.standing.nat_tests
        assert tests.keep_alive(Endpoint(there.helpers[0].ipv4, PORT)) <= DEFAULT_KEEP_ALIVE
        await trio.sleep(MEASURED)
        assert there.nat["lifetime"] == 27


@pytest.mark.parametrize("works", [True, False])
@pytest.mark.parametrize("kind", [CONE, FULLCONE])
async def test_hairpinning_is_found_out(
    autojump_clock: MockClock, tmp_path: Path, kind: NatBehaviour, works: bool
) -> None:
    async with home(tmp_path, replace(kind, hairpin=works), tcp=False) as there:
        await trio.sleep(15)
        assert there.nat["hairpin"] is works, there.nat


async def test_where_everybody_sees_another_endpoint_hairpinning_is_not_asked_about(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with home(tmp_path, replace(SYMRAND, hairpin=True), tcp=False) as there:
        await trio.sleep(60)
        assert there.nat["mapping"] == "address-and-port-dependent"
        assert there.nat["hairpin"] is None


async def test_a_stun_server_of_the_configuration_is_enough(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with open_internet(seed=1) as internet, trio.open_nursery() as nursery:
        hosts = internet.free_ipv4(), internet.free_ipv4()
        server = StunServer(internet.host("stun", *hosts), hosts)
        await server.open(nursery)
        nat = replace(CONE, udp_lifetime=30.0, hairpin=True)
        host = internet.host("a", router=internet.router("home", nat))
        async with node_on(host, 1, stun=(str(server.endpoint),)) as node:
            await trio.sleep(120)
            report = node.node.document()["nat"]["v4"]
        assert (report["lifetime"], report["hairpin"]) == (27.0, True)
        assert node.node.standing.nat_tests.keep_alive(Endpoint("21.0.0.1", 1)) == SHARE * 27
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("nat", [replace(FULLCONE, udp_lifetime=30.0), None])
async def test_the_mapping_of_our_port_is_kept_though_nobody_is_connected(
    autojump_clock: MockClock, nat: NatBehaviour | None
) -> None:
    """A node that only has its DHT was silent for fifteen minutes at a time: strangers found nobody there."""
    async with open_internet(seed=3, trace=True) as internet, AsyncExitStack() as stack:
        hosts = [internet.host(f"dht{number}") for number in range(8)]
        bootstrap = (f"{hosts[0].ipv4}:{PORT}",)
        for number, host in enumerate(hosts):
            await stack.enter_async_context(node_on(host, 10 + number, dht=True, dht_bootstrap=bootstrap))
        host = internet.host("a", router=internet.router("home", nat)) if nat is not None else internet.host("a")
        await stack.enter_async_context(node_on(host, 1, dht=True, dht_bootstrap=bootstrap))
        await trio.sleep(60)
        since = trio.current_time()
        await trio.sleep(QUIET)
        assert internet.trace is not None
        way = f"udp {host.ipv4}:{PORT} > "
        sent = [each.time for each in internet.trace if each.what == "sent" and each.packet.startswith(way)]
        times = [since, *(time for time in sent if time >= since), trio.current_time()]
        longest = max(later - earlier for earlier, later in pairwise(times))
        assert longest < 30 if nat is not None else longest > 120
