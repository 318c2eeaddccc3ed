"""Which tracker is due when, with which event (BEP 12, BEP 3, BEP 31)."""

from __future__ import annotations

import math
import random

import pytest

from swarm.discover.tiers import MAX_TRACKERS, Tiers, Tracker
from swarm.wire.tracker import AnnounceEvent, AnnounceReply

A, B, C = "http://a.example/announce", "udp://b.example:1/", "https://c.example/announce"
REPLY = AnnounceReply(interval=1800.0, min_interval=60.0)


def tiers(*urls: list[str], seed: int = 1) -> Tiers:
    return Tiers(urls, random.Random(seed))


def answer(schedule: Tiers, tracker: Tracker, now: float, reply: AnnounceReply = REPLY) -> AnnounceEvent:
    event = tracker.event
    schedule.answered(tracker, event, reply, now)
    return event


def urls(trackers: list[Tracker]) -> list[str]:
    return [tracker.url for tracker in trackers]


def test_every_tier_is_due_at_once_with_one_tracker_each() -> None:
    schedule = tiers([A], [B, C])
    first, second = schedule.due(0.0)
    assert first.url == A
    assert second.url in (B, C)


def test_a_tier_is_shuffled_by_the_dice_it_was_given() -> None:
    orders = {tuple(tracker.url for tracker in tiers([A, B, C], seed=seed)) for seed in range(50)}
    assert len(orders) == 6


def test_when_one_fails_the_next_of_its_tier_is_due_at_once_and_the_working_one_is_promoted() -> None:
    schedule = tiers([A, B, C])
    [first] = schedule.due(0.0)
    schedule.failed(first, "refused", None, 0.0)
    [second] = schedule.due(0.0)
    assert second is not first
    answer(schedule, second, 0.0)
    assert next(iter(schedule)) is second
    assert schedule.due(1000.0) == [], "the others are left alone while one works"
    assert 1800.0 <= schedule.next_due() <= 1890.0


def test_a_working_tracker_that_fails_gives_way_to_the_others() -> None:
    schedule = tiers([A, B])
    [first] = schedule.due(0.0)
    answer(schedule, first, 0.0)
    [again] = schedule.due(2000.0)
    assert again is first
    schedule.failed(first, "timed-out", None, 2000.0)
    [other] = schedule.due(2000.0)
    assert other is not first
    assert other.event == "started"


def test_while_one_of_a_tier_is_under_way_none_is_due() -> None:
    schedule = tiers([A, B])
    schedule.due(0.0)[0].under_way = True
    assert schedule.due(0.0) == []
    assert schedule.next_due() == math.inf


def test_back_off_doubles_with_jitter_up_to_half_an_hour() -> None:
    schedule = tiers([A])
    [tracker] = schedule
    waits = [schedule.failed(tracker, "refused", None, 0.0) for _ in range(40)]
    for number, wait in enumerate(waits):
        nominal = min(15.0 * 2**number, 1800.0)
        assert 0.75 * nominal <= wait <= 1.25 * nominal
    assert len(set(waits)) == 40
    answer(schedule, tracker, 0.0)
    assert schedule.failed(tracker, "refused", None, 0.0) <= 15 * 1.25, "an answer starts it afresh"


def test_retry_in_lengthens_a_back_off_and_never_disables() -> None:
    schedule = tiers([A], [B])
    first, second = schedule
    assert schedule.failed(first, "busy", 600.0, 0.0) == 600.0
    assert schedule.failed(second, "closed", math.inf, 0.0) == math.inf
    assert second.state == "disabled"
    assert schedule.due(1e9) == [first]
    schedule.network_changed(5.0)
    assert schedule.due(5.0) == [first]


def test_another_port_is_told_whatever_the_intervals_and_after_the_announce_under_way() -> None:
    schedule = tiers([A], [B], [C])
    working, waiting, failing = schedule
    answer(schedule, working, 0.0)
    schedule.failed(failing, "refused", 900.0, 0.0)
    waiting.under_way = True
    schedule.port_changed(1.0)
    assert schedule.due(1.0) == [working], "a minimum interval of 60 s, but peers are sent to a wrong port"
    answer(schedule, waiting, 2.0)
    waiting.under_way = False
    assert waiting in schedule.due(2.0), "it was told the old port"
    answer(schedule, waiting, 3.0)
    assert waiting.due > 1800.0


def test_events_are_said_in_order_and_each_until_it_is_accepted() -> None:
    schedule = tiers([A])
    [tracker] = schedule
    schedule.completed(0.0)
    schedule.failed(tracker, "refused", None, 0.0)
    assert answer(schedule, tracker, 100.0) == "started"
    assert schedule.due(100.0) == [tracker], "the completed that it is owed does not wait for the interval"
    schedule.failed(tracker, "refused", None, 100.0)
    assert answer(schedule, tracker, 200.0) == "completed"
    assert answer(schedule, tracker, 2100.0) == ""


def test_want_more_respects_the_minimum_interval_and_leaves_failing_ones_alone() -> None:
    schedule = tiers([A], [B])
    working, failing = schedule
    answer(schedule, working, 0.0)
    schedule.failed(failing, "refused", 3600.0, 0.0)
    schedule.want_more(10.0)
    assert (working.due, failing.due) == (60.0, 3600.0)
    schedule.want_more(100.0)
    assert working.due == 60.0
    answer(schedule, working, 60.0)
    schedule.want_more(500.0)
    assert working.due == 500.0


def test_a_second_tracker_id_replaces_the_first_and_none_keeps_it() -> None:
    schedule = tiers([A])
    [tracker] = schedule
    for given, kept in [(b"one", b"one"), (None, b"one"), (b"two", b"two")]:
        answer(schedule, tracker, 0.0, AnnounceReply(interval=1800.0, tracker_id=given))
        assert tracker.tracker_id == kept


@pytest.mark.parametrize(("url", "error"), [("wss://a.example/", "unsupported-scheme"), ("http://[::1", "bad-url")])
def test_a_url_that_cannot_be_used_is_disabled_and_says_why(url: str, error: str) -> None:
    schedule = tiers([url])
    [tracker] = schedule
    assert (tracker.state, tracker.last_error, schedule.next_due()) == ("disabled", error, math.inf)


def test_known_trackers_are_not_taken_twice_and_their_number_is_bounded() -> None:
    schedule = tiers([A, A, " " + A], [], [""], [A], [B])
    assert urls(list(schedule)) == [A, B]
    schedule.add_tier([f"http://{number}.example/" for number in range(1000)])
    assert len(list(schedule)) == MAX_TRACKERS


def test_no_trackers_are_never_due() -> None:
    assert tiers().next_due() == math.inf
    assert tiers().due(0.0) == []
