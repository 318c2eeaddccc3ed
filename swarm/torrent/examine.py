"""Verifying all data of a torrent that does not run, as if nothing were known of it.  Fetches nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from swarm.bitfield import Bitfield
from swarm.events import Emit, TorrentChecked, Warned
from swarm.torrent.content import Content
from swarm.torrent.keeping import Totals
from swarm.torrent.lent import Lent
from swarm.torrent.metainfo import Metainfo
from swarm.torrent.selection import Selection


async def examine(
    metainfo: Metainfo, directory: Path, lent: Lent, emit: Emit, progress: Callable[[int, int], object]
) -> Bitfield:
    """The pieces that are right; they are kept for the next start as after a clean stop.

    ``progress`` is told how many pieces were looked at, of how many.  Raises StorageError; cancelled, it keeps nothing.
    """

    def warn(message: str) -> None:
        emit(Warned(message, metainfo.info_hash))

    content = Content(metainfo, directory, lent, Selection(metainfo, ()), warn)
    try:
        have = await content.check(anew=True, progress=progress)
        await content.save(have, Totals(), content.keeping.peers, clean=True)
    finally:
        content.disk.release()
    emit(TorrentChecked(metainfo.info_hash, have.count, have.size))
    return have
