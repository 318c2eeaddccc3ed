"""A daemon that was killed while it moved data finishes the move when it starts again."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from trio.testing import MockClock

from tests.daemon.test_live_changes import FILES, Fetching, fetching
from tests.daemon.whole import wait_until


def document_of(at: Fetching) -> Path:
    return at.directory / "state" / "daemon" / "torrents" / f"{at.metainfo.info_hash.hex()}.json"


async def shared(directory: Path) -> Path:
    """A daemon has fetched the album and ended; what it keeps of it."""
    async with fetching(directory) as at:
        entry = await at.add()
        await wait_until(lambda: entry.status == "seed")
        return document_of(at)


def was_moving(document: Path, target: Path) -> None:
    told = json.loads(document.read_bytes())
    document.write_text(json.dumps({**told, "moving_to": str(target)}))


@pytest.mark.parametrize("moved", range(FILES + 1))
async def test_what_was_renamed_in_part_is_all_there_after_a_restart(
    autojump_clock: MockClock, tmp_path: Path, moved: int
) -> None:
    document, target = await shared(tmp_path), tmp_path / "target"
    was_moving(document, target)
    (target / "album").mkdir(parents=True)
    for number in range(moved):
        (tmp_path / "downloads" / "album" / f"{number}.flac").rename(target / "album" / f"{number}.flac")
    await _finishes(tmp_path, target)


async def test_what_was_copied_in_part_is_all_there_after_a_restart(autojump_clock: MockClock, tmp_path: Path) -> None:
    document, target = await shared(tmp_path), tmp_path / "target"
    was_moving(document, target)
    (target / "album").mkdir(parents=True)
    for number in range(2):
        shutil.copy2(tmp_path / "downloads" / "album" / f"{number}.flac", target / "album" / f"{number}.flac")
    (target / "album" / "2.flac").write_bytes(b"half of it")
    await _finishes(tmp_path, target)


async def _finishes(directory: Path, target: Path) -> None:
    shutil.rmtree(directory / "seed")
    async with fetching(directory) as at:
        entry = at.daemon.session.find(at.metainfo.info_hash)
        assert entry is not None
        await wait_until(lambda: entry.status == "seed")
        assert entry.directory == target
        assert at.whole(target) == [True] * FILES
        assert not (directory / "downloads" / "album").exists()
        assert entry.torrent is not None
        assert entry.torrent.statistics().to_check == 0
        assert json.loads(document_of(at).read_bytes())["moving_to"] is None
        assert not at.daemon.warnings()


async def test_where_it_is_going_is_on_disk_before_anything_moves(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fetching(tmp_path) as at:
        entry = await at.add()
        await wait_until(lambda: entry.status == "seed")
        told: list[object] = []
        rename = os.rename

        def noting(old: Path, new: Path) -> None:
            told.append(json.loads(document_of(at).read_bytes())["moving_to"])
            rename(old, new)

        monkeypatch.setattr(os, "rename", noting)
        await at.daemon.ask("torrent-set-location", ids=[entry.id], location=str(tmp_path / "target"), move=True)
        await wait_until(lambda: entry.directory == tmp_path / "target" and entry.status == "seed")
        assert told == [str(tmp_path / "target")] * FILES
        assert json.loads(document_of(at).read_bytes())["moving_to"] is None


async def test_what_is_in_the_way_of_a_first_move_is_never_overwritten(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with fetching(tmp_path) as at:
        entry = await at.add()
        await wait_until(lambda: entry.status == "seed")
        taken = tmp_path / "target" / "album" / "3.flac"
        taken.parent.mkdir(parents=True)
        taken.write_text("mine")
        for _ in range(2):  # nor when it is tried again
            await at.daemon.ask("torrent-set-location", ids=[entry.id], location=str(tmp_path / "target"), move=True)
            await wait_until(lambda: entry.job is None and entry.problem is not None)
            assert taken.read_text() == "mine"
            assert at.whole(at.downloads) == [True] * FILES


async def test_an_original_that_cannot_be_deleted_undoes_the_move(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(old: Path, new: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    unlink = os.unlink

    def guarded(path: Path) -> None:
        if Path(path).is_relative_to(tmp_path / "downloads"):
            raise OSError(errno.EROFS, "Read-only file system")
        unlink(path)

    async with fetching(tmp_path) as at:
        entry = await at.add()
        await wait_until(lambda: entry.status == "seed")
        monkeypatch.setattr(os, "rename", elsewhere)
        monkeypatch.setattr(os, "unlink", guarded)
        await at.daemon.ask("torrent-set-location", ids=[entry.id], location=str(tmp_path / "target"), move=True)
        await wait_until(lambda: entry.job is None and entry.problem is not None)
        assert entry.problem == f"cannot move album to {tmp_path / 'target'}: Read-only file system"
        assert at.whole(at.downloads) == [True] * FILES
        assert list((tmp_path / "target").rglob("*")) == []
