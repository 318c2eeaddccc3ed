"""Local Service Discovery (BEP 14): torrents announced to, and peers found on, the networks this machine is part of.

One socket for each interface and address family, on a port shared with every other client of this machine.  The
datagrams are `swarm.wire.lsd`.  Knows nothing of private torrents: whoever calls `LocalDiscovery.add` leaves them out.

When a torrent is announced is `swarm.discover.lsd_schedule`: at once, a minute later, and then every five.  Other
clients never answer; we do, within seconds, so that a newcomer whose firewall lets nobody in need not wait for five
minutes to learn whom it could dial.
"""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple

import trio

from dht.limits import Memory, Rate, RatePerHost
from swarm.discover.lsd_schedule import Schedule
from swarm.discover.trackers import Found
from swarm.endpoint import Endpoint, is_dialable
from swarm.errors import RemoteProtocolError
from swarm.events import Emit, Warned
from swarm.net.network import DatagramSocket, Interface, InterfaceAddress, Network, Outgoing, Path
from swarm.wire.lsd import GROUP, GROUP6, decode_announcement_untrusted, encode_announcement

REOPEN_AFTER = 300.0
"""Seconds until a socket that could not be opened is tried again, if no address changes before."""

NEWCOMER_AFTER = 900.0
"""Seconds of silence after which a neighbour is a newcomer again."""

HOPS = 32
"""The groups are of an organisation's scope; whether their datagrams are routed is for the routers to say."""

MAX_SOCKETS = 64
"""Beyond it, interfaces with nothing but a link-local address (the veth pairs of containers) are left out first."""

SENDER_RATE, SENDER_BURST = 10.0, 200.0
"""Datagrams a second, and at once, of one address: a libtorrent that starts a thousand torrents sends for each."""

TOTAL_RATE, TOTAL_BURST = 200.0, 1000.0
"""The same for all senders together.  At 10 to 30 µs each that is less than a hundredth of a core."""

MAX_FAILURES = 256
"""Interfaces and reasons that are counted apart."""


@dataclass(frozen=True, slots=True)
class LocalStatistics:
    """Totals since the start, in datagrams, and what is open now."""

    torrents: int
    sockets: tuple[str, ...]
    """Interface and address of each that is open: "eth0 192.0.2.1"."""
    announcements_out: int
    announcements_in: int
    """From others, and understood."""
    foreign: int
    """Of these, naming no torrent of ours."""
    own: int
    """Our own that came back."""
    malformed: int
    limited: int
    """Not looked at, because there were too many, from one sender or in all."""
    failures: Mapping[tuple[str, str], int]
    """Opening a socket or sending, by interface and reason ("EADDRINUSE")."""


