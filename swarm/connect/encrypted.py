"""Message stream encryption on real streams: the node's policy, both roles of its handshake, and RC4 as a stream.

The bytes of the handshake are `swarm.wire.encryption`'s.  Plaintext payload needs no wrapper: the stream goes on as it
is, with all its capabilities, and what was read too far travels in `Link.received`.  Deadlines are the caller's cancel
scopes.  Does not say when which handshake is tried: that is `swarm.connect.shake` and the dialer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import trio

from swarm.connect.dial import Link
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.net.network import Buffer, ReceivesInto, Stream, TellsRoundTrip, TellsUnanswered
from swarm.net.one_task import OneTask
from swarm.ratelimit import TokenBucket
from swarm.torrent.disk import Runner
from swarm.wire.encryption import KEY_LENGTH, PLAINTEXT, RC4, Initiator, Responder
from swarm.wire.rc4 import Cipher, load_native

SLICE = 64 << 10
"""Bytes encrypted or decrypted between two checkpoints: 0.1 ms with `cryptography`, 8 ms in pure Python."""

FIRST_OF_HANDSHAKE = 48
"""Bytes of the peer-wire handshake, up to the info-hash, that make an acceptor answer with its own."""

READ_SIZE = 4096
"""Bytes asked for at once during the handshake: what is read too far is decrypted in pure Python."""

ANSWERS_PER_SECOND = 150
"""Key exchanges answered.  One costs 0.6 to 1.8 ms and the stranger nothing: a flood gets a quarter of one core."""

ANSWERS_AT_ONCE = 50
"""Key exchanges answered without a pause after a quiet time: peers that come back together."""


class EncryptedStream(trio.abc.HalfCloseableStream):
    """RC4 around any stream, with `receive_into` (decrypts in place) and `send_vectored`.

    What is sent is copied before it is encrypted: blocks of the read cache go to other peers too.  Errors and
    cancellation are those of the inner stream, which closes with this one.  ``opening`` goes out with, and in front of,
    what is sent first, as it is.
    """

    def __init__(self, inner: Stream, encrypt: Cipher, decrypt: Cipher, *, opening: bytes = b"") -> None:
        self._inner = inner
        self._opening = opening
        self._encrypt = encrypt
        self._decrypt = decrypt
        # Asked before anything is encrypted: bytes that are not sent would put the two keystreams out of step.
        self._sending = OneTask("sending on")

    @property
    def local(self) -> Endpoint | None:
        return self._inner.local

    @property
    def remote(self) -> Endpoint:
        return self._inner.remote

    def round_trip(self) -> float | None:
        """The inner stream's."""
        return self._inner.round_trip() if isinstance(self._inner, TellsRoundTrip) else None

    def unanswered(self) -> float:
        """The inner stream's."""
        return self._inner.unanswered() if isinstance(self._inner, TellsUnanswered) else 0.0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return self._decrypt.process(await self._inner.receive_some(SLICE if max_bytes is None else max_bytes))

    async def receive_into(self, buffer: memoryview) -> int:
        """Fill the front of ``buffer`` with at most SLICE bytes; the count, 0 after the other end's half-close."""
        front = buffer[:SLICE]
        if isinstance(self._inner, ReceivesInto):
            count = await self._inner.receive_into(front)
        else:
            data = await self._inner.receive_some(len(front))
            count = len(data)
            front[:count] = data
        self._decrypt.process_in_place(front[:count])
        return count

    async def send_all(self, data: Buffer) -> None:
        await self.send_vectored((data,))

    async def send_vectored(self, buffers: Sequence[Buffer]) -> None:
        """Send ``buffers`` in order and leave them unchanged; cancelled, the stream is unusable."""
        with self._sending:
            copy = memoryview(bytearray().join(buffers))
            for start in range(0, len(copy) or 1, SLICE):  # an empty one too: the inner stream may be closed
                part = copy[start : start + SLICE]
                self._encrypt.process_in_place(part)
                opening, self._opening = self._opening, b""
                await self._inner.send_all(opening + part if opening else part)

    async def wait_send_all_might_not_block(self) -> None:
        with self._sending:
            await self._inner.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        with self._sending:
            await self._inner.send_eof()

    async def aclose(self) -> None:
        await self._inner.aclose()

    def abort(self) -> None:
        self._inner.abort()


