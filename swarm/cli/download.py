"""``swarm download SOURCE...``: fetch torrents and leave with 0 when all that was asked for is there and verified."""

from __future__ import annotations

from argparse import Namespace

import trio

from swarm.cli.report import Report
from swarm.cli.session import Session, config_of, load_torrents, open_session, resolve_peers, run_session
from swarm.cli.settings import Settings
from swarm.cli.units import Selection
from swarm.errors import StorageError, UsageError
from swarm.torrent.metainfo import Metainfo
from swarm.torrent.torrent import Torrent

RATIO_LOOK = 0.5
"""Seconds between two looks at how much was given back."""


def run(options: Namespace) -> int:
    return run_session(_download, options)


async def _download(options: Namespace, settings: Settings, report: Report) -> int:
    config = config_of(settings)
    if options.select is not None and len(options.sources) > 1:
        raise UsageError("--select goes with a single SOURCE: its numbers are those of one torrent")
    metainfos = await load_torrents(options.sources, config.bind)
    selected = [None if options.select is None else selected_files(metainfo, options.select) for metainfo in metainfos]
    peers = await resolve_peers(options.peers)
    async with open_session(config, report, options.clock, timeout=settings.timeout) as session:
        for metainfo, select in zip(metainfos, selected, strict=True):
            session.add(metainfo, settings.output, select=select, peers=peers)
        failures = await _complete_all(session)
        await _share_on(session, options)
    if failures:
        raise failures[0]
    return 0


def selected_files(metainfo: Metainfo, selection: Selection) -> frozenset[int]:
    """The file indices that ``--select`` means: its numbers leave pad files out.  UsageError for a number too high."""
    listed = [index for index, file in enumerate(metainfo.files) if not file.pad]
    for _, last in selection:
        if last > len(listed):
            files = "1 file" if len(listed) == 1 else f"{len(listed):,} files"
            raise UsageError(f"--select names file {last}, but {metainfo.name} has {files}")
    return frozenset(index for first, last in selection for index in listed[first - 1 : last])


async def _complete_all(session: Session) -> list[StorageError]:
    """Wait for every torrent, reporting each; the failures of those that the file system stopped."""
    failures: list[StorageError] = []

    async def complete(torrent: Torrent) -> None:
        try:
            await session.wait_checked(torrent)
            await torrent.wait_complete()
        except StorageError as error:
            failures.append(error)
            if len(session.torrents) > 1:
                session.report.warning(session.seconds(), f"{torrent.metainfo.name}: {error}", torrent.info_hash)
            return
        await session.catch_up()
        session.report.done(session.seconds(), torrent, session.summary(torrent))

    async with trio.open_nursery() as nursery:
        for torrent in session.torrents:
            nursery.start_soon(complete, torrent)
    return failures


async def _share_on(session: Session, options: Namespace) -> None:
    """For as long as ``--seed``, ``--seed-ratio`` or ``--seed-time`` ask."""
    sharing = [torrent for torrent in session.torrents if torrent.error is None]
    if not sharing:
        return
    if options.seed:
        raise await session.wait_all_failed()
    if options.seed_time is not None:
        await trio.sleep(options.seed_time)
    elif options.seed_ratio is not None:
        while any(_owes(torrent, options.seed_ratio) for torrent in sharing):  # noqa: ASYNC110
            await trio.sleep(RATIO_LOOK)  # bytes sent are a number to pull, nobody announces them


def _owes(torrent: Torrent, ratio: float) -> bool:
    return torrent.error is None and torrent.uploaded < ratio * torrent.statistics().total
