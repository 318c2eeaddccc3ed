"""Transmission's methods on torrents that are there: get, set, start, stop, verify, remove, move, the queue.

``ids`` is an id, an info-hash, a list of both, "recently-active", or absent for all.  An empty list means none, as in
Transmission's code, whatever its specification says.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import trio

from swarm.daemon.entry import Entry, LimitMode
from swarm.daemon.rpc_arguments import Arguments, RpcError
from swarm.daemon.rpc_fields import FIELDS, KILO, TorrentView
from swarm.daemon.rpc_trackers import parse_tracker_list, with_changes
from swarm.daemon.session import Session, Where

RECENTLY = 60.0
"""Seconds."""

PAUSE_EVERY = 50
"""Torrents told of before others have their turn: a thousand with all fields take long."""

MAX_LABELS, MAX_LABEL = 100, 200
"""Of one torrent, and characters of each."""

MAX_IDS = 100_000
"""In one call: they are looked up while everything else waits."""

MAX_PEERS = 65_535
MAX_MINUTES = 65_535
MAX_KILOBYTES = 1 << 32

MODES: Sequence[LimitMode] = ("session", "own", "none")


class TorrentMethods:
    """What the calls do to ``session``."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._recent = _Recent()
        self.methods: dict[str, Callable[[Arguments], Awaitable[Mapping[str, Any]]]] = {
            "torrent-get": self.get,
            "torrent-set": self.set,
            "torrent-start": self._each(session.start),
            "torrent-start-now": self._each(lambda entry: session.start(entry, now=True)),
            "torrent-stop": self._each(session.stop),
            "torrent-verify": self._each(session.verify),
            "torrent-reannounce": self._each(session.reannounce),
            "torrent-remove": self.remove,
            "torrent-set-location": self.set_location,
            "torrent-rename-path": self.rename_path,
            "queue-move-top": self._queue("top"),
            "queue-move-up": self._queue("up"),
            "queue-move-down": self._queue("down"),
            "queue-move-bottom": self._queue("bottom"),
        }

    # -- whom ---------------------------------------------------------------------------------------------------------

    def _entries(self, arguments: Arguments) -> list[Entry]:
        """Unknown ids are passed over."""
        session, ids = self._session, arguments.get("ids")
        match ids:
            case None:
                return list(session.entries.values())
            case "recently-active":
                return self._recent.among(session.entries.values(), time.time())
            case int() | str():
                ids = [ids]
            case list():
                pass
            case _:
                raise RpcError("ids: an integer, a string or a list of both is expected")
        if len(ids) > MAX_IDS:
            raise RpcError(f"ids: at most {MAX_IDS} are looked up")
        if not all(isinstance(key, int | str) and not isinstance(key, bool) for key in ids):
            raise RpcError("ids: a list of integers and info-hashes is expected")
        found = (session.find(key) for key in ids)
        return list(dict.fromkeys(entry for entry in found if entry is not None))

    def _each(self, act: Callable[[Entry], Awaitable[None]]) -> Callable[[Arguments], Awaitable[Mapping[str, Any]]]:
        async def method(arguments: Arguments) -> Mapping[str, Any]:
            for entry in sorted(self._entries(arguments), key=lambda entry: entry.queue_position):
                await act(entry)
            return {}

        return method

    def _queue(self, where: Where) -> Callable[[Arguments], Awaitable[Mapping[str, Any]]]:
        async def method(arguments: Arguments) -> Mapping[str, Any]:
            await self._session.queue_move(self._entries(arguments), where)
            return {}

        return method

    # -- methods ------------------------------------------------------------------------------------------------------

    async def get(self, arguments: Arguments) -> Mapping[str, Any]:
        entries = self._entries(arguments)
        answer: dict[str, Any] = {}
        if arguments.get("ids") == "recently-active":
            cutoff = time.time() - RECENTLY
            answer["removed"] = [number for number, removed_at in self._session.removed if removed_at >= cutoff]
        names = arguments.array("fields")
        if names is None:
            raise RpcError("no fields specified", {"torrents": [], **answer})
        known = [name for name in dict.fromkeys(map(_hashable, names)) if name in FIELDS]
        rows = await self._rows(entries, known)
        if arguments.get("format") == "table":
            return {"torrents": [known, *rows], **answer}
        return {"torrents": [dict(zip(known, row, strict=True)) for row in rows], **answer}

    async def _rows(self, entries: Iterable[Entry], names: Sequence[str]) -> list[list[Any]]:
        fields = [FIELDS[name] for name in names]
        rows = []
        for number, entry in enumerate(entries, 1):
            if entry.id in self._session.entries:  # not removed while others had their turn
                view = TorrentView(entry, self._session, time.time(), trio.current_time())
                rows.append([field(view) for field in fields])
            if number % PAUSE_EVERY == 0:
                await trio.lowlevel.checkpoint()
        return rows

    async def set(self, arguments: Arguments) -> Mapping[str, Any]:
        """What is wrong for one torrent leaves those before it changed, as with Transmission."""
        wishes, position = read_wishes(arguments), arguments.integer("queuePosition", 0)
        for entry in self._entries(arguments):
            changes = {**wishes, **files_wished(arguments, entry), **_trackers_wished(arguments, entry)}
            if changes:
                await self._session.change(entry, **changes)
            if position is not None:
                await self._session.queue_place(entry, position)
        return {}

    async def remove(self, arguments: Arguments) -> Mapping[str, Any]:
        delete = arguments.flag("delete-local-data") or False
        for entry in self._entries(arguments):
            await self._session.remove(entry, delete_data=delete)
        return {}

    async def set_location(self, arguments: Arguments) -> Mapping[str, Any]:
        location, move = arguments.path("location"), arguments.flag("move") or False
        if location is None:
            raise RpcError("no location")
        if not location.is_absolute():
            raise RpcError("new location path is not absolute")
        for entry in self._entries(arguments):
            await self._session.set_location(entry, location, move=move)
        return {}

    async def rename_path(self, arguments: Arguments) -> Mapping[str, Any]:
        """Refused: files are called what the torrent calls them."""
        entries = self._entries(arguments)
        if len(entries) != 1:
            raise RpcError("torrent-rename-path requires 1 torrent")
        told = {"id": entries[0].id, "path": arguments.text("path") or "", "name": arguments.text("name") or ""}
        raise RpcError("files cannot be renamed here: they are called what the torrent calls them", told)


