"""ut_holepunch (BEP 55) with an unmodified libtorrent: as a relay it obeys our messages and we understand its, and as a
target it does what our connect says.

The peers are written by hand, so that nothing but the messages is tried.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError
from swarm.ext.holepunch import (
    Connect,
    ErrorCode,
    Holepunch,
    HolepunchMessage,
    PunchError,
    Rendezvous,
    parse_holepunch_untrusted,
)
from swarm.net.network import Stream
from swarm.net.udp import bind_udp
from swarm.net.udp_port import UdpPort
from swarm.torrent.create import create
from swarm.wire.extended import ExtendedHandshake, parse_extended_handshake_untrusted
from swarm.wire.messages import Extended
from tests.interop.clients import libtorrent_peer
from tests.loopback import LoopbackNetwork
from tests.needs import need_module
from tests.nodes import Sample, make_sample
from tests.rawpeer import RawPeer
from utp.config import UtpConfig

pytestmark = pytest.mark.interop

LOOPBACK = "127.0.0.1"
OUR_ID = 7
SECONDS = 10.0


class Dialler(LoopbackNetwork):
    """Remembers its streams; dials by µTP over ``port`` if there is one."""

    def __init__(self, port: UdpPort | None = None) -> None:
        super().__init__()
        self._port = port
        self.streams: list[Stream] = []

    async def dial_tcp(self, remote: Endpoint, *, local: Endpoint | None = None) -> Stream:  # type: ignore[override]
        if self._port is None:
            self.streams.append(await super().dial_tcp(remote, local=local))
        else:
            assert self._port.utp is not None
            self.streams.append(await self._port.utp.dial(remote))
        return self.streams[-1]


class Punching:
    """A connection to libtorrent that speaks ut_holepunch and nothing else."""

    def __init__(self, raw: RawPeer, their_id: int) -> None:
        self.raw = raw
        self._their_id = their_id

    @classmethod
    async def connect(cls, network: Dialler, remote: Endpoint, sample: Sample, name: str) -> Punching:
        """Again and again: while libtorrent looks at its files it resets who comes."""
        while True:
            try:
                raw = await RawPeer.connect(network, remote, sample, name=name)
            except (trio.BrokenResourceError, RemoteProtocolError):
                network.streams[-1].abort()
                await trio.sleep(0.1)
            else:
                return await cls._introduce(raw)

    @classmethod
    async def _introduce(cls, raw: RawPeer) -> Punching:
        await raw.say(Extended(0, ExtendedHandshake(m={Holepunch.NAME: OUR_ID}).encode()).encode())
        theirs = await raw.wait_for(Extended)
        assert isinstance(theirs, Extended)
        return cls(raw, parse_extended_handshake_untrusted(theirs.payload).m[Holepunch.NAME])

    async def say(self, message: HolepunchMessage) -> None:
        await self.raw.say(Extended(self._their_id, message.encode()).encode())

    async def hear(self) -> HolepunchMessage | None:
        while True:
            message = await self.raw.wait_for(Extended)
            assert isinstance(message, Extended)
            if message.ext_id == OUR_ID:
                return parse_holepunch_untrusted(message.payload)


@pytest.fixture
def sample(tmp_path: Path) -> tuple[Sample, Path]:
    need_module("libtorrent")
    made = make_sample(tmp_path / "shared", 64 << 10)
    torrent = tmp_path / "sample.torrent"
    torrent.write_bytes(create(tmp_path / "shared/sample.bin", piece_length=64 << 10))
    return made, torrent


@pytest.fixture
def relay(sample: tuple[Sample, Path]) -> Iterator[Endpoint]:
    with libtorrent_peer(sample[0].directory, sample[1], "seed") as peer:
        yield Endpoint(LOOPBACK, peer.port)


async def test_libtorrent_relays_for_us(relay: Endpoint, sample: tuple[Sample, Path]) -> None:
    nobody = Endpoint(LOOPBACK, 9)
    with trio.fail_after(SECONDS):
        one, two = [await Punching.connect(Dialler(), relay, sample[0], name) for name in ("one", "two")]
        await one.say(Rendezvous(two.raw.local))
        assert await one.hear() == Connect(two.raw.local)
        assert await two.hear() == Connect(one.raw.local)
        await one.say(Rendezvous(nobody))
        assert await one.hear() == PunchError(nobody, ErrorCode.NOT_CONNECTED)
        for each in (one, two):
            await each.raw.stream.aclose()


@asynccontextmanager
async def open_udp_port() -> AsyncIterator[UdpPort]:
    socket = bind_udp(Endpoint(LOOPBACK, 0))
    port = UdpPort(socket, random.SystemRandom(), utp=UtpConfig())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(port.run)
        yield port
        nursery.cancel_scope.cancel()
    socket.close()


async def test_libtorrent_dials_whom_we_tell_it_to(sample: tuple[Sample, Path]) -> None:
    stranger = bind_udp(Endpoint(LOOPBACK, 0))
    with libtorrent_peer(sample[0].directory, sample[1], "seed", transport="utp") as peer, trio.fail_after(SECONDS):
        async with open_udp_port() as port:
            introducer = await Punching.connect(Dialler(port), Endpoint(LOOPBACK, peer.port), sample[0], "relay")
            await introducer.say(Connect(stranger.local))
            await stranger.wait_readable()
            [received] = stranger.receive_nowait()
    stranger.close()
    assert received.path.remote == Endpoint(LOOPBACK, peer.port), "from the socket that it listens on"
    assert received.data[0] == 0x41, "a SYN of µTP"
