"""A peer written by hand on one stream, for tests that need one that misbehaves: it says and hears what it is told to.

It parses with our own codec, which has tests of its own; it keeps no promises of the protocol.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from swarm.endpoint import Endpoint
from swarm.net.network import Network, Stream
from swarm.wire.codec import WireReader
from swarm.wire.handshake import (
    HANDSHAKE_LENGTH,
    RESERVED_EXTENDED,
    RESERVED_FAST,
    Handshake,
    parse_handshake_untrusted,
)
from swarm.wire.messages import BitfieldMessage, Message, Requests, Unchoke, piece_header
from tests.nodes import Sample

Corruption = Callable[[int, int], bool]


def block_message(index: int, begin: int, data: bytes) -> bytes:
    return piece_header(index, begin, len(data)) + data


def never(index: int, begin: int) -> bool:
    return False


class RawPeer:
    """One end of a stream to a node.  ``fast`` is whether it speaks BEP 6."""

    def __init__(self, stream: Stream, sample: Sample, *, fast: bool) -> None:
        self.stream = stream
        self.sample = sample
        self._reader = WireReader(piece_count=sample.metainfo.piece_count, fast=fast, max_block=1 << 20)
        self.theirs: Handshake | None = None

    @classmethod
    async def connect(
        cls,
        network: Network,
        remote: Endpoint,
        sample: Sample,
        *,
        name: str = "raw",
        peer_id: bytes | None = None,
        fast: bool = False,
    ) -> RawPeer:
        """Dial a node and shake hands, by default with a peer id made of ``name``."""
        peer = cls(await network.dial_tcp(remote), sample, fast=fast)
        reserved = RESERVED_EXTENDED | (RESERVED_FAST if fast else 0)
        peer_id = peer_id or f"-XX0000-{name:.<12.12}".encode()
        await peer.say(Handshake(sample.metainfo.info_hash, peer_id, reserved).encode())
        head = b""
        while len(head) < HANDSHAKE_LENGTH:
            head += await peer.stream.receive_some(HANDSHAKE_LENGTH - len(head)) or b"\0" * HANDSHAKE_LENGTH
        peer.theirs = parse_handshake_untrusted(head)
        return peer

    @property
    def local(self) -> Endpoint:
        """Where the node sees it come from."""
        assert self.stream.local is not None
        return self.stream.local

    async def say(self, *parts: bytes) -> None:
        await self.stream.send_all(b"".join(parts))

    async def hear(self) -> list[Message] | None:
        """What the next read brings; None when the node has ended the connection."""
        try:
            data = await self.stream.receive_some(1 << 16)
        except trio.BrokenResourceError:
            return None
        return self._reader.feed(data) if data else None

    async def wait_for(self, kind: type[Message]) -> Message:
        """The next message of a kind, whatever comes before it."""
        while (messages := await self.hear()) is not None:
            for message in messages:
                if isinstance(message, kind):
                    return message
        raise AssertionError(f"closed before any {kind.__name__}")

    async def wait_closed(self) -> None:
        """Block until the node has ended the connection."""
        while await self.hear() is not None:
            pass

    async def offer_everything(self) -> None:
        """Say that we have all pieces, and unchoke."""
        count = self.sample.metainfo.piece_count
        bits = bytearray(b"\xff" * (count // 8))
        if count % 8:
            bits.append(0xFF00 >> count % 8 & 0xFF)
        await self.say(BitfieldMessage(bytes(bits)).encode(), Unchoke().encode())

    async def serve(self, corrupt: Corruption = never, *, pause: float = 0.0) -> None:
        """Answer every request, ``pause`` seconds each, until the end; ``corrupt`` blocks have a bit wrong."""
        try:
            while (messages := await self.hear()) is not None:
                for message in messages:
                    if isinstance(message, Requests):
                        for index, begin, length in message.blocks:
                            await trio.sleep(pause)
                            await self.say(self._block(index, begin, length, corrupt(index, begin)))
        except trio.BrokenResourceError:
            return

    def _block(self, index: int, begin: int, length: int, wrong: bool) -> bytes:
        data = bytearray(self.sample.piece(index)[begin : begin + length])
        data[0] ^= wrong
        return block_message(index, begin, bytes(data))
