"""The DHT as a source, with real nodes behind real UDP ports in the simulated internet under virtual time."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dht.config import DhtConfig
from dht.results import AddressObserved, Result
from dht.service import DhtService
from dht.state import SavedState, decode_state_untrusted
from swarm.discover.dht_bootstrap import DEFAULT_ROUTERS
from swarm.discover.dht_files import MAX_FILE_SIZE, state_path
from swarm.discover.dht_queue import BURST, INTERVAL, JITTER, SearchQueue, SearchTimes
from swarm.discover.dht_searches import MAX_SEARCHES
from swarm.discover.dht_source import DhtSource, DhtTorrent
from swarm.discover.tracker_client import Family
from swarm.endpoint import Endpoint
from swarm.events import Event, Warned
from swarm.net.real import RealNetwork
from swarm.net.udp import bind_udp
from swarm.net.udp_port import UdpPort
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.torrent.disk import run_inline
from tests.interop.clients import free_port
from tests.interop.test_dht import Sessions, sessions

__all__ = ["sessions"]  # a fixture

HASH = b"h" * 20
PORT = 6881
ROUTER = f"router.example:{PORT}"
UNLIMITED = DhtConfig(datagrams_per_second_per_host=None, answer_bytes_per_second=None)
WILDCARDS: dict[Family, str] = {4: "0.0.0.0", 6: "::"}


@dataclass
class World:
    """Nodes that know each other, and the tools to put a client beside them."""

    internet: Internet
    nursery: trio.Nursery
    nodes: list[dict[Family, DhtService]] = field(default_factory=list)
    hosts: list[Host] = field(default_factory=list)

    async def ports(
        self,
        host: Host,
        nursery: trio.Nursery,
        families: Iterable[Family] = (4, 6),
        saved: Callable[[Family], SavedState | None] = lambda family: None,
        on_fact: Callable[[Result], None] | None = None,
    ) -> dict[Family, DhtService]:
        """A node of each family, on sockets that are closed with ``nursery``."""
        services: dict[Family, DhtService] = {}
        for family in families:
            socket = await host.bind_udp(Endpoint(WILDCARDS[family], PORT))
            port = UdpPort(
                socket,
                random.Random(self.internet.dice.getrandbits(64)),
                utp=None,
                dht=UNLIMITED,
                dht_saved=saved(family),
                on_dht_fact=on_fact,
            )
            assert port.dht is not None
            services[family] = port.dht
            nursery.start_soon(port.run)
            nursery.start_soon(closed_at_the_end, socket.close)
        return services

    async def grow(self, size: int, families: Iterable[Family] = (4, 6)) -> None:
        """Nodes with both addresses, of which the first is the router."""
        for number in range(size):
            host = self.internet.host(f"node{number}", self.internet.free_ipv4(), self.internet.free_ipv6())
            services = await self.ports(host, self.nursery, families)
            self.hosts.append(host)
            self.nodes.append(services)
            for family, service in services.items():
                service.start()
                service.bootstrap([(self.address(0, family), PORT)])
        self.internet.name("router.example", self.hosts[0].ipv4, self.hosts[0].ipv6)
        await trio.sleep(20)

    def address(self, number: int, family: Family) -> str:
        return self.hosts[number].ipv6 if family == 6 else self.hosts[number].ipv4

    async def announce(self, number: int, info_hash: bytes = HASH) -> set[Endpoint]:
        """One of the nodes announces port 7000; where it is found."""
        for service in self.nodes[number].values():
            assert await service.announce(info_hash, 7000)
        return {Endpoint(self.address(number, family), 7000) for family in self.nodes[number]}

    def stored(self, info_hash: bytes = HASH) -> set[Endpoint]:
        """Who is announced anywhere."""
        now = trio.current_time()
        found = [
            peer
            for services in self.nodes
            for service in services.values()
            for peer in service.node.server.store.peers(info_hash, now)
        ]
        return {Endpoint(*peer) for peer in found}


async def closed_at_the_end(close: Callable[[], None]) -> None:
    try:
        await trio.sleep_forever()
    finally:
        close()


@asynccontextmanager
async def world(size: int = 0, families: Iterable[Family] = (4, 6)) -> AsyncIterator[World]:
    async with open_internet(seed=1, coalesce=0.001) as internet, trio.open_nursery() as nursery:
        made = World(internet, nursery)
        if size:
            await made.grow(size, families)
        yield made
        nursery.cancel_scope.cancel()


class Client:
    """A host whose `DhtSource` goes online and offline, and all that it found, with the times."""

    def __init__(self, world: World, name: str = "client", directory: Path | None = None, **options: object) -> None:
        self.world = world
        self.host = world.internet.hosts.get(name) or world.internet.host(name, "45.0.0.9", "2a00:1::9")
        self.events: list[Event] = []
        self.found: dict[Endpoint, float] = {}
        self.facts: list[Result] = []
        self.listening = 6999
        self.implied = False
        self.services: dict[Family, DhtService] = {}
        settings: dict[str, object] = {"bootstrap": [ROUTER], "default_routers": False, **options}
        self.source = DhtSource(
            rng=random.Random(7),
            emit=self.events.append,
            port=lambda family: self.listening,
            implied_port=lambda family: self.implied,
            network=self.host,
            directory=directory,
            runner=run_inline,
            **settings,  # type: ignore[arg-type]
        )

    @asynccontextmanager
    async def online(self, *families: Family) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            self.services = await self.world.ports(
                self.host, nursery, families or (4, 6), self.source.saved, self.facts.append
            )
            nursery.start_soon(self.source.run, self.services)
            yield
            nursery.cancel_scope.cancel()

    def add(self, info_hash: bytes = HASH, **options: object) -> DhtTorrent:
        return self.source.add(info_hash, self.take, **options)  # type: ignore[arg-type]

    def take(self, endpoints: Sequence[Endpoint], source: str) -> None:
        assert source == "dht"
        for endpoint in endpoints:
            assert isinstance(endpoint, Endpoint)
            self.found.setdefault(endpoint, trio.current_time())

    async def wait_found(self, endpoints: Iterable[Endpoint]) -> float:
        """Seconds until all of them are found."""
        began = trio.current_time()
        while not self.found.keys() >= set(endpoints):
            await trio.sleep(0.01)
        return trio.current_time() - began

    @property
    def warnings(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Warned)]

    @property
    def lookups(self) -> int:
        return sum(each.lookups for each in self.source.statistics().values())


async def test_from_an_empty_table_peers_of_both_families_are_found_within_seconds(autojump_clock: MockClock) -> None:
    async with world(12) as w:
        peers = await w.announce(5)
        client = Client(w)
        torrent = client.add()
        assert torrent.statistics().state == "offline"
        assert torrent.statistics().why() == "the DHT is offline"
        async with client.online():
            with trio.fail_after(3):
                await client.wait_found(peers)
            await trio.sleep(60)
            status = torrent.statistics()
            assert status.state == "waiting"
            assert status.peers is not None
            assert status.nodes is not None
            assert (status.peers >= 2, status.nodes >= 16, status.hindrance) == (True, True, "")
            assert status.why() == f"the DHT: {status.peers} peers from {status.nodes} nodes"
            assert status.announced is not None
            assert status.announced >= 12, "to about eight nodes of each family"
            assert w.stored() >= {Endpoint("45.0.0.9", 6999), Endpoint("2a00:1::9", 6999)}
            assert {type(fact) for fact in client.facts} >= {AddressObserved}
        assert not client.warnings


async def test_an_announce_tells_the_implied_port_or_none_at_all(autojump_clock: MockClock) -> None:
    async with world(9, [4]) as w:
        client = Client(w)
        async with client.online(4):
            client.implied = True
            client.listening = 1234
            client.add(b"a" * 20)
            await trio.sleep(10)
            client.add(b"b" * 20, announce=False)
            await trio.sleep(10)
            client.listening = 0
            client.add(b"c" * 20)
            await trio.sleep(10)
        assert w.stored(b"a" * 20) == {Endpoint("45.0.0.9", PORT)}, "what they see is our socket"
        assert w.stored(b"b" * 20) == set()
        assert w.stored(b"c" * 20) == set()


async def test_a_search_too_early_is_repeated_after_5_and_30_seconds_and_then_every_15_minutes(
    autojump_clock: MockClock,
) -> None:
    async with world(12, [4]) as w:
        client = Client(w)
        began = trio.current_time()
        begins: list[float] = []
        torrent = client.add()
        async with client.online(4):
            for _ in range(1100):
                last = torrent.searches[4].times.began - began
                if last >= 0 and last not in begins:
                    begins.append(last)
                await trio.sleep(1)
        assert begins[0] <= 1.0
        assert 5 <= begins[1] - begins[0] <= 8
        again = [later - earlier for earlier, later in itertools.pairwise(begins[1:])]
        assert len(again) == 1, "the second search knew enough nodes"
        assert all(INTERVAL * (1 - JITTER) <= pause <= INTERVAL * (1 + JITTER) + 5 for pause in again)


def test_the_times_of_searches() -> None:
    times = SearchTimes(random.Random(1))
    assert (times.due, times.urgent) == (-math.inf, False)
    times.begin(100.0)
    times.end(101.0, answers=20, early=True)
    assert (times.due, times.urgent) == (106.0, True)
    times.begin(106.0)
    times.end(107.0, answers=3, early=True)
    assert times.due == 132.0
    times.begin(132.0)
    times.end(133.0, answers=1, early=True)
    assert 133.0 + 810 <= times.due <= 133.0 + 990, "a network this small does not grow by asking"
    assert not times.urgent
    times.want_more(140.0)
    assert (times.due, times.urgent) == (192.0, True)
    times.begin(192.0)
    times.want_more(193.0)
    times.end(194.0, answers=50, early=False)
    assert times.due == 252.0, "wanted while it was under way"
    times.begin(252.0)
    times.end(262.0, answers=0, early=False)
    assert times.due == 312.0, "nobody answered"
    times.restart(253.0)
    assert times.due == 257.0
    times.begin(257.0)
    times.end(258.0, answers=1, early=True)
    assert times.due == 263.0, "all over again"


@dataclass(eq=False)
class Item:
    times: SearchTimes


def test_the_order_of_searches_and_their_pace() -> None:
    rng = random.Random(1)
    queue: SearchQueue[Item] = SearchQueue()
    assert queue.next_due(0.0) == math.inf
    late, fresh, urgent, later, gone = items = [Item(SearchTimes(rng)) for _ in range(5)]
    for item, due in ((late, 50.0), (urgent, 60.0), (later, 200.0)):
        item.times.due = due
    for item in items:
        queue.add(item)
    urgent.times.want_more(0.0)
    assert queue.reschedule(urgent)
    assert not queue.reschedule(urgent)
    queue.remove(gone)
    queue.remove(gone)
    taken = []
    while queue.next_due(100.0) <= 100.0:
        taken.append(queue.take(100.0))
    assert taken == [urgent, fresh, late]
    assert queue.next_due(100.0) == 200.0
    later.times.due = 150.0
    assert queue.reschedule(later)
    assert queue.next_due(100.0) == 150.0
    assert set(queue) == {late, fresh, urgent, later}
    assert gone not in queue


@pytest.mark.parametrize(("torrents", "seconds"), [(30, 7), (1000, 492), (3600, 717)])
def test_searches_begin_in_a_burst_and_then_at_a_pace_that_reaches_all_in_time(torrents: int, seconds: int) -> None:
    rng = random.Random(1)
    queue: SearchQueue[Item] = SearchQueue()
    for _ in range(torrents):
        queue.add(Item(SearchTimes(rng)))
    now, begun = 1000.0, []
    while (due := queue.next_due(now)) < math.inf:
        now = max(now, due)
        queue.take(now)
        begun.append(now)
    assert sum(when < 1000.1 for when in begun) == BURST
    assert round(begun[-1] - 1000.0) == seconds


async def test_want_more_searches_once_a_minute(autojump_clock: MockClock) -> None:
    async with world(9, [4]) as w:
        client = Client(w)
        torrent = client.add()
        async with client.online(4):
            await trio.sleep(120)
            lookups = client.lookups
            for _ in range(300):
                torrent.want_more()
                await trio.sleep(1)
            # Of its own accord the node refreshes a bucket or two.
            assert 5 <= client.lookups - lookups <= 10


async def test_after_a_change_of_the_network_it_announces_again_soon(autojump_clock: MockClock) -> None:
    async with world(12, [4]) as w:
        client = Client(w)
        torrent = client.add()
        async with client.online(4):
            await trio.sleep(30)
            waits = [torrent.statistics().next_search]
            client.source.network_changed()
            waits.append(torrent.statistics().next_search)
            assert waits[0] is not None
            assert waits[1] is not None
            assert waits[0] > 600
            assert waits[1] < 60
            assert not torrent.searches[4].times.urgent, "seeds that moved must not keep those without peers waiting"


async def test_we_are_no_peer_of_ours(autojump_clock: MockClock) -> None:
    async with world(12, [4]) as w:
        client = Client(w)
        torrent = client.add()
        async with client.online(4):
            await trio.sleep(2000)
        assert w.stored() == {Endpoint("45.0.0.9", 6999)}
        assert not client.found
        assert torrent.statistics().peers == 0


async def test_a_thousand_torrents_are_queued_and_spread(autojump_clock: MockClock) -> None:
    async with world(4, [4]) as w:
        client = Client(w)
        rng = random.Random(3)
        hashes = [rng.randbytes(20) for _ in range(1000)]
        hint = (w.hosts[1].ipv4, PORT)
        torrents = [client.add(info_hash, announce=False, nodes=[hint]) for info_hash in hashes]
        began = trio.current_time()
        async with client.online(4):
            await trio.sleep(10)
            fresh = [torrent for torrent in torrents if torrent.statistics().nodes is None]
            assert 960 <= len(fresh) <= 990, "a burst, then two a second, those among them that were too early again"
            queued = fresh[0]
            assert queued.statistics().state == "queued"
            assert queued.statistics().why() == "the DHT: other torrents are searched for first"
            urgent = client.add()
            urgent.want_more()
            await trio.sleep(3)
            assert urgent.statistics().state == "waiting", "who has no peers need not wait for seeds"
            while any(torrent.searches[4].last is None for torrent in torrents):
                assert sum(torrent.searches[4].under_way for torrent in torrents) <= MAX_SEARCHES
                await trio.sleep(10)
            assert 480 <= trio.current_time() - began <= 600, "the early ones three times"
            waits = [wait for torrent in torrents if (wait := torrent.statistics().next_search) is not None]
            assert len(waits) == 1000
            assert statistics.stdev(waits) > 100
            assert {torrent.statistics().nodes for torrent in torrents} == {4}
            for torrent in torrents:
                torrent.stop()
            lookups = client.lookups
            await trio.sleep(900)
            assert client.lookups - lookups < 50, "only the table is looked after"


async def test_a_stopped_torrent_is_not_searched_for_and_finds_nothing_more(autojump_clock: MockClock) -> None:
    async with world(9, [4]) as w:
        await w.announce(3)
        client = Client(w)
        torrent = client.add()
        async with client.online(4):
            while not torrent.searches[4].under_way:
                await trio.sleep(0.01)
            torrent.stop()
            torrent.stop()
            await trio.sleep(1000)
            assert not client.found
            assert client.services[4].statistics().searches_waiting == 0
            other = client.add()
            with trio.fail_after(3):
                await client.wait_found([Endpoint(w.address(3, 4), 7000)])
            assert other.statistics().peers == 1


async def test_a_saved_table_is_a_way_in_without_routers(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with world(12) as w:
        first = Client(w, directory=tmp_path / "state")
        await first.source.load()
        async with first.online():
            await trio.sleep(59)
            assert not (tmp_path / "state").exists()
            await trio.sleep(2)
            early = state_path(tmp_path / "state", 4).read_bytes()
            first.add()
            await trio.sleep(600)
            assert state_path(tmp_path / "state", 4).read_bytes() != early
        assert not first.warnings
        for family in WILDCARDS:
            content = state_path(tmp_path / "state", family).read_bytes()
            assert len(decode_state_untrusted(content, ipv6=family == 6).nodes) >= 10
        assert len(list((tmp_path / "state").iterdir())) == 2, "no temporary files are left"

        w.internet.name("router.example")
        peers = await w.announce(5)
        second = Client(w, directory=tmp_path / "state", bootstrap=[])
        await second.source.load()
        saved = second.source.saved(4)
        assert saved is not None
        second.add()
        async with second.online():
            assert second.services[4].node.node_id == saved.node_id
            with trio.fail_after(3):
                await second.wait_found(peers)
        assert not second.warnings


@pytest.mark.parametrize("content", [b"", b"garbage", b"d2:id3:abce", b"d" * MAX_FILE_SIZE * 2])
async def test_a_damaged_file_is_one_warning(autojump_clock: MockClock, tmp_path: Path, content: bytes) -> None:
    async with world(9) as w:
        state_path(tmp_path, 4).write_bytes(content)
        client = Client(w, directory=tmp_path)
        await client.source.load()
        assert len(client.warnings) == 1
        assert "dht4.state is damaged" in client.warnings[0]
        assert client.source.saved(4) is None
        async with client.online():
            await trio.sleep(10)
        assert decode_state_untrusted(state_path(tmp_path, 4).read_bytes()).nodes
        assert len(client.warnings) == 1


async def test_a_directory_that_cannot_be_used_is_one_warning(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with world() as w:
        blocked = tmp_path / "file"
        blocked.write_bytes(b"")
        client = Client(w, directory=blocked / "state", bootstrap=[])
        await client.source.load()
        assert len(client.warnings) == 2, "one for each family: they cannot be read either"
        async with client.online():
            await trio.sleep(2000)
        assert len(client.warnings) == 3
        assert "cannot save" in client.warnings[2]


async def test_an_outage_does_not_cost_the_saved_table(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with world(12, [4]) as w:
        client = Client(w, directory=tmp_path)
        async with client.online(4):
            await trio.sleep(120)
        content = state_path(tmp_path, 4).read_bytes()
        known = decode_state_untrusted(content)
        client.host.connect(False)
        again = Client(w, directory=tmp_path)
        await again.source.load()
        async with again.online(4):
            await trio.sleep(120)
        assert set(decode_state_untrusted(state_path(tmp_path, 4).read_bytes()).nodes) == set(known.nodes)


async def test_offline_and_online_again_it_searches_and_counts_on(autojump_clock: MockClock) -> None:
    async with world(12, [4]) as w:
        client = Client(w)
        torrent = client.add()
        async with client.online(4):
            await trio.sleep(60)
            [before, none] = client.source.statistics().values()
            assert (before.nodes >= 10, before.lookups >= 2, before.queries_out >= 20) == (True, True, True)
            assert none.queries_out == 0
            node_id = client.services[4].node.node_id
        offline = client.source.statistics()[4]
        assert (offline.nodes, offline.queries_out >= before.queries_out) == (0, True)
        assert torrent.statistics().why() == "the DHT is offline"
        client.source.add_node(Endpoint(w.hosts[2].ipv4, PORT))
        await trio.sleep(100)
        peers = await w.announce(4)
        w.internet.name("router.example")
        async with client.online(4):
            with trio.fail_after(3):
                await client.wait_found(peers)
            await trio.sleep(5)
            assert client.services[4].node.node_id == node_id
            assert client.source.statistics()[4].lookups > offline.lookups
            assert client.source.statistics()[4].queries_out > offline.queries_out


async def test_after_a_long_outage_it_finds_the_way_back(autojump_clock: MockClock) -> None:
    async with world(9, [4]) as w:
        client = Client(w)
        torrent = client.add()
        async with client.online(4):
            await trio.sleep(60)
            client.host.connect(False)
            await trio.sleep(1800)
            assert client.source.statistics()[4].nodes == 0
            assert torrent.statistics().why() == "the DHT knows no node yet (no answer from 1 router)"
            peers = await w.announce(4)
            client.host.connect(True)
            client.source.network_changed()
            with trio.fail_after(20):
                await client.wait_found(peers)
            await trio.sleep(120)
            assert client.source.statistics()[4].nodes >= 8


async def test_a_name_that_does_not_resolve_is_one_warning_and_tried_again(autojump_clock: MockClock) -> None:
    async with world(12, [4]) as w:
        peers = await w.announce(4)
        w.internet.name("router.example")
        client = Client(w)
        torrent = client.add()
        async with client.online(4):
            await trio.sleep(40)
            assert client.warnings == [
                f"the DHT router {ROUTER} is not found (router.example: name not known); it is tried again"
            ]
            assert torrent.statistics().state == "waiting-for-nodes"
            assert torrent.statistics().why() == (
                f"the DHT knows no node yet (no name of a router resolves: {ROUTER}: router.example: name not known)"
            )
            w.internet.name("router.example", w.hosts[0].ipv4)
            with trio.fail_after(60):
                await client.wait_found(peers)
        assert len(client.warnings) == 1


async def test_routers_that_do_not_answer_are_said(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.internet.name("router.example", "45.0.0.1")
        client = Client(w, bootstrap=[ROUTER, "45.0.0.2:6881", "[2a00:1::2]:6881"])
        torrent = client.add()
        assert torrent.statistics().hindrance == "routers are being looked up"
        async with client.online():
            await trio.sleep(10)
            assert torrent.statistics().why() == "the DHT knows no node yet (no answer from 3 routers)"
            out = client.source.statistics()
            assert out[4].queries_out > 0
            assert out[6].queries_out > 0
        lonely = Client(w, bootstrap=[]).add()
        assert lonely.statistics().hindrance == "there is no router to ask"


async def test_the_public_routers_are_asked_only_without_a_useful_table(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with world(12) as w:
        first = Client(w, directory=tmp_path)
        async with first.online():
            await trio.sleep(60)
        asked: list[str] = []
        second = Client(w, directory=tmp_path, bootstrap=[], default_routers=True)
        await second.source.load()
        resolve = second.host.resolve

        async def watched(host: str, port: int) -> list[Endpoint]:
            asked.append(f"{host}:{port}")
            return await resolve(host, port)

        second.host.resolve = watched  # type: ignore[method-assign]
        async with second.online():
            await trio.sleep(100)
            assert asked == []
        third = Client(w, bootstrap=[], default_routers=True)
        torrent = third.add()
        async with third.online():
            await trio.sleep(2.5)
            assert sorted(asked) == sorted(DEFAULT_ROUTERS)
            assert torrent.statistics().why().startswith("the DHT knows no node yet (no name of a router resolves: ")
        assert third.warnings == [], "nobody asked for these"


async def test_the_nodes_of_a_torrent_and_of_port_messages_are_a_way_in(autojump_clock: MockClock) -> None:
    async with world(12, [4]) as w:
        peers = await w.announce(4)
        w.internet.name("node.example", w.hosts[7].ipv4)
        client = Client(w, bootstrap=[])
        async with client.online(4):
            await trio.sleep(1000)
            client.add(nodes=[("nobody.example", 1), ("node.example", PORT)])
            with trio.fail_after(5):
                await client.wait_found(peers)
        client = Client(w, bootstrap=[])
        client.add()
        async with client.online(4):
            await trio.sleep(1000)
            client.source.add_node(Endpoint("0.0.0.0", 1))
            client.source.add_node(Endpoint(w.hosts[9].ipv4, PORT))
            with trio.fail_after(5):
                await client.wait_found(peers)


async def test_without_a_single_socket_it_waits(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = Client(w)
        client.add()
        with trio.move_on_after(1000) as scope:
            await client.source.run({})
        assert scope.cancelled_caught
        assert not client.warnings


async def test_mistakes_are_told_at_once() -> None:
    async with world() as w:
        with pytest.raises(ValueError, match="20 bytes"):
            Client(w).add(b"short")
        with pytest.raises(ValueError, match="HOST:PORT"):
            Client(w, bootstrap=["router.example"])


@pytest.mark.interop
async def test_peers_of_libtorrent_are_found_and_it_finds_us(sessions: Callable[[list[Endpoint]], Sessions]) -> None:
    port = free_port()
    endpoints = [Endpoint(f"127.0.{number}.1", port) for number in range(20, 32)]
    theirs = sessions(endpoints)
    rng = random.Random(7)
    theirs.acquaint(endpoints, rng)
    found: list[Endpoint] = []
    events: list[Event] = []
    source = DhtSource(
        rng=rng,
        emit=events.append,
        port=lambda family: 6000,
        implied_port=lambda family: False,
        bootstrap=[str(endpoints[3])],
        default_routers=False,
        network=RealNetwork(),
        directory=None,
    )
    info_hash = rng.randbytes(20)
    peer = Endpoint(endpoints[5].host, 7000)
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        socket = bind_udp(Endpoint("127.0.60.1", 0))
        stack.callback(socket.close)
        udp_port = UdpPort(socket, random.SystemRandom(), utp=None, dht=DhtConfig())
        assert udp_port.dht is not None
        nursery.start_soon(udp_port.run)
        nursery.start_soon(source.run, {4: udp_port.dht})
        with trio.fail_after(20):
            known: list[tuple[str, int]] = []
            while peer not in known:  # they take their time to get acquainted
                theirs.announce(5, info_hash, 7000)
                await trio.sleep(0.2)
                known = [each async for peers in udp_port.dht.get_peers(info_hash) for each in peers]
            torrent = source.add(info_hash, lambda endpoints, source: found.extend(endpoints))
            while peer not in found or not torrent.statistics().announced:
                await trio.sleep(0.05)
        assert ("127.0.60.1", 6000) in await theirs.get_peers(8, info_hash)
        nursery.cancel_scope.cancel()
    assert not events


def test_a_change_while_a_search_announces_what_was_true_brings_another_one_soon() -> None:
    times = SearchTimes(random.Random(1))
    times.begin(0.0)
    times.hasten(10.0)
    times.end(20.0, answers=8, early=False)
    assert times.due == 60.0
    assert not times.urgent
    times.begin(60.0)
    times.end(70.0, answers=8, early=False)
    assert times.due > 600.0
