"""The messages of ``sw_relay`` (no BEP; ours): control messages and frames, each the payload of a BEP 10 message.

Control messages are bencoded dictionaries with ``v``, the version, 1, and ``t``, the type.  Unknown keys, and messages
of an unknown version or type, are ignored.  ``n`` is a number of the client's choosing that the answer repeats, ``c`` a
circuit's, drawn by the relay and the same on both of its connections; both have 32 bits.

    serve     relay to client       {"v", "t", "on"}              I relay for others (1), or no longer (0)
    reserve   client to relay       {"v", "t", "n", "nat"}        let circuits lead to me, over this connection
    reserved  relay to client       {"v", "t", "n"}               for as long as it stands and I serve
    connect   client to relay       {"v", "t", "n", "to", "nat", "if"}    a circuit to the peer that you know at ``to``
    incoming  relay to target       {"v", "t", "c", "fr"}         the peer that I see at ``fr`` wants one to you
    accept    target to relay       {"v", "t", "c"}
    opened    relay to initiator    {"v", "t", "n", "c"}          it stands
    refused   relay to client       {"v", "t", "n", "r"}          no reservation, no circuit; why, a slug
    reset     any, passed on        {"v", "t", "c", "r"}          the circuit is over at once, or refused by its target

``to`` and ``fr`` are compact endpoints (6 bytes, IPv6 18); the relay sets ``fr`` to what it observes.  ``nat`` says
what the sender knows of its way out: "random" or "sequential" (ports of a mapping that depends on who is spoken to),
"blocked" (no UDP), else "other"; ``if`` 1 asks for a circuit only where these words say that two peers cannot meet.

Frames begin with a byte that no bencoded dictionary begins with, and the circuit's number:

    data      0, c (4), 1 to 16,384 bytes
    credit    1, c (4), count (4)      so much more may be sent to me, counted as `cost_of` does
    eof       2, c (4)                 nothing more is sent after what was
    close     3, c (4)                 nor is anything more read

Data, eof and close stay in order; credit and control messages may overtake them.
A frame of 16 KiB is made and read in 2 µs this way, and in 13 µs with a bencoded header in front as in BEP 9.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from dht.bencode import Encodable
from dht.compact import encode_peer
from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError
from swarm.ext.own_message import OwnMessage, encode_own, read_own_untrusted

VERSION = 1

MAX_PAYLOAD = 256
"""Bytes of a control message; ours have 30 to 80."""

MAX_DATA = 16 << 10
"""Bytes of data in a frame."""

FRAME_COST = 64
"""Credit that a frame takes beside that for its data: nobody is to be flooded with frames of a byte."""

DATA, CREDIT, EOF, CLOSE = range(4)
HEADER = 5
"""Bytes in front of data."""

MAX_NUMBER = (1 << 32) - 1
SLUG = "bad-relay-message"
UNKNOWN_REASON = "failed"

WayOut = Literal["random", "sequential", "blocked", "other"]
WAYS_OUT: tuple[WayOut, ...] = get_args(WayOut)

_SYMMETRIC = ("random", "sequential")


def cannot_meet(one: WayOut, other: WayOut) -> bool:
    """Whether no packet can cross directly: nobody knows the port of either, or there is no UDP to guess ports with."""
    pair = {one, other}
    return not pair.isdisjoint(_SYMMETRIC) and ("blocked" in pair or ("random" in pair and pair <= {*_SYMMETRIC}))


@dataclass(frozen=True, slots=True)
class Serve:
    on: bool

    def encode(self) -> bytes:
        return _encode("serve", on=int(self.on))


@dataclass(frozen=True, slots=True)
class Reserve:
    number: int
    way_out: WayOut = "other"

    def encode(self) -> bytes:
        return _encode("reserve", n=self.number, nat=self.way_out.encode())


@dataclass(frozen=True, slots=True)
class Reserved:
    number: int

    def encode(self) -> bytes:
        return _encode("reserved", n=self.number)


@dataclass(frozen=True, slots=True)
class Connect:
    """``if_hopeless``: only if the two ways out are such that the two cannot meet."""

    number: int
    target: Endpoint
    way_out: WayOut = "other"
    if_hopeless: bool = False

    def encode(self) -> bytes:
        condition: dict[str, Encodable] = {"if": 1} if self.if_hopeless else {}
        return _encode("connect", n=self.number, to=encode_peer(self.target), nat=self.way_out.encode(), **condition)


@dataclass(frozen=True, slots=True)
class Incoming:
    circuit: int
    sender: Endpoint

    def encode(self) -> bytes:
        return _encode("incoming", c=self.circuit, fr=encode_peer(self.sender))


@dataclass(frozen=True, slots=True)
class Accept:
    circuit: int

    def encode(self) -> bytes:
        return _encode("accept", c=self.circuit)


@dataclass(frozen=True, slots=True)
class Opened:
    number: int
    circuit: int

    def encode(self) -> bytes:
        return _encode("opened", n=self.number, c=self.circuit)


@dataclass(frozen=True, slots=True)
class Refused:
    number: int
    reason: str

    def encode(self) -> bytes:
        return _encode("refused", n=self.number, r=self.reason.encode())


@dataclass(frozen=True, slots=True)
class Reset:
    circuit: int
    reason: str

    def encode(self) -> bytes:
        return _encode("reset", c=self.circuit, r=self.reason.encode())


RelayMessage = Serve | Reserve | Reserved | Connect | Incoming | Accept | Opened | Refused | Reset


def parse_relay_message_untrusted(payload: bytes) -> RelayMessage | None:
    """A control message; None if its version or type is not known.

    RemoteProtocolError("bad-relay-message") for anything but a bencoded dictionary of at most MAX_PAYLOAD bytes with an
    integer ``v`` and a ``t``, for a known type without its keys, and for values out of bounds.  Endpoints are not
    judged; an IPv4-mapped IPv6 address comes out as IPv4.  A reason that is no slug is read as "failed", a way out that
    has no name as "other".
    """
    said = read_own_untrusted(payload, version=VERSION, max_payload=MAX_PAYLOAD, slug=SLUG)
    read = _READERS.get(said.kind) if said is not None else None
    return None if said is None or read is None else read(said)


def is_frame(payload: bytes) -> bool:
    return bool(payload) and payload[0] <= CLOSE


def circuit_of_frame_untrusted(payload: bytes) -> int:
    """The circuit of what `is_frame`; RemoteProtocolError("bad-relay-message") for a length that cannot be."""
    shortest, longest = _SIZES[payload[0]]
    if not shortest <= len(payload) <= longest:
        raise RemoteProtocolError(SLUG, f"frame {payload[0]} of {len(payload)} bytes")
    return int.from_bytes(payload[1:HEADER], "big")


def credit_of(frame: bytes) -> int:
    """What a credit frame grants; 0 is nothing."""
    return int.from_bytes(frame[HEADER:], "big")


def cost_of(frame: bytes) -> int:
    """The credit that a data frame takes."""
    return len(frame) - HEADER + FRAME_COST


def data_frame(circuit: int, data: bytes | memoryview) -> bytes:
    return b"".join((_start(DATA, circuit), data))


def credit_frame(circuit: int, count: int) -> bytes:
    return _start(CREDIT, circuit) + count.to_bytes(4, "big")


def eof_frame(circuit: int) -> bytes:
    return _start(EOF, circuit)


def close_frame(circuit: int) -> bytes:
    return _start(CLOSE, circuit)


_SIZES = {
    DATA: (HEADER + 1, HEADER + MAX_DATA),
    CREDIT: (HEADER + 4, HEADER + 4),
    EOF: (HEADER, HEADER),
    CLOSE: (HEADER, HEADER),
}


def _start(kind: int, circuit: int) -> bytes:
    return kind.to_bytes(1, "big") + circuit.to_bytes(4, "big")


def _encode(kind: str, **keys: Encodable) -> bytes:
    return encode_own(VERSION, kind, {key.encode(): value for key, value in keys.items()})


def _number(said: OwnMessage, key: bytes = b"n") -> int:
    return said.number(key, 0, MAX_NUMBER)


def _circuit(said: OwnMessage) -> int:
    return said.number(b"c", 0, MAX_NUMBER)


def _flag(said: OwnMessage, key: bytes) -> bool:
    return bool(said.number(key, 0, 1))


def _way_out(said: OwnMessage) -> WayOut:
    word = said.said.get(b"nat")
    return next((way for way in WAYS_OUT if way.encode() == word), "other")


def _reason(said: OwnMessage) -> str:
    text = said.string(b"r").decode("ascii", "replace")
    slug = 0 < len(text) <= 40 and all("a" <= letter <= "z" or letter == "-" for letter in text)
    return text if slug else UNKNOWN_REASON


def _connect(said: OwnMessage) -> Connect:
    if_hopeless = b"if" in said.said and _flag(said, b"if")
    return Connect(_number(said), said.endpoint(b"to"), _way_out(said), if_hopeless)


_READERS: dict[bytes, Callable[[OwnMessage], RelayMessage]] = {
    b"serve": lambda said: Serve(_flag(said, b"on")),
    b"reserve": lambda said: Reserve(_number(said), _way_out(said)),
    b"reserved": lambda said: Reserved(_number(said)),
    b"connect": _connect,
    b"incoming": lambda said: Incoming(_circuit(said), said.endpoint(b"fr")),
    b"accept": lambda said: Accept(_circuit(said)),
    b"opened": lambda said: Opened(_number(said), _circuit(said)),
    b"refused": lambda said: Refused(_number(said), _reason(said)),
    b"reset": lambda said: Reset(_circuit(said), _reason(said)),
}
