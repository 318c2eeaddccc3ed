"""Transmission's methods on the daemon as a whole: session-get, -set, -stats, -close, port-test, free-space and others.

What a daemon of ours is told at its start (ports, DHT, encryption and the like) cannot be changed by ``session-set``,
and what it does not have (blocklists, scripts, a directory for incomplete files) cannot be switched on: asking for that
is an error that says so, asking for what is the case is not.  ``swarm-connectivity`` is ours: the statistics document.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from swarm import __version__
from swarm.daemon.access import FREE_TRIES, SessionId
from swarm.daemon.rpc_arguments import Arguments, RpcError, finite
from swarm.daemon.rpc_fields import KILO
from swarm.daemon.rpc_torrents import MAX_KILOBYTES, MAX_MINUTES, MAX_PEERS
from swarm.daemon.rpc_trackers import parse_tracker_list, tracker_list
from swarm.daemon.session import Session, Sums
from swarm.torrent.disk import Runner

RPC_VERSION, RPC_VERSION_MINIMUM, RPC_VERSION_SEMVER = 17, 14, "5.3.0"

VERSION = f"4.0.6 (swarm {__version__})"
"""Clients compare the number before the bracket: Sonarr wants 2.40 at least, and 4.0 for labels."""

UNITS = {
    "memory-bytes": 1024,
    "memory-units": ["KiB", "MiB", "GiB", "TiB"],
    "size-bytes": 1000,
    "size-units": ["kB", "MB", "GB", "TB"],
    "speed-bytes": 1000,
    "speed-units": ["kB/s", "MB/s", "GB/s", "TB/s"],
}

ENCRYPTION = {"prefer": "preferred", "require": "required", "off": "tolerated"}

MINUTES_A_DAY = 24 * 60

Reader = Callable[[Arguments, str], Any]
"""The value of an argument by its name, as `Options` has it; None if it is absent."""


class SessionMethods:
    """Tells of ``session``, and changes it."""

    def __init__(self, session: Session, session_id: SessionId, runner: Runner) -> None:
        self._session = session
        self._session_id = session_id
        self._runner = runner
        self.methods: dict[str, Callable[[Arguments], Awaitable[Mapping[str, Any]]]] = {
            "session-get": self.get,
            "session-set": self.set,
            "session-stats": self.statistics,
            "session-close": self.close,
            "port-test": self.port_test,
            "free-space": self.free_space,
            "blocklist-update": self.blocklist_update,
            "group-get": self.group_get,
            "group-set": self.group_set,
            "swarm-connectivity": self.connectivity,
        }

    async def get(self, arguments: Arguments) -> Mapping[str, Any]:
        free, _ = await self._runner(_space, self._session.options.download_dir)
        fields = {**self._settings(), "download-dir-free-space": free}
        wanted = arguments.array("fields")
        if wanted is None:
            return fields
        return {name: fields[name] for name in wanted if isinstance(name, str) and name in fields}

    async def set(self, arguments: Arguments) -> Mapping[str, Any]:
        """Nothing is changed if anything cannot be."""
        changes: dict[str, Any] = {}
        for name, (option, read, _) in SETTINGS.items():
            if (value := read(arguments, name)) is not None:
                changes[option] = value
        for name, value in self._fixed().items():
            if name in arguments and _as(value, arguments, name) != value:
                raise RpcError(f"{name} cannot be changed while the daemon runs")
        if changes:
            await self._session.set_options(**changes)
        return {}

    def _settings(self) -> dict[str, Any]:
        options = self._session.options
        changeable = {name: show(getattr(options, option)) for name, (option, _, show) in SETTINGS.items()}
        return changeable | self._fixed() | self._facts()

    def _fixed(self) -> dict[str, Any]:
        """What is settled at the start, or never."""
        config, port = self._session.node.config, self._session.node.port
        return {
            "blocklist-enabled": False,
            "blocklist-url": "",
            "cache-size-mb": config.piece_memory >> 20,
            "dht-enabled": config.dht,
            "encryption": ENCRYPTION[config.encryption],
            "incomplete-dir": "",
            "incomplete-dir-enabled": False,
            "lpd-enabled": config.lsd,
            "peer-port": port or config.port or 0,
            "peer-port-random-on-start": config.port == 0,
            "pex-enabled": config.pex,
            "port-forwarding-enabled": config.mapping,
            "rename-partial-files": False,
            "script-torrent-added-enabled": False,
            "script-torrent-added-filename": "",
            "script-torrent-done-enabled": False,
            "script-torrent-done-filename": "",
            "script-torrent-done-seeding-enabled": False,
            "script-torrent-done-seeding-filename": "",
            "tcp-enabled": config.tcp,
            "trash-original-torrent-files": False,
            "utp-enabled": config.utp,
        }

    def _facts(self) -> dict[str, Any]:
        return {
            "anti-brute-force-enabled": True,
            "anti-brute-force-threshold": FREE_TRIES,
            "blocklist-size": 0,
            "config-dir": str(self._session.state.directory),  # torrents/HASH.torrent is in it, as Flood expects
            "rpc-version": RPC_VERSION,
            "rpc-version-minimum": RPC_VERSION_MINIMUM,
            "rpc-version-semver": RPC_VERSION_SEMVER,
            "session-id": self._session_id.value,
            "units": UNITS,
            "version": VERSION,
        }

    async def statistics(self, arguments: Arguments) -> Mapping[str, Any]:
        session = self._session
        running = [entry.torrent for entry in session.entries.values() if entry.torrent is not None]
        peers = [peer for torrent in running for peer in torrent.connections]
        totals = session.totals()
        return {
            "activeTorrentCount": len(running),
            "downloadSpeed": int(sum(peer.rate_down for peer in peers)),
            "pausedTorrentCount": len(session.entries) - len(running),
            "torrentCount": len(session.entries),
            "uploadSpeed": int(sum(peer.rate_up for peer in peers)),
            "cumulative-stats": _sums(totals.cumulative),
            "current-stats": _sums(totals.current),
        }

    async def close(self, arguments: Arguments) -> Mapping[str, Any]:
        self._session.request_close()
        return {}

    async def port_test(self, arguments: Arguments) -> Mapping[str, Any]:
        """What peers of ours have found out about our port; nobody is asked on the spot.

        Open as soon as strangers reach us by any way; an error while nobody has found out.
        """
        verdicts = self._session.node.standing.strangers.probe.report(trio.current_time())
        ways = (verdicts.tcp4, verdicts.utp4, verdicts.tcp6, verdicts.utp6)
        if any(ways):
            return {"port-is-open": True}
        if False in ways:
            return {"port-is-open": False}
        raise RpcError("not known yet: no peer has tested the port; this takes some connections to clients that can")

    async def free_space(self, arguments: Arguments) -> Mapping[str, Any]:
        path = arguments.path("path")
        if path is None:
            raise RpcError("directory path argument is missing")
        if not path.is_absolute():
            raise RpcError("directory path is not absolute")
        told = {"path": arguments.text("path"), "size-bytes": -1, "total_size": -1}
        free, total = await self._runner(_space, path)
        if free < 0:
            raise RpcError("the directory is not there, or may not be looked at", told)
        return told | {"size-bytes": free, "total_size": total}

    async def blocklist_update(self, arguments: Arguments) -> Mapping[str, Any]:
        raise RpcError("there is no blocklist here")

    async def group_get(self, arguments: Arguments) -> Mapping[str, Any]:
        return {"group": []}

    async def group_set(self, arguments: Arguments) -> Mapping[str, Any]:
        raise RpcError("there are no bandwidth groups here")

    async def connectivity(self, arguments: Arguments) -> Mapping[str, Any]:
        return self._session.node.document()


def _sums(sums: Sums) -> dict[str, int]:
    return {
        "downloadedBytes": sums.downloaded,
        "filesAdded": sums.files_added,
        "secondsActive": int(sums.seconds_active),
        "sessionCount": sums.sessions,
        "uploadedBytes": sums.uploaded,
    }


def _space(path: Path) -> tuple[int, int]:
    """Bytes that are free for us, and all there are, where ``path`` is; -1 twice if it is not there."""
    try:
        found = os.statvfs(path)
    except OSError:
        return -1, -1
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def _as(value: object, arguments: Arguments, name: str) -> object:
    """The argument, read as what ``value`` is."""
    match value:
        case bool():
            return arguments.flag(name)
        case int():
            return arguments.integer(name)
    return arguments.text(name)


# -- readers and what they are shown as -----------------------------------------------------------------------------


def _flag(arguments: Arguments, name: str) -> bool | None:
    return arguments.flag(name)


def _kilobytes(arguments: Arguments, name: str) -> int | None:
    value = arguments.integer(name, 0, MAX_KILOBYTES)
    return None if value is None else value * KILO


def _minutes(arguments: Arguments, name: str) -> float | None:
    value = arguments.integer(name, 0, MAX_MINUTES)
    return None if value is None else value * 60.0


def _up_to(high: int) -> Reader:
    return lambda arguments, name: arguments.integer(name, 0, high)


def _ratio(arguments: Arguments, name: str) -> float | None:
    return arguments.number(name)


def _directory(arguments: Arguments, name: str) -> Path | None:
    path = arguments.path(name) if arguments.text(name) else None
    if path is not None and not path.is_absolute():
        raise RpcError("download directory path is not absolute")
    return path


def _trackers(arguments: Arguments, name: str) -> Any:
    text = arguments.text(name)
    return None if text is None else parse_tracker_list(text)


def _same(value: Any) -> Any:
    return value


def _in_kilobytes(rate: int) -> int:
    return rate // KILO


def _in_minutes(seconds: float) -> int:
    return int(seconds // 60)


SETTINGS: Mapping[str, tuple[str, Reader, Callable[[Any], Any]]] = {
    "alt-speed-down": ("alternative_download_rate", _kilobytes, _in_kilobytes),
    "alt-speed-enabled": ("alternative_rates", _flag, _same),
    "alt-speed-time-begin": ("alternative_begin", _up_to(MINUTES_A_DAY - 1), _same),
    "alt-speed-time-day": ("alternative_days", _up_to(127), _same),
    "alt-speed-time-enabled": ("alternative_scheduled", _flag, _same),
    "alt-speed-time-end": ("alternative_end", _up_to(MINUTES_A_DAY - 1), _same),
    "alt-speed-up": ("alternative_upload_rate", _kilobytes, _in_kilobytes),
    "default-trackers": ("default_trackers", _trackers, tracker_list),
    "download-dir": ("download_dir", _directory, str),
    "download-queue-enabled": ("download_queue_enabled", _flag, _same),
    "download-queue-size": ("download_queue", _up_to(MAX_PEERS), _same),
    "idle-seeding-limit": ("seed_idle", _minutes, _in_minutes),
    "idle-seeding-limit-enabled": ("seed_idle_limited", _flag, _same),
    "peer-limit-global": ("peer_limit", _up_to(MAX_PEERS), _same),
    "peer-limit-per-torrent": ("peer_limit_per_torrent", _up_to(MAX_PEERS), _same),
    "queue-stalled-enabled": ("stalled_enabled", _flag, _same),
    "queue-stalled-minutes": ("stalled_after", _minutes, _in_minutes),
    "seed-queue-enabled": ("seed_queue_enabled", _flag, _same),
    "seed-queue-size": ("seed_queue", _up_to(MAX_PEERS), _same),
    "seedRatioLimit": ("seed_ratio", _ratio, lambda ratio: finite(ratio, 0.0)),
    "seedRatioLimited": ("seed_ratio_limited", _flag, _same),
    "speed-limit-down": ("download_rate", _kilobytes, _in_kilobytes),
    "speed-limit-down-enabled": ("download_limited", _flag, _same),
    "speed-limit-up": ("upload_rate", _kilobytes, _in_kilobytes),
    "speed-limit-up-enabled": ("upload_limited", _flag, _same),
    "start-added-torrents": ("start_added", _flag, _same),
}
"""What ``session-set`` can change: the option of ours, how it is read, how it is shown."""
