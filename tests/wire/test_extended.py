"""The extension handshake of BEP 10."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.bencode import Encodable, encode
from swarm.errors import RemoteProtocolError
from swarm.wire.extended import (
    MAX_EXTENSIONS,
    MAX_NAME,
    MAX_PAYLOAD,
    ExtendedHandshake,
    parse_extended_handshake_untrusted,
)
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

FULL = ExtendedHandshake(
    m={"ut_metadata": 1, "ut_pex": 2, "ut_holepunch": 4},
    v="swarm 0.1.0",
    p=6881,
    reqq=500,
    yourip="192.0.2.7",
    ipv4="198.51.100.2",
    ipv6="2001:db8::2",
    metadata_size=31235,
    upload_only=True,
    hidden=True,
    e=False,
)


def test_the_example_of_bep_10_is_read() -> None:
    said = parse_extended_handshake_untrusted(
        b"d1:md11:LT_metadatai1e6:\xb5T_PEXi2ee1:pi6881e1:v13:\xc2\xb5Torrent 1.2e"
    )
    assert said == ExtendedHandshake(m={"LT_metadata": 1}, p=6881, v="\xb5Torrent 1.2")


def test_what_we_say_is_the_sorted_dictionary_and_reads_back() -> None:
    assert ExtendedHandshake(m={"ut_pex": 1}, yourip="2001:db8::1", reqq=5, e=True).encode() == (
        b"d1:ei1e1:md6:ut_pexi1ee4:reqqi5e6:yourip16:\x20\x01\x0d\xb8" + bytes(11) + b"\x01e"
    )
    assert parse_extended_handshake_untrusted(FULL.encode()) == FULL
    assert parse_extended_handshake_untrusted(memoryview(ExtendedHandshake().encode())) == ExtendedHandshake()


@pytest.mark.parametrize(
    "key,value",
    [
        (b"m", 1),
        (b"m", [b"ut_pex"]),
        (b"m", {b"ut_pex": 256, b"ut_metadata": -1, b"": 3, b"\xff": 4, b"x" * (MAX_NAME + 1): 5, b"lt_tex": b"6"}),
        (b"v", 5),
        (b"v", b""),
        (b"v", b"\n\x1b"),
        (b"p", 0),
        (b"p", 65536),
        (b"p", b"\x1a\xe1"),
        (b"reqq", 0),
        (b"reqq", -1),
        (b"reqq", 1 << 31),
        (b"yourip", b"12345"),
        (b"yourip", 1),
        (b"ipv4", bytes(16)),
        (b"ipv6", bytes(4)),
        (b"metadata_size", 0),
        (b"metadata_size", [1]),
        (b"upload_only", b"1"),
        (b"e", {}),
        (b"unheard_of", {b"a": [1, [2]]}),
    ],
)
def test_one_odd_field_is_taken_as_not_said(key: bytes, value: Encodable) -> None:
    said = parse_extended_handshake_untrusted(encode({b"complete_ago": 3, key: value}))
    assert said == ExtendedHandshake()


def test_control_characters_do_not_reach_the_client_name() -> None:
    said = parse_extended_handshake_untrusted(encode({b"v": b"\x1b[31mred\xff\r\n" + b"x" * 1000}))
    assert said.v is not None
    assert said.v.startswith("[31mred\ufffdxx")
    assert len(said.v) == MAX_NAME


def test_an_ipv4_mapped_address_is_ipv4() -> None:
    said = parse_extended_handshake_untrusted(encode({b"yourip": bytes(10) + b"\xff\xff\xc0\0\2\1"}))
    assert said.yourip == "192.0.2.1"


def test_the_number_of_extensions_is_bounded() -> None:
    many = {b"x%d" % i: 1 for i in range(3 * MAX_EXTENSIONS)}
    said = parse_extended_handshake_untrusted(encode({b"m": many}))
    assert len(said.m) == MAX_EXTENSIONS
    other = parse_extended_handshake_untrusted(encode({b"m": {b"y" + name: 2 for name in many}}))
    assert len(said.updated(other).m) == MAX_EXTENSIONS


def test_keys_out_of_order_do_not_cost_the_connection() -> None:
    assert parse_extended_handshake_untrusted(b"d1:pi6881e1:mdee").p == 6881


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"i5e",
        b"le",
        b"3:abc",
        b"d",
        b"de ",
        b"d1:pi1e1:pi2ee",
        b"d1:pi06881ee",
        bytes(5),
        b"d" + bytes(MAX_PAYLOAD),
    ],
)
def test_what_is_no_bencoded_dictionary_is_refused(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_extended_handshake_untrusted(payload)
    assert caught.value.reason == "bad-extension-handshake"


def test_every_truncation_is_refused() -> None:
    wire = FULL.encode()
    for cut in range(len(wire)):
        with pytest.raises(RemoteProtocolError):
            parse_extended_handshake_untrusted(wire[:cut])


def test_a_later_handshake_adds_changes_and_switches_off() -> None:
    later = ExtendedHandshake(m={"ut_pex": 0, "ut_holepunch": 9}, reqq=10, upload_only=False)
    now = FULL.updated(later)
    assert now.m == {"ut_metadata": 1, "ut_holepunch": 9}
    assert (now.reqq, now.upload_only, now.p, now.v) == (10, False, 6881, "swarm 0.1.0")


values = st.recursive(
    st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.binary(max_size=8), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(
    [b"m", b"v", b"p", b"reqq", b"yourip", b"ipv4", b"ipv6", b"metadata_size", b"upload_only", b"e", b"sw_hidden"]
)


@given(st.dictionaries(keys | st.binary(max_size=4), values))
def test_whatever_a_dictionary_says_is_in_range(said: dict[bytes, Encodable]) -> None:
    read = parse_extended_handshake_untrusted(encode(said))
    assert parse_extended_handshake_untrusted(read.encode()) == read
    assert read.p is None or 1 <= read.p <= 65535
    assert all(0 <= ext_id <= 255 for ext_id in read.m.values())


def test_random_bytes_and_damaged_handshakes_parse_or_are_refused() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    read = 0
    for cases in (random_bytes_cases(rng, 200, fuzz_count()), mutations(rng, [FULL.encode(), b"de"], fuzz_count())):
        for data in cases:
            try:
                parse_extended_handshake_untrusted(data).encode()
                read += 1
            except RemoteProtocolError as error:
                assert error.reason == "bad-extension-handshake", seed
    assert read
