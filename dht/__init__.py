"""A mainline Kademlia DHT (BEP 5) that stands alone: a sans-IO core and a trio face.  It knows nothing of swarm.

The core is `DhtNode`, the face `open_node` and `DhtService`.  Names are loaded on first use: the core never needs trio.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dht.config import DhtConfig
    from dht.node import DhtNode
    from dht.service import DhtService, PeerSearch, open_node
    from dht.state import SavedState, decode_state_untrusted

_HOMES = {
    "DhtConfig": "dht.config",
    "DhtNode": "dht.node",
    "DhtService": "dht.service",
    "PeerSearch": "dht.service",
    "SavedState": "dht.state",
    "decode_state_untrusted": "dht.state",
    "open_node": "dht.service",
}

__all__ = ["DhtConfig", "DhtNode", "DhtService", "PeerSearch", "SavedState", "decode_state_untrusted", "open_node"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'dht' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
