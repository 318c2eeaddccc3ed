"""A part of the connectivity grid on kernel NATs: which pairs meet, by what kind of path, and how soon.

A line in EXPECTED is a cell; the whole grid is measured by ``python -m bench.reach``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import pytest

from tests.needs import need_program
from tests.netlab.grid import SAME, Outcome, Way, World, measure

pytestmark = pytest.mark.netlab

AT_ONCE = 3
"""Cells measured at the same time: half of each is waiting for others to settle."""

PROMPT, SOON, LATE = 5.0, 20.0, 45.0
"""Seconds, on a machine that does other things as well: of a peer that can be dialled or punched at once, of one whose
ports have to be guessed, and where libtorrent's timers rule (0.6 to 31 s were measured of one cell)."""

DIRECT = {Way("utp", "out"), Way("tcp", "out")}
MET = {Way(path, direction) for path in ("utp", "tcp", "utp-punched", "tcp-punched") for direction in ("in", "out")}
"""The seed cannot be dialled just so: it dials the leech, or both dial at once."""

PREDICTED = {Way("predicted", direction) for direction in ("in", "out")}
BIRTHDAY = {Way("birthday", direction) for direction in ("in", "out")}


class Cell(NamedTuple):
    """The seed's NAT and the leech's in a world, and what is to come of it."""

    world: str
    seed: str
    leech: str
    ways: set[Way]
    within: float


EXPECTED = [
    Cell("ours-ours", "open", "open", DIRECT, PROMPT),
    Cell("ours-ours", "open", "udpblock", DIRECT, PROMPT),
    Cell("ours-ours", "fullcone", "symrand", DIRECT, PROMPT),
    Cell("ours-ours", "upnp", "cone", DIRECT, PROMPT),
    Cell("ours-ours", "restricted", "open", MET, PROMPT),
    Cell("ours-ours", "cgnsym", "open", MET, PROMPT),
    Cell("ours-ours", "cone", "cone", MET, PROMPT),
    Cell("ours-ours", "cone", SAME, MET, SOON),
    Cell("ours-ours", "restricted", "symrand", MET, PROMPT),
    Cell("ours-ours", "udpblock", "cgn", MET, PROMPT),
    Cell("ours-ours", "symseq", "cone", PREDICTED, SOON),
    Cell("ours-ours", "symseq", "symseq", PREDICTED, SOON),
    Cell("ours-ours", "cone", "symrand", BIRTHDAY, SOON),
    Cell("ours-ours", "cgnsym", "cgn", BIRTHDAY, SOON),
    Cell("lt-ours", "open", "cone", DIRECT, PROMPT),
    Cell("lt-ours", "cone", "cone", MET, LATE),
    Cell("ours-lt", "fullcone", "symseq", DIRECT, LATE),
]


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, Future[Outcome]]]:
    """All cells, under way."""
    for program in ("miniupnpd", "ss"):
        need_program(program)
    quiet = threading.Lock()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name_of(cell): pool.submit(measure_cell, cell, quiet) for cell in EXPECTED}
        pool.shutdown(cancel_futures=True)


def measure_cell(cell: Cell, quiet: threading.Lock) -> Outcome:
    return measure(cell.seed, cell.leech, World.parse(cell.world), limit=cell.within, quiet=quiet)


def name_of(cell: Cell) -> str:
    return f"{cell.world}-{cell.seed}-{cell.leech}"


@pytest.mark.parametrize("cell", EXPECTED, ids=name_of)
def test_a_pair_meets(outcomes: dict[str, Future[Outcome]], cell: Cell) -> None:
    outcome = outcomes[name_of(cell)].result()
    print(name_of(cell), outcome)
    assert outcome.seconds is not None, outcome.why
    assert outcome.way in cell.ways
