"""Thousands of torrents in one process: python -m bench.daemon [--torrents N] [--leeches N] [--seconds S] ...

A node seeds N torrents of a few small files each, bound to 127.0.0.1, with mapping, LSD and DHT off and one tracker of
ours.  It is started twice, first over files that it has never seen, then after a clean stop.  Targets for 1,000:

* start at most 10 s from the start of the process until every torrent is ready, after a clean stop, nothing hashed;
* idle at most 3 % of a core and 150 MiB resident, no task and no open file for a torrent;
* 200 peers (libtorrent) that leech at once over 20 of the torrents, all served;
* a stop within the goodbye of 2.5 s.

Prints a table; asserts nothing.  Works in a temporary directory and on loopback only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import trio

from dht.bencode import Encodable, encode
from swarm.config import Config
from swarm.discover.embedded_tracker import Announced, EmbeddedTracker
from swarm.endpoint import Endpoint
from swarm.net.real import RealNetwork
from swarm.node import Node, open_node
from swarm.torrent.metainfo import parse_torrent_untrusted

ROOT = Path(__file__).resolve().parent.parent
TORRENTS_LEECHED = 20
SETTLE = 3.0
"""Seconds after the last announce before the idle processor time is measured."""

PATIENCE = 600.0
"""Seconds for all announces, or for all leeches."""


def main() -> None:
    options = parse_options()
    if options.part is not None:
        run_part(options)
        return
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="swarm-bench-") as scratch:
        make_torrents(Path(scratch), options)
        with part(options, "tracker", scratch) as tracker:
            port = answer(tracker)["port"]
            make_metainfo(Path(scratch), options, f"{options.scheme}://127.0.0.1:{port}/announce")
            print(f"{options.torrents} torrents of {options.files} files, {options.pieces or 'few'} pieces", flush=True)
            print_row("first start", measure(options, scratch, tracker, leeches=0))
            print_row("second start", measure(options, scratch, tracker, leeches=options.leeches))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torrents", type=int, default=1000)
    parser.add_argument("--files", type=int, default=4, help="of 8 KiB each, in a torrent")
    parser.add_argument("--pieces", type=int, default=0, help="instead one sparse file of so many pieces")
    parser.add_argument("--leeches", type=int, default=200)
    parser.add_argument("--leech-size", type=int, default=4, metavar="MIB", help="of the torrents that are leeched")
    parser.add_argument("--seconds", type=float, default=15.0, help="for which idle processor time is measured")
    parser.add_argument("--scheme", choices=["http", "udp"], default="http", help="of the tracker")
    parser.add_argument("--directory", default="/dev/shm" if os.path.isdir("/dev/shm") else None)
    parser.add_argument("part", nargs="?", choices=["tracker", "seed", "leech"], help=argparse.SUPPRESS)
    parser.add_argument("scratch", nargs="?", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


# -- the measuring process ---------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace, scratch: str, tracker: subprocess.Popen[str], leeches: int) -> dict[str, Any]:
    """One life of the seeding process, from its start to its end."""
    row: dict[str, Any] = {}
    ask(tracker, "reset")
    started = time.perf_counter()
    with part(options, "seed", scratch) as seed:
        row |= answer(seed)
        row["ready s"] = time.perf_counter() - started
        row["ready CPU s"] = cpu_seconds(seed.pid)
        row["announced s"] = wait_announced(tracker, options.torrents, started)
        row["announces/s"] = ask(tracker, "peak")["peak"]
        time.sleep(SETTLE)
        before = cpu_seconds(seed.pid)
        time.sleep(options.seconds)
        row["idle CPU %"] = (cpu_seconds(seed.pid) - before) / options.seconds * 100
        row["MiB"] = resident_mib(seed.pid)
        row |= ask(seed, "count")
        if leeches:
            row |= leech(options, scratch, seed, row["port"])
        row |= stop(seed, tracker)
    return row


def wait_announced(tracker: subprocess.Popen[str], torrents: int, started: float) -> float:
    while ask(tracker, "count")["started"] < torrents and time.perf_counter() - started < PATIENCE:
        time.sleep(0.2)
    return time.perf_counter() - started


def leech(options: argparse.Namespace, scratch: str, seed: subprocess.Popen[str], port: int) -> dict[str, Any]:
    before, started = cpu_seconds(seed.pid), time.perf_counter()
    with part(options, "leech", scratch, str(port)) as leeches:
        row = answer(leeches)
    row["leech seed CPU s"] = cpu_seconds(seed.pid) - before
    row["leech s"] = time.perf_counter() - started
    row["leech MiB"] = resident_mib(seed.pid)
    return row


def stop(seed: subprocess.Popen[str], tracker: subprocess.Popen[str]) -> dict[str, Any]:
    started = time.perf_counter()
    seed.send_signal(signal.SIGTERM)
    seed.wait(PATIENCE)
    return {"stop s": time.perf_counter() - started, "told stopped": ask(tracker, "count")["stopped"]}


def print_row(name: str, row: dict[str, Any]) -> None:
    values = (f"{key} {value:.2f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
    print(f"{name}: " + " | ".join(values), flush=True)


@contextmanager
def part(options: argparse.Namespace, name: str, scratch: str, *more: str) -> Iterator[subprocess.Popen[str]]:
    """Another process of this module, which answers a line of JSON to each line."""
    argv = [sys.executable, "-m", "bench.daemon", *sys.argv[1:], name, scratch]
    environment = os.environ | ({"LEECH_PORT": more[0]} if more else {})
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def ask(process: subprocess.Popen[str], question: str) -> dict[str, Any]:
    assert process.stdin is not None
    process.stdin.write(question + "\n")
    process.stdin.flush()
    return answer(process)


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line: dict[str, Any] = json.loads(process.stdout.readline())
    return line


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


# -- what is shared ----------------------------------------------------------------------------------------------------


def make_torrents(scratch: Path, options: argparse.Namespace) -> None:
    """The content: torrent K lies in data/torrent-K."""
    random.seed(1)
    for number in range(options.torrents):
        directory = scratch / "data" / name_of(number)
        directory.mkdir(parents=True)
        for name, size in files_of(number, options):
            with open(directory / name, "wb") as file:
                if options.pieces and number >= TORRENTS_LEECHED:
                    file.truncate(size)
                else:
                    file.write(number.to_bytes(4, "big") + random.randbytes(size - 4))


def make_metainfo(scratch: Path, options: argparse.Namespace, announce: str) -> None:
    (scratch / "torrents").mkdir()
    for number in range(options.torrents):
        directory = scratch / "data" / name_of(number)
        files = files_of(number, options)
        info: dict[bytes, Encodable] = {
            b"files": [{b"length": size, b"path": [name.encode()]} for name, size in files],
            b"name": name_of(number).encode(),
            b"piece length": piece_length(number, options),
            b"pieces": hashes_of(number, directory, options),
        }
        content = encode({b"announce": announce.encode(), b"info": info})
        (scratch / "torrents" / f"{number}.torrent").write_bytes(content)


def name_of(number: int) -> str:
    return f"torrent-{number:05}"


def files_of(number: int, options: argparse.Namespace) -> list[tuple[str, int]]:
    if number < TORRENTS_LEECHED and options.leeches:
        return [("large.bin", options.leech_size << 20)]
    if options.pieces:
        return [("sparse.bin", options.pieces << 16)]
    return [(f"file-{index}.bin", 8 << 10) for index in range(options.files)]


def piece_length(number: int, options: argparse.Namespace) -> int:
    return 1 << 16 if number < TORRENTS_LEECHED or options.pieces else 1 << 14


def hashes_of(number: int, directory: Path, options: argparse.Namespace) -> bytes:
    length = piece_length(number, options)
    if options.pieces and number >= TORRENTS_LEECHED:
        return hashlib.sha1(bytes(length)).digest() * int(options.pieces)
    content = b"".join((directory / name).read_bytes() for name, _ in files_of(number, options))
    return b"".join(hashlib.sha1(content[at : at + length]).digest() for at in range(0, len(content), length))


# -- the other processes -----------------------------------------------------------------------------------------------


def run_part(options: argparse.Namespace) -> None:
    if options.part == "leech":
        leech_all(options)
    else:
        trio.run({"tracker": track, "seed": seed_all}[options.part], options)


class Log(deque[Announced]):
    """What the tracker was told, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def append(self, announced: Announced) -> None:
        super().append(announced)
        self.times.append(time.monotonic())

    def peak(self) -> int:
        """The most announces in any second of the clock."""
        return max(Counter(int(at) for at in self.times).values(), default=0)


