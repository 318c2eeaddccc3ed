"""What a node lends to each of its torrents: everything that is shared and nothing that is decided."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from swarm.config import Config
from swarm.connect.dial import Link
from swarm.connect.dial_back import BackDialer
from swarm.connect.dialer import Dialer
from swarm.connect.relay_host import RelayHost
from swarm.connect.second_port import SecondPorts
from swarm.connect.shot_port import ShotPorts
from swarm.connect.standing import Standing
from swarm.connect.turning import Turning
from swarm.discover.dht_source import DhtSource
from swarm.discover.lsd import LocalDiscovery
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
    dht: DhtSource | None
    """None where it is switched off, as the next."""
    local: LocalDiscovery | None
    standing: Standing
    """Where we are, as far as known, and on which port: what to tell others of ourselves."""
    back_dialer: BackDialer
    """Dials for others' probes of reachability (`sw_reach`)."""
    dialer: Dialer
    shot_ports: ShotPorts
    second_ports: SecondPorts
    """For prediction and birthdays: sockets of their own, as initiator or target and as introducer."""
    relay: RelayHost
    """Ours for others, and what we say of ourselves to those of others."""
    turning: Turning
    """Allocations on TURN servers."""
    welcome: Callable[[Link], None]
    """Shake hands with an inbound stream that no listener brought: `swarm.connect.acceptor.Acceptor.take`."""
    wake: Callable[[bytes], None]
    """Have the torrent of this info-hash looked at every second again, until it says that nothing is to be done."""
    wall_clock: Callable[[], float]
    """Seconds since the epoch, by the clock that stamps files."""
    resume_directory: Path | None
