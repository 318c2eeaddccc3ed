"""``swarm demo``: a tracker, a seed and a download on this machine alone, step by step; what `make demo` runs.

Everything is bound to 127.0.0.1, keeps no state, and is gone when it ends.  The only part of the product that may use
the simulated internet.
"""

from __future__ import annotations

import random
import tempfile
from argparse import Namespace
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import trio

import swarm
from swarm.cli.interrupt import run_interruptible
from swarm.cli.screen import Screen
from swarm.cli.units import counted, format_bytes, format_duration, format_rate
from swarm.cli.verify import verify
from swarm.config import Config
from swarm.discover.embedded_tracker import EmbeddedTracker, open_tracker
from swarm.endpoint import Endpoint
from swarm.errors import NoProgressError, StorageError, VerificationError
from swarm.events import Event, PeerConnected, StorageFailed, TorrentCompleted, TrackerAnswered
from swarm.net.real import RealNetwork
from swarm.node import Node, open_node
from swarm.source import metainfo_of, read_source
from swarm.torrent.metainfo import Metainfo
from swarm.torrent.storage import Storage

SAMPLE = "swarm-sample"
LOOPBACK = "127.0.0.1"
PATIENCE = 15.0
"""Seconds until the download is given up."""

QUIET_CONFIG = Config(bind=LOOPBACK, port=0, mapping=False, lsd=False, dht=False, state_directory=None)


def run(options: Namespace) -> int:
    return run_interruptible(_demo, options.clock)


async def _demo(seconds: Callable[[], float]) -> int:
    samples = samples_directory()
    torrent_file = samples / f"{SAMPLE}.torrent"
    metainfo = metainfo_of(torrent_file, read_source(torrent_file))
    print("A tracker, a seed and a download on this machine, over real sockets.\n")
    with tempfile.TemporaryDirectory(prefix="swarm-demo-") as name:
        target = Path(name)
        tracker = EmbeddedTracker(random.SystemRandom(), interval=60, min_interval=1)
        async with open_tracker(RealNetwork(), Endpoint(LOOPBACK, 0), tracker) as address:
            url = f"http://{address}/announce"
            _say("tracker", f"listens on {url}")
            tracked = replace(metainfo, trackers=((url,),))
            async with open_node(QUIET_CONFIG) as seed:
                await _seed(seed, tracked, samples, tracker)
                async with open_node(QUIET_CONFIG) as leech:
                    await _download(leech, tracked, target)
        await _verify(metainfo, target)
    print(f"\nAll of it took {format_duration(seconds())}; nothing is left behind.")
    return 0


async def _seed(node: Node, metainfo: Metainfo, samples: Path, tracker: EmbeddedTracker) -> None:
    """Share the sample, and wait until the tracker knows."""
    torrent = node.add(metainfo, samples)
    await torrent.wait_checked()
    statistics = torrent.statistics()
    if statistics.pieces_had != statistics.pieces:
        raise VerificationError(f"the sample in {samples} is damaged")
    with trio.move_on_after(PATIENCE):
        while not tracker.announces:  # noqa: ASYNC110  (the tracker tells nobody)
            await trio.sleep(0.01)
    size = format_bytes(metainfo.total_size)
    _say("seed", f"shares {metainfo.name} ({size} in {counted(statistics.pieces, 'piece')}) on port {node.port}")


async def _download(node: Node, metainfo: Metainfo, target: Path) -> None:
    """Fetch it as any client would: what the tracker says is all that is known of the seed."""
    _say("download", f"knows the .torrent file only, listens on port {node.port}")
    started = trio.current_time()
    async with node.events() as events:
        torrent = node.add(metainfo, target)
        with trio.move_on_after(PATIENCE):
            await _tell_until_complete(events)
    if torrent.statistics().done != metainfo.total_size:
        raise NoProgressError(f"the download did not finish within {PATIENCE:.0f} seconds: {'; '.join(torrent.why())}")
    took = trio.current_time() - started
    downloaded = torrent.statistics().downloaded
    _say(
        "", f"all {counted(metainfo.piece_count, 'piece')} in {format_duration(took)}, {format_rate(downloaded / took)}"
    )


async def _tell_until_complete(events: AsyncIterator[tuple[float, Event]]) -> None:
    async for _, event in events:
        match event:
            case TrackerAnswered():
                _say("", f"the tracker names {counted(event.peers, 'peer')}")
            case PeerConnected():
                way = "connected to" if event.direction == "out" else "was called by"
                _say("", f"{way} {event.endpoint} ({event.client}) over {event.path}")
            case StorageFailed():
                raise StorageError(event.message)
            case TorrentCompleted():
                return


async def _verify(metainfo: Metainfo, target: Path) -> None:
    """Read everything again, as ``swarm verify`` does."""
    good, results = await verify(metainfo, Storage(target, metainfo), Screen(quiet=True))
    if good.count != metainfo.piece_count or any(result.problem for result in results):
        raise VerificationError("what was downloaded does not verify")
    _say("verify", f"{counted(len(results), 'file')} read again from disk: all hashes match")


def samples_directory() -> Path:
    """Where the sample is: inside an installed package, or beside it in a checkout."""
    package = Path(swarm.__file__).resolve().parent
    for directory in (package / "samples", package.parent / "torrents"):
        if (directory / f"{SAMPLE}.torrent").is_file():
            return directory
    raise StorageError(f"the sample that belongs to this installation is not in {package}")


def _say(who: str, what: str) -> None:
    print(f"  {who:9} {what}", flush=True)
