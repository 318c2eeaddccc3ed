"""libtorrent and Transmission 3.00 that insist on encryption seed to us and leech from us, over TCP.

Transmission dials no loopback address, so it is always us who dial it; libtorrent dials us as well.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from swarm.config import Config
from swarm.endpoint import Endpoint
from swarm.events import DialFailed, Event, PeerConnected
from swarm.node import Node, open_node
from swarm.peerlist import HUNG_UP
from swarm.torrent.create import create
from tests.interop.clients import Transmission, free_port, transmission
from tests.needs import need_module
from tests.nodes import Sample, make_sample

pytestmark = pytest.mark.interop

LOOPBACK = "127.0.0.1"
SECONDS = 60.0  # Transmission alone may take two of its turns of ten seconds
FORCED, RC4 = 0, 2  # libtorrent's enc_policy and enc_level; its level "plaintext" is 1
PLAINTEXT_PAYLOAD = 1
REQUIRED = 2  # Transmission's "encryption"


class Watched:
    """Our node, and what it said of its connections when they were made."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.encryption: list[str] = []
        self.failures: list[str] = []

    @property
    def at(self) -> Endpoint:
        assert self.node.port
        return Endpoint(self.node.config.bind or "", self.node.port)

    def note(self, event: Event) -> None:
        if isinstance(event, PeerConnected):
            torrent = self.node.torrents[event.info_hash]
            self.encryption += [peer.identity.encryption for peer in torrent.connections]
        elif isinstance(event, DialFailed):
            self.failures.append(event.reason)


@asynccontextmanager
async def our_node(bind: str = LOOPBACK, **config: Any) -> AsyncIterator[Watched]:
    """TCP only, and only to whom the test names; events are noted at once, while the connections they tell of stand."""
    settings = Config(bind=bind, port=0, utp=False, trackers=False, dht=False, pex=False, **config)
    async with open_node(settings) as node, trio.open_nursery() as nursery, node.events() as events:
        watched = Watched(node)

        async def watch() -> None:
            async for _, event in events:
                watched.note(event)

        nursery.start_soon(watch)
        yield watched
        nursery.cancel_scope.cancel()


@contextmanager
def libtorrent(torrent: Path, directory: Path, *, seed: bool, level: int) -> Iterator[tuple[Any, Endpoint]]:
    """A torrent in a libtorrent session that speaks in no other way, and where it listens."""
    need_module("libtorrent")
    import libtorrent as lt

    port = free_port()
    session = lt.session(
        {
            "listen_interfaces": f"{LOOPBACK}:{port}",
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "enable_outgoing_utp": False,
            "enable_incoming_utp": False,
            "in_enc_policy": FORCED,
            "out_enc_policy": FORCED,
            "allowed_enc_level": level,
            "prefer_rc4": level == RC4,
            "alert_mask": 0,
        }
    )
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(str(torrent))
    params.save_path = str(directory)
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)  # it would start a second later
    if seed:
        params.flags |= lt.torrent_flags.seed_mode
    handle = session.add_torrent(params)
    try:
        yield handle, Endpoint(LOOPBACK, port)
    finally:
        session.pause()
        del handle, session  # closes the sockets


def shared(tmp_path: Path) -> tuple[Sample, Path]:
    sample = make_sample(tmp_path / "whole", 1_000_003)
    torrent = tmp_path / "sample.torrent"
    torrent.write_bytes(create(sample.directory / "sample.bin", piece_length=64 << 10))
    return sample, torrent


async def poll(condition: Any) -> None:
    with trio.fail_after(SECONDS):
        while not condition():  # the other program tells nobody
            await trio.sleep(0.05)


@pytest.mark.parametrize("level,expected", [(RC4, "rc4"), (PLAINTEXT_PAYLOAD, "obfuscated")])
async def test_libtorrent_that_forces_encryption_seeds_to_us(tmp_path: Path, level: int, expected: str) -> None:
    sample, torrent = shared(tmp_path)
    with libtorrent(torrent, sample.directory, seed=True, level=level) as (_, at):
        async with our_node() as ours:
            fetched = ours.node.add(sample.metainfo, tmp_path / "ours", peers=[at])
            with trio.fail_after(SECONDS):
                await fetched.wait_complete()
            assert sample.is_whole_in(tmp_path / "ours")
            assert ours.encryption == [expected]
            # Plaintext was tried first; who is not quite up hangs up on both, and then there is another round.
            assert ours.failures and set(ours.failures) <= HUNG_UP


@pytest.mark.parametrize("policy", ["prefer", "require"])
@pytest.mark.parametrize("we_dial", [True, False])
async def test_libtorrent_that_forces_encryption_leeches_from_us(tmp_path: Path, policy: str, we_dial: bool) -> None:
    sample, torrent = shared(tmp_path)
    with libtorrent(torrent, tmp_path / "theirs", seed=False, level=RC4) as (handle, at):
        async with our_node(encryption=policy) as ours:
            ours.node.add(sample.metainfo, sample.directory, peers=[at] if we_dial else [])
            await ours.node.torrents[sample.metainfo.info_hash].wait_checked()
            if not we_dial:
                handle.connect_peer(tuple(ours.at))
            await poll(lambda: handle.status().is_seeding)
            assert sample.is_whole_in(tmp_path / "theirs")
            assert set(ours.encryption) == {"rc4"}


async def test_transmission_that_requires_encryption_seeds_to_us_and_leeches_from_us(tmp_path: Path) -> None:
    """All at once: it decides every ten seconds only whom to unchoke and in whom it is interested."""
    sample, torrent = shared(tmp_path)

    async def leeches(policy: str, bind: str, seed: Transmission) -> None:
        directory = tmp_path / policy
        async with our_node(bind, encryption=policy) as ours:
            fetched = ours.node.add(sample.metainfo, directory, peers=[Endpoint(LOOPBACK, seed.port)])
            await fetched.wait_complete()
            assert sample.is_whole_in(directory)
            assert ours.encryption == ["rc4"]
            assert set(ours.failures) <= HUNG_UP  # as it does while it shakes another hand
            assert policy == "require" or ours.failures  # plaintext was tried first

    async def seeds(leech: Transmission) -> None:
        async with our_node() as ours:
            ours.node.add(sample.metainfo, sample.directory, peers=[Endpoint(LOOPBACK, leech.port)])
            await trio.to_thread.run_sync(leech.wait_complete, SECONDS)
            assert sample.is_whole_in(leech.directory)
            assert set(ours.encryption) == {"rc4"}

    with (
        transmission(tmp_path / "seed", sample.directory, encryption=REQUIRED) as seed,
        transmission(tmp_path / "leech", tmp_path / "theirs", encryption=REQUIRED) as leech,
    ):
        leech.add(torrent)
        seed.add(torrent)
        seed.wait_complete(SECONDS)
        with trio.fail_after(2 * SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(seeds, leech)
                nursery.start_soon(leeches, "prefer", "127.0.0.2", seed)  # it shakes one hand per address at a time
                nursery.start_soon(leeches, "require", "127.0.0.3", seed)
