"""Magnet links with clients that nobody here wrote: libtorrent found by the DHT alone, over either family, and named
by the link; Transmission named by the link; and both get the metadata from us.

Transmission 3.00 takes no loopback address from a DHT and does not read ``x.pe``: there we dial.
"""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from swarm.torrent.magnet import format_magnet
from swarm.torrent.metainfo import parse_torrent_untrusted
from tests.interop.clients import LibtorrentPeer, free_port, libtorrent_peer, swarm_command, transmission, wait_until
from tests.interop.ours import Events, events_in
from tests.interop.samples import Shared, contents, made_by_libtorrent, tree_of_odd_sizes

pytestmark = pytest.mark.interop

SECONDS = 60.0
PIECE = 16 << 10  # so that the metadata takes more than one block

HOSTS = ["127.0.0.1", "::1"]


@dataclass(frozen=True)
class Linked:
    """Something to share, known by its link; no tracker knows it."""

    shared: Shared
    link: str
    directory: Path


@pytest.fixture
def linked(tmp_path: Path) -> Linked:
    return linked_in(tmp_path)


def linked_in(directory: Path) -> Linked:
    path = tree_of_odd_sizes(directory / "seed")
    torrent = directory / "shared.torrent"
    torrent.write_bytes(made_by_libtorrent(path, PIECE, ""))
    metainfo = parse_torrent_untrusted(torrent.read_bytes())
    shared = Shared(metainfo.name, torrent, metainfo.info_hash, directory / "seed")
    return Linked(shared, f"magnet:?xt=urn:btih:{metainfo.info_hash.hex()}", directory)


