"""A torrent of which only the info-hash is known (BEP 9): its connections exchange metadata, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from swarm.bitfield import Bitfield
from swarm.net.network import Buffer
from swarm.peer import PeerConnection
from swarm.ratelimit import TokenBucket
from swarm.torrent.downloader import Copies
from swarm.torrent.exchange import Limits
from swarm.torrent.lent import Lent
from swarm.torrent.picker import Picker
from swarm.wire.extended import ExtendedHandshake
from swarm.wire.messages import Block

NO_PIECES = 16 << 10
"""Piece length of a torrent without pieces: anything that is a power of two."""


class Hears(Protocol):
    """Who is told what peers say of themselves; a `swarm.torrent.exchange.Keeper` is one."""

    def extended_handshake_received(self, peer: PeerConnection, theirs: ExtendedHandshake) -> None: ...

    def dht_node_told(self, peer: PeerConnection, port: int) -> None: ...


class Beginning:
    """Stands in for the exchange until the metadata is there; implements `swarm.peer.TorrentSide`."""

    seeding = False
    before_metadata = True

    def __init__(self, lent: Lent, limits: Limits, keeper: Hears) -> None:
        self._limits = limits
        self._keeper = keeper
        self.have = Bitfield(0)
        self.picker = Picker(0, NO_PIECES, 0, self.have, lent.rng, lent.memory)

    @property
    def download_limits(self) -> tuple[TokenBucket, ...]:
        return self._limits.downloading

    @property
    def upload_limits(self) -> tuple[TokenBucket, ...]:
        return self._limits.uploading

    async def read_blocks(self, run: Sequence[Block]) -> list[Buffer]:
        raise AssertionError("nobody can ask for a block of a torrent without pieces")

    def pieces_filled(self, peer: PeerConnection, indices: Sequence[int]) -> None:
        raise AssertionError("no block was asked for, so none was taken")

    def cancel_elsewhere(self, copies: Copies) -> None:
        raise AssertionError("no block was asked for, so none twice")

    def interest_changed(self, peer: PeerConnection) -> None:
        """Remembered by the connection; there is nothing to be had from us yet."""

    def extended_handshake_received(self, peer: PeerConnection, theirs: ExtendedHandshake) -> None:
        self._keeper.extended_handshake_received(peer, theirs)

    def dht_node_told(self, peer: PeerConnection, port: int) -> None:
        self._keeper.dht_node_told(peer, port)
