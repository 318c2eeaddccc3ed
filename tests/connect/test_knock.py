"""The datagrams of a meeting: what they look like, what they are answered with, what is left alone."""

from __future__ import annotations

import random

import pytest

from swarm.connect.knock import (
    MAGIC,
    MAX_ANSWERS,
    MEASURE_SIZE,
    MEASURE_TIMES,
    Heard,
    Kind,
    Knocker,
    Measured,
    encode_knock,
    encode_measure,
    encode_measured,
    is_knock,
    parse_measure_untrusted,
    parse_measured_untrusted,
)
from swarm.connect.predict import Shot
from swarm.endpoint import Endpoint
from swarm.net.network import Outgoing, Path
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases
from utp.wire import looks_like_utp

NONCE, OTHER = bytes(range(16)), bytes(16)
THERE = Endpoint("192.0.2.7", 4000)
OBSERVERS = [Endpoint("198.51.100.1", port) for port in (1001, 1002, 1003)]
KNOCK, HEARD = encode_knock(Kind.KNOCK, NONCE), encode_knock(Kind.HEARD, NONCE)


def knocker() -> Knocker:
    return Knocker(NONCE, THERE.host)


def told(core: Knocker, datagram: bytes, source: Endpoint = THERE) -> list[Heard | Measured]:
    core.receive_batch([memoryview(datagram)], Path(None, source), 0.0)
    return core.take_results()


def sent(core: Knocker, now: float) -> list[tuple[bytes, Endpoint, int | None]]:
    return [(bytes(each.buffers[0]), each.path.remote, each.ttl) for each in core.datagrams_to_send(now)]


def test_the_bytes() -> None:
    assert KNOCK == b"\xb5swp\x00" + NONCE
    assert HEARD == b"\xb5swp\x01" + NONCE
    assert encode_measure(NONCE) == b"\xb5swp\x02" + NONCE + bytes(19)
    assert encode_measured(NONCE, THERE) == b"\xb5swp\x03" + NONCE + bytes((192, 0, 2, 7, 15, 160))


def test_no_answer_is_larger_than_what_it_answers() -> None:
    for seen in (THERE, Endpoint("2001:db8::1", 4000)):
        assert len(encode_measured(NONCE, seen)) < MEASURE_SIZE
    assert len(HEARD) == len(KNOCK)


def test_they_are_no_other_protocol_of_the_socket() -> None:
    for datagram in (KNOCK, HEARD, encode_measure(NONCE), encode_measured(NONCE, THERE)):
        assert not looks_like_utp(memoryview(datagram))
        assert datagram[0] not in b"d\x00\x01"


def test_shots_leave_when_they_are_due_with_their_ttl() -> None:
    core = knocker()
    core.shoot([Shot(0.0, 5000, 5), Shot(0.0, 5001, 5), Shot(0.5, 5000, None)], 10.0)
    assert sent(core, 10.0) == [(KNOCK, Endpoint(THERE.host, 5000), 5), (KNOCK, Endpoint(THERE.host, 5001), 5)]
    assert core.next_deadline() == 10.5
    assert sent(core, 10.4) == []
    assert sent(core, 10.5) == [(KNOCK, Endpoint(THERE.host, 5000), None)]
    assert core.next_deadline() is None


def test_a_knock_is_answered_where_it_came_from_and_an_answer_is_not() -> None:
    core = knocker()
    assert told(core, KNOCK) == [Heard(THERE)]
    assert sent(core, 0.0) == [(HEARD, THERE, None)]
    assert told(core, HEARD) == [Heard(THERE)]
    assert sent(core, 0.0) == []


def test_answers_are_bounded() -> None:
    core = knocker()
    for _ in range(2 * MAX_ANSWERS):
        told(core, KNOCK)
    assert len(sent(core, 0.0)) == MAX_ANSWERS


@pytest.mark.parametrize(
    ("datagram", "source"),
    [
        (encode_knock(Kind.KNOCK, OTHER), THERE),
        (KNOCK, Endpoint("192.0.2.8", 4000)),
        (KNOCK[:-1], THERE),
        (MAGIC + b"\x04" + NONCE, THERE),
        (encode_measured(NONCE, THERE), OBSERVERS[0]),
    ],
)
def test_others_are_not_heard_nor_answered(datagram: bytes, source: Endpoint) -> None:
    core = knocker()
    assert told(core, datagram, source) == []
    assert sent(core, 0.0) == []


def test_before_the_other_end_is_known_nobody_is_heard() -> None:
    core = Knocker(NONCE)
    assert told(core, KNOCK) == []
    assert sent(core, 0.0) == []


def test_observers_are_asked_in_order_and_again_until_they_answer() -> None:
    core = knocker()
    core.measure(OBSERVERS, OTHER, 0.0)
    assert [to for _, to, _ in sent(core, 0.0)] == OBSERVERS
    mine = Endpoint("203.0.113.5", 40001)
    answer = encode_measured(OTHER, mine)
    assert told(core, answer, OBSERVERS[1]) == [Measured(OBSERVERS[1], mine)]
    assert told(core, answer, OBSERVERS[1]) == []
    assert told(core, answer, THERE) == []
    assert core.next_deadline() == MEASURE_TIMES[1]
    assert [to for _, to, _ in sent(core, MEASURE_TIMES[1])] == [OBSERVERS[0], OBSERVERS[2]]
    for time in MEASURE_TIMES[2:]:
        sent(core, time)
    assert core.next_deadline() is None


def test_after_ceasing_knocks_are_answered_still() -> None:
    core = knocker()
    core.shoot([Shot(0.0, 5000, None)], 0.0)
    core.measure(OBSERVERS, OTHER, 0.0)
    core.cease()
    assert core.next_deadline() is None
    assert sent(core, 9.0) == []
    told(core, KNOCK)
    assert sent(core, 9.0) == [(HEARD, THERE, None)]


def test_no_bytes_make_it_raise() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    valid = [KNOCK, HEARD, encode_measure(NONCE), encode_measured(OTHER, THERE)]
    core = knocker()
    core.measure(OBSERVERS, OTHER, 0.0)
    cases = [datagram[:end] for datagram in valid for end in range(len(datagram))]
    cases += [*random_bytes_cases(rng, 60, fuzz_count() // 2), *mutations(rng, valid, fuzz_count() // 2)]
    for datagram in cases:
        for source in (THERE, OBSERVERS[0]):
            told(core, datagram, source)
            core.datagrams_to_send(0.0)
        nonce = parse_measure_untrusted(datagram)
        assert nonce is None or (len(nonce), len(datagram)) == (16, MEASURE_SIZE), seed
        parse_measured_untrusted(datagram)
        is_knock(datagram, NONCE)


def test_a_run_is_one_datagram() -> None:
    core = knocker()
    told(core, KNOCK)
    (outgoing,) = core.datagrams_to_send(0.0)
    assert outgoing == Outgoing((HEARD,), len(HEARD), Path(None, THERE))
