"""Whole nodes and a TURN server on the simulated internet: pairs that no packet crosses directly."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from swarm.discover.embedded_tracker import EmbeddedTracker, open_tracker
from swarm.endpoint import Endpoint
from swarm.events import ConnectionClosed, PeerConnected, PunchFailed, Warned
from swarm.simnet.catalogue import behind
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.turn_server import TurnServer
from tests.nodes import Recorded, Sample, make_sample, node_on, seeding

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


@pytest.mark.parametrize(
    ("kinds", "query"),
    [
        (("symrand", "symrand"), ""),
        (("symrand", "cgnsym"), ""),
        (("udpblock", "symrand"), ""),
        (("symrand", "udpblock"), "?transport=tcp"),
    ],
)
@pytest.mark.parametrize("who", ["both", "seed", "leech"])
async def test_pairs_that_cannot_meet_directly_meet_through_a_turn_server(
    kinds: tuple[str, str], query: str, who: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    if "udpblock" in kinds and who != "both":
        blocked = "seed" if kinds[0] == "udpblock" else "leech"
        if who != blocked:
            pytest.skip("without UDP nobody gets to another's relayed address")
    async with world(tmp_path) as here:
        uri = (here.server.uri + query,)
        options = [{"turn": uri} if who in ("both", role) else {} for role in ("seed", "leech")]
        seed_host, leech_host = behind(here.internet, kinds[0], "a"), behind(here.internet, kinds[1], "b")
        async with node_on(seed_host, 11, trackers=True, **options[0]) as seed:
            await seeding(seed, here.sample)
            await trio.sleep(10)
            started = trio.current_time()
            async with node_on(leech_host, 12, trackers=True, **options[1]) as leech:
                torrent = leech.node.add(here.sample.metainfo, tmp_path / "leech")
                with trio.fail_after(60):
                    await torrent.wait_complete()
                print(kinds, who, trio.current_time() - started, paths_of(leech), here.server.bytes_relayed)
                assert paths_of(leech) == ["turn"]
                assert here.server.bytes_relayed > SIZE // 2
                assert leech.node.document()["paths"]["turn"]["in" if who == "leech" else "out"] is not None
