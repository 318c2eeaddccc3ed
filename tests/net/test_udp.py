"""UDP sockets on real loopback, with and without segmentation offload."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from swarm.endpoint import Endpoint
from swarm.net import gso, udp
from swarm.net.network import Outgoing, Path, Received
from swarm.net.real import RealNetwork
from swarm.net.udp import UdpSocket
from tests.net.namespace import run_in_namespace

ANY4 = Endpoint("0.0.0.0", 0)
ANY6 = Endpoint("::", 0)
LO4 = Endpoint("127.0.0.1", 0)
LO6 = Endpoint("::1", 0)


@pytest.fixture(params=[True, False], ids=["offload", "plain"])
def network(request: pytest.FixtureRequest) -> RealNetwork:
    return RealNetwork(offload=request.param)


def to(
    remote: Endpoint, *buffers: bytes, size: int = 1200, local: Endpoint | None = None, ttl: int | None = None
) -> Outgoing:
    return Outgoing(buffers, size, Path(local, remote), ttl)


def cut(run: Received) -> Iterator[bytes]:
    for start in range(0, len(run.data), run.segment_size):
        yield bytes(run.data[start : start + run.segment_size])


async def receive(sock: UdpSocket, count: int) -> tuple[list[bytes], list[Path]]:
    datagrams: list[bytes] = []
    paths: list[Path] = []
    with trio.fail_after(2):
        while len(datagrams) < count:
            await sock.wait_readable()
            for run in sock.receive_nowait():
                datagrams += cut(run)
                paths.append(run.path)
    return datagrams, paths


def at(sock: UdpSocket, host: str) -> Endpoint:
    return Endpoint(host, sock.local.port)


@pytest.mark.parametrize(
    "local,bind", [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("127.0.0.1", "0.0.0.0"), ("::1", "::")]
)
def test_a_run_that_may_be_fragmented_passes_an_interface_that_is_too_narrow(local: str, bind: str) -> None:
    """And the next one has DF again."""
    printed = run_in_namespace(
        ["ip link set lo mtu 1400"],
        f"""
        import errno, trio
        from swarm.endpoint import Endpoint
        from swarm.net.network import Outgoing, Path
        from swarm.net.real import RealNetwork

        async def main():
            sender = await RealNetwork().bind_udp(Endpoint("{bind}", 0))
            receiver = await RealNetwork().bind_udp(Endpoint("{local}", 0))
            for fragment in (False, True, False):
                run = Outgoing([b"x" * 2000], 1400, Path(Endpoint("{local}", sender.local.port), receiver.local))
                try:
                    sender.send_nowait(run._replace(fragment=fragment))
                    print("sent")
                except OSError as error:
                    print(errno.errorcode[error.errno])
            await receiver.wait_readable()
            print([len(received.data) for received in receiver.receive_nowait()])

        trio.run(main)
        """,
    )
    assert printed.splitlines() == ["EMSGSIZE", "sent", "EMSGSIZE", "[1400, 600]"]


@pytest.mark.parametrize("local", [LO4, LO6])
async def test_a_long_run_arrives_cut_into_its_segments(network: RealNetwork, local: Endpoint) -> None:
    left, right = await network.bind_udp(local), await network.bind_udp(local)
    segments = [bytes([i]) * 1200 for i in range(150)] + [b"shorter"]
    # Cut without regard to the segments: the gathered bytes count, not the buffers.
    payload = b"".join(segments)
    left.send_nowait(to(right.local, payload[:77], payload[77:100_001], payload[100_001:]))
    datagrams, paths = await receive(right, len(segments))
    assert datagrams == segments
    assert set(paths) == {Path(right.local, left.local)}
    left.close()
    right.close()


async def test_offload_carries_many_datagrams_a_call_where_the_kernel_can() -> None:
    left, right = udp.bind_udp(LO4), udp.bind_udp(LO4)
    assert left.offload == (gso.can_segment(left._sock), True) == (True, True)
    left.send_nowait(to(right.local, bytes(1200 * 40)))
    await right.wait_readable()
    [run] = right.receive_nowait()
    assert (run.segment_size, len(run.data)) == (1200, 48_000)
    left.close()
    right.close()
    plain = udp.bind_udp(LO4, offload=False)
    assert plain.offload == (False, False)
    plain.close()


async def test_more_buffers_than_the_kernel_takes_are_joined(network: RealNetwork) -> None:
    left, right = await network.bind_udp(LO4), await network.bind_udp(LO4)
    left.send_nowait(to(right.local, *[b"x"] * 1100))
    left.send_nowait(to(right.local, *[b"y"] * 2300))
    datagrams, _ = await receive(right, 3)
    assert datagrams == [b"x" * 1100, b"y" * 1200, b"y" * 1100]
    left.close()
    right.close()


@pytest.mark.parametrize(("local", "host"), [(ANY4, "127.0.0.3"), (ANY6, "::1")])
async def test_an_answer_leaves_from_the_address_the_question_came_to(
    network: RealNetwork, local: Endpoint, host: str
) -> None:
    server, client = await network.bind_udp(local), await network.bind_udp(local)
    client.send_nowait(to(at(server, host), b"question"))
    _, [path] = await receive(server, 1)
    assert path.local == at(server, host)
    server.send_nowait(Outgoing([b"answer" * 300], 600, path))
    _, paths = await receive(client, 3)
    assert paths[0].remote == at(server, host)
    server.close()
    client.close()


@pytest.mark.parametrize("local", [LO4, LO6])
async def test_a_send_may_carry_its_own_time_to_live(network: RealNetwork, local: Endpoint) -> None:
    sender = await network.bind_udp(local)
    with socket.socket(socket.AF_INET6 if local.is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(local)
        if local.is_ipv6:
            receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        else:
            receiver.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
        remote = Endpoint(*receiver.getsockname()[:2])
        lifetimes = []
        for ttl in (5, None, 1):
            sender.send_nowait(to(remote, b"opener", ttl=ttl))
            _, [(_, _, content)], _, _ = receiver.recvmsg(100, 100)
            lifetimes.append(int.from_bytes(content[:4], "little"))
    assert lifetimes == [5, 64, 1]
    sender.close()


async def test_a_datagram_too_large_for_the_interface_is_refused_and_not_fragmented(network: RealNetwork) -> None:
    sender = await network.bind_udp(LO4)
    for size in (65_508, 70_000):
        with pytest.raises(OSError) as caught:
            sender.send_nowait(to(Endpoint("127.0.0.1", 9), bytes(size), size=size))
        assert caught.value.errno == errno.EMSGSIZE
    assert sender._sock.getsockopt(socket.IPPROTO_IP, 10) == 3  # IP_MTU_DISCOVER: IP_PMTUDISC_PROBE
    sender.close()
    sender6 = await network.bind_udp(LO6)
    assert sender6._sock.getsockopt(socket.IPPROTO_IPV6, 23) == 3
    assert sender6._sock.getsockopt(socket.IPPROTO_IPV6, 62) == 1  # IPV6_DONTFRAG
    sender6.close()


async def test_a_full_send_buffer_says_how_much_of_the_run_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback delivers at once and never fills: only here the kernel is played."""
    sender = udp.bind_udp(LO4, offload=False)
    taken: list[int] = []

    class Full:
        def fileno(self) -> int:
            return 99

        def sendmsg(self, buffers: list[memoryview], *_: object) -> None:
            if len(taken) == 2:
                raise BlockingIOError(errno.EAGAIN, "full")
            taken.append(sum(map(len, buffers)))

    with monkeypatch.context() as patch:
        patch.setattr(sender, "_sock", Full())
        patch.setattr(sender, "_v6", False)
        sender._sockaddrs[Endpoint("127.0.0.1", 9)] = ("127.0.0.1", 9)
        with pytest.raises(BlockingIOError) as caught:
            sender.send_nowait(to(Endpoint("127.0.0.1", 9), bytes(5000)))
    assert caught.value.characters_written == 2400
    sender.close()


