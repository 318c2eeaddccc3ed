"""Two peers by whom another finds out that strangers reach it: a helper, and a dialler whom only the helper knows.

In the first ten minutes of a node's run only `sw_reach` proves that; an open peer relays for nobody before.  Over µTP
alone: who is to dial must have got through to somebody by the same transport.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.netlab.lab import Lab, Machine, end
from tests.netlab.told import Teller

PORT = 6881
HELPER = "12.0.0.1"

CONNECTED_WITHIN = 15.0
"""Seconds that the dialler has to find the helper."""

ASKED_EACH_OTHER = 4.0
"""Seconds until the dialler has asked the helper about himself, and been told that nobody can dial: then he is silent
for half a minute.  Who came earlier would be sent to dial him, and be dialled by no stranger."""


class Provers:
    """Helper and dialler, which share a torrent with who is to be dialled; the machines are there at once."""

    def __init__(self, lab: Lab) -> None:
        self._directory = lab.directory
        self._helper, self._dialler = lab.public("helper"), lab.public("dialler")
        lab.move(self._helper, HELPER)
        self._started: list[Teller] = []

    def start(self, torrent: Path) -> None:
        """Returns when who is to be dialled may connect to HELPER."""
        assert self._start(self._helper, torrent).wait_for("start", CONNECTED_WITHIN) is not None
        dialler = self._start(self._dialler, torrent, "--peer", f"{HELPER}:{PORT}")
        connected = dialler.wait_for("peer", CONNECTED_WITHIN, state="connected")
        assert connected is not None, "helper and dialler do not find each other"
        time.sleep(ASKED_EACH_OTHER)

    def end(self) -> None:
        """They leave: nobody meets by their help."""
        for each in self._started:
            end(each.process)

    def _start(self, machine: Machine, torrent: Path, *options: str) -> Teller:
        kept = self._directory / machine.name
        alone = ("--no-tcp", "--no-dht", "--no-pex", "--no-lsd", "--no-trackers", "--no-mapping")
        share = ("download", str(torrent), "-o", str(kept), "-p", str(PORT), "-d", "500", "--json")
        command = ("env", f"HOME={kept}.home", "PYTHONUNBUFFERED=1", sys.executable, "-m", "swarm", *share, *alone)
        process = machine.start(*command, *options, log=self._directory / f"{machine.name}.log")
        teller = Teller(process, time.monotonic(), self._directory / f"{machine.name}.jsonl")
        self._started.append(teller)
        return teller
