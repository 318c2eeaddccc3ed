"""What the daemon logs: rare facts, one a line, as text or as JSON; with ``verbose`` also the other events.

Of those no more than a person could read: DEBUG_LINES in DEBUG_SECONDS, with a word about the rest.  Pieces have no
line of their own: statistics count them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TextIO

import trio

from swarm.cli.units import printable
from swarm.events import (
    Event,
    NetworkLost,
    NetworkRestored,
    PieceVerified,
    PortBound,
    StorageFailed,
    TorrentAdded,
    TorrentChecked,
    TorrentCompleted,
    Warned,
)

EVENTS_WAITING = 10_000

DEBUG_LINES, DEBUG_SECONDS = 100, 10.0
"""Lines that ``verbose`` adds in so many seconds at most: a swarm of thousands of peers has thousands of events."""


class Named(Protocol):
    """A torrent."""

    @property
    def name(self) -> str: ...


class Telling(Protocol):
    """A node."""

    @property
    def torrents(self) -> Mapping[bytes, Named]: ...
    def events(self, capacity: int) -> AbstractAsyncContextManager[AsyncIterator[tuple[float, Event]]]: ...


class Log:
    """Lines on ``stream``."""

    def __init__(self, stream: TextIO, *, as_json: bool, verbose: bool) -> None:
        self._stream = stream
        self._as_json = as_json
        self._verbose = verbose
        self._window_ends = 0.0
        self._debug_lines = 0  # in this window; those beyond DEBUG_LINES are not written

    def say(self, level: str, message: str, fields: Mapping[str, Any] | None = None) -> None:
        """One line."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if self._as_json:
            line = json.dumps(
                {"time": now, "level": level, "message": message} | ({"fields": fields} if fields else {}),
                default=_plain,
            )
        else:
            line = f"{now} {level}: {printable(message)}"
        self._write(line)

    def statistics(self, document: str) -> None:
        """The statistics document that a signal asked for."""
        self._write(json.dumps(json.loads(document)) if self._as_json else document)

    def _write(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except OSError:  # the disk of the log is full, or its reader gone: the torrents go on
            return

    @asynccontextmanager
    async def of(self, node: Telling) -> AsyncIterator[None]:
        """Log what happens to ``node`` while the block runs."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._follow, node)
            yield
            nursery.cancel_scope.cancel()

    async def _follow(self, node: Telling, *, task_status: trio.TaskStatus[None]) -> None:
        async with node.events(EVENTS_WAITING) as events:
            task_status.started()
            async for at, event in events:
                self._event(node, at, event)

    def _event(self, node: Telling, at: float, event: Event) -> None:
        fields = {each.name: getattr(event, each.name) for each in dataclasses.fields(event)}
        kind = type(event).__name__
        told = _sentence(node, event)
        if told is not None:
            self.say(*told, {"event": kind, **fields})
        elif self._verbose and not isinstance(event, PieceVerified) and self._has_room(at):
            values = ", ".join(f"{name}={_plain(value)}" for name, value in fields.items())
            self.say("debug", f"{kind} {values}", {"event": kind, **fields})

    def _has_room(self, at: float) -> bool:
        """Whether one more line of ``verbose`` can be borne."""
        if at >= self._window_ends:
            if self._debug_lines > DEBUG_LINES:
                self.say("debug", f"{self._debug_lines - DEBUG_LINES} more events are left out here")
            self._window_ends, self._debug_lines = at + DEBUG_SECONDS, 0
        self._debug_lines += 1
        return self._debug_lines <= DEBUG_LINES


def _sentence(node: Telling, event: Event) -> tuple[str, str] | None:
    match event:
        case Warned():
            return "warning", f"{_named(node, event.info_hash)}{event.message}"
        case StorageFailed():
            return "error", f"{_named(node, event.info_hash)}stopped: {event.message}"
        case TorrentAdded():
            return "info", f"started {event.name} ({event.info_hash.hex()})"
        case TorrentChecked():
            return "info", f"{_named(node, event.info_hash)}{event.verified} of {event.pieces} pieces are there"
        case TorrentCompleted():
            return "info", f"{_named(node, event.info_hash)}complete"
        case PortBound():
            return "info", f"listening on {event.transport} {event.local}"
        case NetworkLost() | NetworkRestored():
            return "warning", f"{event.bind} is {'gone' if isinstance(event, NetworkLost) else 'back'}"
    return None


def _named(node: Telling, info_hash: bytes | None) -> str:
    if info_hash is None:
        return ""
    torrent = node.torrents.get(info_hash)
    return f"{torrent.name if torrent is not None else info_hash.hex()}: "


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    return str(value) if not isinstance(value, (int, float, str, Path)) else value
