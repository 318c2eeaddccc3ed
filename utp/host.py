"""What a connection needs of the endpoint it lives in; declared here so that neither imports the other's file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from utp.dial import HalfOpen
from utp.path import Address, Outgoing

if TYPE_CHECKING:
    from utp.connection import Connection


class Host(Protocol):
    """What a connection asks of its endpoint."""

    def keepalive(self, remote: Address) -> float:
        """Seconds after which a silent connection to ``remote`` sends something."""

    def claim_id(self, connection: Connection) -> tuple[int, int]:
        """A fresh receive id on which packets of this remote reach the connection, and a random sequence number."""

    def release_ids(self, connection: Connection, half_opens: list[HalfOpen], now: float) -> None:
        """These SYNs are given up; an answer that comes late is reset once."""

    def ready(self, connection: Connection) -> None:
        """Something may have to leave: ask `datagrams_to_send`."""

    def changed(self, connection: Connection) -> None:
        """The application should look: connected, readable, writable or ended."""

    def accepted(self, connection: Connection) -> None:
        """The other end of an inbound connection has proved its address."""

    def ended(self, connection: Connection, farewell: Outgoing | None, now: float) -> None:
        """CLOSED was reached.  ``farewell`` leaves at once."""

    def remember(self, connection: Connection, farewell: Outgoing, now: float) -> None:
        """Both ends have finished: for a while stragglers are answered with ``farewell``."""