def quoted(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def network(host: str, *options: object) -> tuple[object, ...]:
    return ("--bind", host, "--no-trackers", "--no-lsd", "--no-mapping", "--json", *options)


def we_download(linked: Linked, link: str, host: str, *options: object) -> Events:
    """Our command ends with 0 and identical files."""
    state, target = linked.directory / "state", linked.directory / "ours"
    with swarm_command(state, "download", link, "-o", target, *network(host, *options)) as process:
        code = process.wait(SECONDS)
    assert code == 0, (state / "log").read_text()
    linked.shared.assert_same(target)
    events = events_in(state)
    [told] = [event for event in events if event["event"] == "metadata"]
    assert (told["peers"], told["name"]) == (1, linked.shared.name)
    return events


@contextmanager
def we_seed(linked: Linked, host: str, port: int, *options: object) -> Iterator[None]:
    state = linked.directory / "seeding"
    arguments = ("seed", linked.shared.torrent, "-o", linked.shared.seed, "-p", port)
    with swarm_command(state, *arguments, *network(host, *options)) as process:
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(4) == 143, (state / "log").read_text()


@contextmanager
def dht_node(directory: Path, host: str) -> Iterator[str]:
    """A libtorrent that everybody knows, and that knows everybody; it takes part in another torrent."""
    other = f"magnet:?xt=urn:btih:{uuid.uuid4().hex}00000000"
    with libtorrent_peer(directory / "router", other, "idle", [f"--host={host}", "--dht"]) as router:
        yield quoted(host, router.port)


@contextmanager
def libtorrent_seed(linked: Linked, *options: str) -> Iterator[LibtorrentPeer]:
    with libtorrent_peer(linked.shared.seed, linked.shared.torrent, "seed", options) as peer:
        yield peer


# -- libtorrent -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_we_find_libtorrent_by_the_dht_alone(linked: Linked, host: str) -> None:
    with (
        dht_node(linked.directory, host) as router,
        libtorrent_seed(linked, f"--host={host}", f"--dht={router}") as seed,
    ):
        events = we_download(linked, linked.link, host, "--no-pex", "--dht-bootstrap", router)
        [met] = [event for event in events if event["event"] == "peer" and event["state"] == "connected"]
        # It may be the first to dial: our search ends with an announce, and it searches, too.
        assert met["direction"] == "in" or met["endpoint"] == quoted(host, seed.port)


@pytest.mark.parametrize("host", HOSTS)
def test_libtorrent_finds_us_by_the_dht_alone(linked: Linked, host: str) -> None:
    theirs = linked.directory / "theirs"
    with (
        dht_node(linked.directory, host) as router,
        we_seed(linked, host, free_port(), "--dht-bootstrap", router),
        libtorrent_peer(theirs, linked.link, "leech", [f"--host={host}", f"--dht={router}"]) as leech,
    ):
        leech.wait_seeding(SECONDS)
    assert contents(theirs / linked.shared.name) == contents(linked.shared.seed / linked.shared.name)


@pytest.mark.parametrize("host", HOSTS)
def test_the_link_names_libtorrent(linked: Linked, host: str) -> None:
    with libtorrent_seed(linked, f"--host={host}") as seed:
        events = we_download(linked, f"{linked.link}&x.pe={quoted(host, seed.port)}", host, "--no-dht")
        assert all(event["endpoint"] == quoted(host, seed.port) for event in events if event["event"] == "peer")


def test_libtorrent_gets_the_metadata_from_us(linked: Linked) -> None:
    theirs, port = linked.directory / "theirs", free_port()
    with (
        we_seed(linked, "127.0.0.1", port, "--no-dht"),
        libtorrent_peer(theirs, linked.link, "leech", [f"127.0.0.1:{port}"]) as leech,
    ):
        leech.wait_seeding(SECONDS)
    linked.shared.assert_same(theirs)


# -- Transmission -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def meetings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[None]]]:
    """Begun at once, as Transmission thinks about whom to serve every ten seconds only."""
    with ThreadPoolExecutor() as pool:
        yield {
            each.__name__: pool.submit(each, linked_in(tmp_path_factory.mktemp(each.__name__)))
            for each in (transmission_seeds_to_us, transmission_leeches_from_us)
        }


def transmission_seeds_to_us(linked: Linked) -> None:
    with transmission(linked.directory / "transmission", linked.shared.seed) as client:
        client.add(linked.shared.torrent)
        client.wait_complete(60)
        we_download(linked, f"{linked.link}&x.pe=127.0.0.1:{client.port}", "127.0.0.1", "--no-dht")


def transmission_leeches_from_us(linked: Linked) -> None:
    """It hangs up on everybody when the metadata is there, and would dial us again if we were not on loopback."""
    theirs = linked.directory / "theirs"
    with transmission(linked.directory / "transmission", theirs) as client:
        client.add(linked.link)
        to_it = ("--no-dht", "--peer", f"127.0.0.1:{client.port}")
        with we_seed(linked, "127.0.0.1", 0, *to_it):
            wait_until(lambda: "Piece Count: 131" in client.remote("-t", "all", "-i"), SECONDS, "it has the metadata")
        with we_seed(linked, "127.0.0.1", 0, *to_it):
            client.wait_complete(SECONDS)
    linked.shared.assert_same(theirs, empty_files=False)


def test_the_link_names_transmission(meetings: dict[str, Future[None]]) -> None:
    meetings["transmission_seeds_to_us"].result()


def test_transmission_gets_the_metadata_from_us(meetings: dict[str, Future[None]]) -> None:
    meetings["transmission_leeches_from_us"].result()


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_link_selects_files_and_the_torrent_is_saved(linked: Linked) -> None:
    metainfo = parse_torrent_untrusted(linked.shared.torrent.read_bytes())
    wanted = next(index for index, file in enumerate(metainfo.files) if file.path[-1] == "one byte")
    target, state = linked.directory / "ours", linked.directory / "state"
    with libtorrent_seed(linked) as seed:
        link = f"{linked.link}&so={wanted}&x.pe=127.0.0.1:{seed.port}"
        command = ("download", link, "-o", target, "--save-torrent", *network("127.0.0.1", "--no-dht"))
        with swarm_command(state, *command) as process:
            assert process.wait(SECONDS) == 0, (state / "log").read_text()
    saved = parse_torrent_untrusted((target / f"{metainfo.name}.torrent").read_bytes())
    assert saved.info_bytes == metainfo.info_bytes
    assert format_magnet(saved).startswith(linked.link)
    expected = (linked.shared.seed / metainfo.name / "a" / "one byte").read_bytes()
    assert (target / metainfo.name / "a" / "one byte").read_bytes() == expected
    assert not (target / metainfo.name / "c" / "many pieces.dat").exists()