class LocalDiscovery:
    """Announces all torrents of a node on its local networks, and hears its neighbours, while `run` runs.

    ``port`` is what we listen on, for TCP and µTP; it is asked for at each announcement, and as long as it is 0 there
    is none.  It is the port on *this* machine, not the one that a gateway forwards.  One `Warned` is emitted when not
    a single socket could be opened although there are interfaces for it.
    """

    def __init__(self, network: Network, *, port: Callable[[], int], rng: random.Random, emit: Emit) -> None:
        self.port = port
        self.rng = rng
        self.cookie = b"%016x" % rng.getrandbits(64)
        self.announcements_out = 0
        self._network = network
        self._emit = emit
        self._sources: dict[bytes, LocalSource] = {}
        self._links: dict[_Place, _Link] = {}
        self._senders = RatePerHost(SENDER_RATE, SENDER_BURST)
        self._total = Rate(TOTAL_RATE, TOTAL_BURST)
        self._neighbours: Memory[tuple[bytes, Endpoint, bytes]] = Memory(NEWCOMER_AFTER)
        self._heard: Counter[str] = Counter()
        self._failures: Counter[tuple[str, str]] = Counter()
        self._warned = False

    def add(self, info_hash: bytes, found: Found) -> LocalSource:
        """Begin to announce a torrent, at once, and to call ``found`` with each neighbour that announces it.

        A peer is the address a neighbour sends from, a link-local one with its scope, and the port that it names.
        It is named again whenever it is heard again.  Never for a private torrent (BEP 27): the caller sees to that.
        ``info_hash`` has 20 bytes; that of a version 2 torrent is cut to as many.  ValueError if it is here already.
        End with `LocalSource.stop`.
        """
        if len(info_hash) != 20 or info_hash in self._sources:
            raise ValueError(f"{info_hash.hex()} is announced already, or no info-hash of 20 bytes")
        source = self._sources[info_hash] = LocalSource(self, info_hash, found)
        for link in self._links.values():
            link.add((info_hash,))
        return source

    def remove(self, info_hash: bytes) -> None:
        """For `LocalSource.stop`."""
        del self._sources[info_hash]
        for link in self._links.values():
            link.schedule.remove(info_hash)

    async def run(self) -> None:
        """Announce and listen until cancelled; the sockets follow the addresses of this machine.

        An interface that cannot be used is counted, left out, and tried again.
        """
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    await self._follow_addresses(nursery)
                    with trio.move_on_after(REOPEN_AFTER):
                        await self._network.wait_address_change()
        finally:
            self._links.clear()

    def statistics(self) -> LocalStatistics:
        heard = self._heard
        return LocalStatistics(
            torrents=len(self._sources),
            sockets=tuple(f"{place.interface} {place.host}" for place in self._links),
            announcements_out=self.announcements_out,
            announcements_in=heard["ours"] + heard["foreign"],
            foreign=heard["foreign"],
            own=heard["own"],
            malformed=heard["malformed"],
            limited=heard["limited"],
            failures=dict(self._failures),
        )

    def hear(self, datagram: memoryview, sender: Endpoint) -> None:
        """One datagram from the network, as a socket got it.  Never raises for what is in it."""
        now = trio.current_time()
        if self._senders.admits(sender.host, now) and self._total.take(1.0, now):
            self._heard[self._take(datagram, sender, now)] += 1
        else:
            self._heard["limited"] += 1

    def failed(self, place: _Place, error: OSError) -> None:
        """A socket of ``place`` could not be opened, or did not send."""
        reason = errno.errorcode.get(error.errno or 0, "unknown")
        key = (place.interface, reason)
        if key not in self._failures and len(self._failures) >= MAX_FAILURES:
            key = ("others", reason)
        self._failures[key] += 1

    async def _follow_addresses(self, nursery: trio.Nursery) -> None:
        places = sorted(_places(self._network.interfaces()), key=lambda place: ip_address(place.host).is_link_local)
        wanted = places[:MAX_SOCKETS]
        for place in self._links.keys() - wanted:
            self._links.pop(place).scope.cancel()
        errors = [await self._open(place, nursery) for place in wanted if place not in self._links]
        if self._links:
            self._warned = False
        elif errors and not self._warned:
            self._warned = True
            self._emit(Warned(f"no peers are looked for on the local network: {errors[0]}"))

    async def _open(self, place: _Place, nursery: trio.Nursery) -> str | None:
        """What went wrong, if anything did."""
        local = Endpoint(place.host, place.group.port)
        try:
            socket = await self._network.bind_udp(
                local, shared=True, multicast_group=place.group.host, interface=place.interface
            )
        except OSError as error:
            self.failed(place, error)
            return f"{place.interface}: {os.strerror(error.errno or 0)}"
        link = self._links[place] = _Link(self, place, socket)
        link.add(self._sources)
        nursery.start_soon(link.run)
        return None

    def _take(self, datagram: memoryview, sender: Endpoint, now: float) -> str:
        """What kind of datagram it was; those who wait for it are told."""
        try:
            announcement = decode_announcement_untrusted(datagram)
        except RemoteProtocolError:
            return "malformed"
        if announcement.cookie == self.cookie:
            return "own"
        peer = Endpoint(sender.host, announcement.port)
        if not is_dialable(peer):
            return "malformed"
        ours = [self._sources[each] for each in announcement.info_hashes if each in self._sources]
        for source in ours:
            self._meet(source.info_hash, peer, announcement.cookie, now)
            source.found((peer,), "lsd")
        return "ours" if ours else "foreign"

    def _meet(self, info_hash: bytes, peer: Endpoint, cookie: bytes, now: float) -> None:
        """Answer a newcomer.  Through every socket: on Linux an IPv6 one also gets what came to another interface."""
        neighbour = info_hash, peer, cookie
        newcomer = not self._neighbours.holds(neighbour, now)
        self._neighbours.add(neighbour, now)
        if newcomer:
            for link in self._links.values():
                link.answer(info_hash)


