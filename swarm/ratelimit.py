"""Rate limits as token buckets that may go into debt.

A user of a bucket takes what it has already moved (the size of a read is not known before) and then waits until the
debt is paid.  Every byte is taken and nobody moves more before that, so the long-run rate is exact; what may
be moved beyond it is one burst and the debt of one round.

Fairness: the debt is one for all, so each user waits for those before it, and nobody has two turns while another waits
for its first.  `grant` keeps the turns small while a limit is on, and the smaller the deeper the bucket is in debt:
with fifty users the debt of a round is ten grants, not fifty.
Does not sleep and reads no clock: callers do.
"""

from __future__ import annotations

from collections.abc import Iterable

UNLIMITED = 1 << 30
"""The grant of a bucket without a limit: more than anybody moves at once."""

BURST_SECONDS = 0.1
"""How long unused tokens are saved up: a tenth of a second costs 1 % accuracy over ten seconds."""

MIN_BURST = 4 << 10

GRANT_SECONDS = 0.02
MIN_GRANT = 2 << 10
MAX_GRANT = 64 << 10


class TokenBucket:
    """``rate`` bytes per second, 0 for no limit; up to ``burst`` bytes are saved up while nothing is moved.

    Times are seconds of one monotonic clock; a time before the latest one seen counts as that one.
    """

    __slots__ = ("_burst", "_fixed_burst", "_rate", "_tokens", "_updated")

    def __init__(self, rate: float = 0, burst: float | None = None, *, now: float = 0.0) -> None:
        self._fixed_burst = burst
        self._tokens = 0.0
        self._updated = now
        self._set(rate)

    @property
    def rate(self) -> float:
        return self._rate

    def set_rate(self, rate: float, now: float) -> None:
        """Change the limit; 0 lifts it and forgives the debt.  Debts are in bytes, so a higher rate pays them sooner.

        A user that sleeps on an earlier answer of `take` does not learn of it: wake it, or let it sleep in short turns.
        """
        self._settle(now)
        self._set(rate)

    def take(self, count: int, now: float) -> float:
        """Account for ``count`` bytes; the seconds to wait before moving more (0 without a limit)."""
        if not self._rate:
            return 0.0
        self._settle(now)
        self._tokens -= count
        return -self._tokens / self._rate if self._tokens < 0 else 0.0

    def delay(self, now: float) -> float:
        """Seconds until the debt is paid."""
        return self.take(0, now)

    def available(self, now: float) -> int:
        """Bytes that may be moved without going into debt; UNLIMITED without a limit, 0 in debt."""
        if not self._rate:
            return UNLIMITED
        self._settle(now)
        return max(int(self._tokens), 0)

    @property
    def grant(self) -> int:
        """Bytes that one user should move in one turn, so that debts are short and turns go round."""
        if not self._rate:
            return UNLIMITED
        grant = min(self._rate * GRANT_SECONDS, MAX_GRANT)
        if self._tokens < 0:
            grant /= 1 - self._tokens / grant
        return max(int(grant), MIN_GRANT)

    def _set(self, rate: float) -> None:
        if rate < 0:
            raise ValueError(f"a rate of {rate} bytes per second")
        self._rate = rate
        self._burst = max(rate * BURST_SECONDS, MIN_BURST) if self._fixed_burst is None else self._fixed_burst
        self._tokens = min(self._tokens, self._burst) if rate else 0.0

    def _settle(self, now: float) -> None:
        elapsed = now - self._updated
        if elapsed > 0:
            self._tokens = min(self._tokens + elapsed * self._rate, self._burst)
            self._updated = now


class Share(TokenBucket):
    """A bucket as those of its users see it who are to have ``weight`` (at least 1) times what others have of it.

    They wait for that part of the debt only.  The debt grows until all together move what the bucket allows, to
    ``weight`` rounds instead of one; from then on its rate is as exact as before, and whoever is alone has all of it.
    """

    __slots__ = ("_shared", "weight")

    def __init__(self, shared: TokenBucket) -> None:
        super().__init__()
        self._shared = shared
        self.weight = 1.0

    @property
    def rate(self) -> float:
        return self._shared.rate

    @property
    def grant(self) -> int:
        return self._shared.grant

    def set_rate(self, rate: float, now: float) -> None:
        """Change it for all."""
        self._shared.set_rate(rate, now)

    def take(self, count: int, now: float) -> float:
        """As `TokenBucket.take`, with the shorter wait."""
        return self._shared.take(count, now) / self.weight

    def available(self, now: float) -> int:
        return self._shared.available(now)


def take_all(buckets: Iterable[TokenBucket], count: int, now: float) -> float:
    """Account for ``count`` bytes in every bucket (node and torrent); the longest wait any of them asks for."""
    return max((bucket.take(count, now) for bucket in buckets), default=0.0)


def grant_all(buckets: Iterable[TokenBucket]) -> int:
    """Bytes to move in one turn under all these limits; UNLIMITED if there are none."""
    return min((bucket.grant for bucket in buckets), default=UNLIMITED)
