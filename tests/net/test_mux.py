"""The mux over real loopback sockets; a socket double only where the kernel never says what is needed."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from swarm.endpoint import Endpoint
from swarm.net import mux as mux_module
from swarm.net.mux import Mux, Priority
from swarm.net.network import DatagramSocket, Outgoing, Path, Received
from swarm.net.real import RealNetwork
from swarm.net.udp import UdpSocket
from swarm.simnet.internet import open_internet

LO = Endpoint("127.0.0.1", 0)
FAR = Path(None, Endpoint("127.0.0.1", 9))


@pytest.fixture(params=[True, False], ids=["offload", "plain"])
def network(request: pytest.FixtureRequest) -> RealNetwork:
    return RealNetwork(offload=request.param)


class Core:
    """Takes datagrams that start with ``tag``, remembers them, and answers each batch when told to."""

    def __init__(self, tag: bytes = b"", *, echo: bool = False) -> None:
        self.tag = tag
        self.echo = echo
        self.batches: list[tuple[list[bytes], Path]] = []
        self.to_send: list[Outgoing] = []
        self.deadline: float | None = None
        self.deadlines_handled: list[float] = []
        self.results: list[str] = []
        self.asked = 0

    @property
    def datagrams(self) -> list[bytes]:
        return [datagram for batch, _ in self.batches for datagram in batch]

    def wants(self, datagram: memoryview, path: Path) -> bool:
        return bytes(datagram[: len(self.tag)]) == self.tag

    def receive_batch(self, datagrams: Sequence[memoryview], path: Path, now: float) -> None:
        batch = [bytes(datagram) for datagram in datagrams]
        self.batches.append((batch, path))
        self.results.append(f"{len(batch)} from {path.remote.host}")
        if self.echo:
            self.to_send.append(Outgoing(batch, len(batch[0]), path))

    def datagrams_to_send(self, now: float) -> list[Outgoing]:
        self.asked += 1
        ready, self.to_send = self.to_send, []
        return ready

    def next_deadline(self) -> float | None:
        return self.deadline

    def handle_deadline(self, now: float) -> None:
        self.deadlines_handled.append(now)
        self.deadline = None

    def take_results(self) -> list[str]:
        ready, self.results = self.results, []
        return ready


class FakeSocket:
    """A socket whose send buffer holds ``room`` datagrams, and which hands over what is put into ``inbox``."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.local = Endpoint("127.0.0.1", 1)
        self.room = room
        self.inbox: list[Received] = []
        self.sent: list[bytes] = []
        self.error: OSError | None = None
        self.readable = trio.Event()
        self.writable = trio.Event()
        self.closed = False

    def receive_nowait(self) -> list[Received]:
        ready, self.inbox = self.inbox, []
        self.readable = trio.Event()
        return ready

    def send_nowait(self, outgoing: Outgoing) -> None:
        if self.error is not None:
            raise self.error
        payload = b"".join(outgoing.buffers)
        taken = 0
        for start in range(0, len(payload), outgoing.segment_size):
            if not self.room:
                raise BlockingIOError(errno.EAGAIN, "full", taken)
            self.room -= 1
            self.sent.append(payload[start : start + outgoing.segment_size])
            taken += len(self.sent[-1])

    async def wait_readable(self) -> None:
        await self.readable.wait()
        if self.closed:
            raise trio.ClosedResourceError

    async def wait_writable(self) -> None:
        await self.writable.wait()

    def close(self) -> None:
        self.closed = True
        self.readable.set()

    def drain(self, room: int) -> None:
        self.room = room
        self.writable.set()
        self.writable = trio.Event()


@asynccontextmanager
async def running(socket: DatagramSocket, *cores: Core) -> AsyncIterator[Mux]:
    mux = Mux(socket)
    for number, core in enumerate(cores):
        mux.add(core, priority=number, name=f"core{number}")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mux.run)
        try:
            await wait_all_tasks_blocked()
            yield mux
        finally:
            mux.close()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(2):
        while not condition():  # datagrams of the kernel set no event
            await trio.sleep(0.001)


