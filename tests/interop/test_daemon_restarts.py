"""What a daemon knows after a restart: a link whose metadata came, and nothing of a state that is all rubbish."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from swarm.config import Config
from swarm.node import open_node
from swarm.torrent.magnet import format_magnet
from tests.cli.programs import swarm
from tests.interop.daemons import Daemon, wait_until
from tests.nodes import Sample, make_sample

pytestmark = pytest.mark.interop

SIZE = 3 << 20


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return make_sample(tmp_path / "seed", SIZE)


def told(daemon: Daemon) -> dict[str, Any]:
    (row,) = daemon.torrents("name", "status", "totalSize", "haveValid", "metadataPercentComplete", "percentDone")
    return row


async def test_a_link_given_on_the_command_line_brings_its_metadata_which_outlives_a_kill(
    tmp_path: Path, sample: Sample
) -> None:
    daemon = Daemon(tmp_path)
    config = Config(bind="127.0.0.1", port=0, dht=False, lsd=False, mapping=False, upload_rate=500_000)
    async with open_node(config) as seed, daemon.beside():
        seed.add(sample.metainfo, sample.directory)
        link = f"{format_magnet(sample.metainfo)}&x.pe=127.0.0.1:{seed.port}"
        rpc = ("--rpc", f"unix:{tmp_path}/rpc")
        added = await trio.to_thread.run_sync(partial(swarm, tmp_path, "add", link, *rpc))
        assert added.returncode == 0, added.stderr
        seen: list[tuple[int, float]] = []
        with trio.fail_after(20):
            while not seen or seen[-1][1] < SIZE / 4:
                row = await trio.to_thread.run_sync(told, daemon)
                seen.append((row["totalSize"], row["haveValid"]))
        assert {size for size, had in seen if had} == {SIZE}
        await trio.to_thread.run_sync(daemon.kill)
    async with daemon.beside():  # and nobody to ask
        with trio.fail_after(20):
            while (row := await trio.to_thread.run_sync(told, daemon))["status"] != 4:
                await trio.sleep(0.05)
        assert (row["name"], row["totalSize"], row["metadataPercentComplete"]) == (sample.metainfo.name, SIZE, 1)
        assert row["haveValid"] >= seen[-1][1]


def test_a_state_that_is_all_rubbish_is_no_reason_not_to_start(tmp_path: Path, sample: Sample) -> None:
    daemon, torrent = Daemon(tmp_path), tmp_path / "sample.torrent"
    done = swarm(tmp_path, "create", sample.directory / sample.metainfo.name, "-o", torrent)
    assert done.returncode == 0, done.stderr
    with daemon.running("-o", sample.directory, dht=True):
        daemon.ask("torrent-add", filename=str(torrent))
        wait_until(lambda: told(daemon)["status"] == 6, "it is shared")
    files = [path for path in (tmp_path / ".local").rglob("*") if path.is_file() and path.name != "lock"]
    names = {path.name for path in files}
    assert {"session.json", "counters.json", "port"} <= names, names
    assert any("dht" in name for name in names), names
    for path in files:
        path.write_bytes(random.Random(path.name).randbytes(300))
    (tmp_path / "log").write_bytes(b"")
    with daemon.running("-o", sample.directory, dht=True):
        assert daemon.torrents() == []
        daemon.ask("torrent-add", filename=str(torrent))
        wait_until(lambda: told(daemon)["status"] == 6, "it is verified and shared")
    assert "Traceback" not in daemon.log()
    warnings = [line for line in daemon.log().splitlines() if " warning: " in line]
    kinds = ("session.json", "counters.json", "dht4.state", ".torrent ", ".resume ")
    assert [sum(kind in line for line in warnings) for kind in kinds] == [1] * len(kinds), warnings
    assert len(warnings) == len(kinds)
