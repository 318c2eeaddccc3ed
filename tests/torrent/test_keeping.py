"""What is kept of a torrent between runs, in the order of a life with crashes: hashed once, and not again."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swarm.torrent.content import Content
from swarm.torrent.disk import run_inline
from swarm.torrent.openfile import FileHandles
from swarm.torrent.readcache import ReadCache
from swarm.torrent.selection import Selection
from tests.nodes import Sample, make_sample

PIECES = 8


async def hashed_at_start(sample: Sample, state: Path) -> int:
    """Pieces that had to be, by a run that ends with a crash as soon as they are."""
    lent: Any = SimpleNamespace(
        config=SimpleNamespace(preallocate=False),
        handles=FileHandles(),
        cache=ReadCache(),
        runner=run_inline,
        resume_directory=state,
        wall_clock=time.time,
    )
    selection = Selection(sample.metainfo, None)
    content = Content(sample.metainfo, sample.directory, lent, selection, pytest.fail)
    have = await content.check()
    assert have.count == (PIECES if (sample.directory / sample.metainfo.name).exists() else 0)
    return content.checking[1]


async def test_pieces_that_a_crash_left_unrecorded_are_hashed_at_the_next_start_and_not_at_the_one_after(
    tmp_path: Path,
) -> None:
    sample = make_sample(tmp_path / "data", PIECES << 14, 16 << 10)
    path = tmp_path / "data" / sample.metainfo.name
    path.unlink()
    assert await hashed_at_start(sample, tmp_path / "state") == 0
    path.write_bytes(sample.content)  # all came before the first save
    assert await hashed_at_start(sample, tmp_path / "state") == PIECES
    assert await hashed_at_start(sample, tmp_path / "state") == 0
