"""Whole nodes and a TURN server on the simulated internet: pairs that no packet crosses directly."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from swarm.connect.turn_port import IDLE
from swarm.discover.embedded_tracker import EmbeddedTracker, open_tracker
from swarm.endpoint import Endpoint
from swarm.events import ConnectionClosed, PeerConnected, Warned
from swarm.simnet.catalogue import FULLCONE, behind
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.turn_server import TurnServer
from tests.nodes import PORT, Recorded, Sample, make_sample, node_on, seeding
from tests.simnet.grid import known_reachable

SIZE = 1 << 20
TRACKER_PORT = 6969
SLOW = 1000
"""Bytes a second of the rendezvous: it can only introduce."""


class World:
    """A tracker, a rendezvous that has nothing, and a TURN server."""

    def __init__(self, internet: Internet, sample: Sample, server: TurnServer, middle: Recorded) -> None:
        self.internet = internet
        self.sample = sample
        self.server = server
        self.middle = middle


@asynccontextmanager
async def world(directory: Path, *, middle: bool = True) -> AsyncIterator[World]:
    async with open_internet(seed=1) as internet, trio.open_nursery() as nursery:
        tracker_host, turn_host = internet.host("tracker"), internet.host("turn")
        local = Endpoint(tracker_host.ipv4, TRACKER_PORT)
        sample = make_sample(directory / "seed", SIZE, trackers=[f"http://{local}/announce"])
        server = TurnServer(turn_host, turn_host.ipv4, random.Random(1))
        await nursery.start(server.run)
        async with (
            open_tracker(tracker_host, local, EmbeddedTracker(random.Random(1))),
            node_on(internet.host("middle"), 10, trackers=True, download_rate=SLOW) as rendezvous,
        ):
            if middle:
                rendezvous.node.add(sample.metainfo, directory / "middle")
                await trio.sleep(1)
            yield World(internet, sample, server, rendezvous)
            nursery.cancel_scope.cancel()


def paths_of(node: Recorded, least: int = SIZE // 2) -> list[str]:
    """Over which paths most of the data came: of connections that stand, and of ended ones."""
    torrent = next(iter(node.node.torrents.values()))
    standing = [peer.identity.path for peer in torrent._connections if peer.bytes_down > least]
    return standing + [event.path for event in node.of(ConnectionClosed) if event.bytes_down > least]


HOPELESS = [
    ("symrand", "symrand", "both", ""),
    ("symrand", "symrand", "seed", ""),
    ("symrand", "symrand", "leech", "?transport=tcp"),
    ("symrand", "cgnsym", "both", ""),
    ("symrand", "cgnsym", "seed", "?transport=udp"),
    ("udpblock", "symrand", "both", ""),
    ("udpblock", "symrand", "seed", ""),
    ("symrand", "udpblock", "both", "?transport=tcp"),
    ("symrand", "udpblock", "leech", ""),
]
"""The seed's NAT, the leech's, who of them has a TURN server, and how it is reached.  Where UDP is blocked one needs it
oneself: without UDP nobody gets to another's relayed address."""


