"""Quantiles of durations in bounded memory: a histogram with log-spaced buckets.

A histogram and not a reservoir: without dice the same durations give the same quantiles, whatever their order.
"""

from __future__ import annotations

import math

SHORTEST = 0.001
"""Seconds; what is shorter is counted as this."""

PER_OCTAVE = 8
"""Buckets from one duration to its double: a quantile is off by at most 4.5 %."""

OCTAVES = 20
"""Up to 1,049 seconds; what is longer is counted in the last bucket."""


class Durations:
    """Seconds that things took: at most 161 counts, however many things."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        """Seconds, all together."""
        self._buckets: dict[int, int] = {}
        self._shortest, self._longest = math.inf, 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds
        self._shortest, self._longest = min(self._shortest, seconds), max(self._longest, seconds)
        bucket = math.ceil(math.log2(max(seconds, SHORTEST) / SHORTEST) * PER_OCTAVE)
        bucket = min(bucket, OCTAVES * PER_OCTAVE)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

    def octaves(self) -> list[int]:
        """How many took at most SHORTEST seconds, more and at most twice that, and so on; no zeros at the end."""
        counts: list[int] = []
        for bucket in sorted(self._buckets):
            octave = -(-bucket // PER_OCTAVE)
            counts += [0] * (octave + 1 - len(counts))
            counts[octave] += self._buckets[bucket]
        return counts

    def quantile(self, part: float) -> float | None:
        """The seconds within which ``part`` (more than 0, at most 1) of all came to an end; None while there is none.

        Nearest rank; never outside what was really seen, so that one duration is told as it is.
        """
        rank = math.ceil(part * self.count)
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                middle = SHORTEST * 2 ** ((bucket - 0.5) / PER_OCTAVE)
                return min(max(middle, self._shortest), self._longest)
        return None
