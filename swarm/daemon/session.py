"""The daemon's torrents: kept on disk, started, stopped, verified, moved, removed, limited, and counted.

What is asked for is decided and written down at once; carrying it out may take longer, and `Entry.status` tells how far
it is.  A torrent that runs is a `Torrent` of the node; one that is stopped, or waits for its place in a queue, is an
`Entry` and nothing else.  What may run is `swarm.daemon.policy`, what is on disk `swarm.daemon.state`.
Speaks no protocol: `swarm.daemon.rpc` does.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import trio

from swarm.bitfield import Bitfield
from swarm.daemon.data import delete_data, forget_resume, is_gone, move_data, relocate_resume
from swarm.daemon.entry import Counters, Entry, Times, Wishes
from swarm.daemon.options import Options
from swarm.daemon.policy import allowed, alternative_now, has_shared_enough
from swarm.daemon.state import KeptEntry, KeptSession, StateDirectory, entry_document
from swarm.endpoint import Endpoint
from swarm.errors import StorageError, SwarmError, UsageError
from swarm.events import Warned
from swarm.node import Node, lone_exception
from swarm.torrent.disk import Runner, threads
from swarm.torrent.magnet import Magnet
from swarm.torrent.metainfo import Metainfo, Tiers
from swarm.torrent.resume import load_resume, resume_path
from swarm.torrent.selection import Selection, counted_files
from swarm.torrent.torrent import Select

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
        self,
        node: Node,
        state: StateDirectory,
        options: Options,
        kept: KeptSession,
        runner: Runner,
        nursery: trio.Nursery,
    ) -> None:
        self.node = node
        self.options = options
        self.entries: dict[int, Entry] = {}
        """By id, ascending."""
        self.removed: deque[tuple[int, float]] = deque(maxlen=MAX_REMOVED)
        """Id and wall time, the latest last."""
        self.close_requested = trio.Event()
        self._state = state
        self._kept = kept
        self._runner = runner
        self._nursery = nursery
        self._resume = None if node.config.state_directory is None else node.config.state_directory / "resume"
        self._by_hash: dict[bytes, Entry] = {}
        self._order: list[Entry] = []
        self._next_id = 1
        self._leaving: dict[bytes, trio.Event] = {}  # removed torrents whose end is under way
        self._opened_at = self._looked_at = trio.current_time()
        self._counted_at = 0.0
        self._scheduled: bool | None = None
        self._uploaded = self._downloaded = self._files_added = 0
        self._saving = trio.Lock()
        self._apply_options()

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

    def totals(self) -> Totals:
        """What was moved by all torrents, those that are gone included."""
        self._look()
        kept = self._kept
        current = Sums(self._uploaded, self._downloaded, self._files_added, 1, trio.current_time() - self._opened_at)
        together = Sums(
            kept.uploaded + current.uploaded,
            kept.downloaded + current.downloaded,
            kept.files_added + current.files_added,
            kept.sessions + 1,
            kept.seconds_active + current.seconds_active,
        )
        return Totals(current, together)

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
        wishes = Wishes() if wishes is None else wishes
        _check(source, wishes)
        entry = self._enter(
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
            await self._save(entry)
            await self._runner(self._state.save_source, source)
        except StorageError:
            self._drop(entry)
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
        self._drop(entry)
        self.removed.append((entry.id, time.time()))
        self._leaving[entry.info_hash] = trio.Event()
        entry.paused, entry.allowed = True, False
        self._nursery.start_soon(self._end, entry, delete_data)
        await self._runner(self._state.forget, entry.info_hash)
        await self._save_session()
        self._arrange()

    def _enter(self, kept: KeptEntry) -> Entry:
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

    def _drop(self, entry: Entry) -> None:
        del self.entries[entry.id]
        del self._by_hash[entry.info_hash]
        self._order.remove(entry)
        self._renumber()

    async def _end(self, entry: Entry, delete: bool) -> None:
        try:
            async with entry.lock:
                await self._halt(entry)
                if self._resume is not None:
                    await self._runner(forget_resume, self._resume, entry.info_hash)
                if delete and entry.metainfo is not None:
                    await self._runner(delete_data, entry.metainfo, entry.directory)
        except StorageError as error:
            self.node.emit(Warned(str(error), entry.info_hash))
        finally:
            self._leaving.pop(entry.info_hash).set()

    # -- control ----------------------------------------------------------------------------------------------------

    async def start(self, entry: Entry, *, now: bool = False) -> None:
        """Run it, as soon as the queue allows, or ``now``.

        What was complete and of which nothing is on disk any more is not fetched again: `verify` it to have that.
        """
        entry.paused = entry.finished = False
        entry.past_queue, entry.problem = now, None
        if entry.torrent is not None and entry.torrent.error is not None:
            self._nursery.start_soon(self._carry_out, entry, True)
        await self._runner_look_for_data([entry])
        await self._save(entry)
        self._arrange()

    async def stop(self, entry: Entry) -> None:
        """Stop it; trackers are told in the background."""
        entry.paused, entry.past_queue = True, False
        await self._save(entry)
        self._arrange()

    async def verify(self, entry: Entry) -> None:
        """Compare all of its data with its hashes; it goes on afterwards if it ran before."""
        if entry.job is None and entry.metainfo is not None:
            entry.job, entry.checking = "verify", (0, 0)
            self._nursery.start_soon(self._verify, entry, entry.metainfo)

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
            self._nursery.start_soon(self._move, entry, directory, move)

    async def change(self, entry: Entry, **wishes: Any) -> None:
        """Replace some of its `Wishes`, by name; they hold at once.  UsageError for what cannot be."""
        before, wanted = entry.wishes, replace(entry.wishes, **wishes)
        _check(entry.original, wanted)
        entry.wishes = wanted
        entry.times.edited_at = time.time()
        if entry.torrent is not None:
            self._apply_wishes(entry, before)
        await self._save(entry)
        self._arrange()

    async def queue_move(self, entries: Iterable[Entry], where: Where) -> None:
        """Let them have their turn earlier or later."""
        chosen = [entry for entry in self._order if entry in set(entries)]
        others = [entry for entry in self._order if entry not in set(chosen)]
        match where:
            case "top":
                self._order = chosen + others
            case "bottom":
                self._order = others + chosen
            case "up":
                for entry in chosen:
                    self._swap(entry, -1, chosen)
            case "down":
                for entry in reversed(chosen):
                    self._swap(entry, 1, chosen)
        await self._order_changed()

    async def queue_place(self, entry: Entry, position: int) -> None:
        """Put it at this position of the queue, counted from 0."""
        self._order.remove(entry)
        self._order.insert(max(position, 0), entry)
        await self._order_changed()

    async def set_options(self, **changes: Any) -> None:
        """Replace some of the `Options`, by name; they hold at once and are kept."""
        self.options = replace(self.options, **changes)
        self._kept.options.update(changes)
        self._apply_options()
        self._arrange()
        await self._save_session()

    def reload(self, changes: Mapping[str, Any]) -> None:
        """Options that the configuration says now, by name; they hold at once and are not kept here."""
        self.options = replace(self.options, **changes)
        self._apply_options()
        self._arrange()

    def request_close(self) -> None:
        """Ask the daemon to end."""
        self.close_requested.set()

    # -- what runs --------------------------------------------------------------------------------------------------

    def _arrange(self) -> None:
        """Have those run that may, and no others."""
        now = trio.current_time()
        may = allowed(self._order, self.options, now)
        for entry in self._order:
            entry.allowed = entry in may
            self._settle(entry)

    def _settle(self, entry: Entry) -> None:
        if entry.lock.locked() or entry.job is not None:
            return  # whoever has it looks at its end
        if entry.allowed and entry.torrent is None:
            self._run(entry)
        elif not entry.allowed and entry.torrent is not None:
            self._nursery.start_soon(self._carry_out, entry)

    async def _carry_out(self, entry: Entry, anew: bool = False) -> None:
        """Bring it to what is wished by now; ``anew`` stops it even if it is to run."""
        async with entry.lock:
            while entry.job is None:
                if entry.torrent is not None and (anew or not entry.allowed):
                    anew = False
                    await self._halt(entry)
                elif entry.torrent is None and entry.allowed:
                    self._run(entry)
                else:
                    return

    def _run(self, entry: Entry) -> None:
        wishes = entry.wishes
        torrent = self.node.add(entry.source, entry.directory, select=_select(entry), peers=entry.peers)
        entry.torrent = torrent
        entry.seen = (0, 0)
        entry.stirred_at = trio.current_time()
        entry.times.started_at = time.time()
        if wishes.high or wishes.low:
            torrent.choose(_select(entry), high=wishes.high, low=wishes.low)
        self._apply_limits(entry)
        if self._default_trackers(entry):
            self._nursery.start_soon(self._announce_to, entry)

    async def _halt(self, entry: Entry) -> None:
        """Take it out of the node.  What it counted and has is kept."""
        torrent = entry.torrent
        if torrent is None:
            return
        try:
            await self.node.remove(torrent)
        except StorageError as error:
            entry.problem = str(error)
        self._look_at(entry, trio.current_time(), 0.0)
        statistics = torrent.statistics()
        entry.kept.uploaded += torrent.uploaded
        entry.kept.downloaded += torrent.downloaded
        entry.kept.corrupt += statistics.corrupt
        if torrent.have is not None:
            entry.kept_have = torrent.have.copy()
        entry.torrent = None

    async def _verify(self, entry: Entry, metainfo: Metainfo) -> None:
        def progress(looked_at: int, of: int) -> None:
            entry.checking = (looked_at, of)

        async with entry.lock:
            try:
                await self._halt(entry)
                entry.kept_have = await self.node.examine(metainfo, entry.directory, progress)
                entry.problem = None
                entry.times.done_at = entry.times.done_at if _is_done(entry, entry.kept_have) else None
            except StorageError as error:
                entry.problem = str(error)
            finally:
                entry.job = None
        await self._save(entry)
        self._arrange()

    async def _move(self, entry: Entry, directory: Path, move: bool) -> None:
        async with entry.lock:
            entry.job = "move"
            try:
                await self._halt(entry)
                if move and entry.metainfo is not None:
                    await self._runner(move_data, entry.metainfo, entry.directory, directory)
                    if self._resume is not None:
                        await self._runner(relocate_resume, self._resume, entry.metainfo, directory)
                else:
                    entry.kept_have = None
                entry.directory = directory
                entry.problem = None
            except StorageError as error:
                entry.problem = str(error)
            finally:
                entry.job = None
        entry.times.edited_at = time.time()
        await self._save(entry)
        self._arrange()

    # -- what holds for those that run ------------------------------------------------------------------------------

    def _apply_options(self) -> None:
        options = self.options
        if options.alternative_rates:
            self.node.set_rates(options.alternative_download_rate, options.alternative_upload_rate)
        else:
            self.node.set_rates(
                options.download_rate if options.download_limited else 0,
                options.upload_rate if options.upload_limited else 0,
            )
        self.node.max_connections = options.peer_limit
        for entry in self.entries.values():
            self._apply_limits(entry)

    def _apply_limits(self, entry: Entry) -> None:
        wishes, torrent = entry.wishes, entry.torrent
        if torrent is not None:
            torrent.set_rates(
                wishes.download_rate if wishes.download_limited else 0,
                wishes.upload_rate if wishes.upload_limited else 0,
                alone=not wishes.honours_session_limits,
            )
            limit = wishes.peer_limit
            torrent.admission.max_peers = self.options.peer_limit_per_torrent if limit is None else limit

    def _apply_wishes(self, entry: Entry, before: Wishes) -> None:
        wishes, torrent = entry.wishes, entry.torrent
        assert torrent is not None
        self._apply_limits(entry)
        if (wishes.unwanted, wishes.high, wishes.low) != (before.unwanted, before.high, before.low):
            torrent.choose(_select(entry), high=wishes.high, low=wishes.low)
        if wishes.trackers != before.trackers:
            self._nursery.start_soon(self._announce_to, entry)

    async def _announce_to(self, entry: Entry) -> None:
        if entry.torrent is not None:
            await entry.torrent.set_trackers(entry.trackers + self._default_trackers(entry))

    def _default_trackers(self, entry: Entry) -> Tiers:
        public = entry.metainfo is not None and not entry.metainfo.private
        return self.options.default_trackers if public else ()

    # -- every second -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Watch over the torrents until cancelled."""
        while True:
            await trio.sleep(TICK)
            now = trio.current_time()
            self._follow_schedule()
            self._look()
            await self._judge(now)
            if self.options.download_queue_enabled or self.options.seed_queue_enabled:
                self._arrange()
            if now >= self._counted_at + SAVE_COUNTERS:
                self._counted_at = now
                await self._or_warn(self.save_counters)

    def _look(self) -> None:
        now = trio.current_time()
        elapsed, self._looked_at = now - self._looked_at, now
        for entry in self.entries.values():
            if entry.torrent is not None:
                self._look_at(entry, now, elapsed)

    def _look_at(self, entry: Entry, now: float, elapsed: float) -> None:
        torrent = entry.torrent
        assert torrent is not None
        moved, before = (torrent.uploaded, torrent.downloaded), entry.seen
        if moved != before:
            self._uploaded += moved[0] - before[0]
            self._downloaded += moved[1] - before[1]
            entry.seen = moved
            entry.stirred_at, entry.kept.activity_at = now, time.time()
        if torrent.state == "seeding":
            entry.kept.seconds_seeding += elapsed
        elif torrent.state == "downloading":
            entry.kept.seconds_downloading += elapsed

    async def _judge(self, now: float) -> None:
        """Keep what has changed by itself: metadata came, a download ended, the disk failed, enough was shared."""
        for entry in list(self.entries.values()):
            torrent = entry.torrent
            if torrent is None or entry.lock.locked():
                continue
            state = torrent.state
            if entry.metainfo is None and state not in ("metadata", "stopped", "failed"):
                entry.original = torrent.metainfo
                await self._or_warn(self._runner, self._state.save_source, entry.original)
                if self._default_trackers(entry):
                    self._nursery.start_soon(self._announce_to, entry)
            if (state == "seeding") != (entry.times.done_at is not None) and state in ("seeding", "downloading"):
                entry.times.done_at = time.time() if state == "seeding" else None
                await self._or_warn(self._save, entry)
            if state == "failed" and torrent.error is not None:
                entry.problem = str(torrent.error)
                self._arrange()
            elif state == "seeding" and has_shared_enough(entry, self.options, now):
                entry.paused = entry.finished = True
                await self._or_warn(self._save, entry)
                self._arrange()

    def _follow_schedule(self) -> None:
        """Switch the alternative rates when their time begins and ends, leaving alone what is switched in between."""
        options = self.options
        wanted = alternative_now(options, time.localtime()) if options.alternative_scheduled else None
        if wanted is not None and wanted != self._scheduled and wanted != options.alternative_rates:
            self.options = replace(options, alternative_rates=wanted)
            self._apply_options()
        self._scheduled = wanted

    # -- kept on disk -----------------------------------------------------------------------------------------------

    async def restore(self, kept: Sequence[KeptEntry], had: Sequence[Bitfield | None]) -> None:
        """Take in what was kept, and have it run as before."""
        places = {info_hash: place for place, info_hash in enumerate(self._kept.order)}
        pairs = sorted(
            zip(kept, had, strict=True),
            key=lambda pair: (places.get(pair[0].source.info_hash, len(places)), pair[0].times.added_at),
        )
        for each, have in pairs:
            self._enter(each).kept_have = have
        await self._runner_look_for_data(self._order)
        may = allowed(self._order, self.options, trio.current_time())
        for count, entry in enumerate(list(self._order)):
            entry.allowed = entry in may
            self._settle(entry)
            if count % STARTS_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    async def _runner_look_for_data(self, entries: Sequence[Entry]) -> None:
        """Say what is wrong with those that were complete and of which nothing is left; nothing of the others."""
        looked = [entry for entry in entries if not entry.paused and entry.torrent is None]
        done = [(entry, entry.metainfo) for entry in looked if entry.times.done_at is not None]
        asked = [(metainfo, entry.directory) for entry, metainfo in done if metainfo is not None]
        gone = set(await self._runner(_gone, asked)) if asked else set()
        for entry in looked:
            entry.problem = None
            if entry.info_hash in gone:
                entry.problem = (
                    f"nothing of {entry.name} is left in {entry.directory}: mount its disk and start it, "
                    "or verify it to have it fetched again"
                )

    def _renumber(self) -> None:
        for position, entry in enumerate(self._order):
            entry.queue_position = position

    def _swap(self, entry: Entry, step: int, chosen: Collection[Entry]) -> None:
        at = self._order.index(entry)
        other = at + step
        if 0 <= other < len(self._order) and self._order[other] not in chosen:
            self._order[at], self._order[other] = self._order[other], self._order[at]

    async def _order_changed(self) -> None:
        self._renumber()
        self._arrange()
        await self._save_session()

    async def _save(self, entry: Entry) -> None:
        """Keep where it is and what is wished of it."""
        async with self._saving:
            if self._by_hash.get(entry.info_hash) is not entry:
                return  # removed meanwhile
            kept = KeptEntry(
                source=entry.original,
                directory=entry.directory,
                times=entry.times,
                paused=entry.paused,
                finished=entry.finished,
                wishes=entry.wishes,
            )
            await self._runner(self._state.save_entry, entry.info_hash, entry_document(kept))

    async def _save_session(self) -> None:
        async with self._saving:
            sums = self.totals().cumulative
            kept = KeptSession(
                options=dict(self._kept.options),
                order=[entry.info_hash for entry in self._order],
                uploaded=sums.uploaded,
                downloaded=sums.downloaded,
                files_added=sums.files_added,
                sessions=sums.sessions,
                seconds_active=sums.seconds_active,
            )
            await self._runner(self._state.save_session, kept)

    async def save_counters(self) -> None:
        """Keep what was counted, of each torrent and of all."""
        self._look()
        counters = {entry.info_hash: asdict(_counters(entry)) for entry in self.entries.values()}
        await self._runner(self._state.save_counters, counters)
        await self._save_session()

    async def _or_warn(self, function: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """What cannot be kept costs a warning while the torrents go on."""
        try:
            await function(*arguments)
        except StorageError as error:
            self.node.emit(Warned(str(error)))

    async def close(self) -> None:
        """Save; the torrents themselves are put away by the node."""
        await self._or_warn(self.save_counters)


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
    runner = runner or threads()
    state = StateDirectory(state_directory)
    warnings: list[str] = []  # a thread must not emit events itself
    kept = await runner(state.load_session, warnings.append)
    options = replace(options, **{name: value for name, value in kept.options.items() if name not in given})
    resume = None if node.config.state_directory is None else node.config.state_directory / "resume"
    entries, had = await runner(_load, state, options.download_dir, time.time(), resume, warnings.append)
    try:
        async with trio.open_nursery() as nursery:
            session = Session(node, state, options, kept, runner, nursery)
            for warning in warnings:
                node.emit(Warned(warning))
            await session.restore(entries, had)
            nursery.start_soon(session.run)
            try:
                yield session
            finally:
                with trio.CancelScope(shield=True):
                    await session.close()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise lone_exception(group) from None


def _load(
    state: StateDirectory, directory: Path, now: float, resume: Path | None, warn: Callable[[str], object]
) -> tuple[list[KeptEntry], list[Bitfield | None]]:
    """Everything in one hop; of torrents that are stopped also what they have, which nobody else will tell."""
    entries = state.load(directory, now, warn)
    return entries, [_had(entry, resume) if entry.paused else None for entry in entries]


def _had(entry: KeptEntry, resume: Path | None) -> Bitfield | None:
    if resume is None or not isinstance(entry.source, Metainfo):
        return None
    data = load_resume(resume_path(resume, entry.source.info_hash), entry.source, lambda warning: None)
    return data.pieces if data is not None and data.directory == entry.directory else None


def _gone(asked: Sequence[tuple[Metainfo, Path]]) -> list[bytes]:
    return [metainfo.info_hash for metainfo, directory in asked if is_gone(metainfo, directory)]


def _counters(entry: Entry) -> Counters:
    return replace(entry.kept, uploaded=entry.uploaded, downloaded=entry.downloaded, corrupt=entry.corrupt)


def _check(source: Metainfo | Magnet, wishes: Wishes) -> None:
    """UsageError for wishes that cannot be."""
    named = wishes.unwanted | wishes.high | wishes.low
    if isinstance(source, Metainfo) and not all(0 <= index < len(source.files) for index in named):
        raise UsageError(f"{source.name} has {counted_files(len(source.files))}")


def _select(entry: Entry) -> Select:
    """What is wanted: by the user, else by the link (BEP 53)."""
    unwanted, original = entry.wishes.unwanted, entry.original
    if isinstance(original, Metainfo):
        return _wanted(original, unwanted) if unwanted else None
    return partial(_of_link, original, unwanted) if unwanted or original.select else None


def _wanted(metainfo: Metainfo, unwanted: Collection[int]) -> frozenset[int]:
    return frozenset(range(len(metainfo.files))) - frozenset(unwanted)


def _of_link(magnet: Magnet, unwanted: Collection[int], metainfo: Metainfo) -> frozenset[int]:
    chosen = {index for part in magnet.select for index in part if index < len(metainfo.files)}
    wanted = _wanted(metainfo, unwanted)
    return wanted & chosen if chosen else wanted


def _is_done(entry: Entry, have: Bitfield) -> bool:
    assert entry.metainfo is not None
    unwanted = entry.wishes.unwanted
    wanted = Selection(entry.metainfo, _wanted(entry.metainfo, unwanted) if unwanted else None).pieces
    return not wanted.as_int() & ~have.as_int()
