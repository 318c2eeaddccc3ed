"""The owner of one UDP socket: µTP, DHT, UDP trackers and STUN are cores that hang off it (DESIGN §4, §5).

One socket, because a punch works only if packets to the stranger leave by the NAT mapping that the rendezvous saw.
The mux drains the socket, gives each core what it wants in runs, runs due deadlines, sends what the cores have and
publishes their results.  All of that is synchronous; three tasks per socket (a reader, a timer, a writer that sleeps
until the send buffer is full) are all there is, however many connections the cores hold.
Does not bind the socket, retry, shape traffic or know any protocol.
"""

from __future__ import annotations

import errno
from bisect import insort
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

import trio

from swarm.endpoint import Endpoint
from swarm.net.network import DatagramSocket, Outgoing, Path, Received

SEND_LIMIT = 2048  # datagrams one core may send in one pass; the rest leaves in the next, after the others
UNSENT_LIMIT = 4096  # datagrams kept for a core while the send buffer is full; beyond it they are dropped and counted
OVERDUE_STEP = 0.001  # seconds until the next pass when a core leaves its deadline in the past
ROUNDS_PER_PASS = 16  # times one core is asked for more in one pass
NOTICE_SECONDS = 1.0  # a DHT answer took 4 % longer where both notices were told of every run


class Priority(IntEnum):
    """Who is asked first whether a datagram is its own.

    STUN is first: a binding success starts ``01 01``, a valid µTP header, while STUN knows its transaction ids.
    """

    STUN = 0
    DHT = 1
    UTP = 2
    UDP_TRACKER = 3


class DatagramCore(Protocol):
    """A protocol state machine without I/O (DESIGN §4).  ``now`` is in seconds of the mux's clock.

    Two more things a core may have.  ``first_bytes``: a set of integers, read once; `wants` is then asked only for
    datagrams that start with one of them.  ``datagram_too_big(path, size)``: an `Outgoing` with datagrams of that many
    bytes did not fit the interface (EMSGSIZE); what of it follows the first of them did not leave.
    """

    def wants(self, datagram: memoryview, path: Path) -> bool:
        """Whether this datagram is for this core."""

    def receive_batch(self, datagrams: Sequence[memoryview], path: Path, now: float) -> None:
        """Datagrams from one sender in order of arrival, valid during the call only.  Never raises."""

    def datagrams_to_send(self, now: float) -> Sequence[Outgoing]:
        """What is to leave now, handed over for good; asked again until it is empty or the pass has its fill."""

    def next_deadline(self) -> float | None: ...

    def handle_deadline(self, now: float) -> None: ...

    def take_results(self) -> Sequence[Any]: ...


@dataclass(frozen=True, slots=True)
class CoreStatistics:
    """Datagrams and bytes of payload that passed between one core and the socket, since it was added."""

    datagrams_in: int
    bytes_in: int
    datagrams_out: int
    bytes_out: int
    dropped: int
    """Datagrams that found the send buffer and our own queue full."""
    send_errors: Mapping[int, int]
    """Runs refused by the kernel, by errno."""


@dataclass(frozen=True, slots=True)
class MuxStatistics:
    cores: Mapping[str, CoreStatistics]
    unclaimed: int
    """Datagrams that no core wanted."""
    unclaimed_bytes: int
    waits_for_buffer: int
    """Times the send buffer was full."""


Publish = Callable[[Sequence[Any]], None]

Notice = Callable[[Endpoint, float], None]
"""Told of the other end of a run of datagrams, and the time."""


