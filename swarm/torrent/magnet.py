"""Magnet links (BEP 9), with the peers and web seeds they carry and the selection of files (BEP 53).

    magnet:?xt=urn:btih:INFO-HASH&dn=NAME&tr=TRACKER&ws=WEB-SEED&x.pe=HOST:PORT&so=0,2-5

The info-hash is 40 hex digits or 32 base32 characters; 40 bare hex digits are taken as a link without anything else.
``urn:btmh:1220…`` (BEP 52) is read beside a v1 hash and refused alone.  The links of BEP 46 (``btpk``) are not read.
The metadata itself comes from peers: `swarm.ext.metadata`.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote

from swarm.endpoint import split_host_port
from swarm.errors import MetainfoError
from swarm.torrent.metainfo import Metainfo

MAX_LINK = 65_536  # characters
MAX_PARAMETERS = 1_000
MAX_SELECTED = 1_000_000  # the greatest file index BEP 53 may name here

_BARE_HASH = re.compile(r"[0-9A-Fa-f]{40}")
_BTIH_HEX = re.compile(r"urn:btih:([0-9a-f]{40})", re.IGNORECASE)
_BTIH_BASE32 = re.compile(r"urn:btih:([a-z2-7]{32})", re.IGNORECASE)
_BTMH = re.compile(r"urn:btmh:1220([0-9a-f]{64})", re.IGNORECASE)  # multihash: SHA2-256, 32 bytes
_NUMBERED = re.compile(r"\.\d+$")  # "tr.1", "xt.2": several of one kind, as the magnet scheme writes them
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Magnet:
    """What a magnet link says."""

    info_hash: bytes
    """20 bytes, SHA-1."""

    info_hash_v2: bytes | None = None
    """32 bytes, SHA-256; None unless the link names it as well."""

    name: str | None = None
    """What to call the torrent until its metadata is there.  Never a file name."""

    trackers: tuple[str, ...] = ()
    peers: tuple[tuple[str, int], ...] = ()
    """``x.pe``: host (a name or an address) and port."""

    select: tuple[range, ...] = ()
    """BEP 53 ``so``: ranges of file indices, counted from 0 in the torrent's list; empty means all."""

    web_seeds: tuple[str, ...] = ()


def parse_magnet(text: str) -> Magnet:
    """The link ``text``, or 40 bare hex digits.

    Unknown parameters, and trackers and peers that are malformed, are passed over; a malformed selection is not, since
    it would fetch what nobody asked for.  MetainfoError (exit code 3) for everything that names no v1 info-hash.
    """
    text = text.strip()
    if _BARE_HASH.fullmatch(text):
        return Magnet(info_hash=bytes.fromhex(text))
    if text[:8].lower() != "magnet:?":
        raise MetainfoError("this is no magnet link: it does not start with magnet:?")
    if len(text) > MAX_LINK:
        raise MetainfoError(f"the magnet link is longer than {MAX_LINK:,} characters")
    try:
        pairs = parse_qsl(text[8:], max_num_fields=MAX_PARAMETERS)
    except ValueError:
        raise MetainfoError(f"the magnet link has more than {MAX_PARAMETERS:,} parameters") from None
    parameters: dict[str, list[str]] = {}
    for key, value in pairs:
        parameters.setdefault(_NUMBERED.sub("", key.lower()), []).append(value.strip())
    info_hash, info_hash_v2 = _info_hashes(parameters.get("xt", []))
    return Magnet(
        info_hash=info_hash,
        info_hash_v2=info_hash_v2,
        name=_printable(parameters.get("dn", [""])[0]) or None,
        trackers=_urls(parameters.get("tr", [])),
        peers=_peers(parameters.get("x.pe", [])),
        select=_selection(",".join(parameters["so"])) if "so" in parameters else (),
        web_seeds=_urls(parameters.get("ws", [])),
    )


def format_magnet(source: Metainfo | Magnet) -> str:
    """The link to ``source``: hashes, name, trackers and web seeds; of a Magnet also its peers and its selection."""
    parts = [f"xt=urn:btih:{source.info_hash.hex()}"]
    if source.info_hash_v2 is not None:
        parts.append(f"xt=urn:btmh:1220{source.info_hash_v2.hex()}")
    if source.name:
        parts.append(f"dn={quote(source.name, safe='')}")
    if isinstance(source, Magnet):
        trackers = source.trackers
    else:
        trackers = tuple(url for tier in source.trackers for url in tier)
    parts += [f"tr={quote(url, safe='')}" for url in trackers]
    parts += [f"ws={quote(url, safe='')}" for url in source.web_seeds]
    if isinstance(source, Magnet):
        parts += [
            f"x.pe={quote(f'[{host}]' if ':' in host else host, safe='[]:')}:{port}" for host, port in source.peers
        ]
        if source.select:
            parts.append("so=" + ",".join(_format_range(part) for part in source.select))
    return "magnet:?" + "&".join(parts)


def _info_hashes(topics: list[str]) -> tuple[bytes, bytes | None]:
    v1: set[bytes] = set()
    v2: set[bytes] = set()
    for topic in topics:
        if match := _BTIH_HEX.fullmatch(topic):
            v1.add(bytes.fromhex(match[1]))
        elif match := _BTIH_BASE32.fullmatch(topic):
            v1.add(base64.b32decode(match[1].upper()))
        elif match := _BTMH.fullmatch(topic):
            v2.add(bytes.fromhex(match[1]))
        elif topic.lower().startswith(("urn:btih:", "urn:btmh:")):
            raise MetainfoError(f"the magnet link has a malformed info-hash: {topic[:100]!r}")
    if len(v1) > 1 or len(v2) > 1:
        raise MetainfoError("the magnet link names more than one torrent")
    if not v1 and v2:
        raise MetainfoError("the magnet link names a version 2 torrent only, a kind that is not supported yet")
    if not v1:
        raise MetainfoError("the magnet link names no torrent: it has no xt=urn:btih:…")
    return v1.pop(), v2.pop() if v2 else None


def _urls(values: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(url for url in values if url.isprintable() and "://" in url))


def _peers(values: list[str]) -> tuple[tuple[str, int], ...]:
    peers: dict[tuple[str, int], None] = {}
    for value in values:
        try:
            peers[split_host_port(value)] = None
        except ValueError:
            continue
    return tuple(peers)


def _selection(text: str) -> tuple[range, ...]:
    """BEP 53: ``0,2,4-6`` means files 0, 2, 4, 5 and 6."""
    ranges = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise MetainfoError(f"the magnet link selects files by {part[:40]!r}, which is neither N nor N-M")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last <= MAX_SELECTED:
            raise MetainfoError(f"the magnet link selects the files {part.strip()}, a range that cannot be")
        ranges.append(range(first, last + 1))
    return tuple(ranges)


def _format_host(host: str) -> str:
    return quote(f"[{host}]" if ":" in host else host, safe="[]:")


def _format_range(part: range) -> str:
    return str(part.start) if len(part) == 1 else f"{part.start}-{part.stop - 1}"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text).strip()
