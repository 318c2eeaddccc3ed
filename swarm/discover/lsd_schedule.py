"""When each torrent is announced through one socket of Local Service Discovery.  Reads no clock: ``now`` is in seconds.

The BEP asks for at most one announcement a minute.  Here that holds for each torrent, save for answers to newcomers;
all of them together send one datagram a second, as libtorrent does.  aria2 and Transmission 3 read only the first
info-hash, and nothing of a datagram beyond 200 bytes, so each torrent leaves alone until too many wait
(`PACKED_BEYOND`).
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Iterable, Sequence

from swarm.wire.lsd import MAX_INFO_HASHES

ANNOUNCE_INTERVAL = (270.0, 300.0)
"""Seconds between two announcements of a torrent through one socket; drawn, so that neighbours do not fall in step."""

MIN_INTERVAL = 60.0
"""Seconds from the first to the second, so soon because multicast over Wi-Fi is lost often."""

FIRST_WITHIN = 0.2
"""Seconds in which the first announcement is sent."""

ANSWER_WITHIN = 2.0
"""Seconds in which a newcomer is answered: a hundred neighbours must not do so at the same moment."""

SECONDS_PER_DATAGRAM = 1.0
BURST = 5
"""Datagrams that leave one socket at once after a silence, before the above applies."""

PACKED_BEYOND = 10
"""Torrents that wait for their turn beyond which they leave together, up to MAX_INFO_HASHES in a datagram."""

ANSWER_INTERVAL = 10.0
"""Seconds at least from an announcement to one that answers.  With a minute here, of two machines switched on together
the later one would wait for as long to hear of the other; libtorrent sends every announcement three times in six."""

RETRY_AFTER = 10.0
"""Seconds until a send that failed is repeated, and until the port is asked for again when there is none."""


class Schedule:
    """The torrents of one socket."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._due: dict[bytes, float] = {}  # -inf: waiting; an entry of the heap that says otherwise is stale
        self._last: dict[bytes, float] = {}  # when each was announced
        self._heap: list[tuple[float, bytes]] = []
        self._waiting: deque[bytes] = deque()
        self._paid_until = -math.inf  # each datagram pays for SECONDS_PER_DATAGRAM
        self._not_before = -math.inf

    def add(self, info_hash: bytes, now: float) -> None:
        """First announced within FIRST_WITHIN."""
        self._set(info_hash, now + self._rng.uniform(0, FIRST_WITHIN))

    def remove(self, info_hash: bytes) -> None:
        """Announced no more."""
        if self._due.pop(info_hash) == -math.inf:
            self._waiting.remove(info_hash)
        self._last.pop(info_hash, None)

    def answer(self, info_hash: bytes, now: float) -> None:
        """Announced within ANSWER_WITHIN, or as soon as ANSWER_INTERVAL has passed since the last time."""
        earliest = self._last.get(info_hash, -math.inf) + ANSWER_INTERVAL
        due = max(earliest, now + self._rng.uniform(0, ANSWER_WITHIN))
        if due < self._due[info_hash]:
            self._set(info_hash, due)

    def ready_at(self) -> float:
        """When `take` has something, or has to be asked again."""
        if not self._due:
            return math.inf
        due = -math.inf if self._waiting else self._heap[0][0]
        return max(due, self._not_before, self._paid_until - (BURST - 1) * SECONDS_PER_DATAGRAM)

    def take(self, now: float) -> Sequence[bytes]:
        """The info-hashes of the next datagram: one, or many if many wait.

        Handed back by `announced` or `put_off`.
        """
        while self._heap and self._heap[0][0] <= now:
            due, info_hash = heapq.heappop(self._heap)
            if self._due.get(info_hash) == due:
                self._due[info_hash] = -math.inf
                self._waiting.append(info_hash)
        count = MAX_INFO_HASHES if len(self._waiting) > PACKED_BEYOND else 1
        return [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]

    def announced(self, info_hashes: Iterable[bytes], now: float) -> None:
        """These have left in one datagram."""
        self._paid_until = max(self._paid_until, now) + SECONDS_PER_DATAGRAM
        for info_hash in info_hashes:
            first = info_hash not in self._last
            self._last[info_hash] = now
            self._set(info_hash, now + (MIN_INTERVAL if first else self._rng.uniform(*ANNOUNCE_INTERVAL)))

    def put_off(self, info_hashes: Sequence[bytes], now: float) -> None:
        """These have not left; neither they nor others are tried before RETRY_AFTER."""
        if info_hashes:
            self._waiting.extendleft(reversed(info_hashes))
            self._not_before = now + RETRY_AFTER

    def _set(self, info_hash: bytes, due: float) -> None:
        self._due[info_hash] = due
        heapq.heappush(self._heap, (due, info_hash))
