"""What a node tells on its standard output, one JSON object a line, with the time at which each line arrived."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Teller:
    """A process whose lines a thread reads until it ends, and copies into ``copy``.

    ``started`` is the monotonic time just before the process was started.
    """

    def __init__(self, process: subprocess.Popen[str], started: float, copy: Path) -> None:
        self.process = process
        self._started = started
        self._copy = copy
        self._lines: list[tuple[float, Line]] = []
        self._more = threading.Condition()
        self._silent = False
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def age(self) -> float:
        """Seconds since the start of the process."""
        return time.monotonic() - self._started

    def lines(self, event: str, **fields: object) -> list[Line]:
        """Those told so far of this event, and with these values, in order."""
        with self._more:
            return [line for _, line in self._matching(event, fields)]

    def wait_for(self, event: str, limit: float, **fields: object) -> float | None:
        """Seconds from the start of the process to the first such line, past or to come.

        None if it was not told within ``limit`` seconds of the start, or the process ended without telling it.
        """
        deadline = self._started + limit
        with self._more:
            while True:
                for arrived, _ in self._matching(event, fields):
                    return arrived - self._started
                left = deadline - time.monotonic()
                if self._silent or left <= 0:
                    return None
                self._more.wait(left)

    def _matching(self, event: str, fields: dict[str, object]) -> Iterator[tuple[float, Line]]:
        for arrived, line in self._lines:
            if line["event"] == event and all(line.get(name) == value for name, value in fields.items()):
                yield arrived, line

    def _read(self) -> None:
        assert self.process.stdout is not None
        try:
            with self._copy.open("w") as copy:
                for text in self.process.stdout:
                    arrived = time.monotonic()
                    copy.write(text)
                    copy.flush()
                    line = json.loads(text)
                    with self._more:
                        self._lines.append((arrived, line))
                        self._more.notify_all()
        finally:
            with self._more:
                self._silent = True
                self._more.notify_all()


def statistics_of(process: subprocess.Popen[str], file: Path) -> Line:
    """The statistics document that a node, started with ``--stats FILE``, writes when it is asked to.

    AssertionError if it does not within five seconds.
    """
    file.unlink(missing_ok=True)
    process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + 5.0
    while not file.exists():
        assert time.monotonic() < deadline, "no statistics"
        time.sleep(0.05)
    document: Line = json.loads(file.read_text())
    return document
