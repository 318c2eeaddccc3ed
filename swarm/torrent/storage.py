"""The bytes of one torrent in its files, addressed by their offset in the concatenated torrent (BEP 3, BEP 47).

Synchronous and dumb: it knows no hashes, verifies nothing and starts no thread; `swarm.torrent.disk` calls it from
threads, and any number of them may be inside at once as long as no two write the same bytes.

* Files are sparse: they grow where pieces are written, in any order.  `prepare` can reserve their space instead.
* A file that nobody selected is treated alike: a piece that it shares with a wanted file is written in place, so that
  it stays verifiable and a later selection finds it; the file then occupies the blocks of that piece, not its size.
  (A separate file of leftovers, as some clients keep, must be moved on every change of selection.  The price of ours is
  on file systems without holes, FAT above all, which fill the gap in front of the piece.)
* Pad files read as zeros and are never written.
* A file longer than the torrent says is cut only when something is written to it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from swarm.errors import StorageError
from swarm.torrent.layout import Layout
from swarm.torrent.metainfo import Metainfo
from swarm.torrent.openfile import (
    DataMissingError,
    FileHandles,
    OpenFile,
    open_beneath,
    storage_errors,
)

NO_RESERVING = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


Content = Literal["absent", "hole", "data"]


class FileState(NamedTuple):
    """What tells whether a file changed: its size in bytes and its modification time in nanoseconds."""

    size: int
    mtime_ns: int


class Storage:
    """Reads and writes ranges of one torrent beneath ``directory``.

    Every method raises StorageError with one sentence that names the file and the reason when the file system refuses.
    """

    def __init__(
        self, directory: Path, metainfo: Metainfo, *, handles: FileHandles | None = None, preallocate: bool = False
    ) -> None:
        self.directory = directory
        self.metainfo = metainfo
        self.layout = Layout(metainfo)
        self._handles = FileHandles() if handles is None else handles
        self._preallocate = preallocate
        self._owner = object()  # our name in the table of open files, which must not keep us alive
        self._used: set[int] = set()
        self._unsynced: set[int] = set()
        self._cached_flags: int | None = getattr(os, "RWF_NOWAIT", None)

    def path(self, file_index: int) -> Path:
        return self.directory.joinpath(*self.metainfo.files[file_index].path)

    def prepare(self, wanted: Collection[int]) -> None:
        """Create the files in ``wanted`` that are empty by nature and, with ``preallocate``, reserve the others' space.

        May take as long as the file system needs for that.  Call again when the selection grows.  A directory that
        cannot be had is found out here, and not by the first piece.
        """
        if wanted:
            with storage_errors("create", self.directory):
                self.directory.mkdir(parents=True, exist_ok=True)
        for index in wanted:
            entry = self.metainfo.files[index]
            if not entry.pad and (entry.size == 0 or self._preallocate):
                self._reserve(index, entry.size)

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill ``buffer`` from ``offset`` on; DataMissingError where a file is absent or too short."""
        for index, position, part in self._parts(offset, memoryview(buffer)):
            if self.metainfo.files[index].pad:
                part[:] = bytes(len(part))
            else:
                self._read_part(index, position, part)

    def read_cached(self, offset: int, buffer: bytearray | memoryview) -> bool:
        """Fill ``buffer`` without waiting for a disk; False, and a buffer of rubbish, when that cannot be done now.

        True needs open files, their data in the page cache and a file system that can tell (Linux RWF_NOWAIT: ext4,
        XFS, btrfs) or has no disk (tmpfs, which cannot tell).
        """
        if self._cached_flags is None:
            return False
        return all(
            self._read_part_cached(index, position, part)
            for index, position, part in self._parts(offset, memoryview(buffer))
        )

    @property
    def tells_cached(self) -> bool:
        """Whether `read_cached` can succeed here; the first attempt finds out."""
        return self._cached_flags is not None

    def write(self, offset: int, buffer: bytes | bytearray | memoryview) -> None:
        """Store ``buffer`` at ``offset``; when it raises, a part may have been stored."""
        for index, position, part in self._parts(offset, memoryview(buffer)):
            if not self.metainfo.files[index].pad:
                self._write_part(index, position, part)
                self._unsynced.add(index)

    def file_at(self, offset: int, length: int) -> tuple[OpenFile, int] | None:
        """The open file and the position in it of a range, when one file on disk holds all of it; else None."""
        spans = self.layout.spans(offset, length)
        if len(spans) != 1 or self.metainfo.files[spans[0].file_index].pad:
            return None
        return self._file(spans[0].file_index), spans[0].file_offset

    def existing(self) -> tuple[FileState | None, ...]:
        """Size and time of every file as it stands; None for one that is absent, no regular file or padding."""
        return tuple(None if entry.pad else self._state(index) for index, entry in enumerate(self.metainfo.files))

    def sync(self) -> None:
        """Have everything written so far on the disk itself, not only in the page cache."""
        while self._unsynced:
            index = self._unsynced.pop()
            try:
                with storage_errors("write", self.path(index)):
                    file = self._file(index)  # kept while in use: another torrent may push it out of the table
                    os.fdatasync(file.fd)
            except StorageError:
                self._unsynced.add(index)
                raise

    def release(self) -> None:
        """Keep no descriptor open; the next access opens its file again.  For torrents that go idle or end."""
        while self._used:
            self._handles.discard((self._owner, self._used.pop()))

    # One part lies in one file.

    def _parts(self, offset: int, view: memoryview) -> Iterator[tuple[int, int, memoryview]]:
        start = 0
        for span in self.layout.spans(offset, len(view)):
            yield span.file_index, span.file_offset, view[start : start + span.length]
            start += span.length

    def _file(self, index: int, *, writable: bool = False) -> OpenFile:
        file = self._handles.get((self._owner, index))
        if file is None or (writable and not file.writable):
            entry = self.metainfo.files[index]
            mode = 0o777 if entry.executable else 0o666
            file = open_beneath(self.directory, entry.path, writable=writable, mode=mode)
            if writable and file.end > entry.size:
                with storage_errors("write", self.path(index)):
                    os.truncate(file.fd, entry.size)
                file.end = entry.size
            self._handles.add((self._owner, index), file)
            self._used.add(index)
        return file

    def _read_part(self, index: int, position: int, part: memoryview) -> None:
        file = self._file(index)
        with storage_errors("read", self.path(index)):
            while part:
                count = os.preadv(file.fd, [part], position)
                if count == 0:
                    raise DataMissingError(
                        f"cannot read {self.path(index)}: it ends before byte {position + len(part)} "
                        f"and should have {self.metainfo.files[index].size}"
                    )
                part = part[count:]
                position += count

    def _read_part_cached(self, index: int, position: int, part: memoryview) -> bool:
        file = self._handles.get((self._owner, index))
        if file is None or self._cached_flags is None:
            return False
        try:
            return os.preadv(file.fd, [part], position, self._cached_flags) == len(part)
        except BlockingIOError:
            return False
        except OSError as error:
            # What is wrong with a disk is found by the read that may wait.
            if error.errno == errno.EOPNOTSUPP:
                self._cached_flags = 0 if lives_in_memory(self.path(index)) else None
            return False

    def _write_part(self, index: int, position: int, part: memoryview) -> None:
        file = self._file(index, writable=True)
        with storage_errors("write", self.path(index)):
            self._raise_if_damaged(index, file)
            while part:
                count = os.pwritev(file.fd, [part], position)
                part = part[count:]
                position += count
            file.end = max(file.end, position)

    def _raise_if_damaged(self, index: int, file: OpenFile) -> None:
        """Somebody who removed or cut a file took verified pieces with it: say so instead of writing beside them."""
        end = file.end  # before the size: another thread may lengthen the file in between
        status = os.fstat(file.fd)
        if status.st_nlink == 0 and file.linked:
            self._handles.discard((self._owner, index))
            raise StorageError(f"cannot write {self.path(index)}: it was removed or replaced while in use")
        if status.st_size < end:
            self._handles.discard((self._owner, index))
            raise StorageError(
                f"cannot write {self.path(index)}: it shrank from {end} to {status.st_size} bytes while in use"
            )

    def _reserve(self, index: int, size: int) -> None:
        file = self._file(index, writable=True)
        if size == 0:
            return
        with storage_errors("reserve space for", self.path(index)):
            try:
                os.posix_fallocate(file.fd, 0, size)
            except OSError as error:
                if error.errno not in NO_RESERVING:  # a file system that cannot reserve stores sparsely
                    raise
            else:
                file.end = size

    def _state(self, index: int) -> FileState | None:
        path = self.path(index)
        try:
            status = os.stat(path, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            with storage_errors("read", path):
                raise error
        if not stat.S_ISREG(status.st_mode):
            return None
        return FileState(status.st_size, status.st_mtime_ns)


class Extents:
    """Where a torrent's files hold data, for one pass over ascending offsets; what it learned grows stale.

    Holes are found by SEEK_DATA, one system call for a hole of any length, so that looking through a sparse torrent
    costs nothing like its size.  A file system without holes reports data everywhere.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._files: dict[int, _FileExtent | None] = {}

    def content(self, offset: int, length: int) -> Content:
        """ "absent" if a file ends, or is missing, before the range does; "hole" if nothing was ever written to it."""
        content: Content = "hole"
        for index, position, count in self._spans(offset, length):
            extent = self._extent(index)
            if extent is None or extent.size < position + count:
                return "absent"
            if content == "hole" and self._next_data(index, extent, position) < position + count:
                content = "data"
        return content

    def _spans(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        files = self._storage.metainfo.files
        for span in self._storage.layout.spans(offset, length):
            if not files[span.file_index].pad:
                yield span.file_index, span.file_offset, span.length

    def _extent(self, index: int) -> _FileExtent | None:
        if index not in self._files:
            try:
                file = self._storage._file(index)  # kept while in use, as below
                size = os.fstat(file.fd).st_size
            except DataMissingError:
                self._files[index] = None
            else:
                self._files[index] = _FileExtent(size)
        return self._files[index]

    def _next_data(self, index: int, extent: _FileExtent, position: int) -> int:
        """The first byte at or after ``position`` that was ever written; the file's size when there is none."""
        if not extent.hole <= position < extent.data:
            extent.hole = position
            try:
                # The file is looked up each time: one pass may meet more files than may be open at once.
                file = self._storage._file(index)
                extent.data = os.lseek(file.fd, position, os.SEEK_DATA)
            except OSError as error:
                # ENXIO: no data up to the end.  Anything else: a file system that knows no holes.
                extent.data = extent.size if error.errno == errno.ENXIO else position
        return extent.data


class _FileExtent:
    """The size of a file and the hole that was found last in it: from ``hole`` up to ``data``."""

    __slots__ = ("data", "hole", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.hole = self.data = 0


def lives_in_memory(path: Path) -> bool:
    """Whether a file is on a file system without a disk (tmpfs), as Linux's table of mounts tells; else False."""
    try:
        device = os.stat(path).st_dev
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            lines = [line.split() for line in mounts]
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    # proc(5): the third field is the device, the type follows a lone hyphen after the optional fields.
    return any(line[2] == number and line[line.index("-") + 1] in {"tmpfs", "ramfs"} for line in lines)
