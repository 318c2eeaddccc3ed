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
from tests.simnet.grid import known_reachable

SLOW = 1000
"""Bytes a second of the relays' own, who so have nothing to give."""

SIZE = 4 << 20
BLOCK = 16 << 10


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
        (own,) = swarm.relays[0].node.torrents.values()
        assert own.statistics().downloaded <= SLOW * trio.current_time() + 4 * BLOCK, "its own limit holds meanwhile"
        statistics = swarm.relays[0].node.relay.desk.statistics()
        assert statistics.opened == 1 and statistics.bytes >= SIZE // 2
        assert swarm.relays[0].node.document()["paths"]["relayed"]["out"]["succeeded"] == 0


@pytest.mark.parametrize("orderly", [True, False])
async def test_a_relay_that_dies_in_mid_transfer_is_replaced_by_another(
    autojump_clock: MockClock, tmp_path: Path, orderly: bool
) -> None:
    async with swarm_of(tmp_path, "symrand", relays=2) as swarm, swarm.leech("symrand") as (node, torrent):
        with trio.fail_after(30):
            await node.wait_for(PeerConnected, path="relayed")
            while torrent.statistics().pieces_had < 10:
                await trio.sleep(0.1)
        had = torrent.statistics().pieces_had
        (carrying,) = [each for each in swarm.relays if each.node.relay.desk.statistics().circuits]
        if orderly:
            await carrying.node.close()
        else:  # and nobody is told
            swarm.internet.hosts[f"middle{swarm.relays.index(carrying)}"].connect(False)
        with trio.fail_after(60 if orderly else 300):
            await torrent.wait_complete()
        assert torrent.have is not None and torrent.have.count >= had
        assert torrent.statistics().wasted <= 1 << 18
        (other,) = [each for each in swarm.relays if each is not carrying]
        assert other.node.relay.desk.statistics().opened >= 1
        assert swarm.sample.is_whole_in(tmp_path / "leech")


@pytest.mark.parametrize(("serve", "config"), [(False, {}), (True, {"relay": False}), (True, {"encryption": "off"})])
async def test_nobody_is_relayed_where_that_is_not_wanted(
    autojump_clock: MockClock, tmp_path: Path, serve: bool, config: dict[str, Any]
) -> None:
    async with swarm_of(tmp_path, "symrand", serve=serve) as swarm, swarm.leech("symrand", **config) as (node, _):
        await trio.sleep(30)
        assert not node.of(PeerConnected, path="relayed")


async def test_a_relayed_connection_that_gives_way_loses_no_block_and_fetches_none_twice(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm_of(tmp_path, "symrand") as swarm, swarm.leech("symrand") as (node, torrent):
        with trio.fail_after(30):
            await node.wait_for(PeerConnected, path="relayed")
            while torrent.statistics().pieces_had < 10:
                await trio.sleep(0.1)
        relayed = next(peer for peer in torrent.connections if peer.identity.path == "relayed")
        relayed.retire()
        with trio.fail_after(8):
            while not relayed.closing:
                await trio.sleep(0.1)
        assert relayed.reason in ("duplicate", "closed")
        assert torrent.statistics().wasted == 0
        with trio.fail_after(60):  # it is asked for a circuit again
            await torrent.wait_complete()


async def test_somebody_who_is_gone_is_asked_for_less_and_less(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Two words to the relay for each try of the ladder: at once, if it knows that there is no other way, and last."""
    async with swarm_of(tmp_path, "open") as swarm, node_on(behind(swarm.internet, "symrand", "leech"), 30) as node:
        gone = Endpoint(swarm.internet.host("gone").ipv4, PORT)
        torrent = node.node.add(swarm.sample.metainfo, tmp_path / "leech", peers=[*swarm.middles, gone])
        await torrent.wait_complete()
        torrent.choose([])
        desk = swarm.relays[0].node.relay.desk
        asked = []
        for _ in range(4):
            before = desk.statistics().asked
            await trio.sleep(150)
            asked.append(desk.statistics().asked - before)
        print(asked, desk.statistics().refused)
        known = torrent.admission.peers.get(gone)
        assert known is not None and known.attempts <= 9
        assert sum(asked) <= 2 * known.attempts
        assert asked[0] > asked[1] >= asked[2] >= asked[3] and asked[3] <= 2
        assert set(desk.statistics().refused) == {"not-connected"}
