"""Our command line over µTP: with libtorrent's µTP and Transmission's (libutp, encryption "preferred"), and which
transport it chooses, or keeps off, with ``--no-tcp``, ``--no-utp`` and neither.

Transmission dials no loopback address, so it is always us who dial it; see tests/netlab for the other way round.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.clients import free_port, libtorrent_peer, swarm_command, transmission, wait_until
from tests.interop.ours import NETWORK, SECONDS, Events, Meetings, events_in, paths_in
from tests.interop.samples import Kind, Shared, made_by_us, tree_of_odd_sizes

pytestmark = pytest.mark.interop

KIND = Kind(tree_of_odd_sizes, 32 << 10, made_by_us, "http")
TRANSMISSION = {"utp_enabled": True}  # and its default encryption
NO_PROGRESS = 5  # our exit code
ST_SYN = bytes.fromhex("4100 1234 00000000 00000000 00100000 0001 0000")


@contextmanager
def libtorrent_seed(shared: Shared) -> Iterator[str]:
    with libtorrent_peer(shared.seed, shared.torrent, "seed", transport="utp") as peer:
        yield f"127.0.0.1:{peer.port}"


@contextmanager
def libtorrent_leech(shared: Shared, directory: Path) -> Iterator[Callable[[], bool]]:
    with libtorrent_peer(directory, shared.torrent, "leech", transport="utp") as peer:
        yield lambda: bool(peer.report().get("seeding"))


@contextmanager
def transmission_seed(shared: Shared) -> Iterator[None]:
    with transmission(shared.torrent.parent / "transmission", shared.seed, **TRANSMISSION) as client:
        client.add(shared.torrent)
        client.wait_complete(60)
        yield


@contextmanager
def transmission_leech(shared: Shared, directory: Path) -> Iterator[Callable[[], bool]]:
    with transmission(shared.torrent.parent / "transmission", directory, **TRANSMISSION) as client:
        client.add(shared.torrent)
        yield lambda: client.percent_done() == 100.0


@pytest.fixture(scope="module", autouse=True)
def meetings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Meetings]]:
    """Begun first and asked for last, all else runs beside it: Transmission takes ten seconds to make up its mind."""
    with ThreadPoolExecutor() as pool:
        yield {
            "libtorrent": Meetings(
                pool, tmp_path_factory.mktemp("libtorrent"), [KIND], libtorrent_seed, libtorrent_leech, "--no-tcp"
            ),
            "transmission": Meetings(
                pool,
                tmp_path_factory.mktemp("transmission"),
                [KIND],
                transmission_seed,
                transmission_leech,
                "--no-tcp",
                makes_empty_files=False,
            ),
        }


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    return KIND.share(tmp_path, "http://127.0.0.1:1/announce")


@dataclass(frozen=True)
class OurSeed:
    """Our ``swarm seed`` and what it said."""

    port: int
    state: Path


@contextmanager
def our_seed(shared: Shared, *options: object) -> Iterator[OurSeed]:
    port, state = free_port(), shared.seed.parent / "seed's state"
    arguments = (shared.torrent, "-o", shared.seed, *NETWORK, "-p", port, "--no-trackers", *options)
    with swarm_command(state, "seed", *arguments):
        wait_until(lambda: any(event["event"] == "checked" for event in events_in(state)), 10, "our seed is ready")
        yield OurSeed(port, state)


def download(shared: Shared, peer: str, *options: object) -> tuple[int, Events]:
    """Our ``swarm download`` from one peer: its exit code and what it said."""
    state = shared.seed.parent / "leech's state"
    target = shared.seed.parent / "ours"
    arguments = (shared.torrent, "-o", target, *NETWORK, "--no-trackers", "--peer", peer, *options)
    with swarm_command(state, "download", *arguments) as process:
        code = process.wait(SECONDS)
    if code == 0:
        shared.assert_same(target)
    return code, events_in(state)


@pytest.mark.parametrize(
    "seed_speaks,we_speak,path",
    [
        ([], [], "tcp"),  # nothing to map on the way to a loopback address, so TCP starts first
        ([], ["--no-utp"], "tcp"),
        ([], ["--no-tcp"], "utp"),
        (["--no-tcp"], [], "utp"),
        (["--no-utp"], [], "tcp"),
    ],
)
def test_the_transport_that_both_speak_wins(
    shared: Shared, seed_speaks: list[str], we_speak: list[str], path: str
) -> None:
    with our_seed(shared, *seed_speaks) as seed:
        code, events = download(shared, f"127.0.0.1:{seed.port}", *we_speak)
        assert code == 0
        assert paths_in(events) == {path}
        wait_until(lambda: paths_in(events_in(seed.state)) == {path}, 5, f"the seed saw {path}")


def test_libtorrent_that_resets_all_tcp_is_reached_over_utp(shared: Shared) -> None:
    """It listens for TCP nevertheless, so TCP connects first and comes to nothing only at the handshake."""
    with libtorrent_seed(shared) as at:
        code, events = download(shared, at)
        assert code == 0
        assert paths_in(events) == {"utp"}


@pytest.mark.parametrize("seed_speaks,we_speak", [("--no-tcp", "--no-utp"), ("--no-utp", "--no-tcp")])
def test_nothing_in_common_is_no_connection(shared: Shared, seed_speaks: str, we_speak: str) -> None:
    with our_seed(shared, seed_speaks) as seed:
        code, events = download(shared, f"127.0.0.1:{seed.port}", we_speak, "--timeout", 1)
        assert code == NO_PROGRESS
        assert not paths_in(events)


@pytest.mark.parametrize("option,expected", [("--no-utp", {"tcp"}), ("--no-tcp", {"utp"})])
def test_what_a_silent_peer_sees_of_our_dials(shared: Shared, option: str, expected: set[str]) -> None:
    """No packet of a transport that is switched off."""
    with silent_peer() as (at, sockets):
        code, _ = download(shared, at, option, "--timeout", 1)
        assert code == NO_PROGRESS
        assert {name for name, sock in sockets.items() if is_readable(sock, 0)} == expected


@contextmanager
def silent_peer() -> Iterator[tuple[str, dict[str, socket.socket]]]:
    """Where it is, and its sockets: connections wait in the backlog of one, datagrams in the buffer of the other."""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        port = free_port()
        udp.bind(("127.0.0.1", port))
        tcp.bind(("127.0.0.1", port))
        tcp.listen()
        yield f"127.0.0.1:{port}", {"tcp": tcp, "utp": udp}


@pytest.mark.parametrize("option,answers", [("--no-utp", False), ("--no-tcp", True)])
def test_a_syn_is_answered_where_utp_is_on(shared: Shared, option: str, answers: bool) -> None:
    with our_seed(shared, option) as seed, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.connect(("127.0.0.1", seed.port))
        udp.send(ST_SYN)
        assert is_readable(udp, 1) == answers


def is_readable(sock: socket.socket, seconds: float) -> bool:
    return bool(select.select([sock], [], [], seconds)[0])


@pytest.mark.parametrize("client", ["libtorrent", "transmission"])
def test_seeds_to_us(meetings: dict[str, Meetings], client: str) -> None:
    assert paths_in(meetings[client].seeds_to_us(KIND)) == {"utp"}


@pytest.mark.parametrize("client", ["libtorrent", "transmission"])
def test_leeches_from_us(meetings: dict[str, Meetings], client: str) -> None:
    assert paths_in(meetings[client].leeches_from_us(KIND)) == {"utp"}
