"""An allocation as a socket (RFC 8656) on the simulated internet: its life, credentials, peers, and its end."""

from __future__ import annotations

import errno
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.net.network import DatagramSocket, Outgoing, Path
from swarm.net.turn import TurnSocket
from swarm.net.turn_client import QUIET
from swarm.net.turn_opening import open_allocation
from swarm.net.turn_peers import MAX_CHANNELS
from swarm.net.turn_requests import PATIENCE
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.link import Link
from swarm.simnet.turn_server import TurnServer
from swarm.wire.turn import Method
from swarm.wire.turn_uri import parse_turn_uri

ANY = Endpoint("0.0.0.0", 0)
LIMIT = 30.0


class Lab:
    """A server, a client's host and a peer's socket."""

    def __init__(self, internet: Internet, server: TurnServer, client: Host, peer: DatagramSocket, peer_host: str):
        self.internet = internet
        self.server = server
        self.client = client
        self.peer = peer
        self.at = Endpoint(peer_host, peer.local.port)

    def open(self, query: str = "", *, ipv6: bool = False, uri: str | None = None) -> object:
        server = parse_turn_uri((uri or self.server.uri) + query)
        return open_allocation(self.client, server, random.Random(2), ipv6=ipv6)


@asynccontextmanager
async def lab(link: Link | None = None) -> AsyncIterator[Lab]:
    async with open_internet() as internet, trio.open_nursery() as nursery:
        host, client, peer = internet.host("turn"), internet.host("client", link=link), internet.host("peer")
        server = TurnServer(host, host.ipv4, random.Random(1))
        await nursery.start(server.run)
        yield Lab(internet, server, client, await peer.bind_udp(ANY), peer.ipv4)
        nursery.cancel_scope.cancel()


def send(socket: DatagramSocket, to: Endpoint, *datagrams: bytes) -> None:
    socket.send_nowait(Outgoing(datagrams, max(map(len, datagrams)), Path(None, to)))


async def receive(socket: DatagramSocket, count: int = 1) -> list[tuple[bytes, Endpoint]]:
    found: list[tuple[bytes, Endpoint]] = []
    with trio.fail_after(LIMIT):
        while len(found) < count:
            await socket.wait_readable()
            for data, size, path in socket.receive_nowait():
                found += ((bytes(data[start : start + size]), path.remote) for start in range(0, len(data), size))
    return found


async def exchange(socket: TurnSocket, here: Lab, text: bytes = b"ping") -> None:
    """There and back again."""
    send(socket, here.at, text)
    assert await receive(here.peer) == [(text, socket.local)]
    send(here.peer, socket.local, text[::-1])
    assert await receive(socket) == [(text[::-1], here.at)]


@pytest.mark.parametrize("query", ["?transport=udp", "?transport=tcp", ""])
async def test_datagrams_pass_in_both_directions(query: str, autojump_clock: MockClock) -> None:
    async with lab() as here, here.open(query) as socket:
        assert socket.local.host == here.server.endpoint.host
        assert socket.mapped is not None
        assert socket.mapped.host == here.client.ipv4
        assert socket.transport == (query.removeprefix("?transport=") or "udp")
        for number in range(3):
            await exchange(socket, here, b"ping%d" % number)
        sizes = [b"a" * 1400, b"b" * 1400, b"c" * 7]
        send(socket, here.at, *sizes)
        assert [data for data, _ in await receive(here.peer, 3)] == sizes
    assert not here.server.allocations, "it was given back"


async def test_sha_256_is_spoken_where_the_server_does(autojump_clock: MockClock) -> None:
    async with lab() as here:
        here.server.sha256 = True
        async with here.open() as socket:
            await exchange(socket, here)


async def test_a_wrong_password_is_said_so_once_and_shows_nothing(autojump_clock: MockClock) -> None:
    async with lab() as here:
        with pytest.raises(RemoteError, match="user name or password") as error:
            async with here.open(uri=f"turn:user:hunter2@{here.server.endpoint}"):
                raise AssertionError("unreachable")
        assert error.value.reason == "turn-unauthorized"
        assert "hunter2" not in str(error.value)
        assert here.server.heard == [(Method.ALLOCATE, 401), (Method.ALLOCATE, 401)]


