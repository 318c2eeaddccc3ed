"""Two connections to one peer: which one goes (no BEP; what clients do, so that both ends close the same one)."""

from __future__ import annotations

from swarm.identity import Identity

OUR_PREFIX = b"-SW"
"""Peer ids that begin so belong to nodes of ours, which decide by this very rule."""


def newcomer_replaces(old: Identity, new: Identity, our_peer_id: bytes) -> bool:
    """Whether ``old`` is to be closed for ``new``; otherwise ``new`` is.

    A direct path beats a relayed one.  Else the new connection stays if, and only if, the end with the numerically
    greater peer id initiated it: for crossing dials both ends then keep the same one, whatever order they saw.
    """
    if _is_relayed(old) != _is_relayed(new):
        return _is_relayed(old)
    we_are_greater = our_peer_id > new.peer_id
    we_initiated = new.direction == "out"
    return we_are_greater == we_initiated


def made_by_one_end(old: Identity, new: Identity) -> bool:
    """Whether these are no crossing dials: then only the end that made both can know which of them works."""
    return old.direction == new.direction and _is_relayed(old) == _is_relayed(new)


def follows_our_rule(identity: Identity) -> bool:
    """Whether the other end will close the same connection as we do, so that nobody needs to wait."""
    return identity.peer_id.startswith(OUR_PREFIX)


def _is_relayed(identity: Identity) -> bool:
    return identity.path in ("relayed", "turn")
