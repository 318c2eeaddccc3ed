"""NatProbe and sw_reach's dial-back on the simulated internet: real UDP ports behind each NAT of the catalogue.

What others say comes from DHT nodes and a STUN server on one socket, as in a node; the words are what the NAT was made
to do.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Literal, TypeVar

import pytest
import trio
from trio.testing import MockClock

from dht import DhtConfig
from dht.results import AddressObserved, Result
from swarm.connect.dial import Link, dial_tcp, dial_utp
from swarm.connect.dial_back import dial_back
from swarm.connect.encrypted import Encryption
from swarm.connect.natprobe import NatProbe
from swarm.connect.reachability import FAILURES, ReachabilityProbe
from swarm.connect.report import NatReport
from swarm.connect.shake import shake_as_acceptor
from swarm.connect.votes import QUORUM
from swarm.endpoint import Endpoint
from swarm.ext.reach_desk import DIAL_SECONDS
from swarm.ext.reach_message import Outcome, Transport, nonce_of
from swarm.net.nat_discovery import discover_nat
from swarm.net.network import Outgoing, Received, Stream
from swarm.net.udp_port import UdpPort
from swarm.simnet.catalogue import KINDS, behind
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.nat import Dependence, NatBehaviour
from swarm.wire.encryption import hash_of_torrent
from swarm.wire.handshake import Handshake
from tests.net.stun_server import StunServer
from tests.simnet.verdicts import expected
from utp.config import UtpConfig

T = TypeVar("T")
PORT = 6881
NODES = 8
ANY = Endpoint("0.0.0.0", PORT)
EI, APD = "endpoint-independent", "address-and-port-dependent"
INFO_HASH = b"h" * 20


class Node:
    """A UDP port with what looks at it, wired as a node does it."""

    def __init__(self, host: Host, number: int) -> None:
        self.host = host
        self.number = number
        self.probe = NatProbe(ipv6=False)
        self.routers: tuple[Endpoint, ...] = ()
        self.port: UdpPort

    async def open(self, nursery: trio.Nursery) -> None:
        self.probe.bound(PORT, [self.host.ipv4], trio.current_time())
        self.port = UdpPort(
            await self.host.bind_udp(ANY),
            random.Random(self.number),
            utp=UtpConfig(),
            dht=DhtConfig(routers=self.routers),
            on_dht_fact=self._learned,
            stun=True,
        )
        nursery.start_soon(self.port.run)
        assert self.port.dht is not None
        self.port.dht.start()

    def _learned(self, fact: Result) -> None:
        if isinstance(fact, AddressObserved):
            self.probe.observed(Endpoint(*fact.reporter), Endpoint(*fact.observed), trio.current_time(), source="dht")

    async def ask_stun(self, server: Endpoint) -> None:
        assert self.port.stun is not None
        found = await discover_nat(self.port.stun, server, own=[Endpoint(self.host.ipv4, PORT)])
        self.probe.stun_says(found, trio.current_time())

    def report(self) -> NatReport:
        return self.probe.report(trio.current_time())


@asynccontextmanager
async def nodes(internet: Internet) -> AsyncIterator[tuple[Endpoint, trio.Nursery]]:
    """A small DHT of public nodes; where to begin, and a nursery for more."""
    async with trio.open_nursery() as nursery:
        first = Node(internet.host("node0"), 0)
        await first.open(nursery)
        start = Endpoint(first.host.ipv4, PORT)
        for number in range(1, NODES):
            node = Node(internet.host(f"node{number}"), number)
            node.routers = (start,)
            await node.open(nursery)
        await trio.sleep(10)
        yield start, nursery
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_server(internet: Internet) -> AsyncIterator[Endpoint]:
    hosts = internet.free_ipv4(), internet.free_ipv4()
    server = StunServer(internet.host("stun", *hosts), hosts)
    async with trio.open_nursery() as nursery:
        await server.open(nursery)
        yield server.endpoint
        nursery.cancel_scope.cancel()


async def stand(kind: str | NatBehaviour, *, stun: bool, seed: int = 3) -> tuple[NatReport, Internet]:
    """The report of a node that has joined the DHT from behind a NAT."""
    async with AsyncExitStack() as stack:
        internet = await stack.enter_async_context(open_internet(seed=seed))
        server = await stack.enter_async_context(open_server(internet))
        start, nursery = await stack.enter_async_context(nodes(internet))
        if isinstance(kind, str):
            host = behind(internet, kind, "a")
        else:
            host = internet.host("a", router=internet.router("a-home", kind))
        node = Node(host, 100)
        node.routers = (start,)
        await node.open(nursery)
        if "a-carrier" in internet.routers:
            node.probe.gateway_says(internet.routers["a-home"].wan, trio.current_time())
        await trio.sleep(5)
        if stun:
            await node.ask_stun(server)
        return node.report(), internet
    raise AssertionError("not reached")


@pytest.mark.parametrize("kind", [kind for kind, what in KINDS.items() if not what.ipv6])
async def test_the_report_is_what_the_catalogue_says(autojump_clock: MockClock, kind: str) -> None:
    report, internet = await stand(kind, stun=True)
    assert (report.mapping, report.filtering) == expected(kind), report.evidence
    if report.mapping == "unknown":
        assert report == NatReport()
        return
    outermost = internet.routers.get("a-carrier") or internet.routers.get("a-home")
    outside = outermost.wan if outermost is not None else internet.hosts["a"].ipv4
    assert {endpoint.host for endpoint in report.external} == {outside}
    assert report.port_step == {"symseq": 1, "symrand": 0, "cgnsym": 0}.get(kind)
    assert report.port_preserving is (report.mapping != APD)
    assert report.double_nat is (False if kind == "open" else True if kind.startswith("cgn") else None)


@pytest.mark.parametrize("kind", ["open", "cone", "symseq", "symrand", "cgnsym"])
async def test_the_dht_alone_tells_how_a_nat_maps(autojump_clock: MockClock, kind: str) -> None:
    report, _ = await stand(kind, stun=False)
    assert report.mapping == expected(kind)[0], report.evidence
    assert report.filtering in ("unknown", "none")
    assert report.port_step == {"symseq": 1, "symrand": 0, "cgnsym": 0}.get(kind)


@pytest.mark.parametrize("step", [2, 7])
async def test_the_step_of_a_sequence_is_measured(autojump_clock: MockClock, step: int) -> None:
    behaviour = NatBehaviour(mapping=Dependence.ADDRESS_AND_PORT_DEPENDENT, allocation="sequential", step=step)
    report, _ = await stand(behaviour, stun=False)
    assert (report.mapping, report.port_step) == (APD, step)


async def test_too_few_nodes_decide_nothing(autojump_clock: MockClock) -> None:
    async with open_internet(seed=3) as internet, trio.open_nursery() as nursery:
        others = [Node(internet.host(f"node{number}"), number) for number in range(QUORUM - 1)]
        for other in others:
            await other.open(nursery)
        node = Node(behind(internet, "cone"), 9)
        node.routers = tuple(Endpoint(other.host.ipv4, PORT) for other in others)
        await node.open(nursery)
        await trio.sleep(20)
        report = node.report()
        assert (report.mapping, report.filtering, node.probe.external(trio.current_time())) == (
            "unknown",
            "unknown",
            None,
        )
        assert report.evidence == ("Networks that told us where they see us: 3 (DHT 3); 4 decide.",)
        nursery.cancel_scope.cancel()


# ---- the dial-back, on real sockets


async def inline(function: Callable[..., T], /, *arguments: object) -> T:
    """A runner without threads: under MockClock a thread's 0.2 s are an hour."""
    await trio.lowlevel.checkpoint()
    return function(*arguments)


