"""All torrents of the daemon, by id and by info-hash, in the order of the queue.  Pure: it starts and keeps nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from swarm.daemon.documents import KeptEntry
from swarm.daemon.entry import Entry

Where = Literal["top", "up", "down", "bottom"]


class Roster:
    """``Entry.queue_position`` is kept right here."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        """By id, ascending."""
        self._by_hash: dict[bytes, Entry] = {}
        self._queue: list[Entry] = []
        self._next_id = 1

    @property
    def queue(self) -> Sequence[Entry]:
        """All, in the order in which they get their turn."""
        return self._queue

    def find(self, key: int | str | bytes) -> Entry | None:
        """By id, by info-hash, or by that in 40 hex digits."""
        if isinstance(key, int):
            return self.entries.get(key)
        if isinstance(key, str):
            try:
                key = bytes.fromhex(key)
            except ValueError:
                return None
        return self._by_hash.get(key)

    def holds(self, entry: Entry) -> bool:
        """Whether it was not dropped meanwhile."""
        return self._by_hash.get(entry.info_hash) is entry

    def enter(self, kept: KeptEntry) -> Entry:
        """Take it in, as the last of the queue."""
        entry = Entry(
            self._next_id,
            kept.source,
            kept.directory,
            times=kept.times,
            wishes=kept.wishes,
            paused=kept.paused,
            counters=kept.counters,
        )
        entry.finished = kept.finished
        entry.moving_to = kept.moving_to
        self._next_id += 1
        self.entries[entry.id] = self._by_hash[entry.info_hash] = entry
        entry.queue_position = len(self._queue)
        self._queue.append(entry)
        return entry

    def drop(self, entry: Entry) -> None:
        del self.entries[entry.id]
        del self._by_hash[entry.info_hash]
        self._queue.remove(entry)
        self._renumber()

    def move(self, entries: Iterable[Entry], where: Where) -> None:
        """Let them have their turn earlier or later."""
        wanted = set(entries)
        chosen = [entry for entry in self._queue if entry in wanted]
        others = [entry for entry in self._queue if entry not in wanted]
        match where:
            case "top":
                self._queue = chosen + others
            case "bottom":
                self._queue = others + chosen
            case "up":
                for entry in chosen:
                    self._swap(entry, -1, wanted)
            case "down":
                for entry in reversed(chosen):
                    self._swap(entry, 1, wanted)
        self._renumber()

    def place(self, entry: Entry, position: int) -> None:
        """Put it at this position of the queue, counted from 0."""
        self._queue.remove(entry)
        self._queue.insert(max(position, 0), entry)
        self._renumber()

    def _swap(self, entry: Entry, step: int, chosen: Collection[Entry]) -> None:
        at = self._queue.index(entry)
        other = at + step
        if 0 <= other < len(self._queue) and self._queue[other] not in chosen:
            self._queue[at], self._queue[other] = self._queue[other], self._queue[at]

    def _renumber(self) -> None:
        for position, entry in enumerate(self._queue):
            entry.queue_position = position
