"""The files of an info dictionary (BEP 3 ``length`` and ``files``, BEP 47 ``attr``): safe paths, sizes that add up.

Two files at one path, or a file where another needs a directory, are refused: no client could store both.  Names that
differ in case only are two files on Linux and one on Windows and macOS, and are judged so.  The v2 half of a hybrid
(BEP 52 ``file tree``) is not read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from dht.bencode import Value
from swarm.errors import MetainfoError
from swarm.torrent.names import MAX_PATH, safe_component

MAX_FILES = 200_000
MAX_TOTAL_SIZE = 1 << 50  # bytes
MAX_NOTES = 10

_FOLDS_CASE = sys.platform in ("win32", "darwin")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file, in the torrent's order."""

    path: tuple[str, ...]
    """Safe names below the target directory: ``(name,)``, or ``(name, *path)`` in a torrent of several files."""

    size: int
    """Bytes."""

    offset: int
    """Where it starts in the concatenation of all files, pad files included; bytes."""

    pad: bool = False
    """Not to be written: zeros that align the next file (BEP 47), or, of size 0, a symbolic link that is left out.

    Such entries stay in the list because indices (BEP 53) count them.
    """

    executable: bool = False
    """Attribute ``x`` of BEP 47."""


class FileList(NamedTuple):
    """What `read_files_untrusted` returns."""

    name: str
    files: tuple[FileEntry, ...]
    notes: tuple[str, ...]
    """What was made safe or left out, at most `MAX_NOTES` sentences."""


def read_files_untrusted(info: dict[bytes, Value]) -> FileList:
    """Name and files of an info dictionary; MetainfoError with a sentence of its own for each defect."""
    reader = _Reader()
    name = reader.name(info)
    if b"files" in info:
        if b"length" in info:
            raise MetainfoError("the torrent claims to be a single file and several files at once")
        files = reader.several(info[b"files"], name)
    else:
        if b"length" not in info:
            raise MetainfoError("the torrent has neither a length nor a list of files")
        size = _size(info[b"length"], repr(name))
        files = [FileEntry((name,), size, 0, executable=b"x" in _attributes(info))]
    total = files[-1].offset + files[-1].size
    if total == 0:
        raise MetainfoError("the torrent has no content: all its files are empty")
    if total > MAX_TOTAL_SIZE:
        raise MetainfoError(f"the torrent claims {total:,} bytes, more than any disk holds")
    return FileList(name, tuple(files), tuple(reader.notes))


class _Reader:
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.safe: dict[bytes, str] = {}  # directories repeat: each name is made safe, and noted, once

    def name(self, info: dict[bytes, Value]) -> str:
        raw = info.get(b"name.utf-8", info.get(b"name"))
        if not isinstance(raw, bytes):
            raise MetainfoError("the torrent has no name")
        return self.component(raw)

    def several(self, entries: Value, name: str) -> list[FileEntry]:
        if not isinstance(entries, list) or not entries:
            raise MetainfoError("the torrent lists no files")
        if len(entries) > MAX_FILES:
            raise MetainfoError(f"the torrent has {len(entries):,} files; more than {MAX_FILES:,} are not supported")
        files: list[FileEntry] = []
        offset = 0
        for number, entry in enumerate(entries, 1):
            if not isinstance(entry, dict):
                raise MetainfoError(f"file {number} of the torrent is not described by a dictionary")
            size = _size(entry.get(b"length"), number)
            if b"attr" in entry:
                file = self.with_attributes(entry, number, name, size, offset)
            else:
                file = FileEntry((name, *self.path(entry, number)), size, offset)
            files.append(file)
            offset += size
        _refuse_collisions(files)
        return files

    def with_attributes(self, entry: dict[bytes, Value], number: int, name: str, size: int, offset: int) -> FileEntry:
        attributes = _attributes(entry)
        if b"p" in attributes:  # its path is decoration, often the same for all of one size
            return FileEntry((name, ".pad", str(size)), size, offset, pad=True)
        path = (name, *self.path(entry, number))
        if b"l" in attributes:
            return self.left_out(FileEntry(path, size, offset, pad=True))
        return FileEntry(path, size, offset, executable=b"x" in attributes)

    def left_out(self, link: FileEntry) -> FileEntry:
        """A symbolic link might lead out of the download directory and make later writes follow it."""
        path = "/".join(link.path)
        if link.size:
            raise MetainfoError(f"the torrent calls {path!r} a symbolic link and yet gives it {link.size:,} bytes")
        self.note(f"the symbolic link {path!r} is left out")
        return link

    def path(self, entry: dict[bytes, Value], number: int) -> list[str]:
        raw = entry.get(b"path.utf-8", entry.get(b"path"))
        if not isinstance(raw, list):
            raise MetainfoError(f"file {number} of the torrent has no path")
        parts = []
        for component in raw:
            if not isinstance(component, bytes):
                raise MetainfoError(f"file {number} of the torrent has a path that is not made of strings")
            if component:  # old creators put an empty name in front
                parts.append(self.safe.get(component) or self.component(component))
        if not parts:
            raise MetainfoError(f"file {number} of the torrent has an empty path")
        if len(parts) > 10 and len("/".join(parts).encode()) > MAX_PATH:
            raise MetainfoError(f"file {number} of the torrent has a path longer than {MAX_PATH:,} bytes")
        return parts

    def component(self, raw: bytes) -> str:
        safe = self.safe[raw] = safe_component(raw)
        if safe.encode() != raw:
            self.note(f"the name {_shown(raw)} is stored as {safe[:100]!r}")
        return safe

    def note(self, sentence: str) -> None:
        if len(self.notes) < MAX_NOTES:
            self.notes.append(sentence)


def _shown(raw: bytes) -> str:
    try:
        return repr(raw.decode()[:100])
    except UnicodeDecodeError:
        return repr(raw[:100])


def _size(length: Value | None, what: object) -> int:
    if not isinstance(length, int):
        raise MetainfoError(f"file {what} of the torrent has no length")
    if length < 0:
        raise MetainfoError(f"file {what} of the torrent has the negative length {length}")
    return length


def _attributes(entry: dict[bytes, Value]) -> bytes:
    attributes = entry.get(b"attr", b"")
    return attributes if isinstance(attributes, bytes) else b""


def _refuse_collisions(files: list[FileEntry]) -> None:
    taken: set[tuple[str, ...]] = set()
    directories: set[tuple[str, ...]] = set()
    for path in _stored_paths(files):
        if path in taken:
            raise MetainfoError(f"the torrent has two files called {'/'.join(path)!r}")
        taken.add(path)
        parent = path[:-1]
        while parent not in directories:
            directories.add(parent)
            parent = parent[:-1]
    if both := taken & directories:
        raise MetainfoError(f"the torrent has {'/'.join(min(both))!r} both as a file and as a directory")


def _stored_paths(files: list[FileEntry], folds_case: bool = _FOLDS_CASE) -> Iterator[tuple[str, ...]]:
    """The paths that will exist, as the file system compares them."""
    for file in files:
        if not file.pad:
            yield tuple(part.casefold() for part in file.path) if folds_case else file.path
