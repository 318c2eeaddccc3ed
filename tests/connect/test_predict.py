"""Which port comes next, and that two plans made apart fit each other."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from swarm.connect.predict import (
    DRIFT,
    FIRST_PORT,
    LAST_PORT,
    MAX_PROBES,
    OPENER_TTL,
    PROBES_PER_SECOND,
    SOCKETS,
    SPRAY,
    Plan,
    Prediction,
    Sample,
    make_plan,
    predict,
    predict_ports,
)
from swarm.endpoint import Endpoint

RNG = random.Random(7)
FIXED, UPWARD, RANDOM = (6881,) * 4, (4000, 4001, 4002, 4003), (20481, 1777, 60123, 33333)


@pytest.mark.parametrize(
    ("ports", "latest", "step"),
    [
        ((6881, 6881, 6881, 6881), 6881, 0),
        ((4000, 4001, 4002, 4003), 4003, 1),
        ((4003, 4002, 4001, 4000), 4000, -1),
        ((4000, 4002, 4004, 4006), 4006, 2),
        ((4006, 4004, 4002, 4000), 4000, -2),
        ((4000, 4001, 4004, 4005), 4005, 1),  # others took two in between
        ((4000, 4003, 4005, 4010), 4010, 1),
        ((4000, 4002, 4008, 4010), 4010, 2),
        ((4000, 4004, 4007), 4007, 1),  # one probe was lost
        ((41998, 41999, 40000, 40001), 40001, 1),  # the sequence began anew
        ((41999, 40000, 40001, 40002), 40002, 1),
        ((6881, 50000, 50001, 50002), 50002, 1),  # the first was preserved
        ((40001, 40000, 41999, 41998), 41998, -1),
        ((4000, 4003, 4001, 4002), 4003, 1),  # the second probe was lost before it came to the NAT
        ((4003, 4000, 4001, 4002), 4003, 1),
        ((4000, 4001, 4003, 4002), 4003, 1),
        ((4003, 4000, 4002, 4001), 4000, -1),
    ],
)
def test_allocations_that_can_be_known(ports: Sequence[int], latest: int, step: int) -> None:
    prediction = predict_ports(ports)
    assert prediction is not None
    assert (prediction.latest, prediction.step) == (latest, step)


@pytest.mark.parametrize(
    "ports",
    [
        (),
        (4000,),
        (4000, 4001),  # could be an accident
        RANDOM,
        (4000, 4001, 9000),
        (4000, 4001, 30000, 12000),
        (4000, 4001, 4000, 4001),  # two steps up, one down: nothing that a sequence does
        (4000, 4200, 4400, 4600),
        (1024, 65535, 1024, 65535),
    ],
)
def test_ports_at_random_predict_nothing(ports: Sequence[int]) -> None:
    assert predict_ports(ports) is None


def test_random_ports_hardly_ever_look_like_a_sequence() -> None:
    draws = (RNG.sample(range(FIRST_PORT, LAST_PORT + 1), 4) for _ in range(50_000))
    assert sum(predict_ports(ports) is not None for ports in draws) <= 3


def test_confidence_is_the_share_of_the_steps_that_are_ours() -> None:
    def confidence(*ports: int) -> float:
        prediction = predict_ports(ports)
        assert prediction is not None
        return prediction.confidence

    assert confidence(4000, 4001, 4002, 4003) == 1.0
    assert confidence(4000, 4002, 4004, 4006) == 1.0
    assert confidence(4000, 4001, 4004, 4006) == 0.5
    assert confidence(4000, 4001, 4002, 9000, 9001) == 0.75


def test_what_a_reporter_repeats_is_no_new_mapping() -> None:
    one, other, third = (Endpoint("192.0.2.1", port) for port in (1, 2, 3))
    said = [Sample(0.0, one, 4000), Sample(0.1, one, 4000), Sample(0.2, other, 4001), Sample(0.3, third, 4002)]
    assert predict(said) == Prediction(4002, 1, 1.0)
    assert predict(said[:2]) is None


def test_one_host_alone_does_not_quite_prove_that_a_mapping_is_endpoint_independent() -> None:
    here, beside, elsewhere = Endpoint("192.0.2.1", 1), Endpoint("192.0.2.1", 2), Endpoint("192.0.2.9", 1)
    near = predict([Sample(0.0, here, 6881), Sample(0.0, beside, 6881)])
    far = predict([Sample(0.0, here, 6881), Sample(0.0, elsewhere, 6881)])
    assert near is not None and far is not None
    assert (near.step, far.step) == (0, 0)
    assert near.confidence < far.confidence == 1.0


def test_next_ports_go_on_in_steps_and_fill_in_what_lies_between() -> None:
    assert Prediction(4003, 1, 1.0).next_ports(4) == (4004, 4005, 4006, 4007)
    assert Prediction(4003, -1, 1.0).next_ports(3) == (4002, 4001, 4000)
    assert Prediction(4000, 2, 1.0).next_ports(6) == (4002, 4004, 4006, 4008, 4001, 4003)
    assert Prediction(4000, -2, 1.0).next_ports(3) == (3998, 3996, 3999)
    assert Prediction(6881, 0, 1.0).next_ports(5) == (6881,)


def test_ports_beyond_the_last_begin_anew() -> None:
    assert Prediction(65534, 1, 1.0).next_ports(3) == (65535, 1024, 1025)
    assert Prediction(1025, -1, 1.0).next_ports(3) == (1024, 65535, 65534)


# ---- plans


def plan(ours: Sequence[int], theirs: Sequence[int], *, initiator: bool = True) -> Plan:
    made = make_plan(ours, theirs, initiator=initiator, rng=RNG)
    assert made is not None
    return made


def aims(made: Plan) -> list[int]:
    """The ports, each once, in the order of the first shot at it."""
    return list(dict.fromkeys(shot.port for shot in made.shots))


def test_a_fixed_port_is_shot_at_alone_and_a_sequence_in_its_order() -> None:
    assert aims(plan(FIXED, FIXED)) == [6881]
    assert aims(plan(UPWARD, FIXED)) == [6881]
    assert aims(plan(FIXED, UPWARD)) == list(range(4004, 4004 + SPRAY))
    assert {plan(FIXED, theirs).path for theirs in (FIXED, UPWARD)} == {"predicted"}


def test_openers_have_a_low_ttl_and_leave_first() -> None:
    shots = plan(FIXED, UPWARD).shots
    assert [shot.ttl for shot in shots[:SPRAY]] == [OPENER_TTL] * SPRAY
    assert {shot.ttl for shot in shots[SPRAY:]} == {None}
    assert [shot.after for shot in shots] == sorted(shot.after for shot in shots)


@pytest.mark.parametrize("steps", [(1, 1), (1, -1), (2, 1), (-2, 2)])
def test_two_sequences_have_a_path_in_common_whatever_others_take_of_them(steps: tuple[int, int]) -> None:
    """Each shot of a side leaves by the next port of its own, as each is at a new destination."""
    ours, theirs = ([20000 + step * number for number in range(4)] for step in steps)
    initiator, target = plan(ours, theirs), plan(theirs, ours, initiator=False)
    for taken_of_ours in range(DRIFT + 1):
        for taken_of_theirs in range(DRIFT + 1):
            outward = {
                (ours[-1] + steps[0] * (taken_of_ours + number), port)
                for number, port in enumerate(aims(initiator), start=1)
            }
            inward = {
                (port, theirs[-1] + steps[1] * (taken_of_theirs + number))
                for number, port in enumerate(aims(target), start=1)
            }
            assert outward & inward, (taken_of_ours, taken_of_theirs)


def test_a_birthday_is_many_sockets_against_paced_probes_at_random_ports() -> None:
    many, one = plan(RANDOM, FIXED), plan(FIXED, RANDOM, initiator=False)
    assert (many.path, many.sockets, aims(many)) == ("birthday", SOCKETS, [6881])
    assert {shot.ttl for shot in many.shots} == {OPENER_TTL}
    assert (one.path, one.sockets, len(one.shots), len(set(aims(one)))) == ("birthday", 1, MAX_PROBES, MAX_PROBES)
    assert all(FIRST_PORT <= port <= LAST_PORT for port in aims(one))
    assert one.shots[-1].after < one.seconds
    for start in range(len(one.shots) - PROBES_PER_SECOND):
        assert one.shots[start + PROBES_PER_SECOND].after - one.shots[start].after > 1 - 1e-9


@pytest.mark.parametrize("pair", [(RANDOM, UPWARD), (UPWARD, RANDOM), (RANDOM, RANDOM)])
def test_at_random_against_anything_but_a_fixed_port_is_hopeless(pair: tuple[Sequence[int], Sequence[int]]) -> None:
    assert make_plan(*pair, initiator=True, rng=RNG) is None


def test_a_birthday_takes_two_hundred_probes_a_second_and_2048_in_all() -> None:
    plan = make_plan((6881,) * 4, (20481, 1777, 60123, 33333), initiator=True, rng=random.Random(1))
    assert plan is not None and plan.path == "birthday"
    times = [shot.after for shot in plan.shots]
    assert len(times) == len({shot.port for shot in plan.shots}) == 2048
    assert max(sum(start <= at < start + 1 for at in times) for start in times[::50]) <= 204
    assert plan.sockets == 1
    other = make_plan((20481, 1777, 60123, 33333), (6881,) * 4, initiator=False, rng=random.Random(1))
    assert other is not None and other.sockets == 256
    assert {shot.ttl for shot in other.shots} == {OPENER_TTL}
