"""NAT-PMP datagrams as RFC 6886 lays them out, and what is not one."""

from __future__ import annotations

import random

import pytest

from swarm.errors import RemoteProtocolError
from swarm.gateway.natpmp import (
    AddressResponse,
    ErrorResponse,
    MapResponse,
    encode_address_request,
    encode_map_request,
    parse_response_untrusted,
    retransmission_waits,
)
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

ADDRESS = bytes.fromhex("00 80 0000 00000102 14320001")
MAPPED_UDP = bytes.fromhex("00 81 0000 00000102 1ae1 1b58 00000e10")
MAPPED_TCP = bytes.fromhex("00 82 0000 00000102 1ae1 1b58 00000e10")
REFUSED = bytes.fromhex("00 82 0002 00000102")


def test_requests_are_laid_out_as_in_the_rfc() -> None:
    assert encode_address_request().hex(" ") == "00 00"
    assert encode_map_request("udp", 6881, 7000, 3600) == bytes.fromhex("00 01 0000 1ae1 1b58 00000e10")
    assert encode_map_request("tcp", 6881, 0, 0) == bytes.fromhex("00 02 0000 1ae1 0000 00000000")


def test_responses_are_read_as_in_the_rfc() -> None:
    assert parse_response_untrusted(ADDRESS) == AddressResponse(258, "20.50.0.1")
    assert parse_response_untrusted(MAPPED_UDP) == MapResponse(258, "udp", 6881, 7000, 3600)
    assert parse_response_untrusted(MAPPED_TCP) == MapResponse(258, "tcp", 6881, 7000, 3600)


def test_an_error_may_end_early_or_carry_the_rest_of_the_response() -> None:
    assert parse_response_untrusted(REFUSED) == ErrorResponse(258, 2, 2)
    assert parse_response_untrusted(REFUSED + MAPPED_TCP[8:]) == ErrorResponse(258, 2, 2)
    assert parse_response_untrusted(bytes.fromhex("00 89 0005 00000102")) == ErrorResponse(258, 9, 5)


@pytest.mark.parametrize("whole", [ADDRESS, MAPPED_UDP, MAPPED_TCP])
def test_every_truncation_and_any_tail_is_refused(whole: bytes) -> None:
    for length in range(len(whole)):
        with pytest.raises(RemoteProtocolError):
            parse_response_untrusted(whole[:length])
    with pytest.raises(RemoteProtocolError):
        parse_response_untrusted(whole + b"\0")


@pytest.mark.parametrize(
    "wrong",
    [b"\x01" + ADDRESS[1:], b"\0\0" + ADDRESS[2:], b"\0\x7f" + ADDRESS[2:], b"\0\x83" + MAPPED_UDP[2:]],
    ids=["version", "request", "opcode", "unknown"],
)
def test_what_is_no_response_is_refused(wrong: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_response_untrusted(wrong)


def test_random_bytes_raise_nothing_else() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    valid = [ADDRESS, MAPPED_UDP, MAPPED_TCP, REFUSED]
    count = fuzz_count() // 2
    for data in (*random_bytes_cases(rng, 24, count), *mutations(rng, valid, count)):
        try:
            parse_response_untrusted(data)
        except RemoteProtocolError as error:
            assert error.reason == "bad-response", (seed, data)


def test_requests_are_resent_for_two_minutes() -> None:
    waits = list(retransmission_waits())
    assert waits == [0.25, 0.5, 1, 2, 4, 8, 16, 32, 64]
    assert sum(waits) == 127.75
