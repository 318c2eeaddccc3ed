"""``swarm verify TORRENT -o DIR``: every file compared with the torrent's hashes; exit code 0 or 6.

Nothing is written, and no resume data is trusted: all that is there is read and hashed.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from swarm.bitfield import Bitfield
from swarm.cli.create import REFRESH
from swarm.cli.interrupt import run_interruptible
from swarm.cli.load import load_within
from swarm.cli.output import say
from swarm.cli.screen import Screen
from swarm.cli.settle import settle
from swarm.cli.units import counted, format_bytes, format_percent, format_rate, printable
from swarm.errors import VerificationError
from swarm.source import metainfo_of
from swarm.torrent.disk import Disk
from swarm.torrent.metainfo import Metainfo
from swarm.torrent.storage import FileState, Storage

MAX_NAMED = 8
"""Bad pieces of one file that are named."""


def run(options: Namespace) -> int:
    screen = Screen(quiet=options.quiet)
    try:
        return run_interruptible(_verify, options, settle(vars(options)).output, screen, restore=screen.clear)
    finally:
        screen.clear()


@dataclass(frozen=True, slots=True)
class FileResult:
    """One file: ``problem`` is empty if all of it verifies."""

    path: str
    size: int
    problem: str


async def verify(metainfo: Metainfo, storage: Storage, screen: Screen) -> tuple[Bitfield, list[FileResult]]:
    """The pieces that match, and the files one by one.  StorageError for what cannot be read."""
    disk = Disk(storage)
    try:
        good = await disk.check(range(metainfo.piece_count), _Progress(metainfo, screen))
        return good, list(file_results(metainfo, storage, good, await disk.existing()))
    finally:
        disk.release()
        screen.clear()


def file_results(
    metainfo: Metainfo, storage: Storage, good: Bitfield, existing: tuple[FileState | None, ...]
) -> Iterator[FileResult]:
    """Pad files left out.  A piece that two files share is bad in both."""
    for index, (file, state) in enumerate(zip(metainfo.files, existing, strict=True)):
        if file.pad:
            continue
        pieces = storage.layout.file_pieces(index)
        bad = [piece for piece in pieces if piece not in good]
        path = "/".join(file.path)
        if state is None:
            problem = "missing"
        elif state.size < file.size:
            problem = f"too short: {state.size:,} of {file.size:,} bytes, {_bad_pieces(bad, len(pieces))}"
        elif state.size > file.size:
            problem = f"too long: {state.size:,} bytes instead of {file.size:,}"
        else:
            problem = _bad_pieces(bad, len(pieces)) if bad else ""
        yield FileResult(path, file.size, problem)


async def _verify(options: Namespace, directory: Path, screen: Screen) -> int:
    metainfo = metainfo_of(options.source, await load_within(options.source))
    good, results = await verify(metainfo, Storage(directory, metainfo), screen)
    if not options.quiet:
        for result in results:
            say(f"{'bad' if result.problem else 'ok ':3}  {printable(_named(result))}")
    faulty = sum(1 for result in results if result.problem)
    if faulty or good.count != metainfo.piece_count:
        raise VerificationError(
            f"{faulty:,} of {counted(len(results), 'file')} and {metainfo.piece_count - good.count:,} of "
            f"{counted(metainfo.piece_count, 'piece')} of {metainfo.name} do not verify"
        )
    if not options.quiet:
        total = format_bytes(metainfo.total_size)
        say(f"{printable(metainfo.name)}: {counted(metainfo.piece_count, 'piece')}, {total}, all verified")
    return 0


def _named(result: FileResult) -> str:
    return f"{result.path}: {result.problem}" if result.problem else result.path


def _bad_pieces(bad: list[int], pieces: int) -> str:
    if not bad:
        return "its pieces verify"
    named = ", ".join(map(str, bad[:MAX_NAMED])) + (", …" if len(bad) > MAX_NAMED else "")
    return f"{len(bad):,} of {counted(pieces, 'piece')} bad ({named})"


class _Progress:
    """The status line of a check, called after each hop."""

    def __init__(self, metainfo: Metainfo, screen: Screen) -> None:
        self._metainfo = metainfo
        self._screen = screen
        self._started = time.monotonic()
        self._next = self._started + REFRESH

    def __call__(self, looked_at: int, found: Bitfield) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + REFRESH
        pieces, length = self._metainfo.piece_count, self._metainfo.piece_length
        rate = format_rate(looked_at * length / (now - self._started))
        bad = f"  {counted(looked_at - found.count, 'piece')} bad" if looked_at > found.count else ""
        self._screen.status(f"verifying  {format_percent(looked_at, pieces)}  {rate}{bad}")