@pytest.mark.parametrize(
    ("code", "reason"),
    [(403, "turn-forbidden"), (486, "turn-quota"), (508, "turn-full"), (440, "turn-no-family"), (500, "turn-refused")],
)
async def test_refusals_have_their_reasons(code: int, reason: str, autojump_clock: MockClock) -> None:
    async with lab() as here:
        here.server.error = code
        with pytest.raises(RemoteError) as error:
            async with here.open():
                raise AssertionError("unreachable")
        assert error.value.reason == reason


async def test_who_was_not_permitted_is_not_let_in(autojump_clock: MockClock) -> None:
    async with lab() as here, here.open() as socket:
        send(here.peer, socket.local, b"uninvited")
        await trio.sleep(1)
        assert socket.receive_nowait() == []
        socket.permit([here.at.host])
        await trio.sleep(1)
        send(here.peer, socket.local, b"welcome")
        assert await receive(socket) == [(b"welcome", here.at)]


async def test_a_nonce_that_ran_out_is_renewed_and_permissions_and_channels_stand_for_hours(
    autojump_clock: MockClock,
) -> None:
    async with lab() as here:
        here.server.nonce_seconds = 100.0
        async with here.open() as socket:
            for hours in range(8):
                await exchange(socket, here, b"after %d quarters of an hour" % hours)
                socket.permit([here.at.host])
                for _ in range(9):
                    await trio.sleep(100)
                    send(socket, here.at, b"still")
                await receive(here.peer, 9)
        stale = [method for method, code in here.server.heard if code == 438]
        assert {Method.REFRESH, Method.CHANNEL_BIND} <= set(stale)


async def test_an_allocation_is_refreshed_before_it_ends(autojump_clock: MockClock) -> None:
    async with lab() as here:
        here.server.lifetime = 4
        async with here.open() as socket:
            await trio.sleep(60)
            await exchange(socket, here)
            refreshed = here.server.heard.count((Method.REFRESH, 0))
            assert 25 <= refreshed <= 35, "at half of four seconds each"


async def test_one_forbidden_address_does_not_spoil_the_others(autojump_clock: MockClock) -> None:
    async with lab() as here:
        here.server.forbidden = {"20.9.9.9"}
        async with here.open() as socket:
            socket.permit([f"20.1.1.{number}" for number in range(1, 20)] + ["20.9.9.9", here.at.host])
            await trio.sleep(5)
            send(here.peer, socket.local, b"hello")
            assert await receive(socket) == [(b"hello", here.at)]
            assert socket.refused == {"20.9.9.9": "turn-forbidden"}


async def test_more_peers_than_channels_are_served_all_the_same(autojump_clock: MockClock) -> None:
    async with lab() as here, here.open() as socket:
        host = here.internet.host("many")
        peers = [await host.bind_udp(ANY) for _ in range(MAX_CHANNELS + 20)]
        for peer in peers:
            send(socket, Endpoint(host.ipv4, peer.local.port), b"x" * 1400)
            await trio.sleep(0.05)
        for peer in peers:
            assert await receive(peer) == [(b"x" * 1400, socket.local)]
            send(peer, socket.local, b"y")
        assert len(await receive(socket, len(peers))) == len(peers)


async def test_lost_requests_are_repeated(autojump_clock: MockClock) -> None:
    async with lab(Link(delay=0.02, loss=0.3)) as here, here.open("?transport=udp") as socket:
        for _ in range(200):
            send(socket, here.at, b"anybody there")
            await trio.sleep(0.1)
        assert len(here.peer.receive_nowait()) > 80


async def test_a_server_that_never_answers_is_given_up(autojump_clock: MockClock) -> None:
    async with lab() as here:
        started = trio.current_time()
        with pytest.raises(RemoteError, match="timed-out"):
            async with here.open("?transport=udp", uri=f"turn:u:p@{here.at.host}:9"):
                raise AssertionError("unreachable")
        assert trio.current_time() - started == pytest.approx(PATIENCE.total)


