"""Whole nodes whom a relay or a TURN server carries, and a direct way that appears later: it takes over.

In the simulated internet.  The pair has been hopeless for so long that a peer which fails to be dialled would wait for
minutes by then; how soon the direct way is found does not depend on that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.events import INDIRECT_PATHS, ConnectionClosed, PeerConnected
from swarm.peerlist import CARRIED_BACKOFF
from swarm.simnet.catalogue import FULLCONE
from swarm.simnet.internet import Internet
from swarm.torrent.torrent import Torrent
from tests.nodes import PORT, Recorded
from tests.test_relaying import swarm_of
from tests.test_turn import pair, world

TRICKLE = 1000
"""Bytes a second for as long as the pair is hopeless."""

LONG = 600.0
"""Seconds for which it is."""

CLIMB = 15.0
"""Seconds that one try takes at most until it meets who can be met now."""


@dataclass
class Carried:
    """A leech and a seed who have only an indirect way to each other; ``middles`` are their other peers."""

    internet: Internet
    seed: Recorded
    leech: Recorded
    sharing: Torrent
    torrent: Torrent
    homes: tuple[str, str]
    """The routers of seed and leech."""
    hosts: tuple[str, str]
    middles: frozenset[str]

    def direct(self) -> list[float]:
        """When the two were connected directly."""
        ours = {router.wan for name, router in self.internet.routers.items() if name in self.homes}
        return [
            time
            for time, event in self.leech.events
            if isinstance(event, PeerConnected) and event.path not in INDIRECT_PATHS and event.endpoint.host in ours
        ]

    def open(self, protocol: str) -> None:
        """Forward the seed's port by hand."""
        inside = Endpoint(self.internet.hosts[self.hosts[0]].ipv4, PORT)
        nat = self.internet.routers[self.homes[0]].nat
        assert nat is not None
        assert nat.add_forward(protocol, PORT, inside, trio.current_time())

    def exchange_router(self) -> None:
        """The leech's is another one from now on, whose mappings depend on nobody."""
        router = self.internet.routers[self.homes[1]]
        assert router.nat is not None
        router.nat.behaviour = FULLCONE
        router.reboot()

    def standing(self) -> set[str]:
        """The paths of what stands between the two, and of nothing else."""
        return {
            peer.identity.path for peer in self.torrent.connections if peer.identity.endpoint.host not in self.middles
        }


@asynccontextmanager
async def by_relay(directory: Path) -> AsyncIterator[Carried]:
    async with swarm_of(directory, "symrand") as swarm:
        swarm.sharing.set_rates(0, TRICKLE)
        async with swarm.leech("symrand") as (node, torrent):
            await node.wait_for(PeerConnected, path="relayed")
            for known in torrent.admission.peers:  # the user has not named it, whom one would try more often
                known.sources.discard("manual")
            middles = frozenset(each.host for each in swarm.middles)
            homes = ("seed-home", "leech-home")
            yield Carried(swarm.internet, swarm.seed, node, swarm.sharing, torrent, homes, ("seed", "leech"), middles)
            desk = swarm.relays[0].node.relay.desk.statistics()
            assert not desk.circuits, "nothing is carried any more"


@asynccontextmanager
async def by_turn(directory: Path) -> AsyncIterator[Carried]:
    async with world(directory) as here, pair(here, directory, ("symrand", "symrand")) as (seed, leech):
        (sharing,), (torrent,) = seed.node.torrents.values(), leech.node.torrents.values()
        sharing.set_rates(0, TRICKLE)
        await leech.wait_for(PeerConnected, path="turn")
        middles = frozenset({here.internet.hosts["middle"].ipv4})
        yield Carried(here.internet, seed, leech, sharing, torrent, ("a-home", "b-home"), ("a", "b"), middles)
        assert not [peer for peer in torrent.connections if peer.identity.path == "turn"]


@pytest.mark.parametrize("change", ["forward", "router"])
@pytest.mark.parametrize("carried_by", [by_relay, by_turn], ids=["relay", "turn"])
async def test_a_direct_way_that_appears_later_takes_over(
    autojump_clock: MockClock, tmp_path: Path, carried_by: object, change: str
) -> None:
    assert callable(carried_by)
    async with carried_by(tmp_path) as pair_of:
        await trio.sleep(LONG)
        assert not pair_of.direct()
        assert pair_of.standing() <= INDIRECT_PATHS and pair_of.standing()
        changed = trio.current_time()
        if change == "forward":
            pair_of.open("tcp")
        else:
            pair_of.exchange_router()
        with trio.fail_after(CARRIED_BACKOFF * 1.1 + CLIMB):
            while not pair_of.direct():
                await trio.sleep(0.1)
        print(change, trio.current_time() - changed)
        await trio.sleep(10)
        assert pair_of.standing() and not pair_of.standing() & INDIRECT_PATHS
        pair_of.sharing.set_rates(0, 0)
        with trio.fail_after(200):
            await pair_of.torrent.wait_complete()
        statistics = pair_of.torrent.statistics()
        assert statistics.wasted == 0, "no block came twice"
        if change == "forward":  # the old way stood until it was not needed any more
            ended = [event for event in pair_of.leech.of(ConnectionClosed) if event.path in INDIRECT_PATHS]
            carried = [event for event in ended if event.bytes_down]
            assert carried and {event.reason for event in carried} <= {"duplicate", "closed"}, ended
