"""Clients that nobody here wrote, as child processes on loopback: libtorrent, Transmission, aria2, opentracker.

Each is a context manager that ends only what it started.  DHT, LSD, port mapping and PEX to strangers are off: nothing
leaves 127.0.0.1.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dht.bencode import decode_untrusted
from tests.needs import need_module, need_program

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SWARM = [sys.executable, "-m", "swarm"]


PORTS = range(20_000, 32_768)
"""Where the kernel takes none for outgoing connections: between the look and the bind, a client beside us would."""


def free_port() -> int:
    """A port that was free for TCP and UDP a moment ago."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_until(condition: object, seconds: float, what: str) -> None:
    """Poll ``condition()`` until it is true; AssertionError naming ``what`` after ``seconds``."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


@contextmanager
def child(argv: Sequence[object], log: Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program with its output in ``log``; terminate it, and kill it after 5 s, at the end."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            [str(part) for part in argv], stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Tracker:
    """A running opentracker."""

    port: int

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}/announce"

    @property
    def udp(self) -> str:
        return f"udp://127.0.0.1:{self.port}/announce"

    def peers(self, info_hash: bytes) -> int:
        """How many announced themselves."""
        query = urllib.parse.urlencode({"info_hash": info_hash})
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/scrape?{query}", timeout=5) as answer:
            scraped = decode_untrusted(answer.read())
        files = scraped.get(b"files") if isinstance(scraped, dict) else None
        counts = files.get(info_hash) if isinstance(files, dict) else None
        if not isinstance(counts, dict):
            return 0
        return sum(count for key in (b"complete", b"incomplete") if isinstance(count := counts.get(key), int))

    def wait_announced(self, info_hash: bytes, count: int = 1) -> None:
        wait_until(lambda: self.peers(info_hash) >= count, 20, f"{count} announced")


@contextmanager
def opentracker(*info_hashes: str) -> Iterator[Tracker]:
    """Debian's build serves only whitelisted torrents, and as root becomes "nobody", who has to read the list."""
    program = need_program("opentracker")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        whitelist = directory / "whitelist"
        whitelist.write_text("".join(f"{info_hash}\n" for info_hash in info_hashes))
        whitelist.chmod(0o644)
        port = free_port()
        argv = [program, "-i", "127.0.0.1", "-p", port, "-P", port, "-d", directory, "-w", "whitelist"]
        with child(argv, directory / "opentracker.log"):
            wait_until(lambda: _listens(port), 20, "opentracker listens")
            yield Tracker(port)


@dataclass(frozen=True)
class LibtorrentPeer:
    """A libtorrent peer and the file it reports into."""

    port: int
    log: Path

    def report(self) -> dict[str, object]:
        lines = self.log.read_text().splitlines()
        for line in reversed(lines):
            if line.startswith("{") and line.endswith("}"):
                report: dict[str, object] = json.loads(line)
                return report
        return {}

    def wait_seeding(self, seconds: float) -> None:
        wait_until(lambda: self.report().get("seeding"), seconds, f"libtorrent completes (last: {self.report()})")


@contextmanager
def libtorrent_peer(
    directory: Path, source: Path | str, role: str, options: Sequence[str] = (), *, transport: str = "tcp"
) -> Iterator[LibtorrentPeer]:
    """``source``, ``role`` and ``options``, peers among them, are those of lt_peer.py."""
    need_module("libtorrent")
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    log = directory / f"libtorrent-{port}.log"
    with child([sys.executable, HERE / "lt_peer.py", source, directory, port, role, transport, *options], log):
        peer = LibtorrentPeer(port, log)
        wait_until(lambda: peer.report(), 20, "libtorrent starts")
        yield peer


@dataclass(frozen=True)
class Transmission:
    """A running transmission-daemon, driven by transmission-remote."""

    port: int
    rpc_port: int
    directory: Path

    def remote(self, *arguments: object) -> str:
        argv = [need_program("transmission-remote"), f"127.0.0.1:{self.rpc_port}", *map(str, arguments)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False).stdout

    def add(self, source: Path | str) -> None:
        """Add a torrent or a link; data that is already in the directory is verified and then seeded."""
        assert "success" in self.remote("-w", self.directory, "-a", source)

    def percent_done(self) -> float:
        found = re.search(r"Percent Done: ([\d.]+)%", self.remote("-t", "all", "-i"))
        return float(found.group(1)) if found else -1.0

    def wait_complete(self, seconds: float) -> None:
        wait_until(lambda: self.percent_done() == 100.0, seconds, "Transmission completes")


@contextmanager
def transmission(home: Path, directory: Path, **settings: object) -> Iterator[Transmission]:
    """transmission-daemon 3.00 bound to loopback, TCP only unless ``settings`` say otherwise."""
    program = need_program("transmission-daemon")
    home.mkdir(parents=True, exist_ok=True)
    directory.mkdir(parents=True, exist_ok=True)
    port, rpc_port = free_port(), free_port()
    chosen: dict[str, object] = {
        "bind-address-ipv4": "127.0.0.1",
        "bind-address-ipv6": "::1",
        "dht-enabled": False,
        "lpd-enabled": False,
        "pex-enabled": True,
        "utp-enabled": False,
        "port-forwarding-enabled": False,
        "peer-port": port,
        "rpc-bind-address": "127.0.0.1",
        "rpc-port": rpc_port,
        "rpc-whitelist-enabled": False,
        "rpc-authentication-required": False,
        "download-dir": str(directory),
        "incomplete-dir-enabled": False,
        "ratio-limit-enabled": False,
        "speed-limit-down-enabled": False,
        "speed-limit-up-enabled": False,
        "umask": 18,
    }
    chosen.update({name.replace("_", "-"): value for name, value in settings.items()})
    (home / "settings.json").write_text(json.dumps(chosen))
    with child([program, "-f", "-g", home, "--log-info"], home / "transmission.log"):
        wait_until(lambda: _listens(rpc_port), 20, "transmission-daemon answers")
        yield Transmission(port, rpc_port, directory)


@contextmanager
def aria2(directory: Path, torrent: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """aria2c on one torrent, over TCP; it seeds for ever once complete."""
    program = need_program("aria2c")
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    argv = [
        program,
        f"--dir={directory}",
        f"--listen-port={port}",
        "--interface=127.0.0.1",
        "--enable-dht=true",  # without it there are no UDP trackers, either
        f"--dht-listen-port={port}",
        f"--dht-file-path={directory.parent / 'aria2-dht.dat'}",
        "--enable-dht6=false",
        "--bt-enable-lpd=false",
        "--enable-peer-exchange=false",
        "--check-integrity=true",
        "--allow-overwrite=true",
        "--file-allocation=none",
        "--seed-ratio=0.0",
        "--bt-tracker-interval=2",
        "--summary-interval=1",
        "--console-log-level=warn",
        "--disable-ipv6=true",
        *options,
        str(torrent),
    ]
    with child(argv, directory.parent / f"aria2-{port}.log") as process:
        yield process


@contextmanager
def swarm_command(state: Path, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """Our own command line as a child with its state apart; what it prints is in ``state / "log"``."""
    state.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SWARM_", "XDG_"))}
    environment |= {"HOME": str(state), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with child([*SWARM, *arguments], state / "log", env=environment) as process:
        yield process


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0
