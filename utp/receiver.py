"""The receiving half of a connection: order restored, duplicates dropped, memory bounded.

Takes payloads with sequence numbers and gives bytes.  Knows nothing of headers, ids or time.
"""

from __future__ import annotations

from collections import deque

from utp.seqnr import HALF, SEQ_MASK

MAX_CHUNKS = 512  # unread pieces: a sender of one-byte packets must not cost us an object for each


class Receiver:
    """``next_seq`` is the packet expected next; ``ack_nr`` of our headers is the one before it.

    Bytes in order wait in ``unread`` for the application, at most ``capacity`` of them.  Packets ahead of a hole are
    kept too, at most ``reorder_packets``; with the unread ones they never exceed twice ``capacity``, since libutp does
    not count what it knows to have arrived against our window.  A packet that does not fit is dropped without an
    acknowledgement, as if the network had lost it; one that was acknowledged is never dropped.
    """

    __slots__ = (
        "_capacity",
        "_early",
        "_early_bytes",
        "_fin_seq",
        "_ready",
        "_reorder_packets",
        "early_mask",
        "finished",
        "first_seq",
        "next_seq",
        "received",
        "unread",
    )

    def __init__(self, next_seq: int, capacity: int, reorder_packets: int) -> None:
        self.first_seq = next_seq
        self.next_seq = next_seq
        self.received = 0  # bytes in order since the beginning
        self.unread = 0
        self.finished = False  # everything up to the other end's FIN has arrived
        self.early_mask = 0  # bit i: packet next_seq + 1 + i has arrived, exactly what a selective ACK says
        self._capacity = capacity
        self._reorder_packets = reorder_packets
        self._ready: deque[bytes | memoryview] = deque()
        self._early: dict[int, bytes] | None = None  # made on the first hole: idle connections have none
        self._early_bytes = 0
        self._fin_seq = -1

    @property
    def anything(self) -> bool:
        """Whether a packet has arrived in order since the beginning."""
        return self.next_seq != self.first_seq

    def window(self) -> int:
        """Bytes the other end may have in flight: the wnd_size of our headers."""
        return max(self._capacity - self.unread, 0)

    def receive_run(self, payloads: list[memoryview], size: int) -> bool:
        """Packets ``next_seq`` … in order, ``size`` bytes together.  False (nothing taken) if they cannot go this way.

        That is: there is a hole to look after, a FIN has been seen, or the application's buffer would overflow.
        """
        if self.early_mask or self._fin_seq >= 0 or self.unread + size > self._capacity:
            return False
        if size:
            self._append(b"".join(payloads))
        self.next_seq = (self.next_seq + len(payloads)) & SEQ_MASK
        return True

    def receive(self, seq_nr: int, payload: memoryview, *, fin: bool = False) -> None:
        """One packet, wherever it belongs; duplicates, far-off numbers and what does not fit are ignored."""
        ahead = (seq_nr - self.next_seq) & SEQ_MASK
        if ahead >= HALF or ahead > self._reorder_packets or self.finished:
            return
        if self._fin_seq >= 0 and ahead > (self._fin_seq - self.next_seq) & SEQ_MASK:
            return  # nothing may follow the FIN
        if ahead == 0:
            if self.unread + len(payload) <= self._capacity:
                self._note_fin(seq_nr, fin)
                self._deliver(bytes(payload))
                self._deliver_early()
        elif not self.early_mask >> (ahead - 1) & 1 and self._has_room_early(len(payload)):
            self._note_fin(seq_nr, fin)
            self._keep_early(seq_nr, ahead, bytes(payload))

    def take(self, max_bytes: int) -> bytes | memoryview:
        """Up to ``max_bytes`` that are in order; empty when there are none now."""
        if not self._ready:
            return b""
        chunk = self._ready[0]
        if len(chunk) > max_bytes:
            view = memoryview(chunk)
            self._ready[0] = view[max_bytes:]
            chunk = view[:max_bytes]
        else:
            self._ready.popleft()
        self.unread -= len(chunk)
        return chunk

    def take_into(self, buffer: memoryview) -> int:
        """Fill the front of ``buffer``; the number of bytes written."""
        filled = 0
        room = len(buffer)
        while filled < room and self._ready:
            chunk = self.take(room - filled)
            buffer[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        return filled

    def discard(self) -> None:
        """Forget what nobody will read any more."""
        self._ready.clear()
        self.unread = 0

    def drop_early(self) -> None:
        """Forget what waits behind a hole that nobody will fill."""
        self._early, self.early_mask, self._early_bytes = None, 0, 0

    def _append(self, chunk: bytes) -> None:
        if len(self._ready) >= MAX_CHUNKS:
            self._ready = deque((b"".join(self._ready),))
        self._ready.append(chunk)
        self.unread += len(chunk)
        self.received += len(chunk)

    def _has_room_early(self, size: int) -> bool:
        return self.unread + self._early_bytes + size <= 2 * self._capacity

    def _note_fin(self, seq_nr: int, fin: bool) -> None:
        if fin and self._fin_seq < 0:
            self._fin_seq = seq_nr
            past_the_end = (seq_nr - self.next_seq) & SEQ_MASK
            self.early_mask &= (1 << past_the_end) - 1

    def _deliver(self, payload: bytes) -> None:
        if payload:
            self._append(payload)
        if self.next_seq == self._fin_seq:
            self.finished = True
            self.drop_early()
        self.next_seq = (self.next_seq + 1) & SEQ_MASK

    def _keep_early(self, seq_nr: int, ahead: int, payload: bytes) -> None:
        if self._early is None:
            self._early = {}
        self._early[seq_nr] = payload
        self._early_bytes += len(payload)
        self.early_mask |= 1 << (ahead - 1)

    def _deliver_early(self) -> None:
        """After ``next_seq`` moved by one: what had come early and is in order now."""
        while self.early_mask:
            arrived = self.early_mask & 1
            self.early_mask >>= 1
            if not arrived or self._early is None:
                return
            payload = self._early.pop(self.next_seq)
            self._early_bytes -= len(payload)
            self._deliver(payload)
