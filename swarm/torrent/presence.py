"""One connection to an introducer through an allocation, under a peer id of its own (BEP 11, BEP 55).

PEX lists established connections only, and an introducer hands out what it observes: so this is how peers that are not
ours hear of the relayed address, and are led to it by a rendezvous.  It has nothing, wants nothing, and moves no data.
"""

from __future__ import annotations

import trio

from swarm.connect.turn_port import TurnPort
from swarm.connect.turning import Turning
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.ext.holepunch import ErrorCode, Holepunch, may_meet
from swarm.ext.turned import Present
from swarm.identity import Identity
from swarm.peer import PeerConnection
from swarm.ratelimit import TokenBucket
from swarm.torrent.beginning import Beginning
from swarm.torrent.claims import Claims
from swarm.torrent.exchange import Limits
from swarm.torrent.lent import Lent
from swarm.wire.extended import ExtendedHandshake
from swarm.wire.handshake import RESERVED_EXTENDED, RESERVED_FAST, Handshake, make_peer_id


class Presence:
    """``introducer`` is where a peer of ours can be dialled over µTP."""

    def __init__(self, info_hash: bytes, lent: Lent, turning: Turning, port: TurnPort, introducer: Endpoint) -> None:
        self.introducer = introducer
        self.ready = trio.Event()
        """Set once the introducer has said that it introduces."""
        self._lent = lent
        self._turning = turning
        self._port = port
        self._peer: PeerConnection | None = None
        self._scope = trio.CancelScope()
        peer_id = make_peer_id(lent.rng)
        self._handshake = Handshake(info_hash, peer_id, RESERVED_EXTENDED | RESERVED_FAST)

    async def run(self) -> None:
        """Until either end hangs up, or `close`.  Raises nothing: an introducer that does not answer is none."""
        with self._scope:
            try:
                link, theirs = await self._turning.shaken(self._port, self.introducer, self._handshake)
            except RemoteError:
                return
            identity = Identity(link.remote, "turn", "out", theirs, link.encryption)
            unlimited = TokenBucket(0), TokenBucket(0)
            inside = Beginning(self._lent, Limits(unlimited, unlimited), self)
            peer = self._peer = PeerConnection(link.stream, identity, inside, link.received, claims=Claims())
            peer.extensions.add(Holepunch.NAME, lambda say: Holepunch(say, self, self))
            peer.extensions.add(Present.NAME, lambda say: Present())
            peer.start(
                ExtendedHandshake(
                    m=peer.extensions.m,
                    v=self._lent.config.client_name,
                    p=self._port.relayed.port,
                    yourip=self.introducer.host,
                )
            )
            await peer.run()

    def close(self) -> None:
        self._scope.cancel()

    def tick(self, now: float, idle_timeout: float) -> None:
        """Once a second."""
        if self._peer is not None and not self._peer.closing:
            self._peer.tick(now, idle_timeout)

    def ask(self, target: Endpoint) -> None:
        """Have the introducer send ``target`` to the relayed address.  Once it is `ready`."""
        holepunch = self._peer.extensions.get(Holepunch.NAME) if self._peer is not None else None
        if isinstance(holepunch, Holepunch) and may_meet(self.introducer, target):
            holepunch.ask(target)

    # -- what the connection says ------------------------------------------------------------------------------------

    def extended_handshake_received(self, peer: PeerConnection, theirs: ExtendedHandshake) -> None:
        if peer.extensions.speaks(Holepunch.NAME):
            self.ready.set()

    def dht_node_told(self, peer: PeerConnection, port: int) -> None:
        """The connection that we have to it directly says the same."""

    def rendezvous_asked(self, asker: Presence, target: Endpoint, now: float) -> None:
        """We introduce nobody here."""

    def connect_told(self, introducer: Presence, peer: Endpoint, now: float, *, asked: Endpoint | None) -> None:
        """Somebody dials the relayed address now: it is let in, and needs nothing else from us."""
        if may_meet(self.introducer, peer):
            self._port.permit([peer.host])

    def rendezvous_failed(self, introducer: Presence, target: Endpoint, code: ErrorCode | None, now: float) -> None:
        """Another one may."""
