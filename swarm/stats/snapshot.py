"""What the node knows at one moment and no event tells: the pulled half of the statistics document.

Plain values; the node fills them.  What is not known stays at its default.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from dht.results import NodeStatistics
from swarm.connect.relay_report import RelayClientReport
from swarm.connect.report import NatReport
from swarm.connect.turn_report import TurnReport
from swarm.endpoint import Endpoint
from swarm.events import Direction, PathName, SourceName
from swarm.ext.relay_desk import RelayDeskStatistics
from swarm.gateway.report import LeaseReport

Family = Literal[4, 6]
"""Of addresses."""


class CoreCounts(Protocol):
    """What `swarm.net.mux.CoreStatistics` has: of one core at one UDP socket."""

    @property
    def datagrams_in(self) -> int: ...
    @property
    def bytes_in(self) -> int: ...
    @property
    def datagrams_out(self) -> int: ...
    @property
    def bytes_out(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def send_errors(self) -> Mapping[int, int]:
        """By errno."""


class SocketCounts(Protocol):
    """What `swarm.net.mux.MuxStatistics` has."""

    @property
    def cores(self) -> Mapping[str, CoreCounts]: ...
    @property
    def unclaimed(self) -> int: ...
    @property
    def unclaimed_bytes(self) -> int: ...
    @property
    def waits_for_buffer(self) -> int: ...


@dataclass(frozen=True, slots=True)
class UdpSocket:
    """One UDP socket.  The buffers are in bytes, as the kernel granted them; None where it has none to tell of."""

    counts: SocketCounts
    receive_buffer: int | None = None
    send_buffer: int | None = None


@dataclass(frozen=True, slots=True)
class Listening:
    transport: Literal["tcp", "udp"]
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Reachability:
    """Whether strangers reach us, as peers have tested it; None is "not known"."""

    tcp4: bool | None = None
    utp4: bool | None = None
    tcp6: bool | None = None
    utp6: bool | None = None


@dataclass(frozen=True, slots=True)
class LivePeer:
    """A connection that stands.  ``endpoint``, ``path`` and ``direction`` are those of its PeerConnected event, but
    that the path is "turn" where the other end has said since that it receives through a TURN server."""

    info_hash: bytes
    endpoint: Endpoint
    path: PathName
    direction: Direction
    client: str
    bytes_down: int
    bytes_up: int
    """Payload so far."""
    rtt: float | None = None
    """Seconds; None where the stream does not tell."""
    sources: Collection[SourceName] = ()
    known_at: Endpoint | None = None
    """Where sources name the peer, which may be elsewhere: a NAT gave it another port for us, or a server relays."""


@dataclass(frozen=True, slots=True)
class ForOthers:
    """What the torrents that there are have done for peers' own extensions, as their desks count it."""

    introduced: Mapping[str, int] = field(default_factory=dict)
    """As introducer of `sw_punch`: meetings "asked" for and "gone" as far as shooting."""
    introductions_refused: Mapping[str, int] = field(default_factory=dict)
    """By reason."""
    dialled_back: Mapping[str, int] = field(default_factory=dict)
    """For `sw_reach`: probes "helped" with, endpoints "dialled"."""
    probes_refused: Mapping[str, int] = field(default_factory=dict)
    """By outcome."""


@dataclass(frozen=True, slots=True)
class SharedTorrent:
    """``done`` and ``total`` are bytes of what is wanted; of everything where nothing is, as in a seed."""

    info_hash: bytes
    name: str
    done: int
    total: int
    peers: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The node at ``now``, in seconds of the clock that stamps events."""

    now: float
    version: str
    peer_id: bytes
    uptime: float
    """Seconds."""
    listen: tuple[Listening, ...] = ()
    nat: Mapping[Family, NatReport] = field(default_factory=dict)
    reachability: Reachability = Reachability()
    leases: tuple[LeaseReport, ...] | None = None
    """What `swarm.gateway.mapper.Mapper.statistics` tells; None without a mapper: then events are all there is."""
    dht: Mapping[Family, NodeStatistics] = field(default_factory=dict)
    sockets: Mapping[Family, UdpSocket] = field(default_factory=dict)
    for_others: ForOthers = field(default_factory=ForOthers)
    relay: RelayDeskStatistics | None = None
    """What was carried for others; None where we do not."""
    relay_client: RelayClientReport = field(default_factory=RelayClientReport)
    """What others have carried for us."""
    turn: tuple[TurnReport, ...] = ()
    """The TURN servers that we may use."""
    peers: tuple[LivePeer, ...] = ()
    torrents: tuple[SharedTorrent, ...] = ()
