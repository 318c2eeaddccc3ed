"""One-way delay out of µTP timestamps: base delay, queueing delay and the drift of two clocks (RFC 6817 §3.4, BEP 29).

A timestamp difference is the one-way delay plus the unknown offset of two clocks, modulo 2^32 microseconds.  Only
its changes mean anything; the smallest one seen lately, the base, stands for an empty queue.
"""

from __future__ import annotations

from collections import deque

from utp.wire import NO_DELAY_SAMPLE, TIMESTAMP_MASK

BASE_HISTORY = 20  # minima kept
BASE_PERIOD = 60.0  # seconds covered by each
CURRENT_FILTER = 4  # the queueing delay is the least of so many samples: single packets are late for many reasons
MAX_DRIFT = 10_000  # microseconds; a larger step of the other direction's base is a change of route, not drift

HALF = 1 << 31


class DelayHistory:
    """Samples of one direction, in microseconds."""

    __slots__ = ("_base", "_period_end", "_recent", "_reference", "_slots")

    def __init__(self) -> None:
        self._reference: int | None = None
        self._slots: deque[int] = deque(maxlen=BASE_HISTORY)
        self._recent: deque[int] = deque(maxlen=CURRENT_FILTER)
        self._period_end = 0.0
        self._base = 0

    def add(self, sample: int, now: float) -> int:
        """Count one sample (modulo 2^32); how far the base fell by it, 0 nearly always."""
        if self._reference is None:
            self._reference = sample
        value = (
            (sample - self._reference + HALF) & TIMESTAMP_MASK
        ) - HALF  # all sums below are of plain, unwrapped integers
        self._recent.append(value)
        if now >= self._period_end:
            self._period_end = now + BASE_PERIOD
            first = not self._slots
            self._slots.append(value)
            if first:
                self._base = value
            else:
                self._base = min(self._slots)
        if value < self._slots[-1]:
            self._slots[-1] = value
        if value >= self._base:
            return 0
        fall, self._base = self._base - value, value
        return fall

    def queueing_delay(self) -> float:
        """How long a packet waits in queues now, in seconds."""
        return (min(self._recent) - self._base) / 1e6 if self._recent else 0.0

    def shift(self, microseconds: int) -> None:
        """Raise the base: the clocks drift, or the delay cannot be what it seems."""
        if self._slots:
            self._slots = deque((value + microseconds for value in self._slots), maxlen=BASE_HISTORY)
            self._base += microseconds


class DelayMeter:
    """Both directions of a connection.  ``queueing_delay`` is ours, the direction we send in."""

    __slots__ = ("_ours", "_theirs", "reply")

    def __init__(self) -> None:
        self._ours = DelayHistory()
        self._theirs = DelayHistory()
        self.reply = 0  # timestamp_difference of the next header we send

    def received(self, timestamp: int, difference: int, now: float) -> None:
        """Count a header.  ``difference`` 0 or INT_MAX (µTorrent) means that the other end has measured nothing yet."""
        if timestamp:
            self.reply = (int(now * 1e6) - timestamp) & TIMESTAMP_MASK
            fall = self._theirs.add(self.reply, now)
            if 0 < fall <= MAX_DRIFT:
                # Their clock runs ahead of ours: what shortens one direction lengthens the other.
                self._ours.shift(fall)
        if difference not in (0, NO_DELAY_SAMPLE):
            self._ours.add(difference, now)

    def queueing_delay(self, rtt: float) -> float:
        """Seconds; never more than the whole round trip took (``rtt``, 0 if unknown): then the base was wrong."""
        delay = self._ours.queueing_delay()
        if 0 < rtt < delay:
            self._ours.shift(int((delay - rtt) * 1e6))
            return rtt
        return delay
