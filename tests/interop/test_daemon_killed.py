"""A daemon that is killed at random moments while it downloads and shares, and started again each time.

Nothing that was verified is lost, nothing is hashed that need not be, and in the end everything is there.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from swarm.config import Config
from swarm.discover.embedded_tracker import EmbeddedTracker
from swarm.endpoint import Endpoint
from swarm.net.real import RealNetwork
from swarm.node import Node, open_node
from swarm.torrent.create import create
from swarm.torrent.metainfo import parse_torrent_untrusted
from tests.interop.daemons import Daemon

pytestmark = pytest.mark.interop

KILLS = 10
FETCHED = 4
SIZE = 6 << 20
PIECE = 64 << 10
RATE = 2_500_000
"""Bytes a second that all are fetched with: a kill every half second meets them at all stages."""

BAIT_HAS = 5
"""Pieces."""


@asynccontextmanager
async def tracker_and_seed(nursery: trio.Nursery) -> AsyncIterator[tuple[str, Node]]:
    tracker = EmbeddedTracker(random.Random(1))
    local = await nursery.start(tracker.serve, RealNetwork(), Endpoint("127.0.0.1", 0))
    async with node(upload_rate=RATE) as seed:
        yield f"http://127.0.0.1:{local.port}/announce", seed


def node(**limits: int) -> AbstractAsyncContextManager[Node]:
    return open_node(Config(bind="127.0.0.1", port=0, dht=False, lsd=False, mapping=False, **limits))


def make_torrent(directory: Path, name: str, tracker: str) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / name).write_bytes(random.Random(name).randbytes(SIZE))
    torrent = directory / f"{name}.torrent"
    torrent.write_bytes(create(directory / name, piece_length=PIECE, trackers=[tracker]))
    return torrent


def spoil(path: Path, count: int) -> None:
    """Leave the file as it looks, so that whoever hashes it, and only who does, finds out."""
    stamp = path.stat()
    with open(path, "r+b") as file:
        file.write(bytes(count))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


class Killed:
    """The daemon, and how much of each torrent it has told to be verified so far."""

    def __init__(self, home: Path) -> None:
        self.daemon = Daemon(home)
        self.verified: dict[str, int] = {}

    async def ask(self, method: str, **arguments: Any) -> Any:
        return await trio.to_thread.run_sync(partial(self.daemon.ask, method, **arguments))

    async def look(self) -> dict[str, dict[str, Any]]:
        rows = await self.ask("torrent-get", fields=["name", "haveValid", "status", "errorString", "error"])
        told = {row["name"]: row for row in rows["torrents"]}
        for name, row in told.items():
            assert row["error"] != 3, row
            if row["status"] in (4, 6):
                assert row["haveValid"] >= self.verified.get(name, 0), f"{name} has lost what was verified"
                self.verified[name] = row["haveValid"]
        return told

    async def wait(self, names: Sequence[str], *statuses: int) -> None:
        with trio.fail_after(30):
            while True:
                told = await self.look()
                if all(told[name]["status"] in statuses for name in names):
                    return
                await trio.sleep(0.05)


async def test_kills_at_random_moments_under_load_lose_nothing(tmp_path: Path) -> None:
    dice_seed = random.randrange(1 << 30)
    dice = random.Random(dice_seed)
    print(f"seed {dice_seed}")
    killed, downloads = Killed(tmp_path), tmp_path / "downloads"
    names = [f"fetched-{number}" for number in range(FETCHED)]
    async with (
        trio.open_nursery() as nursery,
        tracker_and_seed(nursery) as (url, seed),
        node(download_rate=RATE // 4) as leech,
    ):
        torrents = {name: make_torrent(tmp_path / "seed", name, url) for name in names}
        for path in torrents.values():
            seed.add(parse_torrent_untrusted(path.read_bytes()), tmp_path / "seed")
        baits = {name: make_torrent(downloads, name, url) for name in ("whole", "part", "given")}
        os.truncate(downloads / "part", BAIT_HAS * PIECE)
        await _share_the_baits(killed, baits)
        spoil(downloads / "whole", SIZE)
        spoil(downloads / "part", BAIT_HAS * PIECE)
        taken = leech.add(parse_torrent_untrusted(baits["given"].read_bytes()), tmp_path / "leech")
        for number in range(KILLS):
            async with killed.daemon.beside():
                if not number:
                    for path in torrents.values():
                        await killed.ask("torrent-add", filename=str(path))
                await killed.wait(names, 4, 6)  # at once: nothing can have come in the place of what was lost
                await trio.sleep(dice.uniform(0.0, 0.6))
                await killed.look()
                await trio.to_thread.run_sync(killed.daemon.kill)
        at_kill, given = dict(killed.verified), taken.downloaded
        async with killed.daemon.beside():
            await killed.wait([*names, "whole", "given"], 6)
            told = await killed.look()
            with trio.fail_after(30):
                await taken.wait_complete()
        nursery.cancel_scope.cancel()
        sent = sum(torrent.uploaded for torrent in seed.torrents.values())
    print(f"verified at the last kill: {at_kill}; sent for {FETCHED * SIZE}: {sent}; given: {given}")
    for name in names:
        assert (downloads / name).read_bytes() == (tmp_path / "seed" / name).read_bytes()
    assert told["whole"]["haveValid"] == SIZE  # so nobody has hashed it
    assert told["part"]["haveValid"] == BAIT_HAS * PIECE
    assert given > SIZE // 4  # it was sharing, too
    assert sent < 1.25 * FETCHED * SIZE
    assert "Traceback" not in killed.daemon.log()


async def _share_the_baits(killed: Killed, baits: dict[str, Path]) -> None:
    async with killed.daemon.beside():
        for path in baits.values():
            await killed.ask("torrent-add", filename=str(path))
        await killed.wait(["whole", "given"], 6)
        await killed.wait(["part"], 4)