@pytest.mark.parametrize(("seed_kind", "leech_kind", "who", "query"), HOPELESS)
async def test_pairs_that_cannot_meet_directly_meet_through_a_turn_server(
    seed_kind: str, leech_kind: str, who: str, query: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        uri = (here.server.uri + query,)
        options = [{"turn": uri} if who in ("both", role) else {} for role in ("seed", "leech")]
        seed_host, leech_host = behind(here.internet, seed_kind, "a"), behind(here.internet, leech_kind, "b")
        async with node_on(seed_host, 11, trackers=True, **options[0]) as seed:
            await seeding(seed, here.sample)
            await trio.sleep(10)
            started = trio.current_time()
            async with node_on(leech_host, 12, trackers=True, **options[1]) as leech:
                torrent = leech.node.add(here.sample.metainfo, tmp_path / "leech")
                with trio.fail_after(20):
                    await torrent.wait_complete()
                print(seed_kind, leech_kind, who, query, trio.current_time() - started)
                assert paths_of(leech) == ["turn"]
                assert here.server.bytes_relayed > SIZE // 2
                counted = leech.node.document()["paths"]["turn"]
                assert counted["in"]["bytes_down"] + counted["out"]["bytes_down"] >= SIZE // 2


@asynccontextmanager
async def pair(
    here: World, directory: Path, kinds: tuple[str, str], **options: object
) -> AsyncIterator[list[Recorded]]:
    """Seed and leech, both with the TURN server, the leech's download begun."""
    options = {"trackers": True, "turn": (here.server.uri,)} | options
    hosts = [behind(here.internet, kind, name) for kind, name in zip(kinds, ("a", "b"), strict=True)]
    async with node_on(hosts[0], 11, **options) as seed:
        await seeding(seed, here.sample)
        await trio.sleep(10)
        async with node_on(hosts[1], 12, **options) as leech:
            leech.node.add(here.sample.metainfo, directory / "leech")
            yield [seed, leech]


async def complete(leech: Recorded, within: float) -> None:
    with trio.fail_after(within):
        await next(iter(leech.node.torrents.values())).wait_complete()


@pytest.mark.parametrize("kinds", [("cone", "cone"), ("symseq", "cone"), ("open", "symrand")])
async def test_pairs_that_can_meet_are_not_relayed(
    kinds: tuple[str, str], tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here, pair(here, tmp_path, kinds) as (_, leech):
        await complete(leech, 30)
        assert "turn" not in paths_of(leech)
        assert here.server.bytes_relayed < SIZE // 20, "a presence moves no data"


async def test_a_relayed_connection_gives_way_to_a_direct_one(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as here, pair(here, tmp_path, ("symrand", "symrand"), upload_rate=20_000) as nodes:
        leech = nodes[1]
        with trio.fail_after(20):
            while not leech.of(PeerConnected, path="turn"):
                await trio.sleep(0.1)
        for name in ("a-home", "b-home"):
            here.internet.routers[name].nat.behaviour = FULLCONE  # somebody has gone to the settings
        await complete(leech, 200)
        ways = [event.path for event in leech.of(PeerConnected) if event.path != "turn"]
        assert set(ways) & {"utp", "tcp", "utp-punched", "tcp-punched", "predicted"}
        ended = [event for event in leech.of(ConnectionClosed) if event.path == "turn"]
        assert ended
        assert all(event.reason in ("duplicate", "retired", "closed", "reset") for event in ended), ended
        torrent = next(iter(leech.node.torrents.values()))
        assert torrent.statistics().wasted == 0


async def test_a_server_that_dies_in_mid_transfer_is_told_once_and_nothing_verified_is_lost(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here, pair(here, tmp_path, ("symrand", "symrand"), upload_rate=50_000) as nodes:
        leech = nodes[1]
        torrent = next(iter(leech.node.torrents.values()))
        with trio.fail_after(60):
            while torrent.statistics().pieces_had < 3:
                await trio.sleep(0.1)
        here.server.stop()
        await trio.sleep(90)
        had = torrent.statistics().pieces_had
        assert 3 <= had < torrent.statistics().pieces
        warnings = [event.message for event in leech.of(Warned) if "TURN" in event.message]
        assert len(warnings) <= 2, "that it was lost, and that it does not answer"
        assert any("turn:20." in message and "tried again" in message for message in warnings)
        (report,) = leech.node.document()["turn"]
        assert report["error"] in ("timed-out", "refused")
        assert report["retry_in"] >= 0
        assert "secret" not in str(leech.node.document())
        again = TurnServer(here.internet.hosts["turn"], here.server.endpoint.host, random.Random(2))
        async with trio.open_nursery() as nursery:
            await nursery.start(again.run)
            await complete(leech, 300)
            nursery.cancel_scope.cancel()
        assert torrent.statistics().wasted == 0 or torrent.statistics().wasted < 10 * 16384


async def test_a_download_goes_on_directly_when_the_server_dies(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as here, pair(here, tmp_path, ("symrand", "symrand"), upload_rate=50_000) as nodes:
        leech = nodes[1]
        torrent = next(iter(leech.node.torrents.values()))
        with trio.fail_after(60):
            while torrent.statistics().pieces_had < 3:
                await trio.sleep(0.1)
        here.server.stop()
        for name in ("a-home", "b-home"):
            here.internet.routers[name].nat.behaviour = FULLCONE
        await complete(leech, 200)


async def test_a_server_that_refuses_is_one_warning_and_asked_less_and_less(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        uri = f"turn:user:hunter2@{here.server.endpoint}"
        async with pair(here, tmp_path, ("symrand", "symrand"), turn=(uri,)) as (_, leech):
            await trio.sleep(900)
            warnings = [event.message for event in leech.of(Warned) if "TURN" in event.message]
            assert len(warnings) == 1
            assert "user name or password" in warnings[0]
            assert len(here.server.heard) <= 2 * 2 * 8, "each try is two requests, of two nodes"
            assert "hunter2" not in repr(leech.events)
            assert "hunter2" not in str(leech.node.document())
            (report,) = leech.node.document()["turn"]
            assert report["error"] == "turn-unauthorized"


async def given_back(here: World) -> float:
    """Seconds until no allocation stands."""
    started = trio.current_time()
    with trio.fail_after(4 * IDLE):
        while here.server.allocations:
            await trio.sleep(0.5)
    return trio.current_time() - started


async def test_an_allocation_is_given_back_when_nobody_needs_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Although the peers that were met there, and those who were told of it, knock on."""
    async with world(tmp_path) as here, pair(here, tmp_path, ("symrand", "symrand")) as (seed, leech):
        await complete(leech, 30)
        assert here.server.allocations
        for node in (seed, leech):
            for torrent in tuple(node.node.torrents.values()):
                await node.node.remove(torrent)
        assert await given_back(here) <= IDLE + 2


async def test_an_allocation_is_given_back_when_strangers_reach_us_otherwise(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here, pair(here, tmp_path, ("symrand", "symrand"), upload_rate=20_000) as nodes:
        with trio.fail_after(20):
            await nodes[1].wait_for(PeerConnected, path="turn")
        now = trio.current_time()
        for name, node in zip(("a", "b"), nodes, strict=True):
            nat = here.internet.routers[f"{name}-home"].nat
            assert nat is not None
            for protocol in ("tcp", "udp"):
                assert nat.add_forward(protocol, PORT, Endpoint(here.internet.hosts[name].ipv4, PORT), now)
            known_reachable(node)
            node.node.standing.is_hidden = lambda: False  # type: ignore[method-assign]
        await complete(nodes[1], 120)
        assert "turn" not in {
            peer.identity.path for torrent in nodes[1].node.torrents.values() for peer in torrent.connections
        }
        await given_back(here)
        await trio.sleep(300)
        assert not here.server.allocations, "and none is made again"


async def test_the_relayed_addresses_of_a_swarm_are_no_peers_of_their_owners(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here, pair(here, tmp_path, ("symrand", "symrand")) as nodes:
        await complete(nodes[1], 30)
        for node in nodes:
            (torrent,) = node.node.torrents.values()
            own = set(node.node.turning.relayed_endpoints())
            assert own
            assert not own & {peer.endpoint for peer in torrent.admission.peers}
            assert not [event for event in node.of(PeerConnected) if event.endpoint in own]