class Listener:
    """Accepts µTP and TCP as an acceptor does: reads a handshake, answers, and looks at the peer id."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.reachability = ReachabilityProbe(
            random.Random(1), trio.current_time(), is_own=lambda other: other == host.ipv4
        )
        self.port: UdpPort

    async def open(self, nursery: trio.Nursery) -> None:
        socket = await self.host.bind_udp(ANY)
        receive = socket.receive_nowait

        def looked_at() -> list[Received]:
            batch = receive()
            for received in batch:
                self.reachability.came_in("utp", received.path.remote, trio.current_time())
            return batch

        send = socket.send_nowait

        def noted(outgoing: Outgoing) -> None:
            self.reachability.sent_to["utp"].sent(outgoing.path.remote, trio.current_time())
            send(outgoing)

        socket.receive_nowait, socket.send_nowait = looked_at, noted  # type: ignore[method-assign]
        self.port = UdpPort(socket, random.Random(2), utp=UtpConfig())
        nursery.start_soon(self.port.run)
        listener = await self.host.listen_tcp(ANY)
        assert self.port.utp is not None
        nursery.start_soon(partial(self._serve, nursery), listener.accept, "tcp")
        nursery.start_soon(partial(self._serve, nursery), self.port.utp.accept, "utp")

    async def _serve(
        self, nursery: trio.Nursery, accept: Callable[[], Awaitable[Stream]], transport: Transport
    ) -> None:
        while True:
            stream = await accept()
            if transport == "tcp":
                self.reachability.came_in("tcp", stream.remote, trio.current_time())
            nursery.start_soon(self._welcome, stream, transport)

    async def _welcome(self, stream: Stream, transport: Transport) -> None:
        ours = Handshake(INFO_HASH, b"-SW0100-abcdefghijkl")
        encryption = Encryption("prefer", {hash_of_torrent(INFO_HASH): INFO_HASH}.get, random.Random(1), inline)
        _, theirs = await shake_as_acceptor(Link(stream, transport), lambda info_hash: ours, encryption)
        nonce = nonce_of(theirs.peer_id)
        assert nonce is not None
        self.reachability.dialled_back(nonce, stream.remote, transport, trio.current_time())
        with trio.move_on_after(5), suppress(trio.BrokenResourceError):
            await stream.receive_some()  # until it hangs up: what is sent may not be there yet
        stream.abort()


class Dialler:
    """A public peer of a helper's."""

    def __init__(self, host: Host, policy: Literal["prefer", "require"] = "prefer") -> None:
        self.host = host
        self.policy = policy
        self.port: UdpPort

    async def open(self, nursery: trio.Nursery) -> None:
        self.port = UdpPort(await self.host.bind_udp(ANY), random.Random(5), utp=UtpConfig())
        await self.host.listen_tcp(ANY)
        nursery.start_soon(self.port.run)

    async def dial_back(self, endpoint: Endpoint, transport: Transport, nonce: bytes) -> Outcome:
        assert self.port.utp is not None
        dial = partial(dial_tcp, self.host, endpoint, from_port=PORT)
        if transport == "utp":
            dial = partial(dial_utp, self.port.utp, endpoint)
        encryption = Encryption(self.policy, lambda key: None, random.Random(1), inline)
        return await dial_back(dial, INFO_HASH, nonce, encryption)


