"""Dialling one endpoint by one transport, and the words for what went wrong.

Both leave from the listening port, TCP with SO_REUSEPORT and µTP over the one UDP socket, so that a NAT that maps
endpoint-independently shows the world one port, and two such TCP dials meet as a simultaneous open.
Does not choose between endpoints or transports: `ladder` does.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.events import EncryptionName, PathName
from swarm.net.network import Stream
from swarm.net.udp_port import UtpPort
from utp.errors import ConnectionLost, LocalProtocolError


@dataclass(frozen=True, slots=True)
class Link:
    """A stream that reached somebody, and how."""

    stream: Stream
    path: PathName
    encryption: EncryptionName = "plaintext"
    received: bytes = b""
    """Payload that was read of the stream already, decrypted."""
    relay: Endpoint | None = None
    """Where the peer is that carries it, of a path that is "relayed"."""

    bidden: bool = False
    """We dialled because the other end wanted it: see `swarm.identity.Identity`."""

    @property
    def remote(self) -> Endpoint:
        return self.stream.remote


class DialsTcp(Protocol):
    """What dialling needs of a `Network`."""

    async def dial_tcp(self, remote: Endpoint, *, local: Endpoint | None = None) -> Stream: ...


class NotingDials:
    """A network whose dials are noted: ``note`` is told whom we are about to dial."""

    def __init__(self, network: DialsTcp, note: Callable[[Endpoint], None]) -> None:
        self._network = network
        self._note = note

    async def dial_tcp(self, remote: Endpoint, *, local: Endpoint | None = None) -> Stream:
        self._note(remote)
        return await self._network.dial_tcp(remote, local=local)


async def dial_tcp(network: DialsTcp, remote: Endpoint, *, from_port: int | None, elsewhere: bool = True) -> Link:
    """Connect over TCP, from our listening port where the kernel allows it.

    The kernel refuses a second connection between the same two endpoints (EADDRNOTAVAIL); then an ephemeral port is
    used if ``elsewhere`` allows it, which for a punch it must not.  Raises RemoteError with a reason slug.
    Cancellation closes the socket.
    """
    try:
        if from_port is None:
            return Link(await network.dial_tcp(remote), "tcp")
        local = Endpoint("::" if remote.is_ipv6 else "0.0.0.0", from_port)
        try:
            return Link(await network.dial_tcp(remote, local=local), "tcp")
        except OSError as error:
            if not elsewhere or error.errno not in (errno.EADDRNOTAVAIL, errno.EADDRINUSE):
                raise
        return Link(await network.dial_tcp(remote), "tcp")
    except OSError as error:
        raise RemoteError(reason_of(error), str(error)) from error


async def dial_utp(
    port: UtpPort, remote: Endpoint, *, syn_times: Sequence[float] | None = None, patience: float | None = None
) -> Link:
    """Connect over µTP, from the one UDP port of that address family.  The caller must send at once (libutp).

    ``syn_times`` are when SYNs leave, in seconds from now, and ``patience`` how long the last one is waited for; by
    default as `utp.config.UtpConfig` says.

    Raises RemoteError: "timed-out", "refused", "reset"; "too-many-connections" when the port has no room for one more,
    which is strangers' doing: what they leave unacknowledged lingers.  Cancellation gives the attempt up silently.
    """
    try:
        return Link(await port.dial(remote, syn_times=syn_times, patience=patience), "utp")
    except ConnectionLost as error:
        raise RemoteError(error.reason) from error
    except LocalProtocolError as error:
        raise RemoteError("too-many-connections") from error


def reason_of(error: OSError) -> str:
    """The slug that statistics count for an operating system error."""
    return _REASONS.get(error.errno or 0, f"errno-{error.errno}")


_REASONS = {
    errno.ECONNREFUSED: "refused",
    errno.ETIMEDOUT: "timed-out",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.ENETDOWN: "unreachable",
    errno.EHOSTDOWN: "unreachable",
    errno.ECONNRESET: "reset",
    errno.ECONNABORTED: "reset",
    errno.EPIPE: "reset",
    errno.EACCES: "forbidden",
    errno.EPERM: "forbidden",
    errno.EADDRNOTAVAIL: "no-local-address",
    errno.EAFNOSUPPORT: "no-such-family",
    errno.EINVAL: "bad-address",
}
