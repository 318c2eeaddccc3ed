"""Bytes of a torrent in files: boundaries, pads, planted links, full disks, files that change under us."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import StorageError
from swarm.torrent import storage as storage_module
from swarm.torrent.openfile import DataMissingError, FileHandles, OpenFile, open_beneath
from swarm.torrent.storage import Extents, FileState, Storage, lives_in_memory
from tests.needs import missing
from tests.torrent.disk_samples import EXECUTABLE, PAD, lay_out, piece, single, torrent

MIB = 1 << 20


def read(storage: Storage, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    storage.read_into(offset, buffer)
    return bytes(buffer)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# Ranges and files


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_ranges_written_in_any_order_read_back(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=8))
    if not sum(size for size, _ in sizes):
        sizes.append((1, False))
    files = [(f"d{n % 3}/f{n}", size, *([PAD] if pad else [])) for n, (size, pad) in enumerate(sizes)]
    metainfo, content = torrent(files, 16)
    cuts = sorted({0, len(content), *data.draw(st.lists(st.integers(0, len(content)), max_size=6))})
    ranges = data.draw(st.permutations(list(itertools.pairwise(cuts))))
    with tempfile.TemporaryDirectory() as directory:
        storage = Storage(Path(directory), metainfo, handles=FileHandles(2))
        for start, end in ranges:
            storage.write(start, content[start:end])
        storage.prepare(range(len(files)))
        for start, end in ranges:
            assert read(storage, start, end - start) == content[start:end]
        assert read(storage, 0, len(content)) == content
        for entry in metainfo.files:
            path = Path(directory, *entry.path)
            if entry.pad:
                assert not path.exists()
            else:
                assert path.read_bytes() == content[entry.offset : entry.offset + entry.size]
        storage.release()


def test_nothing_is_created_before_something_is_written(tmp_path: Path) -> None:
    metainfo, content = torrent([("a/b/c", 100), ("d", 0)], 32)
    storage = Storage(tmp_path / "deep" / "target", metainfo)
    with pytest.raises(DataMissingError):
        read(storage, 0, 10)
    assert storage.existing() == (None, None)
    assert list(tmp_path.iterdir()) == []
    storage.write(0, content[:10])
    assert (tmp_path / "deep/target/t/a/b/c").read_bytes() == content[:10]


def test_padding_reads_as_zeros_and_is_never_written(tmp_path: Path) -> None:
    metainfo, content = torrent([("a", 10), (".pad/6", 6, PAD), ("b", 5)], 16)
    storage = Storage(tmp_path, metainfo)
    storage.write(0, content[:10] + b"\xff" * 6 + content[16:])
    storage.prepare(range(3))
    assert read(storage, 0, 21) == content
    assert sorted(os.listdir(tmp_path / "t")) == ["a", "b"]
    assert storage.existing()[1] is None


def test_only_wanted_empty_files_are_created(tmp_path: Path) -> None:
    metainfo, _ = torrent([("a", 5), ("sub/empty", 0), ("other", 0)], 16)
    storage = Storage(tmp_path, metainfo)
    storage.prepare({0, 1})
    assert (tmp_path / "t/sub/empty").stat().st_size == 0
    assert os.listdir(tmp_path / "t") == ["sub"]


def test_a_piece_shared_with_an_unwanted_file_costs_its_blocks_and_not_its_size(tmp_path: Path) -> None:
    metainfo, _ = torrent([("unwanted", 64 * MIB), ("wanted", 100)], MIB)
    storage = Storage(tmp_path, metainfo, preallocate=True)
    storage.prepare({1})
    assert not (tmp_path / "t/unwanted").exists()
    storage.write(63 * MIB, b"x" * (MIB + 100))
    status = (tmp_path / "t/unwanted").stat()
    assert status.st_size == 64 * MIB
    assert status.st_blocks * 512 <= 2 * MIB
    assert (tmp_path / "t/wanted").read_bytes() == b"x" * 100


def test_preallocation_reserves_what_is_wanted(tmp_path: Path) -> None:
    metainfo, _ = torrent([("a", 3 * MIB), ("b", 3 * MIB)], MIB)
    Storage(tmp_path, metainfo, preallocate=True).prepare({0})
    status = (tmp_path / "t/a").stat()
    assert status.st_size == 3 * MIB
    assert status.st_blocks * 512 >= 3 * MIB
    assert not (tmp_path / "t/b").exists()


def test_a_file_system_that_cannot_reserve_stores_sparsely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fallocate(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    metainfo, _ = torrent([("a", 3 * MIB)], MIB)
    Storage(tmp_path, metainfo, preallocate=True).prepare({0})
    assert (tmp_path / "t/a").stat().st_size == 0


def test_a_longer_file_is_cut_when_it_is_written_and_not_before(tmp_path: Path) -> None:
    metainfo, content = single(100, 50)
    (tmp_path / "t").write_bytes(content + b"tail")
    storage = Storage(tmp_path, metainfo)
    assert read(storage, 0, 100) == content
    assert (tmp_path / "t").stat().st_size == 104
    storage.write(50, content[50:])
    assert (tmp_path / "t").read_bytes() == content


def test_executable_files_are_made_executable(tmp_path: Path) -> None:
    metainfo, content = torrent([("run", 5, EXECUTABLE), ("data", 5)], 16)
    Storage(tmp_path, metainfo).write(0, content)
    assert (tmp_path / "t/run").stat().st_mode & stat.S_IXUSR
    assert not (tmp_path / "t/data").stat().st_mode & stat.S_IXUSR


def test_existing_tells_sizes_and_times(tmp_path: Path) -> None:
    metainfo, content = torrent([("a", 10), ("b", 10), ("c", 10)], 16)
    lay_out(tmp_path, metainfo, content)
    (tmp_path / "t/b").unlink()
    (tmp_path / "t/c").unlink()
    (tmp_path / "t/c").symlink_to(tmp_path / "t/a")
    os.utime(tmp_path / "t/a", ns=(5, 1_234_567_891_000_000_000))
    assert Storage(tmp_path, metainfo).existing() == (FileState(10, 1_234_567_891_000_000_000), None, None)


# What a stranger may have planted


@pytest.mark.parametrize("planted", ["t", "t/sub", "t/sub/file"])
def test_a_planted_symbolic_link_leads_nowhere(tmp_path: Path, planted: str) -> None:
    metainfo, content = torrent([("sub/file", 10)], 16)
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    for target in (outside / "file", outside / "sub/file"):
        target.write_bytes(b"precious!!")
    link = tmp_path / "target" / planted
    link.parent.mkdir(parents=True)
    link.symlink_to(outside / "file" if planted.endswith("file") else outside)
    storage = Storage(tmp_path / "target", metainfo)
    with pytest.raises(StorageError, match=r"cannot write .*t/sub/file: a part of its path is a symbolic link"):
        storage.write(0, content)
    with pytest.raises(StorageError, match=r"cannot read .*t/sub/file: a part of its path is a symbolic link"):
        read(storage, 0, 10)
    assert (outside / "file").read_bytes() == (outside / "sub/file").read_bytes() == b"precious!!"
    assert sorted(os.listdir(outside)) == ["file", "sub"]


def test_a_dangling_link_does_not_create_its_target(tmp_path: Path) -> None:
    metainfo, content = single(10, 16)
    (tmp_path / "t").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="symbolic link"):
        Storage(tmp_path, metainfo).write(0, content)
    assert not (tmp_path / "elsewhere").exists()


def test_the_target_directory_itself_may_be_a_link(tmp_path: Path) -> None:
    metainfo, content = single(10, 16)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    Storage(tmp_path / "link", metainfo).write(0, content)
    assert (tmp_path / "real/t").read_bytes() == content


def test_a_fifo_neither_blocks_nor_passes_for_a_file(tmp_path: Path) -> None:
    metainfo, content = single(10, 16)
    os.mkfifo(tmp_path / "t")
    storage = Storage(tmp_path, metainfo)
    for attempt in (lambda: storage.write(0, content), lambda: read(storage, 0, 10)):
        with pytest.raises(StorageError, match="it is not a regular file"):
            attempt()


def test_directories_and_files_in_each_others_place_are_told(tmp_path: Path) -> None:
    metainfo, content = torrent([("d/f", 10), ("g", 10)], 16)
    (tmp_path / "t/g").mkdir(parents=True)
    (tmp_path / "t/d").write_text("a file")
    storage = Storage(tmp_path, metainfo)
    with pytest.raises(StorageError, match="t/d/f: a part of its path is not a directory"):
        storage.write(0, content[:10])
    with pytest.raises(StorageError, match="t/g: it is a directory"):
        storage.write(10, content[10:])
    with pytest.raises(StorageError, match="t/g: it is a directory"):
        read(storage, 10, 10)


@pytest.mark.parametrize(
    "parts", [(), ("..", "x"), ("a", ".."), ("/etc", "x"), ("a/../..", "x"), ("",), (".",), ("a\0",)]
)
def test_parts_that_are_no_plain_names_are_a_bug_of_ours(tmp_path: Path, parts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="does not stay beneath"):
        open_beneath(tmp_path, parts, writable=True)


# A file system that refuses


@pytest.fixture
def file_size_limit() -> Iterator[int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * MIB, hard))
    try:
        yield 3 * MIB
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_goes_half_way_is_told_and_harms_nothing_else(tmp_path: Path, file_size_limit: int) -> None:
    metainfo, content = single(5 * MIB, 2 * MIB)
    storage = Storage(tmp_path, metainfo)
    storage.write(0, piece(metainfo, content, 0))
    with pytest.raises(StorageError, match=r"cannot write .*/t: it would be larger than"):
        storage.write(2 * MIB, piece(metainfo, content, 1))
    assert (tmp_path / "t").stat().st_size == file_size_limit
    assert read(storage, 0, 2 * MIB) == content[: 2 * MIB]


FULL_AND_READ_ONLY = """
import subprocess, sys
from pathlib import Path
from swarm.errors import StorageError
from swarm.torrent.storage import Storage
from tests.torrent.disk_samples import piece, single

