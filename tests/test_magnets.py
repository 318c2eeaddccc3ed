"""Magnet links in whole nodes on the simulated internet: the metadata comes from peers, whatever else they do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from hashlib import sha1
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from trio.testing import MockClock

from dht.bencode import decode_untrusted, encode
from swarm.cli.meter import Meter, progress_line
from swarm.config import Config
from swarm.endpoint import Endpoint
from swarm.errors import MetainfoError, SwarmError, UsageError
from swarm.events import ConnectionClosed, PeerBanned, PeerConnected, PeerDiscovered, TorrentCompleted
from swarm.ext.pex import Pex
from swarm.net.network import Network
from swarm.node import open_node
from swarm.simnet.internet import open_internet
from swarm.torrent.magnet import Magnet
from swarm.torrent.metainfo import Metainfo, parse_torrent_untrusted
from swarm.torrent.torrent import Torrent
from swarm.wire.extended import ExtendedHandshake
from swarm.wire.handshake import RESERVED_FAST, Handshake
from swarm.wire.messages import BitfieldMessage, Extended, Have, Message, Unchoke
from tests.nodes import PORT, Recorded, Sample, endpoints, make_sample, node_on, seeding, tasks_below
from tests.rawpeer import RawPeer

T = TypeVar("T")

SIZE = 512 << 10
PIECE = 64 << 10
PADDING = 100_000  # bytes, so that the metadata takes several blocks
LIMIT = 60.0  # seconds of virtual time that a download may take


def changed(sample: Sample, **keys: int | bytes | None) -> Sample:
    """The same data under another info dictionary; None leaves a key out."""
    info = decode_untrusted(sample.metainfo.info_bytes)
    assert isinstance(info, dict)
    for name, value in keys.items():
        if value is None:
            del info[name.encode()]
        else:
            info[name.encode()] = value
    return replace(sample, metainfo=parse_torrent_untrusted(encode({b"info": info})))


def large_sample(directory: Path, **keys: int | bytes | None) -> Sample:
    return changed(make_sample(directory, SIZE, PIECE), padding=bytes(PADDING), **keys)


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return large_sample(tmp_path / "seed")


def link_to(sample: Sample, **parts: Any) -> Magnet:
    return Magnet(info_hash=sample.metainfo.info_hash, **parts)


def false_copy(sample: Sample) -> Metainfo:
    """With this a node serves false metadata under the true info-hash."""
    false = bytearray(sample.metainfo.info_bytes)
    false[50_000] ^= 1
    return replace(sample.metainfo, info_bytes=bytes(false))


async def slowly(function: Callable[..., T], /, *arguments: object) -> T:
    """A disk that takes a second for everything."""
    await trio.sleep(1)
    return function(*arguments)


async def complete(torrent: Torrent, seconds: float = LIMIT) -> None:
    with trio.fail_after(seconds):
        await torrent.wait_complete()


# -- getting it -------------------------------------------------------------------------------------------------------


async def test_one_peer_is_enough_and_its_connection_goes_on(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    async with open_internet() as internet:
        first, second = internet.host("seed"), internet.host("leech")
        async with node_on(first, 1) as seed, node_on(second, 2) as leech:
            await seeding(seed, sample)
            torrent = leech.node.add(link_to(sample), tmp_path / "leech", peers=endpoints(first.ipv4))
            assert torrent.state == "metadata"
            assert torrent.name == sample.metainfo.info_hash.hex()
            with trio.fail_after(LIMIT):
                metainfo = await torrent.wait_metadata()
            assert metainfo == sample.metainfo
            assert torrent.metadata.senders == 1
            await complete(torrent)
            assert sample.is_whole_in(tmp_path / "leech")
            assert len(leech.of(PeerConnected)) == len(seed.of(PeerConnected)) == 1
            assert len(leech.of(TorrentCompleted)) == 1


async def test_the_link_names_the_peer_by_name(autojump_clock: MockClock, tmp_path: Path, sample: Sample) -> None:
    async with open_internet() as internet:
        first, second = internet.host("seed"), internet.host("leech")
        internet.name("seed.example", first.ipv4)
        peers = (("nowhere.example", PORT), ("seed.example", PORT))
        async with node_on(first, 1) as seed, node_on(second, 2) as leech:
            await seeding(seed, sample)
            await complete(leech.node.add(link_to(sample, peers=peers), tmp_path / "leech"))
            assert [event.endpoint for event in leech.of(PeerDiscovered, source="manual")] == endpoints(first.ipv4)


@asynccontextmanager
async def seeds_of(internet: Any, *copies: Metainfo, directory: Path) -> AsyncIterator[list[Recorded]]:
    """A node for each, which serves the metadata that its copy has."""
    async with AsyncExitStack() as stack:
        nodes = []
        for number, copy in enumerate(copies, 100):
            host = internet.host(f"seed{number}")
            nodes.append(await stack.enter_async_context(node_on(host, number)))
            await nodes[-1].node.add(copy, directory).wait_checked()
        yield nodes


def hosts_of(internet: Any) -> list[Endpoint]:
    return endpoints(*(host.ipv4 for name, host in internet.hosts.items() if name.startswith("seed")))


async def test_several_peers_share_the_work(autojump_clock: MockClock, tmp_path: Path, sample: Sample) -> None:
    async with (
        open_internet(delays=(0.02, 0.021)) as internet,
        node_on(internet.host("leech"), 1) as leech,
        seeds_of(internet, *[sample.metainfo] * 4, directory=sample.directory),
    ):
        torrent = leech.node.add(link_to(sample), tmp_path / "leech", peers=hosts_of(internet))
        await complete(torrent)
        assert torrent.metadata.senders >= 3


@pytest.mark.parametrize("liars", [1, 3])
async def test_liars_are_found_out_and_hung_up_on(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample, liars: int
) -> None:
    false, true = false_copy(sample), sample.metainfo
    async with (
        open_internet() as internet,
        node_on(internet.host("leech"), 1) as leech,
        seeds_of(internet, *[false] * liars, true, true, directory=sample.directory) as nodes,
    ):
        told = hosts_of(internet)
        torrent = leech.node.add(link_to(sample), tmp_path / "leech", peers=told[:liars])
        await trio.sleep(10)
        assert torrent.state == "metadata"
        torrent.admission.found(told[liars:], "manual")
        await complete(torrent)
        assert sample.is_whole_in(tmp_path / "leech")
        assert {event.endpoint.host for event in leech.of(PeerBanned)} == {host for host, _ in told[:liars]}
        assert {peer.identity.endpoint.host for peer in torrent.connections} <= {host for host, _ in told[liars:]}
        for node in nodes[liars:]:
            assert not node.of(ConnectionClosed, reason="bad-data")


async def test_a_leech_serves_what_it_has_just_got_at_once(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    """Three in a row, each of which knows the one before: who was refused does not wait for the next minute."""
    async with open_internet() as internet:
        hosts = [internet.host(name) for name in ("a", "b", "c")]
        async with node_on(hosts[0], 1) as a, node_on(hosts[1], 2) as b, node_on(hosts[2], 3, pex=False) as c:
            last = c.node.add(link_to(sample), tmp_path / "c", peers=endpoints(hosts[1].ipv4))
            middle = b.node.add(link_to(sample), tmp_path / "b")
            with trio.fail_after(10):
                await c.wait_for(PeerConnected)
            await trio.sleep(5)
            assert (
                last.statistics().metadata == "asked 1 peer: 1 refused" or "not offer it" in last.statistics().metadata
            )
            await seeding(a, sample)
            started = trio.current_time()
            middle.admission.found(endpoints(hosts[0].ipv4), "manual")
            with trio.fail_after(LIMIT):
                await last.wait_metadata()
            assert trio.current_time() - started < 5
            await complete(last)
            assert len(c.of(PeerConnected)) == 1, "the connection to b went on"
            await complete(middle)


async def test_data_that_is_there_already_is_not_fetched(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    """And who was connected meanwhile is told of every piece."""
    async with open_internet() as internet:
        hosts = [internet.host(name) for name in ("seed", "again", "leech")]
        async with node_on(hosts[0], 1) as seed, node_on(hosts[1], 2) as again, node_on(hosts[2], 3) as leech:
            other = leech.node.add(link_to(sample), tmp_path / "leech")
            back = again.node.add(link_to(sample), sample.directory, peers=endpoints(hosts[2].ipv4))
            with trio.fail_after(10):
                await again.wait_for(PeerConnected)
            await seeding(seed, sample)
            back.admission.found(endpoints(hosts[0].ipv4), "manual")
            await complete(back)
            assert (back.state, back.downloaded) == ("seeding", 0)
            seed.node.torrents[sample.metainfo.info_hash].admission.shut("leaving")
            await complete(other)
            assert len(leech.of(PeerConnected)) == 1
            assert back.uploaded == SIZE


# -- what is kept, and what goes wrong --------------------------------------------------------------------------------


async def test_a_second_run_takes_what_was_kept(autojump_clock: MockClock, tmp_path: Path, sample: Sample) -> None:
    state, peers = tmp_path / "state", ("20.0.0.10", PORT)
    async with open_internet() as internet:
        first, second = internet.host("seed"), internet.host("leech")
        async with node_on(first, 1) as seed, node_on(second, 2, state_directory=state) as leech:
            await seeding(seed, sample)
            torrent = leech.node.add(link_to(sample), tmp_path / "leech", peers=[Endpoint(*peers)])
            with trio.fail_after(LIMIT):
                await torrent.wait_metadata()
        kept = state / "resume" / f"{sample.metainfo.info_hash.hex()}.info"
        assert kept.read_bytes() == sample.metainfo.info_bytes
        assert [path.suffix for path in kept.parent.iterdir() if path.suffix not in (".info", ".resume")] == []
        async with node_on(second, 3, state_directory=state) as leech:
            torrent = leech.node.add(link_to(sample, trackers=("http://t.example/a",)), tmp_path / "leech")
            with trio.fail_after(1):
                metainfo = await torrent.wait_metadata()
            assert metainfo.trackers == (("http://t.example/a",),)
            assert torrent.metadata.senders == 0
        kept.write_bytes(kept.read_bytes()[:-1])
        async with node_on(first, 4) as seed, node_on(second, 5, state_directory=state) as leech:
            await seeding(seed, sample)
            torrent = leech.node.add(link_to(sample), tmp_path / "leech", peers=[Endpoint(*peers)])
            await complete(torrent)
            assert torrent.metadata.senders == 1
        assert kept.read_bytes() == sample.metainfo.info_bytes


async def test_metadata_that_describes_no_torrent_stops_the_torrent_with_a_sentence(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    info_bytes = encode({b"name": b"x", b"piece length": 16384})
    useless = replace(sample.metainfo, info_bytes=info_bytes, info_hash=sha1(info_bytes).digest())
    async with (
        open_internet() as internet,
        node_on(internet.host("leech"), 1) as leech,
        seeds_of(internet, useless, directory=sample.directory) as [seed],
    ):
        torrent = leech.node.add(Magnet(info_hash=useless.info_hash), tmp_path / "leech", peers=hosts_of(internet))
        with trio.fail_after(LIMIT), pytest.raises(MetainfoError, match="of no use: ") as raised:
            await torrent.wait_metadata()
        assert raised.value.code == 3
        assert torrent.state == "failed"
        for wait in (torrent.wait_checked, torrent.wait_complete):
            with pytest.raises(MetainfoError):
                await wait()
        await seed.wait_for(ConnectionClosed)
        assert not torrent.connections
        assert not (tmp_path / "leech").exists()
        await leech.node.remove(torrent)


async def test_files_are_selected_once_it_is_known_what_there_is(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    asked: list[Metainfo] = []

    def nothing(metainfo: Metainfo) -> set[int]:
        asked.append(metainfo)
        return set()

    def refused(metainfo: Metainfo) -> set[int]:
        raise UsageError("not these")

    async with open_internet() as internet:
        first = internet.host("seed")
        async with node_on(first, 1) as seed, AsyncExitStack() as stack:
            await seeding(seed, sample)
            torrents = []
            for number, select in enumerate((nothing, refused, [1]), 2):
                leech = await stack.enter_async_context(node_on(internet.host(f"leech{number}"), number))
                where = tmp_path / f"leech{number}"
                torrents.append(
                    leech.node.add(link_to(sample), where, select=select, peers=endpoints(first.ipv4))  # type: ignore[arg-type]
                )
            await complete(torrents[0])
            assert asked == [sample.metainfo]
            assert torrents[0].statistics().total == 0
            with trio.fail_after(LIMIT), pytest.raises(UsageError, match="not these"):
                await torrents[1].wait_complete()
            with trio.fail_after(LIMIT), pytest.raises(UsageError, match="1 file"):
                await torrents[2].wait_complete()


async def test_what_is_known_to_the_node_is_not_added_twice(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    async with open_internet() as internet, node_on(internet.host("leech"), 1) as leech:
        leech.node.add(link_to(sample, name="first"), tmp_path)
        for source in (link_to(sample), sample.metainfo):
            with pytest.raises(SwarmError, match="first is already being shared"):
                leech.node.add(source, tmp_path)


# -- leaving while it is missing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("connected", [False, True])
async def test_a_torrent_removed_before_its_metadata_came_leaves_nothing_behind(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample, connected: bool
) -> None:
    state, task = tmp_path / "state", trio.lowlevel.current_task()
    async with open_internet() as internet:
        first, second = internet.host("other"), internet.host("leech")
        async with node_on(first, 1) as other, node_on(second, 2, state_directory=state) as leech:
            if connected:
                other.node.add(link_to(sample), tmp_path / "other")
            await trio.sleep(1)
            before = len(list(tasks_below(task)))
            torrent = leech.node.add(link_to(sample), tmp_path / "leech", peers=endpoints(first.ipv4))
            await trio.sleep(5)
            assert len(torrent.connections) == connected
            await leech.node.remove(torrent)
            await trio.sleep(30)  # an attempt under way is not broken off
            assert len(list(tasks_below(task))) == before
            assert torrent.state == "stopped"
            again = leech.node.add(link_to(sample), tmp_path / "leech")
            await trio.sleep(1)
            assert again.state == "metadata"
        assert not (tmp_path / "leech").exists()
        assert [path for path in state.rglob("*") if path.is_file()] == []


async def test_a_torrent_stopped_while_its_kept_metadata_is_looked_for_does_not_begin(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    async with open_internet() as internet:
        first, second = internet.host("other"), internet.host("leech")
        config = Config(port=PORT, dht=False, lsd=False, trackers=False, state_directory=tmp_path / "state")
        async with node_on(first, 1) as other, open_node(config, network=second, runner=slowly) as node:
            other.node.add(link_to(sample), tmp_path / "other")
            torrent = node.add(link_to(sample), tmp_path / "leech", peers=endpoints(first.ipv4))
            await trio.sleep(0.5)
            await node.remove(torrent)
            await trio.sleep(30)
            assert torrent.state == "stopped"
            assert not other.of(PeerConnected)


# -- private torrents -------------------------------------------------------------------------------------------------


async def test_a_torrent_that_turns_out_to_be_private_speaks_to_its_trackers_only(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    sample = large_sample(tmp_path / "seed", private=1)
    lan = {"lsd": True, "dht": True, "dht_bootstrap": ("127.0.0.1:1",)}
    async with open_internet() as internet:
        hosts = [internet.host(name) for name in ("seed", "leech", "third", "fourth")]
        addresses = [host.ipv4 for host in hosts]
        async with node_on(hosts[0], 1) as seed, node_on(hosts[1], 2, **lan) as leech, node_on(hosts[2], 3) as third:
            third.node.add(link_to(sample), tmp_path / "third")
            torrent = leech.node.add(link_to(sample), tmp_path / "leech")
            torrent.admission.found(endpoints(addresses[2], addresses[3]), "dht")
            with trio.fail_after(10):
                await leech.wait_for(PeerConnected)
            assert torrent.admission.our_handshake().dht
            await seeding(seed, sample)
            torrent.admission.found(endpoints(addresses[0]), "manual")
            await complete(torrent)
            assert sorted(peer.endpoint.host for peer in torrent.admission.peers) == [addresses[0]]
            assert {event.endpoint.host for event in leech.of(ConnectionClosed, reason="private")} == {addresses[2]}
            assert not torrent.admission.our_handshake().dht
            assert any("private" in reason for reason in torrent.why())
            for source in ("dht", "lsd"):
                torrent.admission.found(endpoints(addresses[3]), source)
            assert len(torrent.admission.peers) == 1
            [peer] = torrent.connections
            assert Pex.NAME not in peer.extensions.m
            assert "ut_metadata" in peer.extensions.m


async def test_while_its_data_is_looked_at_a_private_torrent_is_silent_already(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """It may wait for its turn for hours."""
    sample = large_sample(tmp_path / "seed", private=1)
    async with open_internet() as internet:
        first, second = internet.host("seed"), internet.host("leech")
        config = Config(port=PORT, dht_bootstrap=("127.0.0.1:1",), trackers=False)
        async with node_on(first, 1) as seed, open_node(config, network=second, runner=slowly) as node:
            await seeding(seed, sample)
            torrent = node.add(link_to(sample), tmp_path / "leech", peers=endpoints(first.ipv4))
            assert not any("private" in reason for reason in torrent.why())
            with trio.fail_after(LIMIT):
                await torrent.wait_metadata()
            assert torrent.state in ("queued", "checking")
            assert any("private" in reason for reason in torrent.why())


# -- other kinds of peers ---------------------------------------------------------------------------------------------


async def bare_peer(network: Network, at: Endpoint, sample: Sample, name: str) -> RawPeer:
    """A peer that speaks neither BEP 10 nor anything else."""
    peer = RawPeer(await network.dial_tcp(at), sample, fast=False)
    await peer.say(Handshake(sample.metainfo.info_hash, f"-XX0000-{name:.<12.12}".encode(), 0).encode())
    return peer


async def test_why_it_is_missing_is_told(autojump_clock: MockClock, tmp_path: Path, sample: Sample) -> None:
    async with open_internet() as internet, node_on(internet.host("leech"), 1) as leech:
        strangers = internet.host("strangers")
        [at] = endpoints(internet.hosts["leech"].ipv4)
        torrent = leech.node.add(link_to(sample), tmp_path / "leech")

        def line() -> str:
            return progress_line(Meter().read(1.0, torrent.statistics()), 100)

        await trio.sleep(1)
        assert line() == "metadata: no peer to ask"
        assert torrent.why()[:2] == ["the metadata is missing: no peer to ask", "no peer is known"]
        await bare_peer(strangers, at, sample, "bare")
        await trio.sleep(1)
        assert line() == "metadata: 1 peer does not offer it"
        silent = await RawPeer.connect(strangers, at, sample, name="silent")
        handshake = ExtendedHandshake(m={"ut_metadata": 3}, metadata_size=200_000)
        await silent.say(Extended(0, handshake.encode()).encode())
        await trio.sleep(10)
        assert line() == "metadata: asked 1 peer: 1 did not answer; 1 peer does not offer it; 0 of 13 blocks"
        assert torrent.why()[0].startswith("the metadata is missing: asked 1 peer: 1 did not answer")


PIECES = SIZE // PIECE

EARLY: dict[str, tuple[list[Message], str | None, int]] = {
    "bitfield": ([BitfieldMessage(b"\xff")], None, PIECES),
    "haves": ([Have(0), Have(3)], None, 2),
    "bitfield and have": ([BitfieldMessage(b"\xf0"), Have(7)], None, 5),
    "nothing": ([], None, 0),
    "bitfield too long": ([BitfieldMessage(b"\xff\x00")], "bad-bitfield", 0),
    "no piece has that index": ([Have(PIECES)], "bad-message", 0),
}
"""What a peer says before anybody knows how many pieces there are; why it is closed then, or how many it has."""


@pytest.mark.parametrize("said", EARLY)
async def test_what_peers_claim_to_have_is_checked_when_it_can_be(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample, said: str
) -> None:
    messages, reason, count = EARLY[said]
    async with open_internet() as internet:
        first, second, third = (internet.host(name) for name in ("seed", "leech", "early"))
        async with node_on(first, 1) as seed, node_on(second, 2) as leech:
            await seeding(seed, sample, upload_rate=1)
            torrent = leech.node.add(link_to(sample), tmp_path / "leech")
            early = await RawPeer.connect(third, Endpoint(second.ipv4, PORT), sample, name="early")
            await early.say(*(message.encode() for message in messages), Unchoke().encode())
            await trio.sleep(1)
            torrent.admission.found(endpoints(first.ipv4), "manual")
            with trio.fail_after(LIMIT):
                await torrent.wait_checked()
            await trio.sleep(1)
            closed = [event.reason for event in leech.of(ConnectionClosed) if event.endpoint.host == third.ipv4]
            assert closed == ([] if reason is None else [reason])
            if reason is None:
                [peer] = [each for each in torrent.connections if each.identity.endpoint.host == third.ipv4]
                assert peer.downloader.theirs.count == count
                assert not peer.downloader.choked, "the unchoke before it counts"
                assert peer.downloader.interested is (count > 0)


async def test_a_peer_that_asks_for_a_block_before_there_is_any_is_dropped(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    async with open_internet() as internet, node_on(internet.host("leech"), 1) as leech:
        leech.node.add(link_to(sample), tmp_path / "leech")
        [at] = endpoints(internet.hosts["leech"].ipv4)
        peer = await RawPeer.connect(internet.host("raw"), at, sample, fast=True)
        assert peer.theirs is not None
        assert peer.theirs.reserved & RESERVED_FAST
        await peer.say(bytes.fromhex("0000000d06 00000000 00000000 00004000"))
        with trio.fail_after(5):
            await peer.wait_closed()
            assert (await leech.wait_for(ConnectionClosed)).reason == "bad-request"


async def test_two_hundred_idle_connections_say_next_to_nothing(
    autojump_clock: MockClock, tmp_path: Path, sample: Sample
) -> None:
    """Peers that have no metadata either: each is asked now and then."""
    count, minutes = 200, 10
    async with open_internet(coalesce=0.01) as internet, node_on(internet.host("leech"), 1, max_peers=count) as leech:
        torrent = leech.node.add(link_to(sample), tmp_path / "leech")
        strangers = internet.host("strangers")
        [at] = endpoints(internet.hosts["leech"].ipv4)
        handshake = ExtendedHandshake(m={"ut_metadata": 3}).encode()
        peers = []
        for number in range(count):
            peer = await RawPeer.connect(strangers, at, sample, name=str(number))
            await peer.say(Extended(0, handshake).encode())
            peers.append(peer)
        for _ in range(minutes):
            await trio.sleep(60)
            for peer in peers:
                await peer.say(bytes(4))
        assert len(torrent.connections) == count
        for connection in torrent.connections:
            assert connection.wire_up < 300 + 50 * 2 * minutes
        assert "200 peers do not offer it" in torrent.statistics().metadata
