"""The simulated internet as a `Network`: names, interfaces, gateways, address changes, many hosts, real time."""

from __future__ import annotations

import socket

import pytest
import trio
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.net.network import Gateway, Interface, InterfaceAddress, Network, Outgoing, Path
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.link import Link

ANY = Endpoint("0.0.0.0", 0)


async def test_names_resolve_in_their_order_and_literals_to_themselves(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        host = internet.host("h")
        internet.name("tracker.example", "20.1.2.3", "2A0E:0::1")
        assert await host.resolve("tracker.example", 80) == [Endpoint("20.1.2.3", 80), Endpoint("2a0e::1", 80)]
        assert await host.resolve("2A0E:0::1", 6881) == [Endpoint("2a0e::1", 6881)]
        assert await host.resolve("localhost", 1) == [Endpoint("127.0.0.1", 1), Endpoint("::1", 1)]
        internet.name("tracker.example")
        with pytest.raises(socket.gaierror):
            await host.resolve("tracker.example", 80)


async def test_interfaces_and_gateways_are_listed(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        router = internet.router("r", lan="192.168.1.1")
        host = internet.host("h", "192.168.1.7", "2a0e:5::7", router=router)
        loopback, ethernet = host.interfaces()
        assert loopback.loopback and not loopback.multicast
        addresses = (InterfaceAddress("192.168.1.7", 24), InterfaceAddress("2a0e:5::7", 64))
        assert ethernet == Interface("eth0", 2, True, False, True, addresses)
        assert host.gateways() == [Gateway("192.168.1.1", "eth0")]
        assert internet.host("p", "20.3.4.5").gateways() == [Gateway("20.3.4.1", "eth0")]
        host.connect(False)
        assert not host.interfaces()[1].up
        assert host.gateways() == []


async def test_a_second_interface_has_routes_of_its_own(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        host = internet.host("h", "20.1.1.1")
        host.attach(internet.core, "20.2.2.2", interface="tun0")
        peer = internet.host("p")
        inbox = await peer.bind_udp(ANY)
        tunnel = await host.bind_udp(Endpoint("20.2.2.2", 0))
        tunnel.send_nowait(Outgoing([b"x"], 1, Path(None, Endpoint(peer.ipv4, inbox.local.port))))
        await inbox.wait_readable()
        assert inbox.receive_nowait()[0].path.remote.host == "20.2.2.2"
        assert (host.port("tun0").up.packets, host.port("eth0").up.packets) == (1, 0)


@pytest.mark.parametrize("change", ["add", "remove", "unplug"])
async def test_address_changes_are_noticed(autojump_clock: MockClock, change: str) -> None:
    async with open_internet() as internet:
        host = internet.host("h")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.wait_address_change)
            await trio.testing.wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 1
            match change:
                case "add":
                    host.add_address("20.200.0.1")
                case "remove":
                    host.remove_address(host.ipv4)
                case _:
                    host.connect(False)


async def test_one_address_belongs_to_one_host(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        internet.host("a", "20.5.5.5")
        with pytest.raises(ValueError, match=r"20\.5\.5\.5"):
            internet.host("b", "20.5.5.5")
        with pytest.raises(ValueError, match="already"):
            internet.host("a")


async def test_an_unplugged_host_is_silent_and_comes_back(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        a, b = internet.host("a"), internet.host("b")
        sender, receiver = await a.bind_udp(ANY), await b.bind_udp(ANY)
        remote = Endpoint(b.ipv4, receiver.local.port)
        b.connect(False)
        sender.send_nowait(Outgoing([b"x"], 1, Path(None, remote)))
        await trio.sleep(1)
        assert internet.dropped == {"link-down": 1}
        b.connect(True)
        sender.send_nowait(Outgoing([b"y"], 1, Path(None, remote)))
        await receiver.wait_readable()


async def gossip(internet: Internet, count: int) -> int:
    """Each of ``count`` hosts says something to ten others; the number of answers that came home."""
    hosts: list[Network] = [internet.host(f"h{n}") for n in range(count)]
    endpoints = [Endpoint(internet.hosts[f"h{n}"].ipv4, 6881) for n in range(count)]
    answers = 0

    async def node(network: Network, number: int) -> None:
        nonlocal answers
        bound = await network.bind_udp(Endpoint("0.0.0.0", 6881))
        await trio.sleep(0.1)
        for step in range(1, 11):
            bound.send_nowait(Outgoing([b"ask"], 3, Path(None, endpoints[(number + step * step) % count])))
        with trio.move_on_after(1):
            while True:
                await bound.wait_readable()
                for received in bound.receive_nowait():
                    if bytes(received.data) == b"ask":
                        bound.send_nowait(Outgoing([b"answer"], 6, received.path))
                    else:
                        answers += 1

    async with trio.open_nursery() as nursery:
        for number, network in enumerate(hosts):
            nursery.start_soon(node, network, number)
    return answers


async def test_a_hundred_hosts_talk(autojump_clock: MockClock) -> None:
    async with open_internet(seed=1) as internet:
        assert await gossip(internet, 100) == 1000
        assert not internet.dropped


async def test_it_runs_in_real_time_too() -> None:
    async with open_internet() as internet:
        a, b = internet.host("a", link=Link(delay=0.02)), internet.host("b", link=Link(delay=0.01))
        sender, receiver = await a.bind_udp(ANY), await b.bind_udp(ANY)
        start = trio.current_time()
        sender.send_nowait(Outgoing([b"x"], 1, Path(None, Endpoint(b.ipv4, receiver.local.port))))
        with trio.fail_after(5):
            await receiver.wait_readable()
        assert trio.current_time() - start >= 0.03


async def test_a_packet_sent_later_may_arrive_earlier(autojump_clock: MockClock) -> None:
    """The runner must notice that a new event comes before the one it sleeps for."""
    async with open_internet() as internet:
        slow, fast = internet.host("slow", link=Link(delay=5.0)), internet.host("fast", link=Link(delay=0.0))
        target = internet.host("t", link=Link(delay=1.0))
        inbox = await target.bind_udp(ANY)
        remote = Endpoint(target.ipv4, inbox.local.port)
        for host in (slow, fast):
            bound = await host.bind_udp(ANY)
            bound.send_nowait(Outgoing([host.name.encode()], 9, Path(None, remote)))
            await trio.testing.wait_all_tasks_blocked()
        await inbox.wait_readable()
        assert bytes(inbox.receive_nowait()[0].data) == b"fast"
        assert trio.current_time() == pytest.approx(1.0)
