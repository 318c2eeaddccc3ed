"""The search for the largest datagram a path carries whole (as libutp does it, RFC 8899 in spirit).

A probe is one datagram with DF set whose surplus is padding, so a lost probe loses no data: what it carried goes
again in an ordinary packet.  (A data packet cut to the probe's size could never be resent smaller: the sequence
number owns its bytes.)  The first probe tries the ceiling, since most paths are plain Ethernet; the second the PPPoE
size below it; after that the interval is halved.

This file knows sizes only; the connection decides when to probe and how a probe fared.
"""

from __future__ import annotations

PPPOE_OVERHEAD = 8  # bytes
CLOSE_ENOUGH = 16  # the search ends when ceiling and floor are this near, bytes
ATTEMPTS = 2  # a size is given up only after this many probes: one may be lost to congestion


class MtuSearch:
    """``size`` is the largest UDP payload known to pass; a probe of ``probe_size`` bytes may be in flight."""

    __slots__ = ("_attempts", "_ceiling", "_tries", "probe_in_flight", "probe_seq", "size")

    def __init__(self, floor: int, ceiling: int, *, probing: bool = True) -> None:
        self.size = floor if probing else ceiling
        self.probe_in_flight = 0  # its size, 0 when there is none
        self.probe_seq = 0
        self._ceiling = ceiling
        self._attempts = 0  # at the present size
        self._tries = 0  # sizes tried

    def wants_probe(self) -> bool:
        return self.probe_in_flight == 0 and self.size < self._ceiling

    def probe_size(self) -> int:
        """The size to try next; only while `wants_probe`."""
        if self._tries == 0:
            return self._ceiling
        if self._tries == 1 and self._ceiling - PPPOE_OVERHEAD > self.size:
            return self._ceiling + 1 - PPPOE_OVERHEAD
        return (self.size + self._ceiling + 1) // 2

    def probe_sent(self, seq_nr: int) -> None:
        self.probe_in_flight = self.probe_size()
        self.probe_seq = seq_nr

    def probe_acked(self) -> None:
        self.size = max(self.size, self.probe_in_flight)
        self._next()

    def probe_lost(self) -> None:
        """The probe did not arrive while packets sent after it did."""
        self._attempts += 1
        if self._attempts < ATTEMPTS:
            self.probe_in_flight = 0
        else:
            self.too_big(self.probe_in_flight)

    def too_big(self, size: int) -> None:
        """The kernel (EMSGSIZE) or repeated loss says that ``size`` does not pass."""
        if self.size < size <= self._ceiling:
            self._ceiling = size - 1
        self._next()

    def _next(self) -> None:
        self.probe_in_flight = 0
        self._attempts = 0
        self._tries += 1
        if self._ceiling - self.size < CLOSE_ENOUGH:
            self._ceiling = self.size
