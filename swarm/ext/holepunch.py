"""ut_holepunch (BEP 55): two peers that cannot dial each other are told by a third when and whither to dial at once.

The messages, and the extension on one connection in all three roles.  Whom to ask and how to punch is `HolepunchSide`'s
business, what a relay answers is `swarm.ext.holepunch_relay`'s.  Does no I/O.

    msg_type   1 byte      0 rendezvous, 1 connect, 2 error
    addr_type  1 byte      0 IPv4, 1 IPv6
    addr       6 or 18     address and port, big-endian
    err_code   4 bytes     big-endian; 0 but in errors

libtorrent and BiglyBT leave ``err_code`` out of what is no error, anacrolix drops a connection that does.  So we always
send it, 12 or 24 bytes in all, and accept 8 and 20.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, Protocol, TypeVar

from dht.compact import decode_peer_untrusted, encode_peer
from swarm.endpoint import Endpoint, is_dialable
from swarm.errors import RemoteProtocolError
from swarm.ext.allowance import Allowance
from swarm.ext.extension import Say
from swarm.wire.extended import ExtendedHandshake

RENDEZVOUS, CONNECT, ERROR = range(3)
"""Values of ``msg_type``."""

ADDRESS_SIZES = (6, 18)
"""Bytes of ``addr`` by ``addr_type``."""

ERROR_CODE_SIZE = 4

MAX_PENDING = 64
"""Targets that one introducer has been asked for and has not answered; the oldest is forgotten."""

ANSWER_SECONDS = 30.0
"""A connect or an error within so many seconds answers what we asked; a relay answers in one round trip."""

UNASKED_BURST = 10
UNASKED_SECONDS = 6.0
"""Connects that nobody asked for: so many at once, then one in so many seconds.  Each makes us send to a stranger."""


class ErrorCode(IntEnum):
    """Why a relay does not help."""

    NO_SUCH_PEER = 1
    """The endpoint is invalid."""
    NOT_CONNECTED = 2
    """The relay is not connected to the target."""
    NO_SUPPORT = 3
    """The target does not speak the extension."""
    NO_SELF = 4
    """The endpoint is the relay's own."""

    @property
    def slug(self) -> str:
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """Initiator to relay: bring me together with ``target``."""

    target: Endpoint

    def encode(self) -> bytes:
        return _encode(RENDEZVOUS, self.target)


@dataclass(frozen=True, slots=True)
class Connect:
    """Relay to both: dial ``peer`` by µTP now."""

    peer: Endpoint

    def encode(self) -> bytes:
        return _encode(CONNECT, self.peer)


@dataclass(frozen=True, slots=True)
class PunchError:
    """Relay to initiator: nothing will come of ``target``.  ``code`` is None for a number that BEP 55 does not know."""

    target: Endpoint
    code: ErrorCode | None

    def encode(self) -> bytes:
        """ValueError without a ``code``: we know what we refuse for."""
        if self.code is None:
            raise ValueError("an error of ours has a code")
        return _encode(ERROR, self.target, self.code)


HolepunchMessage = Rendezvous | Connect | PunchError


def parse_holepunch_untrusted(payload: bytes | bytearray | memoryview) -> HolepunchMessage | None:
    """The message, or None if its ``msg_type`` is not known.

    RemoteProtocolError("bad-holepunch") for an unknown ``addr_type`` and any length but 8, 12 (IPv4) and 20, 24 (IPv6).
    The endpoint is not judged; an IPv4-mapped IPv6 address comes out as IPv4.
    """
    if not len(payload):
        raise RemoteProtocolError("bad-holepunch", "empty")
    msg_type = payload[0]
    if msg_type > ERROR:
        return None
    if len(payload) < 2 or payload[1] >= len(ADDRESS_SIZES):
        raise RemoteProtocolError("bad-holepunch", "unknown address type")
    end = 2 + ADDRESS_SIZES[payload[1]]
    if len(payload) not in (end, end + ERROR_CODE_SIZE):
        raise RemoteProtocolError("bad-holepunch", f"{len(payload)} bytes")
    endpoint = Endpoint(*decode_peer_untrusted(bytes(payload[2:end])))
    if msg_type == RENDEZVOUS:
        return Rendezvous(endpoint)
    if msg_type == CONNECT:
        return Connect(endpoint)
    return PunchError(endpoint, _CODES.get(int.from_bytes(payload[end:], "big")))


Key = TypeVar("Key")
Key_contra = TypeVar("Key_contra", contravariant=True)


class HolepunchSide(Protocol[Key_contra]):
    """What the extension on a connection needs of its torrent.  Connections are named by the key they were given."""

    def rendezvous_asked(self, asker: Key_contra, target: Endpoint, now: float) -> None:
        """The peer wants us to be its relay: for `swarm.ext.holepunch_relay.HolepunchRelay`."""

    def connect_told(self, introducer: Key_contra, peer: Endpoint, now: float, *, asked: Endpoint | None) -> None:
        """Punch towards ``peer`` now.

        ``asked`` is the target of ours that this seems to answer, often another port of the same host: a relay hands
        out where it sees the peer, we asked for where it listens.  None: we are the target, or never asked.
        ``peer`` is dialable by form only.  Ignore it silently if it is connected, our own or not wanted (BEP 55), and
        if not `may_meet` of it and the introducer's endpoint: a stranger must not make us dial our own machine or LAN.
        """

    def rendezvous_failed(self, introducer: Key_contra, target: Endpoint, code: ErrorCode | None, now: float) -> None:
        """The relay does not help with ``target``, which we had asked for; another one may."""


