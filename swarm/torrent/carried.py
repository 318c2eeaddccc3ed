"""Connections that a relay carries (``sw_relay``): whether one has come to a halt, and whether its end speaks against
the relay.  Ends none of them."""

from __future__ import annotations

from swarm.peer import PeerConnection
from swarm.torrent.room import MADE_ROOM

STALLED_AFTER = 30.0
"""Seconds without a byte while blocks are asked for, or before another connection to the peer is welcome."""

STALLED = "stalled"

OUR_CHOICE = frozenset({"duplicate", "both-complete", "private", MADE_ROOM})
"""Ends that say nothing of the relay.  All others may be its doing, also that the other end hung up on us."""


def is_silent(peer: PeerConnection, now: float) -> bool:
    """Whether a relay carries the connection, or seems to."""
    return peer.identity.relay is not None and now - peer.received_at >= STALLED_AFTER


def is_stalled(peer: PeerConnection, now: float) -> bool:
    """The same of one over which blocks are asked for."""
    return is_silent(peer, now) and bool(peer.downloader.pipeline.outstanding)
