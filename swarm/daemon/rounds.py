"""What the daemon does every second: count, keep what has changed by itself, follow the schedule of the rates."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence, Set

import trio

from swarm.daemon.archive import Archive
from swarm.daemon.entry import Entry
from swarm.daemon.policy import alternative_now, has_shared_enough
from swarm.daemon.room import Room
from swarm.daemon.roster import Roster
from swarm.daemon.runs import Runs
from swarm.daemon.tally import Tally
from swarm.errors import DiskFullError, StorageError
from swarm.events import Warned

TICK = 1.0
LOOK_AT_ALL = 5.0
"""Seconds between looks at torrents that nothing happens to: their time of seeding may be over."""

SAVE_COUNTERS = 60.0
"""Seconds between saves of what was counted: what a crash may lose."""


class Rounds:
    """Watches over the torrents.  What cannot be kept costs a warning, and they go on."""

    def __init__(self, runs: Runs, archive: Archive, roster: Roster, tally: Tally) -> None:
        self._runs = runs
        self._archive = archive
        self._roster = roster
        self._tally = tally
        self._room = Room(archive.free_space)
        self._awake: Set[bytes] = set()
        self._counted_at = self._looked_at = 0.0
        self._scheduled: bool | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(TICK)
            now = trio.current_time()
            self._follow_schedule()
            for entry in self._due(now):
                self._tally.look_at(entry)
                await self._judge(entry, now)
            for entry in await self._room.found(now):
                entry.problem = None
                self._runs.arrange()
            if self._runs.options.download_queue_enabled or self._runs.options.seed_queue_enabled:
                self._runs.arrange()
            if now >= self._counted_at + SAVE_COUNTERS:
                self._counted_at = now
                await self.save_counters()

    def _due(self, now: float) -> Sequence[Entry]:
        """Those with something to do, now or a second ago; every so often all."""
        awake, self._awake = self._awake | self._runs.node.awake.keys(), set(self._runs.node.awake)
        if now < self._looked_at + LOOK_AT_ALL:
            return [entry for info_hash in awake if (entry := self._roster.find(info_hash)) is not None]
        self._looked_at = now
        return tuple(self._roster.entries.values())

    async def finish(self) -> None:
        """The last round: keep what has changed since the one before, and what was counted."""
        for entry in tuple(self._roster.entries.values()):
            await self._judge(entry, trio.current_time())
        await self.save_counters()

    async def save_counters(self) -> None:
        """Keep what was counted."""
        await self._or_warn(self._archive.save_counters)

    async def _judge(self, entry: Entry, now: float) -> None:
        """Keep what has changed by itself: metadata came, a download ended, the disk failed, enough was shared."""
        if entry.metainfo is not None and entry.metainfo is not entry.written:
            entry.original = entry.written = entry.metainfo
            await self._or_warn(self._archive.save_source, entry)
            self._runs.learnt_metadata(entry)
        torrent = entry.torrent
        if torrent is None or entry.lock.locked():
            return
        state = torrent.state
        if (state == "seeding") != (entry.times.done_at is not None) and state in ("seeding", "downloading"):
            entry.times.done_at = time.time() if state == "seeding" else None
            await self._or_warn(self._archive.save, entry)
        if state == "failed" and torrent.error is not None:
            entry.problem = str(torrent.error)
            if isinstance(torrent.error, DiskFullError):
                entry.problem += "; it goes on by itself once there is room"
                self._room.ran_out(entry, now)
            self._runs.arrange()
        elif state == "seeding" and has_shared_enough(entry, self._runs.options, now):
            entry.paused = entry.finished = True
            await self._or_warn(self._archive.save, entry)
            self._runs.arrange()

    def _follow_schedule(self) -> None:
        """Switch the alternative rates when their time begins and ends, leaving alone what is switched in between."""
        options = self._runs.options
        wanted = alternative_now(options, time.localtime()) if options.alternative_scheduled else None
        if wanted is not None and wanted != self._scheduled and wanted != options.alternative_rates:
            self._runs.apply(alternative_rates=wanted)
        self._scheduled = wanted

    async def _or_warn(self, function: Callable[..., Awaitable[object]], *arguments: object) -> None:
        try:
            await function(*arguments)
        except StorageError as error:
            self._runs.node.emit(Warned(str(error)))
