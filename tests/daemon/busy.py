"""A busy session that never was, for looking at the page: torrents of every kind, peers by every path, and a good
number who were not reached.  How the node stands is as in `tests.stats_sample`.

``python -m tests.daemon.busy [PORT]`` serves it on loopback, moving.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from dht.results import NodeStatistics
from swarm.connect.report import Behaviour, NatReport
from swarm.daemon.entry import Status
from swarm.daemon.http import Request, Response, serve
from swarm.daemon.page import routes
from swarm.endpoint import Endpoint, parse_endpoint
from swarm.events import (
    ConnectionRefused,
    DialFailed,
    Event,
    PathName,
    PeerConnected,
    PeerDiscovered,
    PunchAsked,
    PunchConnected,
    PunchFailed,
    RendezvousRefused,
    RendezvousRelayed,
    SourceName,
)
from swarm.gateway.report import LeaseReport
from swarm.stats.document import build_document
from swarm.stats.fold import Stats
from swarm.stats.snapshot import LivePeer, Reachability, SharedTorrent, Snapshot
from swarm.torrent.metainfo import Metainfo
from tests.stats_sample import INSIDE, INTRODUCER, ROUTER, snapshot

UPTIME = 11_520.0

CLIENTS = (
    "libtorrent 2.1.1",
    "Transmission 4.0.6",
    "µTorrent 3.5.5",
    "qBittorrent 5.1.2",
    "swarm 0.1.0",
    "BiglyBT 3.8",
)
SOURCES: tuple[SourceName, ...] = ("tracker", "tracker", "dht", "dht", "dht", "pex", "pex", "lsd")


@dataclass
class Shared:
    """An entry of the session, as far as it is shown."""

    name: str
    status: Status
    done: int
    total: int
    down_rate: float = 0.0
    up_rate: float = 0.0
    error: str | None = None
    checking: tuple[int, int] = (0, 0)
    uploaded: int = 0
    downloaded: int = 0
    peers: int = 0
    info_hash: bytes = b""
    metainfo: Metainfo | None = None

    @property
    def bytes_had(self) -> int:
        return self.done

    @property
    def running(self) -> bool:
        return self.status in ("download", "seed", "check")


GB, MB = 1_000_000_000, 1_000_000


def torrents() -> list[Shared]:
    made = [
        Shared("debian-13.1.0-amd64-DVD-1.iso", "download", 2_914 * MB, 3_982 * MB, 8.4 * MB, 610e3, uploaded=211 * MB),
        Shared("ubuntu-26.04-desktop-amd64.iso", "download", 1_204 * MB, 5_702 * MB, 3.1 * MB, 92e3, uploaded=31 * MB),
        Shared("Blender Open Movie – Spring (2160p, CC BY)", "seed", 2_210 * MB, 2_210 * MB, 0, 740e3, uploaded=9 * GB),
        Shared("wikipedia_en_all_maxi_2026-10.zim", "check", 61 * GB, 118 * GB, checking=(29_311, 56_270)),
        Shared("OpenStreetMap planet-261109.osm.pbf", "download-wait", 0, 87_410 * MB),
        Shared(
            "archlinux-2026.11.01-x86_64.iso",
            "stopped",
            411 * MB,
            1_330 * MB,
            error="cannot write /srv/torrents/archlinux-2026.11.01-x86_64.iso: No space left on device",
        ),
        Shared("Project Gutenberg, the whole of it (2026)", "seed", 71 * GB, 71 * GB, 0, 118e3, uploaded=212 * GB),
        Shared("Sintel.2010.4k", "seed", 6_480 * MB, 6_480 * MB, uploaded=14 * GB),
        Shared("LibreOffice 26.2 (all languages)", "stopped", 402 * MB, 402 * MB, uploaded=1_204 * MB),
        Shared("Common Voice Corpus 24 – Cymraeg", "download", 0, 0),
    ]
    for number, torrent in enumerate(made):
        torrent.info_hash = bytes([number]) * 20
        torrent.downloaded = torrent.done
    return made


WAYS: tuple[tuple[PathName, str, int, float], ...] = (
    ("utp", "out", 31, 0.11),
    ("tcp", "out", 9, 0.24),
    ("utp", "in", 7, 0.05),
    ("tcp", "in", 3, 0.03),
    ("utp-punched", "out", 17, 0.62),
    ("tcp-punched", "out", 4, 0.81),
    ("predicted", "out", 3, 1.9),
    ("birthday", "out", 2, 3.4),
    ("relayed", "out", 2, 0.9),
)
"""Path, direction, how many peers, and the seconds that it takes."""

FAILURES: tuple[tuple[int, dict[PathName, str]], ...] = (
    (19, {"utp": "timed-out", "tcp": "timed-out", "utp-punched": "no-introducer"}),
    (11, {"utp": "timed-out", "tcp": "timed-out"}),
    (9, {"utp": "timed-out", "tcp": "refused"}),
    (5, {"utp": "timed-out", "tcp": "timed-out", "utp-punched": "timed-out", "tcp-punched": "timed-out"}),
    (4, {"utp": "closed", "tcp": "reset"}),
    (3, {"utp": "timed-out", "tcp": "timed-out", "utp-punched": "timed-out", "predicted": "hopeless"}),
    (2, {"utp": "timed-out", "tcp": "encryption-required"}),
    (2, {"utp": "unreachable", "tcp": "unreachable"}),
)


@dataclass
class BusyNode:
    """What of a node the page shows."""

    shared: list[Shared]
    opened_at: float
    live: list[LivePeer] = field(default_factory=list)
    stats: Stats = field(default_factory=Stats)

    def __post_init__(self) -> None:
        for time, event in self._events(random.Random(7)):
            self.stats.apply(time, event)

    @property
    def standing(self) -> BusyNode:
        return self

    def advice(self) -> tuple[str, ...]:
        return (
            "To be reachable by TCP, forward port 51413, TCP, on the router at 192.168.1.1 to 192.168.1.23, port "
            "51413.",
        )

    def document(self) -> dict[str, Any]:
        now = trio.current_time() - self.opened_at + UPTIME
        return build_document(self.stats, self._snapshot(now))

    def _events(self, rng: random.Random) -> Iterator[tuple[float, Event]]:
        for path, direction, count, seconds in WAYS:
            for _ in range(count):
                endpoint, torrent = self._peer(rng), self._torrent(rng)
                client, took = rng.choice(CLIENTS), seconds * rng.lognormvariate(0, 0.7)
                at = UPTIME - rng.uniform(5, 9000)
                if direction == "out":
                    yield at, PeerDiscovered(torrent, endpoint, rng.choice(SOURCES))
                if path in ("utp-punched", "tcp-punched"):
                    yield at, PunchAsked(torrent, endpoint, "initiator", INTRODUCER)
                    theirs: Behaviour = "endpoint-independent" if rng.random() < 0.7 else "address-and-port-dependent"
                    yield at, PunchConnected(torrent, endpoint, "initiator", path, took, "endpoint-independent", theirs)
                yield at, PeerConnected(torrent, endpoint, path, direction, client, took)  # type: ignore[arg-type]
                down = int(rng.lognormvariate(17, 1.6)) if direction == "out" else 0
                up = int(rng.lognormvariate(15, 1.8))
                rtt = rng.lognormvariate(-3, 0.6)
                self.live.append(
                    LivePeer(torrent, endpoint, path, direction, client, down, up, rtt)  # type: ignore[arg-type]
                )
        for count, failures in FAILURES:
            for _ in range(count):
                endpoint, torrent, at = self._peer(rng), self._torrent(rng), UPTIME - rng.uniform(20, 5000)
                yield at, PeerDiscovered(torrent, endpoint, rng.choice(SOURCES))
                for path, reason in failures.items():
                    if path == "utp-punched":
                        yield at, PunchAsked(torrent, endpoint, "initiator", INTRODUCER)
                        yield at, PunchFailed(torrent, endpoint, "initiator", reason, 3.0, "endpoint-independent")
                    yield at, DialFailed(torrent, endpoint, path, reason, 3.0)
        for number in range(6):
            yield UPTIME - 100, RendezvousRelayed(self._torrent(rng), self._peer(rng), self._peer(rng))
            yield UPTIME - 90, ConnectionRefused(self._peer(rng), "tcp", "in", "handshake-closed")
            if number % 3 == 0:
                yield UPTIME - 80, RendezvousRefused(self._torrent(rng), self._peer(rng), "not-connected")

    def _torrent(self, rng: random.Random) -> bytes:
        return rng.choice([each.info_hash for each in self.shared[:3]])

    def _peer(self, rng: random.Random) -> Endpoint:
        if rng.random() < 0.12:
            return parse_endpoint(
                f"[2001:db8:{rng.randrange(9999):x}::{rng.randrange(99):x}]:{rng.randrange(1024, 65535)}"
            )
        net = rng.choice(("192.0.2", "198.51.100", "203.0.113"))
        return Endpoint(f"{net}.{rng.randrange(1, 255)}", rng.choice((6881, 51413, rng.randrange(1024, 65535))))

    def _snapshot(self, now: float) -> Snapshot:
        connected = {each.info_hash: 0 for each in self.shared}
        for peer in self.live:
            connected[peer.info_hash] += 1
        sample = snapshot(now)
        ipv4 = sample.nat[4]
        assert ipv4 is not None
        return replace(
            sample,
            nat={
                4: replace(
                    ipv4,
                    hairpin=False,
                    lifetime=60.0,
                    evidence=(
                        "14 DHT nodes and 3 peers saw 203.0.113.77:51413.",
                        "Nobody we had not written to first has got through by TCP.",
                    ),
                ),
                6: NatReport(
                    external=(parse_endpoint("[2001:db8:77::23]:51413"),),
                    mapping="none",
                    filtering="none",
                    port_preserving=True,
                    evidence=("6 DHT nodes saw [2001:db8:77::23]:51413, which is our own address.",),
                ),
            },
            reachability=Reachability(tcp4=False, utp4=True, tcp6=True, utp6=True),
            leases=(
                replace(sample.leases[0], expires_in=3480.0 - now % 1800),
                *sample.leases[1:],
                LeaseReport("pcp", "udp", ROUTER, INSIDE, None, None, "unsupported"),
            ),
            dht={**sample.dht, 6: NodeStatistics(88, *(10,) * 10)},
            peers=tuple(self.live),
            torrents=tuple(
                SharedTorrent(each.info_hash, each.name, each.done, each.total, connected[each.info_hash])
                for each in self.shared
                if each.running or each.total
            ),
        )


class BusySession:
    """What of a session the page shows."""

    def __init__(self) -> None:
        self.shared = torrents()
        self.entries = dict(enumerate(self.shared, 1))
        self.node = BusyNode(self.shared, trio.current_time())

    async def move(self) -> None:
        """Let a quarter of a second's bytes come and go, again and again."""
        rng = random.Random(1)
        while True:
            await trio.sleep(0.25)
            for each in self.shared:
                step = min(int(each.down_rate * rng.uniform(0.15, 0.35)), each.total - each.done)
                each.done += step
                each.downloaded += step
                each.uploaded += int(each.up_rate * rng.uniform(0.15, 0.35))
                each.checking = (min(each.checking[0] + 40, each.checking[1]), each.checking[1])


class Everybody:
    """May ask."""

    def refusal(self, request: Request) -> Response | None:
        return None


async def _serve(port: int) -> None:
    session = BusySession()
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.move)
        await nursery.start(serve, listeners, routes(session), Everybody())


if __name__ == "__main__":
    trio.run(_serve, int(sys.argv[1]) if len(sys.argv) > 1 else 9092)