class Mux:
    """Owns ``socket`` and moves datagrams between it and its cores while `run` runs.

    ``clock`` is what the cores get as ``now``; simulated sockets go with `trio.current_time` under a MockClock too.
    ``on_received`` is told whom a run comes from before any core sees it, ``on_sending`` where one is about to go; of
    each endpoint once in NOTICE_SECONDS.
    """

    def __init__(
        self,
        socket: DatagramSocket,
        clock: Callable[[], float] = trio.current_time,
        *,
        on_received: Notice | None = None,
        on_sending: Notice | None = None,
    ) -> None:
        self.socket = socket
        self._clock = clock
        self._on_received = on_received
        self._on_sending = on_sending
        self._received_from: set[Endpoint] = set()  # those that were told of since `_noticing_since`
        self._sending_to: set[Endpoint] = set()
        self._noticing_since = float("-inf")
        self._ports: list[_Port] = []  # by priority, then in order of registration
        self._turns: deque[_Port] = deque()  # the same in the order of sending, rotated after a full send buffer
        self._by_first_byte: list[tuple[_Port, ...]] = [()] * 256
        self._unclaimed = self._unclaimed_bytes = self._waits_for_buffer = 0
        self._blocked = False
        self._closed = False
        self._woken = trio.Event()
        self._blocking = trio.Event()
        self._timer = trio.CancelScope()

    def add(self, core: DatagramCore, *, priority: int, name: str = "", on_results: Publish | None = None) -> None:
        """Hang ``core`` off the socket; those of equal ``priority`` are asked in the order they were added.

        ``on_results`` is called synchronously with what `take_results` gave, at the end of a pass; it may call the
        cores and `wake`.  ``name`` (default: the class name) is its key in `statistics`.  ValueError if it is taken.
        """
        port = _Port(core, priority, name or type(core).__name__, on_results)
        if any(other.name == port.name for other in self._ports):
            raise ValueError(f"there is already a core named {port.name}")
        insort(self._ports, port, key=lambda other: other.priority)
        self._turns = deque(self._ports)
        self._index()
        self.wake()

    def remove(self, core: DatagramCore) -> None:
        """Take ``core`` off; what it had handed over and was not sent is dropped.  ValueError if it is not here."""
        kept = [port for port in self._ports if port.core is not core]
        if len(kept) == len(self._ports):
            raise ValueError("this core does not hang off this mux")
        self._ports = kept
        self._turns = deque(self._ports)
        self._index()

    def wake(self) -> None:
        """A core has something to send, a deadline or results because of a local call: a pass follows soon."""
        self._woken.set()

    async def run(self) -> None:
        """Serve until cancelled or `close`.  Raises trio.ClosedResourceError if the socket is closed by another."""
        broken = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read)
                nursery.start_soon(self._keep_time)
                nursery.start_soon(self._await_buffer)
        except* trio.ClosedResourceError:
            broken = not self._closed
        if broken:
            raise trio.ClosedResourceError("the socket of this mux was closed")

    def close(self) -> None:
        """Close the socket; `run` returns."""
        self._closed = True
        self.socket.close()

    def statistics(self) -> MuxStatistics:
        return MuxStatistics(
            cores={port.name: port.statistics() for port in self._ports},
            unclaimed=self._unclaimed,
            unclaimed_bytes=self._unclaimed_bytes,
            waits_for_buffer=self._waits_for_buffer,
        )

    async def _read(self) -> None:
        while True:
            received = self.socket.receive_nowait()
            if received:
                now = self._clock()
                if self._on_received is not None:
                    self._notice(received, self._on_received, now)
                self._dispatch(received, now)
                self._pass(now)
                await trio.lowlevel.checkpoint()
            else:
                await self.socket.wait_readable()

    async def _keep_time(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._timer.deadline) as self._timer:
                await self._woken.wait()
            self._timer = trio.CancelScope()
            self._woken = trio.Event()
            self._pass(self._clock())

    async def _await_buffer(self) -> None:
        while True:
            await self._blocking.wait()
            await self.socket.wait_writable()
            self._blocking = trio.Event()
            self._blocked = False
            self._pass(self._clock())

    def _notice(self, received: Sequence[Received], told: Notice, now: float) -> None:
        """Tell who sends."""
        self._renew_notices(now)
        known = self._received_from
        for run in received:
            remote = run.path.remote
            if remote not in known:
                known.add(remote)
                told(remote, now)

    def _renew_notices(self, now: float) -> None:
        """Whoever was told of long ago is told of anew."""
        if now - self._noticing_since >= NOTICE_SECONDS:
            self._noticing_since = now
            self._received_from.clear()
            self._sending_to.clear()

    def _dispatch(self, received: Sequence[Received], now: float) -> None:
        """Give every core what it wants, one call per core and sender."""
        # Per datagram, so the innermost loop is flat: a call less is a tenth of a microsecond of 0.4.
        by_first_byte = self._by_first_byte
        runs: dict[tuple[_Port, Path], list[memoryview]] = {}
        last_port = last_path = run = None
        for data, segment_size, path in received:
            for start in range(0, len(data), segment_size or 1):
                datagram = data[start : start + segment_size]
                for port in by_first_byte[datagram[0]]:
                    if port.wants(datagram, path):
                        break
                else:
                    self._unclaimed += 1
                    self._unclaimed_bytes += len(datagram)
                    continue
                if run is None or port is not last_port or path is not last_path:
                    run = runs.setdefault((port, path), [])
                    last_port, last_path = port, path
                run.append(datagram)
        for (port, path), datagrams in runs.items():
            port.datagrams_in += len(datagrams)
            port.bytes_in += sum(map(len, datagrams))
            port.core.receive_batch(datagrams, path, now)

    def _pass(self, now: float) -> None:
        """Due deadlines, sending, results, and the time of the next pass."""
        for port in self._ports:
            deadline = port.core.next_deadline()
            if deadline is not None and deadline <= now:
                port.core.handle_deadline(now)
        self._send(now)
        for port in tuple(self._ports):
            results = port.core.take_results()
            if results and port.on_results is not None:
                port.on_results(results)
        self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        deadlines = [deadline for port in self._ports if (deadline := port.core.next_deadline()) is not None]
        if not deadlines:
            self._timer.deadline = float("inf")
            return
        earliest = min(deadlines)
        if earliest <= now:  # a core that does not move on must not keep the processor
            earliest = now + OVERDUE_STEP
        # The clock may not be trio's: only the distance counts.
        self._timer.deadline = trio.current_time() + (earliest - now)

    def _send(self, now: float) -> None:
        self._renew_notices(now)
        for port in tuple(self._turns):
            if self._blocked:
                return
            self._send_for(port, now)

    def _send_for(self, port: _Port, now: float) -> None:
        budget = SEND_LIMIT
        for _ in range(ROUNDS_PER_PASS):
            if not port.unsent:
                port.unsent.extend(port.core.datagrams_to_send(now))
            if not port.unsent:
                return
            while port.unsent and budget > 0:
                if self._on_sending is not None and (remote := port.unsent[0].path.remote) not in self._sending_to:
                    self._sending_to.add(remote)
                    self._on_sending(remote, now)
                sent = self._send_run(port, port.unsent[0])
                if sent is None:
                    return
                port.unsent.popleft()
                budget -= sent
            if budget <= 0:
                break
        self.wake()

    def _send_run(self, port: _Port, run: Outgoing) -> int | None:
        """How many datagrams are done with, sent or refused; None when the send buffer is full."""
        size = sum(map(len, run.buffers))
        count = -(-size // run.segment_size)
        try:
            self.socket.send_nowait(run)
        except BlockingIOError as error:
            self._hold(port, run, size, getattr(error, "characters_written", 0))
            return None
        except OSError as error:
            port.refused(run, error)
        else:
            port.datagrams_out += count
            port.bytes_out += size
        return count

    def _hold(self, port: _Port, run: Outgoing, size: int, taken: int) -> None:
        """Keep the unsent rest, ask nobody for more until the socket is writable, and let others go first then."""
        if taken:
            port.datagrams_out += taken // run.segment_size
            port.bytes_out += taken
            port.unsent[0] = _rest(run, taken)
        port.drop_excess()
        self._blocked = True
        self._blocking.set()
        self._waits_for_buffer += 1
        while self._turns[-1] is not port:
            self._turns.rotate(-1)

    def _index(self) -> None:
        self._by_first_byte = [
            tuple(port for port in self._ports if port.first_bytes is None or byte in port.first_bytes)
            for byte in range(256)
        ]


@dataclass(eq=False, slots=True)
class _Port:
    """A core, its queue of what the full send buffer left over, and its counts."""

    core: DatagramCore
    priority: int
    name: str
    on_results: Publish | None
    first_bytes: frozenset[int] | None = None
    wants: Callable[[memoryview, Path], bool] = field(init=False)
    datagram_too_big: Callable[[Path, int], None] | None = None
    unsent: deque[Outgoing] = field(default_factory=deque)
    datagrams_in: int = 0
    bytes_in: int = 0
    datagrams_out: int = 0
    bytes_out: int = 0
    dropped: int = 0
    send_errors: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.wants = self.core.wants
        first_bytes = getattr(self.core, "first_bytes", None)
        self.first_bytes = None if first_bytes is None else frozenset(first_bytes)
        self.datagram_too_big = getattr(self.core, "datagram_too_big", None)

    def refused(self, run: Outgoing, error: OSError) -> None:
        code = error.errno or 0
        self.send_errors[code] = self.send_errors.get(code, 0) + 1
        if code == errno.EMSGSIZE and self.datagram_too_big is not None:
            self.datagram_too_big(run.path, run.segment_size)

    def drop_excess(self) -> None:
        """Keep the oldest UNSENT_LIMIT datagrams: what follows them would come late for its protocol anyway."""
        kept = 0
        for position, run in enumerate(self.unsent):
            kept += _count(run)
            if kept > UNSENT_LIMIT and position:
                break
        else:
            return
        while len(self.unsent) > position:
            self.dropped += _count(self.unsent.pop())

    def statistics(self) -> CoreStatistics:
        return CoreStatistics(
            self.datagrams_in,
            self.bytes_in,
            self.datagrams_out,
            self.bytes_out,
            self.dropped,
            dict(self.send_errors),
        )


def _count(run: Outgoing) -> int:
    return -(-sum(map(len, run.buffers)) // run.segment_size)


def _rest(run: Outgoing, taken: int) -> Outgoing:
    """``run`` without its first ``taken`` bytes."""
    rest: list[memoryview] = []
    for buffer in run.buffers:
        view = memoryview(buffer).cast("B")
        if taken < len(view):
            rest.append(view[taken:])
        taken = max(0, taken - len(view))
    return Outgoing(rest, run.segment_size, run.path, run.ttl, run.probe, run.fragment)
