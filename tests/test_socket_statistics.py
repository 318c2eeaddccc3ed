"""What a node tells of its UDP sockets, in virtual time."""

from __future__ import annotations

from pathlib import Path

from trio.testing import MockClock

from swarm.simnet.internet import open_internet
from tests.nodes import endpoints, make_sample, node_on, seeding

SIZE = 1 << 20


async def test_a_download_over_utp_is_counted_by_core_while_the_node_is_online(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    sample = make_sample(tmp_path / "seed", SIZE)
    async with open_internet(1) as internet:
        far, near = internet.host("far"), internet.host("near")
        async with node_on(far, 1) as seed, node_on(near, 2, tcp=False) as leech:
            await seeding(seed, sample)
            torrent = leech.node.add(sample.metainfo, tmp_path / "leech", peers=endpoints(far.ipv4))
            await torrent.wait_complete()
            cores = leech.node.socket_statistics()[4].cores
            assert set(cores) == {"mapping-tests", "udp-tracker", "utp"}
            assert SIZE < cores["utp"].bytes_in < 1.1 * SIZE
            assert cores["utp"].datagrams_in > SIZE // 1472
            assert cores["udp-tracker"].datagrams_out == 0
            assert seed.node.socket_statistics()[4].cores["utp"].bytes_out > SIZE
        assert leech.node.socket_statistics() == {}


async def test_without_utp_there_is_no_core_for_it(autojump_clock: MockClock) -> None:
    async with open_internet(1) as internet, node_on(internet.host("near"), 1, utp=False) as node:
        assert set(node.node.socket_statistics()[4].cores) == {"mapping-tests", "udp-tracker"}
