"""Fetching the metadata of one torrent from all of its peers together (BEP 9), among liars.

Each connection that speaks ``ut_metadata`` is a `MetadataSource`.  Sources that claim the same size build one copy
together, so that whoever lies about the size builds alone.  A copy whose SHA-1 is wrong convicts its sender if it had
only one; had it several, the size is from then on fetched whole from single peers, a few at a time, each of which
convicts itself or ends the search; then whoever sent another block than the true one is convicted, too.

Sends nothing, reads no clock, drops no connection: it names names.  Trusts nothing but the info-hash.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from hashlib import sha1
from typing import NamedTuple

from swarm.errors import RemoteProtocolError
from swarm.ext.metadata_attempt import Attempt, block_count, block_length
from swarm.ext.metadata_message import BLOCK, MetadataData
from swarm.ext.metadata_statistics import MetadataStatistics, Outcome, Standing

MAX_METADATA_SIZE = 16 << 20
"""Bytes: 800,000 pieces.  Half of what is read of a .torrent file, because peers make us hold what they only claim to
be metadata; libtorrent queues no more requests than make 16 MiB."""

MAX_HELD = 2 * MAX_METADATA_SIZE
"""Bytes of unverified blocks; beyond it copies are given up: those that stand still, then those with the most missing.
The one that is furthest is thereby sure to become whole and to be judged, however many claim to have a large one."""

IN_FLIGHT = 2
"""Blocks that a peer is asked for at a time, as libtorrent does: clients that limit themselves serve at least these."""

ANSWER_WITHIN = 8.0
"""Seconds until a request counts as unanswered; the answer is still welcome."""

FIRST_PAUSE = 8.0
MAX_PAUSE = 60.0
"""Seconds for which a peer that did not answer is left alone, doubled each time."""

REFUSED_PAUSE = 60.0
"""Seconds for which a peer that refused is left alone; it may get the metadata itself meanwhile."""

ALONE_AT_ONCE = 8
"""Copies of one size fetched from single peers at the same time, where that is necessary."""

MAX_LEFT_BEHIND = 4
"""Unfinished copies kept for sizes that nobody connected claims."""

MAX_LIARS = 1024
MAX_SUSPICIONS = 4096
MAX_DISPUTED = 1024
MAX_DEPARTED = 1000
"""What is remembered: the oldest is forgotten first."""


class _Suspicion(NamedTuple):
    """A block of a false copy that several had built."""

    piece: int
    sender: Hashable
    digest: bytes


class MetadataAssembly:
    """The search for what has ``info_hash`` (20 bytes).

    ``rng`` chooses with which block a copy begins.  ``on_complete`` is called once, with the verified bytes, from
    within the call that brought the last block; ``on_liar`` once for each name that certainly sent false blocks.
    """

    def __init__(
        self,
        info_hash: bytes,
        rng: random.Random,
        *,
        on_complete: Callable[[bytes], None] | None = None,
        on_liar: Callable[[Hashable], None] | None = None,
    ) -> None:
        self.complete: bytes | None = None
        self._info_hash = info_hash
        self._rng = rng
        self._on_complete = on_complete
        self._on_liar = on_liar
        self._sources: dict[MetadataSource, None] = {}
        self._attempts: dict[tuple[int, MetadataSource | None], Attempt] = {}  # by size, and whose alone
        self._disputed: dict[int, None] = {}  # sizes of which a copy failed that several had built
        self._suspicions: list[_Suspicion] = []
        self._liars: dict[Hashable, None] = {}
        self._departed: dict[Hashable, Standing] = {}
        self._without: dict[Hashable, None] = {}
        self._hash_failures = 0

    def join(self, name: Hashable) -> MetadataSource:
        """A connection whose other end speaks ``ut_metadata``.

        ``name`` is what the peer is convicted by; it is to survive a reconnection.
        """
        source = MetadataSource(self, name)
        self._sources[source] = None
        self._departed.pop(name, None)
        return source

    def peer_without(self, name: Hashable) -> None:
        """A peer connected that does not speak ``ut_metadata``; it is counted once, however often it comes."""
        self._without[name] = None
        if len(self._without) > MAX_DEPARTED:
            del self._without[next(iter(self._without))]

    @property
    def liars(self) -> frozenset[Hashable]:
        """Who was convicted, the latest MAX_LIARS."""
        return frozenset(self._liars)

    @property
    def held(self) -> int:
        """Bytes of unverified blocks in memory."""
        return sum(attempt.held for attempt in self._attempts.values())

    def statistics(self) -> MetadataStatistics:
        """How far it is, who helps and who does not."""
        had, total = self._progress()
        return MetadataStatistics.of(
            [*(source.standing for source in self._sources), *self._departed.values()],
            without=len(self._without),
            blocks_had=had,
            blocks_total=total,
            size=len(self.complete) if self.complete is not None else None,
            hash_failures=self._hash_failures,
            liars=len(self._liars),
        )

    def _progress(self) -> tuple[int, int]:
        if self.complete is not None:
            return (total := block_count(len(self.complete))), total
        best = max(self._attempts.values(), key=lambda attempt: attempt.had, default=None)
        return (best.had, best.count) if best else (0, 0)

    # -- what sources ask -------------------------------------------------------------------------------------------

    def convicted(self, name: Hashable) -> bool:
        return name in self._liars

    def attempt_for(self, source: MetadataSource, size: int, now: float) -> Attempt | None:
        """The copy to which the source is to contribute; None if it is to wait for its turn."""
        key = (size, source if size in self._disputed else None)
        attempt = self._attempts.get(key)
        if attempt is None and (key[1] is None or self._may_build_alone(size, now)):
            attempt = self._attempts[key] = Attempt(size, self._rng, now)
        return attempt

    def _may_build_alone(self, size: int, now: float) -> bool:
        busy = sum(attempt.being_fetched(now) for attempt in self._attempts.values() if attempt.size == size)
        return busy < min(ALONE_AT_ONCE, MAX_HELD // size)

    def arrived(self, source: MetadataSource, size: int, index: int, block: bytes, now: float) -> bool:
        """A block that the source owed, of the right length for the size; False if it was there already."""
        key = (size, source if size in self._disputed else None)
        attempt = self._attempts.get(key)
        if attempt is None:  # its copy was given up meanwhile
            attempt = self._attempts[key] = Attempt(size, self._rng, now)
        if not attempt.add(index, block, source.name, now):
            return False
        if attempt.complete:
            self._judge(self._attempts.pop(key))
        while self.held > MAX_HELD:
            self._give_up_one(now)
        return True

    def _give_up_one(self, now: float) -> None:
        key = min(
            self._attempts,
            key=lambda each: (self._attempts[each].being_fetched(now), self._attempts[each].held - each[0]),
        )
        del self._attempts[key]
        for source in self._sources:
            if source.size == key[0]:
                source.pause(now)

    def give_back(self, source: MetadataSource, size: int, index: int) -> None:
        """The source will not send a block that it was asked for."""
        for owner in (source, None):
            if (attempt := self._attempts.get((size, owner))) is not None:
                attempt.give_back(index)

    def left(self, source: MetadataSource) -> None:
        """The connection has ended."""
        if source not in self._sources:
            return
        del self._sources[source]
        self._departed[source.name] = source.standing
        if len(self._departed) > MAX_DEPARTED:
            del self._departed[next(iter(self._departed))]
        self.claim_ended(source)

    def claim_ended(self, source: MetadataSource) -> None:
        """The source no longer claims the size it did: forget copies that nobody works on, but for a few."""
        claimed = {other.size for other in self._sources}
        orphans = []
        for key, attempt in list(self._attempts.items()):
            if key[1] is source or (not attempt.had and attempt.size not in claimed):
                del self._attempts[key]
            elif attempt.size not in claimed:
                orphans.append(key)
        orphans.sort(key=lambda key: self._attempts[key].progressed, reverse=True)
        for key in orphans[MAX_LEFT_BEHIND:]:
            del self._attempts[key]

    # -- judging ----------------------------------------------------------------------------------------------------

    def _judge(self, attempt: Attempt) -> None:
        data = attempt.whole()
        if sha1(data).digest() == self._info_hash:
            self._finish(data)
            return
        self._hash_failures += 1
        if len(attempt.senders) == 1:
            self._convict(*attempt.senders)
            return
        self._disputed[attempt.size] = None
        if len(self._disputed) > MAX_DISPUTED:
            del self._disputed[next(iter(self._disputed))]
        self._suspicions += (_Suspicion(*block) for block in attempt.digests())
        del self._suspicions[:-MAX_SUSPICIONS]

    def _finish(self, data: bytes) -> None:
        self.complete = data
        self._attempts.clear()
        suspicions, self._suspicions = self._suspicions, []
        for piece, sender, digest in suspicions:
            if sha1(data[piece * BLOCK : (piece + 1) * BLOCK]).digest() != digest:
                self._convict(sender)
        if self._on_complete is not None:
            self._on_complete(data)

    def _convict(self, name: Hashable) -> None:
        if name in self._liars:
            return
        self._liars[name] = None
        if len(self._liars) > MAX_LIARS:
            del self._liars[next(iter(self._liars))]
        if self._on_liar is not None:
            self._on_liar(name)


class MetadataSource:
    """One connection's part in the search; made by `MetadataAssembly.join`.

    Counters: ``unasked`` blocks came without having been asked for, ``duplicates`` were there already.
    """

    def __init__(self, assembly: MetadataAssembly, name: Hashable) -> None:
        self.name = name
        self.size: int | None = None
        self.unasked = self.duplicates = 0
        self._assembly = assembly
        self._claimed: int | None = None
        self._absurd = False
        self._asked = False
        self._outcome: Outcome = "waiting"
        self._in_flight: dict[int, float] = {}  # blocks asked for, and when
        self._overdue: set[int] = set()
        self._resume_at = 0.0
        self._pause = FIRST_PAUSE

    @property
    def standing(self) -> Standing:
        return Standing(self._asked, self._outcome, self.size, self._absurd)

    def claims(self, size: int | None) -> None:
        """The peer's ``metadata_size``; None if it does not say, which is to say that it has no metadata.

        A size that cannot be, or is not the one claimed before, is a lie: such a peer is asked for nothing more.
        """
        if size is None or size == self._claimed:
            return
        self._absurd = self._claimed is not None or not 1 <= size <= MAX_METADATA_SIZE
        self._claimed = size
        self._abandon()
        self.size = None if self._absurd else size
        if self._outcome == "refused":  # it has got the metadata since
            self._outcome, self._resume_at = "waiting", 0.0
        self._assembly.claim_ended(self)

    def next_blocks(self, now: float) -> list[int]:
        """The blocks to ask the peer for now; they count as asked for.

        A peer that claims no size is asked for block 0 now and then: it may have got the metadata since its handshake,
        and the answer tells the size.
        """
        if self._assembly.complete is not None or self._absurd or self._assembly.convicted(self.name):
            return []
        if now < self._resume_at:
            return []
        blocks: list[int] = []
        while len(self._in_flight) < IN_FLIGHT and (index := self._choose(now)) is not None:
            self._in_flight[index] = now
            self._overdue.discard(index)
            self._asked = True
            blocks.append(index)
        return blocks

    def _choose(self, now: float) -> int | None:
        if self.size is None:
            return None if self._in_flight else 0
        attempt = self._assembly.attempt_for(self, self.size, now)
        return attempt.choose(self._in_flight, now) if attempt is not None else None

    def arrived_untrusted(self, message: MetadataData, now: float) -> None:
        """A block came.  What was not asked for is counted and ignored.

        RemoteProtocolError("bad-metadata") if it contradicts the peer's own claim of a size, or completes a copy that
        proves the peer a liar.
        """
        if self._assembly.complete is not None:
            return
        index = message.piece
        if self._in_flight.pop(index, None) is None and index not in self._overdue:
            self.unasked += 1
            return
        self._overdue.discard(index)
        size = self._size_of(message)
        if self._outcome == "silent":
            self._resume_at = now
        self._outcome = "answered"
        self._pause = FIRST_PAUSE
        self.duplicates += not self._assembly.arrived(self, size, index, message.block, now)
        if self._assembly.convicted(self.name):
            raise RemoteProtocolError("bad-metadata", "the SHA-1 of all blocks is not the info-hash")

    def _size_of(self, message: MetadataData) -> int:
        """The size of the whole, which the message must agree with, or tells if the peer's handshake did not."""
        size = message.total_size if self.size is None else self.size
        if size is None or not 1 <= size <= MAX_METADATA_SIZE or message.total_size not in (None, size):
            self._absurd = True
            raise RemoteProtocolError("bad-metadata", f"total_size {message.total_size}, metadata_size {self.size}")
        if len(message.block) != block_length(size, message.piece):
            raise RemoteProtocolError("bad-metadata", f"block {message.piece} has {len(message.block)} bytes")
        self.size = self._claimed = size
        return size

    def rejected(self, index: int, now: float) -> None:
        """The peer refuses to send a block: it is left alone for a while.  Ignored if it was not asked for."""
        if self._in_flight.pop(index, None) is None and index not in self._overdue:
            return
        self._overdue.discard(index)
        self._give_back(index)
        self._outcome = "refused"
        self._resume_at = now + REFUSED_PAUSE

    def expire(self, now: float) -> None:
        """Requests that were not answered in time go to others.  About once a second."""
        late = [index for index, asked in self._in_flight.items() if now - asked >= ANSWER_WITHIN]
        if not late:
            return
        for index in late:
            del self._in_flight[index]
            self._overdue.add(index)
            self._give_back(index)
        self._outcome = "silent"
        self.pause(now)

    def pause(self, now: float) -> None:
        """Ask for nothing for a while, each time longer until the peer answers."""
        self._resume_at = max(self._resume_at, now + self._pause)
        self._pause = min(2 * self._pause, MAX_PAUSE)

    def leave(self) -> None:
        """The connection has ended."""
        self._abandon()
        self._assembly.left(self)

    def _abandon(self) -> None:
        """Expect no more answers: those of an earlier size would be taken for the new one's."""
        for index in self._in_flight:
            self._give_back(index)
        self._in_flight.clear()
        self._overdue.clear()

    def _give_back(self, index: int) -> None:
        if self.size is not None:
            self._assembly.give_back(self, self.size, index)
