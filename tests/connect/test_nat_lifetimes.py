"""What two helpers say of for how long our NAT keeps a mapping: they are strangers, and may leave at any moment."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from swarm.connect.lifetime import Lifetime, measure_lifetime
from swarm.connect.nat_tests import NatTests
from swarm.connect.natprobe import NatProbe
from swarm.endpoint import Endpoint

ONE, OTHER = Endpoint("20.1.0.1", 6881), Endpoint("20.2.0.1", 6881)


async def test_a_helper_that_is_silent_now_and_then_tells_how_long_but_not_when_it_ends(
    autojump_clock: MockClock,
) -> None:
    told: dict[int, tuple[float, bool | None]] = {4: (1.6, None), 8: (10.0, True), 13: (19.1, None), 18: (18.7, True)}

    async def survives(silence: int) -> bool | None:
        after, answer = told.get(silence, (500.0, False))
        await trio.sleep(after)
        return answer

    assert await measure_lifetime(survives) == Lifetime(18, None)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_of_two_that_agree_on_what_lasts_the_one_that_knows_when_it_ends_counts(
    autojump_clock: MockClock, order: tuple[int, int]
) -> None:
    """None was compared with a number, and took the node down: two strangers could say so."""
    said = [(ONE, Lifetime(18, None)), (OTHER, Lifetime(18, 27))]
    network: Any = None
    probe = NatProbe(ipv6=False)
    tests = NatTests(network, random.Random(1), probe, translated=lambda: True, forwarded=lambda: False)
    told: list[tuple[float, float | None]] = []
    probe.lifetime_says = lambda lasted, gone_after, now: told.append((lasted, gone_after))  # type: ignore[method-assign]
    for number in order:
        tests._note(*said[number])
    assert told[-1] == (18, 27)
    assert tests.keep_alive(OTHER) == pytest.approx(0.8 * 18)
