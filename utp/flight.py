"""Packets sent and not yet acknowledged: what arrived, what is lost, what was sent again (RFC 6675 and 8985 in bits).

Packets are numbered from the oldest: packet *i* is ``first_seq + i``, and the scoreboard is three integers used as
bit sets over those indices.  Without loss they are 0 and a whole run of packets enters and leaves with a handful of
operations; that is where the speed of this library comes from.

Decides which packets are lost; when to look and what may be sent is the sender's business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from utp.seqnr import HALF, SEQ_MASK


class _Departure:
    """``count`` packets, consecutive, left together at ``sent_at``."""

    __slots__ = ("count", "sent_at")

    def __init__(self, count: int, sent_at: float) -> None:
        self.count = count
        self.sent_at = sent_at


class InFlight:
    """``size``: bytes not cumulatively acknowledged.  ``pipe``: those of them believed to be on the way.

    A packet is *sacked* (arrived, behind a hole), *lost* (to be sent again), or in the pipe.  ``timed`` is when the
    newest packet acknowledged by the last call left, or None if it or one before it was sent more than once (Karn's
    rule).
    """

    __slots__ = (
        "_departures",
        "_lost",
        "_payloads",
        "_resent",
        "_retransmissions",
        "_sacked",
        "first_seq",
        "pipe",
        "size",
        "timed",
    )

    def __init__(self, first_seq: int) -> None:
        self.first_seq = first_seq
        self.size = 0
        self.pipe = 0
        self.timed: float | None = None
        self._payloads: deque[memoryview] = deque()
        self._departures: deque[_Departure] = deque()
        self._sacked = 0
        self._lost = 0
        self._resent = 0
        # (seq_nr, first new seq_nr after it) of packets sent again, in the order in which they left
        self._retransmissions: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        return len(self._payloads)

    @property
    def next_seq(self) -> int:
        return (self.first_seq + len(self._payloads)) & SEQ_MASK

    @property
    def lost(self) -> bool:
        """Whether something waits to be sent again."""
        return self._lost != 0

    @property
    def holes(self) -> bool:
        """Whether something has arrived behind a packet that has not."""
        return self._sacked != 0

    def sent(self, payloads: list[memoryview], size: int, now: float) -> None:
        """New packets, ``size`` bytes together, left as ``next_seq`` and following."""
        self._payloads.extend(payloads)
        self._departures.append(_Departure(len(payloads), now))
        self.size += size
        self.pipe += size

    def resent(self, count: int) -> int:
        """How many of the first ``count`` packets have been sent more than once.

        An ACK of such a packet was caused by its repair: whatever else it brings may have arrived long before.
        """
        return (self._resent & ((1 << count) - 1)).bit_count() if self._resent else 0

    def acknowledge(self, count: int) -> int:
        """The first ``count`` packets arrived; the bytes of those not known to have arrived before."""
        last = 1 << (count - 1)
        clean = not (self._sacked | self._lost)
        timed = self._advance_departures(count)
        self.timed = None if self.resent(count) or self._sacked & last else timed
        fresh = self._pop_clean(count) if clean else self._pop(count)
        self.first_seq = (self.first_seq + count) & SEQ_MASK
        self._sacked >>= count
        self._lost >>= count
        self._resent >>= count
        if not self._payloads:
            self._retransmissions.clear()
        return fresh

    def sack(self, bits: int) -> int:
        """Packets whose bit is set arrived (bit 0 is ``first_seq``); the bytes of those that are news."""
        news = bits & ~self._sacked & ((1 << len(self._payloads)) - 1)
        if not news:
            return 0
        fresh = 0
        for index in indices(news):
            size = len(self._payloads[index])
            fresh += size
            if not self._lost >> index & 1:
                self.pipe -= size
        self._sacked |= news
        self._lost &= ~news
        newest = news.bit_length() - 1
        if not self._resent >> newest & 1:
            self.timed = self._departed(newest)
        return fresh

    def detect_losses(self, threshold: int) -> int:
        """Declare lost what ``threshold`` later-sent packets have overtaken; the bits of what is newly lost."""
        if not self._sacked:
            return 0
        evidence = self._sacked
        for _ in range(threshold - 1):
            evidence &= ~(1 << evidence.bit_length() >> 1)
        overtaken = (1 << evidence.bit_length() >> 1) - 1 if evidence else 0
        news = overtaken & ~(self._sacked | self._lost | self._resent) | self._lost_again(threshold)
        self._mark_lost(news)
        return news

    def suspects(self) -> bool:
        """Whether some packet has been overtaken without being declared lost yet."""
        if not self._sacked:
            return False
        overtaken = (1 << self._sacked.bit_length() >> 1) - 1
        return bool(overtaken & ~(self._sacked | self._lost))

    def lose_first(self, count: int) -> int:
        """Declare the oldest ``count`` packets lost, up to one that has arrived or was sent again; their bits."""
        known = self._lost | self._resent | self._sacked
        free = (known & -known).bit_length() - 1 if known else len(self._payloads)
        lost = (1 << min(count, free, len(self._payloads))) - 1
        self._mark_lost(lost)
        return lost

    def lose_one(self, seq_nr: int) -> None:
        """Declare this packet lost: it never left."""
        bit = 1 << ((seq_nr - self.first_seq) & SEQ_MASK)
        if bit.bit_length() <= len(self._payloads) and not (self._sacked | self._lost) & bit:
            self._mark_lost(bit)

    def lose_all(self) -> None:
        """The retransmission time-out: nothing that was not acknowledged is believed to be on the way."""
        self._mark_lost(((1 << len(self._payloads)) - 1) & ~(self._sacked | self._lost))
        self._retransmissions.clear()

    def lose_larger(self, payload_size: int) -> None:
        """Declare lost whatever has at least so many bytes of payload: the path, or the kernel, takes it no more."""
        gone = self._sacked | self._lost
        for index, payload in enumerate(self._payloads):
            if len(payload) >= payload_size and not gone >> index & 1:
                self._mark_lost(1 << index)

    def largest_lost(self) -> int:
        """Payload bytes of the largest packet that waits to be sent again, 0 if none does."""
        return max((len(self._payloads[index]) for index in indices(self._lost)), default=0)

    def peek_lost(self) -> tuple[int, memoryview] | None:
        """Sequence number and payload of the oldest lost packet."""
        if not self._lost:
            return None
        index = (self._lost & -self._lost).bit_length() - 1
        return (self.first_seq + index) & SEQ_MASK, self._payloads[index]

    def resend_lost(self) -> None:
        """The packet that `peek_lost` gave has left again."""
        bit = self._lost & -self._lost
        index = bit.bit_length() - 1
        self._lost ^= bit
        self._resent |= bit
        self.pipe += len(self._payloads[index])
        self._retransmissions.append(((self.first_seq + index) & SEQ_MASK, self.next_seq))

    def resend_tail(self) -> tuple[int, memoryview] | None:
        """The newest packet that may still be on the way, counted as sent again; None if there is none."""
        candidates = ((1 << len(self._payloads)) - 1) & ~(self._sacked | self._lost)
        if not candidates:
            return None
        index = candidates.bit_length() - 1
        self._resent |= 1 << index
        seq_nr = (self.first_seq + index) & SEQ_MASK
        self._retransmissions.append((seq_nr, self.next_seq))
        return seq_nr, self._payloads[index]

    def _pop_clean(self, count: int) -> int:
        popleft = self._payloads.popleft
        acked = 0
        for _ in range(count):
            acked += len(popleft())
        self.size -= acked
        self.pipe -= acked
        return acked

    def _pop(self, count: int) -> int:
        fresh = 0
        for index in range(count):
            size = len(self._payloads.popleft())
            self.size -= size
            if self._sacked >> index & 1:
                continue
            fresh += size
            if not self._lost >> index & 1:
                self.pipe -= size
        return fresh

    def _advance_departures(self, count: int) -> float:
        """Drop ``count`` packets from the departures; when the last of them left."""
        departures = self._departures
        while True:
            first = departures[0]
            if first.count > count:
                first.count -= count
                return first.sent_at
            if first.count == count:
                departures.popleft()
                return first.sent_at
            count -= first.count
            departures.popleft()

    def _departed(self, index: int) -> float:
        behind = len(self._payloads) - index
        for departure in reversed(self._departures):
            behind -= departure.count
            if behind <= 0:
                return departure.sent_at
        raise AssertionError("every packet in flight has departed")

    def _mark_lost(self, bits: int) -> None:
        for index in indices(bits):
            self.pipe -= len(self._payloads[index])
        self._lost |= bits

    def _lost_again(self, threshold: int) -> int:
        """Retransmissions that ``threshold`` later transmissions have overtaken, by the same rule as first ones."""
        lost = later = 0
        kept: list[tuple[int, int]] = []
        for seq_nr, mark in reversed(self._retransmissions):
            index = (seq_nr - self.first_seq) & SEQ_MASK
            if index >= HALF or self._sacked >> index & 1:
                later += 1
                kept.append((seq_nr, mark))
            elif not self._lost >> index & 1:
                beyond = (mark - self.first_seq) & SEQ_MASK
                evidence = later + ((self._sacked >> beyond).bit_count() if beyond < HALF else 0)
                if evidence >= threshold:
                    lost |= 1 << index
                else:
                    kept.append((seq_nr, mark))
        while kept and self._arrived(kept[-1][0]):
            kept.pop()  # evidence against nothing that is left
        kept.reverse()
        self._retransmissions = deque(kept)
        return lost

    def _arrived(self, seq_nr: int) -> bool:
        index = (seq_nr - self.first_seq) & SEQ_MASK
        return index >= HALF or bool(self._sacked >> index & 1)


def indices(bits: int) -> Iterator[int]:
    """The positions of the bits that are set, lowest first."""
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low
