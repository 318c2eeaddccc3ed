"""Whole nodes behind one simulated NAT that does not hairpin: they meet in their own network, without LSD.

A common introducer passes on where each is inside (`sw_punch`); that they share an address outside makes it worth it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from swarm.events import PeerConnected, PeerDiscovered, PunchAsked
from swarm.simnet.catalogue import CONE, SYMRAND
from swarm.simnet.internet import open_internet
from swarm.simnet.nat import NatBehaviour
from tests.nodes import PORT, endpoints, make_sample, node_on, seeding

SLOW = 1000
"""Bytes a second of the introducer, who so has nothing to give."""


@pytest.mark.parametrize("port", [PORT, PORT + 1], ids=["one port", "two ports"])
@pytest.mark.parametrize("nat", [CONE, SYMRAND], ids=["cone", "symrand"])
async def test_neighbours_are_brought_together_by_an_introducer(
    autojump_clock: MockClock, tmp_path: Path, nat: NatBehaviour, port: int
) -> None:
    async with open_internet(seed=1) as internet:
        home = internet.router("home", nat)
        hosts = internet.host("seed", router=home), internet.host("leech", router=home)
        middle = internet.host("middle")
        sample = make_sample(tmp_path / "seed", 1 << 18)
        introducers = endpoints(middle.ipv4)
        async with node_on(middle, 1, download_rate=SLOW) as introducer, node_on(hosts[0], 2) as seed:
            introducer.node.add(sample.metainfo, tmp_path / "middle")
            await seeding(seed, sample, peers=introducers)
            await seed.wait_for(PeerConnected, endpoint=introducers[0])
            await trio.sleep(5)  # the first PEX messages have been told
            async with node_on(hosts[1], 3, port=port) as leech:
                torrent = leech.node.add(sample.metainfo, tmp_path / "leech", peers=introducers)
                with trio.fail_after(5):
                    await torrent.wait_complete()
                inside = {host.ipv4 for host in hosts}
                met = [event for event in leech.of(PeerConnected) if event.endpoint.host in inside]
                assert met and {event.path for event in met} <= {"tcp", "utp"}


async def test_who_is_behind_another_nat_is_not_looked_for_in_our_network(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with open_internet(seed=1) as internet:
        lan = "192.168.1.1"  # as in most homes
        routers = internet.router("one", SYMRAND, lan=lan), internet.router("two", SYMRAND, lan=lan)
        seed_host, leech_host = (internet.host(f"h{router.name}", router=router) for router in routers)
        middle = internet.host("middle")
        sample = make_sample(tmp_path / "seed", 1 << 18)
        introducers = endpoints(middle.ipv4)
        async with (
            node_on(middle, 1, download_rate=SLOW) as introducer,
            node_on(seed_host, 2) as seed,
            node_on(leech_host, 3) as leech,
        ):
            introducer.node.add(sample.metainfo, tmp_path / "middle")
            await seeding(seed, sample, peers=introducers)
            leech.node.add(sample.metainfo, tmp_path / "leech", peers=introducers)
            await trio.sleep(20)
            assert leech.of(PunchAsked), "an introducer has passed on where each is inside"
            assert all(event.endpoint.address.is_global for event in leech.of(PeerDiscovered))
