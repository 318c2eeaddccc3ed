"""Peer exchange (BEP 11, ``ut_pex``): whom we are connected to, told to each other about once a minute.

A message is a bencoded dictionary, every key optional:

    added, added6        peers newly connected, 6 or 18 bytes each (compact address and port)
    added.f, added6.f    one byte of flags for each of them
    dropped, dropped6    peers no longer connected

We always send the flags, because libtorrent skips ``added`` without them, and never a message that says nothing.
Peers at the other end break the limits (libtorrent says up to 100 at once, stalled links deliver the messages of
minutes together), so what exceeds them is counted first, ignored next and ends the connection only in the end.

Does not know who is connected and dials nobody: that is `PexSide`.  Does not judge addresses: the peer list does.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from dht.bencode import BencodeError, Encodable, Value, decode_untrusted, encode
from dht.compact import PEER6_SIZE, PEER_SIZE, decode_peers_untrusted, encode_peers
from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError
from swarm.ext.extension import Say
from swarm.wire.extended import ExtendedHandshake

PREFERS_ENCRYPTION = 0x01
SEED = 0x02
SUPPORTS_UTP = 0x04
SUPPORTS_HOLEPUNCH = 0x08
REACHABLE = 0x10
"""Flags of an added peer (BEP 11); the last: it was dialled, so it can be."""

MAX_TOLD = 50
"""Peers added in one message of ours, both families together; as many dropped."""

FIRST_AFTER = 1.5
"""Seconds from the handshake to the first message, so that what connects together is told together."""

INTERVAL = 60.0
"""Seconds between messages: the least that BEP 11 allows.  anacrolix ends the connection below 45."""

ASK_AGAIN_AFTER = 5.0
"""Seconds until the side is asked again when a message was due and there was nothing to tell."""

MAX_PAYLOAD = 32 << 10
"""Bytes of a message: 500 peers of each family, added and dropped, are 25,000."""

MAX_ENTRIES = 1_000
"""Peers that are read of one message's added, and of its dropped."""

MAX_HEARD = 200
"""Peers that are taken of one message; four times what BEP 11 allows, twice what libtorrent sends."""

MAX_IN_A_ROW = 6
"""Messages a minute that are taken: as many as libtorrent takes, because a stalled link delivers them together."""

EARLY = 45.0
"""Seconds between two messages below which the later counts as early: a minute, less what the way may vary."""

FLOOD = 60
"""Messages a minute that end the connection ("pex-flood")."""


class PexPeer(NamedTuple):
    """A peer somebody is connected to."""

    endpoint: Endpoint
    flags: int


@dataclass(frozen=True, slots=True)
class PexMessage:
    """Both address families together; the wire keeps them apart."""

    added: tuple[PexPeer, ...] = ()
    dropped: tuple[Endpoint, ...] = ()

    def encode(self) -> bytes:
        """The payload for `Extended`.  ValueError if a host is no address; scopes of IPv6 addresses are lost."""
        plain: dict[bytes, Encodable] = {}
        for suffix, ipv6 in ((b"", False), (b"6", True)):
            added = [peer for peer in self.added if peer.endpoint.is_ipv6 is ipv6]
            dropped = [endpoint for endpoint in self.dropped if endpoint.is_ipv6 is ipv6]
            if added:
                plain[b"added" + suffix] = encode_peers(peer.endpoint for peer in added)
                plain[b"added" + suffix + b".f"] = bytes(peer.flags for peer in added)
            if dropped:
                plain[b"dropped" + suffix] = encode_peers(dropped)
        return encode(plain)


def parse_pex_untrusted(payload: bytes | bytearray | memoryview) -> PexMessage:
    """What a ``ut_pex`` payload says, up to MAX_ENTRIES added and as many dropped.

    As libtorrent and Transmission read it: flags that are missing or not one for each peer count as 0, an entry cut
    short at the end and values that are no strings as not there, keys may be out of order.  A peer said twice is taken
    once; one both added and dropped is added.  RemoteProtocolError("bad-pex") if it is no bencoded dictionary or longer
    than MAX_PAYLOAD.
    """
    if len(payload) > MAX_PAYLOAD:
        raise RemoteProtocolError("bad-pex", f"{len(payload)} bytes")
    try:
        said = decode_untrusted(payload, strict_order=False)
    except BencodeError as error:
        raise RemoteProtocolError("bad-pex", str(error)) from None
    if not isinstance(said, dict):
        raise RemoteProtocolError("bad-pex", "not a dictionary")
    added: dict[Endpoint, int] = {}
    dropped: dict[Endpoint, None] = {}
    for suffix, ipv6 in ((b"", False), (b"6", True)):
        peers = _endpoints(said.get(b"added" + suffix), ipv6)
        for endpoint, flags in zip(peers, _flags(said.get(b"added" + suffix + b".f"), len(peers)), strict=True):
            added.setdefault(endpoint, flags)
        dropped.update(dict.fromkeys(_endpoints(said.get(b"dropped" + suffix), ipv6)))
    return PexMessage(
        tuple(PexPeer(endpoint, flags) for endpoint, flags in added.items())[:MAX_ENTRIES],
        tuple(endpoint for endpoint in dropped if endpoint not in added)[:MAX_ENTRIES],
    )


