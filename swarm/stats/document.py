"""The statistics document: one dictionary for ``--stats FILE``, ``swarm stats --json`` and the daemon.

Its keys are those of the shared interface ("Statistics"), which other programs rely on: add keys, rename or drop none.
Ours beyond it: ``sockets``, ``for_others``, ``relay``, ``relay_client``, ``turn``, ``sources.resume``,
``gateway[].gateway``, ``gateway[].client`` ("swarm" or "miniupnpc"), ``connect_seconds.sum`` and ``.octaves``
(`swarm.stats.durations.Durations.octaves`), ``peers[].info_hash`` and ``peers[].since`` (seconds since its last fact),
and what `dht.results.NodeStatistics` has more.
Holds nothing but dictionaries, lists, strings, numbers, booleans and None, so that `json` takes it as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from errno import errorcode
from typing import Any, TypeVar, get_args

from swarm.connect.report import NatReport
from swarm.connect.turn_report import TurnReport
from swarm.endpoint import Endpoint
from swarm.events import SourceName
from swarm.stats.fold import (
    DIRECTIONS,
    PATHS,
    ROLES,
    PathCounts,
    PeerKey,
    PeerRecord,
    PunchCounts,
    Stats,
)
from swarm.stats.snapshot import CoreCounts, Family, ForOthers, LivePeer, Snapshot, UdpSocket

SCHEMA = 1
SOURCES: tuple[SourceName, ...] = ("tracker", "dht", "pex", "lsd", "incoming", "manual", "resume")
FAMILIES: tuple[Family, ...] = get_args(Family)

_Of = TypeVar("_Of")


def build_document(stats: Stats, snapshot: Snapshot) -> dict[str, Any]:
    """What the events added up to and what the node looks like now."""
    return {
        "schema": SCHEMA,
        "node": {
            "version": snapshot.version,
            "peer_id": snapshot.peer_id.hex(),
            "listen": [{"transport": each.transport, "endpoint": str(each.endpoint)} for each in snapshot.listen],
            "uptime": _seconds(snapshot.uptime),
        },
        "nat": {f"v{family}": _nat(report) for family, report in _by_family(snapshot.nat)},
        "gateway": _gateway(stats, snapshot),
        "reachability": asdict(snapshot.reachability),
        "paths": _paths(stats, snapshot.peers),
        "punch": {role: _punch(stats.punches[role]) for role in ROLES},
        "for_others": _for_others(snapshot.for_others),
        "relay": None if snapshot.relay is None else asdict(snapshot.relay),
        "relay_client": asdict(snapshot.relay_client),
        "turn": [_turn(each) for each in snapshot.turn],
        "dht": {f"v{family}": None if each is None else asdict(each) for family, each in _by_family(snapshot.dht)},
        "sources": {source: stats.sources[source] for source in SOURCES},
        "sockets": {f"v{family}": _socket(each) for family, each in _by_family(snapshot.sockets)},
        "peers": _peers(stats, snapshot),
        "torrents": [
            {
                "info_hash": each.info_hash.hex(),
                "name": each.name,
                "done": each.done,
                "total": each.total,
                "peers": each.peers,
            }
            for each in snapshot.torrents
        ],
    }


def _turn(report: TurnReport) -> dict[str, Any]:
    allocations = [{**asdict(each), "relayed": str(each.relayed)} for each in report.allocations]
    retry_in = None if report.retry_in is None else _seconds(report.retry_in)
    return {**asdict(report), "allocations": allocations, "retry_in": retry_in}


def _by_family(values: Mapping[Family, _Of]) -> Iterator[tuple[Family, _Of | None]]:
    return ((family, values.get(family)) for family in FAMILIES)


def _seconds(value: float | None) -> float | None:
    """To the tenth of a millisecond: more is noise, and long to read."""
    return None if value is None else round(value, 4)


def _nat(report: NatReport | None) -> dict[str, Any] | None:
    if report is None:
        return None
    return {
        "external": [str(endpoint) for endpoint in report.external],
        "mapping": report.mapping,
        "filtering": report.filtering,
        "port_preserving": report.port_preserving,
        "port_step": report.port_step,
        "double_nat": report.double_nat,
        "hairpin": report.hairpin,
        "lifetime": _seconds(report.lifetime),
        "evidence": list(report.evidence),
    }


def _gateway(stats: Stats, snapshot: Snapshot) -> list[dict[str, Any]]:
    """What the mapper says, or where there is none to ask what it has said."""
    if snapshot.leases is None:
        return [
            _lease(key.method, key.transport, key.gateway, key.internal, lease.external, None, lease.error, None)
            for key, lease in stats.leases.items()
        ]
    return [
        _lease(
            each.method,
            each.transport,
            each.gateway,
            each.internal,
            each.external,
            each.expires_in,
            each.error,
            each.client,
        )
        for each in snapshot.leases
    ]


def _lease(
    method: str,
    transport: str,
    gateway: str,
    internal: Endpoint,
    external: Endpoint | None,
    expires_in: float | None,
    error: str | None,
    client: str | None,
) -> dict[str, Any]:
    return {
        "method": method,
        "transport": transport,
        "gateway": gateway,
        "internal": str(internal),
        "external": None if external is None else str(external),
        "expires_in": _seconds(expires_in),
        "error": error,
        "client": client,
    }


def _paths(stats: Stats, live: tuple[LivePeer, ...]) -> dict[str, Any]:
    document: dict[str, Any] = {
        path: {direction: _path(stats.paths[path][direction]) for direction in DIRECTIONS} for path in PATHS
    }
    for peer in live:
        counts = document[peer.path][peer.direction]
        counts["bytes_down"] += peer.bytes_down
        counts["bytes_up"] += peer.bytes_up
    return document


def _path(counts: PathCounts) -> dict[str, Any]:
    return {
        "attempted": counts.attempted,
        "succeeded": counts.succeeded,
        "failed": _ranked(counts.failed),
        "connect_seconds": {
            "p50": _seconds(counts.connect.quantile(0.5)),
            "p90": _seconds(counts.connect.quantile(0.9)),
            "sum": _seconds(counts.connect.total),
            "octaves": counts.connect.octaves(),
        },
        "bytes_down": counts.bytes_down,
        "bytes_up": counts.bytes_up,
    }


def _punch(counts: PunchCounts) -> dict[str, Any]:
    return {
        "asked": counts.asked,
        "connected": counts.connected,
        "errors": _ranked(counts.errors),
        "by_nat": {
            f"{ours}|{theirs}": {"tried": pair.tried, "connected": pair.connected}
            for (ours, theirs), pair in sorted(counts.by_nat.items())
        },
    }


def _for_others(done: ForOthers) -> dict[str, Any]:
    """What was asked of us as introducer of sw_punch and as helper and dialler of sw_reach."""
    return {
        "introductions": {
            "asked": done.introduced.get("asked", 0),
            "gone": done.introduced.get("gone", 0),
            "refused": _ranked(done.introductions_refused),
        },
        "probes": {
            "helped": done.dialled_back.get("helped", 0),
            "dialled": done.dialled_back.get("dialled", 0),
            "refused": _ranked(done.probes_refused),
        },
    }


def _ranked(counts: Mapping[str, int]) -> dict[str, int]:
    """The most frequent first; equal ones by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _socket(udp: UdpSocket | None) -> dict[str, Any] | None:
    if udp is None:
        return None
    return {
        "cores": {name: _core(core) for name, core in udp.counts.cores.items()},
        "unclaimed": udp.counts.unclaimed,
        "unclaimed_bytes": udp.counts.unclaimed_bytes,
        "waits_for_buffer": udp.counts.waits_for_buffer,
        "receive_buffer": udp.receive_buffer,
        "send_buffer": udp.send_buffer,
    }


