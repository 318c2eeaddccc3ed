"""What a node keeps between two runs: its id and the nodes it knew (BEP 5), as one bencoded dictionary.

    v       1
    id      our node id, 20 bytes
    nodes   compact nodes, of the family that the node is of (26 or 38 bytes each)

Reads and writes bytes, not files.
"""

from __future__ import annotations

from dataclasses import dataclass

from dht import bencode
from dht.compact import NODE_ID_SIZE, PEER6_SIZE, PEER_SIZE, CompactError, Node, decode_nodes_untrusted, encode_nodes
from dht.errors import RemoteProtocolError

STATE_VERSION = 1
MAX_NODES = 500


@dataclass(frozen=True, slots=True)
class SavedState:
    """A node id and the nodes that were in the table, the most reliable first."""

    node_id: bytes
    nodes: tuple[Node, ...]

    def encode(self) -> bytes:
        """The bytes to keep; at most 500 nodes go in."""
        return bencode.encode(
            {b"id": self.node_id, b"nodes": encode_nodes(self.nodes[:MAX_NODES]), b"v": STATE_VERSION}
        )


def decode_state_untrusted(data: bytes, *, ipv6: bool = False) -> SavedState:
    """What `SavedState.encode` wrote; RemoteProtocolError if it is anything else or of the other family."""
    try:
        state = bencode.decode_untrusted(data)
    except bencode.BencodeError as error:
        raise RemoteProtocolError(f"not a saved state: {error}") from None
    match state:
        case {b"v": 1, b"id": bytes(node_id), b"nodes": bytes(nodes)} if len(node_id) == NODE_ID_SIZE:
            pass
        case _:
            raise RemoteProtocolError("not a saved state of this version")
    if len(nodes) > MAX_NODES * (NODE_ID_SIZE + (PEER6_SIZE if ipv6 else PEER_SIZE)):
        raise RemoteProtocolError("too many nodes in a saved state")
    try:
        return SavedState(node_id, tuple(decode_nodes_untrusted(nodes, ipv6=ipv6)))
    except CompactError as error:
        raise RemoteProtocolError(f"not a saved state: {error}") from None
