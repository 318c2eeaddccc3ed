"""What is remembered of ids that are no connection (any more): bounded in number and in time, like TCP's TIME_WAIT."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Memory(Generic[K, V]):
    """The last ``entries`` things remembered, each for ``seconds``; the oldest makes room."""

    __slots__ = ("_entries", "_items", "_seconds")

    def __init__(self, entries: int, seconds: float) -> None:
        self._entries = entries
        self._seconds = seconds
        self._items: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def remember(self, key: K, value: V, now: float) -> None:
        self._items.pop(key, None)
        self._items[key] = (now + self._seconds, value)
        if len(self._items) > self._entries:
            self._items.popitem(last=False)

    def recall(self, key: K, now: float) -> V | None:
        item = self._items.get(key)
        if item is None:
            return None
        expires, value = item
        if now >= expires:
            del self._items[key]
            return None
        return value

    def expire(self, now: float) -> None:
        """Forget what is over; entries expire in the order in which they came."""
        while self._items and next(iter(self._items.values()))[0] <= now:
            self._items.popitem(last=False)
