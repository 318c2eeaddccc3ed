"""`sw_relay` on kernel NATs: pairs that no packet can cross exchange data through a rendezvous that relays.

Nothing is simulated: the rendezvous is a command with ``--relay-serve``, has proof by `sw_reach` that strangers get
through to it, and has none of the data itself.  All pairs are measured by ``python -m bench.reach --relay``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.netlab.grid import PORT, SIZE, Outcome, Pair, Way, World, measure
from tests.netlab.lab import Lab

pytestmark = pytest.mark.netlab

WORLD = World.parse("ours-ours-relay")
HOPELESS = [("symrand", "symrand"), ("udpblock", "symrand"), ("symrand", "udpblock"), ("cgnsym", "symrand")]
DIRECT = ("cone", "cone")
AT_ONCE = 3

FIRST_PIECE, COMPLETE = 5.0, 20.0
"""Seconds from the start of the leech's process; the first is what is promised, of pieces of 512 KiB at 1 MiB/s."""

SLOW = 300_000
"""Bytes a second, so that most is left to do when the way opens."""

TAKEN_OVER = 30.0
"""Seconds for all of it at that rate, and for SYNs to be repeated: Linux does after 1, 3 and 7 seconds."""

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


def test_a_port_that_is_opened_by_hand_ends_the_relaying_and_no_block_comes_twice(lab: Lab) -> None:
    cell = Pair(lab, "symrand", "symrand", WORLD, rate=SLOW)
    cell.start_others()
    cell.settle()
    leech = cell.start_leech()
    assert leech.wait_for("piece", COMPLETE) is not None, cell.why()
    assert cell.way_to_seed() in RELAYED
    assert cell.seed.router is not None
    rule = f'iifname "wan" tcp dport {PORT} dnat ip to {cell.seed.address}'
    cell.seed.router.run("nft", "-f", "-", stdin=f"add rule inet lab before {rule}")
    assert leech.wait_for("done", TAKEN_OVER) is not None, cell.why()
    (done,) = leech.lines("done")
    assert cell.way_to_seed() == Way("tcp", "out")
    assert done["downloaded"] == SIZE
    assert cell.relayed_bytes() < SIZE
    assert not cell.circuits()


def test_the_relay_tells_what_it_has_carried(lab: Lab) -> None:
    cell = Pair(lab, "symrand", "symrand", WORLD)
    cell.start_others()
    cell.settle()
    assert cell.relayed_bytes() == 0
    assert cell.start_leech().wait_for("done", COMPLETE) is not None
    assert cell.relayed_bytes() >= SIZE
