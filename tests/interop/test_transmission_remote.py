"""The daemon driven by programs made for Transmission: ``transmission-remote`` as Debian has it, PyPI's
``transmission-rpc``; with transfers from and to a node on loopback."""

from __future__ import annotations

import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from swarm.config import Config
from swarm.daemon.access import Access, SessionId
from swarm.daemon.http import serve
from swarm.daemon.listen import Address, open_listeners
from swarm.daemon.options import Options
from swarm.daemon.rpc import PATHS, Rpc
from swarm.daemon.session import Session, open_session
from swarm.daemon.state import StateDirectory
from swarm.endpoint import Endpoint
from swarm.node import Node, open_node
from swarm.torrent.magnet import format_magnet
from swarm.torrent.metainfo import encode_torrent
from tests.needs import need_module, need_program
from tests.nodes import Sample, make_sample

pytestmark = pytest.mark.interop

USER, PASSWORD = "user", "pass word"


def config(**more: Any) -> Config:
    return Config(port=0, bind="127.0.0.1", dht=False, lsd=False, mapping=False, trackers=False, **more)


@dataclass(frozen=True)
class Daemon:
    session: Session
    port: int
    directory: Path

    async def remote(self, *arguments: object, fails: bool = False) -> str:
        """What ``transmission-remote`` prints; whether it fails has to be foreseen."""
        argv = ["transmission-remote", f"127.0.0.1:{self.port}", "-n", f"{USER}:{PASSWORD}", *map(str, arguments)]
        with trio.fail_after(30):
            done = await trio.run_process(
                argv, capture_stdout=True, stderr=subprocess.STDOUT, check=False, env={"LANG": "C", "TZ": "UTC"}
            )
        printed = done.stdout.decode()
        assert (done.returncode != 0 or "Error" in printed) is fails, f"{argv[4:]}: {done.returncode} {printed}"
        return printed

    async def wait_for(self, column: str, pattern: str, *arguments: object) -> str:
        with trio.fail_after(30):
            while not re.search(pattern, printed := await self.remote(*arguments, column)):
                await trio.sleep(0.2)
        return printed


@asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[Daemon]:
    directory, state = tmp_path / "downloads", tmp_path / "state"
    directory.mkdir()
    with StateDirectory(state).locked():
        async with _running(directory, state) as daemon:
            yield daemon


@asynccontextmanager
async def _running(directory: Path, state: Path) -> AsyncIterator[Daemon]:
    async with (
        open_node(config(state_directory=state)) as node,
        open_session(node, state, Options(download_dir=directory)) as session,
        trio.open_nursery() as nursery,
    ):
        session_id = SessionId()
        rpc = Rpc(session, session_id)
        listeners = await open_listeners(Address("127.0.0.1", 0))
        access = Access(session_id, user=USER, password=PASSWORD)
        await nursery.start(serve, listeners, dict.fromkeys(PATHS, rpc.answer), access)
        yield Daemon(session, listeners[0].socket.getsockname()[1], directory)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def seeder(sample: Sample) -> AsyncIterator[tuple[Node, Endpoint]]:
    async with open_node(config()) as node:
        torrent = node.add(sample.metainfo, sample.directory)
        await torrent.wait_complete()
        assert node.port is not None
        yield node, Endpoint("127.0.0.1", node.port)


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return make_sample(tmp_path / "seed", 3_000_000)


@pytest.fixture
def torrent_file(sample: Sample, tmp_path: Path) -> Path:
    path = tmp_path / "sample.torrent"
    path.write_bytes(encode_torrent(sample.metainfo))
    return path


