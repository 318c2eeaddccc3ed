"""What we know about the NAT before us, as one value that says "not known" where nothing is.

Words are those of RFC 4787.  Measures nothing: `swarm.connect.natprobe` does, and keeps the latest report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from swarm.endpoint import Endpoint

Behaviour = Literal[
    "endpoint-independent",
    "address-dependent",
    "address-and-port-dependent",
    "none",
    "unknown",
]
"""How a NAT maps (RFC 4787 §4.1) or filters (§5).  "none": nobody does it; there is no NAT, or no firewall."""


@dataclass(frozen=True, slots=True)
class NatReport:
    """One address family's standing behind its NATs.  ``NatReport()`` knows nothing; None is "not known" throughout."""

    external: tuple[Endpoint, ...] = ()
    """Where others saw our one UDP socket, the most frequent first; several where the mapping depends on who looks."""

    mapping: Behaviour = "unknown"
    filtering: Behaviour = "unknown"

    port_preserving: bool | None = None
    """Whether the outside port is our own."""

    port_step: int | None = None
    """Distance between the ports of two mappings made one after the other; 0: drawn at random, so not predictable."""

    double_nat: bool | None = None
    """Whether somebody translates beyond our own gateway."""

    hairpin: bool | None = None
    """Whether a peer behind the same NAT reaches our outside endpoint (RFC 4787 §6)."""

    lifetime: float | None = None
    """Seconds for which an idle UDP mapping was seen to last."""

    evidence: tuple[str, ...] = ()
    """Sentences that say what the verdicts rest on."""
