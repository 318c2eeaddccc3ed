"""Pieces and blocks through threads: hops counted, cancellation, the cache, checking."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from swarm.bitfield import Bitfield
from swarm.errors import StorageError
from swarm.torrent import disk as disk_module
from swarm.torrent.disk import CHUNK, Disk, run_inline, threads
from swarm.torrent.readcache import ReadCache
from swarm.torrent.storage import Storage
from tests.torrent.disk_samples import PAD, lay_out, lay_out_sparse, piece, single, single_of, torrent

KIB = 1 << 10
MIB = 1 << 20
BLOCK = 16 * KIB


class CountingRunner:
    """Counts hops; each can be held until ``gate`` opens."""

    def __init__(self) -> None:
        self.hops = 0
        self.gate = trio.Event()
        self.gate.set()

    async def __call__(self, function: Callable[..., Any], /, *arguments: object) -> Any:
        self.hops += 1
        await trio.lowlevel.checkpoint()
        await self.gate.wait()
        return function(*arguments)


def waiting_disk(storage: Storage, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Disk, CountingRunner]:
    """A disk whose reads always wait, as if nothing were in the page cache."""
    monkeypatch.setattr(storage, "_cached_flags", None)
    runner = CountingRunner()
    return Disk(storage, runner=runner, **options), runner


async def read_all(disk: Disk, index: int, size: int) -> bytes:
    return b"".join([bytes(await disk.read(index, at, min(BLOCK, size - at))) for at in range(0, size, BLOCK)])


# Writing


async def test_a_piece_that_matches_is_written_in_one_hop(tmp_path: Path) -> None:
    metainfo, content = torrent([("a", 30), ("b/c", 5), (".pad/9", 9, PAD), ("d", 21)], 32)
    runner = CountingRunner()
    disk = Disk(Storage(tmp_path, metainfo), runner=runner)
    for index in (1, 0, 2):
        assert await disk.write_piece(index, piece(metainfo, content, index))
    assert runner.hops == 3
    assert (await disk.check(range(3))).complete
    assert (tmp_path / "t/d").read_bytes() == content[44:]
    statistics = disk.statistics()
    assert (statistics.pieces_written, statistics.bytes_written) == (3, 65)
    assert (statistics.pieces_failed, statistics.pieces_checked, statistics.bytes_checked) == (0, 3, 65)


async def test_a_piece_that_does_not_match_is_not_written(tmp_path: Path) -> None:
    metainfo, content = single(100, 50)
    disk = Disk(Storage(tmp_path, metainfo))
    wrong = bytearray(piece(metainfo, content, 0))
    wrong[49] ^= 1
    assert not await disk.write_piece(0, wrong)
    assert os.listdir(tmp_path) == []
    assert disk.statistics().pieces_failed == 1
    with pytest.raises(ValueError, match="piece 0 has 50 bytes, not 49"):
        await disk.write_piece(0, wrong[:49])


async def test_a_large_piece_over_many_files(tmp_path: Path) -> None:
    metainfo, content = torrent([(f"{n:02}", n * 100_001) for n in range(20)], 16 * MIB)
    disk = Disk(Storage(tmp_path, metainfo))
    assert metainfo.piece_count == 2
    assert await disk.write_piece(0, memoryview(content)[: 16 * MIB])
    assert await disk.write_piece(1, memoryview(content)[16 * MIB :])
    assert (await disk.check([0, 1])).complete
    assert await read_all(disk, 0, 16 * MIB) == content[: 16 * MIB]


async def test_a_cancelled_writer_still_gets_its_answer(tmp_path: Path) -> None:
    metainfo, content = single(50, 50)
    disk = Disk(Storage(tmp_path, metainfo), runner=threads(1))
    answers = []
    with trio.CancelScope() as scope:
        scope.cancel()
        answers.append(await disk.write_piece(0, content))
    assert answers == [True]
    assert (tmp_path / "t").read_bytes() == content


async def test_a_piece_is_never_on_disk_without_somebody_knowing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled while the thread is in the middle of a write: it is finished, and whoever asked is told."""
    metainfo, content = single(2 * MIB, MIB)
    storage = Storage(tmp_path, metainfo)
    disk = Disk(storage)
    half_way, go_on = threading.Event(), threading.Event()
    pwritev = os.pwritev

    def slowly(fd: int, buffers: list[memoryview], offset: int) -> int:
        if offset == 0:
            count = pwritev(fd, [buffers[0][: MIB // 2]], offset)
            half_way.set()
            assert go_on.wait(10)
            return count
        return pwritev(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", slowly)
    have = Bitfield(2)

    async def download() -> None:
        if await disk.write_piece(0, piece(metainfo, content, 0)):
            have.add(0)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(download)
        await trio.to_thread.run_sync(half_way.wait, 10)
        nursery.cancel_scope.cancel()
        go_on.set()
    assert 0 in have
    assert await disk.check([0, 1]) == have


async def test_a_full_disk_is_told_and_nothing_verified_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metainfo, content = single(3 * MIB, MIB)
    disk = Disk(Storage(tmp_path, metainfo))
    assert await disk.write_piece(1, piece(metainfo, content, 1))
    pwritev = os.pwritev

    def nearly_full(fd: int, buffers: list[memoryview], offset: int) -> int:
        if offset:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwritev(fd, [buffers[0][:1000]], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", nearly_full)
        with pytest.raises(StorageError, match="the disk is full"):
            await disk.write_piece(0, piece(metainfo, content, 0))
    assert list(await disk.check(range(3))) == [1]
    assert await disk.write_piece(0, piece(metainfo, content, 0))
    assert list(await disk.check(range(3))) == [0, 1]


# Reading


async def test_64_consecutive_blocks_cost_one_hop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metainfo, content = single(2 * MIB + 100, MIB)
    lay_out(tmp_path, metainfo, content)
    disk, runner = waiting_disk(Storage(tmp_path, metainfo), monkeypatch)
    for index, size in ((1, MIB), (2, 100), (0, MIB)):
        assert await read_all(disk, index, size) == piece(metainfo, content, index)
    assert runner.hops == 3
    statistics = disk.statistics()
    assert (statistics.reads_in_threads, statistics.reads_inline) == (3, 0)
    assert statistics.bytes_read == len(content)


async def test_what_the_page_cache_holds_costs_no_hop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metainfo, content = single(2 * MIB, 2 * MIB)
    lay_out(tmp_path, metainfo, content)
    storage = Storage(tmp_path, metainfo)
    disk = Disk(storage)

    def cached(offset: int, buffer: bytearray | memoryview) -> bool:
        storage.read_into(offset, buffer)
        return True

    monkeypatch.setattr(storage, "_cached_flags", 0)
    monkeypatch.setattr(storage, "read_cached", cached)
    blocks = [disk.read_nowait(0, at, BLOCK) for at in range(0, 2 * MIB, BLOCK)]
    assert b"".join(block for block in blocks if block is not None) == content
    statistics = disk.statistics()
    assert (statistics.reads_inline, statistics.reads_in_threads) == (2 * MIB // CHUNK, 0)
    assert statistics.cache_hits == 128 - statistics.reads_inline


async def test_peers_reading_the_same_piece_share_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metainfo, content = single(MIB, MIB)
    lay_out(tmp_path, metainfo, content)
    disk, runner = waiting_disk(Storage(tmp_path, metainfo), monkeypatch, cache=ReadCache(0))
    read: dict[int, memoryview] = {}

    async def peer(number: int) -> None:
        read[number] = await disk.read(0, number * BLOCK, BLOCK)

    async with trio.open_nursery() as nursery:
        for number in range(64):
            nursery.start_soon(peer, number)
    assert b"".join(read[number] for number in range(64)) == content
    assert runner.hops == 1


async def test_a_reader_that_is_cancelled_leaves_the_others_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metainfo, content = single(MIB, MIB)
    lay_out(tmp_path, metainfo, content)
    disk, runner = waiting_disk(Storage(tmp_path, metainfo), monkeypatch)
    runner.gate = trio.Event()
    read: list[bytes] = []
    first = trio.CancelScope()

    async def leader() -> None:
        with first:
            await disk.read(0, 0, BLOCK)

    async def follower() -> None:
        read.append(bytes(await disk.read(0, BLOCK, BLOCK)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leader)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(follower)
        nursery.start_soon(follower)
        await trio.testing.wait_all_tasks_blocked()
        first.cancel()
        await trio.testing.wait_all_tasks_blocked()
        runner.gate.set()
    assert first.cancelled_caught
    assert read == [content[BLOCK : 2 * BLOCK]] * 2
    assert runner.hops == 2


async def test_each_reader_of_a_file_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metainfo, _ = single(MIB, MIB)
    disk, _ = waiting_disk(Storage(tmp_path, metainfo), monkeypatch)
    told: list[str] = []

    async def peer() -> None:
        with pytest.raises(StorageError) as caught:
            await disk.read(0, 0, BLOCK)
        told.append(str(caught.value))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(peer)
    assert told == [f"cannot read {tmp_path}/t: it does not exist"] * 5


async def test_a_block_that_was_read_never_changes(tmp_path: Path) -> None:
    metainfo, content = single(4 * CHUNK, CHUNK)
    lay_out(tmp_path, metainfo, content)
    cache = ReadCache(CHUNK)
    disk = Disk(Storage(tmp_path, metainfo), cache=cache)
    block = await disk.read(0, 100, 50)
    with pytest.raises(TypeError):
        block[0] = 1
    (tmp_path / "t").write_bytes(bytes(len(content)))
    for index in (1, 2, 3):
        assert not any(await disk.read(index, 0, CHUNK))
    assert len(cache) == 1
    assert block == content[100:150]
    assert not any(await disk.read(0, 100, 50))


async def test_a_piece_written_again_is_read_anew(tmp_path: Path) -> None:
    metainfo, content = single(MIB, MIB)
    lay_out(tmp_path, metainfo, bytes(MIB))
    disk = Disk(Storage(tmp_path, metainfo))
    assert not any(await disk.read(0, 0, BLOCK))
    assert await disk.write_piece(0, content)
    assert await read_all(disk, 0, MIB) == content


async def test_blocks_at_odd_places_and_of_odd_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metainfo, content = torrent([("a", 300_001), ("b", 99), (".pad/1", 77_777, PAD), ("c", 900_001)], MIB)
    lay_out(tmp_path, metainfo, content)
    storage = Storage(tmp_path, metainfo)
    for disk in (Disk(storage), waiting_disk(storage, monkeypatch)[0]):
        for begin, length in ((0, 1), (CHUNK - 1, 2), (CHUNK - 5, CHUNK), (299_990, 100_000), (MIB - 7, 7), (0, MIB)):
            assert await disk.read(0, begin, length) == content[begin : begin + length]
        last = metainfo.piece_size(1)
        assert await disk.read(1, 0, last) == content[MIB:]
        for begin, length in ((0, last + 1), (last, 1), (-1, 2), (5, 0), (5, -1)):
            with pytest.raises(ValueError, match="no block"):
                await disk.read(1, begin, length)
        with pytest.raises(IndexError):
            disk.read_nowait(2, 0, 1)


async def test_the_cache_is_bounded_and_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metainfo, content = single(4 * MIB, MIB)
    cache = ReadCache(2 * MIB)
    disks = []
    for name in "ab":
        lay_out(tmp_path / name, metainfo, content)
        disks.append(waiting_disk(Storage(tmp_path / name, metainfo), monkeypatch, cache=cache)[0])
    for disk in disks:
        for index in range(4):
            await read_all(disk, index, MIB)
            assert cache.size <= 2 * MIB
    assert cache.size == 2 * MIB
    disks[1].release()
    assert (cache.size, len(cache)) == (0, 0)
    assert await read_all(disks[1], 0, MIB) == content[:MIB]


def test_the_cache_drops_what_was_not_used_for_longest() -> None:
    cache = ReadCache(30)
    owner = object()
    for number in range(3):
        cache.add((owner, 0, number), memoryview(bytes(10)))
    assert cache.get((owner, 0, 0)) is not None
    cache.add((owner, 0, 3), memoryview(bytes(10)))
    assert [cache.get((owner, 0, number)) is not None for number in range(4)] == [True, False, True, True]
    cache.add((owner, 0, 3), memoryview(bytes(20)))
    assert cache.size == 30
    assert [cache.get((owner, 0, number)) is not None for number in range(4)] == [False, False, True, True]


async def test_a_block_in_one_file_can_be_sent_from_there(tmp_path: Path) -> None:
    metainfo, content = torrent([("a", 40_000), ("b", 40_000)], 32 * KIB)
    lay_out(tmp_path, metainfo, content)
    disk = Disk(Storage(tmp_path, metainfo))
    assert disk.file_range(1, 0, BLOCK) is None
    found = disk.file_range(1, BLOCK, BLOCK)
    assert found is not None
    disk.release()
    left, right = socket.socketpair()
    with left, right:
        assert os.sendfile(left.fileno(), found.fd, found.offset, BLOCK) == BLOCK
        received = b""
        while len(received) < BLOCK:
            received += right.recv(BLOCK)
    assert received == content[48 * KIB : 64 * KIB]


# Checking


async def test_check_finds_exactly_what_is_there(tmp_path: Path) -> None:
    metainfo, content = torrent([("a", 100_000), ("gone", 50_000), (".pad/1", 7, PAD), ("short", 90_000)], 5_000)
    lay_out(tmp_path, metainfo, content)
    (tmp_path / "t/gone").unlink()
    os.truncate(tmp_path / "t/short", 40_000)
    (tmp_path / "t/a").write_bytes(content[:42_000] + b"wrong" + content[42_005:100_000])
    disk = Disk(Storage(tmp_path, metainfo))
    found = await disk.check(range(metainfo.piece_count))
    assert list(found) == [*range(8), *range(9, 20), *range(30, 38)]
    assert list(await disk.check([30, 8, 3, 7])) == [3, 7, 30]
    assert list(await disk.check([])) == []


async def test_holes_are_skipped_but_zeros_in_them_count(tmp_path: Path) -> None:
    zeros = hashlib.sha1(bytes(MIB)).digest()
    short_zeros = hashlib.sha1(bytes(1000)).digest()
    hashes = [b"\1" * 20] * 21
    hashes[7], hashes[20] = zeros, short_zeros
    metainfo = single_of(20 * MIB + 1000, MIB, b"".join(hashes))
    lay_out_sparse(tmp_path / "t", 20 * MIB + 1000)
    disk = Disk(Storage(tmp_path, metainfo))
    assert list(await disk.check(range(21))) == [7, 20]
    assert disk.statistics().bytes_checked == 0


async def test_a_sparse_torrent_of_100_gib_is_checked_without_reading_it(tmp_path: Path) -> None:
    metainfo = single_of(100_000 * MIB, MIB, b"\1" * 20 * 100_000)
    lay_out_sparse(tmp_path / "t", 100_000 * MIB)
    runner = CountingRunner()
    disk = Disk(Storage(tmp_path, metainfo), runner=runner)
    found = await disk.check(range(100_000))
    assert found.count == 0
    assert runner.hops <= 100
    statistics = disk.statistics()
    assert (statistics.pieces_checked, statistics.bytes_checked) == (100_000, 0)


async def test_progress_counts_up_to_all(tmp_path: Path) -> None:
    metainfo, content = single(40 * MIB, MIB)
    lay_out(tmp_path, metainfo, content)
    seen: list[tuple[int, int]] = []
    found = await Disk(Storage(tmp_path, metainfo)).check(
        range(40), lambda looked_at, found: seen.append((looked_at, found.count))
    )
    assert found.complete
    assert seen == sorted(seen)
    assert len(seen) > 3
    assert seen[-1] == (40, 40)


async def test_a_check_can_be_cancelled_between_hops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_module, "CHECKERS", 1)
    metainfo, content = single(64 * MIB, MIB)
    lay_out(tmp_path, metainfo, content)
    runner = CountingRunner()
    disk = Disk(Storage(tmp_path, metainfo), runner=runner)
    with trio.CancelScope() as scope:
        await disk.check(range(64), lambda looked_at, found: looked_at >= 32 and scope.cancel())
    assert scope.cancelled_caught
    assert disk.statistics().pieces_checked == 32


async def test_a_check_that_cannot_read_raises_the_error_itself_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_module, "CHECKERS", 2)
    metainfo, content = torrent([("a", 5_000), ("b", 995_000)], 5_000)
    lay_out(tmp_path, metainfo, content)
    (tmp_path / "t/a").unlink()
    os.mkfifo(tmp_path / "t/a")
    runner = CountingRunner()
    with pytest.raises(StorageError, match="t/a: it is not a regular file"):
        await Disk(Storage(tmp_path, metainfo), runner=runner).check(range(200))
    assert runner.hops <= 4  # of eight


# Runners


async def test_inline_no_virtual_time_passes(tmp_path: Path, autojump_clock: MockClock) -> None:
    metainfo, content = single(4 * MIB, MIB)
    disk = Disk(Storage(tmp_path, metainfo), runner=run_inline)

    async def clock_watcher() -> None:
        await trio.sleep(3600)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock_watcher)
        for index in range(4):
            assert await disk.write_piece(index, piece(metainfo, content, index))
        assert await read_all(disk, 0, MIB) == content[:MIB]
        assert (await disk.check(range(4))).complete
        await disk.sync()
        assert trio.current_time() == 0
        nursery.cancel_scope.cancel()


async def test_at_most_so_many_threads_work_at_once() -> None:
    run = threads(2)
    lock = threading.Lock()
    inside = most = 0

    def work() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        trio.from_thread.run(trio.sleep, 0.01)
        with lock:
            inside -= 1

    async def start(run: Callable[..., Awaitable[None]]) -> None:
        await run(work)

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(start, run)
    assert most == 2


async def test_sync_puts_it_on_disk_and_tells_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metainfo, content = torrent([("a", 10), ("b", 10)], 10)
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(os.fstat(fd).st_ino))
    disk = Disk(Storage(tmp_path, metainfo))
    await disk.prepare({0, 1})
    assert await disk.write_piece(0, piece(metainfo, content, 0))
    states = await disk.sync()
    status = (tmp_path / "t/a").stat()
    assert synced == [status.st_ino]
    assert states == ((10, status.st_mtime_ns), None)
    assert await disk.existing() == states
