"""The NAT and firewall tables: who may send to whom, from which port, and for how long."""

from __future__ import annotations

import random
from itertools import pairwise, product

import pytest

from swarm.endpoint import Endpoint
from swarm.simnet.nat import FIRST_PORT, LAST_PORT, Dependence, Firewall, FirewallBehaviour, Nat, NatBehaviour

EI = Dependence.ENDPOINT_INDEPENDENT
AD = Dependence.ADDRESS_DEPENDENT
APD = Dependence.ADDRESS_AND_PORT_DEPENDENT

INSIDE = Endpoint("10.0.0.2", 6881)
OTHER_INSIDE = Endpoint("10.0.0.3", 6881)
CONTACTED = Endpoint("20.1.0.1", 1000)
SAME_HOST = Endpoint("20.1.0.1", 2000)
STRANGER = Endpoint("20.2.0.1", 1000)
EXTERNAL = "20.9.0.1"


def nat(behaviour: NatBehaviour | None = None, seed: int = 0, **fields: object) -> Nat:
    return Nat(behaviour or NatBehaviour(**fields), EXTERNAL, random.Random(seed))  # type: ignore[arg-type]


def port(table: Nat, internal: Endpoint, remote: Endpoint, now: float = 0.0, protocol: str = "udp") -> int:
    external = table.outbound(protocol, internal, remote, now)
    assert external is not None
    assert external.host == EXTERNAL
    return external.port


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
@pytest.mark.parametrize("allocation", ["sequential", "random"])
@pytest.mark.parametrize(("mapping", "filtering"), list(product(Dependence, Dependence)))
def test_every_mapping_and_filtering_lets_in_exactly_whom_it_should(
    mapping: Dependence, filtering: Dependence, allocation: str, protocol: str
) -> None:
    table = nat(mapping=mapping, filtering=filtering, allocation=allocation)
    first = port(table, INSIDE, CONTACTED, protocol=protocol)
    allowed = {
        remote for remote in (CONTACTED, SAME_HOST, STRANGER) if table.inbound(protocol, first, remote, 0.0) == INSIDE
    }
    assert (
        allowed
        == {
            EI: {CONTACTED, SAME_HOST, STRANGER},
            AD: {CONTACTED, SAME_HOST},
            APD: {CONTACTED},
        }[filtering]
    )
    same_host = port(table, INSIDE, SAME_HOST, protocol=protocol)
    stranger = port(table, INSIDE, STRANGER, protocol=protocol)
    assert (same_host == first, stranger == first) == {EI: (True, True), AD: (True, False), APD: (False, False)}[
        mapping
    ]
    other = "tcp" if protocol == "udp" else "udp"
    assert table.inbound(other, first, CONTACTED, 0.0) is None


def test_a_permission_belongs_to_the_mapping_it_was_given_on() -> None:
    table = nat(mapping=APD, filtering=APD, allocation="random")
    to_contacted, to_stranger = port(table, INSIDE, CONTACTED), port(table, INSIDE, STRANGER)
    assert table.inbound("udp", to_contacted, STRANGER, 0.0) is None
    assert table.inbound("udp", to_stranger, STRANGER, 0.0) == INSIDE


def test_a_preserving_nat_keeps_the_port_unless_it_is_taken() -> None:
    table = nat(collision="sequential", step=2)
    assert port(table, INSIDE, CONTACTED) == 6881
    assert port(table, OTHER_INSIDE, CONTACTED) == 6883
    assert table.inbound("udp", 6883, CONTACTED, 0.0) == OTHER_INSIDE
    assert port(nat(), Endpoint("10.0.0.2", 80), CONTACTED) == 80
    colliding = nat(collision="random", seed=4)
    port(colliding, INSIDE, CONTACTED)
    assert port(colliding, OTHER_INSIDE, CONTACTED) not in (6881, 6882, 6883)


@pytest.mark.parametrize("step", [1, 2, 7, 4001])
def test_sequential_ports_keep_their_step_and_go_round(step: int) -> None:
    table = nat(mapping=APD, allocation="sequential", step=step)
    ports = [port(table, INSIDE, Endpoint("20.0.0.1", n)) for n in range(1, 9_000)]
    count = LAST_PORT - FIRST_PORT + 1
    assert all((b - a) % count == step for a, b in pairwise(ports))
    assert min(ports) >= FIRST_PORT
    assert max(ports) <= LAST_PORT


def test_random_ports_are_spread() -> None:
    table = nat(mapping=APD, allocation="random")
    ports = [port(table, INSIDE, Endpoint("20.0.0.1", n)) for n in range(1, 2000)]
    assert len(set(ports)) == len(ports)
    assert sum(value > 32768 for value in ports) in range(850, 1250)


def test_a_nat_without_free_ports_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.simnet.nat.FIRST_PORT", LAST_PORT - 99)
    table = nat(mapping=APD, allocation="sequential")
    for n in range(100):
        assert table.outbound("udp", INSIDE, Endpoint(f"20.0.{n >> 8}.{n & 255}", 1), 0.0) is not None
    assert table.outbound("udp", INSIDE, STRANGER, 0.0) is None
    assert table.outbound("udp", INSIDE, STRANGER, 1000.0) is not None


@pytest.mark.parametrize("inbound_refresh", [False, True])
def test_a_mapping_lives_its_time_after_the_last_refresh(inbound_refresh: bool) -> None:
    table = nat(udp_lifetime=10, inbound_refresh=inbound_refresh)
    port(table, INSIDE, CONTACTED, 0)
    port(table, INSIDE, CONTACTED, 8)
    assert table.inbound("udp", 6881, CONTACTED, 17.9) == INSIDE
    assert (table.inbound("udp", 6881, CONTACTED, 18.1) == INSIDE) == inbound_refresh
    assert table.inbound("udp", 6881, CONTACTED, 40) is None


