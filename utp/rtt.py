"""Round-trip time and the retransmission time-out it gives (RFC 6298), with the minimum that µTP peers use."""

from __future__ import annotations

# Clock granularity: what the variance term counts at least (RFC 6298 §2.3), seconds.
GRANULARITY = 0.001


class RttEstimator:
    """Smoothed round-trip time; all in seconds."""

    __slots__ = ("_back_off", "_max_rto", "_min_rto", "latest", "rto", "smoothed", "variance")

    def __init__(self, initial_rto: float, min_rto: float, max_rto: float) -> None:
        self._min_rto = min_rto
        self._max_rto = max_rto
        self._back_off = 0
        self.rto = initial_rto
        self.smoothed = 0.0  # 0 until the first sample
        self.variance = 0.0
        self.latest = 0.0

    def sample(self, rtt: float) -> None:
        """Count one measured round trip.  Never of a packet that was sent twice (Karn); it ends a back-off."""
        self.latest = rtt
        if self.smoothed == 0.0:
            self.smoothed, self.variance = rtt, rtt / 2
        else:
            self.variance += (abs(self.smoothed - rtt) - self.variance) / 4
            self.smoothed += (rtt - self.smoothed) / 8
        self._back_off = 0
        self.rto = min(max(self.smoothed + max(GRANULARITY, 4 * self.variance), self._min_rto), self._max_rto)

    def back_off(self) -> None:
        """Double the time-out after it struck, up to the maximum (RFC 6298 §5.5)."""
        self._back_off += 1
        self.rto = min(self.rto * 2, self._max_rto)

    def progress(self) -> None:
        """Something new was acknowledged, though not timed: the back-off is over (RFC 6298 §5.7 allows it)."""
        if self._back_off:
            self._back_off = 0
            self.rto = min(max(self.smoothed + 4 * self.variance, self._min_rto), self._max_rto)
