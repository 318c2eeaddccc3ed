"""How the search for the metadata goes (BEP 9), in numbers and in a phrase for the user.  Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

Outcome = Literal["waiting", "answered", "refused", "silent"]
"""Of the latest request to a peer."""


class Standing(NamedTuple):
    """What is known of one peer."""

    asked: bool
    outcome: Outcome
    size: int | None
    """Bytes of metadata that it claims; None if it does not."""

    absurd: bool
    """It claims a size that cannot be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataStatistics:
    """A snapshot; peers that left are included."""

    peers_asked: int
    """Peers that claim to have the metadata and were asked for it."""

    answered: int
    refused: int
    silent: int
    """Of those asked: what became of the latest request; the others are still waited for."""

    peers_without: int
    """Peers that do not speak the extension, or do not claim to have the metadata."""

    blocks_had: int
    blocks_total: int
    """Blocks of 16 KiB in the copy that is furthest; 0 of 0 while no size is known."""

    size_liars: int
    """Peers that claim a size that cannot be or, once it is known, that is not the true one."""

    hash_failures: int
    """Copies that were complete and false."""

    liars: int
    """Peers that certainly sent false blocks."""

    @classmethod
    def of(
        cls,
        standings: Iterable[Standing],
        *,
        without: int,
        blocks_had: int,
        blocks_total: int,
        size: int | None,
        hash_failures: int,
        liars: int,
    ) -> MetadataStatistics:
        """``size`` is the true one, if known; ``without`` counts peers beside those that have a standing."""
        peers = list(standings)
        claiming = [peer for peer in peers if peer.size is not None]
        asked = [peer for peer in claiming if peer.asked]
        wrong = sum(peer.size != size for peer in claiming) if size is not None else 0
        return cls(
            peers_asked=len(asked),
            answered=sum(peer.outcome == "answered" for peer in asked),
            refused=sum(peer.outcome == "refused" for peer in asked),
            silent=sum(peer.outcome == "silent" for peer in asked),
            peers_without=without + sum(peer.size is None and not peer.absurd for peer in peers),
            blocks_had=blocks_had,
            blocks_total=blocks_total,
            size_liars=wrong + sum(peer.absurd for peer in peers),
            hash_failures=hash_failures,
            liars=liars,
        )

    def why(self) -> str:
        """From how many peers the metadata was asked and why it is not there: one phrase, no full stop.

        "asked 3 peers: 1 refused, 2 did not answer; 4 of 9 blocks".
        """
        clauses = [self._asked(), self._without(), self._lies()]
        if self.blocks_total:
            clauses.append(f"{self.blocks_had} of {_counted(self.blocks_total, 'block')}")
        return "; ".join(clause for clause in clauses if clause)

    def _asked(self) -> str:
        if not self.peers_asked:
            return "" if self.peers_without else "no peer to ask"
        fates = [
            f"{self.refused} refused" if self.refused else "",
            f"{self.silent} did not answer" if self.silent else "",
        ]
        told = ", ".join(fate for fate in fates if fate)
        return f"asked {_counted(self.peers_asked, 'peer')}" + (f": {told}" if told else "")

    def _without(self) -> str:
        if not self.peers_without:
            return ""
        return f"{_counted(self.peers_without, 'peer')} {'does' if self.peers_without == 1 else 'do'} not offer it"

    def _lies(self) -> str:
        false = self.liars + self.size_liars
        return f"{_counted(false, 'peer')} told lies" if false else ""


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
