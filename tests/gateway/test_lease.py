"""The life of a lease, second by second: RFC 6887 §11.2.1 for renewals, and what is lost when."""

from __future__ import annotations

import random

import pytest

from swarm.endpoint import Endpoint
from swarm.gateway.lease import RENEWAL_SPACING, Lease
from swarm.gateway.method import PERMANENT, Mapping

INSIDE = Endpoint("10.0.1.2", 6881)
EXTERNAL = Endpoint("20.50.0.1", 7000)


class Dice(random.Random):
    """Always rolls the same."""

    def __init__(self, roll: float) -> None:
        super().__init__()
        self._roll = roll

    def random(self) -> float:
        return self._roll


def new(roll: float = 0.5, longest_silence: float = PERMANENT) -> Lease:
    return Lease("udp", INSIDE, 6881, now=100.0, rng=Dice(roll), longest_silence=longest_silence)


def granted(lifetime: float = 3600.0, external: Endpoint = EXTERNAL) -> Mapping:
    return Mapping("udp", INSIDE, external.port, external.host, lifetime)


def test_a_new_lease_is_asked_for_at_once() -> None:
    lease = new()
    assert (lease.state, lease.next_deadline(), lease.is_due(100.0)) == ("requested", 100.0, True)
    assert (lease.external, lease.expires_in(100.0), lease.release()) == (None, None, None)


def test_a_granted_lease_is_held_until_it_expires() -> None:
    lease = new()
    assert lease.granted(granted(), 100.0) == "made"
    assert (lease.held, lease.external, lease.expires_in(200.0), lease.wanted_port) == (True, EXTERNAL, 3500.0, 7000)
    assert lease.handle_deadline(3699.9) is None
    assert lease.handle_deadline(3700.0) == "lost"
    assert (lease.state, lease.external, lease.handle_deadline(3701.0)) == ("lost", None, None)


@pytest.mark.parametrize(("roll", "first", "second", "third"), [(0.0, 1800, 2700, 3150), (1.0, 2250, 2925, 3262.5)])
def test_renewals_are_planned_as_in_the_rfc(roll: float, first: float, second: float, third: float) -> None:
    lease = new(roll)
    lease.granted(granted(), 100.0)
    assert lease.next_deadline() == 100 + first
    assert not lease.is_due(99 + first)
    for now, planned in ((100 + first, second), (100 + second, third)):
        assert lease.is_due(now)
        assert lease.failed("timed-out", now) == "kept"
        assert lease.next_deadline() == 100 + planned
    assert lease.granted(granted(), 3400.0) == "renewed"
    assert lease.next_deadline() == 3400 + first


def test_renewals_are_four_seconds_apart_and_end_with_the_lease() -> None:
    lease = new(0.0)
    lease.granted(granted(10.0), 100.0)
    sent = []
    while lease.held:
        now = lease.next_deadline()
        if lease.handle_deadline(now) is None:
            sent.append(now)
            lease.failed("timed-out", now)
    assert sent == [105.0, 109.0]
    assert now == 110.0


def test_a_method_that_shows_no_restart_is_asked_more_often_than_its_lease_asks_for() -> None:
    lease = new(0.0, longest_silence=300.0)
    lease.granted(granted(), 100.0)
    assert (lease.next_deadline(), lease.expires_in(100.0)) == (400.0, 3600.0)
    lease.granted(granted(PERMANENT), 400.0)
    assert (lease.next_deadline(), lease.expires_in(400.0)) == (700.0, None)


def test_a_permanent_lease_with_an_epoch_needs_no_renewal() -> None:
    lease = new()
    lease.granted(granted(PERMANENT), 100.0)
    assert lease.next_deadline() == PERMANENT
    assert lease.held


def test_another_external_endpoint_is_news() -> None:
    lease = new()
    lease.granted(granted(), 100.0)
    assert lease.granted(granted(external=Endpoint("20.50.0.2", 7000)), 200.0) == "moved"
    assert lease.granted(granted(external=Endpoint("20.50.0.2", 7001)), 300.0) == "moved"
    assert lease.wanted_port == 7001


@pytest.mark.parametrize(("roll", "factor"), [(0.0, 0.9), (0.5, 1.0), (1.0, 1.1)])
def test_refusals_are_repeated_ever_more_slowly(roll: float, factor: float) -> None:
    lease = new(roll)
    waits = []
    for _ in range(9):
        now = lease.next_deadline()
        lease.failed("refused", now)
        waits.append(lease.next_deadline() - now)
    assert waits == pytest.approx([wait * factor for wait in (15, 30, 60, 120, 240, 480, 900, 900, 900)])


def test_the_same_refusal_is_news_once() -> None:
    lease = new()
    assert [lease.failed(reason, 100.0) for reason in ("refused", "refused", "conflict")] == [
        "failed",
        "kept",
        "failed",
    ]
    assert lease.error == "conflict"
    lease.granted(granted(), 200.0)
    assert lease.error is None
    assert lease.failed("refused", 300.0) == "kept"


def test_a_gateway_may_say_how_long_it_will_refuse() -> None:
    lease = new()
    lease.failed("out-of-resources", 100.0, retry_in=1800.0)
    assert lease.next_deadline() == 1900.0


def test_a_lost_epoch_asks_again_at_once_for_the_same_port() -> None:
    lease = new()
    lease.granted(granted(), 100.0)
    assert lease.forget(500.0) == "lost"
    assert (lease.state, lease.is_due(500.0), lease.wanted_port) == ("lost", True, 7000)
    assert lease.forget(501.0) == "kept"
    assert lease.granted(granted(), 502.0) == "made"


def test_a_check_asks_again_at_once_and_believes_meanwhile() -> None:
    lease = new()
    lease.granted(granted(), 100.0)
    lease.check(500.0)
    assert lease.is_due(500.0)
    assert lease.held
    lease.failed("timed-out", 500.0)
    assert lease.next_deadline() > 500.0


def test_nothing_is_asked_after_release() -> None:
    lease = new()
    lease.granted(granted(), 100.0)
    assert lease.release() == granted()
    assert (lease.state, lease.next_deadline(), lease.is_due(10**9)) == ("released", PERMANENT, False)
    assert [lease.forget(1.0), lease.failed("x", 1.0), lease.granted(granted(), 1.0)] == ["kept"] * 3
    assert lease.external is None


def test_a_lease_survives_any_order_of_events() -> None:
    rng = random.Random(20261123)
    for _ in range(300):
        lease = Lease("tcp", INSIDE, 6881, now=0.0, rng=rng, longest_silence=rng.choice([PERMANENT, 300.0]))
        now = 0.0
        for _ in range(40):
            now += rng.choice([0.0, 0.1, 10.0, 2000.0])
            lease.handle_deadline(now)
            match rng.randrange(5):
                case 0:
                    lease.granted(granted(rng.choice([1.0, 60.0, 3600.0, PERMANENT])), now)
                    assert lease.held
                    assert lease.next_deadline() > now
                case 1:
                    lease.failed("refused", now)
                    assert not lease.is_due(now)
                case 2:
                    lease.forget(now)
                    assert not lease.held
                    assert lease.is_due(now + RENEWAL_SPACING)
                case 3:
                    lease.check(now)
                    assert lease.is_due(now + RENEWAL_SPACING)
            assert (lease.external is not None) == lease.held
