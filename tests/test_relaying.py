"""Whole nodes that cannot meet, and peers of theirs that relay, in the simulated internet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.events import PeerConnected
from swarm.simnet.catalogue import behind
from swarm.simnet.internet import Internet, open_internet
from swarm.torrent.torrent import Torrent
from tests.nodes import PORT, Recorded, Sample, make_sample, node_on, seeding

SLOW = 1000
"""Bytes a second of the relays' own, who so have nothing to give."""

SIZE = 4 << 20


def known_reachable(node: Recorded) -> None:
    """As after an hour among strangers."""
    node.node.relay.is_reachable = lambda: True  # type: ignore[method-assign]


@dataclass
class Swarm:
    internet: Internet
    sample: Sample
    directory: Path
    relays: list[Recorded]
    middles: list[Endpoint]
    seed: Recorded
    sharing: Torrent

    def seed_endpoint(self) -> Endpoint:
        """Where trackers would say that the seed is."""
        return Endpoint(self.internet.routers["seed-home"].wan, PORT)

    @asynccontextmanager
    async def leech(self, kind: str, **config: Any) -> AsyncIterator[tuple[Recorded, Torrent]]:
        async with node_on(behind(self.internet, kind, "leech"), 30, **config) as node:
            peers = [*self.middles, self.seed_endpoint()]
            yield node, node.node.add(self.sample.metainfo, self.directory / "leech", peers=peers)


@asynccontextmanager
async def swarm_of(
    directory: Path, seed_kind: str, *, relays: int = 1, serve: bool = True, private: bool = False, **seed: Any
) -> AsyncIterator[Swarm]:
    async with AsyncExitStack() as stack:
        internet = await stack.enter_async_context(open_internet(seed=1))
        sample = make_sample(directory / "seed", SIZE, private=private)
        nodes, middles = [], []
        for number in range(relays):
            host = internet.host(f"middle{number}")
            node = await stack.enter_async_context(node_on(host, number + 1, relay_serve=serve, download_rate=SLOW))
            known_reachable(node)
            node.node.add(sample.metainfo, directory / f"middle{number}")
            nodes.append(node)
            middles.append(Endpoint(host.ipv4, PORT))
        seed_host = behind(internet, seed_kind, "seed")
        sharing = await stack.enter_async_context(node_on(seed_host, 20, **seed))
        torrent = await seeding(sharing, sample, peers=middles)
        for endpoint in middles:
            await sharing.wait_for(PeerConnected, endpoint=endpoint)
        await trio.sleep(3)
        yield Swarm(internet, sample, directory, nodes, middles, sharing, torrent)


def paths(torrent: Torrent, middles: list[Endpoint]) -> set[str]:
    return {peer.identity.path for peer in torrent.connections if peer.identity.endpoint not in middles}


@pytest.mark.parametrize(
    ("seed", "leech"), [("symrand", "symrand"), ("udpblock", "symrand"), ("symrand", "udpblock"), ("symseq", "cgnsym")]
)
async def test_two_that_cannot_meet_are_relayed(
    autojump_clock: MockClock, tmp_path: Path, seed: str, leech: str
) -> None:
    async with swarm_of(tmp_path, seed) as swarm, swarm.leech(leech) as (node, torrent):
        started = trio.current_time()
        with trio.fail_after(30):
            await node.wait_for(PeerConnected, path="relayed")
            while not torrent.statistics().pieces_had:
                await trio.sleep(0.1)
        first = trio.current_time() - started
        with trio.fail_after(30):
            await torrent.wait_complete()
        assert first <= 5
        assert paths(torrent, swarm.middles) <= {"relayed"}
        assert {peer.identity.encryption for peer in torrent.connections if peer.identity.path == "relayed"} <= {"rc4"}
        statistics = swarm.relays[0].node.relay.desk.statistics()
        assert statistics.opened == 1 and statistics.bytes >= SIZE // 2
        assert swarm.relays[0].node.document()["paths"]["relayed"]["out"]["succeeded"] == 0
