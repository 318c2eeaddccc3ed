"""libtorrent seeds to us and leeches from us, through opentracker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.clients import libtorrent_peer
from tests.interop.ours import Meetings
from tests.interop.samples import KINDS, Kind, Shared, hybrid_by_libtorrent, tree_of_odd_sizes

pytestmark = pytest.mark.interop

HYBRID = Kind(tree_of_odd_sizes, 32 << 10, hybrid_by_libtorrent, "http")


@contextmanager
def seed(shared: Shared) -> Iterator[None]:
    with libtorrent_peer(shared.seed, shared.torrent, "seed"):
        yield


@contextmanager
def leech(shared: Shared, directory: Path) -> Iterator[Callable[[], bool]]:
    with libtorrent_peer(directory, shared.torrent, "leech") as peer:
        yield lambda: bool(peer.report().get("seeding"))


@pytest.fixture(scope="module")
def meetings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meetings]:
    with ThreadPoolExecutor() as pool:
        yield Meetings(pool, tmp_path_factory.mktemp("libtorrent"), [*KINDS, HYBRID], seed, leech)


@pytest.mark.parametrize("kind", [*KINDS, HYBRID], ids=str)
def test_libtorrent_seeds_to_us(meetings: Meetings, kind: Kind) -> None:
    meetings.seeds_to_us(kind)


@pytest.mark.parametrize("kind", [*KINDS, HYBRID], ids=str)
def test_libtorrent_leeches_from_us(meetings: Meetings, kind: Kind) -> None:
    meetings.leeches_from_us(kind)
