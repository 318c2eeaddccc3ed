"""What UDP and TCP of a simulated host share: ephemeral ports and the kernel's errors."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable

FIRST_EPHEMERAL, LAST_EPHEMERAL = 32768, 60999  # Linux's ip_local_port_range


def os_error(number: int) -> OSError:
    """The OSError (or its subclass) that the kernel would raise for this errno."""
    return OSError(number, os.strerror(number))


def free_port(dice: random.Random, taken: Callable[[int], bool]) -> int:
    """An ephemeral port for which ``taken`` is false; OSError(EADDRINUSE) if there is none."""
    count = LAST_EPHEMERAL - FIRST_EPHEMERAL + 1
    start = dice.randrange(count)
    for step in range(count):
        port = FIRST_EPHEMERAL + (start + step) % count
        if not taken(port):
            return port
    raise os_error(errno.EADDRINUSE)
