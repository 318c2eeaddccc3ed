"""A small tracker over HTTP and UDP (BEP 3, 7, 15, 23, 24, 48), for `swarm demo` and the tests.

Everything is in memory and bounded; it runs on any `Network`, simulated ones included.  Open to all torrents, checks no
passkeys, and does not test whether the peers it lists can be reached.
"""

from __future__ import annotations

import errno
import hashlib
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import h11
import trio

from dht.bencode import Value, encode
from dht.compact import encode_peers
from swarm.endpoint import Endpoint, normalise_host
from swarm.errors import RemoteProtocolError
from swarm.net.network import DatagramSocket, Listener, Network, Outgoing, Path, Received, Stream
from swarm.wire.udp_tracker import (
    ANNOUNCE,
    ANNOUNCE_REPLY,
    ANNOUNCE_REQUEST,
    CONNECT,
    CONNECT_REPLY,
    ERROR,
    EVENTS,
    MAX_SCRAPE,
    PROTOCOL_ID,
    REPLY_HEADER,
    REQUEST_HEADER,
    SCRAPE,
    SCRAPE_ENTRY,
)

MAX_TORRENTS = 10_000
MAX_PEERS = 2_000
"""Peers kept of one torrent; further ones are answered but not listed."""

MAX_REPLY_PEERS = 200
DEFAULT_REPLY_PEERS = 50

BIND_TRIES = 20
"""Ports tried where any will do."""

MAX_CONNECTIONS = 200
"""HTTP connections at once; further ones are closed unread."""

HTTP_TIMEOUT = 10.0
"""Seconds from accepting an HTTP connection to having answered it."""

MAX_HEAD = 16 << 10
"""Bytes of an HTTP request."""

CONNECTION_ID_PERIOD = 60
"""Seconds for which one connection id is handed out; it is accepted for one more period (BEP 15: two minutes)."""

SILENT_INTERVALS = 2
"""Intervals without an announce after which a peer is forgotten."""


@dataclass(frozen=True, slots=True)
class Announced:
    """An announce as understood, by HTTP or UDP; ``endpoints`` has the peer's addresses, at most one of each family."""

    info_hash: bytes
    peer_id: bytes
    endpoints: tuple[Endpoint, ...]
    left: int
    event: str
    numwant: int


@dataclass(frozen=True, slots=True)
class Listed:
    """What the announcer is told."""

    peers: tuple[Endpoint, ...]
    seeders: int
    leechers: int


