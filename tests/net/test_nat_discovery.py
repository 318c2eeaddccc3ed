"""NAT behaviour discovery (RFC 5780) against the NATs of the simulated internet: the verdict is what they are."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product

import pytest
import trio
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.net.mux import Mux, Priority
from swarm.net.nat_discovery import Behaviour, NatObservations, Observed, classify_mapping, discover_nat
from swarm.net.network import Network
from swarm.net.stun import BRISK, StunClient
from swarm.net.stun_service import StunService
from swarm.simnet.catalogue import CONE, KINDS, behind
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.nat import Dependence, NatBehaviour
from tests.net.stun_server import Kind, StunServer
from tests.simnet.verdicts import expected

PORT = 6881
EI: Behaviour = "endpoint-independent"
APD: Behaviour = "address-and-port-dependent"


@asynccontextmanager
async def open_stun(network: Network) -> AsyncIterator[StunService]:
    """A client on a UDP socket of its own."""
    core = StunClient(random.Random(1))
    mux = Mux(await network.bind_udp(Endpoint("0.0.0.0", PORT)))
    service = StunService(core, mux.wake)
    mux.add(core, priority=Priority.STUN, on_results=service.deliver)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mux.run)
        yield service
        nursery.cancel_scope.cancel()
    mux.close()


@asynccontextmanager
async def open_server(internet: Internet, kind: Kind = "full") -> AsyncIterator[StunServer]:
    hosts = internet.free_ipv4(), internet.free_ipv4()
    server = StunServer(internet.host(f"stun-{hosts[0]}", *hosts), hosts, kind)
    async with trio.open_nursery() as nursery:
        await server.open(nursery)
        yield server
        nursery.cancel_scope.cancel()


async def discover(kind: str, server_kind: Kind = "full") -> NatObservations:
    """What is found out from behind a NAT of the catalogue."""
    async with open_internet(seed=5) as internet, open_server(internet, server_kind) as server:
        host = behind(internet, kind, "a")
        async with open_stun(host) as stun:
            return await discover_nat(stun, server.endpoint, own=[Endpoint(host.ipv4, PORT)])


@pytest.mark.parametrize("kind", [kind for kind, what in KINDS.items() if not what.ipv6])
async def test_the_verdict_is_what_the_catalogue_says(autojump_clock: MockClock, kind: str) -> None:
    found = await discover(kind)
    assert (found.mapping, found.filtering) == expected(kind)


@pytest.mark.parametrize(("mapping", "filtering"), list(product(Dependence, Dependence)))
@pytest.mark.parametrize("allocation", ["sequential", "random"])
async def test_every_combination_of_rfc_4787_is_told_apart(
    autojump_clock: MockClock, mapping: Dependence, filtering: Dependence, allocation: str
) -> None:
    behaviour = NatBehaviour(mapping=mapping, filtering=filtering, allocation=allocation)  # type: ignore[arg-type]
    async with open_internet(seed=6) as internet, open_server(internet) as server:
        host = internet.host("a", router=internet.router("home", behaviour))
        async with open_stun(host) as stun:
            found = await discover_nat(stun, server.endpoint, own=[Endpoint(host.ipv4, PORT)])
    assert (found.mapping, found.filtering) == (mapping.value, filtering.value)
    assert found.failures == ()


async def test_the_evidence_shows_the_ports_in_the_order_of_sending(autojump_clock: MockClock) -> None:
    found = await discover("symseq")
    (near, far) = (found.evidence[0].server, found.evidence[2].server)
    assert [each.server for each in found.evidence] == [near, Endpoint(far.host, near.port), far]
    ports = [each.mapped.port for each in found.evidence]
    assert [port - ports[0] for port in ports] == [0, 1, 2]


async def test_where_nothing_comes_through_everything_is_unknown_and_says_why(autojump_clock: MockClock) -> None:
    started = trio.current_time()
    assert await discover("udpblock") == NatObservations("unknown", "unknown", (), (("mapping I", "timed-out"),))
    assert trio.current_time() - started == pytest.approx(BRISK.total)


async def test_filtering_costs_one_time_out_and_mapping_three_round_trips(autojump_clock: MockClock) -> None:
    started = trio.current_time()
    await discover("cone")
    assert BRISK.total < trio.current_time() - started < BRISK.total + 0.5
    started = trio.current_time()
    await discover("fullcone")
    assert trio.current_time() - started < 0.5, "whom nothing is filtered from need not wait"


async def test_a_firewall_without_translation_is_told_from_an_open_host(autojump_clock: MockClock) -> None:
    async with open_internet(seed=5) as internet, open_server(internet) as server:
        host = behind(internet, "restricted", "a")
        async with open_stun(host) as stun:
            outside = Endpoint(internet.routers["a-home"].wan, PORT)
            found = await discover_nat(stun, server.endpoint, own=[outside])  # as if the NAT's address were ours
    assert (found.mapping, found.filtering) == ("none", "address-dependent")


@pytest.mark.parametrize(
    ("server_kind", "failure"),
    [("refuses-change", "stun-refused"), ("ignores-change", "change-ignored")],
)
@pytest.mark.parametrize("kind", ["fullcone", "cone", "symrand"])
async def test_a_server_that_does_not_change_its_address_shows_nothing_about_filtering(
    autojump_clock: MockClock, kind: str, server_kind: Kind, failure: str
) -> None:
    found = await discover(kind, server_kind)
    assert (found.mapping, found.filtering) == (expected(kind)[0], "unknown")
    assert sorted(found.failures) == [("filtering II", failure), ("filtering III", failure)]


@pytest.mark.parametrize("kind", ["fullcone", "restricted", "cone"])
async def test_the_silence_of_a_dead_address_is_not_taken_for_filtering(autojump_clock: MockClock, kind: str) -> None:
    found = await discover(kind, "half-dead")
    assert (found.mapping, found.filtering) == ("unknown", "unknown")
    assert found.failures == (("mapping II", "timed-out"), ("mapping III", "timed-out"))


@pytest.mark.parametrize(("kind", "mapping"), [("cone", EI), ("cgn", EI), ("symrand", APD), ("open", "none")])
async def test_two_plain_servers_show_the_mapping(autojump_clock: MockClock, kind: str, mapping: Behaviour) -> None:
    async with open_internet(seed=5) as internet:
        host = behind(internet, kind, "a")
        own = [Endpoint(host.ipv4, PORT)]
        async with (
            open_server(internet, "plain") as one,
            open_server(internet, "plain") as two,
            open_stun(host) as stun,
        ):
            found = await discover_nat(stun, one.endpoint, second=two.endpoint, own=own)
            alone = await discover_nat(stun, one.endpoint, own=own)
    assert (found.mapping, found.filtering, len(found.evidence)) == (mapping, "unknown", 2)
    assert alone.mapping == ("none" if mapping == "none" else "unknown")


async def test_lost_packets_are_made_up_for(autojump_clock: MockClock) -> None:
    async with open_internet(seed=5) as internet, open_server(internet) as server:
        host = internet.host("a", router=internet.router("home", CONE))
        dropped = 0

        def every_second_is_lost(packet: object) -> bool:
            nonlocal dropped
            dropped += 1
            return dropped % 2 == 1

        host.port().up.drop_if = every_second_is_lost
        async with open_stun(host) as stun:
            found = await discover_nat(stun, server.endpoint)
    assert (found.mapping, found.filtering, found.failures) == (EI, APD, ())


A1, A2, B1 = (Endpoint("20.0.0.1", 1), Endpoint("20.0.0.1", 2), Endpoint("20.0.0.2", 1))
M1, M2, M3 = (Endpoint("20.5.0.1", port) for port in (1, 2, 3))


@pytest.mark.parametrize(
    ("evidence", "mapping"),
    [
        ([], "unknown"),
        ([(A1, M1)], "unknown"),
        ([(A1, M1), (A2, M1)], "unknown"),
        ([(A1, M1), (A1, M2)], "unknown"),
        ([(A1, M1), (B1, M1)], EI),
        ([(A1, M1), (A1, M2), (B1, M2)], EI),
        ([(A1, M1), (B1, M2)], APD),
        ([(A1, M1), (A2, M2)], APD),
        ([(A1, M1), (A2, M1), (B1, M2)], "address-dependent"),
        ([(A1, M1), (A2, M2), (B1, M3)], APD),
        ([(A1, M1), (A2, M2), (B1, M1)], APD),
    ],
)
def test_evidence_is_weighed(evidence: list[tuple[Endpoint, Endpoint]], mapping: Behaviour) -> None:
    observed = [Observed(*each) for each in evidence]
    assert classify_mapping(observed) == mapping
    assert classify_mapping([*observed, Observed(Endpoint("20.0.0.3", 1), M3)], [M3]) == "none"
