"""One µTP connection (BEP 29): its states, its ends, and what an application does with it.

    SYN_SENT --ST_STATE--> CONNECTED <--first packet after the SYN-- SYN_RECEIVED
                               |  FIN both ways acknowledged, ST_RESET, time-outs, abort
                               v
                             CLOSED

ST_STATE consumes no sequence number, whatever the BEP's diagram says: the acceptor answers a SYN with the number its
first data will have, and ``ack_nr`` is one below it.  The initiator must speak at once: libutp's acceptor dies after
three seconds without ST_DATA and may not write before it.  Here the initiator answers ST_STATE with ST_STATE, so that
between two of ours either end may speak first.

A half-close is honoured by us and by libtorrent; the libutp of Transmission 3.00 closes on a FIN and sends none back.
Opens nothing and knows no trio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from utp.channel import Channel
from utp.config import UtpConfig
from utp.dial import Dial, HalfOpen
from utp.errors import ConnectionLost, LocalProtocolError, RemoteProtocolError
from utp.framing import syn
from utp.host import Host
from utp.path import Buffer, Outgoing, Path
from utp.sender import NEVER
from utp.seqnr import SEQ_MASK
from utp.wire import ST_STATE, ST_SYN, Packet, decode_untrusted

REANSWER = 3.0  # seconds after which an answer to a SYN that led to nothing is repeated
REACK_INTERVAL = 1.0  # seconds between answers to keep-alives


class State(Enum):
    SYN_SENT = "syn-sent"
    SYN_RECEIVED = "syn-received"
    CONNECTED = "connected"
    CLOSED = "closed"


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
        "_bytes_out",
        "_channel",
        "_closing",
        "_config",
        "_dial",
        "_expires_at",
        "_host",
        "_initiator",
        "_keepalive",
        "_keepalive_at",
        "_keepalive_due",
        "_last_reack",
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
        self._channel: Channel | None = None  # from the moment that ids and sequence numbers are agreed
        self._dial: Dial | None = None
        self._initiator = False
        self._bytes_out = 0
        self._starved = False  # the application offered more than fitted
        self._closing = False  # nobody reads any more
        self._keepalive = host.keepalive(path.remote)
        self._keepalive_due = False
        self._keepalive_at = NEVER
        self._last_reack = -REACK_INTERVAL
        self._expires_at = NEVER

    # The application's side

    @property
    def connected(self) -> bool:
        return self.state is State.CONNECTED

    @property
    def send_space(self) -> int:
        """Bytes that `send` takes now; once it took less than offered, nothing until half the buffer is free."""
        if self.state is not State.CONNECTED or self._starved:
            return 0
        return self._open_channel.sender.space

    @property
    def writable(self) -> bool:
        """Whether there is room worth waking up for: half the send buffer."""
        return self.send_space >= self._config.send_buffer // 2

    @property
    def unread(self) -> int:
        """Bytes that `receive` gives now."""
        return 0 if self._channel is None else self._channel.receiver.unread

    @property
    def at_eof(self) -> bool:
        """The other end has finished and everything has been read."""
        return self._channel is not None and self._channel.receiver.finished and not self._channel.receiver.unread

    @property
    def has_window_news(self) -> bool:
        """Whether reading has made room that the other end should hear of: ask `datagrams_to_send`."""
        return self._channel is not None and self._channel.ack_due

    def send(self, data: Buffer) -> int:
        """Queue as much of ``data`` as fits and return how much; the rest is to be offered again after a change.

        ``bytes`` are kept by reference until acknowledged, other buffers are copied.  LocalProtocolError unless
        connected, and after `shutdown`.
        """
        if self.state is not State.CONNECTED or self._open_channel.sender.is_shut:
            raise LocalProtocolError("send on a connection that is not open for sending")
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        count = min(size, self.send_space)
        if count < size:
            self._starved = True
        if count:
            self._open_channel.sender.append(data, count)
            self._bytes_out += count
            self._host.ready(self)
        return count

    def end_packet(self) -> None:
        """What is queued will share no packet with what comes later, if it is short and nothing is in flight.

        Transmission 3.00 leaves unread what comes in one packet behind the BitTorrent handshake until the next comes.
        """
        if self.state is State.CONNECTED:
            self._open_channel.sender.end_packet()

    def request_space(self) -> None:
        """Take no more until half the send buffer is free, and tell by a change when it is."""
        self._starved = True

    def receive(self, max_bytes: int) -> bytes | memoryview:
        """Up to ``max_bytes`` (in one piece, not more than one run of packets); empty if there are none now."""
        data = self._open_channel.receiver.take(max_bytes)
        self._reopen_window()
        return data

    def receive_into(self, buffer: memoryview) -> int:
        """Fill the front of ``buffer``; the number of bytes."""
        count = self._open_channel.receiver.take_into(buffer)
        self._reopen_window()
        return count

    def shutdown(self) -> None:
        """Send a FIN after what is queued; the other direction stays open."""
        if self.state is State.CONNECTED and not self._open_channel.sender.is_shut:
            self._open_channel.sender.shut()
            self._host.ready(self)

    def close(self, now: float) -> None:
        """Finish both directions: what is queued still goes out, what comes in is dropped.  Returns at once.

        The connection lives on until the other end has everything and has finished too (`linger`); data that it
        sends after it has acknowledged our FIN is answered with ST_RESET.  A connecting one is given up.
        """
        if self.state is State.SYN_SENT:
            self.abort(now)
        if self._channel is not None:
            self._channel.receiver.discard()
        if self.state is not State.CONNECTED:
            return
        self._closing = True
        self.shutdown()
        self._finish_if_done(now)
        self._host.ready(self)

    def abort(self, now: float) -> None:
        """End it now: ST_RESET to a connected peer, silence to one that has not answered yet.  May be called twice."""
        if self.state is not State.CLOSED:
            self._lose("aborted", now, tell=self.state is State.CONNECTED)

    def statistics(self) -> ConnectionStatistics:
        if self._channel is None:
            return ConnectionStatistics(0, 0, 0, 0.0, 0.0, 0, 0)
        sender = self._channel.sender
        return ConnectionStatistics(
            bytes_in=self._channel.receiver.received,
            bytes_out=self._bytes_out,
            packets_retransmitted=sender.retransmitted,
            round_trip=sender.rtt.smoothed,
            queueing_delay=self._channel.delay,
            congestion_window=int(sender.congestion.window),
            packet_size=sender.mtu.size,
        )

    # Opening

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
        self._open((connection_id + 1) & SEQ_MASK, connection_id, seq_nr, syn_seq + 1).ack_due = True
        self._host.ready(self)

    def _open(self, recv_id: int, send_id: int, next_seq_out: int, next_seq_in: int) -> Channel:
        self.recv_id, self.send_id = recv_id, send_id
        self._channel = Channel(
            self._config,
            self.path,
            recv_id=recv_id,
            send_id=send_id,
            next_seq_out=next_seq_out,
            next_seq_in=next_seq_in,
        )
        return self._channel

    @property
    def _open_channel(self) -> Channel:
        assert self._channel is not None
        return self._channel

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
        channel = self._open(won.recv_id, won.recv_id + 1 & SEQ_MASK, won.seq_nr + 1, packet.seq_nr)
        channel.confirmed(packet, now - won.sent_at, now)
        self._host.changed(self)

    def _syns_to_send(self, now: float) -> list[Outgoing]:
        assert self._dial is not None
        outgoing = []
        while self._dial.is_due(now):
            ttl = self._dial.ttl()
            recv_id, seq_nr = self._host.claim_id(self)
            self._dial.half_opens.append(HalfOpen(recv_id, seq_nr, now))
            outgoing.append(syn(self.path, recv_id, seq_nr, self._config.receive_buffer, ttl, now))
        return outgoing

    # Datagrams in

    def receive_run(self, datagrams: Sequence[memoryview], start: int, now: float) -> int:
        """Take datagrams from index ``start`` on, at least one, as long as they belong here; the index after them."""
        if self.state is State.CONNECTED and not self._closing:
            channel = self._open_channel
            index = channel.receive_in_order(datagrams, start, now)
            if index > start:
                self._relieve(channel)
                self._host.changed(self)
                self._finish_if_done(now)
                return index
        try:
            packet = decode_untrusted(datagrams[start])
        except RemoteProtocolError:
            return start + 1
        self.receive_packet(packet, now)
        return start + 1

    def receive_packet(self, packet: Packet, now: float) -> None:
        """Any packet with our receive id but ST_RESET, decoded."""
        if self.state is State.SYN_SENT:
            self._receive_answer(packet, now)
        elif self.state is State.CLOSED:
            return
        elif packet.type == ST_SYN:
            self._receive_syn_again(packet)
        elif self._proves_itself(packet.ack_nr):
            self._receive_established(packet, now)

    def receive_reset(self, ack_nr: int, connection_id: int, now: float) -> None:
        """ST_RESET with one of our two ids.  Believed only if it names a packet that we may have sent lately."""
        if self.state is State.SYN_SENT:
            assert self._dial is not None
            for half_open in self._dial.half_opens:
                if ack_nr == half_open.seq_nr and (connection_id - half_open.recv_id) & SEQ_MASK <= 1:
                    self._lose("refused", now)
                    return
        elif self.state is not State.CLOSED and self._open_channel.may_reset(ack_nr):
            self._lose_unless_done("reset", now)

    def _proves_itself(self, ack_nr: int) -> bool:
        """Whether the sender can be the other end.  A stranger shows by our exact number that it got our answer.

        If it were enough to come near it, one forged packet in thirty would open a connection with an address that
        never asked for one.
        """
        channel = self._open_channel
        if self.state is State.SYN_RECEIVED:
            return channel.acknowledges_all(ack_nr)
        return channel.may_acknowledge(ack_nr)

    def _receive_syn_again(self, packet: Packet) -> None:
        """Our answer may have been lost; a SYN with another number would be another connection's."""
        channel = self._open_channel
        if packet.seq_nr == (channel.receiver.first_seq - 1) & SEQ_MASK and not channel.receiver.anything:
            channel.ack_due = True

    def _receive_established(self, packet: Packet, now: float) -> None:
        channel = self._open_channel
        if self.state is State.SYN_RECEIVED:
            self.state = State.CONNECTED
            self._expires_at = NEVER
            self._host.accepted(self)
        self._consider_reack(packet, channel, now)
        readable = channel.receive(packet, now)
        self._relieve(channel)
        if readable and self._closing:
            if channel.receiver.unread and channel.sender.fin_acked:
                self._lose("aborted", now, tell=True)
                return
            channel.receiver.discard()
        elif readable:
            self._host.changed(self)
        self._finish_if_done(now)

    def _consider_reack(self, packet: Packet, channel: Channel, now: float) -> None:
        """Answer a keep-alive, and an acceptor that repeats its ST_STATE because ours was lost; not in a loop."""
        silent = not self._bytes_out and not channel.sender.is_shut and not channel.receiver.anything
        repeated = self._initiator and silent and packet.type == ST_STATE
        if (repeated or channel.is_keepalive(packet)) and now - self._last_reack >= REACK_INTERVAL:
            self._last_reack = now
            channel.ack_due = True

    # Datagrams out

    def datagrams_to_send(self, now: float) -> list[Outgoing]:
        """What may leave now, at most a few runs of data; `Host.ready` is called again if there may be more."""
        if self.state is State.SYN_SENT:
            return self._syns_to_send(now)
        if self.state is State.CLOSED:
            return []
        channel, connected = self._open_channel, self.state is State.CONNECTED
        outgoing, more = channel.datagrams_to_send(now, data=connected, keepalive=self._keepalive_due)
        if outgoing:
            self._keepalive_due = False
            self._keepalive_at = now + (self._keepalive if connected else REANSWER)
            self._relieve(channel)
        if more:
            self._host.ready(self)
        return outgoing

    def _reopen_window(self) -> None:
        """Tell a sender that was, or is about to be, held back by our window that there is room again."""
        if self.state is State.CONNECTED and self._open_channel.has_room_to_tell():
            self._open_channel.ack_due = True
            self._host.ready(self)

    def _relieve(self, channel: Channel) -> None:
        """End a refusal to take more once half the send buffer is free."""
        if self._starved and channel.sender.space >= self._config.send_buffer // 2:
            self._starved = False
            self._host.changed(self)

    # Time

    def next_deadline(self) -> float:
        """When `handle_deadline` wants to be called; inf for never."""
        if self.state is State.SYN_SENT:
            assert self._dial is not None
            return self._dial.next_at()
        if self.state is State.CLOSED:
            return NEVER
        return min(self._open_channel.sender.deadline, self._keepalive_at, self._expires_at)

    def handle_deadline(self, now: float) -> None:
        """Look at all timers."""
        if self.state is State.SYN_SENT:
            assert self._dial is not None
            if self._dial.is_over(now):
                self._lose("timed-out", now)
        elif self.state is not State.CLOSED:
            self._handle_established_deadline(now)

    def _handle_established_deadline(self, now: float) -> None:
        channel = self._open_channel
        if now >= self._expires_at:
            if self.state is State.SYN_RECEIVED:
                self._lose("timed-out", now)
            else:
                self._finish(now)
            return
        if now >= self._keepalive_at:
            self._keepalive = self._host.keepalive(self.path.remote)
            self._keepalive_at = now + self._keepalive
            self._keepalive_due = self.state is State.CONNECTED
            channel.ack_due |= self.state is State.SYN_RECEIVED
        if now >= channel.sender.deadline:
            channel.sender.handle_deadline(now)
            if channel.sender.timeouts >= self._config.max_timeouts:
                self._lose_unless_done("timed-out", now)

    def datagram_too_big(self, size: int) -> None:
        """The kernel refused a packet of ``size`` bytes to our other end (EMSGSIZE)."""
        if self.state is State.CONNECTED:
            self._open_channel.sender.datagram_too_big(size)
            self._host.ready(self)

    # Ends

    def _finish_if_done(self, now: float) -> None:
        if self.state is not State.CONNECTED or not self._open_channel.sender.fin_acked:
            return
        if self._open_channel.done:
            self._finish(now)
        elif self._closing and self._expires_at == NEVER:
            self._expires_at = now + self._config.linger  # our FIN has arrived; theirs is waited for only so long

    def _lose_unless_done(self, reason: str, now: float) -> None:
        """With everything read and nothing but our FIN unconfirmed, an end that has gone away has not failed us.

        libutp forgets a connection as soon as its own FIN is acknowledged and resets whatever comes later.
        """
        if self._open_channel.abandoned_well:
            self._end(None, None, now)
        else:
            self._lose(reason, now)

    def _finish(self, now: float) -> None:
        farewell = self._open_channel.state_packet(now)
        self._host.remember(self, farewell, now)
        self._end(None, farewell if self._open_channel.ack_due else None, now)

    def _lose(self, reason: str, now: float, *, tell: bool = False) -> None:
        self._end(ConnectionLost(reason), self._open_channel.reset_packet(now) if tell else None, now)

    def _end(self, error: ConnectionLost | None, farewell: Outgoing | None, now: float) -> None:
        if self._dial is not None:
            self._host.release_ids(self, self._dial.half_opens, now)
            self._dial = None
        known = self.state is not State.SYN_RECEIVED
        self.state = State.CLOSED
        self.error = error
        if self._channel is not None:
            self._channel.drop()
        self._host.ended(self, farewell, now)
        if known:
            self._host.changed(self)
