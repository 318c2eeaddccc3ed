"""Token buckets: accuracy over simulated seconds, fairness, change at run time."""

from __future__ import annotations

import heapq
import random

import pytest

from swarm.ratelimit import UNLIMITED, TokenBucket, grant_all, take_all


def moved_in(seconds: float, buckets: list[TokenBucket], rng: random.Random, users: int, largest: int) -> list[int]:
    """Users that each move a random chunk, take it and wait as they are told; the bytes that each has moved."""
    moved = [0] * users
    queue = [(rng.random() / 100, user) for user in range(users)]
    heapq.heapify(queue)
    while queue[0][0] < seconds:
        now, user = queue[0]
        chunk = rng.randint(1, min(largest, grant_all(buckets)))
        moved[user] += chunk
        wait = take_all(buckets, chunk, now)
        heapq.heapreplace(queue, (now + wait + rng.random() / 1e4, user))
    return moved


@pytest.mark.parametrize("rate", [50_000, 1_000_000, 33_333_333, 200_000_000])
@pytest.mark.parametrize("users", [1, 7])
def test_the_rate_is_kept_within_one_percent_over_ten_seconds(rate: int, users: int) -> None:
    rng = random.Random(rate + users)
    moved = moved_in(10.0, [TokenBucket(rate)], rng, users, largest=1 << 20)
    slack = (users - 1) * (2 << 10) if rate < 100_000 else 0  # turns of less than 2 KiB are not worth a system call
    assert sum(moved) == pytest.approx(10 * rate, rel=0.01, abs=0.01 * 10 * rate + slack)


def test_large_reads_into_debt_do_not_change_the_long_run_rate() -> None:
    bucket = TokenBucket(1_000_000)
    now = moved = 0.0
    while now < 60:
        moved += 700_000
        now += bucket.take(700_000, now)
    assert moved == pytest.approx(now * 1_000_000, rel=0.01)


def test_users_of_one_bucket_get_equal_shares() -> None:
    moved = moved_in(20.0, [TokenBucket(2_000_000)], random.Random(5), users=10, largest=1 << 20)
    assert min(moved) > 0.75 * max(moved)


def test_the_debt_grows_slower_than_the_number_of_users() -> None:
    bucket = TokenBucket(1_000_000)
    first = bucket.grant
    for _ in range(50):
        bucket.take(bucket.grant, 0.0)
    assert bucket.delay(0.0) * 1_000_000 < 12 * first


def test_the_tighter_of_two_buckets_rules_and_both_are_charged() -> None:
    node, torrent = TokenBucket(5_000_000), TokenBucket(1_000_000)
    moved = sum(moved_in(10.0, [node, torrent], random.Random(1), users=3, largest=1 << 20))
    assert moved == pytest.approx(10_000_000, rel=0.01)
    assert node.available(10.0) > 0
    assert take_all([node, torrent], 1_000_000, 10.0) > 0.9


def test_without_a_limit_nothing_waits() -> None:
    bucket = TokenBucket(0)
    assert [bucket.take(1 << 40, now) for now in (0.0, 1.0)] == [0.0, 0.0]
    assert bucket.available(2.0) == bucket.grant == UNLIMITED
    assert take_all([], 5, 0.0) == 0.0
    assert grant_all([]) == UNLIMITED


def test_the_wait_is_the_time_that_pays_the_debt() -> None:
    bucket = TokenBucket(1000)
    assert bucket.take(500, 0.0) == 0.5
    assert bucket.take(500, 0.0) == 1.0
    assert bucket.delay(0.25) == 0.75
    assert bucket.available(0.5) == 0
    assert bucket.delay(1.0) == 0.0


def test_no_more_than_the_burst_is_saved_up() -> None:
    bucket = TokenBucket(1_000_000, burst=20_000)
    assert bucket.available(3600.0) == 20_000
    assert bucket.take(20_000, 3600.0) == 0.0
    assert bucket.take(1, 3600.0) > 0


def test_a_new_rate_holds_from_now_on() -> None:
    bucket = TokenBucket(1000)
    bucket.take(2000, 0.0)
    bucket.set_rate(4000, 1.0)
    assert bucket.delay(1.0) == 0.25
    bucket.set_rate(0, 1.0)
    assert bucket.take(1 << 30, 1.0) == 0.0
    bucket.set_rate(1000, 100.0)
    assert bucket.take(500, 100.0) == 0.5


def test_a_clock_that_steps_back_creates_no_tokens() -> None:
    bucket = TokenBucket(1000, burst=0)
    bucket.take(1000, 10.0)
    assert bucket.delay(5.0) == 1.0
    assert bucket.delay(10.5) == 0.5


def test_a_negative_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes per second"):
        TokenBucket(-1)


def test_turns_are_small_while_a_limit_is_on() -> None:
    assert TokenBucket(10_000).grant == 2 << 10
    assert TokenBucket(400_000).grant == 8_000
    assert TokenBucket(10_000_000).grant == 64 << 10
    assert grant_all([TokenBucket(0), TokenBucket(400_000)]) == 8_000
