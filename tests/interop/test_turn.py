"""Our TURN client against Debian's coturn on loopback: transports, credentials, nonces, lifetimes, both families."""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

import swarm.net.turn_client as turn_client
import swarm.net.turn_peers as turn_peers
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.net.network import DatagramSocket, Outgoing
from swarm.net.network import Path as NetPath
from swarm.net.turn import TurnSocket
from swarm.net.turn_opening import open_allocation
from swarm.wire.turn_uri import parse_turn_uri
from tests.interop.clients import child, free_port, wait_until
from tests.loopback import LoopbackNetwork
from tests.needs import need_program
from tests.net.certificate import certificate_for

pytestmark = pytest.mark.interop

USER, PASSWORD = "alice", "hunter2"


@dataclass(frozen=True)
class Coturn:
    port: int
    tls_port: int
    log: Path

    def uri(self, query: str = "", *, password: str = PASSWORD, host: str = "127.0.0.1") -> str:
        return f"turn:{USER}:{password}@{host}:{self.port}{query}"

    @property
    def tls_uri(self) -> str:
        return f"turns:{USER}:{PASSWORD}@127.0.0.1:{self.tls_port}"


@contextmanager
def coturn(directory: Path, *options: object, hosts: Sequence[str] = ("127.0.0.1",)) -> Iterator[Coturn]:
    port, tls_port = free_port(), free_port()
    log = directory / "turn.log"
    fixed = ["-n", "--no-dtls", "--no-cli", "--no-stdout-log", "--simple-log", "--allow-loopback-peers"]
    files = ["--log-file", log, "--pidfile", directory / "turn.pid", "--db", directory / "turn.db"]
    user = ["--lt-cred-mech", "--user", f"{USER}:{PASSWORD}", "--realm", "swarm.example"]
    ports = ["--listening-port", port, "--tls-listening-port", tls_port]
    addresses = [option for host in hosts for option in ("-L", host)]
    argv = [need_program("turnserver"), *fixed, *files, *user, *ports, *addresses, *options]
    with child(argv, directory / "out.log"):
        wait_until(lambda: _listens(port), 10, "coturn to listen")
        yield Coturn(port, tls_port, log)


def _listens(port: int) -> bool:
    needle = f":{port:04X} "
    return any(needle in line and " 0A " in line for line in Path("/proc/net/tcp").read_text().splitlines())


async def exchange(socket: TurnSocket, peer: DatagramSocket, text: bytes = b"ping") -> None:
    """There and back again; what is lost is sent again."""
    at = peer.local
    with trio.fail_after(10):
        for sender, receiver, to in ((socket, peer, at), (peer, socket, socket.local)):
            found = b""
            while found != text:
                sender.send_nowait(Outgoing((text,), len(text), NetPath(None, to)))
                with trio.move_on_after(0.5):
                    await receiver.wait_readable()
                    found = bytes(receiver.receive_nowait()[0].data)


@pytest.mark.parametrize("query", ["?transport=udp", "?transport=tcp", ""])
async def test_datagrams_pass_over_udp_and_tcp(query: str, tmp_path: Path) -> None:
    network = LoopbackNetwork()
    with coturn(tmp_path, "--no-tls") as server:
        peer = await network.bind_udp(Endpoint("127.0.0.1", 0))
        async with open_allocation(network, parse_turn_uri(server.uri(query)), random.SystemRandom()) as socket:
            assert socket.transport == (query[-3:] or "udp")
            for size in (1, 2, 3, 4, 1400):
                await exchange(socket, peer, b"x" * size)
        peer.close()


async def test_tls_with_a_certificate_that_we_trust_and_one_that_we_do_not(tmp_path: Path) -> None:
    network = LoopbackNetwork()
    certificate, key = certificate_for(tmp_path, "127.0.0.1")
    with coturn(tmp_path, "--cert", certificate, "--pkey", key) as server:
        trusting = ssl.create_default_context(cafile=str(certificate))
        peer = await network.bind_udp(Endpoint("127.0.0.1", 0))
        place = parse_turn_uri(server.tls_uri)
        async with open_allocation(network, place, random.SystemRandom(), tls=trusting) as socket:
            assert socket.transport == "tls"
            for _ in range(3):
                await exchange(socket, peer, b"x" * 1399)
        peer.close()
        with pytest.raises(RemoteError, match="certificate") as error:
            async with open_allocation(network, place, random.SystemRandom()):
                raise AssertionError("unreachable")
        assert error.value.reason == "tls-failed"


