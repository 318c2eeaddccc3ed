"""How often introducers have us shoot: liars and honest ones."""

from __future__ import annotations

from swarm.connect.shots import MAX_SHOTS, MAX_SHOTS_OF_ONE, MAX_TRUSTED, ONE_BURST, ONE_SECONDS, SHOTS_BURST, Shots
from swarm.endpoint import Endpoint


def introducer(number: int) -> Endpoint:
    return Endpoint(f"21.{number >> 8}.{number & 255}.1", 6881)


def shoot(shots: Shots, by: Endpoint, now: float, *, met: bool = False) -> bool:
    """One that is over at once."""
    ended = shots.take(by, now)
    if ended is not None:
        ended(met)
    return ended is not None


def test_one_liar_leaves_most_to_others() -> None:
    shots, liar = Shots(), introducer(1)
    wasted = sum(shoot(shots, liar, 0.0) for _ in range(1000))
    assert wasted == ONE_BURST
    assert sum(shoot(shots, introducer(2 + number), 0.0) for number in range(1000)) == SHOTS_BURST - ONE_BURST
    minute = sum(shoot(shots, liar, second / 10) for second in range(600))
    assert minute <= 1 + 60 / ONE_SECONDS


def test_a_liar_is_known_by_its_address() -> None:
    shots = Shots()
    assert sum(shoot(shots, Endpoint("21.0.0.1", port), 0.0) for port in range(1, 1000)) == ONE_BURST


def test_who_has_us_meet_somebody_may_go_on_whatever_liars_waste() -> None:
    shots, honest = Shots(), introducer(0)
    assert all(shoot(shots, honest, 0.0, met=True) for _ in range(100)), "what met somebody is given back"
    for number in range(1, 1000):
        shoot(shots, introducer(number), 0.0)
    assert not shoot(shots, introducer(5000), 0.0)
    assert shoot(shots, honest, 0.0, met=True)
    assert shoot(shots, honest, 0.0, met=False)
    assert not shoot(shots, honest, 0.0), "trust is lost with the first miss"


def test_shots_under_way_are_few_and_of_one_fewer() -> None:
    shots = Shots()
    of_one = [ended for _ in range(100) if (ended := shots.take(introducer(1), 0.0)) is not None]
    assert len(of_one) == MAX_SHOTS_OF_ONE
    others = [number for number in range(2, 100) if shots.take(introducer(number), 0.0) is not None]
    assert len(others) == MAX_SHOTS - MAX_SHOTS_OF_ONE
    assert shots.under_way == MAX_SHOTS
    of_one[0](False)
    assert shots.take(introducer(200), 0.0) is not None


def test_meeting_somebody_on_trust_gives_nothing_to_others() -> None:
    """Two who work together: one brings peers of his, the other invents some."""
    shots, honest = Shots(), introducer(0)
    shoot(shots, honest, 0.0, met=True)
    for number in range(1, 1000):
        shoot(shots, introducer(number), 0.0)
    assert all(shoot(shots, honest, 0.0, met=True) for _ in range(100))
    assert not shoot(shots, introducer(5000), 0.0)


def test_few_are_remembered_as_honest() -> None:
    shots = Shots()
    for number in range(10 * MAX_TRUSTED):
        assert shoot(shots, introducer(number), float(number), met=True)
    for number in range(5000, 5100):
        shoot(shots, introducer(number), 10.0 * MAX_TRUSTED)
    honest = [number for number in range(10 * MAX_TRUSTED) if shoot(shots, introducer(number), 10.0 * MAX_TRUSTED)]
    assert honest == list(range(9 * MAX_TRUSTED, 10 * MAX_TRUSTED))
