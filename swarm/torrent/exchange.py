"""The exchange of pieces in one torrent: everything between "these peers are connected" and "this piece is on disk".

It owns what all connections of a torrent share: the pieces we have, picker, choker, blame and disk.  It does not know
where peers come from, who is dialled, or what is kept between runs: `swarm.torrent.torrent` does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from swarm.bitfield import Bitfield
from swarm.config import Config
from swarm.errors import StorageError
from swarm.events import INDIRECT_PATHS, Emit, PieceFailed, PieceVerified
from swarm.identity import Culprit
from swarm.net.network import Buffer
from swarm.peer import PeerConnection
from swarm.ratelimit import TokenBucket
from swarm.torrent.blame import Blame
from swarm.torrent.choker import Choker, PeerView
from swarm.torrent.connections import Connections
from swarm.torrent.disk import Disk
from swarm.torrent.downloader import Copies
from swarm.torrent.metainfo import Metainfo
from swarm.torrent.openpiece import Block
from swarm.torrent.picker import Picker
from swarm.torrent.selection import Selection
from swarm.wire.extended import ExtendedHandshake
from swarm.wire.messages import Block as BlockRange

MAX_STORERS = 2
"""Hops to the disk under way at once for one torrent: two can hash on two cores."""

MAX_STORE = 4 << 20
"""Bytes of pieces hashed and written in one hop."""


class Keeper(Protocol):
    """What the exchange needs of its torrent."""

    def piece_stored(self, index: int) -> None:
        """A piece is verified and on disk, and ``have`` says so."""

    def storage_failed(self, error: StorageError) -> None: ...

    def condemned(self, culprit: Culprit) -> None:
        """Somebody is proved to have sent bad data; its connections are being closed."""

    def extended_handshake_received(self, peer: PeerConnection, theirs: ExtendedHandshake) -> None: ...

    def kept_between_seeds(self) -> Collection[PeerConnection]:
        """Connections that are to stay although neither end needs anything of the other."""

    def dht_node_told(self, peer: PeerConnection, port: int) -> None: ...


@dataclass(slots=True)
class Limits:
    """Token buckets that a torrent's bytes pass through: the node's, then its own."""

    download: tuple[TokenBucket, TokenBucket]
    upload: tuple[TokenBucket, TokenBucket]
    alone: bool = False
    """The node's do not hold for this torrent."""

    @property
    def downloading(self) -> tuple[TokenBucket, ...]:
        """Those that limit anything."""
        return tuple(bucket for bucket in self.download[self.alone :] if bucket.rate)

    @property
    def uploading(self) -> tuple[TokenBucket, ...]:
        return tuple(bucket for bucket in self.upload[self.alone :] if bucket.rate)

    @property
    def upload_rate(self) -> float:
        """The lowest in force, 0 without one."""
        return min((bucket.rate for bucket in self.uploading), default=0)


