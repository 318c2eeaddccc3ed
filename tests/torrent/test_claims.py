"""What a peer says that it has before anybody knows how many pieces there are."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.bitfield import Bitfield
from swarm.errors import RemoteProtocolError
from swarm.torrent.claims import Claims
from swarm.wire.codec import MAX_PIECES
from swarm.wire.messages import BitfieldMessage, Have, HaveAll, HaveNone

Said = BitfieldMessage | HaveAll | HaveNone | Have


def claims(*messages: Said) -> Claims:
    made = Claims()
    for message in messages:
        made.note(message)
    return made


@pytest.mark.parametrize(
    ("messages", "pieces"),
    [
        ([], set()),
        ([HaveNone()], set()),
        ([HaveAll()], set(range(10))),
        ([BitfieldMessage(b"\x80\x40")], {0, 9}),
        ([Have(9), Have(0), Have(9)], {0, 9}),
        ([BitfieldMessage(b"\x80\x00"), Have(3)], {0, 3}),
        ([HaveAll(), Have(3)], set(range(10))),
        ([Have(3), HaveNone()], set()),
        ([Have(3), BitfieldMessage(b"\x80\x00"), HaveNone(), Have(4)], {4}),
    ],
)
def test_the_last_whole_statement_and_the_haves_after_it_count(messages: list[Said], pieces: set[int]) -> None:
    assert set(claims(*messages).read_untrusted(10)) == pieces


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([BitfieldMessage(b"\x80")], "bad-bitfield"),
        ([BitfieldMessage(b"\x80\x00\x00")], "bad-bitfield"),
        ([BitfieldMessage(b"\x80\x20")], "bad-bitfield"),
        ([BitfieldMessage(b"")], "bad-bitfield"),
        ([Have(10)], "bad-message"),
        ([HaveAll(), Have(MAX_PIECES - 1)], "bad-message"),
    ],
)
def test_what_cannot_be_is_found_out_when_the_size_is_known(messages: list[Said], reason: str) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        claims(*messages).read_untrusted(10)
    assert raised.value.reason == reason


@given(st.integers(1, 300), st.data())
def test_whatever_is_claimed_is_read_as_a_connection_with_metadata_would_have(size: int, data: st.DataObject) -> None:
    have: st.SearchStrategy[Said] = st.builds(Have, st.integers(0, size - 1))
    whole: st.SearchStrategy[Said] = st.sampled_from([HaveAll(), HaveNone()])
    bits = st.binary(min_size=(size + 7) // 8, max_size=(size + 7) // 8)
    bitfield: st.SearchStrategy[Said] = bits.map(
        lambda said: BitfieldMessage(said[:-1] + bytes([said[-1] & 0xFF << -size % 8 & 0xFF]))
    )
    model: set[int] = set()
    made = Claims()
    for message in data.draw(st.lists(st.one_of(have, have, whole, bitfield), max_size=20)):
        made.note(message)
        match message:
            case Have(index):
                model.add(index)
            case BitfieldMessage(said):
                model = set(Bitfield.from_bytes_untrusted(said, size))
            case _:
                model = set(range(size)) if isinstance(message, HaveAll) else set()
    assert set(made.read_untrusted(size)) == model


def test_the_memory_of_a_connection_is_bounded() -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        made = claims(*(Have(index) for index in range(0, MAX_PIECES, 16)), Have(MAX_PIECES - 1))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2 * MAX_PIECES // 8
    assert made.read_untrusted(MAX_PIECES).count == MAX_PIECES // 16 + 1
