"""Facts, stated after they happened.  Events report; nothing depends on them to do its work.

Each is a frozen dataclass named with a past participle.  ``Emit`` is what floors below the node are given; the node
stamps the time, folds them into `swarm.stats` and hands them to whoever listens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from swarm.connect.report import Behaviour
from swarm.endpoint import Endpoint

Direction = Literal["in", "out"]
PathName = Literal["tcp", "utp", "tcp-punched", "utp-punched", "predicted", "birthday", "relayed", "turn"]
INDIRECT_PATHS: frozenset[PathName] = frozenset({"relayed", "turn"})
"""Paths on which what we observe is not the peer's own address: nobody can be sent there, nor they to others."""

EncryptionName = Literal["plaintext", "obfuscated", "rc4"]
"""What carries the payload; "obfuscated" is plaintext behind a handshake of message stream encryption."""
SourceName = Literal["tracker", "dht", "pex", "lsd", "incoming", "manual", "resume"]
PunchRole = Literal["initiator", "target"]
"""Who asked the introducer for the rendezvous (BEP 55), and whom the initiator wants to meet."""


@dataclass(frozen=True, slots=True)
class Event:
    """A fact."""


Emit = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class PortBound(Event):
    """The node listens; ``wanted`` is the port first tried, when it was taken and another is used instead."""

    transport: Literal["tcp", "udp"]
    local: Endpoint
    wanted: int | None = None


@dataclass(frozen=True, slots=True)
class PortMapped(Event):
    """A gateway forwards ``external`` to our port; again when ``external`` has changed."""

    method: str
    transport: Literal["tcp", "udp"]
    gateway: str
    internal: Endpoint
    external: Endpoint


@dataclass(frozen=True, slots=True)
class PortMappingFailed(Event):
    """A gateway did not open our port by this method; ``reason`` is a slug.  It will be tried again."""

    method: str
    transport: Literal["tcp", "udp"]
    gateway: str
    internal: Endpoint
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class PortMappingLost(Event):
    """A port is not forwarded any more: lease expired, gateway restarted or gone, network changed."""

    method: str
    transport: Literal["tcp", "udp"]
    gateway: str
    internal: Endpoint
    reason: str


@dataclass(frozen=True, slots=True)
class NetworkLost(Event):
    """The address or interface of ``--bind`` is gone; all traffic has stopped."""

    bind: str


@dataclass(frozen=True, slots=True)
class NetworkRestored(Event):
    """The address or interface of ``--bind`` is back."""

    bind: str


@dataclass(frozen=True, slots=True)
class TorrentAdded(Event):
    """A torrent is active; name and size are known from its metainfo."""

    info_hash: bytes
    name: str
    total_size: int


@dataclass(frozen=True, slots=True)
class TorrentChecked(Event):
    """The data found on disk was compared; ``verified`` of ``pieces`` are there."""

    info_hash: bytes
    verified: int
    pieces: int


@dataclass(frozen=True, slots=True)
class TorrentCompleted(Event):
    """Everything wanted is on disk and verified."""

    info_hash: bytes


@dataclass(frozen=True, slots=True)
class PieceVerified(Event):
    """A piece was hashed, matched and written."""

    info_hash: bytes
    index: int


@dataclass(frozen=True, slots=True)
class PieceFailed(Event):
    """A piece did not match its hash; who sent it is among ``contributors``."""

    info_hash: bytes
    index: int
    contributors: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class PeerBanned(Event):
    """A peer was proved to have sent bad data, or broke the protocol beyond patience."""

    info_hash: bytes
    endpoint: Endpoint
    reason: str


@dataclass(frozen=True, slots=True)
class PeerDiscovered(Event):
    """A source named a peer that was not known before."""

    info_hash: bytes
    endpoint: Endpoint
    source: SourceName


@dataclass(frozen=True, slots=True)
class DialFailed(Event):
    """One rung of the ladder did not reach the peer."""

    info_hash: bytes
    endpoint: Endpoint
    path: PathName
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class PeerConnected(Event):
    """Handshake done and admitted."""

    info_hash: bytes
    endpoint: Endpoint
    path: PathName
    direction: Direction
    client: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ConnectionRefused(Event):
    """An inbound stream, or one we dialled, did not become a peer: bad handshake, duplicate, full, banned."""

    endpoint: Endpoint
    path: PathName
    direction: Direction
    reason: str
    info_hash: bytes | None = None


@dataclass(frozen=True, slots=True)
class ConnectionClosed(Event):
    """An admitted connection ended; byte totals are payload of that connection."""

    info_hash: bytes
    endpoint: Endpoint
    path: PathName
    direction: Direction
    client: str
    reason: str
    bytes_down: int
    bytes_up: int
    seconds: float


@dataclass(frozen=True, slots=True)
class PunchAsked(Event):
    """A hole punch began.  As initiator: we sent ``rendezvous`` to ``introducer``; as target: its ``connect`` came.

    Emitted by whoever punches, once for each introducer asked; then comes PunchConnected or PunchFailed, or neither,
    if the punch was cancelled because the peer was reached by another way.
    """

    info_hash: bytes
    endpoint: Endpoint
    role: PunchRole
    introducer: Endpoint


@dataclass(frozen=True, slots=True)
class PunchConnected(Event):
    """A punch met the peer.  ``ours`` and ``theirs`` are how the two NATs map, as far as known.

    Emitted by whoever punches, beside the PeerConnected that follows the handshake.
    """

    info_hash: bytes
    endpoint: Endpoint
    role: PunchRole
    path: PathName
    seconds: float
    ours: Behaviour = "unknown"
    theirs: Behaviour = "unknown"


@dataclass(frozen=True, slots=True)
class PunchFailed(Event):
    """A punch did not meet the peer; ``reason`` is a slug, also for the introducer's errors (BEP 55 ``err_code``).

    Emitted by whoever punches, beside the rung's DialFailed.
    """

    info_hash: bytes
    endpoint: Endpoint
    role: PunchRole
    reason: str
    seconds: float
    ours: Behaviour = "unknown"
    theirs: Behaviour = "unknown"


@dataclass(frozen=True, slots=True)
class RendezvousRelayed(Event):
    """As introducer we sent ``connect`` to both.  Emitted by the relaying side of ut_holepunch (BEP 55)."""

    info_hash: bytes
    initiator: Endpoint
    target: Endpoint


@dataclass(frozen=True, slots=True)
class RendezvousRefused(Event):
    """As introducer we answered, or dropped, a ``rendezvous`` with ``error``, a slug.  Emitted as RendezvousRelayed."""

    info_hash: bytes
    initiator: Endpoint
    error: str


@dataclass(frozen=True, slots=True)
class TrackerAnswered(Event):
    """A tracker accepted an announce."""

    info_hash: bytes
    url: str
    peers: int
    interval: float
    warning: str = ""


@dataclass(frozen=True, slots=True)
class TrackerFailed(Event):
    """An announce failed; the next try is in ``retry_in`` seconds."""

    info_hash: bytes
    url: str
    reason: str
    retry_in: float


@dataclass(frozen=True, slots=True)
class StorageFailed(Event):
    """The file system refused; the torrent stopped.  Nothing verified was lost."""

    info_hash: bytes
    message: str


@dataclass(frozen=True, slots=True)
class Warned(Event):
    """Something the user should know, in one sentence."""

    message: str
    info_hash: bytes | None = None
