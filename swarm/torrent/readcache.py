"""Recently read data, shared by all torrents of a node and bounded in bytes.

Several peers that fetch the same piece, and one peer that fetches it block by block, are served from one read.  It does
no I/O; `swarm.torrent.disk` fills it.  Used from one thread.
"""

from __future__ import annotations

from collections import OrderedDict

DEFAULT_LIMIT = 16 << 20
"""Bytes.  64 chunks of 256 KiB: as many peers may read from different places before they push each other out."""


Key = tuple[object, int, int]
"""Whose chunk it is, and its piece and number within the piece."""


class ReadCache:
    """Chunks by key, the least recently used dropped once they hold more than ``limit`` bytes together.

    A chunk handed out lives on for as long as somebody refers to it: dropping it here never changes what a writer is
    about to send, and those references are not counted towards ``limit``.
    """

    __slots__ = ("_chunks", "limit", "size")

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self.limit = limit
        self.size = 0
        self._chunks: OrderedDict[Key, memoryview] = OrderedDict()

    def __len__(self) -> int:
        return len(self._chunks)

    def get(self, key: Key) -> memoryview | None:
        chunk = self._chunks.get(key)
        if chunk is not None:
            self._chunks.move_to_end(key)
        return chunk

    def add(self, key: Key, chunk: memoryview) -> None:
        self.discard(key)
        self._chunks[key] = chunk
        self.size += chunk.nbytes
        while self.size > self.limit:
            self.size -= self._chunks.popitem(last=False)[1].nbytes

    def discard(self, key: Key) -> None:
        chunk = self._chunks.pop(key, None)
        if chunk is not None:
            self.size -= chunk.nbytes

    def discard_all(self, owner: object) -> None:
        for key in [key for key in self._chunks if key[0] is owner]:
            self.discard(key)
