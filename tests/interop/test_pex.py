"""Peer exchange with libtorrent: one peer is known, and who has the data is known to that one alone.

Either way: libtorrent introduces libtorrent to us, and we introduce libtorrent to libtorrent.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from swarm.torrent.metainfo import parse_torrent_untrusted
from tests.interop.clients import libtorrent_peer, swarm_command, wait_until
from tests.interop.ours import events_in
from tests.interop.samples import Shared, made_by_libtorrent, tree_of_odd_sizes

pytestmark = pytest.mark.interop

SECONDS = 60.0
NETWORK = ("--bind", "127.0.0.1", "--no-trackers", "--no-dht", "--no-lsd", "--no-mapping")
SLOWLY = ("-d", "500k")  # so that the first messages come in time


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    path = tree_of_odd_sizes(tmp_path / "seed")
    torrent = tmp_path / "shared.torrent"
    torrent.write_bytes(made_by_libtorrent(path, 32 << 10, ""))
    metainfo = parse_torrent_untrusted(torrent.read_bytes())
    return Shared(metainfo.name, torrent, metainfo.info_hash, tmp_path / "seed")


def test_libtorrent_introduces_us_to_who_has_it(shared: Shared, tmp_path: Path) -> None:
    """By its first message, so it must know the other by then.  It fetches next to nothing itself."""
    link = f"magnet:?xt=urn:btih:{shared.info_hash.hex()}"
    with (
        libtorrent_peer(shared.seed, shared.torrent, "seed") as seed,
        libtorrent_peer(tmp_path / "hub", shared.torrent, "idle", [f"127.0.0.1:{seed.port}"]) as hub,
    ):
        wait_until(lambda: "libtorrent" in str(hub.report()["peers"]), 10, "libtorrent meets libtorrent")
        state, target = tmp_path / "state", tmp_path / "ours"
        arguments = ("download", f"{link}&x.pe=127.0.0.1:{hub.port}", "-o", target, "-v", *SLOWLY, *NETWORK)
        with swarm_command(state, *arguments) as process:
            assert process.wait(SECONDS) == 0, (state / "log").read_text()
        shared.assert_same(target)
        assert f"peer 127.0.0.1:{seed.port} known from pex" in (state / "log").read_text()
        progress = hub.report()["progress"]
        assert isinstance(progress, float)
        assert progress < 0.1


def test_we_introduce_libtorrent_to_who_has_it(shared: Shared, tmp_path: Path) -> None:
    """We fetch next to nothing ourselves."""
    state = tmp_path / "state"
    with libtorrent_peer(shared.seed, shared.torrent, "seed") as seed:
        arguments = ("download", shared.torrent, "-o", tmp_path / "ours", "-p", 0, "-d", 1000, "--json", *NETWORK)
        with swarm_command(state, *arguments, "--peer", f"127.0.0.1:{seed.port}"):
            wait_until(
                lambda: any(event["event"] == "peer" for event in events_in(state)), SECONDS, "we meet libtorrent"
            )
            port = next(event["port"] for event in events_in(state) if event["event"] == "start")
            theirs, started = tmp_path / "theirs", time.monotonic()
            with libtorrent_peer(theirs, shared.torrent, "leech", [f"127.0.0.1:{port}"]) as leech:
                leech.wait_seeding(SECONDS)
                print(f"complete {time.monotonic() - started:.1f} s after it knew us")
            shared.assert_same(theirs)
            had = [event["done"] for event in events_in(state) if event["event"] == "progress"]
            assert max(had) < 200_000
