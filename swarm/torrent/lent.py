"""What a node lends to each of its torrents: everything that is shared and nothing that is decided."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from swarm.config import Config
from swarm.discover.trackers import Announcer
from swarm.events import Emit
from swarm.ratelimit import TokenBucket
from swarm.torrent.disk import Runner
from swarm.torrent.openfile import FileHandles
from swarm.torrent.openpiece import PieceMemory
from swarm.torrent.readcache import ReadCache


@dataclass(frozen=True, slots=True)
class Lent:
    """What a node lends to each of its torrents."""

    config: Config
    peer_id: bytes
    rng: random.Random
    emit: Emit
    work: trio.Nursery
    """Outlives connections and the online life of the node."""
    runner: Runner
    handles: FileHandles
    cache: ReadCache
    memory: PieceMemory
    download_limit: TokenBucket
    upload_limit: TokenBucket
    announcer: Announcer
    listening_port: Callable[[], int]
    """What strangers reach us on, 0 while offline."""
    wake_dialer: Callable[[], None]
    wall_clock: Callable[[], float]
    """Seconds since the epoch, by the clock that stamps files."""
    resume_directory: Path | None