directory = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", directory], check=True)
metainfo, content = single(2 << 20, 1 << 19)
def attempt(do):
    try:
        do()
    except StorageError as error:
        print(error)
storage = Storage(directory, metainfo)
storage.write(0, piece(metainfo, content, 0))
attempt(lambda: storage.write(1 << 19, piece(metainfo, content, 1) + piece(metainfo, content, 2)))
attempt(lambda: Storage(directory, metainfo, preallocate=True).prepare({0}))
buffer = bytearray(1 << 19)
storage.read_into(0, buffer)
assert buffer == piece(metainfo, content, 0)
storage.release()
subprocess.run(["mount", "-o", "remount,ro", directory], check=True)
attempt(lambda: storage.write(0, piece(metainfo, content, 0)))
storage.read_into(0, buffer)
assert buffer == piece(metainfo, content, 0)
"""


def test_a_disk_that_is_full_or_read_only_is_told(tmp_path: Path) -> None:
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        missing("mounting a small tmpfs needs root and mount namespaces")
    run = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", FULL_AND_READ_ONLY, tmp_path],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.splitlines() == [
        f"cannot write {tmp_path}/t: the disk is full",
        f"cannot reserve space for {tmp_path}/t: the disk is full",
        f"cannot write {tmp_path}/t: the file system is read-only",
    ]


@pytest.mark.parametrize(
    "code,reason",
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EIO, "the disk reports an input/output error"),
        (errno.ESTALE, "stale file handle"),
    ],
)
def test_an_error_of_the_kernel_becomes_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, reason: str
) -> None:
    def pwritev(fd: int, buffers: list[memoryview], offset: int) -> int:
        raise OSError(code, os.strerror(code))

    metainfo, content = single(10, 16)
    monkeypatch.setattr(os, "pwritev", pwritev)
    with pytest.raises(StorageError) as caught:
        Storage(tmp_path, metainfo).write(0, content)
    assert str(caught.value) == f"cannot write {tmp_path}/t: {reason}"
    assert caught.value.code == 4


@contextlib.contextmanager
def as_nobody() -> Iterator[Path]:
    """A directory of nobody's, and our effective user nobody while the test is in it if we are root."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    root = os.geteuid() == 0
    if root:
        os.chown(directory, 65534, 65534)
        os.seteuid(65534)
    try:
        yield directory
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(directory)


