"""Whom a DHT node asks that knows nobody (BEP 5): routers by name, and the ``nodes`` of torrents.

Resolves names and hands the addresses to `dht.service.DhtService`, which does the asking.  The public routers are asked
only where the saved table turns out to be of no use: they serve everybody.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import trio

from dht.service import DhtService
from dht.table import K
from swarm.discover.tracker_client import Family
from swarm.endpoint import Endpoint, split_host_port
from swarm.events import Emit, Warned
from swarm.net.network import Network

DEFAULT_ROUTERS = (
    "router.bittorrent.com:6881",
    "dht.transmissionbt.com:6881",
    "router.utorrent.com:6881",
    "dht.libtorrent.org:25401",
)
"""Public routers, of both families as far as their names have addresses."""

FIRST_PAUSE, LONGEST_PAUSE = 3.0, 900.0
"""Seconds until names are resolved again while a family knows fewer than k nodes, doubled up to the longest."""

SHORTEST_PAUSE = 1.0
"""Seconds between two rounds, however often there is news."""

LOOK_PAUSE = 30.0
"""Seconds between looks at how many nodes are known, while they are enough."""

MAX_ADDRESSES = 8
"""Addresses of one name that are used, of each family."""

MAX_HINTS = 200
"""Nodes named by torrents that are remembered; the oldest give way."""

HINTS_AT_ONCE = 16


@dataclass(slots=True, eq=False)
class Router:
    """A name and what became of it."""

    host: str
    port: int
    public: bool
    """One of `DEFAULT_ROUTERS`."""
    addresses: Sequence[Endpoint] = ()
    error: str = ""
    """Why the last look-up failed; empty after one that did not."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Bootstrap:
    """Makes the nodes of both families acquainted, again and again while they are not.

    ``names`` are HOST:PORT, asked in any case; ValueError for one that is not.  A name of these that does not resolve
    is one `Warned` until it did.  ``asking`` is called whenever somebody is about to be asked.
    """

    def __init__(
        self,
        names: Collection[str],
        *,
        public: bool,
        network: Network,
        rng: random.Random,
        emit: Emit,
        asking: Callable[[], None],
    ) -> None:
        routers = [Router(*split_host_port(name), public=False) for name in dict.fromkeys(names)]
        if public:
            routers += [Router(*split_host_port(name), public=True) for name in DEFAULT_ROUTERS if name not in names]
        self._routers = routers
        self._network = network
        self._rng = rng
        self._emit = emit
        self._asking = asking
        self._hints: dict[tuple[str, int], None] = {}
        self._woken = trio.Event()

    def add_hints(self, nodes: Iterable[tuple[str, int]]) -> None:
        """Hosts (names or addresses) and ports of nodes that a torrent names."""
        for node in nodes:
            if node not in self._hints:
                self._woken.set()
            self._hints.pop(node, None)
            self._hints[node] = None
        while len(self._hints) > MAX_HINTS:
            del self._hints[next(iter(self._hints))]

    def wake(self) -> None:
        """Look at once whether somebody is to be asked: the network has changed."""
        self._woken.set()

    def why(self) -> str:
        """Why nobody is known, as far as routers are concerned: a few words."""
        found = sum(bool(router.addresses) for router in self._routers)
        errors = [f"{router}: {router.error}" for router in self._routers if router.error]
        if found:
            return f"no answer from {found} router{'s' if found > 1 else ''}"
        if errors:
            return f"no name of a router resolves: {errors[0]}"
        return "routers are being looked up" if self._routers else "there is no router to ask"

    async def run(self, services: Collection[DhtService], *, restored: bool) -> None:
        """Until cancelled.  ``restored``: a node starts from a saved table, which is to have its chance first."""
        lonely = list(services)
        routers = [router for router in self._routers if not (router.public and restored)]
        pause = FIRST_PAUSE
        while True:
            self._woken = trio.Event()
            if lonely:
                await self._ask(routers, lonely)
                await trio.sleep(SHORTEST_PAUSE)
            with trio.move_on_after(pause if lonely else LOOK_PAUSE):
                await self._woken.wait()
            pause = FIRST_PAUSE if self._woken.is_set() or not lonely else min(2 * pause, LONGEST_PAUSE)
            lonely = [service for service in services if service.statistics().nodes < K]
            routers = self._routers

    async def _ask(self, routers: Iterable[Router], services: Sequence[DhtService]) -> None:
        """Give ``services`` the addresses as they are found; a name that takes long keeps no other waiting."""
        hints = self._rng.sample(list(self._hints), min(HINTS_AT_ONCE, len(self._hints)))
        async with trio.open_nursery() as nursery:
            for router in routers:
                nursery.start_soon(self._ask_router, router, services)
            for host, port in hints:
                nursery.start_soon(self._ask_hint, host, port, services)

    async def _ask_router(self, router: Router, services: Iterable[DhtService]) -> None:
        try:
            found = await self._network.resolve(router.host, router.port)
        except OSError as error:
            if not router.error and not router.public:
                self._emit(Warned(f"the DHT router {router} is not found ({error.strerror}); it is tried again"))
            router.error = error.strerror or str(error)
            return
        router.error = ""
        router.addresses = [*_of(4, found), *_of(6, found)]
        known = [endpoint for each in self._routers for endpoint in each.addresses]
        for service in services:
            service.bootstrap([endpoint for endpoint in known if endpoint.is_ipv6 == service.node.ipv6])
        self._asking()

    async def _ask_hint(self, host: str, port: int, services: Iterable[DhtService]) -> None:
        try:
            found = await self._network.resolve(host, port)
        except OSError:
            return  # one of many; nobody can do anything about it
        for service in services:
            for endpoint in _of(6 if service.node.ipv6 else 4, found):
                service.add_address(endpoint)
        self._asking()


def _of(family: Family, endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    return [endpoint for endpoint in endpoints if endpoint.is_ipv6 == (family == 6)][:MAX_ADDRESSES]
