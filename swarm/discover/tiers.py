"""The trackers of one torrent: which is due when, with which event (BEP 12, BEP 3, BEP 31).  Does no I/O.

BEP 12 has a client stop at the first tier that answers.  Here every tier is announced to, one tracker of each, as
Transmission does and qBittorrent by default: two swarms that share one torrent but not their first tracker would
otherwise never meet.  Within a tier the BEP holds: shuffled once, in order until one works, which moves to the front.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from swarm.wire.tracker import AnnounceEvent, AnnounceReply

TrackerState = Literal["waiting", "working", "failing", "disabled"]

FIRST_BACK_OFF = 15.0
LONGEST_BACK_OFF = 1800.0
"""Seconds to the next try after the first failure, doubled at each up to the longest."""

BACK_OFF_JITTER = 0.25
"""Part of a back-off by which it is shortened or lengthened at random, so that a returning tracker is not stampeded."""

INTERVAL_JITTER = 0.05
"""Part of an interval by which it is lengthened at random, so that torrents added together drift apart."""

MAX_TRACKERS = 100
"""Trackers used of one torrent; the rest is ignored."""

SCHEMES = ("http", "https", "udp")


@dataclass(slots=True, eq=False)
class Tracker:
    """One tracker and where we stand with it; times are the clock's that `Tiers` is called with."""

    url: str
    host: str
    state: TrackerState = "waiting"
    due: float = -math.inf
    """When to announce next; infinite for never again."""
    not_before: float = -math.inf
    """When its minimum interval has passed."""
    failures: int = 0
    """Since it last answered."""
    started: bool = False
    """It has accepted a ``started`` and is owed a ``stopped``."""
    owes_completed: bool = False
    under_way: bool = False
    stale: bool = False
    """What the announce under way tells of us is not true any more."""
    tracker_id: bytes | None = None
    told_at: float | None = None
    """When it last answered or failed to."""
    last_error: str = ""
    last_peers: int | None = None
    seeders: int | None = None
    leechers: int | None = None

    @property
    def event(self) -> AnnounceEvent:
        """What the next announce has to say.  A download that ended before the start was accepted is told after it."""
        if not self.started:
            return "started"
        return "completed" if self.owes_completed else ""


