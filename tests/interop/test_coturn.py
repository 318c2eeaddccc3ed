"""Our STUN client and NAT behaviour discovery against Debian's coturn on loopback, at two addresses and two ports."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.net.mux import Mux, Priority
from swarm.net.nat_discovery import discover_nat
from swarm.net.stun import BRISK, StunAnswer, StunClient
from swarm.net.stun_service import StunService
from tests.interop.clients import child, free_port
from tests.loopback import LoopbackNetwork
from tests.needs import need_program

pytestmark = pytest.mark.interop

HOSTS = "127.0.0.1", "127.0.0.2"
STARTS_WITHIN = 10.0  # seconds


@pytest.fixture
def coturn(tmp_path: Path) -> Iterator[tuple[Endpoint, Endpoint]]:
    """The two endpoints that differ in address and port of a running server."""
    port, other = free_port(), free_port()
    options = ["-n", "--stun-only", "--no-tcp", "--no-tls", "--no-dtls", "--no-cli", "--no-stdout-log", "--simple-log"]
    files = ["--log-file", tmp_path / "turn.log", "--pidfile", tmp_path / "turn.pid", "--db", tmp_path / "turn.db"]
    ports = ["--listening-port", port, f"--alt-listening-port={other}"]
    addresses = [option for host in HOSTS for option in ("-L", host)]
    with child([need_program("turnserver"), *options, *files, *ports, *addresses], tmp_path / "out.log"):
        yield Endpoint(HOSTS[0], port), Endpoint(HOSTS[1], other)


async def first_answer(stun: StunService, server: Endpoint) -> StunAnswer:
    """What it says as soon as it has started."""
    with trio.fail_after(STARTS_WITHIN):
        while True:
            try:
                return await stun.bind(server, patience=BRISK)
            except RemoteError as error:
                assert error.reason == "timed-out"


async def test_coturn_tells_what_an_rfc_5780_server_tells(coturn: tuple[Endpoint, Endpoint]) -> None:
    server, other = coturn
    socket = await LoopbackNetwork().bind_udp(Endpoint("127.0.0.1", 0))
    core = StunClient(random.SystemRandom())
    mux = Mux(socket)
    stun = StunService(core, mux.wake)
    mux.add(core, priority=Priority.STUN, on_results=stun.deliver)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mux.run)
        assert await first_answer(stun, server) == StunAnswer(socket.local, server, server, other)
        with trio.fail_after(10):
            changed = await stun.bind(server, change_ip=True, change_port=True)
            assert (changed.source, changed.origin, changed.mapped) == (other, other, socket.local)
            found = await discover_nat(stun, server, own=[socket.local])
        nursery.cancel_scope.cancel()
    mux.close()
    assert (found.mapping, found.filtering, found.failures) == ("none", "none", ())
    assert [each.server for each in found.evidence] == [server, Endpoint(other.host, server.port), other]
