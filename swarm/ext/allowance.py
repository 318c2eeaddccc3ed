"""How often strangers may make us do something: once in so many seconds, after a burst.  Reads no clock.

Rates of bytes are `swarm.ratelimit`'s.
"""

from __future__ import annotations

from collections.abc import Hashable

from swarm.endpoint import Endpoint

MAX_REMEMBERED = 1024
"""Keys whose allowance is remembered; beyond it those longest without use are forgotten."""


def account_of(observed: Endpoint) -> Hashable:
    """By what the peers that we see there are accounted for: what one party may have, an IPv4 address or an IPv6 /64;
    but each endpoint by itself on this machine, where all share one."""
    return observed if observed.address.is_loopback else observed.party


class Allowance:
    """How often something may happen: ``burst`` times at once, then once in ``seconds``."""

    __slots__ = ("_burst", "_full_at", "_seconds")

    def __init__(self, burst: int, seconds: float) -> None:
        self._burst = burst
        self._seconds = seconds
        self._full_at = float("-inf")

    def take(self, now: float) -> bool:
        """Whether it may happen once more, which is then accounted for."""
        if not self.has(now):
            return False
        self._full_at = max(self._full_at, now) + self._seconds
        return True

    def give_back(self) -> None:
        """One that was taken turned out to be none of those that are to be kept few."""
        self._full_at -= self._seconds

    def has(self, now: float) -> bool:
        """Whether `take` would succeed."""
        return self._full_at <= now + (self._burst - 1) * self._seconds


class Allowances:
    """An `Allowance` for each of the keys met lately, MAX_REMEMBERED of them."""

    def __init__(self, burst: int, seconds: float) -> None:
        self._burst = burst
        self._seconds = seconds
        self._kept: dict[Hashable, Allowance] = {}  # the longest unused first

    def give_back(self, key: Hashable) -> None:
        """As `Allowance.give_back`, for one key; nothing if it has been forgotten."""
        if (allowance := self._kept.get(key)) is not None:
            allowance.give_back()

    def take(self, key: Hashable, now: float) -> bool:
        """As `Allowance.take`, for one key."""
        allowance = self._kept.pop(key, None) or Allowance(self._burst, self._seconds)
        self._kept[key] = allowance
        if len(self._kept) > MAX_REMEMBERED:
            del self._kept[next(iter(self._kept))]
        return allowance.take(now)
