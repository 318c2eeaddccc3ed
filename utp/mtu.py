"""The search for the largest datagram a path carries whole (as libutp does it, RFC 8899 in spirit).

A probe is one datagram with DF set whose surplus is padding, so a lost probe loses no data: what it carried goes
again in an ordinary packet.  (A data packet cut to the probe's size could never be resent smaller: the sequence
number owns its bytes.)  The first probe tries the ceiling, since most paths are plain Ethernet; the second the PPPoE
size below it; after that the interval is halved.

A path may change under a connection (a fail-over to PPPoE, a VPN) and swallow what it carried before.  Then the search
starts again from the floor; packets that are on the way already cannot be cut anew and leave with DF clear.  Now and
then a path that is known to be small is tried again, for it may have been the detour.

This file knows sizes only; the connection decides when to probe and how a probe fared.
"""

from __future__ import annotations

PPPOE_OVERHEAD = 8  # bytes
CLOSE_ENOUGH = 16  # the search ends when ceiling and floor are this near, bytes
ATTEMPTS = 2  # a size is given up only after this many probes: one may be lost to congestion
RAISE_INTERVAL = 600.0  # seconds until a search that ended below the ceiling is repeated (RFC 8899 §5.1.1)
NEVER = float("inf")


class MtuSearch:
    """``size`` is the largest UDP payload known to pass; a probe of ``probe_size`` bytes may be in flight.

    ``floor`` is what every path carries.
    """

    __slots__ = (
        "_attempts",
        "_ceiling",
        "_highest",
        "_raise_at",
        "_tries",
        "floor",
        "probe_in_flight",
        "probe_seq",
        "size",
    )

    def __init__(self, floor: int, ceiling: int, *, probing: bool = True) -> None:
        self.floor = floor if probing else ceiling
        self.size = self.floor
        self.probe_in_flight = 0  # its size, 0 when there is none
        self.probe_seq = 0
        self._highest = ceiling
        self._ceiling = ceiling
        self._attempts = 0  # at the present size
        self._tries = 0  # sizes tried
        self._raise_at = NEVER

    def wants_probe(self, now: float) -> bool:
        if self.probe_in_flight:
            return False
        if self.size < self._ceiling:
            return True
        if self.size == self._highest:
            return False
        if self._raise_at == NEVER:
            self._raise_at = now + RAISE_INTERVAL
        elif now >= self._raise_at:
            self._begin(self._highest)
            return True
        return False

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
        """The kernel (EMSGSIZE) or repeated loss says that a probe of ``size`` does not pass."""
        if self.size < size <= self._ceiling:
            self._ceiling = size - 1
        self._next()

    def restart(self) -> None:
        """Packets larger than the floor seem to be swallowed now: fall back to it and search up to the former size."""
        if self.size > self.floor:
            ceiling, self.size = self.size, self.floor
            self._begin(ceiling)

    def refused(self, size: int) -> bool:
        """The kernel takes no ordinary packet of ``size`` bytes any more; False if we send none that large anyway."""
        if not self.floor < size <= self.size:
            return False
        self.size = self.floor
        self._begin(size - 1)
        return True

    def _begin(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self.probe_in_flight = 0
        self._attempts = self._tries = 0
        self._raise_at = NEVER

    def _next(self) -> None:
        self.probe_in_flight = 0
        self._attempts = 0
        self._tries += 1
        if self._ceiling - self.size < CLOSE_ENOUGH:
            self._ceiling = self.size
