"""Local discovery: on simulated LANs under virtual time, and with the kernel's multicast between namespaces."""

from __future__ import annotations

import errno
import json
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from subprocess import Popen
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from swarm.discover.lsd import REOPEN_AFTER, SENDER_BURST, LocalDiscovery, LocalSource
from swarm.discover.lsd_schedule import (
    ANNOUNCE_INTERVAL,
    ANSWER_INTERVAL,
    ANSWER_WITHIN,
    BURST,
    FIRST_WITHIN,
    MIN_INTERVAL,
    PACKED_BEYOND,
    RETRY_AFTER,
    SECONDS_PER_DATAGRAM,
    Schedule,
)
from swarm.endpoint import Endpoint
from swarm.events import Event, SourceName, Warned
from swarm.net.network import Interface, InterfaceAddress, Network, Outgoing, Path
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.wire.lsd import (
    GROUP,
    GROUP6,
    MAX_ANNOUNCEMENT,
    MAX_INFO_HASHES,
    Announcement,
    decode_announcement_untrusted,
    encode_announcement,
)
from tests.netlab.lab import Lab, Machine

HASH = b"h" * 20
OTHER_HASH = b"o" * 20
PORT = 6881


def hashes(count: int) -> list[bytes]:
    return [number.to_bytes(20, "big") for number in range(count)]


# ---- on a simulated LAN


@dataclass
class Node:
    """One `LocalDiscovery`, and what it found and said."""

    network: Network
    seed: int
    port: int = PORT
    events: list[Event] = field(default_factory=list)
    found: list[Endpoint] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.discovery = LocalDiscovery(
            self.network, port=lambda: self.port, rng=random.Random(self.seed), emit=self.events.append
        )

    def add(self, info_hash: bytes = HASH) -> LocalSource:
        def found(peers: Sequence[Endpoint], source: SourceName) -> None:
            assert source == "lsd"
            self.found.extend(peers)

        return self.discovery.add(info_hash, found)


@dataclass
class Neighbour:
    """A client that announces when it is told to, and notes what others announce and when."""

    host: Host
    group: Endpoint = GROUP
    heard: list[tuple[float, Announcement, int]] = field(default_factory=list)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        address = self.host.ipv6 if self.group.is_ipv6 else self.host.ipv4
        self.socket = await self.host.bind_udp(
            Endpoint(address, self.group.port), shared=True, multicast_group=self.group.host, interface="eth0"
        )
        task_status.started()
        while True:
            await self.socket.wait_readable()
            for data, size, path in self.socket.receive_nowait():
                if path.remote.host != address:
                    decoded = decode_announcement_untrusted(data)
                    self.heard.append((trio.current_time(), decoded, size))

    def announce(self, *info_hashes: bytes, port: int = 7000, cookie: bytes = b"neighbour") -> None:
        self.send(encode_announcement(self.group, port, info_hashes or [HASH], cookie))

    def send(self, datagram: bytes) -> None:
        self.socket.send_nowait(Outgoing((datagram,), len(datagram), Path(None, self.group)))

    def times(self, info_hash: bytes = HASH) -> list[float]:
        return [when for when, announcement, _ in self.heard if info_hash in announcement.info_hashes]


@dataclass
class Lan:
    internet: Internet
    nursery: trio.Nursery

    def __post_init__(self) -> None:
        self.router = self.internet.router("home")
        self.router.add_lan_ipv6("2a0e:77::1")
        self._count = 10

    def host(self, name: str) -> Host:
        self._count += 1
        network = self.router.inside.ipv4.rpartition(".")[0]
        return self.internet.host(name, f"{network}.{self._count}", f"2a0e:77::{self._count}", router=self.router)

    def node(self, name: str, port: int = PORT) -> Node:
        node = Node(self.host(name), seed=self._count, port=port)
        self.nursery.start_soon(node.discovery.run)
        return node

    async def neighbour(self, name: str = "neighbour", group: Endpoint = GROUP) -> Neighbour:
        neighbour = Neighbour(self.host(name), group)
        await self.nursery.start(neighbour.run)
        return neighbour