async def test_a_closed_port_of_the_other_end_is_no_error_of_ours(network: RealNetwork) -> None:
    left, right = await network.bind_udp(LO4), await network.bind_udp(LO4)
    gone = right.local
    right.close()
    for _ in range(3):
        left.send_nowait(to(gone, b"hello?"))
    assert left.receive_nowait() == []
    # Even when the kernel is told to report them.
    left._sock.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
    left.send_nowait(to(gone, b"hello?"))
    assert left.receive_nowait() == []
    left.close()


async def test_empty_datagrams_are_passed_over(network: RealNetwork) -> None:
    left, right = await network.bind_udp(LO4), await network.bind_udp(LO4)
    left.send_nowait(to(right.local, b""))
    left.send_nowait(to(right.local, b"full"))
    assert (await receive(right, 1))[0] == [b"full"]
    left.close()
    right.close()


async def test_one_call_returns_no_more_than_its_bounds(network: RealNetwork) -> None:
    left, right = await network.bind_udp(LO4), await network.bind_udp(LO4)
    for _ in range(1000):
        left.send_nowait(to(right.local, b"small"))
    for _ in range(30):
        left.send_nowait(to(right.local, bytes(60_000), size=60_000))
    counts, largest = [], 0
    while runs := right.receive_nowait():
        counts.append(len(runs))
        largest = max(largest, sum(len(run.data) for run in runs))
    assert sum(counts) == 1030
    assert max(counts) <= udp.RECEIVE_LIMIT
    assert largest <= udp.RECEIVE_BUFFER
    left.close()
    right.close()


