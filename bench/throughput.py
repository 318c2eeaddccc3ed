"""Throughput over loopback, ours beside libtorrent's in one run: python -m bench.throughput [--runs N] [--size MIB].

Four pairings of seed and leech alternate, so that a slow moment of the machine hits all of them alike; each run is
printed, then medians, ratios to libtorrent → libtorrent, and the targets.  Data lies on tmpfs, pieces are 1 MiB.
"MB/s" counts from the first payload byte, as in the baselines; CPU seconds are those of the whole process per GiB.
Asserts nothing: a ratio is for a reader.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from swarm.torrent.create import create

ROOT = Path(__file__).resolve().parent.parent
PAIRS = [("libtorrent", "libtorrent"), ("libtorrent", "swarm"), ("swarm", "libtorrent"), ("swarm", "swarm")]
MODULES = {"libtorrent": "bench.lt_peer", "swarm": "bench.swarm_peer"}
TARGETS = {("libtorrent", "swarm"): 1.0, ("swarm", "libtorrent"): 1.0, ("swarm", "swarm"): 1.5}


@dataclass(frozen=True)
class Run:
    """One transfer: megabytes per second, processor seconds per GiB of either end, peak MiB of the leech."""

    rate: float
    leech_cpu: float
    seed_cpu: float
    leech_rss: int


def main() -> None:
    options = parse_options()
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="swarm-bench-") as scratch:
        torrent, size = make_data(Path(scratch), options.size)
        runs: dict[tuple[str, str], list[Run]] = {pair: [] for pair in PAIRS}
        for number in range(options.runs):
            for pair in PAIRS:
                run = transfer(Path(scratch), torrent, size, *pair, options.protocol)
                runs[pair].append(run)
                print(f"run {number + 1}: {pair[0]:>10} → {pair[1]:<10} {run}", flush=True)
    print_table(runs)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--size", type=int, default=1024, metavar="MIB")
    parser.add_argument("--protocol", choices=["tcp", "utp"], default="tcp")
    parser.add_argument("--directory", default="/dev/shm" if os.path.isdir("/dev/shm") else None)
    return parser.parse_args()


def make_data(scratch: Path, mebibytes: int) -> tuple[Path, int]:
    (scratch / "seed").mkdir()
    with (scratch / "seed" / "data.bin").open("wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(1 << 20))
    torrent = scratch / "data.torrent"
    torrent.write_bytes(create(scratch / "seed" / "data.bin", piece_length=1 << 20))
    return torrent, mebibytes << 20


def transfer(scratch: Path, torrent: Path, size: int, seeder: str, leecher: str, protocol: str) -> Run:
    """One download by ``leecher`` from ``seeder``; its data is compared with the original."""
    seed_port, leech_port = free_ports(2)
    target = scratch / "leech"
    target.mkdir()
    seed_argv = [sys.executable, "-m", MODULES[seeder], "seed", torrent, scratch / "seed", str(seed_port), protocol]
    leech_argv = [sys.executable, "-m", MODULES[leecher], "leech", torrent, target, str(leech_port), protocol]
    seed = subprocess.Popen([str(part) for part in seed_argv], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert seed.stdout is not None
        assert seed.stdout.readline().strip() == "ready"
        time.sleep(1.0)  # libtorrent says so before it listens
        before = cpu_seconds(seed.pid)
        argv = [*map(str, leech_argv), str(seed_port)]
        done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=600, check=True, cwd=ROOT)
        seed_cpu = cpu_seconds(seed.pid) - before
    finally:
        seed.send_signal(signal.SIGTERM)
        seed.wait()
    same = subprocess.run(["cmp", scratch / "seed" / "data.bin", target / "data.bin"], check=False).returncode == 0
    assert same, f"{seeder} → {leecher}: the files differ"
    shutil.rmtree(target)
    report = json.loads(done.stdout.splitlines()[-1])
    gib = size / (1 << 30)
    return Run(report["MBps"], round(report["cpu"] / gib, 2), round(seed_cpu / gib, 2), report["rss_mb"])


def print_table(runs: dict[tuple[str, str], list[Run]]) -> None:
    base = runs["libtorrent", "libtorrent"]
    base_rate = statistics.median(run.rate for run in base)
    base_leech = statistics.median(run.leech_cpu for run in base)
    base_seed = statistics.median(run.seed_cpu for run in base)
    print()
    print(
        "| seed → leech | MB/s | ratio | target | leech CPU-s/GiB | ratio | seed CPU-s/GiB | ratio | leech peak MiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for pair, done in runs.items():
        rate = statistics.median(run.rate for run in done)
        leech = statistics.median(run.leech_cpu for run in done)
        seed = statistics.median(run.seed_cpu for run in done)
        target = f"≥ {TARGETS[pair]}" if pair in TARGETS else ""
        print(
            f"| {pair[0]} → {pair[1]} | {rate:.0f} | {rate / base_rate:.2f} | {target} | {leech:.2f} "
            f"| {leech / base_leech:.2f} | {seed:.2f} | {seed / base_seed:.2f} | {max(run.leech_rss for run in done)} |"
        )


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
