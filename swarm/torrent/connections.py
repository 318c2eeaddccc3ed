"""The connections of one torrent and the sums over them; the same list before and after its metadata is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import trio

from swarm.endpoint import Endpoint
from swarm.events import INDIRECT_PATHS
from swarm.identity import Identity
from swarm.peer import PeerConnection

SILENCE = 2.0
"""Seconds without a byte from a peer that is awaited, after which it is spoken to: see `Connections.tick`."""


class Moved(NamedTuple):
    """Payload bytes of all connections, ended ones included; ``wasted`` were of no use."""

    down: int
    up: int
    wasted: int


class Connections:
    """Who is connected now.  Iterating gives a snapshot, so that the body may close peers."""

    def __init__(self) -> None:
        self._peers: list[PeerConnection] = []
        self._ended = Moved(0, 0, 0)
        self._left = trio.lowlevel.ParkingLot()
        self._joined = trio.lowlevel.ParkingLot()
        self.departed = 0
        """How many have left so far."""

    def __iter__(self) -> Iterator[PeerConnection]:
        return iter(tuple(self._peers))

    def __len__(self) -> int:
        return len(self._peers)

    @property
    def standing(self) -> int:
        """How many there are without those that are being closed."""
        return sum(not peer.closing for peer in self._peers)

    def joined(self, peer: PeerConnection) -> None:
        """Count in a connection that is about to run."""
        self._peers.append(peer)
        self._joined.unpark_all()

    def left(self, peer: PeerConnection) -> None:
        """Count out a connection that has ended, keeping its totals."""
        self._peers.remove(peer)
        self._ended = _plus(self._ended, peer)
        self.departed += 1
        self._left.unpark_all()

    async def wait_joined(self) -> None:
        """Block until the next connection joins."""
        await self._joined.park()

    async def wait_left(self) -> None:
        """Block until no connection is left."""
        while self._peers:
            await self._left.park()

    def rival_of(self, identity: Identity) -> PeerConnection | None:
        """A connection to the same peer id that still stands."""
        for peer in self._peers:
            if peer.identity.peer_id == identity.peer_id and not peer.closing:
                return peer
        return None

    def direct_peer_ids(self) -> frozenset[bytes]:
        """Of all that still stand and do not lead through a relay."""
        direct = (peer for peer in self._peers if peer.identity.path not in INDIRECT_PATHS)
        return frozenset(peer.identity.peer_id for peer in direct if not peer.closing)

    def close(self, reason: str) -> None:
        """End every connection."""
        for peer in self:
            peer.close(reason)

    def tick(self, now: float, idle_timeout: float, keep_alive: Callable[[Endpoint], float]) -> bool:
        """Once a second while there are connections.  ``keep_alive`` tells how long a mapping to a peer may rest.

        Whoever only waits sends nothing that is to be acknowledged, and would never learn that his NAT has another
        address since, or has forgotten him.  So a peer that is awaited and silent is spoken to; where all are silent,
        everybody.  True while nobody is heard.
        """
        for peer in self:
            peer.tick(now, idle_timeout, keep_alive(peer.identity.endpoint))
        silent = [peer for peer in self._peers if peer.is_awaited and now - peer.received_at > SILENCE]
        if not silent:
            return False
        heard = max(peer.received_at for peer in self._peers)
        nobody = now - heard > SILENCE
        for peer in self._peers if nobody else silent:
            began = (heard if nobody else peer.received_at) + SILENCE
            peer.keep_alive(now, now - began)  # once in each silence
        return nobody

    def moved(self) -> Moved:
        total = self._ended
        for peer in self._peers:
            total = _plus(total, peer)
        return total


def _plus(moved: Moved, peer: PeerConnection) -> Moved:
    return Moved(moved.down + peer.bytes_down, moved.up + peer.bytes_up, moved.wasted + peer.downloader.wasted)