async def test_the_other_family_is_refused(network: RealNetwork) -> None:
    sock = await network.bind_udp(ANY6)
    with pytest.raises(OSError) as caught:
        sock.send_nowait(to(Endpoint("127.0.0.1", 9), b"x"))
    assert caught.value.errno == errno.EAFNOSUPPORT
    both = await network.bind_udp(Endpoint("0.0.0.0", sock.local.port))  # IPV6_V6ONLY: the number is free on IPv4
    both.close()
    sock.close()


async def test_a_name_is_never_looked_up_by_a_send(network: RealNetwork) -> None:
    sock = await network.bind_udp(LO4)
    with pytest.raises(ValueError, match="literal"):
        sock.send_nowait(to(Endpoint("localhost", 9), b"x"))
    sock.close()


async def test_a_bound_port_is_locked_unless_shared(network: RealNetwork) -> None:
    first = await network.bind_udp(LO4)
    for shared in (False, True):
        with pytest.raises(OSError) as caught:
            await network.bind_udp(first.local, shared=shared)
        assert caught.value.errno == errno.EADDRINUSE
    first.close()
    one = await network.bind_udp(LO4, shared=True)
    two = await network.bind_udp(one.local, shared=True)
    one.close()
    two.close()


async def test_large_buffers_are_asked_for_and_what_was_granted_is_told() -> None:
    sock = udp.bind_udp(LO4)
    allowed = min(udp.SOCKET_BUFFER, int(await trio.Path("/proc/sys/net/core/rmem_max").read_text()))
    assert sock.buffer_sizes[0] == 2 * allowed  # Linux doubles it for its bookkeeping
    sock.close()


async def test_closing_wakes_the_reader_and_later_calls_say_so(network: RealNetwork) -> None:
    async def read() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await sock.wait_readable()

    sock = await network.bind_udp(LO4)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked(0.01)
        sock.close()
    sock.close()
    await read()
    with pytest.raises(trio.ClosedResourceError):
        sock.receive_nowait()
    with pytest.raises(trio.ClosedResourceError):
        sock.send_nowait(to(Endpoint("127.0.0.1", 9), b"x"))


