"""What a run of download or seed tells, and the report that people read: on standard error, with one updating line.

Where standard error is no terminal the updating line becomes a plain one every ten seconds.  `swarm.cli.jsonlines` is
the report for programs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from swarm.cli.describe import describe
from swarm.cli.meter import Standing, progress_line, together
from swarm.cli.screen import Screen
from swarm.cli.units import counted, format_bytes, format_duration, format_rate, printable
from swarm.events import Event, NetworkLost, NetworkRestored, Warned
from swarm.torrent.torrent import Torrent

PLAIN_INTERVAL = 10.0
"""Seconds between lines of progress without a terminal."""

PLAIN_WIDTH = 200


@dataclass(frozen=True, slots=True)
class Summary:
    """A finished download.  Bytes, seconds since its data was checked, and the peers that sent any."""

    path: Path
    total: int
    downloaded: int
    seconds: float
    peers: int


class Report(Protocol):
    """Everything that is told; ``seconds`` count from the start of the run."""

    def started(self, seconds: float, torrent: Torrent, port: int | None) -> None: ...

    def metadata(self, seconds: float, torrent: Torrent) -> None:
        """Peers have sent what the link left out."""

    def event(self, seconds: float, event: Event) -> None: ...

    def progress(self, seconds: float, standings: Mapping[Torrent, Standing]) -> None:
        """Once a second."""

    def stalled(self, seconds: float, silence: float, reasons: Sequence[str]) -> None: ...

    def warning(self, seconds: float, message: str, info_hash: bytes | None = None) -> None: ...

    def done(self, seconds: float, torrent: Torrent, summary: Summary) -> None: ...

    def sharing(self, seconds: float, torrent: Torrent, port: int | None) -> None:
        """Everything is verified, and ``seed`` goes on."""

    def connectivity(self, seconds: float, sentence: str) -> None:
        """How peers were reached, at the end of a download."""

    def tables(self, lines: Sequence[str], *, asked: bool) -> None:
        """The statistics for people, on standard error; not ``asked`` for, they are what a run ends with."""

    def complaint(self, seconds: float, message: str) -> None:
        """Something that was asked for has failed, and the run goes on."""

    def clear(self) -> None:
        """Take away what is not meant to stay; called last, and in signal handlers."""

    def interrupted(self, seconds: float, code: int) -> None: ...


class TextReport:
    """The report for people."""

    def __init__(self, screen: Screen, *, verbose: bool = False) -> None:
        self._screen = screen
        self._verbose = verbose
        self._next_plain = PLAIN_INTERVAL

    def started(self, seconds: float, torrent: Torrent, port: int | None) -> None:
        where = f", port {port}" if port is not None and self._verbose else ""
        size = format_bytes(torrent.metainfo.total_size) if torrent.state != "metadata" else "asking peers what it is"
        self._screen.line(f"{printable(torrent.name)}: {size}{where}")

    def metadata(self, seconds: float, torrent: Torrent) -> None:
        metainfo, count = torrent.metainfo, torrent.metadata.senders
        told = f"told by {counted(count, 'peer')} after {format_duration(seconds)}" if count else "known already"
        self._screen.line(f"{printable(metainfo.name)}: {format_bytes(metainfo.total_size)}, {told}")

    def event(self, seconds: float, event: Event) -> None:
        if self._verbose:
            if (text := describe(event)) is not None:
                self._screen.line(f"{seconds:7.2f}  {text}")
        elif isinstance(event, (Warned, NetworkLost, NetworkRestored)):
            self._screen.line(f"swarm: {describe(event)}")

    def progress(self, seconds: float, standings: Mapping[Torrent, Standing]) -> None:
        if not standings:
            return
        standing = together(standings.values())
        self._screen.status(progress_line(standing, self._screen.width))
        if not self._screen.terminal and seconds >= self._next_plain:
            self._next_plain = seconds + PLAIN_INTERVAL
            self._screen.line(progress_line(standing, PLAIN_WIDTH))

    def stalled(self, seconds: float, silence: float, reasons: Sequence[str]) -> None:
        self._screen.line(f"no data for {format_duration(silence)}" + (":" if reasons else ""))
        for reason in reasons:
            self._screen.line(f"  {printable(reason)}")

    def warning(self, seconds: float, message: str, info_hash: bytes | None = None) -> None:
        self._screen.line(f"swarm: {printable(message)}")

    def done(self, seconds: float, torrent: Torrent, summary: Summary) -> None:
        path = printable(str(summary.path))
        if summary.downloaded == 0:
            self._screen.line(f"{path}: complete, {format_bytes(summary.total)} verified")
            return
        rate = format_rate(summary.downloaded / max(summary.seconds, 0.001))
        self._screen.line(
            f"{path}: complete, {format_bytes(summary.downloaded)} in {format_duration(summary.seconds)} "
            f"({rate}) from {counted(summary.peers, 'peer')}"
        )

    def sharing(self, seconds: float, torrent: Torrent, port: int | None) -> None:
        name, pieces = printable(torrent.name), counted(torrent.metainfo.piece_count, "piece")
        self._screen.line(f"{name}: {pieces} verified, sharing" + (f" on port {port}" if port is not None else ""))

    def connectivity(self, seconds: float, sentence: str) -> None:
        self._screen.line(printable(sentence))

    def tables(self, lines: Sequence[str], *, asked: bool) -> None:
        if asked or self._verbose:
            self._screen.line("\n".join(("", *lines, "")), always=asked)

    def complaint(self, seconds: float, message: str) -> None:
        self._screen.line(f"swarm: {printable(message)}", always=True)

    def clear(self) -> None:
        self._screen.clear()

    def interrupted(self, seconds: float, code: int) -> None:
        self._screen.line("swarm: interrupted; the state is saved")
