"""Which files of a torrent are wanted (BEP 53), and so which pieces.  Pad files are never wanted for themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from swarm.bitfield import Bitfield
from swarm.torrent.layout import Layout
from swarm.torrent.metainfo import Metainfo


class Selection:
    """``files`` are the indices of wanted files, ``pieces`` every piece that holds a byte of one, ``size`` their bytes.

    ``select`` None wants everything.  ``high`` and ``low`` become the pieces of the files to be fetched first and last,
    None where there are none; a piece that several files share is fetched with the first of them.
    ValueError for an index that the torrent does not have.
    """

    def __init__(
        self,
        metainfo: Metainfo,
        select: Collection[int] | None,
        *,
        high: Collection[int] = (),
        low: Collection[int] = (),
    ) -> None:
        count = len(metainfo.files)
        self.files = frozenset(range(count) if select is None else select)
        if not all(0 <= index < count for index in (*self.files, *high, *low)):
            raise ValueError(f"the torrent has {counted_files(count)}")
        self.pieces = Bitfield.full(metainfo.piece_count) if select is None else _pieces(metainfo, self.files)
        self.size = sum(metainfo.piece_size(index) for index in self.pieces)
        self.high = _pieces(metainfo, self.files & set(high)) if high else None
        self.low = _pieces(metainfo, self.files & set(low)) if low else None
        if self.low is not None:
            for piece in _pieces(metainfo, self.files - set(low)):
                self.low.discard(piece)


def counted_files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def _pieces(metainfo: Metainfo, files: Iterable[int]) -> Bitfield:
    layout, pieces = Layout(metainfo), Bitfield(metainfo.piece_count)
    for index in files:
        if metainfo.files[index].size and not metainfo.files[index].pad:
            for piece in layout.file_pieces(index):
                pieces.add(piece)
    return pieces