async def test_transmission_remote_adds_downloads_and_shows(tmp_path: Path, sample: Sample, torrent_file: Path) -> None:
    need_program("transmission-remote")
    async with running(tmp_path) as daemon, seeder(sample) as (seed, endpoint):
        assert "success" in await daemon.remote("-a", torrent_file)
        assert "success" in await daemon.remote("-a", torrent_file)  # a duplicate is one, too
        entry = daemon.session.entries[1]
        with trio.fail_after(10):
            while entry.torrent is None or entry.torrent.state != "downloading":
                await trio.sleep(0.05)
        entry.torrent.admission.found([endpoint], "manual")
        with trio.fail_after(30):
            while not entry.torrent.connections:
                await trio.sleep(0.01)
        peers = await daemon.remote("-t", 1, "-ip")
        assert "127.0.0.1" in peers
        await daemon.wait_for("-l", r"100%.*(Seeding|Idle)")
        assert sample.is_whole_in(daemon.directory)
        shown = await daemon.remote("-t", 1, "-i")
        assert sample.metainfo.info_hash.hex() in shown
        assert "Percent Done: 100%" in shown
        assert f"Name: {sample.metainfo.name}" in shown
        assert sample.metainfo.name in await daemon.remote("-t", "all", "-if")
        assert "100%" in await daemon.remote("-t", 1, "-if")
        pieces = await daemon.remote("-t", 1, "-ic")
        assert pieces.count("1") == sample.metainfo.piece_count
        await daemon.remote("-t", 1, "-it")
        stopped = await daemon.remote("-t", 1, "-S")
        assert "success" in stopped
        await daemon.wait_for("-l", r"Stopped")
        await daemon.remote("-t", 1, "-v")
        await daemon.wait_for("-l", r"100%.*Stopped")
        await daemon.remote("-t", 1, "-s")
        await daemon.wait_for("-l", r"100%.*(Seeding|Idle)")
        await daemon.remote("-t", 1, "--move", tmp_path / "moved")
        with trio.fail_after(30):
            while not (tmp_path / "moved" / sample.metainfo.name).exists():
                await trio.sleep(0.1)
        await daemon.wait_for("-i", r"Percent Done: 100%", "-t", 1)
        await daemon.remote("-t", 1, "-rad")
        assert not daemon.session.entries
        with trio.fail_after(30):
            while (tmp_path / "moved" / sample.metainfo.name).exists():
                await trio.sleep(0.1)
        assert seed.port


async def test_data_that_is_there_is_verified_and_seeded(tmp_path: Path, sample: Sample, torrent_file: Path) -> None:
    need_program("transmission-remote")
    async with running(tmp_path) as daemon:
        await daemon.remote("-w", sample.directory, "-a", torrent_file)
        await daemon.wait_for("-l", r"100%.*(Seeding|Idle)")
        assert daemon.session.entries[1].downloaded == 0


SESSION_OPTIONS = [
    "-as", "-AS", "-asd 20", "-asu 10", "-asc", "-ASC", "--alt-speed-time-begin 0130", "--alt-speed-time-end 0930",
    "--alt-speed-days 1-5", "-C", "-d 500", "-D", "-u 50", "-U", "-ep", "-pr 60", "-gsr 2.5", "-GSR", "--start-paused",
    "--no-start-paused", "--no-trash-torrent", "--utp", "-x", "-Y", "-O", "-M", "-si", "-st", "-l", "-P",
    "--no-torrent-done-script",
]  # fmt: skip
"""With what holds for a node of this configuration, where an option asks for that."""

REFUSED_SESSION_OPTIONS = [
    "--blocklist-update", "-c /tmp/x", "-e 1", "-er", "-et", "-o", "-X", "-y", "-m", "-p 1", "-pt", "--no-utp",
    "--trash-torrent", "--torrent-done-script /bin/true",
]  # fmt: skip
"""What cannot be changed at run time, or is not there; ``-pt`` while no peer has tested the port."""

TORRENT_OPTIONS = [
    "-f", "-i", "-if", "-ip", "-pi", "-ic", "-it", "-L a,b", "-L ", "-g 0", "-G 0", "-g all", "-ph 0", "-pl all",
    "-pn all", "-d 100", "-D", "-u 100", "-U", "-Bh", "-Bn", "-Bl", "-pr 5", "-sr 1.5", "-srd", "-SR", "-hl", "-HL",
    "-td http://tracker.example/announce", "-tr 0", "--reannounce", "-v", "-S", "-s", "--find {directory}", "-r",
]  # fmt: skip


