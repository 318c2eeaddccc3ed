"""Data that the daemon moves from one file system to another, with room and without."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from swarm.errors import SwarmError
from swarm.torrent.create import create
from tests.interop.daemons import Daemon, wait_until
from tests.interop.test_daemon_killed import spoil
from tests.needs import need_root

pytestmark = pytest.mark.interop

MIB = 1 << 20
SMALL, LARGE = 6 * MIB, 32 * MIB
FILE = 2 * MIB


@contextmanager
def file_system(where: Path, size: int) -> Iterator[Path]:
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)


def make_album(directory: Path, name: str, files: int) -> Path:
    album = directory / name
    (album / "discs").mkdir(parents=True)
    for number in range(files):
        (album / "discs" / f"{number}.flac").write_bytes(random.Random(f"{name} {number}").randbytes(FILE))
    torrent = directory / f"{name}.torrent"
    torrent.write_bytes(create(album, piece_length=64 << 10))
    return torrent


def content(directory: Path) -> dict[str, tuple[bytes, int]]:
    """What is in it: bytes and times of every file, by name."""
    return {
        str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def told(daemon: Daemon, name: str) -> dict[str, Any]:
    rows = daemon.torrents("name", "status", "error", "errorString", "downloadDir", "haveValid")
    return next(row for row in rows if row["name"] == name)


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A large one and a small one."""
    need_root()
    with ExitStack() as stack:
        large = stack.enter_context(file_system(tmp_path / "large", LARGE))
        yield large, stack.enter_context(file_system(tmp_path / "small", SMALL))


def test_data_is_moved_to_another_disk_or_stays_where_it_was(tmp_path: Path, disks: tuple[Path, Path]) -> None:
    large, small = disks
    assert large.stat().st_dev != small.stat().st_dev
    torrents = {name: make_album(large, name, files) for name, files in (("fits", 2), ("too much", 4))}
    before = {name: content(large / name) for name in torrents}
    daemon = Daemon(tmp_path)
    with daemon.running("-o", large):
        for path in torrents.values():
            daemon.ask("torrent-add", filename=str(path))
        wait_until(lambda: all(told(daemon, name)["status"] == 6 for name in torrents), "both are shared")

        daemon.ask("torrent-set-location", ids=told(daemon, "too much")["id"], location=str(small / "deep"), move=True)
        wait_until(lambda: told(daemon, "too much")["error"], "there is no room")
        row = told(daemon, "too much")
        assert row["errorString"] == f"cannot move too much to {small / 'deep'}: No space left on device"
        assert (row["status"], row["downloadDir"]) == (0, str(large))
        assert content(large / "too much") == before["too much"]
        assert content(small) == {}
        assert not (small / "deep" / "too much").exists()
        daemon.ask("torrent-start", ids=row["id"])
        wait_until(lambda: told(daemon, "too much")["status"] == 6, "it is shared from where it was")

        for path in (large / "fits" / "discs").iterdir():
            spoil(path, FILE)  # whoever hashes it finds out
        before["fits"] = content(large / "fits")
        daemon.ask("torrent-set-location", ids=told(daemon, "fits")["id"], location=str(small / "deep"), move=True)
        wait_until(lambda: told(daemon, "fits")["downloadDir"] == str(small / "deep"), "the other is moved")
        wait_until(lambda: told(daemon, "fits")["status"] in (4, 6), "and shared")
        assert content(small / "deep" / "fits") == before["fits"]
        assert not (large / "fits").exists()
        assert told(daemon, "fits")["haveValid"] == 2 * FILE
    with daemon.running("-o", large):
        wait_until(lambda: told(daemon, "fits")["status"] in (4, 6), "it is there after a restart")
        assert told(daemon, "fits")["haveValid"] == 2 * FILE
    assert "Traceback" not in daemon.log()


def test_a_state_directory_on_a_read_only_disk_is_refused_in_a_sentence(tmp_path: Path) -> None:
    need_root()
    state = tmp_path / ".local" / "state"
    state.parent.mkdir()
    with file_system(state, MIB):
        subprocess.run(["mount", "-o", "remount,ro", state], check=True)
        daemon = Daemon(tmp_path)
        with pytest.raises(AssertionError), daemon.running():
            pass
        assert daemon.process is not None
        assert daemon.process.returncode == 4
        assert daemon.log().count("\n") == 1
        assert "Read-only file system" in daemon.log()


def test_a_state_directory_that_becomes_read_only_is_complained_of_and_sharing_goes_on(tmp_path: Path) -> None:
    need_root()
    torrent = make_album(tmp_path, "album", 1)
    daemon = Daemon(tmp_path)
    with daemon.running("-o", tmp_path):
        daemon.ask("torrent-add", filename=str(torrent))
        wait_until(lambda: told(daemon, "album")["status"] == 6, "it is shared")
        with read_only(tmp_path / ".local" / "state"):
            with pytest.raises(SwarmError, match="Read-only file system"):
                daemon.ask("torrent-stop", ids=1)
            daemon.ask("torrent-verify", ids=1)
            wait_until(lambda: "Read-only file system" in daemon.log(), "it says so")
            wait_until(lambda: told(daemon, "album")["haveValid"] == FILE, "it still answers")
        daemon.ask("torrent-start", ids=1)
        wait_until(lambda: told(daemon, "album")["status"] == 6, "it is shared")
    assert "Traceback" not in daemon.log()


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """For everybody who opens files by this path from now on."""
    subprocess.run(["mount", "--bind", path, path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", path], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)
