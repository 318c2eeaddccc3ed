"""What the daemon logs: rare facts, one a line, as text or as JSON; with ``verbose`` every fact that is an event."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import trio

from swarm.cli.units import printable
from swarm.events import (
    Event,
    NetworkLost,
    NetworkRestored,
    PortBound,
    StorageFailed,
    TorrentAdded,
    TorrentChecked,
    TorrentCompleted,
    Warned,
)
from swarm.node import Node

EVENTS_WAITING = 10_000


class Log:
    """Lines on ``stream``."""

    def __init__(self, stream: TextIO, *, as_json: bool, verbose: bool) -> None:
        self._stream = stream
        self._as_json = as_json
        self._verbose = verbose

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
    async def of(self, node: Node) -> AsyncIterator[None]:
        """Log what happens to ``node`` while the block runs."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._follow, node)
            yield
            nursery.cancel_scope.cancel()

    async def _follow(self, node: Node, *, task_status: trio.TaskStatus[None]) -> None:
        async with node.events(EVENTS_WAITING) as events:
            task_status.started()
            async for _, event in events:
                self._event(node, event)

    def _event(self, node: Node, event: Event) -> None:
        fields = {each.name: getattr(event, each.name) for each in dataclasses.fields(event)}
        kind = type(event).__name__
        told = _sentence(node, event)
        if told is not None:
            self.say(*told, {"event": kind, **fields})
        elif self._verbose:
            values = ", ".join(f"{name}={_plain(value)}" for name, value in fields.items())
            self.say("debug", f"{kind} {values}", {"event": kind, **fields})


def _sentence(node: Node, event: Event) -> tuple[str, str] | None:
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


def _named(node: Node, info_hash: bytes | None) -> str:
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
