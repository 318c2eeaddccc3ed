"""`--bind`: every socket leaves from the bound address or interface, or there is none."""

from __future__ import annotations

import errno
from collections.abc import Awaitable

import pytest

from swarm.endpoint import Endpoint
from swarm.net.bound import BoundNetwork
from swarm.net.network import Gateway, Interface, InterfaceAddress, Outgoing, Path
from swarm.net.real import RealNetwork
from tests.net.namespace import run_in_namespace

WILD4 = Endpoint("0.0.0.0", 0)
WILD6 = Endpoint("::", 0)


class Listed(RealNetwork):
    """A real network whose interface list is made up."""

    def __init__(self, *interfaces: Interface, gateways: tuple[Gateway, ...] = ()) -> None:
        super().__init__()
        self.listed = list(interfaces)
        self.routers = gateways

    def pinned_to(self, device: str) -> Listed:
        return self

    def interfaces(self) -> list[Interface]:
        return self.listed

    def gateways(self) -> list[Gateway]:
        return list(self.routers)


def interface(name: str, *addresses: InterfaceAddress, up: bool = True) -> Interface:
    return Interface(name, 7, up, False, True, addresses)


async def refused(attempt: Awaitable[object]) -> int | None:
    with pytest.raises(OSError) as caught:
        await attempt
    return caught.value.errno


async def test_the_wildcard_becomes_the_bound_address_on_every_socket() -> None:
    network = BoundNetwork(RealNetwork(), "127.0.0.9")
    udp = await network.bind_udp(WILD4)
    listener = await network.listen_tcp(WILD4)
    dialled = await network.dial_tcp(listener.local)
    accepted = await listener.accept()
    assert udp.local.host == listener.local.host == dialled.local.host == accepted.remote.host == "127.0.0.9"
    again = await network.dial_tcp(listener.local, local=Endpoint("0.0.0.0", udp.local.port))
    assert again.local == udp.local
    for closable in (udp, listener):
        closable.close()
    for stream in (dialled, accepted, again):
        stream.abort()


async def test_datagrams_leave_from_the_bound_address() -> None:
    network = BoundNetwork(RealNetwork(), "127.0.0.9")
    sender, receiver = await network.bind_udp(WILD4), await RealNetwork().bind_udp(Endpoint("127.0.0.1", 0))
    sender.send_nowait(Outgoing([b"x"], 1, Path(None, receiver.local)))
    await receiver.wait_readable()
    [run] = receiver.receive_nowait()
    assert run.path.remote == sender.local
    sender.close()
    receiver.close()


async def test_an_address_binds_its_family_only() -> None:
    network = BoundNetwork(RealNetwork(), "127.0.0.1")
    assert await refused(network.bind_udp(WILD6)) == errno.EAFNOSUPPORT
    assert await refused(network.listen_tcp(WILD6)) == errno.EAFNOSUPPORT
    assert await refused(network.dial_tcp(Endpoint("::1", 9))) == errno.EAFNOSUPPORT
    assert await refused(network.dial_tcp(Endpoint("::1", 9), local=WILD4)) == errno.EAFNOSUPPORT


async def test_no_other_address_of_ours_will_do() -> None:
    network = BoundNetwork(RealNetwork(), "127.0.0.1")
    other = Endpoint("127.0.0.2", 0)
    assert await refused(network.bind_udp(other)) == errno.EADDRNOTAVAIL
    assert await refused(network.listen_tcp(other)) == errno.EADDRNOTAVAIL
    assert await refused(network.dial_tcp(Endpoint("127.0.0.1", 9), local=other)) == errno.EADDRNOTAVAIL
    assert await refused(network.bind_udp(WILD4, interface="eth7")) == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("bind", ["203.0.113.77", "2001:db8::77", "no-such-if"])
async def test_without_the_address_or_interface_there_is_no_socket(bind: str) -> None:
    network = BoundNetwork(RealNetwork(), bind)
    wild, remote = (WILD6, Endpoint("::1", 9)) if ":" in bind else (WILD4, Endpoint("127.0.0.1", 9))
    assert not network.available()
    assert await refused(network.bind_udp(wild)) == errno.EADDRNOTAVAIL
    assert await refused(network.listen_tcp(wild)) == errno.EADDRNOTAVAIL
    assert await refused(network.dial_tcp(remote)) == errno.EADDRNOTAVAIL
    assert network.interfaces() == []


def test_any_address_of_the_loopback_network_counts_as_there() -> None:
    assert BoundNetwork(RealNetwork(), "127.3.2.1").available()
    assert BoundNetwork(RealNetwork(), "::1").available()


async def test_an_interface_name_binds_its_addresses_of_both_families() -> None:
    network = BoundNetwork(RealNetwork(), "lo")
    assert network.available()
    four, six = await network.bind_udp(WILD4), await network.bind_udp(WILD6)
    assert (four.local.host, six.local.host) == ("127.0.0.1", "::1")
    four.close()
    six.close()


