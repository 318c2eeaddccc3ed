"""Whole nodes behind simulated NATs when something breaks: routers, addresses, mappings, introducers, peers.

Virtual time, about 50 ms between any two hosts.  The bounds are what was measured, with a little room: a transfer goes
on within seconds, and whoever vanishes leaves nothing behind.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from swarm.discover.embedded_tracker import EmbeddedTracker, open_tracker
from swarm.endpoint import Endpoint
from swarm.events import ConnectionClosed, PeerConnected, PunchAsked
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.nat import NatBehaviour
from swarm.torrent.torrent import Torrent
from tests.nodes import PORT, Recorded, Sample, make_sample, node_on, seeding, tasks_below

SLOW = 1000
"""Bytes a second of introducers, who so have nothing to give."""

RATE = 200_000
"""Bytes a second of a leech: 4 MiB take it 21 s."""

UTP, TCP = {"tcp": False}, {"utp": False}

CONE = NatBehaviour()
RENUMBERING = NatBehaviour(allocation="random")
"""One outside port for all remotes, but another one after a reboot."""

SHORT = NatBehaviour(udp_lifetime=10.0)
SHORT_RENUMBERING = NatBehaviour(udp_lifetime=10.0, allocation="random")


class World:
    """A tracker, introducers, and peers behind NATs of their own."""

    def __init__(self, internet: Internet, sample: Sample, directory: Path, nodes: AsyncExitStack) -> None:
        self.internet = internet
        self.sample = sample
        self._directory = directory
        self._nodes = nodes
        self._count = 0

    async def open_introducer(self, name: str) -> tuple[Recorded, Host]:
        host = self.internet.host(name)
        node = await self._open(host, download_rate=SLOW)
        node.node.add(self.sample.metainfo, self._directory / name)
        await trio.sleep(1)
        return node, host

    async def open_seed(self, host: Host, **config: Any) -> Recorded:
        node = await self._open(host, **config)
        await seeding(node, self.sample)
        return node

    async def open_leech(self, host: Host, **config: Any) -> tuple[Recorded, Torrent]:
        node = await self._open(host, **config)
        return node, node.node.add(self.sample.metainfo, self._directory / host.name)

    def behind(self, nat: NatBehaviour, name: str) -> Host:
        return self.internet.host(name, router=self.internet.router(f"{name}-home", nat))

    async def _open(self, host: Host, **config: Any) -> Recorded:
        self._count += 1
        return await self._nodes.enter_async_context(node_on(host, self._count, **{"trackers": True, **config}))


@asynccontextmanager
async def world(directory: Path, size: int = 4 << 20) -> AsyncIterator[World]:
    async with open_internet(seed=1) as internet:
        host = internet.host("tracker")
        local = Endpoint(host.ipv4, 6969)
        sample = make_sample(directory / "sample", size, trackers=[f"http://{local}/announce"])
        async with open_tracker(host, local, EmbeddedTracker(random.Random(1))), AsyncExitStack() as nodes:
            yield World(internet, sample, directory, nodes)


async def longest_gap(torrent: Torrent) -> float:
    """Seconds without a byte, at most, until the download is complete."""
    had, at, longest = torrent.statistics().downloaded, trio.current_time(), 0.0
    while torrent.state != "seeding":
        await trio.sleep(0.1)
        if (have := torrent.statistics().downloaded) > had:
            now = trio.current_time()
            had, at, longest = have, now, max(longest, now - at)
    return longest


# -- routers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config,nat,fault,whose,seconds",
    [
        (UTP, CONE, "reboot", "leech", 1),
        (UTP, CONE, "reboot", "seed", 1),
        (UTP, RENUMBERING, "reboot", "leech", 30),
        (UTP, RENUMBERING, "reboot", "seed", 30),
        (UTP, CONE, "another address", "leech", 15),
        (UTP, CONE, "another address", "seed", 15),
        (UTP, RENUMBERING, "another address", "leech", 30),
        (UTP, RENUMBERING, "another address", "seed", 30),
        (TCP, CONE, "reboot", "leech", 1),
        (TCP, CONE, "reboot", "seed", 1),
        (TCP, CONE, "another address", "leech", 15),
        (TCP, CONE, "another address", "seed", 15),
    ],
)
async def test_a_transfer_survives_its_router(
    autojump_clock: MockClock,
    tmp_path: Path,
    config: dict[str, bool],
    nat: NatBehaviour,
    fault: str,
    whose: str,
    seconds: float,
) -> None:
    """Two seconds of silence, then µTP's time-outs of 7.5 s, or TCP's of 10, are most of it; then introducers and peers
    are dialled again at once.

    Where the other end is at another port since, the first attempt may come too early for it: 9 s or 24 s.
    """
    async with world(tmp_path) as here:
        await here.open_introducer("introducer")
        await here.open_seed(here.behind(nat, "seed"), **config)
        await trio.sleep(10)
        leech, torrent = await here.open_leech(here.behind(nat, "leech"), download_rate=RATE, **config)
        await trio.sleep(8)
        before = torrent.statistics().downloaded
        assert 0 < before < here.sample.metainfo.total_size
        punched = "utp-punched" if config is UTP else "tcp-punched"
        seed_was = leech.of(PeerConnected, path=punched)[-1].endpoint
        leech.forget()
        router = here.internet.routers[f"{whose}-home"]
        if fault == "reboot":
            router.reboot()
        else:
            router.change_wan("20.77.0.10")
        with trio.fail_after(90):
            assert await longest_gap(torrent) < seconds
        lost, met = leech.of(ConnectionClosed, endpoint=seed_was), leech.of(PeerConnected, path=punched)
        if (nat, fault) == (CONE, "reboot"):  # the same port again: the connection has not noticed
            assert not lost and not met
        else:
            assert lost[0].reason == "reset"
            seed_is = "20.77.0.10" if (fault, whose) == ("another address", "seed") else seed_was.host
            assert seed_is in [each.endpoint.host for each in met]


@pytest.mark.parametrize("config,seconds", [(UTP, 23), (TCP, 17)])
async def test_who_only_waits_for_blocks_learns_that_his_router_has_another_address(
    autojump_clock: MockClock, tmp_path: Path, config: dict[str, bool], seconds: float
) -> None:
    """A block every four seconds, and a request every sixteen: nothing of his is on the way when it happens, so that
    neither end's transport would notice before the next keep-alive.  µTP takes 15.5 s then, TCP 10."""
    async with world(tmp_path) as here:
        await here.open_introducer("introducer")
        await here.open_seed(here.behind(CONE, "seed"), upload_rate=4000, **config)
        await trio.sleep(10)
        leech, torrent = await here.open_leech(here.behind(CONE, "leech"), **config)
        await trio.sleep(20)
        assert torrent.statistics().downloaded
        leech.forget()
        here.internet.routers["leech-home"].change_wan("20.77.0.10")
        seed_host = here.internet.routers["seed-home"].wan
        with trio.fail_after(seconds):
            while not leech.of(ConnectionClosed, endpoint=Endpoint(seed_host, PORT), reason="reset"):
                await trio.sleep(0.1)
        with trio.fail_after(3):
            await leech.wait_for(PeerConnected, endpoint=Endpoint(seed_host, PORT))


