"""The files of a torrent that does not run: moved, deleted, looked for.  Synchronous; runs in threads.

Only what the metainfo names is touched, and no symbolic link below the torrent's directory is followed.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from swarm.errors import StorageError
from swarm.torrent.metainfo import Metainfo
from swarm.torrent.resume import load_resume, resume_path, save_resume


def is_gone(metainfo: Metainfo, directory: Path) -> bool:
    """Whether not one of its files is there: removed, or on a disk that is not mounted."""
    return not any(os.path.lexists(directory.joinpath(*file.path)) for file in metainfo.files if not file.pad)


def free_space(directory: Path) -> int:
    """Bytes that may be written beneath ``directory``, be it there yet or not; 0 where nobody can tell."""
    for place in (directory, *directory.parents):
        try:
            found = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError:
            return 0
        return 0 if found.f_files and not found.f_favail else found.f_bavail * found.f_frsize
    return 0


def check_way(metainfo: Metainfo, source: Path, target: Path) -> None:
    """StorageError if one of its files could not be moved for something that is there already."""
    for old, new in _pairs(metainfo, source, target):
        if os.path.lexists(new):
            raise StorageError(f"cannot move {old}: {new} is in the way")
        if not _is_beneath(target, new.relative_to(target).parts):
            raise StorageError(f"cannot move {old}: a part of {new} is a symbolic link, and those are not followed")


def move_data(metainfo: Metainfo, source: Path, target: Path) -> None:
    """Move what is there of its files.  StorageError if that cannot be: nothing has moved.

    To another file system they are copied, and removed here once all are there.  What is in the way is overwritten: it
    was left by a move that ended in the middle; `check_way` comes before the first.
    """
    moved: list[tuple[Path, Path]] = []
    copied: list[tuple[Path, Path]] = []
    try:
        for old, new in _pairs(metainfo, source, target):
            new.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(old, new)
                moved.append((old, new))
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                copied.append((old, new))
                _copy(old, new)
        _remove(old for old, _ in copied)
    except OSError as error:
        _take_back(moved, copied)
        _remove_empty_directories(metainfo, target)
        raise StorageError(f"cannot move {metainfo.name} to {target}: {error.strerror}") from error
    _remove_empty_directories(metainfo, source)


def delete_data(metainfo: Metainfo, directory: Path) -> None:
    """Delete its files, and the directories of its own that are empty then.  StorageError for what cannot be."""
    for path, _ in _pairs(metainfo, directory, directory):
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StorageError(f"cannot delete {path}: {error.strerror}") from error
    _remove_empty_directories(metainfo, directory)


def relocate_resume(resume: Path, metainfo: Metainfo, target: Path) -> None:
    """What was verified stays so: the files that were moved are the same."""
    path = resume_path(resume, metainfo.info_hash)
    data = load_resume(path, metainfo, lambda warning: None)
    if data is not None:
        save_resume(path, metainfo.info_hash, replace(data, directory=target))


def forget_resume(resume: Path, info_hash: bytes) -> None:
    """Nothing is known of its data any more."""
    for path in (resume_path(resume, info_hash), resume / f"{info_hash.hex()}.info"):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot remove {path}: {error.strerror}") from error


def _pairs(metainfo: Metainfo, source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Where the files that are there are, and where they would be; nothing that lies behind a symbolic link."""
    return [
        (source.joinpath(*file.path), target.joinpath(*file.path))
        for file in metainfo.files
        if not file.pad and _is_beneath(source, file.path) and os.path.lexists(source.joinpath(*file.path))
    ]


def _is_beneath(directory: Path, parts: tuple[str, ...]) -> bool:
    return not any(directory.joinpath(*parts[:count]).is_symlink() for count in range(1, len(parts)))


def _copy(old: Path, new: Path) -> None:
    """Onto the disk itself: the only other copy is about to go."""
    shutil.copy2(old, new, follow_symlinks=False)
    if not new.is_symlink():
        with open(new, "rb") as file:
            os.fsync(file.fileno())


def _remove(copied: Iterable[Path]) -> None:
    """OSError if the first cannot be removed; then all are there.  What cannot be removed of the others stays."""
    for count, path in enumerate(copied):
        try:
            os.unlink(path)
        except OSError:
            if not count:
                raise


def _take_back(moved: list[tuple[Path, Path]], copied: list[tuple[Path, Path]]) -> None:
    for old, new in reversed(moved):
        os.rename(new, old)
    for _, new in copied:
        new.unlink(missing_ok=True)


def _remove_empty_directories(metainfo: Metainfo, directory: Path) -> None:
    inner = {file.path[:count] for file in metainfo.files for count in range(1, len(file.path))}
    for parts in sorted(inner, key=len, reverse=True):
        path = directory.joinpath(*parts)
        try:
            if _is_beneath(directory, (*parts, "")):
                path.rmdir()
        except OSError:  # something else is in it, or it is gone
            continue
