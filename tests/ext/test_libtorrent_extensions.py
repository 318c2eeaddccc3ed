"""Our extensions against libtorrent over loopback TCP: metadata and peer exchange, each in both directions."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from hashlib import sha1
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from dht.bencode import Encodable, encode
from swarm.endpoint import Endpoint
from swarm.ext.extension import Extension
from swarm.ext.metadata import Metadata
from swarm.ext.metadata_assembly import MetadataAssembly
from swarm.ext.pex import Pex, PexPeer
from swarm.wire.codec import WireReader
from swarm.wire.extended import ExtendedHandshake, parse_extended_handshake_untrusted
from swarm.wire.handshake import HANDSHAKE_LENGTH, RESERVED_EXTENDED, RESERVED_FAST, Handshake
from swarm.wire.messages import Extended, HaveNone
from tests.needs import need_module

need_module("libtorrent")
lt = import_module("libtorrent")

PIECES = 8_000
INFO: dict[bytes, Encodable] = {
    b"length": PIECES << 14,
    b"name": b"content that nobody has",
    b"piece length": 1 << 14,
    b"pieces": random.Random(5).randbytes(20 * PIECES),
}
INFO_BYTES = encode(INFO)
INFO_HASH = sha1(INFO_BYTES).digest()
OURS = {"ut_pex": 3, "ut_metadata": 4}
DEADLINE = 15.0  # seconds


class Side:
    """A torrent for both extensions."""

    def __init__(self, info_bytes: bytes | None = None) -> None:
        self.info_bytes = info_bytes
        self.connected: dict[Endpoint, int] = {}
        self.heard: set[Endpoint] = set()

    def peers_to_tell(self, to: object) -> Mapping[Endpoint, int]:
        return self.connected

    def peers_told(self, added: Sequence[PexPeer], dropped: Sequence[Endpoint]) -> None:
        self.heard.update(peer.endpoint for peer in added)


class Connection:
    """A peer with our extensions on a blocking socket to libtorrent."""

    def __init__(self, port: int, name: str, side: Side, assembly: MetadataAssembly | None, listens_on: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        self.extensions: dict[int, Extension] = {
            OURS["ut_pex"]: Pex(lambda payload: self._say("ut_pex", payload), side, None, random.Random(1)),
            OURS["ut_metadata"]: Metadata(
                lambda payload: self._say("ut_metadata", payload), side, assembly, name, has_room=lambda: True
            ),
        }
        self._theirs: Mapping[str, int] = {}
        self._reader = WireReader(piece_count=PIECES, fast=True)
        reserved = RESERVED_EXTENDED | RESERVED_FAST
        size = len(side.info_bytes) if side.info_bytes is not None else None
        ours = ExtendedHandshake(m=OURS, p=listens_on, metadata_size=size)
        self.socket.sendall(Handshake(INFO_HASH, f"-XX0000-{name:.<12}".encode(), reserved).encode())
        self.socket.sendall(HaveNone().encode() + Extended(0, ours.encode()).encode())
        received = b""
        while len(received) < HANDSHAKE_LENGTH:
            more = self.socket.recv(HANDSHAKE_LENGTH - len(received))
            assert more, "libtorrent hung up"
            received += more
        self.socket.settimeout(0.05)

    def _say(self, name: str, payload: bytes) -> None:
        self.socket.sendall(Extended(self._theirs[name], payload).encode())

    def turn(self) -> None:
        """Hear what has come, and let time pass for the extensions."""
        try:
            received = self.socket.recv(1 << 16)
            assert received, "libtorrent hung up"
        except TimeoutError:
            received = b""
        for message in self._reader.feed(received):
            if isinstance(message, Extended):
                self._heard(message)
        for extension in self.extensions.values():
            extension.tick(time.monotonic())

    def _heard(self, message: Extended) -> None:
        now = time.monotonic()
        if message.ext_id:
            self.extensions[message.ext_id].receive_untrusted(bytes(message.payload), now)
            return
        theirs = parse_extended_handshake_untrusted(message.payload)
        self._theirs = theirs.m
        for name, ext_id in OURS.items():
            if name in theirs.m:
                self.extensions[ext_id].handshake_received(theirs, now)

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def session() -> Iterator[Any]:
    session = lt.session(
        {
            "listen_interfaces": "127.0.0.1:0",
            "outgoing_interfaces": "127.0.0.1",
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "enable_outgoing_utp": False,
            "allow_multiple_connections_per_ip": True,
            "alert_mask": 0,
        }
    )
    yield session
    session.pause()


def started(session: Any, params: Any, directory: Path) -> tuple[Any, int]:
    """The handle of a torrent that takes connections, and libtorrent's port."""
    params.save_path = str(directory)
    params.flags &= ~(lt.torrent_flags.paused | lt.torrent_flags.auto_managed)
    handle = session.add_torrent(params)
    end = time.monotonic() + DEADLINE
    while not session.listen_port() or "downloading" not in str(handle.status().state):
        assert time.monotonic() < end
        time.sleep(0.01)
    return handle, session.listen_port()


def with_metadata() -> Any:
    return lt.load_torrent_buffer(encode({b"info": INFO}))


def without_metadata() -> Any:
    return lt.parse_magnet_uri(f"magnet:?xt=urn:btih:{INFO_HASH.hex()}")


def test_metadata_from_libtorrent(session: Any, tmp_path: Path) -> None:
    side = Side()
    assembly = MetadataAssembly(INFO_HASH, random.Random(1))
    _, port = started(session, with_metadata(), tmp_path)
    connection = Connection(port, "fetcher", side, assembly, 1)
    with closing(connection):
        end = time.monotonic() + DEADLINE
        while assembly.complete is None and time.monotonic() < end:
            connection.turn()
    assert assembly.complete == INFO_BYTES
    assert assembly.statistics().blocks_total == 10


def test_metadata_to_libtorrent(session: Any, tmp_path: Path) -> None:
    handle, port = started(session, without_metadata(), tmp_path)
    connection = Connection(port, "server", Side(INFO_BYTES), None, 1)
    with closing(connection):
        end = time.monotonic() + DEADLINE
        while not handle.status().has_metadata and time.monotonic() < end:
            connection.turn()
    assert handle.status().has_metadata
    assert handle.torrent_file().info_section() == INFO_BYTES


def test_peers_from_libtorrent_and_to_it(session: Any, tmp_path: Path) -> None:
    """It names two of us to each other, and dials whom we name."""
    _, port = started(session, with_metadata(), tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        stranger.settimeout(0.0)
        sides = [Side(INFO_BYTES), Side(INFO_BYTES)]
        sides[0].connected[Endpoint("127.0.0.1", stranger.getsockname()[1])] = 0
        connections = [
            Connection(port, f"peer {number}", side, None, 20_000 + number) for number, side in enumerate(sides)
        ]
        dialled = None
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and not (dialled and all(side.heard for side in sides)):
            for connection in connections:
                connection.turn()
            try:
                dialled = dialled or stranger.accept()[0]
            except BlockingIOError:
                continue
        for connection in connections:
            connection.close()
    for side in sides:
        assert side.heard >= {Endpoint("127.0.0.1", 20_000), Endpoint("127.0.0.1", 20_001)}
    assert dialled is not None
    dialled.close()
