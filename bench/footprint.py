"""What swarm costs before it moves a byte: start-up, a huge torrent, many idle ones.  python -m bench.footprint

* `swarm --help` beside `python -c pass`, the median of 11 runs each (target: at most 4 times).
* A torrent of 100 GiB in 102,400 pieces, its file sparse: seconds to open beyond the check, and resident MiB when idle
  (targets: under a second, under 80 MiB).
* 1,000 idle seeding torrents in one node: KiB each (target: about 100 at most).

Prints; asserts nothing.  Works in a temporary directory and on loopback only.
"""

from __future__ import annotations

import hashlib
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

from dht.bencode import encode
from swarm.config import Config
from swarm.node import open_node
from swarm.torrent.create import create
from swarm.torrent.metainfo import parse_torrent_untrusted
from swarm.torrent.resume import resume_path

ROOT = Path(__file__).resolve().parent.parent
LOCAL = {"bind": "127.0.0.1", "port": 0, "trackers": False}


def main() -> None:
    print(f"swarm --help: {startup_ratio():.2f} times python -c pass")
    for part in ("huge", "idle"):
        done = subprocess.run(
            [sys.executable, "-m", "bench.footprint", part], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
        )
        print(done.stdout.strip())


def startup_ratio() -> float:
    helps, passes = [], []
    for _ in range(11):
        helps.append(seconds_of([sys.executable, "-m", "swarm", "--help"]))
        passes.append(seconds_of([sys.executable, "-c", "pass"]))
    return statistics.median(helps) / statistics.median(passes)


def seconds_of(argv: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


async def huge() -> None:
    piece_length, pieces = 1 << 20, 102_400
    with tempfile.TemporaryDirectory() as scratch:
        empty = hashlib.sha1(b"\1" * piece_length).digest()
        info = {
            b"length": piece_length * pieces,
            b"name": b"huge.bin",
            b"piece length": piece_length,
            b"pieces": empty * pieces,
        }
        metainfo = parse_torrent_untrusted(encode({b"info": info}))
        with (Path(scratch) / "huge.bin").open("wb") as file:
            file.truncate(piece_length * pieces)
        async with open_node(Config(**LOCAL)) as node:
            started = time.perf_counter()
            torrent = node.add(metainfo, Path(scratch))
            added = time.perf_counter() - started
            await torrent.wait_checked()
            checked = time.perf_counter() - started
            await trio.sleep(2)
            print(
                f"100 GiB, {pieces} pieces: added in {added:.3f} s, ready after {checked:.2f} s "
                f"(holes looked at), {resident_mib():.0f} MiB resident when idle"
            )


async def idle() -> None:
    count = 1000
    with tempfile.TemporaryDirectory() as scratch:
        state, data = Path(scratch) / "state", Path(scratch) / "data"
        data.mkdir()
        torrents = []
        for number in range(count):
            path = data / f"file-{number}"
            path.write_bytes(number.to_bytes(4, "big") * 4096)
            torrents.append(parse_torrent_untrusted(create(path)))
        async with open_node(Config(**LOCAL, state_directory=state)) as node:
            await trio.sleep(0.5)
            before = resident_mib()
            started = time.perf_counter()
            for metainfo in torrents:
                node.add(metainfo, data)
            for torrent in tuple(node.torrents.values()):
                await torrent.wait_checked()
            elapsed = time.perf_counter() - started
            await trio.sleep(2)
            after = resident_mib()
            assert resume_path(state / "resume", torrents[0].info_hash).exists()
            cpu = await idle_cpu(10)
            print(
                f"{count} idle torrents: {(after - before) * 1024 / count:.0f} KiB each, {after:.0f} MiB in all, "
                f"added and checked in {elapsed:.1f} s, {cpu:.1f} % of a core when idle"
            )


async def idle_cpu(seconds: float) -> float:
    before = time.process_time()
    await trio.sleep(seconds)
    return (time.process_time() - before) / seconds * 100


def resident_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        trio.run({"huge": huge, "idle": idle}[sys.argv[1]])
    else:
        main()
