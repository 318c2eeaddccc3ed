"""What can go wrong with the DHT: local misuse and remote faults, as in `utp.errors`."""

from __future__ import annotations


class DhtError(Exception):
    """The root of everything this package raises on purpose."""


class LocalProtocolError(DhtError):
    """The caller asked for something that cannot be: an info-hash that is not 20 bytes, a port outside 1–65535."""


class RemoteProtocolError(DhtError):
    """A datagram is not a KRPC message.  The only error of the ``_untrusted`` functions; it costs that datagram.

    ``transaction_id`` is set where one could be read.  ``code`` is set when it was at least recognisably a query: what
    to answer it with (BEP 5: 203 malformed packet or invalid arguments, 204 method unknown).
    """

    def __init__(self, message: str, transaction_id: bytes | None = None, code: int | None = None) -> None:
        super().__init__(message)
        self.transaction_id = transaction_id
        self.code = code
