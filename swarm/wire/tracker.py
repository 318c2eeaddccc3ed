"""What is said to a tracker and what it answers; the HTTP form of both.

BEP 3 (announce), 7 (IPv6), 23 (compact peers), 24 (external ip), 31 (retry in), 48 (scrape).  The UDP form of the same
values is `swarm.wire.udp_tracker`.  Opens no connection and follows no redirect: `swarm.net.http` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal
from urllib.parse import quote, urlsplit, urlunsplit

from dht.bencode import BencodeError, Value, decode_prefix_untrusted
from dht.compact import PEER6_SIZE, PEER_SIZE, decode_peers_untrusted
from swarm.endpoint import Endpoint, is_dialable, normalise_host
from swarm.errors import RemoteProtocolError

AnnounceEvent = Literal["", "started", "completed", "stopped"]

NUM_WANT = 200
"""Peers asked for: what fits one UDP datagram in IPv4 (20 + 6·200 bytes), and what most trackers cap at."""

MAX_PEERS = 2000
"""Peers taken from one reply; the rest is ignored."""

MAX_SCRAPED = 10_000
"""Torrents taken from one scrape reply; the rest is ignored."""

MAX_TEXT = 200
"""Characters kept of a failure reason or warning."""

MAX_TRACKER_ID = 512
"""Bytes of a tracker id that is sent back; a longer one is not kept."""

DEFAULT_INTERVAL = 1800.0
"""Seconds, where a reply has no usable interval."""

DEFAULT_MIN_INTERVAL = 60.0
"""Seconds, where a reply has no "min interval"."""

SHORTEST_INTERVAL = 30.0
LONGEST_INTERVAL = 24 * 3600.0
"""Seconds between which intervals are clamped: neither zero nor 10^12 is believed."""

MAX_COUNT = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnounceRequest:
    """One announce (BEP 3, BEP 15).  Byte counts are totals since ``started``; ``left`` is what is still missing."""

    info_hash: bytes
    """20 bytes."""

    peer_id: bytes
    """20 bytes."""

    port: int
    """The TCP and UDP port that strangers reach us on."""

    uploaded: int
    downloaded: int
    left: int
    event: AnnounceEvent = ""
    numwant: int = NUM_WANT
    key: int = 0
    """32 random bits, the same for one torrent for a whole session and towards both address families (BEP 7)."""

    tracker_id: bytes | None = None
    """What this tracker's earlier reply asked to be sent back."""

    ipv4: str | None = None
    ipv6: str | None = None
    """An address of the *other* family than the one announced from (BEP 7); HTTP only."""

    def __post_init__(self) -> None:
        if len(self.info_hash) != 20 or len(self.peer_id) != 20:
            raise ValueError("info_hash and peer_id are 20 bytes each")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"{self.port} is not a port")
        if not 0 <= self.key < 2**32:
            raise ValueError("key is 32 bits")
        if min(self.uploaded, self.downloaded, self.left) < 0:
            raise ValueError("byte counts are not negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnounceReply:
    """What a tracker that accepted the announce said; every field is within bounds."""

    interval: float
    """Seconds until the next regular announce."""

    min_interval: float = DEFAULT_MIN_INTERVAL
    """Seconds before which we may not announce again (events excepted); never above ``interval``."""

    peers: tuple[Endpoint, ...] = ()
    """Dialable and without duplicates, in the tracker's order."""

    seeders: int | None = None
    leechers: int | None = None
    external_host: str | None = None
    """The address the tracker saw us come from (BEP 24)."""

    warning: str = ""
    tracker_id: bytes | None = None


@dataclass(frozen=True, slots=True)
class AnnounceFailure:
    """What a tracker that refused the announce or scrape said."""

    reason: str
    """Printable, at most `MAX_TEXT` characters."""

    retry_in: float | None = None
    """Seconds (BEP 31); infinite for "never", None where nothing was said."""


@dataclass(frozen=True, slots=True)
class ScrapeEntry:
    """Counts of one torrent (BEP 48): who has all of it, who ever completed it, who is still downloading."""

    seeders: int
    completed: int
    leechers: int


def announce_url(url: str, request: AnnounceRequest) -> str:
    """The URL to GET for ``request``.

    The query of ``url`` (a passkey, say) is kept in front of ours, a fragment is dropped; ``compact=1`` (BEP 23) and
    ``no_peer_id=1`` are always asked for.
    """
    fields: list[tuple[str, str | bytes]] = [
        ("info_hash", request.info_hash),
        ("peer_id", request.peer_id),
        ("port", str(request.port)),
        ("uploaded", str(request.uploaded)),
        ("downloaded", str(request.downloaded)),
        ("left", str(request.left)),
        ("compact", "1"),
        ("no_peer_id", "1"),
        ("numwant", str(request.numwant)),
        ("key", f"{request.key:08X}"),
    ]
    optional = (
        ("event", request.event),
        ("trackerid", request.tracker_id),
        ("ipv4", request.ipv4),
        ("ipv6", request.ipv6),
    )
    fields += [(name, value) for name, value in optional if value]
    return _with_query(url, fields)


def scrape_url(url: str, info_hashes: Sequence[bytes]) -> str | None:
    """The URL to GET for the counts of ``info_hashes`` (BEP 48), or None if this announce URL has no scrape form.

    It has one when the last part of its path begins with "announce", which becomes "scrape".
    """
    parts = urlsplit(url)
    directory, slash, name = parts.path.rpartition("/")
    if not name.startswith("announce"):
        return None
    path = directory + slash + "scrape" + name.removeprefix("announce")
    return _with_query(urlunsplit(parts._replace(path=path)), [("info_hash", value) for value in info_hashes])


def parse_announce_reply_untrusted(body: bytes) -> AnnounceReply | AnnounceFailure:
    """Decode the body of an HTTP announce reply.

    ``peers`` may be compact (6 bytes each, BEP 23) or a list of dictionaries (BEP 3; entries whose ``ip`` is a name
    are dropped, we resolve nothing for strangers); ``peers6`` adds 18 bytes each (BEP 7).  Undialable addresses and a
    torn last entry are dropped, intervals clamped.  Raises RemoteProtocolError if this is no announce reply at all.
    """
    reply = _dictionary(body)
    failure = _failure(reply)
    if failure is not None:
        return failure
    if not reply.keys() & {b"interval", b"peers", b"peers6"}:
        raise RemoteProtocolError("bad-tracker-reply", "neither interval nor peers nor failure reason")
    interval, min_interval = clamp_intervals(_integer(reply, b"interval"), _integer(reply, b"min interval"))
    tracker_id = reply.get(b"tracker id")
    return AnnounceReply(
        interval=interval,
        min_interval=min_interval,
        peers=collect_peers(_peers(reply)),
        seeders=_count(reply, b"complete"),
        leechers=_count(reply, b"incomplete"),
        external_host=_external_host(reply.get(b"external ip")),
        warning=printable_text(reply.get(b"warning message")),
        tracker_id=tracker_id if isinstance(tracker_id, bytes) and 0 < len(tracker_id) <= MAX_TRACKER_ID else None,
    )


def parse_scrape_reply_untrusted(body: bytes) -> dict[bytes, ScrapeEntry] | AnnounceFailure:
    """Decode the body of an HTTP scrape reply (BEP 48) into counts by info-hash.

    Raises RemoteProtocolError if this is no scrape reply.  Entries that are not one are dropped.
    """
    reply = _dictionary(body)
    failure = _failure(reply)
    if failure is not None:
        return failure
    files = reply.get(b"files")
    if not isinstance(files, dict):
        raise RemoteProtocolError("bad-tracker-reply", "scrape reply without files")
    entries: dict[bytes, ScrapeEntry] = {}
    for info_hash, counts in files.items():
        if len(entries) == MAX_SCRAPED:
            break
        if len(info_hash) == 20 and isinstance(counts, dict):
            seeders, completed, leechers = (
                _count(counts, key) or 0 for key in (b"complete", b"downloaded", b"incomplete")
            )
            entries[info_hash] = ScrapeEntry(seeders, completed, leechers)
    return entries


def clamp_intervals(interval: int | None, min_interval: int | None) -> tuple[float, float]:
    """What to believe of a reply's two intervals, in seconds: both within bounds, the second not above the first.

    A tracker that asks for a longer minimum than its interval is given its minimum.
    """
    minimum = DEFAULT_MIN_INTERVAL
    if min_interval is not None and min_interval > 0:
        minimum = min(max(float(min_interval), SHORTEST_INTERVAL), LONGEST_INTERVAL)
    if interval is None or interval <= 0:
        return max(DEFAULT_INTERVAL, minimum), minimum
    regular = min(max(float(interval), SHORTEST_INTERVAL), LONGEST_INTERVAL)
    if min_interval is None or min_interval <= 0:
        return regular, min(minimum, regular)
    return max(regular, minimum), minimum


def collect_peers(peers: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """The dialable ones of ``peers`` without duplicates, at most `MAX_PEERS` of them."""
    seen: dict[Endpoint, None] = {}
    for peer in peers:
        if len(seen) == MAX_PEERS:
            break
        if peer not in seen and is_dialable(peer):
            seen[peer] = None
    return tuple(seen)


def compact_peers_untrusted(data: bytes | memoryview, *, ipv6: bool) -> list[Endpoint]:
    """Peers of 6 (BEP 23) or 18 bytes (BEP 7) each; a torn last one is dropped, nothing is judged."""
    size = PEER6_SIZE if ipv6 else PEER_SIZE
    whole = min(len(data) // size, 4 * MAX_PEERS) * size
    return [Endpoint(*peer) for peer in decode_peers_untrusted(data[:whole], ipv6=ipv6)]


def printable_text(value: object) -> str:
    """A tracker's words made safe to show on one line of a terminal: bounded, control characters replaced."""
    if not isinstance(value, bytes):
        return ""
    text = value[: 4 * MAX_TEXT].decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "\ufffd" for char in text)[:MAX_TEXT].strip()


def _with_query(url: str, fields: Iterable[tuple[str, str | bytes]]) -> str:
    parts = urlsplit(url)
    ours = "&".join(f"{name}={quote(value, safe='')}" for name, value in fields)
    return urlunsplit(parts._replace(query=f"{parts.query}&{ours}" if parts.query else ours, fragment=""))


def _dictionary(body: bytes) -> dict[bytes, Value]:
    """Trackers written in scripting languages send their keys in any order and a line end behind the value."""
    try:
        reply, _ = decode_prefix_untrusted(body, strict_order=False)
    except BencodeError as error:
        raise RemoteProtocolError("bad-tracker-reply", f"not bencoded: {error}") from None
    if not isinstance(reply, dict):
        raise RemoteProtocolError("bad-tracker-reply", "not a dictionary")
    return reply


def _failure(reply: dict[bytes, Value]) -> AnnounceFailure | None:
    """BEP 3 spells it with a space, BEP 48 with an underscore."""
    reason = reply.get(b"failure reason", reply.get(b"failure_reason"))
    if reason is None:
        return None
    retry_in = reply.get(b"retry in")
    if retry_in == b"never":
        return AnnounceFailure(printable_text(reason), math.inf)
    if isinstance(retry_in, bytes) and retry_in.isdigit() and len(retry_in) <= 9:
        retry_in = int(retry_in)  # the BEP's example is an integer, its text allows a string
    if isinstance(retry_in, int) and retry_in > 0:
        return AnnounceFailure(printable_text(reason), min(retry_in * 60.0, LONGEST_INTERVAL))
    return AnnounceFailure(printable_text(reason))


def _peers(reply: dict[bytes, Value]) -> Iterator[Endpoint]:
    peers = reply.get(b"peers")
    if isinstance(peers, bytes):
        yield from compact_peers_untrusted(peers, ipv6=False)
    elif isinstance(peers, list):
        yield from _dictionary_peers(peers)
    peers6 = reply.get(b"peers6")
    if isinstance(peers6, bytes):
        yield from compact_peers_untrusted(peers6, ipv6=True)


def _dictionary_peers(peers: Iterable[object]) -> Iterator[Endpoint]:
    for peer in peers:
        if not isinstance(peer, dict):
            continue
        host, port = peer.get(b"ip"), peer.get(b"port")
        if isinstance(host, bytes) and len(host) <= 45 and isinstance(port, int) and 0 < port <= 65535:
            if b"%" in host:  # no stranger names an interface of ours
                continue
            try:
                yield Endpoint(normalise_host(host.decode("ascii")), port)
            except ValueError:  # a name, or not ASCII: skip it
                continue


def _external_host(value: object) -> str | None:
    if not isinstance(value, bytes) or len(value) not in (4, 16):
        return None
    address = IPv4Address(value) if len(value) == 4 else IPv6Address(value)
    return None if address.is_unspecified else normalise_host(str(address))


def _integer(reply: dict[bytes, Value], key: bytes) -> int | None:
    value = reply.get(key)
    return value if isinstance(value, int) else None


def _count(reply: dict[bytes, Value], key: bytes) -> int | None:
    """A number of peers; a negative one says nothing."""
    value = _integer(reply, key)
    return min(value, MAX_COUNT) if value is not None and value >= 0 else None
