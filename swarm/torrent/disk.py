"""One torrent's disk as its tasks see it: pieces hashed and written, blocks read, files checked (BEP 3).

`swarm.torrent.storage` does the I/O; here it is moved to threads, a whole piece or many of them per hop, because a hop
costs about 80 µs.  It decides nothing about pieces: who asks, what is verified and what a mismatch means is the
torrent's business.  How threads are run is injected: virtual time jumps hours while a thread works, so simulations
pass `run_inline`.

Reading for uploads, per 16 KiB block: a slice of a chunk in the cache (0.7 µs); else the chunk is read where we stand
if that need not wait for a disk (10 to 30 µs per 256 KiB); else one hop reads 1 MiB.  Handing such slices to sendmsg,
16 blocks at a time, took 5.0 to 5.7 µs of processor time a block on loopback; a header and a sendfile for each block
7.0 to 8.5, and 5.0 with the range looked up once a piece: the copy saved pays for the calls added and no more.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import trio

from swarm.bitfield import Bitfield
from swarm.errors import StorageError
from swarm.torrent.check import PieceChecker, Slice
from swarm.torrent.openfile import OpenFile
from swarm.torrent.readcache import ReadCache
from swarm.torrent.storage import FileState, Storage

THREADS = 4
"""Hops of one node under way at once: two can hash on two cores while others wait for the disk."""

CHUNK = 256 << 10
"""Bytes read and cached as one: fits the second-level cache between the read and the send."""

READ_AHEAD = 4
"""Chunks read by one hop, so that 64 consecutive 16 KiB blocks cost one."""

CHECKERS = max(1, min(4, os.cpu_count() or 1))
"""Hops of one check under way at once: a core each."""

MAX_SEGMENT = 4096
"""Pieces that one worker of a check takes for itself, so that the disk is read in few places at once."""

T = TypeVar("T")


class Runner(Protocol):
    """Runs a synchronous function where it may block, to its end, whatever is cancelled meanwhile."""

    def __call__(self, function: Callable[..., T], /, *arguments: object) -> Awaitable[T]: ...


def threads(count: int = THREADS) -> Runner:
    """A runner on trio's worker threads, at most ``count`` at once; one per node.

    A task that is cancelled before its turn never starts the function; once it has started it is waited for.
    """
    return partial(trio.to_thread.run_sync, limiter=trio.CapacityLimiter(count), abandon_on_cancel=False)


async def run_inline(function: Callable[..., T], /, *arguments: object) -> T:
    """A runner without threads, for virtual time: blocks everything else, after one checkpoint."""
    await trio.lowlevel.checkpoint()
    return function(*arguments)


class FileRange(NamedTuple):
    """A range that lies in one open file, for sendfile.  ``fd`` is valid for as long as ``file`` is referred to."""

    file: OpenFile
    offset: int

    @property
    def fd(self) -> int:
        return self.file.fd


@dataclass(frozen=True, slots=True)
class DiskStatistics:
    """What one torrent's disk did since it was opened.  Bytes, calls and nanoseconds spent working in hops."""

    bytes_written: int
    bytes_read: int
    bytes_checked: int
    pieces_written: int
    pieces_failed: int
    pieces_checked: int
    cache_hits: int
    reads_inline: int
    reads_in_threads: int
    hash_ns: int
    write_ns: int
    read_ns: int
    check_ns: int


