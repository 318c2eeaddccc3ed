"""What the daemon's torrents have moved: counted as it happens, summed up over runs and over torrents that are gone.

Trio's clock and no I/O: `swarm.daemon.archive` keeps what is counted here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import trio

from swarm.daemon.documents import KeptSession
from swarm.daemon.entry import Counters, Entry
from swarm.daemon.roster import Roster


@dataclass(frozen=True, slots=True)
class Sums:
    """Payload bytes; ``seconds_active`` is how long a daemon ran."""

    uploaded: int
    downloaded: int
    files_added: int
    sessions: int
    seconds_active: float


@dataclass(frozen=True, slots=True)
class Totals:
    """Of this run, and of all."""

    current: Sums
    cumulative: Sums


class Tally:
    """Counts the torrents of ``roster``, on top of what earlier runs have ``kept``."""

    def __init__(self, roster: Roster, kept: KeptSession) -> None:
        self.files_added = 0
        """Torrents that this run was given."""
        self._roster = roster
        self._kept = kept
        self._opened_at = trio.current_time()
        self._uploaded = self._downloaded = 0

    def totals(self) -> Totals:
        """What was moved by all torrents, those that are gone included."""
        self.look()
        kept = self._kept
        current = Sums(self._uploaded, self._downloaded, self.files_added, 1, trio.current_time() - self._opened_at)
        together = Sums(
            kept.uploaded + current.uploaded,
            kept.downloaded + current.downloaded,
            kept.files_added + current.files_added,
            kept.sessions + 1,
            kept.seconds_active + current.seconds_active,
        )
        return Totals(current, together)

    def look(self) -> None:
        """Count what has moved since the last look at each."""
        for entry in self._roster.entries.values():
            self.look_at(entry)

    def started(self, entry: Entry) -> None:
        """Its torrent begins, from 0."""
        entry.seen = (0, 0)
        entry.stirred_at = entry.looked_at = trio.current_time()
        entry.times.started_at = time.time()

    def ended(self, entry: Entry) -> None:
        """Its torrent has ended, and is about to be let go of: add what it counted to what is kept of it."""
        torrent = entry.torrent
        assert torrent is not None
        self.look_at(entry)
        entry.kept.uploaded += torrent.uploaded
        entry.kept.downloaded += torrent.downloaded
        entry.kept.corrupt += torrent.statistics().corrupt

    def look_at(self, entry: Entry) -> None:
        """The same of one."""
        torrent = entry.torrent
        if torrent is None:
            return
        now = trio.current_time()
        elapsed, entry.looked_at = now - entry.looked_at, now
        moved, before = (torrent.uploaded, torrent.downloaded), entry.seen
        if moved != before:
            self._uploaded += moved[0] - before[0]
            self._downloaded += moved[1] - before[1]
            entry.seen = moved
            entry.stirred_at, entry.kept.activity_at = now, time.time()
        if torrent.state == "seeding":
            entry.kept.seconds_seeding += elapsed
        elif torrent.state == "downloading":
            entry.kept.seconds_downloading += elapsed


def counters_of(entry: Entry) -> Counters:
    """What is kept of it: this run and all before."""
    return replace(entry.kept, uploaded=entry.uploaded, downloaded=entry.downloaded, corrupt=entry.corrupt)
