"""When the torrents of a node are searched for in one family's DHT, and in which order.  Pure: does no I/O.

No BEP says when.  ``now`` is in seconds of any clock.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

INTERVAL = 900.0
"""Seconds from a search to the next: nodes forget an announce after some 30 minutes."""

JITTER = 0.1
"""Part of the interval by which it is shortened or lengthened at random: torrents added together drift apart."""

SHORTEST_INTERVAL = 60.0
"""Seconds from a search to one that somebody wants because he is out of peers, or because no node answered."""

REPEATS = (5.0, 25.0)
"""Seconds to the next search after the first and the second that came too early: those who were asked were not the
closest nodes yet, and peers are found, and we are found, only where those are asked."""

BURST, SEARCHES_PER_SECOND = 16, 2.0
"""Searches begun at once, and how many a second from then on in one family.  Each asks some twenty nodes, mostly
others than the one before: a home router's UDP mappings (a few thousand, kept for a minute or more) must suffice."""

HEADROOM = 1.25
"""More torrents than this reaches within `INTERVAL` are searched for as fast as that takes, and by so much faster."""


class SearchTimes:
    """When one torrent is searched for in one family.  Pure; ``now`` in seconds of any clock."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.began = -math.inf
        self._early = 0  # searches so far that were too early, since the network was there
        self._wanted = False
        self._again = False
        self.due = -math.inf
        """Infinite while it is being searched for."""

    @property
    def urgent(self) -> bool:
        """Whether it goes ahead of others that are due: somebody is out of peers, or the last search was too early."""
        return self._wanted or 0 < self._early < len(REPEATS)

    def begin(self, now: float) -> None:
        self.began = now
        self._wanted = self._again = False
        self.due = math.inf

    def end(self, now: float, *, answers: int, early: bool) -> None:
        """A search ended in which ``answers`` nodes answered; ``early``: there were more to be known soon."""
        if early and self._early < len(REPEATS):
            self.due = now + REPEATS[self._early]
            self._early += 1
            return
        self._early = len(REPEATS)
        if self._wanted or self._again or not answers:
            self.due = max(now, self.began + SHORTEST_INTERVAL)
        else:
            self.due = now + INTERVAL * self._rng.uniform(1 - JITTER, 1 + JITTER)

    def want_more(self, now: float) -> None:
        """Somebody is out of peers."""
        self._wanted = True
        self.hasten(now)

    def hasten(self, now: float) -> None:
        """Search as soon as `SHORTEST_INTERVAL` allows; after the search under way, as it announces what was true."""
        if self.due == math.inf:
            self._again = True
        else:
            self.due = min(self.due, max(now, self.began + SHORTEST_INTERVAL))

    def restart(self, now: float) -> None:
        """The network is there again: what we announced may be wrong, and whom we knew may be gone."""
        self._early = 0
        if self.began > -math.inf:
            self.due = max(now, self.began + REPEATS[0])


class Timed(Protocol):
    """What is searched for."""

    @property
    def times(self) -> SearchTimes: ...


Item = TypeVar("Item", bound=Timed)


class SearchQueue(Generic[Item]):
    """All that is searched for, in the order: what is urgent, what never was searched for, what is late for longest.

    After every change of an item's ``times`` call `reschedule`.
    """

    def __init__(self) -> None:
        self._turns: dict[Item, _Turn[Item] | None] = {}  # turns in the heaps that are not here are stale
        self._later: list[tuple[float, int, _Turn[Item]]] = []
        self._due: list[tuple[bool, float, int, _Turn[Item]]] = []  # the urgent ones first
        self._sequence = itertools.count()
        self._slot = -math.inf  # the earliest time at which the pace lets the next search begin

    def __contains__(self, item: Item) -> bool:
        return item in self._turns

    def __iter__(self) -> Iterator[Item]:
        return iter(self._turns)

    def add(self, item: Item) -> None:
        self._turns[item] = None
        self.reschedule(item)

    def remove(self, item: Item) -> None:
        """Unknown ones are none."""
        self._turns.pop(item, None)

    def reschedule(self, item: Item) -> bool:
        """Whether it is due at another time or with another urgency than before."""
        if item not in self._turns:
            return False
        due, urgent = item.times.due, item.times.urgent
        turn = self._turns[item]
        if turn is not None and (turn.due, turn.urgent) == (due, urgent):
            return False
        self._turns[item] = None
        if due < math.inf:
            turn = self._turns[item] = _Turn(item, due, urgent)
            heapq.heappush(self._later, (due, next(self._sequence), turn))
        return True

    def next_due(self, now: float) -> float:
        """When the next search may begin; infinite for never."""
        while self._later and (self._later[0][0] <= now or self._is_stale(self._later[0][-1])):
            due, number, turn = heapq.heappop(self._later)
            heapq.heappush(self._due, (not turn.urgent, due, number, turn))
        while self._due and self._is_stale(self._due[0][-1]):
            heapq.heappop(self._due)
        if self._due:
            return max(now, self._slot)
        return max(self._later[0][0], self._slot) if self._later else math.inf

    def take(self, now: float) -> Item:
        """The one that is to be searched for now, where `next_due` says so; IndexError otherwise."""
        item = heapq.heappop(self._due)[-1].item
        item.times.begin(now)
        self._turns[item] = None
        rate = max(SEARCHES_PER_SECOND, HEADROOM * len(self._turns) / INTERVAL)
        self._slot = max(self._slot, now - (BURST - 1) / rate) + 1 / rate
        return item

    def _is_stale(self, turn: _Turn[Item]) -> bool:
        return self._turns.get(turn.item) is not turn


@dataclass(frozen=True, slots=True, eq=False)
class _Turn(Generic[Item]):
    """A place in the queue: valid as long as it is the one its item has."""

    item: Item
    due: float
    urgent: bool