async def test_where_udp_is_blocked_tcp_is_tried_after_a_second(autojump_clock: MockClock) -> None:
    async with lab() as here:
        here.client.udp.bind = _no_udp  # type: ignore[method-assign]
        async with here.open() as socket:
            assert socket.transport == "tcp"
            await exchange(socket, here)
    async with lab() as here:  # dropped silently
        socket_of_server = next(iter(here.server._network.udp._sockets[3478]))
        socket_of_server.deliver = lambda packet: None  # type: ignore[method-assign]
        started = trio.current_time()
        async with here.open() as socket:
            assert socket.transport == "tcp"
            assert trio.current_time() - started < 2.0


def _no_udp(*arguments: object, **options: object) -> object:
    raise OSError(errno.EPERM, "blocked")


@pytest.mark.parametrize("query", ["?transport=udp", "?transport=tcp"])
async def test_a_server_that_dies_is_noticed_and_the_socket_closed(query: str, autojump_clock: MockClock) -> None:
    async with lab() as here, here.open(query) as socket:
        await exchange(socket, here)
        here.server.stop()
        started = trio.current_time()
        with pytest.raises(trio.ClosedResourceError):
            await socket.wait_readable()
        assert trio.current_time() - started < QUIET + PATIENCE.total + 6
        assert socket.error is not None
        assert socket.error.reason in ("timed-out", "connection-lost")
        with pytest.raises(OSError, match="gone"):
            send(socket, here.at, b"x")
        socket.permit(["20.1.1.1"])  # no longer of any effect


async def test_an_alternate_server_is_followed_but_not_for_ever(autojump_clock: MockClock) -> None:
    async with lab() as here, trio.open_nursery() as nursery:
        host = here.internet.host("other")
        other = TurnServer(host, host.ipv4, random.Random(3))
        await nursery.start(other.run)
        here.server.alternate = other.endpoint
        async with here.open() as socket:
            assert socket.local.host == host.ipv4
            await exchange(socket, here)
        other.alternate = here.server.endpoint
        with pytest.raises(RemoteError, match="turn-redirected"):
            async with here.open():
                raise AssertionError("unreachable")
        nursery.cancel_scope.cancel()


async def test_no_server_out_there_leads_us_into_our_own_network(autojump_clock: MockClock) -> None:
    async with lab() as here:
        here.server.alternate = Endpoint("192.168.1.1", 3478)
        with pytest.raises(RemoteError, match="turn-redirected"):
            async with here.open():
                raise AssertionError("unreachable")


async def test_an_ipv6_address_is_had_over_ipv4(autojump_clock: MockClock) -> None:
    async with lab() as here:
        with pytest.raises(RemoteError, match="turn-no-family"):
            async with here.open(ipv6=True):
                raise AssertionError("unreachable")
        host = here.internet.host("turn6", here.internet.free_ipv6())
        here.server.relay_hosts[True] = host.ipv6
        here.server._network = _Both(here.server._network, host)  # relays from there
        peer_host = here.internet.host("peer6", here.internet.free_ipv6())
        peer = await peer_host.bind_udp(Endpoint("::", 0))
        async with here.open(ipv6=True) as socket:
            assert socket.local.host == host.ipv6
            at = Endpoint(peer_host.ipv6, peer.local.port)
            send(socket, at, b"six")
            assert await receive(peer) == [(b"six", socket.local)]
            send(peer, socket.local, b"back")
            assert await receive(socket) == [(b"back", at)]
            with pytest.raises(OSError, match="family"):
                send(socket, here.at, b"four")


class _Both:
    """IPv6 sockets of one host, all else of another."""

    def __init__(self, ipv4: Host, ipv6: Host) -> None:
        self._hosts = ipv4, ipv6

    async def bind_udp(self, local: Endpoint) -> DatagramSocket:
        return await self._hosts[local.is_ipv6].bind_udp(local)


async def test_a_name_without_an_address(autojump_clock: MockClock) -> None:
    async with lab() as here:
        here.internet.name("relay.example", here.server.endpoint.host)
        async with here.open(uri="turn:user:secret@relay.example") as socket:
            await exchange(socket, here)
        with pytest.raises(RemoteError, match="no-address"):
            async with here.open(uri="turn:user:secret@nowhere.example"):
                raise AssertionError("unreachable")


