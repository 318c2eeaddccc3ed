"""Which files of a torrent are wanted (BEP 53), and so which pieces.  Pad files are never wanted for themselves."""

from __future__ import annotations

from collections.abc import Collection

from swarm.bitfield import Bitfield
from swarm.torrent.layout import Layout
from swarm.torrent.metainfo import Metainfo


class Selection:
    """``files`` are the indices of wanted files, ``pieces`` every piece that holds a byte of one, ``size`` their bytes.

    ``select`` None wants everything.  ValueError for an index that the torrent does not have.
    """

    def __init__(self, metainfo: Metainfo, select: Collection[int] | None) -> None:
        self.files = frozenset(range(len(metainfo.files)) if select is None else select)
        if not all(0 <= index < len(metainfo.files) for index in self.files):
            raise ValueError(f"the torrent has {len(metainfo.files)} files")
        self.pieces = Bitfield.full(metainfo.piece_count) if select is None else self._pieces_of_files(metainfo)
        self.size = sum(metainfo.piece_size(index) for index in self.pieces)

    def _pieces_of_files(self, metainfo: Metainfo) -> Bitfield:
        layout, pieces = Layout(metainfo), Bitfield(metainfo.piece_count)
        for index in self.files:
            if metainfo.files[index].size and not metainfo.files[index].pad:
                for piece in layout.file_pieces(index):
                    pieces.add(piece)
        return pieces
