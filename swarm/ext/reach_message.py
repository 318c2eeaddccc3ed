"""The messages of ``sw_reach`` (no BEP; ours): bencoded dictionaries in BEP 10 messages.

All have ``v``, the version, 1, and ``t``, the type.  Unknown keys, and messages of an unknown version or type, are
ignored.  Endpoints are compact (6 bytes, IPv6 18), ``net`` is ``tcp`` or ``utp``, the nonce ``n`` has 12 bytes.

    seen     {"v": 1, "t": "seen", "net", "ep"}            you reach me by this transport, and I see you at ``ep``
    probe    {"v": 1, "t": "probe", "net", "ep", "n"}      asker to helper: can I be reached at ``ep``?
    forward  {"v": 1, "t": "forward", "net", "ep", "n"}    helper to dialler: dial ``ep`` and present the nonce
    result   {"v": 1, "t": "result", "n", "r"}             dialler to helper, and helper to asker: what became of it
    idle     {"v": 1, "t": "idle", "n"}                    asker to helper: give me late answers; ``n`` has 8 bytes

``r`` is a slug of OUTCOMES; another one is read as "failed".  After ``idle``, STUN binding requests to the helper's
UDP port whose transaction id begins with ``n`` are answered as `swarm.net.mapping_tests` says, if they come from the
address at which the helper sees the asker; there is no other answer.

The dial-back is a BitTorrent handshake for the torrent of the connection that asked, by the transport asked for, from
the dialler's listening port, with the peer id ``-SWRCH1-`` and the nonce behind it: 20 bytes.  Whoever listens there
answers it as any other, or not; the dialler closes the stream once it has the 68 bytes of the answer.  So an acceptor
has to recognise nothing before a whole handshake is there (message stream encryption works as ever), and if the port
is somebody else's, a BitTorrent client sees a peer that hangs up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

from dht.compact import encode_peer
from swarm.endpoint import Endpoint
from swarm.ext.own_message import OwnMessage, encode_own, read_own_untrusted

VERSION = 1
NONCE_SIZE = 12
IDLE_NONCE_SIZE = 8
"""Bytes of nonces: of probes, and of measurements of idle mappings."""

PEER_ID_PREFIX = b"-SWRCH1-"

MAX_PAYLOAD = 512
"""Bytes of a message; ours have 40 to 90, the rest is for keys to come."""

Transport = Literal["tcp", "utp"]

Outcome = Literal[
    "connected", "timed-out", "refused", "failed", "unable", "acquainted", "busy", "no-dialler", "not-yours"
]
"""What became of a probe.

By the dialler: "connected"; "timed-out" and "refused" after dialling; "failed" otherwise.  "unable": it has not got
through to anybody by that transport yet, so that its failure would mean nothing; "acquainted": it has sent to the
asker's address before; "busy": too many probes.  By the helper: "no-dialler", "not-yours": the endpoint is not at the
address from which the asker comes; "busy".
"""

TRANSPORTS: tuple[Transport, ...] = get_args(Transport)
OUTCOMES: frozenset[str] = frozenset(get_args(Outcome))


@dataclass(frozen=True, slots=True)
class Seen:
    """The sender sees the receiver at ``endpoint``, over a connection by ``transport``."""

    transport: Transport
    endpoint: Endpoint

    def encode(self) -> bytes:
        return _encode("seen", net=self.transport.encode(), ep=encode_peer(self.endpoint))


@dataclass(frozen=True, slots=True)
class Probe:
    """Asker to helper: have ``endpoint`` dialled."""

    transport: Transport
    endpoint: Endpoint
    nonce: bytes

    def encode(self) -> bytes:
        return _encode("probe", net=self.transport.encode(), ep=encode_peer(self.endpoint), n=self.nonce)


@dataclass(frozen=True, slots=True)
class Forward:
    """Helper to dialler: dial ``endpoint``."""

    transport: Transport
    endpoint: Endpoint
    nonce: bytes

    def encode(self) -> bytes:
        return _encode("forward", net=self.transport.encode(), ep=encode_peer(self.endpoint), n=self.nonce)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Dialler to helper, helper to asker: what became of the probe."""

    nonce: bytes
    outcome: Outcome

    def encode(self) -> bytes:
        return _encode("result", n=self.nonce, r=self.outcome.encode())


@dataclass(frozen=True, slots=True)
class Idle:
    """Asker to helper: I measure for how long my NAT keeps an idle mapping, by requests with this nonce."""

    nonce: bytes

    def encode(self) -> bytes:
        return _encode("idle", n=self.nonce)


ReachMessage = Seen | Probe | Forward | ProbeResult | Idle


def parse_reach_message_untrusted(payload: bytes | bytearray | memoryview) -> ReachMessage | None:
    """The message; None if its version or type is not known.

    RemoteProtocolError("bad-reach-message") for anything but a bencoded dictionary of at most MAX_PAYLOAD bytes with an
    integer ``v``, and for a known type without its keys.  Endpoints are not judged; an IPv4-mapped IPv6 address comes
    out as IPv4.
    """
    said = read_own_untrusted(payload, version=VERSION, max_payload=MAX_PAYLOAD, slug="bad-reach-message")
    if said is None:
        return None
    match said.kind:
        case b"seen":
            return Seen(_transport(said), said.endpoint(b"ep"))
        case b"probe":
            return Probe(_transport(said), said.endpoint(b"ep"), said.string(b"n", NONCE_SIZE))
        case b"forward":
            return Forward(_transport(said), said.endpoint(b"ep"), said.string(b"n", NONCE_SIZE))
        case b"idle":
            return Idle(said.string(b"n", IDLE_NONCE_SIZE))
        case b"result":
            return ProbeResult(said.string(b"n", NONCE_SIZE), _outcome(said))
    return None


def dial_back_peer_id(nonce: bytes) -> bytes:
    """The peer id with which a dialler presents the nonce.  ValueError for one that is not of NONCE_SIZE bytes."""
    if len(nonce) != NONCE_SIZE:
        raise ValueError(f"a nonce has {NONCE_SIZE} bytes, not {len(nonce)}")
    return PEER_ID_PREFIX + nonce


def nonce_of(peer_id: bytes) -> bytes | None:
    """The nonce that a handshake presents; None if it is that of a peer."""
    return peer_id[len(PEER_ID_PREFIX) :] if peer_id.startswith(PEER_ID_PREFIX) else None


def _encode(kind: str, **keys: bytes) -> bytes:
    return encode_own(VERSION, kind, {key.encode(): value for key, value in keys.items()})


def _transport(said: OwnMessage) -> Transport:
    for transport in TRANSPORTS:
        if said.said.get(b"net") == transport.encode():
            return transport
    raise said.bad(b"net")


def _outcome(said: OwnMessage) -> Outcome:
    text = said.string(b"r").decode("ascii", "replace")
    return cast(Outcome, text) if text in OUTCOMES else "failed"
