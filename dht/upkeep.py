"""`Upkeep`: how a node gets to know others and stays acquainted (BEP 5): bootstrap, refresh, pings.

Decides only when and whom; the node, its `Kept`, does the asking.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from dht.datagram import Address
from dht.nodeid import random_id_sharing
from dht.search import Search
from dht.table import K, RoutingTable

TICK = 5.0  # seconds between two looks at the table, more or less
PINGS_PER_TICK = 8
FIRST_PAUSE, MAX_PAUSE = 1.0, 300.0  # seconds between two bootstraps while they fail
EXPIRY_PAUSE = 60.0  # seconds between two looks at the peer store
MAX_SEEDS = 200  # addresses from saved state, torrents and peers


class Kept(Protocol):
    """What upkeep needs of the node."""

    @property
    def node_id(self) -> bytes: ...

    def ping(self, address: Address, node_id: bytes | None, now: float) -> bool: ...

    def look_for(self, target: bytes, *, both_families: bool) -> Search:
        """Begin a find_node search of our own."""

    def stepped(self, search: Search) -> None:
        """``search`` has somebody new to ask."""

    def expire(self, now: float) -> None:
        """Forget what is too old to be kept."""


class Upkeep:
    """Bootstrap until it succeeds, then one look at the table every 5 seconds."""

    def __init__(self, kept: Kept, table: RoutingTable, rng: random.Random, routers: Sequence[Address]) -> None:
        self._kept = kept
        self._table = table
        self._rng = rng
        self._routers = routers
        self._seeds: dict[Address, None] = {}
        self._bootstrap: Search | None = None
        self._lonely = True  # no router or seed answered the last bootstrap, or we know fewer than k nodes
        self._pause = FIRST_PAUSE
        self._next_bootstrap = self._next_expiry = float("-inf")
        self._next_tick: float | None = None

    @property
    def bootstrapping(self) -> bool:
        return self._bootstrap is not None

    def start(self, now: float) -> None:
        self._next_tick = now + FIRST_PAUSE * self._rng.random()
        self._begin()

    def bootstrap(self, routers: Sequence[Address]) -> None:
        """Begin at ``routers`` now, and whenever a bootstrap fails; they replace the routers known so far."""
        self._routers = routers
        self._pause = FIRST_PAUSE
        if self._next_tick is None:
            return
        if self._bootstrap is None:
            self._begin()
            return
        for address in routers:
            self._bootstrap.lookup.add_address(address)
        self._kept.stepped(self._bootstrap)

    def add_seed(self, address: Address) -> None:
        """An address where a node may be: a bootstrap may begin there."""
        if self._lonely and len(self._seeds) < MAX_SEEDS:
            self._seeds[address] = None

    def moved(self) -> None:
        """Our id has changed: find the neighbours that it has now."""
        if self._next_tick is not None:
            self._begin()

    def finished(self, search: Search, now: float) -> None:
        """A search is over; only the bootstrap matters here."""
        if search is not self._bootstrap:
            return
        self._bootstrap = None
        shut_out = bool(self._seeds or self._routers) and not search.lookup.entered
        self._lonely = shut_out or len(self._table) < K
        if len(self._table) > K:
            for router in self._routers:
                self._table.remove(router)
        self._next_bootstrap = now + self._pause
        self._pause = min(2 * self._pause, MAX_PAUSE) if self._lonely else FIRST_PAUSE

    def next_deadline(self) -> float | None:
        return self._next_tick

    def handle_deadline(self, now: float) -> None:
        if self._next_tick is not None and now >= self._next_tick:
            pause = min(TICK, self._pause) if self._lonely else TICK
            self._next_tick = now + pause * (0.9 + 0.2 * self._rng.random())
            self._tick(now)

    def _tick(self, now: float) -> None:
        """Ping those we have not heard of for long and refresh one bucket; bootstrap again while that failed."""
        if now >= self._next_expiry:
            self._next_expiry = now + EXPIRY_PAUSE
            self._kept.expire(now)
        for contact in self._table.take_questionable(now)[:PINGS_PER_TICK]:
            self._kept.ping(contact.address, contact.node_id, now)
        if self._bootstrap is not None:
            return
        if self._lonely and now >= self._next_bootstrap:
            self._begin()
            return
        bucket = self._table.take_stale_bucket(now)
        if bucket is not None:
            own = int.from_bytes(self._kept.node_id, "big")
            self._kept.look_for(random_id_sharing(own, bucket, self._rng), both_families=False)

    def _begin(self) -> None:
        """Look for our own neighbours, by way of the routers, some seeds and whom we know."""
        self._bootstrap = self._kept.look_for(self._kept.node_id, both_families=True)
        seeds = self._rng.sample(list(self._seeds), min(K, len(self._seeds)))
        for address in (*self._routers, *seeds):
            self._bootstrap.lookup.add_address(address)
