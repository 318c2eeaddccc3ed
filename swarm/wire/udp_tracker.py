"""The datagrams of the UDP tracker protocol (BEP 15) and its URL-data option (BEP 41).

Both ends' layouts, as pure functions.  When to send and resend is `swarm.net.udp_tracker`; all integers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from swarm.errors import RemoteProtocolError
from swarm.wire.tracker import (
    AnnounceEvent,
    AnnounceFailure,
    AnnounceReply,
    AnnounceRequest,
    ScrapeEntry,
    clamp_intervals,
    collect_peers,
    compact_peers_untrusted,
    printable_text,
)

CONNECT, ANNOUNCE, SCRAPE, ERROR = range(4)
"""Values of ``action``."""

PROTOCOL_ID = 0x41727101980

MAX_SCRAPE = 74
"""Info-hashes in one scrape: what fits a datagram, by the BEP."""

EVENTS: tuple[AnnounceEvent, ...] = ("", "completed", "started", "stopped")
"""``event`` by its number."""

END_OF_OPTIONS, NOP, URL_DATA = range(3)
"""Option types (BEP 41)."""

CONNECT_REQUEST = struct.Struct(">QII")  # protocol_id, action, transaction_id
CONNECT_REPLY = struct.Struct(">IIQ")  # action, transaction_id, connection_id
ANNOUNCE_REQUEST = struct.Struct(">QII20s20sQQQIIIiH")
ANNOUNCE_REPLY = struct.Struct(">IIIII")  # action, transaction_id, interval, leechers, seeders; then peers
REQUEST_HEADER = struct.Struct(">QII")  # connection_id, action, transaction_id
REPLY_HEADER = struct.Struct(">II")  # action, transaction_id
SCRAPE_ENTRY = struct.Struct(">III")  # seeders, completed, leechers

MAX_U64 = 2**64 - 1


class ReplyHeader(NamedTuple):
    """The first eight bytes of everything a tracker sends."""

    action: int
    transaction_id: int


def encode_connect(transaction_id: int) -> bytes:
    """16 bytes: ``protocol_id`` (8), ``action`` 0 (4), ``transaction_id`` (4)."""
    return CONNECT_REQUEST.pack(PROTOCOL_ID, CONNECT, transaction_id)


def encode_announce(connection_id: int, transaction_id: int, request: AnnounceRequest, url_data: bytes = b"") -> bytes:
    """98 bytes and options (BEP 41).

    ``connection_id`` (8), ``action`` 1 (4), ``transaction_id`` (4), ``info_hash`` (20), ``peer_id`` (20),
    ``downloaded`` (8), ``left`` (8), ``uploaded`` (8), ``event`` (4), IP address 0 (4), ``key`` (4),
    ``num_want`` (4, signed), ``port`` (2); then ``url_data``, the path and query of the tracker's URL.
    """
    fixed = ANNOUNCE_REQUEST.pack(
        connection_id,
        ANNOUNCE,
        transaction_id,
        request.info_hash,
        request.peer_id,
        min(request.downloaded, MAX_U64),
        min(request.left, MAX_U64),
        min(request.uploaded, MAX_U64),
        EVENTS.index(request.event),
        0,
        request.key,
        request.numwant,
        request.port,
    )
    return fixed + encode_url_data(url_data)


def encode_url_data(url_data: bytes) -> bytes:
    """``url_data`` as options of at most 255 bytes each and an end mark; nothing for nothing (BEP 41).

    An option is its type (1), its length (1) and its data; the end mark is its type alone.
    """
    if not url_data:
        return b""
    pieces = [url_data[start : start + 255] for start in range(0, len(url_data), 255)]
    return b"".join(bytes((URL_DATA, len(piece))) + piece for piece in pieces) + bytes((END_OF_OPTIONS,))


def encode_scrape(connection_id: int, transaction_id: int, info_hashes: Sequence[bytes]) -> bytes:
    """``connection_id`` (8), ``action`` 2 (4), ``transaction_id`` (4) and 20 bytes for each torrent."""
    if len(info_hashes) > MAX_SCRAPE:
        raise ValueError(f"at most {MAX_SCRAPE} torrents are scraped at once")
    return REQUEST_HEADER.pack(connection_id, SCRAPE, transaction_id) + b"".join(info_hashes)


def peek_reply(datagram: bytes | memoryview) -> ReplyHeader | None:
    """The header, if ``datagram`` is long enough and its action one of the four; whether it is ours is not known."""
    if len(datagram) < REPLY_HEADER.size:
        return None
    header = ReplyHeader(*REPLY_HEADER.unpack_from(datagram))
    return header if header.action <= ERROR else None


def parse_connect_untrusted(datagram: bytes | memoryview) -> int:
    """The connection id.  Raises RemoteProtocolError below 16 bytes."""
    if len(datagram) < CONNECT_REPLY.size:
        raise RemoteProtocolError("bad-tracker-reply", f"connect of {len(datagram)} bytes")
    _, _, connection_id = CONNECT_REPLY.unpack_from(datagram)
    return int(connection_id)


def parse_announce_untrusted(datagram: bytes | memoryview, *, ipv6: bool) -> AnnounceReply | AnnounceFailure:
    """An announce reply: 20 bytes, then 6 bytes a peer, or 18 when it came over IPv6.

    The header alone is a refusal: so opentracker answers for a torrent that is not on its list (seen).  Raises
    RemoteProtocolError for any other length below 20.  The protocol has no minimum interval: the default is assumed.
    """
    if len(datagram) == REPLY_HEADER.size:
        return AnnounceFailure("torrent not served here (empty reply)")
    if len(datagram) < ANNOUNCE_REPLY.size:
        raise RemoteProtocolError("bad-tracker-reply", f"announce of {len(datagram)} bytes")
    _, _, interval, leechers, seeders = ANNOUNCE_REPLY.unpack_from(datagram)
    regular, minimum = clamp_intervals(interval, None)
    return AnnounceReply(
        interval=regular,
        min_interval=minimum,
        peers=collect_peers(compact_peers_untrusted(datagram[ANNOUNCE_REPLY.size :], ipv6=ipv6)),
        seeders=seeders,
        leechers=leechers,
    )


def parse_scrape_untrusted(datagram: bytes | memoryview, info_hashes: Sequence[bytes]) -> dict[bytes, ScrapeEntry]:
    """The counts of ``info_hashes``, 12 bytes each after the header, in the order asked.

    Raises RemoteProtocolError if the reply holds fewer.
    """
    if len(datagram) < REPLY_HEADER.size + SCRAPE_ENTRY.size * len(info_hashes):
        raise RemoteProtocolError("bad-tracker-reply", f"scrape of {len(datagram)} bytes")
    starts = range(REPLY_HEADER.size, len(datagram), SCRAPE_ENTRY.size)
    return {
        info_hash: ScrapeEntry(*SCRAPE_ENTRY.unpack_from(datagram, start))
        for info_hash, start in zip(info_hashes, starts, strict=False)
    }


def parse_error_untrusted(datagram: bytes | memoryview) -> AnnounceFailure:
    """The message after the header, made printable; cut at a NUL, which some trackers append."""
    message = bytes(datagram[REPLY_HEADER.size :]).partition(b"\0")[0]
    return AnnounceFailure(printable_text(message) or "unspecified error")


def parse_url_data_untrusted(options: bytes | memoryview) -> bytes:
    """What a tracker reads behind the 98 bytes of an announce: the joined URL data (BEP 41).

    Unknown options are skipped by their length.  Raises RemoteProtocolError if one is cut short.
    """
    joined = b""
    at = 0
    while at < len(options) and options[at] != END_OF_OPTIONS:
        if options[at] == NOP:
            at += 1
            continue
        if at + 2 > len(options) or at + 2 + options[at + 1] > len(options):
            raise RemoteProtocolError("bad-tracker-request", "option cut short")
        data = bytes(options[at + 2 : at + 2 + options[at + 1]])
        if options[at] == URL_DATA:
            joined += data
        at += 2 + len(data)
    return joined
