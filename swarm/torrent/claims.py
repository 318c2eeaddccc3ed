"""What a peer says that it has while nobody knows how many pieces there are (BEP 9): kept until it can be checked."""

from __future__ import annotations

from swarm.bitfield import Bitfield
from swarm.errors import RemoteProtocolError
from swarm.wire.messages import BitfieldMessage, Have, HaveAll, HaveNone


class Claims:
    """Bounded by two bitfields of the greatest torrent: the codec lets no larger one, and no higher index, through."""

    def __init__(self) -> None:
        self._said: BitfieldMessage | HaveAll | HaveNone = HaveNone()
        self._haves = bytearray()  # a bitfield as long as the greatest index needs

    def note(self, message: BitfieldMessage | HaveAll | HaveNone | Have) -> None:
        """One message; all but `Have` replace what was said before."""
        if isinstance(message, Have):
            self._add(message.index)
        else:
            self._said = message
            self._haves.clear()

    def _add(self, index: int) -> None:
        if (missing := (index >> 3) + 1 - len(self._haves)) > 0:
            self._haves += bytes(missing)
        self._haves[index >> 3] |= 0x80 >> (index & 7)

    def read_untrusted(self, size: int) -> Bitfield:
        """The claims about a torrent of ``size`` pieces.  RemoteProtocolError where they cannot be."""
        match self._said:
            case BitfieldMessage(data):
                theirs = Bitfield.from_bytes_untrusted(data, size)
            case HaveAll():
                theirs = Bitfield.full(size)
            case HaveNone():
                theirs = Bitfield(size)
        haves = Bitfield(8 * len(self._haves))
        haves.data[:] = self._haves
        for index in haves:
            if index >= size:
                raise RemoteProtocolError("bad-message", f"have {index} of {size} pieces")
            theirs.add(index)
        return theirs
