"""SOURCE on the command line, for the commands that run no node."""

from __future__ import annotations

from swarm.errors import NoProgressError
from swarm.source import fetch_source, is_url, read_source
from swarm.torrent.magnet import Magnet
from swarm.torrent.metainfo import Metainfo

FETCH_TIMEOUT = 30.0
"""Seconds until an URL is given up."""


def load(source: str) -> Metainfo | Magnet:
    """The torrent or link that ``source`` stands for; trio is loaded for URLs only."""
    if not is_url(source):
        return read_source(source)
    import trio

    return trio.run(load_within, source)


async def load_within(source: str, bind: str | None = None) -> Metainfo | Magnet:
    """The same inside trio; ``bind`` governs a URL's connections as it does the node's.

    NoProgressError when a URL takes longer than FETCH_TIMEOUT.
    """
    if not is_url(source):
        return read_source(source)
    import trio

    from swarm.net.bound import bound
    from swarm.net.real import RealNetwork

    with trio.move_on_after(FETCH_TIMEOUT):
        return await fetch_source(source, bound(RealNetwork(), bind))
    raise NoProgressError(f"{source} did not answer within {FETCH_TIMEOUT:.0f} seconds")
