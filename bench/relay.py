"""What relaying costs on loopback: python -m bench.relay [--size MIB] [--runs N] [--only rate|turn|share]

Rate: one circuit between two nodes whose dials to each other are refused, with the relay's limits raised, next to the
same transfer made directly, plain and with the encryption that a circuit always has.  Three processes on as many cores
as there are; processor seconds are of each process, per GiB of data.  Aim: 0.4 times the direct rate.

TURN: the seed has an allocation on coturn (Debian; else this is left out), the leech dials it there; next to the same
transfer by µTP directly, which is what passes through it.  The relay's processor seconds are coturn's.

Share: the relay downloads at 20 MB/s, alone and beside 10 circuits of 1 MiB/s each; aim: 90 % of its rate is left.

TCP alone but for TURN.  Prints tables; asserts nothing.  No stranger can prove on loopback that the relay is reachable:
it is told.
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
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from bench.throughput import ROOT, cpu_seconds, free_ports
from swarm.config import Config, RelayLimits
from swarm.endpoint import Endpoint
from swarm.net.real import RealNetwork
from swarm.net.tcp import TcpStream
from swarm.node import Node, open_node
from swarm.torrent.create import create
from swarm.torrent.metainfo import Metainfo, parse_torrent_untrusted
from swarm.torrent.torrent import Torrent

CIRCUITS, CIRCUIT_RATE = 10, 1 << 20
"""Beside the relay's own download; bytes per second each."""

OWN_RATE = 20_000_000
"""Bytes per second of the relay's own download."""

SLOW = 1000
"""Bytes per second in which the relay fetches what it carries for others: it has none of it to give."""

SETTLE = 3.0
"""Seconds after the last circuit has opened before rates are measured."""

USER = "bench"

PATIENCE = 60.0
"""Seconds for a process to be ready, or for all circuits to open."""


