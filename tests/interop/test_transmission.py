"""Transmission 3.00 seeds to us and leeches from us, through opentracker.

It dials no loopback address that a tracker names, so it is always us who dial; and it leaves out files of no bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.clients import transmission
from tests.interop.ours import Meetings
from tests.interop.samples import KINDS, Kind, Shared

pytestmark = pytest.mark.interop


@contextmanager
def seed(shared: Shared) -> Iterator[None]:
    with transmission(shared.torrent.parent / "transmission", shared.seed) as client:
        client.add(shared.torrent)
        client.wait_complete(60)
        yield


@contextmanager
def leech(shared: Shared, directory: Path) -> Iterator[Callable[[], bool]]:
    with transmission(shared.torrent.parent / "transmission", directory) as client:
        client.add(shared.torrent)
        yield lambda: client.percent_done() == 100.0


@pytest.fixture(scope="module")
def meetings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meetings]:
    with ThreadPoolExecutor() as pool:
        yield Meetings(pool, tmp_path_factory.mktemp("transmission"), KINDS, seed, leech, makes_empty_files=False)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_transmission_seeds_to_us(meetings: Meetings, kind: Kind) -> None:
    meetings.seeds_to_us(kind)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_transmission_leeches_from_us(meetings: Meetings, kind: Kind) -> None:
    meetings.leeches_from_us(kind)
