"""UDP ports made for one meeting: a fresh socket, a small mux with knocks and µTP, closed with its last connection.

Why not the node's one port: its NAT may hold a mapping towards that very peer already, left by the dials that failed
before, on a port that nobody knows; a fresh socket has none, so its next mapping is the one that can be predicted.
And what a birthday leaves in the NATs does not weigh on the streams of the one port.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import trio

from swarm.connect.dial import Link, dial_utp
from swarm.connect.knock import Heard, Knocker, Measured
from swarm.connect.predict import Shot
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.events import PathName
from swarm.ext.allowance import Allowance
from swarm.net.mux import DatagramCore, Mux, Priority
from swarm.net.network import DatagramSocket, Network, Stream
from swarm.net.udp_port import UtpPort
from utp.config import UtpConfig
from utp.endpoint import UtpEndpoint
from utp.path import Address
from utp.service import UtpService

MAX_PORTS = 24
"""Meetings and connections over such ports at once, in one node."""

ATTENDED_BURST, ATTENDED_SECONDS = 12, 4.0
"""Meetings that others ask us for, of the whole node: so many at once, then one in so many seconds."""

PREDICTED_BURST, PREDICTED_SECONDS = 12, 12.0
BIRTHDAY_BURST, BIRTHDAY_SECONDS = 4, 60.0
"""Shootings that met nobody, of the whole node and in both roles, likewise.  An introducer may lie about who wants to
meet us, or about whom it has brought to us: it can make us send 60 small datagrams a second in the long run."""

CLOSING_LOOK = 1.0
"""Seconds between looks whether the last connection has ended."""

SYNS = (0.0, 0.1, 0.3, 0.7, 1.5)
SYN_PATIENCE = 1.5
"""Seconds: when SYNs leave for where a knock came from, and how long the last one is waited for."""

STILL_THERE = (0.0, 0.03, 0.1, 0.3, 0.7, 1.5)
"""Seconds at which we knock at where we heard the other end: it may not have heard us yet."""


class ShotPorts:
    """All such ports of a node, while `run` runs."""

    def __init__(
        self,
        network: Network,
        rng: random.Random,
        config: UtpConfig | None = None,
        *,
        birthdays: bool = True,
        keepalive: Callable[[Endpoint], float] | None = None,
    ) -> None:
        """``birthdays``: whether we take part in them.  ``rng`` makes connection ids, nonces and their spray: a
        `random.SystemRandom`.  ``keepalive`` is `UtpEndpoint`'s: these connections are the only users of their
        mappings."""
        self.network = network
        self.rng = rng
        self.attended = Allowance(ATTENDED_BURST, ATTENDED_SECONDS)
        """For meetings that others ask for."""
        self.in_sequence = True
        """Whether our NAT hands out ports one after the other, as last seen: then meetings take turns."""
        self._turn = trio.Lock()
        self._misses: dict[PathName, Allowance] = {
            "predicted": Allowance(PREDICTED_BURST, PREDICTED_SECONDS),
            "birthday": Allowance(BIRTHDAY_BURST, BIRTHDAY_SECONDS),
        }
        self._birthdays = birthdays
        self._at_birthday = False
        self._keepalive = keepalive
        self._config = config or UtpConfig(max_connections=8, max_half_open=4, accept_backlog=4)
        self._nursery: trio.Nursery | None = None
        self._ports: set[ShotPort] = set()

    async def run(self) -> None:
        """Until cancelled; then all ports are closed."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    @property
    def has_room(self) -> bool:
        return self._nursery is not None and len(self._ports) < MAX_PORTS

    def start_soon(self, function: Callable[..., Awaitable[Any]], *arguments: object) -> None:
        """A task that ends with `run`; only while there is `has_room`."""
        assert self._nursery is not None
        self._nursery.start_soon(function, *arguments)

    @asynccontextmanager
    async def turn(self, patience: float = float("inf")) -> AsyncIterator[Callable[[], None]]:
        """A meeting's time from agreement to first shots, in which no other one of ours moves the sequence of ports on;
        what is yielded ends it early.  Waits for it, at most ``patience`` seconds: RemoteError("busy")."""
        held = self.in_sequence
        if held:
            with trio.move_on_after(patience) as waiting:
                await self._turn.acquire()
            if waiting.cancelled_caught:
                raise RemoteError("busy", "another meeting goes first")

        def end() -> None:
            nonlocal held
            if held:
                held = False
                self._turn.release()

        try:
            yield end
        finally:
            end()

    @contextmanager
    def shooting(self, path: PathName) -> Iterator[None]:
        """The block shoots, and is left by an exception unless it meets.  RemoteError("busy") if too many have not met,
        and for a birthday while there is another one; "hopeless" where we take part in none."""
        birthday = path == "birthday"
        if birthday and not self._birthdays:
            raise RemoteError("hopeless", "birthdays are switched off")
        if birthday and self._at_birthday:
            raise RemoteError("busy", "one birthday at a time")
        if not self._misses[path].take(trio.current_time()):
            raise RemoteError("busy", "too many have met nobody")
        self._at_birthday = self._at_birthday or birthday
        try:
            yield
            self._misses[path].give_back()
        finally:
            self._at_birthday = self._at_birthday and not birthday

    @asynccontextmanager
    async def open(self, nonce: bytes, *, ipv6: bool) -> AsyncIterator[ShotPort]:
        """A port on a fresh socket.  After the block it lives only as long as it has connections.

        RemoteError: "busy" if there are too many, or we are offline; "no-ports" if the system gives us none.
        """
        if not self.has_room:
            raise RemoteError("busy")
        try:
            socket = await self.network.bind_udp(Endpoint("::" if ipv6 else "0.0.0.0", 0))
        except OSError as error:
            raise RemoteError("no-ports", str(error)) from error
        with self.adopt(socket, Knocker(nonce)) as port:
            yield port

    def adopt(self, socket: DatagramSocket, knocker: Knocker) -> ShotPort:
        """A port on a socket of ours that has found its other end; a context manager, as `open`."""
        port = ShotPort(socket, knocker, self.rng, self._config, self._keepalive)
        if self._nursery is None:
            socket.close()
            raise RemoteError("busy")
        self._ports.add(port)
        self._nursery.start_soon(self._serve, port)
        return port

    async def _serve(self, port: ShotPort) -> None:
        try:
            await port.run()
        finally:
            self._ports.discard(port)