def outgoing(payload: bytes, size: int, path: Path = FAR, *, probe: bool = False) -> Outgoing:
    return Outgoing([payload], size, path, None, probe)


async def test_a_run_reaches_its_core_as_one_batch_and_is_echoed_as_one(network: RealNetwork) -> None:
    server, client = Core(echo=True), Core()
    server_socket, client_socket = await network.bind_udp(LO), await network.bind_udp(LO)
    segments = [bytes([i]) * 1000 for i in range(40)] + [b"end"]
    async with running(server_socket, server) as mux, running(client_socket, client) as other:
        client.to_send.append(outgoing(b"".join(segments), 1000, Path(None, server_socket.local)))
        other.wake()
        await until(lambda: len(client.datagrams) == 41)
        assert client.datagrams == segments
        assert [path for _, path in server.batches] == [Path(server_socket.local, client_socket.local)]
        [counts] = mux.statistics().cores.values()
        assert (counts.datagrams_in, counts.bytes_in) == (41, 40_003)
        assert (counts.datagrams_out, counts.bytes_out) == (41, 40_003)


async def test_each_segment_of_a_mixed_run_goes_to_the_first_core_that_wants_it(network: RealNetwork) -> None:
    """A run shares sender and size only: its last datagram may be a DHT packet."""
    first, second = Core(b"a"), Core(b"b")
    socket, sender = await network.bind_udp(LO), await network.bind_udp(LO)
    async with running(socket, first, second) as mux:
        sender.send_nowait(outgoing(b"a1a2b1a3xxb2", 2, Path(None, socket.local)))
        await until(lambda: len(first.datagrams) == 3 and len(second.datagrams) == 2)
        assert first.datagrams == [b"a1", b"a2", b"a3"]
        assert second.datagrams == [b"b1", b"b2"]
        statistics = mux.statistics()
        assert (statistics.unclaimed, statistics.unclaimed_bytes) == (1, 2)
    sender.close()


async def test_what_one_drain_brings_from_one_sender_is_one_batch() -> None:
    core = Core()
    socket = FakeSocket()
    one, two = Path(None, Endpoint("192.0.2.1", 1)), Path(None, Endpoint("192.0.2.2", 1))
    async with running(socket, core):
        socket.inbox = [
            Received(memoryview(data), 10, path) for data, path in [(b"a", one), (b"b", two), (b"c", one), (b"", one)]
        ]
        socket.readable.set()
        await wait_all_tasks_blocked()
        assert core.batches == [([b"a", b"c"], one), ([b"b"], two)]


async def test_priority_decides_who_is_asked_first_and_registration_between_equals() -> None:
    socket = FakeSocket()
    asked: list[str] = []

    class Named(Core):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def wants(self, datagram: memoryview, path: Path) -> bool:
            asked.append(self.name)
            return False

    mux = Mux(socket)
    for name, priority in [("utp", Priority.UTP), ("tracker", 3), ("dht", Priority.DHT), ("utp2", 2), ("stun", 0)]:
        mux.add(Named(name), priority=priority, name=name)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mux.run)
        await wait_all_tasks_blocked()
        socket.inbox = [Received(memoryview(b"?"), 1, FAR)]
        socket.readable.set()
        await wait_all_tasks_blocked()
        mux.close()
    assert asked == ["stun", "dht", "utp", "utp2", "tracker"]


async def test_a_core_that_names_its_first_bytes_is_asked_about_those_only() -> None:
    class Picky(Core):
        first_bytes = frozenset(b"d")
        seen = b""

        def wants(self, datagram: memoryview, path: Path) -> bool:
            self.seen += bytes(datagram[:1])
            return False

    core, socket = Picky(), FakeSocket()
    async with running(socket, core):
        socket.inbox = [Received(memoryview(bytes(range(256))), 1, FAR)]
        socket.readable.set()
        await wait_all_tasks_blocked()
    assert core.seen == b"d"


