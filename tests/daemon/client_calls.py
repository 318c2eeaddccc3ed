"""What programs made for Transmission ask of it, and as what they read the answers.

From their sources: Sonarr at 49df353f and Radarr at 051b0989 (Download/Clients/Transmission), Flood at 0fec80c5
(server/services/Transmission), tremc at 4c09c26d.  A shape is a type, a list with the shape of its elements, or the
members of an object; `float` stands for any number, as JavaScript and C#'s ``double`` have it.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

Shape = Any
"""``int``, ``float``, ``bool``, ``str``, ``[Shape]`` or ``{name: Shape}``."""

EXACT = 1 << 53
"""What JavaScript has exact integers up to; C#'s ``int`` ends earlier, at 2³¹, which ids and modes keep to anyway."""

SONARR_TORRENT: Shape = {
    "id": int,
    "hashString": str,
    "name": str,
    "downloadDir": str,
    "totalSize": int,
    "leftUntilDone": int,
    "isFinished": bool,
    "eta": int,
    "status": int,
    "secondsDownloading": int,
    "secondsSeeding": int,
    "errorString": str,
    "uploadedEver": int,
    "downloadedEver": int,
    "seedRatioLimit": float,
    "seedRatioMode": int,
    "seedIdleLimit": int,
    "seedIdleMode": int,
    "file-count": int,
    "labels": [str],
}
SONARR_SESSION: Shape = {
    "rpc-version": int,
    "version": str,
    "download-dir": str,
    "seedRatioLimit": float,
    "seedRatioLimited": bool,
    "idle-seeding-limit": int,
    "idle-seeding-limit-enabled": bool,
}

TRACKER: Shape = {"announce": str, "id": int, "scrape": str, "tier": int}
PEER: Shape = {
    "address": str,
    "clientName": str,
    "clientIsChoked": bool,
    "clientIsInterested": bool,
    "flagStr": str,
    "isDownloadingFrom": bool,
    "isEncrypted": bool,
    "isIncoming": bool,
    "isUploadingTo": bool,
    "isUTP": bool,
    "peerIsChoked": bool,
    "peerIsInterested": bool,
    "port": int,
    "progress": float,
    "rateToClient": int,
    "rateToPeer": int,
}
TRACKER_STATS: Shape = TRACKER | {
    "announceState": int,
    "downloadCount": int,
    "hasAnnounced": bool,
    "hasScraped": bool,
    "host": str,
    "isBackup": bool,
    "lastAnnouncePeerCount": int,
    "lastAnnounceResult": str,
    "lastAnnounceStartTime": int,
    "lastAnnounceSucceeded": bool,
    "lastAnnounceTime": int,
    "lastAnnounceTimedOut": bool,
    "lastScrapeResult": str,
    "lastScrapeStartTime": int,
    "lastScrapeSucceeded": bool,
    "lastScrapeTime": int,
    "lastScrapeTimedOut": bool,
    "leecherCount": int,
    "nextAnnounceTime": int,
    "nextScrapeTime": int,
    "scrapeState": int,
    "seederCount": int,
}
FLOOD_TORRENT: Shape = {
    "hashString": str,
    "downloadDir": str,
    "name": str,
    "comment": str,
    "haveValid": int,
    "addedDate": int,
    "dateCreated": int,
    "doneDate": int,
    "rateDownload": int,
    "rateUpload": int,
    "downloadedEver": int,
    "uploadedEver": int,
    "eta": int,
    "isPrivate": bool,
    "error": int,
    "errorString": str,
    "peersGettingFromUs": int,
    "peersSendingToUs": int,
    "status": int,
    "totalSize": int,
    "sizeWhenDone": int,
    "trackers": [TRACKER],
    "labels": [str],
    "activityDate": int,
}
FLOOD_DETAILS: Shape = {
    "files": [{"bytesCompleted": int, "length": int, "name": str}],
    "fileStats": [{"bytesCompleted": int, "wanted": bool, "priority": int}],
    "peers": [PEER],
    "trackerStats": [TRACKER_STATS],
}
FLOOD_SESSION: Shape = {
    "config-dir": str,
    "dht-enabled": bool,
    "peer-port": int,
    "download-dir": str,
    "peer-port-random-on-start": bool,
    "pex-enabled": bool,
    "speed-limit-down": int,
    "speed-limit-down-enabled": bool,
    "speed-limit-up": int,
    "speed-limit-up-enabled": bool,
    "peer-limit-global": int,
    "peer-limit-per-torrent": int,
    "seed-queue-enabled": bool,
    "seed-queue-size": int,
}
SUMS: Shape = {
    "uploadedBytes": int,
    "downloadedBytes": int,
    "filesAdded": int,
    "sessionCount": int,
    "secondsActive": int,
}
STATISTICS: Shape = {
    "torrentCount": int,
    "activeTorrentCount": int,
    "pausedTorrentCount": int,
    "downloadSpeed": int,
    "uploadSpeed": int,
    "cumulative-stats": SUMS,
    "current-stats": SUMS,
}