class Tiers:
    """The schedule of one torrent's announces."""

    def __init__(self, tiers: Sequence[Sequence[str]], rng: random.Random) -> None:
        self._rng = rng
        self._tiers: list[list[Tracker]] = []
        self._known: set[str] = set()
        for urls in tiers:
            self.add_tier(urls)

    def __iter__(self) -> Iterator[Tracker]:
        return (tracker for tier in self._tiers for tracker in tier)

    def add_tier(self, urls: Sequence[str]) -> None:
        """Append a tier, in random order; trackers known already, and those beyond `MAX_TRACKERS`, are left out."""
        tier = []
        for url in (text.strip() for text in urls):
            if url and url not in self._known and len(self._known) < MAX_TRACKERS:
                self._known.add(url)
                tier.append(_tracker(url))
        self._rng.shuffle(tier)
        if tier:
            self._tiers.append(tier)

    def replace(self, tiers: Sequence[Sequence[str]]) -> list[Tracker]:
        """Have these tiers instead; what is known of a tracker that stays is kept.  Those that are out now."""
        before = {tracker.url: tracker for tracker in self}
        self._tiers, self._known = [], set()
        for urls in tiers:
            self.add_tier(urls)
        self._tiers = [[before.pop(tracker.url, tracker) for tracker in tier] for tier in self._tiers]
        for tier in self._tiers:
            tier.sort(key=lambda tracker: tracker.state != "working")
        return list(before.values())

    def due(self, now: float) -> list[Tracker]:
        """The trackers to announce to now: at most one of each tier, none of a tier where one is under way."""
        candidates = (_candidate(tier, now) for tier in self._tiers)
        return [tracker for tracker in candidates if tracker is not None and tracker.due <= now]

    def next_due(self) -> float:
        """When `due` has something next; infinite for never, or not before one that is under way has ended."""
        return min((_tier_due(tier) for tier in self._tiers), default=math.inf)

    def answered(self, tracker: Tracker, event: AnnounceEvent, reply: AnnounceReply, now: float) -> None:
        """``tracker`` accepted an announce that said ``event``; it may have been taken out meanwhile."""
        for tier in self._tiers:
            if tracker in tier:
                tier.remove(tracker)
                tier.insert(0, tracker)
        tracker.state = "working"
        tracker.told_at = now
        tracker.failures = 0
        tracker.last_error = ""
        tracker.last_peers = len(reply.peers)
        tracker.seeders, tracker.leechers = reply.seeders, reply.leechers
        tracker.tracker_id = reply.tracker_id or tracker.tracker_id
        tracker.started = tracker.started or event == "started"
        tracker.owes_completed = tracker.owes_completed and event != "completed"
        tracker.not_before = now + reply.min_interval
        interval = reply.interval * (1 + self._rng.uniform(0, INTERVAL_JITTER))
        tracker.due = now if tracker.owes_completed or tracker.stale else now + interval
        tracker.stale = False

    def failed(self, tracker: Tracker, error: str, retry_in: float | None, now: float) -> float:
        """``tracker`` did not accept an announce; the seconds to its next try, infinite for never (BEP 31)."""
        tracker.failures += 1
        tracker.told_at = now
        tracker.stale = False
        tracker.last_error = error
        back_off = min(FIRST_BACK_OFF * 2.0 ** min(tracker.failures - 1, 16), LONGEST_BACK_OFF)
        wait = max(back_off * self._rng.uniform(1 - BACK_OFF_JITTER, 1 + BACK_OFF_JITTER), retry_in or 0.0)
        tracker.state = "disabled" if math.isinf(wait) else "failing"
        tracker.due = now + wait
        return wait

    def put_off(self, tracker: Tracker, error: str, wait: float, now: float) -> None:
        """``tracker`` was not asked, since its host does not answer others; not to be tried before ``wait`` seconds."""
        tracker.stale = False
        tracker.last_error = error
        tracker.state = "failing"
        tracker.due = now + wait

    def want_more(self, now: float) -> None:
        """Bring the next announce of every working tracker forward, as far as its minimum interval allows."""
        for tracker in self:
            if tracker.state == "working":
                tracker.due = min(tracker.due, max(now, tracker.not_before))

    def completed(self, now: float) -> None:
        """Every tracker is to be told that the download is complete; events need not respect any interval."""
        for tracker in self:
            tracker.owes_completed = True
            if tracker.state == "working":
                tracker.due = now

    def network_changed(self, now: float) -> None:
        """What failed may work now, and what works may see us under another address."""
        for tracker in self:
            if tracker.state == "failing":
                tracker.failures = 0
                tracker.due = now
        self.want_more(now)

    def port_changed(self, now: float) -> None:
        """Everybody who asks these trackers is sent to a port that is not ours: correct that whatever the intervals."""
        for tracker in self:
            tracker.stale = tracker.under_way
            if tracker.state == "working":
                tracker.due = now


def _tracker(url: str) -> Tracker:
    try:
        parts = urlsplit(url)
    except ValueError:
        return Tracker(url, "", state="disabled", due=math.inf, last_error="bad-url")
    if parts.scheme not in SCHEMES:
        return Tracker(url, "", state="disabled", due=math.inf, last_error="unsupported-scheme")
    return Tracker(url, parts.netloc.rpartition("@")[2].lower())


def _candidate(tier: list[Tracker], now: float) -> Tracker | None:
    """The tracker whose turn it is: the working one, which is in front, or else the first that may be tried."""
    if any(tracker.under_way for tracker in tier):
        return None
    if tier[0].state == "working":
        return tier[0]
    return next((tracker for tracker in tier if tracker.due <= now), None)


def _tier_due(tier: list[Tracker]) -> float:
    if any(tracker.under_way for tracker in tier):
        return math.inf
    if tier[0].state == "working":
        return tier[0].due
    return min(tracker.due for tracker in tier)
