"""``bind`` of a whole node in virtual time: the address goes and comes back; the kernel's side is tests/netlab."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from swarm.events import ConnectionClosed, NetworkLost, NetworkRestored, PeerConnected
from swarm.simnet.internet import open_internet
from tests.nodes import endpoints, make_sample, node_on, seeding

BOUND, OTHER = "20.1.0.10", "20.2.0.10"


@pytest.mark.parametrize("away", [2, 600])
@pytest.mark.parametrize("greater", [True, False])
async def test_a_bound_node_is_silent_without_its_address_and_goes_on_with_it(
    autojump_clock: MockClock, tmp_path: Path, greater: bool, away: float
) -> None:
    """Also where the far end has not noticed, and would keep the old connection by the rule for duplicates."""
    sample = make_sample(tmp_path / "seed", 2 << 20)
    async with open_internet(1, trace=True) as internet:
        far, near = internet.host("far"), internet.host("near", OTHER, BOUND)
        async with (
            node_on(far, 2 if greater else 1) as seed,
            node_on(near, 1 if greater else 2, bind=BOUND, download_rate=200_000) as leech,
        ):
            await seeding(seed, sample)
            torrent = leech.node.add(sample.metainfo, tmp_path / "leech", peers=endpoints(far.ipv4))
            await trio.sleep(4)
            near.remove_address(BOUND)
            await trio.sleep(1)
            assert leech.of(NetworkLost) == [NetworkLost(BOUND)]
            assert [event.reason for event in leech.of(ConnectionClosed)] == ["network-lost"]
            assert leech.node.port is None
            had, sent = torrent.statistics().pieces_had, near.port().up.packets
            assert 0 < had < 32
            await trio.sleep(away)
            assert (torrent.statistics().pieces_had, near.port().up.packets) == (had, sent)
            near.add_address(BOUND)
            restored = trio.current_time()
            with trio.fail_after(60):
                await torrent.wait_complete()
            assert len(leech.of(NetworkRestored)) == 1
            again = [time for time, event in leech.events if isinstance(event, PeerConnected)][-1]
            assert again - restored < 10
        assert sample.is_whole_in(tmp_path / "leech")
        assert internet.trace is not None
        assert not [entry for entry in internet.trace if OTHER in entry.packet]


@pytest.mark.parametrize("greater", [True, False])
async def test_a_node_that_comes_back_without_ipv6_is_let_in_over_ipv4(
    autojump_clock: MockClock, tmp_path: Path, greater: bool
) -> None:
    """A link that was down comes up without its static IPv6 addresses.  The far end still holds the old connection, and
    prefers IPv6."""
    sample = make_sample(tmp_path / "seed", 2 << 20)
    async with open_internet(1) as internet:
        far = internet.host("far", internet.free_ipv4(), internet.free_ipv6())
        near = internet.host("near", BOUND, internet.free_ipv6())
        async with (
            node_on(far, 2 if greater else 1) as seed,
            node_on(near, 1 if greater else 2, bind="eth0", download_rate=200_000) as leech,
        ):
            shared = await seeding(seed, sample)
            torrent = leech.node.add(sample.metainfo, tmp_path / "leech", peers=endpoints(far.ipv4))
            await trio.sleep(4)
            assert [peer.identity.endpoint.is_ipv6 for peer in shared.connections] == [True]
            near.remove_address(near.ipv6)
            near.remove_address(BOUND)
            await trio.sleep(5)
            near.add_address(BOUND)
            with trio.fail_after(20):
                await torrent.wait_complete()
            assert [peer.identity.endpoint.is_ipv6 for peer in shared.connections] == [False]
        assert sample.is_whole_in(tmp_path / "leech")


async def test_a_node_may_start_before_its_address_is_there(autojump_clock: MockClock, tmp_path: Path) -> None:
    sample = make_sample(tmp_path / "seed", 1 << 20)
    async with open_internet(1) as internet:
        far, near = internet.host("far"), internet.host("near", OTHER)
        async with node_on(far, 1) as seed, node_on(near, 2, bind=BOUND) as leech:
            await seeding(seed, sample)
            torrent = leech.node.add(sample.metainfo, tmp_path / "leech", peers=endpoints(far.ipv4))
            await trio.sleep(100)
            assert near.port().up.packets == 0
            near.add_address(BOUND)
            with trio.fail_after(10):
                await torrent.wait_complete()
