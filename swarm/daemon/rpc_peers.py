"""The peers of a torrent as Transmission's RPC tells of them: here its programs can show how a peer was reached.

``flagStr`` has Transmission's letters, and two more for what Transmission cannot do: ``h`` for a connection through a
punched hole (predicted ports and birthday attacks included) and ``R`` for one that a peer or a TURN server relays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from swarm.events import PathName, SourceName
from swarm.peer import PeerConnection
from swarm.snapshot import sources_of
from swarm.torrent.torrent import Torrent

UTP_PATHS: frozenset[PathName] = frozenset({"utp", "utp-punched", "predicted", "birthday", "turn"})
PUNCHED_PATHS: frozenset[PathName] = frozenset({"tcp-punched", "utp-punched", "predicted", "birthday"})
RELAYED_PATHS: frozenset[PathName] = frozenset({"relayed", "turn"})

SOURCE_NAMES: Mapping[SourceName, str] = {
    "incoming": "fromIncoming",
    "tracker": "fromTracker",
    "lsd": "fromLpd",
    "dht": "fromDht",
    "pex": "fromPex",
    "resume": "fromCache",
    "manual": "fromLtep",  # nothing fits: Transmission cannot be told of peers by hand
}
"""What a peer counts for, if several sources have named it, is the first of these."""


def sends(peer: PeerConnection) -> bool:
    """Whether we fetch from it."""
    return peer.downloader.interested and not peer.downloader.choked


def receives(peer: PeerConnection) -> bool:
    """Whether it fetches from us."""
    return peer.uploader.interested and not peer.uploader.choking


def peers_from(torrent: Torrent | None) -> dict[str, int]:
    """How many connected peers each source has brought."""
    counts = Counter(_source(torrent, peer) for peer in torrent.connections) if torrent is not None else Counter()
    return {name: counts[name] for name in sorted(SOURCE_NAMES.values())}


def _source(torrent: Torrent, peer: PeerConnection) -> str:
    named = sources_of(torrent, peer)
    return next((name for source, name in SOURCE_NAMES.items() if source in named), "fromCache")


def peer_row(peer: PeerConnection) -> dict[str, Any]:
    identity, theirs = peer.identity, peer.downloader.theirs
    return {
        "address": identity.endpoint.host,
        "clientName": peer.client,
        "clientIsChoked": peer.downloader.choked,
        "clientIsInterested": peer.downloader.interested,
        "flagStr": "".join(flag for flag, applies in _flags(peer).items() if applies),
        "isDownloadingFrom": sends(peer),
        "isEncrypted": identity.encryption == "rc4",
        "isIncoming": identity.direction == "in",
        "isUploadingTo": receives(peer),
        "isUTP": identity.path in UTP_PATHS,
        "peerIsChoked": peer.uploader.choking,
        "peerIsInterested": peer.uploader.interested,
        "port": identity.endpoint.port,
        "progress": theirs.count / theirs.size if theirs.size else 0.0,
        "rateToClient": int(peer.rate_down),
        "rateToPeer": int(peer.rate_up),
    }


def _flags(peer: PeerConnection) -> dict[str, bool]:
    downloader, uploader, path = peer.downloader, peer.uploader, peer.identity.path
    return {
        "T": path in UTP_PATHS,
        "D": sends(peer),
        "d": downloader.interested and downloader.choked,
        "U": receives(peer),
        "u": uploader.interested and uploader.choking,
        "K": not downloader.choked and not downloader.interested,
        "?": not uploader.choking and not uploader.interested,
        "E": peer.identity.encryption == "rc4",
        "I": peer.identity.direction == "in",
        "h": path in PUNCHED_PATHS,
        "R": path in RELAYED_PATHS,
    }
