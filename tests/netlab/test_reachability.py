"""`sw_reach` between programs on a kernel NAT: peers find out that strangers do not reach us behind it.

Three helpers in networks of their own, and one more peer who knows them and is sent to dial.  Over µTP alone.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.torrent.create import create
from tests.netlab.lab import Lab, Machine
from tests.netlab.told import Teller, statistics_of
from tests.nodes import make_sample

pytestmark = pytest.mark.netlab

PORT = 6881
HELPERS = 3
ASKED_EACH_OTHER = 6.0
"""Seconds until the dialler has asked all helpers about himself, and been told that nobody can dial: then he is silent
for half a minute, and the asker, who could have, need not: who has dialled is no stranger."""

FOUND_OUT = 20.0
"""Seconds for three probes, two seconds apart, and a dial that takes six; on a machine that does other things, too."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(ipv6=False) as made:
        yield made


class Swarm:
    """Programs that share a torrent and hear of each other by ``--peer`` only."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sample = make_sample(directory / "seed", 1 << 20)
        self._torrent = directory / "sample.torrent"
        self._torrent.write_bytes(create(directory / "seed/sample.bin", piece_length=1 << 20))

    def start(self, machine: Machine, *peers: str, seeds: bool = False) -> Teller:
        """One that shares; who does not seed gets next to nothing, so that nobody is done."""
        kept = self._directory / machine.name
        where = self._sample.directory if seeds else kept
        share = ("seed", self._torrent, "-o", where) if seeds else ("download", self._torrent, "-o", where, "-d", "500")
        named = [option for peer in peers for option in ("--peer", f"{peer}:{PORT}")]
        alone = ("--no-tcp", "--no-dht", "--no-pex", "--no-lsd", "--no-trackers", "--no-mapping", "-p", str(PORT))
        told = ("--json", "--stats", self._directory / f"{machine.name}.json")
        command = [sys.executable, "-m", "swarm", *map(str, share), *named, *alone, *map(str, told)]
        started = time.monotonic()
        environment = ("env", f"HOME={kept}", "PYTHONUNBUFFERED=1")
        process = machine.start(*environment, *command, log=self._directory / f"{machine.name}.log")
        teller = Teller(process, started, self._directory / f"{machine.name}.jsonl")
        for peer in peers:
            assert teller.wait_for("peer", FOUND_OUT, endpoint=f"{peer}:{PORT}", state="connected") is not None
        return teller

    def reachability(self, machine: Machine, process: subprocess.Popen[str]) -> dict[str, bool | None]:
        """What the program on a machine has found out so far."""
        said = statistics_of(process, self._directory / f"{machine.name}.json")
        found: dict[str, bool | None] = said["reachability"]
        return found


def test_peers_tell_that_strangers_do_not_get_through_the_nat(lab: Lab) -> None:
    swarm = Swarm(lab.directory)
    machines = [lab.public(f"helper{number}") for number in range(HELPERS)]
    for number, machine in enumerate(machines):
        lab.move(machine, f"12.0.{number}.1")  # helpers of one network would be one voice
    helpers = [machine.address for machine in machines]
    for started in [swarm.start(machine) for machine in machines]:
        assert started.wait_for("start", FOUND_OUT) is not None
    swarm.start(lab.public("dialler"), *helpers)
    asker = lab.behind("cone", "asker")
    time.sleep(ASKED_EACH_OTHER)
    process = swarm.start(asker, *helpers, seeds=True).process
    deadline = time.monotonic() + FOUND_OUT
    while (found := swarm.reachability(asker, process))["utp4"] is None:
        assert time.monotonic() < deadline, "nothing was found out"
        time.sleep(0.2)
    assert found == {"tcp4": None, "utp4": False, "tcp6": None, "utp6": None}