TREMC_TORRENT: Shape = {
    "id": int,
    "name": str,
    "downloadDir": str,
    "status": int,
    "trackerStats": [TRACKER_STATS],
    "desiredAvailable": int,
    "rateDownload": int,
    "rateUpload": int,
    "eta": int,
    "uploadRatio": float,
    "sizeWhenDone": int,
    "haveValid": int,
    "haveUnchecked": int,
    "addedDate": int,
    "uploadedEver": int,
    "error": int,
    "errorString": str,
    "recheckProgress": float,
    "peersConnected": int,
    "uploadLimit": int,
    "downloadLimit": int,
    "uploadLimited": bool,
    "downloadLimited": bool,
    "bandwidthPriority": int,
    "peersSendingToUs": int,
    "peersGettingFromUs": int,
    "totalSize": int,
    "seedRatioLimit": float,
    "seedRatioMode": int,
    "isPrivate": bool,
    "magnetLink": str,
    "honorsSessionLimits": bool,
    "metadataPercentComplete": float,
    "activityDate": int,
    "doneDate": int,
    "queuePosition": int,
    "labels": [str],
    "group": str,
}
TREMC_DETAILS: Shape = TREMC_TORRENT | {
    "files": [{"bytesCompleted": int, "length": int, "name": str}],
    "priorities": [int],
    "wanted": [int],
    "peers": [PEER],
    "trackers": [TRACKER],
    "dateCreated": int,
    "startDate": int,
    "leftUntilDone": int,
    "comment": str,
    "creator": str,
    "hashString": str,
    "pieceCount": int,
    "pieceSize": int,
    "pieces": str,
    "downloadedEver": int,
    "corruptEver": int,
    "peersFrom": {
        "fromCache": int,
        "fromDht": int,
        "fromIncoming": int,
        "fromLpd": int,
        "fromPex": int,
        "fromTracker": int,
    },
}
TREMC_SESSION: Shape = {
    "alt-speed-down": int,
    "alt-speed-enabled": bool,
    "alt-speed-up": int,
    "dht-enabled": bool,
    "download-dir": str,
    "download-queue-enabled": bool,
    "download-queue-size": int,
    "encryption": str,
    "incomplete-dir": str,
    "lpd-enabled": bool,
    "peer-limit-global": int,
    "peer-limit-per-torrent": int,
    "peer-port": int,
    "pex-enabled": bool,
    "port-forwarding-enabled": bool,
    "rpc-version": int,
    "seed-queue-enabled": bool,
    "seed-queue-size": int,
    "seedRatioLimit": float,
    "seedRatioLimited": bool,
    "speed-limit-down": int,
    "speed-limit-down-enabled": bool,
    "speed-limit-up": int,
    "speed-limit-up-enabled": bool,
    "utp-enabled": bool,
    "version": str,
}

TORRENTS: dict[str, Shape] = {
    "sonarr and radarr": SONARR_TORRENT,
    "flood's list": FLOOD_TORRENT,
    "flood's details": FLOOD_DETAILS,
    "tremc's list": TREMC_TORRENT,
    "tremc's details": TREMC_DETAILS,
}
SESSIONS: dict[str, Shape] = {"sonarr and radarr": SONARR_SESSION, "flood": FLOOD_SESSION, "tremc": TREMC_SESSION}

HASH = "{hash}"
"""In the calls below: the info-hash of a torrent that is there."""

