"""The fields of Transmission's ``torrent-get`` (rpc-version 17), each with the function that tells it of one torrent.

Numbers are as Transmission's: times in whole seconds since 1970 (0: never), limits of rates in kB/s (1000 bytes),
rates in bytes/s, idle limits in minutes.  Only verified pieces count as had, and as ``bytesCompleted`` of a file.  What
this daemon does not have (bandwidth groups, web seeds) is told as empty.  File indices count pad files (BEP 47).
"""

from __future__ import annotations

import mimetypes
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from itertools import accumulate
from pathlib import PurePath
from typing import Any

from swarm.bitfield import Bitfield
from swarm.daemon.entry import Entry, LimitMode, Status
from swarm.daemon.rpc_arguments import finite
from swarm.daemon.rpc_peers import peer_row, peers_from, receives, sends
from swarm.daemon.rpc_trackers import tracker_host, tracker_list, tracker_rows, tracker_stats
from swarm.daemon.session import Session
from swarm.peer import PeerConnection
from swarm.torrent.magnet import format_magnet
from swarm.torrent.metainfo import Metainfo
from swarm.torrent.selection import Selection
from swarm.torrent.telling import TorrentStatistics

KILO = 1000

STATUS_NUMBERS: Mapping[Status, int] = {
    "stopped": 0,
    "check-wait": 1,
    "check": 2,
    "download-wait": 3,
    "download": 4,
    "seed-wait": 5,
    "seed": 6,
}
MODE_NUMBERS: Mapping[LimitMode, int] = {"session": 0, "own": 1, "none": 2}

ETA_NONE, ETA_UNKNOWN = -1, -2
RATIO_NONE = -1.0
LONGEST_ETA = 1 << 31

NO_ERROR, TRACKER_ERROR, LOCAL_ERROR = 0, 2, 3
REFUSED = "tracker-refused"
"""How a tracker's own "no" begins (`swarm.discover.tracker_client`)."""


