"""What a peer says that it has while nobody knows how many pieces there are (BEP 9): kept until it can be checked."""

from __future__ import annotations

from swarm.bitfield import Bitfield
from swarm.errors import RemoteProtocolError
from swarm.wire.messages import BitfieldMessage, Have, HaveAll, HaveNone

MAX_HAVES = 50_000
"""Pieces announced one by one that are remembered of a peer; what comes beyond is forgotten, and not fetched there."""


class Claims:
    """Bounded by a bitfield of the greatest torrent and MAX_HAVES indices."""

    def __init__(self) -> None:
        self._said: BitfieldMessage | HaveAll | HaveNone = HaveNone()
        self._haves: set[int] = set()

    def note(self, message: BitfieldMessage | HaveAll | HaveNone | Have) -> None:
        if isinstance(message, Have):
            if len(self._haves) < MAX_HAVES:
                self._haves.add(message.index)
        else:
            self._said = message
            self._haves.clear()

    def read_untrusted(self, size: int) -> Bitfield:
        """The claims about a torrent of ``size`` pieces.  RemoteProtocolError where they cannot be."""
        match self._said:
            case BitfieldMessage(data):
                theirs = Bitfield.from_bytes_untrusted(data, size)
            case HaveAll():
                theirs = Bitfield.full(size)
            case HaveNone():
                theirs = Bitfield(size)
        for index in self._haves:
            if index >= size:
                raise RemoteProtocolError("bad-message", f"have {index} of {size} pieces")
            theirs.add(index)
        return theirs
