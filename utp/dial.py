"""The SYNs of one outgoing connection.

A SYN is never repeated with the same connection id: libtorrent would open a second connection for it, libutp ignores
it.  Each try has a fresh id and sequence number, all of them stay open, and the first that is answered wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class HalfOpen(NamedTuple):
    """A SYN that left: we listen on ``recv_id`` for its answer, which acknowledges ``seq_nr``."""

    recv_id: int
    seq_nr: int
    sent_at: float


class Dial:
    """When the SYNs leave (``times``, seconds from ``started``), with which TTL, and what has left so far."""

    __slots__ = ("_end", "_started", "_times", "_ttls", "half_opens")

    def __init__(
        self, started: float, times: Sequence[float], ttls: Sequence[int | None], patience: float
    ) -> None:  # fmt: skip
        self._started = started
        self._times = tuple(times)
        self._ttls = tuple(ttls)
        self._end = started + self._times[-1] + patience
        self.half_opens: list[HalfOpen] = []

    def next_at(self) -> float:
        """When the next SYN is due, or, after the last, when to give up."""
        sent = len(self.half_opens)
        return self._started + self._times[sent] if sent < len(self._times) else self._end

    def is_due(self, now: float) -> bool:
        return len(self.half_opens) < len(self._times) and now >= self.next_at()

    def is_over(self, now: float) -> bool:
        return len(self.half_opens) == len(self._times) and now >= self._end

    def ttl(self) -> int | None:
        """Of the SYN that is due; None: the socket's own."""
        sent = len(self.half_opens)
        return self._ttls[sent] if sent < len(self._ttls) else None

    def answered(self, recv_id: int, seq_nr: int) -> HalfOpen | None:
        """Which SYN an answer to ``recv_id`` that acknowledges ``seq_nr`` belongs to."""
        for half_open in self.half_opens:
            if half_open.recv_id == recv_id and half_open.seq_nr == seq_nr:
                return half_open
        return None
