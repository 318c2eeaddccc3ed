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
    """A run of equal-sized datagrams to one address; the last may be shorter.

    ``buffers`` joined are the payload, cut every ``segment_size`` bytes.  ``ttl`` overrides the IP TTL / hop limit;
    ``probe`` marks a path-MTU probe: it leaves alone, unsegmented and with DF set.  ``fragment`` clears DF for this
    run: datagrams larger than the path carries, which may not be cut anew, arrive in pieces instead of never.
    """

    buffers: Sequence[Buffer]
    segment_size: int
    path: Path
    ttl: int | None = None
    probe: bool = False
    fragment: bool = False