def test_permission_denied_is_told() -> None:
    metainfo, content = torrent([("a", 10), ("sub/b", 10)], 16)
    with as_nobody() as directory:
        lay_out(directory, metainfo, content)
        (directory / "t/a").chmod(0o000)
        (directory / "t/sub/b").unlink()
        (directory / "t/sub").chmod(0o555)
        storage = Storage(directory, metainfo)
        with pytest.raises(StorageError) as caught:
            read(storage, 0, 10)
        assert str(caught.value) == f"cannot read {directory}/t/a: permission denied"
        with pytest.raises(StorageError) as caught:
            storage.write(10, content[10:])
        assert str(caught.value) == f"cannot write {directory}/t/sub/b: permission denied"
        (directory / "t/sub").chmod(0o755)


def test_a_file_that_may_be_read_only_is_served() -> None:
    metainfo, content = single(10, 16)
    with as_nobody() as directory:
        lay_out(directory, metainfo, content)
        (directory / "t").chmod(0o444)
        storage = Storage(directory, metainfo)
        assert read(storage, 0, 10) == content
        with pytest.raises(StorageError, match="permission denied"):
            storage.write(0, content)


# Files that change under us


def test_a_read_beyond_a_file_that_shrank_is_told(tmp_path: Path) -> None:
    metainfo, content = single(100, 50)
    lay_out(tmp_path, metainfo, content)
    storage = Storage(tmp_path, metainfo)
    assert read(storage, 50, 50) == content[50:]
    os.truncate(tmp_path / "t", 70)
    assert read(storage, 0, 50) == content[:50]
    with pytest.raises(DataMissingError) as caught:
        read(storage, 50, 50)
    assert str(caught.value) == f"cannot read {tmp_path}/t: it ends before byte 100 and should have 100"


