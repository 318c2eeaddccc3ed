"""``--bind`` in a kernel namespace: when the address goes, so does all traffic, and none leaves by another way."""

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
from tests.netlab.lab import Lab, Machine
from tests.nodes import Sample, make_sample

pytestmark = pytest.mark.netlab

SIZE = 5 << 20
BOUND = "11.11.11.200"
LIMIT = 20.0  # seconds from start to completion

COUNTERS = """
table inet guard {
    counter outbound { }
    counter around { }
    chain out {
        type filter hook output priority 0;
        oifname "lo" accept
        meta l4proto { tcp, udp } counter name "outbound"
        meta l4proto { tcp, udp } ip saddr != 11.11.11.200 counter name "around"
        meta l4proto { tcp, udp } meta nfproto ipv6 counter name "around"
    }
}
"""
"""What leaves the machine at all, and what leaves it from another address than the bound one."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def swarm(machine: Machine, home: Path, *arguments: object) -> Popen[str]:
    command = [sys.executable, "-m", "swarm", *map(str, arguments), "--json", "--no-dht", "--no-lsd", "--no-mapping"]
    return machine.start("env", f"HOME={home}", "PYTHONUNBUFFERED=1", *command, log=home / f"{machine.name}.log")


def wait_for(process: Popen[str], event: str, text: str = "", count: int = 1) -> dict[str, Any]:
    """The ``count``-th line from now on of this event that contains ``text``; there is one a second at least."""
    assert process.stdout is not None
    deadline = time.monotonic() + LIMIT
    for line in process.stdout:
        told: dict[str, Any] = json.loads(line)
        if told["event"] == event and text in line:
            count -= 1
            if not count:
                return told
        assert time.monotonic() < deadline, f"no {event} {text}; last: {line}"
    raise AssertionError(f"ended with {process.wait()} before {event} {text}")


def packets(machine: Machine, counter: str) -> int:
    found = re.search(r"packets (\d+)", machine.run("nft", "list", "counter", "inet", "guard", counter))
    assert found is not None
    return int(found[1])


def seed_and_torrent(lab: Lab, tmp_path: Path) -> tuple[Sample, Path, str]:
    sample, torrent = make_sample(tmp_path / "seed", SIZE), tmp_path / "sample.torrent"
    torrent.write_bytes(create(tmp_path / "seed/sample.bin", piece_length=64 << 10))
    machine = lab.public("seed")
    seed = swarm(machine, tmp_path, "seed", torrent, "-o", tmp_path / "seed", "-p", 6881)
    wait_for(seed, "checked")
    return sample, torrent, f"{machine.address}:6881"


def test_without_its_address_a_download_is_silent_and_with_it_it_goes_on(lab: Lab, tmp_path: Path) -> None:
    sample, torrent, peer = seed_and_torrent(lab, tmp_path)
    leech = lab.public("leech")
    leech.run("ip", "addr", "add", f"{BOUND}/24", "dev", "eth0")
    leech.run("nft", "-f", "-", stdin=COUNTERS)
    target = tmp_path / "target"
    process = swarm(
        leech, tmp_path, "download", torrent, "-o", target, "--bind", BOUND, "-p", 0, "--peer", peer, "-d", "1M"
    )
    wait_for(process, "piece", count=10)
    leech.run("ip", "addr", "del", f"{BOUND}/24", "dev", "eth0")
    wait_for(process, "warning", f"{BOUND} is gone: all traffic has stopped")
    before = packets(leech, "outbound")
    wait_for(process, "progress", count=3)
    assert packets(leech, "outbound") == before
    leech.run("ip", "addr", "add", f"{BOUND}/24", "dev", "eth0")
    wait_for(process, "warning", f"{BOUND} is back")
    wait_for(process, "done")
    assert process.wait(5) == 0
    assert sample.is_whole_in(target)
    assert packets(leech, "around") == 0
    assert packets(leech, "outbound") > before


def test_a_download_bound_to_an_interface_waits_for_it_to_come_up_again(lab: Lab, tmp_path: Path) -> None:
    sample, torrent, peer = seed_and_torrent(lab, tmp_path)
    leech = lab.public("leech")
    target = tmp_path / "target"
    process = swarm(
        leech, tmp_path, "download", torrent, "-o", target, "--bind", "eth0", "-p", 0, "--peer", peer, "-d", "1M"
    )
    wait_for(process, "piece", count=10)
    leech.run("ip", "link", "set", "eth0", "down")
    wait_for(process, "warning", "eth0 is gone")
    wait_for(process, "progress", count=2)
    leech.run("ip", "link", "set", "eth0", "up")
    wait_for(process, "warning", "eth0 is back")
    wait_for(process, "done")
    assert process.wait(5) == 0
    assert sample.is_whole_in(target)
