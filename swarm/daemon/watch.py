"""A folder from which torrents are added: NAME.torrent, and NAME.magnet with a link in it.

What was taken is renamed to NAME.torrent.added, what cannot be used to NAME.torrent.invalid.  A file is read once it
has not changed for `SETTLED` seconds, so that one that is being written is left alone; a broken one gets `PATIENCE`.
One that we cannot keep for want of space stays as it is, to be tried again.  What goes on being wrong is told once.
The folder is looked at every `LOOK` seconds, which works on every file system.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import trio

from swarm.errors import MetainfoError, StorageError, SwarmError
from swarm.source import read_source
from swarm.torrent.disk import Runner
from swarm.torrent.magnet import Magnet, parse_magnet
from swarm.torrent.metainfo import MAX_TORRENT_SIZE, Metainfo

LOOK = 2.0
SETTLED = 1.0
PATIENCE = 30.0
"""Seconds since its last change after which a file that is no torrent is not going to become one."""

Add = Callable[[Metainfo | Magnet], Awaitable[object]]


class Seen(NamedTuple):
    path: Path
    age: float
    """Seconds since its last change."""
    mtime_ns: int


class WatchFolder:
    """``add`` takes a source, and raises SwarmError for one that it has already or cannot take."""

    def __init__(self, directory: Path, add: Add, warn: Callable[[str], object], runner: Runner) -> None:
        self.directory = directory
        self._add = add
        self._warn = warn
        self._runner = runner
        self._wrong: set[str] = set()
        self._wrong_before: set[str] = set()
        self._done_with: dict[Path, tuple[int, str]] = {}  # what could not be renamed: its mtime, and its suffix

    async def run(self) -> None:
        """Look until cancelled.  A folder that is not there is waited for, with one warning."""
        while True:
            await self.look()
            await trio.sleep(LOOK)

    async def look(self) -> None:
        """Add what is there now."""
        self._wrong_before, self._wrong = self._wrong, set()
        try:
            found = await self._runner(_candidates, self.directory)
        except OSError as error:
            self._complain(f"cannot look for torrents in {self.directory}: {error.strerror}")
            return
        self._done_with = {each.path: self._done_with[each.path] for each in found if each.path in self._done_with}
        for seen in found:
            mtime_ns, suffix = self._done_with.get(seen.path, (None, ""))
            if mtime_ns == seen.mtime_ns:
                await self._rename(seen, suffix)
            else:
                await self._take(seen)

    async def _take(self, seen: Seen) -> None:
        try:
            source = await self._runner(_read, seen.path)
        except StorageError as error:
            self._complain(str(error))
            return
        except MetainfoError as error:
            if seen.age > PATIENCE:
                self._warn(f"{seen.path} was not added: {error}")
                await self._rename(seen, ".invalid")
            return
        try:
            await self._add(source)
        except StorageError as error:
            self._complain(f"{seen.path} was not added: {error}")
            return
        except SwarmError as error:
            self._warn(f"{seen.path} was not added: {error}")
        await self._rename(seen, ".added")

    async def _rename(self, seen: Seen, suffix: str) -> None:
        try:
            await self._runner(os.replace, seen.path, seen.path.with_name(seen.path.name + suffix))
        except OSError as error:
            self._done_with[seen.path] = (seen.mtime_ns, suffix)
            self._complain(f"cannot rename {seen.path}: {error.strerror}")

    def _complain(self, sentence: str) -> None:
        """Once, however often it is found."""
        self._wrong.add(sentence)
        if sentence not in self._wrong_before:
            self._warn(sentence)


def _candidates(directory: Path) -> list[Seen]:
    now = time.time()
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith((".torrent", ".magnet")) and entry.is_file():
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue
                age = now - status.st_mtime
                if age >= SETTLED or age < 0:  # a clock may be wrong
                    found.append(Seen(Path(entry.path), abs(age), status.st_mtime_ns))
    return sorted(found)


def _read(path: Path) -> Metainfo | Magnet:
    if path.suffix == ".torrent":
        return read_source(path)
    try:
        with open(path, "rb") as file:
            return parse_magnet(file.read(MAX_TORRENT_SIZE).decode(errors="replace"))
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