def test_a_write_into_a_file_that_shrank_is_told_and_a_second_attempt_goes_on(tmp_path: Path) -> None:
    metainfo, content = single(100, 50)
    storage = Storage(tmp_path, metainfo)
    storage.write(50, content[50:])
    os.truncate(tmp_path / "t", 70)
    with pytest.raises(StorageError, match="it shrank from 100 to 70 bytes while in use"):
        storage.write(0, content[:50])
    storage.write(0, content[:50])
    assert (tmp_path / "t").read_bytes() == content[:70]


def test_a_file_that_another_thread_lengthens_did_not_shrink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other write falls between the look at the file's size and its comparison, as threads have it."""
    metainfo, content = single(150, 50)
    storage = Storage(tmp_path, metainfo)
    storage.write(0, content[:50])
    fstat = os.fstat

    def interrupted(fd: int) -> os.stat_result:
        status = fstat(fd)
        monkeypatch.setattr(os, "fstat", fstat)
        storage.write(100, content[100:])
        return status

    monkeypatch.setattr(os, "fstat", interrupted)
    storage.write(50, content[50:100])
    assert (tmp_path / "t").read_bytes() == content


def test_a_file_that_was_removed_is_not_written_into_nothing(tmp_path: Path) -> None:
    metainfo, content = single(100, 50)
    storage = Storage(tmp_path, metainfo)
    storage.write(0, content[:50])
    (tmp_path / "t").unlink()
    with pytest.raises(StorageError, match="it was removed or replaced while in use"):
        storage.write(50, content[50:])
    storage.write(0, content)
    assert (tmp_path / "t").read_bytes() == content


# Descriptors


def test_a_thousand_torrents_share_a_few_descriptors(tmp_path: Path) -> None:
    metainfo, content = torrent([("a", 10), ("b", 10)], 16)
    handles = FileHandles(40)
    gc.collect()  # what other tests' exceptions still refer to
    before = open_descriptors()
    storages = [Storage(tmp_path / str(number), metainfo, handles=handles) for number in range(1_000)]
    for storage in storages:
        storage.write(0, content)
        assert open_descriptors() <= before + 40
    assert len(handles) == 40
    assert all(read(storage, 5, 10) == content[5:15] for storage in storages)
    for storage in storages:
        storage.release()
    assert len(handles) == 0
    assert open_descriptors() == before
    assert read(storages[0], 0, 20) == content


def test_a_descriptor_in_use_outlives_its_place_in_the_table(tmp_path: Path) -> None:
    metainfo, content = torrent([("a", 10), ("b", 10)], 16)
    storage = Storage(tmp_path, metainfo, handles=FileHandles(1))
    storage.write(0, content)
    found = storage.file_at(2, 5)
    assert found is not None
    file, offset = found
    read(storage, 10, 10)
    assert os.pread(file.fd, 5, offset) == content[2:7]
    fd = file.fd
    del file, found
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_descriptor_that_others_push_out_of_the_table_at_once_can_still_be_used(tmp_path: Path) -> None:
    metainfo, content = torrent([("a", 40), ("b", 10), ("c", 0)], 16)
    storage = Storage(tmp_path, metainfo, handles=FileHandles(0))  # as when a thousand torrents are checked at once
    storage.prepare(range(3))
    storage.write(0, content[:20])
    storage.write(20, content[20:])
    storage.sync()
    assert read(storage, 0, 50) == content
    extents = Extents(storage)
    assert [extents.content(offset, 10) for offset in (0, 20, 35, 40)] == ["data"] * 4
    found = storage.file_at(2, 5)
    assert found is not None
    assert os.pread(found[0].fd, 5, found[1]) == content[2:7]
    assert all(state is not None for state in storage.existing())
    metainfo, content = single(MIB, 1 << 16)
    sparse = Storage(tmp_path / "sparse", metainfo, handles=FileHandles(0))
    sparse.write(MIB - 10, content[-10:])
    assert Extents(sparse).content(0, 1 << 16) == "hole"


