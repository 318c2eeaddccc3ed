"""Hostile peers against a whole node: each costs its own connection and nothing else, and the reason is told.

In virtual time on the simulated internet; the hostile ends are written by hand (`tests.rawpeer`).
"""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.events import ConnectionClosed, ConnectionRefused, PeerBanned, PeerConnected, PieceFailed
from swarm.net.network import Stream
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.link import Link
from swarm.torrent.torrent import Torrent
from swarm.torrent.uploader import MAX_QUEUED
from swarm.wire.messages import (
    BitfieldMessage,
    Choke,
    Extended,
    Have,
    HaveAll,
    HaveNone,
    Interested,
    KeepAlive,
    NotInterested,
    Requests,
    Unchoke,
)
from tests.nodes import PORT, Recorded, Sample, endpoints, make_sample, node_on, seeding
from tests.rawpeer import RawPeer, block_message

SIZE = 1 << 20
BLOCK = 16 << 10


@dataclass
class Scene:
    """A node that fetches or shares the sample, hosts for others, and where the node is."""

    internet: Internet
    sample: Sample
    node: Recorded
    torrent: Torrent
    hostile: Host
    at: Endpoint
    directory: Path

    async def connect(self, **options: object) -> RawPeer:
        """A hostile peer, shaken hands with."""
        return await RawPeer.connect(self.hostile, self.at, self.sample, **options)  # type: ignore[arg-type]

    async def closed_with(self, reason: str) -> None:
        """Block until the node has closed a connection of the hostile host for this reason."""
        with trio.fail_after(600):
            closed = await self.node.wait_for(ConnectionClosed, reason=reason)
        assert closed.endpoint.host == self.hostile.ipv4

    async def honest_seed_helps(self, name: str = "honest") -> None:
        """The download completes from an honest seed that comes now: the node is alive and well."""
        host = self.internet.host(name)
        async with node_on(host, 7) as honest:
            await seeding(honest, self.sample, peers=[self.at])
            with trio.fail_after(100):
                await self.torrent.wait_complete()
        assert self.sample.is_whole_in(self.directory)

    async def honest_leech_is_served(self, name: str = "honest", seconds: float = 100) -> None:
        """A new leech gets everything from the node."""
        async with node_on(self.internet.host(name), 8) as leech:
            directory = self.directory / name
            torrent = leech.node.add(self.sample.metainfo, directory, peers=[self.at])
            with trio.fail_after(seconds):
                await torrent.wait_complete()
        assert self.sample.is_whole_in(directory)


@asynccontextmanager
async def leeching(
    tmp_path: Path, *, piece_length: int = 64 << 10, size: int = SIZE, **config: object
) -> AsyncIterator[Scene]:
    """A node that wants the sample, has nothing, and knows nobody."""
    sample = make_sample(tmp_path / "seed", size, piece_length)
    async with open_internet(3) as internet:
        host, hostile = internet.host("node"), internet.host("hostile")
        async with node_on(host, 1, **config) as node:
            directory = tmp_path / "node"
            torrent = node.node.add(sample.metainfo, directory)
            await torrent.wait_checked()
            yield Scene(internet, sample, node, torrent, hostile, Endpoint(host.ipv4, PORT), directory)


@asynccontextmanager
async def sharing(tmp_path: Path, *, size: int = SIZE, **config: object) -> AsyncIterator[Scene]:
    """A node that has the whole sample."""
    sample = make_sample(tmp_path / "seed", size)
    async with open_internet(3) as internet:
        host, hostile = internet.host("node"), internet.host("hostile")
        async with node_on(host, 1, **config) as node:
            torrent = await seeding(node, sample)
            yield Scene(internet, sample, node, torrent, hostile, Endpoint(host.ipv4, PORT), tmp_path)


# -- lies -------------------------------------------------------------------------------------------------------------


