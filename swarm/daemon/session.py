"""The daemon's torrents: kept on disk, started, stopped, verified, moved, removed, limited, and counted.

What is asked for is decided and written down at once; carrying it out may take longer, and `Entry.status` tells how far
it is.  A torrent that runs is a `Torrent` of the node; one that is stopped, or waits for its place in a queue, is an
`Entry` and nothing else.  What may run is `swarm.daemon.policy`, what is on disk `swarm.daemon.state`.
Speaks no protocol: `swarm.daemon.rpc` does.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import trio

from swarm.daemon.entry import Entry, Times, Wishes
from swarm.daemon.options import Options
from swarm.daemon.state import KeptEntry, KeptSession, StateDirectory
from swarm.endpoint import Endpoint
from swarm.errors import StorageError, SwarmError, UsageError
from swarm.node import Node
from swarm.torrent.disk import Runner, threads
from swarm.torrent.magnet import Magnet
from swarm.torrent.metainfo import Metainfo

TICK = 1.0
SAVE_COUNTERS = 60.0
"""Seconds between saves of what was counted: what a crash may lose."""

STARTS_AT_ONCE = 16
"""Torrents started before others have their turn."""

MAX_REMOVED = 1000
"""Removals remembered for those who ask what has changed."""

Where = Literal["top", "up", "down", "bottom"]


class AlreadyThere(SwarmError):
    """The torrent was added before; it is ``entry``."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(f"{entry.name} has been added already")
        self.entry = entry


@dataclass(frozen=True, slots=True)
class Sums:
    """Payload bytes; ``seconds_active`` is how long a daemon ran."""

    uploaded: int
    downloaded: int
    files_added: int
    sessions: int
    seconds_active: float


@dataclass(frozen=True, slots=True)
class Totals:
    """Of this run, and of all."""

    current: Sums
    cumulative: Sums