class TorrentView:
    """One torrent at one moment.  What several fields need is computed once.  ``wall`` is in Unix seconds."""

    def __init__(self, entry: Entry, session: Session, wall: float, now: float) -> None:
        self.entry = entry
        self.session = session
        self.options = session.options
        self.wall = wall
        self.now = now
        self.torrent = entry.torrent
        self.metainfo: Metainfo | None = entry.metainfo

    @cached_property
    def statistics(self) -> TorrentStatistics | None:
        return self.torrent.statistics() if self.torrent is not None else None

    @cached_property
    def peers(self) -> tuple[PeerConnection, ...]:
        return tuple(self.torrent.connections) if self.torrent is not None else ()

    @property
    def total_size(self) -> int:
        return self.metainfo.total_size if self.metainfo is not None else 0

    # -- what is wanted, and what is there --------------------------------------------------------------------------

    @cached_property
    def unverified(self) -> int:
        """Bytes that have arrived of pieces that are not verified."""
        picker = self.torrent.picker if self.torrent is not None else None
        return picker.unverified_bytes if picker is not None else 0

    @cached_property
    def wanted(self) -> tuple[int, int]:
        """Bytes of the pieces that are wanted, and how many of these bytes are verified."""
        metainfo, have = self.metainfo, self.entry.have
        if metainfo is None:
            return 0, 0
        if not self.entry.wishes.unwanted:
            return metainfo.total_size, self.entry.bytes_had
        selection = Selection(metainfo, frozenset(range(len(metainfo.files))) - self.entry.wishes.unwanted)
        return selection.size, _bytes_of(metainfo, selection.pieces.as_int() & have.as_int()) if have else 0

    @property
    def left(self) -> int:
        wanted, had = self.wanted
        return max(wanted - had - self.unverified, 0)

    @property
    def size_when_done(self) -> int:
        """What is wanted, and what is there besides."""
        wanted, had = self.wanted
        return wanted + self.entry.bytes_had - had

    # -- rates ------------------------------------------------------------------------------------------------------

    @property
    def rate_down(self) -> int:
        return int(sum(peer.rate_down for peer in self.peers))

    @property
    def rate_up(self) -> int:
        return int(sum(peer.rate_up for peer in self.peers))

    @property
    def ratio_limit(self) -> float | None:
        """The ratio at which seeding stops; None: never."""
        match self.entry.wishes.ratio_mode:
            case "own":
                return self.entry.wishes.ratio
            case "session" if self.options.seed_ratio_limited:
                return self.options.seed_ratio
        return None

    @property
    def idle_limit(self) -> float | None:
        """Seconds without an upload after which seeding stops; None: never."""
        match self.entry.wishes.idle_mode:
            case "own":
                return self.entry.wishes.idle
            case "session" if self.options.seed_idle_limited:
                return self.options.seed_idle
        return None

    def eta(self) -> int:
        """Seconds until it is complete, or has given enough."""
        match self.entry.status:
            case "download" if self.metainfo is not None:
                return _eta(self.left, self.rate_down)
            case "download":
                return ETA_UNKNOWN
            case "seed" if self.ratio_limit is not None:
                got = self.entry.downloaded or self.entry.bytes_had
                return _eta(int(got * self.ratio_limit) - self.entry.uploaded, self.rate_up)
        return ETA_NONE

    def eta_idle(self) -> int:
        """Seconds until it stops for want of anybody who asks."""
        if self.entry.status != "seed" or self.idle_limit is None:
            return ETA_NONE
        return max(int(self.entry.stirred_at + self.idle_limit - self.now), 0)

    def is_stalled(self) -> bool:
        options, entry = self.options, self.entry
        if entry.torrent is None or not options.stalled_enabled or entry.status not in ("download", "seed"):
            return False
        return self.now - entry.stirred_at >= options.stalled_after

    def checked(self) -> float:
        """How much of what is to be verified is."""
        looked_at, to_look_at = self.entry.checking
        if not to_look_at and self.statistics is not None:
            looked_at, to_look_at = self.statistics.checked, self.statistics.to_check
        return looked_at / to_look_at if to_look_at and self.entry.status == "check" else 0.0

    # -- pieces and files -------------------------------------------------------------------------------------------

    def availability(self) -> list[int]:
        """How many connected peers have each piece; -1 for those that are here."""
        metainfo, have = self.metainfo, self.entry.have
        if metainfo is None:
            return []
        picker = self.torrent.picker if self.torrent is not None else None
        counts = picker.availability.counts() if picker is not None else [0] * metainfo.piece_count
        for index in have or ():
            counts[index] = -1
        return counts

    def desired_available(self) -> int:
        picker = self.torrent.picker if self.torrent is not None else None
        return picker.available_bytes if picker is not None else 0

    def pieces(self) -> str:
        if self.metainfo is None:
            return ""
        have = self.entry.have or Bitfield(self.metainfo.piece_count)
        return b64encode(bytes(have)).decode("ascii")

    @cached_property
    def completed(self) -> list[int]:
        """Verified bytes of each file."""
        metainfo, have = self.metainfo, self.entry.have
        if metainfo is None:
            return []
        if have is None or not have.count:
            return [0] * len(metainfo.files)
        if have.complete:
            return [file.size for file in metainfo.files]
        return list(_completed(metainfo, have))

    def files(self) -> list[dict[str, Any]]:
        if self.metainfo is None:
            return []
        return [
            {"bytesCompleted": completed, "length": file.size, "name": "/".join(file.path)}
            for file, completed in zip(self.metainfo.files, self.completed, strict=True)
        ]

    def file_stats(self) -> list[dict[str, Any]]:
        unwanted = self.entry.wishes.unwanted
        return [
            {"bytesCompleted": completed, "priority": priority, "wanted": index not in unwanted}
            for index, (completed, priority) in enumerate(zip(self.completed, self.priorities(), strict=True))
        ]

    def priorities(self) -> list[int]:
        wishes = self.entry.wishes
        return [(index in wishes.high) - (index in wishes.low) for index in range(self.file_count)]

    def wanted_files(self) -> list[int]:
        unwanted = self.entry.wishes.unwanted
        return [int(index not in unwanted) for index in range(self.file_count)]

    @property
    def file_count(self) -> int:
        return len(self.metainfo.files) if self.metainfo is not None else 0

    def mime_type(self) -> str:
        """Of the kind that most bytes are of, by the names."""
        if self.metainfo is None:
            return "application/octet-stream"
        suffixes: Counter[str] = Counter()
        for file in self.metainfo.files:
            suffixes[PurePath(file.path[-1]).suffix.lower()] += file.size
        guessed, _ = mimetypes.guess_type(f"x{suffixes.most_common(1)[0][0]}")
        return guessed or "application/octet-stream"

    # -- trouble ----------------------------------------------------------------------------------------------------

    @cached_property
    def trouble(self) -> tuple[int, str]:
        """Transmission's number for the kind of an error, and its text.

        A tracker that does not answer is no error of the torrent, as with Transmission; it stands in ``trackerStats``.
        Sonarr and Radarr import nothing of a torrent that has one, however complete it is.
        """
        if self.entry.error is not None:
            return LOCAL_ERROR, self.entry.error
        statuses = self.torrent.tracker_statuses() if self.torrent is not None else ()
        refused = [status for status in statuses if status.last_error.startswith(REFUSED)]
        if refused and len(refused) == len(statuses):
            # By its host alone: the path of many an announce URL is as good as a password, and clients log this.
            return TRACKER_ERROR, f"{tracker_host(refused[0].url)}: {refused[0].last_error}"
        return NO_ERROR, ""

    def metadata_done(self) -> float:
        if self.metainfo is not None:
            return 1.0
        return self.torrent.metadata.progress if self.torrent is not None else 0.0


