"""Hidden seeds and a relay that is a seed, too: nothing passes between them, and yet the reservations stand."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.events import ConnectionClosed, PeerConnected
from swarm.simnet.catalogue import behind
from swarm.simnet.internet import open_internet
from swarm.torrent.seedlinks import HOSTED
from tests.nodes import PORT, endpoints, make_sample, node_on, seeding
from tests.simnet.grid import known_reachable

SIZE = 1 << 20
SLOW = 1000
"""Bytes a second that the relay has of its own for others."""


@pytest.mark.parametrize("seeds", [1, HOSTED + 3])
async def test_a_hidden_seed_keeps_its_reservation_at_a_relay_that_is_a_seed_too(
    autojump_clock: MockClock, tmp_path: Path, seeds: int
) -> None:
    async with AsyncExitStack() as stack:
        internet = await stack.enter_async_context(open_internet(seed=1))
        sample = make_sample(tmp_path / "seed", SIZE)
        relay_host = internet.host("relay")
        relay = await stack.enter_async_context(node_on(relay_host, 1, relay_serve=True, upload_rate=SLOW))
        known_reachable(relay)
        await seeding(relay, sample)
        hidden = []
        for number in range(seeds):
            host = behind(internet, "symrand", f"hidden{number}")
            node = await stack.enter_async_context(node_on(host, number + 10))
            await seeding(node, sample, peers=endpoints(relay_host.ipv4))
            hidden.append(node)
        await trio.sleep(150)
        assert relay.node.relay.desk.statistics().reservations == seeds
        for node in hidden:
            assert len(node.of(PeerConnected, endpoint=Endpoint(relay_host.ipv4, PORT))) == 1, "dialled once, and kept"
            assert not node.of(ConnectionClosed)
        async with node_on(behind(internet, "symrand", "leech"), 99) as leech:
            seed = Endpoint(internet.routers["hidden0-home"].wan, PORT)
            torrent = leech.node.add(sample.metainfo, tmp_path / "leech", peers=[*endpoints(relay_host.ipv4), seed])
            with trio.fail_after(20):
                await torrent.wait_complete()
            assert leech.of(PeerConnected, path="relayed")
            assert relay.node.relay.desk.statistics().bytes > SIZE // 2
