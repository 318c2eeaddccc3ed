"""One µTP connection (BEP 29): the state machine that joins receiver, sender, delay meter and framing.

    SYN_SENT --ST_STATE--> CONNECTED <--first packet after the SYN-- SYN_RECEIVED
                               |  FIN both ways acknowledged, ST_RESET, time-outs, abort
                               v
                             CLOSED

ST_STATE consumes no sequence number, whatever the BEP's diagram says: the acceptor answers a SYN with the number its
first data will have, and ``ack_nr`` is one below it.  The initiator must speak at once: libutp's acceptor dies after
three seconds without ST_DATA and may not write before it.  Here the initiator answers ST_STATE with ST_STATE, so that
between two of ours either end may speak first.

What a connection needs of its endpoint is the `Host` protocol below; it opens nothing and knows no trio.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from utp.config import UtpConfig
from utp.delay import DelayMeter
from utp.dial import Dial, HalfOpen
from utp.errors import ConnectionLost, LocalProtocolError, RemoteProtocolError
from utp.framing import Framing, reset, syn
from utp.mtu import MtuSearch
from utp.path import Buffer, Outgoing, Path
from utp.receiver import Receiver
from utp.rtt import RttEstimator
from utp.sender import NEVER, Sender
from utp.seqnr import HALF, SEQ_MASK
from utp.wire import (
    HEADER,
    HEADER_SIZE,
    ST_DATA,
    ST_FIN,
    ST_STATE,
    ST_SYN,
    Packet,
    decode_untrusted,
    first_word,
    unpack_word_seq_ack,
)

RUNS_PER_TURN = 8  # of one connection before the next one may send: about half a megabyte
ACK_REACH = 2048  # an acknowledgement older than that was not sent by the other end of this connection
REANSWER = 3.0  # seconds after which an answer to a SYN that led to nothing is repeated
REACK_INTERVAL = 1.0  # seconds between answers to keep-alives


class State(Enum):
    SYN_SENT = "syn-sent"
    SYN_RECEIVED = "syn-received"
    CONNECTED = "connected"
    CLOSED = "closed"


class Host(Protocol):
    """What a connection asks of its endpoint."""

    def claim_id(self, connection: Connection) -> tuple[int, int]:
        """A fresh receive id on which packets of this remote reach the connection, and a random sequence number."""

    def release_ids(self, connection: Connection, half_opens: list[HalfOpen], now: float) -> None:
        """These SYNs are given up; an answer that comes late is reset once."""

    def ready(self, connection: Connection) -> None:
        """Something may have to leave: ask `datagrams_to_send`."""

    def changed(self, connection: Connection) -> None:
        """The application should look: connected, readable, writable or ended."""

    def accepted(self, connection: Connection) -> None:
        """The other end of an inbound connection has proved its address."""

    def ended(self, connection: Connection, farewell: Outgoing | None, now: float) -> None:
        """CLOSED was reached.  ``farewell`` leaves at once."""

    def remember(self, connection: Connection, farewell: Outgoing, now: float) -> None:
        """Both ends have finished: for a while stragglers are answered with ``farewell``."""


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """Counters since the beginning and the present state of the path; bytes and seconds."""

    bytes_in: int
    bytes_out: int
    packets_retransmitted: int
    round_trip: float
    queueing_delay: float
    congestion_window: int
    packet_size: int


class Connection:
    """One end of a connection, as the endpoint and an async face use it.  Never blocks.

    ``error`` says why it ended before its time; None while it lives and after both ends have finished.
    """

    __slots__ = (
        "_ack_due",
        "_advertised",
        "_bytes_out",
        "_closing",
        "_config",
        "_data_word",
        "_delay",
        "_dial",
        "_established",
        "_expires_at",
        "_framing",
        "_host",
        "_initiator",
        "_keepalive_at",
        "_keepalive_due",
        "_last_reack",
        "_meter",
        "_receiver",
        "_sender",
        "_starved",
        "error",
        "path",
        "recv_id",
        "scheduled_at",
        "send_id",
        "state",
    )

    def __init__(self, host: Host, config: UtpConfig, path: Path) -> None:
        """Made by the endpoint, which then calls `dial` or `answer`."""
        self._host = host
        self._config = config
        self.path = path
        self.state = State.CLOSED
        self.error: ConnectionLost | None = None
        self.recv_id = 0
        self.send_id = 0
        self.scheduled_at = NEVER  # the endpoint's: its earliest entry in the heap of deadlines
        self._initiator = False
        self._established = False  # ids, sender and receiver exist
        self._dial: Dial | None = None
        self._data_word = 0
        self._meter = DelayMeter()
        self._delay = 0.0
        self._bytes_out = 0
        self._ack_due = False
        self._keepalive_due = False
        self._last_reack = -REACK_INTERVAL
        self._advertised = 0  # the window in the last header sent
        self._starved = False  # the application offered more than fitted
        self._closing = False  # nobody reads any more
        self._keepalive_at = NEVER
        self._expires_at = NEVER

    def dial(self, dial: Dial) -> None:
        """Become the initiator."""
        self.state = State.SYN_SENT
        self._initiator = True
        self._dial = dial
        self._host.ready(self)

    def answer(self, connection_id: int, syn_seq: int, seq_nr: int, now: float) -> None:
        """Become the acceptor of a SYN that carried ``connection_id`` and ``syn_seq``; ``seq_nr`` is ours to come."""
        self.state = State.SYN_RECEIVED
        self._expires_at = now + self._config.half_open_seconds
        self._open((connection_id + 1) & SEQ_MASK, connection_id, seq_nr, syn_seq + 1)
        self._ack_due = True
        self._host.ready(self)

    def _open(self, recv_id: int, send_id: int, next_seq_out: int, next_seq_in: int) -> None:
        config = self._config
        self._established = True
        self.recv_id, self.send_id = recv_id, send_id
        self._data_word = first_word(ST_DATA, recv_id)
        self._framing = Framing(self.path, send_id)
        rtt = RttEstimator(config.initial_rto, config.min_rto, config.max_rto)
        v6 = ":" in self.path.remote[0]
        floor = config.mtu_floor_v6 if v6 else config.mtu_floor_v4
        ceiling = config.mtu_ceiling_v6 if v6 else config.mtu_ceiling_v4
        self._sender = Sender(config, next_seq_out & SEQ_MASK, rtt, MtuSearch(floor, ceiling, probing=config.mtu_probing))
        self._receiver = Receiver(next_seq_in & SEQ_MASK, config.receive_buffer, config.reorder_packets)

    # The application's side

    @property
    def connected(self) -> bool:
        return self.state is State.CONNECTED

    @property
    def send_space(self) -> int:
        """Bytes that `send` takes now.  Once it took less than it was offered, nothing until half the buffer is free."""
        if self.state is not State.CONNECTED or self._starved:
            return 0
        return self._sender.space

    @property
    def writable(self) -> bool:
        """Whether there is room worth waking up for: half the send buffer."""
        return self.send_space >= self._config.send_buffer // 2

    @property
    def unread(self) -> int:
        """Bytes that `receive` gives now."""
        return self._receiver.unread if self._established else 0

    @property
    def at_eof(self) -> bool:
        """The other end has finished and everything has been read."""
        return self._established and self._receiver.finished and not self._receiver.unread

    def send(self, data: Buffer) -> int:
        """Queue as much of ``data`` as fits and return how much; the rest is to be offered again after a change.

        ``bytes`` are kept by reference until acknowledged, other buffers are copied.  LocalProtocolError unless
        connected, and after `shutdown`.
        """
        if self.state is not State.CONNECTED or self._sender.is_shut:
            raise LocalProtocolError("send on a connection that is not open for sending")
        size = len(data) if not isinstance(data, memoryview) else data.nbytes
        count = min(size, self.send_space)
        if count < size:
            self._starved = True
        if count:
            self._sender.append(data, count)
            self._bytes_out += count
            self._host.ready(self)
        return count

    @property
    def has_window_news(self) -> bool:
        """Whether reading has made room that the other end should hear of: ask `datagrams_to_send`."""
        return self._ack_due

    def request_space(self) -> None:
        """Take no more until half the send buffer is free, and tell by a change when it is."""
        self._starved = True

    def receive(self, max_bytes: int) -> bytes | memoryview:
        """Up to ``max_bytes`` (in one piece, not more than one run of packets); empty if there are none now."""
        data = self._receiver.take(max_bytes)
        self._reopen_window()
        return data

    def receive_into(self, buffer: memoryview) -> int:
        """Fill the front of ``buffer``; the number of bytes."""
        count = self._receiver.take_into(buffer)
        self._reopen_window()
        return count

    def shutdown(self) -> None:
        """Send a FIN after what is queued; the other direction stays open."""
        if self.state is State.CONNECTED and not self._sender.is_shut:
            self._sender.shut()
            self._host.ready(self)

    def close(self, now: float) -> None:
        """Finish both directions: what is queued still goes out, what comes in is dropped.  Returns at once.

        The connection lives on until the other end has everything and has finished too (`linger`); data that it
        sends after it has acknowledged our FIN is answered with ST_RESET.  A connecting one is given up.
        """
        if self.state is State.SYN_SENT:
            self.abort(now)
        if self.state is not State.CONNECTED:
            return
        self._closing = True
        self._receiver.discard()
        self.shutdown()
        self._linger(now)
        self._host.ready(self)

    def abort(self, now: float) -> None:
        """End it now: ST_RESET to a connected peer, silence to one that has not answered yet.  May be called twice."""
        if self.state is not State.CLOSED:
            self._lose("aborted", now, tell=self.state is State.CONNECTED)

    def statistics(self) -> ConnectionStatistics:
        if not self._established:
            return ConnectionStatistics(0, 0, 0, 0.0, 0.0, 0, 0)
        sender = self._sender
        return ConnectionStatistics(
            bytes_in=self._receiver.received,
            bytes_out=self._bytes_out,
            packets_retransmitted=sender.retransmitted,
            round_trip=sender.rtt.smoothed,
            queueing_delay=self._delay,
            congestion_window=int(sender.congestion.window),
            packet_size=sender.mtu.size,
        )

    def _reopen_window(self) -> None:
        """Tell a sender that was, or is about to be, held back by our window that there is room again."""
        if self.state is State.CONNECTED:
            window = self._receiver.window()
            if window - self._advertised >= self._config.receive_buffer // 2:
                self._ack_due = True
                self._host.ready(self)

    # Datagrams in

    def receive_run(self, datagrams: Sequence[memoryview], start: int, now: float) -> int:
        """Take datagrams from index ``start`` on, at least one, as long as they belong here; the index after them."""
        if self.state is State.CONNECTED:
            index = self._receive_in_order(datagrams, start, now)
            if index > start:
                return index
        try:
            packet = decode_untrusted(datagrams[start])
        except RemoteProtocolError:
            return start + 1
        self.receive_packet(packet, now)
        return start + 1

    def _receive_in_order(self, datagrams: Sequence[memoryview], start: int, now: float) -> int:
        """The fast path: plain data exactly as expected, however many packets of it, one ACK, one clock reading."""
        receiver = self._receiver
        if receiver.early_mask or self._closing:
            return start
        expected = receiver.next_seq
        data_word = self._data_word
        payloads: list[memoryview] = []
        size = 0
        try:
            for index in range(start, len(datagrams)):
                datagram = datagrams[index]
                word, seq_nr, _ = unpack_word_seq_ack(datagram)
                if word != data_word or seq_nr != expected:
                    break
                expected = (expected + 1) & SEQ_MASK
                payload = datagram[HEADER_SIZE:]
                payloads.append(payload)
                size += len(payload)
        except struct.error:
            pass  # shorter than a header: the slow path drops it
        count = len(payloads)
        if not count:
            return start
        _, timestamp, difference, wnd_size, _, ack_nr = HEADER.unpack_from(datagrams[start + count - 1])
        if not self._acknowledges_sent(ack_nr) or not receiver.receive_run(payloads, size):
            return start
        self._ack_due = True
        self._on_header(ST_DATA, timestamp, difference, wnd_size, ack_nr, 0, now)
        self._host.changed(self)
        return start + count

    def receive_packet(self, packet: Packet, now: float) -> None:
        """Any packet with our receive id but ST_RESET, decoded."""
        if self.state is State.SYN_SENT:
            self._receive_answer(packet, now)
        elif packet.type == ST_SYN:
            # Their SYN again: our answer may have been lost.
            self._ack_due = self._ack_due or packet.seq_nr == (self._receiver.first_seq - 1) & SEQ_MASK
        elif self.state is not State.CLOSED and self._acknowledges_sent(packet.ack_nr):
            self._receive_established(packet, now)

    def _receive_answer(self, packet: Packet, now: float) -> None:
        """SYN_SENT: the first ST_STATE that acknowledges one of our SYNs decides which of them counts."""
        dial = self._dial
        assert dial is not None
        won = dial.answered(packet.connection_id, packet.ack_nr) if packet.type == ST_STATE else None
        if won is None:
            return
        self._host.release_ids(self, [other for other in dial.half_opens if other is not won], now)
        self._dial = None
        self.state = State.CONNECTED
        self._open(won.recv_id, won.recv_id + 1 & SEQ_MASK, won.seq_nr + 1, packet.seq_nr)
        self._sender.rtt.sample(now - won.sent_at)
        self._sender.peer_window = packet.wnd_size
        self._meter.received(packet.timestamp, packet.timestamp_difference, now)
        self._ack_due = True
        self._host.changed(self)

    def _receive_established(self, packet: Packet, now: float) -> None:
        receiver, sender = self._receiver, self._sender
        if self.state is State.SYN_RECEIVED:
            self.state = State.CONNECTED
            self._expires_at = NEVER
            self._host.accepted(self)
        if packet.type == ST_STATE:
            self._consider_reack(packet, now)
        self._on_header(
            packet.type,
            packet.timestamp,
            packet.timestamp_difference,
            packet.wnd_size,
            packet.ack_nr,
            packet.sack,
            now,
        )
        if packet.type != ST_STATE:
            self._ack_due = True
            unread, finished = receiver.unread, receiver.finished
            receiver.receive(packet.seq_nr, packet.payload, fin=packet.type == ST_FIN)
            if self._closing and receiver.unread:
                if sender.fin_acked:
                    self._lose("aborted", now, tell=True)
                    return
                receiver.discard()
            elif receiver.unread != unread or receiver.finished != finished:
                self._host.changed(self)
        self._finish_if_done(now)

    def receive_reset(self, ack_nr: int, connection_id: int, now: float) -> None:
        """ST_RESET with one of our two ids.  Believed only if it names a packet that we may have sent lately."""
        if self.state is State.SYN_SENT:
            assert self._dial is not None
            for half_open in self._dial.half_opens:
                if ack_nr == half_open.seq_nr and (connection_id - half_open.recv_id) & SEQ_MASK <= 1:
                    self._lose("refused", now)
                    return
        elif self.state is not State.CLOSED:
            flight = self._sender.flight
            if (flight.next_seq - ack_nr) & SEQ_MASK <= len(flight) + ACK_REACH:
                self._lose_unless_done("reset", now)

    def _acknowledges_sent(self, ack_nr: int) -> bool:
        """Whether this ack_nr can be true: not of what was never sent, not from long ago."""
        flight = self._sender.flight
        return (flight.next_seq - 1 - ack_nr) & SEQ_MASK <= len(flight) + ACK_REACH

    def _on_header(
        self, kind: int, timestamp: int, difference: int, wnd_size: int, ack_nr: int, sack: int, now: float
    ) -> None:
        """What every packet tells: delay, window, arrivals.  ``ack_nr`` has been found possible."""
        meter, sender = self._meter, self._sender
        meter.received(timestamp, difference, now)
        count = (ack_nr + 1 - sender.flight.first_seq) & SEQ_MASK
        if count >= HALF:
            return  # overtaken by a newer one
        if sender.flight:
            self._delay = meter.queueing_delay(sender.rtt.latest)
        sender.on_ack(count, sack << 1, wnd_size, self._delay, now, duplicate=kind == ST_STATE)
        if sender.fin_acked:
            self._finish_if_done(now)

    def _relieve(self) -> None:
        """End a refusal to take more once half the send buffer is free."""
        if self._starved and self._sender.space >= self._config.send_buffer // 2:
            self._starved = False
            self._host.changed(self)

    def _consider_reack(self, packet: Packet, now: float) -> None:
        """Answer a keep-alive (libutp: ST_STATE with ack_nr one too low) and an acceptor that repeats its ST_STATE."""
        flight = self._sender.flight
        keepalive = (packet.ack_nr + 2) & SEQ_MASK == flight.first_seq
        silent = not self._bytes_out and not self._sender.is_shut and not self._receiver.anything
        unconfirmed = silent and self._initiator
        if (keepalive or unconfirmed) and now - self._last_reack >= REACK_INTERVAL:
            self._last_reack = now
            self._ack_due = True

    # Datagrams out

    def datagrams_to_send(self, now: float) -> list[Outgoing]:
        """What may leave now, up to `RUNS_PER_TURN` runs of data; ask again until it is empty."""
        if self.state is State.SYN_SENT:
            return self._syns_to_send(now)
        if self.state is State.CLOSED:
            return []
        outgoing: list[Outgoing] = []
        if self.state is State.CONNECTED:
            self._runs_to_send(outgoing, now)
        if self._ack_due and (not outgoing or self._receiver.early_mask):
            outgoing.append(self._state_packet(now))
        elif self._keepalive_due and not outgoing:
            outgoing.append(self._state_packet(now, back=1))
        if outgoing:
            self._ack_due = self._keepalive_due = False
            self._advertised = self._receiver.window()
            self._keepalive_at = now + (self._config.keepalive if self.state is State.CONNECTED else REANSWER)
        return outgoing

    def _runs_to_send(self, outgoing: list[Outgoing], now: float) -> None:
        sender = self._sender
        run = sender.next_run(now)
        if run is None:
            return
        reply = self._meter.reply
        window = self._receiver.window()
        ack_nr = (self._receiver.next_seq - 1) & SEQ_MASK
        while run is not None:
            outgoing.append(self._framing.run(run, reply, window, ack_nr, now))
            if len(outgoing) == RUNS_PER_TURN:
                self._host.ready(self)
                break
            run = sender.next_run(now)
        self._relieve()

    def _syns_to_send(self, now: float) -> list[Outgoing]:
        assert self._dial is not None
        outgoing = []
        while self._dial.is_due(now):
            ttl = self._dial.ttl()
            recv_id, seq_nr = self._host.claim_id(self)
            self._dial.half_opens.append(HalfOpen(recv_id, seq_nr, now))
            outgoing.append(syn(self.path, recv_id, seq_nr, self._config.receive_buffer, ttl, now))
        return outgoing

    def _state_packet(self, now: float, back: int = 0) -> Outgoing:
        receiver = self._receiver
        ack_nr = (receiver.next_seq - 1 - back) & SEQ_MASK
        window = receiver.window()
        return self._framing.state(
            self._sender.flight.next_seq, self._meter.reply, window, ack_nr, 0 if back else receiver.early_mask, now
        )

    # Time

    def next_deadline(self) -> float:
        """When `handle_deadline` wants to be called; inf for never."""
        if self.state is State.SYN_SENT:
            assert self._dial is not None
            return self._dial.next_at()
        if self.state is State.CLOSED:
            return NEVER
        return min(self._sender.deadline, self._keepalive_at, self._expires_at)

    def handle_deadline(self, now: float) -> None:
        if self.state is State.SYN_SENT:
            assert self._dial is not None
            if self._dial.is_over(now):
                self._lose("timed-out", now)
            else:
                self._host.ready(self)
            return
        if self.state is State.CLOSED:
            return
        if now >= self._expires_at:
            self._expire(now)
            return
        if now >= self._keepalive_at:
            self._keepalive_at = now + self._config.keepalive
            if self.state is State.SYN_RECEIVED:
                self._ack_due = True
            else:
                self._keepalive_due = True
        if now >= self._sender.deadline:
            self._sender.handle_deadline(now)
            if self._sender.timeouts >= self._config.max_timeouts:
                self._lose_unless_done("timed-out", now)
                return
        self._host.ready(self)

    def probe_too_big(self, size: int) -> None:
        """The kernel refused our MTU probe of ``size`` bytes (EMSGSIZE)."""
        if self._established and self.state is State.CONNECTED:
            self._sender.probe_too_big(size)
            self._host.ready(self)

    def _linger(self, now: float) -> None:
        """Once our FIN has arrived, the other end's is waited for only so long."""
        self._expires_at = now + self._config.linger if self._sender.fin_acked else NEVER

    def _expire(self, now: float) -> None:
        if self.state is State.SYN_RECEIVED:
            self._lose("timed-out", now)
        else:
            self._finish(now)

    # Ends

    def _finish_if_done(self, now: float) -> None:
        if self.state is not State.CONNECTED or not self._sender.fin_acked:
            return
        if self._receiver.finished:
            self._finish(now)
        elif self._closing and self._expires_at == NEVER:
            self._linger(now)

    def _lose_unless_done(self, reason: str, now: float) -> None:
        """With everything read and nothing but our FIN unconfirmed, an end that has gone away has not failed us.

        libutp forgets a connection as soon as its own FIN is acknowledged and resets whatever comes later.
        """
        if self._receiver.finished and self._sender.awaits_only_fin:
            self._end(None, None, now)
        else:
            self._lose(reason, now)

    def _finish(self, now: float) -> None:
        farewell = self._state_packet(now)
        self._host.remember(self, farewell, now)
        self._end(None, farewell if self._ack_due else None, now)

    def _lose(self, reason: str, now: float, *, tell: bool = False) -> None:
        farewell = None
        if tell:
            ack_nr = (self._receiver.next_seq - 1) & SEQ_MASK
            farewell = reset(self.path, self.send_id, self._sender.flight.next_seq, ack_nr, now)
        self._end(ConnectionLost(reason), farewell, now)

    def _end(self, error: ConnectionLost | None, farewell: Outgoing | None, now: float) -> None:
        if self._dial is not None:
            self._host.release_ids(self, self._dial.half_opens, now)
            self._dial = None
        known = self.state is not State.SYN_RECEIVED
        self.state = State.CLOSED
        self.error = error
        if self._established:
            self._sender.drop()
        self._host.ended(self, farewell, now)
        if known:
            self._host.changed(self)