class PexSide(Protocol):
    """What peer exchange needs of its torrent."""

    def peers_to_tell(self, to: object) -> Mapping[Endpoint, int]:
        """Who is connected and where a stranger can reach it, with its flags; without the receiver ``to`` itself.

        Asked at most every ASK_AGAIN_AFTER seconds a connection.
        """

    def peers_told(self, added: Sequence[PexPeer], dropped: Sequence[Endpoint]) -> None:
        """The peer named others; unverified, at most MAX_HEARD each, perhaps undialable."""


class Pex:
    """Peer exchange on one connection.

    Pulled statistics: ``messages_sent``, ``added_sent``, ``dropped_sent``; ``messages_received``, ``added_received``,
    ``dropped_received`` (what was passed on); ``early`` messages came sooner than BEP 11 allows, ``long`` ones, the
    first aside, said more than it allows; ``messages_ignored`` and ``entries_ignored`` were beyond what we tolerate.
    """

    NAME = "ut_pex"

    def __init__(self, say: Say, side: PexSide, to: object, rng: random.Random) -> None:
        """``to`` is handed to the side; ``rng`` chooses who is told first when not all fit."""
        self.messages_sent = self.added_sent = self.dropped_sent = 0
        self.messages_received = self.added_received = self.dropped_received = 0
        self.early = self.long = self.messages_ignored = self.entries_ignored = 0
        self._say = say
        self._side = side
        self._to = to
        self._rng = rng
        self._due: float | None = None
        self._told: dict[Endpoint, None] = {}
        self._arrivals: deque[float] = deque()

    def handshake_received(self, theirs: ExtendedHandshake, now: float) -> None:
        """The first one starts the clock."""
        if self._due is None:
            self._due = now + FIRST_AFTER

    def tick(self, now: float) -> None:
        """Tell what has changed, if it is time to.

        Peers that came and went since the last message are never mentioned, nor is a change of flags.
        """
        if self._due is None or now < self._due:
            return
        message = self._changes(self._side.peers_to_tell(self._to))
        if message is None:
            self._due = now + ASK_AGAIN_AFTER
            return
        self._due = now + INTERVAL
        self._say(message.encode())
        for endpoint in message.dropped:
            del self._told[endpoint]
        self._told.update(dict.fromkeys(peer.endpoint for peer in message.added))
        self.messages_sent += 1
        self.added_sent += len(message.added)
        self.dropped_sent += len(message.dropped)

    def _changes(self, peers: Mapping[Endpoint, int]) -> PexMessage | None:
        new = [PexPeer(endpoint, flags) for endpoint, flags in peers.items() if endpoint not in self._told]
        gone = [endpoint for endpoint in self._told if endpoint not in peers]
        if not new and not gone:
            return None
        if len(new) > MAX_TOLD:
            new = self._rng.sample(new, MAX_TOLD)
        return PexMessage(tuple(new), tuple(gone[:MAX_TOLD]))

    def receive_untrusted(self, payload: bytes, now: float) -> None:
        """A message of the peer.  RemoteProtocolError("bad-pex"), or "pex-flood" at more than FLOOD a minute."""
        self.early += bool(self._arrivals) and now - self._arrivals[-1] < EARLY
        self.messages_received += 1
        recent = self._arrived(now)
        if recent > FLOOD:
            raise RemoteProtocolError("pex-flood")
        if recent > MAX_IN_A_ROW:
            self.messages_ignored += 1
            return
        said = parse_pex_untrusted(payload)
        added, dropped = said.added[:MAX_HEARD], said.dropped[:MAX_HEARD]
        self.long += self.messages_received > 1 and max(len(said.added), len(said.dropped)) > MAX_TOLD
        self.entries_ignored += len(said.added) - len(added) + len(said.dropped) - len(dropped)
        self.added_received += len(added)
        self.dropped_received += len(dropped)
        if added or dropped:
            self._side.peers_told(added, dropped)

    def _arrived(self, now: float) -> int:
        """How many messages arrived within INTERVAL, this one included."""
        while self._arrivals and now - self._arrivals[0] >= INTERVAL:
            self._arrivals.popleft()
        self._arrivals.append(now)
        return len(self._arrivals)

    def closed(self) -> None:
        """Nothing more is told."""
        self._due = None


def _endpoints(value: Value | None, ipv6: bool) -> list[Endpoint]:
    if not isinstance(value, bytes):
        return []
    size = PEER6_SIZE if ipv6 else PEER_SIZE
    return [Endpoint(*peer) for peer in decode_peers_untrusted(value[: len(value) // size * size], ipv6=ipv6)]


def _flags(value: Value | None, count: int) -> Iterable[int]:
    return value if isinstance(value, bytes) and len(value) == count else bytes(count)
