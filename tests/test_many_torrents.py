"""Hundreds of torrents in one node: what an idle one costs, and that a bad tracker or a full disk is one torrent's own.

Whole nodes on loopback.  The figures for thousands are measured by `bench.daemon`.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from swarm.config import Config
from swarm.discover.embedded_tracker import EmbeddedTracker
from swarm.discover.tracker_hosts import MAX_BEFORE_ANSWER
from swarm.endpoint import Endpoint
from swarm.events import StorageFailed
from swarm.net.real import RealNetwork
from swarm.node import Node, open_node
from swarm.torrent.create import create
from swarm.torrent.metainfo import Metainfo, parse_torrent_untrusted
from tests.nodes import make_sample

COUNT = 200


def config(state: Path | None = None) -> Config:
    return Config(bind="127.0.0.1", port=0, dht=False, lsd=False, mapping=False, state_directory=state)


def make_torrents(directory: Path, count: int, *trackers: str) -> list[Metainfo]:
    directory.mkdir()
    torrents: list[Metainfo] = []
    for number in range(count):
        path = directory / f"file-{number}"
        path.write_bytes(number.to_bytes(4, "big") * 4096)
        torrents.append(parse_torrent_untrusted(create(path, trackers=trackers)))
    return torrents


async def add_all(node: Node, torrents: Sequence[Metainfo], directory: Path) -> int:
    """Share them; how many pieces had to be hashed."""
    for metainfo in torrents:
        node.add(metainfo, directory)
    for torrent in tuple(node.torrents.values()):
        await torrent.wait_checked()
    return sum(torrent.statistics().to_check for torrent in node.torrents.values())


def open_data_files() -> int:
    links: list[str] = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:  # that of the listing itself
            continue
    return sum("/data/file-" in link for link in links)


async def test_an_idle_torrent_costs_no_task_and_no_file_and_starting_again_hashes_and_writes_nothing(
    tmp_path: Path,
) -> None:
    torrents = make_torrents(tmp_path / "data", COUNT)
    async with open_node(config(tmp_path / "state")) as node:
        await trio.sleep(0.2)
        before = trio.lowlevel.current_statistics().tasks_living
        assert await add_all(node, torrents, tmp_path / "data") == COUNT
        await trio.sleep(0.2)
        assert trio.lowlevel.current_statistics().tasks_living <= before
        assert open_data_files() == 0
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "state" / "resume").iterdir()}
    assert len(kept) == COUNT
    async with open_node(config(tmp_path / "state")) as node:
        assert await add_all(node, torrents, tmp_path / "data") == 0
        assert {torrent.state for torrent in node.torrents.values()} == {"seeding"}
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "state" / "resume").iterdir()}


async def test_a_tracker_that_hangs_keeps_neither_the_others_waiting_nor_the_goodbye(tmp_path: Path) -> None:
    tracker, hung = EmbeddedTracker(random.Random(1)), trio.socket.socket()
    await hung.bind(("127.0.0.1", 0))
    hung.listen(1000)
    dead = f"http://127.0.0.1:{hung.getsockname()[1]}/announce"
    async with trio.open_nursery() as nursery:
        local = await nursery.start(tracker.serve, RealNetwork(), Endpoint("127.0.0.1", 0))
        alive = f"http://127.0.0.1:{local.port}/announce"
        torrents = make_torrents(tmp_path / "data", 60, dead, alive)
        async with open_node(config()) as node:
            await add_all(node, torrents, tmp_path / "data")
            with trio.fail_after(10):
                while len({each.info_hash for each in tracker.announces}) < len(torrents):
                    await trio.sleep(0.05)
            states = [
                status.state
                for torrent in node.torrents.values()
                for status in torrent.tracker_statuses()
                if status.url == alive
            ]
            assert set(states) == {"working"}
            ended = trio.current_time()
        assert trio.current_time() - ended < 4
        waiting = 0
        with trio.move_on_after(0.2):
            while True:
                (await hung.accept())[0].close()
                waiting += 1
        assert waiting <= MAX_BEFORE_ANSWER
        assert sum(each.event == "stopped" for each in tracker.announces) == len(torrents)
        nursery.cancel_scope.cancel()
    hung.close()


async def test_a_full_disk_stops_one_torrent_and_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [make_sample(tmp_path / f"seed-{number}", 1 << 20, seed=number) for number in range(2)]
    write = os.pwritev

    def full(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        if "/full/" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", full)
    async with open_node(config()) as seed, open_node(config()) as leech:
        for sample in samples:
            await seed.add(sample.metainfo, sample.directory).wait_checked()
        assert seed.port is not None
        peers = [Endpoint("127.0.0.1", seed.port)]
        async with leech.events(10_000) as events:
            one = leech.add(samples[0].metainfo, tmp_path / "full", peers=peers)
            other = leech.add(samples[1].metainfo, tmp_path / "roomy", peers=peers)
            with trio.fail_after(10):
                error = await one.wait_failed()
                await other.wait_complete()
            failures = []
            with trio.move_on_after(0.2):
                async for _, event in events:
                    failures += [event] if isinstance(event, StorageFailed) else []
        assert "the disk is full" in str(error)
        assert [failure.info_hash for failure in failures] == [one.info_hash]
        assert (one.state, other.state) == ("failed", "seeding")
        await leech.remove(one)
        monkeypatch.setattr(os, "pwritev", write)  # there is space again, and the user says so
        again = leech.add(samples[0].metainfo, tmp_path / "full", peers=peers)
        with trio.fail_after(10):
            await again.wait_complete()
