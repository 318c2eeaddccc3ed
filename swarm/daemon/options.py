"""What holds for the whole daemon and may be changed while it runs.  Values: `swarm.daemon.session` applies them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from swarm.torrent.metainfo import Tiers


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Rates are bytes per second.  A limit has a number and a switch, so that the number outlives switching it off."""

    download_dir: Path
    """Where torrents go that are added without a directory."""

    start_added: bool = True
    """Whether an added torrent starts by itself, if nothing else is said."""

    download_rate: int = 100_000
    download_limited: bool = False
    upload_rate: int = 100_000
    upload_limited: bool = False

    alternative_download_rate: int = 50_000
    alternative_upload_rate: int = 50_000
    alternative_rates: bool = False
    """Whether the alternative rates hold instead of the others."""
    alternative_scheduled: bool = False
    """Whether they are switched on and off by the time of day: from ``alternative_begin`` to ``alternative_end``."""
    alternative_begin: int = 540
    alternative_end: int = 1020
    """Minutes after midnight, local time; an end before the beginning is on the next day."""
    alternative_days: int = 127
    """Days on which it begins, as bits: 0 is Sunday, 6 Saturday."""

    default_trackers: Tiers = ()
    """Asked beside a public torrent's own."""

    peer_limit: int = 400
    """Connections of the whole node."""

    peer_limit_per_torrent: int = 80

    seed_ratio: float = 2.0
    seed_ratio_limited: bool = False
    """Whether a torrent stops once it has given back ``seed_ratio`` times what it has."""

    seed_idle: float = 1800.0
    seed_idle_limited: bool = False
    """Whether a torrent stops when nobody has asked it for anything for ``seed_idle`` seconds."""

    download_queue: int = 5
    download_queue_enabled: bool = False
    """Whether at most so many torrents download at once; the rest waits in the order of the queue."""

    seed_queue: int = 10
    seed_queue_enabled: bool = False

    stalled_after: float = 1800.0
    stalled_enabled: bool = True
    """Whether a torrent that moved nothing for ``stalled_after`` seconds no longer counts for its queue."""
