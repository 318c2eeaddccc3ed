"""One end of a simulated TCP connection (RFC 9293): its state machine.

Every SYN, ACK, FIN and RST is a packet that NATs translate and links lose: handshakes, simultaneous open, half-close
and resets happen as on Linux.  Data goes in runs of up to 64 KiB that links with effects cut into segments; loss
recovery is SACK-based (RFC 6675 in outline) with Reno's window, an RTO (RFC 6298) and zero-window probes.
Not simulated: Nagle, delayed ACKs, urgent data, keep-alives, ECN, path-MTU search (routers clamp the MSS instead).
"""

from __future__ import annotations

import errno
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from enum import Enum
from operator import itemgetter
from typing import TYPE_CHECKING

import trio

from swarm.endpoint import Endpoint
from swarm.simnet.packet import IPV4_HEADER, IPV6_HEADER, TCP_HEADER, TcpSegment
from swarm.simnet.ports import os_error
from swarm.simnet.recovery import SendWindow

if TYPE_CHECKING:
    from swarm.simnet.tcpstack import Acceptor, TcpStack

RECEIVE_BUFFER = 1 << 20  # bytes received and not read
RUN = 64 << 10  # bytes sent as one packet at most
SYN_TIMEOUT = 1.0  # seconds, doubling
SYN_RETRIES = 6  # Linux: gives up after 1 + 2 + ... + 64 = 127 s
SYN_ACK_RETRIES = 5  # 63 s
DATA_RETRIES = 15  # tcp_retries2: about 15 minutes
TIME_WAIT = 60.0  # seconds, as Linux; also how long FIN-WAIT-2 lasts once nobody reads


class State(Enum):
    """Where a connection stands.  FIN-WAIT and CLOSE-WAIT are ESTABLISHED with the flags of `Connection`."""

    SYN_SENT = "SYN-SENT"
    SYN_RECEIVED = "SYN-RECEIVED"
    ESTABLISHED = "ESTABLISHED"
    TIME_WAIT = "TIME-WAIT"
    CLOSED = "CLOSED"


