"""Do strangers get in?  What arrives at a node and what leaves it, told to `ReachabilityProbe` and `NatProbe`.

UDP is told run by run, by the mux; TCP by whoever dials and whoever accepts.  Draws no conclusions itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import trio

from swarm.connect.natprobe import NatProbe
from swarm.connect.reachability import IN_VAIN, ReachabilityProbe
from swarm.connect.sent_to import QUIET
from swarm.endpoint import Endpoint
from swarm.ext.reach_message import Outcome, Transport


class Strangers:
    """One for a node.  ``nat`` is the NAT probe of an endpoint's address family, ``is_own`` knows our own addresses.

    ``udp_sending`` and ``udp_received`` are `swarm.net.mux.Mux`'s notices.  An `Asker` of the torrents' desks.
    """

    def __init__(
        self, rng: random.Random, *, nat: Callable[[Endpoint], NatProbe], is_own: Callable[[str], bool]
    ) -> None:
        self.probe = ReachabilityProbe(rng, trio.current_time(), is_own=is_own)
        self.udp_sending = self.probe.sent_to["utp"].sent
        self._nat = nat

    def udp_received(self, remote: Endpoint, now: float) -> None:
        """A run of datagrams came in, of which nothing has been answered yet."""
        novelty = self.probe.came_in("utp", remote, now)
        if novelty is not None:
            self._nat(remote).unsolicited(remote, novelty == "port", now)

    def tcp_dialled(self, remote: Endpoint) -> None:
        """We dial, or have a connection that stands: NATs let that address in."""
        self.probe.sent_to["tcp"].sent(remote, trio.current_time())

    def tcp_came_in(self, remote: Endpoint) -> None:
        """A connection has been accepted: the kernel has answered it."""
        now = trio.current_time()
        self.probe.came_in("tcp", remote, now)
        self.probe.sent_to["tcp"].sent(remote, now)

    def has_met(self, host: str, transport: Transport) -> bool:
        """Whether something was sent to that address lately."""
        return self.probe.sent_to[transport].quiet_for(host, trio.current_time()) < QUIET

    def dialled_back(self, nonce: bytes, remote: Endpoint, transport: Transport) -> None:
        """Somebody has connected and presents a nonce; perhaps one of ours."""
        now = trio.current_time()
        if self.probe.dialled_back(nonce, remote, transport, now) and transport == "utp":
            self._nat(remote).unsolicited(remote, False, now)

    def answered(self, helper: Endpoint, nonce: bytes, outcome: Outcome, now: float) -> None:
        """What a helper says of a probe; perhaps of one that nobody has asked it for."""
        self.probe.answered(helper, nonce, outcome, now)
        if outcome in IN_VAIN and self.probe.verdict("utp", now, ipv6=helper.is_ipv6) is False:
            self._nat(helper).strangers_kept_out(now)