@pytest.mark.parametrize("nat", [SHORT, SHORT_RENUMBERING])
async def test_where_mappings_live_ten_seconds_idle_peers_are_still_introduced(
    autojump_clock: MockClock, tmp_path: Path, nat: NatBehaviour
) -> None:
    """Two that have nothing for each other stay in touch; a seed that comes after minutes of silence meets both.

    Ports that stay the same are opened anew by the next keep-alive, and µTP goes on.  Ports that are numbered anew cut
    connections off at every one; they are made again, at once with the introducer and now and then with each other.
    """
    async with world(tmp_path, 1 << 18) as here:
        await here.open_introducer("introducer")
        torrents = []
        for name in ("one", "two"):
            torrents.append((await here.open_leech(here.behind(nat, name)))[1])
            await trio.sleep(5)
        await trio.sleep(300)
        standing = [len(torrent.connections) for torrent in torrents]
        assert standing == [2, 2] if nat is SHORT else min(standing) >= 1
        await here.open_seed(here.behind(nat, "seed"))
        with trio.fail_after(30):
            for torrent in torrents:
                await torrent.wait_complete()


async def test_two_behind_one_nat_meet_inside_without_hairpinning(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Tracker and introducer know them by one outside address; local service discovery by their own."""
    async with world(tmp_path, 1 << 20) as here:
        await here.open_introducer("introducer")
        home = here.internet.router("home", CONE)
        seed_host, leech_host = (here.internet.host(name, router=home) for name in ("seed", "leech"))
        await here.open_seed(seed_host, lsd=True)
        await trio.sleep(10)
        leech, torrent = await here.open_leech(leech_host, lsd=True)
        with trio.fail_after(5):
            await torrent.wait_complete()
        assert {peer.identity.endpoint.host for peer in torrent.connections if peer.bytes_down > 1 << 19} == {
            seed_host.ipv4
        }
        assert leech.of(PeerConnected, endpoint=Endpoint(seed_host.ipv4, PORT))


# -- peers ------------------------------------------------------------------------------------------------------------


async def test_an_introducer_that_dies_after_being_asked_is_replaced_by_another(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with world(tmp_path, 1 << 20) as here:
        cables = [(await here.open_introducer(f"introducer{number}"))[1] for number in range(2)]
        await here.open_seed(here.behind(CONE, "seed"))
        await trio.sleep(10)
        leech, torrent = await here.open_leech(here.behind(CONE, "leech"))
        asked = await leech.wait_for(PunchAsked, role="initiator")
        dying = next(host for host in cables if host.ipv4 == asked.introducer.host)
        dying.connect(False)  # before its answer can come
        with trio.fail_after(5):
            await torrent.wait_complete()


async def test_a_lone_introducer_that_dies_and_comes_back_is_asked_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with world(tmp_path, 1 << 20) as here:
        _, dying = await here.open_introducer("introducer")
        await here.open_seed(here.behind(CONE, "seed"))
        await trio.sleep(10)
        leech, torrent = await here.open_leech(here.behind(CONE, "leech"))
        await leech.wait_for(PunchAsked, role="initiator")
        dying.connect(False)
        await trio.sleep(5)
        dying.connect(True)
        with trio.fail_after(15):
            await torrent.wait_complete()


@pytest.mark.parametrize("config,seconds", [(UTP, 17), (TCP, 25)])
async def test_a_peer_that_vanishes_leaves_nothing_behind(
    autojump_clock: MockClock, tmp_path: Path, config: dict[str, bool], seconds: float
) -> None:
    """Noticed when the time-outs of µTP are over, or those that we ask of TCP (`swarm.net.tcp`)."""
    async with world(tmp_path) as here:
        seed = await here.open_seed(here.internet.host("seed"), **config)
        await trio.sleep(10)
        before = len(list(tasks_below(trio.lowlevel.current_task())))
        host = here.internet.host("leech")
        async with node_on(host, 99, trackers=True, download_rate=RATE, **config) as leech:
            leech.node.add(here.sample.metainfo, tmp_path / "leech")
            await seed.wait_for(PeerConnected)
            await trio.sleep(8)
            assert len(list(tasks_below(trio.lowlevel.current_task()))) > before + 2
            host.connect(False)  # what it says when it ends reaches nobody
        with trio.fail_after(seconds):
            closed = await seed.wait_for(ConnectionClosed)
        assert closed.bytes_up > RATE
        await trio.sleep(60)  # it is dialled again, in vain
        assert len(list(tasks_below(trio.lowlevel.current_task()))) == before
