"""How many requests to keep outstanding with one peer: rate × latency with headroom, slow start, reqq, snubbing.

BEP 3 asks for "several" outstanding requests; the figures here are ours.  Requests are refilled in batches, so that
dozens leave in one message write.  Does not know which blocks: the picker does.  Times are seconds of one clock.
"""

from __future__ import annotations

INITIAL = 16
"""Requests outstanding at first, after an unchoke and after a snub."""

DEFAULT_REQQ = 250
"""What a peer takes that does not say (BEP 10 ``reqq``): libtorrent's default when that was written."""

LIMITED_SECONDS = 0.5
"""Under a rate limit no more is asked for than it lets through in this time: what a peer says waits behind the blocks
that it sends, and a slow one must still hear a choke, or be asked to introduce two others."""

MAX_OUTSTANDING = 1536
"""Our own bound: 24 MiB on the way, 240 MB/s at 100 ms."""

HEADROOM_SECONDS = 1.0
HEADROOM = 256
"""On top of rate × latency: what the peer sends in a second (its disk may hiccup), but at most this many blocks, which
is 10 ms at 400 MB/s and keeps little waiting inside fast peers."""

WINDOW = 0.5
"""Seconds over which the rate is measured."""

GROWTH = 1.1
"""Slow start goes on while the rate of a window exceeds the one before by this factor."""

MAX_BATCH = 64
"""Blocks; the pipeline is refilled when this many fit, or a quarter of a smaller target."""

SNUBBED_AFTER = 60.0
"""Seconds without a block while some are outstanding."""

WHOLE_PIECE_SECONDS = 20.0
"""A peer that fills a piece within this time gets pieces of its own."""


class Pipeline:
    """The requests of one peer by number.  The caller reports what it sends, gets and gives up.

    ``rate`` is payload bytes per second over the last windows, 0.0 before the first; ``latency`` the shortest time from
    a request to its block, None before the first.  The shortest ever, because a standing queue in the peer (which we
    make ourselves) would otherwise feed on itself.
    """

    __slots__ = (
        "_cap",
        "_heard",
        "_limited",
        "_marked",
        "_marked_at",
        "_previous_rate",
        "_reqq",
        "_slow_start",
        "_target",
        "_window_blocks",
        "_window_bytes",
        "_window_start",
        "latency",
        "outstanding",
        "rate",
        "resume_at",
        "snubbed",
    )

    def __init__(self, now: float, *, cap: int = MAX_OUTSTANDING) -> None:
        self.outstanding = 0
        self.rate = 0.0
        self.latency: float | None = None
        self.snubbed = False
        self.resume_at = now
        """Nothing is to be asked for before this time."""
        self._cap = self._limited = cap
        self._reqq = DEFAULT_REQQ
        self._heard = now
        self._marked: int | None = None
        self._marked_at = now
        self.restart(now)

    def restart(self, now: float) -> None:
        """Begin slowly again: the peer unchoked us."""
        self._target = INITIAL
        self._slow_start = True
        self._previous_rate = 0.0
        self._begin_window(now)

    def set_reqq(self, reqq: int) -> None:
        """How many requests the peer says it queues (BEP 10); at least one is always sent."""
        self._reqq = max(reqq, 1)

    def limit(self, block_rate: float) -> bool:
        """Ask for no more than a limit of ``block_rate`` blocks a second allows; infinite lifts it.

        Whether that is less than one a second: then it is to be kept by asking later, not by reading later.
        """
        self._limited = max(int(min(block_rate * LIMITED_SECONDS, self._cap)), 1 if block_rate < 1 else 2)
        return block_rate < 1

    @property
    def target(self) -> int:
        """Requests to have outstanding."""
        return 1 if self.snubbed else min(self._target, self._reqq, self._limited)

    @property
    def room(self) -> int:
        """How many requests to send now: 0 until a whole batch fits."""
        target = self.target
        room = target - self.outstanding
        return room if room >= min(MAX_BATCH, max(target >> 2, 1)) else 0

    def fills_within_reason(self, piece_length: int) -> bool:
        """Whether the peer is fast enough to be given a piece of its own."""
        return self.rate * WHOLE_PIECE_SECONDS >= piece_length

    def sent(self, count: int, now: float) -> None:
        """``count`` requests went out."""
        if not count:
            return
        if not self.outstanding:
            self._heard = now
            self._begin_window(now)
        if self._marked is None:  # the first of a batch: the others wait for it
            self._marked = self.outstanding + 1
            self._marked_at = now
        self.outstanding += count

    def received(self, blocks: int, size: int, now: float) -> None:
        """``blocks`` asked-for blocks of together ``size`` bytes arrived: call once for a whole read."""
        self._heard = now
        if self.snubbed:
            self.snubbed = False
            self.restart(now)
        self.outstanding = max(self.outstanding - blocks, 0)
        if self._marked is not None:
            self._time(blocks, now)
        if self._slow_start:
            self._target = min(self._target + blocks, self._cap)
        self._window_blocks += blocks
        self._window_bytes += size
        if now - self._window_start >= WINDOW:
            self._end_window(now)

    def released(self, count: int) -> None:
        """``count`` requests will not be answered (reject, or an answered cancel)."""
        self.outstanding = max(self.outstanding - count, 0)
        self._marked = None  # which one it was is not known: no sample is better than one too short

    def released_all(self) -> None:
        """No request will be answered any more: choked, or given up."""
        self.outstanding = 0
        self._marked = None

    def snub(self, now: float) -> bool:
        """Whether the peer has just become snubbed; then others should be asked for its blocks.

        It keeps its requests, and one block makes it a normal peer again; another SNUBBED_AFTER seconds of silence
        returns True again: then its requests should be given up (`released_all`).
        """
        if not self.outstanding or now < self._heard + SNUBBED_AFTER:
            return False
        self.snubbed = True
        self._heard = now
        return True

    def next_deadline(self) -> float | None:
        """When `snub` will say something, unless a block arrives; None with nothing outstanding."""
        return self._heard + SNUBBED_AFTER if self.outstanding else None

    def _time(self, blocks: int, now: float) -> None:
        """Answers come in order, so the marked request is answered when as many have come as were before it."""
        assert self._marked is not None
        self._marked -= blocks
        if self._marked <= 0:
            self._marked = None
            latency = now - self._marked_at
            self.latency = latency if self.latency is None else min(self.latency, latency)

    def _begin_window(self, now: float) -> None:
        self._window_start = now
        self._window_blocks = self._window_bytes = 0

    def _end_window(self, now: float) -> None:
        elapsed = now - self._window_start
        rate = self._window_bytes / elapsed
        blocks = self._window_blocks / elapsed
        self.rate = (self.rate + rate) / 2 if self.rate else rate
        if self._slow_start and rate < self._previous_rate * GROWTH:
            self._slow_start = False
        self._previous_rate = rate
        if not self._slow_start:
            wanted = 2 * blocks * (self.latency or 0.0) + min(blocks * HEADROOM_SECONDS, HEADROOM)
            self._target = max(int((self._target + wanted) / 2), INITIAL // 4)
        self._begin_window(now)
