"""Inbound streams: from "somebody connected" to "a torrent runs it".

Bounded in streams that have not shaken hands yet; a stranger who connects and says nothing costs one slot for the
handshake time-out and no more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from swarm.config import Config
from swarm.connect.dial import Link
from swarm.connect.shake import shake_as_acceptor
from swarm.errors import RemoteError
from swarm.events import ConnectionRefused, Emit, PathName
from swarm.net.network import Stream
from swarm.wire.handshake import Handshake

MAX_STRANGERS = 100
"""Inbound streams that have not finished the handshake, per node; more are closed at once."""


class TakesPeers(Protocol):
    """What the acceptor needs of a torrent."""

    def our_handshake(self) -> Handshake: ...

    async def run_connection(self, link: Link, theirs: Handshake, known: None, seconds: float) -> None:
        """Admit the stream and serve it until it ends; closes it in every case."""


class Acceptor:
    """Shakes hands with whoever connects to a listener."""

    def __init__(self, config: Config, find: Callable[[bytes], TakesPeers | None], emit: Emit) -> None:
        self._config = config
        self._find = find
        self._emit = emit
        self._strangers = 0

    async def serve(self, accept: Callable[[], Awaitable[Stream]], path: PathName) -> None:
        """Take streams from ``accept`` until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                link = Link(await accept(), path)
                if self._strangers >= MAX_STRANGERS:
                    self._refuse(link, "too-many-strangers")
                    continue
                self._strangers += 1
                nursery.start_soon(self._welcome, link)

    async def _welcome(self, link: Link) -> None:
        started = trio.current_time()
        try:
            torrent, theirs = await self._shake(link)
        except RemoteError as error:
            self._refuse(link, error.reason)
            return
        except trio.Cancelled:
            link.stream.abort()
            raise
        finally:
            self._strangers -= 1
        await torrent.run_connection(link, theirs, None, trio.current_time() - started)

    async def _shake(self, link: Link) -> tuple[TakesPeers, Handshake]:
        found: list[TakesPeers] = []

        def answer(info_hash: bytes) -> Handshake | None:
            torrent = self._find(info_hash)
            if torrent is None:
                return None
            found.append(torrent)
            return torrent.our_handshake()

        try:
            with trio.fail_after(self._config.handshake_timeout):
                theirs = await shake_as_acceptor(link.stream, answer)
        except trio.TooSlowError:
            raise RemoteError("handshake-timed-out") from None
        return found[0], theirs

    def _refuse(self, link: Link, reason: str) -> None:
        link.stream.abort()
        self._emit(ConnectionRefused(link.remote, link.path, "in", reason))
