"""What peers of one torrent are told of each other (BEP 11): who is connected, and where a stranger can reach it.

The address that is told is the one that can be *reached*: where we dialled the peer; else the port on which it says
that it listens; but what a peer behind a NAT listens on inside helps nobody, so where its µTP packets come from another
port, that one: its one UDP socket has a mapping there, which `ut_holepunch` can lead to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from swarm.endpoint import Endpoint
from swarm.events import INDIRECT_PATHS
from swarm.ext.holepunch_relay import UTP_PATHS
from swarm.ext.pex import PREFERS_ENCRYPTION, REACHABLE, SEED, SUPPORTS_HOLEPUNCH, SUPPORTS_UTP, PexPeer
from swarm.ext.turned import Present
from swarm.peer import PeerConnection
from swarm.torrent.admission import Admission
from swarm.torrent.connections import Connections
from swarm.torrent.duplicates import OUR_PREFIX

ONE_OFF_PATHS = ("predicted", "birthday")
"""By µTP, but between ports that were made for this one meeting."""


class Gossip:
    """Peer exchange as one connection sees its torrent; implements `swarm.ext.pex.PexSide`."""

    def __init__(self, peer: PeerConnection, connections: Connections, admission: Admission) -> None:
        self._peer = peer
        self._connections = connections
        self._admission = admission

    def peers_to_tell(self, to: object) -> Mapping[Endpoint, int]:
        receiver = self._peer.identity.endpoint
        to_ours = self._peer.identity.peer_id.startswith(OUR_PREFIX)
        told: dict[Endpoint, int] = {}
        for peer in self._connections:
            if to_ours and peer.extensions.speaks(Present.NAME):
                continue
            if peer is self._peer or peer.closing or peer.identity.peer_id == self._peer.identity.peer_id:
                continue
            endpoint = endpoint_for_strangers(peer)
            if endpoint is not None and endpoint != receiver and is_worth_telling(endpoint, receiver):
                told[endpoint] = flags_of(peer)
        return told

    def peers_told(self, added: Sequence[PexPeer], dropped: Sequence[Endpoint]) -> None:
        introducer = self._peer.identity.endpoint
        self._admission.introduced(self._peer, [peer for peer in added if is_worth_telling(peer.endpoint, introducer)])
        self._admission.no_longer_introduced(self._peer, dropped)


def endpoint_for_strangers(peer: PeerConnection) -> Endpoint | None:
    """Where somebody else can reach a peer of ours; None if we do not know."""
    identity = peer.identity
    if identity.path in INDIRECT_PATHS:
        return None
    if identity.direction == "out" and identity.path not in ONE_OFF_PATHS:
        return identity.endpoint
    listens = peer.theirs.p if peer.theirs is not None else None
    if identity.path in UTP_PATHS and listens != identity.endpoint.port:
        return identity.endpoint
    return Endpoint(identity.endpoint.host, listens) if listens is not None else None


def flags_of(peer: PeerConnection) -> int:
    """The flags of BEP 11, each only where we know it."""
    identity, theirs = peer.identity, peer.theirs
    flags = 0
    if identity.encryption != "plaintext" or (theirs is not None and theirs.e):
        flags |= PREFERS_ENCRYPTION
    has = peer.downloader.theirs  # of no pieces at all while the metadata is missing: nobody knows
    if (has.size and has.complete) or (theirs is not None and theirs.upload_only):
        flags |= SEED
    if identity.path in UTP_PATHS or identity.path in ONE_OFF_PATHS:
        flags |= SUPPORTS_UTP
    if peer.extensions.speaks("ut_holepunch"):
        flags |= SUPPORTS_HOLEPUNCH
    if identity.direction == "out" and identity.path in ("tcp", "utp"):
        flags |= REACHABLE
    return flags


def is_worth_telling(endpoint: Endpoint, receiver: Endpoint) -> bool:
    """Whether an address means the same to the receiver as to us: private ones stay among private ones, loopback on
    this machine, and link-local ones, which need a scope, are told to nobody."""
    address = endpoint.address
    if address.is_link_local or (address.is_loopback and not receiver.address.is_loopback):
        return False
    return address.is_global or not receiver.address.is_global
