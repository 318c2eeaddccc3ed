"""The metadata extension (BEP 9, ``ut_metadata``) on one connection: it serves the info dictionary, or fetches it.

Which of the two, `MetadataSide` decides at every message: while it has no info dictionary this end asks for it, through
the `MetadataAssembly` that all connections of the torrent share; from then on it answers.  Requests beyond what a
client needs to fetch everything twice a minute are rejected (BEP 9 allows that).

The messages are in `swarm.ext.metadata_message`, the search among liars in `swarm.ext.metadata_assembly`.  Does not
parse the info dictionary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Protocol

from swarm.ext.extension import Say
from swarm.ext.metadata_assembly import MetadataAssembly, MetadataSource
from swarm.ext.metadata_attempt import block_count
from swarm.ext.metadata_message import (
    BLOCK,
    MetadataData,
    MetadataReject,
    MetadataRequest,
    parse_metadata_message_untrusted,
)
from swarm.wire.extended import ExtendedHandshake

__all__ = ["Metadata", "MetadataAssembly", "MetadataSide"]

COPIES_A_MINUTE = 2
"""Times the whole that a connection is served in a minute, and at once after a minute of quiet."""

BURST = 8
"""Blocks beyond that: small metadata is asked for again by clients that lost a connection or verify badly."""

MAX_QUEUED = 1024
"""Requests that wait for room; others are rejected.  anacrolix and WebTorrent ask for everything at once."""


class MetadataSide(Protocol):
    """What the extension needs of its torrent."""

    @property
    def info_bytes(self) -> bytes | None:
        """The verified info dictionary as it was hashed; None while it is not there, or not to be served."""


class Metadata:
    """``ut_metadata`` on one connection.

    Pulled statistics: ``blocks_served`` and ``requests_rejected`` here, the rest in `MetadataAssembly.statistics`.
    """

    NAME = "ut_metadata"

    def __init__(
        self,
        say: Say,
        side: MetadataSide,
        assembly: MetadataAssembly | None,
        name: Hashable,
        *,
        has_room: Callable[[], bool],
    ) -> None:
        """``name`` is what the peer is convicted by if it lies; ``assembly`` is None where there is nothing to fetch.

        ``has_room`` says whether the connection's outbox takes another block; while it does not, requests wait, and are
        looked at again every second.
        """
        self.blocks_served = self.requests_rejected = 0
        self._say = say
        self._side = side
        self._assembly = assembly
        self._name = name
        self._has_room = has_room
        self._source: MetadataSource | None = None
        self._queue: deque[int] = deque()
        self._allowance: float | None = None  # blocks
        self._counted_at = 0.0

    @property
    def _fetching(self) -> bool:
        return self._side.info_bytes is None and self._assembly is not None and self._assembly.complete is None

    def handshake_received(self, theirs: ExtendedHandshake, now: float) -> None:
        """Begin to ask, if there is something to ask for."""
        if not self._fetching:
            return
        if self._source is None:
            assert self._assembly is not None
            self._source = self._assembly.join(self._name)
        self._source.claims(theirs.metadata_size)
        self._ask(now)

    def receive_untrusted(self, payload: bytes, now: float) -> None:
        """RemoteProtocolError("bad-metadata-message") for what is none, "bad-metadata" for lies that are found out."""
        match parse_metadata_message_untrusted(payload):
            case MetadataRequest(piece):
                self._requested(piece, now)
            case MetadataData() as message if self._source is not None:
                self._source.arrived_untrusted(message, now)
                self._ask(now)
            case MetadataReject(piece) if self._source is not None:
                self._source.rejected(piece, now)

    def tick(self, now: float) -> None:
        """Time-outs, retries, and requests that waited for room."""
        self._answer()
        if self._source is not None:
            self._source.expire(now)
            self._ask(now)

    def closed(self) -> None:
        """What this peer was asked for is asked of others."""
        self._queue.clear()
        if self._source is not None:
            self._source.leave()
            self._source = None

    # -- fetching ---------------------------------------------------------------------------------------------------

    def _ask(self, now: float) -> None:
        if self._source is not None and self._fetching:
            for index in self._source.next_blocks(now):
                self._say(MetadataRequest(index).encode())

    # -- serving ----------------------------------------------------------------------------------------------------

    def _requested(self, piece: int, now: float) -> None:
        info_bytes = self._side.info_bytes
        if (
            info_bytes is None
            or piece >= block_count(len(info_bytes))
            or len(self._queue) >= MAX_QUEUED
            or not self._allows(block_count(len(info_bytes)), now)
        ):
            self._reject(piece)
            return
        self._queue.append(piece)
        self._answer()

    def _allows(self, count: int, now: float) -> bool:
        """Whether another block may be served, and is now counted; ``count`` of them are the whole."""
        most = COPIES_A_MINUTE * count
        if self._allowance is None:
            self._allowance = float(most + BURST)
        else:
            earned = (now - self._counted_at) * most / 60
            self._allowance = min(self._allowance + earned, float(most + BURST))
        self._counted_at = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    def _answer(self) -> None:
        while self._queue and self._has_room():
            piece = self._queue.popleft()
            info_bytes = self._side.info_bytes
            if info_bytes is None:
                self._reject(piece)
                continue
            block = info_bytes[piece * BLOCK : (piece + 1) * BLOCK]
            self._say(MetadataData(piece, len(info_bytes), block).encode())
            self.blocks_served += 1

    def _reject(self, piece: int) -> None:
        self._say(MetadataReject(piece).encode())
        self.requests_rejected += 1