def test_tcp_and_udp_lifetimes_differ() -> None:
    table = nat(udp_lifetime=10, tcp_lifetime=100)
    port(table, INSIDE, CONTACTED, 0, "udp")
    port(table, INSIDE, CONTACTED, 0, "tcp")
    assert table.inbound("udp", 6881, CONTACTED, 50) is None
    assert table.inbound("tcp", 6881, CONTACTED, 50) == INSIDE
    assert [mapping.protocol for mapping in table.mappings(50)] == ["tcp"]


def test_one_permission_expires_while_the_mapping_lives_on() -> None:
    table = nat(udp_lifetime=10)
    port(table, INSIDE, CONTACTED, 0)
    port(table, INSIDE, STRANGER, 8)
    assert table.inbound("udp", 6881, CONTACTED, 12) is None
    assert table.inbound("udp", 6881, STRANGER, 12) == INSIDE


def test_an_expired_port_goes_to_the_next_who_wants_it() -> None:
    table = nat(udp_lifetime=10)
    port(table, INSIDE, CONTACTED, 0)
    assert port(table, OTHER_INSIDE, CONTACTED, 11) == 6881
    assert table.inbound("udp", 6881, CONTACTED, 11) == OTHER_INSIDE
    assert port(table, INSIDE, CONTACTED, 12) != 6881


def test_a_reboot_forgets_everything() -> None:
    table = nat()
    port(table, INSIDE, CONTACTED)
    table.add_forward("tcp", 80, INSIDE, 0.0)
    table.forget_mappings()
    assert table.inbound("udp", 6881, CONTACTED, 0.0) is None
    assert table.inbound("tcp", 80, STRANGER, 0.0) is None
    assert table.mappings(0.0) == []


def test_a_forward_lets_everyone_in_and_is_what_its_host_sends_from() -> None:
    table = nat(mapping=APD, filtering=APD, allocation="random")
    assert table.add_forward("udp", 7000, INSIDE, 0.0, lifetime=60)
    assert table.inbound("udp", 7000, STRANGER, 59) == INSIDE
    assert port(table, INSIDE, CONTACTED, 59) == 7000
    assert table.inbound("udp", 7000, STRANGER, 61) is None
    assert port(table, INSIDE, CONTACTED, 61) != 7000


def test_forwards_and_mappings_do_not_take_each_others_ports() -> None:
    table = nat()
    assert table.add_forward("udp", 6881, OTHER_INSIDE, 0.0)
    assert not table.add_forward("udp", 6881, INSIDE, 0.0)
    assert port(table, INSIDE, CONTACTED) != 6881
    port(table, Endpoint("10.0.0.2", 5000), CONTACTED)
    assert not table.add_forward("udp", 5000, OTHER_INSIDE, 0.0)
    assert table.add_forward("udp", 5000, Endpoint("10.0.0.2", 5000), 0.0)
    assert table.inbound("udp", 5000, STRANGER, 0.0) == Endpoint("10.0.0.2", 5000)
    assert table.forwards_of("udp", OTHER_INSIDE, 0.0) == [6881]
    assert table.remove_forward("udp", 6881)
    assert not table.remove_forward("udp", 6881)
    assert table.inbound("udp", 6881, STRANGER, 0.0) is None
    assert table.forwards_of("udp", OTHER_INSIDE, 0.0) == []
    free = table.free_external_port("udp", 0.0)
    assert free is not None
    assert table.add_forward("udp", free, INSIDE, 0.0)


@pytest.mark.parametrize("filtering", list(Dependence))
def test_a_firewall_lets_in_exactly_whom_it_should(filtering: Dependence) -> None:
    table = Firewall(FirewallBehaviour(filtering=filtering, udp_lifetime=10))
    assert not table.inbound("udp", INSIDE, CONTACTED, 0.0)
    table.outbound("udp", INSIDE, CONTACTED, 0.0)
    allowed = {remote for remote in (CONTACTED, SAME_HOST, STRANGER) if table.inbound("udp", INSIDE, remote, 9)}
    assert (
        allowed
        == {
            EI: {CONTACTED, SAME_HOST, STRANGER},
            AD: {CONTACTED, SAME_HOST},
            APD: {CONTACTED},
        }[filtering]
    )
    assert not table.inbound("udp", OTHER_INSIDE, CONTACTED, 9)
    assert not table.inbound("udp", INSIDE, CONTACTED, 11)


def test_inbound_packets_refresh_a_firewall_that_is_told_so() -> None:
    table = Firewall(FirewallBehaviour(udp_lifetime=10, inbound_refresh=True))
    table.outbound("udp", INSIDE, CONTACTED, 0.0)
    assert table.inbound("udp", INSIDE, CONTACTED, 9)
    assert table.inbound("udp", INSIDE, CONTACTED, 18)


def test_a_pinhole_lets_everyone_in_until_it_closes() -> None:
    table = Firewall(FirewallBehaviour())
    table.add_pinhole("tcp", INSIDE, 0.0, lifetime=60)
    assert table.inbound("tcp", INSIDE, STRANGER, 59)
    assert not table.inbound("udp", INSIDE, STRANGER, 59)
    assert not table.inbound("tcp", INSIDE, STRANGER, 61)
    table.add_pinhole("tcp", INSIDE, 61)
    assert table.remove_pinhole("tcp", INSIDE)
    assert not table.remove_pinhole("tcp", INSIDE)
    assert not table.inbound("tcp", INSIDE, STRANGER, 62)
