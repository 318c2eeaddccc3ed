"""The clients against gateways that disappoint: silence, strangers, nonsense, devices with habits of their own."""

from __future__ import annotations

import random
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.gateway.clients import miniupnpc
from swarm.gateway.clients.igd import FoundDevice, IgdClient, PinholeClient, discover
from swarm.gateway.clients.natpmp import NatPmpClient
from swarm.gateway.clients.pcp import PcpClient, PcpRefusal, UnsupportedVersion
from swarm.gateway.igd import Device, Service
from swarm.gateway.method import NO_ADDRESS, PERMANENT, Mapping
from swarm.net.network import DatagramSocket, Outgoing, Path, Stream
from swarm.simnet.host import Host
from swarm.simnet.internet import open_internet

ROUTER, INSIDE = "10.0.1.1", "10.0.1.2"
Answer = Callable[[bytes], Sequence[bytes]]


class Lan:
    """A machine and its router, of which only the addresses are there."""

    def __init__(self, host: Host, router: Host, stranger: Host) -> None:
        self.host = host
        self.router = router
        self.stranger = stranger
        self.asked: list[tuple[float, bytes]] = []
        self.client = Endpoint("0.0.0.0", 0)  # whom the last request came from
        self.restarts = 0
        self._rng = random.Random(1)

    def on_restart(self) -> None:
        self.restarts += 1

    def natpmp(self) -> NatPmpClient:
        return NatPmpClient(self.host, ROUTER, INSIDE, clock=trio.current_time, on_restart=self.on_restart)

    def pcp(self, nonces: Any = None, natpmp: NatPmpClient | None = None) -> PcpClient:
        return PcpClient(
            self.host,
            ROUTER,
            INSIDE,
            clock=trio.current_time,
            on_restart=self.on_restart,
            rng=self._rng,
            nonces={} if nonces is None else nonces,
            natpmp=natpmp,
        )

    async def serve(self, answer: Answer, bound: DatagramSocket) -> None:
        started = trio.current_time()
        while True:
            await bound.wait_readable()
            for received in bound.receive_nowait():
                request = bytes(received.data)
                self.client = received.path.remote
                self.asked.append((round(trio.current_time() - started, 1), request))
                for response in answer(request):
                    bound.send_nowait(Outgoing([response], len(response), Path(None, received.path.remote)))


@asynccontextmanager
async def lan(answer: Answer = lambda request: ()) -> AsyncIterator[Lan]:
    """Port 5351 of the router answers as ``answer`` says."""
    async with open_internet() as internet, trio.open_nursery() as nursery:
        router = internet.router("r", lan=ROUTER)
        made = Lan(
            internet.host("h", INSIDE, router=router), router.inside, internet.host("s", "10.0.1.3", router=router)
        )
        nursery.start_soon(made.serve, answer, await router.inside.bind_udp(Endpoint("0.0.0.0", 5351)))
        yield made
        nursery.cancel_scope.cancel()


# ---- NAT-PMP


def address(epoch: int, host: str = "20.50.0.1") -> bytes:
    return struct.pack("!BBHI", 0, 128, 0, epoch) + Endpoint(host, 0).address.packed


def natpmp(epoch: int, external: int = 7000, lifetime: int = 3600) -> Answer:
    def answer(request: bytes) -> list[bytes]:
        if request[1] == 0:
            return [address(epoch)]
        internal = struct.unpack_from("!H", request, 4)[0]
        return [struct.pack("!BBHIHHI", 0, 128 + request[1], 0, epoch, internal, external, lifetime)]

    return answer


async def test_a_silent_gateway_is_asked_nine_times_in_two_minutes(autojump_clock: MockClock) -> None:
    async with lan() as net:
        with pytest.raises(RemoteError) as caught:
            await net.natpmp().map("udp", 6881, 6881, 3600)
        assert caught.value.reason == "timed-out"
        assert [time for time, _ in net.asked] == pytest.approx([0, 0.2, 0.8, 1.8, 3.8, 7.8, 15.8, 31.8, 63.8], abs=0.1)


async def test_nat_pmp_passes_over_what_is_not_the_answer(autojump_clock: MockClock) -> None:
    right = natpmp(5)
    wrong = [b"", b"\0", b"\xff" * 16, address(5)[:-1], struct.pack("!BBHIHHI", 0, 130, 0, 5, 6881, 1, 1)]
    wrong.append(struct.pack("!BBHIHHI", 0, 129, 0, 5, 6882, 1, 1))
    async with lan(lambda request: [*(wrong if request[1] else ()), *right(request)]) as net:
        mapping = await net.natpmp().map("udp", 6881, 6881, 3600)
        assert mapping == Mapping("udp", Endpoint(INSIDE, 6881), 7000, "20.50.0.1", 3600)