async def test_a_lone_liar_is_banned_at_its_first_piece(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with leeching(tmp_path) as scene:
        liar = await scene.connect()
        await liar.offer_everything()
        await liar.serve(lambda index, begin: True)
        assert [event.endpoint.host for event in scene.node.of(PeerBanned)] == [scene.hostile.ipv4]
        assert scene.node.of(PieceFailed)
        await scene.closed_with("bad-data")
        again = await scene.connect(name="another")
        await again.wait_closed()
        assert scene.node.of(ConnectionRefused, reason="banned")
        await scene.honest_seed_helps()


@pytest.mark.parametrize("share_of_lies", [1, 7])
async def test_a_liar_among_honest_contributors_is_found_out_by_block(
    autojump_clock: MockClock, tmp_path: Path, share_of_lies: int
) -> None:
    """Pieces of 64 blocks and slow peers, so that every piece has several contributors."""
    async with leeching(tmp_path, piece_length=1 << 20, size=3 << 20) as scene, trio.open_nursery() as nursery:
        for number in range(3):
            honest = await RawPeer.connect(
                scene.internet.host(f"honest{number}"), scene.at, scene.sample, name=f"honest{number}"
            )
            await honest.offer_everything()
            nursery.start_soon(partial(honest.serve, pause=0.4))
        liar = await scene.connect(name="liar")
        await liar.offer_everything()
        nursery.start_soon(partial(liar.serve, lambda index, begin: begin // BLOCK % share_of_lies == 0, pause=0.4))
        with trio.fail_after(600):
            await scene.torrent.wait_complete()
        assert scene.sample.is_whole_in(scene.directory)
        assert [event.endpoint.host for event in scene.node.of(PeerBanned)] == [scene.hostile.ipv4]
        assert max(len(event.contributors) for event in scene.node.of(PieceFailed)) > 1
        assert len(scene.node.of(PieceFailed)) <= 4
        nursery.cancel_scope.cancel()


# -- malformed --------------------------------------------------------------------------------------------------------

MALFORMED = {
    "bitfield of the wrong size": (BitfieldMessage(b"\xff\xff\xff").encode(), "bad-message"),
    "bitfield with spare bits": (BitfieldMessage(b"\xff\xff\xff\xff").encode(), "bad-message"),
    "have out of range": (Have(16).encode(), "bad-message"),
    "a message of 2^32 - 1 bytes": (b"\xff\xff\xff\xff\x07", "bad-message"),
    "an unknown message of 1 GiB": (struct.pack(">IB", 1 << 30, 99), "bad-message"),
    "a fast message though not negotiated": (HaveAll().encode(), "unexpected-message"),
    "a block longer than any we ask for": (block_message(0, 0, bytes(BLOCK + 1)), "bad-message"),
    "a request beyond the last piece": (Requests([(16, 0, BLOCK)]).encode(), "bad-request"),
    "a request beyond the end of a piece": (Requests([(0, (64 << 10) - 1, BLOCK)]).encode(), "bad-request"),
    "a request of nothing": (Requests([(0, 0, 0)]).encode(), "bad-request"),
    "a request of 4 GiB": (Requests([(0, 0, 0xFFFFFFFF)]).encode(), "bad-request"),
    "an extension handshake of garbage": (Extended(0, bytes(range(256))).encode(), "bad-extension-handshake"),
    "an extension handshake that is not a dictionary": (Extended(0, b"li1ee").encode(), "bad-extension-handshake"),
    "blocks that nobody asked for": (block_message(0, 0, bytes(BLOCK)) * 100, "unasked-blocks"),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_peer_that_breaks_the_protocol_loses_its_connection_and_nothing_else(
    autojump_clock: MockClock, tmp_path: Path, name: str
) -> None:
    said, reason = MALFORMED[name]
    async with leeching(tmp_path) as scene:
        peer = await scene.connect()
        await peer.say(said)
        with trio.fail_after(5):
            await peer.wait_closed()
            await scene.closed_with(reason)
        assert not scene.torrent.connections
        await scene.honest_seed_helps()


async def test_a_peer_may_say_again_what_it_has(autojump_clock: MockClock, tmp_path: Path) -> None:
    """aria2 does, instead of many ``have``; what it no longer claims is no longer asked for."""
    async with leeching(tmp_path) as scene:
        peer = await scene.connect(fast=True)
        for said in (HaveAll(), HaveNone(), BitfieldMessage(b"\x80\x00"), BitfieldMessage(b"\x80\x00")):
            await peer.say(said.encode())
        await peer.say(Unchoke().encode())
        with trio.move_on_after(5):
            await peer.serve()
        assert scene.torrent.statistics().pieces_had == 1
        await scene.honest_seed_helps()


# -- silence ----------------------------------------------------------------------------------------------------------


async def test_a_peer_that_never_answers_is_snubbed_and_others_take_over(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with leeching(tmp_path) as scene:
        silent = await scene.connect()
        await silent.offer_everything()
        await silent.wait_for(Requests)
        await trio.sleep(62)
        assert [peer.downloader.pipeline.snubbed for peer in scene.torrent.connections] == [True]
        await scene.honest_seed_helps()


async def test_an_honest_seed_does_not_wait_for_a_silent_one(autojump_clock: MockClock, tmp_path: Path) -> None:
    """The end game asks others for the blocks that the silent peer holds, long before it counts as snubbed."""
    async with leeching(tmp_path) as scene:
        silent = await scene.connect()
        await silent.offer_everything()
        await silent.wait_for(Requests)
        started = trio.current_time()
        await scene.honest_seed_helps()
        assert trio.current_time() - started < 30


async def test_a_handshake_of_one_byte_a_second_meets_a_deadline(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with leeching(tmp_path, handshake_timeout=10.0) as scene:
        stream = await scene.hostile.dial_tcp(scene.at)
        started = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            for byte in b"\x13BitTorrent protocol" + bytes(48):
                await stream.send_all(bytes([byte]))
                await trio.sleep(1)
        assert trio.current_time() - started < 13
        assert scene.node.of(ConnectionRefused, reason="handshake-timed-out")
        await scene.honest_seed_helps()


async def test_five_hundred_silent_strangers_do_not_keep_an_honest_one_out(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with leeching(tmp_path) as scene:
        streams: list[Stream] = []

        async def connect() -> None:
            streams.append(await scene.hostile.dial_tcp(scene.at))

        async with trio.open_nursery() as nursery:
            for _ in range(500):
                nursery.start_soon(connect)
        started = trio.current_time()
        await scene.honest_seed_helps()
        assert trio.current_time() - started < 5
        refused = [event.reason for event in scene.node.of(ConnectionRefused)]
        assert refused.count("too-many-strangers") >= 400


async def test_a_seed_that_leaves_in_the_middle_is_replaced(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with leeching(tmp_path) as scene:
        first = scene.internet.host("first")
        async with node_on(first, 5, upload_rate=100_000) as seed:
            await seeding(seed, scene.sample, peers=[scene.at])
            await trio.sleep(5)
            assert 4 <= scene.torrent.statistics().pieces_had < 12
            first.connect(False)  # no goodbye
        fetched = scene.torrent.downloaded
        await scene.honest_seed_helps()
        assert scene.torrent.downloaded - fetched <= SIZE - 4 * (64 << 10)


async def test_a_peer_that_never_reads_is_dropped_in_the_end(autojump_clock: MockClock, tmp_path: Path) -> None:
    """It sends keep-alives, so it is not idle; but its slot is worth more to somebody else."""
    async with sharing(tmp_path, size=4 << 20) as scene, trio.open_nursery() as nursery:
        hog = await scene.connect()
        await hog.say(Interested().encode())
        await hog.wait_for(Unchoke)
        blocks = [(index, begin, BLOCK) for index in range(64) for begin in range(0, 64 << 10, BLOCK)]
        await hog.say(Requests(blocks).encode())

        async def keep_alive() -> None:
            while True:
                await hog.say(KeepAlive().encode())
                await trio.sleep(60)

        nursery.start_soon(keep_alive)
        with trio.fail_after(400):
            await scene.closed_with("not-reading")
        nursery.cancel_scope.cancel()


async def test_peers_that_never_read_do_not_starve_an_honest_leech(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with sharing(tmp_path) as scene:
        blocks = [(index, begin, BLOCK) for index in range(16) for begin in range(0, 64 << 10, BLOCK)]
        for number in range(20):
            hog = await RawPeer.connect(
                scene.internet.host(f"hog{number}"), scene.at, scene.sample, name=f"hog{number}"
            )
            await hog.say(Interested().encode(), Requests(blocks).encode() * 2)
        await trio.sleep(30)
        await scene.honest_leech_is_served(seconds=200)


# -- floods -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fast"])
async def test_rapid_choking_and_unchoking_costs_nobody_else(
    autojump_clock: MockClock, tmp_path: Path, fast: bool
) -> None:
    async with leeching(tmp_path) as scene, trio.open_nursery() as nursery:
        peer = await scene.connect(fast=fast)
        await peer.offer_everything()

        async def flap() -> None:
            for _ in range(300):
                await peer.say(Choke().encode(), Unchoke().encode())
                await trio.sleep(0.01)

        nursery.start_soon(flap)
        nursery.start_soon(peer.wait_closed)
        await scene.honest_seed_helps()
        assert not scene.node.of(PeerBanned)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "flood",
    [KeepAlive().encode() * 2_500_000, (Interested().encode() + NotInterested().encode()) * 50_000],
    ids=["10 MB of keep-alives", "100,000 changes of interest"],
)
async def test_a_flood_of_small_messages_is_survived(autojump_clock: MockClock, tmp_path: Path, flood: bytes) -> None:
    async with leeching(tmp_path) as scene, trio.open_nursery() as nursery:
        for number in range(10):
            other = scene.internet.host(f"other{number}")
            await RawPeer.connect(other, scene.at, scene.sample, name=f"other{number}")
        peer = await scene.connect()
        nursery.start_soon(peer.wait_closed)
        await peer.say(flood)
        await scene.honest_seed_helps()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fast"])
@pytest.mark.parametrize("unchoked", [False, True], ids=["choked", "unchoked"])
async def test_a_hundred_thousand_requests_by_a_peer_that_does_not_read_cost_little_memory(
    autojump_clock: MockClock, tmp_path: Path, fast: bool, unchoked: bool
) -> None:
    async with sharing(tmp_path) as scene, trio.open_nursery() as nursery:
        peer = await scene.connect(fast=fast)
        if unchoked:
            await peer.say(Interested().encode())
            await peer.wait_for(Unchoke)
        flood = Requests([(index % 16, 0, BLOCK) for index in range(1000)]).encode()
        tracemalloc.start()

        async def ask() -> None:
            try:
                for _ in range(100):
                    await peer.say(flood)
            except trio.BrokenResourceError:
                return  # "slow-reader": each request is owed a reject

        nursery.start_soon(ask)
        await trio.sleep(20)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 12 << 20
        for connection in scene.torrent.connections:
            assert len(connection.uploader) <= MAX_QUEUED
        await scene.honest_leech_is_served()
        with trio.fail_after(300):
            await scene.node.wait_for(ConnectionClosed, endpoint=peer.local)
        nursery.cancel_scope.cancel()


# -- who is who -------------------------------------------------------------------------------------------------------


async def test_a_handshake_for_another_torrent_is_refused(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with leeching(tmp_path) as scene:
        stream = await scene.hostile.dial_tcp(scene.at)
        await stream.send_all(b"\x13BitTorrent protocol" + bytes(8) + b"?" * 40)
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        assert (await scene.node.wait_for(ConnectionRefused)).reason == "unknown-torrent"
        await scene.honest_seed_helps()


async def test_a_node_that_is_told_of_itself_knows_its_own_endpoints(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with leeching(tmp_path) as scene:
        scene.torrent.admission.found([scene.at], "tracker")
        await trio.sleep(60)
        assert scene.torrent.statistics().known_peers == 0
        assert scene.torrent.admission.peers.refused["own"] == 1
        assert not scene.node.of(ConnectionRefused) and not scene.node.of(PeerConnected)


async def test_a_node_that_reaches_itself_by_an_address_it_does_not_know_notices_and_never_tries_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with leeching(tmp_path) as scene:
        peers = scene.torrent.admission.peers
        peers._own.clear()  # as behind a hairpin that nobody has told of
        peers._is_ours = lambda endpoint: False
        scene.torrent.admission.found([scene.at], "tracker")
        await trio.sleep(600)
        refused = [(time, event) for time, event in scene.node.events if isinstance(event, ConnectionRefused)]
        assert {event.reason for _, event in refused} == {"self"}
        # The end that accepted may hang up before the one that dialled has read who it is: then it takes another try.
        assert [event.direction for _, event in refused].count("out") == 1
        assert refused[-1][0] < 200
        assert not scene.node.of(PeerConnected)
        scene.torrent.admission.found([scene.at], "tracker")
        assert scene.torrent.statistics().known_peers == 0


async def test_a_stranger_with_our_own_peer_id_is_refused(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with leeching(tmp_path) as scene:
        thief = await scene.connect(peer_id=scene.node.node.peer_id)
        await thief.wait_closed()
        assert scene.node.of(ConnectionRefused, reason="self")
        await scene.honest_seed_helps()


@pytest.mark.parametrize("lead", [0.0, 0.03, 0.06, 0.09, 0.12, 0.15, 0.18])
@pytest.mark.parametrize("greater", [True, False])
async def test_of_two_crossing_dials_exactly_one_stays_at_both_ends(
    autojump_clock: MockClock, tmp_path: Path, lead: float, greater: bool
) -> None:
    """``lead`` seconds of a round trip of 0.12: the second dial begins before, while or after the first arrives."""
    sample = make_sample(tmp_path / "seed", SIZE)
    link = Link(delay=0.03)
    async with open_internet(1) as internet:
        a, b = internet.host("a", link=link), internet.host("b", link=link)
        async with node_on(a, 1) as one, node_on(b, 2) as two:
            if (one.node.peer_id > two.node.peer_id) is not greater:
                one, two, a, b = two, one, b, a
            first = one.node.add(sample.metainfo, tmp_path / "one")
            second = two.node.add(sample.metainfo, tmp_path / "two")
            await first.wait_checked()
            await second.wait_checked()
            first.admission.found(endpoints(b.ipv4), "manual")
            await trio.sleep(lead)
            second.admission.found(endpoints(a.ipv4), "manual")
            await trio.sleep(20)
            assert [len(torrent.connections) for torrent in (first, second)] == [1, 1]
            here, there = first.connections[0], second.connections[0]
            assert here.identity.endpoint.host == b.ipv4
            assert there.identity.endpoint.host == a.ipv4
            assert here.wire_down == there.wire_up
            await trio.sleep(300)
            assert [len(torrent.connections) for torrent in (first, second)] == [1, 1]
            assert first.connections[0] is here  # it is not replaced again and again
            assert len(one.of(PeerConnected)) <= 2


async def test_of_two_connections_of_one_stranger_one_goes_after_a_second(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with leeching(tmp_path) as scene:
        await scene.connect()
        await scene.connect()
        assert len(scene.torrent.connections) == 2
        await trio.sleep(1.5)
        assert len(scene.torrent.connections) == 1
        await scene.closed_with("duplicate")
