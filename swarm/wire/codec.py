"""`WireReader`: from the bytes of a peer to messages, through one reused buffer (BEP 3, 5, 6, 10).

The hot path of a download.  Bytes are received straight into the buffer, a block is handed out as a view of it, and a
message cut by the end of a read is moved to the front at most once.  Runs of ``piece`` and of ``request`` messages
become one object each.  Measured by bench/wire_codec.py.

Starts *after* the handshake.  Does not judge what the messages mean (whether a block was asked for, a request fits
the piece): that needs the torrent.  The handshake of BEP 10 inside `Extended` is `swarm.wire.extended`.
"""

from __future__ import annotations

import struct

from swarm.errors import RemoteProtocolError
from swarm.wire.messages import (
    AllowedFast,
    BitfieldMessage,
    BlockData,
    Cancel,
    Choke,
    Extended,
    Have,
    HaveAll,
    HaveNone,
    Interested,
    KeepAlive,
    Message,
    NotInterested,
    Pieces,
    Port,
    Reject,
    Requests,
    Suggest,
    Unchoke,
)

MIN_BUFFER = 16 << 10  # bytes; what an idle connection costs
MAX_BUFFER = 512 << 10  # bytes; reads grow the buffer up to this while they fill it
BLOCK_LENGTH = 16 << 10  # bytes; what everybody asks for
MAX_EXTENDED = (
    128 << 10
)  # bytes of payload; a metadata piece is 16 KiB and a dictionary, a PEX message of 1,000 peers 20 KiB
MAX_UNKNOWN = 128 << 10  # bytes; message ids that are not ours are skipped up to this (BEP 52 hashes: 16 KiB)
MAX_PIECES = 1 << 21  # before the metadata is known: bounds the bitfield (256 KiB) and the index of a ``have``


