"""Our handshakes against libtorrent over loopback TCP: in plaintext and by MSE with both methods, both directions."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha1
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from dht.bencode import Encodable, encode
from swarm.wire.codec import WireReader
from swarm.wire.encryption import PLAINTEXT, RC4, Encrypted, Initiator, Responder, hash_of_torrent
from swarm.wire.extended import ExtendedHandshake, parse_extended_handshake_untrusted
from swarm.wire.handshake import (
    HANDSHAKE_LENGTH,
    PROTOCOL,
    Handshake,
    client_name,
    looks_like_plaintext,
    make_peer_id,
    parse_handshake_untrusted,
)
from swarm.wire.messages import BitfieldMessage, Extended, HaveAll, Interested, Message, Pieces, Requests, Unchoke
from tests.needs import need_module

need_module("libtorrent")
lt = import_module("libtorrent")

PIECE = 32 << 10
CONTENT = random.Random(7).randbytes(3 * PIECE + 1000)
INFO: dict[bytes, Encodable] = {
    b"length": len(CONTENT),
    b"name": b"content",
    b"piece length": PIECE,
    b"pieces": b"".join(sha1(CONTENT[at : at + PIECE]).digest() for at in range(0, len(CONTENT), PIECE)),
}
INFO_HASH = sha1(encode(INFO)).digest()
DEADLINE = 10.0  # seconds
FORCED, ENABLED, DISABLED = 0, 1, 2  # libtorrent's in_enc_policy and out_enc_policy


class Peer:
    """A blocking end of the wire over a socket that one of our handshakes has been through."""

    def __init__(self, connection: socket.socket, encrypted: Encrypted | None = None) -> None:
        self.connection = connection
        self.encrypt = encrypted.encrypt if encrypted else None
        self.decrypt = encrypted.decrypt if encrypted else None
        self.unread = encrypted.received if encrypted else b""
        self.reader = WireReader(fast=True)

    def send(self, data: bytes) -> None:
        self.connection.sendall(self.encrypt.process(data) if self.encrypt else data)

    def receive(self) -> bytes:
        if self.unread:
            data, self.unread = self.unread, b""
            return data
        data = self.connection.recv(65536)
        assert data, "libtorrent hung up"
        return self.decrypt.process(data) if self.decrypt else data

    def read_handshake(self) -> Handshake:
        data = b""
        while len(data) < HANDSHAKE_LENGTH:
            data += self.receive()
        self.unread = data[HANDSHAKE_LENGTH:]
        return parse_handshake_untrusted(data[:HANDSHAKE_LENGTH])

    def read_until(self, kind: type[Message]) -> list[Message]:
        """Messages up to one of that kind; the last is of it."""
        seen: list[Message] = []
        while not any(isinstance(message, kind) for message in seen):
            seen += self.reader.feed(self.receive())
        return seen


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """A libtorrent session that seeds CONTENT, and its handle; the tests change its encryption settings."""
    folder: Path = tmp_path_factory.mktemp("seed")
    (folder / "content").write_bytes(CONTENT)
    session = lt.session(
        {
            "listen_interfaces": "127.0.0.1:0",
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "enable_outgoing_utp": False,
            "enable_incoming_utp": False,
            "allow_multiple_connections_per_ip": True,
            "alert_mask": 0,
        }
    )
    parameters = lt.load_torrent_buffer(encode({b"info": INFO}))
    parameters.save_path = str(folder)
    parameters.flags |= lt.torrent_flags.seed_mode
    parameters.flags &= ~(lt.torrent_flags.paused | lt.torrent_flags.auto_managed)
    handle = session.add_torrent(parameters)
    give_up = time.monotonic() + DEADLINE
    while not (session.listen_port() and handle.status().is_seeding):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    yield session, handle
    session.pause()


def configure(session: Any, policy: int, level: Any) -> None:
    wanted = {"in_enc_policy": policy, "out_enc_policy": policy, "allowed_enc_level": int(level), "prefer_rc4": False}
    session.apply_settings(wanted)  # libtorrent's own thread does it some time
    assert wanted.items() <= session.get_settings().items()  # and answers after that


def initiate(connection: socket.socket, info_hash: bytes, first: bytes, provide: int) -> Encrypted:
    initiator = Initiator(info_hash, first, provide, random.Random())
    connection.sendall(initiator.start())
    while initiator.result is None:
        data = connection.recv(65536)
        assert data, "libtorrent hung up"
        connection.sendall(initiator.receive_untrusted(data))
    return initiator.result


def respond(connection: socket.socket, info_hash: bytes, accepted: int) -> Encrypted:
    responder = Responder({hash_of_torrent(info_hash): info_hash}.get, accepted, random.Random())
    while responder.result is None:
        data = connection.recv(65536)
        assert data, "libtorrent hung up"
        connection.sendall(responder.receive_untrusted(data))
    return responder.result


def exchange(peer: Peer) -> None:
    """After both handshakes: extension handshakes, then a block, byte by byte what is in the file."""
    peer.send(Extended(0, ExtendedHandshake(v="swarm test", reqq=10).encode()).encode() + Interested().encode())
    seen = peer.read_until(Unchoke)
    assert any(isinstance(message, BitfieldMessage | HaveAll) for message in seen)
    (said,) = [parse_extended_handshake_untrusted(m.payload) for m in seen if isinstance(m, Extended) and not m.ext_id]
    assert "ut_metadata" in said.m
    assert said.v is not None
    assert said.v.startswith("libtorrent/")
    assert said.yourip == "127.0.0.1"
    assert said.metadata_size
    peer.send(Requests([(0, 0, 16384), (3, 0, 1000), (2, 16384, 16384)]).encode())
    wanted = {(0, 0): CONTENT[:16384], (3, 0): CONTENT[3 * PIECE :], (2, 16384): CONTENT[2 * PIECE + 16384 :][:16384]}
    while wanted:
        for message in peer.read_until(Pieces):
            if isinstance(message, Pieces):
                for index, begin, block in message.blocks:
                    assert wanted.pop((index, begin)) == block


@pytest.mark.parametrize(
    "provide,level,method",
    [
        (None, "both", PLAINTEXT),
        (PLAINTEXT | RC4, "both", PLAINTEXT),
        (PLAINTEXT | RC4, "plaintext", PLAINTEXT),
        (PLAINTEXT | RC4, "rc4", RC4),
        (RC4, "both", RC4),
    ],
)
def test_we_dial_libtorrent(seed: tuple[Any, Any], provide: int | None, level: str, method: int) -> None:
    session, _ = seed
    configure(session, ENABLED if provide is None else FORCED, getattr(lt.enc_level, level))
    ours = Handshake(INFO_HASH, make_peer_id(random.Random()))
    with closing(socket.create_connection(("127.0.0.1", session.listen_port()), DEADLINE)) as connection:
        if provide is None:
            connection.sendall(ours.encode())
            peer = Peer(connection)
        else:
            encrypted = initiate(connection, INFO_HASH, ours.encode(), provide)
            assert encrypted.method == method
            peer = Peer(connection, encrypted)
        theirs = peer.read_handshake()
        assert theirs.info_hash == INFO_HASH
        assert theirs.extended
        assert theirs.fast
        assert client_name(theirs.peer_id).startswith("libtorrent 2.")
        exchange(peer)


@pytest.mark.parametrize(
    "accepted,level,method",
    [
        (None, "both", PLAINTEXT),
        (PLAINTEXT | RC4, "both", PLAINTEXT),
        (PLAINTEXT | RC4, "plaintext", PLAINTEXT),
        (PLAINTEXT | RC4, "rc4", RC4),
        (RC4, "both", RC4),
    ],
)
def test_libtorrent_dials_us(seed: tuple[Any, Any], accepted: int | None, level: str, method: int) -> None:
    session, handle = seed
    configure(session, DISABLED if accepted is None else FORCED, getattr(lt.enc_level, level))
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.settimeout(DEADLINE)
        handle.connect_peer(listener.getsockname())
        connection, _ = listener.accept()
    with closing(connection):
        connection.settimeout(DEADLINE)
        opening = connection.recv(len(PROTOCOL), socket.MSG_PEEK | socket.MSG_WAITALL)
        assert looks_like_plaintext(opening) == (accepted is None)
        if accepted is None:
            peer = Peer(connection)
        else:
            encrypted = respond(connection, INFO_HASH, accepted)
            assert encrypted.info_hash == INFO_HASH
            assert encrypted.method == method
            peer = Peer(connection, encrypted)
        assert peer.read_handshake().info_hash == INFO_HASH
        peer.send(Handshake(INFO_HASH, make_peer_id(random.Random())).encode())
        exchange(peer)