class EmbeddedTracker:
    """The peers of all torrents, and the two protocols to ask for them.

    ``interval`` and ``min_interval`` are in seconds.  `serve` may run on several addresses, of both families, at once.
    """

    def __init__(self, rng: random.Random, *, interval: int = 1800, min_interval: int = 60) -> None:
        self._rng = rng
        self._secret = rng.randbytes(16)
        self._torrents: dict[bytes, _Torrent] = {}
        self.interval = interval
        self.min_interval = min_interval
        self.announces: deque[Announced] = deque(maxlen=1000)
        """The latest, oldest first."""

    async def serve(
        self, network: Network, local: Endpoint, *, task_status: trio.TaskStatus[Endpoint] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Answer HTTP and UDP on one port of ``local`` until cancelled; starts with the address bound.

        Raises OSError when it cannot be bound.
        """
        socket, listener = await _bind(network, local)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve_udp, socket)
                task_status.started(socket.local)
                places = trio.Semaphore(MAX_CONNECTIONS)
                while True:
                    nursery.start_soon(self._serve_http, await listener.accept(), places)
        finally:
            listener.close()
            socket.close()

    def announce(self, announced: Announced, now: float) -> Listed | None:
        """Take note of a peer and choose others for it; None when no further torrent has room."""
        self.announces.append(announced)
        torrent = self._torrents.get(announced.info_hash)
        if torrent is None:
            if len(self._torrents) >= MAX_TORRENTS:
                self._forget_silent(now)
            if len(self._torrents) >= MAX_TORRENTS:
                return None
            torrent = self._torrents[announced.info_hash] = _Torrent({})
        torrent.forget_silent(now)
        torrent.note(announced, now + SILENT_INTERVALS * self.interval)
        numwant = 0 if announced.event == "stopped" else min(announced.numwant, MAX_REPLY_PEERS)
        peers = torrent.choose(announced, numwant, self._rng)
        seeders, leechers = torrent.counts()
        return Listed(peers, seeders, leechers)

    def scrape(self, info_hash: bytes, now: float) -> tuple[int, int, int]:
        """Seeders, completed downloads and leechers of a torrent; zeros for an unknown one."""
        torrent = self._torrents.get(info_hash)
        if torrent is None:
            return 0, 0, 0
        torrent.forget_silent(now)
        seeders, leechers = torrent.counts()
        return seeders, torrent.completed, leechers

    def answer_http(self, target: bytes, remote: Endpoint, now: float) -> tuple[int, bytes]:
        """The status and body for a GET of ``target`` (path and query) from ``remote``."""
        path, _, query = target.partition(b"?")
        fields = _query_fields(query)
        match path.rpartition(b"/")[2]:
            case b"announce":
                return 200, encode(self._answer_announce(fields, remote, now))
            case b"scrape":
                return 200, encode(self._answer_scrape(fields, now))
            case _:
                return 404, b"not here\n"

    def answer_udp(self, datagram: bytes | memoryview, remote: Endpoint, now: float) -> bytes | None:
        """The datagram to send back to ``remote``, or None for what is not of this protocol.

        Never longer than what a peer list needs, and to an unproven address never longer than what it sent.
        """
        if len(datagram) < REQUEST_HEADER.size:
            return None
        connection_id, action, transaction_id = REQUEST_HEADER.unpack_from(datagram)
        if connection_id == PROTOCOL_ID and action == CONNECT:
            return CONNECT_REPLY.pack(CONNECT, transaction_id, self._connection_ids(remote, now)[0])
        if action not in (ANNOUNCE, SCRAPE):
            return None
        if connection_id not in self._connection_ids(remote, now):
            return _udp_error(transaction_id, b"connection id")
        if action == SCRAPE:
            return self._answer_udp_scrape(datagram, transaction_id, now)
        return self._answer_udp_announce(datagram, transaction_id, remote, now)

    async def _serve_http(self, stream: Stream, places: trio.Semaphore) -> None:
        try:
            places.acquire_nowait()
        except trio.WouldBlock:
            stream.abort()
            return
        try:
            with trio.move_on_after(HTTP_TIMEOUT):
                await self._answer_stream(stream)
        except (trio.BrokenResourceError, h11.RemoteProtocolError):
            pass  # whoever it was is gone, or speaks no HTTP: nobody to answer
        finally:
            stream.abort()
            places.release()

    async def _answer_stream(self, stream: Stream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(MAX_HEAD)))
        if not isinstance(event, h11.Request):
            return
        status, body = self.answer_http(bytes(event.target), stream.remote, trio.current_time())
        headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), ("Connection", "close")]
        parts = [
            connection.send(h11.Response(status_code=status, headers=headers)),
            connection.send(h11.Data(data=body)),
            connection.send(h11.EndOfMessage()),
        ]
        await stream.send_all(b"".join(part for part in parts if part))
        await stream.send_eof()
        while await stream.receive_some(MAX_HEAD):
            pass  # until the client has read it all and closes: an abort now could overtake the answer
        await stream.aclose()

    async def _serve_udp(self, socket: DatagramSocket) -> None:
        while True:
            await socket.wait_readable()
            for received in socket.receive_nowait():
                for datagram in _segments(received):
                    reply = self.answer_udp(datagram, received.path.remote, trio.current_time())
                    if reply is not None:
                        _send_or_drop(socket, reply, received.path)

    def _answer_announce(self, fields: dict[bytes, list[bytes]], remote: Endpoint, now: float) -> dict[bytes, Value]:
        try:
            announced = _announced_untrusted(fields, remote)
        except RemoteProtocolError as error:
            return {b"failure reason": error.detail.encode()}
        listed = self.announce(announced, now)
        if listed is None:
            return {b"failure reason": b"no room for another torrent"}
        reply: dict[bytes, Value] = {
            b"interval": self.interval,
            b"min interval": self.min_interval,
            b"complete": listed.seeders,
            b"incomplete": listed.leechers,
            b"external ip": remote.address.packed,
        }
        if fields.get(b"compact") == [b"0"]:
            reply[b"peers"] = [{b"ip": peer.host.encode(), b"port": peer.port} for peer in listed.peers]
        else:
            reply[b"peers"] = encode_peers(peer for peer in listed.peers if not peer.is_ipv6)
            reply[b"peers6"] = encode_peers(peer for peer in listed.peers if peer.is_ipv6)
        return reply

    def _answer_scrape(self, fields: dict[bytes, list[bytes]], now: float) -> dict[bytes, Value]:
        files: dict[bytes, Value] = {}
        for info_hash in fields.get(b"info_hash", [])[:MAX_SCRAPE]:
            if len(info_hash) == 20:
                seeders, completed, leechers = self.scrape(info_hash, now)
                files[info_hash] = {b"complete": seeders, b"downloaded": completed, b"incomplete": leechers}
        return {b"files": files}

    def _answer_udp_announce(
        self, datagram: bytes | memoryview, transaction_id: int, remote: Endpoint, now: float
    ) -> bytes | None:
        if len(datagram) < ANNOUNCE_REQUEST.size:
            return None
        fields = ANNOUNCE_REQUEST.unpack_from(datagram)
        info_hash, peer_id, _, left, _, event, _, _, numwant, port = fields[3:]
        if port == 0 or event >= len(EVENTS):
            return _udp_error(transaction_id, b"bad announce")
        endpoints = (Endpoint(remote.host, port),)
        wanted = DEFAULT_REPLY_PEERS if numwant < 0 else numwant
        listed = self.announce(Announced(info_hash, peer_id, endpoints, left, EVENTS[event], wanted), now)
        if listed is None:
            return _udp_error(transaction_id, b"no room for another torrent")
        head = ANNOUNCE_REPLY.pack(ANNOUNCE, transaction_id, self.interval, listed.leechers, listed.seeders)
        peers = [peer for peer in listed.peers if peer.is_ipv6 == remote.is_ipv6]
        return head + encode_peers(peers[:64] if remote.is_ipv6 else peers)  # 64: within an MTU of 1,280

    def _answer_udp_scrape(self, datagram: bytes | memoryview, transaction_id: int, now: float) -> bytes:
        hashes = bytes(datagram[REQUEST_HEADER.size :])[: 20 * MAX_SCRAPE]
        entries = [self.scrape(hashes[at : at + 20], now) for at in range(0, len(hashes) - 19, 20)]
        return REPLY_HEADER.pack(SCRAPE, transaction_id) + b"".join(SCRAPE_ENTRY.pack(*entry) for entry in entries)

    def _connection_ids(self, remote: Endpoint, now: float) -> tuple[int, int]:
        """This period's id of an address and the last one's: a keyed hash, so that nothing is remembered."""
        period = int(now // CONNECTION_ID_PERIOD)

        def connection_id(period: int) -> int:
            digest = hashlib.blake2b(f"{remote} {period}".encode(), key=self._secret, digest_size=8).digest()
            return int.from_bytes(digest, "big")

        return connection_id(period), connection_id(period - 1)

    def _forget_silent(self, now: float) -> None:
        for info_hash, torrent in list(self._torrents.items()):
            torrent.forget_silent(now)
            if not torrent.peers:
                del self._torrents[info_hash]


async def _bind(network: Network, local: Endpoint) -> tuple[DatagramSocket, Listener]:
    """One port for both.  Where any will do, a connection of TCP may have the one that UDP was given: then another."""
    tries_left = 1 if local.port else BIND_TRIES
    while True:
        tries_left -= 1
        socket = await network.bind_udp(local)
        try:
            return socket, await network.listen_tcp(socket.local)
        except BaseException as error:
            socket.close()
            if not tries_left or not isinstance(error, OSError) or error.errno != errno.EADDRINUSE:
                raise


@asynccontextmanager
async def open_tracker(network: Network, local: Endpoint, tracker: EmbeddedTracker) -> AsyncIterator[Endpoint]:
    """``tracker`` served on ``local`` (port 0: any) for the duration of the block; yields the address bound.

    Its URLs are ``http://ADDRESS/announce`` and ``udp://ADDRESS``.
    """
    async with trio.open_nursery() as nursery:
        bound: Endpoint = await nursery.start(tracker.serve, network, local)
        yield bound
        nursery.cancel_scope.cancel()


@dataclass(slots=True)
class _Peer:
    peer_id: bytes
    seeder: bool
    expires: float


@dataclass(slots=True)
class _Torrent:
    """The peers of one torrent by address: a peer with two address families is two entries with one peer id."""

    peers: dict[Endpoint, _Peer]
    completed: int = 0

    def note(self, announced: Announced, expires: float) -> None:
        self.completed += announced.event == "completed"
        for endpoint in announced.endpoints:
            if announced.event == "stopped":
                self.peers.pop(endpoint, None)
            elif endpoint in self.peers or len(self.peers) < MAX_PEERS:
                self.peers[endpoint] = _Peer(announced.peer_id, announced.left == 0, expires)

    def choose(self, announced: Announced, numwant: int, rng: random.Random) -> tuple[Endpoint, ...]:
        """Others than the announcer, at random; a seeder is shown no seeders."""
        others = [
            endpoint
            for endpoint, peer in self.peers.items()
            if peer.peer_id != announced.peer_id and not (peer.seeder and announced.left == 0)
        ]
        return tuple(rng.sample(others, min(len(others), numwant)))

    def counts(self) -> tuple[int, int]:
        """Seeders and leechers, each peer id once."""
        seeders = {peer.peer_id for peer in self.peers.values() if peer.seeder}
        everybody = {peer.peer_id for peer in self.peers.values()}
        return len(seeders), len(everybody - seeders)

    def forget_silent(self, now: float) -> None:
        for endpoint in [endpoint for endpoint, peer in self.peers.items() if peer.expires <= now]:
            del self.peers[endpoint]


def _announced_untrusted(fields: dict[bytes, list[bytes]], remote: Endpoint) -> Announced:
    """The announce in a query string.  Raises RemoteProtocolError, whose detail is told to the client."""
    info_hash, peer_id = _field(fields, b"info_hash"), _field(fields, b"peer_id")
    if len(info_hash) != 20 or len(peer_id) != 20:
        raise RemoteProtocolError("bad-tracker-request", "info_hash and peer_id are 20 bytes each")
    port = _number(fields, b"port", 0)
    if not 1 <= port <= 65535:
        raise RemoteProtocolError("bad-tracker-request", "no port")
    other = _other_family(fields, remote, port)
    return Announced(
        info_hash=info_hash,
        peer_id=peer_id,
        endpoints=(Endpoint(remote.host, port),) + ((other,) if other is not None else ()),
        left=_number(fields, b"left", 1),
        event=_field(fields, b"event").decode("latin-1"),
        numwant=_number(fields, b"numwant", DEFAULT_REPLY_PEERS),
    )


def _other_family(fields: dict[bytes, list[bytes]], remote: Endpoint, port: int) -> Endpoint | None:
    """The client's address in the family it did not come from (BEP 7); the port form is not supported."""
    text = _field(fields, b"ipv4" if remote.is_ipv6 else b"ipv6")
    try:
        other = Endpoint(normalise_host(text.decode("ascii")), port)
    except ValueError:
        return None
    return other if other.is_ipv6 != remote.is_ipv6 else None


def _query_fields(query: bytes) -> dict[bytes, list[bytes]]:
    fields: dict[bytes, list[bytes]] = {}
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        fields.setdefault(unquote_to_bytes(name), []).append(unquote_to_bytes(value))
    return fields


def _field(fields: dict[bytes, list[bytes]], name: bytes) -> bytes:
    return fields.get(name, [b""])[0]


def _number(fields: dict[bytes, list[bytes]], name: bytes, default: int) -> int:
    text = _field(fields, name)
    return int(text) if text.isdigit() and len(text) <= 19 else default


def _udp_error(transaction_id: int, message: bytes) -> bytes:
    return REPLY_HEADER.pack(ERROR, transaction_id) + message


def _segments(received: Received) -> list[memoryview]:
    return [
        received.data[start : start + received.segment_size]
        for start in range(0, len(received.data), received.segment_size)
    ]


def _send_or_drop(socket: DatagramSocket, datagram: bytes, path: Path) -> None:
    try:
        socket.send_nowait(Outgoing((datagram,), len(datagram), path))
    except OSError:
        return  # a full buffer or an address that cannot be reached: the client asks again
