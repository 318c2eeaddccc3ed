"""`Changes`: a state of rows in tables, and what of it is new since a version.

What the feed of the page is made of.  A reader needs no queue: whoever has not read for a while asks for what is new
since the version that it has, and gets each row that changed once, as it is now.  Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

State = Mapping[str, Mapping[str, Any]]
"""Tables by name, of rows by key.  A row is a JSON value, replaced whole, and never None."""

MAX_GONE = 4096
"""Rows remembered that are gone.  Beyond it the oldest are forgotten, and a reader who has not heard of them gets
everything anew."""


class Patch(NamedTuple):
    """What leads from one version to the next."""

    version: int
    full: bool
    """Whether ``tables`` is the whole state, so that what the reader had before does not count."""
    tables: dict[str, dict[str, Any]]
    """Changed rows; None for one that is gone."""


class _Key(NamedTuple):
    table: str
    row: str


class Changes:
    """Version 0 is the empty state, and what a new reader has."""

    def __init__(self) -> None:
        self.version = 0
        self._state: State = {}
        self._changed: dict[_Key, int] = {}  # the version in which a row changed, the latest last; gone ones included
        self._gone = 0
        self._forgotten = 0  # readers of an older version may have rows that are gone

    def update(self, state: State) -> None:
        """``state`` is how things stand now; a new version, if that is not how they stood.  ``state`` is kept."""
        before, self._state = self._state, state
        changed = [
            _Key(table, row)
            for table, rows in state.items()
            for row, value in rows.items()
            if before.get(table, {}).get(row) != value
        ]
        gone = [_Key(table, row) for table, rows in before.items() for row in rows if row not in state.get(table, {})]
        if not changed and not gone:
            return
        self.version += 1
        for key in (*changed, *gone):
            self._changed.pop(key, None)
            self._changed[key] = self.version
        self._forget()

    def since(self, version: int) -> Patch:
        """What a reader who has ``version`` does not know; no tables if there is nothing."""
        if version < max(1, self._forgotten):
            return Patch(self.version, True, {table: dict(rows) for table, rows in self._state.items()})
        tables: dict[str, dict[str, Any]] = {}
        for key, changed in reversed(self._changed.items()):
            if changed <= version:
                break
            tables.setdefault(key.table, {})[key.row] = self._state.get(key.table, {}).get(key.row)
        return Patch(self.version, False, tables)

    def _forget(self) -> None:
        """Of rows that are gone, all but the MAX_GONE latest; looked at only when there must be twice as many."""
        rows = sum(map(len, self._state.values()))
        if len(self._changed) - rows <= 2 * MAX_GONE:
            return
        gone = [key for key in self._changed if key.row not in self._state.get(key.table, {})]
        for key in gone[:-MAX_GONE]:
            self._forgotten = self._changed.pop(key)
