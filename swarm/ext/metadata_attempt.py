"""One copy of the metadata being put together (BEP 9): which blocks are there, from whom, which to ask for next.

Knows blocks and names, no connections, and does not judge the result.  Allocates for what arrived, not for the size
that somebody claimed.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Hashable, Iterator
from hashlib import sha1

from swarm.ext.metadata_message import BLOCK

REASK_AFTER = 1.0
"""Seconds that a block may be on its way before somebody who has nothing else to do is asked for it, too.  With 3, as
libtorrent has it, the one honest peer among twenty useless ones got its first turn after 9 s, with 1 after 4 s."""

STALLED_AFTER = 10.0
"""Seconds without a block after which a copy no longer counts as being fetched."""

EXPECTED_WITHIN = 120.0
"""Seconds for the whole copy, evenly and after STALLED_AFTER; one that falls behind does not count as being fetched."""


class Attempt:
    """A copy of ``size`` bytes.  ``rng`` chooses where in it to begin."""

    __slots__ = ("_asked", "_blocks", "_cursor", "_fresh", "_returned", "_senders", "_started", "progressed", "size")

    def __init__(self, size: int, rng: random.Random, now: float) -> None:
        self.size = size
        self.progressed = self._started = now
        self._blocks: dict[int, bytes] = {}
        self._senders: dict[int, Hashable] = {}
        self._cursor = rng.randrange(self.count)
        self._fresh = self.count  # blocks from the cursor on, round the end, that nobody was asked for
        self._asked: dict[int, float] = {}  # on their way, since when the latest request for each
        self._returned: dict[int, None] = {}  # asked for in vain

    @property
    def count(self) -> int:
        """How many blocks make the whole."""
        return block_count(self.size)

    @property
    def had(self) -> int:
        return len(self._blocks)

    @property
    def held(self) -> int:
        """Bytes of memory, nearly."""
        return self.had * BLOCK

    @property
    def complete(self) -> bool:
        return self.had == self.count

    @property
    def senders(self) -> frozenset[Hashable]:
        """Who sent the blocks that are there."""
        return frozenset(self._senders.values())

    def being_fetched(self, now: float) -> bool:
        """Whether blocks come fast enough; nobody can hold up others by sending one now and then."""
        age = now - self._started - STALLED_AFTER
        return now - self.progressed < STALLED_AFTER and self.had * EXPECTED_WITHIN >= self.count * age

    def choose(self, excluded: Collection[int], now: float) -> int | None:
        """The block to ask somebody for who is already asked for the ``excluded`` ones; it counts as asked for.

        First those that others were asked for in vain, then those that nobody was asked for, then the one that is
        longest on its way.
        """
        index = next((index for index in self._returned if index not in excluded), None)
        if index is not None:
            del self._returned[index]
        elif (index := self._next_fresh(excluded)) is None:
            late = [(asked, index) for index, asked in self._asked.items() if now - asked >= REASK_AFTER]
            index = min(((asked, index) for asked, index in late if index not in excluded), default=(0.0, None))[1]
        if index is not None:
            self._asked[index] = now
        return index

    def _next_fresh(self, excluded: Collection[int]) -> int | None:
        while self._fresh:
            index = self._cursor
            self._cursor = (self._cursor + 1) % self.count
            self._fresh -= 1
            if index in excluded:  # asked for on behalf of an earlier attempt: its answer will do
                self._returned[index] = None
            elif index not in self._blocks:
                return index
        return None

    def give_back(self, index: int) -> None:
        """Whoever was asked for the block will not send it."""
        if self._asked.pop(index, None) is not None:
            self._returned[index] = None

    def add(self, index: int, block: bytes, sender: Hashable, now: float) -> bool:
        """A block of the right length arrived; False if it was there already."""
        if index in self._blocks:
            return False
        self._blocks[index] = block
        self._senders[index] = sender
        self._asked.pop(index, None)
        self._returned.pop(index, None)
        self.progressed = now
        return True

    def whole(self) -> bytes:
        """All blocks in order; only when complete."""
        return b"".join(self._blocks[index] for index in range(self.count))

    def digests(self) -> Iterator[tuple[int, Hashable, bytes]]:
        """Each block's index, sender and SHA-1."""
        for index, block in self._blocks.items():
            yield index, self._senders[index], sha1(block).digest()


def block_count(size: int) -> int:
    return -(-size // BLOCK)


def block_length(size: int, index: int) -> int:
    """Bytes of a block of metadata of ``size`` bytes; 0 or less if there is no such block."""
    return min(size - index * BLOCK, BLOCK)
