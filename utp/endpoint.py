"""`UtpEndpoint`: all µTP connections of one UDP socket, as a core without I/O (BEP 29).

Datagrams and ``now`` go in, datagrams, results and one next deadline come out; whoever owns the socket drives it.
It keeps the table of connection ids, one heap of deadlines, and a bounded memory of ids that are no connection (any
more).  No task, no channel, no timer per connection.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from utp.config import UtpConfig
from utp.connection import Connection, State
from utp.dial import Dial, HalfOpen
from utp.errors import LocalProtocolError, RemoteProtocolError
from utp.framing import reset
from utp.memory import Memory
from utp.path import Address, Outgoing, Path
from utp.sender import NEVER
from utp.seqnr import SEQ_MASK
from utp.wire import (
    FIRST_BYTES,
    HEADER_SIZE,
    ST_DATA,
    ST_FIN,
    ST_RESET,
    ST_SYN,
    Packet,
    decode_untrusted,
    looks_like_utp,
)

FIRST_STRAY = ST_RESET << 4  # first bytes from here on are ST_RESET and ST_SYN: found by other ids than our own
MAX_LOOSE = 256  # answers to strangers and farewells waiting to leave; beyond that they are dropped
HEAP_SLACK = 64  # superseded deadlines in the heap beyond one per connection before they are swept out

Key = tuple[Address, int]


@dataclass(frozen=True, slots=True)
class Accepted:
    """An inbound connection whose sender has proved its address.  Data may already wait in it."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class Changed:
    """Look at this connection again: it is connected, readable, writable or ended, or several of these."""

    connection: Connection


Result = Accepted | Changed


@dataclass(frozen=True, slots=True)
class EndpointStatistics:
    """Counts of packets and connections since the beginning, unless said otherwise."""

    connections: int  # now, half-open ones included
    half_open: int  # inbound ones that have not proved their address, now
    half_open_evicted: int
    malformed: int
    strays: int  # packets of no connection
    resets_sent: int