CALLS: tuple[tuple[str, str], ...] = (
    # Requests as they are sent, all of which succeed.
    ("sonarr", '{"method": "session-get"}'),
    (
        "sonarr",
        '{"method": "torrent-set", "arguments": {"ids": ["{hash}"], "seedRatioLimit": 2, "seedRatioMode": 1}}',
    ),
    ("sonarr", '{"method": "torrent-set", "arguments": {"ids": ["{hash}"], "seedIdleLimit": 1440, "seedIdleMode": 1}}'),
    ("sonarr", '{"method": "torrent-set", "arguments": {"ids": ["{hash}"], "labels": ["tv-sonarr", "tv-imported"]}}'),
    ("sonarr", '{"method": "queue-move-top", "arguments": {"ids": ["{hash}"]}}'),
    ("radarr", '{"method": "torrent-set", "arguments": {"ids": ["{hash}"]}}'),
    ("flood", '{"method": "session-stats"}'),
    ("flood", '{"method": "session-get", "arguments": {"fields": ["config-dir"]}}'),
    # Flood divides its bytes by 1024, whatever comes out; undefined members are not sent.
    ("flood", '{"method": "session-set", "arguments": {"speed-limit-up-enabled": true, "speed-limit-up": 488.28125}}'),
    ("flood", '{"method": "session-set", "arguments": {"speed-limit-down-enabled": false, "speed-limit-down": 0}}'),
    ("flood", '{"method": "session-set", "arguments": {"peer-port": null, "seed-queue-enabled": true}}'),
    ("flood", '{"method": "torrent-set", "arguments": {"ids": "{hash}", "files-wanted": [0], "priority-high": [0]}}'),
    (
        "flood",
        '{"method": "torrent-set", "arguments": {"ids": "{hash}", "files-unwanted": [0], "priority-normal": [0]}}',
    ),
    ("flood", '{"method": "torrent-set", "arguments": {"ids": ["{hash}"], "bandwidthPriority": -1}}'),
    ("flood", '{"method": "torrent-set", "arguments": {"ids": ["{hash}"], "labels": []}}'),
    ("flood", '{"method": "torrent-set", "arguments": {"ids": "{hash}", "trackerRemove": [0]}}'),
    ("flood", '{"method": "torrent-set", "arguments": {"ids": "{hash}", "trackerRemove": []}}'),
    (
        "flood",
        '{"method": "torrent-set", "arguments": {"ids": ["{hash}"], "trackerAdd": ["http://a.example/announce"]}}',
    ),
    ("flood", '{"method": "torrent-start-now", "arguments": {"ids": ["{hash}"]}}'),
    ("tremc", '{"method": "session-get", "tag": 22}'),
    ("tremc", '{"method": "session-stats", "tag": 21, "arguments": 21}'),
    ("tremc", '{"method": "session-set", "tag": 1, "arguments": {"alt-speed-enabled": true}}'),
    (
        "tremc",
        '{"method": "session-set", "tag": 1, "arguments": {"speed-limit-up": null, "speed-limit-up-enabled": false}}',
    ),
    (
        "tremc",
        '{"method": "torrent-set", "tag": 1, "arguments": {"ids": [1], "seedRatioLimit": null, "seedRatioMode": 2}}',
    ),
    ("tremc", '{"method": "torrent-set", "tag": 1, "arguments": {"ids": -1, "seedRatioLimit": 2, "seedRatioMode": 1}}'),
    ("tremc", '{"method": "torrent-set", "tag": 1, "arguments": {"ids": [1], "queuePosition": 0}}'),
    (
        "tremc",
        '{"method": "torrent-set", "tag": 1, "arguments": {"ids": 1, "uploadLimit": 7, "uploadLimited": true}}',
    ),
    ("tremc", '{"method": "group-get", "tag": 80}'),
)


def fits(value: object, shape: Shape) -> bool:
    """Whether a client that expects ``shape`` can read ``value``; further members are none of its business."""
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(each, shape[0]) for each in value)
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(name in value and fits(value[name], shape[name]) for name in shape)
    if shape is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if shape is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < EXACT
    return isinstance(value, shape)


def call(text: str, info_hash: str) -> bytes:
    """The body of one of `CALLS`."""
    body = text.replace(HASH, info_hash)
    json.loads(body)
    return body.encode()


def version_in(text: str) -> tuple[int, ...]:
    """As Sonarr finds it: the first number that neither begins behind a bracket nor ends before one."""
    found = re.search(r"(?<![(\d.])[\d.]+(?![)\d.])", text)
    assert found is not None
    return tuple(map(int, found[0].split(".")))
