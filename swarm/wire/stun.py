"""STUN messages (RFC 8489) with the attributes of NAT behaviour discovery (RFC 5780); TURN (RFC 8656) builds on it.

Both ends' layouts, as pure functions.  When to send and resend is `swarm.net.stun`.  The classic STUN of RFC 3489,
which has no magic cookie, is not understood.

    type            2 bytes    two zero bits, then method (12 bits) and class (2 bits) interleaved
    length          2          of the attributes, padding included: a multiple of 4
    magic cookie    4          0x2112A442
    transaction id  12
    attributes      type (2), length (2), value, padding to a multiple of 4

All integers are big-endian.  Padding is sent as zeros and not looked at.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import zlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from dht.compact import decode_peer_untrusted, encode_peer
from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError

MAGIC_COOKIE = 0x2112A442
TRANSACTION_ID_SIZE = 12  # bytes
FINGERPRINT_XOR = 0x5354554E  # "STUN"

BINDING = 0x001
"""The one method of STUN itself."""

MAX_ATTRIBUTES = 100  # in one message; deployed ones have less than ten
MAX_TEXT = 763  # bytes of SOFTWARE, REALM, NONCE and a reason phrase (RFC 8489 §14)
MAX_USERNAME = 508
COMPREHENSION_OPTIONAL = 0x8000  # attribute types from here on may be ignored by who does not know them

HEADER = struct.Struct(">HHI12s")
ATTRIBUTE_HEADER = struct.Struct(">HH")
SHA1_SIZE, SHA256_SIZE = 20, 32  # bytes
SHA256_SIZES = range(16, SHA256_SIZE + 1, 4)  # a sender may truncate it
FAMILIES = {1: 4, 2: 16}  # bytes of an address by family

CHANGE_IP, CHANGE_PORT = 0x4, 0x2
"""Flags of CHANGE-REQUEST."""


class MessageClass(IntEnum):
    REQUEST = 0b00
    INDICATION = 0b01
    SUCCESS = 0b10
    ERROR = 0b11


class AttributeType(IntEnum):
    """Those of RFC 8489 and RFC 5780, and those of RFC 3489 that old servers still put into answers."""

    MAPPED_ADDRESS = 0x0001
    CHANGE_REQUEST = 0x0003
    SOURCE_ADDRESS = 0x0004  # RFC 3489
    CHANGED_ADDRESS = 0x0005  # RFC 3489
    USERNAME = 0x0006
    MESSAGE_INTEGRITY = 0x0008
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    REFLECTED_FROM = 0x000B  # RFC 3489
    REALM = 0x0014
    NONCE = 0x0015
    MESSAGE_INTEGRITY_SHA256 = 0x001C
    PASSWORD_ALGORITHM = 0x001D
    USERHASH = 0x001E
    XOR_MAPPED_ADDRESS = 0x0020
    PADDING = 0x0026
    RESPONSE_PORT = 0x0027
    PASSWORD_ALGORITHMS = 0x8002
    ALTERNATE_DOMAIN = 0x8003
    SOFTWARE = 0x8022
    ALTERNATE_SERVER = 0x8023
    CACHE_TIMEOUT = 0x8027
    FINGERPRINT = 0x8028
    RESPONSE_ORIGIN = 0x802B
    OTHER_ADDRESS = 0x802C


class ErrorCode(NamedTuple):
    """ERROR-CODE: ``code`` is 300 to 699, ``reason`` a phrase for people, not to be shown unfiltered."""

    code: int
    reason: str


class Integrity(NamedTuple):
    """A MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256 that a message carries."""

    type: int
    mac: bytes
    signed: bytes
    """The bytes it stands for: the message up to it, with the length that the header had then."""


@dataclass(frozen=True, slots=True)
class StunMessage:
    """One message.

    ``attributes`` are types and unpadded values in order, without MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256 and
    FINGERPRINT, which belong to the encoding, and without what follows the first two: nobody vouches for that.
    The readers raise RemoteProtocolError("bad-stun") for a value that is not one, and give None for one that is absent;
    of several of a type the first counts.
    """

    message_class: MessageClass
    method: int
    transaction_id: bytes
    attributes: tuple[tuple[int, bytes], ...] = ()
    integrity: tuple[Integrity, ...] = field(default=(), compare=False, repr=False)
    fingerprint: bool = field(default=False, compare=False)
    """Whether it carried a FINGERPRINT; a wrong one does not get this far."""

    def encode(self, *, integrity: AttributeType | None = None, key: bytes = b"", fingerprint: bool = False) -> bytes:
        """The datagram; signed with ``key`` if ``integrity`` names one of the two, and with a FINGERPRINT if asked for.

        ValueError for a transaction id that has not 12 bytes, or more attributes than a message holds.
        """
        if len(self.transaction_id) != TRANSACTION_ID_SIZE:
            raise ValueError(f"a transaction id has {TRANSACTION_ID_SIZE} bytes")
        body = b"".join(_attribute(type_, value) for type_, value in self.attributes)
        if integrity is not None:
            size = SHA1_SIZE if integrity == AttributeType.MESSAGE_INTEGRITY else SHA256_SIZE
            signed = self._header(len(body) + ATTRIBUTE_HEADER.size + size) + body
            body += _attribute(integrity, hmac.digest(key, signed, _DIGESTS[integrity]))
        if fingerprint:
            body += _fingerprint(self._header(len(body) + ATTRIBUTE_HEADER.size + 4) + body)
        return self._header(len(body)) + body

    def get(self, type_: int) -> bytes | None:
        """The value of an attribute as it came."""
        return next((value for each, value in self.attributes if each == type_), None)

    def address_untrusted(self, type_: int) -> Endpoint | None:
        """MAPPED-ADDRESS, RESPONSE-ORIGIN, OTHER-ADDRESS, ALTERNATE-SERVER.

        A byte that is not looked at, family (1), port (2), address (4 or 16).
        """
        value = self.get(type_)
        return None if value is None else _parse_address_untrusted(value)

    def xor_address_untrusted(self, type_: int) -> Endpoint | None:
        """XOR-MAPPED-ADDRESS and those of TURN: an address whose bytes, and port, are XORed with cookie and id."""
        value = self.get(type_)
        return None if value is None else _parse_address_untrusted(_xor(value, self.transaction_id))

    def error_code_untrusted(self) -> ErrorCode | None:
        """ERROR-CODE: 21 bits that are not looked at, hundreds (3 bits, 3–6), the rest (1 byte, 0–99), the phrase."""
        value = self.get(AttributeType.ERROR_CODE)
        if value is None:
            return None
        if not 4 <= len(value) <= 4 + MAX_TEXT or not 3 <= (value[2] & 7) <= 6 or value[3] > 99:
            raise RemoteProtocolError("bad-stun", "error code")
        return ErrorCode((value[2] & 7) * 100 + value[3], value[4:].decode("utf-8", "replace"))

    def text_untrusted(self, type_: int) -> str | None:
        """SOFTWARE, REALM, NONCE, USERNAME: UTF-8 of bounded length, as it came: not to be shown unfiltered."""
        value = self.get(type_)
        if value is None:
            return None
        if len(value) > (MAX_USERNAME if type_ == AttributeType.USERNAME else MAX_TEXT):
            raise RemoteProtocolError("bad-stun", f"{len(value)} bytes of text")
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise RemoteProtocolError("bad-stun", "text is not UTF-8") from None

    def change_request_untrusted(self) -> int | None:
        """The flags of CHANGE-REQUEST (4 bytes): CHANGE_IP, CHANGE_PORT."""
        value = self.get(AttributeType.CHANGE_REQUEST)
        if value is None:
            return None
        if len(value) != 4:
            raise RemoteProtocolError("bad-stun", "change request")
        return value[3] & (CHANGE_IP | CHANGE_PORT)

    def response_port_untrusted(self) -> int | None:
        """RESPONSE-PORT (RFC 5780 §7.5; 2 bytes and 2 that are not looked at): the port to answer to."""
        value = self.get(AttributeType.RESPONSE_PORT)
        if value is None:
            return None
        if len(value) not in (2, 4):
            raise RemoteProtocolError("bad-stun", "response port")
        return int.from_bytes(value[:2], "big")

    def unknown_attributes_untrusted(self) -> tuple[int, ...]:
        """UNKNOWN-ATTRIBUTES of an error 420: which types the server did not understand, 2 bytes each."""
        value = self.get(AttributeType.UNKNOWN_ATTRIBUTES) or b""
        if len(value) % 2:
            raise RemoteProtocolError("bad-stun", "unknown attributes")
        return struct.unpack(f">{len(value) // 2}H", value)

    def unknown_required(self, known: Container[int] = frozenset(AttributeType)) -> tuple[int, ...]:
        """Types that must be understood (below 0x8000) and are not among ``known``: the message is then not to be used.

        A request is answered by an error 420, everything else is dropped (RFC 8489 §6.3).
        """
        return tuple(type_ for type_, _ in self.attributes if type_ < COMPREHENSION_OPTIONAL and type_ not in known)

    def verify(self, key: bytes, type_: AttributeType) -> bool:
        """Whether the message carries the integrity of this type and it was made with ``key``."""
        for each in self.integrity:
            if each.type == type_:
                mac = hmac.digest(key, each.signed, _DIGESTS[type_])
                return hmac.compare_digest(mac[: len(each.mac)], each.mac)
        return False

    def _header(self, length: int) -> bytes:
        if length > 0xFFFF:
            raise ValueError(f"{length} bytes of attributes do not fit a message")
        return HEADER.pack(_message_type(self.message_class, self.method), length, MAGIC_COOKIE, self.transaction_id)


class StunHeader(NamedTuple):
    """What tells a STUN message from other datagrams, before it is parsed."""

    message_class: MessageClass
    method: int
    transaction_id: bytes


def peek_header(datagram: bytes | bytearray | memoryview) -> StunHeader | None:
    """The header of what looks like a STUN message; None for anything else.  Never raises."""
    if len(datagram) < HEADER.size:
        return None
    message_type, _, cookie, transaction_id = HEADER.unpack_from(datagram)
    if cookie != MAGIC_COOKIE or message_type & 0xC000:
        return None
    return StunHeader(_class_of(message_type), _method_of(message_type), transaction_id)


def parse_stun_untrusted(datagram: bytes | bytearray | memoryview) -> StunMessage:
    """The one message that the datagram is.

    RemoteProtocolError("bad-stun") when lengths do not add up, cookie or FINGERPRINT are wrong, something follows the
    FINGERPRINT, an integrity has a wrong size, or there are more than MAX_ATTRIBUTES.  Values are not looked at:
    the readers of `StunMessage` do that.  Whoever has a key must `StunMessage.verify`.
    """
    header = peek_header(datagram)
    if header is None:
        raise RemoteProtocolError("bad-stun", "no header")
    data = bytes(datagram)
    attributes: list[tuple[int, bytes]] = []
    integrity: list[Integrity] = []
    fingerprint = False
    for count, (start, type_, value) in enumerate(_walk_untrusted(data)):
        if fingerprint:
            raise RemoteProtocolError("bad-stun", "something follows the fingerprint")
        if count == MAX_ATTRIBUTES:
            raise RemoteProtocolError("bad-stun", "too many attributes")
        if type_ == AttributeType.FINGERPRINT:
            fingerprint = _check_fingerprint_untrusted(data[:start], value)
        elif _vouched_for(type_, integrity):
            if type_ in _DIGESTS:
                integrity.append(_integrity_untrusted(data, start, type_, value))
            else:
                attributes.append((type_, value))
    return StunMessage(*header, tuple(attributes), tuple(integrity), fingerprint)


def address_value(endpoint: Endpoint) -> bytes:
    """The value of an attribute that `StunMessage.address_untrusted` reads."""
    compact = encode_peer(endpoint)
    return bytes((0, 2 if endpoint.is_ipv6 else 1)) + compact[-2:] + compact[:-2]


def xor_address_value(endpoint: Endpoint, transaction_id: bytes) -> bytes:
    """The value of an attribute that `StunMessage.xor_address_untrusted` reads."""
    return _xor(address_value(endpoint), transaction_id)


def change_request_value(flags: int) -> bytes:
    """CHANGE-REQUEST with CHANGE_IP, CHANGE_PORT or both."""
    return flags.to_bytes(4, "big")


def response_port_value(port: int) -> bytes:
    """RESPONSE-PORT."""
    return port.to_bytes(2, "big") + bytes(2)


def error_code_value(code: int, reason: str) -> bytes:
    """ERROR-CODE."""
    return bytes((0, 0, *divmod(code, 100))) + reason.encode()


def short_term_key(password: str) -> bytes:
    """The key of the short-term credential mechanism (RFC 8489 §9.1).  The password has been through OpaqueString."""
    return password.encode()


def long_term_key(username: str, realm: str, password: str, *, sha256: bool = False) -> bytes:
    """The key of the long-term credential mechanism (RFC 8489 §18.5): by MD5 unless PASSWORD-ALGORITHM is SHA-256.

    All three have been through OpaqueString (RFC 8265), which leaves ASCII as it is.
    """
    text = f"{username}:{realm}:{password}".encode()
    return hashlib.sha256(text).digest() if sha256 else hashlib.md5(text, usedforsecurity=False).digest()


def _message_type(message_class: int, method: int) -> int:
    low, middle, high = method & 0xF, method & 0x70, method & 0xF80
    return low | (message_class & 1) << 4 | middle << 1 | (message_class & 2) << 7 | high << 2


def _class_of(message_type: int) -> MessageClass:
    return MessageClass(message_type >> 4 & 1 | message_type >> 7 & 2)


def _method_of(message_type: int) -> int:
    return message_type & 0xF | message_type >> 1 & 0x70 | message_type >> 2 & 0xF80


def _attribute(type_: int, value: bytes) -> bytes:
    return ATTRIBUTE_HEADER.pack(type_, len(value)) + value + bytes(-len(value) % 4)


def _walk_untrusted(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Offset, type and value of each attribute."""
    start = HEADER.size
    length = int.from_bytes(data[2:4], "big")
    if length != len(data) - start or length % 4:
        raise RemoteProtocolError("bad-stun", f"{length} of {len(data) - start} bytes")
    while start < len(data):
        type_, size = ATTRIBUTE_HEADER.unpack_from(data, start)
        first = start + ATTRIBUTE_HEADER.size
        if first + size > len(data):
            raise RemoteProtocolError("bad-stun", "an attribute goes beyond the end")
        yield start, type_, data[first : first + size]
        start = first + size + -size % 4


