"""The turns of many announces to few hosts: pace, bounds, and what a host that fails costs."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from swarm.discover.tracker_client import TrackerRefused
from swarm.discover.tracker_hosts import (
    BURST,
    FAILURES,
    FIRST_PAUSE,
    KEPT_FREE,
    LONGEST_PAUSE,
    MAX_ANNOUNCES,
    MAX_ANNOUNCES_PER_HOST,
    MAX_BEFORE_ANSWER,
    PAUSE_JITTER,
    PER_SECOND,
    WITHIN,
    Hosts,
)
from swarm.errors import RemoteError, RemoteProtocolError
from swarm.wire.tracker import AnnounceFailure

SILENCE = RemoteError("timed-out", "no answer within 40 s")


@pytest.fixture
def hosts() -> Hosts[int]:
    return Hosts(random.Random(1))


def begin(hosts: Hosts[int], now: float) -> list[tuple[str, int]]:
    return hosts.begin(now, lambda item: True)


def proven(hosts: Hosts[int], host: str, now: float = 0.0) -> None:
    hosts.put(host, -1)
    assert begin(hosts, now) == [(host, -1)]
    hosts.ended(host, None, now)


def drain(hosts: Hosts[int], seconds: float) -> list[tuple[float, int]]:
    """Begin everything, each answered at once; when what began."""
    begun: list[tuple[float, int]] = []
    now = 0.0
    while (due := hosts.due(now)) <= seconds:
        now = due
        for host, item in begin(hosts, now):
            begun.append((now, item))
            hosts.ended(host, None, now)
    return begun


def test_a_thousand_torrents_that_start_together_announce_at_a_pace(hosts: Hosts[int]) -> None:
    for number in range(1000):
        hosts.put("tracker", number)
    begun = drain(hosts, 1000)
    assert [item for _, item in begun] == list(range(1000))
    assert sum(at < 0.01 for at, _ in begun) == BURST
    assert begun[-1][0] == pytest.approx((1000 - BURST) / PER_SECOND, abs=1)


def test_so_many_that_it_would_take_too_long_go_faster(hosts: Hosts[int]) -> None:
    count = int(4 * WITHIN * PER_SECOND)
    for number in range(count):
        hosts.put("tracker", number)
    at = [at for at, _ in drain(hosts, 1e6)]
    assert len(at) == count
    assert sum(each <= WITHIN for each in at) > count * 0.6  # the pace falls with what is left


def test_whoever_downloads_goes_first(hosts: Hosts[int]) -> None:
    for number in range(100):
        hosts.put("tracker", number)
    hosts.put("tracker", 100, urgent=True)
    assert drain(hosts, 100)[0] == (0, 100)


def test_few_are_under_way_at_one_host_and_fewer_before_it_answered(hosts: Hosts[int]) -> None:
    for number in range(9):
        hosts.put("tracker", number)
    assert len(begin(hosts, 0)) == MAX_BEFORE_ANSWER
    assert hosts.due(0) == math.inf
    hosts.ended("tracker", None, 1)
    assert len(begin(hosts, 1)) == MAX_ANNOUNCES_PER_HOST - MAX_BEFORE_ANSWER + 1


def test_hosts_that_hang_keep_no_places_from_those_that_answer(hosts: Hosts[int]) -> None:
    proven(hosts, "good")
    for number in range(MAX_ANNOUNCES):
        hosts.put(f"dead-{number}", number)
    assert len(begin(hosts, 0)) == MAX_ANNOUNCES - MAX_ANNOUNCES // KEPT_FREE
    hosts.put("good", 1)
    assert hosts.due(0) == 0
    assert begin(hosts, 0) == [("good", 1)]


def test_a_host_that_fails_again_and_again_is_left_alone_and_everybody_told_why(hosts: Hosts[int]) -> None:
    for number in range(100):
        hosts.put("dead", number)
    tried = 0
    while not hosts.given_up(40.0 * tried):
        for host, _ in begin(hosts, 40.0 * tried):
            hosts.ended(host, SILENCE, 40.0 * (tried + 1))
        tried += 1
    assert tried * MAX_BEFORE_ANSWER >= FAILURES
    assert tried <= FAILURES
    assert hosts.is_down("dead")
    now = 40.0 * tried
    hosts.put("dead", 7)
    [told] = hosts.given_up(now)
    assert (told.item, told.error) == (7, SILENCE)
    assert FIRST_PAUSE * (1 - PAUSE_JITTER) <= told.wait <= FIRST_PAUSE * (1 + PAUSE_JITTER)
    assert hosts.due(now) == math.inf


def test_after_the_pause_one_tries_for_all_and_the_pauses_grow(hosts: Hosts[int]) -> None:
    now, pauses = 0.0, []
    for _ in range(12):
        while not hosts.is_down("dead") or not hosts.given_up(now):
            for number in range(10):
                hosts.put("dead", number)
            begun = begin(hosts, now)
            assert len(begun) <= (1 if hosts.is_down("dead") else MAX_BEFORE_ANSWER)
            for host, _ in begun:
                hosts.ended(host, SILENCE, now)
        hosts.put("dead", 0)
        [told] = hosts.given_up(now)
        pauses.append(told.wait)
        now += told.wait
    assert all(1.1 < later / earlier < 3.5 for earlier, later in itertools.pairwise(pauses[:5]))
    assert max(pauses) <= LONGEST_PAUSE * (1 + PAUSE_JITTER)
    hosts.put("dead", 1)
    assert begin(hosts, now) == [("dead", 1)]
    hosts.ended("dead", None, now)
    assert not hosts.is_down("dead")
    hosts.put("dead", 2)
    assert begin(hosts, now) == [("dead", 2)]


@pytest.mark.parametrize(
    "error",
    [
        TrackerRefused(AnnounceFailure("unregistered torrent", None)),
        RemoteProtocolError("bad-tracker-reply"),
        RemoteError("http-404"),
    ],
)
def test_what_a_host_says_against_one_torrent_says_nothing_of_the_others(hosts: Hosts[int], error: RemoteError) -> None:
    for _ in range(3 * FAILURES):
        hosts.put("tracker", 0)
        assert begin(hosts, 0) == [("tracker", 0)]
        hosts.ended("tracker", error, 0)
    assert not hosts.is_down("tracker")


@pytest.mark.parametrize("reason", ["timed-out", "refused", "no-address", "too-many-redirects", "http-503", "http-429"])
def test_everything_else_does(hosts: Hosts[int], reason: str) -> None:
    for _ in range(FAILURES):
        hosts.put("tracker", 0)
        begin(hosts, 0)
        hosts.ended("tracker", RemoteError(reason), 0)
    assert hosts.is_down("tracker")


def test_a_changed_network_has_every_host_tried_again(hosts: Hosts[int]) -> None:
    for _ in range(FAILURES):
        hosts.put("tracker", 0)
        begin(hosts, 0)
        hosts.ended("tracker", SILENCE, 0)
    hosts.network_changed()
    hosts.put("tracker", 1)
    assert begin(hosts, 0) == [("tracker", 1)]


def test_what_is_not_wanted_any_more_takes_no_turn(hosts: Hosts[int]) -> None:
    for number in range(10):
        hosts.put("tracker", number)
    assert hosts.begin(0, lambda item: item == 7) == [("tracker", 7)]
    assert hosts.due(0) == math.inf


def test_after_going_offline_nothing_is_under_way(hosts: Hosts[int]) -> None:
    for number in range(10):
        hosts.put("tracker", number)
    for host, _ in begin(hosts, 0):
        hosts.abandoned(host)
    hosts.clear()
    assert hosts.due(0) == math.inf
    for number in range(10):
        hosts.put("tracker", number)
    assert len(begin(hosts, 0)) == MAX_BEFORE_ANSWER
