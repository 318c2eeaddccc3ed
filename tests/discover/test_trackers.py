"""The announcer, against embedded trackers in the simulated internet under virtual time."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from dht.bencode import encode
from swarm.discover import embedded_tracker
from swarm.discover.embedded_tracker import Announced, EmbeddedTracker
from swarm.discover.tracker_client import Family, Route, TrackerClient
from swarm.discover.tracker_hosts import (
    KEPT_FREE,
    MAX_ANNOUNCES,
    MAX_ANNOUNCES_PER_HOST,
    MAX_BEFORE_ANSWER,
)
from swarm.discover.trackers import Announcer, TrackerSource
from swarm.endpoint import Endpoint
from swarm.events import Event, TrackerAnswered, TrackerFailed
from swarm.net.mux import Mux, Priority
from swarm.net.udp_tracker import UdpTracker
from swarm.net.udp_tracker_service import UdpTrackerService
from swarm.simnet.internet import Internet, open_internet

HASH = b"h" * 20
OTHER = Endpoint("93.184.216.34", 7777)
OTHER6 = Endpoint("2606:2800:220:1::34", 7777)


@dataclass
class Counts:
    uploaded: int = 0
    downloaded: int = 0
    left: int = 1000


@dataclass
class World:
    """A client with an announcer, and the tools to put trackers beside it."""

    internet: Internet
    nursery: trio.Nursery
    events: list[Event] = field(default_factory=list)
    found: list[Endpoint] = field(default_factory=list)
    external: list[tuple[str, str]] = field(default_factory=list)
    own_ipv6: str | None = None
    counters: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self.client = self.internet.host("client", "45.0.0.9", "2a00:1::9")

    async def add_tracker(self, name: str, *addresses: str, tracker: EmbeddedTracker | None = None) -> EmbeddedTracker:
        tracker = tracker or EmbeddedTracker(random.Random(1), interval=1800, min_interval=300)
        host = self.internet.host(name, *addresses)
        self.internet.name(name, *addresses)
        for address in addresses:
            await self.nursery.start(tracker.serve, host, Endpoint(address, 6969))
        return tracker

    async def announcer(self, *, udp: bool = True) -> Announcer:
        services: dict[Family, UdpTrackerService] = {}
        if udp:
            services = {4: await self._udp("0.0.0.0"), 6: await self._udp("::")}
        client = TrackerClient(self.client, services, own_ipv6=lambda: self.own_ipv6)
        return Announcer(
            client,
            port=lambda family: 6881,
            rng=random.Random(2),
            emit=self.events.append,
            external_address=lambda reporter, host: self.external.append((reporter, host)),
        )

    async def _udp(self, host: str) -> UdpTrackerService:
        core = UdpTracker(random.Random(3))
        mux = Mux(await self.client.bind_udp(Endpoint(host, 6881)))
        service = UdpTrackerService(core, mux.wake)
        mux.add(core, priority=Priority.UDP_TRACKER, on_results=service.deliver)
        self.nursery.start_soon(mux.run)
        return service

    def add(self, announcer: Announcer, *tiers: Sequence[str], info_hash: bytes = HASH) -> TrackerSource:
        return announcer.add(
            tiers,
            info_hash=info_hash,
            peer_id=b"p" * 20,
            counters=self.counters,
            found=lambda endpoints, source: self.found.extend(endpoints),
        )

    def failures(self) -> list[TrackerFailed]:
        return [event for event in self.events if isinstance(event, TrackerFailed)]

    def answers(self) -> list[TrackerAnswered]:
        return [event for event in self.events if isinstance(event, TrackerAnswered)]


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with open_internet(seed=1) as internet, trio.open_nursery() as nursery:
        yield World(internet, nursery)
        nursery.cancel_scope.cancel()


def events_at(tracker: EmbeddedTracker) -> list[str]:
    return [announced.event for announced in tracker.announces]


class Scripted(EmbeddedTracker):
    """Answers every HTTP request with ``answer``."""

    def __init__(self, answer: Callable[[], tuple[int, bytes]]) -> None:
        super().__init__(random.Random(1))
        self.script = answer
        self.times: list[float] = []

    def answer_http(self, target: bytes, remote: Endpoint, now: float) -> tuple[int, bytes]:
        self.times.append(now)
        return self.script()


URLS = ["http://tracker.example:6969/announce", "udp://tracker.example:6969/announce"]


@pytest.mark.parametrize("url", URLS)
async def test_a_download_from_start_to_stop(autojump_clock: trio.testing.MockClock, url: str) -> None:
    async with world() as w:
        tracker = await w.add_tracker("tracker.example", "45.0.0.1", "2a00:1::1")
        announcer = await w.announcer()
        w.nursery.start_soon(announcer.run)
        source = w.add(announcer, [url])
        [status] = source.statistics()
        assert (status.state, status.last_peers, status.next_announce) == ("waiting", None, 0.0)
        await trio.sleep(20)
        assert events_at(tracker) == ["started", "started"]
        assert {announced.endpoints for announced in tracker.announces} == {
            (Endpoint("45.0.0.9", 6881),),
            (Endpoint("2a00:1::9", 6881),),
        }, "announced from each family (BEP 7)"
        [status] = source.statistics()
        assert (status.state, status.last_error, status.last_peers, status.leechers) == ("working", "", 0, 1)
        assert status.next_announce is not None
        assert 1700 < status.next_announce < 1890
        w.counters.left = 0
        source.completed()
        await trio.sleep(20)
        assert events_at(tracker)[2:] == ["completed", "completed"]
        assert tracker.scrape(HASH, trio.current_time())[1] == 2
        with trio.fail_after(3):
            await source.stop()
        assert events_at(tracker)[4:] == ["stopped", "stopped"]
        await trio.sleep(10_000)
        assert len(tracker.announces) == 6
        assert not w.failures()
        assert [answer.url for answer in w.answers()] == [url] * 4


@pytest.mark.parametrize("url", URLS)
async def test_peers_of_both_families_are_found(autojump_clock: trio.testing.MockClock, url: str) -> None:
    async with world() as w:
        tracker = await w.add_tracker("tracker.example", "45.0.0.1", "2a00:1::1")
        tracker.announce(seeder(OTHER, OTHER6), trio.current_time())
        announcer = await w.announcer()
        w.nursery.start_soon(announcer.run)
        w.add(announcer, [url])
        await trio.sleep(20)
        assert set(w.found) == {OTHER, OTHER6}
        seen = {("45.0.0.1", "45.0.0.9"), ("2a00:1::1", "2a00:1::9")}
        assert set(w.external) == (set() if url.startswith("udp") else seen)


def seeder(*endpoints: Endpoint) -> Announced:
    return Announced(HASH, b"s" * 20, endpoints, 0, "started", 0)


async def test_an_ipv4_tracker_is_told_our_ipv6_address_only_if_it_may_know(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world() as w:
        tracker = await w.add_tracker("tracker.example", "45.0.0.1")
        announcer = await w.announcer()
        w.nursery.start_soon(announcer.run)
        w.add(announcer, [URLS[0]])
        await trio.sleep(5)
        w.own_ipv6 = "2a00:1::9"
        w.add(announcer, [URLS[0]], info_hash=b"i" * 20)
        await trio.sleep(5)
        first, second = (announced.endpoints for announced in tracker.announces)
        assert first == (Endpoint("45.0.0.9", 6881),)
        assert second == (Endpoint("45.0.0.9", 6881), Endpoint("2a00:1::9", 6881))


async def test_the_interval_is_respected_and_want_more_the_minimum(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as w:
        tracker = await w.add_tracker("tracker.example", "45.0.0.1")
        announcer = await w.announcer()
        w.nursery.start_soon(announcer.run)
        source = w.add(announcer, [URLS[0]])
        await trio.sleep(1799)
        assert len(tracker.announces) == 1
        await trio.sleep(95)
        assert events_at(tracker) == ["started", ""]
        source.want_more()
        source.want_more()
        await trio.sleep(190)
        assert len(tracker.announces) == 2
        await trio.sleep(120)
        assert len(tracker.announces) == 3
        await trio.sleep(500)
        source.want_more()
        await trio.sleep(1)
        assert len(tracker.announces) == 4


async def test_a_failing_tracker_is_tried_again_ever_more_seldom_and_says_why(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world() as w:
        tracker = Scripted(lambda: (200, b"<html>no tracker here</html>"))
        await w.add_tracker("tracker.example", "45.0.0.1", tracker=tracker)
        announcer = await w.announcer()
        w.nursery.start_soon(announcer.run)
        source = w.add(announcer, [URLS[0]])
        await trio.sleep(4000)
        gaps = [later - earlier for earlier, later in zip(tracker.times, tracker.times[1:], strict=False)]
        for number, gap in enumerate(gaps):
            assert 0.7 * 15 * 2**number < gap < 1.3 * 15 * 2**number + 2
        assert 6 <= len(gaps) <= 9
        [status] = source.statistics()
        assert status.state == "failing"
        assert status.last_error.startswith("bad-tracker-reply: not bencoded")
        assert w.failures()[0].retry_in == pytest.approx(15, rel=0.26)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (
            (200, encode({b"failure reason": b"unregistered\x1b[2J torrent"})),
            "tracker-refused: unregistered\ufffd[2J torrent",
        ),
        ((403, encode({b"failure reason": b"banned client"})), "tracker-refused: banned client"),
        ((404, b"gone"), "http-404"),
        ((200, bytes(2 << 20)), "too-large"),
        ((200, encode({b"peers": b"", b"interval": 10**12})), ""),
        ((200, encode({b"peers": b"", b"interval": -7})), ""),
    ],
)
async def test_odd_answers_are_named_and_never_make_us_announce_at_once(
    autojump_clock: trio.testing.MockClock, answer: tuple[int, bytes], error: str
) -> None:
    async with world() as w:
        tracker = Scripted(lambda: answer)
        await w.add_tracker("tracker.example", "45.0.0.1", tracker=tracker)
        announcer = await w.announcer()
        w.nursery.start_soon(announcer.run)
        source = w.add(announcer, [URLS[0]])
        await trio.sleep(8)
        [status] = source.statistics()
        assert status.last_error.startswith(error)
        assert bool(status.last_error) == bool(error)
        assert len(tracker.times) == 1


async def test_never_is_never(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as w:
        tracker = Scripted(lambda: (200, encode({b"failure reason": b"no", b"retry in": b"never"})))
        await w.add_tracker("tracker.example", "45.0.0.1", tracker=tracker)
        announcer = await w.announcer()
        w.nursery.start_soon(announcer.run)
        source = w.add(announcer, [URLS[0]])
        await trio.sleep(50_000)
        [status] = source.statistics()
        assert (status.state, status.next_announce, len(tracker.times)) == ("disabled", None, 1)
        assert w.failures()[0].retry_in == math.inf


@pytest.mark.parametrize("scheme", ["http", "udp"])
async def test_a_tracker_that_says_nothing_times_out(autojump_clock: trio.testing.MockClock, scheme: str) -> None:
    class Silent(EmbeddedTracker):
        async def _answer_stream(self, stream: object) -> None:
            await trio.sleep_forever()

        def answer_udp(self, datagram: bytes | memoryview, remote: Endpoint, now: float) -> None:
            return None

    async with world() as w:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(embedded_tracker, "HTTP_TIMEOUT", 1e9)
            await w.add_tracker("tracker.example", "45.0.0.1", tracker=Silent(random.Random(1)))
            announcer = await w.announcer()
            w.nursery.start_soon(announcer.run)
            source = w.add(announcer, [f"{scheme}://tracker.example:6969/announce"])
            await trio.sleep(39)
            assert [status.state for status in source.statistics()] == ["announcing"]
            await trio.sleep(2)
            [status] = source.statistics()
            assert (status.state, status.last_error) == ("failing", "timed-out: no answer within 40 s")
            with trio.fail_after(0.01):
                await source.stop()  # it never accepted a started


async def test_a_black_hole_in_one_family_does_not_hold_up_the_other(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as w:
        tracker = await w.add_tracker("tracker.example", "45.0.0.1")
        w.internet.name("tracker.example", "2a00:dead::1", "45.0.0.1")
        tracker.announce(seeder(OTHER), trio.current_time())
        announcer = await w.announcer()
        w.nursery.start_soon(announcer.run)
        for url in URLS:
            source = w.add(announcer, [url])
            await trio.sleep(1)
            assert w.found == [OTHER]
            w.found.clear()
            await trio.sleep(11)
            assert [status.state for status in source.statistics()] == ["working"]


async def test_a_family_that_we_do_not_have_is_skipped(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as w:
        tracker = await w.add_tracker("tracker.example", "45.0.0.1", "2a00:1::1")
        w.client.remove_address("2a00:1::9")
        announcer = await w.announcer()
        w.nursery.start_soon(announcer.run)
        w.add(announcer, [URLS[0]])
        await trio.sleep(5)
        assert [announced.endpoints for announced in tracker.announces] == [(Endpoint("45.0.0.9", 6881),)]
        assert not w.failures()


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("udp://tracker.example/announce", "bad-url"),
        ("http://nowhere.example/announce", "no-address"),
        ("udp://v6only.example:1/", "no-route"),
        ("http://tracker.example:1/announce", "refused"),
    ],
)
async def test_what_cannot_be_reached_says_so(autojump_clock: trio.testing.MockClock, url: str, error: str) -> None:
    async with world() as w:
        await w.add_tracker("tracker.example", "45.0.0.1")
        w.internet.name("v6only.example", "2a00:1::1")
        w.client.remove_address("2a00:1::9")
        announcer = await w.announcer()
        w.nursery.start_soon(announcer.run)
        source = w.add(announcer, [url])
        await trio.sleep(5)
        assert source.statistics()[0].last_error.startswith(error)


async def test_all_tiers_are_announced_and_in_a_tier_the_next_takes_over_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world() as w:
        one = await w.add_tracker("one.example", "45.0.0.1")
        two = await w.add_tracker("two.example", "45.0.0.2")
        announcer = await w.announcer()
        w.nursery.start_soon(announcer.run)
        dead = [f"http://dead{number}.example/" for number in range(8)]
        source = w.add(announcer, ["http://one.example:6969/announce"], [*dead, "udp://two.example:6969"])
        await trio.sleep(5)
        assert events_at(one) == ["started"]
        assert events_at(two) == ["started"]
        assert source.statistics()[1].url == "udp://two.example:6969", "the working one moved to the front"
        with trio.fail_after(3):
            await source.stop()
        assert events_at(one) == events_at(two) == ["started", "stopped"]


async def test_a_tier_learnt_later_is_announced_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as w:
        tracker = await w.add_tracker("tracker.example", "45.0.0.1")
        announcer = await w.announcer()
        w.nursery.start_soon(announcer.run)
        source = w.add(announcer)
        await trio.sleep(5)
        source.add_tier([URLS[0]])
        await trio.sleep(5)
        assert events_at(tracker) == ["started"]


async def test_stop_is_ended_by_the_callers_scope_and_goes_to_the_living_meanwhile(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world() as w:
        one = await w.add_tracker("one.example", "45.0.0.1")
        await w.add_tracker("two.example", "45.0.0.2")
        announcer = await w.announcer()
        w.nursery.start_soon(announcer.run)
        source = w.add(announcer, ["http://one.example:6969/announce"], ["udp://two.example:6969"])
        await trio.sleep(60)
        w.internet.hosts["two.example"].connect(False)
        began = trio.current_time()
        with trio.move_on_after(3) as scope:
            await source.stop()
        assert scope.cancelled_caught
        assert trio.current_time() - began == pytest.approx(3)
        assert events_at(one) == ["started", "stopped"]


async def test_stop_ends_an_announce_under_way(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as w:
        await w.add_tracker("tracker.example", "45.0.0.1")
        w.internet.hosts["tracker.example"].connect(False)
        announcer = await w.announcer()
        w.nursery.start_soon(announcer.run)
        source = w.add(announcer, [URLS[1]])
        await trio.sleep(5)
        assert source.statistics()[0].state == "announcing"
        with trio.fail_after(0.01):
            await source.stop()
        await trio.sleep(60)
        assert w.events == []


async def test_a_node_that_comes_back_online_announces_what_was_interrupted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world() as w:
        tracker = await w.add_tracker("tracker.example", "45.0.0.1")
        announcer = await w.announcer()
        source = w.add(announcer, [URLS[0]])
        with trio.move_on_after(0.001):
            await announcer.run()
        assert source.statistics()[0].state == "waiting"
        assert not tracker.announces
        with trio.move_on_after(5):
            await announcer.run()
        assert events_at(tracker) == ["started"]


async def test_a_changed_network_tries_at_once_what_failed(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as w:
        announcer = await w.announcer()
        w.nursery.start_soon(announcer.run)
        w.add(announcer, [URLS[0]])
        await trio.sleep(1000)
        tracker = await w.add_tracker("tracker.example", "45.0.0.1")
        announcer.network_changed()
        await trio.sleep(5)
        assert events_at(tracker) == ["started"]


async def test_each_family_is_told_its_own_port_and_a_new_one_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as w:
        tracker = await w.add_tracker("tracker.example", "45.0.0.1", "2a00:45::1")
        announcer = await w.announcer()
        ports = {4: 7000, 6: 6881}
        announcer.port = lambda family: ports[family]
        w.nursery.start_soon(announcer.run)
        w.add(announcer, [URLS[0]])
        await trio.sleep(5)
        assert {each.is_ipv6: each.port for each in told(tracker)} == {False: 7000, True: 6881}
        ports[4] = 7001
        announcer.port_changed()
        await trio.sleep(5)
        assert [each.port for each in told(tracker) if not each.is_ipv6] == [7000, 7001]


def told(tracker: EmbeddedTracker) -> list[Endpoint]:
    return [each for announced in tracker.announces for each in announced.endpoints]


async def test_many_torrents_on_a_dead_tracker_keep_nobody_waiting_and_idle_ones_cost_no_task(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world() as w:
        await w.add_tracker("dead.example", "45.0.0.2")
        w.internet.hosts["dead.example"].connect(False)
        tracker = await w.add_tracker("tracker.example", "45.0.0.1")
        announcer = await w.announcer()
        w.nursery.start_soon(announcer.run)
        await trio.sleep(1)
        before = trio.lowlevel.current_statistics().tasks_living
        for number in range(300):
            w.add(announcer, ["udp://dead.example:6969"], info_hash=bytes([1]) + number.to_bytes(19, "big"))
        for number in range(300):
            w.add(announcer, [URLS[1]], info_hash=bytes([2]) + number.to_bytes(19, "big"))
        peak = 0
        for _ in range(100):
            await trio.sleep(0.3)
            peak = max(peak, trio.lowlevel.current_statistics().tasks_living - before)
        assert len({announced.info_hash for announced in tracker.announces}) == 300
        assert peak <= 2 * 2 * MAX_ANNOUNCES_PER_HOST  # a task for the announce and one for its family; two hosts
        await trio.sleep(30)
        assert trio.lowlevel.current_statistics().tasks_living - before <= 2 * MAX_ANNOUNCES_PER_HOST


class Stuck:
    """A tracker client that never comes to an end."""

    running = peak = begun = 0

    async def routes(self, url: str) -> list[Route]:
        self.begun += 1
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await trio.sleep_forever()
        finally:
            self.running -= 1
        raise AssertionError


async def test_an_announce_that_waited_for_its_turn_is_dropped_when_its_torrent_is_stopped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world() as w:
        stuck = Stuck()
        announcer = Announcer(stuck, port=lambda family: 1, rng=random.Random(1), emit=w.events.append)  # type: ignore[arg-type]
        w.nursery.start_soon(announcer.run)
        sources = [
            w.add(announcer, ["http://one.example/"], info_hash=number.to_bytes(20, "big"))
            for number in range(3 * MAX_ANNOUNCES_PER_HOST)
        ]
        await trio.sleep(1)
        assert stuck.begun == MAX_BEFORE_ANSWER
        for source in reversed(sources):
            await source.stop()
        await trio.sleep(100)
        assert (stuck.begun, stuck.running) == (MAX_BEFORE_ANSWER, 0)


async def test_announces_under_way_are_bounded(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as w:
        stuck = Stuck()
        announcer = Announcer(stuck, port=lambda family: 1, rng=random.Random(1), emit=w.events.append)  # type: ignore[arg-type]
        w.nursery.start_soon(announcer.run)
        sources = [
            w.add(announcer, [f"http://{number}.example/"], info_hash=number.to_bytes(20, "big"))
            for number in range(2 * MAX_ANNOUNCES)
        ]
        await trio.sleep(1)
        most = MAX_ANNOUNCES - MAX_ANNOUNCES // KEPT_FREE
        assert (stuck.running, stuck.peak) == (most, most)
        await trio.sleep(40)
        assert stuck.running == most
        assert len(w.failures()) == most
        for source in sources:
            await source.stop()
        await trio.testing.wait_all_tasks_blocked()
        assert stuck.running == 0
