"""How long an idle mapping lasts, measured through NATs of the simulated internet; and what is made of it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from swarm.connect.lifetime import (
    GRACE,
    LASTING,
    PATIENCE,
    Lifetime,
    _answer_untrusted,
    _mapped_untrusted,
    by_peer,
    by_stun,
    measure_lifetime,
)
from swarm.endpoint import Endpoint
from swarm.net.mapping_tests import NONCE_SIZE, late_answer, late_request
from swarm.net.udp_port import UdpPort
from swarm.simnet.catalogue import CONE, FULLCONE, RESTRICTED, SYMRAND
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.nat import NatBehaviour
from tests.fuzzing import fuzz_count, fuzz_seed, mutations
from tests.net.stun_server import Kind, StunServer
from tests.nodes import PORT

NONCE = bytes(NONCE_SIZE)

LASTED = {10: Lifetime(8, 13), 30: Lifetime(27, 57), 120: Lifetime(115, 175), 600: Lifetime(290, None)}
"""What is found, by the lifetime in seconds."""


@asynccontextmanager
async def helper(host: Host, asker: str) -> AsyncIterator[trio.CancelScope]:
    """A UDP port that gives late answers to ``asker``; a scope that ends it."""
    port = UdpPort(await host.bind_udp(Endpoint("0.0.0.0", PORT)), random.Random(1), utp=None)
    assert port.mapping_tests.grant(NONCE, asker)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(port.run)
        yield nursery.cancel_scope
        nursery.cancel_scope.cancel()


def home(internet: Internet, behaviour: NatBehaviour) -> tuple[Host, str]:
    """A host behind that NAT, and the address of both outside."""
    router = internet.router("home", behaviour)
    return internet.host("a", router=router), router.wan


@pytest.mark.parametrize("seconds", LASTED)
@pytest.mark.parametrize("kind", [FULLCONE, RESTRICTED, CONE, SYMRAND])
async def test_a_peer_helps_to_find_out(autojump_clock: MockClock, kind: NatBehaviour, seconds: int) -> None:
    async with open_internet(seed=1) as internet:
        host, outside = home(internet, replace(kind, udp_lifetime=float(seconds)))
        there = internet.host("helper")
        async with helper(there, outside):
            found = await measure_lifetime(by_peer(host, Endpoint(there.ipv4, PORT), NONCE))
    assert found == LASTED[seconds]


async def test_packets_that_come_in_may_refresh_a_mapping_and_do_not_during_the_silence(
    autojump_clock: MockClock,
) -> None:
    async with open_internet(seed=1) as internet:
        host, outside = home(internet, replace(CONE, udp_lifetime=30.0, inbound_refresh=True))
        there = internet.host("helper")
        async with helper(there, outside):
            found = await measure_lifetime(by_peer(host, Endpoint(there.ipv4, PORT), NONCE))
    assert found == LASTED[30]


async def test_a_short_lifetime_is_known_soon(autojump_clock: MockClock) -> None:
    async with open_internet(seed=1) as internet:
        host, outside = home(internet, replace(CONE, udp_lifetime=10.0))
        there = internet.host("helper")
        async with helper(there, outside):
            began = trio.current_time()
            await measure_lifetime(by_peer(host, Endpoint(there.ipv4, PORT), NONCE))
    assert trio.current_time() - began < LASTING + 18 + GRACE + 1.0, "nobody waits for silences longer than the second"


async def test_a_helper_that_is_deaf_is_given_up_at_once(autojump_clock: MockClock) -> None:
    async with open_internet(seed=1) as internet:
        host, _ = home(internet, CONE)
        there = internet.host("helper")
        async with helper(there, "20.255.0.1"):  # it answers somebody else
            began = trio.current_time()
            assert await measure_lifetime(by_peer(host, Endpoint(there.ipv4, PORT), NONCE)) is None
    assert trio.current_time() - began == pytest.approx(PATIENCE)


async def test_a_helper_that_leaves_is_no_mapping_that_was_forgotten(autojump_clock: MockClock) -> None:
    async with open_internet(seed=1) as internet, trio.open_nursery() as nursery:
        host, outside = home(internet, CONE)
        there = internet.host("helper")
        found: list[Lifetime | None] = []

        async def measure() -> None:
            found.append(await measure_lifetime(by_peer(host, Endpoint(there.ipv4, PORT), NONCE)))
            nursery.cancel_scope.cancel()

        async with helper(there, outside) as helping:
            nursery.start_soon(measure)
            await trio.sleep(20)
            helping.cancel()
        await trio.sleep_forever()
    assert found == [None], "it had lasted 13 s, and might have lasted for ever"


# ---- STUN


@asynccontextmanager
async def stun_server(internet: Internet, kind: Kind = "full") -> AsyncIterator[Endpoint]:
    hosts = internet.free_ipv4(), internet.free_ipv4()
    server = StunServer(internet.host("stun", *hosts), hosts, kind)
    async with trio.open_nursery() as nursery:
        await server.open(nursery)
        yield server.endpoint
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seconds", LASTED)
@pytest.mark.parametrize("kind", [FULLCONE, CONE, SYMRAND])
async def test_a_stun_server_helps_to_find_out(autojump_clock: MockClock, kind: NatBehaviour, seconds: int) -> None:
    async with open_internet(seed=1) as internet, stun_server(internet) as server:
        host, _ = home(internet, replace(kind, udp_lifetime=float(seconds)))
        found = await measure_lifetime(by_stun(host, server, random.Random(1)))
    assert found == LASTED[seconds]


async def test_a_stun_server_that_knows_no_response_port_tells_nothing(autojump_clock: MockClock) -> None:
    async with open_internet(seed=1) as internet, stun_server(internet, "plain") as server:
        host, _ = home(internet, CONE)
        began = trio.current_time()
        assert await measure_lifetime(by_stun(host, server, random.Random(1))) is None
    assert trio.current_time() - began < 20


# ---- strangers


def test_only_the_answer_is_an_answer() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    request = late_request(NONCE, 8)
    answer = late_answer(request.transaction_id, Endpoint("20.0.0.1", 5))
    assert _answer_untrusted(memoryview(answer.encode()), request) == answer
    other = late_answer(late_request(NONCE, 9).transaction_id, Endpoint("20.0.0.1", 5))
    for datagram in (b"", request.encode(), other.encode()):
        assert _answer_untrusted(memoryview(datagram), request) is None
    for datagram in mutations(rng, [answer.encode(), request.encode()], fuzz_count()):
        heard = _answer_untrusted(memoryview(datagram), request)
        assert heard is None or heard.transaction_id == request.transaction_id, f"seed {seed}"
        if heard is not None:
            _mapped_untrusted(heard)
