"""dht.bencode against bencode.py as the oracle, and against what that oracle gets wrong."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import bencodepy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dht.bencode import (
    BencodeError,
    Value,
    decode_prefix_untrusted,
    decode_untrusted,
    decode_with_spans_untrusted,
    encode,
)
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

ORACLE = bencodepy.Bencode(encoding=None)

VALUES = st.recursive(
    st.integers(-(1 << 63), (1 << 63) - 1) | st.binary(max_size=200),
    lambda children: st.lists(children, max_size=12) | st.dictionaries(st.binary(max_size=120), children, max_size=12),
    max_leaves=40,
)

TOKENS = [b"d", b"l", b"e", b"i", b"-", b"0", b"1", b":", b"1:a", b"2:bb", b"i0e"]

PING = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe"  # BEP 5
MESSAGES = [
    PING,
    b"d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz123456e1:q9:get_peers1:t2:aa1:y1:qe",  # BEP 5
    b"d1:rd2:id20:abcdefghij01234567895:token8:aoeusnth6:valuesl6:axje.u6:idhtnmee1:t2:aa1:y1:re",  # BEP 5
    b"d1:eli201e23:A Generic Error Ocurrede1:t2:aa1:y1:ee",  # BEP 5
    b"d1:md11:LT_metadatai1e7:\xc2\xb5T_PEXi2ee1:pi6881e1:v13:\xc2\xb5Torrent 1.2e",  # BEP 10
    b"d1:0i-9223372036854775808e2:10i0e3:100ldel0:elee4:1000d0:deee",
    b"d3:big300:" + b"x" * 300 + b"e",
    b"i-42e",
    b"11:eleven byte",
]


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise out of whatever runs longer; a decoder that does not return would hang the whole run."""

    def too_slow(signum: int, frame: FrameType | None) -> None:
        raise AssertionError(f"did not return within {seconds} s")

    previous = signal.signal(signal.SIGALRM, too_slow)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@settings(deadline=None)
@given(VALUES)
def test_what_the_oracle_encodes_is_decoded_to_the_same_value(value: Value) -> None:
    assert decode_untrusted(ORACLE.encode(value)) == value


@settings(deadline=None)
@given(VALUES)
def test_what_we_encode_the_oracle_decodes_to_the_same_value(value: Value) -> None:
    assert ORACLE.decode(encode(value)) == value


@pytest.mark.parametrize("message", MESSAGES)
def test_the_examples_of_the_specifications_survive_a_round_trip(message: bytes) -> None:
    value = decode_untrusted(message)
    assert value == ORACLE.decode(message)
    assert encode(value) == message


def test_bytearrays_and_memoryviews_give_plain_bytes() -> None:
    for data in (bytearray(PING), memoryview(b"xx" + PING)[2:]):
        value = decode_untrusted(data)
        assert value == decode_untrusted(PING)
        assert isinstance(value, dict) and type(value[b"q"]) is bytes


@pytest.mark.parametrize(
    "data",
    [
        b"d1:ai0e-6:",  # bencode.py never returns
        b"i+5e",
        b"i1_0e",
        b"i 5e",
        b"i5 e",
        b"ie",
        b"i-e",
        b"i-0e",
        b"i05e",
        b"i-05e",
        b"i00e",
        b"i5",
        b"i0x5e",
        "i\u0665e".encode(),  # a digit, says str.isdigit
        b"i9223372036854775808e",
        b"i-9223372036854775809e",
        b"i" + b"9" * 5000 + b"e",  # int() of it would raise a ValueError of its own
        b"-1:a",
        b"+1:a",
        b"1_0:aaaaaaaaaa",
        b"01:a",
        b"00:",
        b"1 :a",
        b"1",
        b"1:",
        b"2:a",
        b"10:aaaaaaaaa",
        b"100:a",
        b"99999999999999999999:a",
        b":",
        b"a:",
        b"1:a1:b",
        b"1:ae",
        b"d1:bi0e1:ai0ee",  # unsorted
        b"d1:ai0e1:ai1ee",  # duplicate
        b"d0:i0e0:i1ee",
        b"d2:aai0e1:bi0e2:abi0ee",
        b"d1:aee",
        b"d1:ae",
        b"d1:a1:b1:ce",
        b"di0ei1ee",  # a key that is not a string
        b"dlei0ee",
        b"d-1:ai0ee",
        b"d01:ai0ee",
        b"d1:a-1:xe",
        b"d1:a01:xe",
        b"d1:a1",
        b"l01:xe",
        b"l-1:xe",
        b"l+5e",
        b"li1_0ee",
        b"l",
        b"d",
        b"e",
        b"le ",
        b"x",
        b"",
        b"\x00",
    ],
)
def test_what_no_encoder_writes_is_refused(data: bytes) -> None:
    for decode in (decode_untrusted, decode_with_spans_untrusted):
        with at_most(5), pytest.raises(BencodeError):
            decode(data)


def test_a_value_ends_where_its_list_ends() -> None:
    with pytest.raises(BencodeError, match="1 bytes follow"):
        decode_untrusted(b"l1:aee")


