"""What routers and peers do in mid-download, to two of our nodes behind kernel NATs that have punched through them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.needs import need_program
from tests.netlab.faults import change_external_address, reboot_router
from tests.netlab.grid import Pair, World
from tests.netlab.lab import Lab

pytestmark = pytest.mark.netlab

RATE = 250_000
"""Bytes a second: 2 MiB take eight."""

UNDER_WAY = 1.5
"""Seconds of downloading before the fault."""

LIMIT = 45.0
"""Seconds from the leech's start in which whatever is waited for happens."""

Fault = Callable[[Lab, Pair], None]


FAULTS: dict[str, Fault] = {
    "the leech's router restarts": lambda lab, pair: reboot_router(lab, pair.leech),
    "the seed's router restarts": lambda lab, pair: reboot_router(lab, pair.seed),
    "the leech's address changes": lambda lab, pair: change_external_address(lab, pair.leech, "11.11.11.222"),
    "the seed is killed": lambda lab, pair: _kill(pair, "seed"),
    "the introducer is killed": lambda lab, pair: _kill(pair, "rendezvous"),
}
FATAL = ("the seed is killed",)


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, Future[str | None]]]:
    """All of them, under way: what went wrong, or None."""
    need_program("ss")
    with ThreadPoolExecutor(3) as pool:
        yield {name: pool.submit(run, name) for name in FAULTS}
        pool.shutdown(cancel_futures=True)


def run(name: str) -> str | None:
    with Lab(ipv6=False) as lab:
        pair = Pair(lab, "cone", "cone", World.parse("ours-ours"), rate=RATE)
        pair.start_others()
        pair.settle()
        leech = pair.start_leech()
        seed = {"endpoint": f"{pair.seed.external}:6881"}
        if leech.wait_for("peer", LIMIT, state="connected", **seed) is None:
            return f"never met: {pair.why()}"
        time.sleep(UNDER_WAY)
        if leech.lines("done"):
            return "the fault came too late"
        FAULTS[name](lab, pair)
        if name in FATAL:
            return None if leech.wait_for("peer", LIMIT, state="lost", **seed) is not None else "kept for ever"
        return None if leech.wait_for("done", LIMIT) is not None else f"not complete: {pair.why()}"


def _kill(pair: Pair, name: str) -> None:
    pair.nodes[name].process.kill()


@pytest.mark.parametrize("name", FAULTS)
def test_in_mid_download(outcomes: dict[str, Future[str | None]], name: str) -> None:
    assert outcomes[name].result() is None
