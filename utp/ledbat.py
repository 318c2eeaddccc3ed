"""LEDBAT: the congestion window that yields to everybody else (RFC 6817, BEP 29), with LEDBAT++'s periodic slowdowns.

The window grows while the queueing delay stays below the target and shrinks above it.  Plain RFC 6817 has the
latecomer's advantage: a second flow takes the first one's queue for the empty path and starves it.  The cure is
LEDBAT++'s (draft-irtf-iccrg-ledbat-plus-plus): now and then drop to two packets, so that the queue drains and
everybody sees the true base delay, and shrink in proportion to the window, so that unequal windows converge.

Knows bytes, seconds and nothing about packets in flight.
"""

from __future__ import annotations

SLOW_START_EXIT = 0.75  # of the target delay
# The same when coming back from a slowdown: whoever took the room meanwhile is to give it back, not to keep it.
RECOVERY_EXIT = 1.5
RECOVERY_SHARE = 0.5  # of what we had in the queue: the rest is shared out evenly by the gain, as TCP's halving is
FIRST_SHARE = 0.1  # the same the first time: a latecomer's slow start took what it did by a base delay too high
SLOWDOWN_WINDOW = 2  # packets
SLOWDOWN_HOLD = 2.0  # round trips at that window
SLOWDOWN_SPACING = 9.0  # times the last slowdown's duration until the next: a tenth of the time at most
FIRST_SPACING = 3.0  # after the first one, when a latecomer's base delay is most likely wrong
# Where the path itself holds next to nothing (below 1 ms a packet or two), the queue is empty only while *everybody*
# is down; with 40 packets of another flow in it a latecomer's base delay stayed 12 ms too high, and 28/72 the shares.
# So whoever sees the queue fall from the target to less than half of it, which one flow's slowdown does, joins in.
JOIN_ABOVE = 0.75  # of the target: it was full ...
JOIN_BELOW = 0.5  # ... and is being drained by somebody else
DECREASE = 0.25  # of the window per round trip, at twice the target
MAX_DECREASE = 0.5  # of the window per round trip, whatever the delay
# Above the target the gain goes on, so that of two flows that see the same delay the smaller one wins ground, but it
# fades: a flow kept down by a latecomer must shrink to next to nothing, or its own packets stay in the latecomer's
# base delay for good.  Simulated at 20 Mbit/s and 1 ms: 26/74 after a minute without fading, even shares with it.
GAIN_FADES = 0.3  # of the target: there the gain has reached 0
INFINITE = float("inf")


