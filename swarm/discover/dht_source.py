"""The DHT as a source of peers: every torrent of a node, over IPv4 and IPv6 side by side (BEP 5, 32).

Wires the queue of each family (`swarm.discover.dht_searches`), the way in (`dht_bootstrap`) and what is kept between
runs (`dht_files`).  The protocol is `dht`'s.  Private torrents (BEP 27) must not be given to it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import trio

from dht.nodeid import ID_SIZE
from dht.service import DhtService
from dht.state import MAX_NODES, SavedState
from dht.table import K
from swarm.discover.dht_bootstrap import Bootstrap
from swarm.discover.dht_files import load_state, save_state, state_path
from swarm.discover.dht_searches import FamilySearches, Found, TorrentSearch
from swarm.discover.tracker_client import Family
from swarm.endpoint import Endpoint
from swarm.events import Emit, Warned
from swarm.net.network import Network
from swarm.torrent.disk import Runner, threads

FIRST_SAVE, SAVE_INTERVAL = 60.0, 600.0
"""Seconds until the tables are saved for the first time, and from then on."""

FAMILIES: tuple[Family, Family] = (4, 6)


@dataclass(frozen=True, slots=True)
class DhtStatistics:
    """One family's node: ``nodes`` in its table now, the rest counts since the beginning, over all its sockets."""

    nodes: int = 0
    queries_in: int = 0
    queries_out: int = 0
    answers: int = 0
    """To queries of others."""
    lookups: int = 0


@dataclass(frozen=True, slots=True)
class DhtTorrentStatus:
    """One torrent in the DHT as it stands now, both families together."""

    state: Literal["offline", "waiting-for-nodes", "queued", "searching", "waiting"]
    """``queued``: other torrents are searched for first; ``waiting``: for the next search."""
    peers: int | None
    """Found by the last search, or so far by the first; None before it."""
    nodes: int | None
    """That answered in the last search."""
    announced: int | None
    """Nodes that store us since the last search."""
    next_search: float | None
    """Seconds until the next search; None while searching or offline."""
    hindrance: str
    """Why no node is known; empty where some are."""

    def why(self) -> str:
        """A phrase for the user."""
        if self.state == "offline":
            return "the DHT is offline"
        if self.state == "waiting-for-nodes":
            return f"the DHT knows no node yet ({self.hindrance})"
        if self.nodes is not None:
            return f"the DHT: {_count(self.peers or 0, 'peer')} from {_count(self.nodes, 'node')}"
        if self.state == "searching":
            return f"searching the DHT: {_count(self.peers, 'peer')} so far" if self.peers else "searching the DHT"
        return "the DHT: other torrents are searched for first"


