"""The messages of ``ut_metadata`` (BEP 9): a bencoded dictionary, and behind that of a data message the block.

    request   {"msg_type": 0, "piece": N}
    data      {"msg_type": 1, "piece": N, "total_size": bytes of the whole}  followed by 16 KiB, or less for the last
    reject    {"msg_type": 2, "piece": N}

What BEP 9 calls a piece is called a block here, except on the wire.  Knows neither what is had nor what was asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from dht.bencode import BencodeError, Value, decode_prefix_untrusted, encode
from swarm.errors import RemoteProtocolError

BLOCK = 16 << 10
"""Bytes of a block; the last one may be shorter."""

MAX_HEADER = 1 << 10
"""Bytes of the dictionary; ours have 25 to 50."""

MAX_PIECE = (1 << 31) - 1

REQUEST, DATA, REJECT = 0, 1, 2


@dataclass(frozen=True, slots=True)
class MetadataRequest:
    """Asks for a block."""

    piece: int

    def encode(self) -> bytes:
        return encode({b"msg_type": REQUEST, b"piece": self.piece})


@dataclass(frozen=True, slots=True)
class MetadataData:
    """A block; ``total_size`` is that of the whole, None if the sender left it out."""

    piece: int
    total_size: int | None
    block: bytes

    def encode(self) -> bytes:
        head: dict[bytes, int] = {b"msg_type": DATA, b"piece": self.piece}
        if self.total_size is not None:
            head[b"total_size"] = self.total_size
        return encode(head) + self.block


@dataclass(frozen=True, slots=True)
class MetadataReject:
    """The sender does not have the block, or will not send it."""

    piece: int

    def encode(self) -> bytes:
        return encode({b"msg_type": REJECT, b"piece": self.piece})


MetadataMessage = MetadataRequest | MetadataData | MetadataReject


def parse_metadata_message_untrusted(payload: bytes | bytearray | memoryview) -> MetadataMessage | None:
    """The message in a ``ut_metadata`` payload; None for a ``msg_type`` that BEP 9 does not know, which it ignores.

    Keys may be out of order and others may stand beside them (libtorrent puts ``total_size`` into all three).
    RemoteProtocolError("bad-metadata-message") for anything but such a dictionary, for a ``piece`` below 0 or above
    MAX_PIECE, a ``total_size`` below 1, a data message without a block or with more than BLOCK bytes, a block behind
    one of the others, and what is too long to be any of them.
    """
    if len(payload) > MAX_HEADER + BLOCK:
        raise _bad(f"{len(payload)} bytes")
    try:
        said, end = decode_prefix_untrusted(payload, strict_order=False, max_depth=4, max_containers=16)
    except BencodeError as error:
        raise _bad(str(error)) from None
    if not isinstance(said, dict) or end > MAX_HEADER:
        raise _bad("no dictionary, or too long a one")
    kind = _number(said, b"msg_type", 0)
    if kind not in (REQUEST, DATA, REJECT):
        return None
    piece = _number(said, b"piece", 0)
    if piece > MAX_PIECE:
        raise _bad(f"piece {piece}")
    block = bytes(payload[end:])
    if kind == DATA:
        if not 0 < len(block) <= BLOCK:
            raise _bad(f"a block of {len(block)} bytes")
        return MetadataData(piece, _number(said, b"total_size", 1) if b"total_size" in said else None, block)
    if block:
        raise _bad(f"{len(block)} bytes behind a message without a block")
    return MetadataRequest(piece) if kind == REQUEST else MetadataReject(piece)


def _number(said: dict[bytes, Value], key: bytes, least: int) -> int:
    value = said.get(key)
    if not isinstance(value, int) or value < least:
        raise _bad(f"{key.decode()} is {value!r:.40}")
    return value


def _bad(detail: str) -> RemoteProtocolError:
    return RemoteProtocolError("bad-metadata-message", detail)
