"""One shared download from start to stop: metadata, check, exchange, sources of peers, and what is kept between runs.

The supervisor of one torrent.  Idle, it costs no task and no file handle: tasks exist for connections and pieces under
way only, and the node's ticker calls `Torrent.tick`.  The exchange of pieces itself is `swarm.torrent.exchange`; how
peers are reached is `swarm.connect`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

import trio

from swarm.bitfield import Bitfield
from swarm.discover.trackers import TrackerStatus
from swarm.endpoint import Endpoint
from swarm.errors import StorageError, SwarmError, UsageError
from swarm.events import StorageFailed, TorrentAdded, TorrentChecked, TorrentCompleted, Warned
from swarm.identity import Culprit
from swarm.peer import PeerConnection
from swarm.ratelimit import Share, TokenBucket
from swarm.torrent.beginning import Beginning
from swarm.torrent.choker import Choker
from swarm.torrent.connections import Connections
from swarm.torrent.content import Content
from swarm.torrent.exchange import Exchange, Limits
from swarm.torrent.extensions import Shared, equip, fall_silent
from swarm.torrent.greeting import greeting, whereabouts
from swarm.torrent.keeping import Totals
from swarm.torrent.lent import Lent
from swarm.torrent.magnet import Magnet
from swarm.torrent.metainfo import Metainfo
from swarm.torrent.metasource import MetadataSource
from swarm.torrent.picker import Picker
from swarm.torrent.seedlinks import kept_between_seeds
from swarm.torrent.selection import Selection
from swarm.torrent.sources import Sources
from swarm.torrent.telling import Telling, TorrentState, TorrentStatistics
from swarm.torrent.ways import Ways
from swarm.wire.extended import ExtendedHandshake

FEW_PEERS = 5
ASK_AGAIN = 60.0
"""With fewer connections than FEW_PEERS, sources are asked for more every so many seconds (as they allow)."""

KEPT_PEERS = 200
"""Peers written into the resume file."""

UNKNOWN_LEFT = 1
"""Bytes that trackers are told are missing while nobody knows how many: not 0, which would make us a seed."""

Select = Collection[int] | Callable[[Metainfo], Collection[int] | None] | None
"""The indices of the files to fetch, None for all; or what tells them once the metadata is there."""


class Torrent:
    """One shared download of a node.  Made by `swarm.node.Node.add`, which also starts it.

    Implements what the exchange needs (`Keeper`) and what trackers are told (`Counters`); ``admission`` is its door.
    """

    def __init__(
        self,
        source: Metainfo | Magnet,
        directory: Path,
        lent: Lent,
        *,
        select: Select = None,
        peers: Iterable[Endpoint] = (),
        download_rate: int = 0,
        upload_rate: int = 0,
    ) -> None:
        """Rates are bytes per second, 0 unlimited.  ValueError for a file that a known torrent does not have."""
        self.info_hash = source.info_hash
        self.directory = directory
        self.error: SwarmError | None = None
        self.metadata = MetadataSource(source, lent, self.condemned)
        self._lent = lent
        self._config = lent.config
        self._select = select
        self._high: Collection[int] = ()
        self._low: Collection[int] = ()
        self._manual = tuple(peers)
        self._shares = Share(lent.download_limit), Share(lent.upload_limit)
        self._limits = Limits(
            (self._shares[0], TokenBucket(download_rate)), (self._shares[1], TokenBucket(upload_rate))
        )
        self._connections = Connections()
        self.ways = Ways(self.info_hash, lent, self._connections, self._equip)
        self.admission = self.ways.admission
        self._shared = Shared(lent, self._connections, self.metadata, self.ways)
        self._sources = Sources(self.info_hash, lent, self.admission.found, counters=self)
        self._telling = Telling(lent, self._connections, self.admission, self.metadata, self._sources)
        self._content: Content | None = None
        self._exchange: Exchange | None = None
        self.state: TorrentState = "metadata"
        self._learnt = trio.Event()
        self._checked = trio.Event()
        self._settled = trio.Event()
        self._failed = trio.Event()
        self._asked_at = 0.0
        if isinstance(source, Metainfo):
            self._learn(source)

    def __repr__(self) -> str:
        return f"<Torrent {self.name!r} {self.state}>"

    @property
    def name(self) -> str:
        """What to call it: until the metadata is there, by what the link calls it, or its info-hash.  No file name."""
        return self._content.metainfo.name if self._content is not None else self.metadata.name

    @property
    def has_metadata(self) -> bool:
        """Whether there is a `metainfo`."""
        return self._content is not None

    @property
    def metainfo(self) -> Metainfo:
        """RuntimeError while only a magnet link is known: see `wait_metadata`."""
        if self._content is None:
            raise RuntimeError("the metadata is not there yet")
        return self._content.metainfo

    # -- life -------------------------------------------------------------------------------------------------------

    async def fetch_metadata(self) -> None:
        """Get the metadata from peers, or from what an earlier run has kept, if only a link is known.

        Returns when it is there, or when the torrent was stopped; failure is told by ``state``.
        """
        if self._learnt.is_set() or self.state != "metadata":
            return
        try:
            metainfo = await self.metadata.recall()
            if metainfo is None and self.state == "metadata":  # not stopped meanwhile
                metainfo = await self._fetch()
            if self.state == "metadata" and metainfo is not None:
                self._learn(metainfo)
        except SwarmError as error:
            self._fail(error, "bad-metadata")
        except ValueError as error:  # of the selection, which could not be checked before
            self._fail(UsageError(str(error)), "bad-selection")

    async def _fetch(self) -> Metainfo | None:
        self.admission.open(Beginning(self._lent, self._limits, self))
        self.admission.found(self._manual, "manual")
        self._sources.start(self.metadata.trackers, private=False)
        return await self.metadata.wait()

    def _learn(self, metainfo: Metainfo) -> None:
        """The metadata is there: from now on this is a torrent like any other."""
        select = self._select(metainfo) if callable(self._select) else self._select
        if metainfo.private:
            self.ways.become_private()
            self._sources.become_private()
        for peer in self._connections:
            silent = fall_silent(peer) if metainfo.private else {}
            peer.tell(ExtendedHandshake(m=peer.extensions.m | silent, metadata_size=len(metainfo.info_bytes)))
        selection = Selection(metainfo, select, high=self._high, low=self._low)
        self._content = Content(metainfo, self.directory, self._lent, selection, self._warn)
        self.state = "queued"
        self._learnt.set()

    async def open(self) -> None:
        """Find out what is on disk, then take part.  Returns when the check is over; failure is told by ``state``."""
        content = self._content
        if self.state != "queued" or content is None:  # stopped before its turn came
            return
        self.state = "checking"
        self._lent.emit(TorrentAdded(self.info_hash, self.name, content.metainfo.total_size))
        try:
            have = await content.check()
        except StorageError as error:
            self.storage_failed(error)
            return
        self._lent.emit(TorrentChecked(self.info_hash, have.count, have.size))
        if self.state == "checking":  # not stopped meanwhile
            self._begin(content, have)
        self._checked.set()

    def _begin(self, content: Content, have: Bitfield) -> None:
        """The data is known: exchange pieces from now on."""
        metainfo, lent = content.metainfo, self._lent
        picker = Picker(metainfo.piece_count, metainfo.piece_length, metainfo.total_size, have, lent.rng, lent.memory)
        selection = content.selection
        picker.set_wanted(selection.pieces, high=selection.high, low=selection.low)
        self._exchange = Exchange(
            metainfo,
            picker,
            content.disk,
            Choker(lent.rng, slots=self._config.upload_slots, upload_limit=self._limits.upload_rate),
            self,
            self._connections,
            config=self._config,
            limits=self._limits,
            emit=lent.emit,
            work=lent.work,
        )
        self.state = "downloading" if picker.wanted_left else "seeding"
        if not picker.wanted_left:
            self._settled.set()
        self.admission.open(self._exchange)
        self._exchange.begin()
        self.admission.found(self._manual, "manual")
        self.admission.found(content.keeping.peers, "resume")
        self._sources.start(metainfo.trackers, metainfo.nodes, private=metainfo.private)

    async def stop(self) -> None:
        """Leave the swarm and save; bounded by the caller's cancel scope, but the save itself is always finished.

        Trackers are told for as long as the scope allows.
        """
        if self.state != "failed":
            self.state = "stopped"
        self.ways.shut("stopped")
        self.metadata.stop()
        try:
            await self._connections.wait_left()  # while the sockets are there to say goodbye through
            await self._sources.stop()
        finally:
            with trio.CancelScope(shield=True):
                await self._put_away()

    async def _put_away(self) -> None:
        exchange, content = self._exchange, self._content
        if content is None:
            return
        try:
            if exchange is not None:
                await exchange.wait_stored()
                await self._save(exchange, content, clean=True)
        finally:
            content.disk.release()

    # -- while it runs ----------------------------------------------------------------------------------------------

    def choose(self, select: Select, *, high: Collection[int] = (), low: Collection[int] = ()) -> None:
        """Fetch these files from now on, ``high`` before the others and ``low`` after them; given by their indices.

        What is there of a file that is not wanted any more stays, and is shared.  ValueError for a file that a known
        torrent does not have: then nothing changes.
        """
        if (content := self._content) is not None:
            files = select(content.metainfo) if callable(select) else select
            content.selection = Selection(content.metainfo, files, high=high, low=low)
        self._select, self._high, self._low = select, high, low
        if content is not None and self._exchange is not None and self.state in ("downloading", "seeding"):
            self._lent.wake(self.info_hash)
            self._exchange.choose(content.selection)
            self._lent.work.start_soon(self._prepare, content)
            self._wanted_changed(self._exchange, content)

    def _wanted_changed(self, exchange: Exchange, content: Content) -> None:
        if exchange.picker.wanted_left and self.state == "seeding":
            self.state = "downloading"
            self._settled = trio.Event()
            self._lent.dialer.wake()
            self._sources.want_more()
        elif not exchange.picker.wanted_left and self.state == "downloading":
            self.state = "seeding"
            content.keeping.completed()
            self._settled.set()

    async def _prepare(self, content: Content) -> None:
        try:
            await content.disk.prepare(content.selection.files)
        except StorageError as error:
            self.storage_failed(error)

    def set_rates(self, download: int, upload: int, *, alone: bool = False) -> None:
        """Move no more than so many bytes a second, 0 unlimited; ``alone`` lifts the node's limits for this torrent."""
        now = trio.current_time()
        self._limits.download[1].set_rate(download, now)
        self._limits.upload[1].set_rate(upload, now)
        self._limits.alone = alone
        self.limits_changed()

    def set_share(self, weight: float) -> None:
        """Have so many times (at least 1) what others have of the node's limits, where these bind."""
        for share in self._shares:
            share.weight = weight

    def limits_changed(self) -> None:
        """The node's limits are others now."""
        if self._exchange is not None:
            self._exchange.limits_changed()

    async def set_trackers(self, tiers: Sequence[Sequence[str]]) -> None:
        """Announce to these instead of those that the torrent names.  Those left are told so, in this cancel scope."""
        await self._sources.set_trackers(tiers)

    def ask_for_peers(self) -> None:
        """Ask every source again, as soon as it allows."""
        self._sources.ask_again()

    def tick(self, now: float) -> bool:
        """Once a second, by the node.  False: there is nothing to do until `Lent.wake` is called."""
        if not self.running:
            return self.state != "stopped"
        if self._connections:
            standing = self._lent.standing
            if self._connections.tick(now, self._config.idle_timeout, standing.nat_tests.keep_alive):
                standing.may_be_cut_off()
            self.ways.tick(now)
            if self._exchange is not None:
                self._exchange.tick(now)
        if self._exchange is not None and self._content is not None and self._content.keeping.due(now):
            self._lent.work.start_soon(self._save_or_fail, self._exchange, self._content)
        if self.state != "seeding" and len(self._connections) < FEW_PEERS and now >= self._asked_at + ASK_AGAIN:
            self._asked_at = now
            self._sources.want_more()
        unsaved = self._content is not None and self._content.keeping.unsaved
        return self.state != "seeding" or bool(self._connections) or unsaved

    @property
    def running(self) -> bool:
        """Whether peers are wanted and served; while the data of a link is being checked they are kept."""
        if self.state in ("queued", "checking"):
            return bool(self._connections)
        return self.state in ("metadata", "downloading", "seeding")

    async def wait_metadata(self) -> Metainfo:
        """Block until the metadata is there.  Raises SwarmError if it, or anything later, failed."""
        await self._learnt.wait()
        if self.error is not None:
            raise self.error
        return self.metainfo

    async def wait_checked(self) -> None:
        """Block until the data on disk was looked at.  Raises SwarmError if that, or anything later, failed."""
        await self._checked.wait()
        if self.error is not None:
            raise self.error

    async def wait_complete(self) -> None:
        """Block until everything wanted is on disk and verified.  Raises SwarmError if the torrent failed."""
        await self._settled.wait()
        if self.error is not None:
            raise self.error

    async def wait_failed(self) -> SwarmError:
        """Block until the file system stops the torrent, be it complete or not; why it did."""
        await self._failed.wait()
        assert self.error is not None
        return self.error

    async def _save_or_fail(self, exchange: Exchange, content: Content) -> None:
        try:
            await self._save(exchange, content, clean=False)
        except StorageError as error:
            self.storage_failed(error)

    async def _save(self, exchange: Exchange, content: Content, *, clean: bool) -> None:
        known = tuple(peer.endpoint for peer in self.admission.peers.most_useful(KEPT_PEERS))
        await content.save(exchange.have, Totals(self.downloaded, self.uploaded), known, clean=clean)

    def _warn(self, message: str) -> None:
        self._lent.emit(Warned(message, self.info_hash))

    # -- numbers ----------------------------------------------------------------------------------------------------

    def statistics(self) -> TorrentStatistics:
        return self._telling.statistics(self.state, self._content, self._exchange)

    @property
    def connections(self) -> Collection[PeerConnection]:
        """The peers of this moment."""
        return tuple(self._connections)

    @property
    def connected(self) -> int:
        """How many there are; costs less than `connections`."""
        return len(self._connections)

    @property
    def have(self) -> Bitfield | None:
        """The verified pieces, once checked.  Not to be changed."""
        return self._exchange.have if self._exchange is not None else None

    @property
    def picker(self) -> Picker | None:
        """What is missing and who has it, once checked.  Not to be changed."""
        return self._exchange.picker if self._exchange is not None else None

    def why(self) -> list[str]:
        """Why nothing, or no more, is arriving: peers, sources and our port, each in a sentence for the user."""
        return self._telling.why(self.state, self._content)

    def tracker_statuses(self) -> tuple[TrackerStatus, ...]:
        return self._sources.tracker_statuses()

    @property
    def uploaded(self) -> int:
        """Payload bytes of this run, as trackers are told."""
        return self._connections.moved().up

    @property
    def downloaded(self) -> int:
        return self._connections.moved().down

    @property
    def left(self) -> int:
        if self._exchange is not None:
            return self._exchange.picker.remaining_bytes
        return self._content.selection.size if self._content is not None else UNKNOWN_LEFT

    # -- what the exchange reports ----------------------------------------------------------------------------------

    def piece_stored(self, index: int) -> None:
        assert self._exchange is not None and self._content is not None
        self._content.keeping.piece_stored()
        if self.state == "downloading" and not self._exchange.picker.wanted_left:
            self.state = "seeding"
            self._content.keeping.completed()
            self._lent.emit(TorrentCompleted(self.info_hash))
            self._sources.completed()
            self._settled.set()

    def storage_failed(self, error: StorageError) -> None:
        """Stop, keeping what is verified; safe to call for each of many failing pieces."""
        if self.state != "failed":
            self._lent.emit(StorageFailed(self.info_hash, str(error)))
            self._fail(error, "storage-failed")

    def _fail(self, error: SwarmError, reason: str) -> None:
        self.state = "failed"
        self.error = error
        self.ways.shut(reason)
        self._lent.work.start_soon(self._sources.stop)
        for event in (self._failed, self._learnt, self._checked, self._settled):
            event.set()

    def addresses_changed(self) -> None:
        """Tell connected peers where we are now (BEP 10)."""
        for peer in self._connections:
            peer.tell(whereabouts(peer, self._lent))

    def condemned(self, culprit: Culprit) -> None:
        self.admission.condemned(culprit)

    def extended_handshake_received(self, peer: PeerConnection, theirs: ExtendedHandshake) -> None:
        self.ways.handshake_received(peer, theirs)
        if theirs.yourip is not None and peer.identity.path not in ("relayed", "turn"):
            self._lent.standing.address_seen(peer.identity.endpoint.host, theirs.yourip, source="bep10")
        self.metadata.joined(peer)

    def kept_between_seeds(self) -> Collection[PeerConnection]:
        return kept_between_seeds(self._connections, hidden=self._lent.standing.is_hidden())

    def dht_node_told(self, peer: PeerConnection, port: int) -> None:
        if self._lent.dht is not None and self.admission.public:
            self._lent.dht.add_node(Endpoint(peer.identity.endpoint.host, port))

    # -- what peers are told ----------------------------------------------------------------------------------------

    def _equip(self, peer: PeerConnection) -> ExtendedHandshake:
        """Put our extensions on a new connection; our extension handshake (BEP 10) for it."""
        equip(peer, self._shared)
        if not peer.identity.handshake.extended:
            self.metadata.joined(peer)
        size = len(self.metainfo.info_bytes) if self._content is not None else None
        return greeting(peer, self._lent, metadata_size=size, seeding=self.state == "seeding")