class LocalSource:
    """The local networks as a source of peers of one torrent.  Made by `LocalDiscovery.add`."""

    def __init__(self, discovery: LocalDiscovery, info_hash: bytes, found: Found) -> None:
        self.info_hash = info_hash
        self.found = found
        self._discovery: LocalDiscovery | None = discovery

    def stop(self) -> None:
        """Announce no more and hear no more.  Safe to call twice."""
        if self._discovery is not None:
            self._discovery.remove(self.info_hash)
            self._discovery = None


class _Place(NamedTuple):
    """Where one socket belongs.  When any of it changes, it is another place."""

    interface: str
    number: int
    host: str

    @property
    def group(self) -> Endpoint:
        return GROUP6 if ":" in self.host else GROUP


class _Link:
    """One socket and what is due through it."""

    def __init__(self, discovery: LocalDiscovery, place: _Place, socket: DatagramSocket) -> None:
        self.schedule = Schedule(discovery.rng)
        self.scope = trio.CancelScope()
        self._discovery = discovery
        self._place = place
        self._path = Path(Endpoint(place.host, place.group.port), place.group)
        self._socket = socket
        self._changed = trio.Event()

    def add(self, info_hashes: Iterable[bytes]) -> None:
        for info_hash in info_hashes:
            self.schedule.add(info_hash, trio.current_time())
        self._changed.set()

    def answer(self, info_hash: bytes) -> None:
        self.schedule.answer(info_hash, trio.current_time())
        self._changed.set()

    async def run(self) -> None:
        """Until ``scope`` is cancelled; closes the socket."""
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._listen)
                    await self._announce()
        finally:
            self._socket.close()

    async def _listen(self) -> None:
        while True:
            await self._socket.wait_readable()
            for data, size, path in self._socket.receive_nowait():
                for start in range(0, len(data), size):
                    self._discovery.hear(data[start : start + size], path.remote)

    async def _announce(self) -> None:
        while True:
            self._changed = trio.Event()
            if self.schedule.ready_at() <= trio.current_time():
                self._send(trio.current_time())
            with trio.move_on_at(self.schedule.ready_at()):
                await self._changed.wait()

    def _send(self, now: float) -> None:
        info_hashes = self.schedule.take(now)
        port = self._discovery.port()
        if not info_hashes or not port:
            self.schedule.put_off(info_hashes, now)
            return
        datagram = encode_announcement(self._place.group, port, info_hashes, self._discovery.cookie)
        try:
            self._socket.send_nowait(Outgoing((datagram,), len(datagram), self._path, ttl=HOPS))
        except OSError as error:  # the link is down, its address not yet ready (RFC 4862), its queue full
            self._discovery.failed(self._place, error)
            self.schedule.put_off(info_hashes, now)
        else:
            self._discovery.announcements_out += 1
            self.schedule.announced(info_hashes, now)


def _places(interfaces: Iterable[Interface]) -> Iterator[_Place]:
    """One for each family of an interface that speaks to a network; loopback reaches nobody."""
    for interface in interfaces:
        if interface.up and interface.multicast and not interface.loopback:
            for is_ipv6 in (False, True):
                addresses = [address for address in interface.addresses if (":" in address.host) == is_ipv6]
                if addresses:
                    yield _Place(interface.name, interface.index, min(addresses, key=_preference).host)


def _preference(address: InterfaceAddress) -> tuple[bool, bool, bool]:
    """Smallest first: dialled without a scope, not on its way out, and stable."""
    return ip_address(address.host).is_link_local, address.deprecated, address.temporary
