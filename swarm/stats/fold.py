"""`Stats`: what a log of events adds up to.

A pure fold: the same events give the same numbers, live or replayed.  What flows too often for events (bytes of live
connections, datagrams, DHT queries) is not here but pulled into a `swarm.stats.snapshot.Snapshot`.
Memory is bounded, whatever peers and gateways do: see the constants.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

from swarm.connect.report import Behaviour
from swarm.endpoint import Endpoint
from swarm.events import (
    ConnectionClosed,
    ConnectionRefused,
    DialFailed,
    Direction,
    Event,
    PathName,
    PeerConnected,
    PeerDiscovered,
    PortMapped,
    PortMappingFailed,
    PortMappingLost,
    PunchAsked,
    PunchConnected,
    PunchFailed,
    PunchRole,
    RendezvousRefused,
    RendezvousRelayed,
    SourceName,
)
from swarm.stats.durations import Durations

MAX_REASONS = 32
"""Reasons counted by name at each place; further ones are counted as OTHER."""

OTHER = "other"

MAX_PEERS = 1000
"""Peers remembered that were tried or came in.  Beyond it the one whose last fact is oldest is forgotten, connected
ones last of all."""

MAX_HEARD = 2000
"""Peers that were named and not tried yet, whose source is remembered; the oldest is forgotten first."""

MAX_LEASES = 64
"""Ways of opening a port, remembered with what became of them; the oldest is forgotten first."""

Role = PunchRole | Literal["relay"]
PATHS: tuple[PathName, ...] = get_args(PathName)
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
ROLES: tuple[Role, ...] = ("initiator", "target", "relay")


class PeerKey(NamedTuple):
    info_hash: bytes
    endpoint: Endpoint


class LeaseKey(NamedTuple):
    method: str
    transport: Literal["tcp", "udp"]
    gateway: str
    internal: Endpoint


class Stats:
    """The counts so far.  Written by `apply` only."""

    def __init__(self) -> None:
        self.paths = {path: {direction: PathCounts() for direction in DIRECTIONS} for path in PATHS}
        self.punches: dict[Role, PunchCounts] = {role: PunchCounts() for role in ROLES}
        self.sources: Counter[SourceName] = Counter()
        """Peers that were not known before, by who named them; "incoming" are connections that were let in."""
        self.leases: dict[LeaseKey, Lease] = {}
        self.peers: dict[PeerKey, PeerRecord] = {}
        """The oldest fact first."""
        self._heard: dict[PeerKey, SourceName] = {}

    def apply(self, time: float, event: Event) -> None:
        """Count one event; those that say nothing about connections are passed over.  ``time`` is in seconds."""
        match event:
            case DialFailed():
                self._dial_failed(time, event)
            case PeerConnected():
                self._peer_connected(time, event)
            case ConnectionRefused():
                self._connection_refused(time, event)
            case ConnectionClosed():
                self._connection_closed(time, event)
            case PeerDiscovered():
                self._peer_discovered(event)
            case PunchAsked() | PunchConnected() | PunchFailed():
                self._punch(event)
            case RendezvousRelayed():
                self.punches["relay"].asked += 1
                self.punches["relay"].connected += 1
            case RendezvousRefused():
                self.punches["relay"].asked += 1
                count_reason(self.punches["relay"].errors, event.error)
            case PortMapped():
                self._lease(event, Lease(external=event.external))
            case PortMappingFailed() | PortMappingLost():
                self._lease(event, Lease(error=event.reason))

    def _dial_failed(self, time: float, event: DialFailed) -> None:
        count_reason(self.paths[event.path]["out"].failed, event.reason)
        self._record(time, PeerKey(event.info_hash, event.endpoint)).failures[event.path] = event.reason

    def _peer_connected(self, time: float, event: PeerConnected) -> None:
        counts = self.paths[event.path][event.direction]
        counts.succeeded += 1
        counts.connect.add(event.seconds)
        record = self._record(time, PeerKey(event.info_hash, event.endpoint))
        record.connections += 1
        record.client, record.path, record.direction = event.client, event.path, event.direction
        record.seconds_to_connect = event.seconds
        record.failures.pop(event.path, None)
        if event.direction == "in":
            self.sources["incoming"] += 1
            record.sources.add("incoming")

    def _connection_refused(self, time: float, event: ConnectionRefused) -> None:
        count_reason(self.paths[event.path][event.direction].failed, event.reason)
        # Whoever knocks in vain is counted and not remembered: he could come from any number of ports.
        if event.direction == "out" and event.info_hash is not None:
            self._record(time, PeerKey(event.info_hash, event.endpoint)).failures[event.path] = event.reason

    def _connection_closed(self, time: float, event: ConnectionClosed) -> None:
        counts = self.paths[event.path][event.direction]
        counts.bytes_down += event.bytes_down
        counts.bytes_up += event.bytes_up
        record = self._record(time, PeerKey(event.info_hash, event.endpoint))
        record.connections = max(0, record.connections - 1)
        record.client, record.path, record.direction = event.client, event.path, event.direction
        record.bytes_down += event.bytes_down
        record.bytes_up += event.bytes_up
        record.failures[event.path] = event.reason

    def _peer_discovered(self, event: PeerDiscovered) -> None:
        if event.source == "incoming":  # its connection was counted already
            return
        self.sources[event.source] += 1
        key = PeerKey(event.info_hash, event.endpoint)
        if (record := self.peers.get(key)) is not None:
            record.sources.add(event.source)
            return
        self._heard[key] = event.source
        if len(self._heard) > MAX_HEARD:
            del self._heard[next(iter(self._heard))]

    def _punch(self, event: PunchAsked | PunchConnected | PunchFailed) -> None:
        counts = self.punches[event.role]
        if isinstance(event, PunchAsked):
            counts.asked += 1
            return
        pair = counts.by_nat.setdefault((event.ours, event.theirs), PairCounts())
        pair.tried += 1
        if isinstance(event, PunchConnected):
            counts.connected += 1
            pair.connected += 1
        else:
            count_reason(counts.errors, event.reason)

    def _lease(self, event: PortMapped | PortMappingFailed | PortMappingLost, lease: Lease) -> None:
        key = LeaseKey(event.method, event.transport, event.gateway, event.internal)
        self.leases.pop(key, None)
        self.leases[key] = lease
        if len(self.leases) > MAX_LEASES:
            del self.leases[next(iter(self.leases))]

    def _record(self, time: float, key: PeerKey) -> PeerRecord:
        """What is remembered of a peer, as the one that is forgotten last."""
        record = self.peers.pop(key, None)
        if record is None:
            source = self._heard.pop(key, None)
            record = PeerRecord(sources=set() if source is None else {source})
            if len(self.peers) >= MAX_PEERS:
                self._forget_one()
        record.time = time
        self.peers[key] = record
        return record

    def _forget_one(self) -> None:
        oldest = next(iter(self.peers))
        idle = (key for key, record in self.peers.items() if not record.connections)
        del self.peers[next(idle, oldest)]


@dataclass(slots=True, eq=False)
class PathCounts:
    """What became of attempts over one path in one direction; a rung that was cancelled because another won is none."""

    succeeded: int = 0
    """Peers admitted."""
    failed: Counter[str] = field(default_factory=Counter)
    """By reason: rungs that failed, handshakes that failed, and connections that were not admitted."""
    connect: Durations = field(default_factory=Durations)
    """Seconds to a peer that was admitted: from the first rung on, or from its knock."""
    bytes_down: int = 0
    bytes_up: int = 0
    """Payload of connections that are closed."""

    @property
    def attempted(self) -> int:
        return self.succeeded + self.failed.total()


@dataclass(slots=True, eq=False)
class PairCounts:
    """Punches between two behaviours that have come to an end, and those of them that connected."""

    tried: int = 0
    connected: int = 0


@dataclass(slots=True, eq=False)
class PunchCounts:
    """Punches in one role.  ``asked`` is more than the rest while some are under way, or were cancelled.

    As relay: rendezvous messages that came, those answered by ``connect`` to both ends, and those refused; whether the
    two then met is not ours to know.
    """

    asked: int = 0
    connected: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    by_nat: dict[tuple[Behaviour, Behaviour], PairCounts] = field(default_factory=dict)
    """By our mapping behaviour and theirs: at most 25 pairs."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What became of a port at a gateway: ``external`` while it is open, else ``error``, a reason slug."""

    external: Endpoint | None = None
    error: str | None = None


@dataclass(slots=True, eq=False)
class PeerRecord:
    """What is remembered of a peer that was tried or came in."""

    sources: set[SourceName]
    time: float = 0.0
    """Of its last fact."""
    connections: int = 0
    """That stand now: two for a moment, when both ends dialled."""
    client: str = ""
    path: PathName | None = None
    direction: Direction | None = None
    seconds_to_connect: float | None = None
    """These four are the latest connection's; empty while there was none."""
    bytes_down: int = 0
    bytes_up: int = 0
    """Payload of its connections that are closed."""
    failures: dict[PathName, str] = field(default_factory=dict)
    """The last reason why each rung brought no connection, or why the connection ended."""


def count_reason(counts: Counter[str], reason: str) -> None:
    """Count ``reason`` by its name, while there are few."""
    counts[reason if reason in counts or len(counts) < MAX_REASONS else OTHER] += 1
