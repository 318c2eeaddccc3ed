"""What we ask of one peer (BEP 3, BEP 6): interest, outstanding requests, blocks as they arrive.

Sans-IO.  It ties one peer's `Pipeline` (how many requests to keep outstanding) to the torrent's `Picker` (which
blocks); it hashes nothing, writes nothing and sends nothing: methods return the bytes to be sent.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from swarm.bitfield import Bitfield
from swarm.errors import RemoteProtocolError
from swarm.torrent.openpiece import BLOCK
from swarm.torrent.picker import Arrival, Picker, Sharing
from swarm.torrent.pipeline import Pipeline
from swarm.wire.messages import BlockData, Cancel, Interested, NotInterested, encode_requests

MAX_UNASKED = 64
"""Blocks never asked for that a peer may send before it is dropped; a few cross with our cancels and time-outs."""

MAX_ALLOWED_FAST = 32
"""Allowed-fast pieces remembered of one peer; BEP 6 has ten in mind."""


@dataclass(frozen=True, slots=True)
class Copies:
    """A block that arrived while others were asked for it as well (end game)."""

    peers: tuple[Hashable, ...]
    index: int
    begin: int
    length: int


class Arrived(NamedTuple):
    """What came of a run of blocks: payload bytes, pieces now complete in memory, and requests to cancel elsewhere."""

    payload: int
    filled: list[int]
    copies: list[Copies]


class Downloader:
    """The download side of one connection; ``peer`` is what the picker knows it by.

    ``theirs`` is what the peer has, ``parole`` whether it is suspected and so gets whole pieces alone.  ``wasted``
    counts payload bytes that were of no use.
    """

    __slots__ = (
        "_allowed_fast",
        "_asked",
        "_fast",
        "_joined",
        "_offered",
        "_peer",
        "_picker",
        "_unasked",
        "choked",
        "interested",
        "parole",
        "pipeline",
        "retiring",
        "theirs",
        "wasted",
    )

    def __init__(self, peer: Hashable, picker: Picker, now: float, *, fast: bool) -> None:
        self.pipeline = Pipeline(now)
        self.theirs = Bitfield(picker.piece_count)
        self.choked = True
        self.interested = False
        self.parole = False
        self.retiring = False
        self.wasted = 0
        self._peer = peer
        self._picker = picker
        self._fast = fast
        self._joined = False
        self._offered = self.theirs  # without the pieces that it rejected while unchoked
        self._asked: set[tuple[int, int]] = set()
        self._allowed_fast: list[int] = []
        self._unasked = 0

    # -- what the peer says -----------------------------------------------------------------------------------------

    def bitfield_untrusted(self, theirs: Bitfield) -> bytes:
        """All that the peer has, replacing what it said before; our interest if it changed."""
        if self._joined:
            self._picker.peer_left(self.theirs)
            self._joined = False
        self.theirs = self._offered = theirs
        self._join()
        return self._interest()

    def have_untrusted(self, index: int) -> bytes:
        """The peer completed a piece (the codec has checked the index); our interest if it changed."""
        self._join()
        if self.theirs.add(index):
            if self._offered is not self.theirs:
                self._offered.add(index)
            self._picker.peer_has(index)
            if not self.interested and not self.retiring and self._picker.wants(index):
                self.interested = True
                return _INTERESTED
        return b""

    def choked_by_peer(self, now: float) -> None:
        """No request will be served, except for allowed-fast pieces; with BEP 6 each is rejected explicitly."""
        self.choked = True
        if not self._fast:
            self._give_up()

    def unchoked_by_peer(self, now: float) -> None:
        self.choked = False
        self._offered = self.theirs
        self.pipeline.restart(now)

    def allowed_fast(self, index: int) -> None:
        """Requests for this piece are served while we are choked (BEP 6)."""
        if len(self._allowed_fast) < MAX_ALLOWED_FAST and index not in self._allowed_fast:
            self._allowed_fast.append(index)

    def rejected(self, index: int, begin: int, now: float) -> None:
        """The peer will not serve this request (BEP 6)."""
        if (index, begin) not in self._asked:
            return
        self._asked.discard((index, begin))
        self._picker.released(self._peer, ((index, begin, 0),))
        self.pipeline.released(1)
        if self.choked:
            if index in self._allowed_fast:
                self._allowed_fast.remove(index)
        else:
            self._withhold(index)

    def blocks_untrusted(self, blocks: Sequence[BlockData], now: float) -> Arrived:
        """Store a run of blocks.  What came of them is to be acted on before `judge` is asked about the peer."""
        asked, received, peer = self._asked, self._picker.received, self._peer
        answered = payload = useful = 0
        filled: list[int] = []
        copies: list[Copies] = []
        for index, begin, data in blocks:
            length = len(data)
            payload += length
            key = (index, begin)
            if wanted := key in asked:
                asked.discard(key)
                answered += 1
            outcome = received(peer, index, begin, data)
            if outcome.arrival is Arrival.FRESH:
                useful += length
                if outcome.complete:
                    filled.append(index)
                if outcome.others:
                    copies.append(Copies(outcome.others, index, begin, length))
            elif outcome.arrival is Arrival.UNASKED and not wanted:  # else the piece was given up or begun anew
                self._unasked += 1
        self.wasted += payload - useful
        if answered:
            self.pipeline.received(answered, payload, now)
        return Arrived(payload, filled, copies)

    def judge(self) -> None:
        """RemoteProtocolError("unasked-blocks") if the peer has sent too much that nobody wanted."""
        if self._unasked > MAX_UNASKED:
            raise RemoteProtocolError("unasked-blocks")

    # -- what we say ------------------------------------------------------------------------------------------------

    def refill(self, now: float) -> bytes:
        """Requests for whatever there is room for; a change of our interest when there is nothing to ask for."""
        if self.retiring:
            return b"" if self._asked else self._interest()
        pipeline = self.pipeline
        room = pipeline.room
        if not room or now < pipeline.resume_at or not self.interested or (self.choked and not self._allowed_fast):
            return b""
        blocks = self._picker.pick(
            self._peer,
            self._offered,
            room,
            sharing=self._sharing(),
            allowed_fast=self._allowed_fast if self.choked else None,
        )
        if not blocks:
            return b"" if self._asked else self._interest()
        self._asked.update([(index, begin) for index, begin, _ in blocks])
        pipeline.sent(len(blocks), now)
        return encode_requests(blocks)

    def reconsider(self) -> bytes:
        """Other pieces are wanted now: our interest if it changed."""
        return self._interest() if self._joined else b""

    def retire(self) -> bytes:
        """Another connection to this peer takes over: cancel all requests.

        With BEP 6 each stays outstanding until the block or a reject comes; when none is left interest ends.
        """
        self.retiring = True
        size = self._picker.piece_size
        asked = [(index, begin, min(BLOCK, size(index) - begin)) for index, begin in sorted(self._asked)]
        if not self._fast:
            self._give_up()
        return b"".join(Cancel(*block).encode() for block in asked) + (b"" if self._asked else self._interest())

    def cancelled(self, index: int, begin: int, now: float) -> bool:
        """Whether the request was outstanding, so that a cancel is worth sending.

        It stays outstanding where the peer answers a cancel with the block or a reject (BEP 6).
        """
        if (index, begin) not in self._asked:
            return False
        if not self._fast:
            self._asked.discard((index, begin))
            self.pipeline.released(1)
        return True

    def tick(self, now: float) -> bytes:
        """Snub a silent peer: others may be asked for its blocks; after as long again its requests are given up."""
        already = self.pipeline.snubbed
        if self.pipeline.snub(now):
            if already:
                self._give_up()
            else:
                self._picker.expired(self._peer)
        return self.refill(now)

    def closed(self) -> None:
        """The connection is over: nothing is asked for any more, though the torrent may still know it for a moment."""
        self.interested = False
        self._give_up()
        if self._joined:
            self._picker.peer_left(self.theirs)
            self._joined = False

    def _join(self) -> None:
        if not self._joined:
            self._joined = True
            self._picker.peer_joined(self.theirs)

    def _interest(self) -> bytes:
        interested = not self.retiring and self._picker.is_interesting(self.theirs)
        if interested == self.interested:
            return b""
        self.interested = interested
        return _INTERESTED if interested else _NOT_INTERESTED

    def _sharing(self) -> Sharing:
        if self.parole:
            return Sharing.ALONE
        return Sharing.WHOLE if self.pipeline.fills_within_reason(self._picker.piece_length) else Sharing.JOIN

    def _withhold(self, index: int) -> None:
        """Ask no more for a piece that was rejected without a choke, or the two ends play ping-pong."""
        if self._offered is self.theirs:
            self._offered = self.theirs.copy()
        self._offered.discard(index)

    def _give_up(self) -> None:
        self._asked.clear()
        self._picker.released_all(self._peer)
        self.pipeline.released_all()


_INTERESTED = Interested().encode()
_NOT_INTERESTED = NotInterested().encode()
