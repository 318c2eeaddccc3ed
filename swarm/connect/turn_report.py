"""How TURN servers do, for the user: what the statistics document and the doctor tell.  No credentials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from swarm.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class AllocationReport:
    """An allocation that stands.  Bytes are datagrams' payload between us and peers, µTP headers included."""

    relayed: Endpoint
    """Where the server receives for us."""
    transport: str
    """Between us and the server: "udp", "tcp" or "tls"."""
    connections: int
    bytes_down: int
    bytes_up: int
    dropped: int
    """Datagrams that came faster than they were read."""


@dataclass(frozen=True, slots=True)
class TurnReport:
    """One server."""

    server: str
    """Without credentials."""
    opened: int
    """Allocations made so far."""
    bytes_down: int = 0
    bytes_up: int = 0
    dropped: int = 0
    """By all of them, those included that have ended; as of an allocation."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """How often there was none, or one was lost, by reason."""
    allocations: tuple[AllocationReport, ...] = ()
    error: str | None = None
    """Why it was not to be had the last time, a slug; None if it was, or nobody has asked."""
    detail: str = ""
    retry_in: float | None = None
    """Seconds for which it is left alone after an error."""
