"""Prediction and birthdays in one torrent: what its `sw_punch` agreements need of it, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable

import trio

from swarm.connect.agreement import Agreements
from swarm.connect.dial import Link
from swarm.connect.punching import NOBODY, Introducer
from swarm.connect.report import Behaviour
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.events import INDIRECT_PATHS, PunchAsked, PunchConnected, PunchFailed, PunchRole
from swarm.ext.extension import Say
from swarm.ext.punch import Punch
from swarm.ext.punch_desk import PunchDeskStatistics
from swarm.ext.punch_message import Terms
from swarm.peer import PeerConnection
from swarm.torrent.admission import Admission
from swarm.torrent.connections import Connections
from swarm.torrent.lent import Lent

FINAL = frozenset({"hopeless", "crossed", "not-wanted", "timed-out"})
"""What another introducer could not change."""

MAX_MAPPINGS = 200

MAX_ASKED = 3
"""Introducers asked for one peer, one after the other."""


class Meetings:
    """The agreements of one torrent, with their outcomes as events; implements `swarm.connect.agreement.MeetingSide`.

    The endpoints that the other end names are peers like those that any peer names: two behind one NAT find each
    other by them in their own network.
    """

    def __init__(self, info_hash: bytes, lent: Lent, connections: Connections, admission: Admission) -> None:
        self._info_hash = info_hash
        self._lent = lent
        self._connections = connections
        self._admission = admission
        self.relayed_heard: Callable[[Endpoint, tuple[Endpoint, ...]], None] = lambda peer, relayed: None
        """Told where servers receive for a peer, by its own word."""
        self.missed: Callable[[Endpoint, str], None] = lambda peer, reason: None
        """Told who wanted to meet us, and why that failed."""
        self._mappings: dict[str, Behaviour] = {}  # what peers say of their NATs, by address
        self._agreements = Agreements(
            lent.shot_ports,
            lent.second_ports,
            self,
            is_own=admission.peers.owns,
            introduces=lent.standing.is_open,
            terms=lent.standing.terms,
            relayed=lent.turning.relayed_endpoints,
            external_host=lambda ipv6: lent.standing.external_host(ipv6=ipv6),
            is_neighbour=lent.standing.is_neighbour,
        )

    def extension(self, say: Say, peer: PeerConnection) -> Punch:
        """``sw_punch`` for a connection."""
        return self._agreements.extension(say, Introducer(peer, say))

    def stop(self) -> None:
        """The torrent wants nobody any more: give up the meetings that others asked for."""
        self._agreements.stop()

    def statistics(self) -> PunchDeskStatistics:
        """Our part as introducer."""
        return self._agreements.desk.statistics()

    async def reach(self, target: Endpoint) -> Link:
        """A stream to a peer through ports that the NATs are expected to hand out.

        RemoteError with the last reason; "no-introducer" where no node of ours is connected to us.
        """
        error = RemoteError(NOBODY)
        for introducer in self._agreements.introducers(target)[:MAX_ASKED]:
            self._lent.emit(PunchAsked(self._info_hash, target, "initiator", introducer.located.observed))
            started = trio.current_time()
            try:
                link = await self._agreements.reach(introducer, target)
            except RemoteError as refusal:
                self._failed(target, "initiator", refusal.reason, trio.current_time() - started)
                error = refusal
                if error.reason in FINAL:
                    break
            else:
                self._connected(link, "initiator", trio.current_time() - started)
                return link
        raise error

    async def tell_relayed(self, target: Endpoint, relayed: tuple[Endpoint, ...]) -> None:
        """Let ``target`` know where servers receive for us, if a node of ours can tell it; raises nothing."""
        for introducer in self._agreements.introducers(target)[:MAX_ASKED]:
            try:
                await self._agreements.tell_relayed(introducer, target, relayed)
            except RemoteError:
                continue
            return

    # -- MeetingSide ------------------------------------------------------------------------------------------------

    def wants(self, peer: Endpoint) -> bool:
        direct = (each for each in self._connections if each.identity.path not in INDIRECT_PATHS and not each.closing)
        return not self._admission.is_full and not any(each.identity.endpoint.host == peer.host for each in direct)

    def terms_heard(self, peer: Endpoint, terms: Terms) -> None:
        self._mappings[peer.host] = terms.mapping
        if len(self._mappings) > MAX_MAPPINGS:
            del self._mappings[next(iter(self._mappings))]
        self._admission.found(dict.fromkeys((*terms.udp, *terms.tcp)), "pex")
        self.relayed_heard(peer, terms.relayed)

    def meeting_begun(self, peer: Endpoint, introducer: Endpoint) -> None:
        self._lent.emit(PunchAsked(self._info_hash, peer, "target", introducer))

    def meeting_arrived(self, link: Link, seconds: float) -> None:
        self._connected(link, "target", seconds)
        self._lent.welcome(link)

    def meeting_failed(self, peer: Endpoint, reason: str, seconds: float) -> None:
        self._failed(peer, "target", reason, seconds)
        self.missed(peer, reason)

    def _connected(self, link: Link, role: PunchRole, seconds: float) -> None:
        self._lent.emit(
            PunchConnected(self._info_hash, link.remote, role, link.path, seconds, *self._behaviours(link.remote))
        )

    def _failed(self, peer: Endpoint, role: PunchRole, reason: str, seconds: float) -> None:
        self._lent.emit(PunchFailed(self._info_hash, peer, role, reason, seconds, *self._behaviours(peer)))

    def _behaviours(self, peer: Endpoint) -> tuple[Behaviour, Behaviour]:
        """How our NAT maps and how the peer says that its does."""
        return self._lent.standing.mapping(peer.is_ipv6), self._mappings.get(peer.host, "unknown")
