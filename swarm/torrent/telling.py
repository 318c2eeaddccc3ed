"""What a torrent tells the user of itself: where it stands in numbers, and in sentences why nothing arrives."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from swarm.peerlist import HUNG_UP
from swarm.torrent.admission import Admission
from swarm.torrent.connections import Connections
from swarm.torrent.content import Content
from swarm.torrent.exchange import Exchange
from swarm.torrent.lent import Lent
from swarm.torrent.metasource import MetadataSource
from swarm.torrent.sources import Sources

TorrentState = Literal["metadata", "queued", "checking", "downloading", "seeding", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class TorrentStatistics:
    """Where a torrent stands.  Bytes; ``done`` and ``total`` count what is wanted, in arrived and verified bytes."""

    state: TorrentState
    done: int
    total: int
    pieces_had: int
    pieces: int
    downloaded: int
    uploaded: int
    """Payload of this run."""
    wasted: int
    corrupt: int
    """Bytes of pieces that were wrong."""
    checked: int
    """Pieces looked at so far while checking, of ``to_check``."""
    to_check: int
    peers_by_path: dict[str, int]
    known_peers: int
    metadata: str = ""
    """While it is missing: from how many peers it was asked, and why not."""
    metadata_blocks: int = 0
    """Blocks of it that have come."""


class Telling:
    """Tells of one torrent; its ``content`` and ``exchange`` are None until they are there."""

    def __init__(
        self, lent: Lent, connections: Connections, admission: Admission, metadata: MetadataSource, sources: Sources
    ) -> None:
        self._lent = lent
        self._connections = connections
        self._peers = admission.peers
        self._metadata = metadata
        self._sources = sources

    def statistics(self, state: TorrentState, content: Content | None, exchange: Exchange | None) -> TorrentStatistics:
        moved = self._connections.moved()
        total = content.selection.size if content is not None else 0
        checked, to_check = content.checking if content is not None else (0, 0)
        return TorrentStatistics(
            state=state,
            done=total - exchange.picker.remaining_bytes if exchange is not None else 0,
            total=total,
            pieces_had=exchange.have.count if exchange is not None else 0,
            pieces=content.metainfo.piece_count if content is not None else 0,
            downloaded=moved.down,
            uploaded=moved.up,
            wasted=moved.wasted,
            corrupt=content.corrupt if content is not None else 0,
            checked=checked,
            to_check=to_check,
            peers_by_path=dict(Counter(peer.identity.path for peer in self._connections)),
            known_peers=len(self._peers),
            metadata=self._metadata.why() if content is None else "",
            metadata_blocks=self._metadata.blocks_had,
        )

    def why(self, state: TorrentState, content: Content | None) -> list[str]:
        """Why nothing, or no more, is arriving: peers, sources and our port, each in a sentence for the user."""
        reasons = [f"peers: {self._peers.why()}"] if len(self._peers) else ["no peer is known"]
        if content is None:
            reasons.insert(0, f"the metadata is missing: {self._metadata.why()}")
        elif self._connections and state == "downloading":
            reasons.append(self._why_connected_peers_send_nothing())
        trackers = content.metainfo.trackers if content is not None else self._metadata.trackers
        reasons += self._sources.why(named=bool(trackers))
        config, port = self._lent.config, self._lent.standing.port
        if config.encryption != "prefer" and self._peers.reasons().keys() & HUNG_UP:
            kind = "encrypted" if config.encryption == "require" else "plain"
            reasons.append(f"only {kind} connections are allowed, and some peers hang up on those")
        reasons.append(f"we listen on port {port}" if port else f"offline: {config.bind} is not there")
        return reasons

    def _why_connected_peers_send_nothing(self) -> str:
        choking = sum(peer.downloader.choked for peer in self._connections)
        useless = sum(not peer.downloader.interested for peer in self._connections)
        return f"of {len(self._connections)} connected, {choking} choke us and {useless} have nothing that we need"
