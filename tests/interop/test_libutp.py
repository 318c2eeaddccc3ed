"""Our µTP library, without the client around it, with libutp as Transmission uses it.  Loopback only."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.interop.clients import transmission
from tests.utp.loopback import LOOPBACK, service
from tests.utp.minipeer import MiniPeer, make_torrent

pytestmark = pytest.mark.interop

SIZE = 1 << 20


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
