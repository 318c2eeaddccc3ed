"""Leaving with many torrents: everybody is told within the goodbye, and who hangs keeps nobody waiting."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
import trio
import trio.testing

from swarm.discover.tracker_client import Family, Route, TrackerClient
from swarm.discover.trackers import FIRST_FAREWELLS, MAX_FAREWELLS, MAX_FAREWELLS_PER_HOST, Announcer
from swarm.endpoint import Endpoint
from swarm.net.network import Interface, Network
from swarm.simnet.internet import open_internet
from swarm.wire.tracker import AnnounceReply, AnnounceRequest

GOODBYE = 2.5


@dataclass
class Counts:
    uploaded: int = 0
    downloaded: int = 0
    left: int = 0


class Distant(TrackerClient):
    """Every tracker answers after ``delay`` seconds, but for those that hang once everybody has started."""

    delay = 0.15  # a connection, a question and an answer across an ocean

    def __init__(self, network: Network, *hang: str) -> None:
        super().__init__(network, {})
        self._hang = hang
        self.stopped: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self._running: Counter[str] = Counter()

    async def routes(self, url: str) -> list[Route]:
        return [Route(4, (Endpoint("45.0.0.1", 80),))]

    async def announce(self, url: str, route: Route, request: AnnounceRequest, rotation: int = 0) -> AnnounceReply:
        host = urlsplit(url).netloc
        self._running[host] += 1
        self.peak[host] = max(self.peak[host], self._running[host])
        try:
            await trio.sleep(math.inf if request.event == "stopped" and host in self._hang else self.delay)
        finally:
            self._running[host] -= 1
        self.stopped[host] += request.event == "stopped"
        return AnnounceReply(interval=1800)


async def leave(client: Distant, torrents: int, *hosts: str) -> None:
    """With so many torrents, each of which all hosts know."""
    announcer = Announcer(client, port=lambda family: 1, rng=random.Random(1), emit=lambda event: None)
    sources = [
        announcer.add(
            [[f"http://{host}/"] for host in hosts],
            info_hash=number.to_bytes(20, "big"),
            peer_id=b"p" * 20,
            counters=Counts(),
            found=lambda endpoints, source: None,
        )
        for number in range(torrents)
    ]
    with trio.move_on_after(torrents / 5):
        await announcer.run()
    client.peak.clear()
    with trio.move_on_after(GOODBYE):
        async with trio.open_nursery() as nursery:
            for source in sources:
                nursery.start_soon(source.stop)


async def test_a_thousand_torrents_say_goodbye_to_a_distant_tracker(autojump_clock: trio.testing.MockClock) -> None:
    async with open_internet(1) as internet:
        client = Distant(internet.host("here", "45.0.0.9"))
        await leave(client, 1000, "one.example")
        assert client.stopped["one.example"] == 1000
        assert FIRST_FAREWELLS < client.peak["one.example"] <= MAX_FAREWELLS_PER_HOST


async def test_hosts_that_hang_get_no_more_places_and_leave_the_others_theirs(
    autojump_clock: trio.testing.MockClock,
) -> None:
    hung = [f"hung{number}.example" for number in range(3)]
    async with open_internet(1) as internet:
        client = Distant(internet.host("here", "45.0.0.9"), *hung)
        await leave(client, 300, "one.example", *hung)
        assert +client.stopped == Counter({"one.example": 300})
        assert {client.peak[host] for host in hung} == {FIRST_FAREWELLS}
        assert sum(client.peak.values()) <= MAX_FAREWELLS


async def test_our_addresses_are_looked_up_once_until_they_change(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_internet(1) as internet:
        host = internet.host("here", "45.0.0.9", "2a00:1::9")
        internet.name("tracker.example", "45.0.0.1", "2a00:1::1")
        looks: list[list[Interface]] = []
        look = host.interfaces

        def interfaces() -> list[Interface]:
            looks.append(look())
            return looks[-1]

        monkeypatch.setattr(host, "interfaces", interfaces)
        client = TrackerClient(host, {})
        announcer = Announcer(client, port=lambda family: 1, rng=random.Random(1), emit=lambda event: None)

        async def families() -> list[Family]:
            return [route.family for route in await client.routes("http://tracker.example/")]

        assert [await families() for _ in range(3)] == [[6, 4]] * 3
        assert len(looks) == 1
        host.remove_address("2a00:1::9")
        announcer.network_changed()
        assert await families() == [4]