async def test_answers_of_a_neighbour_or_from_another_port_are_not_the_gateways(autojump_clock: MockClock) -> None:
    forged = struct.pack("!BBHIHHI", 0, 129, 0, 5, 6881, 6666, 3600)
    right = natpmp(5)
    async with lan(lambda request: right(request) if len(net.asked) > 1 else ()) as net, trio.open_nursery() as nursery:
        liars = [
            await net.stranger.bind_udp(Endpoint("0.0.0.0", 5351)),
            await net.router.bind_udp(Endpoint("0.0.0.0", 0)),
        ]

        async def lie() -> None:
            await trio.sleep(0.1)  # the first request has come and is left without an answer
            for liar in liars:
                liar.send_nowait(Outgoing([forged], len(forged), Path(None, net.client)))

        nursery.start_soon(lie)
        assert (await net.natpmp().map("udp", 6881, 6881, 3600)).external_port == 7000


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (1, "unsupported"),
        (2, "refused"),
        (3, "network-failure"),
        (4, "out-of-resources"),
        (5, "unsupported"),
        (9, "refused"),
    ],
)
async def test_nat_pmp_results_are_named(autojump_clock: MockClock, result: int, reason: str) -> None:
    async with lan(lambda request: [struct.pack("!BBHI", 0, 128 + request[1], result, 5)]) as net:
        client = net.natpmp()
        calls: list[Callable[[], Awaitable[object]]] = [lambda: client.map("tcp", 6881, 6881, 3600)]
        if result == 3:  # an answer all the same, and one that tells something
            await client.probe()
            assert await client.external_host() == NO_ADDRESS
        else:
            calls += [client.external_host, client.probe]
        for call in calls:
            with pytest.raises(RemoteError) as caught:
                await call()
            assert caught.value.reason == reason


@pytest.mark.parametrize("answer", [natpmp(5, external=0), natpmp(5, lifetime=0)])
async def test_a_mapping_without_a_port_or_a_life_is_a_refusal(autojump_clock: MockClock, answer: Answer) -> None:
    async with lan(answer) as net:
        with pytest.raises(RemoteError, match="refused"):
            await net.natpmp().map("udp", 6881, 6881, 3600)


async def test_announcements_tell_of_restarts_and_of_other_addresses(autojump_clock: MockClock) -> None:
    async with lan(natpmp(1000)) as net:
        client = net.natpmp()
        assert await client.external_host() == "20.50.0.1"
        for announcement in (b"", b"\xff" * 12, natpmp(0)(b"\0\1" + bytes(10))[0], address(1000)):
            client.hear(announcement)
        assert net.restarts == 0
        client.hear(address(1001, "20.50.0.2"))
        assert (net.restarts, await client.external_host()) == (1, "20.50.0.2")
        client.hear(address(0))
        assert net.restarts == 2


# ---- PCP


def pcp(result: int = 0, lifetime: int = 3600, epoch: int = 9, *, body: bool = True, version: int = 2) -> Answer:
    def answer(request: bytes) -> list[bytes]:
        head = struct.pack("!BBBBII12x", version, 128 + request[1], 0, result, lifetime, epoch)
        if request[1] == 0 or not body:
            return [head]
        mapped = request[24:42] + struct.pack("!H", 7000) + bytes(10) + b"\xff\xff" + bytes((20, 50, 0, 1))
        return [head + mapped]

    return answer


async def test_a_pcp_mapping_is_the_one_that_was_asked_for(autojump_clock: MockClock) -> None:
    right = pcp()

    def answer(request: bytes) -> list[bytes]:
        (good,) = right(request)
        others = [good[:24] + b"x" * 12 + good[36:], good[:36] + b"\x06" + good[37:], good[:40] + b"\0\1" + good[42:]]
        elsewhere = [other[:42] + struct.pack("!H", 9999) + other[44:] for other in others]
        return [*elsewhere, good[:30], good]

    async with lan(answer) as net:
        mapping = await net.pcp().map("udp", 6881, 6881, 3600)
        assert mapping == Mapping("udp", Endpoint(INSIDE, 6881), 7000, "20.50.0.1", 3600)


