"""Torrents with known content for the tests of storage, disk and resume."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

from dht.bencode import encode
from swarm.torrent.metainfo import Metainfo, parse_torrent_untrusted

PAD = "pad"
EXECUTABLE = "executable"


def torrent(files: Sequence[tuple[str, int] | tuple[str, int, str]], piece_length: int) -> tuple[Metainfo, bytes]:
    """A torrent named ``t`` of files ``(path, size[, PAD | EXECUTABLE])`` and its content: noise, zeros in pads."""
    rng = random.Random(repr((files, piece_length)))
    content = b"".join(bytes(size) if PAD in attribute else rng.randbytes(size) for _, size, *attribute in files)
    return describe(files, piece_length, piece_hashes(content, piece_length)), content


def single(size: int, piece_length: int) -> tuple[Metainfo, bytes]:
    """A torrent of the one file ``t``."""
    content = random.Random(size).randbytes(size)
    return single_of(size, piece_length, piece_hashes(content, piece_length)), content


def single_of(size: int, piece_length: int, hashes: bytes) -> Metainfo:
    info = {b"name": b"t", b"length": size, b"piece length": piece_length, b"pieces": hashes}
    return parse_torrent_untrusted(encode({b"info": info}))


def describe(files: Sequence[tuple[str, int] | tuple[str, int, str]], piece_length: int, hashes: bytes) -> Metainfo:
    entries = []
    for path, size, *attribute in files:
        entry = {b"path": [part.encode() for part in path.split("/")], b"length": size}
        if attribute:
            entry[b"attr"] = b"p" if PAD in attribute else b"x"
        entries.append(entry)
    info = {b"name": b"t", b"files": entries, b"piece length": piece_length, b"pieces": hashes}
    return parse_torrent_untrusted(encode({b"info": info}))


def piece_hashes(content: bytes, piece_length: int) -> bytes:
    view = memoryview(content)
    return b"".join(
        hashlib.sha1(view[start : start + piece_length]).digest() for start in range(0, len(content), piece_length)
    )


def piece(metainfo: Metainfo, content: bytes, index: int) -> bytes:
    start = index * metainfo.piece_length
    return content[start : start + metainfo.piece_length]


def lay_out(directory: Path, metainfo: Metainfo, content: bytes) -> None:
    """Put the whole torrent on disk, without the code under test."""
    for entry in metainfo.files:
        if not entry.pad:
            path = directory.joinpath(*entry.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content[entry.offset : entry.offset + entry.size])


def lay_out_sparse(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size)
