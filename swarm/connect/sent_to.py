"""To whom something was sent lately: whoever comes in otherwise has passed our NATs and firewalls by himself.

A memory of fixed size that errs on one side only: hosts share buckets by their hash, so one to which nothing was sent
may count as sent to (one in thirteen, with 5,000 contacted in ten minutes), never the other way round.
"""

from __future__ import annotations

from array import array
from typing import Literal

from swarm.endpoint import Endpoint

QUIET = 600.0
"""Seconds without anything sent after which no NAT still lets UDP in for it: most forget within one to five minutes."""

BUCKETS = 1 << 16
"""Hosts, and as many endpoints: half a megabyte each."""

MAX_UNINVITED = 1024
"""Hosts remembered that spoke first; the oldest is forgotten."""

Novelty = Literal["host", "port"]
"""Nothing was sent to the address; or something was, but not to that port of it."""


class SentTo:
    """When something was last sent, by host and by endpoint; and who spoke first.

    One for all UDP sockets of a node and one for TCP, which NATs keep apart.  Times are seconds of the caller's clock.
    """

    def __init__(self) -> None:
        self._hosts = array("d", [float("-inf")]) * BUCKETS
        self._endpoints = array("d", [float("-inf")]) * BUCKETS
        self._uninvited: dict[str, float] = {}  # the oldest first

    def sent(self, remote: Endpoint, now: float) -> None:
        """Something leaves for ``remote`` by ourselves: a datagram, or a TCP connection that we dial."""
        self._hosts[hash(remote[0]) % BUCKETS] = now  # the DHT, a leaf package, names endpoints by plain tuples
        self._endpoints[hash(remote) % BUCKETS] = now

    def quiet_for(self, host: str, now: float) -> float:
        """Seconds for which nothing was sent to ``host``, at least; infinity if never."""
        return now - self._hosts[hash(host) % BUCKETS]

    def heard(self, remote: Endpoint, now: float) -> Novelty | None:
        """Something came in, of which nothing has been answered yet: what about it is new, None if it was invited.

        Costs 0.3 µs where something was sent to that very endpoint, as for nearly every datagram.
        """
        host = remote.host
        if now - self._hosts[hash(host) % BUCKETS] < QUIET:  # asked first: no endpoint of a quiet host was sent to
            return None if now - self._endpoints[hash(remote) % BUCKETS] < QUIET else "port"
        self._uninvited.pop(host, None)
        self._uninvited[host] = now
        if len(self._uninvited) > MAX_UNINVITED:
            del self._uninvited[next(iter(self._uninvited))]
        return "host"

    def uninvited(self, host: str, now: float) -> bool:
        """Whether ``host`` has come in within QUIET seconds, before anything was sent to it.

        Still true after we have answered: a stream can be judged once its handshake is there.
        """
        return now - self._uninvited.get(host, float("-inf")) < QUIET