def _eta(left: int, rate: int) -> int:
    if left <= 0:
        return 0
    return min(left // rate, LONGEST_ETA) if rate else ETA_UNKNOWN


def _bytes_of(metainfo: Metainfo, pieces: int) -> int:
    """Of a set of pieces in the form of `Bitfield.as_int`."""
    last = metainfo.piece_count - 1
    top = (metainfo.piece_count + 7) // 8 * 8 - 1
    short = metainfo.piece_length - metainfo.piece_size(last) if pieces >> top - last & 1 else 0
    return pieces.bit_count() * metainfo.piece_length - short


def _completed(metainfo: Metainfo, have: Bitfield) -> Iterator[int]:
    """By a running sum over the pieces: a file costs two look-ups, however long it is."""
    length = metainfo.piece_length
    bits = f"{have.as_int():0{len(have.data) * 8}b}"
    before = [0, *accumulate(map(int, bits))]

    def had(position: int) -> int:
        """Verified bytes before this one."""
        index, within = divmod(position, length)
        return before[index] * length + (within if within and bits[index] == "1" else 0)

    for file in metainfo.files:
        yield had(file.offset + file.size) - had(file.offset)


def _seconds(time: float | None) -> int:
    return 0 if time is None else int(time)


Field = Callable[[TorrentView], Any]

FIELDS: Mapping[str, Field] = {
    "activityDate": lambda view: _seconds(view.entry.activity_at),
    "addedDate": lambda view: _seconds(view.entry.added_at),
    "availability": TorrentView.availability,
    "bandwidthPriority": lambda view: view.entry.wishes.bandwidth_priority,
    "comment": lambda view: (view.metainfo.comment or "") if view.metainfo is not None else "",
    "corruptEver": lambda view: view.entry.corrupt,
    "creator": lambda view: (view.metainfo.created_by or "") if view.metainfo is not None else "",
    "dateCreated": lambda view: (view.metainfo.creation_date or 0) if view.metainfo is not None else 0,
    "desiredAvailable": TorrentView.desired_available,
    "doneDate": lambda view: _seconds(view.entry.done_at),
    "downloadDir": lambda view: str(view.entry.directory),
    "downloadedEver": lambda view: view.entry.downloaded,
    "downloadLimit": lambda view: view.entry.wishes.download_rate // KILO,
    "downloadLimited": lambda view: view.entry.wishes.download_limited,
    "editDate": lambda view: _seconds(view.entry.edited_at),
    "error": lambda view: view.trouble[0],
    "errorString": lambda view: view.trouble[1],
    "eta": TorrentView.eta,
    "etaIdle": TorrentView.eta_idle,
    "file-count": lambda view: view.file_count,
    "files": TorrentView.files,
    "fileStats": TorrentView.file_stats,
    "group": lambda view: "",
    "hashString": lambda view: view.entry.info_hash.hex(),
    "haveUnchecked": lambda view: view.unverified,
    "haveValid": lambda view: view.entry.bytes_had,
    "honorsSessionLimits": lambda view: view.entry.wishes.honours_session_limits,
    "id": lambda view: view.entry.id,
    "isFinished": lambda view: view.entry.finished,
    "isPrivate": lambda view: view.metainfo is not None and view.metainfo.private,
    "isStalled": TorrentView.is_stalled,
    "labels": lambda view: list(view.entry.wishes.labels),
    "leftUntilDone": lambda view: view.left,
    "magnetLink": lambda view: format_magnet(view.entry.source),
    "manualAnnounceTime": lambda view: int(view.wall) if view.torrent is not None else -1,
    "maxConnectedPeers": lambda view: view.entry.wishes.peer_limit or view.options.peer_limit_per_torrent,
    "metadataPercentComplete": TorrentView.metadata_done,
    "name": lambda view: view.entry.name,
    "peer-limit": lambda view: view.entry.wishes.peer_limit or view.options.peer_limit_per_torrent,
    "peers": lambda view: [peer_row(peer) for peer in view.peers],
    "peersConnected": lambda view: len(view.peers),
    "peersFrom": lambda view: peers_from(view.torrent),
    "peersGettingFromUs": lambda view: sum(map(receives, view.peers)),
    "peersSendingToUs": lambda view: sum(map(sends, view.peers)),
    "percentComplete": lambda view: view.entry.bytes_had / view.total_size if view.total_size else 0.0,
    "percentDone": lambda view: 1 - view.left / view.size_when_done if view.size_when_done else 0.0,
    "pieces": TorrentView.pieces,
    "pieceCount": lambda view: view.metainfo.piece_count if view.metainfo is not None else 0,
    "pieceSize": lambda view: view.metainfo.piece_length if view.metainfo is not None else 0,
    "primary-mime-type": TorrentView.mime_type,
    "priorities": TorrentView.priorities,
    "queuePosition": lambda view: view.entry.queue_position,
    "rateDownload": lambda view: view.rate_down,
    "rateUpload": lambda view: view.rate_up,
    "recheckProgress": TorrentView.checked,
    "secondsDownloading": lambda view: int(view.entry.seconds_downloading),
    "secondsSeeding": lambda view: int(view.entry.seconds_seeding),
    "seedIdleLimit": lambda view: int(view.entry.wishes.idle // 60),
    "seedIdleMode": lambda view: MODE_NUMBERS[view.entry.wishes.idle_mode],
    "seedRatioLimit": lambda view: finite(view.entry.wishes.ratio, 0.0),
    "seedRatioMode": lambda view: MODE_NUMBERS[view.entry.wishes.ratio_mode],
    "sizeWhenDone": lambda view: view.size_when_done,
    "source": lambda view: (view.metainfo.source or "") if view.metainfo is not None else "",
    "startDate": lambda view: _seconds(view.entry.started_at),
    "status": lambda view: STATUS_NUMBERS[view.entry.status],
    "torrentFile": lambda view: str(view.session.state.source_file(view.entry.original)),
    "totalSize": lambda view: view.total_size,
    "trackerList": lambda view: tracker_list(view.entry.trackers),
    "trackers": lambda view: tracker_rows(view.entry.trackers),
    "trackerStats": lambda view: tracker_stats(view.entry.trackers, view.torrent, view.wall),
    "uploadedEver": lambda view: view.entry.uploaded,
    "uploadLimit": lambda view: view.entry.wishes.upload_rate // KILO,
    "uploadLimited": lambda view: view.entry.wishes.upload_limited,
    "uploadRatio": lambda view: RATIO_NONE if view.entry.ratio is None else finite(view.entry.ratio, RATIO_NONE),
    "wanted": TorrentView.wanted_files,
    "webseeds": lambda view: list(view.metainfo.web_seeds) if view.metainfo is not None else [],
    "webseedsSendingToUs": lambda view: 0,
}
