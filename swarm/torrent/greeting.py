"""What a peer is told of us in the extension handshake (BEP 10): first all, then where we are when that changes."""

from __future__ import annotations

from swarm.peer import PeerConnection
from swarm.torrent.duplicates import follows_our_rule
from swarm.torrent.lent import Lent
from swarm.torrent.uploader import MAX_QUEUED
from swarm.wire.extended import ExtendedHandshake


def greeting(peer: PeerConnection, lent: Lent, *, metadata_size: int | None, seeding: bool) -> ExtendedHandshake:
    """Our first handshake for a connection that has its extensions; ``metadata_size`` in bytes, None if unknown."""
    ipv4, ipv6 = _other_addresses(peer, lent)
    return ExtendedHandshake(
        m=peer.extensions.m,
        v=lent.config.client_name,
        p=_port(peer, lent),
        reqq=MAX_QUEUED,
        yourip=peer.identity.endpoint.host.partition("%")[0],
        ipv4=ipv4,
        ipv6=ipv6,
        metadata_size=metadata_size,
        upload_only=True if seeding else None,
        e=True if lent.config.encryption == "require" else None,
        hidden=_is_hidden(peer, lent),
    )


def whereabouts(peer: PeerConnection, lent: Lent) -> ExtendedHandshake:
    """Where we are now."""
    ipv4, ipv6 = _other_addresses(peer, lent)
    return ExtendedHandshake(
        m=peer.extensions.m, p=_port(peer, lent), ipv4=ipv4, ipv6=ipv6, hidden=_is_hidden(peer, lent)
    )


def _port(peer: PeerConnection, lent: Lent) -> int | None:
    return lent.standing.port_for(peer.identity.endpoint) or None


def _is_hidden(peer: PeerConnection, lent: Lent) -> bool | None:
    """Told to nodes of ours, who may introduce us to others (BEP 55)."""
    ours = follows_our_rule(peer.identity) and not peer.identity.endpoint.is_ipv6
    return lent.standing.is_hidden() if ours else None


def _other_addresses(peer: PeerConnection, lent: Lent) -> tuple[str | None, str | None]:
    """Our IPv4 and IPv6 address, without that of the family in which the peer sees us."""
    over_ipv6, own = peer.identity.endpoint.is_ipv6, lent.standing.own_address
    return (own(False), None) if over_ipv6 else (None, own(True))
