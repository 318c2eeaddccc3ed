"""All open pieces of one torrent: which have free blocks, who fills which, who was asked for what.

The books that the picker keeps; `swarm.torrent.picker` decides what is opened and who gets which blocks.
Knows nothing of which pieces peers have, of rarity or of what is wanted.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from swarm.torrent.openpiece import BLOCK, BLOCK_SHIFT, Block, OpenPiece, PieceMemory


class OpenPieces:
    """The open pieces by index: ``open`` all of them, ``unfilled`` those with free blocks, and of these ``orphans``
    the ones that nobody fills.  The three dictionaries are read by the picker and written here only."""

    __slots__ = ("_filling", "_involved", "memory", "open", "orphans", "unfilled")

    def __init__(self, memory: PieceMemory) -> None:
        self.memory = memory
        self.open: dict[int, OpenPiece] = {}
        self.unfilled: dict[int, OpenPiece] = {}
        self.orphans: dict[int, OpenPiece] = {}
        self._filling: dict[Hashable, OpenPiece] = {}
        self._involved: dict[Hashable, set[int]] = {}  # open pieces of which the peer was asked for blocks

    # -- pieces -----------------------------------------------------------------------------------------------------

    def begin(self, index: int, size: int) -> OpenPiece | None:
        """Open a piece, an orphan; None if there is no memory for it.  A torrent's only open piece always has some."""
        if not self.memory.reserve(size, force=not self.open):
            return None
        piece = self.open[index] = self.unfilled[index] = self.orphans[index] = OpenPiece(index, size)
        return piece

    def begin_anew(self, piece: OpenPiece) -> OpenPiece:
        """Forget all that came of a piece; an orphan in the same memory."""
        self._forget_askers(piece)
        index = piece.index
        piece.free.clear()  # whoever was filling it must not go on
        again = self.open[index] = self.unfilled[index] = self.orphans[index] = OpenPiece(index, piece.size)
        again.buffer = piece.buffer
        return again

    def close(self, piece: OpenPiece) -> None:
        """Remove a piece and give its memory back."""
        self._forget_askers(piece)
        index = piece.index
        del self.open[index]
        self.unfilled.pop(index, None)
        self.orphans.pop(index, None)
        self.memory.release(piece.size, piece.buffer)
        piece.buffer = None
        piece.free.clear()

    def complete(self, index: int) -> OpenPiece:
        """A piece whose blocks are all there; KeyError if it is not open, ValueError if it lacks some."""
        piece = self.open[index]
        if piece.left:
            raise ValueError(f"piece {index} lacks {piece.left} blocks")
        return piece

    def bytes_there(self, piece: OpenPiece) -> int:
        there = (piece.blocks - piece.left) * BLOCK
        return there if piece.senders[-1] is None else there - BLOCK + piece.last

    def requests(self, piece: OpenPiece) -> list[tuple[Hashable, Block]]:
        """What is on its way, and from whom."""
        return [
            (peer, piece.block(block))
            for block in range(piece.blocks)
            for peer in piece.askers
            if piece.asked_of(block, peer)
        ]

    def contributors(self, index: int) -> dict[Hashable, list[Block]]:
        """Who sent which blocks of an open piece; empty if the piece is not open."""
        senders: dict[Hashable, list[Block]] = {}
        piece = self.open.get(index)
        if piece is not None:
            for block, sender in enumerate(piece.senders):
                if sender is not None:
                    senders.setdefault(sender, []).append(piece.block(block))
        return senders

    # -- requests ---------------------------------------------------------------------------------------------------

    def filling(self, peer: Hashable) -> OpenPiece | None:
        """The piece that the peer is filling, if it has free blocks left."""
        piece = self._filling.get(peer)
        return piece if piece is not None and piece.free else None

    def take(self, piece: OpenPiece, peer: Hashable, count: int, blocks: list[Block]) -> None:
        """Ask ``peer`` for free blocks of a piece until ``blocks``, to which they are added, are ``count``."""
        taken = piece.take(peer, count - len(blocks))
        if not taken:
            return
        blocks += taken
        self._involve(peer, piece)
        if not piece.free:
            self._no_more_free(piece)
            self._filling.pop(peer, None)
            return
        self._filling[peer] = piece
        if piece.owner is None:
            piece.owner = peer
            self.orphans.pop(piece.index, None)

    def take_too(self, piece: OpenPiece, peer: Hashable, block: int) -> Block:
        """Ask one more peer for a block that others were asked for."""
        piece.ask_too(block, peer)
        self._involve(peer, piece)
        return piece.block(block)

    def arrived_of_several(self, piece: OpenPiece, block: int, peer: Hashable) -> tuple[Hashable, ...]:
        """A block is there of which `Several` were asked; the others."""
        others = piece.arrived(block, peer)
        if not piece.free:
            self._no_more_free(piece)
        return others

    def abandon(self, piece: OpenPiece, peer: Hashable) -> None:
        """The peer no longer fills the piece, if it did."""
        if piece.owner == peer:
            self._orphan(piece)

    def released(self, peer: Hashable, blocks: Iterable[tuple[int, int, int]]) -> None:
        """The peer will not send these; what was not asked of it is ignored."""
        for index, begin, _ in blocks:
            piece = self.open.get(index)
            block = begin >> BLOCK_SHIFT
            if piece is not None and 0 <= block < piece.blocks and piece.withdraw(block, peer):
                self._freed(piece, peer)

    def released_all(self, peer: Hashable) -> None:
        """The peer will send nothing of what it was asked for."""
        for piece in self._involved_pieces(peer):
            for block in range(piece.blocks):
                if piece.withdraw(block, peer):
                    self._freed(piece, peer)
            self.abandon(piece, peer)
            if peer not in piece.senders:  # or a piece that nobody completes would remember all who ever came by
                piece.askers.discard(peer)
        self._involved.pop(peer, None)
        self._filling.pop(peer, None)

    def expired(self, peer: Hashable) -> None:
        """Others may be asked for the peer's blocks; it may still send them."""
        for piece in self._involved_pieces(peer):
            for block in range(piece.blocks):
                if piece.expire(block, peer):
                    self._freed(piece, peer)
            self.abandon(piece, peer)
        self._filling.pop(peer, None)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _involve(self, peer: Hashable, piece: OpenPiece) -> None:
        involved = self._involved.get(peer)
        if involved is None:
            involved = self._involved[peer] = set()
        involved.add(piece.index)

    def _involved_pieces(self, peer: Hashable) -> list[OpenPiece]:
        return [self.open[index] for index in self._involved.get(peer, ())]

    def _no_more_free(self, piece: OpenPiece) -> None:
        piece.owner = None
        self.unfilled.pop(piece.index, None)
        self.orphans.pop(piece.index, None)

    def _freed(self, piece: OpenPiece, peer: Hashable) -> None:
        self.unfilled[piece.index] = piece
        if piece.owner is None or piece.owner == peer:
            self._orphan(piece)

    def _orphan(self, piece: OpenPiece) -> None:
        piece.owner = None
        piece.alone = False
        self.orphans[piece.index] = piece

    def _forget_askers(self, piece: OpenPiece) -> None:
        for peer in piece.askers:
            if self._filling.get(peer) is piece:
                del self._filling[peer]
            involved = self._involved.get(peer)
            if involved is not None:
                involved.discard(piece.index)
                if not involved:
                    del self._involved[peer]
