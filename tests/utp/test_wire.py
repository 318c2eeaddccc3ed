"""The packet layout of BEP 29, and bytes that only look like it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases
from tests.utp.packets import packet
from utp.errors import RemoteProtocolError
from utp.wire import MIN_PADDING, Packet, decode_untrusted, looks_like_utp, padding_extensions, sack_extension

PLAIN = bytes.fromhex("01 00 1234  00000001 7fffffff 00100000  abcd 0042") + b"payload"
SACK = bytes.fromhex("21 01 1234  00000001 00000002 00100000  abcd 0042  00 04 05000080")
CLOSE_REASON = bytes.fromhex("11 03 1234  00000001 00000002 00100000  abcd 0042  00 04 00000001")  # libtorrent's FIN
VALID = (PLAIN, SACK, CLOSE_REASON, bytes(packet("SYN", 1, 2, 3)))


def decode(data: bytes) -> Packet:
    return decode_untrusted(memoryview(data))


def test_every_field_is_where_bep_29_puts_it() -> None:
    assert decode(PLAIN) == (0, 0x1234, 1, 0x7FFFFFFF, 0x100000, 0xABCD, 0x42, 0, b"payload")


def test_the_selective_ack_starts_two_after_ack_nr_with_the_lowest_bit_of_the_first_byte() -> None:
    found = decode(SACK)
    assert found.type == 2
    assert found.sack == 1 << 0 | 1 << 2 | 1 << 31
    assert found.payload == b""


@pytest.mark.parametrize("length", [0, 1, 3, 5, 255])
def test_a_selective_ack_may_have_any_length(length: int) -> None:
    data = SACK[:20] + bytes((0, length)) + b"\xff" * length + b"data"
    assert decode(data).sack == (1 << 8 * length) - 1
    assert decode(data).payload == b"data"


def test_unknown_extensions_are_skipped_wherever_they_stand() -> None:
    assert decode(CLOSE_REASON).type == 1
    chained = CLOSE_REASON[:20] + bytes((1, 1, 9)) + bytes((200, 2, 3, 0)) + bytes((0, 0)) + b"data"
    assert decode(chained).sack == 3
    assert decode(chained).payload == b"data"


def test_every_truncation_is_refused_or_cuts_the_payload() -> None:
    for data in (PLAIN, SACK, CLOSE_REASON):
        for size in range(len(data)):
            if size < 20 or (data[1] and size < 26):
                with pytest.raises(RemoteProtocolError):
                    decode(data[:size])
            else:
                assert decode(data[:size]).payload == data[20:size]


@pytest.mark.parametrize("first", [0x00, 0x02, 0x11 + 0x40, 0xF1, ord("d")])
def test_other_versions_and_types_are_not_utp(first: int) -> None:
    data = bytes((first,)) + PLAIN[1:]
    assert not looks_like_utp(data)
    with pytest.raises(RemoteProtocolError):
        decode(data)


@given(st.integers(min_value=0, max_value=(1 << 1024) - 1))
def test_what_we_write_as_a_selective_ack_is_padded_for_libutp_and_reads_back(sack: int) -> None:
    extension = sack_extension(sack)
    assert extension[1] % 4 == 0
    assert extension[1] >= 4
    data = PLAIN[:1] + b"\x01" + PLAIN[2:20] + extension
    assert decode(data).sack == sack


def test_padding_is_exactly_as_long_as_asked_and_says_nothing() -> None:
    for length in (*range(MIN_PADDING, 800), 924, 1440):
        padding = padding_extensions(length)
        assert len(padding) == length
        assert padding[1] == 8  # opened by extension 2, for libutp
        found = decode(PLAIN[:1] + b"\x02" + PLAIN[2:20] + padding + b"payload")
        assert (found.sack, found.payload) == (0, b"payload")


def test_random_bytes_and_damaged_packets_raise_nothing_but_remote_protocol_error() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    count = fuzz_count()
    for cases in (random_bytes_cases(rng, 60, count), mutations(rng, VALID, count)):
        for data in cases:
            try:
                found = decode(data)
            except RemoteProtocolError:
                continue
            assert found.sack < 1 << 2040, seed
            assert len(found.payload) <= len(data) - 20, seed
