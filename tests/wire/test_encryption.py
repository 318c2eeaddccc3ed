"""Message stream encryption: both roles against each other, however the bytes are cut, and against hostile ones."""

from __future__ import annotations

import random
from collections.abc import Iterable
from hashlib import sha1

import pytest

from swarm.errors import RemoteProtocolError
from swarm.wire import encryption
from swarm.wire.encryption import (
    KEY_LENGTH,
    MAX_INITIAL_PAYLOAD,
    MAX_PAD,
    PLAINTEXT,
    RC4,
    Encrypted,
    Initiator,
    Responder,
    hash_of_torrent,
)
from swarm.wire.handshake import looks_like_plaintext
from swarm.wire.rc4 import Rc4
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

INFO_HASH = bytes(range(20))
OTHER = b"o" * 20
KNOWN = {hash_of_torrent(info_hash): info_hash for info_hash in (OTHER, INFO_HASH)}
IA = b"\x13BitTorrent protocol" + bytes(48)
P = 0xFFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A63A36210000000000090563  # noqa: E501
PUBLIC_KEY_OF_1 = (2).to_bytes(KEY_LENGTH, "big")  # from the private key 1: S is then the other side's public key


def pair(
    provide: int = PLAINTEXT | RC4, accepted: int = PLAINTEXT | RC4, initial: bytes = IA, seed: int = 1
) -> tuple[Initiator, Responder]:
    a = Initiator(INFO_HASH, initial, provide, random.Random(2 * seed))
    return a, Responder(KNOWN.get, accepted, random.Random(2 * seed + 1))


