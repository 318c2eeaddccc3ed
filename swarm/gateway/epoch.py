"""Has the gateway forgotten our mappings?  Its epoch tells (RFC 6886 §3.6, RFC 6887 §8.5).

Every response says how many seconds ago the gateway started or lost its state.  A count that does not keep pace with
our clock means that it did so again.  Re-makes nothing.
"""

from __future__ import annotations

from typing import Literal

SLACK = 2  # seconds by which two clocks may differ for reasons of rounding and delay


class EpochWatch:
    """What one gateway's epochs have been.  ``rule`` is the protocol whose comparison is made."""

    def __init__(self, rule: Literal["nat-pmp", "pcp"]) -> None:
        self._lost = _natpmp_lost if rule == "nat-pmp" else _pcp_lost
        self._heard: tuple[int, float] | None = None

    def heard(self, epoch: int, now: float) -> bool:
        """Take an epoch that came at ``now`` (a clock that goes on while we are suspended).

        True if the gateway has lost its state since the epoch before; the first one never says so.
        """
        before, self._heard = self._heard, (epoch, now)
        return before is not None and self._lost(before[0], epoch, now - before[1])


def _natpmp_lost(before: int, epoch: int, passed: float) -> bool:
    """Slower than 7/8 of our clock (RFC 6886 §3.6); a faster one is only inexact."""
    return epoch < before + passed * 7 / 8 - SLACK


def _pcp_lost(before: int, epoch: int, passed: float) -> bool:
    """Backwards by more than a second, or out of step by more than 1/16 either way (RFC 6887 §8.5)."""
    server_passed = epoch - before
    if server_passed < -1:
        return True
    return passed + SLACK < server_passed * 15 / 16 or server_passed + SLACK < passed * 15 / 16
