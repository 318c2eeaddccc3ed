"""The 68-byte handshake and peer ids."""

from __future__ import annotations

import random

import pytest

from swarm.errors import RemoteProtocolError
from swarm.wire.handshake import (
    HANDSHAKE_LENGTH,
    PROTOCOL,
    RESERVED_DHT,
    RESERVED_EXTENDED,
    RESERVED_FAST,
    Handshake,
    client_name,
    looks_like_plaintext,
    make_peer_id,
    parse_handshake_untrusted,
)
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

HANDSHAKE = Handshake(b"i" * 20, b"-SW0100-abcdefghijkl", RESERVED_EXTENDED | RESERVED_FAST | RESERVED_DHT)
WIRE = b"\x13BitTorrent protocol" + b"\0\0\0\0\0\x10\0\x05" + b"i" * 20 + b"-SW0100-abcdefghijkl"


def test_the_layout_is_that_of_bep_3_with_the_bits_of_5_6_and_10() -> None:
    assert HANDSHAKE.encode() == WIRE
    assert parse_handshake_untrusted(WIRE) == HANDSHAKE


def test_each_reserved_bit_has_its_name() -> None:
    for reserved, said in [
        (RESERVED_EXTENDED, (True, False, False)),
        (RESERVED_FAST, (False, True, False)),
        (RESERVED_DHT, (False, False, True)),
        (~(RESERVED_EXTENDED | RESERVED_FAST | RESERVED_DHT) & (1 << 64) - 1, (False, False, False)),
    ]:
        handshake = parse_handshake_untrusted(Handshake(b"i" * 20, b"p" * 20, reserved).encode())
        assert (handshake.extended, handshake.fast, handshake.dht) == said
        assert handshake.reserved == reserved


@pytest.mark.parametrize("length", [*range(HANDSHAKE_LENGTH), HANDSHAKE_LENGTH + 1, 200])
def test_any_other_length_is_refused(length: int) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_handshake_untrusted((WIRE + bytes(200))[:length])
    assert caught.value.reason == "bad-handshake"


def test_another_protocol_is_known_by_its_first_wrong_byte() -> None:
    for length in range(HANDSHAKE_LENGTH):
        assert looks_like_plaintext(WIRE[:length])
    for at in range(len(PROTOCOL)):
        broken = bytearray(WIRE)
        broken[at] ^= 1
        assert looks_like_plaintext(broken[:at])
        assert not looks_like_plaintext(broken[: at + 1])
        assert not looks_like_plaintext(memoryview(broken))
        with pytest.raises(RemoteProtocolError):
            parse_handshake_untrusted(broken)


@pytest.mark.parametrize(
    "info_hash,peer_id,reserved", [(b"i", b"p" * 20, 0), (b"i" * 20, b"", 0), (b"i" * 20, b"p" * 20, -1)]
)
def test_a_handshake_of_ours_with_wrong_fields_is_our_bug(info_hash: bytes, peer_id: bytes, reserved: int) -> None:
    with pytest.raises(ValueError):
        Handshake(info_hash, peer_id, reserved)


def test_random_bytes_and_damaged_handshakes_parse_or_are_refused() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    parsed = 0
    for cases in (random_bytes_cases(rng, 100, fuzz_count()), mutations(rng, [WIRE], fuzz_count())):
        for data in cases:
            try:
                assert parse_handshake_untrusted(data).encode() == data, seed
                parsed += 1
            except RemoteProtocolError:
                pass
    assert parsed


def test_our_peer_ids_are_recognised_and_differ() -> None:
    rng = random.Random(1)
    first, second = make_peer_id(rng), make_peer_id(rng)
    assert len(first) == 20
    assert first != second
    assert first[8:].isalnum()
    assert client_name(first) == "swarm 0.1.0"


@pytest.mark.parametrize(
    "peer_id,name",
    [
        (b"-TR4060-xxxxxxxxxxxx", "Transmission 4.0.6"),
        (b"-TR2940-xxxxxxxxxxxx", "Transmission 2.94"),
        (b"-LT20B0-xxxxxxxxxxxx", "libtorrent 2.0.11"),
        (b"-qB4650-xxxxxxxxxxxx", "qBittorrent 4.6.5"),
        (b"-UT355W-xxxxxxxxxxxx", "uTorrent 3.5.5.32"),
        (b"-ZZ1000-xxxxxxxxxxxx", "ZZ 1.0.0"),
        (b"M7-10-5--xxxxxxxxxxx", "BitTorrent 7.10.5"),
        (b"S58B-----xxxxxxxxxxx", "Shadow 5.8.11"),
        (b"A2-1-18-8-xxxxxxxxxx", "unknown A2118"),
        (b"\x1b[31m\n\xff\0" + b"q" * 13, "unknown 31m"),
        (b"\0" * 20, "unknown"),
        (b"", "unknown"),
    ],
)
def test_clients_are_named_after_their_peer_id(peer_id: bytes, name: str) -> None:
    assert client_name(peer_id) == name


def test_random_bytes_as_peer_id_give_short_printable_text() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    valid = [b"-TR4060-xxxxxxxxxxxx", b"M7-10-5--xxxxxxxxxxx", b"S58B-----xxxxxxxxxxx"]
    for cases in (random_bytes_cases(rng, 20, fuzz_count()), mutations(rng, valid, fuzz_count())):
        for peer_id in cases:
            name = client_name(peer_id)
            assert name.isascii() and name.isprintable() and 0 < len(name) < 50, (seed, peer_id)
