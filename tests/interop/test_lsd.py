"""Local discovery with clients that nobody here wrote: Transmission, aria2 and libtorrent find us, and we them.

Each runs unmodified in a namespace of its own, bridged to ours; nothing but multicast tells them of one another.
"""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from swarm.torrent.create import create
from swarm.torrent.metainfo import parse_torrent_untrusted
from tests.discover.test_lsd import KernelNode, start
from tests.needs import need_module, need_program
from tests.netlab.lab import Lab, Machine

pytestmark = [pytest.mark.interop, pytest.mark.netlab]

LIMIT = 60.0  # seconds until a client that was told of us dials us
CLIENT_PORT = 7777


@dataclass
class Dialled:
    """Who has connected to our announced port."""

    listener: socket.socket
    hosts: set[str] = field(default_factory=set)

    def wait_for(self, host: str) -> None:
        while host not in self.hosts:
            stream, (dialler, _) = self.listener.accept()
            stream.close()
            self.hosts.add(dialler)


@dataclass
class Neighbourhood:
    """Every client, and two nodes of ours: one was there before them, the other announces when they listen."""

    clients: dict[str, Machine]
    ours: KernelNode
    dialled: Dialled


def wanted_torrent(directory: Path) -> Path:
    """Its data is nowhere, so that every client wants peers."""
    data, torrent = directory / "wanted.bin", directory / "wanted.torrent"
    data.write_bytes(random.Random(1).randbytes(100_000))
    torrent.write_bytes(create(data, piece_length=16 << 10))
    data.unlink()
    return torrent


def start_transmission(machine: Machine, torrent: Path) -> None:
    """It announces after five seconds, and until then hears nothing."""
    home = torrent.parent / "transmission"
    home.mkdir()
    settings = {
        "lpd-enabled": True,
        "dht-enabled": False,
        "utp-enabled": False,
        "port-forwarding-enabled": False,
        "peer-port": CLIENT_PORT,
        "rpc-enabled": False,
        "download-dir": str(home),
        "watch-dir": str(torrent.parent),
        "watch-dir-enabled": True,
    }
    (home / "settings.json").write_text(json.dumps(settings))
    machine.start(need_program("transmission-daemon"), "-f", "-g", str(home), log=home / "log")


def start_aria2(machine: Machine, torrent: Path) -> None:
    options = ["--bt-enable-lpd=true", "--enable-dht=false", "--enable-dht6=false", f"--listen-port={CLIENT_PORT}"]
    options += [f"--bt-lpd-interface={machine.address}", "--file-allocation=none", "--console-log-level=warn"]
    machine.start(need_program("aria2c"), f"--dir={torrent.parent / 'aria2'}", *options, str(torrent))


LIBTORRENT = """
import sys, time
import libtorrent as lt

listen = f"{sys.argv[1]}:{sys.argv[2]}"
off = dict.fromkeys(("enable_dht", "enable_upnp", "enable_natpmp", "enable_outgoing_utp"), False)
session = lt.session({"listen_interfaces": listen, "enable_lsd": True, **off})
params = lt.add_torrent_params()
params.ti, params.save_path = lt.torrent_info(sys.argv[3]), sys.argv[4]
session.add_torrent(params)
time.sleep(60)
"""


def start_libtorrent(machine: Machine, torrent: Path) -> None:
    need_module("libtorrent")
    machine.python("-c", LIBTORRENT, machine.address, str(CLIENT_PORT), str(torrent), str(torrent.parent))


STARTS = {"Transmission": start_transmission, "aria2": start_aria2, "libtorrent": start_libtorrent}


@pytest.fixture(scope="module")
def neighbourhood(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neighbourhood]:
    """Together, as Transmission announces after five seconds and aria2 dials every ten."""
    torrent = wanted_torrent(tmp_path_factory.mktemp("lsd"))
    info_hash = parse_torrent_untrusted(torrent.read_bytes()).info_hash
    with Lab() as lab:
        ours = start(lab.public("listening"), 1111, info_hash)
        ours.announce()
        ours.wait_until(lambda node: node.announcements_out == 2)
        clients = {name: lab.public(name) for name in STARTS}
        for name, start_client in STARTS.items():
            start_client(clients[name], torrent)
        ours.wait_until(lambda node: len(node.found) >= len(STARTS))
        announcing = lab.public("announcing")
        with announcing.bind(socket.SOCK_STREAM, 2222) as listener:
            listener.listen()
            listener.settimeout(LIMIT)
            start(announcing, 2222, info_hash).announce()
            yield Neighbourhood(clients, ours, Dialled(listener))


@pytest.mark.parametrize("name", STARTS)
def test_we_find_a_client_by_its_announcement(neighbourhood: Neighbourhood, name: str) -> None:
    assert f"{neighbourhood.clients[name].address}:{CLIENT_PORT}" in neighbourhood.ours.found


@pytest.mark.parametrize("name", STARTS)
def test_a_client_dials_us_after_our_announcement(neighbourhood: Neighbourhood, name: str) -> None:
    neighbourhood.dialled.wait_for(neighbourhood.clients[name].address)
