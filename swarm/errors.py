"""What can go wrong, in two families that never mix.

`SwarmError` is told to the user: one clear sentence and an exit code.  `RemoteError` is told to nobody but the
statistics: the other end broke the protocol or went away; it ends that one connection.
"""

from __future__ import annotations


class SwarmError(Exception):
    """An error with one sentence for the user; ``code`` is the command's exit code (shared interface)."""

    code = 1


class UsageError(SwarmError):
    """The command line, the environment or the configuration file asks for something impossible."""

    code = 2


class MetainfoError(SwarmError):
    """A torrent file or magnet link is broken, dangerous or of a kind that cannot be used."""

    code = 3


class StorageError(SwarmError):
    """The file system refused: disk full, permission denied, a file shrank or changed under us."""

    code = 4


class DiskFullError(StorageError):
    """The file system has no room left; it may have some later."""


class NoProgressError(SwarmError):
    """Nothing arrived within the time-out; the sentence says why."""

    code = 5


class VerificationError(SwarmError):
    """Data on disk does not match the torrent's hashes."""

    code = 6


class DaemonUnreachableError(SwarmError):
    """No daemon answers at the given address."""

    code = 7


class RemoteError(Exception):
    """The other end is at fault or gone.  Ends that connection; ``reason`` is a short slug that statistics count.

    Slugs are lower-case words joined by hyphens ("timed-out", "bad-handshake"), few and stable.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class RemoteProtocolError(RemoteError):
    """Bytes from the network that the specification forbids.  The only error an ``_untrusted`` function may raise."""
