"""The pieces being fetched: what is known of each block, and the memory that holds them until they are verified.

A block of an open piece is in exactly one state: *free* (to be asked for), *asked* (of one or more peers), or *there*
(its bytes are in the buffer).  A free block may still be asked of a peer that let it expire: what comes late is taken.
Chooses nothing and does no I/O: `swarm.torrent.picker` decides, `swarm.torrent.disk` hashes and writes.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

BLOCK = 16 << 10
"""Bytes asked for at once.  BEP 3 names no size; every deployed client asks for 16 KiB and many refuse more."""

BLOCK_SHIFT = 14

MAX_SPARE = 32
"""Buffers kept for reuse, of together at most a quarter of the memory: a burst of pieces that wait for the disk should
not be returned to the system and taken again.  A fresh MiB costs 24 µs to zero and as much again in page faults."""


class Block(NamedTuple):
    """``length`` bytes of piece ``index`` from ``begin``: the fields of a BEP 3 request."""

    index: int  # type: ignore[assignment]  # BEP 3's word; hides tuple.index, which nobody needs here
    begin: int
    length: int


class Several(list[Hashable]):
    """The peers that one block is asked of, where a single name would not say it.  A list, so no peer can equal it."""

    __slots__ = ()


class PieceMemory:
    """How many bytes of unfinished pieces may be held; one for all torrents of a node.

    ``used`` may exceed ``limit`` by one piece a torrent: a torrent that holds nothing may always open one piece, so
    that none starves while another sits on the memory.
    """

    __slots__ = ("_spare", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._spare: list[bytearray] = []

    def reserve(self, size: int, *, force: bool = False) -> bool:
        """Whether ``size`` bytes are now reserved; ``force`` reserves them beyond the limit as well."""
        if self.used + size > self.limit and not force:
            return False
        self.used += size
        return True

    def release(self, size: int, buffer: bytearray | None) -> None:
        """Give back a reservation and the buffer that was taken for it, which nobody may touch any more."""
        self.used -= size
        if (
            buffer is not None
            and len(self._spare) < MAX_SPARE
            and len(buffer) * (len(self._spare) + 1) <= self.limit // 4
        ):
            self._spare.append(buffer)

    def buffer(self, size: int) -> bytearray:
        """A buffer for a reservation; its contents are arbitrary."""
        spare = self._spare
        for position in range(len(spare) - 1, -1, -1):
            if len(spare[position]) == size:
                return spare.pop(position)
        return bytearray(size)

    def shrink(self) -> None:
        """Forget the spare buffers: for when nothing is being downloaded."""
        self._spare.clear()


class OpenPiece:
    """One piece that was begun.

    ``free`` holds block numbers in descending order (taken from the end); ``asked[n]`` is None, a peer, or `Several`;
    ``senders[n]`` is who sent block n once it is there; ``left`` counts the blocks that are not there.  ``owner`` is
    the peer that fills the piece, None for an orphan.  Nobody joins a piece that is ``alone`` (its owner is on parole);
    slow peers join each other in one that is ``shared``.
    """

    __slots__ = (
        "alone",
        "asked",
        "askers",
        "blocks",
        "buffer",
        "free",
        "index",
        "last",
        "left",
        "owner",
        "senders",
        "shared",
        "size",
    )

    def __init__(self, index: int, size: int) -> None:
        self.index = index
        self.size = size
        self.blocks = (size + BLOCK - 1) >> BLOCK_SHIFT
        self.last = size - ((self.blocks - 1) << BLOCK_SHIFT)
        self.buffer: bytearray | None = None
        self.free = list(range(self.blocks - 1, -1, -1))
        self.asked: list[object] = [None] * self.blocks
        self.senders: list[Hashable | None] = [None] * self.blocks
        self.askers: set[Hashable] = set()
        self.left = self.blocks
        self.owner: Hashable | None = None
        self.alone = False
        self.shared = False

    @property
    def idle(self) -> bool:
        """Whether something is missing and none of it is expected (late blocks are not)."""
        return 0 < self.left == len(self.free)

    def length(self, block: int) -> int:
        return self.last if block == self.blocks - 1 else BLOCK

    def block(self, number: int) -> Block:
        return Block(self.index, number << BLOCK_SHIFT, self.length(number))

    def take(self, peer: Hashable, count: int) -> list[Block]:
        """Ask ``peer`` for up to ``count`` free blocks, in order; fewer if it was already asked for some of them."""
        free = self.free
        taken = free[-count:]
        taken.reverse()
        asked = self.asked
        late = False
        for block in taken:
            if asked[block] is None:
                asked[block] = peer
            else:
                late = True
        if late:
            return self._take_late(peer, count, taken)
        del free[-count:]
        self.askers.add(peer)
        index, new = self.index, tuple.__new__  # half the time of calling Block
        blocks = [new(Block, (index, block << BLOCK_SHIFT, BLOCK)) for block in taken]
        if taken and taken[-1] == self.blocks - 1:
            blocks[-1] = self.block(taken[-1])
        return blocks

    def _take_late(self, peer: Hashable, count: int, marked: list[int]) -> list[Block]:
        """`take` where some free blocks expired with other peers, or with this one, which is not asked twice."""
        for block in marked:
            if self.asked[block] == peer:
                self.asked[block] = None
        taken = [block for block in reversed(self.free) if not self.asked_of(block, peer)][:count]
        for block in taken:
            self.free.remove(block)
            self.ask_too(block, peer)
        return [self.block(block) for block in taken]

    def asked_of(self, block: int, peer: Hashable) -> bool:
        """Whether the peer was asked for the block and may still send it."""
        asked = self.asked[block]
        return peer in asked if type(asked) is Several else asked == peer

    def ask_too(self, block: int, peer: Hashable) -> None:
        """Ask one more peer for a block."""
        asked = self.asked[block]
        if asked is None:
            self.asked[block] = peer
        elif type(asked) is Several:
            asked.append(peer)
        else:
            self.asked[block] = Several((asked, peer))
        self.askers.add(peer)

    def requests(self, block: int) -> int:
        """How many peers are asked for a block."""
        asked = self.asked[block]
        return len(asked) if type(asked) is Several else int(asked is not None)

    def withdraw(self, block: int, peer: Hashable) -> bool:
        """The peer will not send the block; whether that set the block free."""
        asked = self.asked[block]
        if type(asked) is Several:
            if peer not in asked:
                return False
            asked.remove(peer)
            if asked:
                return False
        elif asked != peer:
            return False
        self.asked[block] = None
        if block in self.free:
            return False
        self._set_free(block)
        return True

    def expire(self, block: int, peer: Hashable) -> bool:
        """Let others be asked for a block that the peer still may send; whether that set the block free."""
        asked = self.asked[block]
        if asked != peer:  # Several: others are asked already, or may be
            return False
        self.asked[block] = Several((peer,))
        self._set_free(block)
        return True

    def arrived(self, block: int, peer: Hashable) -> tuple[Hashable, ...]:
        """Mark an asked block as there; the other peers it was asked of."""
        asked = self.asked[block]
        self.asked[block] = None
        self.senders[block] = peer
        self.left -= 1
        if type(asked) is not Several:
            return ()
        if block in self.free:
            self.free.remove(block)
        return tuple(other for other in asked if other != peer)

    def _set_free(self, block: int) -> None:
        self.free.append(block)
        self.free.sort(reverse=True)  # nearly sorted: linear