VERDICTS: dict[tuple[str, Transport], bool] = {
    ("open", "utp"): True,
    ("open", "tcp"): True,
    ("fullcone", "utp"): True,
    ("restricted", "utp"): False,
    ("cone", "utp"): False,
    ("cone", "tcp"): False,
    ("udpblock", "utp"): False,
    ("symrand", "utp"): False,
}


@pytest.mark.parametrize(("kind", "transport"), VERDICTS)
async def test_a_dial_back_from_a_stranger_tells_who_is_reachable(
    autojump_clock: MockClock, kind: str, transport: Transport
) -> None:
    async with open_internet(seed=3) as internet, trio.open_nursery() as nursery:
        asker = Listener(behind(internet, kind, "a"))
        await asker.open(nursery)
        home = internet.routers.get("a-home")
        outside = Endpoint(home.wan if home is not None else asker.host.ipv4, PORT)
        for number in range(FAILURES):
            helper = Endpoint(internet.host(f"helper{number}").ipv4, PORT)
            with trio.move_on_after(1):  # the connection to the helper: it makes the mapping
                assert asker.port.utp is not None
                await asker.port.utp.dial(helper)
            dialler = Dialler(internet.host(f"dialler{number}"))
            await dialler.open(nursery)
            probe = asker.reachability.probe(helper, transport, outside, trio.current_time())
            if probe is None:
                break  # it is known by now
            outcome = await dialler.dial_back(outside, transport, probe.nonce)
            await trio.sleep(0.1)
            asker.reachability.answered(helper, probe.nonce, outcome, trio.current_time())
        verdict = asker.reachability.verdict(transport, trio.current_time(), ipv6=False)
        assert verdict is VERDICTS[kind, transport]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("policy", ["prefer", "require"])
async def test_a_nonce_is_presented_inside_encryption_too(
    autojump_clock: MockClock, policy: Literal["prefer", "require"]
) -> None:
    async with open_internet(seed=3) as internet, trio.open_nursery() as nursery:
        asker, dialler = Listener(internet.host("a")), Dialler(internet.host("b"), policy)
        await asker.open(nursery)
        await dialler.open(nursery)
        outside = Endpoint(asker.host.ipv4, PORT)
        probe = asker.reachability.probe(Endpoint("21.0.0.1", 5), "tcp", outside, trio.current_time())
        assert probe is not None
        assert await dialler.dial_back(outside, "tcp", probe.nonce) == "connected"
        await trio.sleep(0.1)
        assert asker.reachability.report(trio.current_time()).tcp4
        nursery.cancel_scope.cancel()


async def test_what_stops_a_dial_is_told_apart(autojump_clock: MockClock) -> None:
    async with open_internet(seed=3) as internet, trio.open_nursery() as nursery:
        dialler = Dialler(internet.host("b"))
        await dialler.open(nursery)
        deaf = internet.host("deaf")
        nobody = Endpoint("20.255.255.1", PORT)
        nonce = bytes(12)
        assert await dialler.dial_back(Endpoint(deaf.ipv4, PORT), "tcp", nonce) == "refused"
        assert await dialler.dial_back(nobody, "tcp", nonce) == "timed-out"
        assert await dialler.dial_back(nobody, "utp", nonce) == "timed-out"
        assert await dialler.dial_back(Endpoint("2a0e::1", PORT), "tcp", nonce) == "failed"
        mute = await deaf.listen_tcp(ANY)
        started = trio.current_time()
        assert await dialler.dial_back(Endpoint(deaf.ipv4, PORT), "tcp", nonce) == "connected"
        assert trio.current_time() - started == pytest.approx(DIAL_SECONDS)
        mute.close()
        nursery.cancel_scope.cancel()
