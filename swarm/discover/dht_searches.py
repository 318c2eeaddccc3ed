"""All torrents in the DHT of one address family: the searches under way (BEP 5).

A search finds peers and, at its end, announces us to the closest nodes.  Which is next says `swarm.discover.dht_queue`,
whom to ask `dht.node`, how that gets acquainted `swarm.discover.dht_bootstrap`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from dht.results import SearchEnded
from dht.service import DhtService
from dht.table import K
from swarm.discover.dht_queue import SearchQueue, SearchTimes
from swarm.endpoint import Endpoint
from swarm.events import SourceName

MAX_SEARCHES = 16
"""Searches under way at once, of all torrents in one family."""

FIRST_LOOK, LONGEST_LOOK, LOOK_GROWTH = 0.1, 5.0, 1.25
"""Seconds between looks whether a node is known at last, and how they grow: a quarter of the time waited, at most."""

YOUNG = 60.0
"""Seconds for which a table is still growing fast: a search with fewer than k nodes in that time came too early."""

Found = Callable[[Sequence[Endpoint], SourceName], None]


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
        self._queue: SearchQueue[TorrentSearch] = SearchQueue()
        self._running = 0
        self._look = FIRST_LOOK
        self._known_since: float | None = None  # when the table was last seen to be empty no more
        self._changed = trio.Event()
        self.service: DhtService | None = None
        """None while offline."""

    @property
    def knows_nodes(self) -> bool:
        return self.service is not None and self.service.statistics().nodes > 0

    def add(self, search: TorrentSearch) -> None:
        self._queue.add(search)
        self._changed.set()

    def remove(self, search: TorrentSearch) -> None:
        """Search no more; one under way ends at once."""
        self._queue.remove(search)
        if search.scope is not None:
            search.scope.cancel()

    def want_more(self, search: TorrentSearch) -> None:
        search.times.want_more(trio.current_time())
        if self._queue.reschedule(search):
            self._changed.set()

    def look_soon(self) -> None:
        """Somebody was asked who may answer in a moment."""
        self._look = FIRST_LOOK
        self._changed.set()

    def network_changed(self) -> None:
        """Our address may be another one: announce it."""
        now = trio.current_time()
        for search in self._queue:
            search.times.hasten(now)
            self._queue.reschedule(search)
        self._changed.set()

    async def run(self, service: DhtService) -> None:
        """Search by way of ``service`` until cancelled; searches under way are then abandoned and repeated later."""
        self.service = service
        self._look = FIRST_LOOK
        self._known_since = None
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

    def _restart(self) -> None:
        now = trio.current_time()
        for search in self._queue:
            search.times.restart(now)
            self._queue.reschedule(search)

    def _start_due(self, nursery: trio.Nursery, service: DhtService) -> float:
        """Begin what is due, unless there is nobody to ask; the time to come back at."""
        now = trio.current_time()
        if self._queue.next_due(now) <= now and not self.knows_nodes:
            self._known_since = None
            self._look = min(self._look * LOOK_GROWTH, LONGEST_LOOK)
            return now + self._look
        if self._known_since is None:
            self._known_since = now
        while self._running < MAX_SEARCHES:
            due = self._queue.next_due(now)
            if due > now:
                return due
            self._running += 1
            nursery.start_soon(self._search, self._queue.take(now), service)
        return math.inf  # one that ends wakes us

    async def _search(self, search: TorrentSearch, service: DhtService) -> None:
        try:
            if search in self._queue:  # or removed before its turn
                with trio.CancelScope() as search.scope:
                    await self._carry_out(search, service)
        finally:
            search.scope = None
            self._running -= 1
            self._queue.reschedule(search)
            self._changed.set()

    async def _carry_out(self, search: TorrentSearch, service: DhtService) -> None:
        sought = search.sought
        known, young = service.statistics().nodes, self._is_young()
        port = self._port() if sought.announce else 0
        search.peers = 0
        with service.get_peers(sought.info_hash, port or None, implied_port=self._implied_port()) as peers:
            async for addresses in peers:
                # We find ourselves too: that would be told to the user as a peer, and dialled.
                ourselves = (service.node.external_host, self._port())
                others = [Endpoint(*address) for address in addresses if address != ourselves]
                search.peers += len(others)
                if others:
                    sought.found(others, "dht")
        ended = peers.ended
        assert isinstance(ended, SearchEnded)
        search.last = Outcome(search.peers, ended.answers, ended.announced)
        early = young and min(known, ended.answers) < K
        search.times.end(trio.current_time(), answers=ended.answers, early=early)

    def _is_young(self) -> bool:
        return self._known_since is None or trio.current_time() < self._known_since + YOUNG
