"""The extensions that we speak (BEP 10), one entry each, and how they are put on a connection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from swarm.connect.punching import Introducer
from swarm.ext.extension import Extension, Say
from swarm.ext.holepunch import Holepunch
from swarm.ext.metadata import Metadata
from swarm.ext.pex import Pex
from swarm.ext.punch import Punch
from swarm.ext.reach import Reach
from swarm.ext.relay import Relay
from swarm.ext.turned import Turned
from swarm.peer import PeerConnection
from swarm.torrent.connections import Connections
from swarm.torrent.gossip import Gossip
from swarm.torrent.lent import Lent
from swarm.torrent.metasource import MetadataSource
from swarm.torrent.ways import Ways


@dataclass(frozen=True, slots=True)
class Shared:
    """What the extensions of one torrent's connections share."""

    lent: Lent
    connections: Connections
    metadata: MetadataSource
    ways: Ways


class Kind(NamedTuple):
    """One extension.  ``public`` ones are not spoken about private torrents (BEP 27)."""

    name: str
    public: bool
    wanted: Callable[[Lent], bool]
    make: Callable[[Say, PeerConnection, Shared], Extension]


EXTENSIONS = (
    Kind(
        Metadata.NAME,
        False,
        lambda lent: True,
        lambda say, peer, shared: shared.metadata.extension(say, peer),
    ),
    Kind(
        Pex.NAME,
        True,
        lambda lent: lent.config.pex,
        lambda say, peer, shared: Pex(
            say, Gossip(peer, shared.connections, shared.ways.admission), peer, shared.lent.rng
        ),
    ),
    Kind(
        Holepunch.NAME,
        True,
        lambda lent: lent.config.punch,
        lambda say, peer, shared: shared.ways.punching.extension(say, peer),
    ),
    Kind(
        Reach.NAME,
        True,
        lambda lent: True,
        lambda say, peer, shared: shared.ways.reaching.extension(say, peer),
    ),
    Kind(
        Punch.NAME,
        True,
        lambda lent: lent.config.punch and lent.config.utp,
        lambda say, peer, shared: shared.ways.meetings.extension(say, peer),
    ),
    Kind(
        Relay.NAME,
        True,
        lambda lent: lent.relay.is_client or lent.config.relay_serve,
        lambda say, peer, shared: shared.ways.relaying.extension(say, Introducer(peer, say), peer.freight),
    ),
)


def equip(peer: PeerConnection, shared: Shared) -> None:
    """Put on a new connection what is spoken about its torrent."""

    def make(kind: Kind) -> Callable[[Say], Extension]:
        return lambda say: kind.make(say, peer, shared)

    for kind in EXTENSIONS:
        if kind.wanted(shared.lent) and (shared.ways.admission.public or not kind.public):
            peer.extensions.add(kind.name, make(kind))
    if peer.identity.path == "turn" and shared.ways.admission.public:
        peer.extensions.add(Turned.NAME, lambda say: Turned())


def fall_silent(peer: PeerConnection) -> dict[str, int]:
    """The torrent turned out to be private: the ``m`` that takes back what was offered."""
    silent: dict[str, int] = {}
    for kind in EXTENSIONS:
        if kind.public:
            silent |= peer.extensions.drop(kind.name)
    return silent
