"""What one connection carries for others: the frames of `sw_relay` circuits that wait to be sent on it.

They go out behind the small messages of the connection and take turns with its blocks, so that neither what the two
ends have to say to each other nor a circuit has to wait for long.  Bounded by whoever lets frames in: each is paid for
with credit that the far end of its circuit has granted (`swarm.ext.relay_desk`).  Sends nothing itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from swarm.wire.messages import extended_header

LARGE = 1 << 10
"""Bytes of data or credit from which a frame is not counted among the messages of which a peer may send so many a
second: the limits of the circuit hold for it."""

ENVELOPE = 6
"""Bytes of BEP 10 around a frame."""


class Lane(Protocol):
    """One direction of one circuit; ``queued`` is written here: the cost of what waits on the connection."""

    queued: int


class Receives(Protocol):
    """A circuit as one connection knows it."""

    def frame_arrived(self, frame: bytes, now: float) -> bool:
        """Data, credit, eof or close, well-formed; False if nothing of the kind may come."""

    def reset_arrived(self, reason: str) -> None: ...

    def carrier_closed(self) -> None:
        """The connection has ended."""


class _Frame(NamedTuple):
    lane: Lane
    cost: int
    header: bytes
    payload: bytes


class Freight:
    """The frames of one connection, first come first served.  ``wake`` is called when there is something to send."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.circuits: dict[int, Receives] = {}
        """Those that cross this connection, by number."""
        self.reserved = False
        """One end has promised the other to let circuits lead to it."""
        self.expected = False
        """It may be about to."""
        self.backlog = 0
        """The cost of all that waits."""
        self.large_frames = 0
        """That came in since somebody last set this to 0: those have limits of their own."""
        self._wake = wake
        self._frames: deque[_Frame] = deque()
        self._exempt = 0
        self._gave_way = False

    @property
    def kept(self) -> bool:
        """Whether the connection is of use although no pieces pass."""
        return self.reserved or self.expected or bool(self.circuits)

    def put(self, lane: Lane, ext_id: int, payload: bytes, cost: int) -> None:
        """Queue a frame behind all others."""
        self._frames.append(_Frame(lane, cost, extended_header(ext_id, len(payload)), payload))
        lane.queued += cost
        self.backlog += cost
        self._wake()

    def drop(self, lane: Lane) -> None:
        """Forget what waits of a circuit that was reset."""
        self._frames = deque(frame for frame in self._frames if frame.lane is not lane)
        self.backlog -= lane.queued
        lane.queued = 0

    def clear(self) -> None:
        """The connection has ended."""
        for frame in self._frames:
            frame.lane.queued = 0
        self._frames.clear()
        self.backlog = 0

    def next_batch(self, max_bytes: int, *, blocks_wait: bool) -> list[bytes]:
        """Buffers to send now, of about ``max_bytes`` or one frame; every other time none while blocks wait."""
        frames = self._frames
        if not frames or (blocks_wait and not self._gave_way):
            self._gave_way = True
            return []
        self._gave_way = False
        batch: list[bytes] = []
        size = 0
        while frames and (not batch or size + len(frames[0].payload) <= max_bytes):
            lane, cost, header, payload = frames.popleft()
            batch += header, payload
            size += len(payload)
            lane.queued -= cost
            self.backlog -= cost
        return batch

    # -- what comes in ----------------------------------------------------------------------------------------------

    def arrived(self, size: int, worth: int) -> None:
        """A frame of ``size`` bytes came in for a circuit that stands, with ``worth`` bytes of data or credit."""
        self._exempt += size + ENVELOPE
        if worth >= LARGE:
            self.large_frames += 1

    def subject_to_limits(self, count: int) -> int:
        """How many of ``count`` bytes read are the connection's own.  A read may end within a frame."""
        free = min(count, self._exempt)
        self._exempt -= free
        return count - free
