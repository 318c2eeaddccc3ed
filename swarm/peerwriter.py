"""The sending half of a connection: small messages first, then, in turns, what it carries for others and blocks.

Blocks are chosen and read when the stream has room for them, so that what a peer takes back was not sent for nothing.
What is said, and to whom which block is owed, is decided elsewhere (`swarm.peer`, `swarm.torrent.uploader`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from swarm.ext.freight import Freight
from swarm.net.network import Buffer, SendsVectored, Stream
from swarm.ratelimit import TokenBucket, take_all
from swarm.torrent.uploader import Uploader
from swarm.wire.messages import Block, piece_header

MAX_OUTBOX = 1 << 20
"""Bytes of small messages that a peer may leave unread before it is dropped ("slow-reader")."""

MIN_BATCH = 16 << 10
MAX_BATCH = 1 << 20
"""Bytes of blocks handed to the stream at once: doubled while the stream takes them within FAST_SEND seconds, halved
beyond SLOW_SEND, because what waits behind a batch (requests, haves, chokes) waits as long as the batch takes."""

FAST_SEND = 0.02
SLOW_SEND = 0.2


class Library(Protocol):
    """Where blocks come from, and how fast they may go."""

    @property
    def upload_limits(self) -> tuple[TokenBucket, ...]:
        """Empty while unlimited."""

    async def read_blocks(self, run: Sequence[Block]) -> list[Buffer]:
        """The bytes of blocks that lie within one verified piece."""


class PeerWriter:
    """What is to be sent on one stream, and the task that sends it.

    ``too_slow`` is called when the peer leaves too much unread.  ``payload`` counts bytes of blocks, ``sent`` all bytes
    of the stream; ``sent_at`` is when the last were taken, ``sending_since`` since when the stream takes none, infinite
    while it has nothing to take (trio times).
    """

    def __init__(
        self, stream: Stream, library: Library, uploader: Uploader, too_slow: Callable[[], None], now: float
    ) -> None:
        self.freight = Freight(self.wake)
        self.payload = self.sent = 0
        self.sent_at = now
        self.sending_since = math.inf
        self._stream = stream
        self._library = library
        self._uploader = uploader
        self._too_slow = too_slow
        self._outbox = bytearray()
        self._woken = trio.Event()
        self._batch = MIN_BATCH
        self._upload_at = -math.inf

    def enter(self, library: Library, uploader: Uploader) -> None:
        """Blocks are owed, and read, by these from now on."""
        self._library, self._uploader = library, uploader

    def put(self, data: bytes) -> None:
        """Queue small messages, in order; they go out before any block."""
        self._outbox += data
        if len(self._outbox) > MAX_OUTBOX:
            self._too_slow()
        self._woken.set()

    def wake(self) -> None:
        """There is something else to send."""
        self._woken.set()

    def limits_changed(self, now: float) -> None:
        """The limits of what is sent are others now."""
        self._upload_at = now + take_all(self._library.upload_limits, 0, now)
        self._woken.set()

    @property
    def has_room(self) -> bool:
        """Whether the peer reads what it is sent: bulk that is not blocks waits while it does not."""
        return len(self._outbox) < MAX_OUTBOX // 4

    def forget(self) -> None:
        """Nothing more will be sent: give back the memory."""
        self._outbox = bytearray()

    async def run(self) -> None:
        """Send until cancelled.  Raises what the stream does, trio.BrokenResourceError above all."""
        while True:
            if self._outbox:
                data, self._outbox = self._outbox, bytearray()
                self.sending_since = trio.current_time()
                await self._stream.send_all(data)
                self._was_sent(len(data))
            elif batch := self.freight.next_batch(self._batch, blocks_wait=self._blocks_wait()):
                started = self.sending_since = trio.current_time()
                await self._send_buffers(batch)
                self._was_sent(sum(map(len, batch)))
                self._adapt_batch(self.sent_at - started)
            elif self._blocks_wait() and (run := self._uploader.next_run(self._batch_limit())):
                await self._send_blocks(run)
            else:
                self._woken = trio.Event()
                with trio.move_on_at(self._upload_at if self._uploader else math.inf):
                    await self._woken.wait()

    def _blocks_wait(self) -> bool:
        return bool(self._uploader) and trio.current_time() >= self._upload_at

    def _batch_limit(self) -> int:
        return MIN_BATCH if self._library.upload_limits else self._batch

    async def _send_blocks(self, run: Sequence[Block]) -> None:
        """Send the blocks of one run; a rate limit makes the next run wait, never the small messages."""
        payload = sum(length for _, _, length in run)
        buffers: list[Buffer] = []
        for wanted, block in zip(run, await self._library.read_blocks(run), strict=True):
            buffers += piece_header(*wanted), block
        started = self.sending_since = trio.current_time()
        await self._send_buffers(buffers)
        self.payload += payload
        self._was_sent(payload + 13 * len(run))
        self._adapt_batch(self.sent_at - started)
        if limits := self._library.upload_limits:
            self._upload_at = self.sent_at + take_all(limits, payload, self.sent_at)

    async def _send_buffers(self, buffers: Sequence[Buffer]) -> None:
        if isinstance(self._stream, SendsVectored):
            await self._stream.send_vectored(buffers)
        else:
            await self._stream.send_all(b"".join(buffers))

    def _was_sent(self, count: int) -> None:
        self.sent_at = trio.current_time()
        self.sending_since = math.inf
        self.sent += count

    def _adapt_batch(self, seconds: float) -> None:
        if seconds < FAST_SEND:
            self._batch = min(2 * self._batch, MAX_BATCH)
        elif seconds > SLOW_SEND:
            self._batch = max(self._batch // 2, MIN_BATCH)
