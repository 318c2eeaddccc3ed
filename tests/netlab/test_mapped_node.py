"""`swarm seed` behind a real miniupnpd: libtorrent outside dials it through the port that was opened, and announced."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from swarm.torrent.create import create
from tests.needs import need_module, need_program
from tests.netlab.faults import reboot_router
from tests.netlab.lab import Lab, wait_for_gateway
from tests.netlab.test_gateway import Mapped
from tests.netlab.test_one_udp_port import start_tracker
from tests.netlab.told import Teller
from tests.nodes import Sample, make_sample

pytestmark = pytest.mark.netlab

PORT = 6881
TRACKER_PORT = 6969
LIMIT = 20.0  # seconds for whatever one test waits for


@pytest.fixture
def lab() -> Iterator[Lab]:
    for program in ("miniupnpd", "ss"):
        need_program(program)
    need_module("libtorrent")
    with Lab(ipv6=False) as made:
        yield made


class Scene:
    """A tracker, a machine behind a router of a kind, and a sample whose torrent names the tracker."""

    def __init__(self, lab: Lab, kind: str, directory: Path) -> None:
        self.lab = lab
        self.tracker = start_tracker(lab)
        self.machine = lab.behind(kind, "h")
        wait_for_gateway(self.machine)
        self.sample: Sample = make_sample(directory / "seed", 200_000)
        self.torrent = directory / "sample.torrent"
        announce = f"http://{self.tracker.address}:{TRACKER_PORT}/announce"
        self.torrent.write_bytes(create(directory / "seed/sample.bin", piece_length=64 << 10, trackers=[announce]))
        self._directory = directory

    def start_seed(self) -> Teller:
        """`swarm seed` on the machine; its router opens the port."""
        arguments = ("seed", self.torrent, "-o", self.sample.directory, "-p", PORT, "--no-dht", "--no-lsd", "--json")
        started = time.monotonic()
        return Teller(self.swarm(*arguments), started, self._directory / "seed.jsonl")

    def start_leech(self, name: str) -> Teller:
        """libtorrent, outside."""
        machine, where = self.lab.public(name), self._directory / name
        where.mkdir()
        started = time.monotonic()
        arguments = ("leech", str(self.torrent), str(where), f"0.0.0.0:{PORT}", "0")
        process = machine.python("-m", "tests.netlab.lt_node", *arguments, log=self._directory / f"{name}.log")
        return Teller(process, started, self._directory / f"{name}.jsonl")

    def swarm(self, *arguments: object) -> Popen[str]:
        command = [sys.executable, "-m", "swarm", *map(str, arguments)]
        environment = ("env", f"HOME={self._directory}", "PYTHONUNBUFFERED=1")
        return self.machine.start(*environment, *command, log=self._directory / "swarm.log")

    def wait_for_ports(self) -> set[int]:
        """The outside ports that the router forwards to our PORT, once both transports have one."""
        deadline = time.monotonic() + LIMIT
        while len(ports := self.ports()) < 2:
            assert time.monotonic() < deadline, "the router has opened nothing"
            time.sleep(0.02)
        return set(ports)

    def ports(self) -> list[int]:
        assert self.machine.router is not None
        rules = self.machine.router.run("nft", "list", "chain", "inet", "lab", "prerouting_miniupnpd")
        found = re.findall(rf"dport (\d+) .*dnat (?:ip )?to {re.escape(self.machine.address)}:{PORT}\b", rules)
        return [int(port) for port in found]


@pytest.mark.parametrize("kind", ["upnp", "natpmp"])
def test_a_stranger_dials_the_seed_through_the_port_that_the_router_opened(lab: Lab, kind: str, tmp_path: Path) -> None:
    scene = Scene(lab, kind, tmp_path)
    seed = scene.start_seed()
    assert scene.wait_for_ports() == {PORT}
    leech = scene.start_leech("leech")
    assert leech.wait_for("done", LIMIT) is not None
    outside = f"{scene.machine.external}:{PORT}"
    assert {line["direction"] for line in leech.lines("peer", endpoint=outside, state="connected")} == {"out"}
    leaving = time.monotonic()
    seed.process.terminate()
    assert seed.process.wait(LIMIT) == 143
    assert time.monotonic() - leaving < 3.5
    assert scene.ports() == [], "closed on exit"


def test_the_port_that_is_left_over_is_the_one_announced(lab: Lab, tmp_path: Path) -> None:
    """Somebody else in the house has ours."""
    scene = Scene(lab, "natpmp", tmp_path)
    other = Mapped(lab, lab.sibling("h2", scene.machine), "pcp")
    other.tell(2, "pcp")
    scene.start_seed()
    (port,) = scene.wait_for_ports()
    assert port != PORT
    leech = scene.start_leech("leech")
    assert leech.wait_for("done", LIMIT) is not None
    assert leech.lines("peer", endpoint=f"{scene.machine.external}:{port}", state="connected", direction="out")


def test_after_the_router_has_restarted_strangers_get_in_again(lab: Lab, tmp_path: Path) -> None:
    scene = Scene(lab, "natpmp", tmp_path)
    scene.start_seed()
    scene.wait_for_ports()
    time.sleep(3)  # epochs count seconds, and a clock may be two of them off (RFC 6887 §8.5)
    reboot_router(lab, scene.machine)  # which forgets the ports
    wait_for_gateway(scene.machine)
    scene.wait_for_ports()
    assert scene.start_leech("leech").wait_for("done", LIMIT) is not None


@pytest.mark.parametrize(("kind", "method"), [("upnp", "upnp-igd2"), ("natpmp", "pcp")])
def test_the_doctor_sees_what_the_router_opened(lab: Lab, kind: str, method: str, tmp_path: Path) -> None:
    scene = Scene(lab, kind, tmp_path)
    process = scene.swarm("doctor", "--json", "--no-dht", "-p", PORT)
    output, _ = process.communicate(timeout=LIMIT)
    document: dict[str, Any] = json.loads(output)
    opened = [lease for lease in document["gateway"] if lease["external"] is not None]
    assert {(lease["method"], lease["transport"]) for lease in opened} == {(method, "udp"), (method, "tcp")}
    assert document["announced"] == [f"{scene.machine.external}:{PORT}"]
    assert document["advice"] == []
    assert document["node"]["uptime"] < 3
    assert scene.ports() == [], "and closed again"
