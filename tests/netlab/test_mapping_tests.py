"""Hairpinning and the lifetime of idle mappings on kernel NATs: conntrack is told when to forget, and is found out."""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing

import pytest
import trio

from swarm.connect.lifetime import Lifetime, Survives, by_peer, by_stun, measure_lifetime
from swarm.endpoint import Endpoint
from swarm.net.mapping_tests import NONCE_SIZE
from swarm.net.network import DatagramSocket
from swarm.net.real import RealNetwork
from swarm.net.udp import UdpSocket
from swarm.net.udp_port import UdpPort
from tests.netlab.lab import Lab, Machine
from tests.netlab.test_nat_discovery import start_coturn, wait_until_started

pytestmark = pytest.mark.netlab

PORT = 6881
NONCE = bytes(NONCE_SIZE)
SHORT = (2, 4, 7, 10)
"""Silences in seconds, for tests that wait."""


class MachineNetwork(RealNetwork):
    """The network as one machine sees it, as far as measuring needs it."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine

    async def bind_udp(
        self, local: Endpoint, *, shared: bool = False, multicast_group: str | None = None, interface: str | None = None
    ) -> DatagramSocket:
        await trio.lowlevel.checkpoint()
        return UdpSocket(self._machine.bind(socket.SOCK_DGRAM, local.port))


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def forget_after(machine: Machine, seconds: int, *, unanswered: int) -> None:
    """Idle UDP mappings of the router of ``machine``: those that last, and those of a single exchange."""
    assert machine.router is not None
    machine.router.run(
        "sysctl",
        "-w",
        f"net.netfilter.nf_conntrack_udp_timeout={unanswered}",
        f"net.netfilter.nf_conntrack_udp_timeout_stream={seconds}",
    )


@asynccontextmanager
async def udp_port(machine: Machine) -> AsyncIterator[UdpPort]:
    bound = UdpSocket(machine.bind(socket.SOCK_DGRAM, PORT))
    port = UdpPort(bound, random.SystemRandom(), utp=None)
    with closing(bound):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(port.run)
            yield port
            nursery.cancel_scope.cancel()


async def measured(survives: Survives) -> Lifetime | None:
    with trio.fail_after(30):
        return await measure_lifetime(survives, SHORT)


async def test_a_peer_finds_out_when_conntrack_forgets(lab: Lab) -> None:
    machine, helper = lab.behind("symrand", "home"), lab.public("helper")
    forget_after(machine, 5, unanswered=3)
    async with udp_port(helper) as port:
        assert port.mapping_tests.grant(NONCE, machine.external)
        found = await measured(by_peer(MachineNetwork(machine), Endpoint(helper.address, PORT), NONCE))
    assert found == Lifetime(4, 7), "that of mappings that last, not of a single exchange"


async def test_coturn_finds_it_out_too(lab: Lab) -> None:
    machine, server = lab.behind("cone", "home"), start_coturn(lab)
    await wait_until_started(lab.public("client"), server)
    forget_after(machine, 5, unanswered=3)
    assert await measured(by_stun(MachineNetwork(machine), server, random.SystemRandom())) == Lifetime(4, 7)


async def test_masquerading_does_not_hairpin(lab: Lab) -> None:
    machine = lab.behind("cone", "home")
    async with udp_port(machine) as port:
        assert not await port.mapping_tests.hairpin(Endpoint(machine.external, PORT))
