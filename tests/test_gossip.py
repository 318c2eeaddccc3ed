"""Peer exchange (BEP 11) in whole nodes on the simulated internet: who is told of whom, under which address."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.events import ConnectionClosed, ConnectionRefused, PeerConnected, PeerDiscovered
from swarm.ext.pex import (
    MAX_TOLD,
    PREFERS_ENCRYPTION,
    REACHABLE,
    SEED,
    SUPPORTS_HOLEPUNCH,
    SUPPORTS_UTP,
    Pex,
    PexMessage,
    PexPeer,
    parse_pex_untrusted,
)
from swarm.net.network import Network
from swarm.simnet.catalogue import behind
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.torrent.gossip import endpoint_for_strangers, is_worth_telling
from swarm.torrent.magnet import Magnet
from swarm.torrent.torrent import Torrent
from swarm.wire.extended import ExtendedHandshake
from swarm.wire.messages import Extended, HaveAll, HaveNone, KeepAlive
from tests.nodes import PORT, Recorded, Sample, endpoints, make_sample, node_on
from tests.rawpeer import RawPeer
from tests.test_magnets import changed

OUR_PEX = 9  # the number that `Listener` gives its end
SOON = 5.0  # seconds in which the first message comes
MINUTE = 62.0


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return make_sample(tmp_path / "seed", 256 << 10, 64 << 10)


class Listener:
    """A peer by hand that speaks ut_pex, and all that it was told."""

    def __init__(self, raw: RawPeer) -> None:
        self.raw = raw
        self.messages: list[PexMessage] = []

    @classmethod
    async def connect(
        cls,
        network: Network,
        at: Endpoint,
        sample: Sample,
        name: str,
        *,
        pex: bool = True,
        seed: bool = False,
        **said: Any,
    ) -> Listener:
        """``said`` is of its extension handshake; without ``pex`` it is only there to be told of."""
        raw = await RawPeer.connect(network, at, sample, name=name, fast=True)
        m = {Pex.NAME: OUR_PEX} if pex else {}
        handshake = ExtendedHandshake(**{"m": m, **said})
        await raw.say((HaveAll() if seed else HaveNone()).encode(), Extended(0, handshake.encode()).encode())
        return cls(raw)

    async def listen(self, seconds: float) -> list[PexMessage]:
        """What is said in that time."""
        heard: list[PexMessage] = []
        until = trio.current_time() + seconds
        while trio.current_time() < until:
            await self.raw.say(KeepAlive().encode())
            with trio.move_on_at(min(until, trio.current_time() + 60)):
                while (messages := await self.raw.hear()) is not None:
                    heard += [
                        parse_pex_untrusted(message.payload)
                        for message in messages
                        if isinstance(message, Extended) and message.ext_id == OUR_PEX
                    ]
        return heard

    async def say(self, message: PexMessage, hub: Hub) -> None:
        """Under the number that the hub offers, or would."""
        offered = {peer.identity.endpoint: peer.extensions.m for peer in hub.torrent.connections}
        await self.raw.say(Extended(offered[self.raw.local].get(Pex.NAME, 2), message.encode()).encode())


@dataclass
class Hub:
    """A node in the middle, which all others know."""

    internet: Internet
    node: Recorded
    torrent: Torrent
    sample: Sample

    @property
    def at(self) -> Endpoint:
        return Endpoint(self.internet.hosts["hub"].ipv4, PORT)

    async def listener(self, name: str, host: Host | None = None, **options: Any) -> Listener:
        return await Listener.connect(host or self.internet.host(name), self.at, self.sample, name, **options)


class hub_of:
    """A hub that has everything or, with ``source``, whatever that says."""

    def __init__(self, internet: Internet, sample: Sample, directory: Path, source: Any = None, **config: Any) -> None:
        self._made = internet, sample, directory, source or sample.metainfo
        self._config = {"max_peers": 300, "encryption": "off", **config}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Hub:
        internet, sample, directory, source = self._made
        node = await self._stack.enter_async_context(node_on(internet.host("hub"), 1, **self._config))
        torrent = node.node.add(source, directory)
        if source is sample.metainfo:
            await torrent.wait_checked()
        return Hub(internet, node, torrent, sample)

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.aclose()


# -- whole nodes ------------------------------------------------------------------------------------------------------


async def test_who_knows_one_peer_finds_the_others(autojump_clock: MockClock, tmp_path: Path, sample: Sample) -> None:
    """The hub has nothing, the seed is known to the hub alone."""
    async with open_internet() as internet, hub_of(internet, sample, tmp_path / "hub") as hub:
        seed_host, last_host = internet.host("a"), internet.host("c")
        async with node_on(seed_host, 2) as a, node_on(last_host, 3) as c:
            seed = a.node.add(sample.metainfo, sample.directory, peers=[hub.at], upload_rate=1)
            await a.wait_for(PeerConnected)
            last = c.node.add(sample.metainfo, tmp_path / "c", peers=[hub.at])
            with trio.fail_after(SOON):
                met = await c.wait_for(PeerConnected, endpoint=Endpoint(seed_host.ipv4, PORT))
            assert [event.source for event in c.of(PeerDiscovered, endpoint=met.endpoint)] == ["pex"]
            known = last.admission.peers.get(met.endpoint)
            assert known is not None
            assert known.introducers == [hub.at]
            await trio.sleep(1)
            assert {len(torrent.connections) for torrent in (hub.torrent, seed, last)} == {2}


async def test_a_magnet_finds_by_its_one_peer_who_has_the_metadata(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    """The hub knows the info-hash only, as it does; seeds do not dial seeds, so nobody may be called one by mistake."""
    link = Magnet(info_hash=sample.metainfo.info_hash)
    async with open_internet() as internet, hub_of(internet, sample, tmp_path / "hub", link) as hub:
        seed_host = behind(internet, "cone", "a")
        async with node_on(seed_host, 2, upload_rate=20_000) as a, node_on(internet.host("c"), 3) as c:
            a.node.add(sample.metainfo, sample.directory)
            last = c.node.add(link, tmp_path / "c", peers=[hub.at])
            await c.wait_for(PeerConnected)
            a.node.torrents[link.info_hash].admission.found([hub.at], "manual")
            with trio.fail_after(SOON):
                met = await c.wait_for(PeerConnected, direction="in")
            assert met.endpoint.host == internet.routers["a-home"].wan
            with trio.fail_after(60):
                await last.wait_complete()


async def test_switched_off_it_is_neither_offered_nor_spoken(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    async with open_internet() as internet, hub_of(internet, sample, tmp_path / "hub", pex=False) as hub:
        one, two = [await hub.listener(name, p=7000) for name in ("one", "two")]
        assert await one.listen(SOON) == await two.listen(SOON) == []
        assert all(Pex.NAME not in peer.extensions.m for peer in hub.torrent.connections)
        await one.say(PexMessage(added=(PexPeer(Endpoint("20.7.7.7", 7), 0),)), hub)
        await trio.sleep(1)
        assert not hub.node.of(PeerDiscovered, source="pex")


async def test_private_torrents_are_not_spoken_about(autojump_clock: MockClock, tmp_path: Path, sample: Sample) -> None:
    private = changed(sample, private=1)
    async with open_internet() as internet, hub_of(internet, private, tmp_path / "hub") as hub:
        one, _ = [await hub.listener(name, p=7000) for name in ("one", "two")]
        assert await one.listen(MINUTE) == []
        assert all(Pex.NAME not in peer.extensions.m for peer in hub.torrent.connections)


# -- what is told -----------------------------------------------------------------------------------------------------


async def told_of(hub: Hub, listener: Listener) -> dict[Endpoint, int]:
    messages = await listener.listen(SOON)
    return {peer.endpoint: peer.flags for message in messages for peer in message.added}


async def test_flags_say_what_is_known(autojump_clock: MockClock, tmp_path: Path, sample: Sample) -> None:
    async with open_internet() as internet, hub_of(internet, sample, tmp_path / "hub") as hub:
        expected: dict[Endpoint, int] = {}
        for name, options, flags in (
            ("nothing", {}, 0),
            ("seed", {"seed": True}, 0),
            ("upload only", {"upload_only": True}, SEED),
            ("encrypted", {"e": True}, PREFERS_ENCRYPTION),
            ("puncher", {"m": {"ut_holepunch": 4}}, SUPPORTS_HOLEPUNCH),
        ):
            if name != "seed":  # two seeds have nothing to say to each other, and part
                peer = await hub.listener(name, pex=False, p=7000, **options)
                expected[Endpoint(peer.raw.local.host, 7000)] = flags
        async with node_on(internet.host("utp"), 2, tcp=False) as utp, node_on(internet.host("dialled"), 3) as dialled:
            for node in (utp, dialled):
                node.node.add(sample.metainfo, tmp_path / "empty", download_rate=1)
            utp.node.torrents[sample.metainfo.info_hash].admission.found([hub.at], "manual")
            host = internet.hosts["dialled"].ipv4
            hub.torrent.admission.found(endpoints(host), "manual")
            await trio.sleep(1)
            expected[Endpoint(internet.hosts["utp"].ipv4, PORT)] = SUPPORTS_UTP | SUPPORTS_HOLEPUNCH
            path = next(peer.identity.path for peer in hub.torrent.connections if peer.identity.endpoint.host == host)
            expected[Endpoint(host, PORT)] = REACHABLE | SUPPORTS_HOLEPUNCH | (SUPPORTS_UTP if path == "utp" else 0)
            listener = await hub.listener("listener")
            assert await told_of(hub, listener) == expected


async def test_a_peer_behind_a_nat_is_told_under_its_mapping(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    """By µTP; what it listens on inside helps nobody.  By TCP the port that it says is all there is."""
    async with open_internet() as internet, hub_of(internet, sample, tmp_path / "hub") as hub:
        inside = behind(internet, "symseq", "inside")
        async with node_on(inside, 2, tcp=False) as node:
            node.node.add(sample.metainfo, tmp_path / "inside", peers=[hub.at], download_rate=1)
            with trio.fail_after(10):
                seen = (await hub.node.wait_for(PeerConnected)).endpoint
            assert seen.port != PORT
            listener = await hub.listener("listener")
            assert await told_of(hub, listener) == {seen: SUPPORTS_UTP | SUPPORTS_HOLEPUNCH}


@pytest.mark.parametrize(("path", "told"), [("predicted", 7000), ("birthday", 7000), ("utp-punched", 45000)])
@pytest.mark.parametrize("direction", ["in", "out"])
def test_ports_made_for_one_meeting_are_not_told_to_others(path: str, told: int, direction: str) -> None:
    """A stranger who dials them finds nobody there; the port on which the peer says that it listens may work."""
    identity = SimpleNamespace(path=path, direction=direction, endpoint=Endpoint("192.0.2.7", 45000))
    peer = SimpleNamespace(identity=identity, theirs=ExtendedHandshake(p=7000))
    assert endpoint_for_strangers(peer) == Endpoint("192.0.2.7", told)  # type: ignore[arg-type]


async def test_peers_that_do_not_say_where_they_listen_are_not_told(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    async with open_internet() as internet, hub_of(internet, sample, tmp_path / "hub") as hub:
        await hub.listener("silent", pex=False)
        listener = await hub.listener("listener")
        assert await told_of(hub, listener) == {}


async def test_more_than_fit_come_minute_by_minute_and_so_do_those_who_left(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    count = 120
    async with open_internet() as internet, hub_of(internet, sample, tmp_path / "hub") as hub:
        crowd = internet.host("crowd")
        peers = [await hub.listener(str(number), crowd, pex=False, p=7000 + number) for number in range(count)]
        listener = await hub.listener("listener")
        messages = await listener.listen(2 * MINUTE + SOON)
        assert [len(message.added) for message in messages] == [MAX_TOLD, MAX_TOLD, count - 2 * MAX_TOLD]
        assert {peer.endpoint.port for message in messages for peer in message.added} == set(range(7000, 7000 + count))
        assert not any(message.dropped for message in messages)
        for peer in peers:
            await peer.raw.stream.aclose()
        messages = await listener.listen(4 * MINUTE)
        assert [len(message.dropped) for message in messages] == [MAX_TOLD, MAX_TOLD, count - 2 * MAX_TOLD]
        assert not any(message.added for message in messages)
        assert await listener.listen(MINUTE) == []


@pytest.mark.parametrize(
    ("endpoint", "receiver", "worth"),
    [
        ("20.0.0.1", "20.0.0.2", True),
        ("20.0.0.1", "10.0.0.2", True),
        ("20.0.0.1", "127.0.0.1", True),
        ("10.0.0.1", "20.0.0.2", False),
        ("100.64.0.1", "20.0.0.2", False),
        ("10.0.0.1", "10.0.0.2", True),
        ("10.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "10.0.0.2", False),
        ("127.0.0.1", "20.0.0.2", False),
        ("2a0e::1", "20.0.0.2", True),
        ("fd00::1", "2a0e::1", False),
        ("fd00::1", "fd00::2", True),
        ("fe80::1%eth0", "fe80::2%eth0", False),
        ("::1", "2a0e::1", False),
    ],
)
def test_addresses_are_told_where_they_mean_something(endpoint: str, receiver: str, worth: bool) -> None:
    assert is_worth_telling(Endpoint(endpoint, 1), Endpoint(receiver, 1)) is worth


# -- what is heard ----------------------------------------------------------------------------------------------------


async def test_introducers_are_remembered_until_they_lose_the_peer_or_leave(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    async with open_internet() as internet, hub_of(internet, sample, tmp_path / "hub") as hub:
        one, two, three = [await hub.listener(name) for name in ("one", "two", "three")]
        there = Endpoint("20.200.0.1", 7)
        for listener in (one, two, three):
            await listener.say(PexMessage(added=(PexPeer(there, SUPPORTS_HOLEPUNCH),)), hub)
            await trio.sleep(0.1)
        known = hub.torrent.admission.peers.get(there)
        assert known is not None
        assert known.flags == SUPPORTS_HOLEPUNCH
        assert known.introducers == [listener.raw.local for listener in (one, two, three)]
        await two.say(PexMessage(dropped=(there,)), hub)
        await trio.sleep(0.1)
        assert known.introducers == [one.raw.local, three.raw.local]
        await one.raw.stream.aclose()
        await trio.sleep(1)
        assert known.introducers == [three.raw.local]


async def test_a_flood_costs_the_one_connection(autojump_clock: MockClock, tmp_path: Path, sample: Sample) -> None:
    async with open_internet() as internet, hub_of(internet, sample, tmp_path / "hub") as hub:
        flooder, other = [await hub.listener(name) for name in ("flooder", "other")]
        with trio.fail_after(10):
            for number in range(61):
                there = Endpoint(f"20.201.0.{number + 1}", 7)
                await flooder.say(PexMessage(added=(PexPeer(there, 0),)), hub)
            await flooder.raw.wait_closed()
        [closed] = hub.node.of(ConnectionClosed)
        assert (closed.endpoint, closed.reason) == (flooder.raw.local, "pex-flood")
        assert [peer.identity.endpoint for peer in hub.torrent.connections] == [other.raw.local]
        assert len(hub.node.of(PeerDiscovered, source="pex")) == 6


async def test_private_addresses_from_afar_are_not_dialled(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    async with open_internet() as internet, hub_of(internet, sample, tmp_path / "hub") as hub:
        listener = await hub.listener("one")
        added = ("10.0.0.1", "127.0.0.1", "192.168.1.1", "0.0.0.0", "224.0.0.1", "20.200.0.1", "fe80::1", "2a0e::1")
        await listener.say(PexMessage(added=tuple(PexPeer(Endpoint(host, 7), 0) for host in added)), hub)
        await trio.sleep(1)
        found = {event.endpoint.host for event in hub.node.of(PeerDiscovered, source="pex")}
        assert found == {"20.200.0.1", "2a0e::1"}


async def test_ourselves_we_dial_once(autojump_clock: MockClock, tmp_path: Path, sample: Sample) -> None:
    """libtorrent's first message names the receiver itself; a node on loopback does not know its address beforehand."""
    ours = Endpoint("127.0.0.1", PORT)
    async with open_internet() as internet, hub_of(internet, sample, tmp_path / "hub", bind="127.0.0.1") as hub:
        hub.torrent.admission.found([ours], "pex")
        await trio.sleep(600)
        assert ours not in hub.torrent.admission.peers
        assert 1 <= len(hub.node.of(ConnectionRefused, reason="self")) <= 2  # both ends of it
        hub.torrent.admission.found([ours], "pex")
        assert len(hub.torrent.admission.peers) == 0


async def test_of_a_dial_to_ourselves_the_accepting_end_is_enough(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    """It hangs up so soon that the other may never read its handshake."""
    async with open_internet() as internet, hub_of(internet, sample, tmp_path / "hub") as hub:
        elsewhere = internet.host("elsewhere")  # as behind a router that leads us back to ourselves
        raw = await RawPeer.connect(elsewhere, hub.at, sample, peer_id=hub.node.node.peer_id)
        await raw.wait_closed()
        hub.torrent.admission.found([Endpoint(elsewhere.ipv4, PORT), raw.local], "pex")
        assert len(hub.torrent.admission.peers) == 0