@asynccontextmanager
async def lan() -> AsyncIterator[Lan]:
    async with open_internet(seed=1) as internet, trio.open_nursery() as nursery:
        yield Lan(internet, nursery)
        nursery.cancel_scope.cancel()


async def test_two_nodes_find_each_other_over_both_families(autojump_clock: trio.testing.MockClock) -> None:
    async with lan() as home:
        one, other = home.node("one", 1111), home.node("other", 2222)
        one.add()
        other.add()
        await trio.sleep(1)
        assert set(one.found) == {Endpoint(other.network.ipv4, 2222), Endpoint(other.network.ipv6, 2222)}  # type: ignore[attr-defined]
        assert set(other.found) == {Endpoint(one.network.ipv4, 1111), Endpoint(one.network.ipv6, 1111)}  # type: ignore[attr-defined]
        assert len(one.discovery.statistics().sockets) == 2


@pytest.mark.parametrize("group", [GROUP, GROUP6], ids=["ipv4", "ipv6"])
async def test_a_torrent_is_announced_at_once_after_a_minute_and_then_every_five(
    autojump_clock: trio.testing.MockClock, group: Endpoint
) -> None:
    async with lan() as home:
        neighbour = await home.neighbour(group=group)
        start = trio.current_time()
        home.node("us").add()
        await trio.sleep(2000)
        times = neighbour.times()
        assert times[0] - start < FIRST_WITHIN + 0.1
        assert times[1] - times[0] == pytest.approx(MIN_INTERVAL, abs=0.01)
        gaps = [later - earlier for earlier, later in pairwise(times[1:])]
        assert len(gaps) >= 6
        assert all(ANNOUNCE_INTERVAL[0] - 0.01 <= gap <= ANNOUNCE_INTERVAL[1] + 0.01 for gap in gaps)
        assert all(announcement.port == PORT for _, announcement, _ in neighbour.heard)


async def test_a_newcomer_is_answered_within_seconds_and_only_once(autojump_clock: trio.testing.MockClock) -> None:
    async with lan() as home:
        us, neighbour = home.node("us"), await home.neighbour()
        us.add()
        await trio.sleep(150)
        before = len(neighbour.times())
        neighbour.announce()
        await trio.sleep(ANSWER_WITHIN + 0.1)
        assert len(neighbour.times()) == before + 1
        assert us.found == [Endpoint(neighbour.host.ipv4, 7000)]
        await trio.sleep(MIN_INTERVAL)
        neighbour.announce()  # its periodic announcement: it knows us by now
        await trio.sleep(ANSWER_WITHIN + 0.1)
        assert len(neighbour.times()) == before + 1
        assert len(us.found) == 2
        neighbour.announce(cookie=b"restarted")
        await trio.sleep(ANSWER_WITHIN + 0.1)
        assert len(neighbour.times()) == before + 2


