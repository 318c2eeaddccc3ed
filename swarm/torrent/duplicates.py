"""Two connections to one peer: which one goes (no BEP; what clients do, so that both ends close the same one)."""

from __future__ import annotations

from collections.abc import Container
from typing import Literal

from swarm.endpoint import Endpoint
from swarm.events import INDIRECT_PATHS
from swarm.identity import Identity

OUR_PREFIX = b"-SW"
"""Peer ids that begin so belong to nodes of ours, which decide by this very rule."""

CROSSING = 5.0
"""Seconds within which two connections made by either end are crossing dials."""

MAX_SPARES = 1000
"""Remembered; the oldest is forgotten first, and found out again by dialling it."""


def verdict(old: Identity, new: Identity, age: float, our_peer_id: bytes) -> Literal["keep", "replace", "both"]:
    """What is to be done when ``new`` arrives while ``old`` has stood for ``age`` seconds.

    Crossing dials with a node of ours go by the rule, at once; whoever made both, or dials although one stands,
    decides; else both may stand for a while, see `replaces_in_the_end`.
    """
    if made_by_one_end(old, new) or is_dialled_again(old, new, age):
        return "keep" if new.direction == "out" and not new.bidden else "both"
    if only_its_dialler_knows(old, new) or not follows_our_rule(new):
        return "both"
    return "replace" if newcomer_replaces(old, new, our_peer_id) else "keep"


def replaces_in_the_end(old: Identity, new: Identity, age: float, our_peer_id: bytes, *, old_talks: bool) -> bool:
    """Whether ``old`` is to go if both still stand.  ``age`` is how long it had stood when ``new`` came.

    A peer that dials again, back from an outage say, has lost the old connection, unless that still talks.
    """
    if made_by_one_end(old, new) or is_dialled_again(old, new, age) or only_its_dialler_knows(old, new):
        return not old_talks
    return newcomer_replaces(old, new, our_peer_id)


def newcomer_replaces(old: Identity, new: Identity, our_peer_id: bytes) -> bool:
    """Whether ``old`` is to be closed for ``new``; otherwise ``new`` is.

    A direct path beats a relayed one, and a direct one over IPv6 beats one over IPv4: it has no NAT whose mapping may
    expire.  Else the new connection stays if, and only if, the end with the numerically greater peer id initiated it:
    for crossing dials both ends then keep the same one, whatever order they saw.
    """
    if _rank(old) != _rank(new):
        return _rank(new) > _rank(old)
    we_are_greater = our_peer_id > new.peer_id
    we_initiated = new.direction == "out"
    return we_are_greater == we_initiated


def made_by_one_end(old: Identity, new: Identity) -> bool:
    """Whether these are no crossing dials: then only the end that made both can know which of them works."""
    return old.direction == new.direction and _rank(old) == _rank(new)


def is_dialled_again(old: Identity, new: Identity, age: float) -> bool:
    """Whether these are no crossing dials because the old connection has stood for ``age`` seconds.

    Who dials although it stands has lost it: his NAT has another address or port since.  If he has not, he hangs up.
    """
    return age >= CROSSING and _rank(old) == _rank(new)


def only_its_dialler_knows(old: Identity, new: Identity) -> bool:
    """Whether a peer has dialled us over a worse path than the one that stands for us.

    It hangs up by itself if the better one stands for it, too.  If not, the better one is dead and we have not
    noticed: the peer came back from an outage without IPv6.
    """
    return new.direction == "in" and _rank(new) < _rank(old)


def follows_our_rule(identity: Identity) -> bool:
    """Whether the other end will close the same connection as we do, so that nobody needs to wait."""
    return identity.peer_id.startswith(OUR_PREFIX)


def _rank(identity: Identity) -> int:
    """How good a path is, as far as both ends see the same of it."""
    if identity.path in INDIRECT_PATHS:
        return 0
    endpoint = identity.endpoint
    return 2 if endpoint.is_ipv6 and not endpoint.address.is_link_local else 1


class Spares:
    """Endpoints at which peers are, too, to whom a connection stands that was preferred: dialled, they lose again."""

    def __init__(self) -> None:
        self._peer_ids: dict[Endpoint, bytes] = {}

    def note(self, endpoint: Endpoint, peer_id: bytes) -> None:
        """The peer was met here, and another connection to it was kept."""
        self._peer_ids.pop(endpoint, None)
        self._peer_ids[endpoint] = peer_id
        if len(self._peer_ids) > MAX_SPARES:
            del self._peer_ids[next(iter(self._peer_ids))]

    def is_spare(self, endpoint: Endpoint, connected: Container[bytes]) -> bool:
        """Whether nothing is to be had from dialling it; ``connected`` are the peer ids of standing connections."""
        peer_id = self._peer_ids.get(endpoint)
        if peer_id is None:
            return False
        if peer_id not in connected:
            del self._peer_ids[endpoint]
            return False
        return True
