"""Where the daemon is spoken to: ``HOST:PORT`` on TCP or ``unix:PATH``, as text, as value and as listeners.

A unix socket belongs to its user alone (mode 0600).  One that a daemon left behind is replaced, one that answers is
not.  Whether an address may be listened on without a password is said by `Address.is_private`.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

import trio

from swarm.errors import SwarmError, UsageError

DEFAULT_PORT = 9091
BACKLOG = 64


@dataclass(frozen=True, slots=True)
class Address:
    """Either ``path`` (of a unix socket), or ``host`` and ``port``."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_private(self) -> bool:
        """Whether nobody but this machine's users can connect."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> Address:
    """``unix:PATH``, ``HOST:PORT``, ``HOST``, ``[IPV6]:PORT`` or ``:PORT`` (all addresses).  UsageError otherwise."""
    if text.startswith("unix:"):
        if not text.removeprefix("unix:"):
            raise UsageError("unix: wants the path of a socket behind it")
        return Address(path=text.removeprefix("unix:"))
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port
        if parts.path or parts.query or parts.fragment or parts.username is not None:
            raise ValueError("no address")
    except ValueError:
        raise UsageError(f"{text!r} is neither HOST:PORT nor unix:PATH") from None
    host = parts.hostname or ("" if text.startswith(":") else None)
    if host is None:
        raise UsageError(f"{text!r} is neither HOST:PORT nor unix:PATH")
    return Address(host or "0.0.0.0", DEFAULT_PORT if port is None else port)


async def open_listeners(address: Address) -> list[trio.SocketListener]:
    """Listen.  SwarmError with one sentence if the address is taken, not there or not ours."""
    try:
        if address.path is not None:
            return [_listen_unix(address.path)]
        return list(await trio.open_tcp_listeners(address.port, host=address.host, backlog=BACKLOG))
    except OSError as error:
        reason = "another program listens there" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise SwarmError(f"cannot listen on {address}: {reason}") from error


def _listen_unix(path: str) -> trio.SocketListener:
    _remove_stale(path)
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # from its first moment on it is nobody else's
    try:
        opened.bind(path)
        opened.listen(BACKLOG)
    except OSError:
        opened.close()
        raise
    finally:
        os.umask(before)
    return trio.SocketListener(trio.socket.from_stdlib_socket(opened))


def _remove_stale(path: str) -> None:
    """Unlink a socket that nobody answers at.  OSError(EADDRINUSE) if somebody does, or if it is something else."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EADDRINUSE, "there is a file of that name")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:  # a full backlog: somebody listens
            pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
