"""The BitTorrent handshake over a fresh stream, in both roles (BEP 3), in plaintext or in message stream encryption.

Deadlines are the caller's cancel scopes, and so is closing the stream when a handshake fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from swarm.connect.dial import Link
from swarm.connect.encrypted import Encryption, hear, say
from swarm.errors import RemoteError, RemoteProtocolError
from swarm.net.network import Stream
from swarm.wire.handshake import (
    HANDSHAKE_LENGTH,
    PROTOCOL,
    Handshake,
    looks_like_plaintext,
    parse_handshake_untrusted,
)

HEAD_BYTES = 48
"""Protocol name, reserved bits and info-hash: what an acceptor needs before it answers."""


async def shake_as_initiator(
    link: Link, ours: Handshake, encryption: Encryption, crypto_provide: int
) -> tuple[Link, Handshake]:
    """Send ours, read theirs: the link to go on with, and theirs.

    ``crypto_provide`` is what message stream encryption offers; 0 is a handshake in plaintext.
    Raises RemoteError: "closed", "reset", "wrong-torrent", the slug of a malformed handshake, or one of `Encryption`.
    """
    if crypto_provide:
        link = await encryption.initiate(link, ours.info_hash, ours.encode(), crypto_provide)
    else:
        await say(link.stream, ours.encode())
    incoming = _Incoming(link)
    theirs = parse_handshake_untrusted(await incoming.take(HANDSHAKE_LENGTH))
    if theirs.info_hash != ours.info_hash:
        raise RemoteProtocolError("wrong-torrent", theirs.info_hash.hex())
    return replace(link, received=incoming.rest), theirs


async def shake_as_acceptor(
    link: Link, answer: Callable[[bytes], Handshake | None], encryption: Encryption
) -> tuple[Link, Handshake]:
    """Read their info-hash, let ``answer`` find our handshake for it, send that, read their peer id.

    The peer id comes last because some clients send it only after our answer.  Raises RemoteError: "unknown-torrent"
    when ``answer`` returns None, "encryption-required" where our policy refuses plaintext, else as
    `shake_as_initiator`.
    """
    link = await _opened(link, encryption)
    incoming = _Incoming(link)
    head = await incoming.take(HEAD_BYTES)
    theirs = parse_handshake_untrusted(head + bytes(HANDSHAKE_LENGTH - HEAD_BYTES))
    ours = answer(theirs.info_hash)
    if ours is None:
        raise RemoteError("unknown-torrent", theirs.info_hash.hex())
    await say(link.stream, ours.encode())
    theirs = parse_handshake_untrusted(head + await incoming.take(HANDSHAKE_LENGTH - HEAD_BYTES))
    return replace(link, received=incoming.rest), theirs


async def _opened(link: Link, encryption: Encryption) -> Link:
    """The link behind the encryption handshake, if the other end opens with one and we take it."""
    opening = await _hear_opening(link.stream)
    if looks_like_plaintext(opening):
        if encryption.policy == "require":
            raise RemoteError("encryption-required")
        return replace(link, received=opening)
    if encryption.policy == "off":
        raise RemoteProtocolError("bad-handshake", f"starts with {opening[:20].hex()}")
    return await encryption.respond(link, opening)


async def _hear_opening(stream: Stream) -> bytes:
    """Enough to tell plaintext from encryption, and never more than a plaintext handshake has before our answer."""
    opening = b""
    while len(opening) < len(PROTOCOL) and looks_like_plaintext(opening):
        opening += await hear(stream, HEAD_BYTES - len(opening))
    return opening


class _Incoming:
    """What a link brings, beginning with what was read of it before."""

    def __init__(self, link: Link) -> None:
        self.rest = link.received
        self._stream = link.stream

    async def take(self, count: int) -> bytes:
        while len(self.rest) < count:
            self.rest += await hear(self._stream, count - len(self.rest))
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken
