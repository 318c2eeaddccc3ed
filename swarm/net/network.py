"""`Network`: the only door to the operating system's network, and the shapes that pass through it.

Everything that touches a socket, a name look-up or an interface list takes a `Network`.  `swarm.net.real` implements
it on the kernel, `swarm.simnet` in one process under virtual time; nothing above can tell them apart.
This file only names the seam; it opens nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from swarm.endpoint import Endpoint

Buffer = bytes | bytearray | memoryview


class Path(NamedTuple):
    """Between which two addresses a datagram travels.

    ``local`` is the address of ours it came to or must leave from (IP_PKTINFO / IPV6_PKTINFO), or None when the
    kernel may choose; its port is the socket's own.
    """

    local: Endpoint | None
    remote: Endpoint


class Outgoing(NamedTuple):
    """A run of equal-sized datagrams to one address; the last may be shorter.

    ``buffers`` joined are the payload, cut every ``segment_size`` bytes.  ``ttl`` overrides the IP TTL / hop limit of
    this run (low-TTL openers); ``probe`` marks a path-MTU probe: it leaves alone, unsegmented and with DF set.
    ``fragment`` clears DF for this run: datagrams larger than the path carries, which may not be cut anew, arrive in
    pieces instead of never.
    """

    buffers: Sequence[Buffer]
    segment_size: int
    path: Path
    ttl: int | None = None
    probe: bool = False
    fragment: bool = False


class Received(NamedTuple):
    """A run of equal-sized datagrams from one sender, as GRO hands them over; the last may be shorter.

    ``data`` stays valid until the next ``receive_nowait`` on that socket.
    """

    data: memoryview
    segment_size: int
    path: Path


class DatagramSocket(Protocol):
    """An unconnected UDP socket (or something that behaves like one: a TURN allocation)."""

    @property
    def local(self) -> Endpoint:
        """The bound address and port."""

    def receive_nowait(self) -> list[Received]:
        """All that waits, up to a few hundred datagrams; an empty list when nothing does.

        ICMP errors that the kernel reports on this socket are swallowed: on an unconnected socket they name nobody.
        trio.ClosedResourceError after `close`.
        """

    def send_nowait(self, outgoing: Outgoing) -> None:
        """Hand one run to the kernel.

        Raises BlockingIOError when the send buffer is full (nothing was taken, or the whole datagrams that make up its
        ``characters_written`` bytes when that attribute is set), OSError(EMSGSIZE) when a datagram is
        larger than the path allows, and any other OSError the kernel reports for this destination.
        """

    async def wait_readable(self) -> None: ...

    async def wait_writable(self) -> None: ...

    def close(self) -> None:
        """Free the port at once.  A task in ``wait_readable`` gets trio.ClosedResourceError."""


class Stream(Protocol):
    """A reliable byte stream to one peer: TCP now, µTP, punched and relayed links alike.

    Shaped like `trio.abc.HalfCloseableStream`.  Errors are trio's: BrokenResourceError when the other end or the path
    is at fault, ClosedResourceError after our own close, BusyResourceError for two tasks in one direction.
    """

    @property
    def local(self) -> Endpoint | None:
        """Our address and port, as far as known."""

    @property
    def remote(self) -> Endpoint: ...

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """At least one byte, or b"" after the other end's half-close."""

    async def send_all(self, data: Buffer) -> None:
        """Returns when all bytes are accepted; after cancellation the stream may have sent a part and is unusable."""

    async def wait_send_all_might_not_block(self) -> None: ...

    async def send_eof(self) -> None: ...

    async def aclose(self) -> None: ...

    def abort(self) -> None:
        """Close at once without waiting: RST for TCP when data is unsent.  Never blocks; safe to call twice."""


@runtime_checkable
class ReceivesInto(Protocol):
    """Optional capability of a stream, asked for once at admission."""

    async def receive_into(self, buffer: memoryview) -> int:
        """Fill the front of ``buffer`` with what is there; the count, 0 after the other end's half-close."""


