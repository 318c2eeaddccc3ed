"""The BitTorrent handshake (BEP 3) with its reserved bits (BEP 5, 6, 10), and peer ids (BEP 20).

Layout, 68 bytes: ``0x13 "BitTorrent protocol"`` (20), reserved (8), info_hash (20), peer_id (20).
Does not wrap it in encryption: see `swarm.wire.encryption`.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from swarm.errors import RemoteProtocolError

PROTOCOL = b"\x13BitTorrent protocol"
HANDSHAKE_LENGTH = 68  # bytes

# Bits of the reserved field, read as one big-endian 64-bit number.
RESERVED_EXTENDED = 0x100000  # BEP 10
RESERVED_FAST = 0x04  # BEP 6
RESERVED_DHT = 0x01  # BEP 5

PEER_ID_PREFIX = b"-SW0100-"


@dataclass(frozen=True, slots=True)
class Handshake:
    """What each end says first.  ``reserved`` is the 8-byte field as a number, see the RESERVED bits.

    ValueError for an info_hash or peer_id that is not 20 bytes long or a reserved field beyond 64 bits.
    """

    info_hash: bytes
    peer_id: bytes
    reserved: int = RESERVED_EXTENDED | RESERVED_FAST

    def __post_init__(self) -> None:
        if len(self.info_hash) != 20 or len(self.peer_id) != 20 or not 0 <= self.reserved < 1 << 64:
            raise ValueError(f"not a handshake: {self.info_hash!r}, {self.peer_id!r}, {self.reserved:#x}")

    @property
    def extended(self) -> bool:
        """BEP 10: the extension protocol is spoken."""
        return bool(self.reserved & RESERVED_EXTENDED)

    @property
    def fast(self) -> bool:
        """BEP 6: the fast extension is spoken; it is in force when both ends say so."""
        return bool(self.reserved & RESERVED_FAST)

    @property
    def dht(self) -> bool:
        """BEP 5: the ``port`` message is understood."""
        return bool(self.reserved & RESERVED_DHT)

    def encode(self) -> bytes:
        """The 68 bytes."""
        return PROTOCOL + self.reserved.to_bytes(8, "big") + self.info_hash + self.peer_id


def looks_like_plaintext(prefix: bytes | bytearray | memoryview) -> bool:
    """Whether the first bytes of a stream can still become a handshake; judged on at most the first 20.

    True for no bytes at all.  False means: not BitTorrent, or BitTorrent inside message stream encryption.
    """
    head = bytes(prefix[: len(PROTOCOL)])
    return PROTOCOL.startswith(head)


def parse_handshake_untrusted(data: bytes | bytearray | memoryview) -> Handshake:
    """The handshake in exactly 68 bytes; RemoteProtocolError("bad-handshake") for another length or protocol name."""
    raw = bytes(data)
    if not looks_like_plaintext(raw):
        raise RemoteProtocolError("bad-handshake", f"starts with {raw[:20].hex()}")
    if len(raw) != HANDSHAKE_LENGTH:
        raise RemoteProtocolError("bad-handshake", f"{len(raw)} bytes")
    return Handshake(info_hash=raw[28:48], peer_id=raw[48:68], reserved=int.from_bytes(raw[20:28], "big"))


def make_peer_id(rng: random.Random) -> bytes:
    """A peer id of ours: ``-SW0100-`` and 12 random letters and digits (BEP 20)."""
    return PEER_ID_PREFIX + bytes(rng.choices(_PEER_ID_ALPHABET, k=20 - len(PEER_ID_PREFIX)))


def client_name(peer_id: bytes) -> str:
    """The client behind a peer id as short printable ASCII: "Transmission 4.0.6", or "unknown" and what can be shown.

    Knows Azureus style (``-TR4060-``), Shadow style (``S58B-----``) and mainline (``M7-10-5--``) of BEP 20.
    Any bytes will do.
    """
    text = peer_id.decode("latin-1")
    if match := _AZUREUS.match(text):
        return f"{_AZUREUS_CLIENTS.get(match[1], match[1])} {_azureus_version(match[1], match[2])}"
    if match := _MAINLINE.match(text):
        return "BitTorrent " + match[1].replace("-", ".")
    if match := _SHADOW.match(text):
        numbers = [str(_DIGITS.index(character)) for character in match[2].rstrip("-")]
        return f"{_SHADOW_CLIENTS[match[1]]} {'.'.join(numbers)}".rstrip()
    shown = "".join(character for character in text[:8] if character.isascii() and character.isalnum())
    return f"unknown {shown}".rstrip()


def _azureus_version(code: str, version: str) -> str:
    if code == "TR" and version[0] in "0123":  # Transmission before 4.0: 2.94 is 2940
        return f"{version[0]}.{version[1:3]}"
    numbers = [str(_DIGITS.index(character)) for character in version]
    while len(numbers) > 3 and numbers[-1] == "0":
        numbers.pop()
    return ".".join(numbers)


_PEER_ID_ALPHABET = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz.-"

_AZUREUS = re.compile(r"-([A-Za-z~][A-Za-z0-9~])([0-9A-Za-z]{4})-")
_MAINLINE = re.compile(r"M([0-9]{1,2}-[0-9]{1,2}-[0-9]{1,2})--")
_SHADOW = re.compile(r"([AOQRSTU])([0-9A-Za-z][0-9A-Za-z.-]{4})---")

_AZUREUS_CLIENTS = {
    "7T": "aTorrent",
    "AZ": "Vuze",
    "BC": "BitComet",
    "BE": "BitTorrent SDK",
    "BI": "BiglyBT",
    "BT": "BitTorrent",
    "DE": "Deluge",
    "FD": "Free Download Manager",
    "FX": "Freebox",
    "GT": "anacrolix",
    "KT": "KTorrent",
    "LT": "libtorrent",
    "PI": "PicoTorrent",
    "SW": "swarm",
    "TL": "Tribler",
    "TR": "Transmission",
    "TX": "Tixati",
    "UM": "uTorrent Mac",
    "UT": "uTorrent",
    "UW": "uTorrent Web",
    "WD": "WebTorrent Desktop",
    "WW": "WebTorrent",
    "XL": "Xunlei",
    "XT": "XanTorrent",
    "lt": "rTorrent",
    "qB": "qBittorrent",
    "rQ": "rqbit",
}
_SHADOW_CLIENTS = {
    "A": "ABC",
    "O": "Osprey Permaseed",
    "Q": "BTQueue",
    "R": "Tribler",
    "S": "Shadow",
    "T": "BitTornado",
    "U": "UPnP NAT Bit Torrent",
}