class Exchange:
    """The shared state of all connections of one torrent; implements `swarm.peer.TorrentSide`.

    ``work`` is a nursery that outlives connections: a piece that is being written is finished whatever happens to
    its peers.
    """

    before_metadata = False

    def __init__(
        self,
        metainfo: Metainfo,
        picker: Picker,
        disk: Disk,
        choker: Choker,
        keeper: Keeper,
        connections: Connections,
        *,
        config: Config,
        limits: Limits,
        emit: Emit,
        work: trio.Nursery,
    ) -> None:
        self.metainfo = metainfo
        self.picker = picker
        self.disk = disk
        self.connections = connections
        self._blame = Blame()
        self._choker = choker
        self._keeper = keeper
        self._config = config
        self._limits = limits
        self._emit = emit
        self._work = work
        self._choke_due = False
        self._departed = connections.departed
        self._unstored: deque[int] = deque()
        self._storers = 0
        self._stored_all = trio.lowlevel.ParkingLot()

    def begin(self) -> None:
        """Let those take part who were connected before the metadata was there."""
        for peer in self.connections:
            peer.begin(self)

    @property
    def seeding(self) -> bool:
        """Whether everything wanted is there."""
        return not self.picker.wanted_left

    def choose(self, selection: Selection) -> None:
        """Fetch these pieces from now on, and no others."""
        cancels = self.picker.set_wanted(selection.pieces, high=selection.high, low=selection.low)
        for peer, block in cancels:
            assert isinstance(peer, PeerConnection)
            peer.cancel(*block)
        for each in self.connections:
            each.reconsider()

    def limits_changed(self) -> None:
        """How many are unchoked at once depends on the rate that they share; and whoever waits does so anew."""
        self._choker.set_slots(self._config.upload_slots, self._limits.upload_rate)
        for peer in self.connections:
            peer.limits_changed()

    def tick(self, now: float) -> None:
        """Once a second while there are connections, after theirs."""
        if self.seeding:
            kept = self._keeper.kept_between_seeds()
            for peer in self.connections:
                if peer.downloader.theirs.complete and not peer.freight.kept and peer not in kept:
                    peer.close("both-complete")
        if self._choke_due or now >= self._choker.next_deadline or self._departed != self.connections.departed:
            self._choke(now)

    def _choke(self, now: float) -> None:
        self._choke_due = False
        self._departed = self.connections.departed
        views = [_view(peer) for peer in self.connections]
        unchoked = self._choker.decide(views, now, seeding=self.seeding)
        for peer in self.connections:
            if peer in unchoked:
                peer.unchoke()
            else:
                peer.choke()

    # -- TorrentSide ------------------------------------------------------------------------------------------------

    @property
    def have(self) -> Bitfield:
        return self.picker.have

    @property
    def download_limits(self) -> tuple[TokenBucket, ...]:
        return self._limits.downloading

    @property
    def upload_limits(self) -> tuple[TokenBucket, ...]:
        return self._limits.uploading

    async def read_blocks(self, run: Sequence[BlockRange]) -> list[Buffer]:
        try:
            return [self.disk.read_nowait(*wanted) or await self.disk.read(*wanted) for wanted in run]
        except StorageError as error:
            self._keeper.storage_failed(error)
            await trio.sleep_forever()  # the torrent closes this connection
            raise

    def pieces_filled(self, peer: PeerConnection, indices: Sequence[int]) -> None:
        self._unstored.extend(indices)
        while self._storers < min(MAX_STORERS, len(self._unstored)):
            self._storers += 1
            self._work.start_soon(self._store)

    def cancel_elsewhere(self, copies: Copies) -> None:
        for peer in copies.peers:
            assert isinstance(peer, PeerConnection)
            peer.cancel(copies.index, copies.begin, copies.length)

    def interest_changed(self, peer: PeerConnection) -> None:
        """A peer that becomes interested while a slot is free need not wait for the next round."""
        self._choke_due = True
        if not peer.uploader.interested or not peer.uploader.choking:  # a flood of changes ranks nobody again
            return
        if sum(not other.uploader.choking for other in self.connections) < self._choker.slots:
            self._choke(trio.current_time())

    def extended_handshake_received(self, peer: PeerConnection, theirs: ExtendedHandshake) -> None:
        self._keeper.extended_handshake_received(peer, theirs)

    def dht_node_told(self, peer: PeerConnection, port: int) -> None:
        self._keeper.dht_node_told(peer, port)

    # -- pieces -----------------------------------------------------------------------------------------------------

    async def wait_stored(self) -> None:
        """Block until no piece is being hashed or written."""
        while self._storers:
            await self._stored_all.park()

    async def _store(self) -> None:
        """Hash and write complete pieces, as many as wait in one hop, until none is left."""
        try:
            while self._unstored:
                indices = self._next_to_store()
                outcomes = await self.disk.write_pieces([(index, self.picker.buffer(index)) for index in indices])
                for index, outcome in zip(indices, outcomes, strict=True):
                    self._stored(index, outcome)
        finally:
            self._storers -= 1
            self._stored_all.unpark_all()

    def _next_to_store(self) -> list[int]:
        """A fair share of what waits, so that all storers have something, and no more than MAX_STORE at once."""
        share = -(-len(self._unstored) // MAX_STORERS)
        count = max(1, min(share, MAX_STORE // self.metainfo.piece_length))
        return [self._unstored.popleft() for _ in range(count)]

    def _stored(self, index: int, outcome: bool | StorageError) -> None:
        if isinstance(outcome, StorageError):
            self.picker.piece_failed(index)
            self._keeper.storage_failed(outcome)
        elif outcome:
            self._verified(index)
        else:
            self._failed(index)

    def _verified(self, index: int) -> None:
        liars: frozenset[Hashable] = frozenset()
        if not self._blame.idle:
            liars = self._blame.verified(index, self._senders(index), self.picker.buffer(index))
        self.picker.piece_verified(index)
        self._emit(PieceVerified(self.metainfo.info_hash, index))
        for peer in self.connections:
            peer.tell_have(index)
        self._keeper.piece_stored(index)
        self._condemn(liars)

    def _failed(self, index: int) -> None:
        senders = self._senders(index)
        liars = self._blame.failed(index, senders, self.picker.buffer(index))
        contributors = tuple(peer.identity.endpoint for peer in self._contributors(index))
        self.picker.piece_failed(index)
        self._emit(PieceFailed(self.metainfo.info_hash, index, contributors))
        self._condemn(liars)
        for peer in self.connections:
            peer.downloader.parole = self._blame.on_parole(peer.identity.culprit)
            peer.refill()

    def _contributors(self, index: int) -> dict[PeerConnection, list[Block]]:
        contributors: dict[PeerConnection, list[Block]] = {}
        for peer, blocks in self.picker.contributors(index).items():
            assert isinstance(peer, PeerConnection)
            contributors[peer] = blocks
        return contributors

    def _senders(self, index: int) -> dict[Hashable, list[Block]]:
        """Who sent what by a name that survives a reconnection."""
        senders: dict[Hashable, list[Block]] = {}
        for peer, blocks in self._contributors(index).items():
            senders.setdefault(peer.identity.culprit, []).extend(blocks)
        return senders

    def _condemn(self, liars: Iterable[Hashable]) -> None:
        for liar in liars:
            assert isinstance(liar, Culprit)
            self._keeper.condemned(liar)
            for peer in self.connections:
                if peer.identity.culprit == liar:
                    peer.close("bad-data")


def _view(peer: PeerConnection) -> PeerView:
    return PeerView(
        key=peer,
        interested=peer.uploader.interested,
        connected_at=peer.connected_at,
        rate_down=peer.rate_down,
        rate_up=peer.rate_up,
        bytes_up=peer.bytes_up,
        snubbed=peer.downloader.pipeline.snubbed,
        relayed=peer.identity.path in INDIRECT_PATHS,
    )
