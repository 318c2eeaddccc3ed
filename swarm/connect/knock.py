"""The datagrams with which two ends of ours find each other through NATs, as a core without I/O (no BEP; ours).

They share a socket with µTP and are told from everything else by four bytes and a nonce that is pending:

    magic   4 bytes    b5 73 77 70: no STUN, no DHT message, no µTP (version 5), no UDP tracker
    type    1 byte     0 knock, 1 heard, 2 measure, 3 measured
    nonce   16 bytes   of the meeting (0, 1), or of this end with this introducer (2, 3)
    then    nothing (0, 1); 19 zero bytes (2); our endpoint as the introducer sees it, 6 or 18 bytes (3)

A knock is answered with heard, measure with measured: never by more bytes than came, and only with the right nonce.
Does not know whither to knock: `swarm.connect.predict` does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from dht.compact import CompactError, decode_peer_untrusted, encode_peer
from swarm.connect.predict import Shot
from swarm.endpoint import Endpoint
from swarm.net.network import Buffer, Outgoing, Path

MAGIC = b"\xb5swp"
NONCE_SIZE = 16
HEAD = len(MAGIC) + 1 + NONCE_SIZE
MEASURE_SIZE = HEAD + 19
"""Bytes: one more than the largest answer."""

MEASURE_TIMES = (0.0, 0.1, 0.25, 0.5, 1.0)
"""Seconds at which what has not been answered is asked for again; it uses the mapping that the first one made."""

MAX_ANSWERS = 64
"""Knocks answered in one meeting; as many as could arrive on one path, and a few strays."""


class Kind(IntEnum):
    KNOCK = 0
    HEARD = 1
    MEASURE = 2
    MEASURED = 3


class Heard(NamedTuple):
    """The other end reached us from ``endpoint``."""

    endpoint: Endpoint


class Measured(NamedTuple):
    """``observer`` sees us at ``mapped``."""

    observer: Endpoint
    mapped: Endpoint


class Knocker:
    """One end of one meeting; a `swarm.net.mux.DatagramCore`.

    ``nonce`` is the meeting's.  Whatever does not come from ``host`` is left alone, once that is known.
    """

    first_bytes = frozenset({MAGIC[0]})

    def __init__(self, nonce: bytes, host: str | None = None) -> None:
        self._nonce = nonce
        self.host = host
        self._scheduled: deque[tuple[float, Outgoing]] = deque()  # in the order of sending
        self._measuring: _Measuring | None = None
        self._outbox: list[Outgoing] = []
        self._results: list[Heard | Measured] = []
        self._answers = 0

    def shoot(self, shots: Iterable[Shot], now: float) -> None:
        """Knock at ports of `host`; ``shots`` are in order of time.  They replace what is left of earlier ones."""
        assert self.host is not None
        knock = encode_knock(Kind.KNOCK, self._nonce)
        self._scheduled = deque(
            (now + shot.after, _datagram(knock, Endpoint(self.host, shot.port), shot.ttl)) for shot in shots
        )

    def measure(self, observers: Sequence[Endpoint], nonce: bytes, now: float) -> None:
        """Have ``observers`` see us, in this order: each costs a NAT without endpoint-independent mapping one port."""
        self._measuring = _Measuring(observers, nonce, now)

    def cease(self) -> None:
        """Shoot no more; knocks are answered still."""
        self._scheduled.clear()
        self._measuring = None

    def wants(self, datagram: Buffer, path: Path) -> bool:
        if len(datagram) < HEAD or datagram[:4] != MAGIC:
            return False
        nonce = bytes(datagram[5:HEAD])
        return nonce == self._nonce or (self._measuring is not None and nonce == self._measuring.nonce)

    def receive_batch(self, datagrams: Sequence[Buffer], path: Path, now: float) -> None:
        for datagram in datagrams:
            if not self.wants(datagram, path):
                continue
            kind, nonce = datagram[4], bytes(datagram[5:HEAD])
            if kind in (Kind.KNOCK, Kind.HEARD) and nonce == self._nonce and path.remote.host == self.host:
                self._receive_knock(kind, path)
            elif kind == Kind.MEASURED and self._measuring is not None and nonce == self._measuring.nonce:
                self._receive_measured(datagram, path)

    def datagrams_to_send(self, now: float) -> list[Outgoing]:
        outbox, self._outbox = self._outbox, []
        if self._measuring is not None:
            outbox += self._measuring.due(now)
        while self._scheduled and self._scheduled[0][0] <= now:
            outbox.append(self._scheduled.popleft()[1])
        return outbox

    def next_deadline(self) -> float | None:
        times = [self._scheduled[0][0]] if self._scheduled else []
        if self._measuring is not None and self._measuring.times:
            times.append(self._measuring.times[0])
        return min(times, default=None)

    def handle_deadline(self, now: float) -> None:
        """What is due leaves with the next `datagrams_to_send`."""

    def take_results(self) -> list[Heard | Measured]:
        results, self._results = self._results, []
        return results

    def _receive_knock(self, kind: int, path: Path) -> None:
        if kind == Kind.KNOCK and self._answers < MAX_ANSWERS:
            self._answers += 1
            self._outbox.append(_datagram(encode_knock(Kind.HEARD, self._nonce), path.remote, None))
        self._results.append(Heard(path.remote))

    def _receive_measured(self, datagram: Buffer, path: Path) -> None:
        assert self._measuring is not None
        mapped = parse_measured_untrusted(datagram)
        if mapped is not None and path.remote in self._measuring.waiting:
            self._measuring.waiting.remove(path.remote)
            self._results.append(Measured(path.remote, mapped))


def encode_knock(kind: Kind, nonce: bytes) -> bytes:
    """Knock or heard."""
    return MAGIC + bytes((kind,)) + nonce


def encode_measure(nonce: bytes) -> bytes:
    return encode_knock(Kind.MEASURE, nonce).ljust(MEASURE_SIZE, b"\0")


def encode_measured(nonce: bytes, seen: Endpoint) -> bytes:
    return encode_knock(Kind.MEASURED, nonce) + encode_peer(seen)


def is_knock(datagram: Buffer, nonce: bytes) -> bool:
    """Whether it is a knock, or heard, of the meeting ``nonce``."""
    return bytes(datagram[:4]) == MAGIC and datagram[4:5] in (b"\0", b"\1") and bytes(datagram[5:]) == nonce


def parse_measure_untrusted(datagram: Buffer) -> bytes | None:
    """The nonce of what asks for a measurement; None for anything else, and anything shorter than our answer."""
    if len(datagram) != MEASURE_SIZE or bytes(datagram[:5]) != MAGIC + bytes((Kind.MEASURE,)):
        return None
    return bytes(datagram[5:HEAD])


def parse_measured_untrusted(datagram: Buffer) -> Endpoint | None:
    """The endpoint in a measured; None if there is none."""
    try:
        return Endpoint(*decode_peer_untrusted(bytes(datagram[HEAD:])))
    except CompactError:
        return None


@dataclass(slots=True)
class _Measuring:
    """Which observers have not answered yet, and when they are asked again."""

    waiting: list[Endpoint]
    nonce: bytes
    times: deque[float]

    def __init__(self, observers: Sequence[Endpoint], nonce: bytes, now: float) -> None:
        self.waiting = list(observers)
        self.nonce = nonce
        self.times = deque(now + after for after in MEASURE_TIMES)

    def due(self, now: float) -> list[Outgoing]:
        if not self.times or self.times[0] > now:
            return []
        self.times.popleft()
        probe = encode_measure(self.nonce)
        return [_datagram(probe, observer, None) for observer in self.waiting]


def _datagram(payload: bytes, to: Endpoint, ttl: int | None) -> Outgoing:
    return Outgoing((payload,), len(payload), Path(None, to), ttl)
