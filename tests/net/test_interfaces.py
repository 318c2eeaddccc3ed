"""What rtnetlink says about this machine, and about one whose addresses change."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest
import trio

from swarm.endpoint import Endpoint
from swarm.net import netlink
from swarm.net.network import Gateway, Interface, InterfaceAddress
from swarm.net.real import RealNetwork, guessed_interfaces
from tests.net.namespace import run_in_namespace


def test_the_loopback_interface_is_listed_with_both_addresses() -> None:
    [loopback] = [interface for interface in RealNetwork().interfaces() if interface.loopback]
    assert (loopback.name, loopback.up) == ("lo", True)
    assert loopback.index == socket.if_nametoindex("lo")
    assert InterfaceAddress("127.0.0.1", 8) in loopback.addresses
    assert InterfaceAddress("::1", 128) in loopback.addresses


def test_every_listed_address_is_canonical_and_link_local_ones_keep_their_scope() -> None:
    for interface in RealNetwork().interfaces():
        for address in interface.addresses:
            parsed = ipaddress.ip_address(address.host)
            assert str(parsed) == address.host
            if isinstance(parsed, ipaddress.IPv6Address) and parsed.is_link_local:
                assert parsed.scope_id == interface.name


def test_without_netlink_the_source_addresses_are_guessed() -> None:
    known = {address.host for interface in RealNetwork().interfaces() for address in interface.addresses}
    for interface in guessed_interfaces():
        assert {address.host for address in interface.addresses} <= known


async def test_a_literal_address_resolves_to_itself() -> None:
    network = RealNetwork()
    assert await network.resolve("::FFFF:127.0.0.1", 80) == [Endpoint("127.0.0.1", 80)]
    assert await network.resolve("2001:DB8:0::1", 1) == [Endpoint("2001:db8::1", 1)]


async def test_localhost_resolves_to_loopback_addresses() -> None:
    found = await RealNetwork().resolve("localhost", 6881)
    assert found
    assert all(endpoint.address.is_loopback and endpoint.port == 6881 for endpoint in found)


@pytest.mark.parametrize("name", ["a..b", "x" * 70 + ".example", "nul\0.example"])
async def test_what_is_no_name_at_all_is_an_unknown_name(name: str) -> None:
    with pytest.raises(socket.gaierror):
        await RealNetwork().resolve(name, 80)


def test_cut_netlink_messages_end_the_list() -> None:
    message = struct.pack("=IHHII", 20, 20, 0, 0, 0) + b"body"
    for cut in range(len(message)):
        assert list(netlink._messages(message[:cut])) == []
        assert [kind for kind, _ in netlink._messages(message + message[:cut])] == [20]
    attributes = struct.pack("=HH", 5, 3) + b"x\0\0\0" + struct.pack("=HH", 8, 1) + b"abcd"
    for cut in range(len(attributes)):
        assert set(netlink._attributes(memoryview(attributes[:cut]), 0).items()) <= {(3, b"x"), (1, b"abcd")}


@pytest.mark.netlab
def test_default_routes_are_listed_by_metric_and_flags_of_ipv6_addresses_are_told() -> None:
    printed = run_in_namespace(
        [
            "ip link add dum0 type veth peer name peer0",
            "ip link set peer0 up",
            "ip addr add 192.0.2.2/24 dev dum0",
            "ip -6 addr add 2001:db8::2/64 dev dum0 nodad preferred_lft 0",
            "ip -6 addr add 2001:db8::3/64 dev dum0 nodad",
            "ip link add dum1 type veth peer name peer1",
            "ip link set peer1 up",
            "ip addr add 198.51.100.2 peer 198.51.100.1 dev dum1",
            "ip link set dum0 up",
            "ip link set dum1 up",
            "ip route add default via 192.0.2.1 metric 20",
            "ip route add default metric 10 nexthop via 192.0.2.7 nexthop via 198.51.100.1 dev dum1",
            "ip route add default dev dum1 metric 5",
            "ip route add default via 192.0.2.9 table 77",
            "ip -6 route add default via fe80::1 dev dum0 metric 15",
        ],
        """
        from swarm.net.real import RealNetwork
        network = RealNetwork()
        print([interface for interface in network.interfaces() if interface.name in ("dum0", "dum1")])
        print(network.gateways())
        """,
    )
    names = {"Interface": Interface, "InterfaceAddress": InterfaceAddress, "Gateway": Gateway}
    interfaces, gateways = (eval(line, names) for line in printed.splitlines())
    found = {address.host: address for interface in interfaces for address in interface.addresses}
    assert found["192.0.2.2"].prefix_length == 24
    assert found["2001:db8::2"].deprecated
    assert not found["2001:db8::3"].deprecated
    assert "198.51.100.2" in found  # our end of a point-to-point link, not the other
    assert gateways == [
        Gateway("192.0.2.7", "dum0"),
        Gateway("198.51.100.1", "dum1"),
        Gateway("fe80::1%dum0", "dum0"),
        Gateway("192.0.2.1", "dum0"),
    ]


@pytest.mark.netlab
def test_each_change_of_addresses_and_routes_ends_one_wait() -> None:
    run_in_namespace(
        [
            "echo 1 > /proc/sys/net/ipv6/conf/default/addr_gen_mode",  # no link-local address that comes late
            "ip link add dum0 type veth peer name peer0",
            "ip link set peer0 up",
            "ip link set dum0 up",
            "ip addr add 192.0.2.2/24 dev dum0",
        ],
        """
        import subprocess, trio
        from swarm.net.real import RealNetwork

        async def main():
            network = RealNetwork()
            commands = [
                "ip addr add 192.0.2.3/24 dev dum0",
                "ip addr del 192.0.2.3/24 dev dum0",
                "ip -6 addr add 2001:db8::2/64 dev dum0 nodad",
                "ip route add default via 192.0.2.1",
                "ip link set dum0 down",
            ]
            for command in commands:
                with trio.fail_after(3):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(network.wait_address_change)
                        await trio.testing.wait_all_tasks_blocked()
                        subprocess.run(command.split(), check=True)
            # A change that came between two waits of one task is told at once.
            with trio.move_on_after(0.2):
                while True:
                    await network.wait_address_change()
            subprocess.run("ip link set dum0 up".split(), check=True)
            with trio.fail_after(3):
                await network.wait_address_change()
            # A link message that changes nothing we know of is no news.
            with trio.move_on_after(0.3):
                while True:
                    await network.wait_address_change()
            renamed = "ip link set dum0 alias uplink"
            with trio.move_on_after(0.3) as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(network.wait_address_change)
                    await trio.testing.wait_all_tasks_blocked()
                    subprocess.run(renamed.split(), check=True)
            assert scope.cancelled_caught

        import trio.testing
        trio.run(main)
        """,
    )


async def test_waiting_for_a_change_can_be_cancelled_and_leaves_nothing_open() -> None:
    with trio.move_on_after(0.05) as scope:
        await RealNetwork().wait_address_change()
    assert scope.cancelled_caught
