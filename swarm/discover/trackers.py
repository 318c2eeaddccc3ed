"""Announcing to trackers: one task for all torrents of a node, a short-lived one for each announce under way.

The schedule of one torrent is `swarm.discover.tiers` (BEP 12), the turns of many `swarm.discover.tracker_hosts`, the
speaking `swarm.discover.tracker_client`.  Scrapes nothing: announces bring the same counts.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import trio

from swarm.discover.tiers import Tiers, Tracker
from swarm.discover.tracker_client import Family, Route, TrackerClient, TrackerRefused
from swarm.discover.tracker_hosts import Hosts
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.events import Emit, SourceName, TrackerAnswered, TrackerFailed
from swarm.wire.tracker import NUM_WANT, AnnounceEvent, AnnounceReply, AnnounceRequest

ANNOUNCE_TIMEOUT = 40.0
"""Seconds for one announce with all address families: two datagrams (at 0 and 15 s) to a UDP tracker."""

SECOND_FAMILY_TIMEOUT = 10.0
"""Seconds that the other address family still has when one was answered."""

MAX_FAREWELLS = 200
FIRST_FAREWELLS, MAX_FAREWELLS_PER_HOST = 25, 100
"""``stopped`` announces under way at once, when a node closes with thousands of torrents; and of these to one host, one
more for each that it answers: hosts that hang keep no places from those that answer."""

Found = Callable[[Sequence[Endpoint], SourceName], None]


class Counters(Protocol):
    """Totals of one torrent in bytes, as a tracker is told them; read at each announce."""

    @property
    def uploaded(self) -> int: ...

    @property
    def downloaded(self) -> int: ...

    @property
    def left(self) -> int: ...


@dataclass(frozen=True, slots=True)
class TrackerStatus:
    """One tracker of one torrent as it stands now, for "why is nothing happening?"."""

    url: str
    state: Literal["waiting", "announcing", "working", "failing", "disabled"]
    """``disabled``: it said "never" (BEP 31), or its URL is of a kind that is not supported."""
    last_error: str
    """Reason and detail of the last failure, printable; empty once it answered."""
    last_peers: int | None
    """Peers in its last reply; None before the first."""
    next_announce: float | None
    """Seconds until the next announce; None for never."""
    seeders: int | None
    leechers: int | None
    told_ago: float | None = None
    """Seconds since it last answered or failed to; None before the first."""


class Announcer:
    """Announces all torrents of a node while `run` runs.

    ``port`` is what strangers reach us on by each family, asked at each announce; ``external_address`` is told the
    address of a tracker and the one it sees us at (BEP 24).
    """

    def __init__(
        self,
        client: TrackerClient,
        *,
        port: Callable[[Family], int],
        rng: random.Random,
        emit: Emit,
        external_address: Callable[[str, str], None] = lambda reporter, host: None,
    ) -> None:
        self.client = client
        self.port = port
        self.rng = rng
        self.emit = emit
        self.external_address = external_address
        self._sources: dict[TrackerSource, float] = {}  # when each is in the heap for; older entries are stale
        self._heap: list[tuple[float, int, TrackerSource]] = []
        self._sequence = itertools.count()
        self._hosts: Hosts[tuple[TrackerSource, Tracker]] = Hosts(rng)
        self._changed = trio.Event()
        self._farewells = trio.CapacityLimiter(MAX_FAREWELLS)
        self._farewells_to: dict[str, trio.CapacityLimiter] = {}

    def add(
        self, tiers: Sequence[Sequence[str]], *, info_hash: bytes, peer_id: bytes, counters: Counters, found: Found
    ) -> TrackerSource:
        """Begin to announce a torrent; its first announces are due at once.

        ``found`` is called with the peers of every reply.  End with `TrackerSource.stop`.
        """
        source = TrackerSource(self, Tiers(tiers, self.rng), info_hash, peer_id, counters, found)
        self._sources[source] = math.inf
        self.reschedule(source)
        return source

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Announce until cancelled; announces under way are then abandoned and repeated by the next `run`."""
        try:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    self._changed = trio.Event()
                    with trio.move_on_at(self._start_due(nursery)):
                        await self._changed.wait()
        finally:
            self._reset()

    def network_changed(self) -> None:
        """Our addresses or routes changed: try what failed again, and tell the others where we are now."""
        self.client.network_changed()
        self._hosts.network_changed()
        for source in self._sources:
            source.tiers.network_changed(trio.current_time())
            self.reschedule(source)

    def port_changed(self) -> None:
        """Strangers reach us on another port than we have announced."""
        for source in self._sources:
            source.tiers.port_changed(trio.current_time())
            self.reschedule(source)

    def reschedule(self, source: TrackerSource) -> None:
        """What ``source`` has due may have moved."""
        due = source.tiers.next_due()
        if source not in self._sources or due == self._sources[source]:
            return
        self._sources[source] = due
        if not math.isinf(due) or due < 0:
            heapq.heappush(self._heap, (due, next(self._sequence), source))
            self._changed.set()

    def remove(self, source: TrackerSource) -> None:
        """Begin no more announces of ``source``."""
        self._sources.pop(source, None)

    def is_announcing(self, source: TrackerSource) -> bool:
        """Whether it was not removed."""
        return source in self._sources

    @asynccontextmanager
    async def farewell(self, tracker: Tracker) -> AsyncIterator[bool]:
        """Wait for a place to say ``stopped`` in; False if the host has not answered others lately."""
        if self._hosts.is_down(tracker.host):
            yield False
            return
        if tracker.host not in self._farewells_to:
            self._farewells_to[tracker.host] = trio.CapacityLimiter(FIRST_FAREWELLS)
        async with self._farewells_to[tracker.host], self._farewells:
            yield True

    def farewell_answered(self, tracker: Tracker) -> None:
        """The host is quick enough to be told more at once."""
        limiter = self._farewells_to[tracker.host]
        limiter.total_tokens = min(limiter.total_tokens + 1, MAX_FAREWELLS_PER_HOST)

    def _next_due(self, now: float) -> float:
        """When `_start_due` has something to do."""
        while self._heap and self._sources.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return min(self._heap[0][0] if self._heap else math.inf, self._hosts.due(now))

    def _start_due(self, nursery: trio.Nursery) -> float:
        """Begin what is due; when to come back."""
        now = trio.current_time()
        while self._next_due(now) <= now:
            while self._heap and self._heap[0][0] <= now:
                due, _, source = heapq.heappop(self._heap)
                if self._sources.get(source) == due:
                    self._take_turns(source, now)
            for (source, tracker), error, wait in self._hosts.given_up(now):
                source.put_off(tracker, error, wait)
            for host, (source, tracker) in self._hosts.begin(now, self._is_wanted):
                nursery.start_soon(self._announce, host, source, tracker)
        return self._next_due(now)

    def _take_turns(self, source: TrackerSource, now: float) -> None:
        self._sources[source] = math.inf
        for tracker in source.tiers.due(now):
            tracker.under_way = True
            self._hosts.put(tracker.host, (source, tracker), urgent=source.is_urgent)
        self.reschedule(source)

    def _is_wanted(self, announce: tuple[TrackerSource, Tracker]) -> bool:
        return self.is_announcing(announce[0])

    async def _announce(self, host: str, source: TrackerSource, tracker: Tracker) -> None:
        error, judged = None, False
        try:
            with trio.CancelScope() as scope:
                error = await source.announce(tracker, scope)
                judged = True
        finally:
            if judged:
                self._hosts.ended(host, error, trio.current_time())
            else:
                self._hosts.abandoned(host)
            self._changed.set()

    def _reset(self) -> None:
        self._hosts.clear()
        for source in self._sources:
            for tracker in source.tiers:
                tracker.under_way = False
            self.reschedule(source)