class Connection:
    """One end of a TCP connection; no trio but the two parking lots its stream waits in.

    ``error`` says why it died, None while it lives and after an orderly end.
    """

    def __init__(self, stack: TcpStack, local: Endpoint, remote: Endpoint, listener: Acceptor | None = None) -> None:
        self.stack = stack
        self.local = local
        self.remote = remote
        self.state = State.SYN_SENT
        self.error: OSError | None = None
        self.readers = trio.lowlevel.ParkingLot()
        self.writers = trio.lowlevel.ParkingLot()
        self.orphaned = False
        self.end_received = False
        self._listener = listener
        self._internet = stack.host.internet
        headers = TCP_HEADER + (IPV6_HEADER if local.is_ipv6 else IPV4_HEADER)
        self._mss = stack.host.mtu_from(local.host) - headers
        self._send = SendWindow(self._internet.dice.getrandbits(31), self._mss)
        self._received: deque[bytes | memoryview] = deque()
        self._received_bytes = 0
        self._rcv_nxt = 0
        self._advertised = 0
        self._early: list[tuple[int, bytes | memoryview]] = []
        self._fin_at: int | None = None
        self._closed_first = False
        self._echo: float | None = None
        self._deadline: float | None = None
        self._timer_set = False
        self._retries = 0
        self._unanswered_since = 0.0

    # ---- for the stream

    @property
    def readable(self) -> bool:
        """Whether a read would not block: data, the end, or an error."""
        return bool(self._received) or self.end_received or self.state is State.CLOSED

    @property
    def unread(self) -> int:
        """Bytes received and not read."""
        return self._received_bytes

    @property
    def send_space(self) -> int:
        """Bytes that may be written without blocking."""
        return self._send.space

    @property
    def sending_ended(self) -> bool:
        return self._send.fin_seq is not None

    def unanswered(self) -> float:
        """See `swarm.net.network.TellsUnanswered`."""
        waits = self._send.outstanding > 0 and not self._send.window_closed  # a probe counts as outstanding here
        return self._internet.now - self._unanswered_since if waits else 0.0

    def write(self, data: bytes | memoryview) -> None:
        """Queue data, which must not change any more, and send what the windows allow."""
        self._send.append(data)
        self._transmit()

    def read(self, max_bytes: int) -> bytes | memoryview:
        """Up to ``max_bytes`` of what waits, of one chunk; b"" if nothing does."""
        if not self._received:
            return b""
        chunk = self._received[0]
        if len(chunk) <= max_bytes:
            self._received.popleft()
        else:
            view = memoryview(chunk)
            chunk, self._received[0] = view[:max_bytes], view[max_bytes:]
        self._received_bytes -= len(chunk)
        if self._rcv_nxt + self._window() - self._advertised >= min(RECEIVE_BUFFER // 2, 2 * RUN):
            self._send_ack()
        return chunk

    def shutdown(self) -> None:
        """Send FIN after what is queued."""
        if self._send.fin_seq is None:
            self._send.append_fin()
            self._closed_first = not self.end_received
            self._transmit()

    def close(self) -> None:
        """Nobody reads any more: an orderly end in the background, or RST if data was left unread, as Linux."""
        if self._received or self.state in (State.SYN_SENT, State.SYN_RECEIVED):
            self.abort()
        elif self.state is State.ESTABLISHED and not self.orphaned:
            self.orphaned = True
            self.shutdown()
            self._finish_if_done()

    def abort(self) -> None:
        """RST, and forget everything."""
        if self.state in (State.ESTABLISHED, State.SYN_RECEIVED):
            self._reply(rst=True)
        if self.state is not State.TIME_WAIT:
            self._die(None)

    def abandon(self) -> None:
        """Forget a connection that is over, silently."""
        self._die(None)

    # ---- opening

    def send_syn(self) -> None:
        """Begin an active open."""
        self._send_syn(ack=False)
        self._start_timer(SYN_TIMEOUT)

    def answer_syn(self, syn: TcpSegment) -> None:
        """A passive open, or the answer to a SYN that crossed ours (simultaneous open, RFC 9293 §3.5)."""
        self.state = State.SYN_RECEIVED
        self._take_syn(syn)
        self._send_syn(ack=True)
        self._retries = 0
        self._start_timer(SYN_TIMEOUT)

    # ---- from the network

    def receive(self, segment: TcpSegment) -> None:
        match self.state:
            case State.SYN_SENT:
                self._receive_in_syn_sent(segment)
            case State.TIME_WAIT:
                if segment.fin:
                    self._send_ack()
            case _:
                self._receive_synchronised(segment)

    def _receive_in_syn_sent(self, segment: TcpSegment) -> None:
        if segment.ack_flag and segment.ack != self._send.una + 1:
            if not segment.rst:
                self.stack.refuse(segment)
        elif segment.rst:
            if segment.ack_flag:
                self._die(os_error(errno.ECONNREFUSED))
        elif segment.syn and segment.ack_flag:
            self._take_syn(segment)
            self._establish(segment)
            self._send_ack()
        elif segment.syn:
            self.answer_syn(segment)

    def _receive_synchronised(self, segment: TcpSegment) -> None:
        if segment.rst:
            if self._rcv_nxt <= segment.seq <= self._advertised:
                refused = self.state is State.SYN_RECEIVED
                self._die(os_error(errno.ECONNREFUSED if refused else errno.ECONNRESET))
            return
        if segment.syn and not segment.ack_flag and self.state is State.SYN_RECEIVED:
            self._send_syn(ack=True)
            return
        if not segment.ack_flag:
            return
        if self.state is State.SYN_RECEIVED:
            if not self._send.acceptable(segment.ack):
                self.stack.refuse(segment)
                return
            self._establish(segment)
            if segment.syn:
                self._send_ack()
        elif segment.syn:
            self._send_ack()  # our ACK was lost, or somebody restarted: a challenge ACK (RFC 5961 §4) serves both
            return
        self._receive_ack(segment)
        if self.state is State.ESTABLISHED and (segment.payload or segment.fin):
            self._receive_data(segment)

    def _receive_ack(self, segment: TcpSegment) -> None:
        window = self._send
        before = window.una
        if not window.receive_ack(segment, self._internet.now):
            return
        if window.una > before or window.window_closed:
            self._retries = 0
            self._unanswered_since = self._internet.now
        if window.outstanding or window.blocked_by_peer:
            if window.una > before or self._deadline is None:
                self._start_timer(window.rto)
        else:
            self._deadline = None
        self._transmit()
        if window.space and self.writers:
            self.writers.unpark_all()
        self._finish_if_done()

    def _receive_data(self, segment: TcpSegment) -> None:
        if self.orphaned and segment.payload:
            self.abort()
            return
        self._echo = segment.sent_at
        if segment.fin:
            self._fin_at = segment.end - 1
        self._store(segment.seq, segment.payload)
        if self._fin_at is not None and self._fin_at == self._rcv_nxt:
            self._rcv_nxt += 1
            self.end_received = True
        self._send_ack()
        self.readers.unpark_all()
        self._finish_if_done()

    def _store(self, seq: int, payload: bytes | memoryview) -> None:
        """Keep what is new and fits; move what is now in order to the reader."""
        if seq > self._rcv_nxt:
            at = bisect_left(self._early, seq, key=_first)
            if at == len(self._early) or self._early[at][0] != seq:
                self._early.insert(at, (seq, payload))
            return
        self._append_in_order(seq, payload)
        while self._early and self._early[0][0] <= self._rcv_nxt:
            self._append_in_order(*self._early.pop(0))

    def _append_in_order(self, seq: int, payload: bytes | memoryview) -> None:
        skip = self._rcv_nxt - seq
        if skip >= len(payload) or self._received_bytes >= RECEIVE_BUFFER or self.end_received:
            return
        if skip:
            payload = memoryview(payload)[skip:]
        self._received.append(payload)
        self._received_bytes += len(payload)
        self._rcv_nxt += len(payload)

    # ---- to the network

    def _transmit(self) -> None:
        """Send what the windows allow: lost data first, then new."""
        if self.state is not State.ESTABLISHED:
            return
        sent = False
        for seq, payload, fin in self._send.take(RUN, self._internet.now):
            sent = True
            self._reply(seq=seq, payload=payload, fin=fin)
        if (sent or self._send.blocked_by_peer) and self._deadline is None:
            self._start_timer(self._send.rto)

    def _send_ack(self) -> None:
        self._reply(sacked=tuple(self._early_ranges()))

    def _send_syn(self, *, ack: bool) -> None:
        self._reply(seq=self._send.una, syn=True, mss=self._mss, ack=ack)

    def _reply(
        self,
        *,
        seq: int | None = None,
        payload: bytes | memoryview = b"",
        ack: bool = True,
        syn: bool = False,
        fin: bool = False,
        rst: bool = False,
        mss: int = 0,
        sacked: tuple[tuple[int, int], ...] = (),
    ) -> None:
        window = self._window()
        self._advertised = max(self._advertised, self._rcv_nxt + window)
        self.stack.send(
            TcpSegment(
                self.local,
                self.remote,
                payload,
                self._mss,
                seq=self._send.nxt if seq is None else seq,
                ack=self._rcv_nxt if ack else None,
                window=window,
                syn=syn,
                fin=fin,
                rst=rst,
                mss=mss,
                sacked=sacked,
                sent_at=self._internet.now,
                echo=self._echo,
            )
        )

    def _window(self) -> int:
        return max(0, RECEIVE_BUFFER - self._received_bytes)

    def _early_ranges(self) -> Iterator[tuple[int, int]]:
        start = end = 0
        for seq, data in self._early:
            stop = seq + len(data)
            if seq > end:
                if end:
                    yield start, end
                start, end = seq, stop
            elif stop > end:
                end = stop
        if end:
            yield start, end

    # ---- changes of state

    def _take_syn(self, syn: TcpSegment) -> None:
        self._rcv_nxt = syn.seq + 1
        self._advertised = self._rcv_nxt
        self._echo = syn.sent_at
        self._mss = min(self._mss, syn.mss)
        self._send.mss = self._mss

    def _establish(self, segment: TcpSegment) -> None:
        self.state = State.ESTABLISHED
        self._deadline = None
        self._retries = 0
        self._send.begin(segment, self._internet.now)
        if self._listener is not None and not self._listener.offer(self):
            self.abort()
        self.writers.unpark_all()
        self._transmit()

    def _finish_if_done(self) -> None:
        """After both FINs leave the stage; an orphan waits for the other's FIN only so long."""
        if self.state is not State.ESTABLISHED or not self._send.fin_acked:
            return
        if not self.end_received:
            if self.orphaned:
                self._start_timer(TIME_WAIT)
        elif self._closed_first:
            self.state = State.TIME_WAIT
            self._start_timer(TIME_WAIT)
        elif self.orphaned:
            self._die(None)

    def _die(self, error: OSError | None) -> None:
        self.error = error
        self.state = State.CLOSED
        self._deadline = None
        self.stack.forget(self)
        self.readers.unpark_all()
        self.writers.unpark_all()

    # ---- the one timer

    def _start_timer(self, seconds: float) -> None:
        if not self._retries:
            self._unanswered_since = self._internet.now
        self._deadline = self._internet.now + seconds
        if not self._timer_set:
            self._timer_set = True
            self._internet.call_later(seconds, Connection._timer, self)

    def _timer(self) -> None:
        self._timer_set = False
        if self._deadline is None:
            return
        left = self._deadline - self._internet.now
        if left > 0:
            self._timer_set = True
            self._internet.call_later(left, Connection._timer, self)
            return
        self._deadline = None
        self._timed_out()

    def _timed_out(self) -> None:
        self._retries += 1
        match self.state:
            case State.SYN_SENT | State.SYN_RECEIVED:
                answering = self.state is State.SYN_RECEIVED
                if self._retries > (SYN_ACK_RETRIES if answering else SYN_RETRIES):
                    self._die(os_error(errno.ETIMEDOUT))
                else:
                    self._send_syn(ack=answering)
                    self._start_timer(SYN_TIMEOUT * 2**self._retries)
            case State.TIME_WAIT:
                self._die(None)
            case State.ESTABLISHED if self._send.outstanding or self._send.blocked_by_peer:
                if self._retries > DATA_RETRIES:
                    self._die(os_error(errno.ETIMEDOUT))
                else:
                    self._send.time_out()
                    self._transmit()
                    self._start_timer(self._send.rto)
            case State.ESTABLISHED if self.orphaned:
                self._die(None)


_first = itemgetter(0)