def _core(core: CoreCounts) -> dict[str, Any]:
    return {
        "datagrams_in": core.datagrams_in,
        "bytes_in": core.bytes_in,
        "datagrams_out": core.datagrams_out,
        "bytes_out": core.bytes_out,
        "dropped": core.dropped,
        "send_errors": {errorcode.get(code, str(code)): count for code, count in sorted(core.send_errors.items())},
    }


def _peers(stats: Stats, snapshot: Snapshot) -> list[dict[str, Any]]:
    """Connected ones first, then those who gave and took most, then the latest."""
    rows = {key: _remembered(key, record, snapshot.now) for key, record in reversed(stats.peers.items())}
    standing = {PeerKey(peer.info_hash, peer.endpoint) for peer in snapshot.peers}
    for peer in snapshot.peers:
        key = PeerKey(peer.info_hash, peer.endpoint)
        row = rows.setdefault(key, _remembered(key, PeerRecord(set(), snapshot.now), snapshot.now))
        _add_live(row, peer)
        if peer.known_at is not None and (named := PeerKey(peer.info_hash, peer.known_at)) not in standing:
            _add_failures(row, rows.pop(named, None))
    return sorted(rows.values(), key=lambda row: (not row["connected"], -(row["bytes_down"] + row["bytes_up"])))


def _remembered(key: PeerKey, record: PeerRecord, now: float) -> dict[str, Any]:
    return {
        "endpoint": str(key.endpoint),
        "info_hash": key.info_hash.hex(),
        "client": record.client,
        "path": record.path,
        "direction": record.direction,
        "connected": record.connections > 0,
        "sources": _in_order(record.sources),
        "bytes_down": record.bytes_down,
        "bytes_up": record.bytes_up,
        "seconds_to_connect": _seconds(record.seconds_to_connect),
        "rtt": None,
        "failures": dict(record.failures),
        "since": _seconds(now - record.time),
    }


def _add_live(row: dict[str, Any], peer: LivePeer) -> None:
    row |= {
        "client": peer.client,
        "path": peer.path,
        "direction": peer.direction,
        "connected": True,
        "sources": _in_order({*row["sources"], *peer.sources}),
        "bytes_down": row["bytes_down"] + peer.bytes_down,
        "bytes_up": row["bytes_up"] + peer.bytes_up,
        "rtt": _seconds(peer.rtt),
    }


def _add_failures(row: dict[str, Any], elsewhere: dict[str, Any] | None) -> None:
    """The peer is connected, so it is not missed where it was named; why it was not reached there is told here."""
    if elsewhere is not None:
        row["failures"] = elsewhere["failures"] | row["failures"]
        row["bytes_down"] += elsewhere["bytes_down"]
        row["bytes_up"] += elsewhere["bytes_up"]


def _in_order(sources: set[SourceName]) -> list[SourceName]:
    return [source for source in SOURCES if source in sources]
