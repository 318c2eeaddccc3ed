"""A node that runs for one command: its torrents, who watches them, and when it is given up.

Shared by ``download`` and ``seed``, which say what to wait for.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from swarm.api import EVENTS_WAITING, Bookmark
from swarm.cli.account import Account
from swarm.cli.interrupt import run_interruptible
from swarm.cli.jsonlines import JsonLines
from swarm.cli.load import load_within
from swarm.cli.meter import Meter
from swarm.cli.report import Report, Summary, TextReport
from swarm.cli.screen import Screen
from swarm.cli.settle import Settings, settle, state_directory
from swarm.cli.watch import StallWatch
from swarm.config import Config
from swarm.endpoint import Endpoint, split_host_port
from swarm.errors import NoProgressError, SwarmError
from swarm.events import ConnectionClosed, Event
from swarm.net.real import RealNetwork
from swarm.node import Node, open_node
from swarm.source import metainfo_of
from swarm.state import remembered_port
from swarm.torrent.magnet import Magnet
from swarm.torrent.metainfo import Metainfo
from swarm.torrent.torrent import Select, Torrent

TICK = 1.0
"""Seconds between two looks at the numbers."""

Main = Callable[[Namespace, Settings, Report], Awaitable[int]]


def run_session(main: Main, options: Namespace) -> int:
    """Run ``main`` in trio with a report of the kind the options ask for; the exit code."""
    settings = settle(vars(options))
    report: Report
    if options.json:
        report = JsonLines()
    else:
        report = TextReport(Screen(quiet=options.quiet), verbose=options.verbose)
    account = options.account = Account(options.stats, report, options.clock)
    try:
        code = run_interruptible(
            main, options, settings, report, restore=report.clear, leaving=account.close, asked=account.ask
        )
    finally:
        report.clear()
        account.give()
    if code >= 128:
        report.interrupted(options.clock(), code)
    return code


class Session:
    """The node, its torrents and the report.  ``seconds`` count from the start of the program."""

    def __init__(self, node: Node, report: Report, seconds: Callable[[], float]) -> None:
        self.node = node
        self.report = report
        self.seconds = seconds
        self.torrents: list[Torrent] = []
        self._meters: dict[Torrent, Meter] = {}
        self._checked_at: dict[Torrent, float] = {}
        self._senders: dict[bytes, set[Endpoint]] = {}

    def add(
        self,
        source: Metainfo | Magnet,
        directory: Path,
        *,
        select: Select = None,
        peers: Sequence[Endpoint] = (),
    ) -> Torrent:
        """`Node.add`, reported."""
        torrent = self.node.add(source, directory, select=select, peers=peers)
        self.torrents.append(torrent)
        self._meters[torrent] = Meter()
        self._senders[torrent.info_hash] = set()
        self.report.started(self.seconds(), torrent, self.node.port)
        if isinstance(source, Metainfo):
            self._warn_of(source)
        return torrent

    async def wait_metadata(self, torrent: Torrent) -> Metainfo:
        """`Torrent.wait_metadata`, reported if it had to be fetched."""
        fetched = torrent.state == "metadata"
        metainfo = await torrent.wait_metadata()
        if fetched:
            self.report.metadata(self.seconds(), torrent)
            self._warn_of(metainfo)
        return metainfo

    def _warn_of(self, metainfo: Metainfo) -> None:
        for note in metainfo.notes:
            self.report.warning(self.seconds(), note, metainfo.info_hash)

    async def wait_checked(self, torrent: Torrent) -> None:
        """`Torrent.wait_checked`; the time of the download itself counts from here."""
        await torrent.wait_checked()
        self._checked_at[torrent] = self.seconds()

    async def wait_all_failed(self) -> SwarmError:
        """Share until the file system has stopped every torrent, reporting each of several; the last failure."""
        failures: list[SwarmError] = []

        async def watch(torrent: Torrent) -> None:
            failures.append(await torrent.wait_failed())
            if len(self.torrents) > 1:
                self.report.warning(self.seconds(), f"{torrent.name}: {failures[-1]}", torrent.info_hash)

        async with trio.open_nursery() as nursery:
            for torrent in self.torrents:
                nursery.start_soon(watch, torrent)
        return failures[-1]

    def summary(self, torrent: Torrent) -> Summary:
        """Of a torrent that is complete."""
        statistics = torrent.statistics()
        senders = self._senders[torrent.info_hash] | {
            peer.identity.endpoint for peer in torrent.connections if peer.bytes_down
        }
        return Summary(
            path=torrent.directory / torrent.name,
            total=statistics.total,
            downloaded=statistics.downloaded,
            seconds=self.seconds() - self._checked_at[torrent],
            peers=len(senders),
        )

    async def report_events(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Until cancelled; started once it is subscribed, so that no torrent is added unseen."""
        async with self.node.events(EVENTS_WAITING) as events:
            task_status.started()
            offset = trio.current_time() - self.seconds()
            async for time, event in events:
                if isinstance(event, Bookmark):
                    event.reached.set()
                    continue
                self._note(event)
                self.report.event(time - offset, event)

    async def catch_up(self) -> None:
        """Block until all that has happened is reported, so that what is told next comes after it."""
        await Bookmark().reach(self.node)

    def _note(self, event: Event) -> None:
        if isinstance(event, ConnectionClosed) and event.bytes_down and event.info_hash in self._senders:
            self._senders[event.info_hash].add(event.endpoint)

    async def report_progress(self) -> None:
        """Until cancelled."""
        while True:
            now = self.seconds()
            self.report.progress(
                now, {torrent: meter.read(now, torrent.statistics()) for torrent, meter in self._meters.items()}
            )
            await trio.sleep(TICK)

    async def explain_stalls(self) -> None:
        """Say why nothing comes while something is missing, until cancelled."""
        watch = StallWatch(self.seconds())
        while True:
            now = self.seconds()
            silence = watch.look(now, self._mark())
            if self._missing() and watch.is_due(now):
                reasons = self.reasons()
                if watch.worth_saying(now, reasons):
                    self.report.stalled(now, silence, reasons)
            await trio.sleep(TICK)

    async def give_up_after(self, timeout: float, *, seeding: bool = False) -> None:
        """Raise NoProgressError, with the reasons, once nothing has moved for ``timeout`` seconds.

        While data is missing that means nothing came; when it is complete nothing is given up, unless ``seeding``, and
        then it means that nothing was sent.
        """
        watch = StallWatch(self.seconds())
        while seeding or self._missing() or not self.torrents:
            idle = watch.look(self.seconds(), self._mark())
            if idle >= timeout:
                what = "nobody fetched anything" if seeding else "nothing arrived"
                reasons = "; ".join([] if seeding else self.reasons())
                raise NoProgressError(f"{what} for {timeout:g} s" + (f": {reasons}" if reasons else ""))
            await trio.sleep(min(TICK, timeout - idle))

    def reasons(self) -> list[str]:
        """Why data is missing; of several torrents by name, and what holds for all of them once, in the end."""
        why = [(torrent.name, torrent.why()) for torrent in self._missing()]
        if len(self.torrents) == 1:
            return [each for _, reasons in why for each in reasons]
        first = why[0][1] if len(why) > 1 else []
        common = [each for each in first if all(each in reasons for _, reasons in why)]
        return [f"{name}: {each}" for name, reasons in why for each in reasons if each not in common] + common

    def _missing(self) -> list[Torrent]:
        return [torrent for torrent in self.torrents if torrent.state not in ("seeding", "failed")]

    def _mark(self) -> object:
        """Something that changes whenever something moves."""
        numbers = [torrent.statistics() for torrent in self.torrents]
        return [(each.downloaded, each.uploaded, each.done, each.checked, each.metadata_blocks) for each in numbers]


