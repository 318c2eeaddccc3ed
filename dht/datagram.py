"""The shapes that pass between the core and whoever owns the socket.  Field by field those of swarm's network seam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Address = tuple[str, int]
Buffer = bytes | bytearray | memoryview


class Path(NamedTuple):
    """Between which two addresses a datagram travels; ``local`` None: the kernel may choose."""

    local: Address | None
    remote: Address


class Outgoing(NamedTuple):
    """Datagrams to one address; this package sends one at a time, so that ``segment_size`` is its length."""

    buffers: Sequence[Buffer]
    segment_size: int
    path: Path
    ttl: int | None = None
    probe: bool = False
    fragment: bool = False