async def test_a_neighbour_that_came_just_after_our_announcement_need_not_wait_for_the_next(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with lan() as home:
        us = home.node("us")
        us.add()
        await trio.sleep(1)
        neighbour = await home.neighbour()
        neighbour.announce()
        await trio.sleep(ANSWER_INTERVAL + 0.1)
        assert len(neighbour.times()) == 1


async def test_a_stream_of_newcomers_makes_us_announce_every_ten_seconds_and_no_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with lan() as home:
        us, neighbour = home.node("us"), await home.neighbour()
        us.add()
        for number in range(600):
            await trio.sleep(1)
            neighbour.announce(port=1 + number)
        times = neighbour.times()
        assert len(times) > 50
        assert all(later - earlier > ANSWER_INTERVAL - 0.1 for earlier, later in pairwise(times))


async def test_a_few_torrents_leave_alone_as_old_clients_need_it(autojump_clock: trio.testing.MockClock) -> None:
    async with lan() as home:
        us, neighbour = home.node("us"), await home.neighbour()
        for info_hash in hashes(PACKED_BEYOND):
            us.add(info_hash)
        await trio.sleep(2000)
        assert {len(announcement.info_hashes) for _, announcement, _ in neighbour.heard} == {1}
        assert max(size for _, _, size in neighbour.heard) < 200


async def test_thousands_of_torrents_are_packed_and_spread(autojump_clock: trio.testing.MockClock) -> None:
    async with lan() as home:
        us, neighbour = home.node("us"), await home.neighbour()
        for info_hash in hashes(3000):
            us.add(info_hash)
        await trio.sleep(3000 / MAX_INFO_HASHES * SECONDS_PER_DATAGRAM + 1)
        assert {each for _, announcement, _ in neighbour.heard for each in announcement.info_hashes} == {*hashes(3000)}
        await trio.sleep(900)
        assert max(size for _, _, size in neighbour.heard) <= MAX_ANNOUNCEMENT
        times = [when for when, _, _ in neighbour.heard]
        busiest = max(sum(when <= other < when + 60 for other in times) for when in times)
        assert busiest <= 60 / SECONDS_PER_DATAGRAM + BURST
        for info_hash in hashes(3000)[::500]:
            told = neighbour.times(info_hash)
            assert max(b - a for a, b in pairwise(told)) < ANNOUNCE_INTERVAL[1] + 130


async def test_our_own_announcements_are_told_by_the_cookie(autojump_clock: trio.testing.MockClock) -> None:
    async with lan() as home:
        host = home.host("us")
        host.attach(home.router.lan, "10.0.1.200", interface="wlan0")  # the same LAN by cable and by Wi-Fi
        us = Node(host, seed=5)
        home.nursery.start_soon(us.discovery.run)
        us.add()
        await trio.sleep(1)
        statistics = us.discovery.statistics()
        assert not us.found
        assert statistics.own > statistics.announcements_out > 1
        assert statistics.announcements_in == statistics.malformed == 0


async def test_what_is_foreign_or_malformed_is_counted_and_dropped(autojump_clock: trio.testing.MockClock) -> None:
    async with lan() as home:
        us, neighbour = home.node("us"), await home.neighbour()
        us.add()
        await trio.sleep(1)
        neighbour.announce(OTHER_HASH)
        neighbour.send(b"M-SEARCH * HTTP/1.1\r\n\r\n")
        neighbour.announce(OTHER_HASH, HASH, b"x" * 20)
        await trio.sleep(1)
        statistics = us.discovery.statistics()
        assert (statistics.announcements_in, statistics.foreign, statistics.malformed) == (2, 1, 1)
        assert us.found == [Endpoint(neighbour.host.ipv4, 7000)]


async def test_a_sender_that_floods_is_limited_and_others_are_heard(autojump_clock: trio.testing.MockClock) -> None:
    async with lan() as home:
        us, flooder, other = home.node("us"), await home.neighbour("flooder"), await home.neighbour("other")
        us.add()
        await trio.sleep(1)
        for _ in range(1000):
            flooder.announce(OTHER_HASH)
        await trio.sleep(0.1)
        other.announce()
        await trio.sleep(1)
        statistics = us.discovery.statistics()
        assert SENDER_BURST <= statistics.foreign <= SENDER_BURST + 10
        assert statistics.limited == 1000 - statistics.foreign
        assert us.found == [Endpoint(other.host.ipv4, 7000)]


async def test_a_stopped_source_neither_announces_nor_hears(autojump_clock: trio.testing.MockClock) -> None:
    async with lan() as home:
        us, neighbour = home.node("us"), await home.neighbour()
        source = us.add()
        us.add(OTHER_HASH)
        await trio.sleep(1)
        source.stop()
        source.stop()
        neighbour.announce()
        await trio.sleep(1000)
        assert len(neighbour.times()) == 1
        assert len(neighbour.times(OTHER_HASH)) > 3
        assert not us.found
        us.add().stop()
        us.add()
        await trio.sleep(1)
        assert len(neighbour.times()) == 2


async def test_a_torrent_is_added_once(autojump_clock: trio.testing.MockClock) -> None:
    async with lan() as home:
        us = home.node("us")
        us.add()
        with pytest.raises(ValueError, match="announced already"):
            us.add()
        with pytest.raises(ValueError, match="20 bytes"):
            us.add(b"short")


async def test_nothing_is_announced_before_there_is_a_port(autojump_clock: trio.testing.MockClock) -> None:
    async with lan() as home:
        us, neighbour = home.node("us", port=0), await home.neighbour()
        us.add()
        await trio.sleep(30)
        assert not neighbour.heard
        us.port = PORT
        await trio.sleep(RETRY_AFTER)
        assert [announcement.port for _, announcement, _ in neighbour.heard] == [PORT]


async def test_a_new_address_is_announced_from_at_once_and_an_old_one_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with lan() as home:
        us, neighbour = home.node("us"), home.node("neighbour", 7000)
        us.add()
        neighbour.add()
        await trio.sleep(100)
        host = us.network
        assert isinstance(host, Host)
        old, old6 = host.ipv4, host.ipv6
        neighbour.found.clear()
        network = old.rpartition(".")[0]
        host.add_address(f"{network}.99")
        host.remove_address(old)
        await trio.sleep(1)
        assert neighbour.found == [Endpoint(f"{network}.99", PORT)]
        assert us.discovery.statistics().sockets == (f"eth0 {old6}", f"eth0 {network}.99")


async def test_a_port_that_another_program_keeps_to_itself_is_told_once_and_tried_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with lan() as home:
        host = home.host("us")
        hogs = [await host.bind_udp(Endpoint(any_address, GROUP.port)) for any_address in ("0.0.0.0", "::")]
        us = Node(host, seed=5)
        neighbour = await home.neighbour()
        home.nursery.start_soon(us.discovery.run)
        us.add()
        await trio.sleep(REOPEN_AFTER + 1)
        assert us.events == [Warned("no peers are looked for on the local network: eth0: Address already in use")]
        assert us.discovery.statistics().failures == {("eth0", "EADDRINUSE"): 4}
        assert us.discovery.statistics().sockets == ()
        for hog in hogs:
            hog.close()
        await trio.sleep(REOPEN_AFTER)
        assert neighbour.times()
        assert len(us.events) == 1


class FailsToSend:
    """A network whose datagrams are refused for a while, as while the address is tentative."""

    def __init__(self, host: Host, failures: int) -> None:
        self.host, self.failures = host, failures

    def __getattr__(self, name: str) -> Any:
        return getattr(self.host, name)

    async def bind_udp(self, *arguments: Any, **options: Any) -> Any:
        socket = await self.host.bind_udp(*arguments, **options)
        send = socket.send_nowait

        def send_nowait(outgoing: Outgoing) -> None:
            if self.failures:
                self.failures -= 1
                raise OSError(errno.EADDRNOTAVAIL, "tentative")
            assert outgoing.ttl == 32
            send(outgoing)

        socket.send_nowait = send_nowait  # type: ignore[method-assign]
        return socket


async def test_a_send_that_failed_is_counted_and_repeated(autojump_clock: trio.testing.MockClock) -> None:
    async with lan() as home:
        neighbour = await home.neighbour()
        us = Node(FailsToSend(home.host("us"), 4), seed=5)
        home.nursery.start_soon(us.discovery.run)
        us.add()
        await trio.sleep(RETRY_AFTER * 2 + 1)
        assert us.discovery.statistics().failures == {("eth0", "EADDRNOTAVAIL"): 4}
        assert len(neighbour.times()) == 1


class WithInterfaces:
    """A network with these interfaces, where nothing is sent."""

    def __init__(self, *interfaces: Interface) -> None:
        self.listed = list(interfaces)
        self.bound: list[tuple[str, str, str]] = []

    def interfaces(self) -> list[Interface]:
        return self.listed

    async def wait_address_change(self) -> None:
        await trio.sleep_forever()

    async def bind_udp(self, local: Endpoint, *, shared: bool, multicast_group: str, interface: str) -> Any:
        assert shared
        assert local.port == 6771
        self.bound.append((interface, local.host, multicast_group))
        raise OSError(errno.ENODEV, "not here")


def interface(name: str, *addresses: InterfaceAddress, up: bool = True, multicast: bool = True) -> Interface:
    return Interface(name, 7, up, name == "lo", multicast, addresses)


async def test_of_each_interface_that_speaks_to_a_network_the_best_address_is_used(
    autojump_clock: trio.testing.MockClock,
) -> None:
    network = WithInterfaces(
        interface("lo", InterfaceAddress("127.0.0.1", 8)),
        interface("down", InterfaceAddress("10.1.0.1", 24), up=False),
        interface("tun", InterfaceAddress("10.2.0.1", 24), multicast=False),
        interface("veth", InterfaceAddress("fe80::1%veth", 64)),
        interface(
            "eth0",
            InterfaceAddress("169.254.3.3", 16),
            InterfaceAddress("192.168.1.2", 24),
            InterfaceAddress("fe80::2%eth0", 64),
            InterfaceAddress("2001:db8::3", 64, temporary=True),
            InterfaceAddress("2001:db8::4", 64, deprecated=True),
            InterfaceAddress("2001:db8::5", 64),
        ),
        interface("nothing"),
    )
    us = Node(network, seed=5)  # type: ignore[arg-type]
    with trio.move_on_after(1):
        await us.discovery.run()
    assert network.bound == [
        ("eth0", "192.168.1.2", GROUP.host),
        ("eth0", "2001:db8::5", GROUP6.host),
        ("veth", "fe80::1%veth", GROUP6.host),
    ]
    assert us.discovery.statistics().failures == {("eth0", "ENODEV"): 2, ("veth", "ENODEV"): 1}


# ---- the schedule alone


@given(
    st.integers(0, 2**32),
    st.lists(st.tuples(st.floats(0, 90), st.sampled_from(["add", "remove", "answer", "fail"])), max_size=60),
)
def test_no_torrent_is_announced_twice_in_a_minute_unless_it_answers_and_none_is_forgotten(
    seed: int, script: list[tuple[float, str]]
) -> None:
    rng = random.Random(seed)
    schedule, now, known = Schedule(rng), 0.0, set[bytes]()
    last: dict[bytes, float] = {}
    answered: set[bytes] = set()
    datagrams: list[float] = []

    def run_until(end: float) -> None:
        nonlocal now
        while (ready := schedule.ready_at()) <= end:
            now = max(now, ready)
            if taken := schedule.take(now):
                assert len(taken) <= MAX_INFO_HASHES
                assert known.issuperset(taken)
                for each in taken:
                    soonest = ANSWER_INTERVAL if each in answered else MIN_INTERVAL
                    assert now - last.get(each, -math.inf) >= soonest - 1e-6
                answered.difference_update(taken)
                last.update(dict.fromkeys(taken, now))
                datagrams.append(now)
                schedule.announced(taken, now)
        now = end

    for pause, action in script:
        run_until(now + pause)
        if action == "add":
            for each in {rng.randbytes(20) for _ in range(rng.randrange(1, 60))}:
                known.add(each)
                schedule.add(each, now)
        elif known:
            each = rng.choice(sorted(known))
            if action == "remove":
                known.remove(each)
                last.pop(each, None)
                schedule.remove(each)
            elif action == "answer":
                answered.add(each)
                schedule.answer(each, now)
            else:
                schedule.put_off(schedule.take(now), now)
    run_until(now + 700)
    assert all(now - last[each] <= ANNOUNCE_INTERVAL[1] + 100 for each in known)
    for index, when in enumerate(datagrams[BURST:]):
        assert when - datagrams[index] >= SECONDS_PER_DATAGRAM - 1e-6


# ---- the kernel's multicast

NODE = """
import json, random, sys, trio
from swarm.discover.lsd import LocalDiscovery
from swarm.net.bound import bound
from swarm.net.real import RealNetwork

port, bind, *info_hashes = sys.argv[1:]
found = []

async def main():
    network = bound(RealNetwork(), bind or None)
    discovery = LocalDiscovery(network, port=lambda: int(port), rng=random.SystemRandom(), emit=print)

    async def add_when_told():
        await trio.to_thread.run_sync(sys.stdin.readline)
        for info_hash in info_hashes:
            discovery.add(bytes.fromhex(info_hash), lambda peers, source: found.extend(map(str, peers)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(discovery.run)
        nursery.start_soon(add_when_told)
        while True:
            now = discovery.statistics()
            told = [found, now.sockets, now.own, now.announcements_out, now.announcements_in]
            print(json.dumps(told), flush=True)
            await trio.sleep(0.1)

trio.run(main)
"""
LIMIT = 20.0  # seconds


@dataclass
class KernelNode:
    """`LocalDiscovery` in a machine of the laboratory, which tells ten times a second how it stands."""

    process: Popen[str]
    found: set[str] = field(default_factory=set)
    sockets: set[str] = field(default_factory=set)
    own: int = 0
    announcements_out: int = 0
    announcements_in: int = 0

    def announce(self) -> None:
        """And listen to what others announce."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def wait_until(self, condition: Callable[[KernelNode], bool]) -> None:
        deadline = time.monotonic() + LIMIT
        while not condition(self):
            assert time.monotonic() < deadline, self
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            found, sockets, self.own, self.announcements_out, self.announcements_in = json.loads(line)
            self.found, self.sockets = set(found), set(sockets)


def start(machine: Machine, port: int = PORT, *info_hashes: bytes, bind: str = "", sockets: int = 2) -> KernelNode:
    """It listens on ``sockets`` when this returns, and announces nothing before `KernelNode.announce`."""
    process = machine.python("-c", NODE, str(port), bind, *(each.hex() for each in info_hashes or (HASH,)))
    node = KernelNode(process)
    node.wait_until(lambda node: len(node.sockets) == sockets)
    return node


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.mark.netlab
def test_two_machines_find_each_other_by_the_kernels_multicast(lab: Lab) -> None:
    one, other = lab.public("one"), lab.public("other")
    ours, theirs = start(one, 1111), start(other, 2222)
    assert ours.sockets == {f"eth0 {one.address}", f"eth0 {one.address6}"}
    ours.announce()
    theirs.announce()
    ours.wait_until(lambda node: node.own == node.announcements_out == 2)
    ours.wait_until(lambda node: node.found == {f"{other.address}:2222", f"[{other.address6}]:2222"})
    theirs.wait_until(lambda node: node.found == {f"{one.address}:1111", f"[{one.address6}]:1111"})


@pytest.mark.netlab
def test_a_neighbour_with_a_link_local_address_only_is_found_with_its_scope(lab: Lab) -> None:
    one, other = lab.public("one"), lab.public("other")
    for machine in (one, other):
        machine.run("ip", "addr", "flush", "dev", "eth0", "scope", "global")
    ours, theirs = start(one, 1111, sockets=1), start(other, 2222, sockets=1)
    ours.announce()
    theirs.announce()
    ours.wait_until(lambda node: len(node.found) == 1)
    (peer,) = ours.found
    assert peer.startswith("[fe80::")
    assert peer.endswith("%eth0]:2222")


@pytest.mark.netlab
def test_an_interface_that_comes_up_later_is_announced_through(lab: Lab) -> None:
    one, other = lab.public("one"), lab.public("other")
    one.run("ip", "link", "set", "eth0", "down")
    ours, theirs = start(one, 1111, sockets=0), start(other, 2222)
    ours.announce()
    theirs.announce()
    theirs.wait_until(lambda node: node.announcements_out == 2)
    one.run("ip", "link", "set", "eth0", "up")
    theirs.wait_until(lambda node: f"{one.address}:1111" in node.found)


@pytest.mark.netlab
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_bound_to_an_address_it_announces_from_that_address_only(lab: Lab, family: str) -> None:
    one, other = lab.public("one"), lab.public("other")
    one.run("ip", "addr", "add", "11.11.11.77/24", "dev", "eth0")
    one.run("ip", "addr", "add", "2a0e:11::77/64", "dev", "eth0", "nodad")
    theirs = start(other, 2222)
    theirs.announce()
    added, first = {"ipv4": ("11.11.11.77", one.address), "ipv6": ("2a0e:11::77", one.address6)}[family]
    for port, address in ((1111, added), (3333, first)):  # the kernel by itself takes the first for IPv4, else the last
        ours = start(one, port, bind=address, sockets=1)
        assert ours.sockets == {f"eth0 {address}"}
        ours.announce()
        theirs.wait_until(lambda node, port=port: any(peer.endswith(f":{port}") for peer in node.found))
    assert theirs.found == {str(Endpoint(added, 1111)), str(Endpoint(first, 3333))}
