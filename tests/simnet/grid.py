"""Two whole nodes behind two NATs, one slow stranger who knows both, and a tracker: who reaches whom, how, how soon.

The rendezvous takes part in the torrent, has nothing and is too slow to get anything: it can only introduce.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import trio

from swarm.discover.embedded_tracker import EmbeddedTracker, open_tracker
from swarm.endpoint import Endpoint
from swarm.events import DialFailed, PeerConnected
from swarm.simnet.catalogue import KINDS, behind
from swarm.simnet.internet import open_internet
from tests.nodes import Recorded, make_sample, node_on, seeding

SIZE = 2 << 20
TRACKER_PORT = 6969
LIMIT = 60.0
"""Seconds until a pair counts as not reached."""

SLOW = 1000
"""Bytes a second of the rendezvous: within LIMIT it has not one piece to give."""


@dataclass(frozen=True)
class Cell:
    """What became of one pair: the path that carried the data and seconds from the leech's start, or why none did."""

    path: str | None
    seconds: float
    reasons: tuple[str, ...] = ()


def known_reachable(node: Recorded) -> None:
    """As after an hour among strangers."""
    node.node.relay.is_reachable = lambda: True  # type: ignore[method-assign]


async def reach(directory: Path, seed_kind: str, leech_kind: str, *, number: int = 1, relayed: bool = False) -> Cell:
    """One cell, in virtual time.  The seed is there before the leech; where one has IPv6 alone, all have.
    With ``relayed`` the rendezvous relays."""
    async with open_internet(seed=number) as internet:
        ipv6 = KINDS[seed_kind].ipv6
        assert KINDS[leech_kind].ipv6 == ipv6
        public = "v6open" if ipv6 else "open"
        tracker_host = behind(internet, public, "tracker")
        tracker = EmbeddedTracker(random.Random(number))
        local = Endpoint(tracker_host.ipv6 if ipv6 else tracker_host.ipv4, TRACKER_PORT)
        sample = make_sample(directory / "seed", SIZE, trackers=[f"http://{local}/announce"])
        seed_host, leech_host = behind(internet, seed_kind, "seed"), behind(internet, leech_kind, "leech")
        middle = behind(internet, public, "middle")
        online = {"trackers": True, "mapping": True}
        async with (
            open_tracker(tracker_host, local, tracker),
            node_on(middle, 10 * number, **online, download_rate=SLOW, relay_serve=relayed) as rendezvous,
            node_on(seed_host, 10 * number + 1, **online) as seed,
        ):
            if relayed:
                known_reachable(rendezvous)
            rendezvous.node.add(sample.metainfo, directory / "middle")
            await trio.sleep(1)
            await seeding(seed, sample)
            await trio.sleep(10)
            started = trio.current_time()
            async with node_on(leech_host, 10 * number + 2, **online) as leech:
                torrent = leech.node.add(sample.metainfo, directory / "leech")
                with trio.move_on_after(LIMIT) as scope:
                    await torrent.wait_complete()
                seconds = trio.current_time() - started
                if scope.cancelled_caught:
                    failed = {f"{event.path}: {event.reason}" for event in leech.of(DialFailed)}
                    return Cell(None, seconds, tuple(sorted(failed)))
                paths = [peer.identity.path for peer in torrent.connections if peer.bytes_down > SIZE // 2]
                assert paths, leech.of(PeerConnected)
                return Cell(paths[0], seconds)
