"""Routers of the simulated internet: punching, nesting, hairpins, firewalls, reboots."""

from __future__ import annotations

import errno
from dataclasses import replace
from itertools import combinations_with_replacement

import pytest
import trio
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.net.network import DatagramSocket, Outgoing, Path
from swarm.simnet.catalogue import CONE, KINDS, SYMRAND, behind
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.nat import FirewallBehaviour

PORT = 6881
WILDCARD = Endpoint("0.0.0.0", PORT)

# Who meets whom by UDP when both send to the endpoint that an observer saw, and answer whatever they hear.
UDP_PUNCH = """
            open fullcone restricted cone symseq symrand udpblock cgn cgnsym
open        yes  yes      yes        yes  yes    yes     no       yes yes
fullcone         yes      yes        yes  yes    yes     no       yes yes
restricted                yes        yes  yes    yes     no       yes yes
cone                                 yes  no     no      no       yes no
symseq                                    no     no      no       no  no
symrand                                          no      no       no  no
udpblock                                                 no       no  no
cgn                                                               yes no
cgnsym                                                                no
"""
PUNCH_KINDS = UDP_PUNCH.split("\n")[1].split()
PUNCH_ROWS = {row.split()[0]: row.split()[1:] for row in UDP_PUNCH.strip().split("\n")[1:]}


def send(bound: DatagramSocket, data: bytes, remote: Endpoint, ttl: int | None = None) -> None:
    bound.send_nowait(Outgoing([data], 1400, Path(None, remote), ttl))


def heard(bound: DatagramSocket) -> dict[bytes, Endpoint]:
    return {bytes(received.data): received.path.remote for received in bound.receive_nowait()}


class Observer:
    """A public host that sees under which endpoint others appear."""

    def __init__(self, internet: Internet, bound: DatagramSocket) -> None:
        self.bound = bound
        self.endpoint = Endpoint(internet.hosts["observer"].ipv4, PORT)

    @classmethod
    async def on(cls, internet: Internet) -> Observer:
        return cls(internet, await internet.host("observer").bind_udp(WILDCARD))

    async def sees(self, bound: DatagramSocket) -> Endpoint | None:
        """The external endpoint of a socket; None if nothing gets through."""
        send(bound, b"?", self.endpoint)
        await trio.sleep(1)
        return heard(self.bound).get(b"?")


async def punch(bound: DatagramSocket, target: Endpoint) -> bool:
    """Send to ``target`` and to whoever is heard; whether anything but the observer was heard twice."""
    answered: set[Endpoint] = set()
    for _ in range(5):
        send(bound, b"punch", target)
        await trio.sleep(0.2)
        for data, remote in heard(bound).items():
            send(bound, b"answer", remote)
            if data == b"answer":
                answered.add(remote)
    return bool(answered)


@pytest.mark.parametrize(("one", "two"), list(combinations_with_replacement(PUNCH_KINDS, 2)))
async def test_udp_punching_works_for_exactly_these_pairs(autojump_clock: MockClock, one: str, two: str) -> None:
    met = {}
    async with open_internet(seed=7) as internet:
        observer = await Observer.on(internet)
        bound = {"a": await behind(internet, one, "a").bind_udp(WILDCARD)}
        bound["b"] = await behind(internet, two, "b").bind_udp(WILDCARD)
        seen = {name: await observer.sees(each) or Endpoint("20.0.250.1", 1) for name, each in bound.items()}

        async def run(name: str, other: str) -> None:
            met[name] = await punch(bound[name], seen[other])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, "a", "b")
            nursery.start_soon(run, "b", "a")
    row = PUNCH_ROWS[one]
    expected = row[PUNCH_KINDS.index(two) - PUNCH_KINDS.index(one)] == "yes"
    assert met == {"a": expected, "b": expected}


async def outside(host: Host) -> Endpoint:
    """Where TCP from our port appears behind NATs that preserve ports."""
    names = (f"{host.name}-carrier", f"{host.name}-home")
    router = next(host.internet.routers[name] for name in names if name in host.internet.routers)
    return Endpoint(router.wan, PORT)


@pytest.mark.parametrize(
    ("one", "two", "meets"),
    [
        ("cone", "cone", True),
        ("restricted", "cone", True),
        ("udpblock", "udpblock", True),
        ("cgn", "cone", True),
        ("cgn", "cgn", True),
        ("cone", "symrand", False),
        ("cgnsym", "cone", False),
    ],
)
async def test_tcp_simultaneous_open_through_nats(autojump_clock: MockClock, one: str, two: str, meets: bool) -> None:
    async with open_internet(seed=3) as internet:
        a, b = behind(internet, one, "a"), behind(internet, two, "b")
        streams = {}

        async def dial(host: Host, remote: Endpoint) -> None:
            with trio.move_on_after(10):
                streams[host.name] = await host.dial_tcp(remote, local=WILDCARD)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial, a, await outside(b))
            await trio.sleep(0.3)
            nursery.start_soon(dial, b, await outside(a))
        assert set(streams) == ({"a", "b"} if meets else set())
        if meets:
            await streams["a"].send_all(b"through both")
            assert await streams["b"].receive_some() == b"through both"


