"""The life of one open port, as a pure state machine: asked for, held, renewed, lost, made again, released.

Renewal follows RFC 6887 §11.2.1 for every method: first at 1/2 to 5/8 of the lifetime, then at 3/4 to 13/16, and so on,
never twice within four seconds.  What is asked of whom is the caller's business: `swarm.gateway.keeper`.
"""

from __future__ import annotations

import random
from typing import Literal

from swarm.endpoint import Endpoint
from swarm.gateway.method import PERMANENT, Mapping, Transport

State = Literal["requested", "held", "lost", "released"]
Change = Literal["made", "moved", "renewed", "failed", "lost", "kept"]
"""What an answer, or its absence, did: ``kept`` is a failure that changes nothing that was not known before."""

RENEWAL_SPACING = 4.0  # seconds, also after an answer until whatever has changed makes us ask again
FIRST_RETRY, LONGEST_RETRY = 15.0, 900.0  # seconds between requests that fail, doubling
JITTER = 0.1  # of a retry, so that the hosts of a LAN do not ask together


class Lease:
    """One port of ours that a gateway shall forward.

    ``wanted_port`` is what is asked for outside until the gateway has given another.  ``longest_silence`` caps the
    lifetime by which renewals are planned.  Times are seconds of any one clock, preferably one that goes on while the
    machine is suspended.
    """

    def __init__(
        self,
        transport: Transport,
        internal: Endpoint,
        wanted_port: int,
        *,
        now: float,
        rng: random.Random,
        longest_silence: float = PERMANENT,
    ) -> None:
        self.transport: Transport = transport
        self.internal = internal
        self.wanted_port = wanted_port
        self.state: State = "requested"
        self.mapping: Mapping | None = None
        """The last that was granted; what to release, also when it is believed lost."""
        self.error: str | None = None
        """Why the last request failed; None since one succeeded."""
        self._rng = rng
        self._longest_silence = longest_silence
        self._due = now
        self._expires = PERMANENT
        self._granted_at = now
        self._answered_at = float("-inf")
        self._requests = 0  # since the last success

    @property
    def held(self) -> bool:
        """Whether strangers reach us through it, as far as is known."""
        return self.state == "held"

    @property
    def external(self) -> Endpoint | None:
        """Where; None while it is not held."""
        return self.mapping.external if self.held and self.mapping is not None else None

    def expires_in(self, now: float) -> float | None:
        """Seconds left; None while not held and for a permanent one."""
        return self._expires - now if self.held and self._expires != PERMANENT else None

    def next_deadline(self) -> float:
        """When `handle_deadline` or a request is due; infinite once released."""
        if self.state == "released":
            return PERMANENT
        return min(self._due, self._expires) if self.held else self._due

    def handle_deadline(self, now: float) -> Change | None:
        """``lost`` if the lease has run out unrenewed, else None."""
        if self.held and now >= self._expires:
            self.state = "lost"
            return "lost"
        return None

    def is_due(self, now: float) -> bool:
        """Whether the port should be asked for now; a request that then fails moves the next one on."""
        return self.state != "released" and now >= self._due

    def granted(self, mapping: Mapping, now: float) -> Change:
        """A request succeeded: ``made``, ``moved`` to another outside endpoint, or ``renewed``."""
        if self.state == "released":
            self.mapping = mapping
            return "kept"
        before = self.external
        self.mapping = mapping
        self.state, self.error = "held", None
        self.wanted_port = mapping.external_port
        self._granted_at = self._answered_at = now
        self._requests = 0
        self._expires = now + mapping.lifetime
        self._plan_renewal(now)
        if before is None:
            return "made"
        return "renewed" if before == mapping.external else "moved"

    def failed(self, reason: str, now: float, retry_in: float = 0.0) -> Change:
        """A request failed: ``failed`` if that is news and the lease is not held, else ``kept``.

        ``retry_in`` is how long the gateway says that the answer will stay the same.
        """
        if self.state == "released":
            return "kept"
        news = self.error != reason and not self.held
        self.error = reason
        self._answered_at = now
        self._requests += 1
        if self.held:
            self._plan_renewal(now)
        else:
            wait = min(FIRST_RETRY * 2 ** min(self._requests - 1, 16), LONGEST_RETRY)
            self._due = now + max(retry_in, wait * (1 + JITTER * (2 * self._rng.random() - 1)))
        return "failed" if news else "kept"

    def forget(self, now: float) -> Change:
        """The gateway has lost its state: ask again, as `check`; ``lost`` if the lease was held."""
        if self.state == "released":
            return "kept"
        was_held = self.held
        if was_held:
            self.state = "lost"
        self.check(now)
        return "lost" if was_held else "kept"

    def check(self, now: float) -> None:
        """Something has changed: ask again at once, and believe in the lease until it fails.

        Not twice within RENEWAL_SPACING: whoever on the LAN speaks in the gateway's name can say that all the time.
        """
        self._due, self._requests = min(self._due, max(now, self._answered_at + RENEWAL_SPACING)), 0

    def release(self) -> Mapping | None:
        """No longer wanted.  What to close, if anything was ever opened."""
        self.state = "released"
        return self.mapping

    def _plan_renewal(self, now: float) -> None:
        assert self.mapping is not None
        lifetime = min(self.mapping.lifetime, 2 * self._longest_silence)
        part = 0.5 ** (self._requests + 1)  # what of the lifetime is left at this attempt
        planned = self._granted_at + lifetime * (1 - part + self._rng.random() * part / 4)
        # Renewals of a long life that fail are tried on until it ends, though planned by a shorter one.
        self._due = max(planned, now + RENEWAL_SPACING)
