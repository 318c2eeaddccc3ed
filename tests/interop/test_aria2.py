"""aria2 seeds to us and leeches from us, through opentracker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.clients import aria2
from tests.interop.ours import Meetings
from tests.interop.samples import KINDS, Kind, Shared, contents

pytestmark = pytest.mark.interop


@contextmanager
def seed(shared: Shared) -> Iterator[None]:
    with aria2(shared.seed, shared.torrent):
        yield


@contextmanager
def leech(shared: Shared, directory: Path) -> Iterator[Callable[[], bool]]:
    with aria2(directory, shared.torrent):
        whole = contents(shared.seed / shared.name)
        yield lambda: contents(directory / shared.name) == whole


@pytest.fixture(scope="module")
def meetings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meetings]:
    with ThreadPoolExecutor() as pool:
        yield Meetings(pool, tmp_path_factory.mktemp("aria2"), KINDS, seed, leech)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_aria2_seeds_to_us(meetings: Meetings, kind: Kind) -> None:
    meetings.seeds_to_us(kind)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_aria2_leeches_from_us(meetings: Meetings, kind: Kind) -> None:
    meetings.leeches_from_us(kind)