async def test_a_successor_renews_with_the_same_nonce(autojump_clock: MockClock) -> None:
    nonces: dict[Any, bytes] = {}
    async with lan(pcp()) as net:
        await net.pcp(nonces).map("udp", 6881, 6881, 3600)
        await net.pcp(nonces).map("udp", 6881, 6881, 3600)
        await net.pcp(nonces).map("tcp", 6881, 6881, 3600)
        first, second, tcp = (request[24:36] for _, request in net.asked)
        assert first == second != tcp


@pytest.mark.parametrize("body", [True, False])
async def test_a_pcp_refusal_says_for_how_long(autojump_clock: MockClock, body: bool) -> None:
    async with lan(pcp(8, 600, body=body)) as net:
        client = net.pcp()
        with pytest.raises(PcpRefusal) as caught:
            await client.map("udp", 6881, 6881, 3600)
        assert (caught.value.reason, caught.value.retry_in) == ("out-of-resources", 600.0)
        await client.unmap(Mapping("udp", Endpoint(INSIDE, 6881), 7000, None, 3600))


@pytest.mark.parametrize(("result", "reason"), [(2, "refused"), (12, "address-mismatch"), (99, "refused")])
async def test_pcp_results_are_named(autojump_clock: MockClock, result: int, reason: str) -> None:
    async with lan(pcp(result)) as net:
        client = net.pcp()
        mapping = Mapping("udp", Endpoint(INSIDE, 6881), 7000, None, 3600)
        for call in (client.map("udp", 6881, 6881, 3600), client.unmap(mapping), client.probe()):
            with pytest.raises(PcpRefusal) as caught:
                await call
            assert caught.value.reason == reason


async def test_a_server_without_announce_has_answered_all_the_same(autojump_clock: MockClock) -> None:
    async with lan(pcp(4)) as net:
        await net.pcp().probe()


async def test_a_nat_pmp_server_is_recognised_by_its_version(autojump_clock: MockClock) -> None:
    async with lan(lambda request: [struct.pack("!BBHI", 0, 128 + request[1], 1, 5)]) as net:
        for call in (net.pcp().probe(), net.pcp().map("udp", 6881, 6881, 3600)):
            with pytest.raises(UnsupportedVersion) as caught:
                await call
            assert caught.value.version == 0


async def test_a_pcp_probe_gives_up_after_two_tries(autojump_clock: MockClock) -> None:
    async with lan() as net:
        with pytest.raises(RemoteError, match="timed-out"):
            await net.pcp().probe()
        assert len(net.asked) == 2


async def test_pcp_announcements_tell_of_restarts(autojump_clock: MockClock) -> None:
    async with lan(pcp(epoch=1000)) as net:
        client = net.pcp()
        await client.probe()
        for announcement in (
            b"",
            bytes(24),
            struct.pack("!BBBBII12x", 2, 128, 0, 3, 0, 0),
            pcp(epoch=1000)(bytes(24))[0],
        ):
            client.hear(announcement)
        assert net.restarts == 0
        client.hear(pcp(epoch=0)(bytes(24))[0])
        assert net.restarts == 1


async def test_a_lost_address_is_unreachable(autojump_clock: MockClock) -> None:
    async with lan() as net:
        net.host.remove_address(INSIDE)
        for call in (net.pcp().probe(), net.natpmp().probe(), discover(net.host, INSIDE, "eth0", print, print)):
            with pytest.raises(RemoteError) as caught:
                await call
            assert caught.value.reason == "unreachable"


# ---- UPnP


CONTROL = f"http://{ROUTER}:5000/ctl"
FOUND = FoundDevice(
    ROUTER,
    Device("box", 1, (Service("urn:schemas-upnp-org:service:WANIPConnection:1", CONTROL),), None),
)


