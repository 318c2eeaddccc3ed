"""The extension handshake of BEP 10: the bencoded dictionary in an `Extended` message with ``ext_id`` 0.

Carries the keys of BEP 10, ``metadata_size`` (BEP 9), ``upload_only`` (BEP 21), ``e`` (no BEP; deployed clients:
prefers encryption) and ``sw_hidden`` (ours).  The extensions themselves live in `swarm.ext`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from dht.bencode import BencodeError, Encodable, Value, decode_untrusted, encode
from swarm.endpoint import normalise_host
from swarm.errors import RemoteProtocolError

MAX_PAYLOAD = 32 << 10  # bytes; deployed handshakes have 100 to 400
MAX_EXTENSIONS = 100  # entries of ``m`` that are kept
MAX_NAME = 64  # bytes of an extension name, characters of ``v``
MAX_NUMBER = (1 << 31) - 1  # of ``reqq`` and ``metadata_size``: more is nonsense

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendedHandshake:
    """What a peer tells about itself; None for what it does not say."""

    m: Mapping[str, int] = field(default_factory=dict)
    """Extension name to the ``ext_id`` that its sender wants to receive it under; 0 switches it off."""

    v: str | None = None
    """Client name and version, printable."""

    p: int | None = None
    """The sender's TCP listening port."""

    reqq: int | None = None
    """Requests that the sender queues without dropping any."""

    yourip: str | None = None
    """The receiver's address as the sender sees it."""

    ipv4: str | None = None
    ipv6: str | None = None
    """Other addresses of the sender, unverified."""

    metadata_size: int | None = None
    """Bytes of the info dictionary (BEP 9)."""

    upload_only: bool | None = None
    """The sender downloads nothing more (BEP 21)."""

    e: bool | None = None
    """The sender prefers encrypted connections."""

    hidden: bool | None = None
    """Nobody is known to be able to dial the sender by IPv4; what it dials leaves from its listening port."""

    def encode(self) -> bytes:
        """The payload for `Extended`.  ValueError for an address that is not one."""
        plain: dict[str, Encodable | None] = {
            "m": {name.encode(): ext_id for name, ext_id in self.m.items()},
            "v": self.v.encode() if self.v is not None else None,
            "p": self.p,
            "reqq": self.reqq,
            "yourip": _packed(self.yourip),
            "ipv4": _packed(self.ipv4),
            "ipv6": _packed(self.ipv6),
            "metadata_size": self.metadata_size,
            "upload_only": int(self.upload_only) if self.upload_only is not None else None,
            "e": int(self.e) if self.e is not None else None,
            "sw_hidden": int(self.hidden) if self.hidden is not None else None,
        }
        return encode({key.encode(): value for key, value in plain.items() if value is not None})

    def updated(self, later: ExtendedHandshake) -> ExtendedHandshake:
        """What holds after another handshake on the same connection: it states changes only, ``m`` is additive."""
        said = {name: getattr(later, name) for name in _NAMES if getattr(later, name) is not None}
        kept = {name: getattr(self, name) for name in _NAMES}
        merged = {name: ext_id for name, ext_id in {**self.m, **later.m}.items() if ext_id}
        return ExtendedHandshake(**{**kept, **said, "m": dict(list(merged.items())[:MAX_EXTENSIONS])})


def parse_extended_handshake_untrusted(payload: bytes | bytearray | memoryview) -> ExtendedHandshake:
    """The handshake in the payload of an `Extended` message with ``ext_id`` 0.

    A field of the wrong type, length or range is taken as not said: clients in the field get one or another wrong, and
    that must not cost the connection.  Keys may be out of order.  RemoteProtocolError("bad-extension-handshake") when
    the payload is no bencoded dictionary or longer than MAX_PAYLOAD.
    """
    if len(payload) > MAX_PAYLOAD:
        raise RemoteProtocolError("bad-extension-handshake", f"{len(payload)} bytes")
    try:
        said = decode_untrusted(payload, strict_order=False)
    except BencodeError as error:
        raise RemoteProtocolError("bad-extension-handshake", str(error)) from None
    if not isinstance(said, dict):
        raise RemoteProtocolError("bad-extension-handshake", "not a dictionary")

    def read(key: bytes, reader: Callable[[Value], T | None]) -> T | None:
        value = said.get(key)
        return None if value is None else reader(value)

    return ExtendedHandshake(
        m=read(b"m", _extensions) or {},
        v=read(b"v", _text),
        p=read(b"p", _port),
        reqq=read(b"reqq", _number),
        yourip=read(b"yourip", _address),
        ipv4=read(b"ipv4", _ipv4),
        ipv6=read(b"ipv6", _ipv6),
        metadata_size=read(b"metadata_size", _number),
        upload_only=read(b"upload_only", _flag),
        e=read(b"e", _flag),
        hidden=read(b"sw_hidden", _flag),
    )


def _extensions(value: Value) -> dict[str, int]:
    kept: dict[str, int] = {}
    if not isinstance(value, dict):
        return kept
    for name, ext_id in value.items():
        if isinstance(ext_id, int) and 0 <= ext_id <= 255 and 0 < len(name) <= MAX_NAME and name.isascii():
            kept[name.decode()] = ext_id
            if len(kept) == MAX_EXTENSIONS:
                break
    return kept


def _text(value: Value) -> str | None:
    """Printable text: control characters would reach terminals and logs."""
    if not isinstance(value, bytes):
        return None
    text = value[: 4 * MAX_NAME].decode("utf-8", "replace")
    return "".join(character for character in text if character.isprintable())[:MAX_NAME] or None


def _port(value: Value) -> int | None:
    return value if isinstance(value, int) and 1 <= value <= 65535 else None


def _number(value: Value) -> int | None:
    return value if isinstance(value, int) and 1 <= value <= MAX_NUMBER else None


def _flag(value: Value) -> bool | None:
    return value != 0 if isinstance(value, int) else None


def _ipv4(value: Value) -> str | None:
    return str(IPv4Address(value)) if isinstance(value, bytes) and len(value) == 4 else None


def _ipv6(value: Value) -> str | None:
    return normalise_host(str(IPv6Address(value))) if isinstance(value, bytes) and len(value) == 16 else None


def _address(value: Value) -> str | None:
    return _ipv4(value) or _ipv6(value)


def _packed(host: str | None) -> bytes | None:
    if host is None:
        return None
    return IPv6Address(host).packed if ":" in host else IPv4Address(host).packed


_NAMES = tuple(field.name for field in fields(ExtendedHandshake))
