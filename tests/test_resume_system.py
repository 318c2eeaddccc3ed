"""Downloads that are killed, cut short or sabotaged between two runs of the real program: what is verified stays.

The seed is ours as well; everything is on loopback, with a state directory of its own.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from swarm.torrent.create import create
from tests.cli.programs import environment, events, seeding, swarm
from tests.needs import need_program, need_root
from tests.nodes import Sample, make_sample

PIECE = 128 << 10
SIZE = 40 * PIECE + 4711
LOOPBACK = ("--bind", "127.0.0.1", "-p", 0, "--no-dht", "--no-lsd", "--no-mapping")


class Download:
    """``swarm download`` of the sample, as often as needed, always into the same directory."""

    def __init__(self, home: Path, sample: Sample, torrent: Path, peer: str) -> None:
        self.home = home
        self.sample = sample
        self.target = home / "target"
        self.file = self.target / sample.metainfo.name
        self.arguments = ["download", torrent, "-o", self.target, "--peer", peer, "--json", *LOOPBACK]

    def run(self, *options: object) -> list[dict[str, Any]]:
        """To the end, which is success with identical data."""
        done = swarm(self.home, *self.arguments, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        assert self.file.read_bytes() == self.sample.content
        return events(done.stdout)

    def run_and_kill(self, pieces: int, *options: object) -> set[int]:
        """Kill -9 once so many pieces were told; those that were told until then."""
        argv = [sys.executable, "-m", "swarm", *map(str, self.arguments), *map(str, options)]
        told: set[int] = set()
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment(self.home)) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if '"event": "piece"' in line:
                    told |= {events(line)[0]["index"]}
                if len(told) == pieces:
                    process.kill()
                    break
            for line in process.stdout:  # what had been written before the end
                if '"event": "piece"' in line and line.endswith("}\n"):
                    told |= {events(line)[0]["index"]}
        assert process.returncode == -9
        return told


def verified(told: list[dict[str, Any]]) -> int:
    """Pieces found on disk at the start of a run."""
    return next(int(event["verified"]) for event in told if event["event"] == "checked")


def downloaded(told: list[dict[str, Any]]) -> int:
    """Payload bytes that a run received."""
    return next(int(event["downloaded"]) for event in told if event["event"] == "done")


@dataclass(frozen=True)
class Shared:
    """The sample, its torrent, and HOST:PORT of a seed."""

    sample: Sample
    torrent: Path
    peer: str


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    directory = tmp_path_factory.mktemp("shared")
    sample, torrent = make_torrent(directory)
    with seeding(directory / "home", torrent, sample.directory) as peer:
        yield Shared(sample, torrent, peer)


@pytest.fixture
def download(shared: Shared, tmp_path: Path) -> Download:
    return Download(tmp_path, shared.sample, shared.torrent, shared.peer)


def make_torrent(directory: Path) -> tuple[Sample, Path]:
    sample, torrent = make_sample(directory / "seed", SIZE, PIECE), directory / "sample.torrent"
    torrent.write_bytes(create(sample.directory / "sample.bin", piece_length=PIECE))
    return sample, torrent


def test_a_killed_download_goes_on_with_what_it_had(download: Download) -> None:
    told = download.run_and_kill(12, "-d", "4M")
    second = download.run()
    assert verified(second) >= len(told)
    assert downloaded(second) <= SIZE - sum(len(download.sample.piece(index)) for index in told)
    assert sum(event["event"] == "piece" for event in second) == 41 - verified(second)
    third = download.run()
    assert verified(third) == 41
    assert downloaded(third) == 0


def test_nothing_verified_is_lost_however_often_it_is_killed_under_load(download: Download) -> None:
    told: set[int] = set()
    dice = random.Random()
    for _ in range(3):
        told |= download.run_and_kill(dice.randint(1, 12), "-d", "20M")
    last = download.run()
    assert verified(last) >= len(told)


def test_a_file_that_shrank_between_two_runs_is_noticed_and_mended(download: Download) -> None:
    download.run()
    os.truncate(download.file, SIZE // 2)
    second = download.run()
    assert verified(second) == SIZE // 2 // PIECE
    assert downloaded(second) == pytest.approx(SIZE - verified(second) * PIECE, abs=PIECE)


def test_a_file_that_was_modified_between_two_runs_is_noticed_and_mended(download: Download) -> None:
    download.run()
    with open(download.file, "r+b") as file:
        file.seek(10 * PIECE + 5)
        file.write(b"vandal")
    second = download.run()
    assert verified(second) == 40
    assert PIECE <= downloaded(second) < 2 * PIECE


def test_a_file_that_vanished_between_two_runs_is_fetched_again(download: Download) -> None:
    download.run_and_kill(12, "-d", "4M")
    download.file.unlink()
    assert verified(download.run()) == 0


def test_a_seed_whose_file_shrinks_says_so_and_exits_4(tmp_path: Path) -> None:
    sample, torrent = make_torrent(tmp_path)
    argv = [sys.executable, "-m", "swarm", "seed", torrent, "-o", tmp_path / "seed", "--json", *LOOPBACK]
    with subprocess.Popen(
        list(map(str, argv)), stdout=subprocess.PIPE, text=True, env=environment(tmp_path)
    ) as process:
        assert process.stdout is not None
        try:
            told: list[dict[str, Any]] = []
            while not told or told[-1]["event"] != "checked":
                told += events(process.stdout.readline())
            os.truncate(tmp_path / "seed" / sample.metainfo.name, 5 * PIECE)
            peer = f"127.0.0.1:{told[0]['port']}"
            swarm(
                tmp_path / "leech",
                "download",
                torrent,
                "-o",
                tmp_path / "leech",
                "--peer",
                peer,
                "--timeout",
                1,
                *LOOPBACK,
            )
            process.wait(10)
            rest = events(process.stdout.read())
        finally:
            process.kill()
    assert process.returncode == 4
    assert rest[-1]["event"] == "error"
    assert "sample.bin" in rest[-1]["message"]


@pytest.mark.netlab
def test_a_full_disk_ends_with_4_and_the_download_goes_on_when_there_is_space(download: Download) -> None:
    """On a tiny tmpfs in a mount namespace of its own."""
    need_root()
    unshare = need_program("unshare")
    download.target.mkdir()
    argv = [sys.executable, "-m", "swarm", *map(str, download.arguments)]
    script = """
        mount -t tmpfs -o size=2m tmpfs "$1" || exit 99
        target=$1; log=$2; shift 2
        "$@" > "$log.1"; echo $? > "$log.code1"
        mount -o remount,size=32m "$target" || exit 98
        "$@" > "$log.2"; echo $? > "$log.code2"
        sha256sum < "$target/sample.bin" > "$log.sum"
    """
    log = download.home / "log"
    command = [unshare, "-m", "sh", "-c", script, "sh", download.target, log, *argv]
    subprocess.run(list(map(str, command)), env=environment(download.home), check=True, timeout=30)
    assert Path(f"{log}.code1").read_text() == "4\n"
    first, second = (events(Path(f"{log}.{number}").read_text()) for number in (1, 2))
    assert first[-1]["event"] == "error"
    assert first[-1]["code"] == 4
    assert "the disk is full" in first[-1]["message"]
    stored = sum(event["event"] == "piece" for event in first)
    assert 1 <= stored <= 16  # told before the disk was full: those that were being written then are there, too
    assert Path(f"{log}.code2").read_text() == "0\n"
    assert max(5, stored) <= verified(second) <= 16
    digest = subprocess.run(["sha256sum"], input=download.sample.content, capture_output=True, check=True).stdout
    assert Path(f"{log}.sum").read_bytes() == digest


def test_a_download_that_is_terminated_saves_and_leaves_within_three_seconds(download: Download) -> None:
    argv = [sys.executable, "-m", "swarm", *map(str, download.arguments), "-d", "500k"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment(download.home)) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if '"event": "piece"' in line:
                break
        started = time.monotonic()
        process.terminate()
        rest = process.stdout.read()
    assert process.returncode == 143
    assert time.monotonic() - started < 3.5
    assert events(rest)[-1]["code"] == 143
    assert verified(download.run()) >= 1
