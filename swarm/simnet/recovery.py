"""The sending half of a simulated TCP connection: what is unsent, in flight, SACKed and lost, and how much may leave.

Reno's congestion window (RFC 5681); losses are found by SACKs (RFC 6675) and send times (RACK, RFC 8985), both in
outline; RTO (RFC 6298).  No clock, no trio.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from swarm.simnet.packet import TcpSegment

INITIAL_WINDOW = 10  # segments (RFC 6928)
LARGEST_WINDOW = 4 << 20  # bytes
SMALLEST_SEND_BUFFER = 128 << 10  # bytes; beyond that twice the window, as Linux sizes it
LARGEST_SEND_BUFFER = 4 << 20
DUPLICATE_THRESHOLD = 3  # segments SACKed above a byte until it counts as lost
INITIAL_RTO, SMALLEST_RTO, LARGEST_RTO = 1.0, 0.2, 120.0  # seconds; 0.2 is Linux's

Bytes = bytes | memoryview


class Flight(NamedTuple):
    """A range of sequence numbers on its way."""

    start: int
    stop: int
    sent_at: float
    again: bool  # it had been lost before


class SendWindow:
    """Data between `append` and its acknowledgement.

    ``una``, ``nxt`` as in RFC 9293: the oldest unacknowledged and the next new sequence number; ``end`` is what has
    been appended.  The FIN takes one number, ``fin_seq``.  ``mss`` and ``cwnd`` in bytes, ``rto`` in seconds.
    """

    def __init__(self, iss: int, mss: int) -> None:
        self.mss = mss
        self.una = iss
        self.nxt = self.end = iss + 1
        self.fin_seq: int | None = None
        self.rto = INITIAL_RTO
        self.cwnd = INITIAL_WINDOW * mss
        self._ssthresh = LARGEST_WINDOW
        self._right = 0
        self._unsent: deque[Bytes] = deque()
        self._sent: deque[tuple[int, Bytes]] = deque()
        self._sacked: tuple[tuple[int, int], ...] = ()
        self._flights: deque[Flight] = deque()
        self._lost: deque[tuple[int, int]] = deque()
        self._delivered_at = 0.0  # when the latest segment known to have arrived was sent
        self._recover = iss
        self._probing = False
        self._srtt: float | None = None
        self._rttvar = 0.0

    def begin(self, segment: TcpSegment, now: float) -> None:
        """Our SYN was acknowledged by ``segment``."""
        self.una = self.nxt
        self.cwnd = INITIAL_WINDOW * self.mss
        self._right = self.una + segment.window
        self._recover = self.una
        self._measure(segment, now)

    # ---- what is there

    @property
    def outstanding(self) -> int:
        """Bytes sent and not acknowledged."""
        return self.nxt - self.una

    @property
    def space(self) -> int:
        """Bytes that may be appended: the buffer holds twice the window, within limits."""
        if self.fin_seq is not None:
            return 0
        limit = min(max(2 * self.cwnd, SMALLEST_SEND_BUFFER), LARGEST_SEND_BUFFER)
        return max(0, limit - (self.end - self.una))

    @property
    def window_closed(self) -> bool:
        """Whether the other end takes nothing at present."""
        return self._right <= self.una

    @property
    def blocked_by_peer(self) -> bool:
        """Whether data waits, none is in flight, and only a probe can tell when the window opens."""
        return bool(self._unsent) and self.una == self.nxt and self._right <= self.nxt

    @property
    def fin_acked(self) -> bool:
        return self.fin_seq is not None and self.una > self.fin_seq

    def acceptable(self, ack: int) -> bool:
        """Whether this acknowledges something we sent."""
        return self.una < ack <= self.nxt

    def append(self, data: Bytes) -> None:
        self._unsent.append(data)
        self.end += len(data)

    def append_fin(self) -> None:
        self.fin_seq = self.end
        self.end += 1

    # ---- what may leave

    def take(self, run: int, now: float) -> Iterator[tuple[int, Bytes, bool]]:
        """Yield (seq, payload, fin) of what is to be sent now, each at most ``run`` bytes; lost data first."""
        yield from self._take_lost(run, now)
        while self.nxt < self.end:
            payload: Bytes = b""
            if self._unsent:
                size = self._may_send(run)
                if size <= 0:
                    return
                payload = self._next_unsent(size)
                self._sent.append((self.nxt, payload))
            seq = self.nxt
            self.nxt += len(payload)
            fin = not self._unsent and self.nxt == self.fin_seq
            self.nxt += fin
            self._flights.append(Flight(seq, self.nxt, now, False))
            yield seq, payload, fin

    def _may_send(self, run: int) -> int:
        if self._probing:
            self._probing = False
            return 1
        room = min(self.cwnd - self._pipe(), self._right - self.nxt, run)
        if self.una < self.nxt and room < min(run, max(self.mss, self.cwnd // 4), self.end - self.nxt):
            return 0  # more will fit soon: runs instead of crumbs, as Linux defers segmentation offload
        return room

    def _take_lost(self, run: int, now: float) -> Iterator[tuple[int, Bytes, bool]]:
        while self._lost:
            start, stop = self._lost[0]
            gap = next(self._gaps(max(start, self.una), stop), None)
            if gap is None:
                self._lost.popleft()
                continue
            pipe = self._pipe()
            if 0 < pipe >= self.cwnd:
                return
            start = gap[0]
            end = min(gap[1], start + min(run, max(self.cwnd - pipe, self.mss)))
            self._lost[0] = end, stop
            fin = self.fin_seq is not None and start <= self.fin_seq < end
            self._flights.append(Flight(start, end, now, True))
            yield start, self._slice(start, end - fin), fin

    def _next_unsent(self, size: int) -> Bytes:
        head = self._unsent.popleft()
        if len(head) > size:
            view = memoryview(head)
            self._unsent.appendleft(view[size:])
            return view[:size]
        if len(head) >= self.mss or not self._unsent:
            return head
        parts = [head]
        total = len(head)
        while self._unsent and total + len(self._unsent[0]) <= size:
            parts.append(self._unsent.popleft())
            total += len(parts[-1])
        return b"".join(parts)

    def _slice(self, start: int, stop: int) -> bytes:
        parts = []
        for seq, payload in self._sent:
            if seq < stop and seq + len(payload) > start:
                parts.append(memoryview(payload)[max(0, start - seq) : stop - seq])
        return b"".join(parts)

    # ---- what comes back

    def receive_ack(self, segment: TcpSegment, now: float) -> bool:
        """Take the acknowledgement that every segment carries; False if it is old or about data never sent."""
        if not self.una <= segment.ack <= self.nxt:
            return False
        right = segment.ack + segment.window
        if self.window_closed and right > self._right and self.una < self.nxt:
            self._all_lost()  # the probe was not taken
        self._right = max(self._right, right)
        self._sacked = segment.sacked
        if segment.echo is not None:
            self._delivered_at = max(self._delivered_at, segment.echo)
        if segment.ack > self.una:
            self._advance(segment.ack)
            self._measure(segment, now)
        if self._sacked:
            self._find_lost()
        return True

    def time_out(self) -> None:
        """The RTO has passed: all in flight counts as lost; a closed window is probed."""
        self.rto = min(self.rto * 2, LARGEST_RTO)
        if self.una == self.nxt:
            self._probing = True
            return
        self._ssthresh = max(self.outstanding // 2, 2 * self.mss)
        self.cwnd = self.mss
        self._recover = self.nxt
        self._all_lost()

    def _all_lost(self) -> None:
        self._flights.clear()
        self._lost = deque(self._gaps(self.una, self.nxt))

    def _advance(self, ack: int) -> None:
        acked = ack - self.una
        was_limited = 2 * self.outstanding >= self.cwnd
        self.una = ack
        while self._sent and self._sent[0][0] + len(self._sent[0][1]) <= ack:
            self._sent.popleft()
        while self._flights and self._flights[0].stop <= ack:
            self._flights.popleft()
        if was_limited and (ack > self._recover or self.cwnd < self._ssthresh):
            growth = acked if self.cwnd < self._ssthresh else max(1, self.mss * acked // self.cwnd)
            self.cwnd = min(self.cwnd + growth, LARGEST_WINDOW)

    def _find_lost(self) -> None:
        """Whatever left well before something that has arrived is lost, or has three segments SACKed above it."""
        threshold = self._sacked_threshold()
        early = self._delivered_at - (self._srtt or 0.0) / 4
        waiting = []
        lost = False
        while self._flights and self._flights[0].sent_at <= self._delivered_at:
            start, stop, sent_at, again = self._flights.popleft()
            start = max(start, self.una)
            limit = stop if sent_at < early else start if again else min(stop, threshold)
            for gap in self._gaps(start, limit):
                self._lost.append(gap)
                lost = True
            if max(start, limit) < stop:
                waiting.append(Flight(max(start, limit), stop, sent_at, again))
        self._flights.extendleft(reversed(waiting))
        if lost and self.una >= self._recover:
            self._ssthresh = self.cwnd = max(self.outstanding // 2, 2 * self.mss)
            self._recover = self.nxt

    def _sacked_threshold(self) -> int:
        """Below this number every gap has three segments SACKed above it."""
        above = 0
        for start, end in reversed(self._sacked):
            above += end - start
            if above >= DUPLICATE_THRESHOLD * self.mss:
                return start
        return 0

    def _measure(self, segment: TcpSegment, now: float) -> None:
        if segment.echo is None:
            return
        rtt = now - segment.echo
        if self._srtt is None:
            self._srtt, self._rttvar = rtt, rtt / 2
        else:
            self._rttvar += (abs(self._srtt - rtt) - self._rttvar) / 4
            self._srtt += (rtt - self._srtt) / 8
        self.rto = min(max(self._srtt + 4 * self._rttvar, SMALLEST_RTO), LARGEST_RTO)

    def _pipe(self) -> int:
        """Bytes believed to be in the network."""
        in_flight = self.nxt - self.una
        if self._sacked:
            in_flight -= sum(end - start for start, end in self._sacked)
        for start, stop in self._lost:
            in_flight -= sum(gap_end - gap for gap, gap_end in self._gaps(max(start, self.una), stop))
        return in_flight

    def _gaps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The parts of [start, stop) that are not SACKed."""
        for sacked_start, sacked_end in self._sacked:
            if sacked_start >= stop:
                break
            if sacked_end <= start:
                continue
            if sacked_start > start:
                yield start, sacked_start
            start = sacked_end
        if start < stop:
            yield start, stop
