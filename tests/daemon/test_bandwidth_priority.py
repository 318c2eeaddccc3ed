"""``bandwidthPriority``: who has the higher gets more of the daemon's limits, and whoever is alone has all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from swarm.daemon.runs import SHARE
from swarm.simnet.internet import open_internet
from tests.daemon.whole import daemon_on
from tests.nodes import endpoints, make_sample, node_on, seeding

RATE = 200_000


async def test_it_divides_what_the_daemon_may_fetch(autojump_clock: MockClock, tmp_path: Path) -> None:
    samples = [make_sample(tmp_path / str(number), 40 * RATE, 256 << 10, seed=number) for number in range(2)]
    async with open_internet(1) as internet, node_on(internet.host("seed"), 1) as seed:
        for sample in samples:
            await seeding(seed, sample)
        limits = {"download_rate": RATE, "download_limited": True}
        async with daemon_on(internet.host("daemon"), 2, tmp_path, **limits) as daemon:
            peers = endpoints(internet.hosts["seed"].ipv4)
            entries = [
                await daemon.session.add(sample.metainfo, peers=peers, directory=tmp_path / f"to-{number}")
                for number, sample in enumerate(samples)
            ]

            async def divided(*priorities: int) -> float:
                for entry, priority in zip(entries, priorities, strict=True):
                    await daemon.ask("torrent-set", ids=[entry.id], bandwidthPriority=priority)
                await trio.sleep(3)
                before = [entry.downloaded for entry in entries]
                await trio.sleep(6)
                moved = [entry.downloaded - then for entry, then in zip(entries, before, strict=True)]
                assert sum(moved) / 6 == pytest.approx(RATE, rel=0.1)
                return moved[0] / moved[1]

            assert await divided(0, 0) == pytest.approx(1, rel=0.3)
            assert await divided(1, 0) == pytest.approx(SHARE, rel=0.3)
            assert await divided(0, 1) == pytest.approx(1 / SHARE, rel=0.3)
            assert await divided(0, -1) == pytest.approx(SHARE, rel=0.3)
            assert await divided(1, 1) == pytest.approx(1, rel=0.3)
            await daemon.session.stop(entries[1])
            await daemon.ask("torrent-set", ids=[entries[0].id], bandwidthPriority=-1)
            before = entries[0].downloaded
            await trio.sleep(8)
            assert (entries[0].downloaded - before) / 8 == pytest.approx(RATE, rel=0.1)
