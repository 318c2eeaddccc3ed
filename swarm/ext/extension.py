"""What an extension of BEP 10 is: a core that hangs off one connection.

One file for each, one entry in `swarm.torrent.extensions`, where they are built.  The connection tells an extension
what arrived and once a second what time it is; the extension answers through the `Say` it was given.  Does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from swarm.wire.extended import ExtendedHandshake

Say = Callable[[bytes], None]
"""Queue a payload for the other end's part of the same extension; lost where that switched it off."""


class Extension(Protocol):
    """One extension on one connection.

    Nothing is called before the peer named the extension in its handshake, nor after `closed`.  A peer may send before
    it has said that it receives: what `Say` is given is lost then.
    """

    def handshake_received(self, theirs: ExtendedHandshake, now: float) -> None:
        """The peer's extension handshake, or a later one that changes it, names this extension."""

    def receive_untrusted(self, payload: bytes, now: float) -> None:
        """A message arrived.  RemoteProtocolError ends the connection, and only that."""

    def tick(self, now: float) -> None:
        """About once a second."""

    def closed(self) -> None:
        """The connection has ended."""
