"""Runs ``swarm daemon`` as a program, with a state, home and folder of its own, and speaks to it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swarm.cli.remote import Remote
from swarm.daemon.listen import Address
from swarm.errors import DaemonUnreachableError
from swarm.torrent.create import create
from tests.cli.programs import environment, swarm

LIMIT = 20.0


@contextmanager
def daemon(home: Path, *arguments: object, before: str = "pass", **extra: str) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon that answers on ``home / "rpc"`` and is ended, if it still runs, with the block.

    ``before`` is Python that it runs first.
    """
    code = f"{before}; from swarm.cli import main; raise SystemExit(main())"
    log = home / "log"
    with open(log, "ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "daemon", *DAEMON, "--rpc", f"unix:{home}/rpc", *map(str, arguments)],
            env=environment(home) | extra,
            stderr=stream,
        )
    try:
        until(lambda: process.poll() is not None or listed(home) is not None)
        yield process
    finally:
        process.terminate()
        process.wait(LIMIT)


DAEMON = ("--no-dht", "--no-trackers", "--no-lsd", "-p", "0", "-o", "/nonexistent")


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def ask(home: Path, command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return swarm(home, command, *arguments, "--rpc", f"unix:{home}/rpc")


def remote(home: Path) -> Remote:
    """The same without a process."""
    return Remote([Address(path=f"{home}/rpc")], None, None)


def listed(home: Path) -> list[dict[str, Any]] | None:
    """None while nobody answers."""
    try:
        answer = remote(home).call(
            "torrent-get", fields=["id", "name", "status", "percentDone", "error", "errorString"]
        )
    except DaemonUnreachableError:
        return None
    torrents: list[dict[str, Any]] = answer["torrents"]
    return torrents


def status(home: Path) -> list[int]:
    return [torrent["status"] for torrent in listed(home) or []]


def sample(home: Path) -> Path:
    (home / "data").mkdir()
    (home / "data" / "sample.bin").write_bytes(bytes(range(256)) * 1000)
    torrent = home / "sample.torrent"
    torrent.write_bytes(create(home / "data" / "sample.bin", piece_length=16 << 10))
    return torrent


STOPPED, SEEDING = 0, 6
