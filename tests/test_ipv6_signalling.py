"""Peers that met over IPv4 and have IPv6 (BEP 10): they are tried there, the direct path over IPv6 is kept, by both.

Whole nodes on the simulated internet, and peers by hand for clients that decide otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.events import ConnectionClosed, ConnectionRefused, PathName, PeerConnected
from swarm.identity import Identity
from swarm.net.network import Interface, InterfaceAddress, Listener
from swarm.net.ownaddress import global_address
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.torrent.duplicates import MAX_SPARES, Spares, made_by_one_end, newcomer_replaces
from swarm.torrent.torrent import Torrent
from swarm.wire.extended import ExtendedHandshake, parse_extended_handshake_untrusted
from swarm.wire.handshake import Handshake
from swarm.wire.messages import Extended
from tests.loopback import LoopbackNetwork
from tests.nodes import PORT, Recorded, Sample, make_sample, node_on, seeding
from tests.rawpeer import RawPeer

SIZE = 1 << 20
RATE = 100_000  # bytes per second, so that the change comes in the middle of the download
SOON = 5.0


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return make_sample(tmp_path / "seed", SIZE, 32 << 10)


def dual(internet: Internet, name: str) -> Host:
    return internet.host(name, internet.free_ipv4(), internet.free_ipv6())


def families(torrent: Torrent) -> list[bool]:
    """Of each connection, whether it is over IPv6."""
    return [peer.identity.endpoint.is_ipv6 for peer in torrent.connections]


# -- ours and ours ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dice", [1, 2, 3, 4])
async def test_two_of_ours_that_met_over_ipv4_go_on_over_ipv6(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample, dice: int
) -> None:
    """Whoever dialled and whoever has the greater peer id; nothing is lost, and the other path stays untried."""
    async with open_internet(dice) as internet:
        hosts = dual(internet, "seed"), dual(internet, "leech")
        async with (
            node_on(hosts[0], dice, upload_rate=RATE) as seed,
            node_on(hosts[1], dice + 10) as leech,
        ):
            shared = await seeding(seed, sample)
            torrent = leech.node.add(sample.metainfo, tmp_path / "leech")
            dialling, to = (torrent, hosts[0]) if dice % 2 else (shared, hosts[1])
            dialling.admission.found([Endpoint(to.ipv4, PORT)], "tracker")
            met = await leech.wait_for(PeerConnected)
            assert not met.endpoint.is_ipv6
            await trio.sleep(SOON)
            assert families(shared) == families(torrent) == [True]
            with trio.fail_after(60):
                await torrent.wait_complete()
            assert sample.is_whole_in(tmp_path / "leech")
            assert torrent.downloaded < SIZE + RATE
            for node in (seed, leech):
                assert {event.reason for event in node.of(ConnectionClosed)} <= {"duplicate", "closed", "reset"}


async def test_while_one_path_stands_the_other_is_left_alone(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    async with open_internet() as internet:
        hosts = dual(internet, "one"), dual(internet, "two")
        async with node_on(hosts[0], 1) as one, node_on(hosts[1], 2) as two:
            torrents = [node.node.add(sample.metainfo, tmp_path / str(id(node))) for node in (one, two)]
            known = [Endpoint(address, PORT) for address in (hosts[1].ipv4, hosts[1].ipv6)]
            torrents[0].admission.found(known, "tracker")
            await trio.sleep(SOON)
            met = [len(node.of(PeerConnected)) for node in (one, two)]
            refused = [len(node.of(ConnectionRefused)) for node in (one, two)]
            await trio.sleep(1800)
            assert [len(node.of(PeerConnected)) for node in (one, two)] == met
            assert [len(node.of(ConnectionRefused)) for node in (one, two)] == refused
            assert families(torrents[0]) == families(torrents[1]) == [True]
            hosts[1].remove_address(hosts[1].ipv6)
            await trio.sleep(300)
            assert families(torrents[0]) == [False], "what was left alone is there when it is needed"


async def test_an_address_that_comes_later_is_told_to_connected_peers(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    async with open_internet() as internet:
        first, second = dual(internet, "one"), internet.host("two")
        async with node_on(first, 1) as one, node_on(second, 2) as two:
            torrents = [node.node.add(sample.metainfo, tmp_path / str(id(node))) for node in (one, two)]
            torrents[1].admission.found([Endpoint(first.ipv4, PORT)], "tracker")
            await trio.sleep(SOON)
            assert families(torrents[0]) == families(torrents[1]) == [False]
            second.add_address(internet.free_ipv6())
            await trio.sleep(SOON)
            assert families(torrents[0]) == families(torrents[1]) == [True]


async def test_over_ipv6_alone(autojump_clock: MockClock, tmp_path: Path, sample: Sample) -> None:
    async with open_internet() as internet:
        first, second = (internet.host(name, internet.free_ipv6()) for name in ("seed", "leech"))
        async with node_on(first, 1) as seed, node_on(second, 2) as leech:
            await seeding(seed, sample)
            torrent = leech.node.add(sample.metainfo, tmp_path / "leech", peers=[Endpoint(first.ipv6, PORT)])
            with trio.fail_after(60):
                await torrent.wait_complete()
            assert sample.is_whole_in(tmp_path / "leech")


# -- ours and another -------------------------------------------------------------------------------------------------


@dataclass
class Foreigner:
    """A peer by hand that came over IPv4 and says its IPv6 address."""

    first: RawPeer
    listener: Listener
    sample: Sample

    @classmethod
    async def connect(cls, host: Host, at: Endpoint, sample: Sample, ipv6: str | None = None) -> Foreigner:
        listener = await host.listen_tcp(Endpoint("::", 7000))
        first = await RawPeer.connect(host, at, sample, name="foreign")
        said = ExtendedHandshake(p=7000, ipv6=ipv6 or host.ipv6)
        await first.say(Extended(0, said.encode()).encode())
        return cls(first, listener, sample)

    async def accepted(self) -> RawPeer:
        """The next connection over IPv6, hands shaken by the same peer id."""
        raw = RawPeer(await self.listener.accept(), self.sample, fast=False)
        await raw.say(Handshake(self.sample.metainfo.info_hash, b"-XX0000-foreign.....", 0).encode())
        return raw


@dataclass
class Scene:
    node: Recorded
    torrent: Torrent
    foreigner: Foreigner


async def scene(internet: Internet, node: Recorded, sample: Sample, directory: Path, ipv6: str | None = None) -> Scene:
    torrent = node.node.add(sample.metainfo, directory)
    await torrent.wait_checked()
    at = Endpoint(internet.hosts["ours"].ipv4, PORT)
    return Scene(node, torrent, await Foreigner.connect(dual(internet, "theirs"), at, sample, ipv6))


async def test_another_client_is_tried_over_ipv6_and_both_stand_for_a_second(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    async with open_internet() as internet, node_on(dual(internet, "ours"), 1, encryption="off", utp=False) as node:
        at = await scene(internet, node, sample, tmp_path / "ours")
        with trio.fail_after(SOON):
            await at.foreigner.accepted()
        await trio.sleep(0.5)
        assert sorted(families(at.torrent)) == [False, True]
        await trio.sleep(1)
        assert families(at.torrent) == [True]
        [closed] = node.of(ConnectionClosed)
        assert (closed.endpoint, closed.reason) == (at.foreigner.first.local, "duplicate")


async def test_another_client_that_keeps_the_older_one_is_not_asked_again(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    async with open_internet() as internet, node_on(dual(internet, "ours"), 1, encryption="off", utp=False) as node:
        at = await scene(internet, node, sample, tmp_path / "ours")
        with trio.fail_after(SOON):
            refused = await at.foreigner.accepted()
        await trio.sleep(0.2)
        refused.stream.abort()
        with trio.move_on_after(600) as waiting:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep_alive, at.foreigner.first)
                await at.foreigner.accepted()
        assert waiting.cancelled_caught
        assert families(at.torrent) == [False]


async def keep_alive(peer: RawPeer) -> None:
    while True:
        await peer.say(bytes(4))
        await trio.sleep(60)


@pytest.mark.parametrize("ipv6", ["fd00::1", "fe80::1", "::1", "ff02::1", "2001:db8::1"])
async def test_addresses_that_nobody_can_be_at_are_not_tried(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample, ipv6: str
) -> None:
    async with open_internet() as internet, node_on(dual(internet, "ours"), 1, encryption="off") as node:
        at = await scene(internet, node, sample, tmp_path / "ours", ipv6)
        await trio.sleep(SOON)
        assert [peer.endpoint.is_ipv6 for peer in at.torrent.admission.peers] == [False]


async def test_who_says_addresses_without_end_is_not_listened_to(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    async with open_internet() as internet, node_on(dual(internet, "ours"), 1, encryption="off") as node:
        at = await scene(internet, node, sample, tmp_path / "ours")
        for number in range(100):
            said = ExtendedHandshake(ipv6=f"2a0e:{number + 100:x}::1")
            await at.foreigner.first.say(Extended(0, said.encode()).encode())
        await trio.sleep(1)
        assert sum(peer.endpoint.is_ipv6 for peer in at.torrent.admission.peers) == 8


async def test_we_say_our_address_of_the_other_family(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    async with open_internet() as internet:
        ours, theirs = dual(internet, "ours"), dual(internet, "theirs")
        async with node_on(ours, 1) as node:
            node.node.add(sample.metainfo, tmp_path / "ours")
            for at, ipv4, ipv6 in ((ours.ipv4, None, ours.ipv6), (ours.ipv6, ours.ipv4, None)):
                raw = await RawPeer.connect(theirs, Endpoint(at, PORT), sample, name=at[:12])
                message = await raw.wait_for(Extended)
                assert isinstance(message, Extended)
                said = parse_extended_handshake_untrusted(message.payload)
                assert (said.ipv4, said.ipv6, said.p) == (ipv4, ipv6, PORT)
                assert said.yourip == raw.local.host


# -- the rule ---------------------------------------------------------------------------------------------------------

GREATER, LESSER = b"-SW" + b"z" * 17, b"-SW" + b"a" * 17


def identity(host: str, path: PathName, *, outward: bool, peer_id: bytes) -> Identity:
    return Identity(Endpoint(host, 1), path, "out" if outward else "in", Handshake(bytes(20), peer_id, 0))


PATHS: list[tuple[str, PathName]] = [
    ("20.0.0.1", "relayed"),
    ("2a0e::1", "turn"),
    ("20.0.0.1", "tcp"),
    ("20.0.0.1", "utp-punched"),
    ("fe80::1%eth0", "tcp"),
    ("2a0e::1", "tcp"),
    ("2a0e::1", "utp"),
]


@pytest.mark.parametrize("old_path", PATHS, ids=str)
@pytest.mark.parametrize("new_path", PATHS, ids=str)
@pytest.mark.parametrize("old_ours", [True, False])
@pytest.mark.parametrize("new_ours", [True, False])
def test_both_ends_keep_the_same_connection(
    old_path: tuple[str, PathName], new_path: tuple[str, PathName], old_ours: bool, new_ours: bool
) -> None:
    """Of two that one end made they need not: that end decides alone, by what it sees of them."""

    def kept_new(us: bytes, them: bytes, *, mirrored: bool) -> bool | None:
        old = identity(*old_path, outward=old_ours is not mirrored, peer_id=them)
        new = identity(*new_path, outward=new_ours is not mirrored, peer_id=them)
        return None if made_by_one_end(old, new) else newcomer_replaces(old, new, us)

    here, there = kept_new(GREATER, LESSER, mirrored=False), kept_new(LESSER, GREATER, mirrored=True)
    assert here == there
    if here is not None:  # and whatever order they saw the two in
        old = identity(*old_path, outward=not old_ours, peer_id=GREATER)
        new = identity(*new_path, outward=not new_ours, peer_id=GREATER)
        assert newcomer_replaces(new, old, LESSER) is not here


def test_direct_beats_relayed_and_ipv6_beats_ipv4() -> None:
    ranks = [("20.0.0.1", "relayed"), ("20.0.0.1", "tcp"), ("2a0e::1", "utp")]
    for worse, better in ((0, 1), (0, 2), (1, 2)):
        for outward in (True, False):
            old = identity(*ranks[worse], outward=outward, peer_id=LESSER)  # type: ignore[arg-type]
            new = identity(*ranks[better], outward=outward, peer_id=LESSER)  # type: ignore[arg-type]
            assert newcomer_replaces(old, new, GREATER)
            assert not newcomer_replaces(new, old, GREATER)


def test_spares_are_forgotten_with_the_connection_and_bounded() -> None:
    spares, there = Spares(), Endpoint("20.0.0.1", 1)
    assert not spares.is_spare(there, {GREATER})
    spares.note(there, GREATER)
    assert spares.is_spare(there, {GREATER, LESSER})
    assert not spares.is_spare(there, {LESSER})
    assert not spares.is_spare(there, {GREATER}), "it has left meanwhile"
    spares.note(there, GREATER)
    for port in range(MAX_SPARES):
        spares.note(Endpoint("20.0.0.2", port), LESSER)
    assert not spares.is_spare(there, {GREATER})
    assert spares.is_spare(Endpoint("20.0.0.2", 0), {LESSER})


# -- our own addresses ------------------------------------------------------------------------------------------------


class Addresses(LoopbackNetwork):
    """One interface with these addresses."""

    def __init__(self, *addresses: InterfaceAddress, up: bool = True) -> None:
        super().__init__()
        self._interface = Interface("eth0", 2, up, False, True, addresses)

    def interfaces(self) -> list[Interface]:
        return [self._interface]


STABLE = InterfaceAddress("2a0e::1", 64)
TEMPORARY = InterfaceAddress("2a0e::2", 64, temporary=True)
GOING = InterfaceAddress("2a0e::3", 64, temporary=True, deprecated=True)
OTHERS = tuple(InterfaceAddress(host, 64) for host in ("fe80::1%eth0", "fd00::1", "::1", "10.0.0.1", "100.64.0.1"))


@pytest.mark.parametrize(
    ("addresses", "told"),
    [
        ((STABLE,), "2a0e::1"),
        ((STABLE, TEMPORARY), "2a0e::2"),
        ((GOING, STABLE), "2a0e::1"),
        ((GOING, TEMPORARY, STABLE), "2a0e::2"),
        ((GOING,), None),
        (OTHERS, None),
        ((*OTHERS, STABLE), "2a0e::1"),
    ],
)
def test_the_address_told_is_the_temporary_one_and_none_that_is_on_its_way_out(
    addresses: tuple[InterfaceAddress, ...], told: str | None
) -> None:
    assert global_address(Addresses(*addresses), ipv6=True) == told
    assert global_address(Addresses(*addresses), ipv6=False) is None
    assert global_address(Addresses(*addresses, up=False), ipv6=True) is None