class Box:
    """A device that answers each action by what ``habits`` says: results, an error code, or raw bytes."""

    def __init__(self, net: Lan, **habits: Any) -> None:
        self.net = net
        self.habits = habits
        self.calls: list[tuple[str, str]] = []

    @asynccontextmanager
    async def client(self) -> AsyncIterator[IgdClient]:
        async with trio.open_nursery() as nursery:
            listener = await self.net.router.listen_tcp(Endpoint(ROUTER, 5000))
            nursery.start_soon(self._serve, listener, nursery)
            yield IgdClient(self.net.host, INSIDE, FOUND, random.Random(3))
            nursery.cancel_scope.cancel()
            listener.close()

    async def _serve(self, listener: Any, nursery: trio.Nursery) -> None:
        while True:
            nursery.start_soon(self._answer, await listener.accept())

    async def _answer(self, stream: Stream) -> None:
        text = ""
        while "</s:Envelope>" not in text:
            text += (await stream.receive_some()).decode()
        action = text.partition("#")[2].partition('"')[0]
        port = text.partition("<NewExternalPort>")[2].partition("<")[0]
        self.calls.append((action, port))
        habit = self.habits.get(action, 714 if action == "GetSpecificPortMappingEntry" else {})
        if callable(habit):
            habit = habit(text)
        await stream.send_all(self._response(action, habit))
        await stream.aclose()

    def _response(self, action: str, habit: Any) -> bytes:
        if isinstance(habit, bytes):
            return habit
        if isinstance(habit, int):
            inner = f"<s:Fault><detail><UPnPError><errorCode>{habit}</errorCode></UPnPError></detail></s:Fault>"
        else:
            results = "".join(f"<{name}>{value}</{name}>" for name, value in habit.items())
            inner = f'<u:{action}Response xmlns:u="x">{results}</u:{action}Response>'
        body = f'<s:Envelope xmlns:s="y"><s:Body>{inner}</s:Body></s:Envelope>'
        status = "500 Error" if isinstance(habit, int) else "200 OK"
        return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


async def test_a_port_that_another_host_has_is_left_to_it(autojump_clock: MockClock) -> None:
    def entry(text: str) -> Any:
        taken = "<NewExternalPort>6881<" in text
        return {"NewInternalClient": "10.0.1.9", "NewInternalPort": "6881"} if taken else 714

    async with lan() as net:
        box = Box(net, GetSpecificPortMappingEntry=entry, GetExternalIPAddress={"NewExternalIPAddress": "20.50.0.1"})
        async with box.client() as client:
            mapping = await client.map("tcp", 6881, 6881, 3600)
        added = [port for action, port in box.calls if action == "AddPortMapping"]
        assert added == [str(mapping.external_port)] != ["6881"]
        assert mapping.external_port in range(49152, 65536)


async def test_a_gateway_where_everything_is_taken_is_asked_five_times(autojump_clock: MockClock) -> None:
    async with lan() as net:
        box = Box(net, AddPortMapping=718)
        async with box.client() as client:
            with pytest.raises(RemoteError, match="conflict"):
                await client.map("tcp", 6881, 6881, 3600)
        assert len([action for action, _ in box.calls if action == "AddPortMapping"]) == 5


async def test_only_permanent_leases_are_asked_for_once_that_is_known(autojump_clock: MockClock) -> None:
    async with lan() as net:
        box = Box(net, AddPortMapping=lambda text: {} if "<NewLeaseDuration>0<" in text else 725)
        async with box.client() as client:
            assert (await client.map("udp", 6881, 6881, 3600)).lifetime == PERMANENT
            await client.map("tcp", 6881, 6881, 3600)
        assert [action for action, _ in box.calls].count("AddPortMapping") == 3


async def test_a_gateway_that_accepts_no_lease_at_all(autojump_clock: MockClock) -> None:
    async with lan() as net, Box(net, AddPortMapping=725).client() as client:
        with pytest.raises(RemoteError, match="permanent-only"):
            await client.map("udp", 6881, 6881, 3600)


