"""``swarm create PATH -o FILE``: make a .torrent file; on success its info-hash and magnet link are printed."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from pathlib import Path

from swarm.cli.output import say, say_bytes
from swarm.cli.screen import Screen
from swarm.cli.units import counted, format_part, format_percent, format_rate, printable
from swarm.errors import StorageError
from swarm.torrent.create import create
from swarm.torrent.magnet import format_magnet
from swarm.torrent.metainfo import parse_torrent_untrusted

REFRESH = 0.2
"""Seconds between updates of the status line."""


def run(options: Namespace) -> int:
    to_stdout = options.output == "-"
    target = Path(options.output)
    if not to_stdout and not options.force and os.path.lexists(target):
        raise StorageError(f"{target} exists already; --force overwrites it")
    screen = Screen(quiet=options.quiet)
    try:
        torrent = create(
            options.path,
            trackers=options.trackers,
            private=options.private,
            piece_length=options.piece_length,
            web_seeds=options.web_seeds,
            comment=options.comment,
            progress=HashingProgress(screen),
        )
    finally:
        screen.clear()
    metainfo = parse_torrent_untrusted(torrent)
    if to_stdout:
        say_bytes(torrent)
        return 0
    write_atomically(target, torrent)
    if not options.quiet:
        pieces, size = counted(metainfo.piece_count, "piece"), counted(metainfo.total_size, "byte")
        say(f"wrote      {printable(str(target))}: {pieces}, {size}")
        say(f"info-hash  {metainfo.info_hash.hex()}")
        say(f"magnet     {format_magnet(metainfo)}")
    return 0


class HashingProgress:
    """A status line for something that is read from one end to the other."""

    def __init__(self, screen: Screen, verb: str = "hashing") -> None:
        self._screen = screen
        self._verb = verb
        self._started = time.monotonic()
        self._next = self._started + REFRESH

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next or not self._screen.terminal:
            return
        self._next = now + REFRESH
        rate = format_rate(done / (now - self._started))
        self._screen.status(f"{self._verb}  {format_percent(done, total)}  {format_part(done, total)}  {rate}")


def write_atomically(target: Path, data: bytes) -> None:
    """All of ``data`` in ``target``, or what was there before.  StorageError when the file system refuses."""
    fresh = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        try:
            fresh.write_bytes(data)
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror}") from error
