"""`Server`: what we answer to the queries of others (BEP 5, 32, 42).

Somebody who has not proved that he receives at his address is never sent more than `DhtConfig.amplification` times (4)
the bytes of his query, the ping to a newcomer included, so that forging the sender of a query gains next to nothing.
4 is what a whole find_node answer needs (287 bytes to a query of 92), while 1,024 bytes of peers to a get_peers of 95
would be 11 times.  Such an asker gets fewer peers, another stretch of them each time.  Proof is an answer to a query of
ours or an announce with a valid token; then 1,024 bytes are the limit (BEP 32).

Decides nothing about the routing table and sends nothing itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from dht import krpc
from dht.compact import PEER6_SIZE, PEER_SIZE, encode_peer
from dht.datagram import Address
from dht.krpc import ANNOUNCE_PEER, FIND_NODE, GET_PEERS, MAX_DATAGRAM, WANT_V4, WANT_V6, Query
from dht.nodeid import ID_SIZE
from dht.peerstore import PeerStore
from dht.tokens import TOKEN_SIZE, TokenServer

Closest = Callable[[bytes], bytes]
"""From a target to the k closest nodes of one family in compact form."""

FRAME = 72  # bytes of an answer besides ip, transaction id, nodes, token and values; counted generously
LIST_FRAME = 12  # "5:nodes208:" or "6:valuesl" and "e"
TOKEN_FRAME = 9 + TOKEN_SIZE
NODE_SIZE, NODE6_SIZE = ID_SIZE + PEER_SIZE, ID_SIZE + PEER6_SIZE


class Server:
    """The answering half of a node.  ``other`` is the closest-nodes function of the node of the other family."""

    def __init__(self, closest: Closest, rng: random.Random, *, ipv6: bool, amplification: float) -> None:
        self._closest = closest
        self._rng = rng
        self._ipv6 = ipv6
        self._amplification = amplification
        self._own_want = WANT_V6 if ipv6 else WANT_V4
        self._own_entry, self._other_entry = (NODE6_SIZE, NODE_SIZE) if ipv6 else (NODE_SIZE, NODE6_SIZE)
        self._peer_item = 3 + PEER6_SIZE if ipv6 else 2 + PEER_SIZE
        self._tokens = TokenServer(rng)
        self.other: Closest | None = None
        self.store = PeerStore()

    def answer(
        self, query: Query, node_id: bytes, remote: Address, size: int, now: float, *, verified: bool, spent: int = 0
    ) -> tuple[bytes | None, bool]:
        """The answer to ``query``, a datagram of ``size`` bytes, and whether the query has proved its address.

        ``spent`` are the bytes that it has made us send already.  None instead of an answer that would amplify too
        much: an error to a very short query.
        """
        requester = encode_peer(remote)
        limit = MAX_DATAGRAM if verified else min(MAX_DATAGRAM, int(size * self._amplification) - spent)
        proved = False
        if query.method == FIND_NODE:
            answer = self._answer_nodes(query, node_id, requester, limit, None, b"")
        elif query.method == GET_PEERS:
            token = self._tokens.issue(remote[0], query.target, now)
            answer = self._answer_peers(query, node_id, requester, limit, token, now)
        elif query.method == ANNOUNCE_PEER:
            answer, proved = self._answer_announce(query, node_id, remote, requester, now)
        else:
            answer = krpc.encode_response(query.transaction_id, node_id, requester)
        return (answer if proved or len(answer) <= limit else None), proved

    def refuse(self, transaction_id: bytes, code: int, text: bytes, remote: Address, size: int) -> bytes | None:
        """An error, or None where it would be too large an answer to so short a query."""
        answer = krpc.encode_error(transaction_id, code, text, encode_peer(remote))
        return answer if len(answer) <= size * self._amplification else None

    def _answer_peers(
        self, query: Query, node_id: bytes, requester: bytes, limit: int, token: bytes, now: float
    ) -> bytes:
        """Half the room at least is for peers, where there are so many."""
        room = limit - FRAME - len(requester) - len(query.transaction_id) - TOKEN_FRAME - LIST_FRAME
        values = self.store.values(query.target, room // self._peer_item, self._rng, now)
        if values:
            reserved = min(len(values), room // 2)
            nodes_size = min(room - reserved, 8 * NODE6_SIZE)
            values = values[: (room - nodes_size) // self._peer_item * self._peer_item]
        return self._answer_nodes(query, node_id, requester, limit, token, values)

    def _answer_nodes(
        self, query: Query, node_id: bytes, requester: bytes, limit: int, token: bytes | None, values: bytes
    ) -> bytes:
        """An answer with as many nodes of the families wanted as fit ``limit``, our own family's first."""
        want = query.want or self._own_want
        ours = self._closest(query.target) if want & self._own_want else None
        theirs = self.other(query.target) if want & ~self._own_want and self.other is not None else None
        answer = self._encode(query, node_id, requester, ours, theirs, token, values)
        excess = len(answer) - limit
        if excess > 0:
            kept = _cut(theirs, excess, self._other_entry)
            excess -= len(theirs or b"") - len(kept or b"")
            answer = self._encode(query, node_id, requester, _cut(ours, excess, self._own_entry), kept, token, values)
        return answer

    def _encode(
        self,
        query: Query,
        node_id: bytes,
        requester: bytes,
        ours: bytes | None,
        theirs: bytes | None,
        token: bytes | None,
        values: bytes,
    ) -> bytes:
        nodes, nodes6 = (theirs, ours) if self._ipv6 else (ours, theirs)
        return krpc.encode_response(query.transaction_id, node_id, requester, nodes, nodes6, token, values)

    def _answer_announce(
        self, query: Query, node_id: bytes, remote: Address, requester: bytes, now: float
    ) -> tuple[bytes, bool]:
        transaction_id = query.transaction_id
        if not self._tokens.accepts(query.token, remote[0], query.target, now):
            return krpc.encode_error(transaction_id, krpc.PROTOCOL_ERROR, b"bad token", requester), False
        if not self.store.announce(query.target, (remote[0], query.port or remote[1]), now):
            return krpc.encode_error(transaction_id, krpc.SERVER_ERROR, b"no room", requester), True
        return krpc.encode_response(transaction_id, node_id, requester), True


def _cut(nodes: bytes | None, excess: int, entry: int) -> bytes | None:
    """``nodes`` without their last entries, so that ``excess`` bytes less are left, or none at all."""
    if not nodes or excess <= 0:
        return nodes
    return nodes[: max(0, len(nodes) - excess) // entry * entry]