def _vouched_for(type_: int, integrity: Sequence[Integrity]) -> bool:
    """Whether an attribute counts behind those that sign (RFC 8489 §14.5, §14.6)."""
    signed_by = {each.type for each in integrity}
    return not signed_by or (
        type_ == AttributeType.MESSAGE_INTEGRITY_SHA256 and AttributeType.MESSAGE_INTEGRITY_SHA256 not in signed_by
    )


def _integrity_untrusted(data: bytes, start: int, type_: int, mac: bytes) -> Integrity:
    sizes = (SHA1_SIZE,) if type_ == AttributeType.MESSAGE_INTEGRITY else SHA256_SIZES
    if len(mac) not in sizes:
        raise RemoteProtocolError("bad-stun", f"integrity of {len(mac)} bytes")
    return Integrity(type_, mac, _up_to(data[:start], len(mac)))


def _check_fingerprint_untrusted(before: bytes, value: bytes) -> bool:
    if _fingerprint(_up_to(before, 4))[ATTRIBUTE_HEADER.size :] != value:
        raise RemoteProtocolError("bad-stun", "wrong fingerprint")
    return True


def _up_to(before: bytes, size: int) -> bytes:
    """The message before an attribute of ``size`` bytes, with the length it had when that attribute was the last."""
    length = len(before) - HEADER.size + ATTRIBUTE_HEADER.size + size
    return before[:2] + length.to_bytes(2, "big") + before[4:]


def _fingerprint(before: bytes) -> bytes:
    return _attribute(AttributeType.FINGERPRINT, (zlib.crc32(before) ^ FINGERPRINT_XOR).to_bytes(4, "big"))


def _parse_address_untrusted(value: bytes) -> Endpoint:
    size = FAMILIES.get(value[1]) if len(value) > 1 else None
    if size is None or len(value) != 4 + size:
        raise RemoteProtocolError("bad-stun", "address")
    return Endpoint(*decode_peer_untrusted(value[4:] + value[2:4]))


def _xor(value: bytes, transaction_id: bytes) -> bytes:
    """``value`` with its port and address XORed; too long ones stay so for the parser to refuse."""
    cookie = MAGIC_COOKIE.to_bytes(4, "big")
    pad = bytes(2) + cookie[:2] + cookie + transaction_id
    return bytes(a ^ b for a, b in zip(value, pad, strict=False)) + value[len(pad) :]


_DIGESTS = {AttributeType.MESSAGE_INTEGRITY: "sha1", AttributeType.MESSAGE_INTEGRITY_SHA256: "sha256"}
