"""One shared download from start to stop: check, exchange, trackers, peers, and what is kept between runs.

The supervisor of one torrent.  Idle, it costs no task and no file handle: tasks exist for connections and pieces under
way only, and the node's ticker calls `Torrent.tick`.  The exchange of pieces itself is `swarm.torrent.exchange`; how
peers are reached is `swarm.connect`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import trio

from swarm.bitfield import Bitfield
from swarm.discover.trackers import TrackerSource, TrackerStatus
from swarm.endpoint import Endpoint
from swarm.errors import StorageError
from swarm.events import StorageFailed, TorrentAdded, TorrentChecked, TorrentCompleted, Warned
from swarm.peer import Culprit, Identity, PeerConnection
from swarm.ratelimit import TokenBucket
from swarm.torrent.admission import Admission
from swarm.torrent.choker import Choker
from swarm.torrent.disk import Disk
from swarm.torrent.exchange import Exchange, Limits
from swarm.torrent.keeping import Keeping, Totals
from swarm.torrent.lent import Lent
from swarm.torrent.metainfo import Metainfo
from swarm.torrent.picker import Picker
from swarm.torrent.selection import Selection
from swarm.torrent.storage import Storage
from swarm.torrent.uploader import MAX_QUEUED
from swarm.wire.extended import ExtendedHandshake

FEW_PEERS = 5
ASK_AGAIN = 60.0
"""With fewer connections than FEW_PEERS, trackers are asked for more every so many seconds (as they allow)."""

KEPT_PEERS = 200
"""Peers written into the resume file."""

TorrentState = Literal["queued", "checking", "downloading", "seeding", "stopped", "failed"]


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
    checked: int
    """Pieces looked at so far while checking, of ``to_check``."""
    to_check: int
    peers_by_path: dict[str, int]
    known_peers: int


class Torrent:
    """One shared download of a node.  Made by `swarm.node.Node.add`, which also starts it.

    Implements what the exchange needs (`Keeper`) and what trackers are told (`Counters`); ``admission`` is its door.
    """

    def __init__(
        self,
        metainfo: Metainfo,
        directory: Path,
        lent: Lent,
        *,
        select: Collection[int] | None = None,
        peers: Iterable[Endpoint] = (),
        download_rate: int = 0,
        upload_rate: int = 0,
    ) -> None:
        """``select`` are the file indices to fetch, None for all; rates are bytes per second, 0 unlimited."""
        self.metainfo = metainfo
        self.directory = directory
        self.state: TorrentState = "queued"
        self.error: StorageError | None = None
        self.admission = Admission(metainfo.info_hash, lent, self._greeting)
        self._lent = lent
        self._config = lent.config
        self._selection = Selection(metainfo, select)
        self._manual = tuple(peers)
        self._disk = Disk(
            Storage(directory, metainfo, handles=lent.handles, preallocate=lent.config.preallocate),
            runner=lent.runner,
            cache=lent.cache,
        )
        self._keeping = Keeping(metainfo, self._disk, lent.runner, lent.resume_directory, lent.wall_clock, self._warn)
        self._limits = Limits(
            (lent.download_limit, TokenBucket(download_rate)), (lent.upload_limit, TokenBucket(upload_rate))
        )
        self._exchange: Exchange | None = None
        self._trackers: TrackerSource | None = None
        self._checking = (0, 0)
        self._checked = trio.Event()
        self._settled = trio.Event()
        self._failed = trio.Event()
        self._asked_at = 0.0

    def __repr__(self) -> str:
        return f"<Torrent {self.metainfo.name!r} {self.state}>"

    @property
    def info_hash(self) -> bytes:
        return self.metainfo.info_hash

    # -- life -------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Find out what is on disk, then take part.  Returns when the check is over; failure is told by ``state``."""
        if self.state != "queued":  # stopped before its turn came
            return
        self.state = "checking"
        self._lent.emit(TorrentAdded(self.info_hash, self.metainfo.name, self.metainfo.total_size))
        try:
            have = await self._check()
            await self._disk.prepare(self._selection.files)
            await self._keeping.save(have, self._keeping.before, self._keeping.peers, clean=False)
        except StorageError as error:
            self.storage_failed(error)
            self._checked.set()
            return
        self._lent.emit(TorrentChecked(self.info_hash, have.count, have.size))
        if self.state == "checking":  # not stopped meanwhile
            self._begin(have)
        self._checked.set()

    async def _check(self) -> Bitfield:
        have, doubtful = await self._keeping.recall()
        self._checking = (0, len(doubtful))

        def progress(looked_at: int, found: Bitfield) -> None:
            self._checking = (looked_at, len(doubtful))

        for index in await self._disk.check(doubtful, progress):
            have.add(index)
        return have

    def _begin(self, have: Bitfield) -> None:
        """The data is known: exchange pieces from now on."""
        metainfo, lent = self.metainfo, self._lent
        picker = Picker(metainfo.piece_count, metainfo.piece_length, metainfo.total_size, have, lent.rng, lent.memory)
        picker.set_wanted(self._selection.pieces)
        self._exchange = Exchange(
            metainfo,
            picker,
            self._disk,
            Choker(lent.rng, slots=self._config.upload_slots, upload_limit=self._config.upload_rate),
            self,
            config=self._config,
            limits=self._limits,
            emit=lent.emit,
            work=lent.work,
        )
        self.state = "downloading" if picker.wanted_left else "seeding"
        if not picker.wanted_left:
            self._settled.set()
        self.admission.open(self._exchange)
        self.admission.found(self._manual, "manual")
        self.admission.found(self._keeping.peers, "resume")
        if self._config.trackers:
            self._trackers = lent.announcer.add(
                metainfo.trackers,
                info_hash=self.info_hash,
                peer_id=lent.peer_id,
                counters=self,
                found=self.admission.found,
            )

    async def stop(self) -> None:
        """Leave the swarm and save; bounded by the caller's cancel scope, but the save itself is always finished.

        Trackers are told for as long as the scope allows.
        """
        exchange, trackers, self._trackers = self._exchange, self._trackers, None
        if self.state != "failed":
            self.state = "stopped"
        self.admission.shut("stopped")
        try:
            if exchange is not None:
                await exchange.wait_left()  # while the sockets are there to say goodbye through
            if trackers is not None:
                await trackers.stop()
        finally:
            if exchange is not None:
                with trio.CancelScope(shield=True):
                    await exchange.wait_stored()
                    try:
                        await self._save(exchange, clean=True)
                    finally:
                        self._disk.release()
            else:
                self._disk.release()

    def tick(self, now: float) -> None:
        """Once a second, by the node."""
        exchange = self._exchange
        if exchange is None or not self.running:
            return
        if exchange.connections:
            exchange.tick(now)
        if self._keeping.due(now):
            self._lent.work.start_soon(self._save_or_fail, exchange)
        if self.state == "downloading" and len(exchange.connections) < FEW_PEERS and now >= self._asked_at + ASK_AGAIN:
            self._asked_at = now
            if self._trackers is not None:
                self._trackers.want_more()

    @property
    def running(self) -> bool:
        """Whether peers are wanted and served."""
        return self.state in ("downloading", "seeding")

    async def wait_checked(self) -> None:
        """Block until the data on disk was looked at.  Raises StorageError if that, or anything later, failed."""
        await self._checked.wait()
        if self.error is not None:
            raise self.error

    async def wait_complete(self) -> None:
        """Block until everything wanted is on disk and verified.  Raises StorageError if the torrent failed."""
        await self._settled.wait()
        if self.error is not None:
            raise self.error

    async def wait_failed(self) -> StorageError:
        """Block until the file system stops the torrent, be it complete or not; why it did."""
        await self._failed.wait()
        assert self.error is not None
        return self.error

    async def _save_or_fail(self, exchange: Exchange) -> None:
        try:
            await self._save(exchange, clean=False)
        except StorageError as error:
            self.storage_failed(error)

    async def _save(self, exchange: Exchange, *, clean: bool) -> None:
        known = tuple(peer.endpoint for peer in self.admission.peers.most_useful(KEPT_PEERS))
        await self._keeping.save(exchange.have, Totals(*self._totals()), known, clean=clean)

    def _warn(self, message: str) -> None:
        self._lent.emit(Warned(message, self.info_hash))

    # -- numbers ----------------------------------------------------------------------------------------------------

    def statistics(self) -> TorrentStatistics:
        exchange = self._exchange
        down, up = exchange.totals() if exchange is not None else (0, 0)
        return TorrentStatistics(
            state=self.state,
            done=self._selection.size - exchange.picker.remaining_bytes if exchange is not None else 0,
            total=self._selection.size,
            pieces_had=exchange.have.count if exchange is not None else 0,
            pieces=self.metainfo.piece_count,
            downloaded=down,
            uploaded=up,
            wasted=exchange.wasted_now() if exchange is not None else 0,
            checked=self._checking[0],
            to_check=self._checking[1],
            peers_by_path=dict(Counter(peer.identity.path for peer in self.connections)),
            known_peers=len(self.admission.peers),
        )

    @property
    def connections(self) -> Sequence[PeerConnection]:
        """The peers of this moment."""
        return self._exchange.connections if self._exchange is not None else ()

    @property
    def have(self) -> Bitfield | None:
        """The verified pieces, once checked.  Not to be changed."""
        return self._exchange.have if self._exchange is not None else None

    def why(self) -> list[str]:
        """Why nothing, or no more, is arriving: peers, trackers and our port, each in a sentence for the user."""
        reasons = [f"peers: {self.admission.peers.why()}"] if len(self.admission.peers) else ["no peer is known"]
        if self.connections and self.state == "downloading":
            reasons.append(self._why_connected_peers_send_nothing())
        reasons += [_why_tracker(status) for status in self.tracker_statuses()]
        if not self.metainfo.trackers:
            reasons.append("the torrent names no tracker")
        elif not self._config.trackers:
            reasons.append("trackers are switched off")
        if not self._config.tcp and not self._config.utp:
            reasons.append("TCP and µTP are both switched off")
        port = self._lent.listening_port()
        reasons.append(f"we listen on port {port}" if port else f"offline: {self._config.bind} is not there")
        return reasons

    def _why_connected_peers_send_nothing(self) -> str:
        choking = sum(peer.downloader.choked for peer in self.connections)
        useless = sum(not peer.downloader.interested for peer in self.connections)
        return f"of {len(self.connections)} connected, {choking} choke us and {useless} have nothing that we need"

    def tracker_statuses(self) -> tuple[TrackerStatus, ...]:
        return self._trackers.statistics() if self._trackers is not None else ()

    @property
    def uploaded(self) -> int:
        """Payload bytes of this run, as trackers are told."""
        return self._exchange.totals()[1] if self._exchange is not None else 0

    @property
    def downloaded(self) -> int:
        return self._exchange.totals()[0] if self._exchange is not None else 0

    @property
    def left(self) -> int:
        return self._exchange.picker.remaining_bytes if self._exchange is not None else self._selection.size

    def _totals(self) -> tuple[int, int]:
        before = self._keeping.before
        return before.downloaded + self.downloaded, before.uploaded + self.uploaded

    # -- what the exchange reports ----------------------------------------------------------------------------------

    def piece_stored(self, index: int) -> None:
        assert self._exchange is not None
        self._keeping.piece_stored()
        if self.state == "downloading" and not self._exchange.picker.wanted_left:
            self.state = "seeding"
            self._keeping.completed()
            self._lent.emit(TorrentCompleted(self.info_hash))
            if self._trackers is not None:
                self._trackers.completed()
            self._settled.set()

    def storage_failed(self, error: StorageError) -> None:
        """Stop, keeping what is verified; safe to call for each of many failing pieces."""
        if self.state == "failed":
            return
        self.state = "failed"
        self.error = error
        self._failed.set()
        self.admission.shut("storage-failed")
        self._lent.emit(StorageFailed(self.info_hash, str(error)))
        self._settled.set()

    def condemned(self, culprit: Culprit) -> None:
        self.admission.condemned(culprit)

    def extended_handshake_received(self, peer: PeerConnection, theirs: ExtendedHandshake) -> None:
        if theirs.p and peer.identity.direction == "in":
            self.admission.listens_at(peer, theirs.p)

    def _greeting(self, identity: Identity) -> ExtendedHandshake:
        """Our extension handshake (BEP 10) for one peer."""
        return ExtendedHandshake(
            v=self._config.client_name,
            p=self._lent.listening_port() or None,
            reqq=MAX_QUEUED,
            yourip=identity.endpoint.host.partition("%")[0],
            metadata_size=len(self.metainfo.info_bytes),
            upload_only=True if self.state == "seeding" else None,
            e=True if self._config.encryption == "require" else None,
        )


def _why_tracker(status: TrackerStatus) -> str:
    if status.last_error:
        return f"tracker {status.url}: {status.last_error}"
    if status.last_peers is not None:
        return f"tracker {status.url}: answered with {status.last_peers} peers"
    return f"tracker {status.url}: no answer yet"
