"""Announcements of BEP 14: as other clients write them, cut short, damaged."""

from __future__ import annotations

import random
from contextlib import suppress
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import RemoteProtocolError
from swarm.wire.lsd import (
    GROUP,
    GROUP6,
    LONGEST_ACCEPTED,
    MAX_ANNOUNCEMENT,
    MAX_COOKIE,
    MAX_INFO_HASHES,
    Announcement,
    decode_announcement_untrusted,
    encode_announcement,
)
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

HASH = bytes(range(20))
HEX = b"000102030405060708090a0b0c0d0e0f10111213"

LIBTORRENT = (
    b"BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 6881\r\nInfohash: " + HEX + b"\r\n"
    b"cookie: 4f2a91c0\r\n\r\n\r\n"
)
TRANSMISSION = (
    b"BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 51413\r\nInfohash: " + HEX.upper() + b"\r\n\r\n\r\n"
)
SEVERAL = (
    b"BT-SEARCH * HTTP/1.1\r\nHost: [ff15::efc0:988f]:6771\r\nPort: 1\r\nInfohash: " + HEX + b"\r\n"
    b"Infohash: " + b"ff" * 20 + b"\r\nInfohash: " + HEX + b"\r\ncookie: abc\r\n\r\n\r\n"
)
VALID = (LIBTORRENT, TRANSMISSION, SEVERAL)


def datagram(*lines: bytes, request: bytes = b"BT-SEARCH * HTTP/1.1", end: bytes = b"\r\n\r\n\r\n") -> bytes:
    return b"\r\n".join((request, *lines)) + end


def assert_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_announcement_untrusted(data)
    assert caught.value.reason == "bad-lsd"


def test_an_announcement_is_laid_out_as_in_the_bep() -> None:
    assert encode_announcement(GROUP, 6881, [HASH], b"c00c1e") == LIBTORRENT.replace(b"4f2a91c0", b"c00c1e")
    assert encode_announcement(GROUP6, 6881, [HASH], b"c00c1e") == LIBTORRENT.replace(b"4f2a91c0", b"c00c1e").replace(
        b"239.192.152.143", b"[ff15::efc0:988f]"
    )


def test_the_groups_are_those_of_the_bep() -> None:
    assert str(GROUP) == "239.192.152.143:6771"
    assert str(GROUP6) == "[ff15::efc0:988f]:6771"


def test_other_clients_are_understood() -> None:
    assert decode_announcement_untrusted(LIBTORRENT) == Announcement(6881, (HASH,), b"4f2a91c0")
    assert decode_announcement_untrusted(TRANSMISSION) == Announcement(51413, (HASH,), b"")
    assert decode_announcement_untrusted(memoryview(SEVERAL)) == Announcement(1, (HASH, b"\xff" * 20), b"abc")


def test_names_are_of_any_case_and_unknown_ones_are_passed_over() -> None:
    data = datagram(b"PORT:7", b"x-new: \xe9?", b"infoHASH:\t" + HEX + b" ", b"Empty:", request=b"bt-search * http/1.0")
    assert decode_announcement_untrusted(data) == Announcement(7, (HASH,))


def test_one_empty_line_is_enough() -> None:
    assert decode_announcement_untrusted(LIBTORRENT[:-2]) == decode_announcement_untrusted(LIBTORRENT)


@pytest.mark.parametrize("whole", VALID)
def test_every_truncation_is_refused(whole: bytes) -> None:
    for length in range(len(whole) - 4):
        assert_refused(whole[:length])
    assert_refused(whole[:-3])
    assert_refused(whole[:-1])


@pytest.mark.parametrize("port", [b"", b"0", b"65536", b"-1", b"+1", b"1e3", b"000001", "١".encode(), b"1 2"])
def test_what_is_no_port_is_refused(port: bytes) -> None:
    assert_refused(datagram(b"Port: " + port, b"Infohash: " + HEX))