async def track(options: argparse.Namespace) -> None:
    tracker = EmbeddedTracker(random.Random(1), interval=1800, min_interval=60)
    log = tracker.announces = Log()
    async with trio.open_nursery() as nursery:
        local = await nursery.start(tracker.serve, RealNetwork(), Endpoint("127.0.0.1", 0))
        say({"port": local.port})
        async for question in lines(sys.stdin):
            if question == "reset":
                log = tracker.announces = Log()
                say({})
            elif question == "peak":
                say({"peak": log.peak()})
            else:
                started = {each.info_hash for each in log if each.event == "started"}
                stopped = {each.info_hash for each in log if each.event == "stopped"}
                say({"started": len(started), "stopped": len(stopped)})
        nursery.cancel_scope.cancel()


async def seed_all(options: argparse.Namespace) -> None:
    scratch: Path = options.scratch
    config = Config(
        bind="127.0.0.1",
        port=0,
        dht=False,
        lsd=False,
        mapping=False,
        state_directory=scratch / "state",
    )
    imported = time.process_time()
    async with open_node(config) as node:
        began = time.perf_counter()
        for number in range(options.torrents):
            content = (scratch / "torrents" / f"{number}.torrent").read_bytes()
            node.add(parse_torrent_untrusted(content), scratch / "data")
            if number % 50 == 0:  # as a program does that answers meanwhile
                await trio.lowlevel.checkpoint()
        added = time.perf_counter() - began
        hashed = 0
        for torrent in tuple(node.torrents.values()):
            await torrent.wait_checked()
            hashed += torrent.statistics().to_check
        say({"port": node.port, "import CPU s": imported, "add s": added, "hashed": hashed})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_questions, node)
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                async for _ in signals:
                    nursery.cancel_scope.cancel()