class Holepunch(Generic[Key]):
    """The extension on one connection, which ``key`` names; an `Extension`.

    ``ignored`` counts what was not passed on, by reason: "unknown-type", "not-dialable", "unasked-error" and
    "too-many-connects".
    """

    NAME = "ut_holepunch"

    def __init__(
        self,
        say: Say,
        side: HolepunchSide[Key],
        key: Key,
        may_be_unasked: Callable[[float], bool] | None = None,
    ) -> None:
        """``may_be_unasked`` says at each unasked connect, by the time, whether it is one of those that are heeded: an
        allowance of the peer's that outlives the connection, lest he gets another by coming again."""
        self.supported = False
        """The peer's handshake names the extension: it may be asked, and be told."""
        self.ignored: Counter[str] = Counter()
        self._say = say
        self._side = side
        self.key = key
        self._now = 0.0  # as last told, a second old at most
        self._asked: dict[Endpoint, float] = {}  # targets, and when; the oldest first
        self._may_be_unasked = may_be_unasked or Allowance(UNASKED_BURST, UNASKED_SECONDS).take

    def ask(self, target: Endpoint) -> None:
        """As initiator: let the peer bring us together with ``target``.

        The answer, if any, comes as `HolepunchSide.connect_told` or `rendezvous_failed`; some relays never send errors.
        """
        self._asked.pop(target, None)
        self._asked[target] = self._now
        if len(self._asked) > MAX_PENDING:
            del self._asked[next(iter(self._asked))]
        self._say(Rendezvous(target).encode())

    def tell(self, peer: Endpoint) -> None:
        """As relay: the peer shall dial ``peer`` now."""
        self._say(Connect(peer).encode())

    def refuse(self, target: Endpoint, code: ErrorCode) -> None:
        """As relay: answer a rendezvous that comes to nothing."""
        self._say(PunchError(target, code).encode())

    def handshake_received(self, theirs: ExtendedHandshake, now: float) -> None:
        self._now = now
        ext_id = theirs.m.get(self.NAME)
        if ext_id is not None:
            self.supported = ext_id > 0

    def receive_untrusted(self, payload: bytes, now: float) -> None:
        """RemoteProtocolError("bad-holepunch") as `parse_holepunch_untrusted`."""
        self.tick(now)
        match parse_holepunch_untrusted(payload):
            case Rendezvous(target):
                self._side.rendezvous_asked(self.key, target, now)
            case Connect(peer):
                self._connect(peer, now)
            case PunchError(target, code):
                self._error(target, code, now)
            case None:
                self.ignored["unknown-type"] += 1

    def tick(self, now: float) -> None:
        self._now = now
        while self._asked and next(iter(self._asked.values())) + ANSWER_SECONDS <= now:
            del self._asked[next(iter(self._asked))]

    def closed(self) -> None:
        self._asked.clear()

    def _connect(self, peer: Endpoint, now: float) -> None:
        if not is_dialable(peer):
            self.ignored["not-dialable"] += 1
            return
        asked = self._answered_by(peer)
        if asked is None and not self._may_be_unasked(now):
            self.ignored["too-many-connects"] += 1
            return
        self._side.connect_told(self.key, peer, now, asked=asked)

    def _error(self, target: Endpoint, code: ErrorCode | None, now: float) -> None:
        if self._asked.pop(target, None) is None:
            self.ignored["unasked-error"] += 1
            return
        self._side.rendezvous_failed(self.key, target, code, now)

    def _answered_by(self, peer: Endpoint) -> Endpoint | None:
        """Take out what was asked and is answered by a connect to ``peer``: that very endpoint, or the oldest there."""
        asked = peer if peer in self._asked else next((each for each in self._asked if each.host == peer.host), None)
        if asked is not None:
            del self._asked[asked]
        return asked


def may_meet(one: Endpoint, other: Endpoint) -> bool:
    """Whether one introducer may send these two to each other: both of one family, both of the world at large, or both
    on a private network, or both on this machine.

    Across such a border one could not reach the other, but be used to knock inside.  Link-local addresses mean nothing
    without their interface and meet nobody.
    """
    realm = _realm(one)
    return realm is not None and realm == _realm(other)


def _realm(endpoint: Endpoint) -> tuple[bool, str] | None:
    """Family and scope of an endpoint; None if nobody can be sent there."""
    address = endpoint.address
    if not is_dialable(endpoint) or address.is_link_local:
        return None
    scope = "loopback" if address.is_loopback else "global" if address.is_global else "private"
    return endpoint.is_ipv6, scope


def _encode(msg_type: int, endpoint: Endpoint, code: int = 0) -> bytes:
    addr_type = int(endpoint.is_ipv6)
    return bytes((msg_type, addr_type)) + encode_peer(endpoint) + code.to_bytes(ERROR_CODE_SIZE, "big")


_CODES = {code.value: code for code in ErrorCode}
