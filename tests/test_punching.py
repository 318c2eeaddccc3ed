"""Whole nodes that punch through simulated NATs (BEP 55): the three roles, and what goes wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.events import ConnectionClosed, DialFailed, PeerConnected, PunchAsked, PunchConnected, RendezvousRelayed
from swarm.simnet.catalogue import behind
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.simnet.nat import Dependence, NatBehaviour
from swarm.torrent.torrent import Torrent
from tests.nodes import PORT, Recorded, Sample, make_sample, node_on, seeding

SLOW = 1000
"""Bytes a second of the introducer, who so has nothing to give."""


@dataclass
class Swarm:
    """A seed behind one NAT, an introducer on the open internet, and a place for a leech behind another NAT."""

    internet: Internet
    sample: Sample
    directory: Path
    seed: Recorded
    seed_host: Host
    introducer: Recorded
    middle: Endpoint

    def outside(self, host: Host) -> Endpoint:
        """Where an endpoint-independent NAT that preserves ports shows the node of ``host``."""
        return Endpoint(self.internet.routers[f"{host.name}-home"].wan, PORT)

    @asynccontextmanager
    async def leech(self, kind: str, **config: Any) -> AsyncIterator[tuple[Recorded, Torrent]]:
        host = behind(self.internet, kind, "leech")
        async with node_on(host, 3, **config) as node:
            peers = [self.middle, self.outside(self.seed_host)]
            yield node, node.node.add(self.sample.metainfo, self.directory / "leech", peers=peers)


@asynccontextmanager
async def punchable(
    directory: Path, seed_kind: str = "cone", *, seed: dict[str, Any] | None = None
) -> AsyncIterator[Swarm]:
    async with open_internet(seed=1) as internet:
        sample = make_sample(directory / "seed", 1 << 18)
        middle = internet.host("middle")
        endpoint = Endpoint(middle.ipv4, PORT)
        seed_host = behind(internet, seed_kind, "seed")
        async with (
            node_on(middle, 1, download_rate=SLOW) as introducer,
            node_on(seed_host, 2, **(seed or {})) as sharing,
        ):
            introducer.node.add(sample.metainfo, directory / "middle")
            await seeding(sharing, sample, peers=[endpoint])
            await sharing.wait_for(PeerConnected, endpoint=endpoint)
            yield Swarm(internet, sample, directory, sharing, seed_host, introducer, endpoint)


async def test_two_cones_meet_through_a_stranger_within_a_second_and_a_half(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with punchable(tmp_path) as swarm, swarm.leech("cone") as (leech, torrent):
        with trio.fail_after(1.5):
            await torrent.wait_complete()
        assert leech.of(PunchAsked, role="initiator", introducer=swarm.middle)
        assert swarm.seed.of(PunchAsked, role="target", introducer=swarm.middle)
        assert swarm.introducer.of(RendezvousRelayed)
        assert swarm.introducer.node.torrents[torrent.info_hash].ways.punching.statistics().connected >= 1
        paths = {event.path for event in leech.of(PeerConnected, endpoint=swarm.outside(swarm.seed_host))}
        assert paths <= {"utp-punched", "tcp-punched"} and paths


@pytest.mark.parametrize("config,path", [({"tcp": False}, "utp-punched"), ({"utp": False}, "tcp-punched")])
async def test_one_transport_is_enough(
    autojump_clock: MockClock, tmp_path: Path, config: dict[str, bool], path: str
) -> None:
    async with punchable(tmp_path) as swarm, swarm.leech("cone", **config) as (leech, torrent):
        with trio.fail_after(5):
            await torrent.wait_complete()
        assert leech.of(PeerConnected, endpoint=swarm.outside(swarm.seed_host), path=path)
        # Also where the pending direct dial became the punch: the statistics once knew of no punch that met then.
        assert [event.path for event in leech.of(PunchConnected, role="initiator")] == [path]


async def test_without_udp_two_meet_by_tcp_though_their_nats_give_them_other_ports(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Each NAT maps a port to one port outside for all remotes, which only the introducer sees."""
    renumbering = NatBehaviour(filtering=Dependence.ADDRESS_AND_PORT_DEPENDENT, allocation="random")
    async with open_internet(seed=1) as internet:
        sample = make_sample(tmp_path / "seed", 1 << 18)
        middle = internet.host("middle")
        endpoint = Endpoint(middle.ipv4, PORT)
        homes = [internet.router(f"{name}-home", renumbering, blocks=frozenset({"udp"})) for name in ("seed", "leech")]
        async with (
            node_on(middle, 1, download_rate=SLOW) as introducer,
            node_on(internet.host("seed", router=homes[0]), 2) as sharing,
            node_on(internet.host("leech", router=homes[1]), 3) as leech,
        ):
            introducer.node.add(sample.metainfo, tmp_path / "middle")
            await seeding(sharing, sample, peers=[endpoint])
            await sharing.wait_for(PeerConnected, endpoint=endpoint)
            peers = [endpoint, Endpoint(homes[0].wan, PORT)]
            torrent = leech.node.add(sample.metainfo, tmp_path / "leech", peers=peers)
            with trio.fail_after(5):
                await torrent.wait_complete()
            (met,) = [event for event in leech.of(PeerConnected) if event.endpoint.host == homes[0].wan]
            assert met.path == "tcp-punched" and met.endpoint.port != PORT


