"""The trackers of a torrent as Transmission's RPC tells of them and takes them.

There is no separate scrape here: seeds and leeches are what the last announce said, and ``lastScrape…`` speak of that.
Ids count from 0 over all tiers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from swarm.daemon.rpc_arguments import RpcError
from swarm.discover.tiers import MAX_TRACKERS, SCHEMES
from swarm.discover.trackers import TrackerStatus
from swarm.torrent.metainfo import MAX_URL, Tiers
from swarm.torrent.torrent import Torrent

INACTIVE, WAITING, ACTIVE = 0, 1, 3
"""Transmission's ``announceState``; 2, queued, is not told from 3 here."""

UNKNOWN = -1


def tracker_list(tiers: Tiers) -> str:
    """One URL a line, a blank line between tiers."""
    return "\n\n".join("\n".join(tier) for tier in tiers)


def parse_tracker_list(text: str) -> Tiers:
    """What `tracker_list` writes; RpcError for what cannot be announced to."""
    tiers: list[tuple[str, ...]] = []
    for block in "\n".join(line.strip() for line in text.splitlines()).split("\n\n"):
        if urls := tuple(url for url in block.split("\n") if url):
            tiers.append(urls)
    return checked(tiers)


def checked(tiers: Iterable[Sequence[str]]) -> Tiers:
    """The tiers without repetitions; RpcError for what cannot be announced to."""
    known: set[str] = set()
    result = []
    for tier in tiers:
        fresh = [url for url in dict.fromkeys(tier) if url not in known]
        for url in fresh:
            if not _is_announce_url(url):
                raise RpcError(f"{url[:100]!r} is no announce URL")
        known.update(fresh)
        if fresh:
            result.append(tuple(fresh))
    if len(known) > MAX_TRACKERS:
        raise RpcError(f"more than {MAX_TRACKERS} trackers are not used")
    return tuple(result)


def with_changes(tiers: Tiers, add: Sequence[str], remove: Sequence[int], replace: Sequence[object]) -> Tiers:
    """``trackerAdd``, ``trackerRemove`` (ids), ``trackerReplace`` (id, URL, id, URL, …); RpcError if idle."""
    urls: dict[int, str | None] = dict(enumerate(url for tier in tiers for url in tier))
    for number in remove:
        if urls.get(number) is None:
            raise RpcError("error setting announce list")
        urls[number] = None
    for key, url in zip(replace[::2], replace[1::2], strict=False):
        if not isinstance(key, int) or not isinstance(url, str) or urls.get(key) is None:
            raise RpcError("error setting announce list")
        urls[key] = url
    left = iter(urls.values())
    changed = [[url for _ in tier if (url := next(left)) is not None] for tier in tiers]
    result = checked([*changed, *([url] for url in add)])
    if result == tiers:
        raise RpcError("error setting announce list")
    return result


def _is_announce_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in SCHEMES and bool(parts.hostname) and len(url) <= MAX_URL and url.isprintable()
    except ValueError:
        return False


def tracker_rows(tiers: Tiers) -> list[dict[str, Any]]:
    return [_row(number, tier, url) for number, tier, url in _numbered(tiers)]


def _numbered(tiers: Tiers) -> Iterator[tuple[int, int, str]]:
    """Id, tier and URL."""
    flat = [(tier, url) for tier, urls in enumerate(tiers) for url in urls]
    return ((number, tier, url) for number, (tier, url) in enumerate(flat))


def _row(number: int, tier: int, url: str) -> dict[str, Any]:
    return {"announce": url, "id": number, "scrape": _scrape_url(url), "sitename": _site_name(url), "tier": tier}


def tracker_stats(tiers: Tiers, torrent: Torrent | None, wall: float) -> list[dict[str, Any]]:
    """``wall`` is the Unix time."""
    statuses = {status.url: status for status in torrent.tracker_statuses()} if torrent is not None else {}
    working = {tier for _, tier, url in _numbered(tiers) if (known := statuses.get(url)) and known.state == "working"}
    return [
        _row(number, tier, url)
        | {"host": tracker_host(url), "downloadCount": UNKNOWN}
        | _standing(statuses.get(url), wall, has_working=tier in working)
        for number, tier, url in _numbered(tiers)
    ]


def _standing(status: TrackerStatus | None, wall: float, *, has_working: bool) -> dict[str, Any]:
    answered = status is not None and status.last_peers is not None
    error = status.last_error if status is not None else ""
    succeeded = answered and not error
    next_at = 0 if status is None or status.next_announce is None else int(wall + status.next_announce)
    told = answered or bool(error)
    last_at = 0 if status is None or status.told_ago is None else int(wall - status.told_ago)
    return {
        "announceState": _state(status),
        "hasAnnounced": told,
        "hasScraped": answered,
        "isBackup": has_working and (status is None or status.state not in ("working", "announcing")),
        "lastAnnouncePeerCount": (status.last_peers or 0) if status is not None else 0,
        "lastAnnounceResult": error or ("Success" if answered else ""),
        "lastAnnounceStartTime": last_at,
        "lastAnnounceSucceeded": succeeded,
        "lastAnnounceTime": last_at,
        "lastAnnounceTimedOut": error.startswith("timed-out"),
        "lastScrapeResult": "",
        "lastScrapeStartTime": last_at if answered else 0,
        "lastScrapeSucceeded": answered,
        "lastScrapeTime": last_at if answered else 0,
        "lastScrapeTimedOut": False,
        "leecherCount": UNKNOWN if status is None or status.leechers is None else status.leechers,
        "nextAnnounceTime": next_at,
        "nextScrapeTime": next_at,
        "scrapeState": INACTIVE if status is None else WAITING,
        "seederCount": UNKNOWN if status is None or status.seeders is None else status.seeders,
    }


def _state(status: TrackerStatus | None) -> int:
    match status.state if status is not None else "disabled":
        case "announcing":
            return ACTIVE
        case "disabled":
            return INACTIVE
    return WAITING


def _scrape_url(url: str) -> str:
    """By convention the announce URL with "scrape" in its last part; UDP has one address for both."""
    if url.startswith("udp:"):
        return url
    front, slash, last = url.rpartition("/")
    return f"{front}{slash}scrape{last.removeprefix('announce')}" if last.startswith("announce") else ""


def tracker_host(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        return ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _site_name(url: str) -> str:
    """``example`` of ``tracker.example.org``; an address whole."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return ""
    try:
        return str(ip_address(host))
    except ValueError:
        return (host.split(".") if host.count(".") else ["", host, ""])[-2]