async def test_a_nat_that_resets_uninvited_syns_ends_the_earlier_dial(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        router = internet.router("r", replace(CONE, unsolicited_tcp="reset"))
        a = internet.host("a")
        internet.host("b", router=router)
        with pytest.raises(OSError) as caught:
            await a.dial_tcp(Endpoint(router.wan, PORT))
        assert caught.value.errno == errno.ECONNREFUSED


async def test_a_host_behind_a_nat_can_dial_and_transfer_but_not_be_dialled(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        inside, server = behind(internet, "cone", "a"), internet.host("s")
        listener = await server.listen_tcp(WILDCARD)
        stream = await inside.dial_tcp(Endpoint(server.ipv4, PORT))
        accepted = await listener.accept()
        assert accepted.remote.host == internet.routers["a-home"].wan
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, bytes(1_000_000))
            received = 0
            while received < 1_000_000:
                received += len(await accepted.receive_some())
        await inside.listen_tcp(WILDCARD)
        with trio.move_on_after(60) as scope:
            await server.dial_tcp(Endpoint(internet.routers["a-home"].wan, PORT))
        assert scope.cancelled_caught


async def test_a_low_ttl_opener_opens_our_nat_and_dies_on_the_way(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        opener, stranger = behind(internet, "cone", "a"), internet.host("s")
        mine, theirs = await opener.bind_udp(WILDCARD), await stranger.bind_udp(WILDCARD)
        external = Endpoint(internet.routers["a-home"].wan, PORT)
        send(mine, b"opener", Endpoint(stranger.ipv4, PORT), ttl=1)
        await trio.sleep(1)
        send(theirs, b"too early", external)
        await trio.sleep(1)
        assert heard(mine) == {}
        send(mine, b"opener", Endpoint(stranger.ipv4, PORT), ttl=5)
        await trio.sleep(1)
        assert heard(theirs) == {}
        send(theirs, b"hello", external)
        await trio.sleep(1)
        assert heard(mine) == {b"hello": Endpoint(stranger.ipv4, PORT)}
        assert internet.dropped == {"ttl-expired": 2, "filtered": 1}


async def test_a_carrier_nat_translates_what_the_home_nat_translated(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        observer = await Observer.on(internet)
        host = behind(internet, "cgn", "a")
        home, carrier = internet.routers["a-home"], internet.routers["a-carrier"]
        assert home.wan.startswith("100.64.")
        bound = await host.bind_udp(WILDCARD)
        assert await observer.sees(bound) == Endpoint(carrier.wan, PORT)
        send(observer.bound, b"back", Endpoint(carrier.wan, PORT))
        await trio.sleep(1)
        assert heard(bound) == {b"back": observer.endpoint}
        carrier.reboot()
        send(observer.bound, b"again", Endpoint(carrier.wan, PORT))
        await trio.sleep(1)
        assert heard(bound) == {}


async def test_sequential_and_random_allocation_show_their_step(autojump_clock: MockClock) -> None:
    async with open_internet(seed=1) as internet:
        observer = await Observer.on(internet)
        second = await internet.host("second").bind_udp(WILDCARD)
        steps = {}
        for kind in ("cone", "symseq", "symrand"):
            bound = await behind(internet, kind, kind).bind_udp(WILDCARD)
            first = await observer.sees(bound)
            send(bound, b"?", Endpoint(internet.hosts["second"].ipv4, PORT))
            await trio.sleep(1)
            assert first is not None
            steps[kind] = heard(second)[b"?"].port - first.port
        assert (steps["cone"], steps["symseq"]) == (0, 1)
        assert abs(steps["symrand"]) > 10


@pytest.mark.parametrize("hairpin", [False, True])
async def test_hosts_behind_one_router_meet_on_the_lan_and_by_hairpin_if_it_has_one(
    autojump_clock: MockClock, hairpin: bool
) -> None:
    async with open_internet() as internet:
        observer = await Observer.on(internet)
        router = internet.router("r", replace(KINDS["fullcone"].home or CONE, hairpin=hairpin))
        a, b = internet.host("a", router=router), internet.host("b", router=router)
        one, two = await a.bind_udp(WILDCARD), await b.bind_udp(WILDCARD)
        send(one, b"lan", Endpoint(b.ipv4, PORT))
        await trio.sleep(1)
        assert heard(two) == {b"lan": Endpoint(a.ipv4, PORT)}
        external, other = await observer.sees(one), await observer.sees(two)
        assert external == Endpoint(router.wan, PORT)
        assert other is not None and other.port != PORT
        send(one, b"hairpin", other)
        await trio.sleep(1)
        assert heard(two) == ({b"hairpin": external} if hairpin else {})


async def test_a_router_that_blocks_udp_passes_tcp(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        observer = await Observer.on(internet)
        host = behind(internet, "udpblock", "a")
        assert await observer.sees(await host.bind_udp(WILDCARD)) is None
        assert internet.dropped == {"blocked": 1}
        await internet.hosts["observer"].listen_tcp(WILDCARD)
        await host.dial_tcp(observer.endpoint)


async def test_a_reboot_closes_what_was_open_until_the_host_sends_again(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        observer = await Observer.on(internet)
        bound = await behind(internet, "cone", "a").bind_udp(WILDCARD)
        external = await observer.sees(bound)
        assert external is not None
        internet.routers["a-home"].reboot()
        assert internet.routers["a-home"].booted == trio.current_time()
        send(observer.bound, b"lost", external)
        await trio.sleep(1)
        assert heard(bound) == {}
        assert await observer.sees(bound) == external
        send(observer.bound, b"back", external)
        await trio.sleep(1)
        assert b"back" in heard(bound)


async def test_a_new_external_address_is_seen_and_the_old_one_is_nowhere(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        observer = await Observer.on(internet)
        bound = await behind(internet, "cone", "a").bind_udp(WILDCARD)
        old = await observer.sees(bound)
        assert old is not None
        internet.routers["a-home"].change_wan("20.77.77.77")
        assert await observer.sees(bound) == Endpoint("20.77.77.77", PORT)
        send(observer.bound, b"x", old)
        await trio.sleep(1)
        assert internet.dropped == {"no-route": 1}


async def test_a_short_lifetime_closes_the_way_back(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        observer = await Observer.on(internet)
        router = internet.router("r", replace(SYMRAND, udp_lifetime=10))
        bound = await internet.host("a", router=router).bind_udp(WILDCARD)
        external = await observer.sees(bound)
        assert external is not None
        for wait, arrives in ((8.0, True), (4.0, False)):
            await trio.sleep(wait)
            send(observer.bound, b"x", external)
            await trio.sleep(0.1)
            assert bool(heard(bound)) == arrives


async def test_an_ipv6_firewall_lets_in_answers_and_pinholes_only(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        router = internet.router("r", CONE, firewall=FirewallBehaviour())
        inside = internet.host("in", "10.0.1.9", "2a0e:77::9", router=router)
        outside_host = internet.host("out", internet.free_ipv6())
        mine, theirs = await inside.bind_udp(Endpoint("::", PORT)), await outside_host.bind_udp(Endpoint("::", PORT))
        target = Endpoint("2a0e:77::9", PORT)
        send(theirs, b"uninvited", target)
        await trio.sleep(1)
        assert internet.dropped == {"filtered": 1}
        send(mine, b"out", Endpoint(outside_host.ipv6, PORT))
        await trio.sleep(1)
        assert heard(theirs) == {b"out": target}  # not translated
        send(theirs, b"answer", target)
        await trio.sleep(1)
        assert heard(mine) == {b"answer": Endpoint(outside_host.ipv6, PORT)}
        assert router.firewall is not None
        await inside.listen_tcp(Endpoint("::", PORT))
        router.firewall.add_pinhole("tcp", target, trio.current_time())
        await outside_host.dial_tcp(target)


async def test_two_ipv6_hosts_behind_firewalls_punch(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        hosts = []
        for name in "ab":
            router = internet.router(f"r{name}", CONE, firewall=FirewallBehaviour())
            hosts.append(internet.host(name, internet.free_ipv6(), router=router))
        streams = []

        async def dial(host: Host, other: Host) -> None:
            local = Endpoint(host.ipv6, PORT)
            streams.append(await host.dial_tcp(Endpoint(other.ipv6, PORT), local=local))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial, hosts[0], hosts[1])
            nursery.start_soon(dial, hosts[1], hosts[0])
        assert len(streams) == 2


async def test_a_public_lan_is_routed_without_translation(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        observer = await Observer.on(internet)
        host = internet.host("a", router=internet.router("office"))
        assert await observer.sees(await host.bind_udp(WILDCARD)) == Endpoint(host.ipv4, PORT)
        host.remove_address(host.ipv4)
        host.add_address("20.123.0.1")
        assert await observer.sees(await host.bind_udp(Endpoint("0.0.0.0", 7000))) == Endpoint("20.123.0.1", 7000)


def test_the_catalogue_has_the_kinds_of_the_matrix() -> None:
    kinds = "open fullcone restricted cone symseq symrand udpblock upnp natpmp pcp cgn cgnsym v6open v6fw v6pin"
    assert list(KINDS) == kinds.split()


async def test_an_unknown_kind_is_refused(autojump_clock: MockClock) -> None:
    async with open_internet() as internet:
        with pytest.raises(KeyError):
            behind(internet, "moat")
