"""Inbound streams: from "somebody connected" to "a torrent runs it".

Bounded in streams that have not shaken hands yet.  When there are too many, the oldest of the party that has the most
makes room, so that a flood from one IPv4 address or IPv6 /64 keeps nobody else out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

import trio

from swarm.config import Config
from swarm.connect.dial import Link
from swarm.connect.encrypted import Encryption
from swarm.connect.shake import shake_as_acceptor
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.events import ConnectionRefused, Emit, PathName
from swarm.net.network import Stream
from swarm.wire.handshake import Handshake

MAX_STRANGERS = 100
"""Inbound streams that have not finished the handshake, per node."""


PUNCHED: dict[Literal["tcp", "utp"], PathName] = {"tcp": "tcp-punched", "utp": "utp-punched"}


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
    ) -> None:
        """``room`` says how many more connections the node takes, ``expects`` whether a punch made somebody come."""
        self._config = config
        self._find = find
        self._encryption = encryption
        self._emit = emit
        self._room = room
        self._expects = expects
        self._strangers: dict[trio.CancelScope, str] = {}  # the oldest first; of which party

    async def serve(self, accept: Callable[[], Awaitable[Stream]], transport: Literal["tcp", "utp"]) -> None:
        """Take streams from ``accept`` until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                stream = await accept()
                link = Link(stream, PUNCHED[transport] if self._expects(stream.remote) else transport)
                if len(self._strangers) >= MAX_STRANGERS:
                    self._evict()
                stranger = trio.CancelScope()
                self._strangers[stranger] = link.remote.party
                nursery.start_soon(self._welcome, link, stranger)

    def _evict(self) -> None:
        crowded, _ = Counter(self._strangers.values()).most_common(1)[0]
        oldest = next(stranger for stranger, party in self._strangers.items() if party == crowded)
        del self._strangers[oldest]
        oldest.cancel()

    async def _welcome(self, link: Link, stranger: trio.CancelScope) -> None:
        started = trio.current_time()
        with stranger:
            try:
                torrent, shaken, theirs = await self._shake(link)
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
