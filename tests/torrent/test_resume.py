"""Resume data: believed when it may be, doubted when it must be, harmless when it is rubbish."""

from __future__ import annotations

import dataclasses
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dht.bencode import decode_untrusted, encode
from swarm.bitfield import Bitfield
from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError, StorageError
from swarm.torrent.disk import Disk
from swarm.torrent.metainfo import Metainfo
from swarm.torrent.resume import (
    MAX_PEERS,
    SETTLED,
    WRITTEN_AFTER,
    ResumeData,
    decode_resume_untrusted,
    encode_resume,
    load_resume,
    pieces_in_doubt,
    resume_path,
    save_resume,
)
from swarm.torrent.storage import FileState, Storage
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases
from tests.torrent.disk_samples import PAD, lay_out, piece, torrent

SECOND = 1_000_000_000
NOW = 1_800_000_000.25

# Three pieces a file, the third shared with the next; then padding up to a boundary.
METAINFO, CONTENT = torrent([("a", 250), ("b", 250), (".pad/0", 100, PAD), ("empty", 0), ("c", 250)], 100)
FILES = (FileState(250, 1), FileState(250, 2 * SECOND), None, FileState(0, 3), FileState(250, 4))


def bits(size: int, *indices: int) -> Bitfield:
    bitfield = Bitfield(size)
    for index in indices:
        bitfield.add(index)
    return bitfield


def data(**changes: object) -> ResumeData:
    sample = ResumeData(
        directory=Path("/srv/downloads"),
        pieces=bits(9, 0, 1, 2, 4, 8),
        files=FILES,
        clean=True,
        saved_at=NOW,
        added_at=NOW - 1000,
        completed_at=None,
        downloaded=12345,
        uploaded=678,
        priorities=bytes([4, 0, 4, 4, 7]),
        peers=(Endpoint("192.0.2.1", 6881), Endpoint("2001:db8::1", 51413)),
    )
    return dataclasses.replace(sample, **changes)  # type: ignore[arg-type]


def decode(content: bytes) -> ResumeData:
    return decode_resume_untrusted(content, METAINFO)


# The file


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = resume_path(tmp_path / "state" / "resume", METAINFO.info_hash)
    assert path.name == METAINFO.info_hash.hex() + ".resume"
    for sample in (data(), data(clean=False, completed_at=NOW - 5, priorities=b"", peers=(), files=(None,) * 5)):
        save_resume(path, METAINFO.info_hash, sample)
        assert load_resume(path, METAINFO, pytest.fail) == sample
    assert os.listdir(path.parent) == [path.name]


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.sets(st.integers(0, 8)),
    files=st.lists(
        st.none() | st.builds(FileState, st.integers(0, 2**63 - 1), st.integers(-(2**63), 2**63 - 1)),
        min_size=5, max_size=5,
    ),
    clean=st.booleans(),
    times=st.tuples(*[st.integers(0, 4_000_000_000_000_000)] * 3),
    totals=st.tuples(*[st.integers(0, 2**62)] * 2),
    directory=st.binary(min_size=1, max_size=50).filter(lambda name: b"\0" not in name),
)  # fmt: skip
def test_anything_that_can_be_saved_is_loaded_as_it_was(
    pieces: set[int],
    files: list[FileState | None],
    clean: bool,
    times: tuple[int, int, int],
    totals: tuple[int, int],
    directory: bytes,
) -> None:
    sample = data(
        pieces=bits(9, *pieces), files=tuple(files), clean=clean, directory=Path(os.fsdecode(directory)),
        saved_at=times[0] / 1e6, added_at=times[1] / 1e6, completed_at=times[2] / 1e6,
        downloaded=totals[0], uploaded=totals[1],
    )  # fmt: skip
    assert decode(encode_resume(METAINFO.info_hash, sample)) == sample


def test_only_the_first_peers_are_kept() -> None:
    peers = tuple(Endpoint("192.0.2.1", port) for port in range(1, MAX_PEERS + 10))
    assert decode(encode_resume(METAINFO.info_hash, data(peers=peers))).peers == peers[:MAX_PEERS]


def test_nothing_saved_is_no_news(tmp_path: Path) -> None:
    assert load_resume(tmp_path / "none.resume", METAINFO, pytest.fail) is None


