"""Node ids: the test vectors of BEP 42, the checksum's own, exemptions and refresh targets."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from dht.address import is_local, is_usable, network_of
from dht.errors import LocalProtocolError
from dht.nodeid import ID_BITS, crc32c, fits_address, make_node_id, number, random_id_sharing, shared_bits

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "krpc.json").read_text())["secure_ids"]


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720's polynomial, the customary check value
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720 B.4


@pytest.mark.parametrize("host,last_byte,node_id", VECTORS)
def test_the_ids_of_bep_42_fit_their_addresses_and_no_others(host: str, last_byte: int, node_id: str) -> None:
    raw = bytes.fromhex(node_id)
    assert raw[-1] == last_byte
    assert fits_address(raw, host)
    for other, _, _ in VECTORS:
        assert fits_address(raw, other) is (other == host)
    flipped = bytearray(raw)
    flipped[2] ^= 0x08  # the last bit that counts
    assert not fits_address(bytes(flipped), host)
    flipped = bytearray(raw)
    flipped[2] ^= 0x07  # the first three that do not
    assert fits_address(bytes(flipped), host)


@pytest.mark.parametrize("host", ["124.31.75.21", "2001:db8:85a3:1234::1", "8.8.8.8"])
def test_ids_that_are_made_for_an_address_fit_it(host: str) -> None:
    rng = random.Random(1)
    ids = {make_node_id(host, rng) for _ in range(50)}
    assert len(ids) == 50
    assert all(fits_address(node_id, host) for node_id in ids)
    assert len({node_id[:2] for node_id in ids}) <= 8  # three bits of choice


def test_the_low_half_of_an_ipv6_address_does_not_matter() -> None:
    node_id = make_node_id("2001:db8:85a3:1234::1", random.Random(2))
    assert fits_address(node_id, "2001:db8:85a3:1234:ffff::2")
    assert not fits_address(node_id, "2001:db8:85a3:1235::1")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.7.7",
        "169.254.1.1",
        "::1",
        "fe80::1",
        "fd00::1",
    ],
)
def test_local_hosts_may_claim_any_id(host: str) -> None:
    assert is_local(host)
    assert fits_address(bytes(20), host)
    assert network_of(host) == host


@pytest.mark.parametrize("host", ["172.15.0.1", "172.32.0.1", "192.169.0.1", "169.253.0.1", "11.0.0.1", "2001:db8::1"])
def test_neighbours_of_the_local_ranges_are_public(host: str) -> None:
    assert not is_local(host)


def test_networks_are_the_24_and_the_64() -> None:
    assert network_of("192.0.2.1") == network_of("192.0.2.254") != network_of("192.0.3.1")
    assert network_of("2001:db8::1") == network_of("2001:db8:0:0:8000::2") != network_of("2001:db8:0:1::1")


@pytest.mark.parametrize(
    "address,ipv6,usable",
    [
        (("192.0.2.1", 1), False, True),
        (("192.0.2.1", 0), False, False),
        (("192.0.2.1", 1), True, False),
        (("0.0.0.0", 1), False, False),
        (("224.0.0.1", 1), False, False),
        (("255.255.255.255", 1), False, False),
        (("2001:db8::1", 1), True, True),
        (("2001:db8::1", 1), False, False),
        (("::", 1), True, False),
        (("ff02::1", 1), True, False),
    ],
)
def test_only_addresses_that_a_node_can_have_are_usable(address: tuple[str, int], ipv6: bool, usable: bool) -> None:
    assert is_usable(address, ipv6=ipv6) is usable


@pytest.mark.parametrize("bits", [0, 1, 7, 8, 100, 158, 159])
def test_a_refresh_target_shares_exactly_so_many_bits(bits: int) -> None:
    rng = random.Random(bits)
    own = rng.getrandbits(ID_BITS)
    for _ in range(20):
        assert shared_bits(own, number(random_id_sharing(own, bits, rng))) == bits


def test_an_id_of_another_length_is_a_local_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        number(bytes(19))
