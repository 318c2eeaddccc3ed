"""The account that a run gives of its connections: at the end, and whenever a signal asks for it.

With ``--stats FILE`` it is written there as the statistics document, else it is shown as tables, when SIGUSR1 asks (as
with dd; SIGINFO where a terminal sends it).  Beside it, one line at the end of a download when there is more to say
than that everybody was reached directly.  What a write fails with is told and does not change the exit code: the data
is worth more than its statistics.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import trio

from swarm.cli.bars import page_for
from swarm.cli.document import write_document
from swarm.cli.report import Report
from swarm.cli.tables import tables
from swarm.cli.units import counted
from swarm.errors import StorageError
from swarm.node import Node

DIRECT = {"tcp": "TCP", "utp": "µTP"}
INDIRECT = {
    "tcp-punched": "punched",
    "utp-punched": "punched",
    "predicted": "by predicted ports",
    "birthday": "by birthday",
    "relayed": "relayed",
    "turn": "relayed by TURN",
}
"""Ways to a peer in the line at the end."""

SAME_PEER = frozenset({"duplicate", "self"})
"""Reasons that mean: we are connected to it already, or are it."""

TELLS_LITTLE = {"timed-out": -1, "no-introducer": -2}
"""Silence says less of a peer than any answer, and that nobody could introduce us says nothing of it."""


class Account:
    """``file`` is that of ``--stats``, None without; ``seconds`` count from the start of the program."""

    def __init__(self, file: str | None, report: Report, seconds: Callable[[], float]) -> None:
        self._file = file
        self._report = report
        self._seconds = seconds
        self._node: Node | None = None
        self._document: dict[str, Any] | None = None
        self._asked = trio.Event()

    @contextmanager
    def of(self, node: Node) -> Iterator[None]:
        """While the block runs `answer` speaks of ``node``; how that stood when it ended is told by `give`."""
        self._node = node
        try:
            yield
        finally:
            self.close()
            self._node = None

    def close(self) -> None:
        """Keep how the node stands as the last word; called when a signal ends the run, before anything is closed."""
        if self._node is not None and self._document is None:
            self._document = self._node.document()

    def ask(self) -> None:
        """A signal came."""
        self._asked.set()

    async def answer(self) -> None:
        """Write or show the statistics whenever they are asked for, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            if self._node is not None:  # else all is over
                self._tell(self._node.document())

    def summarise(self) -> None:
        """The line at the end of a download."""
        if self._node is not None and (sentence := connectivity(self._node.document())) is not None:
            self._report.connectivity(self._seconds(), sentence)

    def give(self) -> None:
        """At the very end, whatever it was: the file, and for people who want to know everything the tables."""
        if self._document is None:
            return
        if self._file is not None:
            self._write(self._document)
        self._report.tables(self._lines(self._document), asked=False)

    def _tell(self, document: Mapping[str, Any]) -> None:
        if self._file is None:
            self._report.tables(self._lines(document), asked=True)
        else:
            self._write(document)

    def _write(self, document: Mapping[str, Any]) -> None:
        assert self._file is not None
        try:
            write_document(self._file, document)
        except StorageError as error:
            self._report.complaint(self._seconds(), str(error))

    @staticmethod
    def _lines(document: Mapping[str, Any]) -> list[str]:
        return list(tables(document, page_for(sys.stderr)))


def connectivity(document: Mapping[str, Any]) -> str | None:
    """``3 peers: 2 direct (µTP), 1 punched; 4 not reached: 3 timed out, 1 refused``; None if nobody was punched,
    relayed or missed.

    Peers count once for each torrent; who was connected and is not any more was reached.
    """
    ways: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    direct: dict[str, None] = {}
    for peer in document["peers"]:
        if (path := peer["path"]) is None:
            if (reason := _telling(peer["failures"])) is not None:
                missed[reason.replace("-", " ")] += 1
        elif path in DIRECT:
            ways["direct"] += 1
            direct[DIRECT[path]] = None
        else:
            ways[INDIRECT[path]] += 1
    if not missed and ways.keys() <= {"direct"}:
        return None
    names = {"direct": f"direct ({', '.join(direct)})"}
    reached = _listed({names.get(way, way): count for way, count in ways.most_common()})
    parts = [f"{counted(ways.total(), 'peer')}: {reached}" if ways else "no peer was reached"]
    if missed:
        parts.append(f"{missed.total():,} not reached: {_listed(dict(missed.most_common()))}")
    return "; ".join(parts)


def _telling(failures: Mapping[str, str]) -> str | None:
    """The reason that says most of why a peer was not reached; None if it was not missed."""
    reasons = list(failures.values())
    if not reasons or not SAME_PEER.isdisjoint(reasons):
        return None
    return max(reasons, key=lambda reason: TELLS_LITTLE.get(reason, 0))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
