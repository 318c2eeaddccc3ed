"""What a node hands back to be acted on, and its counts."""

from __future__ import annotations

from dataclasses import dataclass

from dht.compact import Node
from dht.datagram import Address


@dataclass(frozen=True, slots=True)
class PeersFound:
    """Peers of a search, none of them reported by it before."""

    handle: int
    peers: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class SearchEnded:
    """A search is over.  ``answers`` nodes answered ``queries`` queries, ``announced`` of them store our announce."""

    handle: int
    queries: int
    answers: int
    announced: int
    hops: int
    """How many nodes had to be asked one after the other to get to the farthest-travelled answer."""


@dataclass(frozen=True, slots=True)
class AddressObserved:
    """``reporter`` answered and saw our query come from ``observed``, port included (BEP 42 ``ip``).

    Four of them from different hosts tell an endpoint-independent mapping from the others; nothing vouches for one.
    """

    reporter: Address
    observed: Address


@dataclass(frozen=True, slots=True)
class NodeIdChanged:
    """Most of those we asked see us at ``external_host``: our id follows from it now."""

    node_id: bytes
    external_host: str


@dataclass(frozen=True, slots=True)
class OtherFamilyHeard:
    """Nodes of the other family, named while we bootstrapped: for the other node's `DhtNode.add_address`."""

    nodes: tuple[Node, ...]


Result = PeersFound | SearchEnded | AddressObserved | NodeIdChanged | OtherFamilyHeard


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """Counts since the beginning, but for ``nodes``, ``peers_stored``, ``in_flight`` and ``searches_waiting``."""

    nodes: int
    queries_in: int
    queries_out: int
    answers: int
    lookups: int
    peers_stored: int
    in_flight: int
    searches_waiting: int
    malformed: int
    unsolicited: int
    """Answers to nothing we had asked that address."""
    limited: int
    """Datagrams dropped because their sender or all senders together were too fast, or the sender is banned."""
