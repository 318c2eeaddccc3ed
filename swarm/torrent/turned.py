"""TURN in one torrent: the rung's part, who is let in, and being known at the relayed address.

Between nodes of ours the relayed address is a candidate in ``sw_punch``; to others it becomes known by `Presence`.
Connections through it are shaken hands with, admitted and settled like any, but that they rank below direct ones.
"""

from __future__ import annotations

from dataclasses import replace

import trio

from swarm.connect.dial import Link
from swarm.connect.relaying import NO_RELAY
from swarm.connect.rungs import HOPELESS
from swarm.connect.turn_port import TurnPort
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.events import INDIRECT_PATHS
from swarm.ext.holepunch import Holepunch, may_meet
from swarm.ext.turned import Turned as Mark
from swarm.knownpeer import KnownPeer
from swarm.peer import PeerConnection
from swarm.torrent.admission import Admission
from swarm.torrent.connections import Connections
from swarm.torrent.lent import Lent
from swarm.torrent.meetings import Meetings
from swarm.torrent.presence import Presence

DIAL_SYNS, DIAL_PATIENCE = (0.0, 0.5, 1.0, 2.0, 4.0, 6.0), 3.0
"""Seconds at which SYNs leave from the relayed address: permission and rendezvous take a round trip or two."""

BEFORE_INVITING = 2.0
"""Seconds that the other end has to do what we would do."""

REACHED_WITHIN = 12.0
"""Seconds in which the other end may come, once it has been told."""

MAX_PRESENCES = 3
"""Introducers at which a torrent is known by its relayed address."""

PRESENT_AGAIN = 60.0
"""Seconds until an introducer is dialled again that did not take us."""

PRESENT_FOR = 600.0
"""Seconds for which we stay known after a peer was last looked for, or connected, there."""

PRESENT_AFTER = 2.0
"""Seconds with somebody who introduces, and nobody who is known to reach us, after which we make ourselves known: peers
that are not ours hear of us when they come, and then once a minute only."""

MAX_PERMITTED = 256
"""Peers of one torrent that are let in, the most useful first."""

PERMIT_EVERY = 10.0

ANYWHERE = Endpoint("1.1.1.1", 1)
"""Stands for whatever relayed address a server may give us."""

MAX_HEARD = 2
"""Relayed addresses that are taken of one peer: it has one of each family."""