class Session:
    """All torrents of one daemon.  Made by `open_session`."""

    def __init__(
        self, node: Node, state: StateDirectory, options: Options, runner: Runner, nursery: trio.Nursery
    ) -> None:
        self.node = node
        self.options = options
        self.entries: dict[int, Entry] = {}
        """By id, ascending."""
        self.removed: deque[tuple[int, float]] = deque(maxlen=MAX_REMOVED)
        """Id and wall time, the latest last."""
        self.close_requested = trio.Event()
        self._state = state
        self._runner = runner
        self._nursery = nursery
        self._by_hash: dict[bytes, Entry] = {}
        self._order: list[Entry] = []
        self._next_id = 1
        self._leaving: dict[bytes, trio.Event] = {}  # removed torrents whose end is under way
        self._kept = KeptSession()
        self._opened_at = trio.current_time()
        self._uploaded = self._downloaded = self._files_added = 0
        self._saving = trio.Lock()

    # -- who is there -----------------------------------------------------------------------------------------------

    def find(self, key: int | str | bytes) -> Entry | None:
        """By id, by info-hash, or by that in 40 hex digits."""
        if isinstance(key, int):
            return self.entries.get(key)
        if isinstance(key, str):
            try:
                key = bytes.fromhex(key)
            except ValueError:
                return None
        return self._by_hash.get(key)

    @property
    def queue(self) -> Sequence[Entry]:
        """All, in the order in which they get their turn."""
        return self._order

    # -- adding and removing ----------------------------------------------------------------------------------------

    async def add(
        self,
        source: Metainfo | Magnet,
        *,
        directory: Path | None = None,
        paused: bool | None = None,
        wishes: Wishes | None = None,
        peers: Sequence[Endpoint] = (),
    ) -> Entry:
        """Take in a torrent, kept when this returns; its files are, or will be, beneath ``directory`` (absolute).

        Data that is there is verified and used.  Raises `AlreadyThere`, UsageError for wishes that cannot be, and
        StorageError if it cannot be kept.
        """
        while (leaving := self._leaving.get(source.info_hash)) is not None:
            await leaving.wait()
        if (known := self._by_hash.get(source.info_hash)) is not None:
            raise AlreadyThere(known)
        directory = self.options.download_dir if directory is None else directory
        if not directory.is_absolute():
            raise UsageError(f"{directory} is no absolute path")
        entry = self._entered(
            KeptEntry(
                source=source,
                directory=directory,
                times=Times(added_at=time.time()),
                paused=not self.options.start_added if paused is None else paused,
                wishes=_checked(source, Wishes() if wishes is None else wishes),
            )
        )
        entry.peers = tuple(peers)
        try:
            await self._save(entry)
            await self._runner(self._state.save_source, source)
        except StorageError:
            self._dropped(entry)
            raise
        self._files_added += 1
        await self._save_session()
        self._arrange()
        return entry

    async def remove(self, entry: Entry, *, delete_data: bool = False) -> None:
        """Forget a torrent, and with ``delete_data`` delete its files.

        It is gone from the list and from the disk's when this returns; leaving its swarm, and the deletion, follow.
        """
        if entry.id not in self.entries:
            return
        self._dropped(entry)
        self.removed.append((entry.id, time.time()))
        self._leaving[entry.info_hash] = gone = trio.Event()
        entry.paused, entry.allowed = True, False
        try:
            await self._runner(self._state.forget, entry.info_hash)
            await self._save_session()
        finally:
            self._nursery.start_soon(self._end, entry, delete_data, gone)

    def _entered(self, kept: KeptEntry) -> Entry:
        entry = Entry(
            self._next_id,
            kept.source,
            kept.directory,
            times=kept.times,
            wishes=kept.wishes,
            paused=kept.paused,
            counters=kept.counters,
        )
        entry.finished = kept.finished
        self._next_id += 1
        self.entries[entry.id] = self._by_hash[entry.info_hash] = entry
        entry.queue_position = len(self._order)
        self._order.append(entry)
        return entry

    def _dropped(self, entry: Entry) -> None:
        del self.entries[entry.id]
        del self._by_hash[entry.info_hash]
        self._order.remove(entry)
        self._renumber()

    async def _end(self, entry: Entry, delete_data: bool, gone: trio.Event) -> None:
        raise NotImplementedError

    # -- control ----------------------------------------------------------------------------------------------------

    async def start(self, entry: Entry, *, now: bool = False) -> None:
        """Run it, as soon as the queue allows, or ``now``."""

    async def stop(self, entry: Entry) -> None:
        """Stop it; trackers are told in the background."""

    async def verify(self, entry: Entry) -> None:
        """Compare all of its data with its hashes; it goes on afterwards if it ran before."""

    async def reannounce(self, entry: Entry) -> None:
        """Ask its sources for peers as soon as they allow."""

    async def set_location(self, entry: Entry, directory: Path, *, move: bool) -> None:
        """Its files are beneath ``directory`` from now on: moved there, or found there and verified."""

    async def change(self, entry: Entry, **wishes: Any) -> None:
        """Replace some of its `Wishes`, by name; they hold at once.  UsageError for what cannot be."""

    async def queue_move(self, entries: Iterable[Entry], where: Where) -> None:
        """Let them have their turn earlier or later."""

    async def queue_place(self, entry: Entry, position: int) -> None:
        """Put it at this position of the queue, counted from 0."""

    async def set_options(self, **changes: Any) -> None:
        """Replace some of the `Options`, by name; they hold at once and are kept."""

    def request_close(self) -> None:
        """Ask the daemon to end."""
        self.close_requested.set()

    def totals(self) -> Totals:
        raise NotImplementedError

    # -- kept on disk -----------------------------------------------------------------------------------------------

    def _arrange(self) -> None:
        pass

    def _renumber(self) -> None:
        for position, entry in enumerate(self._order):
            entry.queue_position = position

    async def _save(self, entry: Entry) -> None:
        pass

    async def _save_session(self) -> None:
        pass


@asynccontextmanager
async def open_session(
    node: Node,
    state_directory: Path,
    options: Options,
    *,
    given: Collection[str] = (),
    runner: Runner | None = None,
) -> AsyncIterator[Session]:
    """The torrents kept in ``state_directory``, running again on ``node``.

    ``options`` are those of the start; of these, what is not ``given`` explicitly, by name, gives way to what was
    changed at run time earlier.  Left, everything is saved; the node, which is closed later, says goodbye.
    """
    async with trio.open_nursery() as nursery:
        yield Session(node, StateDirectory(state_directory), options, runner or threads(), nursery)


def _checked(source: Metainfo | Magnet, wishes: Wishes) -> Wishes:
    return wishes
