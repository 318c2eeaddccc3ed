"""The mapper against simulated gateways: what is opened, kept, lost and made again, in virtual time."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.events import Event, PortMapped, PortMappingFailed, PortMappingLost
from swarm.gateway import session
from swarm.gateway.clients import miniupnpc
from swarm.gateway.lans import Lan
from swarm.gateway.mapper import Mapper
from swarm.gateway.report import LeaseReport
from swarm.net.network import DatagramSocket, Listener, Outgoing, Path
from swarm.simnet.catalogue import CONE
from swarm.simnet.gateway import open_gateway
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.nat import FirewallBehaviour
from swarm.simnet.opener import GatewayBehaviour
from swarm.simnet.router import Router

PORT = 6881
WAN = "20.50.0.1"
BOTH = {"udp", "tcp"}


class Home:
    """A gateway, a machine behind it that runs a mapper, and a stranger outside."""

    def __init__(self, internet: Internet, *, ipv6: bool, wan: str) -> None:
        self.internet = internet
        self.router = internet.router("r", CONE, firewall=FirewallBehaviour() if ipv6 else None, wan=wan)
        addresses = [self.router.free_lan_address()]
        if ipv6:
            self.router.add_lan_ipv6("2a0e:50::1")
            addresses.append("2a0e:50::a")
        self.host = internet.host("h", *addresses, router=self.router)
        self.neighbour = internet.host("n", router=self.router)
        self.stranger = internet.host("s", "20.60.0.1", "2a0e:60::1")
        self.events: list[tuple[float, Event]] = []
        self.slept = 0.0
        self._started = trio.current_time()
        self.mapper = self.new_mapper(self.host, self.note)

    def new_mapper(self, host: Host, emit: Any = lambda event: None, **options: Any) -> Mapper:
        rng = random.Random(7)
        return Mapper(host, PORT, emit=emit, rng=rng, suspended=lambda: self.slept, **options)

    def note(self, event: Event) -> None:
        self.events.append((trio.current_time() - self._started, event))

    def told(self, kind: type[Event], since: float = 0.0) -> list[Any]:
        return [event for time, event in self.events if isinstance(event, kind) and time >= since]

    def methods(self) -> dict[tuple[str, str], Endpoint | None]:
        """What is held, by method and transport."""
        reports = self.mapper.statistics()
        return {(each.method, each.transport): each.external for each in reports if each.external is not None}

    def errors(self) -> dict[str, str | None]:
        return {each.method: each.error for each in self.mapper.statistics() if each.external is None}

    async def reaches(self, external: Endpoint) -> set[str]:
        """By which transports a stranger gets in to `listening`."""
        reached = set()
        wildcard = "::" if external.is_ipv6 else "0.0.0.0"
        bound = await self.stranger.bind_udp(Endpoint(wildcard, 0))
        bound.send_nowait(Outgoing([b"knock"], 5, Path(None, external)))
        with trio.move_on_after(1):
            await bound.wait_readable()
            reached.add("udp")
        bound.close()
        with trio.move_on_after(1):
            stream = await self.stranger.dial_tcp(external)
            reached.add("tcp")
            stream.abort()
        return reached


@asynccontextmanager
async def home(
    *protocols: Any, ipv6: bool = False, wan: str = WAN, gateway: bool = True, **behaviour: Any
) -> AsyncIterator[Home]:
    """A running mapper whose machine listens on PORT; it is stopped at the end."""
    async with open_internet() as internet:
        made = Home(internet, ipv6=ipv6, wan=wan)
        if gateway:
            open_gateway(internet, made.router, GatewayBehaviour(protocols=frozenset(protocols), **behaviour))
        async with trio.open_nursery() as nursery:
            for wildcard in ("0.0.0.0", "::") if ipv6 else ("0.0.0.0",):
                nursery.start_soon(echo, await made.host.bind_udp(Endpoint(wildcard, PORT)))
                nursery.start_soon(accept, await made.host.listen_tcp(Endpoint(wildcard, PORT)))
            nursery.start_soon(made.mapper.run)
            yield made
            nursery.cancel_scope.cancel()


async def echo(bound: DatagramSocket) -> None:
    while True:
        await bound.wait_readable()
        for received in bound.receive_nowait():
            data = bytes(received.data)
            bound.send_nowait(Outgoing([data], len(data), Path(None, received.path.remote)))


async def accept(listener: Listener) -> None:
    while True:
        (await listener.accept()).abort()


def router_address(router: Router) -> str:
    return router.inside.ipv4


# ---- one method at a time


@pytest.mark.parametrize(
    ("protocols", "method", "seconds"),
    [
        (("pcp",), "pcp", 0.1),
        (("natpmp",), "nat-pmp", 0.1),
        (("upnp",), "upnp-igd2", 0.6),
        (("natpmp", "pcp", "upnp"), "pcp", 0.1),
        (("natpmp", "upnp"), "nat-pmp", 0.1),
    ],
)
async def test_the_best_protocol_of_the_gateway_opens_both_ports(
    autojump_clock: MockClock, protocols: tuple[str, ...], method: str, seconds: float
) -> None:
    async with home(*protocols) as net:
        await trio.sleep(15)
        external = Endpoint(WAN, PORT)
        assert net.methods() == {(method, "udp"): external, (method, "tcp"): external}
        assert [time < seconds for time, event in net.events if isinstance(event, PortMapped)] == [True, True]
        assert net.told(PortMapped)[0] == PortMapped(
            method, "udp", router_address(net.router), Endpoint(net.host.ipv4, PORT), external
        )
        assert await net.reaches(external) == BOTH
        assert [net.mapper.external_port(one, 4) for one in ("udp", "tcp")] == [PORT, PORT]  # type: ignore[arg-type]
        assert net.mapper.external_port("udp", 6) is None
        assert net.mapper.double_nat is False
        assert net.mapper.advice() == ()


async def test_an_igd_of_version_1_is_named_so(autojump_clock: MockClock) -> None:
    async with home("upnp", igd_version=1) as net:
        await trio.sleep(5)
        assert set(net.methods()) == {("upnp-igd1", "udp"), ("upnp-igd1", "tcp")}


@pytest.mark.parametrize(("protocol", "longest"), [("pcp", 600), ("natpmp", 600), ("natpmp", 60), ("upnp", 600)])
async def test_leases_are_renewed_for_hours_and_closed_at_the_end(
    autojump_clock: MockClock, protocol: str, longest: int
) -> None:
    async with home(protocol, longest_lease=longest) as net:
        await trio.sleep(8000)
        assert len(net.told(PortMapped)) == 2
        assert net.told(PortMappingLost) == []
        assert await net.reaches(Endpoint(WAN, PORT)) == BOTH
        router, now = net.router, trio.current_time
    assert router.nat is not None
    assert router.nat.forward_count(now()) == 0


async def test_ports_are_given_up_within_a_second_when_the_gateway_is_silent(autojump_clock: MockClock) -> None:
    async with home("pcp") as net:
        await trio.sleep(5)
        net.router.inside.connect(False)
        before = trio.current_time()
    assert trio.current_time() - before <= 1.0


# ---- ports and refusals


@pytest.mark.parametrize(
    ("protocol", "changes"),
    [("pcp", {}), ("natpmp", {}), ("upnp", {}), ("upnp", {"igd_version": 1})],
    ids=["pcp", "natpmp", "igd2", "igd1"],
)
async def test_a_taken_port_is_replaced_by_the_same_other_one_for_both(
    autojump_clock: MockClock, protocol: str, changes: dict[str, Any]
) -> None:
    async with home(protocol, **changes) as net:
        await trio.sleep(10)
        second = net.new_mapper(net.neighbour)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.run)
            await trio.sleep(10)
            ports = [second.external_port("udp", 4), second.external_port("tcp", 4)]
            assert None not in ports
            assert PORT not in ports
            assert ports[0] == ports[1]
            nursery.cancel_scope.cancel()
        assert await net.reaches(Endpoint(WAN, PORT)) == BOTH


async def test_the_outside_port_may_be_chosen(autojump_clock: MockClock) -> None:
    async with home("pcp") as net, trio.open_nursery() as nursery:
        second = net.new_mapper(net.neighbour, wanted_port=7777)
        nursery.start_soon(second.run)
        await trio.sleep(1)
        assert second.external("udp", 4) == Endpoint(WAN, 7777)
        nursery.cancel_scope.cancel()


async def test_a_gateway_of_permanent_leases_is_satisfied_and_cleaned_up(autojump_clock: MockClock) -> None:
    async with home("upnp", permanent_only=True) as net:
        await trio.sleep(5000)
        assert {each.expires_in for each in net.mapper.statistics() if each.external is not None} == {None}
        assert await net.reaches(Endpoint(WAN, PORT)) == BOTH
        router, now = net.router, trio.current_time
    assert router.nat is not None
    assert router.nat.forward_count(now()) == 0


@pytest.mark.parametrize(
    ("protocol", "changes", "method", "reason"),
    [
        ("pcp", {"refuses": True}, "pcp", "refused"),
        ("pcp", {"capacity": 0}, "pcp", "out-of-resources"),
        ("natpmp", {"refuses": True}, "nat-pmp", "refused"),
        ("natpmp", {"capacity": 0}, "nat-pmp", "out-of-resources"),
        ("upnp", {"refuses": True}, "upnp-igd2", "refused"),
        ("upnp", {"capacity": 0}, "upnp-igd2", "out-of-resources"),
    ],
)
async def test_refusals_are_named_once_and_tried_again(
    autojump_clock: MockClock, protocol: str, changes: dict[str, Any], method: str, reason: str
) -> None:
    async with home(protocol, **changes) as net:
        await trio.sleep(3600)
        assert net.errors()[method] == reason
        failures = [each for each in net.told(PortMappingFailed) if each.method == method]
        assert [(each.transport, each.reason) for each in failures] == [("udp", reason), ("tcp", reason)]
        assert net.mapper.external_port("udp", 4) is None


async def test_upnp_helps_out_at_once_where_port_control_refuses(autojump_clock: MockClock) -> None:
    async with home("natpmp", refuses=True) as net:
        open_gateway(net.internet, net.router, GatewayBehaviour(protocols=frozenset({"upnp"})))
        await trio.sleep(0.3)
        assert set(net.methods()) == {("upnp-igd2", "udp"), ("upnp-igd2", "tcp")}
        assert net.errors()["nat-pmp"] == "refused"


async def test_upnp_is_left_alone_until_port_control_is_gone(autojump_clock: MockClock) -> None:
    async with home("pcp") as net:
        open_gateway(net.internet, net.router, GatewayBehaviour(protocols=frozenset({"upnp"})))
        await trio.sleep(600)
        assert set(net.methods()) == {("pcp", "udp"), ("pcp", "tcp")}
        net.router.reboot()
        await trio.sleep(30)
        assert set(net.methods()) == {("pcp", "udp"), ("pcp", "tcp")}
        net.host.port().up.drop_if = lambda packet: packet.destination.port == 5351
        await trio.sleep(300)
        assert set(net.methods()) == {("upnp-igd2", "udp"), ("upnp-igd2", "tcp")}


async def test_the_library_is_the_last_resort_and_only_where_it_is_allowed(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    async def open_library(inside: str, rng: random.Random) -> None:
        opened.append(inside)
        raise RemoteError("no-gateway")

    monkeypatch.setattr(session, "open_miniupnpc", open_library)
    async with home(gateway=False) as net, trio.open_nursery() as nursery:
        await trio.sleep(50)
        assert opened == []
        nursery.start_soon(net.new_mapper(net.neighbour, miniupnpc=True).run)
        await trio.sleep(50)
        assert opened == [net.neighbour.ipv4]
        nursery.cancel_scope.cancel()


async def test_the_report_names_who_speaks_to_the_router(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Library:
        """What of miniupnpc.UPnP is used by who only wants a port."""

        def getspecificportmapping(self, port: int, protocol: str) -> None: ...

        def addportmapping(self, *arguments: object) -> bool:
            return True

        def deleteportmapping(self, port: int, protocol: str) -> bool:
            return True

        def externalipaddress(self) -> str:
            return WAN

    async def open_library(inside: str, rng: random.Random) -> miniupnpc.MiniupnpcClient:
        return miniupnpc.MiniupnpcClient(Library(), "http://10.0.1.1:5000/x", inside, rng)

    async def inline(call: Callable[[], object]) -> object:
        await trio.lowlevel.checkpoint()
        return call()

    monkeypatch.setattr(session, "open_miniupnpc", open_library)
    monkeypatch.setattr(miniupnpc, "_in_thread", inline)
    async with home(gateway=False) as net, trio.open_nursery() as nursery:
        mapper = net.new_mapper(net.neighbour, miniupnpc=True)
        nursery.start_soon(mapper.run)
        await trio.sleep(50)
        opened = [each for each in mapper.statistics() if each.external is not None]
        assert {(each.method, each.client) for each in opened} == {("upnp-igd1", "miniupnpc")}
        nursery.cancel_scope.cancel()
    async with home("upnp") as net:
        await trio.sleep(5)
        assert {each.client for each in net.mapper.statistics()} == {"swarm"}


async def test_a_gateway_that_keeps_ports_the_same_is_asked_for_ours(autojump_clock: MockClock) -> None:
    async with home("upnp", same_port_only=True, igd_version=1) as net, trio.open_nursery() as nursery:
        await trio.sleep(5)
        second = net.new_mapper(net.neighbour, wanted_port=7777)
        nursery.start_soon(second.run)
        await trio.sleep(5)
        errors = {each.error for each in second.statistics() if each.method == "upnp-igd1"}
        assert errors == {"conflict"}
        nursery.cancel_scope.cancel()
        assert await net.reaches(Endpoint(WAN, PORT)) == BOTH


# ---- restarts, changes, suspension


@pytest.mark.parametrize(
    ("protocol", "announces", "within"),
    [("pcp", True, 1), ("pcp", False, 62), ("natpmp", True, 1), ("natpmp", False, 62), ("upnp", False, 380)],
)
async def test_ports_are_opened_again_after_the_gateway_restarts(
    autojump_clock: MockClock, protocol: str, announces: bool, within: float
) -> None:
    async with home(protocol, announces=announces) as net:
        await trio.sleep(1000)
        net.router.reboot()
        await trio.sleep(within)
        assert await net.reaches(Endpoint(WAN, PORT)) == BOTH
        if protocol != "upnp":
            assert {each.reason for each in net.told(PortMappingLost)} == {"gateway-restarted"}
            assert len(net.told(PortMapped)) == 4


@pytest.mark.parametrize("protocol", ["pcp", "natpmp", "upnp"])
async def test_another_external_address_is_told(autojump_clock: MockClock, protocol: str) -> None:
    async with home(protocol) as net:
        await trio.sleep(1000)
        net.router.change_wan("20.50.0.2")
        await trio.sleep(380)
        external = Endpoint("20.50.0.2", PORT)
        assert set(net.methods().values()) == {external}
        assert net.told(PortMapped)[-1].external == external
        assert await net.reaches(external) == BOTH


async def test_another_address_inside_moves_the_ports(autojump_clock: MockClock) -> None:
    async with home("pcp") as net:
        await trio.sleep(100)
        old, new = net.host.ipv4, net.router.free_lan_address()
        net.host.remove_address(old)
        net.host.add_address(new)
        await trio.sleep(5)
        assert {each.reason for each in net.told(PortMappingLost)} == {"network-changed"}
        assert {each.internal.host for each in net.mapper.statistics()} == {new}
        external = net.mapper.external("udp", 4)
        assert external is not None
        assert await net.reaches(external) == BOTH


async def test_no_network_is_waited_out(autojump_clock: MockClock) -> None:
    async with home("natpmp") as net:
        await trio.sleep(100)
        net.host.connect(False)
        await trio.sleep(1)
        assert net.mapper.statistics() == ()
        await trio.sleep(10_000)
        net.host.connect(True)
        await trio.sleep(1)
        assert await net.reaches(Endpoint(WAN, PORT)) == BOTH


async def test_leases_that_ran_out_while_the_machine_slept_are_made_again(autojump_clock: MockClock) -> None:
    async with home("natpmp", longest_lease=600) as net:
        await trio.sleep(100)
        assert net.router.nat is not None
        for transport in ("udp", "tcp"):
            net.router.nat.remove_forward(transport, PORT)  # what the router did while we slept for an hour
        net.slept = 3600.0
        await trio.sleep(5.5)
        assert await net.reaches(Endpoint(WAN, PORT)) == BOTH
        assert {each.reason for each in net.told(PortMappingLost)} <= {"expired", "gateway-restarted"}
        assert len(net.told(PortMapped)) == 4


@pytest.mark.parametrize(("protocol", "method"), [("natpmp", "nat-pmp"), ("upnp", "upnp-igd2")])
async def test_a_gateway_that_appears_later_is_found(autojump_clock: MockClock, protocol: Any, method: str) -> None:
    async with home(gateway=False) as net:
        await trio.sleep(100)
        assert net.errors() == {"pcp": "timed-out", "nat-pmp": "timed-out", "upnp-igd1": "no-gateway"}
        open_gateway(net.internet, net.router, GatewayBehaviour(protocols=frozenset({protocol})))
        await trio.sleep(200)
        assert set(net.methods()) == {(method, "udp"), (method, "tcp")}
        assert ("upnp-igd1" in net.errors()) == (protocol != "upnp")
        assert ("pcp" in net.errors()) == (protocol == "upnp")


async def test_a_gateway_that_falls_silent_is_lost_in_minutes(autojump_clock: MockClock) -> None:
    async with home("pcp") as net:
        await trio.sleep(100)
        net.router.inside.connect(False)
        await trio.sleep(300)
        assert net.methods() == {}
        assert {each.reason for each in net.told(PortMappingLost)} == {"timed-out"}
        net.router.inside.connect(True)
        await trio.sleep(600)
        assert await net.reaches(Endpoint(WAN, PORT)) == BOTH


async def test_every_gateway_of_two_lans_is_used(autojump_clock: MockClock) -> None:
    async with home("pcp") as net:
        other = net.internet.router("r2", CONE, wan="100.64.9.9")
        open_gateway(net.internet, other, GatewayBehaviour(protocols=frozenset({"natpmp"})))
        net.host.attach(other.lan, other.free_lan_address(), interface="eth1")
        await trio.sleep(5)
        held = {(each.method, each.external) for each in net.mapper.statistics() if each.external is not None}
        assert held == {("pcp", Endpoint(WAN, PORT)), ("nat-pmp", Endpoint("100.64.9.9", PORT))}
        assert net.mapper.external("udp", 4) == Endpoint(WAN, PORT)
        assert net.mapper.double_nat is False
        assert "100.64.9.9, is itself private" in net.mapper.advice()[0]


def test_a_mapper_of_nothing_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="nothing to map"):
        Mapper(None, PORT, transports=(), emit=print, rng=random.Random(1))  # type: ignore[arg-type]


# ---- IPv6


@pytest.mark.parametrize(("protocols", "method"), [(("pcp",), "pcp"), (("upnp",), "pinhole")])
async def test_the_ipv6_firewall_is_opened_and_kept_open(
    autojump_clock: MockClock, protocols: tuple[str, ...], method: str
) -> None:
    async with home(*protocols, ipv6=True) as net:
        target = Endpoint("2a0e:50::a", PORT)
        await trio.sleep(5000)
        held = {each.method for each in net.mapper.statistics() if each.external == target}
        assert held == {method}
        assert net.mapper.external_port("tcp", 6) == PORT
        assert await net.reaches(target) == BOTH
        net.router.reboot()
        await trio.sleep(380)
        assert await net.reaches(target) == BOTH
        router, now = net.router, trio.current_time
    assert router.firewall is not None
    assert router.firewall.pinhole_count(now()) == 0


# ---- what the user is told


async def test_a_private_external_address_is_double_nat(autojump_clock: MockClock) -> None:
    async with home("natpmp", wan="100.64.3.2") as net:
        await trio.sleep(5)
        assert net.mapper.double_nat is True
        assert net.mapper.external("udp", 4) == Endpoint("100.64.3.2", PORT)
        assert net.mapper.external_port("udp", 4) is None
        (sentence,) = net.mapper.advice()
        assert "10.0.1.1, 100.64.3.2, is itself private" in sentence


@pytest.mark.parametrize("protocol", ["natpmp", "upnp"])
async def test_a_gateway_that_refuses_still_shows_that_it_is_behind_another(
    autojump_clock: MockClock, protocol: str
) -> None:
    async with home(protocol, refuses=True, wan="100.64.3.2") as net:
        await trio.sleep(5)
        assert net.methods() == {}
        assert net.mapper.double_nat is True
        assert "100.64.3.2, is itself private" in net.mapper.advice()[-1]


ROUTER, OTHER = "10.0.1.1", "10.0.1.66"
SAID = (1.0, 5.0)


@pytest.mark.parametrize(
    ("routers", "said", "outsides", "addressless"),
    [
        ([ROUTER], [(ROUTER, SAID)], [], SAID),
        ([ROUTER], [(ROUTER, (4.0, 5.0)), (ROUTER, SAID)], [], SAID),
        ([ROUTER], [(OTHER, SAID)], [], None),
        ([ROUTER, OTHER], [(ROUTER, SAID)], [], None),
        ([ROUTER], [(ROUTER, SAID)], [(OTHER, WAN)], None),
        ([ROUTER], [], [], None),
    ],
)
async def test_only_the_one_router_counts_that_says_it_has_no_address(
    autojump_clock: MockClock,
    routers: list[str],
    said: list[tuple[str, tuple[float, float]]],
    outsides: list[tuple[str, str]],
    addressless: tuple[float, float] | None,
) -> None:
    class Told:
        lan = Lan("eth9", "10.0.1.2", (), tuple(routers), ())

        def addressless(self) -> list[tuple[str, tuple[float, float]]]:
            return said

        def outside_hosts(self) -> list[tuple[str, str]]:
            return outsides

    async with open_internet() as internet:
        mapper = Mapper(internet.host("p"), PORT, emit=lambda event: None, rng=random.Random(1))
        mapper._sessions["eth9"] = Told()  # type: ignore[assignment]
        assert mapper.addressless == addressless


async def test_the_default_router_is_believed_before_anybody_else_on_the_lan(autojump_clock: MockClock) -> None:
    inside = Endpoint("10.0.1.2", PORT)
    best = LeaseReport("upnp-igd1", "udp", "10.0.1.1", inside, Endpoint(WAN, PORT), 60.0, None)
    lie = LeaseReport("upnp-igd2", "udp", "10.0.1.66", inside, Endpoint("20.66.6.6", 666), 60.0, None)

    class Claims:
        lan = Lan("eth0", inside.host, (), ("10.0.1.1",), ())

        def reports(self) -> list[LeaseReport]:
            return [lie, best]

    async with home(gateway=False) as net:
        net.mapper._sessions["eth9"] = Claims()  # type: ignore[assignment]
        assert net.mapper.external("udp", 4) == Endpoint(WAN, PORT)
        del net.mapper._sessions["eth9"]


async def test_without_a_gateway_the_user_is_told_what_to_do(autojump_clock: MockClock) -> None:
    async with home(gateway=False, ipv6=True) as net:
        await trio.sleep(20)
        assert net.mapper.double_nat is None
        assert net.mapper.advice() == (
            "The router at 10.0.1.1 opened no port for us: UPnP was not found, NAT-PMP does not answer, PCP does not "
            "answer.",
            "To be reachable, forward port 6881, TCP and UDP, on the router at 10.0.1.1 to 10.0.1.2, port 6881.",
            "To be reachable by IPv6, allow port 6881, TCP and UDP, to 2a0e:50::a, in the router's firewall.",
        )


async def test_a_public_machine_needs_no_advice(autojump_clock: MockClock) -> None:
    async with open_internet() as internet, trio.open_nursery() as nursery:
        mapper = Mapper(internet.host("p"), PORT, emit=lambda event: None, rng=random.Random(1))
        nursery.start_soon(mapper.run)
        await trio.sleep(20)
        assert mapper.advice() == ()
        nursery.cancel_scope.cancel()