def test_the_least_recently_used_descriptor_goes_first(tmp_path: Path) -> None:
    handles = FileHandles(2)
    for name in "abc":
        (tmp_path / name).touch()
    files: dict[str, OpenFile] = {name: open_beneath(tmp_path, (name,), writable=False) for name in "abc"}
    handles.add("a", files["a"])
    handles.add("b", files["b"])
    assert handles.get("a") is files["a"]
    handles.add("c", files["c"])
    assert handles.get("b") is None
    assert handles.get("a") is files["a"]
    handles.discard("a")
    assert handles.get("a") is None


def test_a_range_in_two_files_or_in_padding_has_no_place(tmp_path: Path) -> None:
    metainfo, content = torrent([("a", 10), (".pad/6", 6, PAD), ("b", 8), ("c", 8)], 16)
    lay_out(tmp_path, metainfo, content)
    storage = Storage(tmp_path, metainfo)
    assert storage.file_at(10, 6) is None
    assert storage.file_at(20, 8) is None
    found = storage.file_at(25, 3)
    assert found is not None
    assert os.pread(found[0].fd, 3, found[1]) == content[25:28]


# Durability


def test_sync_reaches_every_file_written_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metainfo, content = torrent([("a", 10), ("b", 10), ("c", 10)], 16)
    lay_out(tmp_path, metainfo, content)
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(os.fstat(fd).st_ino))
    storage = Storage(tmp_path, metainfo, handles=FileHandles(1))
    storage.write(0, content[:15])
    storage.sync()
    storage.sync()
    assert sorted(synced) == sorted((tmp_path / "t" / name).stat().st_ino for name in "ab")


def test_a_sync_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metainfo, content = single(10, 16)
    storage = Storage(tmp_path, metainfo)
    storage.write(0, content)
    calls: list[int] = []

    def fdatasync(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with pytest.raises(StorageError, match="input/output error"):
        storage.sync()
    storage.sync()
    assert len(calls) == 2


# Without waiting


def test_a_cached_read_is_right_or_refused(tmp_path: Path) -> None:
    metainfo, content = torrent([("a", 100), ("b", 100)], 64)
    storage = Storage(tmp_path, metainfo)
    buffer = bytearray(150)
    assert not storage.read_cached(20, buffer)  # no file is open
    storage.write(0, content)
    assert storage.read_cached(20, buffer) or storage.read_cached(20, buffer) or not storage.tells_cached
    assert buffer == content[20:170] or not storage.tells_cached


def test_tmpfs_cannot_tell_and_needs_not() -> None:
    if not lives_in_memory(Path("/dev/shm")):
        missing("/dev/shm is no tmpfs here")
    metainfo, content = single(100, 64)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        storage = Storage(Path(directory), metainfo)
        storage.write(0, content)
        buffer = bytearray(100)
        assert storage.read_cached(0, buffer) or storage.read_cached(0, buffer)
        assert buffer == content
        storage.release()


@pytest.mark.parametrize("code,tells", [(errno.EAGAIN, True), (errno.EIO, True), (errno.EOPNOTSUPP, False)])
def test_a_cached_read_that_the_kernel_refuses_is_left_to_one_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, tells: bool
) -> None:
    metainfo, content = single(100, 64)
    storage = Storage(tmp_path, metainfo)
    storage.write(0, content)

    def preadv(fd: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(storage_module, "lives_in_memory", lambda path: False)
    monkeypatch.setattr(os, "preadv", preadv)
    assert not storage.read_cached(0, bytearray(100))
    assert storage.tells_cached is tells


# Holes


def test_extents_tell_absent_from_holes_from_data(tmp_path: Path) -> None:
    metainfo, _ = torrent([("a", 8 * MIB), (".pad/0", MIB, PAD), ("b", 2 * MIB), ("c", MIB)], MIB)
    storage = Storage(tmp_path, metainfo)
    storage.write(3 * MIB, b"x" * MIB)
    storage.write(8 * MIB - 1, b"x")
    with open(tmp_path / "t/b", "wb") as file:
        file.truncate(MIB + 5)
    extents = Extents(storage)
    found = [extents.content(index * MIB, MIB) for index in range(12)]
    assert found == ["hole"] * 3 + ["data"] + ["hole"] * 3 + ["data", "hole", "hole", "absent", "absent"]
    assert extents.content(3 * MIB, 5 * MIB) == "data"
    assert extents.content(8 * MIB, 2 * MIB) == "hole"
    assert extents.content(7 * MIB, 5 * MIB) == "absent"
