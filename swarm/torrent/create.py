"""Making a .torrent file of a file or a directory (BEP 3, 12, 19, 27).

Version 1 only, without pad files and attributes: the info-hash depends on names and content, not on modes, times or the
file system that was read.  Reads disks, hence blocks: callers give it a thread.  It reads no clock: the creation date
is an argument, and without one two runs give the same bytes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha1
from pathlib import Path
from typing import NamedTuple

from dht.bencode import Value, encode
from swarm.errors import MetainfoError, StorageError, UsageError
from swarm.torrent.metainfo import MAX_PIECE_LENGTH, parse_torrent_untrusted

MIN_PIECE_LENGTH = 16 << 10  # bytes: one block (BEP 3)
MAX_AUTOMATIC_PIECE_LENGTH = 16 << 20  # bytes: with more, one peer's bad block spoils too much
AUTOMATIC_PIECES = 2_048  # at most this many pieces, until pieces have reached their longest: 40 KiB of hashes
READ_SIZE = 1 << 20  # bytes read and hashed at a time

Progress = Callable[[int, int], None]


class _Source(NamedTuple):
    path: Path
    name: tuple[str, ...]  # below the torrent's directory; empty for a torrent of one file
    size: int


def create(
    path: str | os.PathLike[str],
    *,
    trackers: Sequence[str] = (),
    private: bool = False,
    piece_length: int | None = None,
    web_seeds: Sequence[str] = (),
    comment: str | None = None,
    created_by: str | None = "swarm",
    creation_date: int | None = None,
    progress: Progress | None = None,
) -> bytes:
    """The .torrent file that shares ``path``, a file or a directory, under its own last name.

    Files of a directory come in the order of their names, directory by directory; hidden and empty ones are included,
    empty directories are not.  Symbolic links are followed: what they point to is shared as a file or directory of the
    link's name.  ``piece_length`` (bytes, a power of two from 16 KiB on) is chosen by size when None; ``trackers`` are
    tiers of one each, in order of preference; ``creation_date`` is in seconds since 1970.  ``progress`` is called with
    the bytes hashed so far and their total.  Memory: the hashes, the list of files and one buffer of 1 MiB.

    Raises UsageError for a piece length or URL that cannot be, MetainfoError when there is no content or a name would
    not survive in a torrent, and StorageError when a file cannot be read, is none, or changes its size meanwhile.
    """
    _check_urls([*trackers, *web_seeds])
    root = Path(os.path.abspath(path))
    sources = list(_sources(root))
    total = sum(source.size for source in sources)
    if total == 0:
        raise MetainfoError(f"{root} has no content to share")
    piece_length = _automatic_piece_length(total) if piece_length is None else _checked_piece_length(piece_length)
    info: dict[bytes, Value] = {
        b"name": _encode_name(root.name, root),
        b"piece length": piece_length,
        b"pieces": _hash_pieces(sources, piece_length, total, progress),
    }
    if sources[0].name:
        info[b"files"] = [
            {b"length": source.size, b"path": [_encode_name(part, source.path) for part in source.name]}
            for source in sources
        ]
    else:
        info[b"length"] = total
    if private:
        info[b"private"] = 1
    torrent: dict[bytes, Value] = {b"info": info}
    if trackers:
        torrent[b"announce"] = trackers[0].encode()
    if len(trackers) > 1:
        torrent[b"announce-list"] = [[url.encode()] for url in trackers]
    if web_seeds:
        torrent[b"url-list"] = [url.encode() for url in web_seeds]
    if comment:
        torrent[b"comment"] = comment.encode(errors="replace")
    if created_by:
        torrent[b"created by"] = created_by.encode(errors="replace")
    if creation_date is not None:
        torrent[b"creation date"] = creation_date
    return _checked(encode(torrent), sources)


def _check_urls(urls: list[str]) -> None:
    for url in urls:
        if "://" not in url or not url.isprintable() or " " in url:
            raise UsageError(f"{url!r} is not a URL")


def _automatic_piece_length(total: int) -> int:
    length = MIN_PIECE_LENGTH
    while length * AUTOMATIC_PIECES < total and length < MAX_AUTOMATIC_PIECE_LENGTH:
        length *= 2
    return length


def _checked_piece_length(length: int) -> int:
    if not MIN_PIECE_LENGTH <= length <= MAX_PIECE_LENGTH or length & (length - 1):
        raise UsageError(
            f"a piece length is a power of two from {MIN_PIECE_LENGTH:,} to {MAX_PIECE_LENGTH:,}, not {length:,}"
        )
    return length


def _encode_name(name: str, path: Path) -> bytes:
    try:
        return name.encode()
    except UnicodeEncodeError:
        raise MetainfoError(f"the name {os.fsencode(path)!r} is not UTF-8 and cannot stand in a torrent") from None


def _checked(torrent: bytes, sources: list[_Source]) -> bytes:
    """``torrent``, if whoever reads it looks for its files where they are."""
    metainfo = parse_torrent_untrusted(torrent)
    if metainfo.notes:
        raise MetainfoError(f"{metainfo.notes[0]} by those who download it: rename it first")
    assert [file.path[1:] for file in metainfo.files] == [source.name for source in sources]
    return torrent


def _sources(root: Path) -> Iterator[_Source]:
    try:
        status = root.stat()
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(root, (), [(status.st_dev, status.st_ino)])
        else:
            yield _source(root, (), status)
    except OSError as error:
        raise StorageError(f"cannot read {error.filename or root}: {error.strerror}") from error


def _walk(directory: Path, below: tuple[str, ...], above: list[tuple[int, int]]) -> Iterator[_Source]:
    """The files of ``directory`` by name; ``above`` identifies the directories it is in (a link may circle)."""
    for name in sorted(os.listdir(directory), key=os.fsencode):
        path = directory / name
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            yield _source(path, (*below, name), status)
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            raise StorageError(f"{path} links back to a directory that it is in")
        yield from _walk(path, (*below, name), [*above, identity])


def _source(path: Path, name: tuple[str, ...], status: os.stat_result) -> _Source:
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(f"{path} is neither a file nor a directory")
    return _Source(path, name, status.st_size)


def _hash_pieces(sources: list[_Source], piece_length: int, total: int, progress: Progress | None) -> bytes:
    hashes = bytearray()
    piece = sha1()
    room = piece_length  # bytes the piece at hand still takes
    done = 0
    for chunk in _chunks(sources):
        done += len(chunk)
        while len(chunk) >= room:
            piece.update(chunk[:room])
            hashes += piece.digest()
            chunk = chunk[room:]
            piece, room = sha1(), piece_length
        piece.update(chunk)
        room -= len(chunk)
        if progress is not None:
            progress(done, total)
    if room != piece_length:
        hashes += piece.digest()
    return bytes(hashes)


def _chunks(sources: list[_Source]) -> Iterator[memoryview]:
    """The content of all files; each chunk is valid until the next is asked for."""
    buffer = memoryview(bytearray(READ_SIZE))
    for source in sources:
        read = 0
        try:
            with open(source.path, "rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    read += count
                    if read > source.size:
                        break
                    yield buffer[:count]
        except OSError as error:
            raise StorageError(f"cannot read {source.path}: {error.strerror}") from error
        if read != source.size:
            raise StorageError(f"{source.path} changed its size while it was read")
