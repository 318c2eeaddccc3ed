"""The HTTP form of announces and scrapes (BEP 3, 7, 23, 24, 31, 48)."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from ipaddress import IPv6Address
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.bencode import encode
from swarm.endpoint import Endpoint, is_dialable
from swarm.errors import RemoteProtocolError
from swarm.wire.tracker import (
    DEFAULT_INTERVAL,
    LONGEST_INTERVAL,
    MAX_PEERS,
    MAX_TEXT,
    SHORTEST_INTERVAL,
    AnnounceFailure,
    AnnounceReply,
    AnnounceRequest,
    ScrapeEntry,
    announce_url,
    parse_announce_reply_untrusted,
    parse_scrape_reply_untrusted,
    scrape_url,
)
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

HASH = bytes(range(0, 200, 10))
PEER_ID = b"-SW0100-abcdefghijkl"
V6 = IPv6Address("2001:db8::7").packed

REPLIES = [
    b"d8:intervali1800e5:peers6:iiiipp6:peers618:iiiiiiiiiiiiiiiippe",  # the example of BEP 7
    b"d8:completei3e11:external ip4:\xcb\x00\x71\x0910:incompletei2e8:intervali900e12:min intervali300e5:peers0:"
    b"10:tracker id3:abc15:warning message4:slowe",
    b"d8:intervali60e5:peersld2:ip9:192.0.2.14:porti6881eed2:ip11:2001:db8::14:porti6882eeee",
    b"d14:failure reason12:unregistered8:retry in5:nevere",
    b"d14:failure reason4:busy8:retry ini5ee",
]
SCRAPES = [
    b"d5:filesd20:xxxxxxxxxxxxxxxxxxxxd8:completei11e10:downloadedi13772e10:incompletei19eeee",
    b"d14:failure_reason2:noe",
]


def request(**changes: object) -> AnnounceRequest:
    plain = AnnounceRequest(info_hash=HASH, peer_id=PEER_ID, port=6881, uploaded=1, downloaded=2, left=3, key=0xABCDEF)
    return replace(plain, **changes)  # type: ignore[arg-type]


def reply(**fields: object) -> AnnounceReply:
    parsed = parse_announce_reply_untrusted(encode({key.replace("_", " ").encode(): v for key, v in fields.items()}))
    assert isinstance(parsed, AnnounceReply)
    return parsed


def test_the_query_holds_every_field_and_survives_decoding() -> None:
    url = announce_url(
        "http://tracker.example/announce", request(event="started", tracker_id=b"a&b", ipv6="2001:db8::1")
    )
    fields = dict(parse_qsl(urlsplit(url).query, encoding="latin-1"))
    assert fields == {
        "info_hash": HASH.decode("latin-1"),
        "peer_id": PEER_ID.decode(),
        "port": "6881",
        "uploaded": "1",
        "downloaded": "2",
        "left": "3",
        "compact": "1",
        "no_peer_id": "1",
        "numwant": "200",
        "key": "00ABCDEF",
        "event": "started",
        "trackerid": "a&b",
        "ipv6": "2001:db8::1",
    }
    assert url.isascii()


def test_a_passkey_in_the_query_stays_in_front() -> None:
    url = announce_url("https://t.example:444/a.php?passkey=1%2F2#top", request())
    assert url.startswith("https://t.example:444/a.php?passkey=1%2F2&info_hash=")
    assert "#" not in url


@given(info_hash=st.binary(min_size=20, max_size=20), peer_id=st.binary(min_size=20, max_size=20))
def test_any_hash_and_peer_id_survive_the_url(info_hash: bytes, peer_id: bytes) -> None:
    query = urlsplit(announce_url("http://t/announce", request(info_hash=info_hash, peer_id=peer_id))).query
    fields = dict(parse_qsl(query, encoding="latin-1"))
    assert fields["info_hash"].encode("latin-1") == info_hash
    assert fields["peer_id"].encode("latin-1") == peer_id


@pytest.mark.parametrize(
    "changes", [{"info_hash": b"short"}, {"peer_id": b""}, {"port": 65536}, {"key": -1}, {"left": -1}]
)
def test_an_impossible_request_is_our_own_fault(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        request(**changes)


def test_the_example_of_bep_7() -> None:
    parsed = parse_announce_reply_untrusted(REPLIES[0])
    assert parsed == AnnounceReply(
        interval=1800.0,
        peers=(
            Endpoint("105.105.105.105", 0x7070),
            Endpoint("6969:6969:6969:6969:6969:6969:6969:6969", 0x7070),
        ),
    )


def test_all_optional_fields_are_understood() -> None:
    assert parse_announce_reply_untrusted(REPLIES[1]) == AnnounceReply(
        interval=900.0,
        min_interval=300.0,
        peers=(),
        seeders=3,
        leechers=2,
        external_host="203.0.113.9",
        warning="slow",
        tracker_id=b"abc",
    )


def test_peers_as_dictionaries_are_understood_and_names_among_them_dropped() -> None:
    peers = [
        {b"ip": b"192.0.2.1", b"port": 1, b"peer id": PEER_ID},
        {b"ip": b"2001:db8::1", b"port": 2},
        {b"ip": b"peer.example", b"port": 3},
        {b"ip": b"\xff\xfe", b"port": 3},
        {b"ip": b"192.0.2.2", b"port": 0},
        {b"ip": b"192.0.2.2", b"port": 65536},
        {b"ip": b"192.0.2.2"},
        b"192.0.2.3",
    ]
    assert reply(interval=60, peers=peers).peers == (Endpoint("192.0.2.1", 1), Endpoint("2001:db8::1", 2))


def test_addresses_nobody_can_be_reached_at_are_dropped() -> None:
    packed = b"".join(
        bytes(address) + port.to_bytes(2, "big")
        for address, port in [
            ((192, 0, 2, 1), 6881),
            ((192, 0, 2, 1), 6881),  # again
            ((192, 0, 2, 1), 0),
            ((0, 0, 0, 0), 6881),
            ((224, 0, 0, 1), 6881),
            ((255, 255, 255, 255), 6881),
        ]
    )
    assert reply(peers=packed + b"torn").peers == (Endpoint("192.0.2.1", 6881),)


def test_an_ipv4_address_mapped_into_peers6_is_the_ipv4_address() -> None:
    mapped = IPv6Address("::ffff:192.0.2.1").packed + b"\x1a\xe1"
    assert reply(peers6=mapped).peers == (Endpoint("192.0.2.1", 6881),)


def test_the_number_of_peers_is_bounded() -> None:
    many = b"".join(bytes((10, n >> 16, n >> 8 & 255, n & 255, 1, 1)) for n in range(1, 3 * MAX_PEERS))
    assert len(reply(peers=many).peers) == MAX_PEERS


@pytest.mark.parametrize(
    ("fields", "interval", "min_interval"),
    [
        ({"interval": 0}, DEFAULT_INTERVAL, 60),
        ({"interval": -5}, DEFAULT_INTERVAL, 60),
        ({"interval": 10**12}, LONGEST_INTERVAL, 60),
        ({"interval": b"1800"}, DEFAULT_INTERVAL, 60),
        ({"interval": 1}, SHORTEST_INTERVAL, SHORTEST_INTERVAL),
        ({"interval": 900, "min_interval": 300}, 900, 300),
        ({"interval": 900, "min_interval": 1800}, 1800, 1800),
        ({"interval": 900, "min_interval": -1}, 900, 60),
        ({"interval": 900, "min_interval": 10**12}, LONGEST_INTERVAL, LONGEST_INTERVAL),
        ({"interval": 0, "min_interval": 7200}, 7200, 7200),
    ],
)
def test_odd_intervals_are_clamped(fields: dict[str, object], interval: float, min_interval: float) -> None:
    parsed = reply(peers=b"", **fields)
    assert (parsed.interval, parsed.min_interval) == (interval, min_interval)


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        (REPLIES[3], AnnounceFailure("unregistered", math.inf)),
        (REPLIES[4], AnnounceFailure("busy", 300.0)),
        (b"d14:failure reason4:busy8:retry in2:10e", AnnounceFailure("busy", 600.0)),
        (b"d14:failure reason4:busy8:retry ini-1ee", AnnounceFailure("busy")),
        (b"d14:failure reason4:busy8:retry ini999999999999ee", AnnounceFailure("busy", LONGEST_INTERVAL)),
        (b"d14:failure reason0:e", AnnounceFailure("")),
        (b"d14:failure reason9:a\x1b[31mb\nce", AnnounceFailure("a\ufffd[31mb\ufffdc")),
        (b"d14:failure reasoni1ee", AnnounceFailure("")),
    ],
)
def test_a_failure_reason_is_told_apart_and_made_printable(body: bytes, failure: AnnounceFailure) -> None:
    assert parse_announce_reply_untrusted(body) == failure


def test_words_of_a_tracker_are_bounded() -> None:
    failure = parse_announce_reply_untrusted(encode({b"failure reason": "é".encode() * 5000}))
    assert failure == AnnounceFailure("é" * MAX_TEXT)


def test_negative_counts_say_nothing_and_an_unspecified_external_address_neither() -> None:
    parsed = reply(interval=60, complete=-1, incomplete=10**15, external_ip=bytes(4), tracker_id=b"x" * 600)
    assert (parsed.seeders, parsed.leechers, parsed.external_host, parsed.tracker_id) == (None, 2**31 - 1, None, None)
    assert reply(interval=60, external_ip=V6).external_host == "2001:db8::7"


def test_keys_in_any_order_and_a_line_end_behind_are_accepted() -> None:
    parsed = parse_announce_reply_untrusted(b"d5:peers0:8:intervali900ee\r\n")
    assert isinstance(parsed, AnnounceReply)
    assert parsed.interval == 900


@pytest.mark.parametrize("body", [b"", b"<html>", b"le", b"i1e", b"de", b"d5:filesdee", b"d1:ai0e-6:", b"d8:interval"])
def test_what_is_no_announce_reply_is_refused(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_announce_reply_untrusted(body)
    assert caught.value.reason == "bad-tracker-reply"


@pytest.mark.parametrize(
    ("announce", "scrape"),
    [
        ("http://t.example/announce", "http://t.example/scrape?info_hash=" + "a" * 20),
        ("http://t.example/x/announce.php?k=1", "http://t.example/x/scrape.php?k=1&info_hash=" + "a" * 20),
        ("http://t.example/announce/x", None),
        ("http://t.example/a", None),
    ],
)
def test_the_scrape_url_is_made_from_the_last_part_of_the_path(announce: str, scrape: str | None) -> None:
    assert scrape_url(announce, [b"a" * 20]) == scrape


def test_a_scrape_reply_is_understood() -> None:
    assert parse_scrape_reply_untrusted(SCRAPES[0]) == {b"x" * 20: ScrapeEntry(11, 13772, 19)}
    assert parse_scrape_reply_untrusted(SCRAPES[1]) == AnnounceFailure("no")
    assert parse_scrape_reply_untrusted(b"d5:filesd1:xd8:completei1eee3:fooi1ee") == {}
    with pytest.raises(RemoteProtocolError):
        parse_scrape_reply_untrusted(b"d5:filesi1ee")


def check_bounds(body: bytes) -> None:
    """Both parsers, on anything: the named error or a value within its bounds."""
    try:
        parsed = parse_announce_reply_untrusted(body)
    except RemoteProtocolError:
        pass
    else:
        if isinstance(parsed, AnnounceFailure):
            assert len(parsed.reason) <= MAX_TEXT
            assert parsed.reason.isprintable()
            assert parsed.retry_in is None or parsed.retry_in > 0
        else:
            assert SHORTEST_INTERVAL <= parsed.min_interval <= parsed.interval <= LONGEST_INTERVAL
            assert all(is_dialable(peer) for peer in parsed.peers)
            assert parsed.warning.isprintable()
    try:
        scraped = parse_scrape_reply_untrusted(body)
    except RemoteProtocolError:
        return
    assert isinstance(scraped, AnnounceFailure) or all(len(info_hash) == 20 for info_hash in scraped)


@pytest.mark.parametrize("body", REPLIES + SCRAPES)
def test_every_truncation_is_refused(body: bytes) -> None:
    for length in range(len(body)):
        with pytest.raises(RemoteProtocolError):
            parse_announce_reply_untrusted(body[:length])
        with pytest.raises(RemoteProtocolError):
            parse_scrape_reply_untrusted(body[:length])


def test_random_bytes_and_damaged_replies_keep_to_the_bounds() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    print(f"seed {seed}")
    for body in random_bytes_cases(rng, 200, fuzz_count() // 4):
        check_bounds(body)
    for body in mutations(rng, REPLIES + SCRAPES, fuzz_count()):
        check_bounds(body)


bencodable = st.recursive(
    st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=20), inner, max_size=4),
    max_leaves=10,
)
KEYS = (
    b"interval",
    b"min interval",
    b"peers",
    b"peers6",
    b"complete",
    b"incomplete",
    b"external ip",
    b"warning message",
    b"failure reason",
    b"retry in",
    b"tracker id",
    b"files",
)


@given(st.dictionaries(st.sampled_from(KEYS), bencodable))
def test_any_value_under_any_known_key_keeps_to_the_bounds(fields: dict[bytes, object]) -> None:
    check_bounds(encode(fields))  # type: ignore[arg-type]
