"""When the daemon's torrents are written down, and how they are found again.

The files themselves are `swarm.daemon.state`'s, and what is verified the resume files'; each call to them is one hop
into a thread.  Decides nothing about the torrents.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import trio

from swarm.bitfield import Bitfield
from swarm.daemon.data import check_way, delete_data, forget_resume, free_space, is_gone, move_data, relocate_resume
from swarm.daemon.documents import KeptEntry, KeptSession, entry_document
from swarm.daemon.entry import Entry
from swarm.daemon.options import Options
from swarm.daemon.roster import Roster
from swarm.daemon.state import StateDirectory
from swarm.daemon.tally import Tally, counters_of
from swarm.torrent.disk import Runner
from swarm.torrent.metainfo import Metainfo
from swarm.torrent.resume import load_resume, resume_path

Found = list[tuple[KeptEntry, Bitfield | None]]
"""The torrents of the earlier runs in the order of their queue; of those that are stopped also what they have."""


class Archive:
    """What `Session` keeps on disk.  Every method that writes raises StorageError for what cannot be written."""

    def __init__(
        self,
        state: StateDirectory,
        resume: Path | None,
        kept: KeptSession,
        roster: Roster,
        tally: Tally,
        runner: Runner,
    ) -> None:
        self.options = dict(kept.options)
        """Those that were changed at run time, by name: written with the session, as is ``given``."""
        self.given = dict(kept.given)
        self._state = state
        self._resume = resume
        self._roster = roster
        self._tally = tally
        self._runner = runner
        self._saving = trio.Lock()

    # -- what is said of the torrents -------------------------------------------------------------------------------

    async def save(self, entry: Entry) -> None:
        """Keep where it is and what is wished of it."""
        async with self._saving:
            if not self._roster.holds(entry):
                return  # removed meanwhile
            kept = KeptEntry(
                source=entry.original,
                directory=entry.directory,
                times=entry.times,
                paused=entry.paused,
                finished=entry.finished,
                moving_to=entry.moving_to,
                wishes=entry.wishes,
            )
            await self._runner(self._state.save_entry, entry.info_hash, entry_document(kept))

    async def save_source(self, entry: Entry) -> None:
        """Keep the torrent itself: it is there from then on."""
        async with self._saving:
            if self._roster.holds(entry):
                await self._runner(self._state.save_source, entry.original)

    async def save_session(self) -> None:
        """Keep options, sums and the order of the queue."""
        async with self._saving:
            sums = self._tally.totals().cumulative
            kept = KeptSession(
                options=dict(self.options),
                given=dict(self.given),
                order=[entry.info_hash for entry in self._roster.queue],
                uploaded=sums.uploaded,
                downloaded=sums.downloaded,
                files_added=sums.files_added,
                sessions=sums.sessions,
                seconds_active=sums.seconds_active,
            )
            await self._runner(self._state.save_session, kept)

    async def save_counters(self) -> None:
        """Keep what was counted, of each torrent and of all."""
        self._tally.look()
        counters = {entry.info_hash: asdict(counters_of(entry)) for entry in self._roster.entries.values()}
        await self._runner(self._state.save_counters, counters)
        await self.save_session()

    async def forget(self, info_hash: bytes) -> None:
        """The torrent is removed."""
        async with self._saving:  # what is being written of it first
            await self._runner(self._state.forget, info_hash)

    # -- its files --------------------------------------------------------------------------------------------------

    async def move_data(self, metainfo: Metainfo, source: Path, target: Path) -> None:
        """Move its files, over what is in the way."""
        await self._runner(move_data, metainfo, source, target)

    async def check_way(self, metainfo: Metainfo, source: Path, target: Path) -> None:
        """StorageError for what is in the way."""
        await self._runner(check_way, metainfo, source, target)

    async def relocate(self, metainfo: Metainfo, target: Path) -> None:
        """They were moved: what was verified stays so."""
        if self._resume is not None:
            await self._runner(relocate_resume, self._resume, metainfo, target)

    async def forget_data(self, entry: Entry, *, delete: bool) -> None:
        """What was verified is not known any more, and with ``delete`` the files are gone, too."""
        if self._resume is not None:
            await self._runner(forget_resume, self._resume, entry.info_hash)
        if delete and entry.metainfo is not None:
            await self._runner(delete_data, entry.metainfo, entry.directory)

    async def free_space(self, directory: Path) -> int:
        """Bytes that may be written beneath it."""
        return await self._runner(free_space, directory)

    async def look_for_data(self, entries: Sequence[Entry]) -> None:
        """Say what is wrong with those that were complete and of which nothing is left; nothing of the others."""
        looked = [entry for entry in entries if not entry.paused and entry.torrent is None]
        done = [(entry, entry.metainfo) for entry in looked if entry.times.done_at is not None]
        asked = [(metainfo, entry.directory) for entry, metainfo in done if metainfo is not None]
        gone = set(await self._runner(_gone, asked)) if asked else set()
        for entry in looked:
            entry.problem = None
            if entry.info_hash in gone:
                entry.problem = (
                    f"nothing of {entry.name} is left in {entry.directory}: mount its disk and start it, "
                    "or verify it to have it fetched again"
                )


async def find_all(
    state: StateDirectory, resume: Path | None, kept: KeptSession, options: Options, runner: Runner, warn: list[str]
) -> Found:
    """Every torrent of the earlier runs, in one hop; a sentence is added to ``warn`` for what is damaged."""
    found = await runner(_load, state, options.download_dir, time.time(), resume, warn.append)
    places = {info_hash: place for place, info_hash in enumerate(kept.order)}
    return sorted(
        found,
        key=lambda pair: (places.get(pair[0].source.info_hash, len(places)), pair[0].times.added_at),
    )


def _load(
    state: StateDirectory, directory: Path, now: float, resume: Path | None, warn: Callable[[str], object]
) -> Found:
    entries = state.load(directory, now, warn)
    return [(entry, _had(entry, resume) if entry.paused else None) for entry in entries]


def _had(entry: KeptEntry, resume: Path | None) -> Bitfield | None:
    if resume is None or not isinstance(entry.source, Metainfo):
        return None
    data = load_resume(resume_path(resume, entry.source.info_hash), entry.source, lambda warning: None)
    return data.pieces if data is not None and data.directory == entry.directory else None


def _gone(asked: Sequence[tuple[Metainfo, Path]]) -> list[bytes]:
    return [metainfo.info_hash for metainfo, directory in asked if is_gone(metainfo, directory)]
