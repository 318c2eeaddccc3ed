"""The reader of the peer wire: every cut of the bytes gives the same messages, and nothing grows without bound."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import RemoteProtocolError
from swarm.wire.codec import BLOCK_LENGTH, MAX_BUFFER, MAX_EXTENDED, MAX_PIECES, MAX_UNKNOWN, MIN_BUFFER, WireReader
from swarm.wire.messages import (
    AllowedFast,
    BitfieldMessage,
    Cancel,
    Choke,
    Extended,
    Have,
    HaveAll,
    HaveNone,
    Interested,
    KeepAlive,
    Message,
    Pieces,
    Port,
    Reject,
    Requests,
    Suggest,
    Unchoke,
    encode_requests,
    piece_header,
)
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases
from tests.wire.test_messages import SPECIFIED


def singly(messages: Iterable[Message]) -> list[Message]:
    """Runs taken apart and views copied, so that streams cut differently compare equal."""
    result: list[Message] = []
    for message in messages:
        match message:
            case Pieces(blocks):
                result += [Pieces([(index, begin, memoryview(bytes(data)))]) for index, begin, data in blocks]
            case Requests(blocks):
                result += [Requests([block]) for block in blocks]
            case _:
                result.append(message)
    return result


def read_cut(reader: WireReader, data: bytes, sizes: Iterable[int]) -> list[Message]:
    """Receive ``data`` in reads of the given sizes, as far as the buffer offered allows."""
    result: list[Message] = []
    at = 0
    for size in sizes:
        buffer = reader.get_buffer()
        chunk = data[at : at + min(size, len(buffer))]
        buffer[: len(chunk)] = chunk
        result += singly(reader.received(len(chunk)))
        at += len(chunk)
    assert at == len(data), "too few sizes"
    return result


def byte_by_byte(reader: WireReader, data: bytes) -> list[Message]:
    return [message for i in range(len(data)) for message in singly(reader.feed(data[i : i + 1]))]


def piece(index: int, begin: int, data: bytes) -> bytes:
    return piece_header(index, begin, len(data)) + data


@pytest.mark.parametrize("message,wire,fast", SPECIFIED, ids=lambda value: type(value).__name__)
def test_specified_messages_are_read_whole_and_byte_by_byte(message: Message, wire: str, fast: bool) -> None:
    data = bytes.fromhex(wire)
    assert WireReader(fast=True).feed(data) == [message]
    assert byte_by_byte(WireReader(fast=True), data) == [message]
    assert read_cut(WireReader(fast=True), data, [len(data)]) == [message]


@pytest.mark.parametrize("message,wire,fast", SPECIFIED, ids=lambda value: type(value).__name__)
def test_every_truncation_waits_for_the_rest(message: Message, wire: str, fast: bool) -> None:
    data = bytes.fromhex(wire)
    for cut in range(len(data)):
        reader = WireReader(fast=True)
        assert reader.feed(data[:cut]) == []
        assert reader.pending == cut
        assert reader.feed(data[cut:] + b"\0\0") == [message]
        assert reader.pending == 2


@pytest.mark.parametrize("message,wire,fast", SPECIFIED, ids=lambda value: type(value).__name__)
def test_the_fast_messages_need_the_fast_extension(message: Message, wire: str, fast: bool) -> None:
    data = bytes.fromhex(wire)
    if not fast:
        assert WireReader().feed(data) == [message]
        return
    with pytest.raises(RemoteProtocolError) as caught:
        WireReader().feed(data)
    assert caught.value.reason == "unexpected-message"


def test_consecutive_pieces_and_requests_come_as_runs_in_their_order() -> None:
    data = (
        encode_requests([(0, 0, 1), (0, 1, 2)])
        + piece(5, 0, b"abc")
        + piece(5, 3, b"")
        + piece(6, 0, b"d")
        + Choke().encode()
        + piece(7, 0, b"e")
        + encode_requests([(9, 9, 9)])
        + Cancel(9, 9, 9).encode()
        + encode_requests([(9, 9, 9)])
    )
    assert WireReader().feed(data) == [
        Requests([(0, 0, 1), (0, 1, 2)]),
        Pieces([(5, 0, memoryview(b"abc")), (5, 3, memoryview(b"")), (6, 0, memoryview(b"d"))]),
        Choke(),
        Pieces([(7, 0, memoryview(b"e"))]),
        Requests([(9, 9, 9)]),
        Cancel(9, 9, 9),
        Requests([(9, 9, 9)]),
    ]


def test_a_piece_that_follows_a_keep_alive_or_ends_in_one_is_not_misread() -> None:
    data = bytes(4) + piece(1, 0, bytes(40)) + bytes(8) + piece(2, 0, b"\7" * 40) + bytes(4)
    expected = [
        KeepAlive(),
        Pieces([(1, 0, memoryview(bytes(40)))]),
        KeepAlive(),
        KeepAlive(),
        Pieces([(2, 0, memoryview(b"\7" * 40))]),
        KeepAlive(),
    ]
    assert WireReader().feed(data) == expected
    assert byte_by_byte(WireReader(), data) == expected


def test_unknown_messages_are_skipped() -> None:
    unknown = struct.pack(">IB", 1 + 300, 77) + bytes(300)
    data = unknown + Choke().encode() + struct.pack(">IB", 1, 10) + unknown + Have(3).encode()
    assert WireReader().feed(data) == [Choke(), Have(3)]
    assert byte_by_byte(WireReader(), data) == [Choke(), Have(3)]


@pytest.mark.parametrize(
    "message_id,good,bad",
    [
        (0, [1], [2, 5]),
        (1, [1], [2]),
        (2, [1], [2]),
        (3, [1], [2]),
        (4, [5], [1, 4, 6]),
        (5, [2, 1 + MAX_PIECES // 8], [2 + MAX_PIECES // 8]),
        (6, [13], [1, 12, 14]),
        (7, [9, 10, 9 + BLOCK_LENGTH], [1, 8, 10 + BLOCK_LENGTH]),
        (8, [13], [12, 14]),
        (9, [3], [1, 2, 4]),
        (13, [5], [4, 6]),
        (14, [1], [2]),
        (15, [1], [2]),
        (16, [13], [12, 14]),
        (17, [5], [4, 6]),
        (20, [2, 2 + MAX_EXTENDED], [1, 3 + MAX_EXTENDED]),
        (99, [1, 1 + MAX_UNKNOWN], [2 + MAX_UNKNOWN, 0xFFFFFFFF]),
    ],
)
def test_a_length_out_of_bounds_is_refused_before_the_payload_comes(
    message_id: int, good: list[int], bad: list[int]
) -> None:
    for length in good:
        reader = WireReader(fast=True)
        assert len(reader.feed(struct.pack(">IB", length, message_id) + bytes(length - 1))) == (message_id != 99)
        assert reader.pending == 0
    for length in bad:
        with pytest.raises(RemoteProtocolError) as caught:
            WireReader(fast=True).feed(struct.pack(">IB", length, message_id))
        assert caught.value.reason == "bad-message"


def test_a_bad_message_is_refused_after_a_run_too() -> None:
    for bad in (struct.pack(">IBII", 10 + BLOCK_LENGTH, 7, 0, 0), struct.pack(">IBIII", 14, 6, 0, 0, 0)):
        for run in (piece(0, 0, b"abc") * 3, encode_requests([(0, 0, 1)] * 3)):
            with pytest.raises(RemoteProtocolError):
                WireReader().feed(run + bad)


def test_longer_blocks_are_accepted_where_we_ask_for_them() -> None:
    data = piece(0, 0, bytes(2 * BLOCK_LENGTH))
    assert len(WireReader(max_block=2 * BLOCK_LENGTH).feed(data)) == 1


def test_the_bitfield_has_the_exact_length_once_the_piece_count_is_known() -> None:
    reader = WireReader()
    reader.set_piece_count(17)
    assert reader.feed(BitfieldMessage(bytes(3)).encode()) == [BitfieldMessage(bytes(3))]
    for length in (0, 2, 4):
        with pytest.raises(RemoteProtocolError):
            WireReader(piece_count=17).feed(BitfieldMessage(bytes(length)).encode())


def test_indices_are_below_the_piece_count() -> None:
    assert WireReader(piece_count=17).feed(Have(16).encode()) == [Have(16)]
    for reader, index in ((WireReader(piece_count=17), 17), (WireReader(), MAX_PIECES)):
        with pytest.raises(RemoteProtocolError) as caught:
            reader.feed(Have(index).encode())
        assert caught.value.reason == "bad-message"


def test_advice_about_pieces_that_do_not_exist_is_ignored() -> None:
    reader = WireReader(piece_count=17, fast=True)
    data = b"".join(kind(index).encode() for index in (16, 17) for kind in (Suggest, AllowedFast))
    assert reader.feed(data) == [Suggest(16), AllowedFast(16)]


@pytest.mark.parametrize("first", [BitfieldMessage(b"\0"), HaveAll(), HaveNone(), Have(0)])
@pytest.mark.parametrize("second", [BitfieldMessage(b"\0"), HaveAll(), HaveNone()])
def test_what_a_peer_has_may_be_said_again(first: Message, second: Message) -> None:
    """aria2 sends a bitfield instead of many ``have``."""
    assert WireReader(fast=True).feed(first.encode() + second.encode()) == [first, second]


def test_a_bitfield_may_follow_what_deployed_clients_send_before_it() -> None:
    before: list[Message] = [Extended(0, b"de"), Port(6881), KeepAlive(), Unchoke(), Interested(), AllowedFast(1)]
    data = b"".join(message.encode() for message in before) + BitfieldMessage(b"\x80").encode() + Have(1).encode()
    assert WireReader(fast=True).feed(data) == [*before, BitfieldMessage(b"\x80"), Have(1)]


def test_the_blocks_are_views_of_the_reused_buffer() -> None:
    reader = WireReader()
    buffer = reader.get_buffer()
    data = piece(1, 0, b"first") + piece(1, 5, b"other")
    buffer[: len(data)] = data
    (message,) = reader.received(len(data))
    assert isinstance(message, Pieces)
    assert [block.obj is buffer.obj for _, _, block in message.blocks] == [True, True]
    assert reader.get_buffer().obj is buffer.obj
    assert len(reader.get_buffer()) == MIN_BUFFER


def test_a_cut_block_is_moved_at_most_once() -> None:
    """Reads of 1 KiB: the write position moves on through the buffer and steps back once a message at the most."""
    reader = WireReader()
    data = b"".join(piece(0, i * BLOCK_LENGTH, bytes(BLOCK_LENGTH)) for i in range(20))
    moves = completed = 0
    last = 0
    for at in range(0, len(data), 1000):
        before = reader._start
        buffer = reader.get_buffer()
        moves += reader._start < before and reader.pending > 0
        chunk = data[at : at + min(1000, len(buffer))]
        assert len(chunk) == min(1000, len(data) - at)
        buffer[: len(chunk)] = chunk
        completed += len(singly(reader.received(len(chunk))))
        last = max(last, reader.buffer_size)
    assert completed == 20
    assert moves <= 20
    assert last == 2 * MIN_BUFFER  # one message does not fit the least buffer


def test_the_buffer_grows_while_reads_fill_it_and_shrinks_when_told() -> None:
    reader = WireReader()
    assert reader.buffer_size == MIN_BUFFER
    data = piece(0, 0, bytes(BLOCK_LENGTH)) * 200
    assert len(read_cut(reader, data, [1 << 30] * 40)) == 200
    assert reader.buffer_size == MAX_BUFFER
    reader.feed(data[:5000])
    reader.shrink()
    assert reader.buffer_size == 2 * MIN_BUFFER  # the message under way fits
    assert len(reader.feed(data[5000 : BLOCK_LENGTH + 13])) == 1
    reader.shrink()
    assert reader.buffer_size == MIN_BUFFER
    assert len(singly(reader.feed(data))) == 200


def test_small_reads_do_not_grow_the_buffer() -> None:
    reader = WireReader()
    data = Have(1).encode() * 10_000
    assert len(read_cut(reader, data, [900] * 200)) == 10_000
    assert reader.buffer_size == MIN_BUFFER


def test_blocks_stay_readable_when_the_buffer_is_replaced() -> None:
    reader = WireReader()
    (message,) = reader.feed(piece(0, 0, b"abc"))
    assert isinstance(message, Pieces)
    reader.feed(Extended(1, bytes(MAX_EXTENDED)).encode())
    assert bytes(message.blocks[0][2]) == b"abc"


def test_a_message_longer_than_the_largest_buffer_still_arrives() -> None:
    reader = WireReader(max_buffer=MIN_BUFFER)
    message = Extended(1, random.Random(1).randbytes(MAX_EXTENDED))
    data = Choke().encode() + message.encode() + Have(1).encode()
    assert read_cut(reader, data, [7000] * 40) == [Choke(), message, Have(1)]
    assert reader.buffer_size == 2 * MAX_EXTENDED


def test_counting_more_bytes_than_offered_is_our_bug() -> None:
    reader = WireReader()
    for count in (-1, len(reader.get_buffer()) + 1):
        with pytest.raises(ValueError):
            reader.received(count)


indices = st.integers(0, 2**32 - 1)
known = st.integers(0, MAX_PIECES - 1)
messages = st.lists(
    st.one_of(
        st.builds(KeepAlive),
        st.builds(Choke),
        st.builds(Have, known),
        st.builds(Requests, st.lists(st.tuples(indices, indices, indices), min_size=1, max_size=4)),
        st.builds(
            lambda index, data: Pieces([(index, 0, memoryview(data))]),
            indices,
            st.binary(max_size=40) | st.just(bytes(BLOCK_LENGTH)),
        ),
        st.builds(Cancel, indices, indices, indices),
        st.builds(Reject, indices, indices, indices),
        st.builds(Extended, st.integers(0, 255), st.binary(max_size=60)),
    ),
    max_size=12,
)


@given(messages, st.data())
def test_any_cut_of_any_messages_gives_the_same(sent: list[Message], data: st.DataObject) -> None:
    wire = b"".join(message.encode() for message in sent)
    sizes = data.draw(st.lists(st.integers(1, 20_000), max_size=30))
    reader = WireReader(fast=True)
    assert read_cut(reader, wire, [*sizes, *[1 << 20] * 40]) == singly(sent)
    assert reader.pending == 0
    assert singly(WireReader(fast=True).feed(wire)) == singly(sent)


def outcome(reader: WireReader, chunks: Iterable[bytes]) -> tuple[list[Message], str]:
    read: list[Message] = []
    try:
        for chunk in chunks:
            read += singly(reader.feed(chunk))
    except RemoteProtocolError as error:
        return read, str(error)
    return read, f"pending {reader.pending}"


def test_random_bytes_and_damaged_streams_are_read_or_refused_the_same_whole_or_cut() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    valid = [bytes.fromhex(wire) for _, wire, _ in SPECIFIED]
    valid += [rng.choice(valid) + rng.choice(valid) + rng.choice(valid) for _ in range(30)]
    count = fuzz_count()
    refused = 0
    for cases in (random_bytes_cases(rng, 100, count), mutations(rng, valid, count)):
        for data in cases:
            fast = rng.random() < 0.8
            whole, end = outcome(WireReader(fast=fast), [data])
            cut = rng.randrange(len(data) + 1)
            reader = WireReader(fast=fast)
            parts, parts_end = outcome(reader, [data[:cut], data[cut:]])
            assert parts_end == end, (seed, data, cut)
            assert reader.buffer_size <= MAX_BUFFER, (seed, data)
            if end.startswith("pending"):
                assert parts == whole, (seed, data, cut)
            else:
                refused += 1
    assert refused