async def answer_questions(node: Node) -> None:
    async for _ in lines(sys.stdin):
        open_files = [fd for fd in os.listdir("/proc/self/fd") if is_file(fd)]
        say({"tasks": trio.lowlevel.current_statistics().tasks_living, "data files open": len(open_files)})


def is_file(fd: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").endswith(".bin")
    except OSError:
        return False


def leech_all(options: argparse.Namespace) -> None:
    """As many peers as asked for: libtorrent sessions with one connection for each torrent."""
    import libtorrent as lt

    from bench.lt_peer import session

    handles = []
    sessions = [session(0, "tcp") for _ in range(-(-options.leeches // TORRENTS_LEECHED))]
    for number, each in enumerate(sessions):
        target = options.scratch / f"leech-{number}"
        target.mkdir()
        for index in range(min(TORRENTS_LEECHED, options.leeches - number * TORRENTS_LEECHED)):
            params = lt.add_torrent_params()
            params.ti = lt.torrent_info(str(options.scratch / "torrents" / f"{index}.torrent"))
            params.trackers = []
            params.save_path = str(target)
            params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
            handles.append(each.add_torrent(params))
    for handle in handles:
        handle.replace_trackers([])
        handle.connect_peer(("127.0.0.1", int(os.environ["LEECH_PORT"])))
    started = time.perf_counter()
    most = 0
    while time.perf_counter() - started < PATIENCE / 5:
        states = [handle.status() for handle in handles]
        most = max(most, sum(bool(state.num_peers) for state in states))
        if all(state.is_seeding for state in states):
            break
        time.sleep(0.1)
    states = [handle.status() for handle in handles]
    served = sum(state.is_seeding for state in states)
    payload = sum(state.total_payload_download for state in states) / (time.perf_counter() - started) / 1e6
    say({"leeches": len(handles), "connected at once": most, "complete": served, "MB/s": payload})
    os._exit(0)  # ten sessions take their time to say goodbye


def say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


async def lines(file: IO[str]) -> Any:
    while line := await trio.to_thread.run_sync(file.readline, abandon_on_cancel=True):
        yield line.strip()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    main()
