"""Everything a node can be told, in one frozen dataclass.  Reads no file and no environment: `swarm.cli` does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class RelayLimits:
    """How much a node relays for others (`swarm.ext.relay_desk`).  Rates in bytes per second, 0 unlimited."""

    circuits: int = 64
    """At once, in the whole node."""

    circuits_per_client: int = 4
    """At once, over one connection, in whichever role."""

    circuits_per_address: int = 16
    """At once, of one IPv4 address or IPv6 /64: a carrier's NAT has many peers behind it."""

    reservations: int = 256
    reservations_per_address: int = 16

    circuit_rate: int = 1 << 20
    """Of one circuit, both directions together."""

    total_rate: int = 8 << 20
    """Of all circuits together."""

    circuit_bytes: int = 1 << 30
    """After which a circuit is ended; 0 unlimited."""

    circuit_seconds: float = 7200.0
    """After which a circuit is ended."""

    idle_seconds: float = 240.0
    """Without data, after which a circuit is ended; peers send keep-alives every two minutes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How a node behaves.  Every field has a default with which a node can run."""

    port: int | None = None
    """TCP and UDP port.  None: the one kept in the state directory, drawn once from 49152–65535; 0: any."""

    bind: str | None = None
    """An address or interface name that governs every socket of the node.  It never falls back to another."""

    announce_port: int | None = None
    """Port told to trackers and peers where a manual forward uses another outside port."""

    download_rate: int = 0
    """Bytes per second for the whole node; 0 is unlimited."""

    upload_rate: int = 0
    """Bytes per second for the whole node; 0 is unlimited."""

    tcp: bool = True
    utp: bool = True
    dht: bool = True
    pex: bool = True
    lsd: bool = True
    mapping: bool = True
    punch: bool = True
    birthday: bool = True
    """256 sockets and 2,048 datagrams for a few seconds, where one of two NATs hands out ports at random."""
    relay: bool = True
    trackers: bool = True

    dht_bootstrap: tuple[str, ...] = ()
    """HOST:PORT of routers, asked in addition to the saved table."""

    stun: tuple[str, ...] = ()
    turn: tuple[str, ...] = field(default=(), repr=False)
    """``turn:USER:PASSWORD@HOST:PORT?transport=udp|tcp``, or ``turns:`` for TLS; asked in this order."""
    relay_serve: bool = False
    """Relay for others while strangers are known to reach us."""

    relay_limits: RelayLimits = field(default_factory=RelayLimits)

    encryption: Literal["prefer", "require", "off"] = "prefer"

    state_directory: Path | None = None
    """Where the port, resume data and DHT table are kept; None keeps nothing (the command line passes the XDG one)."""

    max_peers: int = 80
    """Connections per torrent."""

    max_connections: int = 400
    """Connections of the whole node."""

    max_half_open: int = 40
    """Attempts to connect under way at once, in the whole node."""

    dial_timeout: float = 10.0
    """Seconds until one attempt to connect is given up."""

    handshake_timeout: float = 10.0
    """Seconds an accepted or dialled stream has for the BitTorrent handshake."""

    idle_timeout: float = 150.0
    """Seconds without a byte after which a peer is dropped (keep-alives come every two minutes)."""

    upload_slots: int = 8
    """Peers unchoked at once, the optimistic one included; more are opened while upload bandwidth is left over."""

    piece_memory: int = 48 << 20
    """Bytes of unfinished pieces held per node; at the bound no new piece is opened."""

    preallocate: bool = False
    """Reserve the files' full size on disk at once instead of leaving them sparse."""

    client_name: str = field(default="swarm 0.1.0")
    """What the extension handshake calls us."""
