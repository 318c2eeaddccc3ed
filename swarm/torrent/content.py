"""What a torrent is made of and where it lies: the wanted files, the disk, and what is kept of both between runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from swarm.bitfield import Bitfield
from swarm.endpoint import Endpoint
from swarm.torrent.disk import Disk
from swarm.torrent.keeping import Keeping, Totals
from swarm.torrent.lent import Lent
from swarm.torrent.metainfo import Metainfo
from swarm.torrent.selection import Selection
from swarm.torrent.storage import Storage


class Content:
    """The data of one torrent; ``selection`` is what is wanted of it, and may be replaced."""

    def __init__(
        self,
        metainfo: Metainfo,
        directory: Path,
        lent: Lent,
        selection: Selection,
        warn: Callable[[str], None],
    ) -> None:
        self.metainfo = metainfo
        self.selection = selection
        self.disk = Disk(
            Storage(directory, metainfo, handles=lent.handles, preallocate=lent.config.preallocate),
            runner=lent.runner,
            cache=lent.cache,
        )
        self.keeping = Keeping(metainfo, self.disk, lent.runner, lent.resume_directory, lent.wall_clock, warn)
        self.checking = (0, 0)
        """Pieces looked at so far, of how many."""

    @property
    def corrupt(self) -> int:
        """Bytes of pieces that were wrong."""
        return self.disk.statistics().pieces_failed * self.metainfo.piece_length

    async def check(self, *, anew: bool = False, progress: Callable[[int, int], object] | None = None) -> Bitfield:
        """The pieces that are on disk and right; what resume data vouches for is not hashed again, unless ``anew``.

        ``progress`` is told how many were looked at, of how many.  Raises StorageError.
        """
        have, doubtful = await self.keeping.recall(anew=anew)

        def looked(count: int, found: Bitfield | None = None) -> None:
            self.checking = (count, len(doubtful))
            if progress is not None:
                progress(*self.checking)

        looked(0)
        if doubtful:
            for index in await self.disk.check(doubtful, looked):
                have.add(index)
            self.disk.release()  # whoever is served opens what it needs
            self.keeping.checked()
        whole = not self.selection.pieces.as_int() & ~have.as_int()
        if not (whole and self.keeping.vouched):  # else nothing will be written, and all is kept as it is
            await self.disk.prepare(self.selection.files)
            await self.keeping.save(have, self.keeping.before, self.keeping.peers, clean=False)
        return have

    async def save(self, have: Bitfield, totals: Totals, peers: tuple[Endpoint, ...], *, clean: bool) -> None:
        """Keep what is known for the next run; ``totals`` are of this one.  Raises StorageError."""
        before = self.keeping.before
        together = Totals(before.downloaded + totals.downloaded, before.uploaded + totals.uploaded)
        await self.keeping.save(have, together, peers, clean=clean)
