"""How long this machine has slept.  trio's clock stands still meanwhile, leases and gateways do not."""

from __future__ import annotations

import sys
import time


def seconds_suspended() -> float:
    """Seconds the machine was suspended since it started; 0.0 always where the system does not tell."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC) - time.clock_gettime(time.CLOCK_UPTIME_RAW)
    return 0.0
