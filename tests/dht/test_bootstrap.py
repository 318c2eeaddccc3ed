"""Routers that become known late, as their names take time to resolve, and a table that has become useless."""

from __future__ import annotations

from tests.dht.simulation import Host, Simulation, grown


def lone(simulation: Simulation) -> Host:
    """A node that nobody has told of another, after a minute of vain attempts."""
    host = simulation.add_node()
    assert host.node is not None
    host.node.start(simulation.now)
    simulation.touch(host)
    simulation.run(60.0)
    assert host.node.statistics().nodes == 0
    return host


def seconds_until_known(simulation: Simulation, host: Host, nodes: int) -> float:
    assert host.node is not None
    node, started = host.node, simulation.now
    simulation.run(300.0, until=lambda: len(node.table) >= nodes)
    return simulation.now - started


def test_a_router_told_late_is_asked_at_once() -> None:
    simulation = grown(1, 30)
    router = next(iter(simulation.hosts))
    host = lone(simulation)
    assert host.node is not None
    host.node.bootstrap([("2001:db8::1", 6881), router])
    simulation.touch(host)
    assert seconds_until_known(simulation, host, 8) < 3.0
    assert seconds_until_known(simulation, host, 20) < 300.0
    assert router not in {contact.address for contact in host.node.table.contacts()}, "routers are spared"


def test_routers_told_while_the_first_bootstrap_runs_join_it() -> None:
    simulation = grown(1, 30)
    router = next(iter(simulation.hosts))
    host = simulation.add_node((simulation.address(),))  # nobody is there
    assert host.node is not None
    host.node.start(simulation.now)
    simulation.touch(host)
    simulation.run(0.2)
    host.node.bootstrap([router])
    simulation.touch(host)
    assert seconds_until_known(simulation, host, 8) < 3.0


def test_before_the_start_routers_are_only_noted() -> None:
    simulation = grown(1, 30)
    host = simulation.add_node()
    assert host.node is not None
    host.node.bootstrap([next(iter(simulation.hosts))])
    assert host.node.datagrams_to_send(simulation.now) == []
    host.node.start(simulation.now)
    simulation.touch(host)
    assert seconds_until_known(simulation, host, 8) < 3.0
