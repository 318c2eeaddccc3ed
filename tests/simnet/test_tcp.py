"""TCP of the simulated internet: handshakes, simultaneous open, resets, back-pressure, loss, conformance."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.link import Link
from swarm.simnet.packet import Packet, TcpSegment
from swarm.simnet.stream import SimListener, SimStream

PORT = 6881


async def connect(a: Host, b: Host, *, local: Endpoint | None = None) -> tuple[SimStream, SimStream]:
    """A connection from ``a`` to ``b``: both ends."""
    listener = await b.listen_tcp(Endpoint("0.0.0.0", 0))
    dialled = await a.dial_tcp(Endpoint(b.ipv4, listener.local.port), local=local)
    accepted = await listener.accept()
    listener.close()
    return dialled, accepted


@asynccontextmanager
async def two_hosts(link: Link | None = None, down: Link | None = None, seed: int = 0) -> AsyncIterator[Pair]:
    async with open_internet(seed) as internet:
        a = internet.host("a", link=link, down=down)
        yield Pair(internet, a, internet.host("b", link=Link(delay=0.0)))


class Pair:
    def __init__(self, internet: Internet, a: Host, b: Host) -> None:
        self.internet, self.a, self.b = internet, a, b


async def fails(host: Host, remote: Endpoint, number: int, *, local: Endpoint | None = None) -> None:
    with pytest.raises(OSError) as caught:
        await host.dial_tcp(remote, local=local)
    assert caught.value.errno == number


async def receive_exactly(stream: SimStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = await stream.receive_some(count - len(data))
        assert part, "ended early"
        data += part
    return bytes(data)


def is_syn(packet: Packet) -> bool:
    return isinstance(packet, TcpSegment) and packet.syn


async def test_connecting_takes_one_round_trip(autojump_clock: MockClock) -> None:
    async with two_hosts(Link(delay=0.125)) as net:
        start = trio.current_time()
        dialled, accepted = await connect(net.a, net.b)
        assert trio.current_time() - start == pytest.approx(0.375)  # the accepting side sees the third packet
        assert dialled.remote == accepted.local
        assert dialled.local == accepted.remote
        await dialled.send_all(b"hello")
        assert await accepted.receive_some() == b"hello"
        assert trio.current_time() - start == pytest.approx(0.5)


async def test_streams_conform_to_trio(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        made = 0

        async def make() -> tuple[SimStream, SimStream]:
            nonlocal made
            made += 1
            return await connect(internet.host(f"a{made}"), internet.host(f"b{made}"))

        async def make_clogged() -> tuple[SimStream, SimStream]:
            left, right = await make()
            await clog(left)
            await clog(right)
            return left, right

        await trio.testing.check_half_closeable_stream(make, make_clogged)


async def clog(stream: SimStream) -> None:
    """Fill everything on the way to the other end."""
    while stream.connection.send_space:
        await stream.send_all(bytes(min(stream.connection.send_space, 64 << 10)))
        if not stream.connection.send_space:
            await trio.sleep(10)


async def test_a_port_without_listener_refuses(autojump_clock: MockClock) -> None:
    async with two_hosts(Link(delay=0.125)) as net:
        start = trio.current_time()
        await fails(net.a, Endpoint(net.b.ipv4, PORT), errno.ECONNREFUSED)
        assert trio.current_time() - start == pytest.approx(0.25)


async def test_silence_times_out_after_127_seconds(autojump_clock: MockClock) -> None:
    async with two_hosts() as net:
        syns: list[float] = []

        def drop(packet: Packet) -> bool:
            syns.append(trio.current_time())
            return is_syn(packet)

        net.a.port().up.drop_if = drop
        start = trio.current_time()
        await fails(net.a, Endpoint(net.b.ipv4, PORT), errno.ETIMEDOUT)
        assert trio.current_time() - start == pytest.approx(127)
        assert [time - start for time in syns] == pytest.approx([0, 1, 3, 7, 15, 31, 63])
        assert not net.a.tcp.connections


async def test_cancelling_a_dial_frees_the_pair_of_endpoints(autojump_clock: MockClock) -> None:
    async with two_hosts() as net:
        remote, local = Endpoint("20.99.0.1", 1), Endpoint("0.0.0.0", PORT)
        with trio.move_on_after(3):
            await net.a.dial_tcp(remote, local=local)
        assert not net.a.tcp.connections
        with trio.move_on_after(3) as scope:
            await net.a.dial_tcp(remote, local=local)
        assert scope.cancelled_caught


async def test_dialling_leaves_from_the_given_port(autojump_clock: MockClock) -> None:
    async with two_hosts() as net:
        _, accepted = await connect(net.a, net.b, local=Endpoint("0.0.0.0", PORT))
        assert accepted.remote == Endpoint(net.a.ipv4, PORT)


async def test_one_pair_of_endpoints_has_one_connection(autojump_clock: MockClock) -> None:
    async with two_hosts() as net:
        listener = await net.b.listen_tcp(Endpoint("0.0.0.0", PORT))
        remote, local = Endpoint(net.b.ipv4, PORT), Endpoint("0.0.0.0", PORT)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: net.a.dial_tcp(remote, local=local))
            await trio.testing.wait_all_tasks_blocked()
            await fails(net.a, remote, errno.EADDRNOTAVAIL, local=local)  # pending
        await fails(net.a, remote, errno.EADDRNOTAVAIL, local=local)  # established
        other = await net.a.dial_tcp(remote)
        assert other.local.port != PORT
        assert {(await listener.accept()).remote.port for _ in range(2)} == {PORT, other.local.port}


async def test_time_wait_blocks_dialling_but_not_being_dialled(autojump_clock: MockClock) -> None:
    async with two_hosts() as net:
        local = Endpoint(net.a.ipv4, PORT)
        dialled, accepted = await connect(net.a, net.b, local=local)
        await dialled.aclose()
        assert await accepted.receive_some() == b""
        await accepted.aclose()
        await trio.sleep(1)
        await fails(net.a, accepted.local, errno.EADDRNOTAVAIL, local=local)
        listener = await net.a.listen_tcp(local)
        again = await net.b.dial_tcp(local, local=accepted.local)
        assert (await listener.accept()).remote == again.local
        again.abort()
        await trio.sleep(61)
        assert not net.a.tcp.connections
        assert not net.b.tcp.connections


async def test_both_dialling_each_other_at_once_get_one_connection(autojump_clock: MockClock) -> None:
    async with two_hosts() as net:
        ends: dict[str, SimStream] = {}
        endpoints = {host.name: Endpoint(host.ipv4, PORT) for host in (net.a, net.b)}
        listeners = [await host.listen_tcp(endpoints[host.name]) for host in (net.a, net.b)]

        async def dial(host: Host, remote: Endpoint) -> None:
            ends[host.name] = await host.dial_tcp(remote, local=endpoints[host.name])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial, net.a, endpoints["b"])
            nursery.start_soon(dial, net.b, endpoints["a"])
        await ends["a"].send_all(b"from a")
        await ends["b"].send_all(b"from b")
        assert await ends["a"].receive_some() == b"from b"
        assert await ends["b"].receive_some() == b"from a"
        for listener in listeners:
            with trio.move_on_after(1) as scope:
                await listener.accept()
            assert scope.cancelled_caught


async def test_abort_resets_and_what_had_arrived_can_still_be_read(autojump_clock: MockClock) -> None:
    async with two_hosts() as net:
        dialled, accepted = await connect(net.a, net.b)
        await dialled.send_all(b"last words")
        dialled.abort()
        dialled.abort()
        await trio.sleep(1)
        assert await accepted.receive_some() == b"last words"
        with pytest.raises(trio.BrokenResourceError):
            await accepted.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await accepted.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await dialled.receive_some()


async def test_closing_with_unread_data_resets(autojump_clock: MockClock) -> None:
    async with two_hosts() as net:
        dialled, accepted = await connect(net.a, net.b)
        await dialled.send_all(b"unread")
        await trio.sleep(1)
        await accepted.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await dialled.receive_some()


async def test_closing_delivers_what_was_accepted(autojump_clock: MockClock) -> None:
    async with two_hosts(Link(delay=0.1, bandwidth=100_000)) as net:
        dialled, accepted = await connect(net.a, net.b)
        await dialled.send_all(bytes(50_000))
        await dialled.aclose()
        assert await receive_exactly(accepted, 50_000) == bytes(50_000)
        assert await accepted.receive_some() == b""


async def test_half_close_lets_the_other_direction_go_on(autojump_clock: MockClock) -> None:
    async with two_hosts() as net:
        dialled, accepted = await connect(net.a, net.b)
        await dialled.send_eof()
        assert await accepted.receive_some() == b""
        await accepted.send_all(b"still here")
        assert await dialled.receive_some() == b"still here"


async def test_a_sender_blocks_while_nobody_reads_and_goes_on_afterwards(autojump_clock: MockClock) -> None:
    async with two_hosts(Link(delay=0.01)) as net:
        dialled, accepted = await connect(net.a, net.b)
        total = 20_000_000
        data = bytes(range(256)) * (total // 256)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dialled.send_all, data)
            await trio.sleep(1000)
            assert len(nursery.child_tasks) == 1
            held = accepted.connection.unread
            assert held <= 1 << 20
            received = await receive_exactly(accepted, len(data))
        assert received == data


async def test_a_reader_that_stops_for_hours_does_not_break_the_connection(autojump_clock: MockClock) -> None:
    async with two_hosts() as net:
        dialled, accepted = await connect(net.a, net.b)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dialled.send_all, bytes(8 << 20))
            await trio.sleep(6 * 3600)
            assert await receive_exactly(accepted, 8 << 20) == bytes(8 << 20)


@pytest.mark.parametrize("seed", range(4))
async def test_loss_and_reordering_delay_data_but_never_change_it(autojump_clock: MockClock, seed: int) -> None:
    link = Link(delay=0.02, loss=0.03, jitter=0.005, duplicate=0.01, bandwidth=2e6)
    async with two_hosts(link, seed=seed) as net:
        dialled, accepted = await connect(net.a, net.b)
        data = net.internet.dice.randbytes(1_000_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dialled.send_all, data)
            nursery.start_soon(accepted.send_all, data[::-1])
            assert await receive_exactly(accepted, len(data)) == data
            assert await receive_exactly(dialled, len(data)) == data[::-1]
        assert net.internet.dropped["lost"] > 20


async def test_a_flow_uses_a_bottleneck_and_stays_within_its_bandwidth(autojump_clock: MockClock) -> None:
    async with two_hosts(Link(delay=0.02, bandwidth=1_000_000, queue=64_000)) as net:
        dialled, accepted = await connect(net.a, net.b)
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dialled.send_all, bytes(4_000_000))
            await receive_exactly(accepted, 4_000_000)
        assert 4 < trio.current_time() - start < 5


async def test_a_lost_last_segment_is_resent(autojump_clock: MockClock) -> None:
    async with two_hosts(Link(delay=0.1)) as net:
        dialled, accepted = await connect(net.a, net.b)
        start = trio.current_time()
        net.a.port().up.drop_if = lambda packet: bool(packet.payload) and trio.current_time() < start + 0.1
        await dialled.send_all(b"x")
        assert await accepted.receive_some() == b"x"
        assert 0.3 < trio.current_time() - start < 1


async def test_a_dead_path_breaks_the_connection_after_a_quarter_of_an_hour(autojump_clock: MockClock) -> None:
    async with two_hosts() as net:
        dialled, _ = await connect(net.a, net.b)
        net.b.connect(False)
        start = trio.current_time()
        await dialled.send_all(b"anyone?")
        with pytest.raises(trio.BrokenResourceError):
            await dialled.receive_some()
        assert 600 < trio.current_time() - start < 1800


@pytest.mark.parametrize("which", ["SYN", "SYN-ACK", "ACK"])
async def test_any_lost_packet_of_the_handshake_is_made_good(autojump_clock: MockClock, which: str) -> None:
    async with two_hosts() as net:
        line = net.a.port().down if which == "SYN-ACK" else net.a.port().up
        seen: list[Packet] = []

        def drop_once(packet: Packet) -> bool:
            wanted = isinstance(packet, TcpSegment) and packet.syn == (which != "ACK")
            if wanted:
                seen.append(packet)
            return wanted and len(seen) == 1

        line.drop_if = drop_once
        dialled, accepted = await connect(net.a, net.b)
        await accepted.send_all(b"hi")
        assert await dialled.receive_some() == b"hi"
        assert 1 <= trio.current_time() < 1.5


async def test_a_full_backlog_drops_syns_until_somebody_accepts(autojump_clock: MockClock) -> None:
    async with two_hosts() as net:
        listener: SimListener = await net.b.listen_tcp(Endpoint("0.0.0.0", PORT))
        listener.backlog = 2
        remote = Endpoint(net.b.ipv4, PORT)
        for _ in range(2):
            await net.a.dial_tcp(remote)
        with trio.move_on_after(0.9) as scope:
            await net.a.dial_tcp(remote)
        assert scope.cancelled_caught
        assert net.internet.dropped == {"backlog-full": 1}
        await listener.accept()
        await net.a.dial_tcp(remote)


async def test_closing_a_listener_wakes_accept_and_resets_the_unaccepted(autojump_clock: MockClock) -> None:
    async with two_hosts() as net:
        listener = await net.b.listen_tcp(Endpoint("0.0.0.0", PORT))
        dialled = await net.a.dial_tcp(Endpoint(net.b.ipv4, PORT))
        await trio.sleep(1)
        listener.close()
        listener.close()
        with pytest.raises(trio.BrokenResourceError):
            await dialled.receive_some()
        listener = await net.b.listen_tcp(Endpoint("0.0.0.0", PORT))
        async with trio.open_nursery() as nursery:

            async def accept() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await listener.accept()

            nursery.start_soon(accept)
            await trio.testing.wait_all_tasks_blocked()
            listener.close()


async def test_a_restarted_host_resets_the_old_connection(autojump_clock: MockClock) -> None:
    async with two_hosts() as net:
        dialled, _ = await connect(net.a, net.b)
        net.b.tcp.connections.clear()  # the power was cut
        await dialled.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await dialled.receive_some()


async def test_both_capabilities_carry_data(autojump_clock: MockClock) -> None:
    async with two_hosts() as net:
        dialled, accepted = await connect(net.a, net.b)
        await dialled.send_vectored([b"abc", bytearray(b"def"), memoryview(b"ghi"), b""])
        await trio.sleep(1)
        buffer = bytearray(20)
        assert await accepted.receive_into(memoryview(buffer)[2:7]) == 5
        assert await accepted.receive_into(memoryview(buffer)[7:]) == 4
        assert bytes(buffer[2:11]) == b"abcdefghi"
        await dialled.aclose()
        assert await accepted.receive_into(memoryview(buffer)) == 0


async def test_the_sender_may_reuse_its_buffer(autojump_clock: MockClock) -> None:
    async with two_hosts() as net:
        dialled, accepted = await connect(net.a, net.b)
        data = bytearray(b"first")
        await dialled.send_all(data)
        data[:] = b"other"
        assert await accepted.receive_some() == b"first"


async def test_a_narrow_link_lowers_the_segment_size_of_both_ends(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        router = internet.router("r", link=Link(mtu=1300))
        a, b = internet.host("a", router=router), internet.host("b")
        dialled, accepted = await connect(a, b)
        await dialled.send_all(bytes(100_000))
        await receive_exactly(accepted, 100_000)
        await accepted.send_all(bytes(100_000))
        await receive_exactly(dialled, 100_000)
        assert internet.dropped["too-big"] == 0


async def test_ipv6_connects_too(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        a, b = internet.host("a", internet.free_ipv6()), internet.host("b", internet.free_ipv6())
        listener = await b.listen_tcp(Endpoint("::", PORT))
        await a.dial_tcp(Endpoint(b.ipv6, PORT))
        assert (await listener.accept()).remote.host == a.ipv6
        await fails(a, Endpoint("20.1.1.1", 1), errno.ENETUNREACH)
