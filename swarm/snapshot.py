"""The node at one moment: what it is asked for when its statistics are wanted, beside what events have added up to.

Reads numbers that the parts keep anyway; changes nothing, does no I/O beyond asking sockets about themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, astuple, fields, replace
from typing import TYPE_CHECKING

import trio

from dht.results import NodeStatistics
from swarm import __version__
from swarm.bitfield import Bitfield
from swarm.connect.report import NatReport
from swarm.connect.standing import Standing
from swarm.discover.dht_source import DhtStatistics
from swarm.events import SourceName
from swarm.net.listen import OpenPorts
from swarm.net.mux import MuxStatistics
from swarm.net.network import DatagramSocket, TellsBuffers
from swarm.peer import PeerConnection
from swarm.stats.snapshot import Family, ForOthers, Listening, LivePeer, SharedTorrent, Snapshot, UdpSocket
from swarm.torrent.metainfo import Metainfo
from swarm.torrent.torrent import Torrent

if TYPE_CHECKING:
    from swarm.node import Node

NOTHING = NodeStatistics(*(0 for _ in fields(NodeStatistics)))


def snapshot_of(node: Node) -> Snapshot:
    """The node now; what belongs to its ports is empty while it is offline."""
    now, torrents = trio.current_time(), node.torrents.values()
    return Snapshot(
        now=now,
        version=__version__,
        peer_id=node.peer_id,
        uptime=now - node.opened_at,
        listen=() if node.ports is None else tuple(_listening(node.ports)),
        nat=_nat(node.standing),
        reachability=node.standing.strangers.probe.report(now),
        leases=node.standing.leases(),
        dht=node.dht_statistics(),
        sockets={} if node.ports is None else _sockets(node.ports, node.socket_statistics()),
        for_others=_for_others(torrents),
        relay=node.relay.desk.statistics() if node.config.relay_serve else None,
        relay_client=node.relay.counts.report(torrent.ways.relaying.standing() for torrent in torrents),
        turn=node.turning.statistics(),
        peers=tuple(_live(torrent, peer) for torrent in torrents for peer in torrent.connections),
        torrents=tuple(_shared(torrent) for torrent in torrents),
    )


def whole_dht(
    sums: Mapping[Family, DhtStatistics], running: Mapping[Family, NodeStatistics]
) -> dict[Family, NodeStatistics]:
    """By family: what the source has summed up over all sockets, the rest of the node that runs now.

    A family that never had a node is left out.
    """
    return {
        family: replace(running.get(family, NOTHING), **asdict(total))
        for family, total in sums.items()
        if family in running or any(astuple(total))
    }


def _nat(standing: Standing) -> dict[Family, NatReport]:
    """Of the families that there are; of both where there is nothing but loopback."""
    families: tuple[Family, Family] = (4, 6)
    there = [family for family in families if standing.has_family(family)]
    return {family: standing.report(family) for family in there or families}


def _for_others(torrents: Iterable[Torrent]) -> ForOthers:
    introduced, dialled_back = Counter[str](), Counter[str]()
    introductions_refused, probes_refused = Counter[str](), Counter[str]()
    for torrent in torrents:
        meetings, probes = torrent.ways.meetings.statistics(), torrent.ways.reaching.statistics()
        introduced.update(asked=meetings.asked, gone=meetings.gone)
        dialled_back.update(helped=probes.helped, dialled=probes.dialled)
        introductions_refused.update(meetings.refused)
        probes_refused.update(probes.refused)
    return ForOthers(introduced, introductions_refused, dialled_back, probes_refused)


def _listening(ports: OpenPorts) -> Iterator[Listening]:
    for opened in (ports.udp4, ports.udp6):
        if opened is not None:
            yield Listening("udp", opened.local)
    for listener in (ports.tcp4, ports.tcp6):
        if listener is not None:
            yield Listening("tcp", listener.local)


def _sockets(ports: OpenPorts, counts: Mapping[Family, MuxStatistics]) -> dict[Family, UdpSocket]:
    opened: dict[Family, DatagramSocket | None] = {4: ports.udp4, 6: ports.udp6}
    return {family: _socket(opened[family], each) for family, each in counts.items()}


def _socket(socket: DatagramSocket | None, counts: MuxStatistics) -> UdpSocket:
    granted = socket.buffer_sizes if isinstance(socket, TellsBuffers) else (None, None)
    return UdpSocket(counts, *granted)


def _live(torrent: Torrent, peer: PeerConnection) -> LivePeer:
    identity, known = peer.identity, torrent.admission.known(peer)
    return LivePeer(
        info_hash=torrent.info_hash,
        endpoint=identity.endpoint,
        path=identity.path,
        direction=identity.direction,
        client=peer.client,
        bytes_down=peer.bytes_down,
        bytes_up=peer.bytes_up,
        rtt=peer.round_trip(),
        sources=sources_of(torrent, peer),
        known_at=known.endpoint if known is not None else None,
    )


def sources_of(torrent: Torrent, peer: PeerConnection) -> frozenset[SourceName]:
    """Who named the peer that a connection leads to."""
    known = torrent.admission.known(peer)
    came_in: set[SourceName] = {"incoming"} if peer.identity.direction == "in" else set()
    return frozenset(came_in if known is None else came_in | known.sources)


def _shared(torrent: Torrent) -> SharedTorrent:
    statistics = torrent.statistics()
    done, total = statistics.done, statistics.total
    if not total and torrent.have is not None:  # nothing is wanted, as of a seed: then everything counts
        done, total = _verified_bytes(torrent.metainfo, torrent.have), torrent.metainfo.total_size
    return SharedTorrent(
        info_hash=torrent.info_hash, name=torrent.name, done=done, total=total, peers=len(torrent.connections)
    )


def _verified_bytes(metainfo: Metainfo, have: Bitfield) -> int:
    last = metainfo.piece_count - 1
    missing_of_last = metainfo.piece_length - metainfo.piece_size(last) if last in have else 0
    return have.count * metainfo.piece_length - missing_of_last
