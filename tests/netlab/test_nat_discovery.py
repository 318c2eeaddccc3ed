"""NAT behaviour discovery (RFC 5780) with Debian's coturn: each kernel NAT is found to be what `RULES` makes it."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest
import trio

from swarm.endpoint import Endpoint
from swarm.net.mux import Mux, Priority
from swarm.net.nat_discovery import NatObservations, discover_nat
from swarm.net.stun import StunClient
from swarm.net.stun_service import StunService
from swarm.net.udp import UdpSocket
from tests.needs import need_program
from tests.netlab.lab import Lab, Machine

pytestmark = pytest.mark.netlab

PORT = 6881
SERVER_PORTS = 3478, 3479
STARTS_WITHIN = 10.0  # seconds

EI, AD, APD = "endpoint-independent", "address-dependent", "address-and-port-dependent"
VERDICTS = {
    "open": ("none", "none"),
    "fullcone": (EI, EI),
    "restricted": (EI, AD),
    "cone": (EI, APD),
    "symseq": (APD, APD),
    "symrand": (APD, APD),
    "cgn": (EI, APD),
    "cgnsym": (APD, APD),
    "udpblock": ("unknown", "unknown"),
}


@pytest.fixture
def lab() -> Iterator[Lab]:
    need_program("miniupnpd")  # the carrier kinds have one
    with Lab() as made:
        yield made


def start_coturn(lab: Lab) -> Endpoint:
    """A server with two addresses and two ports."""
    machine = lab.public("stun")
    second = f"{machine.address.rpartition('.')[0]}.9"
    machine.run("ip", "addr", "add", f"{second}/24", "dev", "eth0")
    options = ["-n", "--stun-only", "--no-tcp", "--no-tls", "--no-dtls", "--no-cli", "--no-stdout-log", "--simple-log"]
    files = [
        f"--{option}={lab.directory / name}" for option, name in (("pidfile", "turn.pid"), ("log-file", "turn.log"))
    ]
    ports = [f"--listening-port={SERVER_PORTS[0]}", f"--alt-listening-port={SERVER_PORTS[1]}"]
    addresses = [f"--listening-ip={host}" for host in (machine.address, second)]
    machine.start(need_program("turnserver"), *options, *files, f"--db={lab.directory / 'turn.db'}", *ports, *addresses)
    return Endpoint(machine.address, SERVER_PORTS[0])


async def discover(machine: Machine, server: Endpoint) -> NatObservations:
    core = StunClient(random.SystemRandom())
    mux = Mux(UdpSocket(machine.bind(socket.SOCK_DGRAM, PORT)))
    stun = StunService(core, mux.wake)
    mux.add(core, priority=Priority.STUN, on_results=stun.deliver)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mux.run)
        found = await discover_nat(stun, server, own=[Endpoint(machine.address, PORT)])
        nursery.cancel_scope.cancel()
    mux.close()
    return found


async def wait_until_started(machine: Machine, server: Endpoint) -> None:
    with trio.fail_after(STARTS_WITHIN):
        while (await discover(machine, server)).failures:
            pass


async def test_each_kernel_nat_is_recognised(lab: Lab) -> None:
    machines = {kind: lab.behind(kind, kind) for kind in VERDICTS}
    server = start_coturn(lab)
    await wait_until_started(machines["open"], server)
    found: dict[str, NatObservations] = {}

    async def run(kind: str) -> None:
        found[kind] = await discover(machines[kind], server)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for kind in VERDICTS:
                nursery.start_soon(run, kind)
    assert {kind: (each.mapping, each.filtering) for kind, each in found.items()} == VERDICTS
    for kind, each in found.items():
        if kind != "udpblock":
            assert {seen.mapped.host for seen in each.evidence} == {machines[kind].external}
    ports = [seen.mapped.port for seen in found["symseq"].evidence]
    assert [port - ports[0] for port in ports] in ([0, 1, 2], [0, 1, 2 - 2000], [0, -1999, -1998])
