"""PCP datagrams as RFC 6887 lays them out, and what is not one."""

from __future__ import annotations

import random
from itertools import islice, pairwise

import pytest

from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError
from swarm.gateway.pcp import (
    UNSUPP_VERSION,
    Mapped,
    Response,
    encode_announce,
    encode_map_request,
    parse_response_untrusted,
    retransmission_waits,
)
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

NONCE = bytes(range(12))
V4_PREFIX = "00000000 00000000 0000ffff"
HEAD = bytes.fromhex("02 81 00 00 00000e10 00000102") + bytes(12)
BODY = NONCE + bytes.fromhex(f"11 000000 1ae1 1b58 {V4_PREFIX} 14320001")
ANNOUNCED = bytes.fromhex("02 80 00 00 00000000 00000007") + bytes(12)
NATPMP_REFUSAL = bytes.fromhex("00 81 0001 00000102")


def test_a_map_request_is_laid_out_as_in_the_rfc() -> None:
    request = encode_map_request("10.0.1.2", "udp", 6881, Endpoint("0.0.0.0", 7000), 3600, nonce=NONCE)
    head, body = request[:24], request[24:]
    assert head == bytes.fromhex(f"02 01 0000 00000e10 {V4_PREFIX} 0a000102")
    assert body == NONCE + bytes.fromhex(f"11 000000 1ae1 1b58 {V4_PREFIX} 00000000")


def test_a_map_request_for_ipv6_and_tcp() -> None:
    request = encode_map_request("2a0e::a", "tcp", 6881, Endpoint("::", 6881), 0, nonce=NONCE)
    assert request[:24] == bytes.fromhex("02 01 0000 00000000 2a0e0000 00000000 00000000 0000000a")
    assert request[24:] == NONCE + bytes.fromhex("06 000000 1ae1 1ae1") + bytes(16)


def test_prefer_failure_follows_as_an_option_without_data() -> None:
    anywhere = Endpoint("0.0.0.0", 7000)
    plain = encode_map_request("10.0.1.2", "udp", 6881, anywhere, 3600, nonce=NONCE)
    exact = encode_map_request("10.0.1.2", "udp", 6881, anywhere, 3600, nonce=NONCE, prefer_failure=True)
    assert exact == plain + bytes.fromhex("02 00 0000")


def test_an_announce_request_is_a_header_alone() -> None:
    assert encode_announce("10.0.1.2") == bytes.fromhex(f"02 00 0000 00000000 {V4_PREFIX} 0a000102")


def test_responses_are_read_as_in_the_rfc() -> None:
    mapped = Mapped(NONCE, "udp", 6881, Endpoint("20.50.0.1", 7000))
    assert parse_response_untrusted(HEAD + BODY) == Response(2, 1, 0, 3600, 258, mapped)
    assert parse_response_untrusted(HEAD + BODY + b"\x02\0\0\0") == Response(2, 1, 0, 3600, 258, mapped)
    assert parse_response_untrusted(ANNOUNCED) == Response(2, 0, 0, 0, 7)


def test_an_error_keeps_us_away_for_half_an_hour_at_most() -> None:
    error = bytes.fromhex("02 81 00 08 ffffffff 00000102") + bytes(12)
    assert parse_response_untrusted(error) == Response(2, 1, 8, 1800, 258)
    assert parse_response_untrusted(error + BODY).mapped is not None


@pytest.mark.parametrize("length", [4, 8, 12])
def test_a_server_of_another_version_is_recognised(length: int) -> None:
    response = parse_response_untrusted((NATPMP_REFUSAL + bytes(4))[:length])
    assert (response.version, response.result) == (0, UNSUPP_VERSION)


def test_every_truncation_is_refused() -> None:
    whole = HEAD + BODY
    for length in range(len(whole)):
        with pytest.raises(RemoteProtocolError):
            parse_response_untrusted(whole[:length])


@pytest.mark.parametrize(
    "wrong",
    [
        HEAD[:1] + b"\x01" + HEAD[2:] + BODY,
        HEAD + BODY + b"\0",
        HEAD + BODY + bytes(1100),
        HEAD + BODY[:12] + b"\x84" + BODY[13:],
    ],
    ids=["request", "odd length", "too long", "SCTP"],
)
def test_what_is_no_response_to_us_is_refused(wrong: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_response_untrusted(wrong)


def test_random_bytes_raise_nothing_else() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    valid = [HEAD + BODY, ANNOUNCED, NATPMP_REFUSAL]
    count = fuzz_count() // 2
    for data in (*random_bytes_cases(rng, 80, count), *mutations(rng, valid, count)):
        try:
            parse_response_untrusted(data)
        except RemoteProtocolError as error:
            assert error.reason == "bad-response", (seed, data)


def test_requests_are_resent_ever_more_slowly_without_an_end() -> None:
    waits = list(islice(retransmission_waits(random.Random(1)), 200))
    assert 2.7 <= waits[0] <= 3.3
    for before, after in pairwise(waits):
        nominal = min(2 * before, 1024)
        assert 0.9 * nominal <= after <= 1.1 * nominal
    assert max(waits) <= 1024 * 1.1
    assert len(set(waits[20:])) > 100  # jitter