async def test_results_are_published_after_sending_in_the_same_pass() -> None:
    socket = FakeSocket()
    core = Core(echo=True)
    published: list[tuple[Sequence[str], int]] = []
    mux = Mux(socket)
    mux.add(core, priority=0, on_results=lambda results: published.append((results, len(socket.sent))))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mux.run)
        await wait_all_tasks_blocked()
        socket.inbox = [Received(memoryview(b"abc"), 3, FAR)]
        socket.readable.set()
        await wait_all_tasks_blocked()
        mux.close()
    assert published == [(["1 from 127.0.0.1"], 1)]


async def test_a_callback_may_wake_the_mux_and_remove_its_core() -> None:
    socket, core = FakeSocket(), Core()
    mux = Mux(socket)

    def on_results(results: Sequence[str]) -> None:
        core.to_send.append(outgoing(b"more", 4))
        mux.wake()
        if len(socket.sent) == 1:
            mux.remove(core)
        else:
            core.results.append("again")

    core.results.append("first")
    mux.add(core, priority=0, on_results=on_results)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mux.run)
        await wait_all_tasks_blocked()
        mux.close()
    assert socket.sent == [b"more"]
    with pytest.raises(ValueError, match="does not hang off"):
        mux.remove(core)
    assert mux.statistics().cores == {}


def test_two_cores_of_one_name_are_refused() -> None:
    mux = Mux(FakeSocket())
    mux.add(Core(), priority=0)
    with pytest.raises(ValueError, match="named Core"):
        mux.add(Core(), priority=1)


async def test_a_deadline_is_kept_to_the_moment(autojump_clock: MockClock) -> None:
    core = Core()
    async with running(FakeSocket(), core) as mux:
        start = trio.current_time()
        core.deadline = start + 5
        mux.wake()
        await wait_all_tasks_blocked()
        await trio.sleep(1)
        core.deadline = start + 3  # an earlier one, after a local call
        mux.wake()
        await trio.sleep(4)
    assert core.deadlines_handled == [start + 3]


async def test_an_idle_mux_does_nothing_at_all(autojump_clock: MockClock) -> None:
    core = Core()
    async with running(FakeSocket(), core):
        asked = core.asked
        await trio.sleep(3600)
        assert core.asked == asked


async def test_a_deadline_left_in_the_past_costs_one_pass_a_millisecond(autojump_clock: MockClock) -> None:
    class Stuck(Core):
        def next_deadline(self) -> float:
            return 0.0

    core = Stuck()
    async with running(FakeSocket(), core):
        await trio.sleep(0.1)
    assert 90 <= len(core.deadlines_handled) <= 110


async def test_a_clock_of_its_own_is_what_cores_are_told(autojump_clock: MockClock) -> None:
    core = Core()
    core.deadline = 1002.0
    offset = 1000.0 - trio.current_time()
    mux = Mux(FakeSocket(), clock=lambda: trio.current_time() + offset)
    mux.add(core, priority=0)
    with trio.move_on_after(10):
        await mux.run()
    assert core.deadlines_handled == [pytest.approx(1002.0)]


async def test_a_full_send_buffer_keeps_the_batch_and_asks_nobody_for_more() -> None:
    socket = FakeSocket(room=3)
    first, second = Core(), Core()
    async with running(socket, first, second) as mux:
        first.to_send = [outgoing(b"a1a2", 2), outgoing(b"a3a4a5", 2), outgoing(b"a6", 2)]
        second.to_send = [outgoing(b"b1", 2)]
        asked = second.asked
        mux.wake()
        await wait_all_tasks_blocked()
        assert socket.sent == [b"a1", b"a2", b"a3"]
        first.to_send = [outgoing(b"a7", 2)]
        mux.wake()
        socket.inbox = [Received(memoryview(b"x"), 1, FAR)]  # receiving goes on meanwhile
        socket.readable.set()
        await wait_all_tasks_blocked()
        assert first.datagrams == [b"x"]
        assert second.asked == asked
        assert len(socket.sent) == 3
        socket.drain(room=1000)
        await wait_all_tasks_blocked()
        # The one that had to wait goes last, and nothing of its half-sent run is repeated.
        assert socket.sent[3:] == [b"b1", b"a4", b"a5", b"a6", b"a7"]
        statistics = mux.statistics()
        assert statistics.waits_for_buffer == 1
        assert (statistics.cores["core0"].datagrams_out, statistics.cores["core0"].bytes_out) == (7, 14)
        assert statistics.cores["core0"].dropped == 0


