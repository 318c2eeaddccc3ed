"""`Node`: where everything is built and wired; no protocol lives here.

A node has two lives.  The *work* life (checking, hashing, writing, resume data) lasts from opening to closing.  The
*online* life (ports, dialling, accepting, trackers) starts when the address of ``--bind`` is there and ends with it;
without ``--bind`` it lasts as long.  Nothing is ever sent around a bind that went away.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from dht.results import NodeStatistics
from swarm.bitfield import Bitfield
from swarm.config import Config
from swarm.connect.acceptor import Acceptor
from swarm.connect.dial import NotingDials
from swarm.connect.dial_back import BackDialer
from swarm.connect.dialer import Dialer
from swarm.connect.encrypted import Encryption
from swarm.connect.relay_host import RelayHost
from swarm.connect.second_port import SecondPorts
from swarm.connect.shot_port import ShotPorts
from swarm.connect.standing import Standing
from swarm.connect.turning import Turning, turn_servers
from swarm.discover.dht_source import DhtSource
from swarm.discover.lsd import LocalDiscovery
from swarm.discover.tracker_client import Family, TrackerClient
from swarm.discover.trackers import Announcer
from swarm.endpoint import Endpoint
from swarm.errors import StorageError, SwarmError
from swarm.eventbus import EventBus
from swarm.events import INDIRECT_PATHS, Event, PeerConnected, Warned
from swarm.net.bound import bound, is_loopback
from swarm.net.listen import OpenPorts
from swarm.net.mux import MuxStatistics
from swarm.net.network import Network
from swarm.net.real import RealNetwork
from swarm.online import Online
from swarm.ownport import OwnPort
from swarm.ratelimit import TokenBucket
from swarm.snapshot import snapshot_of
from swarm.stats.document import build_document
from swarm.stats.fold import Stats
from swarm.stats.snapshot import Snapshot
from swarm.torrent.admission import Admission
from swarm.torrent.disk import Runner, threads
from swarm.torrent.examine import examine
from swarm.torrent.lent import Lent
from swarm.torrent.magnet import Magnet
from swarm.torrent.metainfo import Metainfo
from swarm.torrent.openfile import FileHandles
from swarm.torrent.openpiece import PieceMemory
from swarm.torrent.readcache import ReadCache
from swarm.torrent.torrent import Select, Torrent
from swarm.wire.encryption import hash_of_torrent
from swarm.wire.handshake import make_peer_id

GOODBYE = 2.5
"""Seconds in which closing may still talk to trackers; a command has three to leave in."""

TICK = 1.0

CHECKS_AT_ONCE = 2
"""Torrents whose data is looked at at the same time: more would only make the disk seek, and each holds a buffer."""


class Node:
    """A running node.  Made by `open_node`."""

    def __init__(
        self, config: Config, network: Network, rng: random.Random, runner: Runner, work: trio.Nursery
    ) -> None:
        self.config = config
        self.peer_id = make_peer_id(rng)
        self.port: int | None = None
        """What we listen on; None while offline."""
        self.ports: OpenPorts | None = None
        """The same with its sockets; None while offline."""
        self.torrents: dict[bytes, Torrent] = {}
        self.awake: dict[bytes, Torrent] = {}
        """Those of them with something to do; the others cost nothing."""
        self.opened_at = trio.current_time()
        self.max_connections = config.max_connections
        """Connections of all torrents together; may be changed."""
        self.stats = Stats()
        self._checks = trio.CapacityLimiter(CHECKS_AT_ONCE)
        self._bus = EventBus(trio.current_time)
        self.network = bound(network, config.bind)
        """What everything of the node goes through: never around its bind."""
        self._own_port = OwnPort(config, self.network, rng, self.emit)
        self._rng = rng
        self._work = work
        self._obfuscated: dict[bytes, bytes] = {}  # how encrypted handshakes name our torrents, to info-hash
        self._encryption = Encryption(config.encryption, self._obfuscated.get, rng, runner)
        self._announcer = Announcer(TrackerClient(self.network, {}), port=self._announced_port, rng=rng, emit=self.emit)
        alone = is_loopback(self.network)
        self.standing = Standing(
            config,
            self.network,
            rng=rng,
            emit=self.emit,
            asks_gateways=not alone,
            miniupnpc=isinstance(self.network, RealNetwork),
            learnt=self._tell_where_we_are,
            moved=self._moved,
        )
        strangers = self.standing.strangers
        dials = NotingDials(self.network, strangers.tcp_dialled)
        self._back_dialer = BackDialer(dials, self._encryption, strangers.has_met)
        self._dialer = Dialer(dials, config, self._doors, self._encryption, self._back_dialer.got_out)
        self._acceptor = Acceptor(
            config,
            self._door_of,
            self._encryption,
            self.emit,
            self._room,
            self._expects,
            came_in=strangers.tcp_came_in,
            dialled_back=strangers.dialled_back,
        )
        self._announcer.external_address = partial(self.standing.address_seen, source="tracker")
        self._told: object = None  # what peers were told last of where we are
        self._dht = self._make_dht(runner, public=not alone and not config.dht_bootstrap) if config.dht else None
        self._local: LocalDiscovery | None = None
        if config.lsd and not alone:
            self._local = LocalDiscovery(self.network, port=lambda: self.port or 0, rng=rng, emit=self.emit)
        self._shot_ports = ShotPorts(
            self.network, rng, birthdays=config.birthday, keepalive=self.standing.nat_tests.keep_alive
        )
        self._second_ports = SecondPorts(self.network)
        self.relay = RelayHost(config, self.standing, rng, lambda: self._online.datagrams())
        self.turning = Turning(
            self.network,
            turn_servers(config),
            rng,
            emit=self.emit,
            encryption=self._encryption,
            welcome=self._acceptor.take,
            opened=self._relayed_at,
        )
        self._lent = Lent(
            config=config,
            peer_id=self.peer_id,
            rng=random.Random(rng.getrandbits(64)),  # choosing pieces needs no system call per choice
            emit=self.emit,
            work=work,
            runner=runner,
            handles=FileHandles(),
            cache=ReadCache(),
            memory=PieceMemory(config.piece_memory),
            download_limit=TokenBucket(config.download_rate, now=trio.current_time()),
            upload_limit=TokenBucket(config.upload_rate, now=trio.current_time()),
            announcer=self._announcer,
            dht=self._dht,
            local=self._local,
            standing=self.standing,
            back_dialer=self._back_dialer,
            dialer=self._dialer,
            shot_ports=self._shot_ports,
            second_ports=self._second_ports,
            relay=self.relay,
            turning=self.turning,
            welcome=self._acceptor.take,
            wake=self._wake,
            wall_clock=time.time,
            resume_directory=config.state_directory / "resume" if config.state_directory is not None else None,
        )
        self._online = Online(self._lent, self.network, rng, self._acceptor, self._room)

    def _make_dht(self, runner: Runner, *, public: bool) -> DhtSource:
        return DhtSource(
            rng=self._rng,
            emit=self.emit,
            port=self._announced_port,
            implied_port=lambda family: self.standing.implied_port(ipv6=family == 6),
            bootstrap=self.config.dht_bootstrap,
            default_routers=public,
            network=self.network,
            directory=self.config.state_directory,
            runner=runner,
        )

    # -- for the user -----------------------------------------------------------------------------------------------

    def add(
        self,
        source: Metainfo | Magnet,
        directory: str | os.PathLike[str],
        *,
        select: Select = None,
        peers: Iterable[Endpoint] = (),
        download_rate: int = 0,
        upload_rate: int = 0,
    ) -> Torrent:
        """Share a torrent whose files are, or will be, beneath ``directory``; checking what is there begins at once,
        or when peers have sent the metadata that a link leaves out.

        ``select`` are indices of the files to fetch, None for all; or a function that tells them by the metainfo, and
        may raise SwarmError.  SwarmError if the node has this torrent already.
        """
        if source.info_hash in self.torrents:
            raise SwarmError(f"{self.torrents[source.info_hash].name} is already being shared")
        torrent = Torrent(
            source,
            Path(directory),
            self._lent,
            select=select,
            peers=peers,
            download_rate=download_rate,
            upload_rate=upload_rate,
        )
        self.torrents[source.info_hash] = self.awake[source.info_hash] = torrent
        self._introduce_us(torrent)
        self._obfuscated[hash_of_torrent(source.info_hash)] = source.info_hash
        self._work.start_soon(self._open, torrent)
        if isinstance(source, Magnet):
            for host, port in source.peers:
                self._work.start_soon(self._find_peer, torrent, host, port)
        return torrent

    async def remove(self, torrent: Torrent) -> None:
        """Stop sharing a torrent; its files and resume data stay.  Trackers are told for at most GOODBYE seconds."""
        try:
            with trio.move_on_after(GOODBYE):
                await torrent.stop()
        finally:
            del self.torrents[torrent.info_hash]
            self.awake.pop(torrent.info_hash, None)
            del self._obfuscated[hash_of_torrent(torrent.info_hash)]

    def set_rates(self, download: int, upload: int) -> None:
        """Move no more than so many bytes a second, all torrents together; 0 is unlimited."""
        now = trio.current_time()
        self._lent.download_limit.set_rate(download, now)
        self._lent.upload_limit.set_rate(upload, now)
        for torrent in self.torrents.values():
            torrent.limits_changed()

    async def examine(
        self, metainfo: Metainfo, directory: str | os.PathLike[str], progress: Callable[[int, int], object]
    ) -> Bitfield:
        """The pieces of a torrent that does not run which are on disk and right, every one hashed; kept for its start.

        ``progress`` is told how many were looked at, of how many, once its turn has come.  Raises StorageError.
        """
        async with self._checks:
            return await examine(metainfo, Path(directory), self._lent, self.emit, progress)

    def events(self, capacity: int = 1000) -> AbstractAsyncContextManager[AsyncIterator[tuple[float, Event]]]:
        """Facts from now on, as ``(trio time, event)``; see `EventBus.subscribe`."""
        return self._bus.subscribe(capacity)

    def socket_statistics(self) -> dict[Family, MuxStatistics]:
        """What passed through the UDP sockets since they were opened, by address family; empty while offline."""
        return self._online.socket_statistics()

    def dht_statistics(self) -> dict[Family, NodeStatistics]:
        """What our DHT nodes did so far, by address family; empty without the DHT."""
        return self._online.dht_statistics()

    def snapshot(self) -> Snapshot:
        """What the node knows now and no event tells."""
        return snapshot_of(self)

    def document(self) -> dict[str, Any]:
        """The statistics of the shared interface: how peers are reached, and why others are not; see
        `swarm.stats.document`.  Plain dictionaries and lists, as `json` takes them."""
        return build_document(self.stats, self.snapshot())

    def emit(self, event: Event) -> None:
        """State a fact: it is counted, then told to whoever listens."""
        self.stats.apply(trio.current_time(), event)
        if isinstance(event, PeerConnected) and event.direction == "in" and event.path not in INDIRECT_PATHS:
            self.standing.peer_came_in(event.endpoint)
        self._bus.emit(event)

    # -- life -------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be online whenever the bind is there, until cancelled.

        ``started`` is called when the ports are open, or when the bind turns out to be missing.  SwarmError if the
        port that was asked for is taken.
        """
        started = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tick)
            if not await self._encryption.prepare():
                self.emit(Warned("encryption is slow here, some 2 MB/s: 'pip install swarm-bt[encryption]' cures it"))
            if self._dht is not None:
                await self._dht.load()
            while True:
                ports = await self._own_port.open()
                if not started:
                    started = True
                    task_status.started()
                if ports is not None:
                    await self._be_online(ports)
                await self._own_port.wait_back()
                for door in self._doors():
                    door.retry_all()

    async def close(self) -> None:
        """Leave every swarm and save, within GOODBYE seconds but for the disk.  Raises nothing: failures are events."""
        self.standing.stop()  # gateways close our port meanwhile
        with trio.move_on_after(GOODBYE):
            async with trio.open_nursery() as nursery:
                for torrent in self.torrents.values():
                    nursery.start_soon(self._stop, torrent)

    async def _find_peer(self, torrent: Torrent, host: str, port: int) -> None:
        """A peer that a link names (``x.pe``), perhaps by name."""
        try:
            torrent.admission.found(await self.network.resolve(host, port), "manual")
        except OSError as error:
            self.emit(Warned(f"cannot find the address of the peer {host}: {error.strerror}", torrent.info_hash))

    async def _open(self, torrent: Torrent) -> None:
        await torrent.fetch_metadata()
        async with self._checks:
            if torrent.info_hash in self.torrents:
                await torrent.open()

    async def _stop(self, torrent: Torrent) -> None:
        try:
            await torrent.stop()
        except StorageError as error:
            self.emit(Warned(str(error), torrent.info_hash))

    def _wake(self, info_hash: bytes) -> None:
        if (torrent := self.torrents.get(info_hash)) is not None:
            self.awake[info_hash] = torrent

    async def _tick(self) -> None:
        while True:
            await trio.sleep(TICK)
            now = trio.current_time()
            for torrent in tuple(self.awake.values()):
                if not torrent.tick(now):
                    del self.awake[torrent.info_hash]

    async def _be_online(self, ports: OpenPorts) -> None:
        """Dial, accept and announce; returns when the bind is gone."""
        self.port = ports.port
        self.ports = ports
        self.standing.online(ports.port)
        try:
            async with trio.open_nursery() as nursery:
                self._online.start(ports, nursery)
                nursery.start_soon(self._watch_addresses)
                await self._own_port.wait_lost()
                self._drop_connections("network-lost")
                nursery.cancel_scope.cancel()
        finally:
            self.port = self.ports = None
            self._online.ended()
            self.standing.offline()
            ports.close()

    async def _watch_addresses(self) -> None:
        while True:
            await self.network.wait_address_change()
            self.standing.network_changed()
            self._moved(False)

    def _moved(self, port_changed: bool) -> None:
        """Where we said that we are, we may not be any more."""
        if port_changed:
            self._announcer.port_changed()
        self._announcer.network_changed()
        if self._dht is not None:
            self._dht.network_changed()

    def _tell_where_we_are(self) -> None:
        standing = self.standing
        told = [(standing.own_address(ipv6), standing.port_to_announce(ipv6=ipv6)) for ipv6 in (False, True)]
        for torrent in tuple(self.torrents.values()):
            self._introduce_us(torrent)
            if told != self._told:
                torrent.addresses_changed()
        self._told = told

    def _introduce_us(self, torrent: Torrent) -> None:
        """Sources name us, too: we are no peer of ours, and BEP 40 goes by where peers see us."""
        for ours in self.standing.own_endpoints():
            torrent.admission.peers.set_our_address(ours)
        for relayed in self.turning.relayed_endpoints():
            torrent.admission.peers.exclude(relayed)

    def _relayed_at(self, relayed: Endpoint) -> None:
        """A server receives for us there: that is no peer of ours."""
        for torrent in self.torrents.values():
            torrent.admission.peers.exclude(relayed)

    def _drop_connections(self, reason: str) -> None:
        for torrent in self.torrents.values():
            for peer in tuple(torrent.connections):
                peer.close(reason)

    def _doors(self) -> Sequence[Admission]:
        return [torrent.admission for torrent in self.torrents.values()]

    def _door_of(self, info_hash: bytes) -> Admission | None:
        torrent = self.torrents.get(info_hash)
        return torrent.admission if torrent is not None else None

    def _expects(self, remote: Endpoint) -> bool:
        return any(torrent.ways.punching.expects(remote) for torrent in self.torrents.values())

    def _room(self) -> int:
        """How many more connections the node takes."""
        return self.max_connections - sum(torrent.connected for torrent in self.torrents.values())

    def _announced_port(self, family: Family) -> int:
        return self.standing.port_to_announce(ipv6=family == 6)


@asynccontextmanager
async def open_node(
    config: Config | None = None,
    *,
    network: Network | None = None,
    rng: random.Random | None = None,
    runner: Runner | None = None,
) -> AsyncIterator[Node]:
    """A node that runs until the block is left; then it says goodbye and saves, within three seconds but for the disk.

    ``network``, ``rng`` and ``runner`` (how blocking calls are run) are for simulations.  Raises SwarmError if a port
    that was asked for is taken.  An exception of the block comes out as it is, not wrapped in a group.
    """
    try:
        async with trio.open_nursery() as work:
            node = Node(
                config or Config(),
                network or RealNetwork(),
                rng or random.SystemRandom(),
                runner or threads(),
                work,
            )
            await work.start(node.run)
            try:
                yield node
            finally:
                with trio.CancelScope(shield=True):
                    await node.close()
                work.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise lone_exception(group) from None


def lone_exception(error: BaseException) -> BaseException:
    """What a nursery wrapped, if it wrapped a single exception; otherwise the group as it is."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