def test_the_best_address_is_global_stable_and_in_use() -> None:
    addresses = [
        InterfaceAddress("fe80::1%tun0", 64),
        InterfaceAddress("fd00::1", 64),
        InterfaceAddress("2600::1", 64, deprecated=True),
        InterfaceAddress("2600::2", 64, temporary=True),
        InterfaceAddress("2600::3", 64),
        InterfaceAddress("169.254.1.1", 16),
        InterfaceAddress("10.8.0.2", 24),
    ]
    for gone in (None, "2600::3", "2600::2", "fd00::1", "2600::1"):
        addresses = [address for address in addresses if address.host != gone]
        network = BoundNetwork(Listed(interface("tun0", *addresses)), "tun0")
        chosen = {None: "2600::3", "2600::3": "2600::2", "2600::2": "fd00::1", "fd00::1": "2600::1"}.get(gone)
        if chosen is None:  # a link-local address reaches nobody
            with pytest.raises(OSError):
                network._best(is_ipv6=True)
        else:
            assert network._best(is_ipv6=True) == chosen
        assert network._best(is_ipv6=False) == "10.8.0.2"


async def test_an_interface_that_is_down_is_not_there() -> None:
    network = BoundNetwork(Listed(interface("tun0", InterfaceAddress("127.0.0.1", 8), up=False)), "tun0")
    assert not network.available()
    assert await refused(network.bind_udp(WILD4)) == errno.EADDRNOTAVAIL


def test_only_what_is_bound_to_is_shown() -> None:
    lan = interface("eth0", InterfaceAddress("192.0.2.2", 24), InterfaceAddress("2001:db8::2", 64))
    tunnel = interface("tun0", InterfaceAddress("10.8.0.2", 24))
    routers = (Gateway("192.0.2.1", "eth0"), Gateway("10.8.0.1", "tun0"), Gateway("fe80::1%eth0", "eth0"))
    inner = Listed(lan, tunnel, gateways=routers)
    assert BoundNetwork(inner, "tun0").interfaces() == [tunnel]
    assert BoundNetwork(inner, "tun0").gateways() == [routers[1]]
    assert BoundNetwork(inner, "192.0.2.2").interfaces() == [lan._replace(addresses=lan.addresses[:1])]
    assert BoundNetwork(inner, "192.0.2.2").gateways() == [routers[0]]


async def test_multicast_goes_through_the_bound_interface() -> None:
    network = BoundNetwork(RealNetwork(), "127.0.0.1")
    group = Endpoint("239.192.152.143", 0)
    sender = await network.bind_udp(WILD4, multicast_group=group.host)
    assert sender.local.host == "127.0.0.1"
    sender.send_nowait(Outgoing([b"x"], 1, Path(None, Endpoint(group.host, sender.local.port))))
    await sender.wait_readable()
    [run] = sender.receive_nowait()
    assert run.path.remote == sender.local
    sender.close()


@pytest.mark.netlab
def test_a_bound_interface_that_loses_its_route_sends_nothing_elsewhere() -> None:
    """The VPN case: the default route moves to the LAN while the tunnel still has its address."""
    run_in_namespace(
        [
            "ip link add tun9 type veth peer name peer0",
            "ip link set peer0 up",
            "ip addr add 10.8.0.2/24 dev tun9",
            "ip link set tun9 up",
            "ip link add lan9 type veth peer name peer1",
            "ip link set peer1 up",
            "ip addr add 192.0.2.2/24 dev lan9",
            "ip link set lan9 up",
            "ip route add default via 192.0.2.1",
            "ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev lan9",
        ],
        """
        import errno, subprocess, trio
        from swarm.endpoint import Endpoint
        from swarm.net.bound import BoundNetwork
        from swarm.net.network import Outgoing, Path
        from swarm.net.real import RealNetwork

        def sent_by_lan():
            with open("/proc/net/dev") as file:  # name, eight counters received, bytes sent, ...
                [line] = [line for line in file if line.strip().startswith("lan9:")]
            return int(line.partition(":")[2].split()[8])

        async def main():
            far = Endpoint("198.51.100.1", 9)
            datagram = Outgoing([b"x" * 1000], 1000, Path(None, far))
            # An address alone follows the routing table, out of the LAN: what pinning is for.
            before = sent_by_lan()
            loose = await BoundNetwork(RealNetwork(), "10.8.0.2").bind_udp(Endpoint("0.0.0.0", 0))
            loose.send_nowait(datagram)
            assert sent_by_lan() >= before + 1000
            loose.close()

            network = BoundNetwork(RealNetwork(), "tun9")
            assert network.available()
            sock = await network.bind_udp(Endpoint("0.0.0.0", 0))
            assert sock.local.host == "10.8.0.2"
            before = sent_by_lan()
            for _ in range(3):
                try:
                    sock.send_nowait(datagram)
                except OSError as error:
                    assert error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH), error
            with trio.move_on_after(0.1):
                try:
                    await network.dial_tcp(far)
                    raise AssertionError("connected")
                except OSError as error:
                    assert error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH), error
            assert sent_by_lan() < before + 1000

            subprocess.run("ip link del tun9".split(), check=True)
            assert not network.available()
            for attempt in (network.bind_udp, network.listen_tcp):
                try:
                    await attempt(Endpoint("0.0.0.0", 0))
                    raise AssertionError("bound")
                except OSError as error:
                    assert error.errno == errno.EADDRNOTAVAIL, error
            try:
                sock.send_nowait(datagram)
                raise AssertionError("sent")
            except OSError:
                pass
            assert sent_by_lan() < before + 1000
            sock.close()

        trio.run(main)
        """,
    )
