"""Tit for tat, turns and newcomers, decided from views; simulated over time where time matters."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from swarm.events import PathName
from swarm.torrent import exchange
from swarm.torrent.choker import MAX_SLOTS, OPTIMISTIC, RECHOKE, SEED_QUOTA, Choker, PeerView, slots_for


def view(key: str, **facts: float) -> PeerView:
    return PeerView(**{"key": key, "interested": True, "connected_at": -1000.0, **facts})  # type: ignore[arg-type]


def crowd(count: int, **facts: float) -> list[PeerView]:
    return [view(f"p{number}", **facts) for number in range(count)]


def choker(slots: int = 4, seed: int = 1, upload_limit: float = 1e6) -> Choker:
    """With an upload limit that the views reach, so that no slot is added."""
    return Choker(random.Random(seed), slots=slots, upload_limit=upload_limit)


def test_the_fastest_givers_and_one_optimistic_peer_are_unchoked() -> None:
    peers = [view(f"p{rate}", rate_down=rate, rate_up=100_000) for rate in range(1, 21)]
    seen = Counter(key for seed in range(200) for key in choker(seed=seed).decide(peers, 0.0, seeding=False))
    assert {key for key, count in seen.items() if count == 200} == {"p20", "p19", "p18"}
    assert sum(seen.values()) == 4 * 200
    assert len(seen) > 15, "the optimistic slot goes to anybody"


def test_peers_that_are_not_interested_take_no_slot() -> None:
    peers = [view("fast", interested=False, rate_down=9e9), *crowd(2)]
    assert choker().decide(peers, 0.0, seeding=False) == {"p0", "p1"}


def test_with_slots_to_spare_everybody_is_unchoked() -> None:
    assert len(choker(slots=8).decide(crowd(8), 0.0, seeding=False)) == 8
    assert len(choker(slots=8).decide(crowd(8), 0.0, seeding=True)) == 8
    assert choker().decide([], 0.0, seeding=False) == frozenset()


def test_a_peer_that_becomes_interested_gets_a_free_slot_at_once() -> None:
    decider = choker()
    decider.decide(crowd(2), 0.0, seeding=False)
    assert decider.decide(crowd(3), 0.1, seeding=False) == {"p0", "p1", "p2"}


def test_between_rankings_nobody_loses_a_slot() -> None:
    decider = choker(slots=3)
    first = decider.decide(crowd(10, rate_down=10), 0.0, seeding=False)
    faster = [replace(peer, rate_down=0 if peer.key in first else 1000) for peer in crowd(10)]
    assert decider.decide(faster, RECHOKE - 0.1, seeding=False) == first
    assert len(decider.decide(faster, RECHOKE, seeding=False) & first) <= 1


def test_the_optimistic_slot_goes_round() -> None:
    decider = choker(slots=2)
    peers = [view("best", rate_down=1e6, rate_up=1e6), *crowd(30)]
    lucky = []
    for turn in range(60):
        unchoked = decider.decide(peers, turn * RECHOKE, seeding=False)
        assert "best" in unchoked
        lucky.append(next(iter(unchoked - {"best"})))
    changes = [turn for turn in range(1, 60) if lucky[turn] != lucky[turn - 1]]
    assert changes == list(range(3, 60, 3)), f"changed every {OPTIMISTIC} seconds"
    assert len(set(lucky)) > 10


def test_newcomers_are_three_times_as_likely_to_be_the_optimistic_one() -> None:
    best = view("best", rate_down=1e6)
    peers = [best, *crowd(5), *(view(f"new{number}", connected_at=0.0) for number in range(5))]
    drawn = Counter(
        next(iter(choker(slots=2, seed=seed).decide(peers, 10.0, seeding=False) - {"best"}))[:3] for seed in range(2000)
    )
    newcomers = drawn["new"]
    assert newcomers / (2000 - newcomers) == pytest.approx(3, rel=0.2)


def test_a_snubbing_peer_loses_its_regular_slot() -> None:
    peers = [view("snubs", rate_down=1e6, snubbed=True), *crowd(9, rate_down=5)]
    kept = sum("snubs" in choker(seed=seed).decide(peers, 0.0, seeding=False) for seed in range(200))
    assert kept < 60, "only as the optimistic one"


def test_when_all_snub_us_more_than_one_slot_is_optimistic() -> None:
    decider = choker()
    unchoked = decider.decide([*crowd(10, snubbed=True)], 0.0, seeding=False)
    assert len(unchoked) == 4


@pytest.mark.parametrize(("path", "relayed"), [("tcp", False), ("birthday", False), ("relayed", True), ("turn", True)])
def test_the_exchange_says_who_is_relayed(path: PathName, relayed: bool) -> None:
    stub: Any = SimpleNamespace(
        identity=SimpleNamespace(path=path),
        uploader=SimpleNamespace(interested=True),
        downloader=SimpleNamespace(pipeline=SimpleNamespace(snubbed=False)),
        **dict.fromkeys(("connected_at", "rate_down", "rate_up", "bytes_up"), 0),
    )
    assert exchange._view(stub).relayed is relayed


def test_relayed_peers_come_last() -> None:
    peers = [view("relayed", rate_down=1e9, relayed=True, rate_up=1e6), *crowd(4)]
    for seeding in (False, True):
        for turn in range(20):
            assert "relayed" not in choker(seed=turn).decide(peers, 0.0, seeding=seeding)
        assert "relayed" in choker().decide(peers[:3], 0.0, seeding=seeding)


def test_seeding_everybody_gets_a_turn() -> None:
    """Twelve equal peers and three slots: after a quota and a minute each makes place for who waited longest."""
    decider = choker(slots=3)
    got = Counter({peer.key: 0 for peer in crowd(12)})
    unchoked: frozenset[object] = frozenset()
    for turn in range(240):
        peers = [replace(p, bytes_up=got[p.key], rate_up=1e6 * (p.key in unchoked)) for p in crowd(12)]
        unchoked = decider.decide(peers, turn * RECHOKE, seeding=True)
        assert len(unchoked) == 3
        for key in unchoked:
            got[key] += SEED_QUOTA // 6
    assert min(got.values()) > 0.4 * max(got.values())


def test_seeding_a_peer_keeps_its_slot_until_its_quota_is_used() -> None:
    decider = choker(slots=3)
    first = decider.decide(crowd(9), 0.0, seeding=True)
    for turn in range(1, 20):
        assert len(first & decider.decide(crowd(9), turn * RECHOKE, seeding=True)) >= 2


def test_spare_bandwidth_opens_slots_and_saturation_closes_them() -> None:
    decider = choker(slots=3, upload_limit=1e6)
    for turn in range(10):
        decider.decide(crowd(30, rate_up=1000.0), turn * RECHOKE, seeding=True)
    assert decider.slots > 8
    for turn in range(10, 30):
        decider.decide(crowd(30, rate_up=40_000.0), turn * RECHOKE, seeding=True)
    assert decider.slots == 3


def test_without_a_limit_slots_are_added_while_that_raises_the_rate() -> None:
    decider = choker(slots=3, upload_limit=0)
    for turn in range(60):
        rate = min(decider.slots, 10) * 100_000.0  # ten peers fill the line
        decider.decide(crowd(30, rate_up=rate / 30), turn * RECHOKE, seeding=True)
    assert 3 <= decider.slots <= 14


def test_slots_are_bounded() -> None:
    decider = choker(slots=3, upload_limit=1e9)
    for turn in range(200):
        assert len(decider.decide(crowd(100), turn * RECHOKE, seeding=True)) <= MAX_SLOTS
    assert decider.slots == MAX_SLOTS


@pytest.mark.parametrize(("limit", "slots"), [(0, 8), (1000, 2), (50 << 10, 5), (1 << 20, 24), (1 << 40, MAX_SLOTS)])
def test_slots_follow_the_upload_limit(limit: int, slots: int) -> None:
    assert slots_for(limit) == slots
    assert Choker(random.Random(1), slots=0, upload_limit=limit).slots == slots


def test_random_crowds_never_get_more_slots_than_there_are() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        decider = Choker(rng, slots=rng.randint(1, 6), upload_limit=rng.choice((0, 1e6)))
        now = 0.0
        for _ in range(30):
            now += rng.choice((0.5, 5.0, 10.0, 40.0))
            peers = [
                view(f"p{number}", interested=rng.random() < 0.7, rate_down=rng.choice((0.0, rng.random() * 1e6)),
                     rate_up=rng.random() * 1e5, bytes_up=rng.randrange(1 << 30), snubbed=rng.random() < 0.2,
                     relayed=rng.random() < 0.2, connected_at=now - rng.random() * 100)
                for number in rng.sample(range(20), rng.randrange(20))
            ]  # fmt: skip
            unchoked = decider.decide(peers, now, seeding=rng.random() < 0.5)
            interested = {peer.key for peer in peers if peer.interested}
            assert unchoked <= interested, f"seed {seed}"
            assert len(unchoked) == min(decider.slots, len(interested)), f"seed {seed}"
