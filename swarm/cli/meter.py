"""Where a run stands, and how fast it moves: what the progress line and the JSON are made of.  Prints nothing."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

from swarm.cli.units import columns, counted, format_duration, format_part, format_percent, format_rate
from swarm.torrent.telling import TorrentStatistics

WINDOW = 5.0
"""Seconds over which a rate is averaged."""

ETA_WORTH_SAYING = 100 * 86400.0
"""Seconds; beyond, an estimate says nothing."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A moment of one torrent, or of several together.  Bytes, and bytes per second."""

    done: int
    total: int
    down_rate: float
    up_rate: float
    peers_by_path: dict[str, int]
    checking: tuple[int, int] | None = None
    """Pieces looked at, of how many."""

    uploaded: int = 0

    metadata: str = ""
    """How far the metadata is, while it is missing."""

    @property
    def peers(self) -> int:
        return sum(self.peers_by_path.values())

    @property
    def complete(self) -> bool:
        return self.checking is None and not self.metadata and self.done == self.total

    @property
    def eta(self) -> float | None:
        """Seconds, at the present rate."""
        if self.down_rate < 1 or self.done >= self.total:
            return None
        seconds = (self.total - self.done) / self.down_rate
        return seconds if seconds < ETA_WORTH_SAYING else None


class Rate:
    """Bytes per second over the last WINDOW seconds, from a count that only grows."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def __call__(self, now: float, count: int) -> float:
        """The rate, with one more sample."""
        samples = self._samples
        samples.append((now, count))
        while samples[0][0] < now - WINDOW and len(samples) > 2:
            samples.popleft()
        then, before = samples[0]
        return (count - before) / (now - then) if now > then else 0.0


class Meter:
    """Turns the statistics of one torrent into standings."""

    def __init__(self) -> None:
        self._down = Rate()
        self._up = Rate()

    def read(self, now: float, statistics: TorrentStatistics) -> Standing:
        checking = (statistics.checked, statistics.to_check) if statistics.state in ("queued", "checking") else None
        return Standing(
            done=statistics.done,
            total=statistics.total,
            down_rate=self._down(now, statistics.downloaded),
            up_rate=self._up(now, statistics.uploaded),
            peers_by_path=dict(statistics.peers_by_path),
            checking=checking,
            uploaded=statistics.uploaded,
            metadata=statistics.metadata,
        )


def together(standings: Iterable[Standing]) -> Standing:
    """The sum of several torrents."""
    all_of_them = list(standings)
    peers: Counter[str] = Counter()
    for standing in all_of_them:
        peers.update(standing.peers_by_path)
    checking = [standing.checking for standing in all_of_them if standing.checking is not None]
    return Standing(
        done=sum(standing.done for standing in all_of_them),
        total=sum(standing.total for standing in all_of_them),
        down_rate=sum(standing.down_rate for standing in all_of_them),
        up_rate=sum(standing.up_rate for standing in all_of_them),
        peers_by_path=dict(peers),
        checking=(sum(each[0] for each in checking), sum(each[1] for each in checking)) if checking else None,
        uploaded=sum(standing.uploaded for standing in all_of_them),
        metadata=_missing_metadata(all_of_them),
    )


def _missing_metadata(standings: list[Standing]) -> str:
    """How far it is where nothing else is under way: of the only torrent that lacks it, or how many there are."""
    lacking = [standing.metadata for standing in standings if standing.metadata]
    if any(not standing.metadata and not standing.complete for standing in standings):
        return ""
    return lacking[0] if len(lacking) == 1 else f"missing of {len(lacking):,} torrents" if lacking else ""


def progress_line(standing: Standing, width: int) -> str:
    """One line of at most ``width`` columns; what matters least is left out where it does not fit."""
    if standing.checking is not None:
        looked_at, to_check = standing.checking
        if not to_check:
            return "looking for what is there"[:width]
        return f"checking  {format_percent(looked_at, to_check)}  {looked_at:,} of {to_check:,} pieces"[:width]
    if standing.metadata:
        return f"metadata: {standing.metadata}"[:width]
    down, up = format_rate(standing.down_rate), format_rate(standing.up_rate)
    if standing.complete:
        return _fitting(
            [(0, "sharing"), (0, f"↑ {up}"), (1, counted(standing.peers, "peer")), (2, _paths(standing))], width
        )
    eta = "" if standing.eta is None else f"{format_duration(standing.eta)} left"
    return _fitting(
        [
            (0, format_percent(standing.done, standing.total)),
            (2, format_part(standing.done, standing.total)),
            (0, f"↓ {down}"),
            (4, f"↑ {up}" if standing.up_rate >= 1 else ""),
            (1, eta),
            (3, counted(standing.peers, "peer")),
            (5, _paths(standing)),
        ],
        width,
    )


def _paths(standing: Standing) -> str:
    paths = sorted(standing.peers_by_path.items(), key=lambda item: (-item[1], item[0]))
    return f"({', '.join(f'{count} {path}' for path, count in paths)})" if paths else ""


def _fitting(parts: list[tuple[int, str]], width: int) -> str:
    """The parts side by side; those of the highest rank go first until the rest fits."""
    left = [part for part in parts if part[1]]
    while True:
        line = "  ".join(text for _, text in left).replace("  (", " (")
        expendable = max(left)[0]
        if columns(line) <= width or not expendable:
            return line
        left = [part for part in left if part[0] != expendable]
