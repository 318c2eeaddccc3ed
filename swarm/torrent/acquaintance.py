"""Which of the peers that a torrent knows its connections lead to, and where these say that they are (BEP 10)."""

from __future__ import annotations

import trio

from swarm.endpoint import Endpoint
from swarm.events import INDIRECT_PATHS
from swarm.knownpeer import KnownPeer
from swarm.peer import PeerConnection
from swarm.peerlist import PeerList
from swarm.wire.extended import ExtendedHandshake

MAX_TOLD = 8
"""Extension handshakes of one connection whose addresses are looked at: they change when its network does."""


class Acquaintances:
    """The connections of one torrent by whom they lead to.

    Those through a relay or a TURN server are kept apart: they do not keep anybody from being dialled.
    """

    def __init__(self, peers: PeerList) -> None:
        self._peers = peers
        self._direct: dict[PeerConnection, KnownPeer] = {}
        self._relayed: dict[PeerConnection, KnownPeer] = {}
        self._told: dict[PeerConnection, int] = {}

    def met(self, peer: PeerConnection, known: KnownPeer) -> None:
        """This connection leads straight to ``known``."""
        self._direct[peer] = known

    def met_through_relay(self, peer: PeerConnection, known: KnownPeer) -> None:
        self._relayed[peer] = known

    def directly(self, peer: PeerConnection) -> KnownPeer | None:
        """Whom a connection leads to; None if nobody knows, or if it goes through a relay."""
        return self._direct.get(peer)

    def known(self, peer: PeerConnection) -> KnownPeer | None:
        """Whom a connection leads to, straight or through a relay."""
        return self._direct.get(peer) or self._relayed.get(peer)

    def is_relayed_to(self, known: KnownPeer) -> bool:
        """Whether a relay carries us to the peer."""
        return known in self._relayed.values()

    def ended(self, peer: PeerConnection) -> tuple[KnownPeer | None, KnownPeer | None]:
        """Forget a connection; whom it led to straight, and through a relay."""
        self._told.pop(peer, None)
        return self._direct.pop(peer, None), self._relayed.pop(peer, None)

    def told(self, peer: PeerConnection, theirs: ExtendedHandshake) -> Endpoint | None:
        """A peer says where it listens if it came in, and its address of the other family, which is returned.

        Who listens where is remembered with the connection: we need not dial it now, and can when this one is lost.
        """
        identity = peer.identity
        port = theirs.p if identity.direction == "in" else identity.endpoint.port
        told = self._told.get(peer, 0)
        if port is None or told >= MAX_TOLD:  # whoever says it again, and again, costs nothing
            return None
        self._told[peer] = told + 1
        if identity.direction == "in" and peer not in self._direct and peer not in self._relayed:
            self._listens_at(peer, port)
        other = theirs.ipv4 if identity.endpoint.is_ipv6 else theirs.ipv6
        there = Endpoint(other, port) if other is not None else None
        return there if there is not None and there.address.is_global else None

    def _listens_at(self, peer: PeerConnection, port: int) -> None:
        identity = peer.identity
        listens = Endpoint(identity.endpoint.host, port)
        known = self._peers.add(listens, "incoming", trio.current_time(), peer_id=identity.peer_id)
        if known is not None and identity.path in INDIRECT_PATHS:
            self._relayed[peer] = known
            self._peers.carried(known, trio.current_time())
        elif known is not None:
            self._peers.connected(known, identity.path, inbound=True)
            self._direct[peer] = known
