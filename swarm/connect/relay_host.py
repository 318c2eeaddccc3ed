"""The node's side of ``sw_relay``: its desk, the timer that the desk's limits need, and what a node says of itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import trio

from swarm.config import Config
from swarm.connect.relay_report import RelayClientCounts
from swarm.connect.standing import Standing
from swarm.endpoint import Endpoint
from swarm.ext.relay_desk import RelayDesk
from swarm.ext.relay_message import WayOut

SENT_IN_VAIN = 8
"""Datagrams over IPv4 after which, if not one has come in, UDP counts as blocked."""

SYMMETRIC = ("address-dependent", "address-and-port-dependent")


class Datagrams(NamedTuple):
    """What passed through the IPv4 socket."""

    sent: int
    received: int


class RelayHost:
    """One for a node, lent to its torrents.  ``datagrams`` counts those of the IPv4 socket, (0, 0) while offline."""

    def __init__(
        self, config: Config, standing: Standing, rng: random.Random, datagrams: Callable[[], Datagrams]
    ) -> None:
        self._config = config
        self._standing = standing
        self._datagrams = datagrams
        self._woken = trio.Event()
        self.counts = RelayClientCounts()
        """What came of asking other relays, and of being called through them."""
        self.desk = RelayDesk(
            config.relay_limits, rng, serves=self.serves, is_own=self._is_own, due_changed=lambda: self._woken.set()
        )

    @property
    def is_client(self) -> bool:
        """Whether relays may be used.  What passes through them is encrypted, so not without encryption."""
        return self._config.relay and self._config.encryption != "off"

    def serves(self) -> bool:
        """Whether we relay for others now: asked to, and known to be reachable."""
        return self._config.relay_serve and self.is_reachable()

    def is_reachable(self) -> bool:
        """Whether strangers are known to get through to us, in whichever way."""
        verdicts = self._standing.strangers.probe.report(trio.current_time())
        return any((verdicts.tcp4, verdicts.utp4, verdicts.tcp6, verdicts.utp6))

    def way_out(self) -> WayOut:
        """What we say of our own NAT."""
        sent, received = self._datagrams()
        if not self._config.utp or (sent >= SENT_IN_VAIN and not received):
            return "blocked"
        report = self._standing.report(4)
        if report.mapping not in SYMMETRIC or report.port_step is None:
            return "other"
        return "sequential" if report.port_step else "random"

    async def run(self) -> None:
        """Let time pass at the desk, until cancelled."""
        while True:
            due = self.desk.next_deadline()
            with trio.move_on_at(float("inf") if due is None else due):
                await self._woken.wait()
            self.desk.handle_deadline(trio.current_time())
            self._woken = trio.Event()  # what the desk has changed just now is looked at next

    def _is_own(self, endpoint: Endpoint) -> bool:
        return self._standing.is_own(endpoint.host) and endpoint.port in (
            self._standing.port,
            self._standing.port_to_announce(ipv6=endpoint.is_ipv6),
        )
