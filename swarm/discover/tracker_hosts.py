"""The hosts of trackers: many torrents share a few of them, and what one torrent learns of a host spares the others.

* Announces to one host leave at a pace, so that a thousand torrents which start together neither flood a tracker nor
  come back in step; whoever is downloading goes first.
* Few are under way at once at one host, fewer while it has not answered yet, so that hosts which hang keep no places
  from those that answer.
* A host that failed `FAILURES` times in a row is left alone for a while.  Torrents that want it meanwhile are told why
  at once, so that they turn to the next tracker of their tier; then one of them tries for all.

No BEP.  When a torrent wants to announce is `swarm.discover.tiers`.  Does no I/O, reads no clock: ``now`` in seconds.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from swarm.discover.tracker_client import TrackerRefused
from swarm.errors import RemoteError, RemoteProtocolError

MAX_ANNOUNCES = 100
"""Announces under way at once, of all torrents."""

KEPT_FREE = 4
"""One in so many of these is kept for hosts that answer."""

MAX_ANNOUNCES_PER_HOST = 4
MAX_BEFORE_ANSWER = 2
"""Of these to one host, and while it has not answered since it last failed."""

PER_SECOND, BURST = 20.0, 20
"""Announces a second to one host, and at once after a silence."""

WITHIN = 300.0
"""Seconds within which everybody who waits for one host has his turn, whatever the pace above."""

FAILURES = 3
"""Failures in a row after which a host is left alone."""

FIRST_PAUSE, LONGEST_PAUSE = 30.0, 900.0
"""Seconds for which it is, doubled each time; less than what a lone torrent waits by itself (`tiers`)."""

PAUSE_JITTER = 0.25

MAX_REMEMBERED = 1000
"""Hosts beyond which those that are in order and not used are forgotten."""

Item = TypeVar("Item")


class GivenUp(NamedTuple, Generic[Item]):
    """An announce that is not made because of what became of others; ``wait`` is when to ask again, in seconds."""

    item: Item
    error: RemoteError
    wait: float


class Hosts(Generic[Item]):
    """Announces that wait for their turn, each an ``Item``, and how many are under way, by host."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._hosts: dict[str, _Host[Item]] = {}
        self._waiting: dict[str, _Host[Item]] = {}  # those for which somebody waits
        self._running = 0

    def put(self, host: str, item: Item, *, urgent: bool = False) -> None:
        """``item`` is to be announced; if ``urgent``, before those that are not."""
        state = self._hosts.get(host)
        if state is None:
            self._forget_some()
            state = self._hosts[host] = _Host()
        (state.urgent if urgent else state.others).append(item)
        self._waiting[host] = state

    def due(self, now: float) -> float:
        """When `begin` or `given_up` has something; infinite if not before one that is under way has ended."""
        ready = (each for each in self._waiting.values() if each.is_paused(now) or self._has_place(each))
        return min((state.due(now) for state in ready), default=math.inf)

    def begin(self, now: float, wanted: Callable[[Item], bool]) -> list[tuple[str, Item]]:
        """What is to be announced now, one host after the other; each is to be followed by `ended` or `abandoned`.

        Items that are not ``wanted`` any more are dropped.
        """
        begun: list[tuple[str, Item]] = []
        again = True
        while again:
            again = False
            for host, state in list(self._waiting.items()):
                if self._has_place(state) and state.due(now) <= now and not state.is_paused(now):
                    for item in state.take(now, wanted):
                        begun.append((host, item))
                        self._running += 1
                        again = True
                    self._is_waiting(host, state)
        return begun

    def given_up(self, now: float) -> list[GivenUp[Item]]:
        """Those that wait for a host which is left alone."""
        told: list[GivenUp[Item]] = []
        for host, state in list(self._waiting.items()):
            if state.error is not None and state.is_paused(now):
                told += [GivenUp(item, state.error, state.paused_until - now) for item in state.take_all()]
                self._is_waiting(host, state)
        return told

    def ended(self, host: str, error: RemoteError | None, now: float) -> None:
        """An announce was answered, or failed for this reason."""
        self.abandoned(host)
        state = self._hosts[host]
        if error is None or _is_answer(error):
            state.answered()
        else:
            state.failed(error, now, self._rng)

    def abandoned(self, host: str) -> None:
        """An announce was broken off, which says nothing of its host."""
        self._hosts[host].running -= 1
        self._running -= 1

    def is_down(self, host: str) -> bool:
        """Whether it did not answer the last times."""
        state = self._hosts.get(host)
        return state is not None and state.failures >= FAILURES

    def network_changed(self) -> None:
        """What failed may work now."""
        for state in self._hosts.values():
            state.answered(proven=False)

    def clear(self) -> None:
        """Nothing is under way any more, and nothing waits."""
        self._waiting.clear()
        self._running = 0
        for state in self._hosts.values():
            state.running = 0
            state.take_all()

    def _has_place(self, state: _Host[Item]) -> bool:
        kept = 0 if state.proven else MAX_ANNOUNCES // KEPT_FREE
        return state.running < state.limit and self._running < MAX_ANNOUNCES - kept

    def _is_waiting(self, host: str, state: _Host[Item]) -> None:
        """To the end of the line, or out of it."""
        del self._waiting[host]
        if state.urgent or state.others:
            self._waiting[host] = state

    def _forget_some(self) -> None:
        if len(self._hosts) >= MAX_REMEMBERED:
            self._hosts = {host: state for host, state in self._hosts.items() if state.is_of_use}