def test_a_broken_file_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "x.resume"
    warnings: list[str] = []
    for content in (b"", b"rubbish", encode_resume(METAINFO.info_hash, data())[:-1]):
        path.write_bytes(content)
        assert load_resume(path, METAINFO, warnings.append) is None
    assert len(warnings) == 3
    for warning in warnings:
        assert warning.startswith(f"{path} is damaged (")
        assert warning.endswith("); the files on disk are checked instead")


def test_a_file_that_cannot_be_read_is_a_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    assert load_resume(tmp_path, METAINFO, warnings.append) is None
    assert warnings == [f"cannot read {tmp_path}: Is a directory; the files on disk are checked instead"]


def test_the_file_of_another_torrent_is_not_believed(tmp_path: Path) -> None:
    with pytest.raises(RemoteProtocolError, match="it is of another torrent"):
        decode(encode_resume(b"\1" * 20, data()))


def test_the_old_file_stays_whole_when_the_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.resume"
    save_resume(path, METAINFO.info_hash, data())

    def fsync(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(StorageError, match=r"cannot save .*x.resume: No space left on device"):
            save_resume(path, METAINFO.info_hash, data(downloaded=1))
    assert load_resume(path, METAINFO, pytest.fail) == data()
    save_resume(path, METAINFO.info_hash, data(downloaded=2))
    assert load_resume(path, METAINFO, pytest.fail) == data(downloaded=2)


GOOD = encode_resume(METAINFO.info_hash, data(completed_at=NOW))


@pytest.mark.parametrize(
    "key,value",
    [
        (b"version", 2),
        (b"version", b"1"),
        (b"info-hash", b"\1" * 20),
        (b"directory", b""),
        (b"directory", b"a\0b"),
        (b"directory", 5),
        (b"pieces", b"\0"),
        (b"pieces", b"\0\x01"),
        (b"pieces", [1]),
        (b"files", bytes(16 * 4)),
        (b"files", bytes(16 * 5 + 1)),
        (b"clean", 2),
        (b"clean", -1),
        (b"saved", -1),
        (b"added", b""),
        (b"completed", (1 << 63) - 1),
        (b"downloaded", -5),
        (b"uploaded", {}),
        (b"priorities", bytes(4)),
        (b"priorities", bytes([8] * 5)),
        (b"peers", b""),
        (b"peers", [5]),
        (b"peers", [b"192.0.2.1"]),
        (b"peers", [b"\xff:1"]),
        (b"peers", [b"192.0.2.1:1"] * (MAX_PEERS + 1)),
    ],
)
def test_each_defect_is_refused(key: bytes, value: object) -> None:
    fields = decode_untrusted(GOOD)
    assert isinstance(fields, dict)
    with pytest.raises(RemoteProtocolError):
        decode(encode({**fields, key: value}))  # type: ignore[dict-item]
    del fields[key]
    if key != b"completed":
        with pytest.raises(RemoteProtocolError):
            decode(encode(fields))


def test_every_truncation_is_refused() -> None:
    decode(GOOD)
    for length in range(len(GOOD)):
        with pytest.raises(RemoteProtocolError):
            decode(GOOD[:length])
    with pytest.raises(RemoteProtocolError):
        decode(GOOD + b"e")


def test_random_bytes_and_damaged_files_are_refused_or_make_sense() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    valid = [GOOD, encode_resume(METAINFO.info_hash, data(priorities=b"", peers=(), files=(None,) * 5))]
    survivors = 0
    for count, cases in enumerate(
        (random_bytes_cases(rng, 300, fuzz_count() // 2), mutations(rng, valid, fuzz_count()))
    ):
        for content in cases:
            try:
                loaded = decode(content)
            except RemoteProtocolError:
                continue
            survivors += count
            assert loaded.pieces.size == 9 and len(loaded.files) == 5, (seed, content)
            trusted, doubtful = pieces_in_doubt(loaded, METAINFO, FILES)
            assert not set(trusted) & set(doubtful), (seed, content)
    assert survivors, seed


# What is believed


def changed(index: int, state: FileState | None) -> list[FileState | None]:
    files: list[FileState | None] = list(FILES)
    files[index] = state
    return files


def doubts(sample: ResumeData | None, files: list[FileState | None] | None = None) -> tuple[list[int], list[int]]:
    trusted, doubtful = pieces_in_doubt(sample, METAINFO, FILES if files is None else files)
    return list(trusted), doubtful


def test_after_a_clean_exit_unchanged_files_are_trusted() -> None:
    assert doubts(data()) == ([0, 1, 2, 4, 8], [])
    recent = int(NOW * SECOND)
    files = [FileState(250, recent) for _ in range(5)]
    assert doubts(data(files=tuple(files)), list(files)) == ([0, 1, 2, 4, 8], [])


LATE = int((NOW + WRITTEN_AFTER + 1) * SECOND)


@pytest.mark.parametrize("state", [FileState(250, LATE), FileState(249, 1), FileState(251, 1), FileState(0, 9)])
@pytest.mark.parametrize("clean", [True, False])
def test_every_piece_of_a_changed_file_is_in_doubt_recorded_or_not(clean: bool, state: FileState) -> None:
    assert doubts(data(clean=clean), changed(0, state)) == ([4, 8], [0, 1, 2])
    assert doubts(data(clean=clean), changed(1, state)) == ([0, 1, 8], [2, 3, 4])
    assert doubts(data(clean=clean), changed(4, state)) == ([0, 1, 2, 4], [6, 7, 8])


def test_after_a_crash_recorded_pieces_of_a_file_that_we_were_writing_are_not_hashed_again() -> None:
    written = FileState(250, int((NOW + 29) * SECOND))
    assert doubts(data(clean=False), changed(1, written)) == ([0, 1, 2, 4, 8], [3])
    assert doubts(data(clean=True), changed(1, written)) == ([0, 1, 8], [2, 3, 4])
    shorter = FileState(249, written.mtime_ns)
    assert doubts(data(clean=False), changed(1, shorter)) == ([0, 1, 8], [2, 3, 4])


def test_an_empty_file_that_was_touched_concerns_no_piece() -> None:
    assert doubts(data(), changed(3, FileState(0, 99))) == ([0, 1, 2, 4, 8], [])


def test_pieces_of_a_file_that_is_gone_are_neither_trusted_nor_worth_hashing() -> None:
    assert doubts(data(), changed(0, None)) == ([4, 8], [])


def test_a_file_that_appeared_since_is_hashed() -> None:
    saved = data(files=tuple(changed(4, None)), pieces=bits(9, 0, 1))
    assert doubts(saved) == ([0, 1], [6, 7, 8])


def test_after_a_crash_unrecorded_pieces_of_files_young_at_the_save_are_in_doubt() -> None:
    """They may have been written between the copy of the bits and the look at the files, or in the same tick."""
    quiet = FileState(250, int((NOW - SETTLED - 1) * SECOND))
    young = FileState(250, int((NOW - SETTLED + 1) * SECOND))
    future = FileState(250, int((NOW + 3600) * SECOND))
    for state, expected in ((quiet, []), (young, [3]), (future, [3])):
        files = changed(1, state)
        assert doubts(data(clean=False, files=tuple(files)), files) == ([0, 1, 2, 4, 8], expected)
        assert doubts(data(clean=True, files=tuple(files)), files) == ([0, 1, 2, 4, 8], [])


def test_without_resume_data_all_that_may_be_there_is_in_doubt() -> None:
    assert doubts(None) == ([], list(range(9)))
    assert doubts(None, changed(1, None)) == ([], [0, 1, 5, 6, 7, 8])
    assert doubts(None, [None] * 5) == ([], [5])  # nothing but padding


# The whole way


async def test_a_piece_written_after_the_last_save_is_found_again(tmp_path: Path) -> None:
    disk = Disk(Storage(tmp_path, METAINFO))
    have = Bitfield(9)
    for index in (0, 2, 8):
        assert await disk.write_piece(index, piece(METAINFO, CONTENT, index))
        have.add(index)
    saved = data(pieces=have.copy(), clean=False, files=await disk.sync(), saved_at=os.stat(tmp_path / "t/c").st_mtime)
    for index in (1, 7):
        assert await disk.write_piece(index, piece(METAINFO, CONTENT, index))
    again = Disk(Storage(tmp_path, METAINFO))
    trusted, doubtful = pieces_in_doubt(saved, METAINFO, await again.existing())
    found = await again.check(doubtful)
    assert sorted([*trusted, *found]) == [0, 1, 2, 7, 8]


async def test_a_recorded_piece_that_somebody_changed_is_not_believed(tmp_path: Path) -> None:
    lay_out(tmp_path, METAINFO, CONTENT)
    disk = Disk(Storage(tmp_path, METAINFO))
    saved = data(pieces=Bitfield.full(9), files=await disk.sync())
    status = (tmp_path / "t/b").stat()
    (tmp_path / "t/b").write_bytes(b"!" + CONTENT[251:500])
    os.utime(tmp_path / "t/b", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    trusted, doubtful = pieces_in_doubt(saved, METAINFO, await disk.existing())
    assert list(trusted) == [0, 1, 5, 6, 7, 8]
    assert list(await disk.check(doubtful)) == [3, 4]


KILLED = """
import random, sys, time
from pathlib import Path
import trio
from swarm.bitfield import Bitfield
from swarm.torrent.disk import Disk
from swarm.torrent.metainfo import Metainfo
from swarm.torrent.resume import ResumeData, save_resume
from swarm.torrent.storage import Storage
from tests.torrent.disk_samples import piece
from tests.torrent.test_resume import killed_torrent

metainfo, content = killed_torrent()
directory = Path(sys.argv[1])
disk = Disk(Storage(directory, metainfo))
have = Bitfield(metainfo.piece_count)
order = random.Random(int(sys.argv[2])).sample(range(metainfo.piece_count), metainfo.piece_count)

async def save():
    pieces, now = have.copy(), time.time()
    files = await disk.sync()
    data = ResumeData(directory=directory, pieces=pieces, files=files, clean=False, saved_at=now, added_at=1.0)
    save_resume(directory / "t.resume", metainfo.info_hash, data)

async def write(index):
    assert await disk.write_piece(index, piece(metainfo, content, index))
    have.add(index)
    print(index, flush=True)

async def main():
    await save()
    for start in range(0, len(order), 4):
        async with trio.open_nursery() as nursery:
            for index in order[start : start + 4]:
                nursery.start_soon(write, index)
            if start % 40 == 20:
                nursery.start_soon(save)
        await trio.sleep(0.002)  # let the killer keep up
    await trio.sleep_forever()

trio.run(main)
"""


def killed_torrent() -> tuple[Metainfo, bytes]:
    return torrent([("a", 7 << 20), ("b", 100_001), ("c", 5 << 20), ("d", 24 << 20)], 64 << 10)


def kill_in_mid_download(directory: Path, seed: int, reported: int) -> set[int]:
    """Which pieces a downloader said that it had before SIGKILL hit it."""
    command = [sys.executable, "-c", KILLED, str(directory), str(seed)]
    told: set[int] = set()
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told.add(int(line))
            if len(told) > reported:
                break
        process.kill()
        told.update(int(line) for line in process.stdout if line.endswith("\n"))
    assert process.returncode == -9, seed
    return told


@pytest.mark.parametrize("reported", [0, 100])
async def test_after_kill_9_every_piece_that_was_reported_is_found(tmp_path: Path, reported: int) -> None:
    seed = random.SystemRandom().getrandbits(32)
    told = kill_in_mid_download(tmp_path, seed, reported)
    metainfo, content = killed_torrent()
    saved = load_resume(tmp_path / "t.resume", metainfo, pytest.fail)
    assert saved is not None
    assert not saved.clean
    disk = Disk(Storage(tmp_path, metainfo))
    trusted, doubtful = pieces_in_doubt(saved, metainfo, await disk.existing())
    have = {*trusted, *await disk.check(doubtful)}
    assert told <= have, seed
    for index in have:
        buffer = bytearray(metainfo.piece_size(index))
        disk.storage.read_into(index * metainfo.piece_length, buffer)
        assert buffer == piece(metainfo, content, index), seed
    for index in set(range(metainfo.piece_count)) - have:
        assert await disk.write_piece(index, piece(metainfo, content, index))
    assert (tmp_path / "t/d").read_bytes() == content[-(24 << 20) :]