@runtime_checkable
class SendsVectored(Protocol):
    """Optional capability of a stream, asked for once at admission."""

    async def send_vectored(self, buffers: Sequence[Buffer]) -> None:
        """As ``send_all`` for the concatenation of ``buffers``, without joining them."""


@runtime_checkable
class SendsFile(Protocol):
    """Optional capability of a stream, asked for once at admission."""

    async def send_file(self, fd: int, offset: int, count: int) -> None:
        """Send ``count`` bytes of the open file from ``offset``, in the kernel.  OSError(EIO) if it is shorter."""


@runtime_checkable
class TellsRoundTrip(Protocol):
    """Optional capability of a stream, for statistics."""

    def round_trip(self) -> float | None:
        """Seconds to the other end and back, smoothed; None while not measured, and once closed."""


@runtime_checkable
class TellsUnanswered(Protocol):
    """Optional capability of a stream that does not end by itself when the way to the other end is gone."""

    def unanswered(self) -> float:
        """Seconds for which something has been under way and nothing was acknowledged, to a second if asked once a
        second; 0 while nothing is under way.  A reader that takes its time acknowledges, and counts as an answer."""


@runtime_checkable
class TellsBuffers(Protocol):
    """Optional capability of a datagram socket, for statistics."""

    @property
    def buffer_sizes(self) -> tuple[int, int]:
        """Bytes granted for receiving and for sending."""


class Listener(Protocol):
    """A listening TCP socket."""

    @property
    def local(self) -> Endpoint: ...

    async def accept(self) -> Stream:
        """The next inbound stream; trio.ClosedResourceError once closed.  Out of file handles is waited out."""

    def close(self) -> None: ...


class InterfaceAddress(NamedTuple):
    """One address of an interface.  IPv6 ``temporary`` and ``deprecated`` as the kernel flags them (RFC 8981, 4862)."""

    host: str
    prefix_length: int
    temporary: bool = False
    deprecated: bool = False


class Interface(NamedTuple):
    """A network interface as the kernel lists it."""

    name: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    up: bool
    loopback: bool
    multicast: bool
    addresses: tuple[InterfaceAddress, ...]


class Gateway(NamedTuple):
    """A default route: the router's address and the interface it is reached through."""

    host: str
    interface: str


class Network(Protocol):
    """Where sockets come from."""

    async def bind_udp(
        self, local: Endpoint, *, shared: bool = False, multicast_group: str | None = None, interface: str | None = None
    ) -> DatagramSocket:
        """A UDP socket on ``local`` (port 0: any; host "0.0.0.0" or "::" for all addresses of that family).

        IPv6 sockets set IPV6_V6ONLY.  Unless ``shared``, no SO_REUSEPORT: the bind is the lock on the port number.
        With ``multicast_group`` the socket joins it on ``interface`` and sends multicast through that interface.
        Raises OSError (EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, ...).
        """

    async def listen_tcp(self, local: Endpoint) -> Listener:
        """Listen with SO_REUSEADDR and SO_REUSEPORT, so that `dial_tcp` may leave from it.  Raises OSError."""

    async def dial_tcp(self, remote: Endpoint, *, local: Endpoint | None = None) -> Stream:
        """Connect, from ``local`` (with SO_REUSEADDR and SO_REUSEPORT) when given.

        Raises OSError as the kernel does: ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH, EADDRNOTAVAIL (a connection or a
        pending connect between exactly these two endpoints exists).  Cancellation closes the socket.
        """

    async def resolve(self, host: str, port: int) -> list[Endpoint]:
        """The addresses of a name, in the resolver's order; a literal address resolves to itself without a look-up.

        Raises OSError (socket.gaierror for an unknown name).
        """

    def interfaces(self) -> list[Interface]: ...

    def gateways(self) -> list[Gateway]:
        """Default routes of both families, best metric first."""

    async def wait_address_change(self) -> None:
        """Block until an address or a route was added or removed (netlink on Linux, a coarse poll elsewhere)."""