class Ledbat:
    """``window`` is what may be in flight, in bytes; ``mss`` may be raised as the path MTU becomes known."""

    __slots__ = (
        "_first_slowdown",
        "_full",
        "_gain",
        "_hold_until",
        "_next_slowdown",
        "_slowdown_started",
        "_slowdowns",
        "_target",
        "mss",
        "slow_start",
        "ssthresh",
        "window",
    )

    def __init__(self, *, target: float, gain: int, initial_window: int, mss: int, slowdowns: bool) -> None:
        self._target = target
        self._gain = gain
        self._slowdowns = slowdowns
        self.mss = mss
        self.window = float(initial_window * mss)
        self.ssthresh = INFINITE
        self.slow_start = True
        self._next_slowdown = INFINITE
        self._first_slowdown = True
        self._full = 0.0  # delay when the queue was last full, 0 since we made it smaller ourselves
        self._hold_until = 0.0  # while now is before it, a slowdown keeps the window small
        self._slowdown_started = INFINITE  # from its beginning until the window is back

    def on_ack(self, acked: int, delay: float, rtt: float, limited: bool, now: float) -> None:
        """``acked`` bytes arrived while packets wait ``delay`` seconds in queues.

        ``limited``: the window was what kept us from sending; without it there is no growth (RFC 6817 §2.4.1).
        """
        if now < self._hold_until:
            return
        if limited and (self._slowdown_is_due(delay, now) or self._somebody_slows_down(delay)):
            self._begin_slowdown(max(delay, self._full), rtt, now)
        elif self.slow_start:
            self._on_ack_in_slow_start(acked, delay, rtt, limited, now)
        else:
            self._on_ack_in_avoidance(acked, delay, rtt, limited, now)

    def on_loss(self) -> None:
        """Halve; the caller calls it at most once per round trip."""
        self.window = max(self.window / 2, self.mss)
        self.ssthresh = max(self.window, 2 * self.mss)
        self.slow_start = False
        self._slowdown_started = INFINITE
        self._full = 0.0

    def on_timeout(self, *, again: bool) -> None:
        """Nothing comes back any more: start again from one packet, and double up to half of what went before.

        ``again``: nothing has come back since the last time either, so that the window tells nothing (RFC 5681 §3.1).
        """
        if not again:
            self.ssthresh = max(self.window / 2, 2 * self.mss)
        self.window = float(self.mss)
        self.slow_start = True
        self._hold_until = 0.0
        self._full = 0.0

    def on_idle(self, packets: int) -> None:
        """Nothing was sent for a while: begin with ``packets`` and double up to where we were (RFC 5681 §4.1)."""
        if self.window > packets * self.mss:
            self.ssthresh = self.window
            self.window = float(packets * self.mss)
            self.slow_start = True

    def _slowdown_is_due(self, delay: float, now: float) -> bool:
        """Never before the queue has filled again, or on a short path, where slowdowns are quick, it never would."""
        return now >= self._next_slowdown and delay > JOIN_ABOVE * self._target

    def _somebody_slows_down(self, delay: float) -> bool:
        if self.slow_start or self._next_slowdown == INFINITE:
            return False
        if delay > JOIN_ABOVE * self._target:
            self._full = delay
        return self._full > 0 and delay < JOIN_BELOW * self._target

    def _on_ack_in_slow_start(self, acked: int, delay: float, rtt: float, limited: bool, now: float) -> None:
        recovering = self._slowdown_started != INFINITE
        if delay > self._target * (RECOVERY_EXIT if recovering else SLOW_START_EXIT):
            self.slow_start = False
            self._on_ack_in_avoidance(acked, delay, rtt, limited, now)
        elif limited:
            self.window += acked
            self.slow_start = self.window < self.ssthresh
        if recovering and not self.slow_start:
            spacing = FIRST_SPACING if self._first_slowdown else SLOWDOWN_SPACING
            self._first_slowdown = False
            self._next_slowdown = now + spacing * (now - self._slowdown_started)
            self._slowdown_started = INFINITE

    def _on_ack_in_avoidance(self, acked: int, delay: float, rtt: float, limited: bool, now: float) -> None:
        excess = delay / self._target - 1
        if excess > -0.5 and self._next_slowdown == INFINITE and self._slowdowns:
            # Only a flow that finds a queue, its own or another's, has a base delay to doubt.
            self._next_slowdown = now + SLOWDOWN_HOLD * rtt
        change = self._gain if limited else 0.0  # per round trip
        if excess > 0:
            change *= max(1 - excess / GAIN_FADES, 0)
            change -= self.window * min(DECREASE * excess, MAX_DECREASE)
        self.window = max(self.window + change * acked / self.window, float(self.mss))

    def _begin_slowdown(self, delay: float, rtt: float, now: float) -> None:
        """Down to two packets; afterwards back to what keeps the path busy and a part of what waited in the queue."""
        queued = min(delay / rtt, 1.0) if rtt else 1.0  # share of the window
        kept = FIRST_SHARE if self._first_slowdown else RECOVERY_SHARE
        self.ssthresh = self.window * (1 - (1 - kept) * queued)
        self.window = float(SLOWDOWN_WINDOW * self.mss)
        self.slow_start = True
        self._full = 0.0
        self._slowdown_started = now
        self._hold_until = now + SLOWDOWN_HOLD * rtt
        self._next_slowdown = INFINITE
