"""Runs ``swarm daemon`` as a process of its own, with trackers, and measures how fast it answers."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import trio

from swarm.cli.remote import Remote
from swarm.daemon.listen import Address
from swarm.errors import DaemonUnreachableError
from tests.cli.programs import environment

LIMIT = 30.0
QUIET = ("--no-lsd", "--no-mapping")


class Daemon:
    """One process, whose state outlives it in ``home``."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.downloads = home / "downloads"
        self._remote = Remote([Address(path=str(home / "rpc"))], None, None)
        self.process: subprocess.Popen[bytes] | None = None

    @contextmanager
    def running(self, *arguments: object, dht: bool = False) -> Iterator[None]:
        """Until the end of the block, or until it was killed before.  A DHT knows nobody here."""
        network = ["--dht-bootstrap", "127.0.0.1:1"] if dht else ["--no-dht", "-p", "0"]
        command = ["daemon", *QUIET, *network, "--rpc", f"unix:{self.home}/rpc", "-o", self.downloads, *arguments]
        with open(self.home / "log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "swarm", *map(str, command)], env=environment(self.home), stderr=log
            )
        try:
            wait_until(self._answers, "it answers")
            yield
        finally:
            self.process.terminate()
            self.process.wait(LIMIT)

    @asynccontextmanager
    async def beside(self, *arguments: object) -> AsyncIterator[None]:
        """The same for a test that serves it meanwhile."""
        running = self.running(*arguments)
        await trio.to_thread.run_sync(running.__enter__)
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(running.__exit__, None, None, None)

    def kill(self) -> None:
        """Without a word, as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(LIMIT)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        try:
            self.ask("session-get", fields=["version"])
        except DaemonUnreachableError:
            return False
        return True

    def ask(self, method: str, **arguments: Any) -> dict[str, Any]:
        return self._remote.call(method, **{name.replace("_", "-"): value for name, value in arguments.items()})

    def torrents(self, *fields: str) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = self.ask("torrent-get", fields=["id", *fields])["torrents"]
        return told

    def log(self) -> str:
        return (self.home / "log").read_text()

    def port(self) -> int:
        return int(self.ask("session-get", fields=["peer-port"])["peer-port"])

    def seconds_to_answer(self, *fields: str) -> float:
        started = time.monotonic()
        self.torrents(*fields)
        return time.monotonic() - started


def wait_until(condition: Callable[[], object], what: str, seconds: float = LIMIT) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)