class UtpEndpoint:
    """The µTP side of one socket.

    The owner calls `receive_batch` with what arrived, then `datagrams_to_send` until it returns an empty list, then
    `take_results`; `handle_deadline` when `next_deadline` has come.  After touching a connection (`send`, `receive`,
    `shutdown`, `close`, `abort`) it calls `datagrams_to_send` again.  Nothing here blocks; nothing that arrives makes
    it raise.
    """

    first_bytes = FIRST_BYTES  # what a demultiplexer may sort by before it asks `wants`

    def __init__(
        self, config: UtpConfig, rng: random.Random, *, keepalive: Callable[[Address], float] | None = None
    ) -> None:
        """``keepalive`` tells for a remote, in place of ``config.keepalive``, after how many seconds of silence it is
        sent something; asked whenever that time is over."""
        self._config = config
        self._keepalive = keepalive
        self._rng = rng
        self._connections: dict[Key, Connection] = {}
        self._half_open: dict[Connection, None] = {}  # inbound, oldest first
        self._ready: dict[Connection, None] = {}
        self._loose: list[Outgoing] = []
        self._changed: dict[Connection, None] = {}
        self._results: list[Result] = []
        self._deadlines: list[tuple[float, int, Connection]] = []
        self._tie_breaker = 0
        self._farewells: Memory[Key, Outgoing] = Memory(config.memory_entries, config.memory_seconds)
        self._strangers: Memory[Key, bool] = Memory(config.memory_entries, config.memory_seconds)
        self._evicted = self._malformed = self._strays = self._resets = 0

    # The core's five verbs

    def wants(self, datagram: memoryview, path: Path) -> bool:
        """Whether this datagram is shaped like µTP.  STUN and DHT messages must have been picked out before."""
        return looks_like_utp(datagram)

    def receive_batch(self, datagrams: Sequence[memoryview], path: Path, now: float) -> None:
        """Take datagrams of one sender, in the order of their arrival.  Payload is copied out before it returns."""
        remote = path.remote
        index, total = 0, len(datagrams)
        while index < total:
            datagram = datagrams[index]
            if len(datagram) < HEADER_SIZE:
                self._malformed += 1
                index += 1
                continue
            connection = self._connections.get((remote, datagram[2] << 8 | datagram[3]))
            if connection is None or datagram[0] >= FIRST_STRAY:
                self._receive_stray(datagram, path, now)
                index += 1
            else:
                index = connection.receive_run(datagrams, index, now)
                self._ready[connection] = None

    def datagrams_to_send(self, now: float) -> list[Outgoing]:
        """One round of what may leave: every connection that has something gets its turn.  Call until empty."""
        outgoing, self._loose = self._loose, []
        if self._ready:
            ready, self._ready = self._ready, {}
            for connection in ready:
                outgoing += connection.datagrams_to_send(now)
                self._schedule(connection)
        return outgoing

    def next_deadline(self) -> float | None:
        """When to call `handle_deadline`; it may turn out too early, never too late."""
        return self._deadlines[0][0] if self._deadlines else None

    def handle_deadline(self, now: float) -> None:
        """Let every connection whose time has come look at its timers; `datagrams_to_send` sets them anew."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now:
            when, _, connection = heapq.heappop(deadlines)
            if when != connection.scheduled_at:
                continue  # an earlier entry took its place
            connection.scheduled_at = NEVER
            if connection.next_deadline() <= now:
                connection.handle_deadline(now)
                self._ready[connection] = None
            else:
                self._schedule(connection)
        self._farewells.expire(now)
        self._strangers.expire(now)

    def take_results(self) -> list[Result]:
        """What happened since the last call; one `Changed` per connection at most."""
        results, self._results = self._results, []
        if self._changed:
            results += [Changed(connection) for connection in self._changed]
            self._changed.clear()
        return results

    # What the application asks for

    def connect(
        self,
        path: Path,
        now: float,
        *,
        syn_times: Sequence[float] | None = None,
        syn_ttls: Sequence[int | None] = (),
        patience: float | None = None,
    ) -> Connection:
        """Begin to connect to ``path.remote``; a `Changed` result tells when it is connected or has failed.

        A SYN with an id of its own leaves at each of ``syn_times`` (seconds from now, ascending), with the TTL at the
        same place in ``syn_ttls`` (None or missing: the socket's); after the last one ``patience`` seconds go by
        until the attempt is "timed-out".  Speak at once when connected: libutp hangs up after 3 s of silence.
        LocalProtocolError when `max_connections` are open.
        """
        if len(self._connections) >= self._config.max_connections:
            raise LocalProtocolError("too many connections")
        times = self._config.syn_times if syn_times is None else syn_times
        wait = self._config.syn_patience if patience is None else patience
        connection = Connection(self, self._config, path)
        connection.dial(Dial(now, times, syn_ttls, wait))
        return connection

    def datagram_too_big(self, path: Path, size: int) -> None:
        """The kernel refused a datagram of ``size`` bytes to ``path.remote`` (EMSGSIZE)."""
        for (remote, _), connection in list(self._connections.items()):
            if remote == path.remote:
                connection.datagram_too_big(size)

    def abort_all(self, now: float) -> None:
        """End every connection; the resets are in the next `datagrams_to_send`."""
        for connection in list(self._connections.values()):
            connection.abort(now)

    def statistics(self) -> EndpointStatistics:
        return EndpointStatistics(
            connections=len(set(self._connections.values())),
            half_open=len(self._half_open),
            half_open_evicted=self._evicted,
            malformed=self._malformed,
            strays=self._strays,
            resets_sent=self._resets,
        )

    # Packets of no connection of ours, and those that are found by another id

    def _receive_stray(self, datagram: memoryview, path: Path, now: float) -> None:
        try:
            packet = decode_untrusted(datagram)
        except RemoteProtocolError:
            self._malformed += 1
            return
        if packet.type == ST_SYN:
            self._receive_syn(packet, path, now)
        elif packet.type == ST_RESET:
            self._receive_reset(packet, path, now)
        else:
            self._answer_stranger(packet, path, now)

    def _receive_syn(self, packet: Packet, path: Path, now: float) -> None:
        key = (path.remote, (packet.connection_id + 1) & SEQ_MASK)
        connection = self._connections.get(key)
        if connection is not None:
            if connection.recv_id == key[1]:
                connection.receive_packet(packet, now)
                self._ready[connection] = None
            return
        if len(self._connections) >= self._config.max_connections:
            return
        if len(self._half_open) >= self._config.max_half_open:
            self._evicted += 1
            self._half_open_to_give_up(path.remote[0]).abort(now)
        connection = Connection(self, self._config, path)
        self._connections[key] = connection
        self._half_open[connection] = None
        connection.answer(packet.connection_id, packet.seq_nr, self._rng.randrange(1 << 16), now)

    def _half_open_to_give_up(self, host: str) -> Connection:
        """The oldest one of ``host`` if there is any: one host alone cannot push out the others'."""
        of_host = (connection for connection in self._half_open if connection.path.remote[0] == host)
        return next(of_host, None) or next(iter(self._half_open))

    def _receive_reset(self, packet: Packet, path: Path, now: float) -> None:
        """Peers differ on which id a reset carries: ours to receive on (libtorrent) or ours to send with (libutp)."""
        received_id = packet.connection_id
        for recv_id in (received_id, received_id - 1, received_id + 1):
            connection = self._connections.get((path.remote, recv_id & SEQ_MASK))
            if connection is not None and (
                connection.state is State.SYN_SENT or received_id in (connection.recv_id, connection.send_id)
            ):
                connection.receive_reset(packet.ack_nr, received_id, now)
                return

    def _answer_stranger(self, packet: Packet, path: Path, now: float) -> None:
        key = (path.remote, packet.connection_id)
        self._strays += 1
        farewell = self._farewells.recall(key, now)
        if farewell is not None:
            if packet.type in (ST_DATA, ST_FIN):
                self._send_loose(farewell)
            return
        if self._strangers.recall(key, now):
            return  # told already
        self._strangers.remember(key, True, now)
        self._resets += 1
        self._send_loose(
            reset(path, packet.connection_id, self._rng.randrange(1 << 16), packet.seq_nr, now)
        )  # fmt: skip

    def _send_loose(self, outgoing: Outgoing) -> None:
        if len(self._loose) < MAX_LOOSE:
            self._loose.append(outgoing)

    def _schedule(self, connection: Connection) -> None:
        """Keep one early enough heap entry per connection; those that were put off stay until they are due."""
        deadline = connection.next_deadline()
        if deadline < connection.scheduled_at:
            connection.scheduled_at = deadline
            self._tie_breaker += 1
            heapq.heappush(self._deadlines, (deadline, self._tie_breaker, connection))
            if len(self._deadlines) > 2 * len(self._connections) + HEAP_SLACK:
                self._deadlines = [entry for entry in self._deadlines if entry[0] == entry[2].scheduled_at]
                heapq.heapify(self._deadlines)

    # Host: what connections ask for

    def keepalive(self, remote: Address) -> float:
        return self._config.keepalive if self._keepalive is None else self._keepalive(remote)

    def claim_id(self, connection: Connection) -> tuple[int, int]:
        while True:
            recv_id = self._rng.randrange(1 << 16)
            key = (connection.path.remote, recv_id)
            if key not in self._connections:
                self._connections[key] = connection
                return recv_id, self._rng.randrange(1 << 16)

    def release_ids(self, connection: Connection, half_opens: list[HalfOpen], now: float) -> None:
        for half_open in half_opens:
            self._connections.pop((connection.path.remote, half_open.recv_id), None)

    def ready(self, connection: Connection) -> None:
        self._ready[connection] = None

    def changed(self, connection: Connection) -> None:
        self._changed[connection] = None

    def accepted(self, connection: Connection) -> None:
        self._half_open.pop(connection, None)
        self._results.append(Accepted(connection))

    def remember(self, connection: Connection, farewell: Outgoing, now: float) -> None:
        self._farewells.remember((connection.path.remote, connection.recv_id), farewell, now)

    def ended(self, connection: Connection, farewell: Outgoing | None, now: float) -> None:
        key = (connection.path.remote, connection.recv_id)
        if self._connections.get(key) is connection:
            del self._connections[key]
        self._half_open.pop(connection, None)
        self._ready.pop(connection, None)
        connection.scheduled_at = NEVER  # its entry in the heap is worth nothing now and goes with the next sweep
        if farewell is not None:
            self._send_loose(farewell)
