"""`PeerStore`: the peers that announced to us (BEP 5), bounded per info-hash, per announcing network and in all.

Peers are kept in their compact form (`dht.compact`), which is how they leave again.  Checks no tokens.
"""

from __future__ import annotations

import random

from dht.address import network_of
from dht.compact import decode_peer_untrusted, encode_peer
from dht.datagram import Address

LIFETIME = 45 * 60.0  # seconds; clients announce again every 5 to 30 minutes
MAX_PEERS_PER_INFO_HASH = 500
MAX_PEERS_PER_NETWORK = 200  # entries from one /24 or /64, over all info-hashes
MAX_PEERS = 50_000


class PeerStore:
    """``info_hash`` → peers that expire.

    At the bound of an info-hash its oldest peer makes room.  At the bounds of a network and of the whole store new
    peers are refused: whoever floods must not wash out what others announced.
    """

    def __init__(
        self,
        *,
        max_per_info_hash: int = MAX_PEERS_PER_INFO_HASH,
        max_per_network: int = MAX_PEERS_PER_NETWORK,
        max_peers: int = MAX_PEERS,
    ) -> None:
        self._max_per_info_hash = max_per_info_hash
        self._max_per_network = max_per_network
        self._max_peers = max_peers
        self._swarms: dict[bytes, _Swarm] = {}
        self._per_network: dict[str, int] = {}
        self._count = 0

    def __len__(self) -> int:
        """Peers in all, with those that have expired since the last `expire`."""
        return self._count

    @property
    def info_hashes(self) -> int:
        return len(self._swarms)

    def announce(self, info_hash: bytes, peer: Address, now: float) -> bool:
        """Remember ``peer`` for 45 minutes, or for longer if it is known; False when a bound forbids it."""
        compact = encode_peer(peer)
        network = network_of(peer[0])
        swarm = self._swarms.get(info_hash)
        if swarm is not None and swarm.peers.pop(compact, None) is not None:
            swarm.peers[compact] = (now, network)
            return True
        if self._per_network.get(network, 0) >= self._max_per_network:
            return False
        if swarm is None or len(swarm.peers) < self._max_per_info_hash:
            if self._count >= self._max_peers:
                self.expire(now)
            if self._count >= self._max_peers:
                return False
            swarm = self._swarms.setdefault(info_hash, _Swarm())
        else:
            self._forget(swarm, next(iter(swarm.peers)))
        swarm.peers[compact] = (now, network)
        swarm.encoded = None
        self._per_network[network] = self._per_network.get(network, 0) + 1
        self._count += 1
        return True

    def values(self, info_hash: bytes, count: int, rng: random.Random, now: float) -> bytes:
        """Up to ``count`` peers as the items of a bencoded list, another stretch of them each time; b"" if none."""
        swarm = self._swarms.get(info_hash)
        if swarm is None or count <= 0:
            return b""
        self._expire_swarm(swarm, now)
        if swarm.encoded is None:
            swarm.encoded = b"".join([b"%d:%b" % (len(peer), peer) for peer in swarm.peers])
        total = len(swarm.peers)
        if count >= total:
            return swarm.encoded
        size = len(swarm.encoded) // total
        start = int(rng.random() * total)
        stretch = swarm.encoded[start * size : (start + count) * size]
        return stretch + swarm.encoded[: count * size - len(stretch)]

    def peers(self, info_hash: bytes, now: float) -> list[Address]:
        """All that we know ourselves."""
        swarm = self._swarms.get(info_hash)
        if swarm is None:
            return []
        self._expire_swarm(swarm, now)
        return [decode_peer_untrusted(compact) for compact in swarm.peers]

    def expire(self, now: float) -> None:
        """Forget the peers that have not announced for 45 minutes."""
        for info_hash, swarm in list(self._swarms.items()):
            self._expire_swarm(swarm, now)
            if not swarm.peers:
                del self._swarms[info_hash]

    def _expire_swarm(self, swarm: _Swarm, now: float) -> None:
        while swarm.peers:
            oldest = next(iter(swarm.peers))
            if swarm.peers[oldest][0] + LIFETIME > now:
                return
            self._forget(swarm, oldest)

    def _forget(self, swarm: _Swarm, compact: bytes) -> None:
        _, network = swarm.peers.pop(compact)
        swarm.encoded = None
        self._count -= 1
        left = self._per_network[network] - 1
        if left:
            self._per_network[network] = left
        else:
            del self._per_network[network]


class _Swarm:
    """The peers of one info-hash, oldest announce first, and all of them as bencoded strings of one length."""

    __slots__ = ("encoded", "peers")

    def __init__(self) -> None:
        self.peers: dict[bytes, tuple[float, str]] = {}  # compact → time of the last announce, network
        self.encoded: bytes | None = None
