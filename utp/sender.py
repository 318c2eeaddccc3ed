"""The sending half of a connection: what may leave now, what must leave again, and when to worry.

Cuts the send buffer into packets, keeps to the congestion window and the other end's window, finds losses (selective
ACKs, RFC 8985-like reordering and tail probes, the RFC 6298 time-out) and drives the path-MTU search.  Gives `Run`s;
headers are the connection's.  No clock: ``now`` is passed in, in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from utp.config import UtpConfig
from utp.flight import InFlight
from utp.ledbat import Ledbat
from utp.mtu import MtuSearch
from utp.rtt import RttEstimator
from utp.sendbuffer import Buffer, SendBuffer
from utp.seqnr import HALF, SEQ_MASK
from utp.wire import HEADER_SIZE, MIN_PADDING

NEVER = float("inf")
DUPLICATES = 3  # later packets, or repeated ACKs, that prove a loss
MAX_RUN_BYTES = 65_000  # one GSO send is at most one IP packet before it is cut
MAX_RUN_PACKETS = 64  # UDP_MAX_SEGMENTS of older kernels
MIN_PROBE_TIMEOUT = 0.01  # seconds; a process may well be descheduled that long
DELAYED_ACK = 0.1  # seconds libutp may sit on the ACK of one or two packets
DOUBTFUL_TIMEOUTS = 2  # consecutive ones after which the size of what was lost is suspected
MIN_REORDERING = 0.002  # seconds an overtaken packet is given to turn up
EMPTY = memoryview(b"")


class Run(NamedTuple):
    """Packets to leave together: equal payload sizes, the last may be shorter.  ``padding`` > 0: a lone MTU probe.

    ``fragment``: they are larger than what the path is known to carry whole.
    """

    seq_nrs: Sequence[int]  # a range may run past 65,535: mask before use
    payloads: list[memoryview]
    fin: bool = False
    padding: int = 0
    fragment: bool = False


class Sender:
    """Feed it `on_ack`, ask it for `next_run` until None, wake it at ``deadline``."""

    __slots__ = (
        "_boundary",
        "_config",
        "_duplicate_acks",
        "_forced",
        "_heard",
        "_idle_since",
        "_limited",
        "_probe_at",
        "_recover_seq",
        "_reorder_at",
        "_rto_at",
        "_shut",
        "_small_seq",
        "_tail_probe_due",
        "_tail_probes",
        "_window_probe_due",
        "buffer",
        "congestion",
        "fin_seq",
        "flight",
        "mtu",
        "peer_window",
        "retransmitted",
        "rtt",
        "timeouts",
    )

    def __init__(self, config: UtpConfig, first_seq: int, rtt: RttEstimator, mtu: MtuSearch) -> None:
        self._config = config
        self.rtt = rtt
        self.mtu = mtu
        self.flight = InFlight(first_seq)
        self.buffer = SendBuffer()
        self.congestion = Ledbat(
            target=config.target_delay,
            gain=config.gain,
            initial_window=config.initial_window,
            mss=mtu.size - HEADER_SIZE,
            slowdowns=config.slowdowns,
        )
        self.peer_window = 1 << 16  # until a header tells
        self.fin_seq = -1  # of the FIN once it has been sent
        self.timeouts = 0  # consecutive ones without a sign of life
        self.retransmitted = 0  # packets, for statistics
        self._boundary = 0  # so many bytes at the front of the buffer end a packet
        self._shut = False
        self._recover_seq = first_seq  # losses below it were answered by the last halving
        self._small_seq = -1  # the last packet sent that was not full, while in flight
        self._duplicate_acks = 0
        self._limited = False  # the congestion window held something back
        self._forced = 0  # so many retransmissions leave whatever the window says
        self._heard = False  # anything at all since the last time-out
        self._idle_since = NEVER
        self._tail_probe_due = False
        self._tail_probes = 0  # since the last progress
        self._window_probe_due = False
        self._rto_at = self._probe_at = self._reorder_at = NEVER

    @property
    def mss(self) -> int:
        """Payload bytes of a full packet."""
        return self.mtu.size - HEADER_SIZE

    @property
    def deadline(self) -> float:
        return min(self._rto_at, self._probe_at, self._reorder_at)

    @property
    def space(self) -> int:
        """Bytes that `append` takes now."""
        return 0 if self._shut else max(self._config.send_buffer - self.buffer.size, 0)

    @property
    def is_shut(self) -> bool:
        return self._shut

    @property
    def fin_acked(self) -> bool:
        return self.fin_seq >= 0 and not self.flight

    @property
    def awaits_only_fin(self) -> bool:
        return self.fin_seq >= 0 and self.flight.first_seq == self.fin_seq

    def append(self, data: Buffer, count: int) -> None:
        self.buffer.append(data, count)

    def end_packet(self) -> None:
        """Put nothing that comes later into one packet with what is queued, if it is short and nothing is in flight."""
        if not self._boundary and not self.flight and self.buffer.size < self.mss:
            self._boundary = self.buffer.size

    def shut(self) -> None:
        """No more data: a FIN follows what is queued."""
        self._shut = True

    def drop(self) -> None:
        """Forget all data; nothing will leave any more."""
        self.buffer.clear()
        self.flight = InFlight(self.flight.next_seq)

    # What the other end reports

    def on_ack(self, count: int, sack: int, wnd_size: int, delay: float, now: float, *, duplicate: bool) -> None:
        """The oldest ``count`` packets arrived, and those in ``sack`` (bit 0: the first one after them).

        ``delay``: the queueing delay in seconds that the header told of.  ``duplicate``: it was a bare ST_STATE, so
        one that brings nothing new speaks of a packet that arrived out of order.
        """
        self._heard = True
        flight = self.flight
        window_news = wnd_size > self.peer_window  # what arrives out of order makes it smaller, as in libtorrent
        self.peer_window = wnd_size
        repaired = flight.resent(count) if count else 0
        fresh = flight.acknowledge(count) if count else 0
        timed = flight.timed if count else None
        if sack:
            fresh += flight.sack(sack)
            timed = flight.timed if fresh and not repaired else timed
        if fresh or count:
            self._on_progress(fresh, timed, delay, now)
            if repaired:
                self._on_repair(repaired)
        elif duplicate and flight and not sack and not window_news:
            self._on_duplicate_ack()
        if wnd_size == 0:
            self.timeouts = 0  # it lives and has no room; patience
        if self.mtu.probe_in_flight and (flight.first_seq - self.mtu.probe_seq - 1) & SEQ_MASK < HALF:
            self.mtu.probe_acked()
            self.congestion.mss = self.mss
        if flight.holes:
            self._find_losses(DUPLICATES, now)
        if not flight:
            self._rto_at = self._probe_at = self._reorder_at = NEVER
            self._idle_since = now

    def _on_progress(self, fresh: int, timed: float | None, delay: float, now: float) -> None:
        self.timeouts = 0
        if (self.flight.first_seq - self._recover_seq) & SEQ_MASK < HALF:
            self._recover_seq = self.flight.first_seq  # keeps up, or it would lie ahead again after 32,768 packets
        self._duplicate_acks = 0
        self._tail_probe_due = False
        self._tail_probes = 0
        if timed is not None:
            self.rtt.sample(now - timed)
        else:
            self.rtt.progress()
        if fresh:
            self.congestion.on_ack(fresh, delay, self.rtt.smoothed, self._limited, now)
        self._arm(now)

    def _on_repair(self, repaired: int) -> None:
        """Packets sent again have arrived: let as many go again as that, and one more (RFC 6937 §3.1).

        libtorrent's selective ACK has only as many bits as packets wait behind the hole, and ends in the midst of it
        or soon after.  What arrived further on seems to be on the way and fills the window; and where no bit is set at
        all, what is now the oldest packet has been overtaken since the loss was noticed (RFC 6582 §3.2).
        """
        flight = self.flight
        if not flight.lost and 0 < (self._recover_seq - flight.first_seq) & SEQ_MASK < HALF:
            self._on_losses(flight.lose_first(repaired + 1))
        if flight.lost:
            self._forced = max(self._forced, repaired + 1)

    def _on_duplicate_ack(self) -> None:
        self._duplicate_acks += 1
        if self._duplicate_acks == DUPLICATES and (lost := self.flight.lose_first(1)):
            self._on_losses(lost)

    def _find_losses(self, threshold: int, now: float) -> None:
        news = self.flight.detect_losses(threshold)
        if news:
            self._on_losses(news)
        if not self.flight.suspects():
            self._reorder_at = NEVER
        elif self._reorder_at == NEVER or threshold == 1:
            self._reorder_at = now + max(self.rtt.smoothed / 4, MIN_REORDERING)

    def _on_losses(self, lost: int) -> None:
        flight = self.flight
        if self.mtu.probe_in_flight:
            probe = 1 << ((self.mtu.probe_seq - flight.first_seq) & SEQ_MASK)
            if lost & probe:
                self.mtu.probe_lost()
                lost ^= probe  # says nothing about congestion
        newest = flight.first_seq + lost.bit_length() - 1
        self._forced = max(self._forced, 1)
        if lost and (newest - self._recover_seq) & SEQ_MASK < HALF:
            self.congestion.on_loss()
            self._recover_seq = flight.next_seq

    # Time

    def _arm(self, now: float) -> None:
        self._rto_at = now + self.rtt.rto
        self._arm_tail_probe(now)

    def _arm_tail_probe(self, now: float) -> None:
        """Well before the time-out, ask what has arrived: at two round trips, then twice as long, and so on.

        One probe (RFC 8985) is not enough where both directions lose: at 5 % each way every tenth one stays
        unanswered and would cost the 500 ms of the least time-out.  QUIC repeats its probes for the same reason.
        One or two packets are probed once: Transmission's libutp may take half a second to acknowledge those.
        """
        self._probe_at = NEVER
        few = len(self.flight) <= 2
        if self.rtt.smoothed and not (few and self._tail_probes):
            wait = max(2 * self.rtt.smoothed, MIN_PROBE_TIMEOUT) * (1 << self._tail_probes)
            wait += DELAYED_ACK if few else 0
            if now + wait < self._rto_at:
                self._probe_at = now + wait

    def handle_deadline(self, now: float) -> None:
        if now >= self._reorder_at:
            self._reorder_at = NEVER
            self._find_losses(1, now)
        if now >= self._probe_at:
            self._tail_probes += 1
            self._tail_probe_due = True
            self._arm_tail_probe(now)
        if now >= self._rto_at:
            self._on_timeout(now)

    def _on_timeout(self, now: float) -> None:
        if not self._heard:
            self.rtt.back_off()  # while the other end talks the path is no dead one, and one packet is little
        self._heard = False
        self._rto_at = now + self.rtt.rto
        self._probe_at = self._reorder_at = NEVER
        if not self.flight:
            self._window_probe_due = True
            return
        self.timeouts += 1
        if self.mtu.probe_in_flight:
            self.mtu.probe_lost()
        self.flight.lose_all()
        if self.timeouts >= DOUBTFUL_TIMEOUTS and HEADER_SIZE + self.flight.largest_lost() > self.mtu.floor:
            self._doubt_path()
        self.congestion.on_timeout(again=self.timeouts > 1)
        self._recover_seq = self.flight.next_seq
        self._forced = max(self._forced, 1)

    def datagram_too_big(self, size: int) -> None:
        """The kernel refused a packet of ``size`` bytes: nothing left, so its data goes again at once."""
        if self.mtu.probe_in_flight == size:
            self.flight.lose_one(self.mtu.probe_seq)
            self.mtu.too_big(size)
        elif self.mtu.refused(size):
            self.flight.lose_larger(size - HEADER_SIZE)
            self.congestion.mss = self.mss
        else:
            return
        self._forced = max(self._forced, 1)

    def _doubt_path(self) -> None:
        """A large packet will not get through: is it because of its size?  Search again.

        (While only large ones are lost, small ones keep no time-out away: at most one of them is in flight.)
        Nothing is lost by a doubt that proves wrong: the first probe tries the former size.
        """
        self.mtu.restart()
        self.congestion.mss = self.mss

    # What leaves

    def next_run(self, now: float) -> Run | None:
        """The next packets to leave, already counted as in flight; None when there are none for now."""
        if self.flight.lost:
            self._forced = max(self._forced, int(self._tail_probe_due))
            self._tail_probe_due = False
            run = self._resend()
        elif self._tail_probe_due:
            run = self._resend_tail()
        else:
            run = self._new_data(now)
        if run is not None and self._rto_at == NEVER:
            self._arm(now)
        return run

    def _resend(self) -> Run | None:
        """Lost packets of one size, as many as the window takes."""
        flight, window = self.flight, self.congestion.window
        seq_nrs: list[int] = []
        payloads: list[memoryview] = []
        limit = size = 0
        while (lost := flight.peek_lost()) is not None:
            seq_nr, payload = lost
            if not payloads:
                size = len(payload)
                limit = max_run_packets(size)
            elif len(payload) != size or len(payloads) == limit:
                break
            if flight.pipe + size > window and flight.pipe and not self._forced:
                self._limited = True  # or after a time-out the window would stay at one packet until all has gone again
                break
            self._forced = max(self._forced - 1, 0)
            flight.resend_lost()
            seq_nrs.append(seq_nr)
            payloads.append(payload)
        self.retransmitted += len(payloads)
        return Run(seq_nrs, payloads, self.fin_seq in seq_nrs, 0, size > self.mss) if payloads else None

    def _resend_tail(self) -> Run | None:
        """The newest packet once more, so that the other end's answer tells what is missing (RFC 8985 §7)."""
        self._tail_probe_due = False
        tail = self.flight.resend_tail()
        if tail is None:
            return None
        self.retransmitted += 1
        return Run((tail[0],), [tail[1]], tail[0] == self.fin_seq, 0, len(tail[1]) > self.mss)

    def _new_data(self, now: float) -> Run | None:
        if not self.buffer.size:
            self._limited = False
            return self._fin(now) if self._shut and self.fin_seq < 0 else None
        if not self.flight and now - self._idle_since > self.rtt.rto:
            self.congestion.on_idle(self._config.initial_window)
            self._idle_since = NEVER
        mss = self.mss
        room = self._room(mss)
        if self._boundary:
            return self._first_message(room, now)
        if self.mtu.wants_probe(now) and room >= mss and self.buffer.size >= 2 * mss:
            return self._mtu_probe(now)
        count = min(self.buffer.size, room, max_run_packets(mss) * mss)
        if count < self.buffer.size and count >= mss:
            count -= count % mss
        elif count < self.buffer.size and (self.flight or count <= 0):
            return self._wait_for_room(now)
        tail = count % mss
        if tail and self._holds_small(count):
            count -= tail
            if not count:
                return None
        return self._cut(count, mss, now)

    def _first_message(self, room: int, now: float) -> Run | None:
        """A packet that ends before its time; it keeps no other small one waiting."""
        count = min(self._boundary, room)
        if count <= 0:
            return self._wait_for_room(now)
        self._boundary -= count
        return self._cut(count, count, now)

    def _room(self, mss: int) -> int:
        """Bytes that may leave now, by both windows and by the number of packets."""
        flight = self.flight
        congestion = int(self.congestion.window) - flight.pipe
        self._limited = congestion < mss
        packets = self._config.max_packets_in_flight - len(flight)
        return min(congestion, self.peer_window - flight.size, packets * mss)

    def _wait_for_room(self, now: float) -> Run | None:
        """The window is shut.  With nothing in flight no ACK will ever open it, so one byte asks now and then."""
        if self.flight:
            return None
        if self._window_probe_due:
            self._window_probe_due = False
            return self._cut(1, 1, now)
        if self._rto_at == NEVER:
            self._rto_at = now + self.rtt.rto
        return None

    def _holds_small(self, count: int) -> bool:
        """At most one packet that is not full may be in flight (Nagle as amended by Minshall); a FIN waits for none."""
        if self._shut:
            return False
        small = self._small_seq
        if small >= 0 and (small - self.flight.first_seq) & SEQ_MASK < len(self.flight):
            return True
        self._small_seq = (self.flight.next_seq + (count - 1) // self.mss) & SEQ_MASK
        return False

    def _cut(self, count: int, mss: int, now: float) -> Run:
        data = self.buffer.take(count)
        payloads = [data[start : start + mss] for start in range(0, count, mss)] if count > mss else [data]
        first = self.flight.next_seq
        self.flight.sent(payloads, count, now)
        return Run(range(first, first + len(payloads)), payloads)

    def _mtu_probe(self, now: float) -> Run:
        """A data packet padded to the size in question."""
        size = self.mtu.probe_size()
        room = size - HEADER_SIZE
        run = self._cut(min(self.mss, room - MIN_PADDING), room, now)
        self.mtu.probe_sent(run.seq_nrs[0])
        return run._replace(padding=room - len(run.payloads[0]))

    def _fin(self, now: float) -> Run:
        self.fin_seq = self.flight.next_seq
        self.flight.sent([EMPTY], 0, now)
        return Run((self.fin_seq,), [EMPTY], fin=True)


def max_run_packets(payload_size: int) -> int:
    return min(MAX_RUN_PACKETS, MAX_RUN_BYTES // (payload_size + HEADER_SIZE))
