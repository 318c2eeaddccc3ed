"""Which rate holds: what the configuration says, what was changed at run time, and what the configuration says then."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from swarm.daemon.options import Options
from swarm.daemon.session import Session, open_session
from swarm.daemon.state import StateDirectory
from swarm.simnet.internet import open_internet
from swarm.torrent.create import create
from swarm.torrent.disk import run_inline
from tests.cli.programs import running
from tests.daemon.program import SEEDING, ask, daemon, remote, status, until
from tests.nodes import node_on


def upload(rate: int) -> dict[str, Any]:
    return {"upload_rate": rate, "upload_limited": bool(rate)}


@asynccontextmanager
async def session_of(directory: Path, said: dict[str, Any]) -> AsyncIterator[Session]:
    """A session whose configuration says so much."""
    state = StateDirectory(directory / "daemon")
    async with open_internet(1) as internet, node_on(internet.host("here"), 1) as node:
        with state.locked():
            options = Options(download_dir=directory, **said)
            async with open_session(node.node, state.directory, options, given=said, runner=run_inline) as session:
                yield session


@pytest.mark.parametrize(
    "before,after,holds",
    [
        (upload(1000), upload(1000), 5),
        ({}, {}, 5),
        (upload(1000), upload(2000), 2000),
        (upload(1000), {}, 0),
        ({}, upload(2000), 2000),
        ({}, upload(0), 0),
    ],
)
async def test_what_was_changed_at_run_time_holds_until_the_configuration_changes(
    tmp_path: Path, autojump_clock: MockClock, before: dict[str, Any], after: dict[str, Any], holds: int
) -> None:
    async with session_of(tmp_path, before) as session:
        await session.set_options(**upload(5), start_added=False)
    async with session_of(tmp_path, after) as session:
        assert (session.options.upload_rate if session.options.upload_limited else 0) == holds
        assert not session.options.start_added
    async with session_of(tmp_path, after) as session:
        assert (session.options.upload_rate if session.options.upload_limited else 0) == holds


async def test_what_was_changed_before_a_reload_does_not_come_back(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with session_of(tmp_path, upload(1000)) as session:
        await session.set_options(**upload(5))
        session.reload(upload(0), given=())
        assert not session.options.upload_limited
    async with session_of(tmp_path, {}) as session:
        assert not session.options.upload_limited
        session.reload(upload(3000))
        await session.set_options(**upload(7))
    async with session_of(tmp_path, upload(3000)) as session:
        assert session.options.upload_rate == 7


def rate_of(home: Path, seconds: float) -> float:
    """Bytes of payload that the daemon gives in a second."""

    def given() -> int:
        count: int = remote(home).call("torrent-get", fields=["uploadedEver"])["torrents"][0]["uploadedEver"]
        return count

    until(lambda: given() > 0)
    before, began = given(), time.monotonic()
    time.sleep(seconds)
    return (given() - before) / (time.monotonic() - began)


def reload(process: subprocess.Popen[bytes], home: Path, text: str) -> None:
    (home / "config.toml").write_text(text)
    (home / "log").write_bytes(b"")
    process.send_signal(signal.SIGHUP)
    until(lambda: "read again" in (home / "log").read_text())


def test_a_rate_changes_and_goes_with_the_file_for_transfers_under_way(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sample.bin").write_bytes(bytes(range(256)) * 8000)
    torrent = tmp_path / "sample.torrent"
    torrent.write_bytes(create(tmp_path / "data" / "sample.bin", piece_length=32 << 10))
    (tmp_path / "config.toml").write_text('upload-rate = "40k"\n')
    with daemon(tmp_path, "--config", tmp_path / "config.toml") as process:
        assert ask(tmp_path, "add", torrent, "-o", tmp_path / "data").returncode == 0
        until(lambda: status(tmp_path) == [SEEDING])
        port = remote(tmp_path).call("session-get", fields=["peer-port"])["peer-port"]
        leech = tmp_path / "leech"
        leech.mkdir()
        options = (
            "-o",
            leech / "data",
            "-p",
            0,
            "--no-dht",
            "--no-lsd",
            "--no-trackers",
            "--peer",
            f"127.0.0.1:{port}",
        )
        with running(leech, "download", torrent, *options) as download:
            assert rate_of(tmp_path, 1.5) < 60_000
            reload(process, tmp_path, 'upload-rate = "200k"\n')
            assert 120_000 < rate_of(tmp_path, 1.0) < 300_000
            remote(tmp_path).call("session-set", **{"speed-limit-up": 20})
            assert rate_of(tmp_path, 1.0) < 60_000
            reload(process, tmp_path, "")  # some 90 s are left at 20 kB/s, 9 at 200
            assert download.wait(5) == 0
