"""TURN's own layouts (RFC 8656): ChannelData, frames of a stream, lifetimes, password algorithms; and damage."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import RemoteProtocolError
from swarm.wire.stun import MessageClass, StunMessage
from swarm.wire.turn import (
    CHANNEL_HEADER,
    MAX_FRAME,
    FrameReader,
    Method,
    features_of_nonce,
    frame_length_untrusted,
    is_channel_data,
    parse_channel_data_untrusted,
    parse_lifetime_untrusted,
    parse_password_algorithms_untrusted,
)
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

DATA = CHANNEL_HEADER.pack(0x4001, 5) + b"hello"
PADDED = DATA + bytes(3)
MESSAGE = StunMessage(MessageClass.REQUEST, Method.ALLOCATE, bytes(12), ((0x19, bytes((17, 0, 0, 0))),)).encode()


@pytest.mark.parametrize("frame", [DATA, DATA + b"\0", PADDED])
def test_channel_data_with_and_without_padding(frame: bytes) -> None:
    assert is_channel_data(frame)
    assert parse_channel_data_untrusted(frame) == (0x4001, b"hello")


@pytest.mark.parametrize(
    "frame", [b"", DATA[:3], DATA[:-1], PADDED + b"\0", b"\x50\0\0\0", b"\x3f\xff\0\0", MESSAGE, b"\x4f\xff\0\4abc"]
)
def test_what_is_no_channel_data_is_refused(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="bad-turn"):
        parse_channel_data_untrusted(frame)


def test_empty_channel_data_and_the_last_channel() -> None:
    assert parse_channel_data_untrusted(b"\x4f\xff\0\0") == (0x4FFF, b"")


def cut(data: bytes, pieces: list[int] | None = None) -> list[bytes]:
    reader, found, start = FrameReader(), [], 0
    for size in pieces or [len(data)]:
        found += [bytes(frame) for frame in reader.feed_untrusted(data[start : start + size])]
        start += size
    return found


def test_frames_follow_each_other_on_a_stream() -> None:
    stream = PADDED + MESSAGE + MESSAGE + b"\x40\0\0\0" + PADDED
    expected = [PADDED, MESSAGE, MESSAGE, b"\x40\0\0\0", PADDED]
    assert cut(stream) == expected
    assert cut(stream, [1] * len(stream)) == expected
    assert cut(stream + DATA) == expected, "without its padding a frame has not ended"


@pytest.mark.parametrize("stream", [b"\x80", b"\xff\0\0\0", PADDED + b"\x80", b"\0\1\0\3"])
def test_a_stream_that_is_none_of_turn_is_refused(stream: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="bad-turn"):
        cut(stream)


def test_no_frame_is_longer_than_its_length_says() -> None:
    longest = frame_length_untrusted(b"\0\1\xff\xfc"), frame_length_untrusted(b"\x40\0\xff\xff")
    assert longest == (20 + 0xFFFC, 4 + 0x10000)
    assert max(longest) <= MAX_FRAME


def test_lifetimes() -> None:
    assert parse_lifetime_untrusted(b"\0\0\2\x58") == 600
    for value in (None, b"", b"\0\0\0", bytes(5)):
        with pytest.raises(RemoteProtocolError, match="bad-turn"):
            parse_lifetime_untrusted(value)


def test_password_algorithms_in_order_with_their_parameters() -> None:
    assert parse_password_algorithms_untrusted(bytes((0, 2, 0, 0, 0, 1, 0, 0))) == (2, 1)
    assert parse_password_algorithms_untrusted(bytes((0, 9, 0, 3, 1, 2, 3, 0, 0, 1, 0, 0))) == (9, 1)
    for value in (b"\0\2", b"\0\2\0\1\0", bytes((0, 2, 0, 0, 0))):
        with pytest.raises(RemoteProtocolError, match="bad-turn"):
            parse_password_algorithms_untrusted(value)


@pytest.mark.parametrize(
    ("nonce", "features"),
    [
        ("f//499k954d6", (False, False)),
        ("obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA", (False, True)),  # RFC 8489 B.1
        ("obMatJos2AAAB", (True, False)),
        ("obMatJos2AAADx", (True, True)),
        ("obMatJos2", (False, False)),
        ("obMatJos2!", (False, False)),
    ],
)
def test_what_a_nonce_says_of_its_server(nonce: str, features: tuple[bool, bool]) -> None:
    assert features_of_nonce(nonce) == features


READERS: list[Callable[[bytes], object]] = [
    parse_channel_data_untrusted,
    parse_lifetime_untrusted,
    parse_password_algorithms_untrusted,
    frame_length_untrusted,
    cut,
]


def judge(data: bytes) -> None:
    for read in READERS:
        try:
            read(data)
        except RemoteProtocolError:
            pass


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    judge(data)


def test_damaged_frames_are_read_or_refused() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    valid = [DATA, PADDED, MESSAGE, PADDED + MESSAGE, bytes((0, 2, 0, 0, 0, 1, 0, 0))]
    for case in valid:
        for end in range(len(case)):
            judge(case[:end])
    for data in mutations(rng, valid, fuzz_count()):
        judge(data)
    for data in random_bytes_cases(rng, 100, fuzz_count()):
        judge(data)
