"""When an epoch tells that the gateway has lost its mappings: RFC 6886 §3.6, RFC 6887 §8.5."""

from __future__ import annotations

import pytest

from swarm.gateway.epoch import EpochWatch


@pytest.mark.parametrize("rule", ["nat-pmp", "pcp"])
def test_the_first_epoch_and_one_that_keeps_pace_are_no_news(rule: str) -> None:
    watch = EpochWatch(rule)  # type: ignore[arg-type]
    assert not watch.heard(0, 1000.0)
    assert not watch.heard(3600, 4600.0)
    assert not watch.heard(3600, 4600.0)
    assert not watch.heard(7201, 8200.0)


@pytest.mark.parametrize("rule", ["nat-pmp", "pcp"])
def test_an_epoch_that_starts_again_is_a_loss_once(rule: str) -> None:
    watch = EpochWatch(rule)  # type: ignore[arg-type]
    watch.heard(5000, 0.0)
    assert watch.heard(3, 60.0)
    assert not watch.heard(63, 120.0)


@pytest.mark.parametrize(
    ("epoch", "lost"),
    [(873, False), (872, True), (3000, False)],  # 1000 s passed: 7/8 of them less 2 s are 873
)
def test_nat_pmp_tolerates_a_clock_that_is_an_eighth_slow(epoch: int, lost: bool) -> None:
    watch = EpochWatch("nat-pmp")
    watch.heard(0, 0.0)
    assert watch.heard(epoch, 1000.0) is lost


@pytest.mark.parametrize(
    ("epoch", "passed", "lost"),
    [
        (936, 1000.0, False),  # 15/16 of 1000 less 2 are 935.5
        (935, 1000.0, True),
        (1068, 1000.0, False),  # 15/16 of 1068 are 1001.25
        (1069, 1000.0, True),
    ],
)
def test_pcp_tolerates_a_sixteenth_either_way(epoch: int, passed: float, lost: bool) -> None:
    watch = EpochWatch("pcp")
    watch.heard(0, 0.0)
    assert watch.heard(epoch, passed) is lost


def test_pcp_tolerates_a_second_backwards() -> None:
    watch = EpochWatch("pcp")
    watch.heard(100, 0.0)
    assert not watch.heard(99, 0.0)
    assert watch.heard(97, 0.0)
