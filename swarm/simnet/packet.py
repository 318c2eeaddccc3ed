"""What travels in the simulated internet: UDP packets and TCP segments, as Python objects.

A packet may be a *run*: several equal-sized packets that left in one piece (GSO) and stay one object as long as no link
on their way treats packets one by one.  Nothing is serialised; header sizes count only towards MTU and bandwidth.
A packet larger than a link is dropped, unless its sender cleared DF: then it passes in one piece, as a stand-in for its
fragments.
"""

from __future__ import annotations

from collections.abc import Iterator

from swarm.endpoint import Endpoint

IPV4_HEADER = 20  # bytes
IPV6_HEADER = 40
UDP_HEADER = 8
TCP_HEADER = 32  # with the timestamp option, as Linux sends it
DEFAULT_TTL = 64  # hops
MULTICAST_PREFIXES = ("ff", *(f"{octet}." for octet in range(224, 240)))


class Packet:
    """A UDP packet, or a run of them: ``payload`` cut every ``segment_size`` bytes.

    ``largest`` is the size in bytes on the wire of the largest packet of the run, IP header included.  ``fragment``:
    DF is clear.
    """

    __slots__ = ("destination", "fragment", "largest", "multicast", "payload", "segment_size", "source", "ttl")

    protocol = "udp"
    transport_header = UDP_HEADER

    def __init__(
        self,
        source: Endpoint,
        destination: Endpoint,
        payload: bytes | memoryview,
        segment_size: int,
        ttl: int = DEFAULT_TTL,
        fragment: bool = False,
    ) -> None:
        self.source = source
        self.destination = destination
        self.payload = payload
        self.segment_size = segment_size
        self.ttl = ttl
        self.fragment = fragment
        self.multicast = is_multicast(destination.host)
        size = len(payload)
        ip_header = IPV6_HEADER if ":" in destination.host else IPV4_HEADER
        self.largest = ip_header + self.transport_header + (size if size < segment_size else segment_size)

    @property
    def count(self) -> int:
        """Packets in the run."""
        size = len(self.payload)
        return 1 if size <= self.segment_size else -(-size // self.segment_size)

    def cut(self) -> Iterator[Packet]:
        """The run as single packets; the packet itself if it is one already."""
        size = len(self.payload)
        if size <= self.segment_size:
            yield self
            return
        view = memoryview(self.payload)
        for start in range(0, size, self.segment_size):
            yield self._part(view[start : start + self.segment_size], start)

    def copy(self) -> Packet:
        """The same packet with addresses of its own: routers rewrite them in place."""
        return self._part(self.payload, 0)

    def describe(self) -> str:
        """Everything that identifies the packet in a trace, payload bytes excepted."""
        return f"{self.protocol} {self.source} > {self.destination} {len(self.payload)}/{self.segment_size}"

    def _part(self, payload: bytes | memoryview, _offset: int) -> Packet:
        return Packet(self.source, self.destination, payload, self.segment_size, self.ttl, self.fragment)


class TcpSegment(Packet):
    """A TCP segment (RFC 9293), or a run of them as a network card with segmentation offload takes them.

    ``seq`` and ``ack`` are plain integers that never wrap.  ``sacked`` lists every range above ``ack`` that has arrived
    (RFC 2018 without its limit of three).  ``sent_at`` and ``echo`` are the two timestamps of RFC 7323, in seconds.
    ``mss`` counts on SYNs only; links lower it to what they carry, as routers that clamp do.
    """

    __slots__ = ("ack", "ack_flag", "echo", "fin", "mss", "rst", "sacked", "sent_at", "seq", "syn", "window")

    protocol = "tcp"
    transport_header = TCP_HEADER

    def __init__(
        self,
        source: Endpoint,
        destination: Endpoint,
        payload: bytes | memoryview = b"",
        segment_size: int = 1,
        *,
        seq: int,
        ack: int | None,
        window: int = 0,
        syn: bool = False,
        fin: bool = False,
        rst: bool = False,
        mss: int = 0,
        sacked: tuple[tuple[int, int], ...] = (),
        sent_at: float = 0.0,
        echo: float | None = None,
    ) -> None:
        super().__init__(source, destination, payload, segment_size)
        self.seq = seq
        self.ack_flag = ack is not None
        self.ack = ack if ack is not None else 0
        self.window = window
        self.syn = syn
        self.fin = fin
        self.rst = rst
        self.mss = mss
        self.sacked = sacked
        self.sent_at = sent_at
        self.echo = echo

    @property
    def end(self) -> int:
        """The sequence number after this segment: SYN and FIN take one each."""
        return self.seq + len(self.payload) + self.syn + self.fin

    def describe(self) -> str:
        letters = zip("SFRA", (self.syn, self.fin, self.rst, self.ack_flag), strict=True)
        flags = "".join(letter for letter, present in letters if present)
        return f"{super().describe()} {flags} seq={self.seq} ack={self.ack} win={self.window}"

    def _part(self, payload: bytes | memoryview, offset: int) -> TcpSegment:
        part = TcpSegment(
            self.source,
            self.destination,
            payload,
            self.segment_size,
            seq=self.seq + offset,
            ack=self.ack if self.ack_flag else None,
            window=self.window,
            syn=self.syn,
            fin=self.fin and offset + len(payload) == len(self.payload),
            rst=self.rst,
            mss=self.mss,
            sacked=self.sacked,
            sent_at=self.sent_at,
            echo=self.echo,
        )
        part.ttl = self.ttl
        return part


def is_multicast(host: str) -> bool:
    """Whether packets to this (canonical) address go to a group."""
    return host.startswith(MULTICAST_PREFIXES)


def is_loopback(host: str) -> bool:
    """Whether packets to this address stay on the host."""
    return host.startswith("127.") or host == "::1"


def is_wildcard(host: str) -> bool:
    """Whether a socket bound to this address takes what comes to any address of its family."""
    return host in ("0.0.0.0", "::")
