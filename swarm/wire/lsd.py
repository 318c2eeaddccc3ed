"""The datagrams of Local Service Discovery (BEP 14): HTTP-like announcements to two multicast groups.

When to announce, and through which interfaces, is `swarm.discover.lsd`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError

GROUP = Endpoint("239.192.152.143", 6771)
GROUP6 = Endpoint("ff15::efc0:988f", 6771)

MAX_ANNOUNCEMENT = 1400
"""Bytes of one datagram that we send, by the BEP; Transmission 4 reads no more."""

LONGEST_ACCEPTED = 1500
"""Bytes of one datagram that we read: what libtorrent reads, and what an Ethernet frame can carry."""

MAX_INFO_HASHES = 24
"""Info-hashes of 52 bytes each that fit one datagram for either group, whatever the port, with a cookie of 64 bytes."""

MAX_COOKIE = 64
"""Bytes of a cookie, in either direction; of a longer one that is received only the front is kept."""

_REQUEST = re.compile(rb"BT-SEARCH \* HTTP/1\.[0-9]", re.IGNORECASE)
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_PORT = re.compile(rb"[0-9]{1,5}")
_INFO_HASH = re.compile(rb"[0-9A-Fa-f]{40}")


class Announcement(NamedTuple):
    """Somebody takes part in the swarms of ``info_hashes`` and listens on ``port`` of the address it sends from."""

    port: int
    info_hashes: tuple[bytes, ...]
    cookie: bytes = b""
    """Opaque; empty for none.  Who reads its own hears itself."""


def encode_announcement(group: Endpoint, port: int, info_hashes: Sequence[bytes], cookie: bytes) -> bytes:
    r"""One datagram for ``group``, at most MAX_ANNOUNCEMENT bytes.

    ``BT-SEARCH * HTTP/1.1``, ``Host``, ``Port``, an ``Infohash`` for each, ``cookie``, two empty lines; each line ends
    with ``\r\n``.  Capitals and order are the BEP's: Transmission and aria2 look for these very names.  With a cookie
    of 16 bytes and one info-hash it stays below 200 bytes, which is all that aria2 and Transmission 3 read.
    ValueError for a port that is none, for info-hashes none or too many, for a cookie that is not letters and digits.
    """
    fits = 1 <= len(info_hashes) <= MAX_INFO_HASHES and len(cookie) <= MAX_COOKIE
    if not (fits and 1 <= port <= 65535 and cookie.isalnum()):
        raise ValueError(f"no announcement: port {port}, {len(info_hashes)} info-hashes, cookie {cookie!r}")
    lines = ["BT-SEARCH * HTTP/1.1", f"Host: {group}", f"Port: {port}"]
    lines += [f"Infohash: {info_hash.hex()}" for info_hash in info_hashes]
    lines += [f"cookie: {cookie.decode('ascii')}", "", "", ""]
    return "\r\n".join(lines).encode("ascii")


def decode_announcement_untrusted(datagram: bytes | memoryview) -> Announcement:
    """What a neighbour announces; each info-hash once, in its order.

    Names are compared without regard to case, unknown ones passed over, and ``Host`` is not looked at: nothing depends
    on it.  The second empty line may be missing.
    Raises RemoteProtocolError("bad-lsd") for a datagram that is too long, unfinished or followed by anything, for
    another method or version, for a line that is no field, for a port that is none, missing or there twice, for an
    info-hash that is none, and without any.
    """
    if len(datagram) > LONGEST_ACCEPTED:
        raise _bad(f"{len(datagram)} bytes")
    head, end, rest = bytes(datagram).partition(b"\r\n\r\n")
    if not end or rest not in (b"", b"\r\n"):
        raise _bad("unfinished, or more than a header")
    request, *lines = head.split(b"\r\n")
    if not _REQUEST.fullmatch(request):
        raise _bad("another request")
    fields: dict[bytes, list[bytes]] = {b"port": [], b"infohash": [], b"cookie": [b""]}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.fullmatch(name) or _CONTROL.search(value):
            raise _bad(f"no field: {line[:40]!r}")
        fields.setdefault(name.lower(), []).append(value.strip(b" \t"))
    return Announcement(_port(fields[b"port"]), _info_hashes(fields[b"infohash"]), fields[b"cookie"][-1][:MAX_COOKIE])


def _port(values: list[bytes]) -> int:
    if len(values) != 1 or not _PORT.fullmatch(values[0]) or not 1 <= int(values[0]) <= 65535:
        raise _bad(f"port {values[:2]}")
    return int(values[0])


def _info_hashes(values: list[bytes]) -> tuple[bytes, ...]:
    if not values or not all(map(_INFO_HASH.fullmatch, values)):
        raise _bad("no info-hash, or one that is none")
    return tuple(dict.fromkeys(bytes.fromhex(value.decode("ascii")) for value in values))


def _bad(detail: str) -> RemoteProtocolError:
    return RemoteProtocolError("bad-lsd", detail)
