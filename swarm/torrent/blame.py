"""Who sent the bad block: no BEP; libtorrent and Transmission keep similar records ("smart ban").

A piece that fails from one sender convicts it.  A piece that fails from several makes them all suspects; who sent which
block, and the block's SHA-1, is kept until the piece verifies, and then whoever sent something else is convicted.
Suspects are on parole: the picker gives them whole pieces alone (`Sharing.ALONE`), which convict or clear them.

A sender is any hashable that survives a reconnection (its address, not its connection), so that a liar cannot shed its
record by coming back.  Bans nobody and drops no connection: it names names.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from hashlib import sha1

from swarm.torrent.openpiece import Block

MAX_BLOCKS = 16384
"""Block records held, about 3 MiB; the oldest failed piece is forgotten first."""

MAX_SUSPECTS = 1024
"""Suspects remembered; the oldest is forgiven first."""


class Blame:
    """The suspicions of one torrent.  The data of a piece is hashed block by block: 0.6 ms a MiB."""

    __slots__ = ("_max_blocks", "_records", "_size", "_suspects")

    def __init__(self, *, max_blocks: int = MAX_BLOCKS) -> None:
        self._max_blocks = max_blocks
        self._records: dict[int, dict[tuple[Block, Hashable], bytes]] = {}  # by piece; SHA-1 of what was sent
        self._size = 0
        self._suspects: dict[Hashable, None] = {}

    def failed(self, index: int, senders: Mapping[Hashable, Iterable[Block]], data: bytearray) -> frozenset[Hashable]:
        """A piece did not verify; those who certainly lied: the only sender, or else (so far) nobody.

        ``senders`` is `Picker.contributors`, read before the picker is told, by address.
        """
        if len(senders) == 1:
            return self._convict(senders)
        for sender, blocks in senders.items():
            self._suspects[sender] = None
            for block in blocks:
                self._record(block, sender, _digest(data, block))
        while len(self._suspects) > MAX_SUSPECTS:
            del self._suspects[next(iter(self._suspects))]
        while self._size > self._max_blocks:
            self._forget_piece(next(iter(self._records)))
        return frozenset()

    def verified(self, index: int, senders: Mapping[Hashable, Iterable[Block]], data: bytearray) -> frozenset[Hashable]:
        """A piece verified; those who had sent something else for it earlier.  Clears a suspect that sent it alone.

        Costs nothing worth mentioning where nobody is suspected.
        """
        liars: frozenset[Hashable] = frozenset()
        if record := self._records.get(index):
            right = {block: _digest(data, block) for block, _ in record}
            liars = frozenset(sender for (block, sender), digest in record.items() if right[block] != digest)
            self._forget_piece(index)
            self._convict(liars)
        if len(senders) == 1:
            self._suspects.pop(next(iter(senders)), None)
        return liars

    @property
    def idle(self) -> bool:
        """Whether nobody is suspected of anything, so that `verified` need not be told."""
        return not self._records and not self._suspects

    def on_parole(self, sender: Hashable) -> bool:
        """Whether the sender is to get whole pieces for itself."""
        return sender in self._suspects

    @property
    def suspects(self) -> frozenset[Hashable]:
        return frozenset(self._suspects)

    @property
    def recorded_blocks(self) -> int:
        return self._size

    def _record(self, block: Block, sender: Hashable, digest: bytes) -> None:
        record = self._records.setdefault(block.index, {})
        if (block, sender) not in record:
            self._size += 1
            record[block, sender] = digest

    def _convict(self, liars: Iterable[Hashable]) -> frozenset[Hashable]:
        convicted = frozenset(liars)
        for liar in convicted:
            self._suspects.pop(liar, None)
        return convicted

    def _forget_piece(self, index: int) -> None:
        self._size -= len(self._records.pop(index))


def _digest(data: bytearray, block: Block) -> bytes:
    return sha1(memoryview(data)[block.begin : block.begin + block.length]).digest()
