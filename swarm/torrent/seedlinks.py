"""Which connections between seeds stay although no piece passes: those by which one end introduces the other (BEP 55).

A seed that nobody can dial is met by a leech through a peer that both are connected to.  Where only seeds are left,
that is another seed: the hidden one keeps a few that it has dialled, and who was dialled keeps some of those that came
in.  Both ends decide by themselves, so that this is for nodes of ours; other clients close such connections at once.
Closes nothing: `swarm.torrent.exchange` does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from swarm.ext.holepunch import Holepunch
from swarm.peer import PeerConnection
from swarm.torrent.duplicates import follows_our_rule

KEPT = 2
"""Peers that can introduce us, below which a hidden seed keeps other seeds for it."""

HOSTED = 8
"""Seeds that came in and are kept, of one torrent: they may be hidden, and hang up if they are not."""


def kept_between_seeds(peers: Iterable[PeerConnection], *, hidden: bool) -> Collection[PeerConnection]:
    """Those of ``peers`` that stay; ``hidden``: we are a seed, and strangers do not reach us."""
    able = [peer for peer in peers if not peer.closing and _is_direct(peer) and peer.extensions.speaks(Holepunch.NAME)]
    dialled = [peer for peer in able if peer.identity.direction == "out"]
    of_use = sum(not peer.downloader.theirs.complete for peer in dialled)
    seeds = [peer for peer in able if peer.downloader.theirs.complete and follows_our_rule(peer.identity)]
    ours = [peer for peer in seeds if peer.identity.direction == "out"] if hidden else []
    theirs = [peer for peer in seeds if peer.identity.direction == "in"]
    return {*ours[: max(KEPT - of_use, 0)], *theirs[:HOSTED]}


def _is_direct(peer: PeerConnection) -> bool:
    """Whether one of the two was dialled where it listens, on the internet at large."""
    return peer.identity.path in ("tcp", "utp") and peer.identity.endpoint.address.is_global
