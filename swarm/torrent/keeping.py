"""What one torrent keeps between runs: when its resume file is read and written (the file itself: `resume`).

Saved unclean at the start where anything is missing, every SAVE_INTERVAL while pieces arrive, and clean at an orderly
end; not where the file says the same already, but for the known peers: thousands of torrents that only seed start and
stop without writing anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from swarm.bitfield import Bitfield
from swarm.endpoint import Endpoint
from swarm.errors import StorageError
from swarm.torrent.disk import Disk, Runner
from swarm.torrent.metainfo import Metainfo
from swarm.torrent.resume import ResumeData, load_resume, pieces_in_doubt, resume_path, save_resume
from swarm.torrent.storage import FileState

SAVE_INTERVAL = 30.0
"""Seconds between saves while pieces arrive; decides how much is hashed again after a crash, never what is lost."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Payload bytes over all runs."""

    downloaded: int = 0
    uploaded: int = 0


@dataclass(slots=True)
class Keeping:
    """The resume file of one torrent; does nothing where ``directory`` is None.

    ``wall_clock`` gives seconds since the epoch by the clock that stamps files.  Everything that blocks goes through
    ``runner``.  A state directory that cannot be written is worth a warning and no more: it costs a check later.
    """

    metainfo: Metainfo
    disk: Disk
    runner: Runner
    directory: Path | None
    wall_clock: Callable[[], float]
    warn: Callable[[str], object]
    before: Totals = Totals()
    """Of earlier runs."""
    peers: tuple[Endpoint, ...] = ()
    """Known from earlier runs."""
    vouched: bool = False
    """What was kept was believed, and nothing but it: no piece is in doubt, and no file is missing."""
    _on_disk: tuple[bool, Totals] | None = None  # what the file says of being clean, and the sums; None: unknown
    _unwritable: bool = False
    _added_at: float = 0.0
    _completed_at: float | None = None
    _dirty: bool = False
    _next_save: float = 0.0
    _lock: trio.Lock = field(default_factory=trio.Lock)

    async def recall(self, *, anew: bool = False) -> tuple[Bitfield, list[int]]:
        """The pieces to trust, and those to hash, by what was kept and what is on disk; see `pieces_in_doubt`.

        ``anew`` trusts none.
        """
        kept, warnings, files = await self.runner(self._look)
        for warning in warnings:  # the runner's thread must not emit events itself
            self.warn(warning)
        self._added_at = self.wall_clock()
        if kept is not None:
            self.before = Totals(kept.downloaded, kept.uploaded)
            self.peers = kept.peers
            self._added_at, self._completed_at = kept.added_at, kept.completed_at
            if anew or kept.directory != self.disk.storage.directory:
                kept = None  # other files than those it speaks of
            else:
                self._on_disk = kept.clean, self.before
        trusted, doubtful = pieces_in_doubt(kept, self.metainfo, files)
        there = all(state is not None or entry.pad for entry, state in zip(self.metainfo.files, files, strict=True))
        self.vouched = kept is not None and not doubtful and there
        return trusted, doubtful

    def _look(self) -> tuple[ResumeData | None, list[str], tuple[FileState | None, ...]]:
        """All that has to be read at the start, in one hop to a thread."""
        warnings: list[str] = []
        kept = None
        if self.directory is not None:
            path = resume_path(self.directory, self.metainfo.info_hash)
            kept = load_resume(path, self.metainfo, warnings.append)
        return kept, warnings, self.disk.storage.existing()

    def piece_stored(self) -> None:
        """There is something to save."""
        self._dirty = True

    def checked(self) -> None:
        """Pieces were hashed: what came of it is to be saved, or they will be after the next crash, too."""
        self._dirty = True

    def completed(self) -> None:
        """Everything wanted is there."""
        self._dirty = True
        if self._completed_at is None:
            self._completed_at = self.wall_clock()

    @property
    def unsaved(self) -> bool:
        """Whether a save will be due."""
        return self.directory is not None and self._dirty

    def due(self, now: float) -> bool:
        """Whether it is time for a save; then the next is due SAVE_INTERVAL later."""
        if self.directory is None or not self._dirty or now < self._next_save:
            return False
        self._next_save = now + SAVE_INTERVAL
        return True

    async def save(self, have: Bitfield, totals: Totals, peers: tuple[Endpoint, ...], *, clean: bool) -> None:
        """Sync the files and replace the resume file, unless it says all this already.  Not cancellable once it waits
        for the disk.

        Raises StorageError when the torrent's own files cannot be synced.
        """
        if self.directory is None or (not self._dirty and self._on_disk == (clean, totals)):
            return
        async with self._lock:
            self._dirty = False
            saved_at, pieces = self.wall_clock(), have.copy()
            data = ResumeData(
                directory=self.disk.storage.directory,
                pieces=pieces,
                files=await self.disk.sync(),
                clean=clean,
                saved_at=saved_at,
                added_at=self._added_at,
                completed_at=self._completed_at,
                downloaded=totals.downloaded,
                uploaded=totals.uploaded,
                peers=peers,
            )
            path = resume_path(self.directory, self.metainfo.info_hash)
            try:
                await self.runner(save_resume, path, self.metainfo.info_hash, data)
            except StorageError as error:
                self._dirty = True
                if not self._unwritable:  # once, and not every SAVE_INTERVAL
                    self.warn(f"{error}; after a restart the data is checked again")
                self._unwritable = True
            else:
                self._on_disk = clean, totals
                self._unwritable = False
