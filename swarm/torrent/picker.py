"""Which blocks to ask which peer for (BEP 3, BEP 6): what is begun first, then the rarest, in the end everything twice.

A wanted piece is in exactly one state: *fresh* (untouched), *open* (an `OpenPiece`, up to the moment when the disk says
that its hash is right), or *had*.  Sets of pieces are integers (`swarm.torrent.availability`), so no pick loops over
pieces; objects exist for open pieces only, and `PieceMemory` bounds those.

Order of choice for one peer: the piece it is filling; orphans (begun, and nobody fills them); a fresh piece, at random
until RANDOM_FIRST are begun, then the rarest; the pieces that others are filling; and once every block that anybody
connected has is asked for, blocks that others were asked for (end game).  A slow peer joins others before it opens a
piece of its own.  A peer on parole (`swarm.torrent.blame`) gets whole pieces for itself, so that it can be judged.

Does not know how many requests to keep outstanding (`pipeline`), hashes nothing and writes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Hashable, Iterable, Iterator
from enum import Enum
from typing import NamedTuple

from swarm.bitfield import Bitfield
from swarm.torrent.availability import Availability, random_member
from swarm.torrent.openpiece import BLOCK, BLOCK_SHIFT, Block, OpenPiece, PieceMemory, Several
from swarm.torrent.openpieces import OpenPieces

RANDOM_FIRST = 4
"""Pieces chosen at random at the start: something to trade soon, and not all newcomers after the same rare piece."""

END_GAME_BLOCKS = 8
"""Blocks asked of one peer at a time in the end game; most arrive from the first peer before more are asked for."""

END_GAME_COPIES = 3
"""Peers that one block is asked of at once."""


class Sharing(Enum):
    """How a peer shares open pieces with others."""

    WHOLE = "whole"  # fast: fills pieces of its own, helps others when there are none left
    JOIN = "join"  # slow: helps to finish what others began before it begins anything
    ALONE = "alone"  # on parole: whole pieces that nobody else contributes to


class Arrival(Enum):
    """What became of a block that arrived."""

    FRESH = "fresh"  # stored
    DUPLICATE = "duplicate"  # it was there already (end game, or late after a time-out)
    UNASKED = "unasked"  # not, or no longer, asked of this peer; not stored


class Received(NamedTuple):
    """The answer to an arriving block; ``others`` are the peers to send a cancel."""

    arrival: Arrival
    complete: bool = False
    others: tuple[Hashable, ...] = ()


FRESH = Received(Arrival.FRESH)
COMPLETE = Received(Arrival.FRESH, complete=True)
DUPLICATE = Received(Arrival.DUPLICATE)
UNASKED = Received(Arrival.UNASKED)


class Picker:
    """The download state of one torrent.

    A peer is any hashable object, the same for all calls about it.  ``have`` is shared with the caller and written here
    only.  ``memory`` may serve several torrents.  After `received` said that a piece is complete its buffer belongs to
    the caller until `piece_verified` or `piece_failed`.

    Cost: a pick from a piece under way about 0.25 µs a block; opening a piece adds 6 µs at 10,000 pieces and 50 µs at
    100,000, whatever the number of peers.  The worst case is a peer for which nothing can be found while the memory is
    full or the end game runs: then the open pieces are walked, at most memory.limit / piece_length of them.
    """

    def __init__(
        self,
        piece_count: int,
        piece_length: int,
        total_size: int,
        have: Bitfield,
        rng: random.Random,
        memory: PieceMemory,
    ) -> None:
        if have.size != piece_count:
            raise ValueError(f"a bitfield of {have.size} for {piece_count} pieces")
        self.piece_count = piece_count
        self.piece_length = piece_length
        self.total_size = total_size
        self.have = have
        self.memory = memory
        self.availability = Availability(piece_count)
        self._rng = rng
        self._top = self.availability.top
        self._tiers: tuple[int, ...] = ()
        self._pieces = OpenPieces(memory)
        self._open = self._pieces.open
        self._unfilled = self._pieces.unfilled
        self._orphans = self._pieces.orphans
        self._missing = self._fresh = 0
        self.set_wanted(Bitfield.full(piece_count))

    # -- what is wanted ---------------------------------------------------------------------------------------------

    def set_wanted(
        self, wanted: Bitfield, *, high: Bitfield | None = None, low: Bitfield | None = None
    ) -> list[tuple[Hashable, Block]]:
        """Fetch these pieces, ``high`` before the others and ``low`` after them.

        What is open and no longer wanted is dropped, unless it is complete; returns the requests to cancel.
        """
        self._missing = wanted.as_int() & ~self.have.as_int()
        cancels = [
            cancel
            for piece in list(self._open.values())
            if piece.left and not self.wants(piece.index)
            for cancel in self._drop(piece)
        ]
        self._fresh = self._missing
        for index in self._open:
            self._fresh &= ~(1 << self._top - index)
        first = high.as_int() if high else 0
        last = low.as_int() & ~first if low else 0
        everything = (1 << self._top + 1) - 1
        tiers = (first, everything & ~first & ~last, last)
        self._tiers = tuple(tier for tier in tiers if tier) if first or last else ()
        return cancels

    def wants(self, index: int) -> bool:
        """Whether the piece is wanted and not yet verified: a peer that has it is interesting."""
        return bool(self._missing >> self._top - index & 1)

    def is_interesting(self, theirs: Bitfield) -> bool:
        """Whether a peer has anything that is wanted.  Linear in pieces / 64: ask when a pick gave nothing."""
        return bool(self._missing and theirs.as_int() & self._missing)

    @property
    def wanted_left(self) -> int:
        """Wanted pieces that are not yet verified."""
        return self._missing.bit_count()

    @property
    def remaining_bytes(self) -> int:
        """Bytes of wanted pieces that have not arrived."""
        missing = self.wanted_left * self.piece_length
        if self.piece_count and self.wants(self.piece_count - 1):
            missing -= self.piece_length - self.piece_size(self.piece_count - 1)
        return missing - self.unverified_bytes

    @property
    def unverified_bytes(self) -> int:
        """Bytes that have arrived of wanted pieces which are not verified yet."""
        return sum(self._pieces.bytes_there(piece) for piece in self._open.values() if self.wants(piece.index))

    @property
    def available_bytes(self) -> int:
        """Bytes of wanted pieces, not yet verified, that a connected peer has."""
        pieces = self._missing & self.availability.held()
        last_is_in = self.piece_count and pieces >> self._top - self.piece_count + 1 & 1
        short = self.piece_length - self.piece_size(self.piece_count - 1) if last_is_in else 0
        return pieces.bit_count() * self.piece_length - short

    def piece_size(self, index: int) -> int:
        """Bytes of a piece: the last one may be short."""
        return min(self.piece_length, self.total_size - index * self.piece_length)

    # -- who is there -----------------------------------------------------------------------------------------------

    def peer_joined(self, theirs: Bitfield) -> None:
        """Count the pieces of a peer, once its bitfield is known (or known to be empty)."""
        self.availability.joined(theirs)

    def peer_has(self, index: int) -> None:
        """A peer that joined announced a piece that was not yet in its bitfield."""
        self.availability.has(index)

    def peer_left(self, theirs: Bitfield) -> None:
        """A peer that joined went away, with all that it had.  Its requests: `released_all`."""
        self.availability.left(theirs)

    # -- asking -----------------------------------------------------------------------------------------------------

    def pick(
        self,
        peer: Hashable,
        theirs: Bitfield,
        count: int,
        *,
        sharing: Sharing = Sharing.WHOLE,
        allowed_fast: Collection[int] | None = None,
        suggested: Collection[int] = (),
    ) -> list[Block]:
        """Up to ``count`` blocks to ask ``peer`` for now; they count as asked.

        ``allowed_fast`` (BEP 6) restricts the choice to those pieces: for a peer that chokes us.  ``suggested`` pieces
        are opened before rarer ones.  No block is given twice to one peer, and to two peers in the end game only.
        """
        blocks: list[Block] = []
        if count <= 0 or not self._missing:
            return blocks
        if allowed_fast is not None:
            self._pick_allowed(peer, theirs, count, allowed_fast, blocks)
            return blocks
        filling = self._pieces.filling(peer)
        if filling is not None:
            if _may_go_on(filling, peer, sharing):
                self._pieces.take(filling, peer, count, blocks)
            else:
                self._pieces.abandon(filling, peer)
        if self._orphans and len(blocks) < count:
            self._pick_orphans(peer, theirs, count, sharing, blocks)
        if len(blocks) < count and sharing is Sharing.JOIN:
            self._join(peer, theirs, count, blocks, shared_only=True)
        if len(blocks) < count and self._fresh and self._may_open():
            self._open_fresh(peer, theirs, count, sharing, suggested, blocks)
        if len(blocks) < count and self._unfilled:
            if sharing is not Sharing.ALONE:
                self._join(peer, theirs, count, blocks, shared_only=False)
            elif not blocks:
                self._restart_orphan(peer, theirs, count, blocks)
        if not blocks and self.in_end_game:
            self._pick_again(peer, theirs, min(count, END_GAME_BLOCKS), blocks)
        return blocks

    @property
    def in_end_game(self) -> bool:
        """Whether every wanted block that anybody connected has is asked for."""
        return not self._fresh & self.availability.held() and not any(
            self.availability.count(index) for index in self._unfilled
        )

    # -- what comes of it -------------------------------------------------------------------------------------------

    def received(self, peer: Hashable, index: int, begin: int, data: bytes | bytearray | memoryview) -> Received:
        """A block arrived: if it was asked of this peer and is not yet there, its bytes are copied into the piece.

        Any ``index``, ``begin`` and length may be passed; what fits no request is `Arrival.UNASKED`.
        """
        piece = self._open.get(index)
        if piece is None:
            return DUPLICATE if 0 <= index < self.piece_count and index in self.have else UNASKED
        block, length = begin >> BLOCK_SHIFT, len(data)
        if begin & BLOCK - 1 or not 0 <= block < piece.blocks or length != piece.length(block):
            return UNASKED
        asked = piece.asked[block]
        if asked is None or asked != peer:
            if piece.senders[block] is not None:
                return DUPLICATE
            if not piece.asked_of(block, peer):
                return UNASKED
        buffer = piece.buffer
        if buffer is None:
            buffer = piece.buffer = self.memory.buffer(piece.size)
        buffer[begin : begin + length] = data
        if type(asked) is Several:
            others = self._pieces.arrived_of_several(piece, block, peer)
            return Received(Arrival.FRESH, not piece.left, others)
        piece.asked[block] = None
        piece.senders[block] = peer
        piece.left -= 1
        return FRESH if piece.left else COMPLETE

    def buffer(self, index: int) -> bytearray:
        """The bytes of a complete piece; LookupError if it is not complete."""
        piece = self._open[index]
        if piece.left or piece.buffer is None:
            raise LookupError(f"piece {index} is not complete")
        return piece.buffer

    def released(self, peer: Hashable, blocks: Iterable[tuple[int, int, int]]) -> None:
        """The peer will not send these (reject, or we cancelled); unknown ones are ignored.

        The same peer may be asked for them again: after a reject that no choke explains, take the piece out of what
        is passed as ``theirs``, or the two ends play ping-pong.
        """
        self._pieces.released(peer, blocks)

    def released_all(self, peer: Hashable) -> None:
        """The peer will send nothing of what it was asked for: it choked us (without BEP 6) or went away."""
        self._pieces.released_all(peer)

    def expired(self, peer: Hashable) -> None:
        """The peer is late (snubbed): others may be asked for its blocks, but what it still sends is taken.

        It is not asked for them again before `released_all`.
        """
        self._pieces.expired(peer)

    def contributors(self, index: int) -> dict[Hashable, list[Block]]:
        """Who sent which blocks of an open piece; empty if the piece is not open."""
        return self._pieces.contributors(index)

    def piece_verified(self, index: int) -> None:
        """A complete piece is right and written.  Its buffer is the picker's again."""
        self._pieces.close(self._pieces.complete(index))
        self.have.add(index)
        self._missing &= ~(1 << self._top - index)

    def piece_failed(self, index: int) -> None:
        """A complete piece is wrong (or could not be kept): all its blocks are free again.

        Ask for `contributors` before.
        """
        piece = self._pieces.complete(index)
        if self.wants(index):
            self._pieces.begin_anew(piece)
        else:
            self._pieces.close(piece)

    # -- the steps of a pick ----------------------------------------------------------------------------------------

    def _pick_allowed(
        self, peer: Hashable, theirs: Bitfield, count: int, allowed: Collection[int], blocks: list[Block]
    ) -> None:
        for index in allowed:
            if not 0 <= index < self.piece_count or index not in theirs:
                continue
            piece = self._unfilled.get(index)
            if piece is None and self._is_fresh(index):
                piece = self._open_piece(index)
            if piece is not None and not piece.alone:
                self._pieces.take(piece, peer, count, blocks)
                if len(blocks) == count:
                    return

    def _pick_orphans(
        self, peer: Hashable, theirs: Bitfield, count: int, sharing: Sharing, blocks: list[Block]
    ) -> None:
        data = theirs.data
        for index, piece in list(self._orphans.items()):
            if data[index >> 3] & 0x80 >> (index & 7) and (sharing is not Sharing.ALONE or piece.askers <= {peer}):
                piece.alone = sharing is Sharing.ALONE
                self._pieces.take(piece, peer, count, blocks)
                if len(blocks) == count:
                    return

    def _join(self, peer: Hashable, theirs: Bitfield, count: int, blocks: list[Block], *, shared_only: bool) -> None:
        data = theirs.data
        for index, piece in list(self._unfilled.items()):
            if (
                data[index >> 3] & 0x80 >> (index & 7)
                and (piece.shared or not shared_only)
                and not (piece.alone and self._fresh)
            ):
                piece.alone = False
                self._pieces.take(piece, peer, count, blocks)
                if len(blocks) == count:
                    return

    def _open_fresh(
        self,
        peer: Hashable,
        theirs: Bitfield,
        count: int,
        sharing: Sharing,
        suggested: Collection[int],
        blocks: list[Block],
    ) -> None:
        for index in self._fresh_pieces(theirs, suggested):
            piece = self._open_piece(index)
            if piece is None:
                return
            piece.alone = sharing is Sharing.ALONE
            piece.shared = sharing is Sharing.JOIN
            self._pieces.take(piece, peer, count, blocks)
            if len(blocks) == count:
                return

    def _fresh_pieces(self, theirs: Bitfield, suggested: Collection[int]) -> Iterator[int]:
        """Fresh pieces of a peer, best first.  Each must be opened before the next is asked for."""
        for index in suggested:
            if 0 <= index < self.piece_count and index in theirs and self._is_fresh(index):
                yield index
        candidates = self._fresh & theirs.as_int()
        for tier in self._tiers or (candidates,):
            rest = candidates & tier
            while rest:
                begun = self.have.count + len(self._open)
                rarest = rest if begun < RANDOM_FIRST else self.availability.rarest(rest)
                rest ^= rarest
                while rarest:
                    position = random_member(rarest, self._rng)
                    rarest ^= 1 << position
                    yield self._top - position

    def _restart_orphan(self, peer: Hashable, theirs: Bitfield, count: int, blocks: list[Block]) -> None:
        """Let a suspect begin anew what others left unfinished: nothing else is left for it."""
        for index, piece in list(self._orphans.items()):
            if piece.idle and index in theirs:
                again = self._pieces.begin_anew(piece)
                again.alone = True
                self._pieces.take(again, peer, count, blocks)
                return

    def _pick_again(self, peer: Hashable, theirs: Bitfield, count: int, blocks: list[Block]) -> None:
        """End game: blocks that others were asked for, those of the fewest first."""
        pieces = [piece for piece in self._open.values() if piece.left and piece.index in theirs]
        self._rng.shuffle(pieces)
        for requests in range(1, END_GAME_COPIES):
            for piece in pieces:
                for block in range(piece.blocks):
                    if piece.requests(block) == requests and not piece.asked_of(block, peer):
                        blocks.append(self._pieces.take_too(piece, peer, block))
                        if len(blocks) == count:
                            return

    # -- the state of pieces ----------------------------------------------------------------------------------------

    def _is_fresh(self, index: int) -> bool:
        return bool(self._fresh >> self._top - index & 1)

    def _may_open(self) -> bool:
        """Whether it is worth ranking fresh pieces: each read asks, also while a slow disk keeps the memory full."""
        memory = self.memory
        return memory.used + self.piece_length <= memory.limit or not self._open or bool(self._orphans)

    def _open_piece(self, index: int) -> OpenPiece | None:
        while (piece := self._pieces.begin(index, self.piece_size(index))) is None:
            if not self._evict():
                return None
        self._fresh &= ~(1 << self._top - index)
        return piece

    def _evict(self) -> bool:
        """Drop what was begun and cannot go on (its peers choke us or left), lest it block those that can deliver."""
        idle = [piece for piece in self._orphans.values() if piece.idle]
        if not idle:
            return False
        self._drop(min(idle, key=self._worth))
        return True

    def _worth(self, piece: OpenPiece) -> tuple[bool, bool, int]:
        late = any(asked is not None for asked in piece.asked)
        return late, self.availability.count(piece.index) > 0, piece.blocks - piece.left

    def _drop(self, piece: OpenPiece) -> list[tuple[Hashable, Block]]:
        """Close an unfinished piece; it is fresh again.  Returns the requests that are still on their way."""
        requests = self._pieces.requests(piece)
        self._pieces.close(piece)
        self._fresh |= 1 << self._top - piece.index
        return requests


def _may_go_on(piece: OpenPiece, peer: Hashable, sharing: Sharing) -> bool:
    """Whether the peer may go on with what it fills: on parole only if nobody else had a part in it."""
    if sharing is Sharing.ALONE and not piece.alone:
        piece.alone = piece.askers <= {peer}
        return piece.alone
    return True