class Turned:
    """One for each torrent; ``meetings`` carry what nodes of ours tell each other."""

    def __init__(
        self, info_hash: bytes, lent: Lent, connections: Connections, admission: Admission, meetings: Meetings
    ) -> None:
        self._info_hash = info_hash
        self._lent = lent
        self._turning = lent.turning
        self._connections = connections
        self._admission = admission
        self._meetings = meetings
        self._presences: dict[Endpoint, Presence] = {}
        self._present_again: dict[Endpoint, float] = {}
        self._wanted_until = float("-inf")
        self._permit_at = float("-inf")
        self._hidden_since = float("inf")
        self._open_at = float("-inf")

    # -- the rung ---------------------------------------------------------------------------------------------------

    @property
    def is_of_use(self) -> bool:
        """Whether there is a server, and nobody is known to reach us without, or nobody by IPv4."""
        lent = self._lent
        return self._turning.configured and (lent.standing.is_hidden() or not lent.relay.is_reachable())

    def is_relayed(self, endpoint: Endpoint) -> bool:
        """Whether a server receives there for somebody."""
        return self._turning.is_relayed(endpoint)

    async def reach(self, peer: KnownPeer) -> Link:
        """Through an allocation of ours: dial the peer from there, and have it dial us there.

        RemoteError: "crossed" if it came by itself; why there is no allocation ("turn-..."); else why dialling failed.
        "no-relay" if another relay led there meanwhile.
        """
        endpoint = peer.endpoint
        if self._admission.is_relayed_to(peer) or self._is_met(endpoint.host):
            raise RemoteError(NO_RELAY)
        port = await self._turning.port(ipv6=endpoint.is_ipv6)
        with port.hold():
            self._wanted_until = trio.current_time() + PRESENT_FOR
            port.permit([endpoint.host])
            self._appear(port)
            return await _Attempt(port, endpoint).run(self)

    async def dial(self, relayed: Endpoint) -> Link:
        """From an allocation of ours to somebody's; for those who cannot send to it themselves, nor be dialled."""
        if not self.is_of_use:
            raise RemoteError("turn-off")
        port = await self._turning.port(ipv6=relayed.is_ipv6)
        with port.hold():
            owner = self._turning.relayed_for(relayed)
            if owner is not None and self._turning.running:
                port.permit([owner.host])
                self._turning.start_soon(self._meetings.tell_relayed, owner, (port.relayed,))
            return await port.dial(relayed, syn_times=DIAL_SYNS, patience=DIAL_PATIENCE)

    def missed(self, peer: Endpoint, reason: str) -> None:
        """A node of ours wanted to meet us, and no shot can: let it come to an allocation of ours."""
        if reason in HOPELESS and self.is_of_use and self._turning.running:
            self._turning.start_soon(self._invite, peer)

    async def _invite(self, peer: Endpoint) -> None:
        await trio.sleep(BEFORE_INVITING)  # it asks for an allocation itself, if it can
        if self._is_met(peer.host):
            return
        try:
            port = await self._turning.port(ipv6=peer.is_ipv6)
        except RemoteError:
            return
        with port.hold():
            self._wanted_until = trio.current_time() + PRESENT_FOR
            port.permit([peer.host])
            self._appear(port)
            await self._meetings.tell_relayed(peer, (port.relayed,))

    async def introduce(self, port: TurnPort, target: Endpoint) -> None:
        """Tell the peer by all means where we are to be had."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._meetings.tell_relayed, target, (port.relayed,))
            for presence in tuple(self._presences.values()):
                nursery.start_soon(_ask, presence, target)

    async def wait_met(self, host: str) -> None:
        """Block until somebody at ``host`` is connected through a TURN server."""
        while not self._is_met(host):
            await self._connections.wait_joined()

    def _is_met(self, host: str) -> bool:
        return any(
            peer.identity.path in INDIRECT_PATHS and host in self._hosts_of(peer)
            for peer in self._connections
            if not peer.closing
        )

    def _hosts_of(self, peer: PeerConnection) -> tuple[str | None, ...]:
        endpoint = peer.identity.endpoint
        owner = self._turning.relayed_for(endpoint)
        return endpoint.host, owner.host if owner is not None else None

    # -- what peers say ---------------------------------------------------------------------------------------------

    def heard(self, peer: Endpoint, relayed: tuple[Endpoint, ...]) -> None:
        """A node of ours that is seen at ``peer`` says where servers receive for it."""
        usable = [each for each in relayed[:MAX_HEARD] if may_meet(each, peer) and not self._admission.peers.owns(each)]
        self._turning.permit([peer.host, *(each.host for each in usable)])
        for endpoint in usable:
            self._turning.learnt(endpoint, peer)
        if usable and not self._is_met(peer.host):
            self._admission.found(usable, "pex")

    def marked(self, peer: PeerConnection) -> None:
        """The other end says that this connection passes through its TURN server."""
        if peer.extensions.speaks(Mark.NAME) and peer.identity.path not in INDIRECT_PATHS:
            peer.identity = replace(peer.identity, path="turn")

    # -- being known ------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Once a second."""
        for presence in self._presences.values():
            presence.tick(now, self._lent.config.idle_timeout)
        if self._turning.configured:
            self._come_out(now)
        ports = self._turning.ports
        if not ports:
            return
        if any(peer.identity.path == "turn" for peer in self._connections):
            self._wanted_until = now + PRESENT_FOR
        if now >= self._wanted_until or not self.is_of_use:
            self.stop()
            return
        if now >= self._permit_at:
            self._permit_at = now + PERMIT_EVERY
            useful = self._admission.peers.most_useful(MAX_PERMITTED)
            self._turning.permit([peer.endpoint.host for peer in reversed(useful)])  # the first are to stay longest
            for port in ports:
                self._appear(port)

    def _come_out(self, now: float) -> None:
        """Be known where nobody is known to reach us."""
        if not (self._admission.public and self._lent.standing.is_hidden() and self._introducers(ANYWHERE)):
            self._hidden_since = float("inf")
            return
        self._hidden_since = min(self._hidden_since, now)
        if now < self._hidden_since + PRESENT_AFTER:
            return
        self._wanted_until = max(self._wanted_until, now + PERMIT_EVERY)
        if not self._turning.ports and self._turning.running and now >= self._open_at:
            self._open_at = now + PERMIT_EVERY
            self._turning.start_soon(self._open)

    async def _open(self) -> None:
        try:
            port = await self._turning.port(ipv6=False)
        except RemoteError:
            return
        self._appear(port)

    def stop(self) -> None:
        """The torrent wants nobody (more) there."""
        for presence in self._presences.values():
            presence.close()

    def _appear(self, port: TurnPort) -> None:
        """Be known at more introducers, if there are any more."""
        if not self._admission.public or not self._turning.running:  # ports stand a moment longer than it runs
            return
        now = trio.current_time()
        for introducer in self._introducers(port.relayed):
            if len(self._presences) >= MAX_PRESENCES:
                break
            if introducer not in self._presences and now >= self._present_again.get(introducer, now):
                self._presences[introducer] = Presence(self._info_hash, self._lent, self._turning, port, introducer)
                self._turning.start_soon(self._be_present, self._presences[introducer])

    def _introducers(self, relayed: Endpoint) -> list[Endpoint]:
        """Where peers can be dialled who introduce others; those we have dialled ourselves first."""
        able: list[tuple[bool, Endpoint]] = []
        for peer in self._connections:
            identity = peer.identity
            inbound, port = identity.direction == "in", peer.theirs.p if peer.theirs is not None else None
            if inbound and port is None:
                continue
            at = Endpoint(identity.endpoint.host, port) if inbound and port is not None else identity.endpoint
            direct = identity.path not in INDIRECT_PATHS and not peer.closing
            if direct and peer.extensions.speaks(Holepunch.NAME) and may_meet(at, relayed):
                able.append((inbound, at))
        return [at for _, at in sorted(able, key=lambda each: each[0])]

    async def _be_present(self, presence: Presence) -> None:
        try:
            await presence.run()
        finally:
            del self._presences[presence.introducer]
            if len(self._present_again) > 100 * MAX_PRESENCES:
                self._present_again.clear()
            self._present_again[presence.introducer] = trio.current_time() + PRESENT_AGAIN


class _Attempt:
    """One try to meet one peer through an allocation: both ends dial."""

    def __init__(self, port: TurnPort, target: Endpoint) -> None:
        self._port = port
        self._target = target
        self._link: Link | None = None
        self._reason = "timed-out"

    async def run(self, turned: Turned) -> Link:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._dial, nursery.cancel_scope)
                nursery.start_soon(turned.introduce, self._port, self._target)
                with trio.move_on_after(REACHED_WITHIN):
                    await turned.wait_met(self._target.host)
                    self._reason = "crossed"
                nursery.cancel_scope.cancel()
        except BaseException:  # cancelled from outside in the very moment in which it was reached
            if self._link is not None:
                self._link.stream.abort()
            raise
        if self._link is None:
            raise RemoteError(self._reason)
        return self._link

    async def _dial(self, reached: trio.CancelScope) -> None:
        try:
            self._link = await self._port.dial(self._target, syn_times=DIAL_SYNS, patience=DIAL_PATIENCE)
        except RemoteError as error:
            self._reason = error.reason
        else:
            reached.cancel()


async def _ask(presence: Presence, target: Endpoint) -> None:
    await presence.ready.wait()
    presence.ask(target)
