"""How µTP behaves behind a bottleneck of 20 Mbit/s with a queue of one second: alone, beside TCP, and with itself.

    python -m bench.utp_manners [--seconds S] [--only WORD] [--svg DIRECTORY]

Three namespaces, the middle one a router with tbf towards the receiver: on the sender's own interface TCP would see the
queue (TSQ) and not fill it.  Needs root and tc.  Prints a table and writes one SVG per case: rate of each flow and the
queueing delay that µTP measures, over time.  Asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.utp import CHUNK, Net, open_service

A, B = "10.98.1.2", "10.98.2.2"  # receiver, sender
RATE = 20e6 / 8  # bytes per second
STEP = 0.25  # seconds between samples
OVERHEAD = 1472 / 1452 * 1514 / 1472  # tbf counts Ethernet frames
WIDTH, HEIGHT = 900, 360


async def utp_receive(port: int) -> None:
    """Print [time, bytes so far] every step, of one inbound stream."""
    async with trio.open_nursery() as nursery:
        stream = await (await open_service(nursery, A, port)).accept()
        got, due = 0, time.time()
        while data := await stream.receive_some():
            got += len(data)
            if time.time() >= due:
                due = time.time() + STEP
                print(json.dumps([time.time(), got]), flush=True)


async def utp_send(port: int) -> None:
    """Send for ever; print [time, queueing delay] every step."""
    async with trio.open_nursery() as nursery:
        stream = await (await open_service(nursery, B, 0)).connect((A, port))

        async def watch() -> None:
            while True:
                print(json.dumps([time.time(), stream.statistics().queueing_delay]), flush=True)
                await trio.sleep(STEP)

        nursery.start_soon(watch)
        while True:
            await stream.send_all(CHUNK)


def tcp_receive(port: int) -> None:
    with socket.create_server((A, port)) as server:
        connection, _ = server.accept()
        got, due = 0, time.time()
        while data := connection.recv(1 << 16):
            got += len(data)
            if time.time() >= due:
                due = time.time() + STEP
                print(json.dumps([time.time(), got]), flush=True)


def tcp_send(port: int, congestion: str) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        connection.connect((A, port))
        while True:
            connection.sendall(CHUNK)


@dataclass
class Flow:
    """What one flow did over time since the start: bytes so far, bytes per second, queueing delay in seconds."""

    name: str
    counts: list[tuple[float, float]] = field(default_factory=list)
    rates: list[tuple[float, float]] = field(default_factory=list)
    delays: list[tuple[float, float]] = field(default_factory=list)

    def mean_rate(self, since: float) -> float:
        taken = [(when, count) for when, count in self.counts if when >= since]
        return (taken[-1][1] - taken[0][1]) / (taken[-1][0] - taken[0][0]) if len(taken) > 1 else 0.0

    def mean_delay(self, since: float) -> float:
        taken = [delay for when, delay in self.delays if when >= since]
        return sum(taken) / len(taken) if taken else 0.0


@contextmanager
def bottleneck() -> Iterator[Net]:
    """Receiver on side 0, sender on side 1, a slow router between them."""
    receiver, sender, router = (f"swarm-bench-{os.getpid()}-{name}" for name in ("in", "out", "mid"))
    shape = "tbf rate 20mbit burst 8kb latency 1s"
    try:
        for space in (receiver, sender, router):
            _run(f"ip netns add {space}")
        ends = ((receiver, A, "10.98.1.1", "to-in"), (sender, B, "10.98.2.1", "to-out"))
        for space, address, gateway, device in ends:
            _run(f"ip link add {device} netns {router} type veth peer name eth0 netns {space}")
            _run(f"ip -n {router} addr add {gateway}/24 dev {device}")
            _run(f"ip -n {router} link set {device} up")
            _run(f"ip -n {space} addr add {address}/24 dev eth0")
            _run(f"ip -n {space} link set eth0 up")
            _run(f"ip -n {space} route add default via {gateway}")
        _run(f"ip netns exec {router} sysctl -qw net.ipv4.ip_forward=1")
        _run(f"ip netns exec {router} tc qdisc add dev to-in root {shape}")
        yield Net("bottleneck", A, B, (["ip", "netns", "exec", receiver], ["ip", "netns", "exec", sender]))
    finally:
        for space in (receiver, sender, router):
            subprocess.run(["ip", "netns", "del", space], check=False)


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True)


def run_case(plan: list[tuple[str, float]], seconds: float) -> list[Flow]:
    """Flows as (kind, start), the kind is "utp" or a TCP congestion control, all until ``seconds``."""
    flows, running = [], []
    with bottleneck() as net:
        begin = time.time()
        for number, (kind, start) in enumerate(plan):
            receiver = net.run(0, __file__, f"{kind}-receive", 42_000 + number)
            time.sleep(max(begin + start - time.time(), 1.0))
            running.append((receiver, net.run(1, __file__, f"{kind}-send", 42_000 + number)))
            flows.append(Flow(f"{kind} {number + 1}"))
        time.sleep(max(begin + seconds - time.time(), 0))
        for flow, (receiver, sender) in zip(flows, running, strict=True):
            for process in (sender, receiver):
                process.terminate()
            flow.counts = [(when - begin, count) for when, count in _lines(receiver)]
            flow.delays = [(when - begin, delay) for when, delay in _lines(sender)]
            for (earlier, before), (later, after) in pairwise(flow.counts):
                flow.rates.append((later, (after - before) / (later - earlier)))
    return flows


def _lines(process: subprocess.Popen[str]) -> list[tuple[float, float]]:
    out, _ = process.communicate()
    return [tuple(json.loads(line)) for line in out.splitlines() if line.endswith("]")]


def svg(flows: list[Flow], seconds: float) -> str:
    """Rates as lines against the link, delays as dotted lines against 300 ms."""
    colours = ("#1f77b4", "#d62728", "#2ca02c")
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif">']
    parts.append(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>')
    for number, flow in enumerate(flows):
        for points, top, style in ((flow.rates, RATE, ""), (flow.delays, 0.3, ' stroke-dasharray="2 3"')):
            path = " ".join(f"{when / seconds * WIDTH:.1f},{HEIGHT * (1 - value / top):.1f}" for when, value in points)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colours[number % 3]}"{style}/>')
        parts.append(f'<text x="8" y="{18 + 16 * number}" fill="{colours[number % 3]}">{flow.name}</text>')
    parts.append(f'<text x="8" y="{HEIGHT - 6}">{seconds:g} s; full height: 20 Mbit/s (lines), 300 ms (dotted)</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1].endswith(("-receive", "-send")):
        port = int(sys.argv[2])
        match sys.argv[1]:
            case "utp-receive":
                trio.run(utp_receive, port)
            case "utp-send":
                trio.run(utp_send, port)
            case kind if kind.endswith("-receive"):
                tcp_receive(port)
            case kind:
                tcp_send(port, kind.removesuffix("-send"))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=70)
    parser.add_argument("--only", default="", help="cases whose name holds this word")
    parser.add_argument("--svg", type=Path, default=None, help="directory for the plots")
    chosen = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("needs root: namespaces and tbf")
    cases = {
        "alone": [("utp", 0.0)],
        "beside-cubic": [("utp", 0.0), ("cubic", 10.0)],
        "beside-bbr": [("utp", 0.0), ("bbr", 10.0)],
        "two-utp": [("utp", 0.0), ("utp", 10.0)],
    }
    for name, plan in cases.items():
        if chosen.only not in name:
            continue
        flows = run_case(plan, chosen.seconds)
        since = plan[-1][1] + (5 if len(plan) == 1 else 1)
        total = sum(flow.mean_rate(since) for flow in flows)
        shares = " ".join(f"{flow.name} {flow.mean_rate(since) / max(total, 1):.0%}" for flow in flows)
        delay = flows[0].mean_delay(since) * 1e3
        print(f"{name:12} link {total * OVERHEAD / RATE:.0%}  {shares}  µTP queueing delay {delay:.0f} ms", flush=True)
        if chosen.svg is not None:
            chosen.svg.mkdir(parents=True, exist_ok=True)
            (chosen.svg / f"utp-{name}.svg").write_text(svg(flows, chosen.seconds))


if __name__ == "__main__":
    main()
