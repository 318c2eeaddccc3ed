"""TURN on kernel NATs with coturn: pairs that no packet can cross, ours and with libtorrent at the far end.

Nothing is simulated.  All pairs are measured by ``python -m bench.reach --turn``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import NamedTuple

import pytest

from tests.needs import need_program
from tests.netlab.grid import PORT, SAME, SIZE, Outcome, Pair, Way, World, measure
from tests.netlab.lab import Lab

pytestmark = pytest.mark.netlab

AT_ONCE = 3

WITHIN = 20.0
"""Seconds from the start of the leech's process.  Seeds of libtorrent's behind symmetric NATs hear of who comes late by
PEX once a minute, and take 62 s: the bench has them."""

TURN = {Way("turn", "out"), Way("turn", "in")}


class Cell(NamedTuple):
    world: str
    seed: str
    leech: str
    relayed: bool = True


CELLS = [
    Cell("turn-turn", "symrand", "symrand"),
    Cell("turn-turn", "udpblock", "symrand"),
    Cell("turn-turn", "cgnsym", "udpblock"),
    Cell("ours-turn", "symrand", "cgnsym"),
    Cell("turn-turn", "cone", "cone", relayed=False),
    Cell("turn-turn", "cone", SAME, relayed=False),
    Cell("turn-lt", "symrand", "symrand"),
    Cell("turn-lt", "udpblock", "symrand"),
    Cell("lt-turn", "cone", "symrand"),
]


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[Cell, Future[Outcome]]]:
    """All cells, under way."""
    need_program("turnserver")
    quiet = Lock()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            cell: pool.submit(measure, cell.seed, cell.leech, World.parse(cell.world), limit=WITHIN, quiet=quiet)
            for cell in CELLS
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.world}-{cell.seed}-{cell.leech}")
def test_a_cell(outcomes: dict[Cell, Future[Outcome]], cell: Cell) -> None:
    outcome = outcomes[cell].result()
    print(cell, outcome)
    assert outcome.seconds is not None, outcome.why
    assert (outcome.way in TURN) is cell.relayed


def test_a_port_that_is_opened_by_hand_takes_over_and_no_block_comes_twice() -> None:
    with Lab(ipv6=False) as lab:
        pair = Pair(lab, "symrand", "symrand", World.parse("turn-turn"), rate=300_000)
        pair.start_others()
        pair.settle()
        leech = pair.start_leech()
        assert leech.wait_for("piece", WITHIN) is not None, pair.why()
        assert pair.way_to_seed() in TURN
        assert pair.seed.router is not None
        rule = f'iifname "wan" tcp dport {PORT} dnat ip to {pair.seed.address}'
        pair.seed.router.run("nft", "-f", "-", stdin=f"add rule inet lab before {rule}")
        assert leech.wait_for("done", WITHIN + 10.0) is not None, pair.why()
        (done,) = leech.lines("done")
        assert pair.way_to_seed() == Way("tcp", "out")
        assert done["downloaded"] == SIZE


def test_a_coturn_that_is_killed_in_mid_transfer_is_said_to_be_gone_and_made_use_of_again() -> None:
    with Lab(ipv6=False) as lab:
        pair = Pair(lab, "symrand", "symrand", World.parse("turn-turn"), rate=100_000)
        pair.start_others()
        pair.settle()
        leech = pair.start_leech()
        assert leech.wait_for("piece", 30.0) is not None
        assert pair.coturn is not None
        pair.coturn.kill()
        deadline = time.monotonic() + 60
        while not any("TURN" in line["message"] for line in leech.lines("warning")):
            assert time.monotonic() < deadline, "nobody has noticed"
            time.sleep(0.5)
        had = len(leech.lines("piece"))
        assert not leech.lines("done")
        pair.coturn.start()
        assert leech.wait_for("done", 150.0) is not None, pair.why()
        assert pair.is_complete()
        assert len(leech.lines("piece")) == 4 > had, "each piece once"
