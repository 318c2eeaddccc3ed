"""When a run that does not move is to be explained, and when it is to be given up.  No clock: time is passed in."""

from __future__ import annotations

from collections.abc import Sequence

SILENCE = 10.0
"""Seconds without data after which the reasons are said."""

REPEAT = 30.0
"""Seconds between two such explanations, however the reasons change."""


class StallWatch:
    """Looks at a number that changes whenever something moves."""

    def __init__(self, now: float) -> None:
        self._seen: object = None
        self._moved_at = now
        self._said_at: float | None = None
        self._said: tuple[str, ...] = ()

    def look(self, now: float, mark: object) -> float:
        """Seconds for which ``mark`` has been the same."""
        if mark != self._seen:
            self._seen = mark
            self._moved_at = now
            self._said_at, self._said = None, ()
        return now - self._moved_at

    def is_due(self, now: float) -> bool:
        """Whether it is time to ask for reasons."""
        if now - self._moved_at < SILENCE:
            return False
        return self._said_at is None or now - self._said_at >= REPEAT

    def worth_saying(self, now: float, reasons: Sequence[str]) -> bool:
        """Whether ``reasons`` are news; if so they count as said."""
        if tuple(reasons) == self._said:
            return False
        self._said_at, self._said = now, tuple(reasons)
        return True
