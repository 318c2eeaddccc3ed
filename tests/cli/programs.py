"""Runs the real program: ``python -m swarm`` with its own state, home and configuration."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
SAMPLE = ROOT / "torrents" / "swarm-sample.torrent"
LIMIT = 20.0
"""Seconds that any of these programs may take."""


STAYS_HERE = {"SWARM_BIND": "127.0.0.1"}
"""A node with its defaults would talk to the network of whoever runs the tests."""


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SWARM_", "XDG_"))}
    ours = {"HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "100"}
    return kept | ours | STAYS_HERE


def swarm(home: Path, *arguments: object, stdin: bytes | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    done = subprocess.run(
        [sys.executable, "-m", "swarm", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env=environment(home) | extra,
        timeout=LIMIT,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@contextmanager
def running(home: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A program that goes on; killed at the end if it still runs."""
    with subprocess.Popen(
        [sys.executable, "-m", "swarm", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(home),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def seeding(home: Path, torrent: Path, directory: Path) -> Iterator[str]:
    """HOST:PORT of a ``swarm seed`` that has verified its data."""
    with running(home, "seed", torrent, "-o", directory, "--bind", "127.0.0.1", "-p", 0) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if match := re.search(r"sharing on port (\d+)", line):
                yield f"127.0.0.1:{match[1]}"
                return
        raise AssertionError("the seed did not start")


def events(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]
