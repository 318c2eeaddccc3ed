"""What came of asking relays (``sw_relay``), for the user: what the statistics document and ``/metrics`` tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from swarm.stats.fold import count_reason


class RelaysStanding(NamedTuple):
    """Of one torrent, or of all, now."""

    relays: int
    """Connected peers that relay for others."""
    reservations: int
    """Those of them that lead circuits to us."""
    circuits: int
    """With us at one end."""


@dataclass(frozen=True, slots=True)
class RelayClientReport:
    """Our part as client of relays.  The first three as `RelaysStanding`, the others since the node began."""

    relays: int = 0
    reservations: int = 0
    circuits: int = 0
    asked: int = 0
    opened: int = 0
    """Circuits that we asked for, and those that came about."""
    called: int = 0
    """Circuits that led to us and that we took."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Those that we asked for and did not get, by reason."""
    declined: Mapping[str, int] = field(default_factory=dict)
    """Those that would have led to us, by reason."""


@dataclass(slots=True)
class RelayClientCounts:
    """The counts of a node, which its torrents keep."""

    asked: int = 0
    opened: int = 0
    called: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    declined: Counter[str] = field(default_factory=Counter)

    def was_refused(self, reason: str) -> None:
        """By a relay, or by who was to be met: strangers' words, of which there are not many kinds."""
        count_reason(self.refused, reason)

    def report(self, standing: Iterable[RelaysStanding]) -> RelayClientReport:
        """With what stands in each torrent."""
        each = tuple(standing)
        return RelayClientReport(
            relays=sum(one.relays for one in each),
            reservations=sum(one.reservations for one in each),
            circuits=sum(one.circuits for one in each),
            asked=self.asked,
            opened=self.opened,
            called=self.called,
            refused=dict(self.refused),
            declined=dict(self.declined),
        )
