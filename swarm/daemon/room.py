"""Torrents that a full disk has stopped: there is a look at the free space for them, and they go on once there is some.

A torrent goes on when what it lacks has room, or ENOUGH is free; one that is stopped again without having got on waits
longer each time (file systems may refuse with space left).  A quota that is used up is not seen here: that is for the
user.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

from swarm.daemon.entry import Entry

LOOK = 30.0
"""Seconds between looks at the free space."""

LONGEST_PAUSE = 960.0
"""Seconds to which the pause of a torrent is doubled that was stopped again and had not got on."""

ENOUGH = 64 << 20
"""Bytes that are room for any torrent: not for all of it, perhaps, but it gets on."""


@dataclass(slots=True)
class _Shortage:
    had: int
    """Verified bytes, when it was stopped."""
    pause: float
    look_at: float
    waiting: bool = True


class Room:
    """``free`` tells how many bytes are free in a directory."""

    def __init__(self, free: Callable[[Path], Awaitable[int]]) -> None:
        self._free = free
        self._shortages: WeakKeyDictionary[Entry, _Shortage] = WeakKeyDictionary()

    def ran_out(self, entry: Entry, now: float) -> None:
        """A full disk has stopped it."""
        before, pause = self._shortages.get(entry), LOOK
        if before is not None and entry.bytes_had <= before.had:
            pause = min(2 * before.pause, LONGEST_PAUSE)
        self._shortages[entry] = _Shortage(entry.bytes_had, pause, now + pause)

    async def found(self, now: float) -> list[Entry]:
        """Those that may go on; each is told once."""
        found = []
        for entry, shortage in list(self._shortages.items()):
            if not shortage.waiting or now < shortage.look_at:
                continue
            if entry.problem is None:  # the user was faster
                shortage.waiting = False
            elif await self._free(entry.directory) >= _needed(entry):
                shortage.waiting = False
                found.append(entry)
            else:
                shortage.look_at = now + LOOK
        return found


def _needed(entry: Entry) -> int:
    """Bytes that must be free; what is not wanted of it counts, too."""
    lacks = ENOUGH if entry.metainfo is None else entry.metainfo.total_size - entry.bytes_had
    return max(1, min(lacks, ENOUGH))