async def test_without_punching_nobody_is_asked(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with punchable(tmp_path) as swarm, swarm.leech("cone", punch=False) as (leech, torrent):
        with trio.move_on_after(30):
            await torrent.wait_complete()
        # The two may meet all the same, by dialling each other at one moment; but nobody was told to.
        assert not leech.of(PunchAsked) and not swarm.introducer.of(RendezvousRelayed)
        assert not [event for event in leech.of(PeerConnected) if "punched" in event.path]


async def test_an_introducer_that_comes_later_is_asked_at_once(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with punchable(tmp_path) as swarm:
        host = behind(swarm.internet, "cone", "leech")
        async with node_on(host, 3) as leech:
            torrent = leech.node.add(swarm.sample.metainfo, tmp_path / "leech", peers=[swarm.outside(swarm.seed_host)])
            await leech.wait_for(DialFailed, path="utp")
            await trio.sleep(15)
            assert "1 tried: 1 timed out" in torrent.why()[0]
            torrent.admission.found([swarm.middle], "tracker")
            with trio.fail_after(2):
                await torrent.wait_complete()


async def test_an_introducer_held_by_tcp_is_swapped_for_one_over_utp_where_only_that_helps(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """The leech's NAT gives its UDP port another number outside, which nobody sees over TCP; the seed has no TCP."""
    renumbering = NatBehaviour(filtering=Dependence.ADDRESS_AND_PORT_DEPENDENT, allocation="random")
    async with punchable(tmp_path, seed={"tcp": False}) as swarm:
        home = swarm.internet.router("leech-home", renumbering)
        async with node_on(swarm.internet.host("leech", router=home), 3) as leech:
            torrent = leech.node.add(swarm.sample.metainfo, tmp_path / "leech")
            torrent.ways.punching.predict = None  # as with an introducer that is not ours
            known = torrent.admission.peers.add(swarm.middle, "tracker", trio.current_time())
            assert known is not None
            known.good_path = "tcp"  # as an earlier run left it
            await leech.wait_for(PeerConnected, endpoint=swarm.middle, path="tcp")
            torrent.admission.found([swarm.outside(swarm.seed_host)], "tracker")
            closed = await leech.wait_for(ConnectionClosed, endpoint=swarm.middle)
            assert closed.reason == "swapped-for-utp"
            await leech.wait_for(PeerConnected, endpoint=swarm.middle, path="utp")
            with trio.fail_after(10):
                await torrent.wait_complete()
            assert len(leech.of(ConnectionClosed, endpoint=swarm.middle, reason="swapped-for-utp")) == 1


async def test_when_only_the_leech_is_reachable_the_introducer_has_the_seed_dial_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with punchable(tmp_path, "symrand") as swarm, swarm.leech("open") as (leech, torrent):
        with trio.fail_after(3):
            await torrent.wait_complete()
        assert leech.of(PunchConnected) or leech.of(PeerConnected, direction="in")


async def test_private_torrents_are_not_punched_through_strangers(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with open_internet(seed=1) as internet:
        sample = make_sample(tmp_path / "seed", 1 << 16, private=True)
        async with node_on(internet.host("a"), 1) as one, node_on(internet.host("b"), 2) as two:
            await seeding(one, sample)
            torrent = two.node.add(sample.metainfo, tmp_path / "b", peers=[Endpoint(internet.hosts["a"].ipv4, PORT)])
            await torrent.wait_complete()
            assert torrent.admission.punching is None
            assert not any(peer.extensions.speaks("ut_holepunch") for peer in torrent.connections)


async def test_a_stranger_cannot_make_us_dial_our_own_network(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with punchable(tmp_path) as swarm:
        torrent = swarm.seed.node.torrents[swarm.sample.metainfo.info_hash]
        (introducer,) = torrent.connections
        holepunch = introducer.extensions.get("ut_holepunch")
        assert holepunch is not None
        for target in ("10.0.0.1", "127.0.0.1", "192.168.1.1", "169.254.1.1"):
            packed = bytes(int(part) for part in target.split("."))
            holepunch.receive_untrusted(b"\x01\x00" + packed + PORT.to_bytes(2, "big") + bytes(4), trio.current_time())
        await trio.sleep(1)
        assert not swarm.seed.of(PunchAsked)


# ---- seeds among themselves


@asynccontextmanager
async def two_seeds(directory: Path, kind: str, **config: Any) -> AsyncIterator[Swarm]:
    """One behind a NAT that knows another on the open internet, who gives little; and nobody else."""
    async with open_internet(seed=1) as internet:
        sample = make_sample(directory / "seed", 1 << 18)
        middle = internet.host("middle")
        endpoint = Endpoint(middle.ipv4, PORT)
        host = behind(internet, kind, "seed")
        async with node_on(middle, 1, upload_rate=SLOW, **config) as open_seed, node_on(host, 2, **config) as seed:
            await seeding(open_seed, sample)
            await seeding(seed, sample, peers=[endpoint])
            await seed.wait_for(PeerConnected, endpoint=endpoint)
            await trio.sleep(120)
            yield Swarm(internet, sample, directory, seed, host, open_seed, endpoint)


async def test_a_hidden_seed_stays_with_one_that_can_introduce_it(autojump_clock: MockClock, tmp_path: Path) -> None:
    """They hung up on each other; a leech behind another NAT was left with the slow one for four minutes."""
    async with two_seeds(tmp_path, "cone") as swarm:
        assert not swarm.seed.of(ConnectionClosed)
        host = behind(swarm.internet, "cone", "leech")
        async with node_on(host, 3) as leech:
            torrent = leech.node.add(swarm.sample.metainfo, tmp_path / "leech", peers=[swarm.middle])
            with trio.fail_after(90):  # peer exchange is once a minute
                await torrent.wait_complete()
            assert leech.of(PeerConnected, endpoint=swarm.outside(swarm.seed_host))


@pytest.mark.parametrize("kind,config", [("open", {}), ("cone", {"punch": False})])
async def test_seeds_that_need_no_introducer_hang_up(
    autojump_clock: MockClock, tmp_path: Path, kind: str, config: dict[str, bool]
) -> None:
    async with two_seeds(tmp_path, kind, **config) as swarm:
        assert swarm.seed.of(ConnectionClosed, reason="both-complete") or swarm.introducer.of(
            ConnectionClosed, reason="both-complete"
        )
        (torrent,) = swarm.seed.node.torrents.values()
        assert not list(torrent.connections)
