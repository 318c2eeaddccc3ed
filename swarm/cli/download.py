"""``swarm download SOURCE...``: fetch torrents and leave with 0 when all that was asked for is there and verified."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from pathlib import Path

import trio

from swarm.cli.create import write_atomically
from swarm.cli.report import Report
from swarm.cli.session import Session, config_of, load_sources, open_session, resolve_peers, run_session
from swarm.cli.settle import Settings
from swarm.cli.units import Selection
from swarm.errors import MetainfoError, StorageError, SwarmError, UsageError
from swarm.torrent.magnet import Magnet
from swarm.torrent.metainfo import Metainfo, encode_torrent
from swarm.torrent.torrent import Select, Torrent

RATIO_LOOK = 0.5
"""Seconds between two looks at how much was given back."""


def run(options: Namespace) -> int:
    return run_session(_download, options)


async def _download(options: Namespace, settings: Settings, report: Report) -> int:
    config = config_of(settings)
    if options.select is not None and len(options.sources) > 1:
        raise UsageError("--select goes with a single SOURCE: its numbers are those of one torrent")
    sources = await load_sources(options.sources, config.bind)
    selected = [_select(source, options.select) for source in sources]
    peers = await resolve_peers(options.peers)
    async with open_session(config, report, options.clock, options.account, timeout=settings.timeout) as session:
        for source, select in zip(sources, selected, strict=True):
            session.add(source, settings.output, select=select, peers=peers)
        failures = await _complete_all(session, save_torrents=options.save_torrent)
        options.account.summarise()
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


def _select(source: Metainfo | Magnet, selection: Selection | None) -> Select:
    """What to fetch: by ``--select``, else by the link (BEP 53); of a link it is told when its metadata is there."""
    if isinstance(source, Metainfo):
        return None if selection is None else selected_files(source, selection)
    if selection is not None:
        return partial(selected_files, selection=selection)
    return partial(_linked_files, source) if source.select else None


def _linked_files(magnet: Magnet, metainfo: Metainfo) -> frozenset[int]:
    wanted = {index for part in magnet.select for index in part if index < len(metainfo.files)}
    if not wanted:
        raise MetainfoError(f"the magnet link selects none of the {len(metainfo.files):,} files of {metainfo.name}")
    return frozenset(wanted)


async def _complete_all(session: Session, *, save_torrents: bool) -> list[SwarmError]:
    """Wait for every torrent, reporting each; the failures of those that were stopped."""
    failures: list[SwarmError] = []

    async def complete(torrent: Torrent) -> None:
        try:
            metainfo = await session.wait_metadata(torrent)
            if save_torrents:
                save_torrent(metainfo, torrent.directory)
            await session.wait_checked(torrent)
            await torrent.wait_complete()
        except SwarmError as error:
            failures.append(error)
            if len(session.torrents) > 1:
                session.report.warning(session.seconds(), f"{torrent.name}: {error}", torrent.info_hash)
            return
        await session.catch_up()
        session.report.done(session.seconds(), torrent, session.summary(torrent))

    async with trio.open_nursery() as nursery:
        for torrent in session.torrents:
            nursery.start_soon(complete, torrent)
    return failures


def save_torrent(metainfo: Metainfo, directory: Path) -> None:
    """Write NAME.torrent into ``directory``.  StorageError if that cannot be."""
    path = directory / f"{metainfo.name}.torrent"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(path, encode_torrent(metainfo))
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


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
