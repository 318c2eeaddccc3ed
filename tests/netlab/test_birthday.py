"""Prediction and birthday through kernel NATs: three of ours without whole nodes, each socket in a namespace."""

from __future__ import annotations

import random
from typing import cast

import pytest
import trio

from swarm.connect.predict import OPENER_TTL
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.net.network import DatagramSocket, Network
from swarm.net.udp import bind_udp
from tests.connect.three import Member, three
from tests.netlab.lab import Lab, Machine, inside

pytestmark = pytest.mark.netlab

DELAYS = (0.001, 0.001)  # seconds that messages to and from the introducer take


class LabNetwork:
    """As much of a `Network` as a meeting needs: UDP sockets of a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    async def bind_udp(self, local: Endpoint) -> DatagramSocket:
        await trio.lowlevel.checkpoint()
        with inside(self.machine.namespace):
            return bind_udp(local)


def member(machine: Machine) -> Member:
    return Member(cast(Network, LabNetwork(machine)), machine.external, random.SystemRandom().getrandbits(32))


async def meet(machines: tuple[Machine, Machine, Machine]) -> tuple[str, float]:
    """By which path a word and its answer have crossed, or the reason, and seconds."""
    initiator, target, introducer = map(member, machines)
    async with three(initiator, target, introducer, delays=DELAYS) as made:
        started = trio.current_time()
        try:
            link, seconds = await made.reach()
        except RemoteError as error:
            return error.reason, trio.current_time() - started
        return link.path, seconds


@pytest.mark.parametrize(
    ("kinds", "path"),
    [
        (("cone", "symseq"), "predicted"),
        (("symseq", "cone"), "predicted"),
        (("symseq", "symseq"), "predicted"),
        (("cone", "symrand"), "birthday"),
        (("symrand", "cone"), "birthday"),
    ],
)
async def test_two_meet_through_kernel_nats(kinds: tuple[str, str], path: str) -> None:
    with Lab(ipv6=False) as lab:
        machines = lab.behind(kinds[0], "a"), lab.behind(kinds[1], "b"), lab.public("i")
        met, seconds = await meet(machines)
    print(f"{kinds[0]} × {kinds[1]}: {met} after {seconds:.2f} s")
    assert met == path


CARELESS = f"""
flush chain inet lab input
table inet lab {{
  chain far {{ type filter hook prerouting priority -300; policy accept; iifname "wan" ip ttl < {OPENER_TTL} drop; }}
}}
"""
"""A router that takes uninvited packets for its own, and remembers them (Linux unless told otherwise): the mapping that
such a packet should have met gets another port.  And as far from the others as a low TTL does not go; here it is next
door.  Without that distance nobody meets."""


@pytest.mark.parametrize("kinds", [("cone", "symseq"), ("symseq", "symseq"), ("symrand", "cone")])
async def test_openers_spare_routers_that_remember_who_knocked_in_vain(kinds: tuple[str, str]) -> None:
    with Lab(ipv6=False) as lab:
        machines = lab.behind(kinds[0], "a"), lab.behind(kinds[1], "b"), lab.public("i")
        for machine in machines[:2]:
            assert machine.router is not None
            machine.router.run("nft", "-f", "-", stdin=CARELESS)
        met, seconds = await meet(machines)
    print(f"{kinds[0]} × {kinds[1]}, careless routers: {met} after {seconds:.2f} s")
    assert met in ("predicted", "birthday")
