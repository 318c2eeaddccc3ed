"""Dialling one endpoint by one transport, and the words for what went wrong.

TCP leaves from the listening port (SO_REUSEPORT), so that a NAT that maps endpoint-independently shows the world one
port, and two such dials meet as a simultaneous open.  Does not choose between endpoints or transports: `ladder` does.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.events import PathName
from swarm.net.network import Network, Stream


@dataclass(frozen=True, slots=True)
class Link:
    """A stream that reached somebody, and how."""

    stream: Stream
    path: PathName


async def dial_tcp(network: Network, remote: Endpoint, *, from_port: int | None) -> Link:
    """Connect over TCP, from our listening port where the kernel allows it.

    The kernel refuses a second connection between the same two endpoints (EADDRNOTAVAIL); then an ephemeral port is
    used.  Raises RemoteError with a reason slug.  Cancellation closes the socket.
    """
    try:
        if from_port is None:
            return Link(await network.dial_tcp(remote), "tcp")
        local = Endpoint("::" if remote.is_ipv6 else "0.0.0.0", from_port)
        try:
            return Link(await network.dial_tcp(remote, local=local), "tcp")
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EADDRINUSE):
                raise
        return Link(await network.dial_tcp(remote), "tcp")
    except OSError as error:
        raise RemoteError(reason_of(error), str(error)) from error


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
