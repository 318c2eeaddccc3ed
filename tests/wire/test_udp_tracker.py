"""The datagrams of UDP trackers (BEP 15, BEP 41)."""

from __future__ import annotations

import random
import struct
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.endpoint import Endpoint, is_dialable
from swarm.errors import RemoteProtocolError
from swarm.wire.tracker import AnnounceFailure, AnnounceReply, AnnounceRequest, ScrapeEntry
from swarm.wire.udp_tracker import (
    MAX_SCRAPE,
    encode_announce,
    encode_connect,
    encode_scrape,
    encode_url_data,
    parse_announce_untrusted,
    parse_connect_untrusted,
    parse_error_untrusted,
    parse_scrape_untrusted,
    parse_url_data_untrusted,
    peek_reply,
)
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

HASH, PEER_ID = b"h" * 20, b"p" * 20
REQUEST = AnnounceRequest(
    info_hash=HASH, peer_id=PEER_ID, port=6881, uploaded=3, downloaded=1, left=2, event="started", key=7, numwant=-1
)
CONNECTED = struct.pack(">IIQ", 0, 5, 2**63)
ANNOUNCED = struct.pack(">IIIII", 1, 5, 900, 2, 3) + bytes((192, 0, 2, 1, 0x1A, 0xE1))
SCRAPED = struct.pack(">IIIII", 2, 5, 1, 2, 3)
FAILED = struct.pack(">II", 3, 5) + b"not \x07allowed\0trailing"
HASHES = (HASH,)


def test_a_connect_request_is_laid_out_as_in_the_bep() -> None:
    assert encode_connect(0x01020304).hex() == "000004172710198000000000" + "01020304"


def test_an_announce_request_is_laid_out_as_in_the_bep() -> None:
    packet = encode_announce(0x0807060504030201, 9, REQUEST)
    assert len(packet) == 98
    assert packet[:16].hex() == "08070605040302010000000100000009"
    assert packet[16:56] == HASH + PEER_ID
    assert struct.unpack(">QQQ", packet[56:80]) == (1, 2, 3)  # downloaded, left, uploaded
    assert struct.unpack(">IIIiH", packet[80:]) == (2, 0, 7, -1, 6881)


@pytest.mark.parametrize(("event", "number"), [("", 0), ("completed", 1), ("started", 2), ("stopped", 3)])
def test_events_have_the_numbers_of_the_bep(event: str, number: int) -> None:
    request = AnnounceRequest(
        info_hash=HASH,
        peer_id=PEER_ID,
        port=1,
        uploaded=0,
        downloaded=0,
        left=0,
        event=event,  # type: ignore[arg-type]
    )
    assert encode_announce(1, 2, request)[80:84] == number.to_bytes(4, "big")


def test_url_data_follows_as_options_with_an_end_mark() -> None:
    assert encode_announce(1, 2, REQUEST, b"/a?b")[98:] == b"\x02\x04/a?b\x00"
    assert encode_url_data(b"") == b""
    assert encode_url_data(b"x" * 300) == b"\x02\xff" + b"x" * 255 + b"\x02\x2d" + b"x" * 45 + b"\x00"


@given(st.binary(max_size=700))
def test_url_data_survives_the_options(data: bytes) -> None:
    assert parse_url_data_untrusted(encode_url_data(data)) == data


def test_unknown_options_and_padding_are_skipped_and_torn_ones_refused() -> None:
    assert parse_url_data_untrusted(b"\x01\x01\x09\x02zz\x02\x01a\x02\x01b\x00\x02\x01c") == b"ab"
    for torn in (b"\x02", b"\x02\x05abc", b"\x09\x01"):
        with pytest.raises(RemoteProtocolError):
            parse_url_data_untrusted(torn)


def test_a_scrape_request_lists_hashes_and_has_a_limit() -> None:
    assert encode_scrape(1, 2, [HASH, PEER_ID])[16:] == HASH + PEER_ID
    with pytest.raises(ValueError):
        encode_scrape(1, 2, [HASH] * (MAX_SCRAPE + 1))


def test_replies_are_understood() -> None:
    assert peek_reply(ANNOUNCED) == (1, 5)
    assert parse_connect_untrusted(CONNECTED) == 2**63
    assert parse_announce_untrusted(ANNOUNCED + b"torn", ipv6=False) == AnnounceReply(
        interval=900.0, peers=(Endpoint("192.0.2.1", 6881),), seeders=3, leechers=2
    )
    assert parse_scrape_untrusted(SCRAPED, HASHES) == {HASH: ScrapeEntry(1, 2, 3)}
    assert parse_error_untrusted(FAILED) == AnnounceFailure("not \ufffdallowed")
    assert parse_error_untrusted(FAILED[:8]) == AnnounceFailure("unspecified error")


def test_a_reply_over_ipv6_has_18_bytes_a_peer() -> None:
    packet = ANNOUNCED[:20] + bytes.fromhex("20010db8000000000000000000000001") + b"\x1a\xe1"
    reply = parse_announce_untrusted(packet, ipv6=True)
    assert isinstance(reply, AnnounceReply)
    assert reply.peers == (Endpoint("2001:db8::1", 6881),)


def test_every_truncation_of_the_fixed_part_is_refused() -> None:
    for length in range(16):
        with pytest.raises(RemoteProtocolError):
            parse_connect_untrusted(CONNECTED[:length])
    for length in range(20):
        if length == 8:
            assert isinstance(parse_announce_untrusted(ANNOUNCED[:8], ipv6=False), AnnounceFailure)
        else:
            with pytest.raises(RemoteProtocolError):
                parse_announce_untrusted(ANNOUNCED[:length], ipv6=False)
        with pytest.raises(RemoteProtocolError):
            parse_scrape_untrusted(SCRAPED[:length], HASHES)
    assert [peek_reply(FAILED[:length]) for length in range(8)] == [None] * 8
    assert peek_reply(struct.pack(">II", 4, 5)) is None


def test_random_bytes_and_damaged_replies_raise_only_the_named_error() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    print(f"seed {seed}")
    valid = [CONNECTED, ANNOUNCED, SCRAPED, FAILED]
    inputs = chain(random_bytes_cases(rng, 120, fuzz_count() // 4), mutations(rng, valid, fuzz_count()))
    for packet in inputs:
        for ipv6 in (False, True):
            try:
                reply = parse_announce_untrusted(packet, ipv6=ipv6)
            except RemoteProtocolError:
                continue
            if isinstance(reply, AnnounceReply):
                assert 30 <= reply.min_interval <= reply.interval
                assert all(is_dialable(peer) for peer in reply.peers)
        assert parse_error_untrusted(packet).reason.isprintable()
        for parse in (
            parse_connect_untrusted,
            parse_url_data_untrusted,
            lambda data: parse_scrape_untrusted(data, HASHES),
        ):
            try:
                parse(packet)
            except RemoteProtocolError:
                continue
