"""µTP side by side: ours, libtorrent's, and libtorrent's TCP, on loopback and across a veth pair with MTU 1500.

    python -m bench.utp [--size MIB] [--small MIB] [--only WORD]

Prints one table; asserts nothing.  Both ends of every row are processes of their own; the receiver measures, from the
first byte to the last.  veth and loss need root, namespaces and nft.  Loss is per packet: the veth devices do not
segment (gso_max_segs 1), or one drop would take a run of 44.  A packet of ours never carries more than 1,472 bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from swarm.endpoint import Endpoint
from swarm.net.mux import Mux, Priority
from swarm.net.real import RealNetwork
from tests.utp.minipeer import MiniPeer, Torrent, make_torrent
from utp import UtpConfig, UtpEndpoint
from utp.service import UtpService

MIB = 1 << 20
PORT = 41_000
CHUNK = bytes(256 << 10)
A, B = "10.99.0.1", "10.99.0.2"


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


# The children


async def open_service(nursery: trio.Nursery, host: str, port: int) -> UtpService:
    mux = Mux(await RealNetwork().bind_udp(Endpoint(host, port)))
    endpoint = UtpEndpoint(UtpConfig(), random.SystemRandom())
    service = UtpService(endpoint, mux.wake)
    mux.add(endpoint, priority=Priority.UTP, on_results=service.publish)
    nursery.start_soon(mux.run)
    return service


async def ours_receive(host: str, size: int) -> None:
    async with trio.open_nursery() as nursery:
        stream = await (await open_service(nursery, host, PORT)).accept()
        start, used, got = time.perf_counter(), cpu_seconds(), 0
        while data := await stream.receive_some():
            got += len(data)
        assert got == size
        report(start, used)
        await stream.aclose()
        await trio.sleep(0.2)
        nursery.cancel_scope.cancel()


async def ours_send(host: str, to: str, size: int) -> None:
    async with trio.open_nursery() as nursery:
        stream = await (await open_service(nursery, host, 0)).connect((to, PORT))
        start, used = time.perf_counter(), cpu_seconds()
        for _ in range(size // len(CHUNK)):
            await stream.send_all(CHUNK)
        await stream.send_eof()
        await stream.receive_some()
        report(start, used)
        nursery.cancel_scope.cancel()


async def mini_leech(host: str, to: str, torrent: Torrent) -> None:
    async with trio.open_nursery() as nursery:
        stream = await (await open_service(nursery, host, 0)).connect((to, PORT))
        start, used = time.perf_counter(), cpu_seconds()
        peer = MiniPeer(stream, torrent)
        await peer.shake_hands()
        assert await peer.leech() == torrent.content
        report(start, used)
        nursery.cancel_scope.cancel()


async def mini_seed(host: str, torrent: Torrent) -> None:
    async with trio.open_nursery() as nursery:
        stream = await (await open_service(nursery, host, PORT)).accept()
        start, used = time.perf_counter(), cpu_seconds()
        peer = MiniPeer(stream, torrent)
        await peer.shake_hands()
        await peer.seed()
        report(start, used)
        nursery.cancel_scope.cancel()


def libtorrent(host: str, transport: str, directory: Path, to: str | None, torrent: Path) -> None:
    """Seed (``to`` None) until ended, or leech from ``to`` and report."""
    import libtorrent as lt

    tcp = transport == "tcp"
    session = lt.session(
        {
            "listen_interfaces": f"{host}:{PORT if to is None else PORT + 1}",
            "outgoing_interfaces": host,
            **dict.fromkeys(("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp"), False),
            **dict.fromkeys(("enable_outgoing_tcp", "enable_incoming_tcp"), tcp),
            **dict.fromkeys(("enable_outgoing_utp", "enable_incoming_utp"), not tcp),
            "allow_multiple_connections_per_ip": True,
            "alert_mask": 0,
            "out_enc_policy": 2,
            "max_out_request_queue": 2000,
            "send_buffer_watermark": 4 * MIB,
        }
    )
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(str(torrent))
    params.save_path = str(directory)
    if to is None:
        params.flags |= lt.torrent_flags.seed_mode
    handle = session.add_torrent(params)
    if to is None:
        while True:
            time.sleep(1)
    time.sleep(0.5)
    start, used = time.perf_counter(), cpu_seconds()
    handle.connect_peer((to, PORT))
    while not handle.status().is_seeding:
        time.sleep(0.01)
    report(start, used)


def report(start: float, used: float) -> None:
    print(json.dumps({"seconds": time.perf_counter() - start, "cpu": cpu_seconds() - used}), flush=True)


def child(role: str, arguments: list[str]) -> None:
    match role, arguments:
        case "ours-receive", [host, size]:
            trio.run(ours_receive, host, int(size))
        case "ours-send", [host, to, size]:
            trio.run(ours_send, host, to, int(size))
        case "mini-leech", [host, to, size]:
            trio.run(mini_leech, host, to, make_torrent(int(size)))
        case "mini-seed", [host, size]:
            trio.run(mini_seed, host, make_torrent(int(size)))
        case "lt-seed", [host, transport, directory]:
            libtorrent(host, transport, Path(directory, "seed"), None, Path(directory, "x.torrent"))
        case "lt-leech", [host, transport, directory, to]:
            libtorrent(host, transport, Path(directory, "leech"), to, Path(directory, "x.torrent"))
        case _:
            raise SystemExit(f"no such role: {role} {arguments}")


# The parent


class Net:
    """Where the two ends live: both on loopback, or in a namespace each, with ``loss`` per mille each way."""

    def __init__(self, name: str, a: str, b: str, prefixes: tuple[list[str], list[str]] = ([], [])) -> None:
        self.name, self.a, self.b = name, a, b
        self._prefixes = prefixes

    def start(self, side: int, role: str, *arguments: object) -> subprocess.Popen[str]:
        return self.run(side, __file__, "child", role, *arguments)

    def run(self, side: int, script: str, *arguments: object) -> subprocess.Popen[str]:
        argv = [*self._prefixes[side], sys.executable, script, *map(str, arguments)]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


@contextmanager
def veth(loss: int = 0) -> Iterator[Net]:
    spaces = [f"swarm-bench-{os.getpid()}-{side}" for side in "ab"]
    try:
        for space in spaces:
            subprocess.run(["ip", "netns", "add", space], check=True)
        ip = ["ip", "-n"]
        link = ["link", "add", "va", "netns", spaces[0], "type", "veth", "peer", "name", "vb", "netns", spaces[1]]
        subprocess.run(["ip", *link], check=True)
        for space, device, address in zip(spaces, ("va", "vb"), (A, B), strict=True):
            subprocess.run([*ip, space, "addr", "add", f"{address}/24", "dev", device], check=True)
            limit = ["gso_max_segs", "1"] if loss else []
            subprocess.run([*ip, space, "link", "set", device, "up", *limit], check=True)
            if loss:
                rules = (
                    "add table ip loss; add chain ip loss in { type filter hook prerouting priority -300; };"
                    f"add rule ip loss in meta l4proto {{ tcp, udp }} numgen random mod 1000 < {loss} drop"
                )
                subprocess.run(["ip", "netns", "exec", space, "nft", rules], check=True)
        name = f"veth, {loss / 10:g} % loss" if loss else "veth"
        yield Net(name, A, B, tuple(["ip", "netns", "exec", space] for space in spaces))  # type: ignore[arg-type]
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "del", space], check=False)


def row(net: Net, what: str, size: int, receiver: dict[str, float] | None, sender: dict[str, float] | None) -> None:
    if receiver is None:
        print(f"{net.name:16} {what:34} {size // MIB:5} MiB   did not finish", flush=True)
        return
    rate = size / receiver["seconds"] / 1e6
    gib = size / (1 << 30)
    costs = " ".join(f"{side['cpu'] / gib:6.2f}" if side else "     -" for side in (receiver, sender))
    print(f"{net.name:16} {what:34} {size // MIB:5} MiB {rate:8.1f} MB/s   CPU s/GiB in, out {costs}", flush=True)


def finish(process: subprocess.Popen[str], seconds: float) -> dict[str, float] | None:
    try:
        out, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None
    return json.loads(out) if out else None  # type: ignore[no-any-return]


def bench_ours(net: Net, size: int, limit: float) -> None:
    receiver = net.start(0, "ours-receive", net.a, size)
    time.sleep(0.7)
    sender = net.start(1, "ours-send", net.b, net.a, size)
    row(net, "ours to ours, µTP", size, finish(receiver, limit), finish(sender, 5))


def bench_pair(net: Net, what: str, size: int, limit: float, seed: tuple[Any, ...], leech: tuple[Any, ...]) -> None:
    sender = net.start(0, *seed)
    time.sleep(3.0 if size > 256 * MIB else 1.5)  # a mini seed makes its content first
    receiver = net.start(1, *leech)
    result = finish(receiver, limit)
    if seed[0] == "lt-seed":
        sender.kill()
        sender.wait()
        row(net, what, size, result, None)
    else:
        row(net, what, size, result, finish(sender, 5))


def bench_libtorrent(net: Net, size: int, limit: float, transports: tuple[str, ...], mixed: bool) -> None:
    shared = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None))
    try:
        torrent = make_torrent(size)
        torrent.write(directory / "x.torrent", directory / "seed")
        for transport in transports:
            seed, leech = ("lt-seed", net.a, transport, directory), ("lt-leech", net.b, transport, directory, net.a)
            name = "µTP" if transport == "utp" else "TCP"
            bench_pair(net, f"libtorrent to libtorrent, {name}", size, limit, seed, leech)
            shutil.rmtree(directory / "leech", ignore_errors=True)
        if mixed:
            seed, leech = ("lt-seed", net.a, "utp", directory), ("mini-leech", net.b, net.a, size)
            bench_pair(net, "libtorrent to ours, µTP", size, limit, seed, leech)
            seed, leech = ("mini-seed", net.a, size), ("lt-leech", net.b, "utp", directory, net.a)
            bench_pair(net, "ours to libtorrent, µTP", size, limit, seed, leech)
    finally:
        shutil.rmtree(directory)


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="MiB of ours and of TCP")
    parser.add_argument("--small", type=int, default=128, help="MiB of libtorrent's µTP and of mixed pairs")
    parser.add_argument("--only", default="", help="rooms whose name holds this word: loopback, veth, loss")
    chosen = parser.parse_args()
    size, small = chosen.size * MIB, chosen.small * MIB
    if chosen.only in "loopback":
        net = Net("loopback", "127.0.0.1", "127.0.0.1")
        bench_ours(net, size, 120)
        bench_libtorrent(net, size, 120, ("tcp",), False)
        bench_libtorrent(net, small, 120, ("utp",), True)
    if os.geteuid() != 0 or shutil.which("nft") is None:
        print("veth and loss skipped: they need root and nft")
        return
    if chosen.only in "veth":
        with veth() as net:
            bench_ours(net, size, 120)
            bench_libtorrent(net, size, 120, ("tcp",), False)
            bench_libtorrent(net, small, 120, ("utp",), True)
    if chosen.only in "loss":
        for loss, amount in ((10, small), (50, 8 * MIB)):
            with veth(loss) as net:
                bench_ours(net, amount, 60)
                bench_libtorrent(net, amount, 60, ("utp",), False)


if __name__ == "__main__":
    main()