@pytest.mark.parametrize("text", ["", "0.0.0.0", "nothing", "1.2.3"])
async def test_a_gateway_that_does_not_tell_its_address_still_maps(autojump_clock: MockClock, text: str) -> None:
    async with lan() as net:
        async with Box(net, GetExternalIPAddress={"NewExternalIPAddress": text}).client() as client:
            mapping = await client.map("udp", 6881, 6881, 3600)
        assert mapping.external == Endpoint("0.0.0.0", 6881)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ({"NewConnectionStatus": "Connected"}, NO_ADDRESS),
        ({"NewConnectionStatus": "Disconnected"}, None),
        ({}, None),
        (401, None),
    ],
)
async def test_a_device_without_an_address_has_none_if_it_is_connected(
    autojump_clock: MockClock, status: Any, told: str | None
) -> None:
    async with lan() as net:
        box = Box(net, GetExternalIPAddress={"NewExternalIPAddress": ""}, GetStatusInfo=status)
        async with box.client() as client:
            assert await client.external_host() == told
            assert (await client.map("udp", 6881, 6881, 3600)).external == Endpoint("0.0.0.0", 6881)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (address(5), "20.50.0.1"),
        (struct.pack("!BBHI4x", 0, 128, 3, 0), NO_ADDRESS),
        (struct.pack("!BBHI", 0, 128, 2, 0), None),
        (None, None),
    ],
)
async def test_without_a_mapping_nat_pmp_tells_the_address_to_pcp(
    autojump_clock: MockClock, answer: bytes | None, told: str | None
) -> None:
    async with lan(lambda request: [] if answer is None or request != bytes(2) else [answer]) as net:
        assert await net.pcp().external_host() is None
        assert await net.pcp(natpmp=net.natpmp()).external_host() == told


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (501, "failed"),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "bad-response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnope", "bad-response"),
        (b"HTTP/1.1 500 Error\r\nContent-Length: 0\r\n\r\n", "bad-response"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://10.0.1.3/\r\nContent-Length: 0\r\n\r\n", "bad-response"),
        (b"\x16\x03\x01 not http\r\n\r\n", "bad-response"),
        (b"", "unreachable"),
    ],
)
async def test_answers_of_no_use_are_named(autojump_clock: MockClock, answer: Any, reason: str) -> None:
    async with lan() as net, Box(net, AddPortMapping=answer).client() as client:
        with pytest.raises(RemoteError) as caught:
            await client.map("udp", 6881, 6881, 3600)
        assert caught.value.reason == reason


async def test_closing_what_is_not_open_is_no_error(autojump_clock: MockClock) -> None:
    mapping = Mapping("udp", Endpoint(INSIDE, 6881), 7000, None, 3600)
    async with lan() as net:
        async with Box(net, DeletePortMapping=714).client() as client:
            await client.unmap(mapping)
        async with Box(net, DeletePortMapping=606).client() as client:
            with pytest.raises(RemoteError, match="refused"):
                await client.unmap(mapping)


async def test_nobody_listens_where_the_description_was(autojump_clock: MockClock) -> None:
    answer = (
        "HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
        f"LOCATION: http://{ROUTER}:5000/x\r\n\r\n"
    ).encode()
    failures: list[tuple[str, str]] = []
    async with lan() as net, trio.open_nursery() as nursery:
        ssdp = Endpoint("0.0.0.0", 1900)
        bound = await net.router.bind_udp(ssdp, shared=True, multicast_group="239.255.255.250")
        nursery.start_soon(net.serve, lambda request: [answer, b"garbage"], bound)
        await discover(net.host, INSIDE, "eth0", print, lambda host, error: failures.append((host, error.reason)))
        assert failures == [(ROUTER, "unreachable")]
        assert len(net.asked) == 6
        nursery.cancel_scope.cancel()


async def test_a_device_that_is_slow_to_describe_itself_is_waited_for_and_then_named(autojump_clock: MockClock) -> None:
    answer = (
        "HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
        f"LOCATION: http://{ROUTER}:5000/x\r\n\r\n"
    ).encode()
    failures: list[tuple[str, str]] = []
    async with lan() as net, trio.open_nursery() as nursery:
        bound = await net.router.bind_udp(Endpoint("0.0.0.0", 1900), shared=True, multicast_group="239.255.255.250")
        nursery.start_soon(net.serve, lambda request: [answer], bound)
        await net.router.listen_tcp(Endpoint(ROUTER, 5000))
        before = trio.current_time()
        await discover(net.host, INSIDE, "eth0", print, lambda host, error: failures.append((host, error.reason)))
        assert trio.current_time() - before == pytest.approx(10, abs=0.1)
        assert failures == [(ROUTER, "timed-out")]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("victim", ["127.0.0.1", INSIDE, "10.0.1.3"])
async def test_a_device_that_redirects_makes_us_ask_nobody_else(autojump_clock: MockClock, victim: str) -> None:
    """The description lies where the answer came from; it led on to any service here or beside us, by one GET each."""
    answer = (
        "HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
        f"LOCATION: http://{ROUTER}:5000/x\r\n\r\n"
    ).encode()
    failures: list[tuple[str, str]] = []
    asked: list[Endpoint] = []

    async def redirect(listener: Any) -> None:
        stream = await listener.accept()
        await stream.receive_some()
        location = f"http://{victim}:9091/transmission/rpc?stop=all"
        await stream.send_all(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())

    async def be_asked(host: Host) -> None:
        listener = await host.listen_tcp(Endpoint("0.0.0.0", 9091))
        while True:
            asked.append((await listener.accept()).remote)

    async with lan() as net, trio.open_nursery() as nursery:
        bound = await net.router.bind_udp(Endpoint("0.0.0.0", 1900), shared=True, multicast_group="239.255.255.250")
        nursery.start_soon(net.serve, lambda request: [answer], bound)
        nursery.start_soon(redirect, await net.router.listen_tcp(Endpoint(ROUTER, 5000)))
        for host in (net.host, net.stranger):
            nursery.start_soon(be_asked, host)
        await discover(net.host, INSIDE, "eth0", print, lambda host, error: failures.append((host, error.reason)))
        assert (asked, failures) == ([], [(ROUTER, "bad-response")])
        nursery.cancel_scope.cancel()


