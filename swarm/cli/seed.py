"""``swarm seed TORRENT... -o DIR``: verify data, then share it until told to stop.

Nothing is fetched: data that is absent, or becomes unreadable, ends the command with 4, data that is incomplete or
damaged with 6.
"""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

from swarm.cli.report import Report
from swarm.cli.session import config_of, load_torrents, open_session, resolve_peers, run_session
from swarm.cli.settle import Settings
from swarm.cli.units import counted
from swarm.errors import StorageError, VerificationError
from swarm.torrent.metainfo import Metainfo
from swarm.torrent.torrent import Torrent


def run(options: Namespace) -> int:
    return run_session(_seed, options)


async def _seed(options: Namespace, settings: Settings, report: Report) -> int:
    config = config_of(settings)
    metainfos = await load_torrents(options.sources, config.bind)
    for metainfo in metainfos:
        require_files(metainfo, settings.output)
    peers = await resolve_peers(options.peers)
    async with open_session(
        config, report, options.clock, options.account, timeout=settings.timeout, seeding=True
    ) as session:
        # Nothing is selected, so that nothing is fetched and no file is made where data turns out to be missing.
        torrents = [session.add(metainfo, settings.output, select=(), peers=peers) for metainfo in metainfos]
        for torrent in torrents:
            await session.wait_checked(torrent)
            require_complete(torrent)
            await session.catch_up()
            report.sharing(session.seconds(), torrent, session.node.port)
        raise await session.wait_all_failed()


def require_files(metainfo: Metainfo, directory: Path) -> None:
    """StorageError if not one file of the torrent is there."""
    if not any(os.path.lexists(directory.joinpath(*file.path)) for file in metainfo.files if not file.pad):
        raise StorageError(f"there is nothing of {metainfo.name} in {directory}")


def require_complete(torrent: Torrent) -> None:
    """VerificationError unless every piece is verified."""
    statistics = torrent.statistics()
    bad = statistics.pieces - statistics.pieces_had
    if bad:
        raise VerificationError(
            f"{bad:,} of {counted(statistics.pieces, 'piece')} of {torrent.metainfo.name} in {torrent.directory} "
            f"{'is' if bad == 1 else 'are'} missing or damaged; 'swarm download' fetches what is missing"
        )
