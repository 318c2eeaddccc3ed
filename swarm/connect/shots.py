"""Who has us shoot, and how often: an introducer may lie about who wants to meet us, and each shot costs whoever is
there five datagrams and a few SYNs of TCP.

Bounded for the whole node; and for each introducer's address, so that one liar leaves three quarters to the others.
Shots that met somebody are given back, and who had us meet somebody lately is not held up by what others waste.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from functools import partial

from swarm.endpoint import Endpoint
from swarm.ext.allowance import Allowance, Allowances, account_of

MAX_SHOTS = 16
MAX_SHOTS_OF_ONE = 4
"""Under way, of the whole node and because of one introducer."""

SHOTS_BURST, SHOTS_SECONDS = 24, 2.0
ONE_BURST, ONE_SECONDS = 6, 8.0
"""Those that come to nothing, likewise: so many at once, then one in so many seconds."""

MAX_TRUSTED = 64
"""Introducers remembered who had us meet somebody; the oldest is forgotten."""


Ended = Callable[[bool], None]
"""To be told whether a shot has met somebody, once."""


class Shots:
    """One for a node.  Times are seconds of the caller's clock."""

    def __init__(self) -> None:
        self.under_way = 0
        self._of_one: Counter[Hashable] = Counter()
        self._all = Allowance(SHOTS_BURST, SHOTS_SECONDS)
        self._each = Allowances(ONE_BURST, ONE_SECONDS)
        self._trusted: dict[Hashable, None] = {}

    def take(self, introducer: Endpoint, now: float) -> Ended | None:
        """Whether to shoot because ``introducer`` says so: what to call in the end; None if not."""
        party = account_of(introducer)
        trusted = party in self._trusted
        if self._of_one[party] >= MAX_SHOTS_OF_ONE or (self.under_way >= MAX_SHOTS and not trusted):
            return None
        if not self._each.take(party, now):
            return None
        of_all = self._all.take(now)
        if not of_all and not trusted:
            return None
        self.under_way += 1
        self._of_one[party] += 1
        return partial(self._ended, party, of_all)

    def _ended(self, party: Hashable, of_all: bool, met: bool) -> None:
        self.under_way -= 1
        self._of_one[party] -= 1
        if not self._of_one[party]:
            del self._of_one[party]
        self._trusted.pop(party, None)
        if not met:
            return
        if of_all:
            self._all.give_back()
        self._each.give_back(party)
        self._trusted[party] = None
        if len(self._trusted) > MAX_TRUSTED:
            del self._trusted[next(iter(self._trusted))]
