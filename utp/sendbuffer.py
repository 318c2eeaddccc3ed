"""Bytes that the application gave and that are not in a packet yet.  Keeps references, joins only what it must."""

from __future__ import annotations

from collections import deque

MAX_CHUNKS = 512  # a caller of many tiny writes must not cost an object for each

Buffer = bytes | bytearray | memoryview


class SendBuffer:
    """A queue of bytes.  ``bytes`` are kept by reference; anything that may change under us is copied once."""

    __slots__ = ("_chunks", "size")

    def __init__(self) -> None:
        self._chunks: deque[memoryview] = deque()
        self.size = 0

    def append(self, data: Buffer, count: int) -> None:
        """Queue the first ``count`` bytes of ``data``."""
        view = memoryview(data)
        if view.ndim != 1 or view.itemsize != 1:
            view = view.cast("B")
        if len(view) > count:
            view = view[:count]
        if not (view.contiguous and type(view.obj) is bytes):
            view = memoryview(bytes(view))
        if len(self._chunks) >= MAX_CHUNKS:
            self._chunks = deque((memoryview(b"".join(self._chunks)),))
        self._chunks.append(view)
        self.size += count

    def take(self, count: int) -> memoryview:
        """Remove ``count`` bytes (at most ``size``) from the front, as one contiguous view."""
        chunks = self._chunks
        head = chunks[0]
        self.size -= count
        if len(head) > count:
            chunks[0] = head[count:]
            return head[:count]
        if len(head) == count:
            return chunks.popleft()
        pieces = []
        while count:
            head = chunks[0]
            if len(head) > count:
                pieces.append(head[:count])
                chunks[0] = head[count:]
                break
            pieces.append(chunks.popleft())
            count -= len(head)
        return memoryview(b"".join(pieces))

    def clear(self) -> None:
        self._chunks.clear()
        self.size = 0
