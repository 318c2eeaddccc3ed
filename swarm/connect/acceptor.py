"""Inbound streams: from "somebody connected" to "a torrent runs it".

Bounded in streams that have not shaken hands yet.  When there are too many, the oldest of the party that has the most
makes room, so that a flood from one IPv4 address or IPv6 /64 keeps nobody else out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from swarm.config import Config
from swarm.connect.dial import Link
from swarm.connect.encrypted import Encryption, hear
from swarm.connect.shake import shake_as_acceptor
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.events import INDIRECT_PATHS, ConnectionRefused, Emit, PathName
from swarm.ext.reach_message import Transport, nonce_of
from swarm.net.network import Stream
from swarm.wire.handshake import Handshake

MAX_STRANGERS = 100
"""Inbound streams that have not finished the handshake, per node."""

HANG_UP = 5.0
"""Seconds that whoever presents a nonce has for reading our answer and hanging up; closing sooner could take it away
from him."""

PUNCHED: dict[Transport, PathName] = {"tcp": "tcp-punched", "utp": "utp-punched"}


class TakesPeers(Protocol):
    """What the acceptor needs of a torrent."""

    def our_handshake(self) -> Handshake: ...

    async def run_connection(self, link: Link, theirs: Handshake, known: None, seconds: float) -> None:
        """Admit the stream and serve it until it ends; closes it in every case."""


class Acceptor:
    """Shakes hands with whoever connects to a listener."""

    def __init__(
        self,
        config: Config,
        find: Callable[[bytes], TakesPeers | None],
        encryption: Encryption,
        emit: Emit,
        room: Callable[[], int],
        expects: Callable[[Endpoint], bool] = lambda remote: False,
        *,
        came_in: Callable[[Endpoint], None] = lambda remote: None,
        dialled_back: Callable[[bytes, Endpoint, Transport], None] = lambda nonce, remote, transport: None,
    ) -> None:
        """``room`` says how many more connections the node takes, ``expects`` whether a punch made somebody come.

        ``came_in`` is told of every TCP connection before anything is sent to it (of UDP the mux knows), and
        ``dialled_back`` of every nonce that somebody presents instead of a peer id (`swarm.ext.reach_message`).
        """
        self._config = config
        self._find = find
        self._encryption = encryption
        self._emit = emit
        self._room = room
        self._expects = expects
        self._came_in = came_in
        self._dialled_back = dialled_back
        self._nursery: trio.Nursery | None = None  # of the last listener that was served
        self._strangers: dict[trio.CancelScope, str] = {}  # the oldest first; of which party

    async def serve(self, accept: Callable[[], Awaitable[Stream]], transport: Transport) -> None:
        """Take streams from ``accept`` until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            while True:
                stream = await accept()
                if transport == "tcp":
                    self._came_in(stream.remote)
                link = Link(stream, PUNCHED[transport] if self._expects(stream.remote) else transport)
                self._let_in(link, transport, nursery)

    def take(self, link: Link) -> None:
        """Shake hands with a stream that no listener brought: the other end of it dialled, over µTP."""
        if self._nursery is None or self._nursery.cancel_scope.cancel_called:
            link.stream.abort()
        else:
            self._let_in(link, "utp", self._nursery)

    def _let_in(self, link: Link, transport: Transport, nursery: trio.Nursery) -> None:
        if len(self._strangers) >= MAX_STRANGERS:
            self._evict()
        stranger = trio.CancelScope()
        self._strangers[stranger] = link.remote.party
        nursery.start_soon(self._welcome, link, transport, stranger)

    def _evict(self) -> None:
        crowded, _ = Counter(self._strangers.values()).most_common(1)[0]
        oldest = next(stranger for stranger, party in self._strangers.items() if party == crowded)
        del self._strangers[oldest]
        oldest.cancel()

    async def _welcome(self, link: Link, transport: Transport, stranger: trio.CancelScope) -> None:
        started = trio.current_time()
        with stranger:
            try:
                torrent, shaken, theirs = await self._shake(link)
                if link.path == "relayed" and shaken.encryption != "rc4":
                    raise RemoteError("encryption-required")
                nonce = nonce_of(theirs.peer_id)
                if nonce is not None:
                    if link.path in INDIRECT_PATHS:
                        raise RemoteError("not-direct", "a dial-back through a relay proves nothing")
                    await self._take_dial_back(nonce, link.stream, transport)
                    return
            except RemoteError as error:
                self._refuse(link, error.reason)
                return
            except trio.Cancelled:
                link.stream.abort()
                raise
            finally:
                self._strangers.pop(stranger, None)
        if stranger.cancelled_caught:
            self._refuse(link, "too-many-strangers")
            return
        if self._room() <= 0:
            self._refuse(link, "full")
            return
        await torrent.run_connection(shaken, theirs, None, trio.current_time() - started)

    async def _take_dial_back(self, nonce: bytes, stream: Stream, transport: Transport) -> None:
        """Somebody who comes to show that he can; he hangs up when he has read our answer."""
        self._dialled_back(nonce, stream.remote, transport)
        try:
            with trio.move_on_after(HANG_UP):
                await hear(stream, 1)
        except RemoteError:
            pass
        finally:
            stream.abort()

    async def _shake(self, link: Link) -> tuple[TakesPeers, Link, Handshake]:
        found: list[TakesPeers] = []

        def answer(info_hash: bytes) -> Handshake | None:
            torrent = self._find(info_hash)
            if torrent is None:
                return None
            found.append(torrent)
            return torrent.our_handshake()

        try:
            with trio.fail_after(self._config.handshake_timeout):
                shaken, theirs = await shake_as_acceptor(link, answer, self._encryption)
        except trio.TooSlowError:
            raise RemoteError("handshake-timed-out") from None
        return found[0], shaken, theirs

    def _refuse(self, link: Link, reason: str) -> None:
        link.stream.abort()
        self._emit(ConnectionRefused(link.remote, link.path, "in", reason))
