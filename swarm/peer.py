"""One connection to one peer: a stream, the wire codec, the two halves of the exchange.

Two tasks.  The reader feeds the codec and dispatches; back-pressure is *not reading*.  The writer is
`swarm.peerwriter`.  Which blocks to ask for, who is unchoked and what happens to a finished piece is the
torrent's business (`TorrentSide`); which peers to dial is nobody's business here.

A connection may stand before the torrent's metadata is there (BEP 9).  Then its extensions work already, what the peer
says it has is kept as `Claims`, and `PeerConnection.begin` starts the exchange.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from swarm.bitfield import Bitfield
from swarm.errors import RemoteError, RemoteProtocolError
from swarm.ext.negotiated import Extensions
from swarm.identity import Identity
from swarm.net.network import ReceivesInto, Stream, TellsRoundTrip, TellsUnanswered
from swarm.peerwriter import Library, PeerWriter
from swarm.ratelimit import TokenBucket, grant_all, take_all
from swarm.torrent.claims import Claims
from swarm.torrent.downloader import Copies, Downloader
from swarm.torrent.openpiece import BLOCK
from swarm.torrent.picker import Picker
from swarm.torrent.uploader import Uploader
from swarm.wire.codec import MIN_BUFFER, WireReader
from swarm.wire.extended import ExtendedHandshake, parse_extended_handshake_untrusted
from swarm.wire.handshake import client_name
from swarm.wire.messages import (
    AllowedFast,
    BitfieldMessage,
    Cancel,
    Choke,
    Extended,
    Have,
    HaveAll,
    HaveNone,
    Interested,
    KeepAlive,
    Message,
    NotInterested,
    Pieces,
    Port,
    Reject,
    Requests,
    Suggest,
    Unchoke,
)

KEEP_ALIVE_AFTER = 110.0
"""Seconds without sending anything; BEP 3 says that two minutes of silence may end the connection."""

SILENT = 2.0
UNANSWERED = 8.0
"""Of a peer that has said nothing for SILENT seconds we look whether its machine still acknowledges what we send; if it
has not for UNANSWERED seconds and up to two more, the connection is lost: our NAT has another address since, or its."""

SHRINK_AFTER = 2.0
"""Seconds without receiving anything after which a buffer that had grown is given back."""

MAX_CLAIMS = 16
"""Bitfields, have-alls and have-nones a second: five bytes may cost as many counts as the torrent has pieces."""

MAX_HANDSHAKES = 16
"""Extension handshakes a second: a peer says again what has changed, and each one is told to every extension."""

MAX_EXTENDED = 2_000
"""Extended messages a second.  anacrolix asks for all blocks of the metadata at once, which are 1,024; a read buffer
full of requests that are all refused took a second to answer."""

RETIRE_WITHIN = 5.0
"""Seconds for what is under way over a connection that another one has replaced."""

RATE_SECONDS = 10.0
"""Seconds over which rates are averaged, exponentially: what the choker compares."""


class TorrentSide(Library, Protocol):
    """What a connection needs of its torrent."""

    @property
    def picker(self) -> Picker: ...

    @property
    def have(self) -> Bitfield: ...

    @property
    def download_limits(self) -> tuple[TokenBucket, ...]:
        """Empty while unlimited."""

    def pieces_filled(self, peer: PeerConnection, indices: Sequence[int]) -> None:
        """Every block of these pieces is in memory."""

    def cancel_elsewhere(self, copies: Copies) -> None:
        """A block arrived that other peers were asked for, too."""

    def interest_changed(self, peer: PeerConnection) -> None:
        """The peer became interested in us, or no longer is."""

    def extended_handshake_received(self, peer: PeerConnection, theirs: ExtendedHandshake) -> None: ...

    def dht_node_told(self, peer: PeerConnection, port: int) -> None:
        """The peer runs a DHT node on this UDP port (BEP 5)."""


class PeerConnection:
    """A handshaken connection that exchanges pieces until one side ends it.

    Pulled statistics: ``bytes_down`` and ``bytes_up`` are payload (blocks), ``wire_down`` and ``wire_up`` all bytes of
    the stream; ``rate_down`` and ``rate_up`` payload bytes per second; ``connected_at`` and ``received_at`` are
    trio times.
    """

    def __init__(
        self,
        stream: Stream,
        identity: Identity,
        torrent: TorrentSide,
        received: bytes = b"",
        *,
        claims: Claims | None = None,
    ) -> None:
        """``received`` is what came behind the handshake and has been read of the stream already.

        With ``claims`` the torrent's metadata is missing: ``torrent`` has no pieces, and `begin` is to come.
        """
        now = trio.current_time()
        self.identity = identity
        self.extensions = Extensions(self.send)
        self._claims = claims
        self._fast = fast = identity.handshake.fast
        self._reader = WireReader(piece_count=None if claims else torrent.have.size, fast=fast)
        self._meet(torrent, now)
        self._writer = PeerWriter(stream, torrent, self.uploader, lambda: self.close("slow-reader"), now)
        self.freight = self._writer.freight
        self.client = client_name(identity.peer_id)
        self.theirs: ExtendedHandshake | None = None
        self.reason = "closed"
        self.connected_at = self.received_at = now
        self.bytes_down = self.wire_down = 0
        self.rate_down = self.rate_up = 0.0
        self._measured = (now, 0, 0)
        self._stream = stream
        self._over_tcp = identity.path in ("tcp", "tcp-punched")
        self._received = received
        self._news = bytearray()
        self._scope = trio.CancelScope()
        self._claimed = self._handshakes = self._extended = 0  # messages since the last tick
        self._retire_by: float | None = None

    def __repr__(self) -> str:
        return f"<PeerConnection {self.identity.endpoint} {self.identity.path} {self.client}>"

    def _meet(self, torrent: TorrentSide, now: float) -> None:
        self._torrent = torrent
        picker = torrent.picker
        self.downloader = Downloader(self, picker, now, fast=self._fast)
        self.uploader = Uploader(torrent.have, picker.piece_length, picker.total_size, fast=self._fast)

    def begin(self, torrent: TorrentSide) -> None:
        """The metadata is there: exchange pieces from now on.  What the peer claimed to have is checked now."""
        claims, self._claims = self._claims, None
        if claims is None or self.closing:
            return
        now, choked, interested = trio.current_time(), self.downloader.choked, self.uploader.interested
        self._reader.set_piece_count(torrent.have.size)
        self._meet(torrent, now)
        self._writer.enter(torrent, self.uploader)
        self.uploader.interested = interested
        if self.theirs is not None and self.theirs.reqq is not None:
            self.downloader.pipeline.set_reqq(self.theirs.reqq)
        if not choked:
            self.downloader.unchoked_by_peer(now)
        try:
            self.send(self.downloader.bitfield_untrusted(claims.read_untrusted(torrent.have.size)))
        except RemoteProtocolError as error:
            self.close(error.reason)
            return
        self.send(b"".join(Have(index).encode() for index in torrent.have))
        self.refill()

    # -- life -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the connection; returns when it has ended, with ``reason`` saying why.  Closes the stream."""
        with self._scope:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._end_on_fault, self._read)
                    nursery.start_soon(self._end_on_fault, self._writer.run)
            finally:
                self.downloader.closed()
                self.extensions.closed()
                self._forget_buffers()
                with trio.CancelScope(shield=True):  # closing does not wait: what was accepted is still delivered
                    await self._stream.aclose()

    def _forget_buffers(self) -> None:
        """Who sent a block is remembered until its piece is whole, which may be never."""
        del self._reader
        self._received = b""
        self._writer.forget()
        self.uploader.choke()

    def close(self, reason: str) -> None:
        """End the connection soon; the first reason given is kept.  Safe to call at any time."""
        if not self._scope.cancel_called:
            self.reason = reason
            self._scope.cancel()

    @property
    def closing(self) -> bool:
        """`close` was called, by us or because of a fault."""
        return self._scope.cancel_called

    @property
    def bytes_up(self) -> int:
        return self._writer.payload

    @property
    def wire_up(self) -> int:
        return self._writer.sent

    def round_trip(self) -> float | None:
        """Seconds to the peer and back; None where the stream does not tell."""
        return self._stream.round_trip() if isinstance(self._stream, TellsRoundTrip) else None

    def _unanswered(self) -> float:
        return self._stream.unanswered() if isinstance(self._stream, TellsUnanswered) else 0.0

    def tick(self, now: float, idle_timeout: float, mapping_keep_alive: float = KEEP_ALIVE_AFTER) -> None:
        """Once a second: time-outs, snubbing, keep-alive.

        ``mapping_keep_alive`` is the silence in seconds that our NAT bears; over µTP the stream itself sees to that.
        """
        self._measure(now)
        self.send(bytes(self._news))
        self._news.clear()
        self._claimed = self._handshakes = self._extended = self.freight.large_frames = 0
        if self._retire_by is not None and (self._has_retired or now >= self._retire_by):
            self.close("duplicate")
            return
        if now - self.received_at > idle_timeout:
            self.close("idle")
            return
        if now - self._writer.sending_since > idle_timeout:
            self.close("not-reading")
            return
        if now - self.received_at > SILENT and self._unanswered() > UNANSWERED:
            self.close("reset")
            self._stream.abort()  # what waits will never arrive, and the next dial wants the same two ports
            return
        self.keep_alive(now, min(mapping_keep_alive, KEEP_ALIVE_AFTER) if self._over_tcp else KEEP_ALIVE_AFTER)
        self.send(self.downloader.tick(now))
        self.extensions.tick(now)

    def retire(self) -> None:
        """Another connection to the peer has taken over: ask for nothing more, and end when what both ends have asked
        for is here or refused.  With BEP 6 nothing is lost or fetched twice then."""
        if self._retire_by is None:
            self._retire_by = trio.current_time() + RETIRE_WITHIN
            self.send(self.downloader.retire())

    @property
    def retiring(self) -> bool:
        return self._retire_by is not None

    @property
    def _has_retired(self) -> bool:
        return not self.downloader.interested and not self.uploader.interested

    @property
    def is_awaited(self) -> bool:
        """Whether it is the peer's turn: we have asked for blocks, or it wants some and may ask for them."""
        return self.downloader.pipeline.outstanding > 0 or (self.uploader.interested and not self.uploader.choking)

    def keep_alive(self, now: float, after: float) -> None:
        """Say something that needs an acknowledgement, unless we did within the last ``after`` seconds."""
        if now - self._writer.sent_at > after:
            self.send(KeepAlive().encode())

    def _measure(self, now: float) -> None:
        """Move the rates towards what was moved since the last tick."""
        before, down, up = self._measured
        if (elapsed := now - before) > 0:
            weight = min(elapsed / RATE_SECONDS, 1.0)
            self.rate_down += weight * ((self.bytes_down - down) / elapsed - self.rate_down)
            self.rate_up += weight * ((self.bytes_up - up) / elapsed - self.rate_up)
            self._measured = now, self.bytes_down, self.bytes_up

    async def _end_on_fault(self, serve: Callable[[], Awaitable[None]]) -> None:
        try:
            await serve()
        except RemoteError as error:
            self.close(error.reason)
        except trio.BrokenResourceError:
            self.close("reset")

    @property
    def has_room(self) -> bool:
        """Whether the peer reads what it is sent: bulk that is not blocks waits while it does not."""
        return self._writer.has_room

    # -- what the torrent says to the peer --------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Queue small messages, in order; they go out before any block.  A peer that never reads them is dropped."""
        if data:
            self._writer.put(data)

    def start(self, ours: ExtendedHandshake, dht_port: int | None = None) -> None:
        """Say what comes first: what we have, the extension handshake, and where our DHT node is.  Before `run`."""
        self.send(_availability(self._torrent.have, fast=self._fast))
        self.tell(ours)
        if dht_port is not None and self.identity.handshake.dht:
            self.send(Port(dht_port).encode())

    def tell(self, ours: ExtendedHandshake) -> None:
        """Our extension handshake, or what has changed of it."""
        if self.identity.handshake.extended:
            self.send(Extended(0, ours.encode()).encode())

    def tell_have(self, index: int) -> None:
        """We completed a piece.  Those who have it cannot want it: they hear of it within a second, with others, for
        their users to see how far we are."""
        if index not in self.downloader.theirs:
            self.send(Have(index).encode())
        else:
            self._news += Have(index).encode()

    def choke(self) -> None:
        if self.uploader.choking:
            return
        dropped = self.uploader.choke()
        self.send(Choke().encode())
        if self._fast:
            self.send(b"".join(Reject(*wanted).encode() for wanted in dropped))

    def unchoke(self) -> None:
        if self.uploader.choking:
            self.uploader.unchoke()
            self.send(Unchoke().encode())

    def cancel(self, index: int, begin: int, length: int) -> None:
        """A block that we asked for came from somebody else."""
        if self.downloader.cancelled(index, begin, trio.current_time()):
            self.send(Cancel(index, begin, length).encode())

    def reconsider(self) -> None:
        """Other pieces are wanted now."""
        self.send(self.downloader.reconsider())
        self.refill()

    def limits_changed(self) -> None:
        """The rate limits are others now: what was held back for them may be due long before it was to be."""
        now = trio.current_time()
        self._pay(self._torrent.download_limits, 0, now)
        self.refill()
        self._writer.limits_changed(now)

    def refill(self) -> None:
        """Ask for more if there is room in the pipeline and something to ask for."""
        self.send(self.downloader.refill(trio.current_time()))

    # -- reading ----------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        receive = self._receive_into if isinstance(self._stream, ReceivesInto) else self._receive_some
        if self._received:
            self._arrived_untrusted(len(self._received), self._reader.feed(self._received))
            self._received = b""
            self.refill()
        while True:
            limits = self._torrent.download_limits
            whole = not limits or self.freight.circuits  # whose bytes the limits do not hold for
            count, messages = await self._receive(receive, 0 if whole else grant_all(limits))
            now = self._arrived_untrusted(count, messages)
            del messages  # the blocks are views of the buffer that the next read fills
            wait = self._pay(limits, count, now)
            self.send(self.downloader.refill(now))
            if wait > 0:
                await trio.sleep(wait)

    def _pay(self, limits: tuple[TokenBucket, ...], count: int, now: float) -> float:
        """Account for what was read; seconds until the next read.  A limit of less than a block a second is kept by
        asking for the next block later: nothing else that the peer says has to wait then."""
        pipeline = self.downloader.pipeline
        asks_later = pipeline.limit(min((bucket.rate for bucket in limits), default=math.inf) / BLOCK)
        count = self.freight.subject_to_limits(count)
        wait = take_all(limits, count, now)
        pipeline.resume_at = now + wait if asks_later else now
        return 0.0 if asks_later or not count else wait  # what is carried for others waits for no debt of ours

    def _arrived_untrusted(self, count: int, messages: list[Message]) -> float:
        """Act on what a read brought; when it did."""
        now = self.received_at = trio.current_time()
        self.wire_down += count
        for message in messages:
            self._dispatch_untrusted(message, now)
        return now

    async def _receive(
        self, receive: Callable[[int], Awaitable[tuple[int, list[Message]]]], limit: int
    ) -> tuple[int, list[Message]]:
        """The next read.  While none comes the buffer is given back: by this task, because it is lent to the stream;
        and what a rate limit held back is asked for."""
        while True:
            resume_at, now = self.downloader.pipeline.resume_at, trio.current_time()
            shrink_at = now + SHRINK_AFTER if self._reader.buffer_size > MIN_BUFFER else math.inf
            with trio.move_on_at(min(shrink_at, resume_at if resume_at > now else math.inf)):
                return await receive(limit)
            if trio.current_time() >= shrink_at:
                self._reader.shrink()
            self.refill()

    async def _receive_into(self, limit: int) -> tuple[int, list[Message]]:
        buffer = self._reader.get_buffer()
        count = await self._stream.receive_into(buffer[:limit] if limit else buffer)  # type: ignore[attr-defined]
        if not count:
            raise RemoteError("closed")
        return count, self._reader.received(count)

    async def _receive_some(self, limit: int) -> tuple[int, list[Message]]:
        data = await self._stream.receive_some(limit or None)
        if not data:
            raise RemoteError("closed")
        return len(data), self._reader.feed(data)

    def _dispatch_untrusted(self, message: Message, now: float) -> None:
        match message:
            case Pieces():
                self._blocks_arrived(message, now)
            case Requests():
                for index, begin, length in message.blocks:
                    if not self.uploader.requested_untrusted(index, begin, length) and self._fast:
                        self.send(Reject(index, begin, length).encode())
                self._writer.wake()
            case Have():
                if self._claims is None:
                    self.send(self.downloader.have_untrusted(message.index))
                else:
                    self._claims.note(message)
            case Cancel():
                if self.uploader.cancelled(message.index, message.begin, message.length) and self._fast:
                    self.send(Reject(message.index, message.begin, message.length).encode())
            case Unchoke():
                self.downloader.unchoked_by_peer(now)
            case Choke():
                self.downloader.choked_by_peer(now)
            case Interested() | NotInterested():
                self._interest(isinstance(message, Interested))
            case BitfieldMessage() | HaveAll() | HaveNone():
                self._claims_untrusted(message)
            case Reject():
                self.downloader.rejected(message.index, message.begin, now)
            case AllowedFast():
                if self._claims is None:
                    self.downloader.allowed_fast(message.index)
            case Extended():
                self._extended_untrusted(message, now)
            case Port():
                self._torrent.dht_node_told(self, message.port)
            case KeepAlive() | Suggest():
                pass

    def _claims_untrusted(self, message: BitfieldMessage | HaveAll | HaveNone) -> None:
        self._claimed += 1
        if self._claimed > MAX_CLAIMS:
            raise RemoteProtocolError("bitfield-flood")
        if self._claims is not None:
            self._claims.note(message)
            return
        said = Claims()
        said.note(message)
        self.send(self.downloader.bitfield_untrusted(said.read_untrusted(self._torrent.have.size)))

    def _blocks_arrived(self, message: Pieces, now: float) -> None:
        arrived = self.downloader.blocks_untrusted(message.blocks, now)
        self.bytes_down += arrived.payload
        for copies in arrived.copies:
            self._torrent.cancel_elsewhere(copies)
        if arrived.filled:
            self._torrent.pieces_filled(self, arrived.filled)
        self.downloader.judge()  # last: a complete piece that nobody is told of would never be stored

    def _interest(self, interested: bool) -> None:
        if self.uploader.interested != interested:
            self.uploader.interested = interested
            self._torrent.interest_changed(self)

    def _extended_untrusted(self, message: Extended, now: float) -> None:
        self._extended += 1
        self._handshakes += not message.ext_id
        if self._extended > MAX_EXTENDED + self.freight.large_frames or self._handshakes > MAX_HANDSHAKES:
            raise RemoteProtocolError("extension-flood")
        if message.ext_id:
            self.extensions.receive_untrusted(message.ext_id, message.payload, now)
            return
        theirs = parse_extended_handshake_untrusted(message.payload)
        self.theirs = theirs if self.theirs is None else self.theirs.updated(theirs)
        if self.theirs.v:
            self.client = self.theirs.v
        if self.theirs.reqq is not None:
            self.downloader.pipeline.set_reqq(self.theirs.reqq)
        self.extensions.handshake_received(self.theirs, now)
        self._torrent.extended_handshake_received(self, self.theirs)


def _availability(have: Bitfield, *, fast: bool) -> bytes:
    """What BEP 3 and BEP 6 want said first.  Without metadata there is nothing, and that is not everything."""
    if fast and have.complete and have.size:
        return HaveAll().encode()
    if have.count:
        return BitfieldMessage(bytes(have.data)).encode()
    return HaveNone().encode() if fast else b""