class DhtSource:
    """Searches for the peers of all torrents of a node, and announces it, while `run` runs.

    ``port`` is what strangers reach us on by each family, 0 where they do not; ``implied_port`` whether that is the
    port they see our datagrams come from.  ``bootstrap`` are HOST:PORT of routers, ValueError for one that is not;
    ``default_routers`` adds the public ones, which are asked where the saved tables do not suffice.  The tables are
    kept in ``directory``, None keeps nothing; ``runner`` reads and writes there.
    """

    def __init__(
        self,
        *,
        rng: random.Random,
        emit: Emit,
        port: Callable[[Family], int],
        implied_port: Callable[[Family], bool],
        bootstrap: Sequence[str],
        default_routers: bool = True,
        network: Network,
        directory: Path | None,
        runner: Runner | None = None,
    ) -> None:
        self._rng = rng
        self._emit = emit
        self._directory = directory
        self._runner = threads() if runner is None else runner
        self._searches = {
            family: FamilySearches(port=partial(port, family), implied_port=partial(implied_port, family))
            for family in FAMILIES
        }
        self._bootstrap = Bootstrap(
            bootstrap, public=default_routers, network=network, rng=rng, emit=emit, asking=self._look_soon
        )
        self._services: Mapping[Family, DhtService] = {}
        self._before = dict.fromkeys(FAMILIES, DhtStatistics())
        self._saved: dict[Family, SavedState] = {}
        self._written: dict[Family, bytes] = {}
        self._unwritable = False

    def add(
        self, info_hash: bytes, found: Found, *, nodes: Iterable[tuple[str, int]] = (), announce: bool = True
    ) -> DhtTorrent:
        """Begin to search for a torrent, which must not be a private one (BEP 27); its first search is due at once.

        ``found`` is called with peers as they are found, those of strangers' choosing: check `is_dialable`.  ``nodes``
        is the torrent's key of that name: hosts and ports.  ``announce`` False only searches.  ValueError for an
        info-hash that is not 20 bytes.  End with `DhtTorrent.stop`.
        """
        if len(info_hash) != ID_SIZE:
            raise ValueError(f"an info-hash has {ID_SIZE} bytes, not {len(info_hash)}")
        torrent = DhtTorrent(self, info_hash, found, announce, self._rng)
        for family, search in torrent.searches.items():
            self._searches[family].add(search)
        self._bootstrap.add_hints(nodes)
        return torrent

    def add_node(self, endpoint: Endpoint) -> None:
        """There may be a node: a peer said so (BEP 5, PORT).  It is asked if we are online."""
        service = self._services.get(6 if endpoint.is_ipv6 else 4)
        if service is not None:
            service.add_address(endpoint)
            self._look_soon()

    def network_changed(self) -> None:
        """Our addresses or routes changed: announce where we are now, and look again for whom to ask."""
        self._bootstrap.wake()
        for searches in self._searches.values():
            searches.network_changed()

    async def load(self) -> None:
        """Read the tables of the last run.  Call it once, before the first `saved`; a damaged file is one `Warned`."""
        if self._directory is None:
            return
        warnings: list[str] = []  # the runner's thread must not emit events itself
        for family in FAMILIES:
            state = await self._runner(load_state, self._directory, family, warnings.append)
            if state is not None:
                self._saved[family] = state
                self._written[family] = state.encode()
        for warning in warnings:
            self._emit(Warned(warning))

    def saved(self, family: Family) -> SavedState | None:
        """What a new node of this family is to start from: the last table, of this run or of the one before."""
        return self._saved.get(family)

    async def run(self, services: Mapping[Family, DhtService]) -> None:
        """Search while online, until cancelled; then save, which waits for the disk alone.

        Starts and pairs the ``services``.  It may run again, with others.
        """
        self._services = services
        if len(services) == len(FAMILIES):
            services[4].pair_with(services[6])
        for service in services.values():
            service.start()
        restored = any(self._saved[family].nodes for family in services if family in self._saved)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_saving)
                for family, service in services.items():
                    nursery.start_soon(self._searches[family].run, service)
                await self._bootstrap.run(services.values(), restored=restored)
        finally:
            self._take_tables()
            self._before = {family: self._sum(family, nodes=False) for family in FAMILIES}
            self._services = {}
            with trio.CancelScope(shield=True):
                await self._save()

    def statistics(self) -> dict[Family, DhtStatistics]:
        """By family, both of them always."""
        return {family: self._sum(family, nodes=True) for family in FAMILIES}

    # -- for the torrents ---------------------------------------------------------------------------------------------

    def remove(self, torrent: DhtTorrent) -> None:
        """Search no more for it."""
        for family, search in torrent.searches.items():
            self._searches[family].remove(search)

    def want_more(self, torrent: DhtTorrent) -> None:
        """Search again for it as soon as may be."""
        for family, search in torrent.searches.items():
            self._searches[family].want_more(search)

    def status(self, torrent: DhtTorrent) -> DhtTorrentStatus:
        """See `DhtTorrent.statistics`."""
        now = trio.current_time()
        online = [search for family, search in torrent.searches.items() if family in self._services]
        able = [search for family, search in torrent.searches.items() if self._searches[family].knows_nodes]
        outcomes = [search.last for search in torrent.searches.values() if search.last is not None]
        searching = [search for search in able if search.under_way]
        due = min((search.times.due for search in able), default=now)
        state: Literal["offline", "waiting-for-nodes", "queued", "searching", "waiting"]
        if not online:
            state = "offline"
        elif searching:
            state = "searching"
        elif not able:
            state = "waiting-for-nodes"
        else:
            state = "queued" if due <= now else "waiting"
        peers = sum(outcome.peers for outcome in outcomes) or sum(search.peers for search in searching)
        return DhtTorrentStatus(
            state=state,
            peers=peers if outcomes or searching else None,
            nodes=sum(outcome.nodes for outcome in outcomes) if outcomes else None,
            announced=sum(outcome.announced for outcome in outcomes) if outcomes else None,
            next_search=max(0.0, due - now) if state in ("queued", "waiting") else None,
            hindrance="" if able else self._bootstrap.why(),
        )

    # -- the rest -----------------------------------------------------------------------------------------------------

    def _look_soon(self) -> None:
        for searches in self._searches.values():
            searches.look_soon()

    def _sum(self, family: Family, *, nodes: bool) -> DhtStatistics:
        before, service = self._before[family], self._services.get(family)
        if service is None:
            return before
        now = service.statistics()
        return DhtStatistics(
            nodes=now.nodes if nodes else 0,
            queries_in=before.queries_in + now.queries_in,
            queries_out=before.queries_out + now.queries_out,
            answers=before.answers + now.answers,
            lookups=before.lookups + now.lookups,
        )

    async def _keep_saving(self) -> None:
        pause = FIRST_SAVE
        while True:
            await trio.sleep(pause)
            pause = SAVE_INTERVAL
            self._take_tables()
            await self._save()

    def _take_tables(self) -> None:
        for family, service in self._services.items():
            self._saved[family] = _merged(service.saved_state(), self._saved.get(family))

    async def _save(self) -> None:
        """Write what has changed.  A directory that cannot be written costs a bootstrap: a warning and no more."""
        directory = self._directory
        if directory is None:
            return
        for family, state in tuple(self._saved.items()):
            content = state.encode()
            if content == self._written.get(family):
                continue
            try:
                await self._runner(save_state, directory, family, content)
            except OSError as error:
                if not self._unwritable:
                    self._emit(Warned(f"cannot save {state_path(directory, family)}: {error.strerror}"))
                self._unwritable = True
            else:
                self._written[family] = content
                self._unwritable = False


class DhtTorrent:
    """One torrent in the DHT.  Made by `DhtSource.add`."""

    def __init__(self, source: DhtSource, info_hash: bytes, found: Found, announce: bool, rng: random.Random) -> None:
        self.info_hash = info_hash
        self.found = found
        self.announce = announce
        """Whether searches announce us, from the next one on."""
        self.searches = {family: TorrentSearch(self, rng) for family in FAMILIES}
        self._source = source

    def want_more(self) -> None:
        """We are out of peers: search again, a minute after the last search began."""
        self._source.want_more(self)

    def stop(self) -> None:
        """Search no more.  Nodes forget by themselves that we were there.  Safe to call twice."""
        self._source.remove(self)

    def statistics(self) -> DhtTorrentStatus:
        """Where the search for this torrent stands."""
        return self._source.status(self)


def _merged(state: SavedState, before: SavedState | None) -> SavedState:
    """``state``, with the nodes known before where it has hardly any: an outage must not cost the way back in."""
    if before is None or len(state.nodes) >= K:
        return state
    nodes = dict.fromkeys([*state.nodes, *before.nodes])
    return SavedState(state.node_id, tuple(nodes)[:MAX_NODES])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
