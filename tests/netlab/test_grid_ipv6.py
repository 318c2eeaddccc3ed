"""The connectivity grid of hosts with IPv6 alone, behind kernel firewalls: every pair meets, and by which path.

Nothing is translated, but what a firewall lets in has to be dialled from both ends, or through a pinhole that a real
miniupnpd has opened, by PCP (v6pin) or by UPnP's AddPinhole (v6upnp).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.needs import need_program
from tests.netlab.grid import Outcome, World, measure
from tests.netlab.test_grid import AT_ONCE, DIRECT, MET, PROMPT
from tests.simnet.test_grid import cells_of

pytestmark = pytest.mark.netlab

# d: the leech dials; p: the rendezvous has both dial, and whichever dial gets through first is the connection.
EXPECTED = """
            v6open v6fw v6pin v6upnp
v6open      d      d    d     d
v6fw        p      p    p     p
v6pin       d      d    d     d
v6upnp      d      d    d     d
"""
CELLS = cells_of(EXPECTED)
WAYS = {"d": DIRECT, "p": MET}

IN_CI = [
    ("v6open", "v6pin"),
    ("v6fw", "v6open"),
    ("v6fw", "v6fw"),
    ("v6fw", "v6upnp"),
    ("v6pin", "v6fw"),
    ("v6upnp", "v6fw"),
]
"""A third of a minute; `make soak` has the others, and ``python -m bench.reach --ipv6`` shows the seconds of all."""


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, str], Future[Outcome]]]:
    """All cells that this run is for, under way."""
    for program in ("miniupnpd", "ss"):
        need_program(program)
    wanted = {
        item.callspec.params["cell"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path
    }
    quiet = threading.Lock()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {cell: pool.submit(measure_cell, cell, quiet) for cell in CELLS if cell in wanted}
        pool.shutdown(cancel_futures=True)


def measure_cell(cell: tuple[str, str], quiet: threading.Lock) -> Outcome:
    return measure(*cell, World.parse("ours-ours"), limit=PROMPT, quiet=quiet)


def parameter(cell: tuple[str, str]) -> object:
    return pytest.param(cell, id="-".join(cell), marks=[] if cell in IN_CI else pytest.mark.soak)


@pytest.mark.parametrize("cell", [parameter(cell) for cell in CELLS])
def test_a_pair_meets(outcomes: dict[tuple[str, str], Future[Outcome]], cell: tuple[str, str]) -> None:
    outcome = outcomes[cell].result()
    print(*cell, outcome)
    assert outcome.seconds is not None, outcome.why
    assert outcome.way in WAYS[CELLS[cell]]
    assert outcome.seed_mapped in (None, True)
