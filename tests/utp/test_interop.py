"""µTP with implementations that nobody here wrote: libtorrent's own, and libutp in Transmission.  Loopback only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from swarm.endpoint import Endpoint
from swarm.net.real import RealNetwork
from tests.interop.clients import transmission
from tests.needs import need_module
from tests.utp.minipeer import MiniPeer, Torrent, make_torrent
from utp import ConnectionLost
from utp.service import UtpService, open_utp
from utp.stream import UtpStream

pytestmark = pytest.mark.interop

LOOPBACK = "127.0.0.1"
SIZE = 1 << 20


@asynccontextmanager
async def service(*, offload: bool = True, host: str = LOOPBACK) -> AsyncIterator[tuple[UtpService, int]]:
    """Ours, and the port it listens on."""
    socket = await RealNetwork(offload=offload).bind_udp(Endpoint(host, 0))
    try:
        async with open_utp(socket) as opened:  # type: ignore[arg-type]
            yield opened, socket.local.port
    finally:
        socket.close()


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


async def test_transmission_seeds_to_us_and_leeches_from_us(tmp_path: Path) -> None:
    """Both at once, at its default settings but for TCP: it thinks about whom to serve every ten seconds only."""
    given, wanted = make_torrent(SIZE, "given.bin"), make_torrent(SIZE + 1, "wanted.bin")
    given.write(tmp_path / "given.torrent", tmp_path / "data")
    wanted.write(tmp_path / "wanted.torrent")
    with trio.fail_after(90), transmission(tmp_path / "home", tmp_path / "data", utp_enabled=True) as theirs:
        for torrent in ("given.torrent", "wanted.torrent"):
            await trio.to_thread.run_sync(theirs.add, tmp_path / torrent)
        await trio.sleep(2.5)  # until it has looked at what is on its disk it knows no torrent
        async with service() as (ours, _), service(host="127.0.0.2") as (others, _):
            leech = MiniPeer(await ours.connect((LOOPBACK, theirs.port)), given)
            seed = MiniPeer(await others.connect((LOOPBACK, theirs.port)), wanted)
            await leech.shake_hands()
            await seed.shake_hands()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(seed.seed)
                assert await leech.leech() == given.content
                while theirs_have(tmp_path / "data" / wanted.name) < SIZE + 1:
                    await trio.sleep(0.1)
                assert seed.stream.statistics().packet_size == 1472  # libutp took the padded probe
                await trio.to_thread.run_sync(theirs.remote, "-t", "all", "-S")
                while await leech.stream.receive_some():
                    pass  # until its FIN
            await leech.stream.aclose()
    assert (tmp_path / "data" / wanted.name).read_bytes() == wanted.content


def theirs_have(path: Path) -> int:
    """Bytes on the disk; Transmission names an unfinished file otherwise or writes it with holes."""
    return path.stat().st_blocks * 512 if path.exists() else 0


async def test_libutp_refuses_nobody_but_answers_only_who_listens(tmp_path: Path) -> None:
    """A port without any µTP behind it times out: ICMP does not end an attempt, which may be a punch."""
    async with service() as (ours, _), service() as (_, silent):
        with pytest.raises(ConnectionLost, match="timed-out"):
            await ours.connect((LOOPBACK, silent + 1 if silent < 65535 else 1), syn_times=(0, 0.1), patience=0.3)