class Encryption:
    """What a node needs to open streams with message stream encryption, and to answer it.

    ``policy``: "prefer" opens in plaintext and takes both, with plaintext payload wherever the other end offers it;
    "require" means RC4 payload or no connection; "off" knows plaintext only.  ``find_torrent`` maps `hash_of_torrent`
    to an info-hash that we serve, or None.  ``rng`` makes private keys: a `random.SystemRandom`.
    """

    def __init__(
        self,
        policy: Literal["prefer", "require", "off"],
        find_torrent: Callable[[bytes], bytes | None],
        rng: random.Random,
        runner: Runner,
    ) -> None:
        self.policy = policy
        self._find_torrent = find_torrent
        self._rng = rng
        self._run = runner
        self._native: bool | None = None  # not known before `_load`
        self._answers = TokenBucket(ANSWERS_PER_SECOND, ANSWERS_AT_ONCE)
        self._turn = trio.Lock()  # which is given in the order in which it was asked for

    def offers(self, *, obfuscated_before: bool) -> tuple[int, ...]:
        """The crypto_provide of each handshake to try with a peer, in order; 0 stands for one in plaintext.

        The second is for peers that hang up on the first.
        """
        match self.policy:
            case "off":
                return (0,)
            case "require":
                return (RC4,)
            case "prefer":
                return (PLAINTEXT | RC4, 0) if obfuscated_before else (0, PLAINTEXT | RC4)

    async def prepare(self) -> bool:
        """Load what is certain to be needed.  The others mostly end up in plaintext and never pay for the import.

        False if all payload will go through RC4 in Python.
        """
        return self.policy != "require" or await self._load()

    async def initiate(self, link: Link, info_hash: bytes, initial_payload: bytes, crypto_provide: int) -> Link:
        """The link on which payload goes from here on, ``initial_payload`` being sent already.

        Raises RemoteError: "closed", "reset", "bad-encryption", "no-common-encryption".
        """
        initiator = Initiator(info_hash, initial_payload, crypto_provide, self._rng)
        await say(link.stream, initiator.start())
        return await self._negotiate(link, initiator, await hear(link.stream, READ_SIZE))

    async def respond(self, link: Link, opening: bytes) -> Link:
        """The link on which payload goes from here on; ``opening`` is what was read of the stream.

        Waits for its turn (ANSWERS_PER_SECOND).  Raises RemoteError: as `initiate`, and "unknown-info-hash".
        """
        accepted = RC4 if self.policy == "require" else PLAINTEXT | RC4
        while len(opening) < KEY_LENGTH:
            opening += await hear(link.stream, READ_SIZE)
        async with self._turn:  # whoever is cancelled in here, evicted say, has cost those behind it nothing
            await trio.sleep(self._answers.delay(trio.current_time()))
            self._answers.take(1, trio.current_time())
        return await self._negotiate(link, Responder(self._find_torrent, accepted, self._rng), opening)

    async def _negotiate(self, link: Link, side: Initiator | Responder, data: bytes) -> Link:
        while True:
            answer = side.receive_untrusted(data)
            if (result := side.result) is not None:
                break
            if answer:
                await say(link.stream, answer)
            data = await hear(link.stream, READ_SIZE)
        # Transmission 3.00 looks at what came in one µTP packet with our peer-wire handshake only when the next one
        # comes.  So the handshake goes with this answer, not with the messages that follow; unless they wait for it.
        encrypted = result.encrypt is not None and result.decrypt is not None
        opening = answer if encrypted and len(result.received) >= FIRST_OF_HANDSHAKE else b""
        if answer and not opening:
            await say(link.stream, answer)
        if result.encrypt is None or result.decrypt is None:
            return replace(link, encryption="obfuscated", received=result.received)
        await self._load()
        stream = EncryptedStream(link.stream, result.encrypt.fastest(), result.decrypt.fastest(), opening=opening)
        return replace(link, stream=stream, encryption="rc4", received=result.received)

    async def _load(self) -> bool:
        """Import `cryptography`, outside the event loop: it takes 0.1 to 0.4 s.  Whether it is there."""
        if self._native is None:
            self._native = await self._run(load_native)
        return self._native


async def say(stream: Stream, data: bytes) -> None:
    """Send all; RemoteError("reset") when the stream breaks."""
    try:
        await stream.send_all(data)
    except trio.BrokenResourceError as error:
        raise RemoteError("reset", "during the handshake") from error


async def hear(stream: Stream, max_bytes: int) -> bytes:
    """At least one byte; RemoteError("closed" or "reset") when there is none any more."""
    try:
        data = await stream.receive_some(max_bytes)
    except trio.BrokenResourceError as error:
        raise RemoteError("reset", "during the handshake") from error
    if not data:
        raise RemoteError("closed", "during the handshake")
    return bytes(data)
