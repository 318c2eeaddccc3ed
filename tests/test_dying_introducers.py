"""An introducer that dies between rendezvous and connect (BEP 55), or in a meeting of sw_punch: others are used.

Which packets still pass is decided by the very state in which the introducer is, so that each moment is hit exactly.
Virtual time, about 50 ms between any two hosts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from swarm.connect.punching import MAX_ASKED
from swarm.endpoint import Endpoint
from swarm.events import PeerConnected, PunchAsked, RendezvousRelayed
from swarm.simnet.catalogue import behind
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.packet import Packet
from tests.nodes import PORT, Recorded, Sample, make_sample, node_on, seeding
from tests.test_vanishing import FORGOTTEN, SLOW, left_of

REPLACED_WITHIN = 5.0
"""Seconds from the leech's start to its connection with the seed."""


Fatal = Callable[[Host, Recorded], bool]


class Introducers:
    """Public peers with nothing to give, connected to the seed; some are made to die."""

    def __init__(self, nodes: dict[Host, Recorded]) -> None:
        self.nodes = nodes
        self.dead: list[Host] = []

    @property
    def endpoints(self) -> list[Endpoint]:
        return [Endpoint(host.ipv4, PORT) for host in self.nodes]

    def kill_when(self, fatal: Fatal, most: int, last_words_to: str | None = None) -> None:
        """Let up to ``most`` of them fall silent, each from the first packet on at which ``fatal`` is true of it.

        What they send to ``last_words_to`` still arrives.
        """
        for host in self.nodes:
            lines = host.port()
            lines.down.drop_if = partial(self._is_lost, fatal, most, None, host)
            lines.up.drop_if = partial(self._is_lost, fatal, most, last_words_to, host)

    def _is_lost(self, fatal: Fatal, most: int, last_words_to: str | None, host: Host, packet: Packet) -> bool:
        if host not in self.dead and len(self.dead) < most and fatal(host, self.nodes[host]):
            self.dead.append(host)
        return host in self.dead and packet.destination.host != last_words_to


@asynccontextmanager
async def scene(
    internet: Internet, sample: Sample, directory: Path, kind: str, count: int
) -> AsyncIterator[tuple[Introducers, Recorded]]:
    """Introducers, and a seed behind a NAT of this kind that is connected to them."""
    async with AsyncExitStack() as nodes:
        opened = {}
        for number in range(count):
            host = internet.host(f"middle{number}")
            opened[host] = await nodes.enter_async_context(node_on(host, number, download_rate=SLOW))
            opened[host].node.add(sample.metainfo, directory / host.name)
        introducers = Introducers(opened)
        seed = await nodes.enter_async_context(node_on(behind(internet, kind, "seed"), 50))
        await seeding(seed, sample, peers=introducers.endpoints)
        await trio.sleep(20)
        yield introducers, seed


def told_by(node: Recorded, introducers: list[Host]) -> list[PunchAsked]:
    """What a target heard from them."""
    hosts = [host.ipv4 for host in introducers]
    return [event for event in node.of(PunchAsked, role="target") if event.introducer.host in hosts]


def has_relayed(host: Host, node: Recorded) -> bool:
    (torrent,) = node.node.torrents.values()
    return torrent.ways.punching.statistics().connected > 0


def is_in_session(host: Host, node: Recorded) -> bool:
    """Whether a meeting by sw_punch is being arranged there."""
    (torrent,) = node.node.torrents.values()
    return bool(torrent.ways.meetings._agreements.desk._sessions)


async def wait_forgotten(introducers: list[Host], *nodes: Recorded) -> None:
    """Until none of these nodes holds anything of the introducers: between two dials, which are in vain."""
    with trio.fail_after(FORGOTTEN):
        while any(left_of(host.ipv4, node.node) for host in introducers for node in nodes):
            await trio.sleep(1)


@pytest.mark.parametrize("moment", ["asked", "relayed", "target-told"])
async def test_three_introducers_that_die_between_rendezvous_and_connect_are_replaced_by_a_fourth(
    autojump_clock: MockClock, tmp_path: Path, moment: str
) -> None:
    """Three are asked at once; when they have been silent for three seconds, another one."""
    async with open_internet(seed=3) as internet:
        sample = make_sample(tmp_path / "seed", 1 << 18)
        async with scene(internet, sample, tmp_path, "cone", MAX_ASKED + 1) as (introducers, seed):
            seed_at = Endpoint(internet.routers["seed-home"].wan, PORT)
            async with node_on(behind(internet, "cone", "leech"), 60) as leech:

                def is_asked(host: Host, node: Recorded) -> bool:
                    return any(event.introducer.host == host.ipv4 for event in leech.of(PunchAsked))

                fatal = is_asked if moment == "asked" else has_relayed
                introducers.kill_when(fatal, MAX_ASKED, seed_at.host if moment == "target-told" else None)
                torrent = leech.node.add(sample.metainfo, tmp_path / "leech", peers=[seed_at, *introducers.endpoints])
                with trio.fail_after(REPLACED_WITHIN):
                    met = await leech.wait_for(PeerConnected, endpoint=seed_at)
                counted = [len(introducers.nodes[host].of(RendezvousRelayed)) for host in introducers.dead]
                assert counted == [0 if moment == "asked" else 1] * MAX_ASKED
                assert bool(told_by(seed, introducers.dead)) is (moment == "target-told")
                assert not told_by(leech, introducers.dead)
                if moment == "target-told":
                    assert met.seconds < 1, "our own dial had opened the NAT for the target's"
                await torrent.wait_complete()
                await wait_forgotten(introducers.dead, leech, seed)


async def test_an_introducer_that_dies_while_it_arranges_a_meeting_is_replaced_by_another(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """By sw_punch, for a NAT whose ports must be predicted."""
    async with open_internet(seed=3) as internet:
        sample = make_sample(tmp_path / "seed", 1 << 18)
        async with scene(internet, sample, tmp_path, "symseq", 2) as (introducers, seed):
            seed_at = Endpoint(internet.routers["seed-home"].wan, PORT)
            async with node_on(behind(internet, "cone", "leech"), 60) as leech:
                introducers.kill_when(is_in_session, 1)
                torrent = leech.node.add(sample.metainfo, tmp_path / "leech", peers=[seed_at, *introducers.endpoints])
                with trio.fail_after(REPLACED_WITHIN):
                    await leech.wait_for(PeerConnected, path="predicted")
                assert len(introducers.dead) == 1
                await torrent.wait_complete()
                await wait_forgotten(introducers.dead, leech, seed)
