"""Two endpoints and the network between them, in virtual time without trio: loss, delay, reordering, a bottleneck."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.utp.packets import cut
from utp.config import UtpConfig
from utp.connection import Connection
from utp.endpoint import Accepted, UtpEndpoint
from utp.path import Path

A, B = ("192.0.2.1", 1), ("192.0.2.2", 2)


@dataclass
class Link:
    """One direction.  ``rate`` in bytes per second (None: no bottleneck), ``queue`` in bytes before it drops."""

    delay: float = 0.01
    loss: float = 0.0
    duplicate: float = 0.0
    jitter: float = 0.0  # up to so many seconds more, drawn per packet: reorders
    rate: float | None = None
    queue: int = 1 << 30
    mtu: int = 1472
    drop: Callable[[bytes], bool] | None = None
    busy_until: float = 0.0
    delivered: int = 0
    dropped: int = 0
    too_big: int = 0
    fragmented: int = 0  # packets beyond the MTU that passed in pieces
    log: list[tuple[float, float]] = field(default_factory=list)  # (time, queueing delay)

    def arrivals(self, size: int, rng: random.Random, now: float, *, fragment: bool = False) -> list[float]:
        """When copies of a packet sent now come out at the other end: none, one or two times.

        With ``fragment`` a packet beyond the MTU passes, as its fragments would.
        """
        if size > self.mtu and not fragment:
            self.too_big += 1
            return []
        if self.loss and rng.random() < self.loss:
            self.dropped += 1
            return []
        leaves = now
        if self.rate is not None:
            waiting = max(self.busy_until - now, 0.0)
            if waiting * self.rate + size > self.queue:
                self.dropped += 1
                return []
            self.log.append((now, waiting))
            self.busy_until = leaves = now + waiting + size / self.rate
        self.fragmented += size > self.mtu
        copies = 2 if self.duplicate and rng.random() < self.duplicate else 1
        self.delivered += size
        return [leaves + self.delay + (rng.random() * self.jitter if self.jitter else 0.0) for _ in range(copies)]


class Side:
    """One endpoint, its address and what its connections were seen to do."""

    def __init__(self, address: tuple[str, int], config: UtpConfig, rng: random.Random) -> None:
        self.address = address
        self.endpoint = UtpEndpoint(config, rng)
        self.accepted: list[Connection] = []
        self.received: dict[Connection, bytearray] = {}
        self.unsent: dict[Connection, memoryview] = {}
        self.shut_after: set[Connection] = set()
        self.reading = True
        self.keeping = True  # what was read, in ``received``
        self.sent: list[tuple[float, bytes]] = []  # every datagram, if the pair records

    def write(self, connection: Connection, data: bytes, *, shutdown: bool = False) -> None:
        """Keep ``data`` flowing into the connection as it takes it, then finish if asked to."""
        self.unsent[connection] = memoryview(data)
        if shutdown:
            self.shut_after.add(connection)
        self.pump(connection)

    def pump(self, connection: Connection) -> None:
        """Do what an application does after a change: write what fits, read what is there."""
        if connection.connected:
            left = self.unsent.get(connection)
            if left is not None:
                left = left[connection.send(left) :]
                self.unsent[connection] = left
                if not left and connection in self.shut_after:
                    del self.unsent[connection]
                    connection.shutdown()
        if self.reading:
            store = self.received.setdefault(connection, bytearray())
            while connection.unread:
                data = connection.receive(1 << 20)
                if self.keeping:
                    store += data


class Pair:
    """Side ``a`` and side ``b``; ``there`` carries a's packets to b, ``back`` the other way."""

    def __init__(
        self,
        seed: int = 0,
        *,
        there: Link | None = None,
        back: Link | None = None,
        config: UtpConfig | None = None,
        record: bool = False,
        config_b: UtpConfig | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 100.0
        config = config or UtpConfig()
        self.a = Side(A, config, random.Random(seed + 1))
        self.b = Side(B, config_b or config, random.Random(seed + 2))
        self.there = there or Link()
        self.back = back or Link()
        self.record = record
        self._events: list[tuple[float, int, Side, Side, bytes]] = []
        self._sequence = 0

    def connect(self, **options: object) -> Connection:
        """Begin to connect from a to b."""
        return self.a.endpoint.connect(Path(None, B), self.now, **options)  # type: ignore[arg-type]

    def open(self) -> tuple[Connection, Connection]:
        """A connection that both ends know of."""
        connection = self.connect()
        before = len(self.b.accepted)
        self.run_until(lambda: len(self.b.accepted) > before and connection.connected)
        return connection, self.b.accepted[-1]

    def inject(self, to: Side, datagram: bytes) -> None:
        """A packet out of nowhere, with the other side's address."""
        origin = self.b if to is self.a else self.a
        to.endpoint.receive_batch([memoryview(datagram)], Path(to.address, origin.address), self.now)
        self._after(to)

    def flush(self) -> None:
        for side in (self.a, self.b):
            self._after(side)

    def run_until(self, done: Callable[[], bool], limit: float = 600.0) -> None:
        """Let time pass until ``done()``; AssertionError after ``limit`` virtual seconds."""
        end = self.now + limit
        self.flush()
        while not done():
            assert self.step(end), f"nothing more happens at {self.now}"
            assert self.now < end, f"not done after {limit} s"

    def run(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        end = self.now + seconds
        self.flush()
        while self.step(end):
            pass
        self.now = end

    def step(self, end: float) -> bool:
        """The next thing to happen before ``end``; False if there is none."""
        times = [side.endpoint.next_deadline() for side in (self.a, self.b)]
        due = min([time for time in times if time is not None] + ([self._events[0][0]] if self._events else [1e18]))
        if due >= end:
            return False
        self.now = max(self.now, due)
        for side in (self.a, self.b):
            deadline = side.endpoint.next_deadline()
            if deadline is not None and deadline <= self.now:
                side.endpoint.handle_deadline(self.now)
                self._after(side)
        self._deliver()
        return True

    def _deliver(self) -> None:
        batches: dict[int, tuple[Side, Side, list[memoryview]]] = {}
        while self._events and self._events[0][0] <= self.now:
            _, _, origin, to, datagram = heapq.heappop(self._events)
            batches.setdefault(id(to), (origin, to, []))[2].append(memoryview(datagram))
        for origin, to, datagrams in batches.values():
            to.endpoint.receive_batch(datagrams, Path(to.address, origin.address), self.now)
            self._after(to)

    def _after(self, side: Side) -> None:
        """What the owner of a socket does after each wake-up."""
        while True:
            self._collect(side)
            results = side.endpoint.take_results()
            if not results:
                return
            for result in results:
                if isinstance(result, Accepted):
                    side.accepted.append(result.connection)
                side.pump(result.connection)

    def _collect(self, side: Side) -> None:
        link, to = (self.there, self.b) if side is self.a else (self.back, self.a)
        while runs := side.endpoint.datagrams_to_send(self.now):
            for run in runs:
                for datagram in cut([run]):
                    self._carry(link, side, to, datagram, run.fragment)

    def _carry(self, link: Link, side: Side, to: Side, datagram: bytes, fragment: bool) -> None:
        if self.record:
            side.sent.append((self.now, datagram))
        if link.drop is not None and link.drop(datagram):
            return
        for arrival in link.arrivals(len(datagram), self.rng, self.now, fragment=fragment):
            self._sequence += 1
            heapq.heappush(self._events, (arrival, self._sequence, side, to, datagram))
