"""The BitTorrent handshake over a fresh stream, in both roles (BEP 3).  Deadlines are the caller's cancel scopes."""

from __future__ import annotations

from collections.abc import Callable

import trio

from swarm.errors import RemoteError, RemoteProtocolError
from swarm.net.network import Stream
from swarm.wire.handshake import HANDSHAKE_LENGTH, Handshake, parse_handshake_untrusted

HEAD_BYTES = 48
"""Protocol name, reserved bits and info-hash: what an acceptor needs before it answers."""


async def shake_as_initiator(stream: Stream, ours: Handshake) -> Handshake:
    """Send ours, read theirs.

    Raises RemoteError: "closed", "reset", "wrong-torrent", or the slug of a malformed handshake.
    """
    await _send(stream, ours.encode())
    theirs = parse_handshake_untrusted(await _receive_exactly(stream, HANDSHAKE_LENGTH))
    if theirs.info_hash != ours.info_hash:
        raise RemoteProtocolError("wrong-torrent", theirs.info_hash.hex())
    return theirs


async def shake_as_acceptor(stream: Stream, answer: Callable[[bytes], Handshake | None]) -> Handshake:
    """Read their info-hash, let ``answer`` find our handshake for it, send that, read their peer id.

    The peer id comes last because some clients send it only after our answer.  Raises RemoteError: "unknown-torrent"
    when ``answer`` returns None, else as `shake_as_initiator`.
    """
    head = await _receive_exactly(stream, HEAD_BYTES)
    theirs = parse_handshake_untrusted(head + bytes(HANDSHAKE_LENGTH - HEAD_BYTES))
    ours = answer(theirs.info_hash)
    if ours is None:
        raise RemoteError("unknown-torrent", theirs.info_hash.hex())
    await _send(stream, ours.encode())
    return parse_handshake_untrusted(head + await _receive_exactly(stream, HANDSHAKE_LENGTH - HEAD_BYTES))


async def _send(stream: Stream, data: bytes) -> None:
    try:
        await stream.send_all(data)
    except trio.BrokenResourceError as error:
        raise RemoteError("reset", "during the handshake") from error


async def _receive_exactly(stream: Stream, count: int) -> bytes:
    received = b""
    while len(received) < count:
        try:
            chunk = await stream.receive_some(count - len(received))
        except trio.BrokenResourceError as error:
            raise RemoteError("reset", "during the handshake") from error
        if not chunk:
            raise RemoteError("closed", "during the handshake")
        received += chunk
    return received
