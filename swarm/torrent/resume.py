"""What is kept of a torrent between runs, and what of it can still be believed (no BEP; the file is ours alone).

One bencoded file per torrent, ``<directory>/<40 hex digits>.resume``, replaced atomically.  It belongs to the user, but
disks lie: it is parsed as strictly as what a peer sends, and a broken one costs a recheck and nothing else.

Two promises of whoever saves make it believable:

* The bits saved were taken *before* the files were synced and looked at (`Disk.sync`), with ``saved_at`` the time of
  that copy.  So each bit stands for data on the disk itself, and survives a power cut like the file that names it.
* At start it is saved with ``clean`` false where anything is missing, then every now and then while pieces arrive, and
  with ``clean`` true only by an orderly exit, after the last write.

So a file whose size and mtime are those saved holds what it held, and a file where they differ is hashed, every piece
of it, also those that were not recorded: they may have been written after the last save.  That is all after a clean
exit.  After a crash two things are special.

* A file that was written within `WRITTEN_AFTER` of the last save, and did not shrink, was written by us: we were at it,
  and would have saved again.  Its unrecorded pieces are hashed, the recorded ones are not: we never write to a verified
  piece.  Without this rule every crash in mid-download would have all of a large file read again.
* A piece written just before or after the save may have the mtime that was saved, since file systems count in steps
  (FAT: 2 s) and a slow write ends long after it has stamped the file.  So the unrecorded pieces of files that were
  younger than `SETTLED` when saved are hashed too.

How often it is saved therefore decides how much is hashed after a crash, and never what is downloaded twice.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dht.bencode import BencodeError, Encodable, Value, decode_untrusted, encode
from swarm.bitfield import Bitfield
from swarm.endpoint import Endpoint, parse_endpoint
from swarm.errors import RemoteProtocolError, StorageError
from swarm.torrent.layout import Layout
from swarm.torrent.metainfo import Metainfo
from swarm.torrent.storage import FileState

VERSION = 1
SETTLED = 10.0
"""Seconds after its last write from which a file's mtime proves that nothing was written since."""

WRITTEN_AFTER = 120.0
"""Seconds after a save without a clean end within which it is we who wrote: the next was due after 30, and a slow disk
may take long over it."""

MAX_PEERS = 500
"""Known peers kept; more are left out when saving and refused when loading."""

MAX_FILE_SIZE = 64 << 20
"""Bytes; a torrent of 2^22 pieces and a million files needs 18 MiB."""

NORMAL = 4
"""The priority of a file nobody chose one for; 0 is not wanted, 7 the highest."""

