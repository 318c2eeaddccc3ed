"""What can go wrong with µTP, in the same two families as in the programs above: local misuse and remote faults."""

from __future__ import annotations


class UtpError(Exception):
    """The root of everything this package raises on purpose."""


class LocalProtocolError(UtpError):
    """The caller used a connection in a way it never may: data after `shutdown`, a socket address that is none."""


class RemoteProtocolError(UtpError):
    """A datagram is not a µTP packet.  The only error an ``_untrusted`` function may raise; it costs that datagram."""


class ConnectionLost(UtpError):
    """A connection ended without both ends having agreed to; ``reason`` is one of the slugs below.

    ``timed-out``   nobody answered the SYNs, or the retransmissions of something sent later
    ``refused``     the other end answered a SYN with ST_RESET
    ``reset``       the other end sent ST_RESET later
    ``aborted``     we did (`Connection.abort`)
    ``backlog``     nobody accepted it here in time
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
