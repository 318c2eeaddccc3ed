"""µTP with libtorrent's own, which nobody here wrote.  Loopback only; libutp is met in tests/interop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.needs import need_module
from tests.utp.loopback import LOOPBACK, service
from tests.utp.minipeer import MiniPeer, Torrent, make_torrent
from utp import ConnectionLost
from utp.service import UtpService
from utp.stream import UtpStream

pytestmark = pytest.mark.interop

SIZE = 1 << 20


class Libtorrent:
    """A session that speaks nothing but µTP, with one torrent."""

    def __init__(self, torrent: Torrent, directory: Path, *, seed: bool) -> None:
        import libtorrent as lt

        need: dict[str, Any] = {
            "listen_interfaces": f"{LOOPBACK}:0",
            "outgoing_interfaces": LOOPBACK,
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "enable_outgoing_tcp": False,
            "enable_incoming_tcp": False,
            "allow_multiple_connections_per_ip": True,
            "alert_mask": 0,
            "out_enc_policy": 2,  # plaintext: this is about µTP
        }
        self.session = lt.session(need)
        torrent.write(directory / "x.torrent", directory / "data" if seed else None)
        params = lt.add_torrent_params()
        params.ti = lt.torrent_info(str(directory / "x.torrent"))
        params.save_path = str(directory / "data")
        if seed:
            params.flags |= lt.torrent_flags.seed_mode
        self.handle = self.session.add_torrent(params)

    @property
    def endpoint(self) -> tuple[str, int]:
        return LOOPBACK, self.session.listen_port()

    def dial(self, port: int) -> None:
        self.handle.connect_peer((LOOPBACK, port))

    async def wait_seeding(self) -> None:
        while not self.handle.status().is_seeding:
            await trio.sleep(0.05)

    def finish(self) -> None:
        """Hang up on everybody, gracefully."""
        self.handle.pause()


@asynccontextmanager
async def libtorrent(torrent: Torrent, directory: Path, *, seed: bool) -> AsyncIterator[Libtorrent]:
    need_module("libtorrent")
    peer = Libtorrent(torrent, directory, seed=seed)
    try:
        while not peer.session.listen_port():
            await trio.sleep(0.02)
        yield peer
    finally:
        peer.handle.pause()


async def meet(ours: UtpService, port: int, theirs: Libtorrent, *, we_dial: bool) -> UtpStream:
    if we_dial:
        return await ours.connect(theirs.endpoint)
    theirs.dial(port)
    return await ours.accept()


@pytest.mark.parametrize("we_dial,offload", [(True, True), (True, False), (False, True)])
async def test_libtorrent_seeds_to_us(tmp_path: Path, we_dial: bool, offload: bool) -> None:
    torrent = make_torrent(SIZE)
    with trio.fail_after(30):
        async with libtorrent(torrent, tmp_path, seed=True) as theirs, service(offload=offload) as (ours, port):
            peer = MiniPeer(await meet(ours, port, theirs, we_dial=we_dial), torrent)
            await peer.shake_hands()
            assert await peer.leech() == torrent.content
            assert peer.stream.statistics().packets_retransmitted <= 5
            theirs.finish()
            while await peer.stream.receive_some():
                pass  # until their FIN, with libtorrent's close reason in front of it
            await peer.stream.aclose()


@pytest.mark.parametrize("we_dial,offload", [(True, True), (True, False), (False, True)])
async def test_libtorrent_leeches_from_us(tmp_path: Path, we_dial: bool, offload: bool) -> None:
    torrent = make_torrent(SIZE)
    with trio.fail_after(30):
        async with libtorrent(torrent, tmp_path, seed=False) as theirs, service(offload=offload) as (ours, port):
            peer = MiniPeer(await meet(ours, port, theirs, we_dial=we_dial), torrent)
            await peer.shake_hands()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.seed)
                await theirs.wait_seeding()
                assert peer.stream.statistics().packet_size == 1472  # the padded probe got through
                peer.stream.abort()
    assert (tmp_path / "data" / torrent.name).read_bytes() == torrent.content


async def test_libtorrent_hears_our_reset(tmp_path: Path) -> None:
    torrent = make_torrent(SIZE)
    with trio.fail_after(30):
        async with libtorrent(torrent, tmp_path, seed=True) as theirs, service() as (ours, _):
            peer = MiniPeer(await ours.connect(theirs.endpoint), torrent)
            await peer.shake_hands()
            assert len(theirs.handle.get_peer_info()) == 1
            peer.stream.abort()
            while theirs.handle.get_peer_info():
                await trio.sleep(0.05)


async def test_a_port_that_nobody_listens_on_times_out() -> None:
    """A port without any µTP behind it times out: ICMP does not end an attempt, which may be a punch."""
    async with service() as (ours, _), service() as (_, silent):
        with pytest.raises(ConnectionLost, match="timed-out"):
            await ours.connect((LOOPBACK, silent + 1 if silent < 65535 else 1), syn_times=(0, 0.1), patience=0.3)
