"""Rate limits of whole nodes, per node and per torrent: the long-run rate is within 5 % of what was asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from swarm.simnet.internet import open_internet
from swarm.torrent.torrent import Torrent
from tests.nodes import Sample, endpoints, make_sample, node_on, seeding

SECONDS = 8.0  # of virtual time in which is measured
LEAD = 2.0  # seconds until everybody is connected and unchoked


def sample_for(directory: Path, rate: int) -> Sample:
    return make_sample(directory / "seed", int(rate * (SECONDS + LEAD) * 1.5), 64 << 10)


@asynccontextmanager
async def leech_of(
    sample: Sample, directory: Path, seeds: int, limits: dict[str, Any], where: str
) -> AsyncIterator[Torrent]:
    """A limited leech and ``seeds`` unlimited seeds."""
    async with open_internet(1) as internet, AsyncExitStack() as stack:
        hosts = [internet.host(f"seed{number}") for number in range(seeds)]
        for number, host in enumerate(hosts):
            await seeding(await stack.enter_async_context(node_on(host, number)), sample)
        of_node, of_torrent = (limits, {}) if where == "node" else ({}, limits)
        leech = await stack.enter_async_context(node_on(internet.host("leech"), 99, **of_node))
        peers = endpoints(*(host.ipv4 for host in hosts))
        yield leech.node.add(sample.metainfo, directory / "leech", peers=peers, **of_torrent)


@asynccontextmanager
async def seed_for(
    sample: Sample, directory: Path, leeches: int, limits: dict[str, Any], where: str
) -> AsyncIterator[Torrent]:
    """A limited seed and ``leeches`` that know nobody but it."""
    async with open_internet(1) as internet, AsyncExitStack() as stack:
        of_node, of_torrent = (limits, {}) if where == "node" else ({}, limits)
        host = internet.host("seed")
        seeded = await seeding(await stack.enter_async_context(node_on(host, 99, **of_node)), sample, **of_torrent)
        for number in range(leeches):
            leech = await stack.enter_async_context(node_on(internet.host(f"leech{number}"), number))
            leech.node.add(sample.metainfo, directory / f"leech{number}", peers=endpoints(host.ipv4))
        yield seeded


@pytest.mark.parametrize("where", ["node", "torrent"])
@pytest.mark.parametrize("peers", [1, 4])
@pytest.mark.parametrize("rate", [30_000, 500_000])
async def test_download_rate_is_kept(
    autojump_clock: MockClock, tmp_path: Path, rate: int, peers: int, where: str
) -> None:
    async with leech_of(sample_for(tmp_path, rate), tmp_path, peers, {"download_rate": rate}, where) as torrent:
        await trio.sleep(LEAD)
        before = torrent.downloaded
        await trio.sleep(SECONDS)
        assert len(torrent.connections) == peers
        assert (torrent.downloaded - before) / SECONDS == pytest.approx(rate, rel=0.05)


async def test_a_seed_sees_how_far_a_leech_is(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with seed_for(sample_for(tmp_path, 500_000), tmp_path, 1, {"upload_rate": 500_000}, "node") as torrent:
        for _ in range(3):
            await trio.sleep(LEAD)
            (peer,) = torrent.connections
            seen = peer.downloader.theirs.count * torrent.metainfo.piece_length
            assert seen == pytest.approx(torrent.uploaded, abs=500_000 * 1.2 + 2 * torrent.metainfo.piece_length)
        assert seen > torrent.metainfo.total_size / 4


@pytest.mark.parametrize("where", ["node", "torrent"])
@pytest.mark.parametrize("peers", [1, 4])
@pytest.mark.parametrize("rate", [30_000, 500_000])
async def test_upload_rate_is_kept(
    autojump_clock: MockClock, tmp_path: Path, rate: int, peers: int, where: str
) -> None:
    async with seed_for(sample_for(tmp_path, rate), tmp_path, peers, {"upload_rate": rate}, where) as torrent:
        await trio.sleep(LEAD)
        before = torrent.uploaded
        await trio.sleep(SECONDS)
        assert len(torrent.connections) == peers
        assert (torrent.uploaded - before) / SECONDS == pytest.approx(rate, rel=0.05)


async def test_the_stricter_of_two_limits_counts(autojump_clock: MockClock, tmp_path: Path) -> None:
    sample = sample_for(tmp_path, 50_000)
    async with open_internet(1) as internet:
        host = internet.host("seed")
        async with node_on(host, 1) as seed, node_on(internet.host("leech"), 2, download_rate=200_000) as leech:
            await seeding(seed, sample)
            torrent = leech.node.add(
                sample.metainfo, tmp_path / "leech", peers=endpoints(host.ipv4), download_rate=50_000
            )
            await trio.sleep(LEAD)
            before = torrent.downloaded
            await trio.sleep(SECONDS)
            assert (torrent.downloaded - before) / SECONDS == pytest.approx(50_000, rel=0.05)


@pytest.mark.parametrize("rate,seconds", [(60_000, 4 * SECONDS), (500_000, SECONDS)])
@pytest.mark.parametrize("way", ["download", "upload"])
async def test_who_has_the_greater_share_moves_as_much_more(
    autojump_clock: MockClock, tmp_path: Path, way: str, rate: int, seconds: float
) -> None:
    """For so long that a block more or less of either, 16 KiB, is no twentieth of it."""
    size = int(rate * (seconds + LEAD) * 1.5)
    samples = [make_sample(tmp_path / str(number), size, 64 << 10, seed=number) for number in range(2)]
    async with open_internet(1) as internet:
        host = internet.host("seed")
        limits = {f"{way}_rate": rate}
        seed_limits, leech_limits = ({}, limits) if way == "download" else (limits, {})
        async with node_on(host, 1, **seed_limits) as seed, node_on(internet.host("leech"), 2, **leech_limits) as leech:
            limited = [await seeding(seed, sample) for sample in samples]
            peers = endpoints(host.ipv4)
            fetched = [leech.node.add(sample.metainfo, tmp_path / "leech", peers=peers) for sample in samples]
            (fetched if way == "download" else limited)[0].set_share(3)
            await trio.sleep(LEAD)
            before = [torrent.downloaded for torrent in fetched]
            await trio.sleep(seconds)
            moved = [torrent.downloaded - then for torrent, then in zip(fetched, before, strict=True)]
            assert sum(moved) / seconds == pytest.approx(rate, rel=0.05)
            assert moved[0] / moved[1] == pytest.approx(3, rel=0.25)


@pytest.mark.parametrize("way", ["download", "upload"])
async def test_a_share_keeps_nothing_from_who_is_alone(autojump_clock: MockClock, tmp_path: Path, way: str) -> None:
    rate = 60_000
    where = {f"{way}_rate": rate}
    made = leech_of if way == "download" else seed_for
    async with made(sample_for(tmp_path, 3 * rate), tmp_path, 2, where, "node") as torrent:
        torrent.set_share(3)
        await trio.sleep(LEAD + SECONDS)  # until the debt has grown to three rounds
        before = torrent.downloaded + torrent.uploaded
        await trio.sleep(SECONDS)
        assert (torrent.downloaded + torrent.uploaded - before) / SECONDS == pytest.approx(rate, rel=0.05)