def main() -> None:
    options = parse_options()
    if options.part is not None:
        trio.run(PARTS[options.part], options)
        return
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="swarm-bench-") as scratch:
        if options.only in (None, "rate"):
            print_rates([run for _ in range(options.runs) for run in rates(Path(scratch), options.size)])
        if options.only in (None, "turn") and shutil.which("turnserver"):
            print_rates([run for _ in range(options.runs) for run in turn_rates(Path(scratch), options.size)])
        if options.only in (None, "share"):
            print_share(Path(scratch), options.seconds)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, metavar="MIB", help="of one transfer")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="for which the relay's own download is measured")
    parser.add_argument("--only", choices=["rate", "turn", "share"])
    parser.add_argument("--directory", default="/dev/shm" if os.path.isdir("/dev/shm") else None)
    for name, kind in (
        ("part", str),
        ("torrent", Path),
        ("own", Path),
        ("where", Path),
        ("encryption", str),
        ("uri", str),
    ):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    for name in ("port", "relay", "seed", "leech", "count"):
        parser.add_argument(f"--{name}", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


# -- one circuit ----------------------------------------------------------------------------------------------------


Run = dict[str, Any]


def rates(scratch: Path, mebibytes: int) -> Iterator[Run]:
    """The same transfer in three ways."""
    torrent = make_torrent(scratch / "seed", "data.bin", mebibytes)
    for way, encryption in (("direct", "prefer"), ("direct, encrypted", "require"), ("relayed", "prefer")):
        relay_port, seed_port = free_ports(2)
        relayed = way == "relayed"
        relay_option = ["--relay", str(relay_port)] if relayed else []
        common = ["--torrent", torrent, "--encryption", encryption, *relay_option]
        with (
            part("relay", *common, "--port", relay_port, "--where", scratch / "relay") as relay,
            part("seeds", *common, "--port", seed_port, "--where", scratch / "seed", "--count", 1) as seed,
            part("leech", *common, "--seed", seed_port, "--where", fresh(scratch / "leech"), ready=False) as leech,
        ):
            before = {each.pid: cpu_seconds(each.pid) for each in (relay, seed)}
            done = told(leech)
            used = {each: cpu_seconds(each.pid) - before[each.pid] for each in (relay, seed)}
        gib = mebibytes / 1024
        run = {"way": way, **done, "leech_cpu": done["cpu"] / gib, "seed_cpu": used[seed] / gib}
        yield run | {"relay_cpu": used[relay] / gib if relayed else 0.0}
        print(f"{way:18} {done['rate'] / 1e6:6.1f} MB/s", flush=True)


def turn_rates(scratch: Path, mebibytes: int) -> Iterator[Run]:
    """By µTP, directly and over UDP and TCP to coturn."""
    torrent = make_torrent(scratch / "seed", "data.bin", mebibytes)
    for way, query in (("µTP, direct", None), ("coturn by UDP", "udp"), ("coturn by TCP", "tcp")):
        server_port, seed_port, leech_port = free_ports(3)
        with coturn(scratch, server_port) as server:
            uri = f"turn:{USER}:{USER}@127.0.0.1:{server_port}?transport={query}" if query else ""
            common = ["--torrent", torrent, "--uri", uri, "--seed", seed_port, "--leech", leech_port]
            with part("turn_seed", *common, "--where", scratch / "seed", ready=False) as seed:
                at = told(seed)["at"]
                pids = server.pid, seed.pid
                before = [cpu_seconds(pid) for pid in pids]
                with part(
                    "turn_leech", *common, "--port", at, "--where", fresh(scratch / "leech"), ready=False
                ) as leech:
                    done = told(leech)
                    used = [cpu_seconds(pid) - cpu for pid, cpu in zip(pids, before, strict=True)]
        gib = mebibytes / 1024
        run = {"way": way, **done, "leech_cpu": done["cpu"] / gib}
        yield run | {"seed_cpu": used[1] / gib, "relay_cpu": used[0] / gib}
        print(f"{way:18} {done['rate'] / 1e6:6.1f} MB/s", flush=True)


@contextmanager
def coturn(scratch: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Listens on loopback, once it does."""
    files = {"--log-file": "turn.log", "--pidfile": "turn.pid", "--db": "turn.db"}
    command = ["turnserver", "-n", "--no-cli", "--no-tls", "--no-dtls", "--no-stdout-log", "--simple-log"]
    command += [part for option, name in files.items() for part in (option, str(scratch / name))]
    command += ["--allow-loopback-peers", "--lt-cred-mech", "--user", f"{USER}:{USER}", "--realm", "bench.example"]
    process = subprocess.Popen(
        [*command, "-L", "127.0.0.1", "--listening-port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            assert time.monotonic() < deadline, "coturn does not start"
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait()


def print_rates(runs: list[Run]) -> None:
    rate = median_of(runs, runs[0]["way"], "rate")
    print(f"\nCPU seconds per GiB; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| way | MB/s | of direct | leech | seed | relay | path |\n|---|---|---|---|---|---|---|")
    for way in dict.fromkeys(run["way"] for run in runs):
        mine = median_of(runs, way, "rate")
        cpu = " | ".join(f"{median_of(runs, way, key):.2f}" for key in ("leech_cpu", "seed_cpu", "relay_cpu"))
        paths = {path for run in runs if run["way"] == way for path in run["paths"]}
        print(f"| {way} | {mine / 1e6:.1f} | {mine / rate:.2f} | {cpu} | {', '.join(sorted(paths))} |")


def median_of(runs: list[Run], way: str, key: str) -> float:
    return statistics.median(run[key] for run in runs if run["way"] == way)


# -- beside the relay's own download --------------------------------------------------------------------------------


def print_share(scratch: Path, seconds: float) -> None:
    own = make_torrent(scratch / "own", "own.bin", int(OWN_RATE * (2 * seconds + PATIENCE)) >> 20)
    torrent = make_torrent(scratch / "shared", "shared.bin", int(CIRCUIT_RATE * (seconds + PATIENCE)) >> 20)
    relay_port, seed_port, own_port = free_ports(3)
    common = ["--torrent", torrent, "--relay", relay_port]
    own_options = ["--own", own, "--seed", own_port, "--where", fresh(scratch / "relay")]
    with (
        part("seeds", "--torrent", own, "--port", own_port, "--where", scratch / "own", "--count", 1),
        part("relay", *common, "--port", relay_port, *own_options) as relay,
    ):
        alone = measured(relay, seconds)
        with (
            part("seeds", *common, "--port", seed_port, "--where", scratch / "shared", "--count", 2),
            part("leeches", *common, "--seed", seed_port, "--where", fresh(scratch / "leech"), "--count", CIRCUITS),
        ):
            beside = measured(relay, seconds)
    print(f"\nThe relay's own download, at most {OWN_RATE / 1e6:.0f} MB/s; load {os.getloadavg()[0]:.1f}\n")
    print("| | own MB/s | circuits | carried MiB/s | relay's CPU |\n|---|---|---|---|---|")
    for name, found in (("alone", alone), (f"beside {CIRCUITS} circuits", beside)):
        carried = f"{found['circuits']} | {found['carried'] / (1 << 20):.1f}"
        print(f"| {name} | {found['own'] / 1e6:.2f} | {carried} | {found['cpu']:.0%} |")
    print(f"\n{beside['own'] / alone['own']:.1%} of its rate is left")


def measured(relay: subprocess.Popen[str], seconds: float) -> dict[str, float]:
    """Rates of the relay in bytes per second, over so many seconds."""
    before, cpu, started = asked(relay), cpu_seconds(relay.pid), time.monotonic()
    time.sleep(seconds)
    after, took = asked(relay), time.monotonic() - started
    rates = {key: (after[key] - before[key]) / took for key in ("own", "carried")}
    return rates | {"circuits": after["circuits"], "cpu": (cpu_seconds(relay.pid) - cpu) / took}


def asked(relay: subprocess.Popen[str]) -> dict[str, float]:
    relay.send_signal(signal.SIGUSR1)
    return told(relay)


# -- processes ------------------------------------------------------------------------------------------------------


@contextmanager
def part(name: str, *arguments: object, ready: bool = True) -> Iterator[subprocess.Popen[str]]:
    """A process, from its being ready on."""
    command = [sys.executable, "-m", "bench.relay", "--part", name, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        if ready:
            assert told(process) == {"ready": True}, name
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    said: dict[str, Any] = json.loads(process.stdout.readline())
    return said


def make_torrent(directory: Path, name: str, mebibytes: int) -> Path:
    """Once; the blocks of a file are alike, so that a large one is made at once."""
    torrent = directory / f"{name}.torrent"
    if not torrent.exists():
        directory.mkdir()
        block = os.urandom(1 << 20)
        with (directory / name).open("wb") as file:
            for number in range(mebibytes):
                file.write(number.to_bytes(8, "big") + block[8:])
        torrent.write_bytes(create(directory / name, piece_length=1 << 20))
    return torrent


def fresh(directory: Path) -> Path:
    """A directory in which nothing is."""
    return Path(tempfile.mkdtemp(dir=directory.parent, prefix=directory.name))


class Apart(RealNetwork):
    """Nobody is dialled but the relay, as where no packet crosses."""

    def __init__(self, relay: Endpoint) -> None:
        super().__init__()
        self._relay = relay

    async def dial_tcp(self, remote: Endpoint, *, local: Endpoint | None = None) -> TcpStream:
        if remote != self._relay:
            await trio.lowlevel.checkpoint()
            raise ConnectionRefusedError(f"{remote} is behind a NAT")
        return await super().dial_tcp(remote, local=local)


async def open_client(stack: AsyncExitStack, options: argparse.Namespace, port: int) -> Node:
    """A node that, with a relay, says that it is behind a NAT whose ports nobody can guess."""
    network = Apart(on_loopback(options.relay)) if options.relay else RealNetwork()
    config = config_for(port, encryption=options.encryption or "prefer")
    node = await stack.enter_async_context(open_node(config, network=network))
    node.relay.way_out = lambda: "random"  # type: ignore[method-assign]
    return node


def config_for(port: int, **more: Any) -> Config:
    off = dict.fromkeys(("utp", "dht", "lsd", "pex", "mapping", "punch", "trackers"), False)
    return Config(bind="127.0.0.1", port=port, **{**off, **more})


def on_loopback(port: int) -> Endpoint:
    return Endpoint("127.0.0.1", port)


def read_torrent(path: Path) -> Metainfo:
    return parse_torrent_untrusted(path.read_bytes())


def tell(**said: object) -> None:
    print(json.dumps(said), flush=True)


async def run_relay(options: argparse.Namespace) -> None:
    """Says what it has done at SIGUSR1."""
    rate = CIRCUIT_RATE if options.own else 0
    limits = RelayLimits(circuit_rate=rate, total_rate=0, circuit_bytes=0, circuits_per_client=CIRCUITS)
    config = config_for(options.port, relay_serve=True, relay_limits=limits, download_rate=OWN_RATE)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGUSR1) as signals:
        async with open_node(config) as node:
            node.relay.is_reachable = lambda: True  # type: ignore[method-assign]
            if options.relay:
                node.add(read_torrent(options.torrent), options.where / "shared", download_rate=SLOW)
            own: Torrent | None = None
            if options.own:
                own = node.add(read_torrent(options.own), options.where, peers=[on_loopback(options.seed)])
                await wait_rate(own)
            tell(ready=True)
            async for number in signals:
                if number == signal.SIGTERM:
                    return
                desk = node.relay.desk.statistics()
                tell(own=own.statistics().downloaded if own else 0, carried=desk.bytes, circuits=desk.circuits)


async def run_seeds(options: argparse.Namespace) -> None:
    """The first of them at the port; ready when the relay would lead circuits to them."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with AsyncExitStack() as stack:
            relays = [on_loopback(options.relay)] if options.relay else []
            for number in range(options.count):
                node = await open_client(stack, options, options.port + number)
                torrent = node.add(read_torrent(options.torrent), options.where, peers=relays)
                await torrent.wait_checked()
                while relays and not any(peer.freight.reserved for peer in torrent.connections):
                    await trio.sleep(0.05)
            tell(ready=True)
            async for _ in signals:
                return


async def run_leech(options: argparse.Namespace) -> None:
    relays = [on_loopback(options.relay)] if options.relay else []
    metainfo = read_torrent(options.torrent)
    async with AsyncExitStack() as stack:
        node = await open_client(stack, options, 0)
        await tell_of_download(node.add(metainfo, options.where, peers=[*relays, on_loopback(options.seed)]))


async def tell_of_download(torrent: Torrent) -> None:
    """Once it is complete."""
    first, had, cpu = *(await wait_first(torrent)), time.process_time()
    await torrent.wait_complete()
    took = time.monotonic() - first
    paths = sorted({peer.identity.path for peer in torrent.connections if peer.bytes_down})
    tell(rate=(torrent.metainfo.total_size - had) / took, cpu=time.process_time() - cpu, paths=paths)


async def run_turn_seed(options: argparse.Namespace) -> None:
    """Where it is to be dialled is told: with a server, at the relayed address.  It does not dial."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        turn = (options.uri,) if options.uri else ()
        async with (
            open_node(config_for(options.seed, utp=True, tcp=False, turn=turn)) as node,
            AsyncExitStack() as stack,
        ):
            torrent = node.add(read_torrent(options.torrent), options.where)
            torrent.admission.peers.exclude(on_loopback(options.leech))
            await torrent.wait_checked()
            at = options.seed
            if turn:
                port = await node.turning.port(ipv6=False)
                stack.enter_context(port.hold())
                port.permit([port.relayed.host])
                at = port.relayed.port
            tell(at=at)
            async for _ in signals:
                return


async def run_turn_leech(options: argparse.Namespace) -> None:
    """Knows the seed where it is to be dialled, and is not to find out where else it is."""
    metainfo = read_torrent(options.torrent)
    async with open_node(config_for(options.leech, utp=True, tcp=False)) as node:
        torrent = node.add(metainfo, options.where, peers=[on_loopback(options.port)])
        if options.port != options.seed:
            torrent.admission.peers.exclude(on_loopback(options.seed))
        await tell_of_download(torrent)


async def run_leeches(options: argparse.Namespace) -> None:
    """Ready when all have had something over a circuit for a while; each is told of one seed."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with AsyncExitStack() as stack:
            torrents = []
            for number in range(options.count):
                node = await open_client(stack, options, 0)
                peers = [on_loopback(options.relay), on_loopback(options.seed + number % 2)]
                torrents.append(node.add(read_torrent(options.torrent), options.where / str(number), peers=peers))
            for torrent in torrents:
                await wait_first(torrent)
            await trio.sleep(SETTLE)
            tell(ready=True)
            async for _ in signals:
                return


async def wait_first(torrent: Torrent) -> tuple[float, int]:
    """When something has come, and how much."""
    with trio.fail_after(PATIENCE):
        while not torrent.statistics().downloaded:
            await trio.sleep(0.02)
    return time.monotonic(), torrent.statistics().downloaded


async def wait_rate(torrent: Torrent) -> None:
    """Until a download has found its rate."""
    await wait_first(torrent)
    await trio.sleep(SETTLE)


PARTS = {
    "relay": run_relay,
    "seeds": run_seeds,
    "leech": run_leech,
    "leeches": run_leeches,
    "turn_seed": run_turn_seed,
    "turn_leech": run_turn_leech,
}


if __name__ == "__main__":
    main()
