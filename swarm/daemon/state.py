"""What the daemon keeps on disk: its torrents, what is wished of each, what was counted, and the order of the queue.

    DIRECTORY/lock                    held while a daemon runs
    DIRECTORY/session.json            options that were changed at run time, sums, the order of the queue
    DIRECTORY/counters.json           what was counted of every torrent
    DIRECTORY/torrents/HASH.torrent   as it was added (or HASH.magnet, until peers have sent the metadata)
    DIRECTORY/torrents/HASH.json      where its files are, and what is wished of it

A torrent is there if, and only if, its .torrent or .magnet is: that is written last and removed first.  Every file is
replaced atomically.  What is damaged costs one warning: it is set aside as ``*.damaged``, and the rest is read.
Which pieces are there is not kept here but in the resume files (`swarm.torrent.resume`).  Synchronous; runs in threads.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from swarm.daemon.documents import (
    VERSION,
    DamagedError,
    KeptEntry,
    KeptSession,
    entry_document,
    read_counters,
    read_entry,
    read_session,
)
from swarm.daemon.entry import Times
from swarm.errors import MetainfoError, StorageError, SwarmError
from swarm.torrent.magnet import Magnet, format_magnet, parse_magnet
from swarm.torrent.metainfo import MAX_TORRENT_SIZE, Metainfo, encode_torrent, parse_torrent_untrusted

MAX_JSON = 16 << 20
"""Bytes read of a file of ours; the wishes of a million files take less."""

Warn = Callable[[str], object]


class AlreadyRunningError(SwarmError):
    """Another daemon has the state directory."""


class StateDirectory:
    """The files beneath ``directory``.  StorageError for what cannot be written or, where it is ours alone, read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._torrents = directory / "torrents"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other daemon out; AlreadyRunningError if one is in."""
        path = self.directory / "lock"
        try:
            self.directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            for directory in (self.directory, self._torrents):  # they tell what we share, by trackers that know us
                directory.mkdir(exist_ok=True, mode=0o700)
            file = open(path, "ab+")  # noqa: SIM115 (closed below, once it is locked)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                number = file.read(20).decode("ascii", "replace").strip()
                process = f" (process {number})" if number.isdecimal() else ""
                raise AlreadyRunningError(
                    f"another daemon{process} is using {self.directory}; "
                    "a second one needs a state directory of its own: set XDG_STATE_HOME"
                ) from None
            file.truncate(0)
            file.write(b"%d\n" % os.getpid())
            file.flush()
            yield

    # -- torrents ---------------------------------------------------------------------------------------------------

    def source_file(self, source: Metainfo | Magnet) -> Path:
        """Where a torrent is kept."""
        return self._torrents / f"{source.info_hash.hex()}.{'magnet' if isinstance(source, Magnet) else 'torrent'}"

    def load(self, default_directory: Path, now: float, warn: Warn) -> list[KeptEntry]:
        """Every torrent; ``warn`` is told a sentence for each that is damaged."""
        try:
            names = sorted(os.listdir(self._torrents), reverse=True)  # a .torrent before the .magnet that led to it
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"cannot read {self._torrents}: {error.strerror}") from error
        entries: dict[str, KeptEntry] = {}
        damaged: set[str] = set()
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix in (".torrent", ".magnet") and stem not in entries:
                try:
                    entries[stem] = self._load_entry(name, stem, default_directory, now, warn)
                except DamagedError as damage:
                    set_aside = _set_aside(self._torrents / name)
                    warn(f"{self._torrents / name} is damaged{set_aside}: {damage}; add the torrent again")
                    damaged.add(stem)
        for stem in damaged - entries.keys():
            _set_aside(self._torrents / f"{stem}.json")  # it tells where the data is
        self._sweep(names, entries)
        self._load_counters(entries, warn)
        return list(entries.values())

    def _load_entry(self, name: str, stem: str, default_directory: Path, now: float, warn: Warn) -> KeptEntry:
        source = _read_source(self._torrents / name)
        if source.info_hash.hex() != stem:
            raise DamagedError("it is another torrent than its name says")
        path = self._torrents / f"{stem}.json"
        try:
            return read_entry(source, _read_json(path))
        except (DamagedError, FileNotFoundError):
            if path.exists():
                _set_aside(path)
            warn(
                f"{path} is damaged or gone, and what it said of {source.name or stem} is lost: the torrent is "
                f"stopped, its data expected in {default_directory}"
            )
            kept = KeptEntry(source=source, directory=default_directory, times=Times(added_at=now), paused=True)
            with suppress(StorageError):  # else it is told again
                self.save_entry(source.info_hash, entry_document(kept))
            return kept

    def _load_counters(self, entries: Mapping[str, KeptEntry], warn: Warn) -> None:
        path = self.directory / "counters.json"
        try:
            counters = read_counters(_read_json(path))
        except FileNotFoundError:
            return
        except DamagedError as damage:
            set_aside = _set_aside(path)
            warn(f"{path} is damaged{set_aside}: {damage}; what was sent and received so far counts from 0 again")
            return
        for stem, each in counters.items():
            if stem in entries:
                entries[stem].counters = each

    def save_counters(self, counters: Mapping[bytes, Mapping[str, Any]]) -> None:
        """Keep the counters of all torrents, each as `dataclasses.asdict` gives them, by info-hash."""
        torrents = {info_hash.hex(): values for info_hash, values in counters.items()}
        self._write(self.directory / "counters.json", _as_json({"version": VERSION, "torrents": torrents}, indent=None))

    def save_source(self, source: Metainfo | Magnet) -> None:
        """Keep the torrent itself; with this it is there.  Its metadata replaces the link."""
        path = self.source_file(source)
        if isinstance(source, Magnet):
            self._write(path, format_magnet(source).encode() + b"\n")
            return
        self._write(path, encode_torrent(source))
        self._unlink(f"{path.stem}.magnet")

    def save_entry(self, info_hash: bytes, document: Mapping[str, Any]) -> None:
        """Keep what `entry_document` made."""
        self._write(self._torrents / f"{info_hash.hex()}.json", _as_json(document))

    def forget(self, info_hash: bytes) -> None:
        """The torrent is removed."""
        for suffix in (".torrent", ".magnet", ".json"):
            self._unlink(f"{info_hash.hex()}{suffix}")

    # -- the session ------------------------------------------------------------------------------------------------

    def load_session(self, warn: Warn) -> KeptSession:
        """What was kept of the session; with a warning a fresh one if that is damaged."""
        path = self.directory / "session.json"
        try:
            return read_session(_read_json(path))
        except FileNotFoundError:
            return KeptSession()
        except DamagedError as damage:
            set_aside = _set_aside(path)
            warn(f"{path} is damaged{set_aside}: {damage}; options changed at run time and the queue's order are lost")
            return KeptSession()

    def save_session(self, kept: KeptSession) -> None:
        document = asdict(kept) | {"version": VERSION, "order": [info_hash.hex() for info_hash in kept.order]}
        self._write(self.directory / "session.json", _as_json(document))

    # -- files ------------------------------------------------------------------------------------------------------

    def _write(self, path: Path, content: bytes) -> None:
        """Replace the file at once and durably."""
        fresh = path.with_name(path.name + ".new")
        try:
            with open(fresh, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, path)
        except OSError as error:
            raise StorageError(f"cannot save {path}: {error.strerror}") from error

    def _unlink(self, name: str) -> None:
        path = self._torrents / name
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot remove {path}: {error.strerror}") from error

    def _sweep(self, names: list[str], entries: Mapping[str, KeptEntry]) -> None:
        """Remove what a crash between two writes has left."""
        for name in names:
            stem, suffix = os.path.splitext(name)
            superseded = suffix == ".magnet" and f"{stem}.torrent" in names
            if superseded or suffix == ".new" or (suffix == ".json" and stem not in entries):
                with suppress(StorageError):  # it is in nobody's way
                    self._unlink(name)


def _set_aside(path: Path) -> str:
    """How to say that it was."""
    try:
        os.replace(path, path.with_name(f"{path.name}.damaged"))
    except OSError as error:
        return f" and cannot be set aside ({error.strerror})"
    return " and set aside"


def _read_source(path: Path) -> Metainfo | Magnet:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_TORRENT_SIZE + 1)
        if path.suffix == ".magnet":
            return parse_magnet(data.decode("utf-8", "replace"))
        return parse_torrent_untrusted(data)
    except OSError as error:
        raise DamagedError(f"it cannot be read: {error.strerror}") from None
    except MetainfoError as error:
        raise DamagedError(str(error)) from None


def _read_json(path: Path) -> dict[str, Any]:
    """FileNotFoundError only where it is; DamagedError for everything else."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_JSON + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedError(f"it cannot be read: {error.strerror}") from None
    if len(data) > MAX_JSON:
        raise DamagedError("too large")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise DamagedError("no JSON") from None
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise DamagedError("written by another version")
    return document


def _as_json(document: Mapping[str, Any], *, indent: int | None = 1) -> bytes:
    """ASCII, so that a directory whose name is no UTF-8 comes back as it was."""
    return json.dumps(document, indent=indent, default=os.fspath).encode("ascii") + b"\n"
