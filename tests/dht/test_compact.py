"""dht.compact against `ipaddress`, and the layouts of the specifications."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dht.compact import (
    CompactError,
    decode_nodes_untrusted,
    decode_peer_untrusted,
    decode_peers_untrusted,
    encode_nodes,
    encode_peer,
    encode_peers,
)
from tests.fuzzing import fuzz_count, fuzz_seed, random_bytes_cases

PORTS = st.integers(0, 65535)
PEERS = st.tuples(st.integers(0, 2**32 - 1).map(IPv4Address).map(str), PORTS)
WORDS = st.lists(st.sampled_from([0, 0, 0, 1, 0xFFFF, 0x2001, 0xDB8]), min_size=8, max_size=8)
PEERS6 = st.tuples(WORDS.map(lambda words: b"".join(word.to_bytes(2, "big") for word in words)), PORTS)


def canonical(packed: bytes) -> str:
    address = IPv6Address(packed)
    return str(address.ipv4_mapped or address)


def test_the_peers_of_bep_5_are_read() -> None:
    assert decode_peers_untrusted(b"axje.u" + b"idhtnm") == [("97.120.106.101", 11893), ("105.100.104.116", 28269)]
    assert decode_peer_untrusted(b"axje.u") == ("97.120.106.101", 11893)


def test_layouts_are_big_endian() -> None:
    assert encode_peer(("192.0.2.1", 6881)) == bytes.fromhex("c00002011ae1")
    assert encode_peer(("2001:db8::1", 6881)) == bytes.fromhex("20010db80000000000000000000000011ae1")
    assert encode_nodes([(b"i" * 20, ("192.0.2.1", 6881))]) == b"i" * 20 + bytes.fromhex("c00002011ae1")


@settings(deadline=None)
@given(st.lists(PEERS))
def test_ipv4_peers_survive_a_round_trip(peers: list[tuple[str, int]]) -> None:
    assert decode_peers_untrusted(encode_peers(peers)) == peers
    assert decode_peers_untrusted(memoryview(encode_peers(peers))) == peers


@settings(deadline=None)
@given(st.lists(PEERS6))
def test_ipv6_text_is_that_of_ipaddress(peers: list[tuple[bytes, int]]) -> None:
    data = b"".join(packed + port.to_bytes(2, "big") for packed, port in peers)
    decoded = decode_peers_untrusted(data, ipv6=True)
    assert decoded == [(canonical(packed), port) for packed, port in peers]
    if all(":" in host for host, _ in decoded):
        assert encode_peers(decoded) == data


@settings(deadline=None)
@given(st.lists(st.tuples(st.binary(min_size=20, max_size=20), PEERS)))
def test_nodes_survive_a_round_trip(nodes: list[tuple[bytes, tuple[str, int]]]) -> None:
    assert decode_nodes_untrusted(encode_nodes(nodes)) == nodes
    six = [(node_id, ("2001:db8::" + host.replace(".", ":"), port)) for node_id, (host, port) in nodes]
    decoded = decode_nodes_untrusted(encode_nodes(six), ipv6=True)
    assert [(node_id, IPv6Address(host), port) for node_id, (host, port) in decoded] == [
        (node_id, IPv6Address(host), port) for node_id, (host, port) in six
    ]


def test_mapped_addresses_come_out_as_ipv4() -> None:
    assert decode_peer_untrusted(bytes(10) + b"\xff\xff\xc0\x00\x02\x01\x1a\xe1") == ("192.0.2.1", 6881)


def test_scopes_are_dropped() -> None:
    assert decode_peer_untrusted(encode_peer(("fe80::1%eth0", 1))) == ("fe80::1", 1)


@pytest.mark.parametrize("ipv6", [False, True])
def test_partial_entries_are_refused_at_every_length(ipv6: bool) -> None:
    peer, node = (18, 38) if ipv6 else (6, 26)
    for length in range(4 * node):
        for size, decode in ((peer, decode_peers_untrusted), (node, decode_nodes_untrusted)):
            if length % size:
                with pytest.raises(CompactError, match=f"{length} bytes"):
                    decode(bytes(length), ipv6=ipv6)
            else:
                assert len(decode(bytes(length), ipv6=ipv6)) == length // size


@pytest.mark.parametrize("length", [*range(6), *range(7, 18), *range(19, 40)])
def test_a_single_peer_has_6_or_18_bytes(length: int) -> None:
    with pytest.raises(CompactError):
        decode_peer_untrusted(bytes(length))


@pytest.mark.parametrize(
    "host, port",
    [("192.0.2", 1), ("192.0.2.256", 1), ("a.b.c.d", 1), ("192.0.2.1", 65536), ("192.0.2.1", -1), ("::g", 1), ("", 1)],
)
def test_what_is_no_address_is_the_callers_mistake(host: str, port: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        encode_peer((host, port))


def test_families_do_not_mix_and_ids_have_20_bytes() -> None:
    with pytest.raises(ValueError, match="IPv4 and IPv6"):
        encode_peers([("192.0.2.1", 1), ("2001:db8::1", 1)])
    with pytest.raises(ValueError, match="20 bytes"):
        encode_nodes([(b"short", ("192.0.2.1", 1))])


def test_fuzz_random_bytes_are_addresses_or_refused() -> None:
    seed = fuzz_seed()
    print("SWARM_FUZZ_SEED", seed)
    for data in random_bytes_cases(random.Random(seed), 120, fuzz_count()):
        for ipv6 in (False, True):
            for decode in (decode_peers_untrusted, decode_nodes_untrusted):
                try:
                    decode(data, ipv6=ipv6)
                except CompactError:
                    continue
