"""swarm: a BitTorrent client whose reason to exist is connectivity.

The names below are loaded on first use, so that ``import swarm`` (and ``swarm --help``) costs next to nothing:
no trio, no sockets, no logging handlers, no work at import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.api import download, download_sync
    from swarm.config import Config
    from swarm.errors import SwarmError
    from swarm.node import Node, open_node
    from swarm.torrent.create import create
    from swarm.torrent.metainfo import Metainfo as Torrent

__version__ = "0.1.0"

_HOMES = {
    "Config": ("swarm.config", "Config"),
    "Node": ("swarm.node", "Node"),
    "SwarmError": ("swarm.errors", "SwarmError"),
    "Torrent": ("swarm.torrent.metainfo", "Metainfo"),
    "create": ("swarm.torrent.create", "create"),
    "download": ("swarm.api", "download"),
    "download_sync": ("swarm.api", "download_sync"),
    "open_node": ("swarm.node", "open_node"),
}

__all__ = ["Config", "Node", "SwarmError", "Torrent", "create", "download", "download_sync", "open_node"]


def __getattr__(name: str) -> object:
    try:
        module, attribute = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'swarm' has no attribute {name!r}") from None
    return getattr(import_module(module), attribute)
