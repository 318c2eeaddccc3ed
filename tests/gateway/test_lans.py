"""Which LANs there are, how long the machine slept, and that nobody needs miniupnpc to start."""

from __future__ import annotations

import subprocess
import sys

import pytest

from swarm.gateway.lans import Lan, find_lans
from swarm.gateway.report import is_behind_another_nat
from swarm.gateway.suspend import seconds_suspended
from swarm.net.network import Gateway, Interface, InterfaceAddress


class Machine:
    """The two questions that `find_lans` asks."""

    def __init__(self, interfaces: list[Interface], gateways: list[Gateway]) -> None:
        self._interfaces = interfaces
        self._gateways = gateways

    def interfaces(self) -> list[Interface]:
        return self._interfaces

    def gateways(self) -> list[Gateway]:
        return self._gateways


def lans(interfaces: list[Interface], gateways: list[Gateway]) -> tuple[Lan, ...]:
    return find_lans(Machine(interfaces, gateways))  # type: ignore[arg-type]


LOOPBACK = Interface("lo", 1, True, True, False, (InterfaceAddress("127.0.0.1", 8),))
ETH = Interface(
    "eth0",
    2,
    True,
    False,
    True,
    (
        InterfaceAddress("169.254.3.3", 16),
        InterfaceAddress("192.168.1.5", 24),
        InterfaceAddress("2a0e::1", 64, temporary=True),
        InterfaceAddress("2a0e::2", 64),
        InterfaceAddress("2a0e::3", 64, deprecated=True),
        InterfaceAddress("fe80::1%eth0", 64),
        InterfaceAddress("fd00::1", 64),
    ),
)
DOCKER = Interface("docker0", 3, True, False, True, (InterfaceAddress("172.17.0.1", 16),))
DOWN = Interface("eth1", 4, False, False, True, (InterfaceAddress("10.9.9.9", 24),))
GATEWAYS = [Gateway("192.168.1.1", "eth0"), Gateway("fe80::9%eth0", "eth0"), Gateway("192.168.1.1", "eth0")]


def test_a_lan_is_an_interface_with_a_default_route() -> None:
    assert lans([LOOPBACK, ETH, DOCKER, DOWN], GATEWAYS) == (
        Lan("eth0", "192.168.1.5", ("2a0e::2", "2a0e::1"), ("192.168.1.1",), ("fe80::9%eth0",)),
    )


def test_without_routes_every_interface_may_be_one() -> None:
    found = lans([LOOPBACK, ETH, DOCKER, DOWN], [])
    assert [(lan.interface, lan.ipv4, lan.gateways_v4) for lan in found] == [
        ("eth0", "169.254.3.3", ()),
        ("docker0", "172.17.0.1", ()),
    ]


def test_the_other_end_of_a_tunnel_is_guessed() -> None:
    tunnel = Interface("wg0", 5, True, False, False, (InterfaceAddress("10.2.0.2", 32),))
    assert lans([tunnel], []) == (Lan("wg0", "10.2.0.2", (), ("10.2.0.1",), ()),)
    public = tunnel._replace(addresses=(InterfaceAddress("20.2.0.2", 32),))
    assert lans([public], [])[0].gateways_v4 == ()


def test_an_interface_without_addresses_is_no_lan() -> None:
    assert lans([ETH._replace(addresses=())], GATEWAYS) == ()


@pytest.mark.parametrize(
    ("host", "verdict"),
    [("10.1.2.3", True), ("192.168.0.1", True), ("100.64.0.1", True), ("100.128.0.1", False), ("0.0.0.0", None)],
)
def test_which_outside_addresses_are_behind_another_nat(host: str, verdict: bool | None) -> None:
    assert is_behind_another_nat(host) is verdict


def test_a_machine_has_not_slept_less_than_nothing() -> None:
    before = seconds_suspended()
    assert before > -0.001
    assert abs(seconds_suspended() - before) < 0.1


def test_the_mapper_is_imported_without_the_optional_library() -> None:
    code = "import sys; sys.modules['miniupnpc'] = None; import swarm.gateway.mapper"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
