"""Hairpin requests and late answers as a core: datagrams and times in, datagrams and results out."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.endpoint import Endpoint
from swarm.net.mapping_tests import (
    GRANT_SECONDS,
    HAIRPIN_PATIENCE,
    HAIRPIN_TIMES,
    LATE_TIMES,
    MAX_ANSWERS,
    MAX_GRANTS,
    MAX_LATE,
    MAX_SILENCE,
    NONCE_SIZE,
    Hairpin,
    MappingTests,
    late_answer,
    late_request,
)
from swarm.net.network import Path
from swarm.wire.stun import BINDING, AttributeType, MessageClass, StunMessage, parse_stun_untrusted
from tests.fuzzing import fuzz_count, fuzz_seed, mutations

NONCE = bytes(range(NONCE_SIZE))
OUTSIDE = Endpoint("20.9.0.1", 6881)
ASKER = Path(None, Endpoint("21.0.0.5", 40001))


def core() -> MappingTests:
    return MappingTests(random.Random(1))


def granted() -> MappingTests:
    tests = core()
    assert tests.grant(NONCE, ASKER.remote.host, 0.0)
    return tests


def ask(tests: MappingTests, silence: int, now: float, path: Path = ASKER) -> list[bytes]:
    """What is answered at once."""
    datagram = memoryview(late_request(NONCE, silence).encode())
    if tests.wants(datagram, path):
        tests.receive_batch([datagram], path, now)
    return sent(tests, now)


def sent(tests: MappingTests, now: float) -> list[bytes]:
    out = tests.datagrams_to_send(now)
    assert all(each.path == ASKER for each in out)
    return [bytes(each.buffers[0]) for each in out]


def run_until(tests: MappingTests, until: float) -> list[float]:
    """When something left meanwhile."""
    times = []
    while (deadline := tests.next_deadline()) is not None and deadline <= until:
        tests.handle_deadline(deadline)
        times += [deadline] * len(sent(tests, deadline))
    return times


# ---- hairpin


def test_a_request_to_ourselves_is_repeated_and_fails_in_the_end() -> None:
    tests = core()
    handle = tests.hairpin(OUTSIDE, 10.0)
    times, results = [], []
    while (now := tests.next_deadline()) is not None:
        tests.handle_deadline(now)
        out = tests.datagrams_to_send(now)
        assert all(each.path == Path(None, OUTSIDE) for each in out)
        times += [now - 10.0] * len(out)
        results += [(now - 10.0, result) for result in tests.take_results()]
    assert times == list(HAIRPIN_TIMES)
    assert results == [(HAIRPIN_PATIENCE, Hairpin(handle, False))]


def test_what_comes_back_is_recognised_wherever_it_comes_from() -> None:
    tests = core()
    handle = tests.hairpin(OUTSIDE, 0.0)
    (out,) = tests.datagrams_to_send(0.0)
    back = memoryview(bytes(out.buffers[0]))
    path = Path(None, Endpoint("192.168.1.2", 6881))  # some NATs leave the inside address in it
    assert tests.wants(back, path)
    tests.receive_batch([back, back], path, 0.1)
    assert tests.take_results() == [Hairpin(handle, True)]
    assert tests.next_deadline() is None
    assert not tests.wants(back, path)


def test_a_request_that_nobody_waits_for_is_forgotten() -> None:
    tests = core()
    handle = tests.hairpin(OUTSIDE, 0.0)
    tests.cancel(handle)
    tests.cancel(handle)
    assert (tests.datagrams_to_send(0.0), tests.next_deadline(), tests.take_results()) == ([], None, [])


# ---- late answers


def test_a_request_is_answered_at_once_and_after_the_silence_it_asks_for() -> None:
    tests = granted()
    (first,) = ask(tests, 30, 100.0)
    answer = parse_stun_untrusted(first)
    assert answer == late_answer(NONCE + (30).to_bytes(4, "big"), ASKER.remote)
    assert answer.xor_address_untrusted(AttributeType.XOR_MAPPED_ADDRESS) == ASKER.remote
    assert run_until(tests, 200.0) == [130.0 + time for time in LATE_TIMES]
    assert tests.next_deadline() is None


def test_a_request_that_is_repeated_begins_the_silence_anew() -> None:
    tests = granted()
    ask(tests, 30, 100.0)
    assert len(ask(tests, 30, 102.0)) == 1
    assert run_until(tests, 200.0) == [132.0 + time for time in LATE_TIMES]


def test_silences_run_beside_each_other() -> None:
    tests = granted()
    for silence in (20, 10):
        ask(tests, silence, 0.0)
    assert run_until(tests, 60.0) == [*(10.0 + time for time in LATE_TIMES), *(20.0 + time for time in LATE_TIMES)]


@pytest.mark.parametrize("silence", [0, MAX_SILENCE + 1, (1 << 32) - 1])
def test_without_a_silence_that_can_be_there_is_one_answer(silence: int) -> None:
    tests = granted()
    assert len(ask(tests, silence, 0.0)) == 1
    assert tests.next_deadline() is None


def test_strangers_are_not_answered() -> None:
    tests = granted()
    assert ask(tests, 5, 0.0, Path(None, Endpoint("21.0.0.6", 40001))) == []  # who has guessed the nonce, say
    assert ask(core(), 5, 0.0) == []
    other = late_request(bytes(NONCE_SIZE), 5).encode()
    assert not tests.wants(memoryview(other), ASKER)
    assert tests.next_deadline() is None


def test_no_answer_has_more_bytes_than_came() -> None:
    tests = granted()
    short = StunMessage(MessageClass.REQUEST, BINDING, NONCE + bytes(4)).encode()
    tests.receive_batch([memoryview(short)], ASKER, 0.0)
    assert sent(tests, 0.0) == []
    for endpoint in (ASKER.remote, Endpoint("2a00::1", 1)):
        assert len(late_answer(NONCE + bytes(4), endpoint).encode()) <= len(late_request(NONCE, 0).encode())


@pytest.mark.parametrize("message_class", [MessageClass.INDICATION, MessageClass.SUCCESS, MessageClass.ERROR])
def test_only_requests_are_meant(message_class: MessageClass) -> None:
    datagram = StunMessage(message_class, BINDING, NONCE + bytes(4)).encode()
    assert not granted().wants(memoryview(datagram), ASKER)


def test_a_peer_gets_a_bounded_number_of_answers() -> None:
    tests = granted()
    assert sum(len(ask(tests, 0, 0.0)) for _ in range(2 * MAX_ANSWERS)) == MAX_ANSWERS
    tests = granted()
    for silence in range(1, 2 * MAX_LATE):
        ask(tests, silence, 0.0)
    assert len(run_until(tests, 1000.0)) == MAX_LATE * len(LATE_TIMES)


def test_a_nonce_is_granted_once_and_for_a_time() -> None:
    tests = granted()
    assert not tests.grant(NONCE, "21.0.0.9", 1.0)
    assert len(ask(tests, 0, GRANT_SECONDS - 1)) == 1
    assert ask(tests, 0, GRANT_SECONDS) == []
    assert tests.grant(NONCE, "21.0.0.9", GRANT_SECONDS)


def test_the_oldest_peer_makes_room() -> None:
    tests = granted()
    for number in range(MAX_GRANTS):
        assert tests.grant(bytes([number] * NONCE_SIZE), "21.0.0.9", 1.0)
    assert ask(tests, 0, 2.0) == []


def fed(datagram: bytes) -> None:
    tests = granted()
    tests.hairpin(OUTSIDE, 1.0)
    tests.datagrams_to_send(1.0)
    view = memoryview(datagram)
    tests.wants(view, ASKER)
    tests.receive_batch([view], ASKER, 1.0)
    assert sum(len(out) for out in sent(tests, 1.0)) <= len(datagram)
    assert tests.take_results() == []


@given(st.binary(max_size=100))
def test_anything_may_arrive(datagram: bytes) -> None:
    fed(datagram)
    fed(late_request(NONCE, 5).encode()[:20] + datagram)


def test_every_truncation_and_many_mutations() -> None:
    valid = late_request(NONCE, 7).encode()
    for size in range(len(valid)):
        fed(valid[:size])
    seed = fuzz_seed()
    rng = random.Random(seed)
    for datagram in mutations(rng, [valid], fuzz_count()):
        try:
            fed(datagram)
        except Exception as error:
            raise AssertionError(f"seed {seed}, input {datagram.hex()}") from error
