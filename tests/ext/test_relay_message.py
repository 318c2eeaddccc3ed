"""sw_relay: control messages and frames."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.bencode import decode_untrusted, encode
from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError
from swarm.ext.relay_message import (
    CLOSE,
    CREDIT,
    DATA,
    EOF,
    FRAME_COST,
    HEADER,
    MAX_DATA,
    MAX_NUMBER,
    MAX_PAYLOAD,
    Accept,
    Connect,
    Incoming,
    Opened,
    Refused,
    RelayMessage,
    Reserve,
    Reserved,
    Reset,
    Serve,
    WayOut,
    cannot_meet,
    circuit_of_frame_untrusted,
    close_frame,
    cost_of,
    credit_frame,
    credit_of,
    data_frame,
    eof_frame,
    is_frame,
    parse_relay_message_untrusted,
)
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

THERE = Endpoint("20.0.2.7", 6881)
SIXTH = Endpoint("2a0e::7", 6881)
MESSAGES: tuple[RelayMessage, ...] = (
    Serve(True),
    Serve(False),
    Reserve(0),
    Reserve(MAX_NUMBER, "random"),
    Reserved(5),
    Connect(1, THERE),
    Connect(2, SIXTH, "blocked", True),
    Incoming(MAX_NUMBER, SIXTH),
    Accept(0),
    Opened(3, 4),
    Refused(3, "not-reserved"),
    Reset(4, "too-long"),
)
FRAMES = (
    data_frame(5, b"x"),
    data_frame(MAX_NUMBER, bytes(MAX_DATA)),
    credit_frame(5, 99),
    eof_frame(0),
    close_frame(1),
)


@pytest.mark.parametrize("message", MESSAGES, ids=str)
def test_what_is_encoded_is_read_back(message: RelayMessage) -> None:
    assert parse_relay_message_untrusted(message.encode()) == message
    assert len(message.encode()) < 100
    assert not is_frame(message.encode())


def test_the_bytes_of_a_connect() -> None:
    expected = b"d2:ifi1e1:ni2e3:nat7:blocked1:t7:connect2:to6:\x14\0\2\7\x1a\xe11:vi1ee"
    assert Connect(2, THERE, "blocked", True).encode() == expected


@pytest.mark.parametrize("message", MESSAGES, ids=str)
def test_every_truncation_is_refused(message: RelayMessage) -> None:
    encoded = message.encode()
    for end in range(len(encoded)):
        with pytest.raises(RemoteProtocolError, match="bad-relay-message"):
            parse_relay_message_untrusted(encoded[:end])


def changed(message: RelayMessage, **keys: object) -> bytes:
    said = decode_untrusted(message.encode())
    assert isinstance(said, dict)
    for key, value in keys.items():
        said[key.encode()] = value  # type: ignore[assignment]
    return encode(said)


def test_unknown_keys_versions_and_types_are_ignored() -> None:
    assert parse_relay_message_untrusted(changed(Accept(1), zz=b"new")) == Accept(1)
    assert parse_relay_message_untrusted(changed(Accept(1), v=2)) is None
    assert parse_relay_message_untrusted(changed(Accept(1), t=b"wait")) is None
    assert parse_relay_message_untrusted(changed(Reserve(1, "random"), nat=b"purple")) == Reserve(1, "other")
    assert parse_relay_message_untrusted(changed(Reset(1, "x"), r=b"NOT A SLUG")) == Reset(1, "failed")


@pytest.mark.parametrize(
    ("message", "keys"),
    [
        (Serve(True), {"on": 2}),
        (Serve(True), {"on": b"1"}),
        (Reserve(1), {"n": -1}),
        (Reserve(1), {"n": MAX_NUMBER + 1}),
        (Connect(1, THERE), {"to": b"12345"}),
        (Connect(1, THERE), {"to": 1}),
        (Connect(1, THERE), {"if": 7}),
        (Incoming(1, THERE), {"c": b"1"}),
        (Refused(1, "x"), {"r": 3}),
        (Accept(1), {"v": b"1"}),
        (Accept(1), {"t": 1}),
        (Accept(1), {"zz": bytes(MAX_PAYLOAD)}),
    ],
)
def test_values_that_cannot_be_are_refused(message: RelayMessage, keys: dict[str, object]) -> None:
    with pytest.raises(RemoteProtocolError, match="bad-relay-message"):
        parse_relay_message_untrusted(changed(message, **keys))


def test_a_frame_tells_its_circuit_and_its_cost() -> None:
    for kind, frame in zip((DATA, DATA, CREDIT, EOF, CLOSE), FRAMES, strict=True):
        assert is_frame(frame) and frame[0] == kind
        assert circuit_of_frame_untrusted(frame) == int.from_bytes(frame[1:5], "big")
    assert credit_of(credit_frame(1, 99)) == 99
    assert cost_of(data_frame(1, b"xyz")) == 3 + FRAME_COST
    assert data_frame(0x01020304, b"x") == b"\0\1\2\3\4x"


def test_a_frame_of_a_wrong_length_is_refused() -> None:
    wrong = [bytes((DATA, 0, 0, 0, 1)), bytes(HEADER + MAX_DATA + 1), eof_frame(1) + b"x", close_frame(1) + b"x"]
    for frame in FRAMES[2:]:
        wrong += [frame[:end] for end in range(1, len(frame))]
    for frame in wrong:
        with pytest.raises(RemoteProtocolError, match="bad-relay-message"):
            circuit_of_frame_untrusted(frame)


@pytest.mark.parametrize(
    ("one", "other", "hopeless"),
    [
        ("random", "random", True),
        ("random", "sequential", True),
        ("sequential", "sequential", False),
        ("blocked", "random", True),
        ("blocked", "sequential", True),
        ("blocked", "blocked", False),
        ("random", "other", False),
        ("blocked", "other", False),
        ("other", "other", False),
    ],
)
def test_which_two_cannot_meet(one: WayOut, other: WayOut, hopeless: bool) -> None:
    assert cannot_meet(one, other) is cannot_meet(other, one) is hopeless


def test_nothing_else_is_raised_whatever_comes() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    valid = [message.encode() for message in MESSAGES] + list(FRAMES[2:]) + [FRAMES[0]]
    count = fuzz_count() // 2
    for payload in [*random_bytes_cases(rng, 300, count), *mutations(rng, valid, count)]:
        try:
            if is_frame(payload):
                assert 0 <= circuit_of_frame_untrusted(payload) <= MAX_NUMBER, seed
            else:
                parse_relay_message_untrusted(payload)
        except RemoteProtocolError as error:
            assert error.reason == "bad-relay-message", seed


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_a_frame_or_refused(payload: bytes) -> None:
    try:
        circuit_of_frame_untrusted(payload) if is_frame(payload) else parse_relay_message_untrusted(payload)
    except RemoteProtocolError as error:
        assert error.reason == "bad-relay-message"