async def test_a_slow_line_over_tcp_holds_the_sender_back(autojump_clock: MockClock) -> None:
    async with lab(Link(delay=0.02, bandwidth=100_000)) as here, here.open("?transport=tcp") as socket:
        await exchange(socket, here)
        sent = 0
        with pytest.raises(BlockingIOError):
            while sent < 10_000:
                send(socket, here.at, b"x" * 1000)
                sent += 1
        assert 200 < sent < 400
        with trio.fail_after(10):
            await socket.wait_writable()
        send(socket, here.at, b"x" * 1000)
        assert len(await receive(here.peer, sent + 1)) == sent + 1, "nothing is lost"


# ---- a hostile server


@asynccontextmanager
async def hostile(answer: object, link: Link | None = None) -> AsyncIterator[tuple[Lab, list[int]]]:
    """A server on UDP that lets ``answer(datagram, send)`` speak."""
    async with open_internet() as internet, trio.open_nursery() as nursery:
        host, client, peer = internet.host("turn"), internet.host("client"), internet.host("peer")
        server = TurnServer(host, host.ipv4, random.Random(1))
        socket = await host.bind_udp(server.endpoint)
        heard: list[int] = []

        async def serve() -> None:
            while True:
                await socket.wait_readable()
                for data, _, path in socket.receive_nowait():
                    heard.append(len(data))
                    for reply in answer(bytes(data)):
                        send(socket, path.remote, reply)

        nursery.start_soon(serve)
        yield Lab(internet, server, client, await peer.bind_udp(ANY), peer.ipv4), heard
        nursery.cancel_scope.cancel()


def _nonsense(request: bytes) -> Iterable[bytes]:
    rng = random.Random(request)
    for _ in range(50):
        yield rng.randbytes(rng.randrange(1, 1400))
        yield b"\x01\x03" + rng.randbytes(2) + request[4:20] + rng.randbytes(100)  # of our transaction, no sense
        yield b"\x40\x00" + rng.randbytes(1000)


def _always_stale(request: bytes) -> Iterable[bytes]:
    body = bytes.fromhex("0009 0004 00000426 0014 0001 78000000 0015 0001 79000000")
    yield b"\x01\x13" + len(body).to_bytes(2, "big") + request[4:20] + body


def _unauthenticated_success(request: bytes) -> Iterable[bytes]:
    if len(request) < 60:  # the first, unsigned one: a challenge
        body = bytes.fromhex("0009 0004 00000401 0014 0001 78000000 0015 0001 79000000")
        yield b"\x01\x13" + len(body).to_bytes(2, "big") + request[4:20] + body
    else:
        body = bytes.fromhex("0016 0008 0001 a147 e112a643 0020 0008 0001 a147 e112a643 000d 0004 00000258")
        yield b"\x01\x03" + len(body).to_bytes(2, "big") + request[4:20] + body


@pytest.mark.parametrize(
    ("answer", "reasons"),
    [
        (_nonsense, ("timed-out", "bad-turn")),
        (_always_stale, ("turn-refused",)),
        (_unauthenticated_success, ("timed-out",)),
    ],
)
async def test_a_hostile_server_costs_a_few_requests(
    answer: object, reasons: tuple[str, ...], autojump_clock: MockClock
) -> None:
    async with hostile(answer) as (here, heard):
        with pytest.raises(RemoteError) as error, trio.fail_after(PATIENCE.total * 5):
            async with here.open("?transport=udp"):
                raise AssertionError("unreachable")
        assert error.value.reason in reasons
        assert len(heard) <= 30


async def test_a_flood_through_the_relay_is_bounded(autojump_clock: MockClock) -> None:
    async with lab() as here, here.open() as socket:
        await exchange(socket, here)
        for _ in range(100):
            for _ in range(60):
                send(here.peer, socket.local, bytes(1000))
            await trio.sleep(0.05)
        kept = sum(len(received.data) for received in socket.receive_nowait())
        assert kept <= 4 << 20
        assert socket.dropped > 1000
        await trio.sleep(1)
        socket.receive_nowait()
        await exchange(socket, here)
