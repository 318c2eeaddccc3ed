"""Metainfo: what a .torrent file or an info dictionary says (BEP 3, 12, 19, 27, 47, 52).

Read in full, checked once, and returned as a value that cannot be wrong: paths are safe, sizes add up, the hashes are
as many as the pieces.  Both parsers are fed by strangers, but their reader is the user: they raise MetainfoError with
one sentence that names the defect.

A hybrid torrent is used by its v1 half; its v2 half only lends the second info-hash.  A torrent with a v2 half alone is
refused.  Symbolic links (BEP 47) are left out.  Merkle torrents (BEP 30), ``httpseeds`` (BEP 17), ``similar`` (BEP 38)
and signatures (BEP 35) are not read.  Creating is `swarm.torrent.create`, magnet links are `swarm.torrent.magnet`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from typing import Literal

from dht.bencode import BencodeError, Encodable, Value, decode_untrusted, decode_with_spans_untrusted, encode
from swarm.errors import MetainfoError
from swarm.torrent.filelist import FileEntry, read_files_untrusted
from swarm.torrent.names import decode_text

MAX_TORRENT_SIZE = 32 << 20  # bytes; a piece takes 20 (hybrid: 52), so this is 600,000 pieces and more
MAX_CONTAINERS = 1_500_000  # in the whole file; a file of a hybrid torrent takes up to six, its directory one
MAX_DEPTH = 100  # a v2 file tree nests one dictionary a directory
MAX_PIECE_LENGTH = 1 << 29  # bytes; the largest any client creates
MAX_URLS = 1_000  # trackers or web seeds
MAX_URL = 2_000  # characters
MAX_NODES = 100
MAX_TEXT = 20_000  # bytes of a comment that are kept

__all__ = ["FileEntry", "Metainfo", "Tiers", "parse_info_untrusted", "parse_torrent_untrusted"]

Tiers = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metainfo:
    """All that is known of one torrent before its first byte arrives."""

    name: str
    info_hash: bytes
    """20 bytes: SHA-1 over the info dictionary as it stands."""

    info_hash_v2: bytes | None
    """32 bytes, SHA-256 of the same; None unless the torrent is a hybrid."""

    version: Literal["1", "hybrid"]
    total_size: int
    """Bytes of all files, pad files included."""

    piece_length: int
    """Bytes of every piece but the last."""

    piece_hashes: bytes = field(repr=False)
    """The SHA-1 of each piece, 20 bytes each."""

    files: tuple[FileEntry, ...] = field(repr=False)
    private: bool
    """BEP 27: peers come from its trackers and nowhere else."""

    trackers: Tiers = ()
    """BEP 12: tiers of announce URLs."""

    web_seeds: tuple[str, ...] = ()
    """BEP 19."""

    nodes: tuple[tuple[str, int], ...] = ()
    """BEP 5: DHT nodes as host (a name or an address) and port."""

    created_by: str | None = None
    creation_date: int | None = None
    """Seconds since 1970."""

    comment: str | None = None
    source: str | None = None
    """What private trackers put into the info dictionary to tell their copy from another's."""

    info_bytes: bytes = field(repr=False)
    """The info dictionary as it stands, for BEP 9."""

    notes: tuple[str, ...] = ()
    """What was made safe or left out: sentences for the user, at most ten."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Metainfo:
        """What a .torrent file says; MetainfoError with one sentence if it cannot be used."""
        return parse_torrent_untrusted(data)

    @property
    def single_file(self) -> bool:
        """Whether the torrent is one file called ``name``, not a directory (which may hold one file only)."""
        return len(self.files) == 1 and len(self.files[0].path) == 1

    @property
    def piece_count(self) -> int:
        return len(self.piece_hashes) // 20

    def piece_size(self, index: int) -> int:
        """Bytes of piece ``index``; only the last may be shorter.  IndexError outside 0 ≤ index < piece_count."""
        self._check(index)
        return min(self.piece_length, self.total_size - index * self.piece_length)

    def piece_hash(self, index: int) -> bytes:
        """The 20 bytes of SHA-1 that piece ``index`` must have.  IndexError outside 0 ≤ index < piece_count."""
        self._check(index)
        return self.piece_hashes[index * 20 : index * 20 + 20]

    def _check(self, index: int) -> None:
        if not 0 <= index < self.piece_count:
            raise IndexError(index)


def parse_torrent_untrusted(data: bytes) -> Metainfo:
    """The torrent that a .torrent file of these bytes describes.

    Keys may be out of order and blanks may follow, as some tools write them; ``announce-list`` wins over ``announce``
    (BEP 12); optional fields of a wrong type count as absent.  Raises MetainfoError (exit code 3) for anything else.
    """
    if len(data) > MAX_TORRENT_SIZE:
        raise MetainfoError(f"the torrent file has {len(data):,} bytes; more than {MAX_TORRENT_SIZE:,} are not read")
    data = data.rstrip(b"\r\n\t \0")
    if not data.startswith(b"d"):
        raise MetainfoError("this is a web page, not a torrent file" if _is_html(data) else "this is no torrent file")
    try:
        torrent, spans = decode_with_spans_untrusted(
            data, strict_order=False, max_depth=MAX_DEPTH, max_containers=MAX_CONTAINERS
        )
    except BencodeError as error:
        raise MetainfoError(f"the torrent file is damaged: {error}") from None
    if b"info" not in torrent:
        raise MetainfoError("the torrent file has no info dictionary")
    start, end = spans[b"info"]
    creation_date = torrent.get(b"creation date")
    return _metainfo(
        torrent[b"info"],
        data[start:end],
        trackers=_tiers(torrent.get(b"announce-list")) or _tiers([[torrent.get(b"announce", b"")]]),
        web_seeds=tuple(_urls(torrent.get(b"url-list"))),
        nodes=tuple(_nodes(torrent.get(b"nodes"))),
        created_by=_text(torrent.get(b"created by.utf-8", torrent.get(b"created by"))),
        creation_date=creation_date if isinstance(creation_date, int) and creation_date >= 0 else None,
        comment=_text(torrent.get(b"comment.utf-8", torrent.get(b"comment"))),
    )


def encode_torrent(metainfo: Metainfo) -> bytes:
    """A .torrent file: the info dictionary byte for byte, and the trackers, web seeds and nodes that are known."""
    around: dict[bytes, Encodable] = {}
    if metainfo.trackers:
        around[b"announce"] = metainfo.trackers[0][0].encode()
        around[b"announce-list"] = [[url.encode() for url in tier] for tier in metainfo.trackers]
    if metainfo.nodes:
        around[b"nodes"] = [[host.encode(), port] for host, port in metainfo.nodes]
    if metainfo.web_seeds:
        around[b"url-list"] = [url.encode() for url in metainfo.web_seeds]
    parts = {key: encode(value) for key, value in around.items()} | {b"info": metainfo.info_bytes}
    return b"d" + b"".join(encode(key) + parts[key] for key in sorted(parts)) + b"e"


def parse_info_untrusted(
    info_bytes: bytes, *, trackers: Tiers = (), web_seeds: tuple[str, ...] = (), nodes: tuple[tuple[str, int], ...] = ()
) -> Metainfo:
    """The torrent that an info dictionary alone describes, as it comes by BEP 9 or from the resume file.

    Its hash is taken, not compared: the caller knows which one it asked for.  Raises MetainfoError as
    `parse_torrent_untrusted` does.
    """
    if len(info_bytes) > MAX_TORRENT_SIZE:
        raise MetainfoError(f"the info dictionary has {len(info_bytes):,} bytes; {MAX_TORRENT_SIZE:,} are the limit")
    try:
        info = decode_untrusted(info_bytes, strict_order=False, max_depth=MAX_DEPTH, max_containers=MAX_CONTAINERS)
    except BencodeError as error:
        raise MetainfoError(f"the info dictionary is damaged: {error}") from None
    return _metainfo(info, info_bytes, trackers=trackers, web_seeds=web_seeds, nodes=nodes)


def _metainfo(
    info: Value,
    info_bytes: bytes,
    *,
    trackers: Tiers,
    web_seeds: tuple[str, ...],
    nodes: tuple[tuple[str, int], ...],
    created_by: str | None = None,
    creation_date: int | None = None,
    comment: str | None = None,
) -> Metainfo:
    if not isinstance(info, dict):
        raise MetainfoError("the torrent's info is not a dictionary")
    hybrid = _is_hybrid(info)
    name, files, notes = read_files_untrusted(info)
    total_size = files[-1].offset + files[-1].size
    piece_length = _piece_length(info)
    return Metainfo(
        name=name,
        info_hash=sha1(info_bytes).digest(),
        info_hash_v2=sha256(info_bytes).digest() if hybrid else None,
        version="hybrid" if hybrid else "1",
        total_size=total_size,
        piece_length=piece_length,
        piece_hashes=_piece_hashes(info, total_size, piece_length),
        files=files,
        private=info.get(b"private") == 1,
        trackers=trackers,
        web_seeds=web_seeds,
        nodes=nodes,
        created_by=created_by,
        creation_date=creation_date,
        comment=comment,
        source=_text(info.get(b"source")),
        info_bytes=info_bytes,
        notes=notes,
    )


def _is_hybrid(info: dict[bytes, Value]) -> bool:
    """BEP 52: an unknown version is refused before anything else is looked at."""
    version = info.get(b"meta version")
    if version is None:
        return False
    if version != 2:
        raise MetainfoError(f"the torrent has the unknown meta version {version!r}")
    if b"pieces" not in info:
        raise MetainfoError("this is a version 2 torrent without a version 1 half, a kind that is not supported yet")
    return True


def _piece_length(info: dict[bytes, Value]) -> int:
    length = info.get(b"piece length")
    if not isinstance(length, int):
        raise MetainfoError("the torrent has no piece length")
    if not 1 <= length <= MAX_PIECE_LENGTH:
        raise MetainfoError(f"the torrent has the piece length {length:,}; 1 to {MAX_PIECE_LENGTH:,} are possible")
    return length


def _piece_hashes(info: dict[bytes, Value], total_size: int, piece_length: int) -> bytes:
    hashes = info.get(b"pieces")
    if not isinstance(hashes, bytes):
        raise MetainfoError("the torrent has no piece hashes")
    if len(hashes) % 20:
        raise MetainfoError(f"the torrent's piece hashes have {len(hashes):,} bytes, which is no multiple of 20")
    needed = -(-total_size // piece_length)
    if len(hashes) // 20 != needed:
        raise MetainfoError(f"the torrent has {len(hashes) // 20:,} piece hashes where its size takes {needed:,}")
    return hashes


def _is_html(data: bytes) -> bool:
    return data.lstrip()[:1] == b"<"


def _text(value: Value | None) -> str | None:
    """Text that a terminal can be shown; None for what is absent, empty or no string."""
    if not isinstance(value, bytes):
        return None
    text = decode_text(value[:MAX_TEXT])
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text).strip() or None


def _tiers(value: Value | None) -> Tiers:
    """The tiers of BEP 12; an URL that was in an earlier tier is not repeated."""
    if not isinstance(value, list):
        return ()
    known: set[str] = set()
    tiers = []
    for entry in value:
        tier = [url for url in _urls(entry) if url not in known]
        if tier and len(known) < MAX_URLS:
            tiers.append(tuple(tier))
            known.update(tier)
    return tuple(tiers)


def _urls(value: Value | None) -> list[str]:
    """The URLs of a list, or of the bare string that BEP 19 allows in its place and some tools write as a tier."""
    urls: dict[str, None] = {}
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, bytes) and len(entry) <= MAX_URL and len(urls) < MAX_URLS:
            url = decode_text(entry).strip()
            if url and url.isprintable():
                urls[url] = None
    return list(urls)


def _nodes(value: Value | None) -> Iterator[tuple[str, int]]:
    for entry in value[:MAX_NODES] if isinstance(value, list) else []:
        match entry:
            case [bytes(host), int(port)] if 0 < len(host) <= 255 and 1 <= port <= 65535:
                text = decode_text(host)
                if text.isprintable():
                    yield text, port
