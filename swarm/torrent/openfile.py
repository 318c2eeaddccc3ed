"""Opening a torrent's file beneath its directory, and a bounded set of open ones shared by all torrents.

A torrent names paths and a stranger may have planted symbolic links, FIFOs or devices where they lead, so no component
below the target directory is ever followed: each is opened relative to the descriptor of its parent with O_NOFOLLOW.
The target directory itself is the user's choice and may be reached through links.  Synchronous; this module knows
nothing of pieces.  No BEP.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path

from swarm.errors import DiskFullError, StorageError

DEFAULT_LIMIT = 128
"""Descriptors kept open for files by one node: well below the usual `ulimit -n` of 1,024, which sockets need too."""

# O_PATH lets us pass through directories that may be searched but not read; O_NONBLOCK keeps a planted FIFO from
# blocking us in open().  Both are nothing to a regular file.
DIRECTORY = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
CHILD_DIRECTORY = DIRECTORY | os.O_NOFOLLOW
FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.EFBIG: "it would be larger than the file system or a limit of the process allows",
    errno.EISDIR: "it is a directory",
    errno.ENOTDIR: "a part of its path is not a directory",
    errno.ELOOP: "a part of its path is a symbolic link, and those are not followed",
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open",
    errno.ENAMETOOLONG: "its name is too long for the file system",
    errno.EIO: "the disk reports an input/output error",
    errno.ENXIO: "it is not a regular file",
}


class DataMissingError(StorageError):
    """The file is not there, or ends before the bytes that were asked for."""


class OpenFile:
    """An open descriptor, closed when the last reference to this object goes.

    The table of open files may drop an entry while a thread or a sendfile still uses the descriptor; counting
    references is what keeps its number from being reused under them, without a lock.
    """

    __slots__ = ("end", "fd", "linked", "writable")

    def __init__(self, fd: int, *, writable: bool, status: os.stat_result) -> None:
        self.fd = fd
        self.writable = writable
        self.linked = status.st_nlink > 0
        """False on file systems that do not count links: there a removal cannot be noticed."""
        self.end = status.st_size
        """The file was at least this long when last seen; shorter later means that somebody cut it."""

    def __del__(self) -> None:
        os.close(self.fd)


class FileHandles:
    """Open files of any number of torrents, the least recently used dropped beyond ``limit``.

    Safe to share between threads: every step is one operation of an `OrderedDict` with plain keys, which the
    interpreter does not interrupt.  Two threads that miss at the same time open a file twice, and one is dropped.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self.limit = limit
        self._open: OrderedDict[Hashable, OpenFile] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def get(self, key: Hashable) -> OpenFile | None:
        """The open file, now the most recently used; None when it is not open."""
        file = self._open.pop(key, None)
        if file is not None:
            self._open[key] = file
        return file

    def add(self, key: Hashable, file: OpenFile) -> None:
        self._open[key] = file
        while len(self._open) > self.limit:
            try:
                self._open.popitem(last=False)
            except KeyError:  # another thread evicted the rest
                return

    def discard(self, key: Hashable) -> None:
        self._open.pop(key, None)


def open_beneath(directory: Path, parts: tuple[str, ...], *, writable: bool, mode: int = 0o666) -> OpenFile:
    """Open the regular file ``directory/parts``; with ``writable`` it and its directories are created as needed.

    ``mode`` is that of a new file, less the umask.  Raises DataMissingError when it is to be read and not there,
    StorageError for everything else that the file system refuses, including any symbolic link among ``parts`` and
    anything that is not a regular file.  ValueError for parts that are no plain names: metainfo refuses those.
    """
    if not parts or any(part in {"", ".", ".."} or "/" in part or "\0" in part for part in parts):
        raise ValueError(f"{parts!r} does not stay beneath a directory")
    path = directory.joinpath(*parts)
    with storage_errors("write" if writable else "read", path):
        if writable:
            os.makedirs(directory, exist_ok=True)
        parent = _open_parent(directory, parts[:-1], create=writable)
        try:
            flags = FILE | (os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY)
            fd = os.open(parts[-1], flags, mode, dir_fd=parent)
        finally:
            os.close(parent)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise OSError(errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.ENXIO, "")
        return OpenFile(fd, writable=writable, status=status)


def _open_parent(directory: Path, parts: tuple[str, ...], *, create: bool) -> int:
    parent = os.open(directory, DIRECTORY)
    for part in parts:
        try:
            child = _open_directory(part, parent, create=create)
        finally:
            os.close(parent)
        parent = child
    return parent


def _open_directory(name: str, parent: int, *, create: bool) -> int:
    try:
        return os.open(name, CHILD_DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        if not create:
            raise
    except NotADirectoryError:
        if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, "") from None
        raise
    try:
        os.mkdir(name, dir_fd=parent)
    except FileExistsError:  # another thread was faster
        pass
    return os.open(name, CHILD_DIRECTORY, dir_fd=parent)


@contextmanager
def storage_errors(verb: str, path: Path) -> Iterator[None]:
    """Turn OSError inside into a StorageError: ``cannot <verb> <path>: <reason>``; of its classes the one that fits."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataMissingError(f"cannot {verb} {path}: it does not exist") from error
    except OSError as error:
        reason = REASONS.get(error.errno or 0) or (error.strerror or str(error)).lower()
        kind = DiskFullError if error.errno == errno.ENOSPC else StorageError
        raise kind(f"cannot {verb} {path}: {reason}") from error
