"""LEDBAT behind a bottleneck of 20 Mbit/s with a queue of one second: full use, little delay, fair shares."""

from __future__ import annotations

import pytest

from tests.utp.pair import Link, Pair
from utp.connection import Connection
from utp.delay import DelayHistory, DelayMeter
from utp.ledbat import Ledbat

RATE = 20e6 / 8  # bytes per second
ENDLESS = bytes(200 << 20)


def bottleneck(delay: float) -> Pair:
    pair = Pair(1, there=Link(delay=delay, rate=RATE, queue=int(RATE)), back=Link(delay=delay))
    pair.b.keeping = False
    return pair


def flow(pair: Pair) -> Connection:
    """Start an endless transfer; the receiving connection."""
    a, b = pair.open()
    pair.a.write(a, ENDLESS)
    return b


def test_alone_it_fills_the_link_and_keeps_the_queue_near_the_target() -> None:
    pair = bottleneck(0.02)
    b = flow(pair)
    pair.run(5)
    start, before = pair.now, b.statistics().bytes_in
    pair.run(12)
    assert b.statistics().bytes_in - before >= 0.9 * RATE * 12
    waits = sorted(wait for when, wait in pair.there.log if when >= start)
    assert 0.05 <= sum(waits) / len(waits) <= 0.15
    assert waits[-1] <= 0.15


@pytest.mark.parametrize(
    "gap,seconds",
    [(10.0, 30.0), *(pytest.param(gap, 60.0, marks=pytest.mark.soak) for gap in (10.0, 11.0, 12.2, 14.0))],
)
def test_a_latecomer_neither_starves_the_first_flow_nor_is_starved(gap: float, seconds: float) -> None:
    pair = bottleneck(0.02)
    first = flow(pair)
    pair.run(gap)
    late = flow(pair)
    before = first.statistics().bytes_in, late.statistics().bytes_in
    pair.run(seconds)
    gained = first.statistics().bytes_in - before[0], late.statistics().bytes_in - before[1]
    assert 0.4 <= gained[0] / sum(gained) <= 0.6
    assert sum(gained) >= 0.9 * RATE * seconds


@pytest.mark.soak
@pytest.mark.parametrize("delay", [0.00025, 0.0005, 0.003])
@pytest.mark.parametrize("gap", [10.0, 14.0])
def test_on_a_short_path_the_latecomer_sees_the_true_base_delay_too(delay: float, gap: float) -> None:
    """There 28/72 was seen, since the queue was never empty; 39/61 is left of it, and stays so at 3 ms."""
    pair = bottleneck(delay)
    first = flow(pair)
    pair.run(gap)
    late = flow(pair)
    before = first.statistics().bytes_in, late.statistics().bytes_in
    pair.run(60)
    gained = first.statistics().bytes_in - before[0], late.statistics().bytes_in - before[1]
    assert 0.37 <= gained[0] / sum(gained) <= 0.63


def ledbat(**changes: object) -> Ledbat:
    made = Ledbat(target=0.1, gain=3000, initial_window=10, mss=1000, slowdowns=False)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_an_unused_window_does_not_grow() -> None:
    for slow_start in (True, False):
        window = ledbat(slow_start=slow_start)
        window.on_ack(5000, 0.0, 0.05, False, 1.0)
        assert window.window == 10_000


def test_slow_start_doubles_and_ends_before_the_target_delay() -> None:
    window = ledbat()
    window.on_ack(10_000, 0.0, 0.05, True, 1.0)
    assert window.window == 20_000
    window.on_ack(20_000, 0.08, 0.05, True, 1.1)
    assert not window.slow_start
    assert window.window < 24_000


def test_in_avoidance_a_round_trip_wins_the_gain_below_the_target_and_loses_above_it() -> None:
    window = ledbat(slow_start=False)
    window.on_ack(10_000, 0.0, 0.05, True, 1.0)
    assert window.window == 13_000
    window.on_ack(13_000, 0.2, 0.05, True, 1.0)
    assert window.window == 13_000 * 0.75


def slowing() -> Ledbat:
    """In avoidance, with slowdowns, its first one not due yet."""
    window = Ledbat(target=0.1, gain=3000, initial_window=100, mss=1000, slowdowns=True)
    window.slow_start = False
    window.on_ack(1000, 0.06, 0.1, True, 1.0)
    return window


def test_a_slowdown_that_is_due_waits_until_the_queue_is_full() -> None:
    window = slowing()
    window.on_ack(1000, 0.06, 0.1, True, 2.0)
    assert window.window > 100_000
    window.on_ack(1000, 0.08, 0.1, True, 2.1)
    assert (window.window, window.slow_start) == (2000, True)


def test_a_queue_that_somebody_drains_is_joined_in_draining() -> None:
    window = slowing()
    window.on_ack(1000, 0.04, 0.1, True, 1.01)
    assert window.window > 100_000  # it never was full
    window.on_ack(1000, 0.09, 0.1, True, 1.02)
    window._next_slowdown = 50.0
    window.on_ack(1000, 0.06, 0.1, True, 1.04)
    assert window.window > 100_000
    window.on_ack(1000, 0.04, 0.1, True, 1.05)
    assert window.window == 2000


def test_after_a_loss_of_our_own_a_shorter_queue_means_nothing() -> None:
    window = slowing()
    window._next_slowdown = 50.0
    window.on_ack(1000, 0.09, 0.1, True, 1.02)
    window.on_loss()
    window.on_ack(1000, 0.03, 0.1, True, 1.05)
    assert window.window > 50_000


def test_a_slowdown_gives_up_a_part_of_the_queue_and_nothing_of_the_path() -> None:
    for rtt, kept in ((0.1, 0.1), (0.2, 0.55)):
        window = slowing()
        before = window.window
        window.on_ack(1000, 0.1, rtt, True, 2.0)
        assert window.ssthresh == pytest.approx(before * kept)


def test_the_window_never_falls_below_one_packet() -> None:
    window = ledbat(slow_start=False)
    for _ in range(50):
        window.on_loss()
        window.on_ack(1000, 5.0, 0.05, True, 1.0)
    assert window.window == 1000


def test_the_base_delay_is_the_least_of_twenty_minutes_whatever_the_offset_of_the_clocks() -> None:
    for offset in (0, 5_000, (1 << 32) - 10):
        history = DelayHistory()
        for minute in range(15):
            for sample in (30_000, 20_000 + minute, 25_000):
                history.add((offset + sample) & 0xFFFFFFFF, 60.0 * minute)
        assert history.queueing_delay() == pytest.approx(0.000014)  # the least of the last four above 20,000
        for minute in range(15, 40):
            history.add((offset + 50_000) & 0xFFFFFFFF, 60.0 * minute)
        assert history.queueing_delay() == 0.0


def test_a_drifting_clock_does_not_look_like_a_growing_queue() -> None:
    meter = DelayMeter()
    for second in range(600):
        drift = second * 50  # our clock loses 50 µs a second against theirs
        meter.received((int(second * 1e6) + drift) & 0xFFFFFFFF or 1, 40_000 + drift, float(second))
    assert meter.queueing_delay(0.5) < 0.001


def test_a_queueing_delay_longer_than_the_round_trip_is_not_believed() -> None:
    meter = DelayMeter()
    meter.received(1, 1_000, 1.0)
    for _ in range(4):
        meter.received(1, 900_000, 2.0)
    assert meter.queueing_delay(0.05) == 0.05