async def test_beyond_the_kept_batch_datagrams_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mux_module, "UNSENT_LIMIT", 10)
    socket, core = FakeSocket(room=0), Core()
    async with running(socket, core) as mux:
        core.to_send = [outgoing(bytes([i]) * 4, 1) for i in range(10)]
        mux.wake()
        await wait_all_tasks_blocked()
        assert mux.statistics().cores["core0"].dropped == 32
        socket.drain(room=1000)
        await wait_all_tasks_blocked()
        assert socket.sent == [b"\0"] * 4 + [b"\1"] * 4


async def test_a_send_buffer_that_really_fills_loses_nothing_of_ours() -> None:
    """A device that is slow to send does not exist on loopback: a socket whose kernel buffer is said to be full."""
    sender, receiver = RealNetwork(), RealNetwork()
    out, into = await sender.bind_udp(LO), await receiver.bind_udp(LO)

    class Reluctant:
        """Every other send finds the buffer full."""

        def __init__(self, inner: UdpSocket) -> None:
            self.inner, self.calls = inner, 0

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

        def send_nowait(self, run: Outgoing) -> None:
            self.calls += 1
            if self.calls % 2:
                raise BlockingIOError(errno.EAGAIN, "full")
            self.inner.send_nowait(run)

    core, sink = Core(), Core()
    async with running(Reluctant(out), core) as mux, running(into, sink):  # type: ignore[arg-type]
        core.to_send = [outgoing(bytes([i]) * 100, 10, Path(None, into.local)) for i in range(20)]
        mux.wake()
        await until(lambda: len(sink.datagrams) == 200)
        assert sink.datagrams == [bytes([i]) * 10 for i in range(20) for _ in range(10)]
        assert mux.statistics().waits_for_buffer == 20


async def test_a_core_that_never_stops_sending_leaves_room_for_others() -> None:
    class Endless(Core):
        def datagrams_to_send(self, now: float) -> list[Outgoing]:
            return [outgoing(b"e" * 100, 1)] * 1000

    socket, greedy, modest = FakeSocket(), Endless(), Core()
    mux = Mux(socket)
    mux.add(greedy, priority=0, name="greedy")
    mux.add(modest, priority=1, name="modest")
    modest.to_send = [outgoing(b"m", 1)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mux.run)
        while b"m" not in socket.sent:
            await trio.lowlevel.checkpoint()
        assert socket.sent.index(b"m") <= mux_module.SEND_LIMIT + 100
        sent = len(socket.sent)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        assert len(socket.sent) > sent  # and it goes on
        nursery.cancel_scope.cancel()


async def test_datagrams_that_do_not_fit_are_told_to_their_core(network: RealNetwork) -> None:
    class Prober(Core):
        def __init__(self) -> None:
            super().__init__()
            self.too_big: list[tuple[Path, int]] = []

        def datagram_too_big(self, path: Path, size: int) -> None:
            self.too_big.append((path, size))
            self.to_send.append(outgoing(b"smaller", 100, path))

    prober, plain = Prober(), Core()
    socket = await network.bind_udp(LO)
    async with running(socket, prober, plain) as mux:
        prober.to_send = [outgoing(bytes(66_000), 66_000, probe=True), outgoing(bytes(66_000), 66_000)]
        plain.to_send = [outgoing(bytes(66_000), 66_000, probe=True)]
        mux.wake()
        await wait_all_tasks_blocked()
        assert prober.too_big == [(FAR, 66_000), (FAR, 66_000)]
        cores = mux.statistics().cores
        assert cores["core0"].send_errors == {errno.EMSGSIZE: 2}
        assert cores["core0"].datagrams_out == 2
        assert cores["core1"].send_errors == {errno.EMSGSIZE: 1}


