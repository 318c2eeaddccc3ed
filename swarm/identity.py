"""Who is at the other end of a connection, and by what name its misdeeds are remembered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from swarm.endpoint import Endpoint
from swarm.events import Direction, EncryptionName, PathName
from swarm.wire.handshake import Handshake


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is at the other end and how the stream came to be."""

    endpoint: Endpoint
    path: PathName
    direction: Direction
    handshake: Handshake
    encryption: EncryptionName = "plaintext"
    relay: Endpoint | None = None
    """Where the peer is that carries it, if one does."""
    bidden: bool = False
    """We dialled because the other end wanted it: a simultaneous open of TCP (BEP 55), which both ends see as "out"."""

    @property
    def peer_id(self) -> bytes:
        return self.handshake.peer_id

    @property
    def culprit(self) -> Culprit:
        by_address = self.endpoint.address.is_global and self.path != "relayed"
        carrier = None if self.relay is None else self.relay.host
        return Culprit(self.endpoint.host, None if by_address else self.peer_id, carrier)


class Culprit(NamedTuple):
    """By what name misdeeds of a peer are remembered over reconnections.

    The address alone for the world at large, where peer ids are free and addresses are not; on a private network and
    on one machine, where many peers share an address, the peer id too.  Through a relay, which can spoil
    what it carries, the peer id and the relay: through another one the peer is heard again.
    """

    host: str
    peer_id: bytes | None
    relay: str | None = None