class ShotPort:
    """One socket, its mux, and what has been heard on it."""

    def __init__(
        self,
        socket: DatagramSocket,
        knocker: Knocker,
        rng: random.Random,
        config: UtpConfig,
        keepalive: Callable[[Endpoint], float] | None,
    ) -> None:
        self._mux = Mux(socket)
        self._knocker = knocker
        self._mux.add(knocker, priority=Priority.STUN, name="knock", on_results=self._learn)
        self._endpoint = UtpEndpoint(config, rng, keepalive=cast("Callable[[Address], float] | None", keepalive))
        self._service = UtpService(self._endpoint, self._mux.wake, accept_backlog=config.accept_backlog)
        # The leaf package has shapes of its own, field by field the same (tests/test_architecture.py).
        self._mux.add(cast(DatagramCore, self._endpoint), priority=Priority.UTP, on_results=self._service.publish)
        self._heard: Endpoint | None = None
        self._news = trio.Event()
        self._released = False
        self.measured: dict[Endpoint, Endpoint] = {}
        """Where each observer that answered sees this socket."""

    def __enter__(self) -> ShotPort:
        return self

    def __exit__(self, *exception: object) -> None:
        self._knocker.cease()
        self._released = True
        self._close_if_idle()

    async def run(self) -> None:
        """Serve until the port was released and has no connection; closes the socket in every case."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch)
                await self._mux.run()
                nursery.cancel_scope.cancel()
        finally:
            self._mux.close()

    def measure(self, observers: Sequence[Endpoint], nonce: bytes) -> None:
        """Have ``observers`` see this socket, in this order."""
        self._knocker.measure(observers, nonce, trio.current_time())
        self._mux.wake()

    def shoot(self, host: str, shots: Sequence[Shot]) -> None:
        """Knock at ports of ``host`` from now on, and listen to nobody else."""
        self._knocker.cease()
        self._knocker.host = host
        self._knocker.shoot(shots, trio.current_time())
        self._mux.wake()

    async def meet(self) -> Endpoint:
        """Where the other end is, once it was heard; from then on we knock there only."""
        while self._heard is None:
            await self._news.wait()
        self.greet(self._heard)
        return self._heard

    async def dial(self, remote: Endpoint) -> Stream:
        """Connect over µTP; RemoteError as `swarm.connect.dial.dial_utp`."""
        link: Link = await dial_utp(UtpPort(self._service), remote, syn_times=SYNS, patience=SYN_PATIENCE)
        return link.stream

    async def accept(self, host: str) -> Stream:
        """The next stream from ``host``; others are hung up on."""
        while True:
            stream = await UtpPort(self._service).accept()
            if stream.remote.host == host:
                return stream
            stream.abort()

    def greet(self, endpoint: Endpoint) -> None:
        """Knock where the other end was heard."""
        self.shoot(endpoint.host, [Shot(after, endpoint.port, None) for after in STILL_THERE])

    def _learn(self, results: Sequence[Heard | Measured]) -> None:
        for result in results:
            if isinstance(result, Measured):
                self.measured[result.observer] = result.mapped
            elif self._heard is None:
                self._heard = result.endpoint
                self._news.set()

    async def _watch(self) -> None:
        while True:
            await trio.sleep(CLOSING_LOOK)
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._released and not self._endpoint.statistics().connections:
            self._mux.close()