async def test_other_send_errors_are_counted_by_errno_and_never_raised() -> None:
    socket, core = FakeSocket(), Core()
    socket.error = OSError(errno.ENETUNREACH, "no route")
    async with running(socket, core) as mux:
        core.to_send = [outgoing(b"x", 1), outgoing(b"y", 1)]
        mux.wake()
        await wait_all_tasks_blocked()
        assert mux.statistics().cores["core0"].send_errors == {errno.ENETUNREACH: 2}


async def test_runs_of_a_leaf_package_need_only_the_same_attribute_names(network: RealNetwork) -> None:
    class LeafPath(NamedTuple):
        local: tuple[str, int] | None
        remote: tuple[str, int]

    class LeafOutgoing(NamedTuple):
        buffers: Iterable[bytes]
        segment_size: int
        path: LeafPath
        ttl: int | None = None
        probe: bool = False
        fragment: bool = False

    core, sink = Core(), Core()
    left = await network.bind_udp(Endpoint("0.0.0.0", 0))
    right = await network.bind_udp(LO)
    async with running(left, core) as mux, running(right, sink):
        path = LeafPath(("127.0.0.4", left.local.port), tuple(right.local))
        core.to_send = [LeafOutgoing([b"ab", b"c"], 2, path)]  # type: ignore[list-item]
        mux.wake()
        await until(lambda: len(sink.datagrams) == 2)
        assert sink.batches[0][1].remote == Endpoint("127.0.0.4", left.local.port)


async def test_closing_ends_run_and_a_socket_lost_otherwise_is_told(network: RealNetwork) -> None:
    async with running(await network.bind_udp(LO), Core()):
        pass
    socket = await network.bind_udp(LO)
    mux = Mux(socket)
    async with trio.open_nursery() as nursery:

        async def lose_it() -> None:
            await wait_all_tasks_blocked()
            socket.close()

        nursery.start_soon(lose_it)
        with pytest.raises(trio.ClosedResourceError):
            await mux.run()


async def test_what_a_pass_delivers_may_close_it(network: RealNetwork) -> None:
    """Before the socket is waited for again."""
    socket, sender = await network.bind_udp(LO), await network.bind_udp(LO)
    await closed_by_what_it_hears(socket, sender)


async def test_what_a_pass_delivers_may_close_it_in_the_simulated_internet(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        host = internet.host("host")
        await closed_by_what_it_hears(await host.bind_udp(LO), await host.bind_udp(LO))


async def closed_by_what_it_hears(socket: DatagramSocket, sender: DatagramSocket) -> None:
    core, mux = Core(), Mux(socket)
    mux.add(core, priority=0, on_results=lambda results: mux.close())
    sender.send_nowait(outgoing(b"last", 4, Path(None, socket.local)))
    with trio.fail_after(2):
        await mux.run()
    assert core.datagrams == [b"last"]
    sender.close()


async def test_whom_runs_come_from_and_go_to_is_noticed_once_a_second(autojump_clock: MockClock) -> None:
    """Whoever comes first is told of before a core can answer him."""
    told: list[tuple[str, Endpoint, float]] = []
    socket = FakeSocket()
    mux = Mux(
        socket,
        on_received=lambda remote, now: told.append(("from", remote, now)),
        on_sending=lambda remote, now: told.append(("to", remote, now)),
    )
    core = Core(echo=True)
    mux.add(core, priority=0)
    one, other = (Path(None, Endpoint(f"20.0.0.{number}", 6881)) for number in (1, 2))

    async def arrive(*paths: Path) -> list[tuple[str, Endpoint, float]]:
        told.clear()
        socket.inbox += [Received(memoryview(b"hello"), 5, path) for path in paths]
        socket.readable.set()
        await wait_all_tasks_blocked()
        return list(told)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(mux.run)
        now = trio.current_time()
        first = [("from", one.remote, now), ("from", other.remote, now), ("to", one.remote, now)]
        assert await arrive(one, other, one) == [*first, ("to", other.remote, now)]
        assert await arrive(one) == []
        await trio.sleep(3600)
        now = trio.current_time()
        assert await arrive(one) == [("from", one.remote, now), ("to", one.remote, now)]
        assert len(core.datagrams) == 5, "and all arrive"
        mux.close()