async def test_a_wrong_password_is_refused_and_not_logged(tmp_path: Path) -> None:
    with coturn(tmp_path, "--no-tls") as server:
        place = parse_turn_uri(server.uri(password="letmein"))
        with pytest.raises(RemoteError, match="user name or password") as error:
            async with open_allocation(LoopbackNetwork(), place, random.SystemRandom()):
                raise AssertionError("unreachable")
        assert error.value.reason == "turn-unauthorized"


async def test_nonces_run_out_and_short_lives_are_prolonged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """coturn's shortest nonce lives a second here, its permissions and channels three, its allocations six."""
    monkeypatch.setattr(turn_peers, "RENEW_AFTER", 1.0)
    monkeypatch.setattr(turn_client, "LOOK", 0.5)
    options = ["--stale-nonce=1", "--permission-lifetime=3", "--channel-lifetime=3", "--max-allocate-lifetime=6"]
    network = LoopbackNetwork()
    with coturn(tmp_path, "--no-tls", "--verbose", *options) as server:
        peer = await network.bind_udp(Endpoint("127.0.0.1", 0))
        async with open_allocation(
            network, parse_turn_uri(server.uri("?transport=udp")), random.SystemRandom(), lifetime=6
        ) as socket:
            relayed = socket.local
            until = time.monotonic() + 9
            while time.monotonic() < until:
                await exchange(socket, peer)
                await trio.sleep(0.5)
            assert (socket.local, socket.error) == (relayed, None)
        peer.close()
        wait_until(lambda: _log(tmp_path).count("refreshed") >= 2, 10, "refresh and goodbye in the log")
        assert "438" in _log(tmp_path), "a nonce went stale"


def _log(directory: Path) -> str:
    return "".join(path.read_text() for path in directory.glob("turn*.log"))


async def test_a_quota_is_a_reason(tmp_path: Path) -> None:
    network = LoopbackNetwork()
    with coturn(tmp_path, "--no-tls", "--user-quota=1") as server:
        place = parse_turn_uri(server.uri("?transport=udp"))
        async with open_allocation(network, place, random.SystemRandom()):
            with pytest.raises(RemoteError) as error:
                async with open_allocation(network, place, random.SystemRandom()):
                    raise AssertionError("unreachable")
            assert error.value.reason == "turn-quota"


async def test_peers_that_the_server_denies_do_not_spoil_the_others(tmp_path: Path) -> None:
    network = LoopbackNetwork()
    with coturn(tmp_path, "--no-tls", "--denied-peer-ip=127.0.0.66") as server:
        peer = await network.bind_udp(Endpoint("127.0.0.1", 0))
        place = parse_turn_uri(server.uri())
        async with open_allocation(network, place, random.SystemRandom()) as socket:
            socket.permit(["127.0.0.65", "127.0.0.66", "127.0.0.1"])
            await exchange(socket, peer)
            with trio.fail_after(5):
                while not socket.refused:
                    await trio.sleep(0.05)
            assert socket.refused == {"127.0.0.66": "turn-forbidden"}
        peer.close()


async def test_an_ipv6_server_and_an_ipv6_relayed_address(tmp_path: Path) -> None:
    network = LoopbackNetwork()
    with coturn(tmp_path, "--no-tls", hosts=("::1", "127.0.0.1")) as server:
        for host, ipv6, own in (("[::1]", True, "::1"), ("127.0.0.1", True, "::1"), ("[::1]", False, "127.0.0.1")):
            peer = await network.bind_udp(Endpoint(own, 0))
            place = parse_turn_uri(server.uri(host=host))
            async with open_allocation(network, place, random.SystemRandom(), ipv6=ipv6) as socket:
                assert socket.local.host == own
                await exchange(socket, peer)
            peer.close()
