"""Where bytes of a torrent lie: offsets in the concatenation of its files against files, and files against pieces.

BEP 3: all files of a torrent, one behind the other in its order, are cut into pieces.  Pad files (BEP 47) take part and
come out as spans whose ``metainfo.files[span.file_index].pad`` is set: their bytes are zeros and are not stored.  This
file touches no disk: `swarm.torrent.storage` does.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import NamedTuple

from swarm.torrent.metainfo import Metainfo


class Span(NamedTuple):
    """``length`` bytes (at least one) of one file, from ``file_offset`` on."""

    file_index: int
    file_offset: int
    length: int


class Layout:
    """The map of one torrent.  Takes 16 bytes a file and nothing a piece."""

    __slots__ = ("_indices", "_starts", "metainfo")

    def __init__(self, metainfo: Metainfo) -> None:
        self.metainfo = metainfo
        # Empty files hold no byte: without them starts rise strictly, and bisection finds the one file.
        filled = [(file.offset, index) for index, file in enumerate(metainfo.files) if file.size]
        self._starts = array("q", (offset for offset, _ in filled))
        self._indices = array("q", (index for _, index in filled))

    def spans(self, offset: int, length: int) -> list[Span]:
        """The parts of files that hold the ``length`` bytes from ``offset`` on, in order; none when ``length`` is 0.

        ValueError when the range does not lie within the torrent.
        """
        if offset < 0 or length < 0 or offset + length > self.metainfo.total_size:
            raise ValueError(f"{length} bytes from {offset} are not within {self.metainfo.total_size}")
        spans = []
        at = bisect_right(self._starts, offset) - 1
        while length:
            index = self._indices[at]
            file = self.metainfo.files[index]
            file_offset = offset - file.offset
            taken = min(length, file.size - file_offset)
            spans.append(Span(index, file_offset, taken))
            offset += taken
            length -= taken
            at += 1
        return spans

    def piece_spans(self, index: int) -> list[Span]:
        """The parts of files that piece ``index`` covers.  IndexError outside 0 ≤ index < piece_count."""
        return self.spans(self.piece_offset(index), self.metainfo.piece_size(index))

    def piece_offset(self, index: int) -> int:
        """Where piece ``index`` starts in the concatenation; bytes."""
        return index * self.metainfo.piece_length

    def file_pieces(self, file_index: int) -> range:
        """The pieces that hold bytes of a file; an empty range for an empty file."""
        file = self.metainfo.files[file_index]
        length = self.metainfo.piece_length
        first = file.offset // length
        return range(first, -(-(file.offset + file.size) // length) if file.size else first)
