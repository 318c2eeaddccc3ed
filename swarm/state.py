"""The few things a node keeps between runs besides resume data: its port.  Files only, no clock, no sockets."""

from __future__ import annotations

import os
import random
from pathlib import Path

FIRST_PORT, LAST_PORT = 49152, 65535
"""The dynamic range of RFC 6335 §6, from which the port is drawn once."""

MAX_PORT_FILE = 16
"""Characters read of the file that keeps it."""


def kept_port(directory: Path | None, rng: random.Random) -> int:
    """The port of the last run, so that a manual forward keeps working; drawn at random the first time."""
    return remembered_port(directory) or rng.randint(FIRST_PORT, LAST_PORT)


def remembered_port(directory: Path | None) -> int | None:
    """The port of the last run; None the first time, and where the file is missing, unreadable or nonsense."""
    if directory is None:
        return None
    try:
        with open(directory / "port", encoding="ascii") as file:
            text = file.read(MAX_PORT_FILE).strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdecimal() and 0 < int(text) < 65536 else None


def keep_port(directory: Path | None, port: int) -> None:
    """Remember the port that is in use.  OSError when the directory cannot be written."""
    if directory is None:
        return
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)  # XDG: nobody else's business
    fresh = directory / f"port.{os.getpid()}"
    fresh.write_text(f"{port}\n", encoding="ascii")
    fresh.replace(directory / "port")
