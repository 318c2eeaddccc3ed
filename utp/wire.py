"""µTP packets as bytes (BEP 29): the 20-byte header, its chain of extensions, the selective ACK.

    0       4       8               16              24              32
    +-------+-------+---------------+---------------+---------------+
    | type  | ver=1 | extension     | connection_id                 |
    +-------+-------+---------------+-------------------------------+
    | timestamp_microseconds                                        |
    +---------------------------------------------------------------+
    | timestamp_difference_microseconds                             |
    +---------------------------------------------------------------+
    | wnd_size                                                      |
    +-------------------------------+-------------------------------+
    | seq_nr                        | ack_nr                        |
    +-------------------------------+-------------------------------+

All big-endian.  An extension is ``next extension (1) · length (1) · length bytes``; 0 ends the chain.  Here are
layouts only: no state, no rule about which packet may follow which.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import NamedTuple

from utp.errors import RemoteProtocolError

HEADER_SIZE = 20  # bytes
VERSION = 1

ST_DATA = 0
ST_FIN = 1
ST_STATE = 2
ST_RESET = 3
ST_SYN = 4

EXTENSION_SACK = 1
EXTENSION_BITS = 2  # eight bytes that nobody uses; libutp takes no other length
EXTENSION_PADDING = 0x50  # ours, only ever chained: unknown to everybody and skipped by all

MAX_SACK_BYTES = 128  # 1,024 packets: as far as anybody's reorder buffer reaches
MAX_EXTENSIONS = 32  # in one packet; a datagram full of empty ones would take 0.2 ms to read
NO_DELAY_SAMPLE = 0x7FFFFFFF  # µTorrent's way of saying "I have not measured anything yet"
TIMESTAMP_MASK = 0xFFFFFFFF

# The first header word holds type, version, extension and connection id.  Seen as one integer it tells in one
# comparison whether a packet is plain data of a given connection.
Word = int
HEADER = Struct(">IIIIHH")
pack_header: Callable[[Word, int, int, int, int, int], bytes] = HEADER.pack
unpack_word_seq_ack = Struct(">I12xHH").unpack_from

# type (0-4) in the high nibble, version 1 in the low one
FIRST_BYTES = frozenset(packet_type << 4 | VERSION for packet_type in range(ST_SYN + 1))


class Packet(NamedTuple):
    """One decoded packet.  ``sack`` has bit *i* set when packet ``ack_nr + 2 + i`` has arrived, 0 if there is none.

    ``payload`` is a view into the datagram and lives as long as that does.
    """

    type: int
    connection_id: int
    timestamp: int
    timestamp_difference: int
    wnd_size: int
    seq_nr: int
    ack_nr: int
    sack: int
    payload: memoryview


def first_word(packet_type: int, connection_id: int, extension: int = 0) -> Word:
    """Type, version, extension and connection id as the integer that opens a header."""
    return packet_type << 28 | VERSION << 24 | extension << 16 | connection_id


def looks_like_utp(datagram: memoryview | bytes) -> bool:
    """Whether this can be a µTP packet at all: long enough, version 1, a known type.  For the demultiplexer."""
    return len(datagram) >= HEADER_SIZE and datagram[0] in FIRST_BYTES


def decode_untrusted(datagram: memoryview) -> Packet:
    """Read one packet; RemoteProtocolError if it is none.

    Extensions are skipped whatever their id and order (libtorrent opens its FIN with id 3), and a selective ACK may
    have any length (libtorrent does not pad it to four bytes); only a chain that leaves the datagram, or has more than
    MAX_EXTENSIONS links, is refused.
    """
    if not looks_like_utp(datagram):
        raise RemoteProtocolError("not a µTP packet")
    word, timestamp, difference, wnd_size, seq_nr, ack_nr = HEADER.unpack_from(datagram)
    extension = word >> 16 & 0xFF
    sack, start = (0, HEADER_SIZE) if extension == 0 else _read_extensions(datagram, extension)
    return Packet(
        word >> 28, word & 0xFFFF, timestamp, difference, wnd_size, seq_nr, ack_nr, sack, datagram[start:]
    )  # fmt: skip


def _read_extensions(datagram: memoryview, extension: int) -> tuple[int, int]:
    """The selective ACK and where the payload starts; ``extension`` is the first id, not 0."""
    sack, at = 0, HEADER_SIZE
    for _ in range(MAX_EXTENSIONS):
        if at + 2 > len(datagram):
            raise RemoteProtocolError("extension cut short")
        following, length = datagram[at], datagram[at + 1]
        at += 2
        if at + length > len(datagram):
            raise RemoteProtocolError("extension longer than the packet")
        if extension == EXTENSION_SACK:
            sack = int.from_bytes(datagram[at : at + length], "little")
        at += length
        if not following:
            return sack, at
        extension = following
    raise RemoteProtocolError("too many extensions")


def sack_extension(sack: int) -> bytes:
    """The selective ACK as the only extension: at least four bytes and a multiple of four, as libutp wants it."""
    length = min((sack.bit_length() + 31) // 32 * 4 or 4, MAX_SACK_BYTES)
    bits = sack & ((1 << length * 8) - 1)
    return bytes((0, length)) + bits.to_bytes(length, "little")


EXTENSION_BITS_SIZE = 10  # with its two bytes of chain
MIN_PADDING = EXTENSION_BITS_SIZE + 2  # one block can be left out, but a remainder of one byte cannot be expressed


def padding_extensions(length: int) -> bytes:
    """A chain of extensions exactly ``length`` bytes long that says nothing; `EXTENSION_BITS` opens it.

    libutp takes a packet whose *first* extension is unknown for a stranger's, so a known one goes first.  ``length``
    is at least `MIN_PADDING`.
    """
    blocks: list[int] = []
    left = length - EXTENSION_BITS_SIZE
    while left:
        size = min(left, 257)
        if left - size == 1:
            size -= 1  # or the last block could not hold its own two bytes
        blocks.append(size - 2)
        left -= size
    chain = bytearray((EXTENSION_PADDING if blocks else 0, 8)) + bytes(8)
    for index, size in enumerate(blocks):
        chain += bytes((EXTENSION_PADDING if index + 1 < len(blocks) else 0, size)) + bytes(size)
    return bytes(chain)
