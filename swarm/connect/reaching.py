"""sw_reach in one torrent: its connections as `ReachDesk` looks at them, and our own probes once a second.

What a node knows of its being reachable is `strangers`'; where it can be dialled, `standing`'s.  Does no I/O itself.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial

from swarm.connect.dial_back import TRANSPORTS_OF, BackDialer
from swarm.connect.nat_tests import Helper
from swarm.connect.standing import Standing
from swarm.endpoint import Endpoint
from swarm.events import PathName
from swarm.ext.allowance import account_of
from swarm.ext.extension import Say
from swarm.ext.reach import Reach, ReachAllowances
from swarm.ext.reach_desk import Acquaintance, DeskStatistics, ReachDesk
from swarm.ext.reach_message import TRANSPORTS, Forward, Idle, Seen, Transport
from swarm.peer import PeerConnection
from swarm.torrent.connections import Connections

STILL_THERE = 240.0
"""Seconds after which standing TCP connections are noted again as letting their address in: less than `sent_to.QUIET`,
and each costs a microsecond."""


class Contact:
    """A connection as the desk looks at it; the key of its `Reach`."""

    def __init__(self, peer: PeerConnection, say: Say, desk: ReachDesk, allowances: ReachAllowances) -> None:
        self.peer = peer
        allowed = partial(allowances.take, account_of(peer.identity.endpoint))
        self.reach: Reach[Contact] = Reach(say, desk, self, _seen(peer), allowed)

    @property
    def observed(self) -> Endpoint:
        return self.peer.identity.endpoint

    @property
    def path(self) -> PathName:
        return self.peer.identity.path


class Reaching:
    """The node's part in sw_reach, for one torrent; the `DialBack` of its desk."""

    def __init__(
        self,
        info_hash: bytes,
        connections: Connections,
        *,
        standing: Standing,
        back_dialer: BackDialer,
        rng: random.Random,
    ) -> None:
        self._info_hash = info_hash
        self._connections = connections
        self._standing = standing
        self._back_dialer = back_dialer
        self._noted = float("-inf")
        self._allowances = ReachAllowances()
        self._desk = ReachDesk(
            self._contacts,
            is_own=standing.is_own,
            endpoint_seen=standing.seen,
            asker=standing.strangers,
            dialler=self,
            limits=back_dialer.limits,
            rng=rng,
        )

    def extension(self, say: Say, peer: PeerConnection) -> Reach[Contact]:
        """``sw_reach`` for a connection."""
        return Contact(peer, say, self._desk, self._allowances).reach

    def statistics(self) -> DeskStatistics:
        """Our part as helper and dialler."""
        return self._desk.statistics()

    def tick(self, now: float) -> None:
        """Once a second while there are connections: ask whoever is to be asked."""
        self._desk.tick(now)
        wants_helper = self._standing.nat_tests.wants_helper
        for contact in self._contacts():
            self._ask(contact)
            if wants_helper:
                self._offer(contact)
        if now - self._noted >= STILL_THERE:
            self._noted = now
            for peer in self._connections:
                if TRANSPORTS_OF.get(peer.identity.path) == "tcp":
                    self._standing.strangers.tcp_dialled(peer.identity.endpoint)

    # -- DialBack ---------------------------------------------------------------------------------------------------

    def able(self, transport: Transport, *, ipv6: bool) -> bool:
        return self._back_dialer.able(transport, ipv6=ipv6)

    def knows(self, host: str, transport: Transport) -> bool:
        return self._back_dialer.knows(host, transport)

    def dial_back(self, helper: Acquaintance, forward: Forward) -> None:
        self._back_dialer.dial(self._info_hash, forward, partial(self._desk.dial_ended, helper, forward.nonce))

    def grant_late_answers(self, asker: Acquaintance, idle: Idle) -> None:
        self._standing.nat_tests.grant(idle.nonce, asker.observed.host)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _contacts(self) -> Iterator[Contact]:
        for peer in self._connections:
            reach = peer.extensions.get(Reach.NAME)
            if isinstance(reach, Reach) and not peer.closing:
                yield reach.key

    def _ask(self, contact: Contact) -> None:
        told = contact.reach.told
        if told is None or not contact.reach.supported or contact.path not in TRANSPORTS_OF:
            return
        for transport in TRANSPORTS:
            probe = self._standing.probe_through(contact.observed, transport, told)
            if probe is not None:
                contact.reach.ask(probe)

    def _offer(self, contact: Contact) -> None:
        """Whom we have dialled where it listens takes datagrams from a fresh port of ours, too, if anybody does."""
        dialled = contact.peer.identity.direction == "out" and contact.path in ("tcp", "utp")
        if dialled and contact.reach.supported:

            def ask(nonce: bytes) -> None:
                contact.reach.ask_late_answers(Idle(nonce))

            self._standing.nat_tests.offer(Helper(contact.observed, ask))


def _seen(peer: PeerConnection) -> Seen | None:
    """What to tell a peer of where we see it; None where that is not its listening port's NAT mapping."""
    identity = peer.identity
    transport = TRANSPORTS_OF.get(identity.path)
    if transport is None or identity.endpoint.address.is_link_local:  # which has a scope, known here only
        return None
    return Seen(transport, identity.endpoint)
