"""What a packet capture shows of a download over µTP: one UDP port a node for everything, the same number over IPv4 and
IPv6, never a fragment, no TCP.

And the way round that loopback cannot show: Transmission at its default encryption dials us over µTP.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from swarm.torrent.create import create
from tests.needs import need_program
from tests.netlab.capture import Capture, Seen
from tests.netlab.lab import Lab, Machine
from tests.netlab.test_bind import swarm, wait_for
from tests.nodes import Sample, make_sample

pytestmark = pytest.mark.netlab

SIZE = 2 << 20
TRACKER_PORT = 6969
SEED_PORT = 6881
LIMIT = 60.0  # seconds in which Transmission is to be complete

TRACKER = """
import random, sys, trio
from swarm.discover.embedded_tracker import EmbeddedTracker
from swarm.endpoint import Endpoint
from swarm.net.real import RealNetwork

local = Endpoint(sys.argv[1], int(sys.argv[2]))
tracker = EmbeddedTracker(random.Random(1), interval=60, min_interval=5)

async def main():
    async with trio.open_nursery() as nursery:
        print(await nursery.start(tracker.serve, RealNetwork(), local))

trio.run(main)
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def start_tracker(lab: Lab) -> Machine:
    machine = lab.public("tracker")
    process = machine.python("-c", TRACKER, machine.address, str(TRACKER_PORT))
    assert process.stdout is not None
    assert process.stdout.readline() == f"{machine.address}:{TRACKER_PORT}\n"
    return machine


def make_torrent(directory: Path, tracker: str) -> tuple[Sample, Path]:
    sample, torrent = make_sample(directory / "seed", SIZE), directory / "sample.torrent"
    torrent.write_bytes(create(directory / "seed/sample.bin", piece_length=64 << 10, trackers=[tracker]))
    return sample, torrent


def start_seed(machine: Machine, sample: Sample, torrent: Path) -> Popen[str]:
    """Our seed over µTP alone, known to the tracker."""
    arguments = ("seed", torrent, "-o", sample.directory, "-p", SEED_PORT, "--no-tcp")
    process = swarm(machine, torrent.parent, *arguments)
    wait_for(process, "tracker", '"peers"')
    return process


def test_a_download_over_utp_uses_one_udp_port_per_node(lab: Lab, tmp_path: Path) -> None:
    tracker, seeder, leech = start_tracker(lab), lab.public("seed"), lab.public("leech")
    sample, torrent = make_torrent(tmp_path, f"udp://{tracker.address}:{TRACKER_PORT}")
    with Capture(seeder) as at_seed, Capture(leech) as at_leech:
        start_seed(seeder, sample, torrent)
        process = swarm(leech, tmp_path, "download", torrent, "-o", tmp_path / "target", "-p", 0, "--no-tcp")
        port = wait_for(process, "start")["port"]
        assert wait_for(process, "peer")["path"] == "utp"
        wait_for(process, "done")
        assert process.wait(5) == 0
        seen_at_seed, seen_at_leech = at_seed.stop(), at_leech.stop()
    assert sample.is_whole_in(tmp_path / "target")
    trackers = {(tracker.address, TRACKER_PORT)}
    assert_one_udp_port(seen_at_seed, seeder, SEED_PORT, trackers | {(host, port) for host in addresses(leech)})
    assert_one_udp_port(seen_at_leech, leech, port, trackers | {(host, SEED_PORT) for host in addresses(seeder)})


def addresses(machine: Machine) -> set[str]:
    return {machine.address, machine.address6}


def assert_one_udp_port(seen: Counter[Seen], machine: Machine, port: int, others: set[tuple[str, int]]) -> None:
    """All that this machine sent and got: UDP, over IPv4 and IPv6 its one port, these others, no fragment."""
    sent = {one for one in seen if one.source in addresses(machine)}
    received = {one for one in seen if one.destination in addresses(machine)}
    assert sent | received == set(seen)
    assert {one.protocol for one in seen} == {"udp"}
    assert {one.source_port for one in sent} == {port} == {one.destination_port for one in received}
    assert {(one.destination, one.destination_port) for one in sent} == others
    assert {(one.source, one.source_port) for one in received} == others
    assert not any(one.fragment for one in seen)
    # "Don't fragment" is cleared for what is resent after two time-outs in a row, which a stalled machine may bring.
    may_be_cut = sum(seen[one] for one in sent if not one.dont_fragment)
    assert may_be_cut * 10 < sum(seen[one] for one in sent)


def test_transmission_at_its_default_encryption_dials_us_over_utp(lab: Lab, tmp_path: Path) -> None:
    """It opens with MSE and RC4 payload.  We cannot dial it: when the tracker answered us, it knew nobody else.

    It leaves what comes in one packet with our handshake unread until the next one: of our whole bitfield it would
    not know, and wait."""
    program = need_program("transmission-daemon")
    tracker, seeder, leech = start_tracker(lab), lab.public("seed"), lab.public("leech")
    sample, torrent = make_torrent(tmp_path, f"http://{tracker.address}:{TRACKER_PORT}/announce")
    seed = start_seed(seeder, sample, torrent)
    for directory in ("home", "watched", "theirs"):
        (tmp_path / directory).mkdir()
    shutil.copy(torrent, tmp_path / "watched")
    settings = {
        "utp-enabled": True,
        "dht-enabled": False,
        "lpd-enabled": False,
        "port-forwarding-enabled": False,
        "rpc-enabled": False,
        "download-dir": str(tmp_path / "theirs"),
        "watch-dir": str(tmp_path / "watched"),
        "watch-dir-enabled": True,
    }
    (tmp_path / "home/settings.json").write_text(json.dumps(settings))
    leech.start(program, "-f", "-g", str(tmp_path / "home"), log=tmp_path / "transmission.log")
    peer = wait_for(seed, "peer")
    assert (peer["path"], peer["direction"]) == ("utp", "in")
    assert peer["client"].startswith("Transmission")
    deadline = time.monotonic() + LIMIT
    while not (tmp_path / "theirs/sample.bin").exists():  # until it is complete it has another name
        assert time.monotonic() < deadline, "Transmission is not complete"
        time.sleep(0.1)
    assert sample.is_whole_in(tmp_path / "theirs")
