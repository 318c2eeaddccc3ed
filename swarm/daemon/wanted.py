"""Which files of a torrent are wanted: all but what the user left out, and what its link names (BEP 53).  Pure."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from swarm.bitfield import Bitfield
from swarm.daemon.entry import Entry, Wishes
from swarm.errors import UsageError
from swarm.torrent.magnet import Magnet
from swarm.torrent.metainfo import Metainfo
from swarm.torrent.selection import Selection, counted_files
from swarm.torrent.torrent import Select


def check(source: Metainfo | Magnet, wishes: Wishes) -> None:
    """UsageError for wishes that cannot be."""
    named = wishes.unwanted | wishes.high | wishes.low
    if isinstance(source, Metainfo) and not all(0 <= index < len(source.files) for index in named):
        raise UsageError(f"{source.name} has {counted_files(len(source.files))}")


def select(entry: Entry) -> Select:
    """What is wanted: by the user, else by the link."""
    unwanted, original = entry.wishes.unwanted, entry.original
    if isinstance(original, Metainfo):
        return _all_but(original, unwanted) if unwanted else None
    return partial(_of_link, original, unwanted) if unwanted or original.select else None


def is_done(entry: Entry, have: Bitfield) -> bool:
    """Whether these pieces are all that is wanted of a torrent whose metainfo is known."""
    assert entry.metainfo is not None
    unwanted = entry.wishes.unwanted
    wanted = Selection(entry.metainfo, _all_but(entry.metainfo, unwanted) if unwanted else None).pieces
    return not wanted.as_int() & ~have.as_int()


def _all_but(metainfo: Metainfo, unwanted: Collection[int]) -> frozenset[int]:
    return frozenset(range(len(metainfo.files))) - frozenset(unwanted)


def _of_link(magnet: Magnet, unwanted: Collection[int], metainfo: Metainfo) -> frozenset[int]:
    chosen = {index for part in magnet.select for index in part if index < len(metainfo.files)}
    wanted = _all_but(metainfo, unwanted)
    return wanted & chosen if chosen else wanted
