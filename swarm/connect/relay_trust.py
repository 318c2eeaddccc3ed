"""Which relays have let us down: those are asked last (``sw_relay``; no BEP).

A relay can hold back what passes it, spoil it, or hang up, and the end that suffers cannot tell it from the other end's
doing.  So nobody is condemned for it: where there is another relay, that one is tried before.
Reads no clock.
"""

from __future__ import annotations

from collections.abc import Hashable

from swarm.endpoint import Endpoint
from swarm.ext.allowance import account_of

FORGIVEN_AFTER = 600.0
"""Seconds."""

MAX_REMEMBERED = 64
"""Relays; the one whose failure is the oldest is forgotten."""


class RelayTrust:
    """Relays by their address, whatever port they come by.  Times are seconds of the caller's clock."""

    def __init__(self) -> None:
        self._failed_at: dict[Hashable, float] = {}  # the oldest first

    def failed(self, relay: Endpoint, now: float) -> None:
        """What it carried came to a bad end, or to an end that nobody can explain."""
        account = account_of(relay)
        self._failed_at.pop(account, None)
        self._failed_at[account] = now
        if len(self._failed_at) > MAX_REMEMBERED:
            del self._failed_at[next(iter(self._failed_at))]

    def has_failed(self, relay: Endpoint, now: float) -> bool:
        return self.failed_at(relay, now) > float("-inf")

    def failed_at(self, relay: Endpoint, now: float) -> float:
        """When it failed last; minus infinity if it did not, or that is forgiven."""
        at = self._failed_at.get(account_of(relay), float("-inf"))
        return at if now < at + FORGIVEN_AFTER else float("-inf")
