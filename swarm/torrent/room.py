"""Who gives way when a torrent has all the connections that it may have, so that squatters keep nobody out.

Places cost a stranger nothing but an idle connection.  So one address keeps only its share of them against newcomers
from elsewhere; of peers that have been of no use the one of lowest priority gives way to one of a higher (BEP 40, on
which both ends agree); and while peers are wanted, a few of no use give way to whoever is to be dialled.
Closes nothing and reads no clock: `swarm.torrent.admission` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from swarm.endpoint import Endpoint
from swarm.peer import PeerConnection

MADE_ROOM = "made-room"
"""Why a connection was ended for another."""

SHARE = 8
"""One address (IPv6: /64) holds against newcomers an eighth of the places: a carrier's NAT has many peers behind it."""

TRIAL = 60.0
"""Seconds that a peer has for becoming of use: metadata, an optimistic unchoke, a first block."""

TURNOVER = 60.0
"""Seconds between two rounds of making room for whom we would dial."""

TURNED_OVER = 20
"""A twentieth of the connections goes in a round, if that many are of no use."""

USE = 1.0
"""Bytes of blocks a second, both ways together, below which a peer counts as of no use."""


def who_makes_room(
    peers: Iterable[PeerConnection],
    newcomer: Endpoint,
    now: float,
    *,
    most: int,
    priority: Callable[[Endpoint], int | None],
) -> PeerConnection | None:
    """The peer that is to go in favour of ``newcomer``; None if that is to be refused.

    ``most`` is how many there may be; ``priority`` is BEP 40's, None while it cannot be told.
    """
    standing = [peer for peer in peers if not peer.closing]
    return _of_a_crowd(standing, newcomer, max(most // SHARE, 1)) or _of_lower_priority(
        of_no_use(standing, now), priority(newcomer), priority
    )


def of_no_use(peers: Iterable[PeerConnection], now: float) -> list[PeerConnection]:
    """Who had its trial and moves nothing, for others neither, the longest silent about blocks first."""
    tried = [peer for peer in peers if not peer.closing and now - peer.connected_at >= TRIAL]
    useless = [peer for peer in tried if _usefulness(peer) < USE and not peer.freight.circuits]
    return sorted(useless, key=lambda peer: (peer.bytes_down + peer.bytes_up, peer.connected_at))


def _of_a_crowd(standing: list[PeerConnection], newcomer: Endpoint, share: int) -> PeerConnection | None:
    """The least useful of the party that holds the most places, if that is more than its share."""
    parties = Counter(peer.identity.endpoint.party for peer in standing if not _is_loopback(peer))
    if not parties or parties[newcomer.party] >= share:
        return None
    party, count = parties.most_common(1)[0]
    if count <= share:
        return None
    return min((peer for peer in standing if peer.identity.endpoint.party == party), key=_usefulness)


def _of_lower_priority(
    useless: list[PeerConnection], newcomers: int | None, priority: Callable[[Endpoint], int | None]
) -> PeerConnection | None:
    if newcomers is None:
        return None
    ranked = [(rank, peer) for peer in useless if (rank := priority(peer.identity.endpoint)) is not None]
    rank, lowest = min(ranked, key=lambda each: each[0], default=(newcomers, None))
    return lowest if rank < newcomers else None


def _usefulness(peer: PeerConnection) -> float:
    return peer.rate_down + peer.rate_up


def _is_loopback(peer: PeerConnection) -> bool:
    return peer.identity.endpoint.address.is_loopback
