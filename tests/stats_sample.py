"""A night of a node behind two NATs: the events, the snapshot, and the document that they make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dht.results import NodeStatistics
from swarm.connect.report import NatReport
from swarm.endpoint import Endpoint, parse_endpoint
from swarm.events import (
    ConnectionClosed,
    ConnectionRefused,
    DialFailed,
    Event,
    PeerConnected,
    PeerDiscovered,
    PortMapped,
    PortMappingFailed,
    PunchAsked,
    PunchConnected,
    PunchFailed,
    RendezvousRefused,
    RendezvousRelayed,
    SourceName,
)
from swarm.gateway.report import LeaseReport
from swarm.net.mux import CoreStatistics, MuxStatistics
from swarm.stats.document import build_document
from swarm.stats.fold import Stats
from swarm.stats.snapshot import ForOthers, Listening, LivePeer, Reachability, SharedTorrent, Snapshot, UdpSocket

TORRENT = bytes.fromhex("c8295ce630f2064f08440db1534e4992cfe4862a")
ROUTER = "192.168.1.1"
INSIDE = Endpoint("192.168.1.23", 51413)
OUTSIDE = Endpoint("203.0.113.77", 51413)
INTRODUCER = Endpoint("198.51.100.9", 6881)
CLIENT = "µTorrent 3.5.5"


def peer(number: int) -> Endpoint:
    return Endpoint(f"198.51.100.{number % 200 + 1}", 6881 + number)


def log() -> Iterator[tuple[float, Event]]:
    """What happened, with trio times."""
    yield 0.4, PortMapped("nat-pmp", "udp", ROUTER, INSIDE, OUTSIDE)
    yield 0.5, PortMappingFailed("nat-pmp", "tcp", ROUTER, INSIDE, "refused")
    sources: tuple[SourceName, ...] = ("tracker", "tracker", "tracker", "dht", "dht", "pex")
    for number in range(60):
        yield 1.0 + number / 100, PeerDiscovered(TORRENT, peer(number), sources[number % 6])
    for number in range(30):
        yield from _dialled(3.0 + number, number)
    for number in range(30, 40):
        yield from _punched(60.0 + number, number)
    stranger = parse_endpoint("[2001:db8:5::1]:40001")
    yield 110.0, PeerConnected(TORRENT, stranger, "tcp", "in", "Transmission 4.0.6", 0.021)
    yield 112.0, ConnectionRefused(parse_endpoint("192.0.2.200:5555"), "tcp", "in", "handshake-closed")
    yield 115.0, RendezvousRelayed(TORRENT, peer(1), peer(2))
    yield 116.0, RendezvousRefused(TORRENT, peer(1), "not-connected")


def _dialled(time: float, number: int) -> Iterator[tuple[float, Event]]:
    endpoint = peer(number)
    if number % 3 == 0:
        yield time + 0.3, PeerConnected(TORRENT, endpoint, "utp", "out", CLIENT, 0.05 + number / 50)
        if number % 2 == 0:
            yield (
                time + 50,
                ConnectionClosed(TORRENT, endpoint, "utp", "out", CLIENT, "closed", 7_000_000 * number, 90_000, 49.7),
            )
        return
    yield time + 3, DialFailed(TORRENT, endpoint, "utp", "timed-out", 3.0)
    yield time + 4, DialFailed(TORRENT, endpoint, "tcp", "refused" if number % 2 else "timed-out", 1.0)


def _punched(time: float, number: int) -> Iterator[tuple[float, Event]]:
    endpoint = peer(number)
    yield time, PunchAsked(TORRENT, endpoint, "initiator", INTRODUCER)
    if number % 5:
        yield (
            time + 1,
            PunchConnected(
                TORRENT,
                endpoint,
                "initiator",
                "utp-punched",
                0.61,
                "endpoint-independent",
                "address-and-port-dependent" if number % 2 else "endpoint-independent",
            ),
        )
        yield time + 1.1, PeerConnected(TORRENT, endpoint, "utp-punched", "out", "libtorrent 2.1.1", 0.7 + number / 100)
    else:
        yield (
            time + 5,
            PunchFailed(
                TORRENT,
                endpoint,
                "initiator",
                "no-such-peer",
                5.0,
                "endpoint-independent",
                "address-and-port-dependent",
            ),
        )
        yield time + 5, DialFailed(TORRENT, endpoint, "utp-punched", "no-such-peer", 5.0)


def snapshot(now: float = 11_500.0) -> Snapshot:
    """The node when the document was asked for."""
    return Snapshot(
        now=now,
        version="0.1.0",
        peer_id=b"-SW0100-abcdefghijkl",
        uptime=now,
        listen=(Listening("udp", Endpoint("0.0.0.0", 51413)), Listening("tcp", Endpoint("0.0.0.0", 51413))),
        nat={
            4: NatReport(
                external=(OUTSIDE,),
                mapping="endpoint-independent",
                filtering="address-and-port-dependent",
                port_preserving=True,
                double_nat=False,
                lifetime=30.0,
                evidence=("5 DHT nodes saw 203.0.113.77:51413",),
            )
        },
        reachability=Reachability(tcp4=False, utp4=True),
        for_others=ForOthers({"asked": 7, "gone": 5}, {"busy": 2}, {"helped": 3, "dialled": 2}, {"acquainted": 1}),
        leases=(
            LeaseReport("nat-pmp", "udp", ROUTER, INSIDE, OUTSIDE, 3480.0, None),
            LeaseReport("nat-pmp", "tcp", ROUTER, INSIDE, None, None, "refused"),
        ),
        dht={4: NodeStatistics(412, 5031, 2210, 1804, 31, 12, 3, 0, 1, 4, 0)},
        sockets={
            4: UdpSocket(
                MuxStatistics(
                    {
                        "utp": CoreStatistics(812_345, 1_103_000_000, 402_113, 22_000_000, 12, {101: 3}),
                        "dht": CoreStatistics(6_902, 812_345, 7_120, 912_345, 0, {}),
                    },
                    unclaimed=17,
                    unclaimed_bytes=901,
                    waits_for_buffer=2,
                ),
                receive_buffer=425_984,
                send_buffer=425_984,
            )
        },
        peers=tuple(
            LivePeer(
                TORRENT, peer(number), "utp-punched", "out", "libtorrent 2.1.1", 31_000_000 + number, 1_200_000, 0.043
            )
            for number in range(31, 40)
            if number % 5
        )
        + tuple(
            LivePeer(TORRENT, peer(number), "utp", "out", CLIENT, 3_000_000 * number, 0, 0.081)
            for number in range(3, 30, 6)
        )
        + (
            LivePeer(
                TORRENT,
                parse_endpoint("[2001:db8:5::1]:40001"),
                "tcp",
                "in",
                "Transmission 4.0.6",
                0,
                880_000_000,
                0.012,
                sources=("incoming", "pex"),
            ),
        ),
        torrents=(SharedTorrent(TORRENT, "ubuntu-26.04-desktop-amd64.iso", 3_401_000_000, 5_702_000_000, 12),),
    )


def sample_document() -> dict[str, Any]:
    stats = Stats()
    for time, event in log():
        stats.apply(time, event)
    return build_document(stats, snapshot())