def test_unsorted_keys_are_taken_on_request_but_duplicates_never() -> None:
    assert decode_untrusted(b"d1:bi0e1:ad1:zi1e1:yi2eee", strict_order=False) == {b"b": 0, b"a": {b"z": 1, b"y": 2}}
    for data in (b"d1:bi0e1:ai0e1:bi0ee", b"ld1:bi0e1:ai0e1:bi0eee"):
        with pytest.raises(BencodeError, match="duplicate"):
            decode_untrusted(data, strict_order=False)


def test_nesting_is_bounded() -> None:
    assert decode_untrusted(b"l" * 32 + b"e" * 32) is not None
    assert decode_untrusted(b"d1:a" * 31 + b"de" + b"e" * 31) is not None
    for data in (b"l" * 33 + b"e" * 33, b"l" * 1_000_000, b"d1:a" * 1_000_000, b"d1:a" * 32 + b"de" + b"e" * 32):
        for decode in (decode_untrusted, decode_with_spans_untrusted):
            with at_most(5), pytest.raises(BencodeError):
                decode(data)
    assert decode_untrusted(b"l" * 90 + b"e" * 90, max_depth=90) is not None
    assert decode_with_spans_untrusted(b"d1:al" + b"l" * 30 + b"e" * 32)[0]


def test_the_number_of_containers_is_bounded() -> None:
    assert decode_untrusted(b"l" + b"de" * 9 + b"e", max_containers=10)
    with pytest.raises(BencodeError, match="too many"):
        decode_untrusted(b"l" + b"de" * 10 + b"e", max_containers=10)
    with pytest.raises(BencodeError, match="too many"):
        decode_with_spans_untrusted(b"d1:al" + b"le" * 9 + b"ee", max_containers=10)


@pytest.mark.parametrize("message", MESSAGES)
def test_every_truncation_is_refused(message: bytes) -> None:
    for length in range(len(message)):
        for decode in (decode_untrusted, decode_prefix_untrusted, decode_with_spans_untrusted):
            with pytest.raises(BencodeError):
                decode(message[:length])


@pytest.mark.parametrize("message", MESSAGES)
def test_a_prefix_may_be_followed_by_raw_bytes(message: bytes) -> None:
    value, end = decode_prefix_untrusted(message + b"\x00\xff:e1:raw")
    assert (value, end) == (decode_untrusted(message), len(message))


def test_the_span_of_a_key_is_its_value_as_it_stands() -> None:
    data = b"d4:spam4:eggs4:infod1:zi1e1:ai2ee3:num" + b"i-5e" + b"e"
    values, spans = decode_with_spans_untrusted(data, strict_order=False)
    assert values == {b"spam": b"eggs", b"info": {b"z": 1, b"a": 2}, b"num": -5}
    assert {key: data[start:end] for key, (start, end) in spans.items()} == {
        b"spam": b"4:eggs",
        b"info": b"d1:zi1e1:ai2ee",
        b"num": b"i-5e",
    }
    with pytest.raises(BencodeError, match="out of order"):
        decode_with_spans_untrusted(data)


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.binary(max_size=30), VALUES, max_size=4))
def test_spans_hold_the_encoding_of_their_values(value: dict[bytes, Value]) -> None:
    data = encode(value)
    values, spans = decode_with_spans_untrusted(data)
    assert values == value
    assert {key: data[start:end] for key, (start, end) in spans.items()} == {k: encode(v) for k, v in value.items()}


def test_only_a_dictionary_has_spans() -> None:
    for data in (b"le", b"i0e", b"0:", b""):
        with pytest.raises(BencodeError, match="not a dictionary"):
            decode_with_spans_untrusted(data)


def test_a_stranger_type_is_the_callers_mistake() -> None:
    with pytest.raises(TypeError, match="float"):
        encode({b"a": 1.5})  # type: ignore[dict-item]


def check(data: bytes) -> bool:
    """Whether the decoders take ``data``; whatever they say, they agree and never accept two spellings of a value."""
    try:
        value = decode_untrusted(data)
    except BencodeError:
        value = None
    else:
        assert encode(value) == data
    try:
        loose = decode_untrusted(data, strict_order=False)
    except BencodeError:
        assert value is None
    else:
        assert sorted(encode(loose)) == sorted(data)
    try:
        values, _ = decode_with_spans_untrusted(data)
    except BencodeError:
        assert not isinstance(value, dict)
    else:
        assert values == value
    try:
        prefix, end = decode_prefix_untrusted(data)
    except BencodeError:
        assert value is None
    else:
        assert encode(prefix) == data[:end]
    return value is not None


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from([b"d", b"l", b"e", b"i", b"-", b"0", b"1", b":", b"1:a", b"2:bb", b"i0e"]), max_size=14)
)
def test_strings_of_tokens_are_refused_or_canonical(tokens: list[bytes]) -> None:
    check(b"".join(tokens))


def test_fuzz_random_bytes_are_refused_or_canonical() -> None:
    seed = fuzz_seed()
    print("SWARM_FUZZ_SEED", seed)
    with at_most(3600):
        for data in random_bytes_cases(random.Random(seed), 60, fuzz_count()):
            check(data)


def test_fuzz_damaged_messages_are_refused_or_canonical() -> None:
    seed = fuzz_seed()
    print("SWARM_FUZZ_SEED", seed)
    accepted = 0
    with at_most(3600):
        for data in mutations(random.Random(seed), MESSAGES, fuzz_count()):
            accepted += check(data)
    assert accepted, "mutations are to reach past the first byte"
