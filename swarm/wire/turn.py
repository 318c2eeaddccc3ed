"""TURN messages (RFC 8656) as they come on top of STUN (`swarm.wire.stun`): methods, attributes, ChannelData.

Pure functions and one reader of frames.  What is asked when is `swarm.net.turn_client`.

    ChannelData:   channel number  2 bytes    0x4000 to 0x4FFF
                   length          2          of the data alone
                   data                       over TCP and TLS padded to a multiple of 4; over UDP it may be

Over TCP and TLS STUN messages and ChannelData follow each other without any other frame: the two first bits tell them
apart (RFC 8656 §12.4).  All integers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from swarm.errors import RemoteProtocolError
from swarm.wire.stun import HEADER as STUN_HEADER
from swarm.wire.stun import AttributeType

CHANNEL_HEADER = struct.Struct(">HH")
FIRST_CHANNEL, LAST_CHANNEL = 0x4000, 0x4FFF

UDP = 17
"""The protocol of REQUESTED-TRANSPORT: what a server relays is always UDP (RFC 6062 is not spoken)."""

MAX_FRAME = STUN_HEADER.size + 0xFFFF
"""Bytes of the longest frame that its length field can announce."""

NONCE_COOKIE = "obMatJos2"
"""So a nonce begins that says what the server can do (RFC 8489 §9.2): then 24 bits in 4 characters of base64."""


class Method(IntEnum):
    ALLOCATE = 0x003
    REFRESH = 0x004
    SEND = 0x006
    DATA = 0x007
    CREATE_PERMISSION = 0x008
    CHANNEL_BIND = 0x009


class TurnAttribute(IntEnum):
    CHANNEL_NUMBER = 0x000C
    LIFETIME = 0x000D
    XOR_PEER_ADDRESS = 0x0012
    DATA = 0x0013
    XOR_RELAYED_ADDRESS = 0x0016
    REQUESTED_ADDRESS_FAMILY = 0x0017
    EVEN_PORT = 0x0018
    REQUESTED_TRANSPORT = 0x0019
    DONT_FRAGMENT = 0x001A
    RESERVATION_TOKEN = 0x0022
    ADDITIONAL_ADDRESS_FAMILY = 0x8000
    ADDRESS_ERROR_CODE = 0x8001
    ICMP = 0x8004


KNOWN = frozenset((*AttributeType, *TurnAttribute))
"""Attribute types that we understand."""


class ChannelData(NamedTuple):
    """``data`` is a view of what was parsed."""

    number: int
    data: memoryview


class Features(NamedTuple):
    """What a server's nonce says that it can do."""

    password_algorithms: bool
    username_anonymity: bool


def is_channel_data(message: bytes | bytearray | memoryview) -> bool:
    """Whether it starts as ChannelData does, not as a STUN message."""
    return len(message) > 0 and message[0] >> 6 == 1


def parse_channel_data_untrusted(message: bytes | bytearray | memoryview) -> ChannelData:
    """A whole datagram, or a whole frame of a stream.

    RemoteProtocolError("bad-turn") for a number that is none, or a length that does not fit but for three bytes of
    padding.
    """
    if len(message) < CHANNEL_HEADER.size:
        raise RemoteProtocolError("bad-turn", "cut short")
    number, length = CHANNEL_HEADER.unpack_from(message)
    if not FIRST_CHANNEL <= number <= LAST_CHANNEL:
        raise RemoteProtocolError("bad-turn", f"channel {number:#06x}")
    if not 0 <= len(message) - CHANNEL_HEADER.size - length <= 3:
        raise RemoteProtocolError("bad-turn", f"{length} bytes in a frame of {len(message)}")
    return ChannelData(number, memoryview(message)[CHANNEL_HEADER.size : CHANNEL_HEADER.size + length])


def parse_lifetime_untrusted(value: bytes | None) -> int:
    """LIFETIME in seconds.  RemoteProtocolError("bad-turn") if it is not there, or not of four bytes."""
    if value is None or len(value) != 4:
        raise RemoteProtocolError("bad-turn", "lifetime")
    return int.from_bytes(value, "big")


def parse_password_algorithms_untrusted(value: bytes) -> tuple[int, ...]:
    """PASSWORD-ALGORITHMS (RFC 8489 §14.11): 1 is MD5, 2 is SHA-256; each with the length of its parameters (2 bytes),
    and these padded to a multiple of 4.  RemoteProtocolError("bad-turn") where that does not add up."""
    found: list[int] = []
    start = 0
    while start < len(value):
        if len(value) - start < 4:
            raise RemoteProtocolError("bad-turn", "password algorithms")
        algorithm, length = struct.unpack_from(">HH", value, start)
        start += 4 + length + -length % 4
        found.append(algorithm)
    if start != len(value):
        raise RemoteProtocolError("bad-turn", "password algorithms")
    return tuple(found)


def features_of_nonce(nonce: str) -> Features:
    """What the nonce says; nothing, where it has no cookie.  Bit 0 is the last of the 24 (RFC 8489, erratum 6290)."""
    bits = 0
    if nonce.startswith(NONCE_COOKIE):
        for character in nonce[len(NONCE_COOKIE) :][:4].ljust(4, "A"):
            bits = bits << 6 | max(_BASE64.find(character), 0)
    return Features(bool(bits & 1), bool(bits & 2))


def frame_length_untrusted(head: bytes | bytearray | memoryview) -> int | None:
    """Bytes of the frame that ``head`` begins, its padding included; None while four bytes are not there.

    RemoteProtocolError("bad-turn") where neither a STUN message nor ChannelData begins.
    """
    if not head:
        return None
    if head[0] >> 6 > 1:
        raise RemoteProtocolError("bad-turn", f"a frame begins with {head[0]:#04x}")
    if len(head) < CHANNEL_HEADER.size:
        return None
    length: int = CHANNEL_HEADER.unpack_from(head)[1]
    if head[0] >> 6 == 1:
        return CHANNEL_HEADER.size + length + -length % 4
    if length % 4:
        raise RemoteProtocolError("bad-turn", f"a message of {length} bytes")
    return STUN_HEADER.size + length


class FrameReader:
    """Cuts what a TCP or TLS connection brings into frames.  Holds one unfinished frame, of MAX_FRAME bytes and
    a few bytes of padding at most."""

    def __init__(self) -> None:
        self._rest = b""

    def feed_untrusted(self, data: bytes | bytearray) -> Iterator[memoryview]:
        """The frames that ``data`` completes, as `frame_length_untrusted` cuts them; to be read to the end.

        RemoteProtocolError("bad-turn"), after which the connection is of no use.
        """
        data = self._rest + data if self._rest else data
        view, start = memoryview(data), 0
        self._rest = b""
        while (length := frame_length_untrusted(view[start : start + CHANNEL_HEADER.size])) is not None:
            if start + length > len(view):
                break
            yield view[start : start + length]
            start += length
        self._rest = bytes(view[start:])


_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
