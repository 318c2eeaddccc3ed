"""The ways in which one torrent meets its peers: its door, punching, meetings, probes of reachability, relays, TURN.

Makes each and wires them to one another.  What they do is theirs; in which order they are tried is the ladder's
business (`swarm.connect.rungs`), and what is exchanged with whom we met that of `swarm.torrent.exchange`.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakSet

from swarm.connect.punching import Punching
from swarm.connect.reaching import Reaching
from swarm.connect.relaying import Relaying
from swarm.ext.holepunch import Holepunch
from swarm.peer import PeerConnection
from swarm.torrent.admission import Admission
from swarm.torrent.carried import STALLED, is_stalled
from swarm.torrent.connections import Connections
from swarm.torrent.lent import Lent
from swarm.torrent.meetings import Meetings
from swarm.torrent.turned import Turned
from swarm.wire.extended import ExtendedHandshake


class Ways:
    """``equip`` gives a new connection its extensions and makes our extension handshake for it."""

    def __init__(
        self,
        info_hash: bytes,
        lent: Lent,
        connections: Connections,
        equip: Callable[[PeerConnection], ExtendedHandshake],
    ) -> None:
        self._connections = connections
        self.admission = admission = Admission(info_hash, lent, connections, equip)
        self.meetings = Meetings(info_hash, lent, connections, admission)
        self.punching = Punching(
            info_hash,
            connections,
            emit=lent.emit,
            owns=admission.peers.owns,
            shoot=admission.shoot,
            swap=admission.swap,
            predict=self.meetings.reach if lent.config.utp else None,
            mapping=lent.standing.mapping,
        )
        self.reaching = Reaching(
            info_hash,
            connections,
            standing=lent.standing,
            back_dialer=lent.back_dialer,
            rng=lent.rng,
        )
        self.relaying = Relaying(
            info_hash,
            lent.relay,
            lent.rng,
            wants=admission.wants_circuit,
            welcome=lent.welcome,
            relays_changed=admission.relays_changed,
        )
        self.turned = Turned(info_hash, lent, connections, admission, self.meetings)
        self.meetings.relayed_heard = self.turned.heard
        self.meetings.missed = self.turned.missed
        admission.punching = self.punching if lent.config.punch else None
        admission.relaying = self.relaying if lent.relay.is_client else None
        admission.turned = self.turned
        self._relay = lent.relay
        self._way_out = lent.relay.is_reachable(), lent.relay.way_out()
        self._introducers: WeakSet[PeerConnection] = WeakSet()

    def tick(self, now: float) -> None:
        """Once a second, while somebody is connected."""
        self.admission.tick(now)
        self.reaching.tick(now)
        self.relaying.tick(now)
        self._leave_relays_that_stall(now)
        self.turned.tick(now)
        way_out = self._relay.is_reachable(), self._relay.way_out()
        if way_out != self._way_out:
            self._way_out = way_out
            self.admission.retry_carried()

    def handshake_received(self, peer: PeerConnection, theirs: ExtendedHandshake) -> None:
        """A peer says what it speaks and where else it is (BEP 10)."""
        self.turned.marked(peer)
        self.admission.told_addresses(peer, theirs)
        if peer.extensions.speaks(Holepunch.NAME) and peer not in self._introducers:
            self._introducers.add(peer)  # once: each time, everybody who lacked an introducer is dialled again at once
            self.admission.introducers_changed()

    def become_private(self) -> None:
        """Only trackers may name peers, and nobody else may lead us to them (BEP 27)."""
        self.admission.become_private()
        self._give_up()

    def shut(self, reason: str) -> None:
        """Meet nobody any more, and end the connections that stand."""
        self.admission.shut(reason)
        self._give_up()

    def _leave_relays_that_stall(self, now: float) -> None:
        """For another one; the peer itself may be slow, and then has to be waited for."""
        for peer in self._connections:
            relay = peer.identity.relay
            if relay is not None and is_stalled(peer, now) and self.relaying.has_another(relay, now):
                peer.close(STALLED)

    def _give_up(self) -> None:
        self.meetings.stop()
        self.turned.stop()