_FILE_STATE = struct.Struct(">qq")  # size, mtime_ns; size -1: no such file
_ABSENT = _FILE_STATE.pack(-1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeData:
    """One torrent between runs.  Times are seconds since the epoch, kept to the microsecond."""

    directory: Path
    """Where the files are."""

    pieces: Bitfield
    """Verified, written and synced.  Not to be changed."""

    files: tuple[FileState | None, ...]
    """Every file as `Disk.sync` saw it after the copy of ``pieces`` was taken; None: not there."""

    clean: bool
    """Whether nothing was written after this was saved: the exit was orderly."""

    saved_at: float
    """When the copy of ``pieces`` was taken, by the clock that stamps the files."""

    added_at: float
    completed_at: float | None = None

    downloaded: int = 0
    """Payload bytes received for this torrent in all runs."""

    uploaded: int = 0

    priorities: bytes = b""
    """One byte per file, 0 (not wanted) to 7; empty: all are `NORMAL`."""

    peers: tuple[Endpoint, ...] = ()
    """Where peers were, most useful first."""


def resume_path(directory: Path, info_hash: bytes) -> Path:
    """The file of a torrent in the directory of such files."""
    return directory / f"{info_hash.hex()}.resume"


def save_resume(path: Path, info_hash: bytes, data: ResumeData) -> None:
    """Replace the file at once and durably; after a crash there is the old one or the new one, whole.

    Raises StorageError when it cannot be written; the old one is then still there.
    """
    temporary = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # it tells what we share, and with whom
        with open(temporary, "wb") as file:
            file.write(encode_resume(info_hash, data))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        raise StorageError(f"cannot save {path}: {error.strerror}") from error


def load_resume(path: Path, metainfo: Metainfo, warn: Callable[[str], object]) -> ResumeData | None:
    """What was saved for this torrent; None if nothing was, or nothing usable: then ``warn`` is told in a sentence."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_SIZE + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        warn(f"cannot read {path}: {error.strerror}; the files on disk are checked instead")
        return None
    try:
        return decode_resume_untrusted(content, metainfo)
    except RemoteProtocolError as error:
        warn(f"{path} is damaged ({error.detail}); the files on disk are checked instead")
        return None


def pieces_in_doubt(
    data: ResumeData | None, metainfo: Metainfo, files_on_disk: Sequence[FileState | None]
) -> tuple[Bitfield, list[int]]:
    """The pieces to trust as they are, and those to hash, ascending; all others are not on disk.

    ``data`` is None when there is no resume data: every piece whose files exist is in doubt then.
    """
    changed, settling = _suspects(data, metainfo, files_on_disk)
    layout = Layout(metainfo)
    suspect = bytearray(metainfo.piece_count)  # 1: lies in a changed file
    written = bytearray(metainfo.piece_count)  # 1: lies in a file that may hold more than was recorded
    absent = bytearray(metainfo.piece_count)  # 1: lies in a file that is not there
    for index, (entry, state) in enumerate(zip(metainfo.files, files_on_disk, strict=True)):
        if entry.pad or entry.size == 0:
            continue
        for marks, marked in ((suspect, changed[index]), (written, settling[index]), (absent, state is None)):
            if marked:
                pieces = layout.file_pieces(index)
                marks[pieces.start : pieces.stop] = b"\1" * len(pieces)
    trusted = Bitfield(metainfo.piece_count)
    doubtful: list[int] = []
    for index in range(metainfo.piece_count):
        if absent[index]:
            continue
        recorded = data is not None and index in data.pieces
        if data is None or suspect[index] or (written[index] and not recorded):
            doubtful.append(index)
        elif recorded:
            trusted.add(index)
    return trusted, doubtful


def _suspects(
    data: ResumeData | None, metainfo: Metainfo, files_on_disk: Sequence[FileState | None]
) -> tuple[list[bool], list[bool]]:
    """For each file whether it changed since the save, and whether it may have been written around it unnoticed."""
    if data is None:
        return [False] * len(metainfo.files), [False] * len(metainfo.files)
    settled_ns = int((data.saved_at - SETTLED) * 1e9)
    ours = [
        not data.clean and _written_since(now, then, data.saved_at)
        for now, then in zip(files_on_disk, data.files, strict=True)
    ]
    changed = [now != then and not written for now, then, written in zip(files_on_disk, data.files, ours, strict=True)]
    settling = [
        written or (not data.clean and state is not None and state.mtime_ns > settled_ns)
        for state, written in zip(data.files, ours, strict=True)
    ]
    return changed, settling


def _written_since(now: FileState | None, then: FileState | None, saved_at: float) -> bool:
    """Whether a file differs from what was saved by nothing but what we wrote between the save and a crash."""
    if now is None or then is None or now == then:
        return False
    return now.size >= then.size and then.mtime_ns < now.mtime_ns <= (saved_at + WRITTEN_AFTER) * 1e9


def encode_resume(info_hash: bytes, data: ResumeData) -> bytes:
    """The content of the file: a bencoded dictionary, see `decode_resume_untrusted`."""
    fields: dict[bytes, Encodable] = {
        b"version": VERSION,
        b"info-hash": info_hash,
        b"directory": os.fsencode(data.directory),
        b"pieces": bytes(data.pieces),
        b"files": b"".join(_ABSENT if state is None else _FILE_STATE.pack(*state) for state in data.files),
        b"clean": int(data.clean),
        b"saved": _microseconds(data.saved_at),
        b"added": _microseconds(data.added_at),
        b"downloaded": data.downloaded,
        b"uploaded": data.uploaded,
        b"priorities": data.priorities,
        b"peers": [str(peer).encode() for peer in data.peers[:MAX_PEERS]],
    }
    if data.completed_at is not None:
        fields[b"completed"] = _microseconds(data.completed_at)
    return encode(fields)


def decode_resume_untrusted(content: bytes, metainfo: Metainfo) -> ResumeData:
    """Parse what `encode_resume` wrote for this torrent; RemoteProtocolError for anything else.

    Keys: ``version`` (1), ``info-hash``, ``directory`` (as the file system spells it), ``pieces`` (the wire form of
    BEP 3), ``files`` (per file size and mtime in nanoseconds, 8 bytes each, big-endian; size -1 for absent), ``clean``
    (0, 1), ``saved``, ``added``, ``completed`` (microseconds since the epoch; the last one may be missing),
    ``downloaded``, ``uploaded`` (bytes), ``priorities`` (empty or a byte per file), ``peers`` (strings ``HOST:PORT``).
    """
    if len(content) > MAX_FILE_SIZE:
        raise _damaged("it is too large")
    try:
        value = decode_untrusted(content)
    except BencodeError as error:
        raise _damaged(str(error)) from None
    if not isinstance(value, dict):
        raise _damaged("not a dictionary")
    fields = _Fields(value)
    if fields.number(b"version", maximum=1 << 62) != VERSION:
        raise _damaged("another version wrote it")
    if fields.string(b"info-hash") != metainfo.info_hash:
        raise _damaged("it is of another torrent")
    return ResumeData(
        directory=_directory(fields.string(b"directory")),
        pieces=Bitfield.from_bytes_untrusted(fields.string(b"pieces"), metainfo.piece_count),
        files=_file_states(fields.string(b"files"), len(metainfo.files)),
        clean=bool(fields.number(b"clean", maximum=1)),
        saved_at=fields.number(b"saved") / 1e6,
        added_at=fields.number(b"added") / 1e6,
        completed_at=fields.number(b"completed") / 1e6 if b"completed" in value else None,
        downloaded=fields.number(b"downloaded"),
        uploaded=fields.number(b"uploaded"),
        priorities=_priorities(fields.string(b"priorities"), len(metainfo.files)),
        peers=_peers(value.get(b"peers")),
    )


class _Fields:
    """Typed access to a decoded dictionary."""

    def __init__(self, values: dict[bytes, Value]) -> None:
        self._values = values

    def number(self, key: bytes, *, maximum: int = 1 << 62) -> int:
        value = self._values.get(key)
        if not isinstance(value, int) or not 0 <= value <= maximum:
            raise _damaged(f"no valid {key.decode()}")
        return value

    def string(self, key: bytes) -> bytes:
        value = self._values.get(key)
        if not isinstance(value, bytes):
            raise _damaged(f"no valid {key.decode()}")
        return value


def _directory(name: bytes) -> Path:
    if not name or b"\0" in name:
        raise _damaged("no valid directory")
    return Path(os.fsdecode(name))


def _file_states(packed: bytes, count: int) -> tuple[FileState | None, ...]:
    if len(packed) != count * _FILE_STATE.size:
        raise _damaged(f"no valid states of {count} files")
    return tuple(None if size < 0 else FileState(size, mtime) for size, mtime in _FILE_STATE.iter_unpack(packed))


def _priorities(priorities: bytes, count: int) -> bytes:
    if priorities and (len(priorities) != count or max(priorities) > 7):
        raise _damaged(f"no valid priorities of {count} files")
    return priorities


def _peers(texts: Value | None) -> tuple[Endpoint, ...]:
    if not isinstance(texts, list) or len(texts) > MAX_PEERS:
        raise _damaged("no valid peers")
    try:
        return tuple(parse_endpoint(_text(text)) for text in texts)
    except ValueError:
        raise _damaged("no valid peers") from None


def _text(value: Value) -> str:
    if not isinstance(value, bytes):
        raise _damaged("no valid peers")
    return value.decode("ascii")


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)


def _damaged(why: str) -> RemoteProtocolError:
    return RemoteProtocolError("bad-resume", why)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