class WireReader:
    """Messages from a byte stream that starts after the handshake.

    Either receive into ``get_buffer()`` and tell ``received(n)``, or pass bytes to ``feed``.  The blocks in `Pieces`
    are views of the buffer, valid until the next ``get_buffer`` or ``feed``; everything else is copied out.

    ``fast``: both ends set the bit of BEP 6.  ``max_block``: the longest block that we ask for, in bytes.
    BEP 3 wants the bitfield first and once, but that does not survive contact with deployed clients: Transmission sends
    its extension handshake and ``port`` before it, libtorrent 2.1.1 that joined by a magnet link sends it when it has
    the metadata, and aria2 sends another instead of many ``have`` (all seen).  So it may come at any time.
    ``piece_count`` may be given later by ``set_piece_count`` when the metadata comes from peers (BEP 9).

    After a RemoteProtocolError ("bad-message": malformed or too long; "unexpected-message": of the fast extension, not
    negotiated) the reader is not to be used again, and messages of the same read are lost.
    """

    def __init__(
        self,
        *,
        piece_count: int | None = None,
        fast: bool = False,
        max_block: int = BLOCK_LENGTH,
        max_buffer: int = MAX_BUFFER,
    ) -> None:
        self._max_buffer = max(max_buffer, MIN_BUFFER)
        self._max_piece = 9 + max_block
        self._piece_count = MAX_PIECES
        self._lengths = {
            **_LENGTHS,
            Pieces.ID: (9, self._max_piece),
            BitfieldMessage.ID: (1, 1 + MAX_PIECES // 8),
            **({} if fast else dict.fromkeys(_FAST_IDS, _NEVER)),
        }
        self._data = bytearray(MIN_BUFFER)
        self._view = memoryview(self._data)
        self._start = 0  # first byte of the incomplete message
        self._end = 0  # after the last byte received
        self._needed = 0  # length of the incomplete message as far as known, 0 if not even that
        self._grow = False
        if piece_count is not None:
            self.set_piece_count(piece_count)

    def set_piece_count(self, count: int) -> None:
        """From now on a bitfield has exactly ceil(count / 8) bytes and indices are below ``count``.

        What arrived before is the caller's to check.
        """
        self._piece_count = count
        exact = 1 + (count + 7) // 8
        self._lengths[BitfieldMessage.ID] = (exact, exact)

    @property
    def pending(self) -> int:
        """Bytes of an incomplete message: not 0 at the end of the stream means that it was cut."""
        return self._end - self._start

    @property
    def buffer_size(self) -> int:
        """Bytes that this reader holds."""
        return len(self._data)

    def get_buffer(self) -> memoryview:
        """Where the next bytes go: the writable rest of the buffer, at least one byte.  Ends the life of all blocks.

        Doubles the buffer, up to ``max_buffer``, when the last read filled what it was offered; beyond that only for a
        single message which is longer.
        """
        if self._start == self._end:
            self._start = self._end = 0
        capacity = len(self._data)
        size = min(2 * capacity, self._max_buffer) if self._grow else capacity
        size = max(size, capacity, _power_of_two(self._needed))
        if size > capacity:
            self._move(size)
        elif self._start and (self._end > capacity // 2 or self._start + self._needed > capacity):
            self._move(capacity)
        return self._view[self._end :]

    def received(self, count: int) -> list[Message]:
        """The messages completed by ``count`` bytes written to the front of ``get_buffer()``.  RemoteProtocolError."""
        end = self._end + count
        if count < 0 or end > len(self._data):
            raise ValueError(f"{count} bytes do not fit the buffer offered")
        self._grow = end == len(self._data)
        self._end = end
        return self._parse()

    def feed(self, data: bytes | bytearray | memoryview) -> list[Message]:
        """The messages completed by ``data``, which is copied; for streams that cannot receive into a buffer."""
        free = len(self.get_buffer())
        if free < len(data):
            self._move(_power_of_two(self.pending + len(data)))
        end = self._end + len(data)
        self._view[self._end : end] = data
        self._end = end
        return self._parse()

    def shrink(self) -> None:
        """Give memory back while the peer is idle; reads that fill the buffer make it grow again."""
        size = max(MIN_BUFFER, _power_of_two(max(self.pending + 1, self._needed)))
        self._grow = False
        if size < len(self._data):
            self._move(size)

    def _move(self, size: int) -> None:
        """Bring the incomplete message to the front, of a new buffer unless the size stays.

        A bytearray with views out cannot be resized, and the old buffer must outlive the blocks in use.
        """
        kept = self._view[self._start : self._end]
        if size == len(self._data):
            self._view[: len(kept)] = kept
        else:
            self._data = bytearray(size)
            self._view = memoryview(self._data)
            self._view[: len(kept)] = kept
        self._start, self._end = 0, len(kept)

    def _parse(self) -> list[Message]:
        messages: list[Message] = []
        data, at, end, lengths = self._data, self._start, self._end, self._lengths
        self._needed = 0
        while end - at >= 4:
            (length,) = _LENGTH.unpack_from(data, at)
            if length == 0:
                messages.append(_KEEP_ALIVE)
                at += 4
                continue
            if end - at < 5:
                break
            message_id = data[at + 4]
            # Judged before it is complete: what cannot be right must not fill the buffer.
            shortest, longest = lengths.get(message_id, _UNKNOWN)
            if not shortest <= length <= longest:
                raise _refusal(message_id, length, longest)
            next_at = at + 4 + length
            if next_at > end:
                self._needed = 4 + length
                break
            if message_id == Pieces.ID:
                at = self._read_pieces(at, messages)
            elif message_id == Requests.ID:
                at = self._read_requests(at, messages)
            else:
                message = self._read_untrusted(message_id, at + 5, next_at)
                if message is not None:
                    messages.append(message)
                at = next_at
        self._start = at
        return messages

    def _read_pieces(self, at: int, messages: list[Message]) -> int:
        """Take the run of complete ``piece`` messages at ``at``, the first of which is checked; return its end."""
        data, view, end, longest = self._data, self._view, self._end, self._max_piece
        unpack = _PIECE.unpack_from
        blocks: list[BlockData] = []
        length, message_id, index, begin = unpack(data, at)
        next_at = at + 4 + length
        while message_id == 7 and 9 <= length <= longest and next_at <= end:
            blocks.append((index, begin, view[at + 13 : next_at]))
            at = next_at
            if end - at < 13:
                break
            length, message_id, index, begin = unpack(data, at)
            next_at = at + 4 + length
        messages.append(Pieces(blocks))
        return at

    def _read_requests(self, at: int, messages: list[Message]) -> int:
        """Take the run of complete ``request`` messages at ``at``, the first of which is checked; return its end."""
        whole = (self._end - at) // _BLOCK.size * _BLOCK.size
        blocks = []
        for length, message_id, index, begin, wanted in _BLOCK.iter_unpack(self._view[at : at + whole]):
            if message_id != 6 or length != 13:
                break
            blocks.append((index, begin, wanted))
        messages.append(Requests(blocks))
        return at + len(blocks) * _BLOCK.size

    def _read_untrusted(self, message_id: int, at: int, end: int) -> Message | None:
        """One message whose length is right, its payload at ``at``; None for what is to be ignored."""
        data = self._data
        match message_id:
            case Have.ID:
                (index,) = _LENGTH.unpack_from(data, at)
                if index >= self._piece_count:
                    raise RemoteProtocolError("bad-message", f"have {index} of {self._piece_count} pieces")
                return Have(index)
            case BitfieldMessage.ID:
                return BitfieldMessage(bytes(self._view[at:end]))
            case Extended.ID:
                return Extended(data[at], bytes(self._view[at + 1 : end]))
            case Cancel.ID:
                return Cancel(*_TRIPLE.unpack_from(data, at))
            case Reject.ID:
                return Reject(*_TRIPLE.unpack_from(data, at))
            case Suggest.ID | AllowedFast.ID:
                # Advice; libtorrent, too, ignores an index that does not exist.
                (index,) = _LENGTH.unpack_from(data, at)
                if index >= self._piece_count:
                    return None
                return Suggest(index) if message_id == Suggest.ID else AllowedFast(index)
            case Port.ID:
                return Port(*_SHORT.unpack_from(data, at))
            case _:
                return _BARE.get(message_id)


def _refusal(message_id: int, length: int, longest: int) -> RemoteProtocolError:
    if longest == 0:
        return RemoteProtocolError("unexpected-message", f"id {message_id} without the fast extension")
    return RemoteProtocolError("bad-message", f"id {message_id} with length {length}")


def _power_of_two(size: int) -> int:
    """The least power of two that is at least ``size``; 1 for 0."""
    return 1 << (size - 1).bit_length() if size > 1 else 1


_LENGTH = struct.Struct(">I")
_SHORT = struct.Struct(">H")
_PIECE = struct.Struct(">IBII")
_BLOCK = struct.Struct(">IBIII")
_TRIPLE = struct.Struct(">III")

_KEEP_ALIVE = KeepAlive()
_BARE: dict[int, Message] = {
    Choke.ID: Choke(),
    Unchoke.ID: Unchoke(),
    Interested.ID: Interested(),
    NotInterested.ID: NotInterested(),
    HaveAll.ID: HaveAll(),
    HaveNone.ID: HaveNone(),
}
_FAST_IDS = (Suggest.ID, HaveAll.ID, HaveNone.ID, Reject.ID, AllowedFast.ID)

# Shortest and longest ``length`` by id, the id itself included; piece and bitfield depend on the torrent.
_NEVER = (1, 0)
_UNKNOWN = (1, 1 + MAX_UNKNOWN)
_LENGTHS = {
    **dict.fromkeys(_BARE, (1, 1)),
    Have.ID: (5, 5),
    Requests.ID: (13, 13),
    Cancel.ID: (13, 13),
    Port.ID: (3, 3),
    Suggest.ID: (5, 5),
    Reject.ID: (13, 13),
    AllowedFast.ID: (5, 5),
    Extended.ID: (2, 2 + MAX_EXTENDED),
}
