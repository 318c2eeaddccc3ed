"""What strangers may cost us: rates, bans, and who has proved that it receives at the address it sends from.

Everything here is bounded: a flood from forged addresses makes us forget, never grow.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

MAX_REMEMBERED = 10_000  # entries of each memory here


class Rate:
    """A token bucket of ``per_second`` that holds ``burst``; it starts full."""

    __slots__ = ("_at", "_burst", "_level", "_per_second")

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = self._level = burst
        self._at = float("-inf")

    def take(self, amount: float, now: float) -> bool:
        """Whether ``amount`` was there to take."""
        level = self._level + (now - self._at) * self._per_second
        self._at = now
        self._level = level = min(level, self._burst)
        if level < amount:
            return False
        self._level = level - amount
        return True


class RatePerHost:
    """A `Rate` of datagrams for each host; the least recently created is forgotten first."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._rates: dict[Hashable, Rate] = {}

    def admits(self, host: Hashable, now: float) -> bool:
        """Whether ``host`` may send one more datagram."""
        rate = self._rates.get(host)
        if rate is None:
            if len(self._rates) >= MAX_REMEMBERED:
                del self._rates[next(iter(self._rates))]
            rate = self._rates[host] = Rate(self._per_second, self._burst)
        return rate.take(1.0, now)


class Memory(Generic[Key]):
    """Keys that are remembered for ``seconds`` after they were last seen, the latest 10,000 of them."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seen: dict[Key, float] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, key: Key, now: float) -> None:
        self._seen.pop(key, None)
        self._seen[key] = now
        if len(self._seen) > MAX_REMEMBERED:
            del self._seen[next(iter(self._seen))]

    def holds(self, key: Key, now: float) -> bool:
        seen = self._seen.get(key)
        return seen is not None and now < seen + self._seconds


class Blacklist:
    """Hosts caught lying ``strikes`` times, each within ``seconds`` of the last, are left alone for as long."""

    def __init__(self, strikes: int, seconds: float) -> None:
        self._limit = strikes
        self._seconds = seconds
        self._strikes: dict[Hashable, tuple[int, float]] = {}
        self._banned: Memory[Hashable] = Memory(seconds)

    def __bool__(self) -> bool:
        """False while nobody is banned, which is nearly always."""
        return len(self._banned) > 0

    def strike(self, host: Hashable, now: float) -> bool:
        """Note one lie; True when that was one too many."""
        count, last = self._strikes.pop(host, (0, now))
        count = count + 1 if now - last < self._seconds else 1
        if count >= self._limit:
            self._banned.add(host, now)
            return True
        self._strikes[host] = (count, now)
        if len(self._strikes) > MAX_REMEMBERED:
            del self._strikes[next(iter(self._strikes))]
        return False

    def bans(self, host: Hashable, now: float) -> bool:
        return self._banned.holds(host, now)
