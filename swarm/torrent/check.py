"""Which pieces on disk match their hashes (BEP 3): one worker's part of a check, a bounded slice at a time.

Synchronous; `swarm.torrent.disk` runs several of these in threads.  It writes nothing and remembers nothing of the
files from one slice to the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from swarm.torrent.storage import Extents, Storage

BUFFER = 512 << 10
"""Bytes read before they are hashed: half of a usual second-level cache."""

SLICE_BYTES = 16 << 20
"""Bytes hashed in one slice (about 10 ms), but at least one piece: the longest that a cancellation waits."""

SLICE_PIECES = 4096
"""Pieces looked at in one slice (about 20 ms when all are holes)."""


class Slice(NamedTuple):
    """What one slice found: the pieces that match, where the next slice begins, and how many bytes were hashed."""

    good: list[int]
    next_position: int
    bytes_hashed: int


class PieceChecker:
    """Checks pieces of one storage; not for two threads at once."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._metainfo = storage.metainfo
        self._buffer = memoryview(bytearray(BUFFER))
        self._zeros: dict[int, bytes] = {}

    def check_slice(self, indices: Sequence[int], position: int) -> Slice:
        """Look at ``indices[position:]`` until a slice's worth is done.  Ascending indices are much the fastest.

        A missing or short file makes its pieces absent, not an error; StorageError for what cannot be read.
        """
        extents = Extents(self._storage)
        good: list[int] = []
        hashed = 0
        end = min(len(indices), position + SLICE_PIECES)
        while position < end and hashed < SLICE_BYTES:
            index = indices[position]
            offset = index * self._metainfo.piece_length
            size = self._metainfo.piece_size(index)
            match extents.content(offset, size):
                case "absent":
                    digest = b""
                case "hole":
                    digest = self._zero_digest(size)
                case "data":
                    digest = self._digest(offset, size)
                    hashed += size
            if digest == self._metainfo.piece_hash(index):
                good.append(index)
            position += 1
        return Slice(good, position, hashed)

    def _digest(self, offset: int, size: int) -> bytes:
        sha1 = hashlib.sha1()
        for start in range(0, size, BUFFER):
            part = self._buffer[: min(BUFFER, size - start)]
            self._storage.read_into(offset + start, part)
            sha1.update(part)
        return sha1.digest()

    def _zero_digest(self, size: int) -> bytes:
        """The hash of a piece of zeros: a hole may well be a verified piece that a copying tool left out."""
        if size not in self._zeros:
            sha1 = hashlib.sha1()
            zeros = bytes(min(size, BUFFER))
            for start in range(0, size, BUFFER):
                sha1.update(zeros[: size - start])
            self._zeros[size] = sha1.digest()
        return self._zeros[size]
