"""The pipeline against simulated peers: full speed at any rate × latency, and little left waiting."""

from __future__ import annotations

import pytest

from swarm.torrent.openpiece import BLOCK
from swarm.torrent.pipeline import DEFAULT_REQQ, HEADROOM, INITIAL, SNUBBED_AFTER, Pipeline


class SimulatedPeer:
    """Answers requests in order at ``rate`` bytes a second, each ``latency`` seconds after it was sent at best."""

    def __init__(self, rate: float, latency: float, step: float, **options: int) -> None:
        self.rate, self.latency, self.step = rate, latency, step
        self.now = 0.0
        self.free_at = 0.0
        self.answers: list[float] = []
        self.done = self.largest = self.writes = 0
        self.pipeline = Pipeline(0.0, **options)

    def run(self, seconds: float) -> float:
        """The payload rate of this period."""
        before, end = self.done, self.now + seconds
        while self.now < end:
            if room := self.pipeline.room:
                self.pipeline.sent(room, self.now)
                self.writes += 1
                for _ in range(room):
                    self.free_at = max(self.free_at, self.now + self.latency) + BLOCK / self.rate
                    self.answers.append(self.free_at)
            self.largest = max(self.largest, self.pipeline.outstanding)
            self.now += self.step
            arrived = 0
            while arrived < len(self.answers) and self.answers[arrived] <= self.now:
                arrived += 1
            if arrived:
                del self.answers[:arrived]
                self.pipeline.received(arrived, arrived * BLOCK, self.now)
                self.done += arrived
        return (self.done - before) * BLOCK / seconds


@pytest.mark.parametrize(
    ("rate", "latency", "step"),
    [(20e3, 0.05, 0.01), (1e6, 0.3, 0.005), (10e6, 0.1, 0.002), (100e6, 0.1, 0.002), (400e6, 0.0005, 0.0005)],
)
def test_a_peer_is_kept_busy_within_seconds(rate: float, latency: float, step: float) -> None:
    peer = SimulatedPeer(rate, latency, step)
    peer.pipeline.set_reqq(2000)
    peer.run(4.0)
    assert peer.run(3.0) > 0.95 * rate


@pytest.mark.parametrize(("rate", "latency"), [(1e6, 0.05), (20e6, 0.05), (100e6, 0.002)])
def test_little_waits_in_the_peer_once_its_rate_is_known(rate: float, latency: float) -> None:
    peer = SimulatedPeer(rate, latency, 0.002)
    peer.pipeline.set_reqq(2000)
    peer.run(6.0)
    peer.largest = 0
    peer.run(2.0)
    in_flight = rate * (latency + peer.step) / BLOCK + 1
    assert peer.largest <= 3 * in_flight + min(1.2 * rate / BLOCK, HEADROOM) + INITIAL


def test_a_slow_peer_gets_few_requests() -> None:
    peer = SimulatedPeer(5e3, 0.1, 0.05)
    peer.run(60.0)
    assert peer.pipeline.target <= 5
    assert not peer.pipeline.fills_within_reason(1 << 20)


def test_a_fast_peer_is_given_pieces_of_its_own() -> None:
    peer = SimulatedPeer(1e6, 0.1, 0.01)
    peer.run(3.0)
    assert peer.pipeline.fills_within_reason(1 << 20)
    assert peer.pipeline.rate == pytest.approx(1e6, rel=0.1)


def test_requests_go_out_dozens_at_a_time() -> None:
    peer = SimulatedPeer(400e6, 0.0005, 0.0001)
    peer.pipeline.set_reqq(2000)
    peer.run(0.5)
    peer.done = peer.writes = 0
    peer.run(0.5)
    assert peer.done / peer.writes > 30


def test_what_the_peer_says_it_queues_is_never_exceeded() -> None:
    for reqq in (0, 1, 5, 100, None):
        peer = SimulatedPeer(50e6, 0.1, 0.002)
        if reqq is not None:
            peer.pipeline.set_reqq(reqq)
        peer.run(3.0)
        assert peer.largest == (DEFAULT_REQQ if reqq is None else max(reqq, 1))


def test_our_own_cap_holds() -> None:
    peer = SimulatedPeer(100e6, 0.2, 0.002, cap=300)
    peer.pipeline.set_reqq(5000)
    peer.run(3.0)
    assert peer.largest <= 300


def test_latency_is_the_shortest_time_to_an_answer() -> None:
    pipeline = Pipeline(0.0)
    pipeline.sent(4, 1.0)
    pipeline.received(1, BLOCK, 1.2)
    assert pipeline.latency == pytest.approx(0.2)
    pipeline.sent(1, 1.3)  # the fourth in line
    pipeline.received(3, 3 * BLOCK, 1.4)
    pipeline.received(1, BLOCK, 1.45)
    assert pipeline.latency == pytest.approx(0.15)
    pipeline.sent(1, 2.0)
    pipeline.received(1, BLOCK, 2.5)
    assert pipeline.latency == pytest.approx(0.15)


def test_a_reject_spoils_the_sample_but_not_the_count() -> None:
    pipeline = Pipeline(0.0)
    pipeline.sent(4, 1.0)
    pipeline.released(2)
    pipeline.received(2, 2 * BLOCK, 1.0001)
    assert (pipeline.latency, pipeline.outstanding) == (None, 0)


def test_a_silent_peer_is_snubbed_and_a_block_redeems_it() -> None:
    pipeline = Pipeline(0.0)
    assert pipeline.next_deadline() is None
    pipeline.sent(16, 100.0)
    assert pipeline.next_deadline() == 100.0 + SNUBBED_AFTER
    assert not pipeline.snub(100.0 + SNUBBED_AFTER - 1)
    assert pipeline.snub(100.0 + SNUBBED_AFTER)
    assert (pipeline.target, pipeline.room, pipeline.snubbed) == (1, 0, True)
    assert not pipeline.snub(100.0 + SNUBBED_AFTER + 1), "said once"
    pipeline.received(1, BLOCK, 170.0)
    assert not pipeline.snubbed
    assert pipeline.target == INITIAL + 1


def test_a_peer_that_stays_silent_is_reported_again_and_given_up() -> None:
    pipeline = Pipeline(0.0)
    pipeline.sent(16, 0.0)
    assert [now for now in range(200) if pipeline.snub(now)] == [60, 120, 180]
    pipeline.released_all()
    assert (pipeline.outstanding, pipeline.room, pipeline.next_deadline()) == (0, 1, None)
    assert not pipeline.snub(1000.0)


def test_time_with_nothing_outstanding_is_not_silence() -> None:
    pipeline = Pipeline(0.0)
    pipeline.sent(1, 0.0)
    pipeline.received(1, BLOCK, 0.1)
    pipeline.sent(1, 500.0)
    assert not pipeline.snub(500.1)


def test_blocks_beyond_the_count_do_not_make_it_negative() -> None:
    pipeline = Pipeline(0.0)
    pipeline.sent(1, 0.0)
    pipeline.released_all()
    pipeline.received(5, 5 * BLOCK, 0.1)
    assert pipeline.outstanding == 0
