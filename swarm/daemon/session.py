"""The daemon's torrents as the user rules them: added, started, stopped, verified, moved, removed, limited.

What is asked for is decided and written down at once; carrying it out may take longer, and `Entry.status` tells how far
it is.  A torrent that runs is a `Torrent` of the node; one that is stopped, or waits for its place in a queue, is an
`Entry` and nothing else.  Who is there is `swarm.daemon.roster`, what runs `runs`, what is done to those that do not
`jobs`, what happens every second `rounds`, what is counted `tally`, and what is kept on disk `archive`.
Speaks no protocol: `swarm.daemon.rpc` does.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from swarm.daemon.archive import Archive, Found, find_all
from swarm.daemon.documents import KeptEntry, KeptSession
from swarm.daemon.entry import Entry, Times, Wishes
from swarm.daemon.jobs import Jobs
from swarm.daemon.options import Options
from swarm.daemon.policy import has_given_enough
from swarm.daemon.roster import Roster, Where
from swarm.daemon.rounds import Rounds
from swarm.daemon.runs import Runs
from swarm.daemon.state import StateDirectory
from swarm.daemon.tally import Sums, Tally, Totals
from swarm.daemon.wanted import check
from swarm.endpoint import Endpoint
from swarm.errors import StorageError, SwarmError, UsageError
from swarm.events import Warned
from swarm.node import Node, lone_exception
from swarm.torrent.disk import Runner, threads
from swarm.torrent.magnet import Magnet
from swarm.torrent.metainfo import Metainfo

__all__ = ["AlreadyThere", "Session", "Sums", "Totals", "Where", "open_session"]

MAX_REMOVED = 1000
"""Removals remembered for those who ask what has changed."""


class AlreadyThere(SwarmError):
    """The torrent was added before; it is ``entry``."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(f"{entry.name} has been added already")
        self.entry = entry


