"""The folder from which torrents are added: files whole, half written, broken, twice, unreadable; a folder gone."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from trio.testing import MockClock

from swarm.daemon.watch import LOOK, PATIENCE, SETTLED, WatchFolder
from swarm.errors import StorageError, SwarmError
from swarm.torrent.disk import run_inline
from swarm.torrent.magnet import Magnet, format_magnet
from swarm.torrent.metainfo import Metainfo, encode_torrent
from tests.daemon.plain_session import sample

T = TypeVar("T")


class Watched:
    """A folder, what was added from it, and what was said."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.added: list[Metainfo | Magnet] = []
        self.warnings: list[str] = []
        self.refusal: SwarmError | None = None
        self.fails: dict[str, OSError] = {}
        """By the name of the function that is to raise it."""
        self.readable = True
        self.folder = WatchFolder(directory, self._add, self.warnings.append, self._run)

    async def _add(self, source: Metainfo | Magnet) -> None:
        if self.refusal is not None:
            raise self.refusal
        if any(source.info_hash == known.info_hash for known in self.added):
            raise SwarmError("it has been added already")
        self.added.append(source)

    async def _run(self, function: Callable[..., T], /, *arguments: Any) -> T:
        if (failure := self.fails.get(function.__name__)) is not None:
            raise failure
        if function.__name__ == "_read" and not self.readable:
            raise StorageError(f"cannot read {arguments[0]}: Permission denied")
        return await run_inline(function, *arguments)

    def put(self, name: str, content: bytes, *, age: float = 2 * SETTLED) -> Path:
        path = self.directory / name
        path.write_bytes(content)
        os.utime(path, (time.time() - age,) * 2)
        return path

    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())

    async def look(self, times: int = 1) -> None:
        for _ in range(times):
            await self.folder.look()


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "watch")


ONE, TWO = sample(1), sample(2)
TORRENT = encode_torrent(ONE)


async def test_torrents_and_links_are_added_and_renamed(watched: Watched) -> None:
    watched.put("one.torrent", TORRENT)
    link = format_magnet(Magnet(info_hash=TWO.info_hash, name="two"))
    watched.put("two.magnet", b"  " + link.encode() + b"\n\n")
    watched.put("readme.txt", b"not for us")
    watched.put("old.torrent.added", TORRENT)
    (watched.directory / "folder.torrent").mkdir()
    await watched.look(3)
    assert [source.info_hash for source in watched.added] == [ONE.info_hash, TWO.info_hash]
    assert watched.names() == [
        "folder.torrent",
        "old.torrent.added",
        "one.torrent.added",
        "readme.txt",
        "two.magnet.added",
    ]
    assert watched.warnings == []


async def test_a_file_that_is_being_written_is_left_alone_until_it_is_whole(watched: Watched) -> None:
    watched.put("one.torrent", TORRENT[:100], age=0)
    await watched.look()
    watched.put("one.torrent", TORRENT[:200], age=PATIENCE / 2)  # the writer pauses
    await watched.look(3)
    assert (watched.added, watched.warnings, watched.names()) == ([], [], ["one.torrent"])
    watched.put("one.torrent", TORRENT)
    await watched.look()
    assert [source.info_hash for source in watched.added] == [ONE.info_hash]
    assert watched.names() == ["one.torrent.added"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.torrent", b""),
        ("x.torrent", bytes(1000)),
        ("x.torrent", TORRENT[:-1]),
        ("x.torrent", b"d4:infod6:lengthi-1eee"),
        ("x.magnet", b""),
        ("x.magnet", b"\xff\xfe\0"),
        ("x.magnet", b"magnet:?xt=urn:btih:12"),
        ("x.magnet", TORRENT),
    ],
)
async def test_what_is_broken_and_stays_so_is_said_once_and_renamed(
    watched: Watched, name: str, content: bytes
) -> None:
    path = watched.put(name, content, age=PATIENCE + 1)
    watched.put("y.torrent", encode_torrent(TWO))
    await watched.look(3)
    assert len(watched.warnings) == 1
    assert watched.warnings[0].startswith(f"{path} was not added: ")
    assert watched.names() == [f"{name}.invalid", "y.torrent.added"]
    assert len(watched.added) == 1


async def test_the_same_torrent_twice_is_added_once(watched: Watched) -> None:
    watched.put("a.torrent", TORRENT)
    second = watched.put("b.torrent", TORRENT)
    await watched.look(3)
    assert len(watched.added) == 1
    assert watched.warnings == [f"{second} was not added: it has been added already"]
    assert watched.names() == ["a.torrent.added", "b.torrent.added"]


async def test_what_cannot_be_kept_now_stays_and_is_tried_again(watched: Watched) -> None:
    path = watched.put("a.torrent", TORRENT)
    watched.refusal = StorageError("cannot save it: No space left on device")
    await watched.look(3)
    assert watched.names() == ["a.torrent"]
    assert watched.warnings == [f"{path} was not added: cannot save it: No space left on device"]
    watched.refusal = None
    await watched.look()
    assert watched.names() == ["a.torrent.added"]
    assert len(watched.added) == 1


async def test_a_folder_whose_files_cannot_be_renamed_is_complained_of_once(watched: Watched) -> None:
    paths = [watched.put("a.torrent", TORRENT), watched.put("b.torrent", b"broken", age=PATIENCE + 1)]
    watched.fails["replace"] = OSError(errno.EROFS, "Read-only file system")
    await watched.look(5)
    assert len(watched.added) == 1
    assert [words for words in watched.warnings if "rename" in words] == [
        f"cannot rename {path}: Read-only file system" for path in paths
    ]
    assert len(watched.warnings) == 3
    watched.put("a.torrent", encode_torrent(TWO), age=SETTLED + 0.5)  # another one of that name
    await watched.look()
    assert len(watched.added) == 2
    watched.fails.clear()
    await watched.look()
    assert watched.names() == ["a.torrent.added", "b.torrent.invalid"]
    assert len(watched.added) == 2


async def test_files_that_cannot_be_read_are_complained_of_once_each(watched: Watched) -> None:
    paths = [watched.put("a.torrent", TORRENT), watched.put("b.torrent", TORRENT)]
    watched.readable = False
    await watched.look(5)
    assert watched.warnings == [f"cannot read {path}: Permission denied" for path in paths]
    watched.readable = True
    await watched.look()
    assert len(watched.added) == 1
    assert not any(path.exists() for path in paths)


async def test_a_folder_that_is_gone_is_waited_for_with_one_warning(
    watched: Watched, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    away = watched.directory.rename(watched.directory.with_name("away"))
    nursery.start_soon(watched.folder.run)
    await trio.sleep(10 * LOOK)
    assert watched.warnings == [f"cannot look for torrents in {watched.directory}: No such file or directory"]
    away.rename(watched.directory)
    watched.put("a.torrent", TORRENT)
    await trio.sleep(2 * LOOK)
    assert len(watched.added) == 1
    watched.directory.rename(away)
    await trio.sleep(10 * LOOK)
    assert len(watched.warnings) == 2  # gone again


async def test_a_clock_that_went_back_does_not_hide_a_file(watched: Watched) -> None:
    watched.put("a.torrent", TORRENT, age=-3600)
    await watched.look()
    assert len(watched.added) == 1
