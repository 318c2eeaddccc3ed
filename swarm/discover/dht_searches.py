"""All torrents in the DHT of one address family: which is searched for when, and the searches under way (BEP 5).

A search finds peers and, at its end, announces us to the closest nodes.  Whom to ask is `dht.node`'s business, how it
gets acquainted `swarm.discover.dht_bootstrap`'s.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from dht.results import SearchEnded
from dht.service import DhtService
from dht.table import K
from swarm.endpoint import Endpoint
from swarm.events import SourceName

INTERVAL = 900.0
"""Seconds from a search to the next: nodes forget an announce after some 30 minutes."""

JITTER = 0.1
"""Part of the interval by which it is shortened or lengthened at random: torrents added together drift apart."""

SHORTEST_INTERVAL = 60.0
"""Seconds from a search to one that somebody wants because he is out of peers, or because no node answered."""

REPEATS = (5.0, 25.0)
"""Seconds to the next search after the first, the second one in which fewer than k nodes were known or answered: at
the start they are not the closest ones yet, and peers are found and we are found only where those were asked."""

MAX_SEARCHES = 16
"""Searches under way at once, of all torrents in one family."""

FIRST_LOOK, LONGEST_LOOK, LOOK_GROWTH = 0.1, 5.0, 1.25
"""Seconds between looks whether a node is known at last, and how they grow: a quarter of the time waited, at most."""

Found = Callable[[Sequence[Endpoint], SourceName], None]


class SearchTimes:
    """When one torrent is searched for in one family.  Pure; ``now`` in seconds of any clock."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.began = -math.inf
        self._poor = 0  # searches so far that were too early, since the network was there
        self._wanted = False
        self.due = -math.inf
        """Never before: ahead of all that are only late.  Infinite while it is being searched for."""

    def begin(self, now: float) -> None:
        self.began = now
        self._wanted = False
        self.due = math.inf

    def end(self, now: float, *, known: int, answers: int) -> None:
        """A search ended, begun with ``known`` nodes; ``answers`` nodes answered."""
        if min(known, answers) < K and self._poor < len(REPEATS):
            self.due = now + REPEATS[self._poor]
            self._poor += 1
            return
        self._poor = len(REPEATS)
        if self._wanted or not answers:
            self.due = max(now, self.began + SHORTEST_INTERVAL)
        else:
            self.due = now + INTERVAL * self._rng.uniform(1 - JITTER, 1 + JITTER)

    def want_more(self, now: float) -> None:
        """Search as soon as `SHORTEST_INTERVAL` allows."""
        self._wanted = True
        if self.due < math.inf:
            self.due = min(self.due, max(now, self.began + SHORTEST_INTERVAL))

    def restart(self, now: float) -> None:
        """The network is there again: what we announced may be wrong, and whom we knew may be gone."""
        self._poor = 0
        if self.began > -math.inf:
            self.due = max(now, self.began + REPEATS[0])


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one search came to."""

    peers: int
    nodes: int
    """That answered."""
    announced: int
    """Nodes that store us."""


class Sought(Protocol):
    """A torrent, as far as its searches are concerned."""

    @property
    def info_hash(self) -> bytes: ...

    @property
    def announce(self) -> bool: ...

    @property
    def found(self) -> Found: ...


class TorrentSearch:
    """One torrent in one family.  ``last`` is its last whole search, ``peers`` what the one under way has found."""

    def __init__(self, sought: Sought, rng: random.Random) -> None:
        self.sought = sought
        self.times = SearchTimes(rng)
        self.last: Outcome | None = None
        self.peers = 0
        self.scope: trio.CancelScope | None = None

    @property
    def under_way(self) -> bool:
        return self.scope is not None


class FamilySearches:
    """One task for all torrents of a node, a short-lived one for each search under way.

    ``port`` is what strangers reach us on, 0 for none, and ``implied_port`` whether that is the port they see our
    datagrams come from; both are asked at each search.
    """

    def __init__(self, *, port: Callable[[], int], implied_port: Callable[[], bool]) -> None:
        self._port = port
        self._implied_port = implied_port
        self._searches: dict[TorrentSearch, float] = {}  # when each is in the heap for; older entries are stale
        self._heap: list[tuple[float, int, TorrentSearch]] = []
        self._sequence = itertools.count()
        self._running = 0
        self._look = FIRST_LOOK
        self._changed = trio.Event()
        self.service: DhtService | None = None
        """None while offline."""

    @property
    def knows_nodes(self) -> bool:
        return self.service is not None and self.service.statistics().nodes > 0

    def add(self, search: TorrentSearch) -> None:
        self._searches[search] = math.inf
        self.reschedule(search)

    def remove(self, search: TorrentSearch) -> None:
        """Search no more; one under way ends at once."""
        self._searches.pop(search, None)
        if search.scope is not None:
            search.scope.cancel()

    def want_more(self, search: TorrentSearch) -> None:
        search.times.want_more(trio.current_time())
        self.reschedule(search)

    def look_soon(self) -> None:
        """Somebody was asked who may answer in a moment."""
        self._look = FIRST_LOOK
        self._changed.set()

    def network_changed(self) -> None:
        """Our address may be another one: announce it."""
        for search in self._searches:
            self.want_more(search)

    async def run(self, service: DhtService) -> None:
        """Search by way of ``service`` until cancelled; searches under way are then abandoned and repeated later."""
        self.service = service
        self._look = FIRST_LOOK
        self._restart()
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    self._changed = trio.Event()
                    with trio.move_on_at(self._start_due(nursery, service)):
                        await self._changed.wait()
        finally:
            self.service = None
            self._restart()

    def reschedule(self, search: TorrentSearch) -> None:
        """When ``search`` is due may have changed."""
        due = search.times.due
        if search not in self._searches or due == self._searches[search]:
            return
        self._searches[search] = due
        if due < math.inf:
            heapq.heappush(self._heap, (due, next(self._sequence), search))
            self._changed.set()

    def _restart(self) -> None:
        now = trio.current_time()
        for search in self._searches:
            search.times.restart(now)
            self.reschedule(search)

    def _next_due(self) -> float:
        """When a search is to begin; at the bound one that ends wakes us."""
        while self._heap and self._searches.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap and self._running < MAX_SEARCHES else math.inf

    def _start_due(self, nursery: trio.Nursery, service: DhtService) -> float:
        """Begin what is due, unless there is nobody to ask; the time to come back at."""
        now = trio.current_time()
        if self._next_due() <= now and not self.knows_nodes:
            self._look = min(self._look * LOOK_GROWTH, LONGEST_LOOK)
            return now + self._look
        while self._next_due() <= now:
            search = heapq.heappop(self._heap)[2]
            search.times.begin(now)
            self._searches[search] = math.inf
            self._running += 1
            nursery.start_soon(self._search, search, service)
        return self._next_due()

    async def _search(self, search: TorrentSearch, service: DhtService) -> None:
        try:
            if search in self._searches:  # or removed before its turn
                with trio.CancelScope() as search.scope:
                    await self._carry_out(search, service)
        finally:
            search.scope = None
            self._running -= 1
            self.reschedule(search)
            self._changed.set()

    async def _carry_out(self, search: TorrentSearch, service: DhtService) -> None:
        sought = search.sought
        known = service.statistics().nodes
        port = self._port() if sought.announce else 0
        search.peers = 0
        with service.get_peers(sought.info_hash, port or None, implied_port=self._implied_port()) as peers:
            async for addresses in peers:
                search.peers += len(addresses)
                sought.found([Endpoint(*address) for address in addresses], "dht")
        ended = peers.ended
        assert isinstance(ended, SearchEnded)
        search.last = Outcome(search.peers, ended.answers, ended.announced)
        search.times.end(trio.current_time(), known=known, answers=ended.answers)