@asynccontextmanager
async def open_session(
    config: Config,
    report: Report,
    seconds: Callable[[], float],
    account: Account,
    *,
    timeout: float | None,
    seeding: bool = False,
) -> AsyncIterator[Session]:
    """A session with its watchers; left, the node saves and says goodbye.  Errors come as `open_node` passes them."""
    async with open_node(config) as node, trio.open_nursery() as nursery:
        session = Session(node, report, seconds)
        _tell_moved_port(session, config)
        await nursery.start(session.report_events)
        nursery.start_soon(session.report_progress)
        if not seeding:
            nursery.start_soon(session.explain_stalls)
        if timeout is not None:
            nursery.start_soon(lambda: session.give_up_after(timeout, seeding=seeding))
        nursery.start_soon(account.answer)
        with account.of(node):
            yield session
        nursery.cancel_scope.cancel()


async def load_sources(sources: Sequence[str], bind: str | None) -> list[Metainfo | Magnet]:
    """The torrents and links named on the command line, each torrent once."""
    found: dict[bytes, Metainfo | Magnet] = {}
    for source in sources:
        loaded = await load_within(source, bind)
        if loaded.info_hash not in found or isinstance(loaded, Metainfo):
            found[loaded.info_hash] = loaded
    return list(found.values())


async def load_torrents(sources: Sequence[str], bind: str | None) -> list[Metainfo]:
    """The torrents named on the command line, each once.  SwarmError for a link: what it leaves out is needed."""
    found: dict[bytes, Metainfo] = {}
    for source in sources:
        metainfo = metainfo_of(source, await load_within(source, bind))
        found.setdefault(metainfo.info_hash, metainfo)
    return list(found.values())


async def resolve_peers(peers: Sequence[str]) -> list[Endpoint]:
    """The endpoints of HOST:PORT; SwarmError for a name that is not known."""
    network = RealNetwork()
    endpoints: list[Endpoint] = []
    for text in peers:
        try:
            endpoints += await network.resolve(*split_host_port(text))
        except OSError as error:
            raise SwarmError(f"cannot find the address of the peer {text}: {error.strerror}") from error
    return endpoints


def config_of(settings: Settings) -> Config:
    return settings.config(state_directory())


def _tell_moved_port(session: Session, config: Config) -> None:
    """A manual forward leads to the port that is kept."""
    if config.port is None and session.node.port is not None:
        kept = remembered_port(config.state_directory)
        if kept is not None and kept != session.node.port:
            session.report.warning(session.seconds(), f"port {kept} is taken; this time it is {session.node.port}")
