"""A peer that vanishes without a word, at any moment of being met, leaves nothing behind in those it dealt with."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.node import Node
from swarm.simnet.catalogue import behind
from swarm.simnet.internet import open_internet
from tests.nodes import PORT, make_sample, node_on, seeding

FORGOTTEN = 200.0
"""Seconds after which everything has run out: idle connections after 150, meetings after 30."""

SLOW = 1000


def left_of(host: str, node: Node) -> list[object]:
    """What a node still holds of meetings, or of a peer seen at ``host``."""
    (torrent,) = node.torrents.values()
    agreements, reaching = torrent.ways.meetings._agreements, torrent.ways.reaching
    desks = [
        torrent.ways.punching._meetings,
        agreements._meetings,
        agreements._attending,
        agreements.desk._sessions,
        [punch for punch in agreements._punches if punch.located.observed.host == host],
        [errand for errand in reaching._desk._errands.values() if errand.asker.observed.host == host],
        [peer for peer in torrent.connections if peer.identity.endpoint.host == host],
        [peer for peer in torrent.admission._acquaintances._direct if peer.identity.endpoint.host == host],
        [grant for grant in node._online._udp[4].mapping_tests._core._grants.values() if grant.host == host],
        node._shot_ports._ports,
        range(node._dialer.shots.under_way),
    ]
    return [each for desk in desks for each in desk]


@pytest.mark.parametrize("moment", [0.1, 0.3, 0.6, 1.0, 1.5, 2.5, 6.0])
@pytest.mark.parametrize("kinds", [("cone", "cone"), ("symseq", "cone"), ("cone", "symrand")])
async def test_nothing_is_left_of_a_peer_that_vanished(
    autojump_clock: MockClock, tmp_path: Path, kinds: tuple[str, str], moment: float
) -> None:
    """Introduced, punched through, predicted or met by birthday, tested for being reachable: cut off in the middle."""
    async with open_internet(seed=2) as internet:
        sample = make_sample(tmp_path / "seed", 1 << 18)
        middles = [internet.host(f"middle{number}") for number in range(2)]
        known = [Endpoint(middle.ipv4, PORT) for middle in middles]
        seed_host, leech_host = behind(internet, kinds[0], "seed"), behind(internet, kinds[1], "leech")
        async with (
            node_on(middles[0], 1, download_rate=SLOW) as one,
            node_on(middles[1], 2, download_rate=SLOW) as other,
            node_on(seed_host, 3) as seed,
        ):
            for number, middle in enumerate((one, other)):
                middle.node.add(sample.metainfo, tmp_path / f"middle{number}", peers=known[:number])
            await seeding(seed, sample, peers=known)
            await trio.sleep(40)
            outside = internet.routers["leech-home"].wan
            async with node_on(leech_host, 4) as leech:
                peers = [*known, Endpoint(internet.routers["seed-home"].wan, PORT)]
                leech.node.add(sample.metainfo, tmp_path / "leech", peers=peers)
                await trio.sleep(moment)
                leech_host.connect(False)
            await trio.sleep(FORGOTTEN)
            for each in (one, other, seed):
                assert left_of(outside, each.node) == []
