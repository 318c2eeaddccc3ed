"""Our announces against Debian's opentracker on loopback, by HTTP and by UDP."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from swarm.discover.tracker_client import TrackerClient
from swarm.discover.trackers import Announcer, TrackerSource
from swarm.endpoint import Endpoint
from swarm.events import Event, TrackerAnswered, TrackerFailed
from swarm.net.http import fetch
from swarm.net.mux import Mux, Priority
from swarm.net.udp_tracker import UdpTracker
from swarm.net.udp_tracker_service import UdpTrackerService
from swarm.wire.tracker import ScrapeEntry, parse_scrape_reply_untrusted, scrape_url
from tests.interop.clients import free_port
from tests.loopback import LoopbackNetwork
from tests.needs import need_program

pytestmark = pytest.mark.interop

HASH = bytes(range(100, 120))
STRANGER = b"not in the list".ljust(20)


class Counts:
    uploaded = downloaded = 0
    left = 1


@pytest.fixture
def opentracker(tmp_path: Path) -> Iterator[Endpoint]:
    """A running opentracker that serves `HASH` only.  As root it becomes "nobody", who has to read the list."""
    program = need_program("opentracker")
    whitelist = tmp_path / "whitelist"
    whitelist.write_text(HASH.hex() + "\n")
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o755)
    whitelist.chmod(0o644)
    port = free_port()
    arguments = ["-i", "127.0.0.1", "-p", str(port), "-P", str(port), "-d", str(tmp_path), "-w", "whitelist"]
    with subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until_listening(port, process)
            yield Endpoint("127.0.0.1", port)
        finally:
            process.kill()


def wait_until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(250):
        assert process.poll() is None, f"opentracker ended with {process.returncode}"
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError("opentracker does not listen")


@pytest.mark.parametrize("scheme", ["http", "udp"])
async def test_opentracker_takes_our_announces_and_lists_us_to_each_other(opentracker: Endpoint, scheme: str) -> None:
    network = LoopbackNetwork()
    core = UdpTracker(random.Random(1))
    mux = Mux(await network.bind_udp(Endpoint("127.0.0.1", 0)))
    service = UdpTrackerService(core, mux.wake)
    mux.add(core, priority=Priority.UDP_TRACKER, on_results=service.deliver)
    client = TrackerClient(network, {4: service})
    emit, reports = trio.open_memory_channel[Event](10)
    found: list[Endpoint] = []
    port = 6881
    announcer = Announcer(client, port=lambda family: port, rng=random.Random(2), emit=emit.send_nowait)

    def add(number: int, info_hash: bytes = HASH) -> TrackerSource:
        return announcer.add(
            [[f"{scheme}://{opentracker}/announce"]],
            info_hash=info_hash,
            peer_id=bytes([number]) * 20,
            counters=Counts(),
            found=lambda endpoints, source: found.extend(endpoints),
        )

    async def leechers() -> int:
        url = scrape_url(f"http://{opentracker}/announce", [HASH])
        assert url is not None
        entries = parse_scrape_reply_untrusted((await fetch(network, url)).body)
        assert isinstance(entries, dict)
        return entries.get(HASH, ScrapeEntry(0, 0, 0)).leechers

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mux.run)
            nursery.start_soon(announcer.run)
            first = add(1)
            answered = await reports.receive()
            assert isinstance(answered, TrackerAnswered)
            assert answered.interval > 60
            port = 6882
            add(2)
            assert isinstance(await reports.receive(), TrackerAnswered)
            assert Endpoint("127.0.0.1", 6881) in found
            assert await leechers() == 2
            port = 6881
            await first.stop()
            assert await leechers() == 1
            add(3, STRANGER)
            failed = await reports.receive()
            assert isinstance(failed, TrackerFailed)
            assert failed.reason.startswith("tracker-refused: ")
            nursery.cancel_scope.cancel()
    mux.close()
