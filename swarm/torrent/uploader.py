"""What one peer has asked of us (BEP 3, BEP 6): a bounded queue of requests, answered in order, blocks chosen late.

Sans-IO.  It decides which requests may be served and which are rejected; it reads no disk and sends nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from swarm.bitfield import Bitfield
from swarm.errors import RemoteProtocolError
from swarm.wire.messages import Block

MAX_REQUEST = 128 << 10
"""Bytes in one request.  BEP 3 says 16 KiB; some deployed clients ask for more and all accept being served."""

MAX_QUEUED = 2000
"""Requests held for one peer, told to it as ``reqq``; what comes beyond is rejected (BEP 6) or dropped."""


class Uploader:
    """The requests of one peer.  ``fast`` is whether BEP 6 was negotiated: then every request gets an answer."""

    __slots__ = ("_have", "_piece_size", "_queue", "choking", "fast", "interested", "refused")

    def __init__(self, have: Bitfield, piece_length: int, total_size: int, *, fast: bool) -> None:
        self._have = have
        self._piece_size = (piece_length, total_size)
        self._queue: OrderedDict[Block, None] = OrderedDict()  # a cancel costs no search
        self.fast = fast
        self.choking = True
        self.interested = False
        self.refused = 0

    def __len__(self) -> int:
        return len(self._queue)

    def requested_untrusted(self, index: int, begin: int, length: int) -> bool:
        """Queue a request.  False: it must be rejected (BEP 6) or, without the fast extension, ignored.

        Raises RemoteProtocolError for a block that does not exist in this torrent or is absurdly large.
        """
        piece_length, total_size = self._piece_size
        if (
            not 0 < length <= MAX_REQUEST
            or index >= self._have.size
            or begin + length > min(piece_length, total_size - index * piece_length)
        ):
            raise RemoteProtocolError("bad-request", f"piece {index} begin {begin} length {length}")
        if self.choking or len(self._queue) >= MAX_QUEUED or index not in self._have:
            self.refused += 1
            return False
        self._queue[index, begin, length] = None  # asked for twice, it is served once
        return True

    def cancelled(self, index: int, begin: int, length: int) -> bool:
        """Whether the request was still waiting (then BEP 6 wants a reject; otherwise its block is on its way)."""
        if (index, begin, length) not in self._queue:
            return False
        del self._queue[index, begin, length]
        return True

    def choke(self) -> Iterable[Block]:
        """Stop serving; what waited, each of which BEP 6 wants rejected."""
        self.choking = True
        dropped = tuple(self._queue)
        self._queue.clear()
        return dropped

    def unchoke(self) -> None:
        self.choking = False

    def next_run(self, max_bytes: int) -> list[Block]:
        """The next requests, all within one piece and together at most ``max_bytes`` (but at least one); removed."""
        queue = self._queue
        run: list[Block] = []
        size = 0
        while queue:
            wanted = next(iter(queue))
            size += wanted[2]
            if run and (size > max_bytes or wanted[0] != run[0][0]):
                break
            del queue[wanted]
            run.append(wanted)
        return run
