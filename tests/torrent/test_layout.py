"""swarm.torrent.layout against a table of every byte."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dht.bencode import Value, encode
from swarm.torrent.layout import Layout, Span
from swarm.torrent.metainfo import parse_info_untrusted


def layout_of(sizes: list[int], piece_length: int) -> Layout:
    files: list[Value] = [{b"length": size, b"path": [b"%d" % index]} for index, size in enumerate(sizes)]
    hashes = b"#" * 20 * -(-sum(sizes) // piece_length)
    return Layout(
        parse_info_untrusted(encode({b"files": files, b"name": b"n", b"piece length": piece_length, b"pieces": hashes}))
    )


def test_a_range_is_cut_at_the_ends_of_files_and_skips_empty_ones() -> None:
    layout = layout_of([0, 5, 0, 0, 3, 0, 4, 0], 4)
    assert layout.spans(0, 12) == [Span(1, 0, 5), Span(4, 0, 3), Span(6, 0, 4)]
    assert layout.spans(5, 3) == [Span(4, 0, 3)]
    assert layout.spans(4, 2) == [Span(1, 4, 1), Span(4, 0, 1)]
    assert layout.spans(11, 1) == [Span(6, 3, 1)]
    assert layout.spans(7, 0) == layout.spans(12, 0) == []
    assert [layout.piece_spans(index) for index in range(3)] == [
        [Span(1, 0, 4)],
        [Span(1, 4, 1), Span(4, 0, 3)],
        [Span(6, 0, 4)],
    ]
    assert [layout.file_pieces(index) for index in range(8)] == [
        range(0), range(2), range(1, 1), range(1, 1), range(1, 2), range(2, 2), range(2, 3), range(3, 3),
    ]  # fmt: skip
    assert [layout.piece_offset(index) for index in range(3)] == [0, 4, 8]


@pytest.mark.parametrize("offset, length", [(-1, 1), (0, -1), (0, 13), (12, 1), (13, 0)])
def test_a_range_outside_the_torrent_is_the_callers_mistake(offset: int, length: int) -> None:
    with pytest.raises(ValueError, match="not within 12"):
        layout_of([5, 7], 4).spans(offset, length)


def test_a_piece_outside_the_torrent_is_the_callers_mistake() -> None:
    for index in (-1, 3):
        with pytest.raises(IndexError):
            layout_of([5, 7], 4).piece_spans(index)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any), st.integers(1, 12), st.data())
def test_spans_name_every_byte_once_and_in_order(sizes: list[int], piece_length: int, data: st.DataObject) -> None:
    layout = layout_of(sizes, piece_length)
    table = [(index, at) for index, size in enumerate(sizes) for at in range(size)]
    offset = data.draw(st.integers(0, len(table)))
    length = data.draw(st.integers(0, len(table) - offset))
    spans = layout.spans(offset, length)
    assert all(span.length > 0 for span in spans)
    assert [(span.file_index, span.file_offset + at) for span in spans for at in range(span.length)] == table[
        offset : offset + length
    ]
    for index in range(len(sizes)):
        pieces = {at // piece_length for at, (owner, _) in enumerate(table) if owner == index}
        assert set(layout.file_pieces(index)) == pieces


def test_the_last_of_many_files_is_found() -> None:
    layout = layout_of([1] * 5_000, 7)
    assert layout.spans(4_990, 10) == [Span(index, 0, 1) for index in range(4_990, 5_000)]
