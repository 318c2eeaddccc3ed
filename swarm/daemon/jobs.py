"""What is done to a torrent while it does not run: verified, moved, removed.  It goes on afterwards if it is to.

One job at a time for each torrent; its `Entry.lock` is held meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Iterable
from pathlib import Path

import trio

from swarm.daemon.archive import Archive
from swarm.daemon.entry import Entry
from swarm.daemon.runs import Runs
from swarm.daemon.wanted import is_done
from swarm.errors import StorageError
from swarm.events import Warned
from swarm.torrent.metainfo import Metainfo


class Jobs:
    """Stops the torrents through ``runs``.  What goes wrong is told as the entry's problem."""

    def __init__(self, runs: Runs, archive: Archive) -> None:
        self._runs = runs
        self._archive = archive
        self._leaving: dict[bytes, trio.Event] = {}

    async def verify(self, entry: Entry, metainfo: Metainfo) -> None:
        """Compare all of its data with its hashes; ``entry.job`` is set already."""

        def progress(looked_at: int, of: int) -> None:
            entry.checking = (looked_at, of)

        async with entry.lock:
            try:
                await self._runs.halt(entry)
                entry.kept_have = await self._runs.node.examine(metainfo, entry.directory, progress)
                entry.problem = None
                entry.times.done_at = entry.times.done_at if is_done(entry, entry.kept_have) else None
            except StorageError as error:
                entry.problem = str(error)
            finally:
                entry.job = None
        await self._or_warn(self._archive.save(entry), entry)
        self._runs.arrange()

    def go_on(self, entries: Iterable[Entry], nursery: trio.Nursery) -> None:
        """Finish, in ``nursery``, the moves that the end of an earlier run has interrupted."""
        for entry in entries:
            if entry.moving_to is not None:
                entry.job = "move"
                nursery.start_soon(self.move, entry, entry.moving_to, True)

    async def move(self, entry: Entry, directory: Path, data: bool) -> None:
        """Have its files beneath ``directory``: moved there with ``data``, else found there.

        Begun, it is finished whatever is cancelled: a daemon that ends must know where its data is.  For one that was
        killed meanwhile see `go_on`.
        """
        async with entry.lock:
            with trio.CancelScope(shield=True):
                await self._move(entry, directory, data)
        self._runs.arrange()

    async def _move(self, entry: Entry, directory: Path, data: bool) -> None:
        entry.job = "move"
        try:
            await self._runs.halt(entry)
            moved = entry.metainfo if data else None
            if moved is None:
                entry.kept_have = None
            else:
                if entry.moving_to is None:
                    await self._archive.check_way(moved, entry.directory, directory)
                entry.moving_to = directory
                await self._archive.save(entry)
                await self._archive.move_data(moved, entry.directory, directory)
            entry.directory, entry.problem = directory, None
            if moved is not None:
                await self._or_warn(self._archive.relocate(moved, directory), entry)
        except StorageError as error:
            entry.problem = str(error)
        finally:
            entry.job = entry.moving_to = None
        entry.times.edited_at = time.time()
        await self._or_warn(self._archive.save(entry), entry)

    def leave(self, entry: Entry) -> None:
        """It is about to be removed: `wait_left` blocks until `remove` has ended."""
        self._leaving[entry.info_hash] = trio.Event()

    async def remove(self, entry: Entry, delete: bool) -> None:
        """End what is left of a torrent that is in no list any more, with ``delete`` its files, too; whatever is
        cancelled, since nobody would know of it any more."""
        try:
            with trio.CancelScope(shield=True):
                async with entry.lock:
                    await self._runs.halt(entry)
                    await self._archive.forget_data(entry, delete=delete)
        except StorageError as error:
            self._runs.node.emit(Warned(str(error), entry.info_hash))
        finally:
            self._leaving.pop(entry.info_hash).set()

    async def wait_left(self, info_hash: bytes) -> None:
        """Block until nothing of such a torrent is left that was removed."""
        while (leaving := self._leaving.get(info_hash)) is not None:
            await leaving.wait()

    async def _or_warn(self, keeping: Awaitable[None], entry: Entry) -> None:
        try:
            await keeping
        except StorageError as error:
            self._runs.node.emit(Warned(str(error), entry.info_hash))
