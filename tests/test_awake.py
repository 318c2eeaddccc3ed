"""Torrents with nothing to do are not even looked at every second, and are again as soon as something happens."""

from __future__ import annotations

from pathlib import Path

import trio
from trio.testing import MockClock

from swarm.bitfield import Bitfield
from swarm.daemon.rounds import LOOK_AT_ALL
from swarm.simnet.internet import open_internet
from swarm.torrent.create import create
from swarm.torrent.metainfo import parse_torrent_untrusted
from swarm.torrent.resume import load_resume, resume_path
from tests.daemon.whole import daemon_on, wait_until
from tests.nodes import endpoints, make_sample, node_on, seeding


async def test_a_seed_sleeps_until_somebody_comes_and_after_he_has_left(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    samples = [make_sample(tmp_path / str(number), 100_000, seed=number) for number in range(3)]
    async with open_internet(1) as internet:
        host = internet.host("seed")
        async with node_on(host, 1) as seed:
            for sample in samples:
                await seeding(seed, sample)
            await wait_until(lambda: not seed.node.awake, 3)
            async with node_on(internet.host("leech"), 2) as leech:
                peers = endpoints(host.ipv4)
                torrent = leech.node.add(samples[1].metainfo, tmp_path / "leech", peers=peers)
                assert list(leech.node.awake) == [torrent.info_hash]
                await wait_until(lambda: seed.node.awake, 5)
                assert list(seed.node.awake) == [torrent.info_hash]
                await torrent.wait_complete()
            await wait_until(lambda: not seed.node.awake)


async def test_who_wants_more_is_awake(autojump_clock: MockClock, tmp_path: Path) -> None:
    directory = tmp_path / "seed" / "folder"
    directory.mkdir(parents=True)
    for name in ("a", "b"):
        (directory / name).write_bytes(name.encode() * 100_000)
    metainfo = parse_torrent_untrusted(create(directory, piece_length=32 << 10))
    async with open_internet(1) as internet:
        host = internet.host("here")
        async with node_on(host, 1) as node:
            torrent = node.node.add(metainfo, tmp_path / "none", select=[])
            await torrent.wait_complete()
            await wait_until(lambda: not node.node.awake, 3)
            torrent.choose(None)
            assert torrent.state == "downloading"
            assert list(node.node.awake) == [torrent.info_hash]


async def test_nobody_falls_asleep_before_what_he_has_is_saved(autojump_clock: MockClock, tmp_path: Path) -> None:
    sample = make_sample(tmp_path / "seed", 100_000, 16 << 10)
    async with open_internet(1) as internet:
        host, here = internet.host("seed"), internet.host("here")
        async with node_on(here, 2, state_directory=tmp_path / "state") as leech:
            async with node_on(host, 1) as seed:
                await seeding(seed, sample)
                torrent = leech.node.add(
                    sample.metainfo, tmp_path / "leech", peers=endpoints(host.ipv4), download_rate=20_000
                )
                await torrent.wait_complete()
            await wait_until(lambda: not leech.node.awake)
            kept = load_resume(
                resume_path(tmp_path / "state/resume", sample.metainfo.info_hash), sample.metainfo, print
            )
            assert kept is not None
            assert kept.pieces == Bitfield.full(sample.metainfo.piece_count)


async def test_the_time_of_seeding_is_counted_in_sleep_and_its_limit_is_kept(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    sample = make_sample(tmp_path / "downloads", 100_000)
    async with open_internet(1) as internet, daemon_on(internet.host("here"), 1, tmp_path) as daemon:
        entry = await daemon.session.add(sample.metainfo)
        await wait_until(lambda: entry.status == "seed", 5)
        await wait_until(lambda: not daemon.node.node.awake, 5)
        before = entry.seconds_seeding
        await daemon.session.change(entry, idle_mode="own", idle=300.0)
        began = entry.stirred_at
        await wait_until(lambda: entry.finished, 400)
        assert 0 <= trio.current_time() - began - 300 <= LOOK_AT_ALL + 2
        assert abs(entry.seconds_seeding - before - 300) <= 2 * LOOK_AT_ALL
