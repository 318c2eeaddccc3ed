"""`Searches`: the searches of a node, so many at a time, the others in the order in which they were asked for.

What one search does is `dht.search`; here it is decided which of them run, and what comes of them is reported.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from dht.compact import Node
from dht.datagram import Address
from dht.errors import LocalProtocolError
from dht.lookup import Lookup
from dht.nodeid import ID_SIZE
from dht.results import PeersFound, Result, SearchEnded
from dht.search import Announcement, Asker, OnPeers, Search


class Seeker(Asker, Protocol):
    """What the searches together need of the node."""

    def nodes_near(self, target: bytes) -> Iterable[Node]:
        """Where to begin."""

    def peers_here(self, info_hash: bytes, now: float) -> list[Address]:
        """What we store ourselves."""

    def search_over(self, search: Search, now: float) -> None: ...


class Searches:
    """At most ``max_running`` searches for peers run at once; the node's own (`look_for`) run in any case.

    ``report`` takes `PeersFound` and, at the end of a search, `SearchEnded`.
    """

    def __init__(self, seeker: Seeker, *, ipv6: bool, max_running: int, report: Callable[[Result], None]) -> None:
        self._seeker = seeker
        self._ipv6 = ipv6
        self._max_running = max_running
        self._report = report
        self._handles = 0
        self._waiting: deque[_Request] = deque()
        self._running: dict[int, Search] = {}
        self._ready: dict[Search, None] = {}
        self.begun = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def may_go_on(self) -> bool:
        """Whether an outcome came in that some search has not acted on."""
        return bool(self._ready)

    def request(self, target: bytes, announcement: Announcement | None) -> int:
        """Search for peers when it is its turn; the handle.  LocalProtocolError for a target that is not 20 bytes."""
        if len(target) != ID_SIZE:
            raise LocalProtocolError(f"an info-hash has {ID_SIZE} bytes, not {len(target)}")
        self._handles += 1
        self._waiting.append(_Request(self._handles, target, announcement))
        return self._handles

    def look_for(self, target: bytes, want: int) -> Search:
        """A find_node search of our own, at once; it reports nothing."""
        self._handles += 1
        return self._begin(self._handles, target, peers_wanted=False, want=want)

    def cancel(self, handle: int) -> None:
        search = self._running.pop(handle, None)
        if search is not None:
            self._ready.pop(search, None)
        else:
            self._waiting = deque(request for request in self._waiting if request.handle != handle)

    def stepped(self, search: Search) -> None:
        if search.handle in self._running:
            self._ready[search] = None

    def step(self, now: float) -> None:
        """Let the searches that can go on do so, and begin the next ones."""
        while True:
            while self._waiting and len(self._running) < self._max_running and self._seeker.may_ask:
                self._begin_request(self._waiting.popleft(), now)
            if not self._ready:
                return
            search = next(iter(self._ready))
            del self._ready[search]
            if search.step(now):
                self._finish(search, now)
            elif not self._seeker.may_ask:
                self._ready[search] = None
                return

    def _begin_request(self, request: _Request, now: float) -> None:
        search = self._begin(
            request.handle,
            request.target,
            peers_wanted=True,
            announcement=request.announcement,
            on_peers=self._peers_found,
        )
        search.found(self._seeker.peers_here(request.target, now))

    def _begin(
        self,
        handle: int,
        target: bytes,
        *,
        peers_wanted: bool,
        announcement: Announcement | None = None,
        want: int = 0,
        on_peers: OnPeers | None = None,
    ) -> Search:
        lookup = Lookup(target, ipv6=self._ipv6, own_id=self._seeker.node_id)
        lookup.add(self._seeker.nodes_near(target))
        search = Search(
            self._seeker,
            handle,
            lookup,
            peers_wanted=peers_wanted,
            announcement=announcement,
            want=want,
            on_peers=on_peers,
        )
        self.begun += 1
        self._running[handle] = search
        self._ready[search] = None
        return search

    def _peers_found(self, search: Search, peers: list[Address]) -> None:
        if search.handle in self._running:
            self._report(PeersFound(search.handle, tuple(peers)))

    def _finish(self, search: Search, now: float) -> None:
        del self._running[search.handle]
        self._seeker.search_over(search, now)
        if search.reporting:
            announced = len(search.acknowledged)
            self._report(SearchEnded(search.handle, search.queries, search.answers, announced, search.hops))


@dataclass(frozen=True, slots=True)
class _Request:
    handle: int
    target: bytes
    announcement: Announcement | None
