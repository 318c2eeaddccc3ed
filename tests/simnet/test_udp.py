"""UDP of the simulated internet: delays, loss, queues, TTL, MTU, ports, buffers, multicast, determinism."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.net.network import DatagramSocket, Outgoing, Path, Received
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.link import Link

ANY = Endpoint("0.0.0.0", 0)
ANY6 = Endpoint("::", 0)


def outgoing(data: bytes, remote: Endpoint, *, size: int = 1400, ttl: int | None = None) -> Outgoing:
    return Outgoing([data], size, Path(None, remote), ttl)


def at(host: Host, bound: DatagramSocket) -> Endpoint:
    return Endpoint(host.ipv4, bound.local.port)


async def receive(bound: DatagramSocket) -> list[Received]:
    while not (batch := bound.receive_nowait()):
        await bound.wait_readable()
    return batch


def payloads(batch: Sequence[Received]) -> list[bytes]:
    return [bytes(received.data) for received in batch]


async def pair(
    internet: Internet, link: Link | None = None, down: Link | None = None
) -> tuple[Host, DatagramSocket, Host, DatagramSocket]:
    a = internet.host("a", link=link)
    b = internet.host("b", link=Link(delay=0.0), down=down)
    return a, await a.bind_udp(ANY), b, await b.bind_udp(ANY)


async def test_a_datagram_arrives_after_exactly_the_delays_of_both_links(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        _, sender, b, receiver = await pair(internet, Link(delay=0.25), Link(delay=0.5))
        start = trio.current_time()
        sender.send_nowait(outgoing(b"hello", at(b, receiver)))
        (received,) = await receive(receiver)
        assert trio.current_time() - start == pytest.approx(0.75, abs=1e-9)
        assert bytes(received.data) == b"hello"


async def test_the_path_names_both_addresses_of_a_wildcard_socket(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        a, sender, b, receiver = await pair(internet)
        b.add_address("20.9.9.9")
        sender.send_nowait(outgoing(b"x", Endpoint("20.9.9.9", receiver.local.port)))
        (received,) = await receive(receiver)
        assert received.path == Path(Endpoint("20.9.9.9", receiver.local.port), at(a, sender))
        receiver.send_nowait(Outgoing([b"y"], 1, received.path))
        (answer,) = await receive(sender)
        assert answer.path.remote.host == "20.9.9.9"


async def test_links_that_do_not_say_their_delay_get_distinct_ones(autojump_clock: MockClock) -> None:
    async with open_internet(seed=3) as internet:
        delays = {internet.host(f"h{n}").port().up.delay for n in range(100)}
        assert len(delays) == 100
        assert all(0.005 <= delay <= 0.025 for delay in delays)


async def test_loss_is_counted_and_close_to_its_probability(autojump_clock: MockClock) -> None:
    async with open_internet(seed=1) as internet:
        _, sender, b, receiver = await pair(internet, Link(delay=0.001, loss=0.1))
        for n in range(2000):
            sender.send_nowait(outgoing(n.to_bytes(2, "big"), at(b, receiver)))
        await trio.sleep(1)
        arrived = 0
        while batch := receiver.receive_nowait():
            arrived += len(batch)
        assert arrived + internet.dropped["lost"] == 2000
        assert 150 <= internet.dropped["lost"] <= 250


async def test_bandwidth_spaces_packets_and_its_queue_drops_what_does_not_fit(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        link = Link(delay=0.0, bandwidth=10_280, queue=3 * 1028)
        _, sender, b, receiver = await pair(internet, link, Link(delay=0.0))
        start = trio.current_time()
        for _ in range(5):
            sender.send_nowait(outgoing(bytes(1000), at(b, receiver)))
        times = []
        for _ in range(3):
            await receive(receiver)
            times.append(trio.current_time() - start)
        assert times == pytest.approx([0.1, 0.2, 0.3])
        await trio.sleep(10)
        assert receiver.receive_nowait() == []
        assert internet.dropped["queue-full"] == 2


async def test_sending_into_a_full_line_raises_and_waits_until_it_drains(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        link = Link(delay=0.0, bandwidth=1_000_000, queue=1 << 30)
        _, sender, b, receiver = await pair(internet, link)
        start = trio.current_time()
        with pytest.raises(BlockingIOError):
            while True:
                sender.send_nowait(outgoing(bytes(1400), at(b, receiver)))
        await sender.wait_writable()
        assert 0.1 < trio.current_time() - start < 0.12
        sender.send_nowait(outgoing(bytes(1400), at(b, receiver)))


async def test_jitter_reorders_and_duplication_doubles(autojump_clock: MockClock) -> None:
    async with open_internet(seed=2) as internet:
        _, sender, b, receiver = await pair(internet, Link(delay=0.0, jitter=0.1, duplicate=0.2))
        for n in range(100):
            sender.send_nowait(outgoing(bytes([n]), at(b, receiver)))
        await trio.sleep(1)
        arrived = [data[0] for data in payloads(receiver.receive_nowait())]
        assert set(arrived) == set(range(100))
        assert arrived != sorted(arrived)
        assert 105 <= len(arrived) <= 140


async def test_a_run_arrives_as_a_run_where_no_link_cuts_it(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        _, sender, b, receiver = await pair(internet)
        sender.send_nowait(outgoing(b"a" * 1000 + b"b" * 1000 + b"c" * 7, at(b, receiver), size=1000))
        (received,) = await receive(receiver)
        assert (len(received.data), received.segment_size) == (2007, 1000)


async def test_a_run_is_lost_packet_by_packet(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        a, sender, b, receiver = await pair(internet)
        a.port().up.drop_if = lambda packet: bytes(packet.payload[:1]) == b"b"
        sender.send_nowait(outgoing(b"a" * 1000 + b"b" * 1000 + b"c" * 7, at(b, receiver), size=1000))
        await trio.sleep(1)
        assert payloads(receiver.receive_nowait()) == [b"a" * 1000, b"c" * 7]
        assert internet.dropped == {"dropped": 1}


async def test_an_empty_datagram_arrives(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        _, sender, b, receiver = await pair(internet)
        sender.send_nowait(outgoing(b"", at(b, receiver), size=0))
        assert payloads(await receive(receiver)) == [b""]


async def test_the_first_link_reports_its_mtu_and_later_ones_drop_silently(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        _, sender, b, receiver = await pair(internet, Link(mtu=1500), Link(mtu=1280))
        with pytest.raises(OSError) as caught:
            sender.send_nowait(outgoing(bytes(1473), at(b, receiver), size=1473))
        assert caught.value.errno == errno.EMSGSIZE
        sender.send_nowait(outgoing(bytes(1472), at(b, receiver), size=1472))
        sender.send_nowait(outgoing(bytes(1252), at(b, receiver), size=1252))
        await trio.sleep(1)
        assert [len(received.data) for received in receiver.receive_nowait()] == [1252]
        assert internet.dropped == {"too-big": 1}


async def test_a_datagram_without_df_passes_links_that_are_too_narrow_for_it(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        _, sender, b, receiver = await pair(internet, Link(mtu=1400), Link(mtu=1280))
        sender.send_nowait(outgoing(bytes(2944), at(b, receiver), size=1472)._replace(fragment=True))
        await trio.sleep(1)
        assert [(len(received.data), received.segment_size) for received in receiver.receive_nowait()] == [(2944, 1472)]


@pytest.mark.parametrize(("ttl", "arrives"), [(8, False), (9, True), (None, True)])
async def test_the_core_costs_eight_hops(autojump_clock: MockClock, ttl: int | None, arrives: bool) -> None:
    async with open_internet() as internet:
        _, sender, b, receiver = await pair(internet)
        sender.send_nowait(outgoing(b"x", at(b, receiver), ttl=ttl))
        await trio.sleep(1)
        assert bool(receiver.receive_nowait()) == arrives
        assert internet.dropped["ttl-expired"] == (not arrives)


async def test_a_full_receive_buffer_drops_and_counts(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        _, sender, b, receiver = await pair(internet)
        for _ in range(1100):
            sender.send_nowait(outgoing(bytes(1024), at(b, receiver)))
        await trio.sleep(1)
        assert internet.dropped == {"receive-buffer-full": 76}
        assert len(receiver.receive_nowait()) == 256
        assert len(receiver.receive_nowait()) == 256


async def test_datagrams_to_a_closed_port_are_counted_and_raise_nothing(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        _, sender, b, receiver = await pair(internet)
        receiver.close()
        receiver.close()
        sender.send_nowait(outgoing(b"x", at(b, receiver)))
        sender.send_nowait(outgoing(b"x", Endpoint("20.77.1.2", 1)))
        await trio.sleep(1)
        assert internet.dropped == {"no-socket": 1, "no-route": 1}
        assert sender.receive_nowait() == []


async def test_port_conflicts(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        host = internet.host("h", "20.0.0.9", "2a0e:9::9")

        async def fails(local: Endpoint, number: int, *, shared: bool = False) -> None:
            with pytest.raises(OSError) as caught:
                await host.bind_udp(local, shared=shared)
            assert caught.value.errno == number

        first = await host.bind_udp(Endpoint("0.0.0.0", 6881))
        await fails(Endpoint("0.0.0.0", 6881), errno.EADDRINUSE)
        await fails(Endpoint("20.0.0.9", 6881), errno.EADDRINUSE)
        await fails(Endpoint("20.0.0.9", 6881), errno.EADDRINUSE, shared=True)
        await fails(Endpoint("20.0.0.8", 6882), errno.EADDRNOTAVAIL)
        await host.bind_udp(Endpoint("::", 6881))
        first.close()
        await host.bind_udp(Endpoint("20.0.0.9", 6881))
        await host.bind_udp(Endpoint("127.0.0.1", 6881))
        await host.bind_udp(Endpoint("0.0.0.0", 1900), shared=True)
        await host.bind_udp(Endpoint("0.0.0.0", 1900), shared=True)
        free = await host.bind_udp(ANY)
        assert 32768 <= free.local.port <= 60999


async def test_misuse_raises_what_the_kernel_raises(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        host = internet.host("h")
        bound = await host.bind_udp(ANY)
        bound6 = await host.bind_udp(ANY6)

        def fails(using: DatagramSocket, remote: Endpoint, number: int) -> None:
            with pytest.raises(OSError) as caught:
                using.send_nowait(outgoing(b"x", remote))
            assert caught.value.errno == number

        fails(bound, Endpoint("2a0e:1::1", 1), errno.EAFNOSUPPORT)
        fails(bound6, Endpoint("2a0e:1::1", 1), errno.ENETUNREACH)
        fails(bound, Endpoint("20.1.1.1", 0), errno.EINVAL)
        pinned = await host.bind_udp(Endpoint(host.ipv4, 0))
        host.remove_address(host.ipv4)
        fails(pinned, Endpoint("20.1.1.1", 1), errno.ENETUNREACH)
        bound.close()
        fails(bound, Endpoint("20.1.1.1", 1), errno.EBADF)


async def test_closing_wakes_a_waiting_reader(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        _, sender, _, _ = await pair(internet)
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await sender.wait_readable()

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            sender.close()
        with pytest.raises(trio.ClosedResourceError):
            await sender.wait_readable()


async def test_loopback_stays_on_the_host(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        a = internet.host("a")
        one = await a.bind_udp(Endpoint("127.0.0.1", 0))
        two = await a.bind_udp(Endpoint("127.0.0.5", 0))
        one.send_nowait(outgoing(b"x", two.local))
        (received,) = await receive(two)
        assert received.path.remote == one.local
        assert a.port().up.packets == 0


async def test_multicast_reaches_members_on_the_same_lan_only(autojump_clock: MockClock) -> None:
    group = Endpoint("239.192.152.143", 6771)
    async with open_internet() as internet:
        router = internet.router("r")
        sockets = {}
        for name, where in (("a", router), ("b", router), ("c", router), ("far", None)):
            host = internet.host(name, router=where)
            joined = None if name == "c" else group.host
            sockets[name] = await host.bind_udp(Endpoint("0.0.0.0", 6771), shared=True, multicast_group=joined)
        sockets["a"].send_nowait(outgoing(b"BT-SEARCH", group))
        await trio.sleep(1)
        heard = {name: payloads(bound.receive_nowait()) for name, bound in sockets.items()}
        assert heard == {"a": [b"BT-SEARCH"], "b": [b"BT-SEARCH"], "c": [], "far": []}


def test_the_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    async def run(seed: int) -> list[object]:
        async with open_internet(seed, trace=True) as internet:
            _, sender, b, receiver = await pair(internet, Link(loss=0.2, jitter=0.05, duplicate=0.1, bandwidth=1e5))
            for n in range(200):
                sender.send_nowait(outgoing(n.to_bytes(2, "big"), at(b, receiver)))
                await trio.sleep(0.001)
            await trio.sleep(2)
            assert internet.trace is not None
            return list(internet.trace)

    first, second, other = (trio.run(run, seed, clock=MockClock(autojump_threshold=0)) for seed in (5, 5, 6))
    assert first == second
    assert first != other
    assert len(first) > 400
