"""What may run while queues are bounded, when enough was shared, when the alternative rates hold: decisions alone."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swarm.bitfield import Bitfield
from swarm.daemon.entry import Counters, Entry, Times, Wishes
from swarm.daemon.options import Options
from swarm.daemon.policy import allowed, alternative_now, has_shared_enough
from tests.daemon.plain_session import sample

HERE = Path("/nonexistent")
NOW = 10_000.0


def options(**changes: Any) -> Options:
    return Options(download_dir=HERE, **changes)


def entry(number: int = 1, *, done: bool = False, paused: bool = False, **wishes: Any) -> Entry:
    times = Times(added_at=1.0, done_at=2.0 if done else None)
    made = Entry(number, sample(number), HERE, times=times, wishes=Wishes(**wishes), paused=paused, counters=Counters())
    made.stirred_at = NOW
    return made


def running(given: Entry, state: str, stirred_at: float = NOW) -> Entry:
    torrent: Any = SimpleNamespace(state=state, uploaded=0, downloaded=0, have=None)
    given.torrent, given.stirred_at = torrent, stirred_at
    return given


def who(queue: list[Entry], **changes: Any) -> list[int]:
    return sorted(each.id for each in allowed(queue, options(**changes), NOW))


def test_without_queues_all_run_but_those_that_are_stopped_or_in_trouble() -> None:
    broken = entry(3)
    broken.problem = "the disk is gone"
    assert who([entry(1), entry(2, paused=True), broken, entry(4, done=True)]) == [1, 4]


def test_downloads_and_seeds_have_a_queue_each_in_the_order_given() -> None:
    queue = [entry(1), entry(2, done=True), entry(3), entry(4, done=True), entry(5)]
    bounded = {"download_queue": 2, "download_queue_enabled": True, "seed_queue": 1, "seed_queue_enabled": True}
    assert who(queue, **bounded) == [1, 2, 3]
    assert who(queue[::-1], **bounded) == [3, 4, 5]
    assert who(queue, **bounded | {"seed_queue_enabled": False}) == [1, 2, 3, 4]
    assert who(queue, **bounded | {"download_queue": 0}) == [2]


def test_who_was_started_past_the_queue_runs_and_takes_no_place_of_others() -> None:
    pushed = entry(3)
    pushed.past_queue = True
    assert who([entry(1), entry(2), pushed], download_queue=1, download_queue_enabled=True) == [1, 3]


def test_who_runs_and_is_stalled_keeps_running_and_leaves_its_place_to_the_next() -> None:
    quiet = running(entry(1), "downloading", NOW - 60)
    busy = running(entry(2), "downloading")
    queue = [quiet, busy, entry(3)]
    queued = {"download_queue": 1, "download_queue_enabled": True, "stalled_after": 60.0}
    assert who(queue, **queued) == [1, 2]
    assert who(queue, **queued, stalled_enabled=False) == [1]
    assert who([entry(4), quiet], **queued | {"stalled_after": 61.0}) == [4]


def ratio_of(given: Entry, uploaded: int, downloaded: int) -> Entry:
    given.kept.uploaded, given.kept.downloaded = uploaded, downloaded
    return given


@pytest.mark.parametrize(
    ("wishes", "session", "enough"),
    [
        ({}, {}, False),
        ({}, {"seed_ratio": 1.5, "seed_ratio_limited": True}, True),
        ({}, {"seed_ratio": 1.6, "seed_ratio_limited": True}, False),
        ({}, {"seed_ratio": 0.0, "seed_ratio_limited": True}, True),
        ({"ratio_mode": "own", "ratio": 1.5}, {}, True),
        ({"ratio_mode": "own", "ratio": 1.6}, {"seed_ratio": 1.0, "seed_ratio_limited": True}, False),
        ({"ratio_mode": "none", "ratio": 1.0}, {"seed_ratio": 1.0, "seed_ratio_limited": True}, False),
    ],
)
def test_the_ratio_at_which_it_stops_is_the_sessions_its_own_or_none(
    wishes: dict[str, Any], session: dict[str, Any], enough: bool
) -> None:
    given = ratio_of(entry(done=True, **wishes), 1500, 1000)
    assert has_shared_enough(given, options(**session), NOW) is enough


@pytest.mark.parametrize(
    ("wishes", "session", "enough"),
    [
        ({}, {"seed_idle": 60.0}, False),
        ({}, {"seed_idle": 60.0, "seed_idle_limited": True}, True),
        ({}, {"seed_idle": 61.0, "seed_idle_limited": True}, False),
        ({"idle_mode": "own", "idle": 60.0}, {}, True),
        ({"idle_mode": "own", "idle": 61.0}, {"seed_idle": 1.0, "seed_idle_limited": True}, False),
        ({"idle_mode": "none", "idle": 1.0}, {"seed_idle": 1.0, "seed_idle_limited": True}, False),
    ],
)
def test_the_quiet_time_after_which_it_stops_is_the_sessions_its_own_or_none(
    wishes: dict[str, Any], session: dict[str, Any], enough: bool
) -> None:
    given = entry(done=True, **wishes)
    given.stirred_at = NOW - 60
    assert has_shared_enough(given, options(**session), NOW) is enough


def test_what_was_there_from_the_start_counts_as_what_was_got() -> None:
    given = ratio_of(entry(done=True, ratio_mode="own", ratio=1.0), sample(1).total_size - 1, 0)
    given.kept_have = Bitfield.full(sample(1).piece_count)
    assert not has_shared_enough(given, options(), NOW)
    given.kept.uploaded += 1
    assert has_shared_enough(given, options(), NOW)


SATURDAY, SUNDAY, MONDAY = "2026-08-01", "2026-08-02", "2026-08-03"


def scheduled(when: str, begin: str, end: str, days: int = 127) -> bool:
    def minutes(text: str) -> int:
        hours, rest = text.split(":")
        return int(hours) * 60 + int(rest)

    chosen = options(alternative_begin=minutes(begin), alternative_end=minutes(end), alternative_days=days)
    return alternative_now(chosen, time.strptime(when, "%Y-%m-%d %H:%M"))


@pytest.mark.parametrize(
    ("when", "begin", "end", "days", "holds"),
    [
        (f"{MONDAY} 09:00", "09:00", "17:00", 127, True),
        (f"{MONDAY} 08:59", "09:00", "17:00", 127, False),
        (f"{MONDAY} 16:59", "09:00", "17:00", 127, True),
        (f"{MONDAY} 17:00", "09:00", "17:00", 127, False),
        (f"{MONDAY} 12:00", "09:00", "17:00", 1 << 1, True),
        (f"{MONDAY} 12:00", "09:00", "17:00", 127 - (1 << 1), False),
        (f"{SUNDAY} 12:00", "09:00", "17:00", 1 << 0, True),
        (f"{SATURDAY} 12:00", "09:00", "17:00", 1 << 6, True),
        (f"{SUNDAY} 23:00", "22:00", "06:00", 1 << 0, True),
        (f"{MONDAY} 05:59", "22:00", "06:00", 1 << 0, True),  # it began on Sunday
        (f"{MONDAY} 05:59", "22:00", "06:00", 1 << 1, False),
        (f"{SUNDAY} 05:00", "22:00", "06:00", 1 << 6, True),  # over the end of the week
        (f"{MONDAY} 06:00", "22:00", "06:00", 127, False),
        (f"{MONDAY} 12:00", "12:00", "12:00", 127, False),
    ],
)
def test_the_schedule_of_the_alternative_rates(when: str, begin: str, end: str, days: int, holds: bool) -> None:
    assert scheduled(when, begin, end, days) is holds