@pytest.fixture
def short_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests with thousands of handshakes: the powers would be most of their time."""
    monkeypatch.setattr(encryption, "_PRIVATE_BITS", 16)


def cut(data: bytes, sizes: Iterable[int]) -> list[bytes]:
    parts, at = [], 0
    for size in sizes:
        parts.append(data[at : at + size])
        at += size
    return [*parts, data[at:]]


def shake(a: Initiator, b: Responder) -> tuple[Encrypted, Encrypted]:
    """A whole handshake, each flight in one piece."""
    b_says = b.receive_untrusted(a.start())
    a_says = a.receive_untrusted(b_says)
    assert a.receive_untrusted(b.receive_untrusted(a_says)) == b""
    assert a.result is not None
    assert b.result is not None
    return a.result, b.result


def flights(provide: int, seed: int = 1) -> tuple[bytes, bytes, bytes, bytes]:
    """The four flights of a handshake: 1 and 3 of A, 2 and 4 of B."""
    a, b = pair(provide, seed=seed)
    one = a.start()
    two = b.receive_untrusted(one)
    three = a.receive_untrusted(two)
    return one, two, three, b.receive_untrusted(three)


def check_payload(a: Encrypted, b: Encrypted) -> None:
    for sender, receiver in ((a, b), (b, a)):
        for text in (b"first", b"", b"second"):
            wire = sender.encrypt.process(text) if sender.encrypt else text
            assert (receiver.decrypt.process(wire) if receiver.decrypt else wire) == text
            assert (wire == text) == (not text or sender.method == PLAINTEXT)


@pytest.mark.parametrize(
    "provide,accepted,method",
    [
        (PLAINTEXT | RC4, PLAINTEXT | RC4, PLAINTEXT),
        (PLAINTEXT | RC4, RC4, RC4),
        (PLAINTEXT | RC4, PLAINTEXT, PLAINTEXT),
        (RC4, PLAINTEXT | RC4, RC4),
        (RC4, RC4, RC4),
        (PLAINTEXT, PLAINTEXT | RC4, PLAINTEXT),
        (PLAINTEXT, PLAINTEXT, PLAINTEXT),
    ],
)
def test_plaintext_is_selected_whenever_both_allow_it(provide: int, accepted: int, method: int) -> None:
    for seed in range(5):
        a, b = shake(*pair(provide, accepted, seed=seed))
        assert (a.method, b.method) == (method, method)
        assert (a.info_hash, b.info_hash) == (INFO_HASH, INFO_HASH)
        assert (a.received, b.received) == (b"", IA)
        check_payload(a, b)


@pytest.mark.parametrize("provide,accepted", [(PLAINTEXT, RC4), (RC4, PLAINTEXT)])
def test_no_common_method_ends_it(provide: int, accepted: int) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        shake(*pair(provide, accepted))
    assert caught.value.reason == "no-common-encryption"


@pytest.mark.parametrize(
    "answer,reason",
    [
        (b"\0\0\0\0\0\0", "no-common-encryption"),
        (b"\0\0\0\1\0\0", "no-common-encryption"),
        (b"\0\0\0\3\0\0", "no-common-encryption"),
        (b"\0\0\0\4\0\0", "no-common-encryption"),
        (b"\0\0\0\2\2\1", "bad-encryption"),
        (b"\0\0\0\2\0\0", None),
    ],
)
def test_an_answer_that_was_not_offered_or_is_padded_too_long_is_refused(answer: bytes, reason: str | None) -> None:
    a = pair(RC4)[0]
    secret = a.start()[:KEY_LENGTH]
    a.receive_untrusted(PUBLIC_KEY_OF_1)
    wire = Rc4(sha1(b"keyB" + secret + INFO_HASH).digest()).process(bytes(8) + answer)
    if reason is None:
        a.receive_untrusted(wire)
        assert a.result is not None
        return
    with pytest.raises(RemoteProtocolError) as caught:
        a.receive_untrusted(wire)
    assert caught.value.reason == reason


@pytest.mark.parametrize("initial", [b"", IA, bytes(MAX_INITIAL_PAYLOAD)])
@pytest.mark.parametrize("provide", [PLAINTEXT, RC4])
def test_the_initial_payload_arrives_and_payload_may_follow_at_once(provide: int, initial: bytes) -> None:
    a, b = pair(provide, initial=initial)
    three = a.receive_untrusted(b.receive_untrusted(a.start()))
    early = a._encrypt.process(b"early") if provide == RC4 else b"early"
    four = b.receive_untrusted(three + early)
    assert b.result is not None
    assert b.result.received == initial + b"early"
    late = b.result.encrypt.process(b"late") if b.result.encrypt else b"late"
    a.receive_untrusted(four + late)
    assert a.result is not None
    assert a.result.received == b"late"


@pytest.mark.parametrize("provide", [PLAINTEXT, RC4])
def test_every_byte_may_come_alone(provide: int) -> None:
    a, b = pair(provide)
    to_b, to_a = bytearray(a.start()), bytearray()
    while to_a or to_b:
        if to_b:
            to_a += b.receive_untrusted(bytes([to_b.pop(0)]))
        if to_a:
            to_b += a.receive_untrusted(bytes([to_a.pop(0)]))
    assert a.result is not None
    assert b.result is not None
    assert b.result.received == IA
    check_payload(a.result, b.result)


@pytest.mark.parametrize("provide", [PLAINTEXT, RC4])
def test_no_truncation_finishes_and_the_rest_then_does(provide: int, short_keys: None) -> None:
    one, two, three, four = flights(provide)
    to_b, to_a = one + three, two + four
    for at in range(len(to_b)):
        b = pair(provide)[1]
        first, rest = cut(to_b, [at])
        said = b.receive_untrusted(first)
        assert b.result is None
        assert said + b.receive_untrusted(rest) == to_a
        assert b.result is not None
        assert b.result.received == IA
    for at in range(len(to_a)):
        a = pair(provide)[0]
        a.start()
        first, rest = cut(to_a, [at])
        said = a.receive_untrusted(first)
        assert a.result is None
        assert said + a.receive_untrusted(rest) == three
        assert a.result is not None


def test_a_finished_handshake_takes_no_more_bytes() -> None:
    a, b = pair()
    shake(a, b)
    for side in (a, b):
        with pytest.raises(ValueError):
            side.receive_untrusted(b"")


def test_an_unknown_torrent_is_refused() -> None:
    a = Initiator(b"n" * 20, IA, RC4, random.Random(1))
    with pytest.raises(RemoteProtocolError) as caught:
        shake(a, pair()[1])
    assert caught.value.reason == "unknown-info-hash"


@pytest.mark.parametrize("number", [0, 1, P - 1, P, P + 1, (1 << 768) - 1])
def test_degenerate_public_keys_are_refused(number: int) -> None:
    key = number.to_bytes(KEY_LENGTH, "big")
    for side in pair():
        with pytest.raises(RemoteProtocolError) as caught:
            side.receive_untrusted(key)
        assert caught.value.reason == "bad-encryption"
        assert "degenerate" in caught.value.detail


def test_the_search_for_the_synchronisation_point_is_bounded() -> None:
    one, two, three, _ = flights(RC4)
    for side, key, pattern in ((pair()[1], one, 20), (pair()[0], two, 8)):
        if isinstance(side, Initiator):
            side.start()
        side.receive_untrusted(key[:KEY_LENGTH])
        side.receive_untrusted(bytes(MAX_PAD + pattern - 1))
        with pytest.raises(RemoteProtocolError):
            side.receive_untrusted(b"\0")
    # The longest padding allowed still synchronises.
    b = pair(RC4)[1]
    b.receive_untrusted(one[:KEY_LENGTH] + bytes(MAX_PAD))
    b.receive_untrusted(three)
    assert b.result is not None


@pytest.mark.parametrize(
    "negotiation,reason",
    [
        (b"\1" + bytes(7) + b"\0\0\0\2" + b"\0\0" + b"\0\0", "bad-encryption"),
        (bytes(8) + b"\0\0\0\2" + (MAX_PAD + 1).to_bytes(2, "big"), "bad-encryption"),
        (bytes(8) + b"\0\0\0\2" + b"\0\0" + (MAX_INITIAL_PAYLOAD + 1).to_bytes(2, "big"), "bad-encryption"),
        (bytes(8) + b"\0\0\0\4" + b"\0\0" + b"\0\0", "no-common-encryption"),
        (bytes(8) + b"\0\0\0\0" + b"\0\0" + b"\0\0", "no-common-encryption"),
    ],
)
def test_a_negotiation_against_the_rules_is_refused(negotiation: bytes, reason: str) -> None:
    b = pair()[1]
    answer = b.receive_untrusted(PUBLIC_KEY_OF_1)
    secret = answer[:KEY_LENGTH]
    named = bytes(x ^ y for x, y in zip(hash_of_torrent(INFO_HASH), sha1(b"req3" + secret).digest(), strict=True))
    cipher = Rc4(sha1(b"keyA" + secret + INFO_HASH).digest())
    with pytest.raises(RemoteProtocolError) as caught:
        b.receive_untrusted(sha1(b"req1" + secret).digest() + named + cipher.process(negotiation))
    assert caught.value.reason == reason


def test_unknown_bits_of_crypto_provide_are_ignored() -> None:
    b = pair()[1]
    secret = b.receive_untrusted(PUBLIC_KEY_OF_1)[:KEY_LENGTH]
    named = bytes(x ^ y for x, y in zip(hash_of_torrent(INFO_HASH), sha1(b"req3" + secret).digest(), strict=True))
    cipher = Rc4(sha1(b"keyA" + secret + INFO_HASH).digest())
    b.receive_untrusted(
        sha1(b"req1" + secret).digest() + named + cipher.process(bytes(8) + b"\xff\xff\xff\xfe" + bytes(4))
    )
    assert b.result is not None
    assert b.result.method == RC4


def test_offering_nothing_is_our_bug() -> None:
    for methods in (0, 4, 7):
        with pytest.raises(ValueError):
            pair(provide=methods)
        with pytest.raises(ValueError):
            pair(accepted=methods)
    with pytest.raises(ValueError):
        pair(initial=bytes(MAX_INITIAL_PAYLOAD + 1))


def test_it_does_not_look_like_a_plaintext_handshake_and_hides_the_padding_length() -> None:
    starts = [pair(seed=seed)[0].start() for seed in range(20)]
    assert not any(looks_like_plaintext(start) for start in starts)
    lengths = {len(start) for start in starts}
    assert len(lengths) > 10
    assert min(lengths) >= KEY_LENGTH
    assert max(lengths) <= KEY_LENGTH + MAX_PAD


def test_random_bytes_and_damaged_flights_are_refused_or_waited_on(short_keys: None) -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    one, two, three, four = flights(RC4)
    count = fuzz_count() // 2
    random_ends = random_bytes_cases(rng, 1500, count)
    for cases in (random_ends, mutations(rng, [one + three, two + four, one, two], count)):
        for data in cases:
            side = rng.choice(pair(RC4))
            if isinstance(side, Initiator):
                side.start()
            try:
                for part in cut(data, [rng.randrange(len(data) + 1)]):
                    if side.result is None:
                        side.receive_untrusted(part)
            except RemoteProtocolError as error:
                assert error.reason in {"bad-encryption", "no-common-encryption", "unknown-info-hash"}, seed
            else:
                assert side.result is not None or len(side._buffer) <= 2 * MAX_INITIAL_PAYLOAD, seed
