"""The clients of the connectivity grid as commands: ours and libtorrent's, on one port, telling lines of JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from tests.netlab.coturn import URI
from tests.netlab.lab import Machine
from tests.netlab.provers import HELPER
from tests.netlab.routers import GATEWAYS

PORT = 6881


def _our_command(name: str, machine: Machine, torrent: Path, directory: Path, rate: int) -> list[str]:
    command = "seed" if name == "seed" else "download"
    environment = [f"PATH={os.environ['PATH']}", f"HOME={directory}.home", "PYTHONUNBUFFERED=1"]
    options = ["-o", directory, "-p", PORT, "-d", rate, "-u", rate, "--json", "--no-dht", "--no-lsd"]
    return ["env", "-i", *environment, sys.executable, "-m", "swarm", command, str(torrent), *map(str, options)]


def _relay_command(name: str, machine: Machine, torrent: Path, directory: Path, rate: int) -> list[str]:
    """It also has one of those connect that prove its being reachable."""
    options = ["--relay-serve", "--stats", f"{directory}.stats", "--peer", f"{HELPER}:{PORT}"]
    return [*_our_command(name, machine, torrent, directory, rate), *options]


def _turn_command(name: str, machine: Machine, torrent: Path, directory: Path, rate: int) -> list[str]:
    return [*_our_command(name, machine, torrent, directory, rate), "--turn", URI]


def _utp_command(name: str, machine: Machine, torrent: Path, directory: Path, rate: int) -> list[str]:
    return [*_our_command(name, machine, torrent, directory, rate), "--no-tcp", "--stats", f"{directory}.stats"]


def _tcp_command(name: str, machine: Machine, torrent: Path, directory: Path, rate: int) -> list[str]:
    return [*_our_command(name, machine, torrent, directory, rate), "--no-utp", "--stats", f"{directory}.stats"]


def _libtorrent_command(name: str, machine: Machine, torrent: Path, directory: Path, rate: int) -> list[str]:
    role = "seed" if name == "seed" else "leech"
    wildcard = "[::]" if ":" in machine.address else "0.0.0.0"
    options = [role, torrent, directory, f"{wildcard}:{PORT}", rate, *(["map"] if machine.kind in GATEWAYS else [])]
    return [sys.executable, "-u", "-m", "tests.netlab.lt_node", *map(str, options)]


COMMANDS: dict[str, Callable[[str, Machine, Path, Path, int], list[str]]] = {
    "ours": _our_command,
    "lt": _libtorrent_command,
    "relay": _relay_command,
    "turn": _turn_command,
    "utp": _utp_command,
    "tcp": _tcp_command,
}
