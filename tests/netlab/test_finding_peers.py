"""A magnet link and nothing else, on networks of the kernel: whoever has it is found by multicast alone (BEP 14), be it
ours, libtorrent or Transmission; and Transmission by the DHT alone, which it does not use on loopback.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import pytest

from swarm.torrent.create import create
from tests.interop.clients import wait_until
from tests.interop.test_lsd import CLIENT_PORT, start_libtorrent
from tests.needs import need_program
from tests.netlab.lab import Lab, Machine
from tests.netlab.test_bind import wait_for
from tests.nodes import Sample, make_sample

pytestmark = pytest.mark.netlab

SIZE = 300_000
NODES = 40  # of the DHT: Transmission announces to no network that seems smaller than nine
SEED_PORT = 6881
ANNOUNCED_WITHIN = 90.0  # seconds: 23 on an idle machine
SEARCHES_FOR = 15.0  # seconds before an announce of Transmission leaves
FOUND_WITHIN = 90.0  # seconds: who is not there yet is searched for again after a minute

DHT = """
import random, sys, trio
from contextlib import AsyncExitStack
from dht import DhtConfig, open_node
from swarm.endpoint import Endpoint
from swarm.net.udp import bind_udp

host, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

async def main():
    async with AsyncExitStack() as stack:
        for port in range(first, first + count):
            config = DhtConfig(routers=((host, first),) if port > first else ())
            await stack.enter_async_context(open_node(bind_udp(Endpoint(host, port)), config))
        print("ready")
        await trio.sleep_forever()

trio.run(main)
"""


@dataclass
class Scene:
    """A torrent without trackers, and the network that it is shared in."""

    lab: Lab
    sample: Sample
    torrent: Path
    directory: Path

    def we(self, machine: Machine, command: str, *arguments: object) -> Popen[str]:
        """A command of ours in its default ways, but for gateways."""
        state = self.directory / machine.name
        state.mkdir()
        words = [sys.executable, "-m", "swarm", command, *map(str, arguments), "--json", "--no-mapping"]
        return machine.start("env", f"HOME={state}", "PYTHONUNBUFFERED=1", *words, log=state / "log")

    def we_download(self, machine: Machine, *options: object) -> None:
        """By the bare info-hash; ends with 0 and the whole file."""
        target = self.directory / machine.name / "target"
        process = self.we(machine, "download", self.sample.metainfo.info_hash.hex(), "-o", target, *options)
        told, _ = process.communicate(timeout=FOUND_WITHIN)
        assert process.returncode == 0, told
        [metadata] = [event for event in map(json.loads, told.splitlines()) if event["event"] == "metadata"]
        assert (metadata["name"], metadata["peers"]) == ("sample.bin", 1)
        assert self.sample.is_whole_in(target)

    def start_transmission(self, machine: Machine, *, bootstrap: str = "", **settings: object) -> Path:
        """It has everything; the directory of its configuration."""
        home = self.directory / machine.name
        home.mkdir()
        chosen = {
            "lpd-enabled": False,
            "dht-enabled": False,
            "pex-enabled": False,
            "utp-enabled": False,
            "port-forwarding-enabled": False,
            "peer-port": CLIENT_PORT,
            "rpc-enabled": False,
            "download-dir": str(self.sample.directory),
            "watch-dir": str(self.torrent.parent),
            "watch-dir-enabled": True,
        }
        chosen.update({name.replace("_", "-"): value for name, value in settings.items()})
        (home / "settings.json").write_text(json.dumps(chosen))
        (home / "dht.bootstrap").write_text(bootstrap)
        machine.start(need_program("transmission-daemon"), "-f", "-g", str(home), log=home / "log")
        return home


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    sample = make_sample(tmp_path / "shared", SIZE)
    torrent = tmp_path / "torrents" / "sample.torrent"
    torrent.parent.mkdir()
    torrent.write_bytes(create(tmp_path / "shared/sample.bin", piece_length=64 << 10))
    with Lab() as lab:
        yield Scene(lab, sample, torrent, tmp_path)


NEIGHBOURS_ALONE = ("--no-dht", "--no-trackers", "--no-pex")


def test_ours_is_found_on_the_local_network_alone(scene: Scene) -> None:
    process = scene.we(
        scene.lab.public("seed"),
        "seed",
        scene.torrent,
        "-o",
        scene.sample.directory,
        "-p",
        SEED_PORT,
        *NEIGHBOURS_ALONE,
    )
    wait_for(process, "checked")
    scene.we_download(scene.lab.public("leech"), *NEIGHBOURS_ALONE)


def test_libtorrent_is_found_on_the_local_network_alone(scene: Scene) -> None:
    (scene.torrent.parent / "sample.bin").symlink_to(scene.sample.directory / "sample.bin")  # where it looks
    start_libtorrent(scene.lab.public("libtorrent"), scene.torrent)
    scene.we_download(scene.lab.public("leech"), *NEIGHBOURS_ALONE)


def test_transmission_is_found_on_the_local_network_alone(scene: Scene) -> None:
    scene.start_transmission(scene.lab.public("transmission"), lpd_enabled=True)
    scene.we_download(scene.lab.public("leech"), *NEIGHBOURS_ALONE)


@pytest.mark.soak
def test_transmission_is_found_by_the_dht_alone(scene: Scene) -> None:
    """Takes a minute, as Transmission looks at its network before it announces.

    Many nodes of one address are known to each other only where that is private."""
    machines = [scene.lab.public(name) for name in ("nodes", "transmission", "leech")]
    for number, machine in enumerate(machines, 1):
        machine.run("ip", "addr", "add", f"192.168.77.{number}/24", "dev", "eth0")
    nodes, transmission, leech = machines
    process = nodes.python("-c", DHT, "192.168.77.1", "7000", str(NODES))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    bootstrap = "".join(f"192.168.77.1 {7000 + number}\n" for number in range(NODES))
    home = scene.start_transmission(transmission, dht_enabled=True, bootstrap=bootstrap)
    wait_until(lambda: "DHT announce" in (home / "log").read_text(), ANNOUNCED_WITHIN, "Transmission announces")
    time.sleep(SEARCHES_FOR)
    options = ("--no-lsd", "--no-trackers", "--no-pex", "--dht-bootstrap", "192.168.77.1:7000")
    scene.we_download(leech, *options)