class _Host(Generic[Item]):
    """What is known of one host."""

    __slots__ = ("_full_at", "_pauses", "error", "failures", "others", "paused_until", "proven", "running", "urgent")

    def __init__(self) -> None:
        self.urgent: deque[Item] = deque()
        self.others: deque[Item] = deque()
        self.running = 0
        self.proven = False
        """It has answered, and not failed since."""
        self.failures = 0
        self.error: RemoteError | None = None
        self.paused_until = -math.inf
        self._pauses = 0
        self._full_at = -math.inf

    @property
    def limit(self) -> int:
        if self.failures >= FAILURES:
            return 1
        return MAX_ANNOUNCES_PER_HOST if self.proven else MAX_BEFORE_ANSWER

    @property
    def is_of_use(self) -> bool:
        return bool(self.urgent or self.others or self.running or self.failures)

    def is_paused(self, now: float) -> bool:
        return now < self.paused_until

    def due(self, now: float) -> float:
        """When the next may begin, or be told that it may not."""
        return now if self.is_paused(now) else max(now, self._full_at - (BURST - 1) * self._interval)

    @property
    def _interval(self) -> float:
        return 1 / max(PER_SECOND, (len(self.urgent) + len(self.others)) / WITHIN)

    def take(self, now: float, wanted: Callable[[Item], bool]) -> list[Item]:
        """The next that is wanted, if there is one."""
        interval = self._interval
        while self.urgent or self.others:
            item = (self.urgent or self.others).popleft()
            if wanted(item):
                self._full_at = max(self._full_at, now) + interval
                self.running += 1
                return [item]
        return []

    def take_all(self) -> list[Item]:
        everybody = [*self.urgent, *self.others]
        self.urgent.clear()
        self.others.clear()
        return everybody

    def answered(self, *, proven: bool = True) -> None:
        self.proven = proven
        self.failures = self._pauses = 0
        self.error = None
        self.paused_until = -math.inf

    def failed(self, error: RemoteError, now: float, rng: random.Random) -> None:
        self.proven = False
        self.failures += 1
        self.error = error
        if self.failures >= FAILURES and not self.is_paused(now):  # not for each of those begun before
            pause = min(FIRST_PAUSE * 2.0 ** min(self._pauses, 16), LONGEST_PAUSE)
            self.paused_until = now + pause * rng.uniform(1 - PAUSE_JITTER, 1 + PAUSE_JITTER)
            self._pauses += 1


def _is_answer(error: RemoteError) -> bool:
    """Whether the host did answer: what it says against one torrent says nothing of the others."""
    if isinstance(error, TrackerRefused | RemoteProtocolError):
        return True
    return error.reason.startswith("http-4") and error.reason != "http-429"