def test_a_device_is_used_for_what_it_has_only() -> None:
    nothing = FoundDevice(ROUTER, Device("box", 1, (), None))
    with pytest.raises(ValueError, match="no connection service"):
        IgdClient(None, INSIDE, nothing, random.Random(1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no firewall control"):
        PinholeClient(None, "2a0e::a", nothing, INSIDE)  # type: ignore[arg-type]


# ---- miniupnpc


class FakeLibrary:
    """What of miniupnpc.UPnP is used; ``taken`` ports are another host's."""

    def __init__(self, taken: set[int] = frozenset(), error: str = "") -> None:  # type: ignore[assignment]
        self.taken = taken
        self.error = error
        self.added: list[tuple[int, int]] = []

    def getspecificportmapping(self, port: int, protocol: str) -> Any:
        return ("10.0.1.9", port, "x", True, 0) if port in self.taken else None

    def addportmapping(
        self, port: int, protocol: str, host: str, inside: int, text: str, remote: str, lease: int
    ) -> bool:
        if self.error == "OnlyPermanentLeasesSupported" and lease == 0:
            self.error = ""
        if self.error:
            raise Exception(self.error)
        self.added.append((port, lease))
        return True

    def deleteportmapping(self, port: int, protocol: str) -> bool:
        raise Exception("NoSuchEntryInArray")

    def externalipaddress(self) -> str:
        return "20.50.0.1"


def library(**options: Any) -> tuple[miniupnpc.MiniupnpcClient, FakeLibrary]:
    fake = FakeLibrary(**options)
    return miniupnpc.MiniupnpcClient(fake, f"http://{ROUTER}:5000/x", INSIDE, random.Random(1)), fake


async def test_the_library_maps_like_our_own_client() -> None:
    client, fake = library(taken={6881})
    mapping = await client.map("udp", 6881, 6881, 600)
    assert client.gateway == ROUTER
    assert (mapping.external_host, mapping.lifetime) == ("20.50.0.1", 600)
    assert fake.added == [(mapping.external_port, 600)]
    assert mapping.external_port != 6881
    await client.unmap(mapping)
    await client.probe()


@pytest.mark.parametrize(
    ("text", "reason"),
    [("ConflictInMappingEntry", "conflict"), ("Action not authorized", "refused"), ("Something new", "failed")],
)
async def test_errors_of_the_library_are_named(text: str, reason: str) -> None:
    client, _ = library(error=text)
    with pytest.raises(RemoteError) as caught:
        await client.map("udp", 6881, 6881, 600)
    assert caught.value.reason == reason


async def test_permanent_leases_by_the_library() -> None:
    client, fake = library(error="OnlyPermanentLeasesSupported")
    assert (await client.map("udp", 6881, 6881, 600)).lifetime == PERMANENT
    assert fake.added == [(6881, 0)]


async def test_a_call_of_the_library_that_hangs_keeps_nobody() -> None:
    """Its thread ends when the call does; who was waiting goes on at once."""
    client, fake = library()
    hanging = threading.Event()
    fake.externalipaddress = lambda: str(hanging.wait(10))  # type: ignore[method-assign]
    began = time.monotonic()
    try:
        with trio.move_on_after(0.05) as scope:
            await client.external_host()
        assert scope.cancelled_caught
        assert time.monotonic() - began < 5
    finally:
        hanging.set()


def test_its_search_takes_half_a_second_at_most() -> None:
    assert miniupnpc.DISCOVER_DELAY <= 500


async def test_without_the_library_there_is_a_named_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(miniupnpc, "is_available", lambda: False)
    with pytest.raises(RemoteError, match="unsupported"):
        await miniupnpc.open_miniupnpc(INSIDE, random.Random(1))