@pytest.mark.parametrize("local", ["0.0.0.0", "127.0.0.1"])
async def test_members_of_a_group_hear_each_other_on_one_interface(network: RealNetwork, local: str) -> None:
    group = "239.192.152.143"
    one = await network.bind_udp(Endpoint(local, 0), shared=True, multicast_group=group, interface="lo")
    two = await network.bind_udp(Endpoint(local, one.local.port), shared=True, multicast_group=group, interface="lo")
    one.send_nowait(to(Endpoint(group, one.local.port), b"anybody there?"))
    datagrams, [path] = await receive(two, 1)
    assert datagrams == [b"anybody there?"]
    assert path.remote.port == one.local.port
    if local != "0.0.0.0":
        assert path == Path(two.local, one.local) == Path(at(two, local), at(one, local))
    one.close()
    two.close()


@pytest.mark.netlab
def test_link_local_multicast_keeps_its_scope() -> None:
    """IPv6 multicast is not routed over the loopback interface: a namespace with a dummy one."""
    run_in_namespace(
        [
            "ip link add dum0 type veth peer name peer0",
            "ip link set peer0 up",
            "ip addr add fe80::5/64 dev dum0 nodad",
            "ip link set dum0 up",
        ],
        """
        import trio
        from swarm.endpoint import Endpoint
        from swarm.net.network import Outgoing, Path
        from swarm.net.udp import bind_udp

        async def main(local):
            one = bind_udp(Endpoint(local, 0), shared=True, multicast_group="ff12::1234", interface="dum0")
            two = bind_udp(Endpoint(local, one.local.port), shared=True, multicast_group="ff12::1234", interface="dum0")
            group = Endpoint("ff12::1234%dum0", one.local.port)
            one.send_nowait(Outgoing([b"anybody there?"], 100, Path(None, group)))
            with trio.fail_after(2):
                await two.wait_readable()
            [run] = two.receive_nowait()
            assert run.data == b"anybody there?", bytes(run.data)
            assert run.path.remote == Endpoint("fe80::5%dum0", one.local.port), run.path
            answer = Outgoing([b"here"], 100, Path(Endpoint("fe80::5%dum0", two.local.port), run.path.remote))
            if local == "::":
                two.send_nowait(answer)
                with trio.fail_after(2):
                    await one.wait_readable()

        trio.run(main, "::")
        trio.run(main, "fe80::5%dum0")
        """,
    )


async def test_the_cache_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "CACHED_ENDPOINTS", 8)
    left, right = udp.bind_udp(LO4), udp.bind_udp(ANY4)
    for i in range(1, 50):
        left.send_nowait(to(at(right, f"127.0.0.{i}"), b"x", ttl=i))
    _, paths = await receive(right, 49)
    assert {path.local for path in paths} == {at(right, f"127.0.0.{i}") for i in range(1, 50)}
    assert max(map(len, (left._sockaddrs, left._messages, right._paths))) <= 8
    left.close()
    right.close()


@given(
    st.lists(st.binary(max_size=40), max_size=20),
    st.integers(1, 50),
    st.integers(1, 8),
    st.integers(1, 200),
)
def test_a_run_cut_into_pieces_is_the_same_datagrams(
    buffers: list[bytes], segment_size: int, max_segments: int, max_payload: int
) -> None:
    whole = b"".join(buffers)
    pieces = [
        (b"".join(piece), size) for piece, size in gso.split_run(buffers, segment_size, max_segments, max_payload)
    ]
    assert b"".join(data for data, _ in pieces) == whole
    assert all(len(data) == size for data, size in pieces)
    assert all(size <= max(max_payload, segment_size) and size <= max_segments * segment_size for _, size in pieces)
    assert all(size % segment_size == 0 for _, size in pieces[:-1])
