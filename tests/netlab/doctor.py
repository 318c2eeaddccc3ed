"""``swarm doctor`` on a machine of the laboratory, and the small DHT by which it learns where it stands."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from swarm.torrent.create import create
from tests.netlab.lab import Lab, Machine

PORT = 6881
LIMIT = 20.0
"""Seconds for a look."""

DHT_NODES = 4
"""Each in a network of its own: so many decide where we are seen."""


def start_dht(lab: Lab) -> str:
    """Nodes on the open internet; where to begin.  They hold a torrent of no importance."""
    content = lab.directory / "x"
    content.write_bytes(bytes(1000))
    torrent = lab.directory / "x.torrent"
    torrent.write_bytes(create(content))
    machines = [lab.public(f"dht{number}") for number in range(DHT_NODES)]
    for number, machine in enumerate(machines):
        lab.move(machine, f"{81 + number}.5.0.9")
    first = f"{machines[0].address}:{PORT}"
    for machine in machines:
        options = ["-o", str(lab.directory), "--no-lsd", "--no-mapping", "--dht-bootstrap", first]
        _start_swarm(lab, machine, "seed", str(torrent), *options)
    return first


class Doctor:
    """One that has begun to look; several may at once."""

    def __init__(self, lab: Lab, machine: Machine, bootstrap: str) -> None:
        self._log = lab.directory / f"{machine.name}.log"
        self._process = _start_swarm(lab, machine, "doctor", "--json", "--dht-bootstrap", bootstrap)

    def document(self) -> dict[str, Any]:
        """What it says, after LIMIT seconds at most."""
        said, _ = self._process.communicate(timeout=LIMIT)
        assert self._process.returncode == 0, self._log.read_text()
        document: dict[str, Any] = json.loads(said)
        return document


def _start_swarm(lab: Lab, machine: Machine, *arguments: str) -> subprocess.Popen[str]:
    """A command with a state of its own."""
    state = f"XDG_STATE_HOME={lab.directory / machine.name}-state"
    command = [sys.executable, "-m", "swarm", *arguments, "-p", str(PORT)]
    return machine.start("env", state, *command, log=lab.directory / f"{machine.name}.log")