@pytest.mark.parametrize("info_hash", [b"", HEX[:-1], HEX + b"0", b"g" * 40, HEX + HEX[:24], b"\xb2" * 40])
def test_what_is_no_info_hash_is_refused(info_hash: bytes) -> None:
    assert_refused(datagram(b"Port: 1", b"Infohash: " + HEX, b"Infohash: " + info_hash))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        datagram(b"Infohash: " + HEX),
        datagram(b"Port: 1"),
        datagram(b"Port: 1", b"Port: 1", b"Infohash: " + HEX),
        datagram(b"Port: 1", b"Infohash: " + HEX, b"no colon"),
        datagram(b"Port: 1", b"Infohash: " + HEX, b" folded: x"),
        datagram(b"Port : 1", b"Infohash: " + HEX),
        datagram(b"Port: 1", b"Infohash: " + HEX, b"nul: \0"),
        datagram(b"Port: 1", b"Infohash: " + HEX, b"line: a\nb"),
        datagram(b"Port: 1", b"Infohash: " + HEX, end=b"\r\n\r\nmore"),
        datagram(b"Port: 1", b"Infohash: " + HEX, end=b"\r\n\r\n\r\n\r\n"),
        datagram(b"Port: 1", b"Infohash: " + HEX, request=b"M-SEARCH * HTTP/1.1"),
        datagram(b"Port: 1", b"Infohash: " + HEX, request=b"BT-SEARCH * HTTP/2.0"),
        datagram(b"Port: 1", b"Infohash: " + HEX, b"pad: " + b"x" * LONGEST_ACCEPTED),
        LIBTORRENT.replace(b"\r\n", b"\n"),
        b"\r\n" + LIBTORRENT,
    ],
)
def test_what_is_no_announcement_is_refused(data: bytes) -> None:
    assert_refused(data)


def test_of_a_long_cookie_the_front_is_kept() -> None:
    data = datagram(b"Port: 1", b"Infohash: " + HEX, b"cookie: " + b"c" * 500)
    assert decode_announcement_untrusted(data).cookie == b"c" * MAX_COOKIE


def test_the_fullest_announcement_fits_and_the_smallest_is_read_by_old_clients() -> None:
    hashes = [bytes([number]) * 20 for number in range(MAX_INFO_HASHES)]
    for group in (GROUP, GROUP6):
        fullest = encode_announcement(group, 65535, hashes, b"c" * MAX_COOKIE)
        assert len(fullest) <= MAX_ANNOUNCEMENT
        assert decode_announcement_untrusted(fullest) == Announcement(65535, tuple(hashes), b"c" * MAX_COOKIE)
        assert len(encode_announcement(group, 65535, hashes[:1], b"c" * 16)) < 200


@pytest.mark.parametrize(
    ("port", "count", "cookie"),
    [
        (0, 1, b"c"),
        (65536, 1, b"c"),
        (1, 0, b"c"),
        (1, MAX_INFO_HASHES + 1, b"c"),
        (1, 1, b""),
        (1, 1, b"a\r\nb"),
        (1, 1, b"c" * (MAX_COOKIE + 1)),
    ],
)
def test_what_cannot_be_announced_is_our_mistake(port: int, count: int, cookie: bytes) -> None:
    with pytest.raises(ValueError, match="no announcement"):
        encode_announcement(GROUP, port, [HASH] * count, cookie)


@given(
    st.integers(1, 65535),
    st.lists(st.binary(min_size=20, max_size=20), min_size=1, max_size=MAX_INFO_HASHES, unique=True),
    st.text("0123456789abcdefXYZ", min_size=1, max_size=MAX_COOKIE),
)
def test_what_is_encoded_is_decoded(port: int, hashes: list[bytes], cookie: str) -> None:
    decoded = decode_announcement_untrusted(encode_announcement(GROUP, port, hashes, cookie.encode()))
    assert decoded == Announcement(port, tuple(hashes), cookie.encode())


@given(st.binary(max_size=200))
def test_anything_is_decoded_or_refused(data: bytes) -> None:
    with suppress(RemoteProtocolError):
        decode_announcement_untrusted(data)


def test_random_bytes_and_damaged_announcements_are_decoded_or_refused() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    inputs = chain(random_bytes_cases(rng, 1500, fuzz_count() // 4), mutations(rng, VALID, fuzz_count()))
    for data in inputs:
        try:
            decoded = decode_announcement_untrusted(data)
        except RemoteProtocolError as error:
            assert error.reason == "bad-lsd", (seed, data)
        else:
            assert 1 <= decoded.port <= 65535, (seed, data)
            assert decoded.info_hashes, (seed, data)
            assert all(len(info_hash) == 20 for info_hash in decoded.info_hashes), (seed, data)
