"""``--json``: events on standard output, one JSON object a line (shared interface "JSON").

Each object has ``event`` and ``time`` (seconds since the start), and ``info_hash`` where it is about one torrent.
``total_size`` of ``start`` is null for a link whose metadata is still to come, and told by ``metadata`` then.
Beyond the shared interface: ``checked`` when the data on disk was looked at, and ``tracker`` for each announce.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from swarm.cli.output import say
from swarm.events import (
    ConnectionClosed,
    Event,
    NetworkLost,
    NetworkRestored,
    PeerConnected,
    PieceVerified,
    TorrentChecked,
    TrackerAnswered,
    TrackerFailed,
    Warned,
)

if TYPE_CHECKING:
    from swarm.cli.meter import Standing
    from swarm.cli.report import Summary
    from swarm.torrent.torrent import Torrent


class JsonLines:
    """The `Report` that programs read."""

    def started(self, seconds: float, torrent: Torrent, port: int | None) -> None:
        total = torrent.metainfo.total_size if torrent.state != "metadata" else None
        _write(seconds, "start", torrent.info_hash, name=torrent.name, total_size=total, port=port)

    def metadata(self, seconds: float, torrent: Torrent) -> None:
        metainfo = torrent.metainfo
        _write(
            seconds,
            "metadata",
            torrent.info_hash,
            peers=torrent.metadata.senders,
            name=metainfo.name,
            total_size=metainfo.total_size,
        )

    def event(self, seconds: float, event: Event) -> None:
        match event:
            case PeerConnected():
                _write(seconds, "peer", event.info_hash, state="connected", **_peer(event))
            case ConnectionClosed():
                _write(seconds, "peer", event.info_hash, state="lost", reason=event.reason, **_peer(event))
            case PieceVerified():
                _write(seconds, "piece", event.info_hash, index=event.index)
            case TorrentChecked():
                _write(seconds, "checked", event.info_hash, verified=event.verified, pieces=event.pieces)
            case TrackerAnswered():
                _write(seconds, "tracker", event.info_hash, url=event.url, peers=event.peers)
            case TrackerFailed():
                _write(seconds, "tracker", event.info_hash, url=event.url, reason=event.reason)
            case Warned():
                self.warning(seconds, event.message, event.info_hash)
            case NetworkLost():
                self.warning(seconds, f"{event.bind} is gone: all traffic has stopped")
            case NetworkRestored():
                self.warning(seconds, f"{event.bind} is back")

    def progress(self, seconds: float, standings: Mapping[Torrent, Standing]) -> None:
        for torrent, standing in standings.items():
            _write(
                seconds,
                "progress",
                torrent.info_hash,
                done=standing.done,
                total=standing.total,
                down_rate=round(standing.down_rate),
                up_rate=round(standing.up_rate),
                peers=standing.peers,
                uploaded=standing.uploaded,
            )

    def stalled(self, seconds: float, silence: float, reasons: Sequence[str]) -> None:
        _write(seconds, "stalled", None, reasons=list(reasons))

    def warning(self, seconds: float, message: str, info_hash: bytes | None = None) -> None:
        _write(seconds, "warning", info_hash, message=message)

    def done(self, seconds: float, torrent: Torrent, summary: Summary) -> None:
        _write(
            seconds,
            "done",
            torrent.info_hash,
            path=str(summary.path),
            seconds=round(summary.seconds, 3),
            downloaded=summary.downloaded,
            peers=summary.peers,
        )

    def sharing(self, seconds: float, torrent: Torrent, port: int | None) -> None:
        """Said by ``checked`` already."""

    def connectivity(self, seconds: float, sentence: str) -> None:
        """For people; programs read ``--stats``."""

    def tables(self, lines: Sequence[str], *, asked: bool) -> None:
        if asked:
            print(*lines, sep="\n", file=sys.stderr, flush=True)

    def complaint(self, seconds: float, message: str) -> None:
        self.warning(seconds, message)

    def clear(self) -> None:
        """Nothing to take away."""

    def interrupted(self, seconds: float, code: int) -> None:
        print_error(seconds, code, "interrupted, state saved")


def print_error(seconds: float, code: int, message: str) -> None:
    """The last line of a run that failed; ``code`` is the exit code."""
    _write(seconds, "error", None, code=code, message=message)


def _peer(event: PeerConnected | ConnectionClosed) -> dict[str, str]:
    return {
        "endpoint": str(event.endpoint),
        "path": event.path,
        "direction": event.direction,
        "client": event.client,
    }


def _write(now: float, event: str, info_hash: bytes | None, /, **fields: object) -> None:
    about = {} if info_hash is None else {"info_hash": info_hash.hex()}
    say(json.dumps({"event": event, "time": round(now, 3)} | about | fields), flush=True)
