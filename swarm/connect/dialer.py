"""Who is dialled next, for all torrents of a node, with a bound on attempts under way.

One task asks the torrents in turn; each attempt is a task that climbs the ladder, shakes hands and then *is* the
connection until it ends.  Which peer of a torrent is next is the torrent's own business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from swarm.config import Config
from swarm.connect.dial import Link, dial_tcp, dial_utp
from swarm.connect.encrypted import Encryption
from swarm.connect.ladder import Failure, Rung, UnreachableError, climb
from swarm.connect.shake import shake_as_initiator
from swarm.errors import RemoteError
from swarm.net.network import Network
from swarm.net.udp_port import UtpPort
from swarm.peerlist import KnownPeer
from swarm.wire.handshake import Handshake

IDLE_LOOK = 1.0
"""Seconds between looks at the torrents when nothing woke the dialer: back-offs run out silently."""


HEAD_START = 0.25
"""Seconds that one transport has before the other is tried beside it (the delay of RFC 8305)."""

HUNG_UP = frozenset({"handshake-closed", "handshake-reset"})
"""How peers answer a handshake that their encryption policy forbids."""

ANOTHER_TRY = 10.0
"""Seconds into an attempt after which a peer that hangs up is not dialled again in it.  Policies refuse at once; one
that connects and hangs up late each time would hold one of ``max_half_open`` four times as long as a silent one."""


@dataclass(frozen=True, slots=True)
class Means:
    """What there is to dial with while the node is online."""

    from_port: int | None
    """The TCP port to leave from."""

    utp: Mapping[int, UtpPort]
    """By address family, 4 or 6."""


class WantsPeers(Protocol):
    """What the dialer needs of a torrent."""

    def next_to_dial(self) -> KnownPeer | None:
        """Somebody worth an attempt now, marked as being dialled; None when there is nobody or no room."""

    def our_handshake(self) -> Handshake: ...

    def dial_abandoned(self, peer: KnownPeer) -> None: ...

    def dial_failed(self, peer: KnownPeer, failures: Sequence[Failure]) -> None: ...

    def rung_failed(self, peer: KnownPeer, failure: Failure) -> None: ...

    async def run_connection(self, link: Link, theirs: Handshake, known: KnownPeer | None, seconds: float) -> None:
        """Admit the stream and serve it until it ends; closes it in every case."""


class Dialer:
    """Keeps up to ``config.max_half_open`` attempts under way."""

    def __init__(
        self,
        network: Network,
        config: Config,
        torrents: Callable[[], Sequence[WantsPeers]],
        encryption: Encryption,
    ) -> None:
        self._network = network
        self._config = config
        self._torrents = torrents
        self._encryption = encryption
        self._turn = 0
        self._woken = trio.Event()
        self.half_open = 0

    def wake(self) -> None:
        """A torrent has somebody new to dial."""
        self._woken.set()

    async def run(self, means: Means, room: Callable[[], int]) -> None:
        """Dial until cancelled; ``room`` says how many more connections the node takes."""
        async with trio.open_nursery() as nursery:
            while True:
                while self.half_open < min(self._config.max_half_open, room()) and (pair := self._next()) is not None:
                    self.half_open += 1
                    nursery.start_soon(self._reach, *pair, means)
                with trio.move_on_after(IDLE_LOOK):
                    await self._woken.wait()
                self._woken = trio.Event()

    def _next(self) -> tuple[WantsPeers, KnownPeer] | None:
        """The next torrent in turn that wants somebody, and whom."""
        torrents = self._torrents()
        for step in range(len(torrents)):
            torrent = torrents[(self._turn + step) % len(torrents)]
            if (peer := torrent.next_to_dial()) is not None:
                self._turn = (self._turn + step + 1) % len(torrents)
                return torrent, peer
        return None

    async def _reach(self, torrent: WantsPeers, peer: KnownPeer, means: Means) -> None:
        started = trio.current_time()
        judged = False
        try:
            reached = await self._shaken_link(torrent, peer, means)
            judged = True
        finally:  # and no `except trio.Cancelled`: the nursery of `climb` wraps it in a group
            self.half_open -= 1
            self._woken.set()
            if not judged:
                torrent.dial_abandoned(peer)
        if reached is not None:
            link, theirs = reached
            await torrent.run_connection(link, theirs, peer, trio.current_time() - started)

    async def _shaken_link(self, torrent: WantsPeers, peer: KnownPeer, means: Means) -> tuple[Link, Handshake] | None:
        """A link with hands shaken.  A peer that hangs up on every handshake over one path is tried over those left:
        a libtorrent without TCP listens for it all the same, and resets who connects."""
        rungs = self._rungs(peer, means)
        last_start = trio.current_time() + ANOTHER_TRY
        failures: list[Failure] = []
        while rungs:
            shaken = await self._shaken_over_one_path(torrent, peer, rungs, last_start)
            if not isinstance(shaken, list):
                return shaken
            failures += shaken
            last = failures[-1]
            if last.reason not in HUNG_UP or trio.current_time() > last_start:
                break
            rungs = [rung for rung in rungs if rung.path != last.path]
        torrent.dial_failed(peer, failures)
        return None

    async def _shaken_over_one_path(
        self, torrent: WantsPeers, peer: KnownPeer, rungs: Sequence[Rung], last_start: float
    ) -> tuple[Link, Handshake] | list[Failure]:
        """A link with hands shaken, or why there is none, the latest failure last.  A peer that hangs up on one
        handshake is dialled again at once, on the same path, for the other: it may require encryption, or know none."""
        failures: list[Failure] = []
        for crypto_provide in self._encryption.offers(obfuscated_before=peer.obfuscated):
            try:
                link = await climb(rungs, lambda failure: torrent.rung_failed(peer, failure))
            except UnreachableError as error:
                return [*failures, *error.failures]
            shaken = await self._shake(torrent, peer, link, crypto_provide)
            if not isinstance(shaken, Failure):
                return shaken
            torrent.rung_failed(peer, shaken)
            failures.append(shaken)
            if shaken.reason not in HUNG_UP or trio.current_time() > last_start:
                break
            rungs = [rung for rung in rungs if rung.path == link.path]
        return failures

    async def _shake(
        self, torrent: WantsPeers, peer: KnownPeer, link: Link, crypto_provide: int
    ) -> tuple[Link, Handshake] | Failure:
        """Shake hands; why not, and the stream closed, if that comes to nothing."""
        started = trio.current_time()
        try:
            with trio.fail_after(self._config.handshake_timeout):
                return await shake_as_initiator(link, torrent.our_handshake(), self._encryption, crypto_provide)
        except (RemoteError, trio.TooSlowError) as error:
            link.stream.abort()
            reason = f"handshake-{error.reason}" if isinstance(error, RemoteError) else "handshake-timed-out"
            return Failure(link.path, peer.endpoint, reason, trio.current_time() - started)
        except trio.Cancelled:
            link.stream.abort()
            raise

    def _rungs(self, peer: KnownPeer, means: Means) -> list[Rung]:
        """The ways to a peer in the order in which they start.

        µTP goes first on the open internet: only a µTP link shows a rendezvous our UDP mapping.  To private addresses
        there is no NAT between us, and TCP is the faster one.
        """
        endpoint, limit = peer.endpoint, self._config.dial_timeout
        utp = means.utp.get(6 if endpoint.is_ipv6 else 4)

        async def direct_tcp() -> Link:
            return await dial_tcp(self._network, endpoint, from_port=means.from_port)

        async def direct_utp() -> Link:
            assert utp is not None
            return await dial_utp(utp, endpoint)

        rungs = [Rung("utp", endpoint, direct_utp, HEAD_START, limit)] if utp is not None else []
        if self._config.tcp:
            rungs.append(Rung("tcp", endpoint, direct_tcp, HEAD_START, limit))
        if not endpoint.address.is_global:
            rungs.reverse()
        return rungs
