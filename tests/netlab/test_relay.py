"""`sw_relay` on kernel NATs: pairs that no packet can cross exchange data through a rendezvous that relays.

Nothing is simulated: the rendezvous is a command with ``--relay-serve``, has proof by `sw_reach` that strangers get
through to it, and has none of the data itself.  All pairs are measured by ``python -m bench.reach --relay``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.netlab.grid import SIZE, Outcome, Pair, Way, World, measure
from tests.netlab.lab import Lab

pytestmark = pytest.mark.netlab

WORLD = World.parse("ours-ours-relay")
HOPELESS = [("symrand", "symrand"), ("udpblock", "symrand"), ("symrand", "udpblock"), ("cgnsym", "symrand")]
DIRECT = ("cone", "cone")
AT_ONCE = 3

FIRST_PIECE, COMPLETE = 5.0, 20.0
"""Seconds from the start of the leech's process; the first is what is promised, of pieces of 512 KiB at 1 MiB/s."""

RELAYED = {Way("relayed", "out"), Way("relayed", "in")}


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[tuple[str, str], Future[Outcome]]]:
    """All cells, under way."""
    quiet = threading.Lock()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        pairs = [*HOPELESS, DIRECT]
        yield {pair: pool.submit(measure, *pair, WORLD, limit=COMPLETE, quiet=quiet) for pair in pairs}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("pair", HOPELESS, ids=":".join)
def test_a_pair_that_cannot_meet_is_relayed(
    outcomes: dict[tuple[str, str], Future[Outcome]], pair: tuple[str, str]
) -> None:
    outcome = outcomes[pair].result()
    print(pair, outcome)
    assert outcome.seconds is not None, outcome.why
    assert outcome.way in RELAYED
    assert outcome.first_piece is not None and outcome.first_piece <= FIRST_PIECE


def test_a_pair_that_meets_is_not_relayed(outcomes: dict[tuple[str, str], Future[Outcome]]) -> None:
    outcome = outcomes[DIRECT].result()
    assert outcome.seconds is not None, outcome.why
    assert outcome.way not in RELAYED


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(ipv6=False) as made:
        yield made


def test_the_relay_tells_what_it_has_carried(lab: Lab) -> None:
    cell = Pair(lab, "symrand", "symrand", WORLD)
    cell.start_others()
    cell.settle()
    assert cell.relayed_bytes() == 0
    assert cell.start_leech().wait_for("done", COMPLETE) is not None
    assert cell.relayed_bytes() >= SIZE