class Disk:
    """The disk of one torrent.  ``runner`` and ``cache`` are shared by the node's torrents, like the storage's handles.

    Every method raises StorageError as `Storage` does.
    """

    def __init__(self, storage: Storage, *, runner: Runner | None = None, cache: ReadCache | None = None) -> None:
        self.storage = storage
        self._metainfo = storage.metainfo
        self._run = threads() if runner is None else runner
        self._cache = ReadCache() if cache is None else cache
        self._loading: dict[tuple[int, int], _Loading] = {}
        self._bytes_written = self._bytes_read = self._bytes_checked = 0
        self._pieces_written = self._pieces_failed = self._pieces_checked = 0
        self._cache_hits = self._reads_inline = self._reads_in_threads = 0
        self._hash_ns = self._write_ns = self._read_ns = self._check_ns = 0

    def statistics(self) -> DiskStatistics:
        return DiskStatistics(
            bytes_written=self._bytes_written,
            bytes_read=self._bytes_read,
            bytes_checked=self._bytes_checked,
            pieces_written=self._pieces_written,
            pieces_failed=self._pieces_failed,
            pieces_checked=self._pieces_checked,
            cache_hits=self._cache_hits,
            reads_inline=self._reads_inline,
            reads_in_threads=self._reads_in_threads,
            hash_ns=self._hash_ns,
            write_ns=self._write_ns,
            read_ns=self._read_ns,
            check_ns=self._check_ns,
        )

    async def prepare(self, wanted: Collection[int]) -> None:
        """`Storage.prepare` for the files in ``wanted``, in a thread."""
        await self._run(self.storage.prepare, wanted)

    async def write_piece(self, index: int, buffer: bytes | bytearray | memoryview) -> bool:
        """As `write_pieces` for one piece, with its StorageError raised."""
        (outcome,) = await self.write_pieces([(index, buffer)])
        if isinstance(outcome, StorageError):
            raise outcome
        return outcome

    async def write_pieces(
        self, pieces: Sequence[tuple[int, bytes | bytearray | memoryview]]
    ) -> list[bool | StorageError]:
        """What became of each piece, all in one hop, because a hop costs as much as hashing 200 KiB.

        True: it matched its hash and is in the files; False: it did not, and nothing was written; StorageError: the
        file system refused it.  Each buffer is the whole piece and must not change meanwhile.  Not cancellable: a
        caller that is cancelled while it waits still gets the answer, so a piece is never on disk without somebody
        knowing.
        """
        for index, buffer in pieces:
            if len(buffer) != self._metainfo.piece_size(index):
                raise ValueError(f"piece {index} has {self._metainfo.piece_size(index)} bytes, not {len(buffer)}")
        with trio.CancelScope(shield=True):
            outcomes, hash_ns, write_ns = await self._run(self._hash_and_write, pieces)
        self._hash_ns += hash_ns
        self._write_ns += write_ns
        for (index, buffer), outcome in zip(pieces, outcomes, strict=True):
            if outcome is True:
                self._pieces_written += 1
                self._bytes_written += len(buffer)
                for chunk in range(-(-len(buffer) // CHUNK)):  # what was there before a recheck failed
                    self._cache.discard((self, index, chunk))
            elif outcome is False:
                self._pieces_failed += 1
        return outcomes

    def read_nowait(self, index: int, begin: int, length: int) -> memoryview | None:
        """A block as an immutable view, if it can be had without waiting for a disk; else None: `read` it.

        The view stays as it is for as long as it is referred to.  ValueError for a block that lies outside the piece.
        """
        size = self._metainfo.piece_size(index)
        if not 0 <= begin < begin + length <= size:
            raise ValueError(f"no block of {length} bytes at {begin} in piece {index} of {size} bytes")
        number, start = divmod(begin, CHUNK)
        if start + length > CHUNK:
            return None
        chunk = self._cache.get((self, index, number))
        if chunk is not None:
            self._cache_hits += 1
        elif (index, number // READ_AHEAD) in self._loading:
            return None
        else:
            chunk = self._read_inline(index, number)
        return None if chunk is None else chunk[start : start + length]

    async def read(self, index: int, begin: int, length: int) -> memoryview:
        """As `read_nowait`, waiting if need be; a checkpoint only then.

        Tasks that want blocks of the same MiB at the same time wait for one read.  Cancelled, it waits for a read that
        has begun.
        """
        while (block := self.read_nowait(index, begin, length)) is None:
            number, start = divmod(begin, CHUNK)
            if start + length > CHUNK:
                return await self._read_unaligned(index, begin, length)
            chunks = await self._load(index, number // READ_AHEAD)
            if chunks is not None:  # not taken from the cache: others may have pushed it out already
                return chunks[number % READ_AHEAD][start : start + length]
        return block

    def file_range(self, index: int, begin: int, length: int) -> FileRange | None:
        """Where ``sendfile`` finds a block; None if it lies in several files or in padding."""
        found = self.storage.file_at(index * self._metainfo.piece_length + begin, length)
        return None if found is None else FileRange(*found)

    async def check(
        self, indices: Iterable[int], progress: Callable[[int, Bitfield], object] | None = None
    ) -> Bitfield:
        """Which of the pieces ``indices`` are on disk and match their hash; the bits of all others stay clear.

        Memory is bounded whatever the pieces' size; missing files and holes cost next to nothing.  After each hop
        ``progress`` is called with the number of pieces looked at and what was found so far (the live object).
        Cancellable between hops.
        """
        check = _Check(sorted(indices), self._metainfo.piece_count, progress)
        async with trio.open_nursery() as nursery:
            for _ in range(check.workers):
                nursery.start_soon(self._check_segments, check, nursery.cancel_scope)
        if check.error is not None:
            raise check.error
        return check.found

    async def sync(self) -> tuple[FileState | None, ...]:
        """Put all that was written on the disk itself; then what `Storage.existing` says.

        For resume data: take a copy of the verified pieces and the time *before*, and save them with what this returns.
        """
        return await self._run(self._sync_and_inspect)

    async def existing(self) -> tuple[FileState | None, ...]:
        """`Storage.existing`, in a thread."""
        return await self._run(self.storage.existing)

    def release(self) -> None:
        """Give back descriptors and cached chunks: for torrents that go idle or end.  Everything goes on working."""
        self.storage.release()
        self._cache.discard_all(self)

    async def _check_segments(self, check: _Check, rest: trio.CancelScope) -> None:
        checker = PieceChecker(self.storage)
        while check.segments:
            segment = check.segments.popleft()
            position = 0
            while position < len(segment):
                try:
                    done, spent = await self._run(self._check_slice, checker, segment, position)
                except StorageError as error:
                    check.error = error
                    rest.cancel()
                    return
                self._check_ns += spent
                self._bytes_checked += done.bytes_hashed
                self._pieces_checked += done.next_position - position
                check.add(done.next_position - position, done.good)
                position = done.next_position

    def _read_inline(self, index: int, number: int) -> memoryview | None:
        """A chunk that the page cache holds."""
        if not self.storage.tells_cached:
            return None
        started = time.perf_counter_ns()
        buffer = self._new_chunk(index, number)
        if not self.storage.read_cached(self._offset(index, number), buffer):
            return None
        self._read_ns += time.perf_counter_ns() - started
        self._reads_inline += 1
        return self._keep(index, number, buffer)

    async def _read_unaligned(self, index: int, begin: int, length: int) -> memoryview:
        """A block that crosses two chunks: no client asks for such, so it is not cached."""
        buffer = bytearray(length)
        await self._run(self.storage.read_into, self._offset(index, 0) + begin, buffer)
        self._reads_in_threads += 1
        self._bytes_read += length
        return memoryview(buffer).toreadonly()

    async def _load(self, index: int, window: int) -> list[memoryview] | None:
        """The chunks of a window, read by this task or by the one that came first; None if that one failed."""
        loading = self._loading.get((index, window))
        if loading is not None:
            await loading.done.wait()
            return loading.chunks
        loading = self._loading[index, window] = _Loading()
        first = window * READ_AHEAD
        try:
            buffers, spent = await self._run(self._read_chunks, index, first)
            loading.chunks = [self._keep(index, number, buffer) for number, buffer in enumerate(buffers, first)]
        finally:
            del self._loading[index, window]
            loading.done.set()
        self._read_ns += spent
        self._reads_in_threads += 1
        return loading.chunks

    def _keep(self, index: int, number: int, buffer: bytearray) -> memoryview:
        chunk = memoryview(buffer).toreadonly()
        self._bytes_read += len(chunk)
        self._cache.add((self, index, number), chunk)
        return chunk

    def _new_chunk(self, index: int, number: int) -> bytearray:
        return bytearray(min(CHUNK, self._metainfo.piece_size(index) - number * CHUNK))

    def _offset(self, index: int, number: int) -> int:
        return index * self._metainfo.piece_length + number * CHUNK

    # In threads.

    def _hash_and_write(
        self, pieces: Sequence[tuple[int, bytes | bytearray | memoryview]]
    ) -> tuple[list[bool | StorageError], int, int]:
        outcomes: list[bool | StorageError] = []
        hash_ns = write_ns = 0
        for index, buffer in pieces:
            started = time.perf_counter_ns()
            good = hashlib.sha1(buffer).digest() == self._metainfo.piece_hash(index)
            hashed = time.perf_counter_ns()
            try:
                if good:
                    self.storage.write(self._offset(index, 0), buffer)
                outcomes.append(good)
            except StorageError as error:
                outcomes.append(error)
            hash_ns += hashed - started
            write_ns += time.perf_counter_ns() - hashed
        return outcomes, hash_ns, write_ns

    def _read_chunks(self, index: int, first: int) -> tuple[list[bytearray], int]:
        started = time.perf_counter_ns()
        last = min(first + READ_AHEAD, -(-self._metainfo.piece_size(index) // CHUNK))
        chunks = [self._new_chunk(index, number) for number in range(first, last)]
        for number, chunk in enumerate(chunks, first):
            self.storage.read_into(self._offset(index, number), chunk)
        return chunks, time.perf_counter_ns() - started

    def _check_slice(self, checker: PieceChecker, indices: Sequence[int], position: int) -> tuple[Slice, int]:
        started = time.perf_counter_ns()
        return checker.check_slice(indices, position), time.perf_counter_ns() - started

    def _sync_and_inspect(self) -> tuple[FileState | None, ...]:
        self.storage.sync()
        return self.storage.existing()


class _Loading:
    """A read under way; ``chunks`` stays None when it failed."""

    __slots__ = ("chunks", "done")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.chunks: list[memoryview] | None = None


class _Check:
    """One call of `Disk.check`: what its workers share."""

    def __init__(
        self, indices: list[int], piece_count: int, progress: Callable[[int, Bitfield], object] | None
    ) -> None:
        self.workers = min(CHECKERS, len(indices))
        length = max(1, min(MAX_SEGMENT, len(indices) // (4 * CHECKERS)))
        self.segments = deque(indices[start : start + length] for start in range(0, len(indices), length))
        self.found = Bitfield(piece_count)
        self.error: StorageError | None = None
        self._looked_at = 0
        self._progress = progress

    def add(self, count: int, good: Iterable[int]) -> None:
        self._looked_at += count
        for index in good:
            self.found.add(index)
        if self._progress is not None:
            self._progress(self._looked_at, self.found)
