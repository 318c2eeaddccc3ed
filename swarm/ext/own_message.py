"""What the messages of our own extensions (``sw_…``) have in common: a bencoded dictionary with ``v`` and ``t``.

    v  version, an integer; a message of another version is for somebody else
    t  type

Unknown keys and types are ignored, so that later versions can add them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dht.bencode import BencodeError, Encodable, Value, decode_untrusted, encode
from dht.compact import CompactError, decode_peer_untrusted
from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError

MAX_DEPTH, MAX_CONTAINERS = 4, 32
"""Of the bencoding; no message needs more than one list in its dictionary."""


@dataclass(frozen=True, slots=True)
class OwnMessage:
    """One message, read key by key.  ``slug`` is the reason that a RemoteProtocolError for a bad one carries."""

    kind: bytes
    said: Mapping[bytes, Value]
    slug: str

    def bad(self, key: bytes) -> RemoteProtocolError:
        """What to raise for a key whose value cannot be."""
        return RemoteProtocolError(self.slug, f"{key.decode()} is {self.said.get(key)!r:.40}")

    def string(self, key: bytes, size: int | None = None) -> bytes:
        """A string, of ``size`` bytes if that is given."""
        value = self.said.get(key)
        if not isinstance(value, bytes) or (size is not None and len(value) != size):
            raise self.bad(key)
        return value

    def number(self, key: bytes, least: int, most: int) -> int:
        value = self.said.get(key)
        if not isinstance(value, int) or not least <= value <= most:
            raise self.bad(key)
        return value

    def endpoint(self, key: bytes) -> Endpoint:
        """A compact address and port, 6 or 18 bytes; not judged.  An IPv4-mapped IPv6 address comes out as IPv4."""
        try:
            return Endpoint(*decode_peer_untrusted(self.string(key)))
        except CompactError:
            raise self.bad(key) from None


def read_own_untrusted(
    payload: bytes | bytearray | memoryview, *, version: int, max_payload: int, slug: str
) -> OwnMessage | None:
    """The message in a payload; None if it is of another version.

    RemoteProtocolError(slug) for anything but a bencoded dictionary of at most ``max_payload`` bytes with an integer
    ``v`` and a string ``t``.
    """
    if len(payload) > max_payload:
        raise RemoteProtocolError(slug, f"{len(payload)} bytes")
    try:
        said = decode_untrusted(payload, strict_order=False, max_depth=MAX_DEPTH, max_containers=MAX_CONTAINERS)
    except BencodeError as error:
        raise RemoteProtocolError(slug, str(error)) from None
    if not isinstance(said, dict):
        raise RemoteProtocolError(slug, "no dictionary")
    theirs, kind = said.get(b"v"), said.get(b"t")
    if not isinstance(theirs, int) or not isinstance(kind, bytes):
        raise RemoteProtocolError(slug, "no version or no type")
    return OwnMessage(kind, said, slug) if theirs == version else None


def encode_own(version: int, kind: str, keys: Mapping[bytes, Encodable]) -> bytes:
    """The payload of a message."""
    return encode({b"v": version, b"t": kind.encode(), **keys})