class Session:
    """All torrents of one daemon.  Made by `open_session`."""

    def __init__(
        self,
        node: Node,
        state: StateDirectory,
        options: Options,
        kept: KeptSession,
        runner: Runner,
        nursery: trio.Nursery,
    ) -> None:
        self.node = node
        self.state = state
        self.removed: deque[tuple[int, float]] = deque(maxlen=MAX_REMOVED)
        """Id and wall time, the latest last."""
        self.close_requested = trio.Event()
        self._nursery = nursery
        self._roster = Roster()
        self._tally = Tally(self._roster, kept)
        self._archive = Archive(state, resume_directory(node), kept, self._roster, self._tally, runner)
        self._runs = Runs(node, options, self._roster, self._tally, nursery)
        self._jobs = Jobs(self._runs, self._archive)
        self._rounds = Rounds(self._runs, self._archive, self._roster, self._tally)

    # -- who is there -----------------------------------------------------------------------------------------------

    @property
    def entries(self) -> Mapping[int, Entry]:
        """By id, ascending."""
        return self._roster.entries

    @property
    def queue(self) -> Sequence[Entry]:
        """All, in the order in which they get their turn."""
        return self._roster.queue

    @property
    def options(self) -> Options:
        """What holds for all; see `set_options`."""
        return self._runs.options

    def find(self, key: int | str | bytes) -> Entry | None:
        """By id, by info-hash, or by that in 40 hex digits."""
        return self._roster.find(key)

    def totals(self) -> Totals:
        """What was moved by all torrents, those that are gone included."""
        return self._tally.totals()

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
        await self._jobs.wait_left(source.info_hash)
        if (known := self._roster.find(source.info_hash)) is not None:
            raise AlreadyThere(known)
        directory = self.options.download_dir if directory is None else directory
        if not directory.is_absolute():
            raise UsageError(f"{directory} is no absolute path")
        wishes = Wishes() if wishes is None else wishes
        check(source, wishes)
        entry = self._roster.enter(
            KeptEntry(
                source=source,
                directory=directory,
                times=Times(added_at=time.time()),
                paused=not self.options.start_added if paused is None else paused,
                wishes=wishes,
            )
        )
        entry.peers = tuple(peers)
        try:
            await self._archive.save(entry)
            await self._archive.save_source(entry)
        except StorageError:
            if self._roster.holds(entry):
                self._roster.drop(entry)
            raise
        self._tally.files_added += 1
        self._runs.arrange(entry)
        return entry

    async def remove(self, entry: Entry, *, delete_data: bool = False) -> None:
        """Forget a torrent, and with ``delete_data`` delete its files.

        It is gone from the list and from the disk's when this returns; leaving its swarm, and the deletion, follow.
        """
        if entry.id not in self.entries:
            return
        self._roster.drop(entry)
        self.removed.append((entry.id, time.time()))
        self._jobs.leave(entry)
        entry.paused, entry.allowed = True, False
        self._nursery.start_soon(self._jobs.remove, entry, delete_data)
        self._runs.arrange(entry)
        await self._archive.forget(entry.info_hash)

    # -- control ----------------------------------------------------------------------------------------------------

    async def start(self, entry: Entry, *, now: bool = False) -> None:
        """Run it, as soon as the queue allows, or ``now``.

        One that has reached its ratio is shared without that limit from now on, as with Transmission: otherwise it
        would stop at once.  What was complete and of which nothing is on disk any more is not fetched again: `verify`
        it to have that.
        """
        entry.paused = entry.finished = False
        entry.past_queue, entry.problem = now, None
        if entry.done and has_given_enough(entry, self.options):
            entry.wishes = replace(entry.wishes, ratio_mode="none")
        if entry.torrent is not None and entry.torrent.error is not None:
            self._runs.restart(entry)
        await self._archive.look_for_data([entry])
        self._runs.arrange(entry)
        await self._archive.save(entry)

    async def stop(self, entry: Entry) -> None:
        """Stop it; trackers are told in the background."""
        entry.paused, entry.past_queue = True, False
        self._runs.arrange(entry)
        await self._archive.save(entry)

    async def verify(self, entry: Entry) -> None:
        """Compare all of its data with its hashes; it goes on afterwards if it ran before."""
        if entry.job is None and entry.metainfo is not None:
            entry.job, entry.checking = "verify", (0, 0)
            self._nursery.start_soon(self._jobs.verify, entry, entry.metainfo)

    async def reannounce(self, entry: Entry) -> None:
        """Ask its sources for peers as soon as they allow."""
        if entry.torrent is not None:
            entry.torrent.ask_for_peers()

    async def set_location(self, entry: Entry, directory: Path, *, move: bool) -> None:
        """Its files are beneath ``directory`` from now on: moved there, or found there and verified.

        UsageError for a directory that is not absolute.
        """
        if not directory.is_absolute():
            raise UsageError(f"{directory} is no absolute path")
        if directory != entry.directory:
            self._nursery.start_soon(self._jobs.move, entry, directory, move)

    async def change(self, entry: Entry, **wishes: Any) -> None:
        """Replace some of its `Wishes`, by name; they hold at once.  UsageError for what cannot be."""
        before, wanted = entry.wishes, replace(entry.wishes, **wishes)
        check(entry.original, wanted)
        entry.wishes = wanted
        entry.times.edited_at = time.time()
        self._runs.apply_wishes(entry, before)
        self._runs.arrange(entry)
        await self._archive.save(entry)

    async def queue_move(self, entries: Iterable[Entry], where: Where) -> None:
        """Let them have their turn earlier or later."""
        self._roster.move(entries, where)
        self._runs.arrange()
        await self._archive.save_session()

    async def queue_place(self, entry: Entry, position: int) -> None:
        """Put it at this position of the queue, counted from 0."""
        self._roster.place(entry, position)
        self._runs.arrange()
        await self._archive.save_session()

    async def set_options(self, **changes: Any) -> None:
        """Replace some of the `Options`, by name; they hold at once, and until the configuration says otherwise."""
        self._archive.options.update(changes)
        self._apply(changes)
        await self._archive.save_session()

    def reload(self, changes: Mapping[str, Any], *, given: Collection[str] | None = None) -> None:
        """Options of which the configuration says something else than before, by name; they hold at once.

        Those that are not ``given`` (None: all are) it does not say any more: they are back to the default.
        """
        for name, value in changes.items():
            self._archive.options.pop(name, None)
            if given is None or name in given:
                self._archive.given[name] = value
            else:
                self._archive.given.pop(name, None)
        self._apply(changes)

    def _apply(self, changes: Mapping[str, Any]) -> None:
        self._runs.apply(**changes)
        self._runs.arrange()

    def request_close(self) -> None:
        """Ask the daemon to end."""
        self.close_requested.set()

    # -- life -------------------------------------------------------------------------------------------------------

    async def restore(self, found: Found) -> None:
        """Take in what was kept, and have it run as before."""
        for kept, have in found:
            self._roster.enter(kept).kept_have = have
        await self._archive.look_for_data(self.queue)
        self._jobs.go_on(self.queue, self._nursery)
        await self._runs.arrange_first()

    async def run(self) -> None:
        """Watch over the torrents until cancelled."""
        await self._rounds.run()

    async def close(self) -> None:
        """Save; the torrents themselves are put away by the node."""
        await self._rounds.finish()


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

    ``options`` are those of the start, and ``given`` names those of them that the configuration says.  They give way to
    what was changed at run time earlier, unless the configuration says something else than it said then.
    Left, everything is saved; the node, which is closed later, says goodbye.
    """
    runner = runner or threads()
    state = StateDirectory(state_directory)
    warnings: list[str] = []  # a thread must not emit events itself
    kept = await runner(state.load_session, warnings.append)
    kept = _settled(kept, {name: getattr(options, name) for name in given})
    options = replace(options, **kept.options)
    found = await find_all(state, resume_directory(node), kept, options, runner, warnings)
    try:
        async with trio.open_nursery() as nursery:
            session = Session(node, state, options, kept, runner, nursery)
            for warning in warnings:
                node.emit(Warned(warning))
            await session.restore(found)
            nursery.start_soon(session.run)
            try:
                yield session
            finally:
                with trio.CancelScope(shield=True):
                    await session.close()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise lone_exception(group) from None


def _settled(kept: KeptSession, given: dict[str, Any]) -> KeptSession:
    """Without the options of which the configuration says something else by now, or nothing any more."""
    changed = {name for name in kept.given | given if kept.given.get(name) != given.get(name)}
    options = {name: value for name, value in kept.options.items() if name not in changed}
    return replace(kept, options=options, given=given)


def resume_directory(node: Node) -> Path | None:
    """Where the node keeps what was verified."""
    return None if node.config.state_directory is None else node.config.state_directory / "resume"