class TrackerSource:
    """The trackers of one torrent, as a source of peers.  Made by `Announcer.add`."""

    def __init__(
        self,
        announcer: Announcer,
        tiers: Tiers,
        info_hash: bytes,
        peer_id: bytes,
        counters: Counters,
        found: Found,
    ) -> None:
        self.tiers = tiers
        self._announcer = announcer
        self._info_hash = info_hash
        self._peer_id = peer_id
        self._counters = counters
        self._found = found
        self._key = announcer.rng.getrandbits(32)
        self._scopes: dict[Tracker, trio.CancelScope] = {}

    def add_tier(self, urls: Sequence[str]) -> None:
        """More trackers, learnt later (the metadata of a magnet link); known ones are left out."""
        self.tiers.add_tier(urls)
        self._announcer.reschedule(self)

    async def replace(self, tiers: Sequence[Sequence[str]]) -> None:
        """Announce to these trackers from now on; those that are out are told that we leave, as by `stop`."""
        gone = self.tiers.replace(tiers)
        self._announcer.reschedule(self)
        await self._leave_all(gone)

    def announce_again(self) -> None:
        """The user asks: announce as soon as the minimum intervals allow, also to trackers that failed."""
        self.tiers.network_changed(trio.current_time())
        self._announcer.reschedule(self)

    def want_more(self) -> None:
        """Announce again as soon as the trackers' minimum intervals allow: we are out of peers."""
        self.tiers.want_more(trio.current_time())
        self._announcer.reschedule(self)

    def completed(self) -> None:
        """Tell every tracker, once, that the download has ended.  Not for one that was complete at the start."""
        self.tiers.completed(trio.current_time())
        self._announcer.reschedule(self)

    async def stop(self) -> None:
        """Leave: end the announces under way and say ``stopped`` to the trackers that accepted a ``started``.

        Bounded by the caller's cancel scope (trackers forget us anyway, if later); what they answer is ignored.
        """
        self._announcer.remove(self)
        await self._leave_all(list(self.tiers))

    async def _leave_all(self, trackers: Sequence[Tracker]) -> None:
        for tracker in trackers:
            if (scope := self._scopes.get(tracker)) is not None:
                scope.cancel()
        async with trio.open_nursery() as nursery:
            for tracker in trackers:
                if tracker.started:
                    nursery.start_soon(self._leave, tracker)

    def statistics(self) -> tuple[TrackerStatus, ...]:
        """Every tracker, in the order of the tiers."""
        now = trio.current_time()
        return tuple(
            TrackerStatus(
                url=tracker.url,
                state="announcing" if tracker.under_way else tracker.state,
                last_error=tracker.last_error,
                last_peers=tracker.last_peers,
                next_announce=None if tracker.due == math.inf else max(0.0, tracker.due - now),
                seeders=tracker.seeders,
                leechers=tracker.leechers,
                told_ago=None if tracker.told_at is None else now - tracker.told_at,
            )
            for tracker in self.tiers
        )

    @property
    def is_urgent(self) -> bool:
        """Whether it goes before those that only seed."""
        return self._counters.left > 0

    async def announce(self, tracker: Tracker, scope: trio.CancelScope) -> RemoteError | None:
        """One announce from every address family, and what follows from it; why it failed.  For the announcer.

        ``scope`` is what it runs in: cancelled when this torrent is stopped.
        """
        self._scopes[tracker] = scope
        try:
            error = await self._announce(tracker)
            if error is not None:
                self._failed(tracker, error)
        finally:
            del self._scopes[tracker]
            tracker.under_way = False
            self._announcer.reschedule(self)
        return error

    def put_off(self, tracker: Tracker, error: RemoteError, wait: float) -> None:
        """Others did not reach the tracker: it is not tried before ``wait`` seconds.  For the announcer."""
        news = tracker.last_error != str(error)
        self.tiers.put_off(tracker, str(error), wait, trio.current_time())
        tracker.under_way = False
        if news and self._announcer.is_announcing(self):
            self._announcer.emit(TrackerFailed(self._info_hash, tracker.url, str(error), wait))
        self._announcer.reschedule(self)

    async def _announce(self, tracker: Tracker) -> RemoteError | None:
        """The error of the first family that failed, if none was answered."""
        event = tracker.event
        errors: list[RemoteError] = []
        answers = 0

        async def from_family(route: Route) -> None:
            nonlocal answers
            try:
                ours = self._from(route, request)
                reply = await client.announce(tracker.url, route, ours, rotation=tracker.failures)
            except RemoteError as error:
                errors.append(error)
                return
            answers += 1
            scope.deadline = min(scope.deadline, trio.current_time() + SECOND_FAMILY_TIMEOUT)
            self._answered(tracker, event, reply, route)

        client = self._announcer.client
        with trio.move_on_after(ANNOUNCE_TIMEOUT) as scope:
            try:
                routes = await client.routes(tracker.url)
                request = client.with_other_family(self._request(tracker, event), routes)
                tracker.stale = False
            except RemoteError as error:
                return error
            async with trio.open_nursery() as nursery:
                for route in routes:
                    nursery.start_soon(from_family, route)
        if answers:
            return None
        return errors[0] if errors else RemoteError("timed-out", f"no answer within {ANNOUNCE_TIMEOUT:.0f} s")

    async def _leave(self, tracker: Tracker) -> None:
        """Say ``stopped`` from every family; nobody is told when that fails, there is nothing to be done about it."""
        request = self._request(tracker, "stopped")
        client = self._announcer.client

        async def from_family(route: Route) -> None:
            try:
                await client.announce(tracker.url, route, self._from(route, request), rotation=tracker.failures)
            except RemoteError:
                return
            self._announcer.farewell_answered(tracker)

        async with self._announcer.farewell(tracker) as answers:
            try:
                routes = await client.routes(tracker.url) if answers else []
            except RemoteError:
                return
            async with trio.open_nursery() as nursery:
                for route in routes:
                    nursery.start_soon(from_family, route)
        tracker.started = False

    def _request(self, tracker: Tracker, event: AnnounceEvent) -> AnnounceRequest:
        return AnnounceRequest(
            info_hash=self._info_hash,
            peer_id=self._peer_id,
            port=self._announcer.port(4),  # until it is known by which family it leaves
            uploaded=self._counters.uploaded,
            downloaded=self._counters.downloaded,
            left=self._counters.left,
            event=event,
            numwant=0 if event == "stopped" else NUM_WANT,
            key=self._key,
            tracker_id=tracker.tracker_id,
        )

    def _from(self, route: Route, request: AnnounceRequest) -> AnnounceRequest:
        return replace(request, port=self._announcer.port(route.family))

    def _answered(self, tracker: Tracker, event: AnnounceEvent, reply: AnnounceReply, route: Route) -> None:
        self.tiers.answered(tracker, event, reply, trio.current_time())
        self._announcer.emit(
            TrackerAnswered(self._info_hash, tracker.url, len(reply.peers), reply.interval, reply.warning)
        )
        if reply.external_host is not None:
            self._announcer.external_address(route.remotes[0].host, reply.external_host)
        if reply.peers:
            self._found(reply.peers, "tracker")

    def _failed(self, tracker: Tracker, error: RemoteError) -> None:
        retry_in = error.retry_in if isinstance(error, TrackerRefused) else None
        wait = self.tiers.failed(tracker, str(error), retry_in, trio.current_time())
        self._announcer.emit(TrackerFailed(self._info_hash, tracker.url, str(error), wait))
