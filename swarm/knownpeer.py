"""What is known of one peer: who named it, how it was reached, why it was not.  Written by `swarm.peerlist` only."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from swarm.endpoint import Endpoint
from swarm.events import PathName, SourceName

HEARSAY: frozenset[SourceName] = frozenset({"dht", "pex", "lsd", "incoming"})
"""Sources in which any stranger may name thousands; they must not keep out whom the user or a tracker names."""

MAX_RECENT = 16
"""Facts remembered of each peer, for "why are we not connected to X?"."""


class Recent(NamedTuple):
    """Something that happened to a peer."""

    time: float
    what: str
    path: PathName | None = None


@dataclass(slots=True, eq=False)
class KnownPeer:
    """A peer by the endpoint at which it can be dialled.  Written by its `PeerList` only."""

    endpoint: Endpoint
    discovered_at: float
    sources: set[SourceName] = field(default_factory=set)
    introducers: list[Endpoint] = field(default_factory=list)
    """Connected peers that named it, the latest last."""
    flags: int = 0
    """PEX flags (BEP 11), all that anybody claimed."""
    peer_id: bytes | None = None
    observed: Endpoint | None = None
    """Where it was last seen coming from, if that is not where it listens."""

    attempts: int = 0
    last_attempt: float | None = None
    failures: int = 0
    """Attempts that failed since the last one that did not."""
    reasons: dict[PathName, str] = field(default_factory=dict)
    """Why it was not reached the last time, by path."""
    last_reason: str | None = None
    good_path: PathName | None = None
    """How it was last reached: to be tried first."""
    obfuscated: bool = False
    """It was last reached by message stream encryption: to be tried first."""
    swapped: bool = False
    """Its TCP connection was given up for one over µTP."""
    dialing: bool = False
    connections: int = 0
    last_connected: float | None = None
    bytes_down: int = 0
    bytes_up: int = 0
    recent: deque[Recent] | None = None

    _score: int = 0
    _ticket: int = 0
    _charged_to: Endpoint | None = None
    _turn: int = 0

    def __repr__(self) -> str:
        return f"<KnownPeer {self.endpoint} {self.failures} failures>"

    @property
    def busy(self) -> bool:
        """Whether it is connected or being dialled."""
        return self.dialing or self.connections > 0

    @property
    def is_hearsay(self) -> bool:
        """Whether only strangers have named it."""
        return self.sources <= HEARSAY

    def remember(self, time: float, what: str, path: PathName | None = None) -> None:
        if self.recent is None:
            self.recent = deque(maxlen=MAX_RECENT)
        self.recent.append(Recent(time, what, path))
