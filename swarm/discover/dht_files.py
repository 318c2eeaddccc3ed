"""The DHT's tables between runs: ``dht4.state`` and ``dht6.state`` of a directory; the layout is that of `dht.state`.

Blocks: called by way of a runner.  A file that is lost or damaged costs a bootstrap and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from dht.errors import RemoteProtocolError
from dht.state import SavedState, decode_state_untrusted
from swarm.discover.tracker_client import Family

MAX_FILE_SIZE = 64 << 10
"""Bytes read of a file; 500 IPv6 nodes are 19 kB."""


def state_path(directory: Path, family: Family) -> Path:
    """The file of one family."""
    return directory / f"dht{family}.state"


def load_state(directory: Path, family: Family, warn: Callable[[str], object]) -> SavedState | None:
    """What was saved; None if nothing was, or nothing usable: then ``warn`` is told in a sentence."""
    path = state_path(directory, family)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_SIZE)
    except FileNotFoundError:
        return None
    except OSError as error:
        warn(f"cannot read {path}: {error.strerror}; the DHT starts without the nodes it knew")
        return None
    try:
        return decode_state_untrusted(content, ipv6=family == 6)
    except RemoteProtocolError as error:
        warn(f"{path} is damaged ({error}); the DHT starts without the nodes it knew")
        return None


def save_state(directory: Path, family: Family, content: bytes) -> None:
    """Replace the file at once; after a crash there is the old one or the new one, whole.  Raises OSError."""
    path = state_path(directory, family)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)  # XDG: nobody else's business
    fresh = directory / f"{path.name}.{os.getpid()}"
    with open(fresh, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
