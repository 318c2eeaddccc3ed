"""Whole nodes and Debian's coturn on loopback: a download through an allocation of either address family.

The ends do not find out where else they are: each takes the other's own endpoint for its own.  That pairs which cannot
meet come to this by themselves is shown in `tests.netlab.test_turn` (IPv4) and `tests.test_turn`.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from swarm.config import Config
from swarm.endpoint import Endpoint
from swarm.node import Node, open_node
from tests.interop.clients import free_port
from tests.interop.test_turn import coturn
from tests.loopback import LoopbackNetwork
from tests.nodes import make_sample

pytestmark = pytest.mark.interop

SIZE = 1 << 20
OFF = dict.fromkeys(("tcp", "trackers", "dht", "lsd", "mapping"), False)


async def node_at(stack: AsyncExitStack, at: Endpoint, turn: tuple[str, ...] = ()) -> Node:
    config = Config(port=at.port, turn=turn, **OFF)
    return await stack.enter_async_context(open_node(config, network=LoopbackNetwork()))


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize(("server", "own"), [("[::1]", "::1"), ("127.0.0.1", "::1"), ("[::1]", "127.0.0.1")])
async def test_a_download_through_an_allocation_of_the_peers_family(
    tmp_path: Path, server: str, own: str, transport: str
) -> None:
    """Whatever the family by which the server is reached (REQUESTED-ADDRESS-FAMILY, RFC 8656 §18.6)."""
    sample = make_sample(tmp_path / "seed", SIZE)
    here, there = Endpoint(own, free_port()), Endpoint(own, free_port())
    with coturn(tmp_path, "--no-tls", hosts=("::1", "127.0.0.1")) as running, trio.fail_after(30):
        async with AsyncExitStack() as stack:
            uri = running.uri(f"?transport={transport}", host=server)
            seed, leech = await node_at(stack, here, (uri,)), await node_at(stack, there)
            sharing = seed.add(sample.metainfo, sample.directory)
            sharing.admission.peers.exclude(there)
            await sharing.wait_checked()
            while not seed.turning.running:
                await trio.sleep(0.01)
            port = await seed.turning.port(ipv6=own == "::1")
            port.permit([own])
            assert port.relayed.is_ipv6 is (own == "::1")
            torrent = leech.add(sample.metainfo, tmp_path / "leech", peers=[port.relayed])
            torrent.admission.peers.exclude(here)
            await torrent.wait_complete()
            sources = {peer.identity.endpoint: peer.identity.path for peer in torrent.connections if peer.bytes_down}
            assert sources == {port.relayed: "turn"}
            (report,) = seed.turning.statistics()
            assert report.bytes_up >= SIZE
            assert sample.is_whole_in(tmp_path / "leech")
