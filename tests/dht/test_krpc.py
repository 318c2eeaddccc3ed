"""dht.krpc against the examples of BEP 5, 32 and 43, every truncation, and junk."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht import bencode, krpc
from dht.compact import encode_nodes, encode_peer
from dht.errors import RemoteProtocolError
from dht.krpc import Error, Query, Response, decode_untrusted
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "krpc.json").read_text())
BYTES = {entry["name"]: entry["bytes"].encode() for entry in VECTORS["messages"]}

LETTERS, DIGITS, OTHER = b"abcdefghij0123456789", b"0123456789abcdefghij", b"mnopqrstuvwxyz123456"
V6_HOST = "4142:4344:4546:4748:494a:4b4c:4d4e:4f50"
PORT = 0x6566  # "ef"

EXPECTED = {
    "generic error": Error(b"aa", 201, b"A Generic Error Ocurred", None),
    "ping query": Query(b"aa", b"ping", LETTERS, b"", 0, 0, b"", False),
    "ping response": Response(b"aa", OTHER, [], [], b"", [], None),
    "find_node query": Query(b"aa", b"find_node", LETTERS, OTHER, 0, 0, b"", False),
    "find_node response": Response(b"aa", DIGITS, [], [], b"", [], None),  # the BEP abridges the nodes to 9 bytes
    "get_peers query": Query(b"aa", b"get_peers", LETTERS, OTHER, 0, 0, b"", False),
    "get_peers response with peers": Response(
        b"aa", LETTERS, [], [], b"aoeusnth", [("97.120.106.101", 0x2E75), ("105.100.104.116", 0x6E6D)], None
    ),
    "get_peers response with nodes": Response(b"aa", LETTERS, [], [], b"aoeusnth", [], None),
    "announce_peer query": Query(b"aa", b"announce_peer", LETTERS, OTHER, 0, 0, b"aoeusnth", False),
    "announce_peer response": Response(b"aa", OTHER, [], [], b"", [], None),
    "find_node query, want": Query(b"aa", b"find_node", LETTERS, OTHER, 3, 0, b"", False),
    "response, both families": Response(
        b"aa",
        LETTERS,
        [(OTHER, ("97.98.99.100", PORT))],
        [(OTHER, (V6_HOST, PORT))],
        b"",
        [("97.120.106.101", 0x2E75), (V6_HOST, PORT)],
        None,
    ),
    "read-only query": Query(b"aa", b"ping", LETTERS, b"", 0, 0, b"", True),
}


@pytest.mark.parametrize("name", BYTES)
def test_the_examples_of_the_specifications_are_understood(name: str) -> None:
    assert decode_untrusted(BYTES[name]) == EXPECTED[name]


def without_version(message: bytes) -> bytes:
    assert b"1:v4:SW\x00\x01" in message
    return message.replace(b"1:v4:SW\x00\x01", b"")


@pytest.mark.parametrize(
    "name,encoded",
    [
        ("ping query", krpc.encode_query(b"aa", b"ping", krpc.ping_arguments(LETTERS))),
        ("read-only query", krpc.encode_query(b"aa", b"ping", krpc.ping_arguments(LETTERS), read_only=True)),
        ("find_node query", krpc.encode_query(b"aa", b"find_node", krpc.find_node_arguments(LETTERS, OTHER))),
        ("find_node query, want", krpc.encode_query(b"aa", b"find_node", krpc.find_node_arguments(LETTERS, OTHER, 3))),
        ("get_peers query", krpc.encode_query(b"aa", b"get_peers", krpc.get_peers_arguments(LETTERS, OTHER))),
        (
            "announce_peer query",
            krpc.encode_query(
                b"aa",
                b"announce_peer",
                krpc.announce_peer_arguments(LETTERS, OTHER, 6881, b"aoeusnth", implied_port=True),
            ),
        ),
    ],
)
def test_queries_are_written_byte_for_byte_as_the_specifications_do(name: str, encoded: bytes) -> None:
    assert without_version(encoded) == BYTES[name]


def test_a_response_is_written_in_the_order_of_its_keys_and_says_who_asked() -> None:
    encoded = krpc.encode_response(
        b"aa",
        LETTERS,
        encode_peer(("97.98.99.100", PORT)),
        nodes=encode_nodes([(OTHER, ("97.98.99.100", PORT))]),
        nodes6=encode_nodes([(OTHER, (V6_HOST, PORT))]),
        token=b"aoeusnth",
        values=b"6:axje.u18:ABCDEFGHIJKLMNOPef",
    )
    assert encoded == bencode.encode(bencode.decode_untrusted(encoded))
    assert decode_untrusted(encoded) == EXPECTED["response, both families"]._replace(
        token=b"aoeusnth", observed=("97.98.99.100", PORT)
    )


def test_an_error_is_written_in_the_order_of_its_keys() -> None:
    encoded = krpc.encode_error(b"aa", 201, b"A Generic Error Ocurred", encode_peer((V6_HOST, PORT)))
    assert encoded == bencode.encode(bencode.decode_untrusted(encoded))
    assert decode_untrusted(encoded) == EXPECTED["generic error"]._replace(observed=(V6_HOST, PORT))


def query(method: bytes, **arguments: bencode.Encodable) -> bytes:
    return bencode.encode(
        {b"a": {key.encode(): value for key, value in arguments.items()}, b"q": method, b"t": b"tt", b"y": b"q"}
    )


@pytest.mark.parametrize(
    "datagram,code",
    [
        (query(b"vote", id=LETTERS), 204),
        (query(b"ping"), 203),
        (query(b"ping", id=b"short"), 203),
        (query(b"find_node", id=LETTERS), 203),
        (query(b"find_node", id=LETTERS, target=7), 203),
        (query(b"get_peers", id=LETTERS, info_hash=bytes(32)), 203),
        (query(b"announce_peer", id=LETTERS, info_hash=OTHER, token=b"t", port=0), 203),
        (query(b"announce_peer", id=LETTERS, info_hash=OTHER, token=b"t", port=65536), 203),
        (query(b"announce_peer", id=LETTERS, info_hash=OTHER, token=b"t"), 203),
        (query(b"announce_peer", id=LETTERS, info_hash=OTHER, port=1), 203),
        (b"d1:q4:ping1:t2:tt1:y1:qe", 203),
    ],
)
def test_a_bad_query_says_what_to_answer(datagram: bytes, code: int) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_untrusted(datagram)
    assert (caught.value.transaction_id, caught.value.code) == (b"tt", code)


@pytest.mark.parametrize(
    "datagram",
    [
        b"de",
        b"le",
        b"i1e",
        b"d1:t2:aae",
        b"d1:t2:aa1:y1:xe",
        b"d1:y1:qe",
        b"d1:ti1e1:y1:qe",
        b"d1:t33:" + bytes(33) + b"1:y1:qe",
        b"d1:rle1:t2:aa1:y1:re",
        b"d1:rd2:id2:xxe1:t2:aa1:y1:re",
        b"d1:eli201ee1:t2:aa1:y1:ee",
        b"d1:e3:201e1:t2:aa1:y1:ee",
        BYTES["ping query"] + b"x",
    ],
)
def test_what_is_no_message_gets_no_answer(datagram: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_untrusted(datagram)
    assert caught.value.code is None


def test_implied_port_wins_over_a_port_and_over_none() -> None:
    for extra in ({}, {"port": 0}, {"port": 6881}):
        message = decode_untrusted(
            query(b"announce_peer", id=LETTERS, info_hash=OTHER, token=b"t", implied_port=1, **extra)
        )
        assert isinstance(message, Query)
        assert message.port == 0
    message = decode_untrusted(
        query(b"announce_peer", id=LETTERS, info_hash=OTHER, token=b"t", implied_port=0, port=80)
    )
    assert isinstance(message, Query)
    assert message.port == 80


def test_keys_out_of_order_are_tolerated_and_keys_given_twice_are_not() -> None:
    assert decode_untrusted(b"d1:y1:q1:t2:aa1:q4:ping1:ad2:id20:abcdefghij0123456789ee") == EXPECTED["ping query"]
    with pytest.raises(RemoteProtocolError):
        decode_untrusted(b"d1:ad2:id20:abcdefghij01234567892:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe")


def test_values_that_are_no_peers_are_skipped() -> None:
    message = decode_untrusted(
        b"d1:rd2:id20:abcdefghij01234567896:valuesl5:abcde6:axje.ui7ele7:abcdefgee1:t2:aa1:y1:re"
    )
    assert isinstance(message, Response)
    assert message.values == [("97.120.106.101", 0x2E75)]


@pytest.mark.parametrize("name", BYTES)
def test_every_truncation_is_refused(name: str) -> None:
    for length in range(len(BYTES[name])):
        with pytest.raises(RemoteProtocolError):
            decode_untrusted(BYTES[name][:length])


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_nothing_but_the_named_error(datagram: bytes) -> None:
    try:
        decode_untrusted(datagram)
    except RemoteProtocolError:
        pass


COMMON = [
    krpc.encode_query(transaction_id, method, arguments, read_only=read_only)
    for transaction_id in (b"a", b"aa", b"aaaa", b"aaaaaaaa")
    for read_only in (False, True)
    for method, arguments in (
        (b"ping", krpc.ping_arguments(LETTERS)),
        *((b"find_node", krpc.find_node_arguments(LETTERS, OTHER, want)) for want in range(4)),
        *((b"get_peers", krpc.get_peers_arguments(LETTERS, OTHER, want)) for want in range(4)),
    )
]


@pytest.mark.parametrize("datagram", [*COMMON, *(without_version(datagram) for datagram in COMMON)])
def test_common_queries_are_read_by_the_pattern_as_by_the_decoder(datagram: bytes) -> None:
    assert krpc._COMMON_QUERY(datagram) is not None
    assert decode_untrusted(datagram) == krpc._decode(datagram)


def test_fuzz_whatever_the_pattern_takes_the_decoder_reads_the_same() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    lookalikes = [datagram.replace(b"find_node", b"get_peers") for datagram in COMMON]
    taken = 0
    for datagram in mutations(rng, [*COMMON, *lookalikes, *BYTES.values()], fuzz_count()):
        if krpc._COMMON_QUERY(datagram) is not None:
            taken += 1
            assert decode_untrusted(datagram) == krpc._decode(datagram), f"seed {seed}: {datagram!r}"
    assert taken > fuzz_count() // 50  # damage inside of an id, mostly


def test_fuzz_random_bytes_and_damaged_messages() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    count = fuzz_count()
    understood = 0
    for datagram in [*random_bytes_cases(rng, 200, count // 4), *mutations(rng, list(BYTES.values()), count)]:
        try:
            message = decode_untrusted(datagram)
        except RemoteProtocolError:
            continue
        except Exception as error:
            raise AssertionError(f"seed {seed}: {datagram!r}") from error
        understood += 1
        if isinstance(message, Query | Response):
            assert len(message.node_id) == 20, f"seed {seed}: {datagram!r}"
        if isinstance(message, Query) and message.method != b"ping":
            assert len(message.target) == 20, f"seed {seed}: {datagram!r}"
    assert understood > count // 100  # the damage is mild enough to reach beyond the decoder of bencoding
