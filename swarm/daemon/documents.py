"""What the daemon's files of JSON say, and how it is read: every value checked, by hand, to its type.  Pure.

Files and their names are `swarm.daemon.state`'s.  What is not as we write it raises `DamagedError`; names that another
version knew are passed over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from swarm.daemon.entry import Counters, LimitMode, Times, Wishes
from swarm.daemon.options import Options
from swarm.daemon.wanted import check
from swarm.errors import UsageError
from swarm.torrent.magnet import Magnet
from swarm.torrent.metainfo import Metainfo

VERSION = 1

MAX_COUNT = 1 << 62
"""Of bytes, say: more is nothing that we have counted."""


class DamagedError(Exception):
    """A file is not what we have written; the argument says what is wrong with it."""


@dataclass(slots=True, kw_only=True)
class KeptEntry:
    """One torrent between runs."""

    source: Metainfo | Magnet
    directory: Path
    times: Times
    paused: bool = False
    finished: bool = False
    moving_to: Path | None = None
    """Where its files were on their way to when this was written."""
    wishes: Wishes = field(default_factory=Wishes)
    counters: Counters = field(default_factory=Counters)


@dataclass(slots=True, kw_only=True)
class KeptSession:
    """The daemon between runs.  ``options`` holds only what was changed at run time, by name."""

    options: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    """Options as the configuration said them then, those of which it said anything."""
    order: list[bytes] = field(default_factory=list)
    """Info-hashes, as they stand in the queue."""
    uploaded: int = 0
    downloaded: int = 0
    files_added: int = 0
    sessions: int = 0
    seconds_active: float = 0.0


def entry_document(kept: KeptEntry) -> dict[str, Any]:
    """Plain values for JSON; `read_entry` reads them back."""
    wishes = asdict(kept.wishes)
    wishes.update({name: sorted(value) for name, value in wishes.items() if isinstance(value, frozenset)})
    return {
        "version": VERSION,
        "name": kept.source.name,  # for people who look into the file
        "directory": os.fspath(kept.directory),
        "paused": kept.paused,
        "finished": kept.finished,
        "moving_to": None if kept.moving_to is None else os.fspath(kept.moving_to),
        "times": asdict(kept.times),
        "wishes": wishes,
    }


def read_entry(source: Metainfo | Magnet, document: Mapping[str, Any]) -> KeptEntry:
    """What is wished of ``source``; its counters are in another file."""
    wishes = _wishes(_typed(document, "wishes", dict))
    try:
        check(source, wishes)
    except UsageError as error:
        raise DamagedError(str(error)) from None
    return KeptEntry(
        source=source,
        directory=_path(document, "directory"),
        paused=_typed(document, "paused", bool),
        finished=_typed(document, "finished", bool),
        moving_to=None if document.get("moving_to") is None else _path(document, "moving_to"),
        times=_times(_typed(document, "times", dict)),
        wishes=wishes,
    )


def read_session(document: Mapping[str, Any]) -> KeptSession:
    """What was kept of the daemon itself."""
    order = _typed(document, "order", list)
    try:
        hashes = [bytes.fromhex(text) for text in order]
    except (TypeError, ValueError):
        raise DamagedError("no valid order") from None
    return KeptSession(
        options=_options(_typed(document, "options", dict)),
        given=_options(_typed({"given": {}} | dict(document), "given", dict)),
        order=hashes,
        uploaded=_count(document, "uploaded"),
        downloaded=_count(document, "downloaded"),
        files_added=_count(document, "files_added"),
        sessions=_count(document, "sessions"),
        seconds_active=_seconds(document, "seconds_active"),
    )


def _options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `Options` that were kept; what another version knew is passed over."""
    return {each.name: _READERS[str(each.type)](values, each.name) for each in fields(Options) if each.name in values}


def _times(values: Mapping[str, Any]) -> Times:
    optional = {
        name: None if values.get(name) is None else _seconds(values, name)
        for name in ("done_at", "started_at", "edited_at")
    }
    return Times(added_at=_seconds(values, "added_at"), **optional)


def read_counters(document: Mapping[str, Any]) -> dict[str, Counters]:
    """Those of every torrent, by its info-hash in hex."""
    torrents = _typed(document, "torrents", dict)
    return {stem: _counters(values) for stem, values in torrents.items() if isinstance(values, dict)}


def _counters(values: Mapping[str, Any]) -> Counters:
    return Counters(
        uploaded=_count(values, "uploaded"),
        downloaded=_count(values, "downloaded"),
        corrupt=_count(values, "corrupt"),
        seconds_downloading=_seconds(values, "seconds_downloading"),
        seconds_seeding=_seconds(values, "seconds_seeding"),
        activity_at=None if values.get("activity_at") is None else _seconds(values, "activity_at"),
    )


def _wishes(values: Mapping[str, Any]) -> Wishes:
    return Wishes(
        labels=tuple(_texts(values.get("labels"), "labels")),
        unwanted=_indices(values, "unwanted"),
        high=_indices(values, "high"),
        low=_indices(values, "low"),
        download_rate=_count(values, "download_rate"),
        download_limited=_typed(values, "download_limited", bool),
        upload_rate=_count(values, "upload_rate"),
        upload_limited=_typed(values, "upload_limited", bool),
        honours_session_limits=_typed(values, "honours_session_limits", bool),
        bandwidth_priority=max(-1, min(1, _typed(values, "bandwidth_priority", int))),
        peer_limit=None if values.get("peer_limit") is None else _count(values, "peer_limit"),
        ratio_mode=_mode(values, "ratio_mode"),
        ratio=_seconds(values, "ratio"),
        idle_mode=_mode(values, "idle_mode"),
        idle=_seconds(values, "idle"),
        trackers=_tiers(values.get("trackers")),
    )


def _tiers(value: object) -> tuple[tuple[str, ...], ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise DamagedError("no valid trackers")
    return tuple(tuple(_texts(tier, "trackers")) for tier in value)


def _texts(value: object, name: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise DamagedError(f"no valid {name}")
    return value


def _indices(values: Mapping[str, Any], name: str) -> frozenset[int]:
    value = _typed(values, name, list)
    if not all(isinstance(index, int) and index >= 0 for index in value):
        raise DamagedError(f"no valid {name}")
    return frozenset(value)


def _mode(values: Mapping[str, Any], name: str) -> LimitMode:
    value = values.get(name)
    for mode in get_args(LimitMode):
        if value == mode:
            known: LimitMode = mode
            return known
    raise DamagedError(f"no valid {name}")


def _count(values: Mapping[str, Any], name: str) -> int:
    value: int = _typed(values, name, int)
    if not 0 <= value <= MAX_COUNT:
        raise DamagedError(f"no valid {name}")
    return value


def _seconds(values: Mapping[str, Any], name: str) -> float:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e15:
        raise DamagedError(f"no valid {name}")
    return float(value)


def _path(values: Mapping[str, Any], name: str) -> Path:
    path = _typed(values, name, str)
    if not os.path.isabs(path) or "\0" in path:
        raise DamagedError(f"no valid {name}")
    return Path(path)


def _typed(values: Mapping[str, Any], name: str, kind: type) -> Any:
    value = values.get(name)
    if type(value) is not kind:
        raise DamagedError(f"no valid {name}")
    return value


_READERS: dict[str, Callable[[Mapping[str, Any], str], Any]] = {
    "bool": lambda values, name: _typed(values, name, bool),
    "int": _count,
    "float": _seconds,
    "Path": _path,
    "Tiers": lambda values, name: _tiers(values[name]) or (),
}
"""How an option is read, by its type."""