class _Recent:
    """What has changed lately, beside what the entries tell: their status, which has no time of its own."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[object, float]] = {}

    def among(self, entries: Iterable[Entry], wall: float) -> list[Entry]:
        """Those that something happened to in the last RECENTLY seconds, or since they were last looked at."""
        seen: dict[int, tuple[object, float]] = {}
        recent = []
        for entry in entries:
            state = (entry.status, entry.error, entry.checking, entry.queue_position)
            before, changed_at = self._seen.get(entry.id, (None, 0.0))
            seen[entry.id] = (state, changed_at if before == state else wall)
            times = (entry.activity_at, entry.added_at, entry.done_at, entry.started_at, entry.edited_at)
            if max(seen[entry.id][1], *(at or 0.0 for at in times)) >= wall - RECENTLY:
                recent.append(entry)
        self._seen = seen
        return recent


def read_wishes(arguments: Arguments) -> dict[str, Any]:
    """What ``torrent-set`` and ``torrent-add`` say that is the same for every torrent, by the names in `Wishes`."""
    if arguments.text("group"):
        raise RpcError("there are no bandwidth groups here")
    wishes: dict[str, Any] = {
        "labels": _labels(arguments),
        "bandwidth_priority": arguments.integer("bandwidthPriority", -1, 1),
        "peer_limit": arguments.integer("peer-limit", 0, MAX_PEERS),
        "download_rate": _times(arguments.integer("downloadLimit", 0, MAX_KILOBYTES), KILO),
        "download_limited": arguments.flag("downloadLimited"),
        "upload_rate": _times(arguments.integer("uploadLimit", 0, MAX_KILOBYTES), KILO),
        "upload_limited": arguments.flag("uploadLimited"),
        "honours_session_limits": arguments.flag("honorsSessionLimits"),
        "idle": _times(arguments.integer("seedIdleLimit", 0, MAX_MINUTES), 60.0),
        "idle_mode": _mode(arguments, "seedIdleMode"),
        "ratio": arguments.number("seedRatioLimit"),
        "ratio_mode": _mode(arguments, "seedRatioMode"),
    }
    return {name: value for name, value in wishes.items() if value is not None}


def files_wished(arguments: Arguments, entry: Entry) -> dict[str, Any]:
    """Which files to fetch, and in what order; an empty list stands for all files."""
    count = len(entry.metainfo.files) if entry.metainfo is not None else 0
    wishes = entry.wishes
    unwanted, high, low = set(wishes.unwanted), set(wishes.high), set(wishes.low)
    if (indices := _files(arguments, "files-unwanted", count)) is not None:
        unwanted |= indices
    if (indices := _files(arguments, "files-wanted", count)) is not None:
        unwanted -= indices
    for name, joined, left in (
        ("priority-high", (high,), (low,)),
        ("priority-low", (low,), (high,)),
        ("priority-normal", (), (high, low)),
    ):
        if (indices := _files(arguments, name, count)) is not None:
            for files in joined:
                files |= indices
            for files in left:
                files -= indices
    changes = {"unwanted": frozenset(unwanted), "high": frozenset(high), "low": frozenset(low)}
    return {name: files for name, files in changes.items() if files != getattr(wishes, name)}


def _files(arguments: Arguments, name: str, count: int) -> set[int] | None:
    indices = arguments.integers(name)
    if indices is None:
        return None
    if not all(0 <= index < count for index in indices):
        raise RpcError("file index out of range")
    return set(indices or range(count))


def _trackers_wished(arguments: Arguments, entry: Entry) -> dict[str, Any]:
    tiers = entry.trackers
    add, remove = arguments.texts("trackerAdd"), arguments.integers("trackerRemove")
    replace = arguments.array("trackerReplace")
    if add or remove or replace:
        tiers = with_changes(tiers, add or (), remove or (), replace or ())
    if (text := arguments.text("trackerList")) is not None:
        tiers = parse_tracker_list(text)
    return {"trackers": tiers} if tiers != entry.trackers else {}


def _labels(arguments: Arguments) -> tuple[str, ...] | None:
    labels = arguments.texts("labels")
    if labels is None:
        return None
    stripped = tuple(dict.fromkeys(label.strip() for label in labels))
    if "" in stripped:
        raise RpcError("labels cannot be empty")
    if any("," in label for label in stripped):
        raise RpcError("labels cannot contain comma (,) character")
    if len(stripped) > MAX_LABELS or any(len(label) > MAX_LABEL for label in stripped):
        raise RpcError(f"labels: at most {MAX_LABELS}, of {MAX_LABEL} characters each")
    return stripped


def _mode(arguments: Arguments, name: str) -> LimitMode | None:
    number = arguments.integer(name, 0, 2)
    return None if number is None else MODES[number]


def _times(value: int | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _hashable(name: object) -> str:
    return name if isinstance(name, str) else ""
