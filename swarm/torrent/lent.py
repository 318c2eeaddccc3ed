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
from swarm.connect.dialer import WantsPeers
from swarm.connect.report import Behaviour
from swarm.connect.second_port import SecondPorts
from swarm.connect.shot_port import ShotPorts
from swarm.connect.standing import Standing
from swarm.discover.dht_source import DhtSource
from swarm.discover.lsd import LocalDiscovery
from swarm.discover.trackers import Announcer
from swarm.endpoint import Endpoint
from swarm.events import Emit
from swarm.ext.punch_message import Terms
from swarm.peerlist import KnownPeer
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
    back_dialer: BackDialer
    """Dials for others' probes of reachability (`sw_reach`)."""
    listening_port: Callable[[], int]
    """Our own port, 0 while offline."""
    port_for: Callable[[Endpoint], int]
    """The port on which a peer that is there reaches us, through a gateway perhaps; 0 while offline."""
    dht_port: Callable[[Endpoint], int | None]
    """The same of our DHT node, for PORT messages (BEP 5); None while there is none."""
    address_seen: Callable[[Endpoint, str], None]
    """To be told at which address of ours a peer sees us (BEP 10, ``yourip``)."""
    own_address: Callable[[bool], str | None]
    """An address of ours that anybody on the internet can send to, IPv6 if True; None while we know none."""
    wake_dialer: Callable[[], None]
    shoot: Callable[[WantsPeers, KnownPeer, Endpoint], bool]
    """`swarm.connect.dialer.Dialer.shoot`."""
    redial: Callable[[WantsPeers, KnownPeer], bool]
    """`swarm.connect.dialer.Dialer.redial`."""
    abandon: Callable[[WantsPeers], None]
    """`swarm.connect.dialer.Dialer.abandon`."""
    shot_ports: ShotPorts
    second_ports: SecondPorts
    """For prediction and birthdays: sockets of their own, as initiator or target and as introducer."""
    mapping: Callable[[bool], Behaviour]
    """How the NAT in front of us maps, as far as known; for IPv6 if True."""
    terms: Callable[[], Terms]
    """What we say of ourselves to whom we are to meet through NATs."""
    is_open: Callable[[], bool]
    """Whether any port of ours can be reached, so that we can measure the NATs of others."""
    welcome: Callable[[Link], None]
    """Shake hands with an inbound stream that no listener brought: `swarm.connect.acceptor.Acceptor.take`."""
    wall_clock: Callable[[], float]
    """Seconds since the epoch, by the clock that stamps files."""
    resume_directory: Path | None
