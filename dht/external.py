"""`ExternalAddress`: what others say our address is, put to the vote (BEP 42).

Each answer names the address it was sent to.  One network (a /24, or a /64) has one vote, the latest; the last 20
voters count.  Ports are not voted on: behind some NATs every observer sees another one, which is worth knowing, so
`dht.node` reports each observation as a result.
"""

from __future__ import annotations

from collections import Counter

from dht.address import network_of

MAX_VOTERS = 20
MIN_VOTERS = 4
MAJORITY = 0.6


class ExternalAddress:
    """Votes about our host."""

    def __init__(self, host: str | None = None) -> None:
        self.host = host
        """The host that won the last vote, or the one that was known from the start."""
        self._votes: dict[str, str] = {}

    def vote(self, voter: str, host: str) -> bool:
        """``voter``, a host, says that we are at ``host``.  True when this changes the outcome."""
        network = network_of(voter)
        self._votes.pop(network, None)
        self._votes[network] = host
        if len(self._votes) > MAX_VOTERS:
            del self._votes[next(iter(self._votes))]
        if host == self.host or len(self._votes) < MIN_VOTERS:
            return False
        winner, count = Counter(self._votes.values()).most_common(1)[0]
        if winner == self.host or count < MAJORITY * len(self._votes):
            return False
        self.host = winner
        return True
