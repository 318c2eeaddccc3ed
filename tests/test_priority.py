"""BEP 40: the specification's vectors, and what both ends must agree on."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address

import pytest

from dht.nodeid import crc32c
from swarm.endpoint import Endpoint
from swarm.priority import peer_priority


@pytest.mark.parametrize(
    ("theirs", "priority"), [("98.76.54.32", 0xEC2D7224), ("123.213.32.234", 0x99568189)], ids=["far", "same /24"]
)
def test_the_vectors_of_the_specification(theirs: str, priority: int) -> None:
    assert peer_priority(Endpoint("123.213.32.10", 1), Endpoint(theirs, 2)) == priority


def test_both_ends_agree() -> None:
    rng = random.Random(4)
    for _ in range(200):
        a, b = (Endpoint(str(IPv4Address(rng.getrandbits(32))), rng.randrange(65536)) for _ in range(2))
        assert peer_priority(a, b) == peer_priority(b, a)
        a, b = (Endpoint(str(IPv6Address(0x2001 << 112 | rng.getrandbits(100))), 1) for _ in range(2))
        assert peer_priority(a, b) == peer_priority(b, a)


def test_within_a_16_only_the_last_byte_is_masked() -> None:
    expected = crc32c(bytes([123, 213, 32, 10 & 0x55, 123, 213, 33, 234 & 0x55]))
    assert peer_priority(Endpoint("123.213.33.234", 1), Endpoint("123.213.32.10", 1)) == expected


def test_equal_addresses_are_ordered_by_port() -> None:
    expected = crc32c(bytes.fromhex("00501ae1"))
    assert peer_priority(Endpoint("192.0.2.1", 6881), Endpoint("192.0.2.1", 80)) == expected


def test_ipv6_is_masked_beyond_the_48_and_further_where_prefixes_are_shared() -> None:
    far = bytes.fromhex("20010db80001" + "5555" + "55" * 8), bytes.fromhex("20010db80002" + "5555" + "55" * 8)
    ones = "ffff:ffff:ffff:ffff:ffff"
    assert peer_priority(Endpoint(f"2001:db8:1:{ones}", 1), Endpoint(f"2001:db8:2:{ones}", 1)) == crc32c(
        far[0] + far[1]
    )
    same = (
        bytes.fromhex("20010db80001" + "00" + "55" + "00" * 8),
        bytes.fromhex("20010db80001" + "ff" + "55" + "00" * 8),
    )
    ours, theirs = Endpoint("2001:db8:1:ff::", 1), Endpoint("2001:db8:1:ffff::", 1)
    assert peer_priority(ours, theirs) == crc32c(same[0] + same[1])


def test_there_is_no_priority_between_families() -> None:
    with pytest.raises(ValueError, match="no priority"):
        peer_priority(Endpoint("192.0.2.1", 1), Endpoint("2001:db8::1", 1))
