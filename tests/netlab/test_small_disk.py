"""A small file system that the daemon alone sees (a mount namespace) fills up under a transfer, and is freed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swarm.torrent.magnet import Magnet, format_magnet
from swarm.torrent.metainfo import encode_torrent
from tests.cli.programs import environment, seeding
from tests.daemon.program import DAEMON, LIMIT, SEEDING, STOPPED, ask, listed, remote, until
from tests.needs import need_program, need_root
from tests.nodes import make_sample

QUICK = "import swarm.daemon.room as room; room.LOOK = 0.5; from swarm.cli import main; raise SystemExit(main())"


@contextmanager
def daemon_on_a_small_disk(home: Path, size: str, *arguments: object) -> Iterator[Path]:
    """A daemon with a file system of ``size`` at ``home / "disk"`` that it alone sees; that, as seen from here."""
    (home / "disk").mkdir()
    mount = f"mount -t tmpfs -o size={size} none {home}/disk"
    command = [sys.executable, "-c", QUICK, "daemon", *DAEMON, "--rpc", f"unix:{home}/rpc", *map(str, arguments)]
    with open(home / "log", "ab") as log:
        process = subprocess.Popen(
            ["unshare", "-m", "sh", "-ec", f'{mount}; exec "$@"', "sh", *command], env=environment(home), stderr=log
        )
    try:
        until(lambda: process.poll() is not None or listed(home) is not None)
        yield Path(f"/proc/{process.pid}/root{home}/disk")
    finally:
        process.terminate()
        process.wait(LIMIT)


FIELDS = ["status", "error", "errorString", "haveValid", "downloadedEver", "corruptEver"]


def told(home: Path) -> dict[str, Any]:
    answer: dict[str, Any] = remote(home).call("torrent-get", fields=FIELDS)["torrents"][0]
    return answer


def test_a_file_system_fills_up_under_a_transfer_is_freed_and_the_transfer_ends(tmp_path: Path) -> None:
    need_root()
    need_program("unshare")
    sample = make_sample(tmp_path / "data", 4 << 20, 64 << 10)
    torrent = tmp_path / "sample.torrent"
    torrent.write_bytes(encode_torrent(sample.metainfo))
    with seeding(tmp_path / "data", torrent, tmp_path / "data") as peer, daemon_on_a_small_disk(tmp_path, "6m") as disk:
        (disk / "other").write_bytes(bytes(3 << 20))
        host, _, port = peer.partition(":")
        link = format_magnet(Magnet(info_hash=sample.metainfo.info_hash, peers=((host, int(port)),)))
        assert ask(tmp_path, "add", link, "-o", tmp_path / "disk").returncode == 0
        until(
            lambda: told(tmp_path)["errorString"].endswith("the disk is full; it goes on by itself once there is room")
        )
        stopped = told(tmp_path)
        assert (stopped["status"], stopped["error"]) == (STOPPED, 3)
        assert stopped["haveValid"] > 2 << 20
        time.sleep(1.2)
        assert told(tmp_path)["status"] == STOPPED
        (disk / "other").unlink()
        until(lambda: told(tmp_path)["status"] == SEEDING)
        assert (told(tmp_path)["errorString"], told(tmp_path)["corruptEver"]) == ("", 0)
        lacked, fetched = (4 << 20) - stopped["haveValid"], told(tmp_path)["downloadedEver"] - stopped["downloadedEver"]
        assert fetched <= lacked, "what was verified is not fetched again"
        assert (disk / "sample.bin").read_bytes() == sample.content
