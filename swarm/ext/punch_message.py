"""The messages of ``sw_punch`` (no BEP; ours): bencoded dictionaries in BEP 10 messages.

All have ``v``, the version, 1, ``t``, the type, and ``s``, 16 random bytes that the initiator drew for this meeting and
that only the three know.  Unknown keys, and messages of an unknown version or type, are ignored.

    offer     initiator to introducer    {"v", "t", "s", "to", terms}       bring me together with ``to``
    offered   introducer to target       {"v", "t", "s", "fr", terms}       so wants the peer that I see at ``fr``
    answer    target to introducer       {"v", "t", "s", terms}             agreed
    answered  introducer to initiator    {"v", "t", "s", "fr", terms}       so says the peer that I see at ``fr``
    measure   introducer to both         {"v", "t", "s", "n", "p"}          have me see you at these ports, in order
    go        introducer to both         {"v", "t", "s", "in", "rtt", "you", "they"}
    no        any, passed on             {"v", "t", "s", "r"}               nothing comes of it; why, a slug

Terms, all optional: ``u``, ``c`` and ``x``: further endpoints by UDP, by TCP and through a relay, compact (6 bytes an
IPv4 one; IPv6, 18 bytes, in ``u6``, ``c6``, ``x6``), at most 8 of each; ``m``: how the sender's NAT maps, in the words
of RFC 4787; ``st``: its step; ``rtt``: milliseconds from the sender to the introducer and back.
An offer with relayed endpoints asks for no meeting: the ends tell each other their terms, and after ``answered``
nothing follows.
``to`` and ``fr`` are compact endpoints; the introducer sets ``fr`` to what it observes, whatever was said.
``n`` are 16 bytes for the datagrams of `swarm.connect.knock`, known to the introducer and one end.
``p``, ``you`` and ``they`` are 1 to 8 ports of two bytes: the introducer's; and where it saw each of its ports be
probed from, in that order.  ``in`` is milliseconds to wait before shooting, at most 5,000, such that both ends wait for
the same moment; ``rtt`` those of the way from one end to the other through the introducer and back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from dht.bencode import Encodable, Value
from dht.compact import decode_peer_untrusted, encode_peer
from swarm.connect.report import Behaviour
from swarm.endpoint import Endpoint, is_dialable
from swarm.ext.own_message import OwnMessage, encode_own, read_own_untrusted

VERSION = 1
NONCE_SIZE = 16

MAX_PAYLOAD = 1024
"""Bytes of a message; ours have 50 to 300."""

MAX_CANDIDATES = 8
MAX_NEIGHBOURS = 4
"""Endpoints in our own network at which one peer may be, by each transport: of its cable, its radio, its containers."""

MAX_PORTS = 8
MAX_DELAY = 5_000
MAX_RTT = 60_000
"""Milliseconds."""

MAX_STEP = 64

MAPPINGS: tuple[Behaviour, ...] = (
    "endpoint-independent",
    "address-dependent",
    "address-and-port-dependent",
    "none",
    "unknown",
)
UNKNOWN_REASON = "failed"


@dataclass(frozen=True, slots=True)
class Terms:
    """What an end says of itself; nobody has checked any of it, see `usable`."""

    udp: tuple[Endpoint, ...] = ()
    tcp: tuple[Endpoint, ...] = ()
    relayed: tuple[Endpoint, ...] = ()
    mapping: Behaviour = "unknown"
    step: int | None = None
    rtt: int | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    session: bytes
    target: Endpoint
    terms: Terms = field(default_factory=Terms)

    def encode(self) -> bytes:
        return _encode("offer", self.session, {b"to": encode_peer(self.target), **_of_terms(self.terms)})


@dataclass(frozen=True, slots=True)
class Offered:
    session: bytes
    sender: Endpoint
    terms: Terms = field(default_factory=Terms)

    def encode(self) -> bytes:
        return _encode("offered", self.session, {b"fr": encode_peer(self.sender), **_of_terms(self.terms)})


@dataclass(frozen=True, slots=True)
class Answer:
    session: bytes
    terms: Terms = field(default_factory=Terms)

    def encode(self) -> bytes:
        return _encode("answer", self.session, _of_terms(self.terms))


@dataclass(frozen=True, slots=True)
class Answered:
    session: bytes
    sender: Endpoint
    terms: Terms = field(default_factory=Terms)

    def encode(self) -> bytes:
        return _encode("answered", self.session, {b"fr": encode_peer(self.sender), **_of_terms(self.terms)})


@dataclass(frozen=True, slots=True)
class Measure:
    session: bytes
    nonce: bytes
    ports: tuple[int, ...]

    def encode(self) -> bytes:
        return _encode("measure", self.session, {b"n": self.nonce, b"p": _of_ports(self.ports)})


@dataclass(frozen=True, slots=True)
class Go:
    """``delay`` and ``rtt`` in milliseconds; ``ours`` and ``theirs`` as the receiver is to read them."""

    session: bytes
    delay: int
    rtt: int
    ours: tuple[int, ...]
    theirs: tuple[int, ...]

    def encode(self) -> bytes:
        ports: dict[bytes, Encodable] = {b"you": _of_ports(self.ours), b"they": _of_ports(self.theirs)}
        return _encode("go", self.session, {b"in": self.delay, b"rtt": self.rtt, **ports})


@dataclass(frozen=True, slots=True)
class Refusal:
    session: bytes
    reason: str

    def encode(self) -> bytes:
        return _encode("no", self.session, {b"r": self.reason.encode()})


PunchMessage = Offer | Offered | Answer | Answered | Measure | Go | Refusal


def parse_punch_message_untrusted(payload: bytes | bytearray | memoryview) -> PunchMessage | None:
    """The message; None if its version or type is not known.

    RemoteProtocolError("bad-punch-message") for anything but a bencoded dictionary of at most MAX_PAYLOAD bytes with an
    integer ``v`` and a ``t``, for a known type without its keys, and for values out of bounds.  Endpoints are not
    judged; an IPv4-mapped IPv6 address comes out as IPv4.  A reason that is no slug is read as "failed", a mapping that
    has no name as "unknown".
    """
    said = read_own_untrusted(payload, version=VERSION, max_payload=MAX_PAYLOAD, slug="bad-punch-message")
    read = _READERS.get(said.kind) if said is not None else None
    return None if said is None or read is None else read(said.string(b"s", NONCE_SIZE), said)


def usable(terms: Terms, observed: str, ours: str | None, is_neighbour: Callable[[str], bool]) -> Terms:
    """``terms`` without those UDP and TCP endpoints to which a peer must not send us: what stays is at the address
    ``observed`` of it; or, if ``ours``, our own address as others see it, is the same, in a network that we are on
    (``is_neighbour`` of its host), MAX_NEIGHBOURS of each.

    A stranger must not have us shoot at a third party, nor knock about in our network: an introducer that names our own
    outside address can still point at a few hosts of our LAN, once in a meeting.  Relayed endpoints are a third
    party's by nature; only those that nobody can be sent to are left out.
    """

    def kept(endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
        dialable = [endpoint for endpoint in endpoints if is_dialable(endpoint)]
        near = [each for each in dialable if each.host != observed and _is_of_a_lan(each) and is_neighbour(each.host)]
        allowed = near[:MAX_NEIGHBOURS] if observed == ours else []
        return tuple(each for each in dialable if each.host == observed or each in allowed)

    udp, tcp = kept(terms.udp), kept(terms.tcp)
    relayed = tuple(endpoint for endpoint in terms.relayed if is_dialable(endpoint) and endpoint.address.is_global)
    return replace(terms, udp=udp, tcp=tcp, relayed=relayed)


def _is_of_a_lan(endpoint: Endpoint) -> bool:
    address = endpoint.address
    return address.is_private and not (address.is_loopback or address.is_unspecified or address.is_link_local)


# ---- writing


def _encode(kind: str, session: bytes, keys: dict[bytes, Encodable]) -> bytes:
    return encode_own(VERSION, kind, {b"s": session, **keys})


def _of_terms(terms: Terms) -> dict[bytes, Encodable]:
    keys: dict[bytes, Encodable] = {}
    for key, endpoints in ((b"u", terms.udp), (b"c", terms.tcp), (b"x", terms.relayed)):
        for suffix, ipv6 in ((b"", False), (b"6", True)):
            family = [encode_peer(endpoint) for endpoint in endpoints if endpoint.is_ipv6 is ipv6]
            if family:
                keys[key + suffix] = b"".join(family[:MAX_CANDIDATES])
    if terms.mapping != "unknown":
        keys[b"m"] = terms.mapping.encode()
    for key, number in ((b"st", terms.step), (b"rtt", terms.rtt)):
        if number is not None:
            keys[key] = number
    return keys


def _of_ports(ports: Sequence[int]) -> bytes:
    return b"".join(port.to_bytes(2, "big") for port in ports)


# ---- reading


def _terms(said: OwnMessage) -> Terms:
    return Terms(
        udp=_candidates(said, b"u"),
        tcp=_candidates(said, b"c"),
        relayed=_candidates(said, b"x"),
        mapping=_mapping(said.said.get(b"m")),
        step=said.number(b"st", -MAX_STEP, MAX_STEP) if b"st" in said.said else None,
        rtt=said.number(b"rtt", 0, MAX_RTT) if b"rtt" in said.said else None,
    )


def _candidates(said: OwnMessage, key: bytes) -> tuple[Endpoint, ...]:
    found: list[Endpoint] = []
    for name, size in ((key, 6), (key + b"6", 18)):
        value = said.string(name) if name in said.said else b""
        if len(value) % size or len(value) > size * MAX_CANDIDATES:
            raise said.bad(name)
        found += (Endpoint(*decode_peer_untrusted(value[start : start + size])) for start in range(0, len(value), size))
    return tuple(found)


def _mapping(value: Value | None) -> Behaviour:
    return next((mapping for mapping in MAPPINGS if mapping.encode() == value), "unknown")


def _ports(said: OwnMessage, key: bytes) -> tuple[int, ...]:
    value = said.string(key)
    if len(value) % 2 or not 2 <= len(value) <= 2 * MAX_PORTS:
        raise said.bad(key)
    ports = tuple(int.from_bytes(value[start : start + 2], "big") for start in range(0, len(value), 2))
    if 0 in ports:
        raise said.bad(key)
    return ports


def _reason(said: OwnMessage) -> str:
    text = said.string(b"r").decode("ascii", "replace")
    slug = 0 < len(text) <= 40 and all("a" <= letter <= "z" or letter == "-" for letter in text)
    return text if slug else UNKNOWN_REASON


def _go(session: bytes, said: OwnMessage) -> Go:
    delay, rtt = said.number(b"in", 0, MAX_DELAY), said.number(b"rtt", 0, MAX_RTT)
    return Go(session, delay, rtt, _ports(said, b"you"), _ports(said, b"they"))


_READERS: dict[bytes, Callable[[bytes, OwnMessage], PunchMessage]] = {
    b"offer": lambda session, said: Offer(session, said.endpoint(b"to"), _terms(said)),
    b"offered": lambda session, said: Offered(session, said.endpoint(b"fr"), _terms(said)),
    b"answer": lambda session, said: Answer(session, _terms(said)),
    b"answered": lambda session, said: Answered(session, said.endpoint(b"fr"), _terms(said)),
    b"measure": lambda session, said: Measure(session, said.string(b"n", NONCE_SIZE), _ports(said, b"p")),
    b"go": _go,
    b"no": lambda session, said: Refusal(session, _reason(said)),
}