async def test_transmission_remotes_whole_option_set(tmp_path: Path, torrent_file: Path) -> None:
    need_program("transmission-remote")
    async with running(tmp_path) as daemon:
        for option in SESSION_OPTIONS:
            await daemon.remote(*option.split(" "))
        for option in REFUSED_SESSION_OPTIONS:
            await daemon.remote(*option.split(" "), fails=True)
        shown = await daemon.remote("-si")
        assert "Daemon version: 4.0.6 (swarm" in shown
        assert "RPC version: 17" in shown
        assert str(daemon.directory) in shown
        await daemon.remote("-a", torrent_file, "--start-paused")
        for option in TORRENT_OPTIONS:
            await daemon.remote("-t", "1", *option.format(directory=daemon.directory).split(" "))
        assert not daemon.session.entries
        await daemon.remote("--exit")
        with trio.fail_after(5):
            await daemon.session.close_requested.wait()


async def test_a_wrong_password_is_refused(tmp_path: Path) -> None:
    need_program("transmission-remote")
    async with running(tmp_path) as daemon:
        argv = ["transmission-remote", f"127.0.0.1:{daemon.port}", "-n", "user:wrong", "-l"]
        done = await trio.run_process(argv, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
        assert b"Unauthorized" in done.stdout


async def test_transmission_rpc_of_pypi(tmp_path: Path, sample: Sample, torrent_file: Path) -> None:
    need_module("transmission_rpc")
    async with running(tmp_path) as daemon, seeder(sample) as (_, endpoint):
        with trio.fail_after(60):
            await trio.to_thread.run_sync(partial(_use, daemon, sample, torrent_file, endpoint))
        assert not daemon.session.entries


def _use(daemon: Daemon, sample: Sample, torrent_file: Path, endpoint: Endpoint) -> None:
    """In a thread: the library waits."""
    import transmission_rpc

    with transmission_rpc.Client(host="127.0.0.1", port=daemon.port, username=USER, password=PASSWORD) as client:
        settings = client.get_session()
        assert settings.rpc_version == 17
        assert settings.download_dir == str(daemon.directory)
        assert settings.version.startswith("4.0.6")
        client.set_session(speed_limit_up=77, speed_limit_up_enabled=True)
        assert client.get_session().speed_limit_up == 77
        client.set_session(speed_limit_up_enabled=False)
        assert client.free_space(daemon.directory)

        host, port = endpoint
        link = f"{format_magnet(sample.metainfo)}&x.pe={host}:{port}"
        added = client.add_torrent(link, labels=["one"])
        assert added.hash_string == sample.metainfo.info_hash.hex()
        _wait(lambda: client.get_torrent(added.id).status.seeding and client.get_torrent(added.id).percent_done == 1)
        torrent = client.get_torrent(added.hash_string)
        assert (torrent.name, torrent.percent_done, torrent.labels) == (sample.metainfo.name, 1.0, ["one"])
        assert [file.completed for file in torrent.get_files()] == [sample.metainfo.total_size]
        assert torrent.downloaded_ever >= sample.metainfo.total_size
        assert sample.is_whole_in(daemon.directory)
        assert client.session_stats().torrent_count == 1

        client.change_torrent(added.id, upload_limit=9, upload_limited=True, seed_ratio_limit=3, seed_ratio_mode=1)
        changed = client.get_torrent(added.id)
        assert (changed.upload_limit, changed.seed_ratio_limit) == (9, 3.0)
        active, removed = client.get_recently_active_torrents()
        assert [each.id for each in active] == [added.id]
        assert removed == []
        client.stop_torrent(added.id)
        _wait(lambda: client.get_torrent(added.id).status.stopped)
        client.queue_top(added.id)
        client.reannounce_torrent(added.id)
        client.remove_torrent(added.id, delete_data=True)
        assert client.get_torrents() == []
        with torrent_file.open("rb") as file:
            again = client.add_torrent(file, paused=True)
        assert client.get_torrent(again.id).status.stopped
        client.remove_torrent(again.id)


def _wait(condition: Any, seconds: float = 30.0) -> None:
    import time

    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
