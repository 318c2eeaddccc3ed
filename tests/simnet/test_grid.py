"""Every pair of NATs in the simulated internet: who reaches whom, by which path, how soon.

The table is what is expected, both ways round; a cell that becomes better or worse fails until the table says so.
Times are virtual, with about 50 ms between any two hosts, from the start of the leech to 2 MiB complete.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from swarm.simnet.catalogue import KINDS
from swarm.simnet.replay import seeded_scheduler
from tests.simnet.grid import reach

# d: direct; p: punched (µTP or TCP), also where an introducer has the seed dial an open leech; g: guessed ports
# (predicted or birthday); -: not reached directly, for relays.
EXPECTED = """
            open fullcone restricted cone symseq symrand udpblock upnp natpmp pcp cgn cgnsym
open        d    d        d          d    d      d       d        d    d      d   d   d
fullcone    d    d        d          d    d      d       p        d    d      d   d   d
restricted  p    p        p          p    p      p       p        p    p      p   p   p
cone        p    p        p          p    g      g       p        p    p      p   p   g
symseq      p    p        p          g    g      -       -        p    p      p   g   -
symrand     p    p        p          g    -      -       -        p    p      p   g   -
udpblock    p    p        p          p    -      -       p        p    p      p   p   -
upnp        d    d        d          d    d      d       d        d    d      d   d   d
natpmp      d    d        d          d    d      d       d        d    d      d   d   d
pcp         d    d        d          d    d      d       d        d    d      d   d   d
cgn         p    p        p          p    g      g       p        p    p      p   p   g
cgnsym      p    p        p          g    -      -       -        p    p      p   g   -
"""
EXPECTED_IPV6 = """
            v6open v6fw v6pin
v6open      d      d    d
v6fw        p      p    p
v6pin       d      d    d
"""
"""Firewalls translate nothing, but what they let in has to be dialled from both ends, or through a pinhole."""

CLASSES = {
    "tcp": "d",
    "utp": "d",
    "tcp-punched": "p",
    "utp-punched": "p",
    "predicted": "g",
    "birthday": "g",
    "relayed": "r",
    None: "-",
}
SECONDS = {"d": 1.5, "p": 1.5, "g": 4.0, "-": 61.0, "r": 8.0}
"""The most that a cell of each class may take."""


def cells_of(table: str) -> dict[tuple[str, str], str]:
    """What is expected, by the seed's kind and the leech's."""
    kinds, *rows = (line.split() for line in table.strip().splitlines())
    cells = {(row[0], kind): cell for row in rows for kind, cell in zip(kinds, row[1:], strict=True)}
    assert set(cells) == set(product(kinds, kinds)), "every pair is in the table"
    return cells


CELLS = cells_of(EXPECTED) | cells_of(EXPECTED_IPV6)


def test_every_kind_is_in_a_table() -> None:
    assert {seed for seed, _ in CELLS} == set(KINDS)


@pytest.mark.parametrize("seed,leech", CELLS)
def test_who_reaches_whom(tmp_path: Path, seed: str, leech: str) -> None:
    expected = CELLS[seed, leech]
    with seeded_scheduler(1):
        cell = trio.run(reach, tmp_path, seed, leech, clock=MockClock(autojump_threshold=0))
    found = CLASSES[cell.path]
    assert (found, cell.seconds <= SECONDS[found]) == (expected, True), cell


@pytest.mark.parametrize("seed,leech", [pair for pair, cell in CELLS.items() if cell == "-"])
def test_who_cannot_meet_is_relayed(tmp_path: Path, seed: str, leech: str) -> None:
    run = partial(reach, tmp_path, seed, leech, relayed=True)
    with seeded_scheduler(1):
        cell = trio.run(run, clock=MockClock(autojump_threshold=0))
    found = CLASSES[cell.path]
    assert (found, cell.seconds <= SECONDS[found]) == ("r", True), cell


@pytest.mark.parametrize("seed,leech", [("cone", "cone"), ("symseq", "symseq"), ("cone", "symrand")])
def test_a_cell_repeats_by_its_seed(tmp_path: Path, seed: str, leech: str) -> None:
    def run(name: str) -> object:
        with seeded_scheduler(2):
            return trio.run(reach, tmp_path / name, seed, leech, clock=MockClock(autojump_threshold=0))

    assert run("first") == run("second")
