"""One torrent of the daemon: what it is, what the user wishes of it, how it stands, running or not.

An entry outlives the `Torrent` that runs for it: stopped, or waiting in a queue, it has none, costs no task and no file
handle, and is told about from what was kept.  It decides nothing: `swarm.daemon.session` does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import trio

from swarm.bitfield import Bitfield
from swarm.endpoint import Endpoint
from swarm.torrent.magnet import Magnet
from swarm.torrent.metainfo import Metainfo, Tiers
from swarm.torrent.torrent import Torrent

Status = Literal["stopped", "check-wait", "check", "download-wait", "download", "seed-wait", "seed"]

LimitMode = Literal["session", "own", "none"]
"""Which limit of seeding holds: that of the whole daemon, the torrent's own, or none."""

Job = Literal["verify", "move"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user wants of one torrent.

    File indices count from 0 and include pad files; rates are bytes a second.
    """

    labels: tuple[str, ...] = ()
    unwanted: frozenset[int] = frozenset()
    """Files that are not to be fetched."""
    high: frozenset[int] = frozenset()
    """Files to be fetched before the others, and after them."""
    low: frozenset[int] = frozenset()

    download_rate: int = 100_000
    download_limited: bool = False
    upload_rate: int = 100_000
    upload_limited: bool = False
    honours_session_limits: bool = True
    """Whether the limits of the whole daemon hold for it, too."""
    bandwidth_priority: int = 0
    """-1, 0 or 1: whoever has the higher gets more of the daemon's limits, while they bind."""

    peer_limit: int | None = None
    """Connections; None: as the daemon's options say."""

    ratio_mode: LimitMode = "session"
    ratio: float = 2.0
    idle_mode: LimitMode = "session"
    idle: float = 1800.0
    """Seconds."""

    trackers: Tiers | None = None
    """Instead of those that the torrent names; None: those."""


@dataclass(slots=True)
class Counters:
    """What adds up over all runs.  Payload bytes, and seconds; ``corrupt`` are bytes of pieces that were wrong."""

    uploaded: int = 0
    downloaded: int = 0
    corrupt: int = 0
    seconds_downloading: float = 0.0
    seconds_seeding: float = 0.0
    activity_at: float | None = None
    """When a byte of payload last moved; seconds since the epoch."""


@dataclass(slots=True)
class Times:
    """Seconds since the epoch; None: never."""

    added_at: float
    done_at: float | None = None
    """When everything wanted was there."""
    started_at: float | None = None
    edited_at: float | None = None


class Entry:
    """Changed by the session only."""

    def __init__(
        self,
        number: int,
        source: Metainfo | Magnet,
        directory: Path,
        *,
        times: Times,
        wishes: Wishes,
        paused: bool,
        counters: Counters,
    ) -> None:
        self.id = number
        """Ascending in the order of adding, and never that of another torrent in one run."""
        self.original = source
        """As it was added, or as peers have sent it."""
        self.written = source
        """As it is kept on disk."""
        self.directory = directory
        self.moving_to: Path | None = None
        """Where its files are on their way to, or were when the daemon ended."""
        self.peers: tuple[Endpoint, ...] = ()
        """To be asked at once when it starts, until the daemon ends."""
        self.wishes = wishes
        self.times = times
        self.paused = paused
        """The user stopped it, or a limit of seeding did."""
        self.finished = False
        """It was a limit of seeding."""
        self.torrent: Torrent | None = None
        """What runs for it; None while stopped or waiting."""
        self.job: Job | None = None
        """What is being done to it while it does not run."""
        self.checking = (0, 0)
        """While it is verified: pieces looked at, of how many."""
        self.problem: str | None = None
        """Why it does not run, a sentence."""
        self.kept_have: Bitfield | None = None
        """Verified pieces, as of the last time it ran."""
        self.queue_position = 0
        self.past_queue = False
        """The user started it at once, whatever the queue says."""
        self.lock = trio.Lock()
        """Held by whoever starts, stops, verifies, moves or removes it."""
        self.kept = counters
        """Of earlier runs of it; see `uploaded` and others for the sums."""
        self.allowed = False
        """Neither stopped nor waiting for a place in a queue."""
        self.stirred_at = 0.0
        """Trio time of its start, or of the last byte that moved."""
        self.looked_at = 0.0
        """Trio time of the last look at what it has moved."""
        self.seen = (0, 0)
        """Bytes up and down of this run at the last look."""

    def __repr__(self) -> str:
        return f"<Entry {self.id} {self.name!r} {self.status}>"

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    def info_hash(self) -> bytes:
        return self.original.info_hash

    @property
    def source(self) -> Metainfo | Magnet:
        """What runs: the trackers are those that the user wants."""
        trackers = self.wishes.trackers
        if trackers is None:
            return self.original
        if isinstance(self.original, Metainfo):
            return replace(self.original, trackers=trackers)
        return replace(self.original, trackers=tuple(url for tier in trackers for url in tier))

    @property
    def metainfo(self) -> Metainfo | None:
        """None while peers have not sent it."""
        if isinstance(self.original, Metainfo):
            return self.original
        return self.torrent.metainfo if self.torrent is not None and self.torrent.has_metadata else None

    @property
    def trackers(self) -> Tiers:
        """Tiers of announce URLs (BEP 12), those of a link each in a tier of its own."""
        if self.wishes.trackers is not None:
            return self.wishes.trackers
        if isinstance(self.original, Metainfo):
            return self.original.trackers
        return tuple((url,) for url in self.original.trackers)

    @property
    def name(self) -> str:
        """What to call it; of a link, before the metadata is there, what that says, or the info-hash."""
        return (self.metainfo or self.original).name or self.info_hash.hex()

    # -- how it stands ----------------------------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        if self.job == "verify":
            return "check" if self.checking[1] else "check-wait"
        if self.torrent is not None:
            match self.torrent.state:
                case "queued":
                    return "check-wait"
                case "checking":
                    return "check"
                case "metadata" | "downloading":
                    return "download"
                case "seeding":
                    return "seed"
                case "failed":
                    return "stopped"
                case "stopped":  # leaving its swarm, perhaps only to wait for its place
                    pass
        if self.paused or self.problem is not None:
            return "stopped"
        return "seed-wait" if self.done else "download-wait"

    @property
    def error(self) -> str | None:
        """What keeps it from running, a sentence; None: nothing."""
        if self.problem is None and self.torrent is not None and self.torrent.error is not None:
            return str(self.torrent.error)  # nobody has looked at it yet
        return self.problem

    @property
    def have(self) -> Bitfield | None:
        """The verified pieces; None while nobody knows.  Not to be changed."""
        running = self.torrent.have if self.torrent is not None else None
        return self.kept_have if running is None else running

    @property
    def done(self) -> bool:
        """Whether everything wanted is there, as far as is known."""
        if self.torrent is not None and self.torrent.state in ("downloading", "seeding"):
            return self.torrent.state == "seeding"
        return self.times.done_at is not None

    @property
    def wants_to_run(self) -> bool:
        """Whether it takes, or waits for, a place in a queue."""
        return not self.paused and self.problem is None

    @property
    def bytes_had(self) -> int:
        """Verified bytes, wanted or not."""
        have, metainfo = self.have, self.metainfo
        if have is None or metainfo is None:
            return 0
        last = metainfo.piece_count - 1
        short = metainfo.piece_length - metainfo.piece_size(last) if last in have else 0
        return have.count * metainfo.piece_length - short

    @property
    def ratio(self) -> float | None:
        """Bytes given for each byte got, or had from the start; None while there is neither."""
        got = self.downloaded or self.bytes_had
        return self.uploaded / got if got else None

    # -- sums -------------------------------------------------------------------------------------------------------

    @property
    def uploaded(self) -> int:
        return self.kept.uploaded + (self.torrent.uploaded if self.torrent is not None else 0)

    @property
    def downloaded(self) -> int:
        return self.kept.downloaded + (self.torrent.downloaded if self.torrent is not None else 0)

    @property
    def corrupt(self) -> int:
        return self.kept.corrupt + (self.torrent.statistics().corrupt if self.torrent is not None else 0)

    @property
    def seconds_downloading(self) -> float:
        return self.kept.seconds_downloading

    @property
    def seconds_seeding(self) -> float:
        return self.kept.seconds_seeding

    @property
    def added_at(self) -> float:
        return self.times.added_at

    @property
    def done_at(self) -> float | None:
        return self.times.done_at

    @property
    def started_at(self) -> float | None:
        return self.times.started_at

    @property
    def activity_at(self) -> float | None:
        return self.kept.activity_at

    @property
    def edited_at(self) -> float | None:
        return self.times.edited_at
