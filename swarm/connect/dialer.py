"""Who is dialled next, for all torrents of a node, with a bound on attempts under way.

One task asks the torrents in turn; each attempt is a task that climbs the ladder, shakes hands and then *is* the
connection until it ends.  Which peer of a torrent is next is the torrent's own business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from swarm.config import Config
from swarm.connect.dial import DialsTcp, Link
from swarm.connect.encrypted import Encryption
from swarm.connect.ladder import Failure, Rung, UnreachableError, climb
from swarm.connect.punching import Punching
from swarm.connect.relaying import Relaying
from swarm.connect.rungs import Means, Rungs, Turns
from swarm.connect.shake import shake_as_initiator
from swarm.connect.shots import Shots
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.knownpeer import KnownPeer
from swarm.peerlist import HUNG_UP
from swarm.wire.encryption import RC4
from swarm.wire.handshake import Handshake

IDLE_LOOK = 1.0
"""Seconds between looks at the torrents when nothing woke the dialer: back-offs run out silently."""

IDLE_LOOK_EACH, LOOK_EACH = 1e-3, 20e-6
"""The same for each torrent, and seconds for each from a look that found nobody to the next, whoever wakes the dialer:
a look costs 4 µs for each, and thousands that start together, or are told of peers, all wake it."""

KEPT_FREE = 4
"""One attempt in so many is kept for peers that more than strangers have named."""

ANOTHER_TRY = 10.0
"""Seconds into an attempt after which a peer that hangs up is not dialled again in it.  Policies refuse at once; one
that connects and hangs up late each time would hold one of ``max_half_open`` four times as long as a silent one."""


class WantsPeers(Protocol):
    """What the dialer needs of a torrent."""

    def next_to_dial(self, *, hearsay: bool) -> KnownPeer | None:
        """Somebody worth an attempt now, marked as being dialled; None when there is nobody or no room.

        Without ``hearsay`` nobody whom only strangers have named (`swarm.peerlist.HEARSAY`).
        """

    @property
    def punching(self) -> Punching | None:
        """None where it is switched off, or the torrent is private."""

    def relaying_to(self, peer: KnownPeer) -> Relaying | None:
        """None likewise, and where a relay carries us to the peer already."""

    def turned_to(self, peer: KnownPeer) -> Turns | None:
        """None where a relay carries us to the peer already."""

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
        network: DialsTcp,
        config: Config,
        torrents: Callable[[], Sequence[WantsPeers]],
        encryption: Encryption,
        got_out: Callable[[Link], None] = lambda link: None,
    ) -> None:
        """``got_out`` is told of every link that comes about."""
        self._network = network
        self._config = config
        self._torrents = torrents
        self._encryption = encryption
        self._got_out = got_out
        self._rungs = Rungs(network, config)
        self._turn = 0
        self._online: tuple[trio.Nursery, Means] | None = None
        self._woken = trio.Event()
        self._attempts: dict[trio.CancelScope, WantsPeers] = {}
        self.shots = Shots()
        self.half_open = 0
        """Attempts under way, shots not counted: strangers must not keep us from dialling."""

    def wake(self) -> None:
        """A torrent has somebody new to dial."""
        self._woken.set()

    async def run(self, means: Means, room: Callable[[], int]) -> None:
        """Dial until cancelled; ``room`` says how many more connections the node takes."""
        async with trio.open_nursery() as nursery:
            self._online = nursery, means
            try:
                await self._keep_dialling(nursery, means, room)
            finally:
                self._online = None

    def shoot(self, torrent: WantsPeers, peer: KnownPeer, at: Endpoint, introducer: Endpoint) -> bool:
        """Dial ``at`` now, as target of a rendezvous: the other end does at this moment, or so ``introducer`` says.

        False, and nothing is done, while offline and where there are too many (`Shots`).
        """
        punching = torrent.punching
        if self._online is None or punching is None:
            return False
        ended = self.shots.take(introducer, trio.current_time())
        if ended is None:
            return False
        nursery, means = self._online
        nursery.start_soon(self._reach, torrent, peer, self._rungs.shots_at(at, means, punching), ended)
        return True

    def redial(self, torrent: WantsPeers, peer: KnownPeer) -> bool:
        """Dial a peer again whose TCP connection was closed for one over µTP.  False while offline."""
        if self._online is None:
            return False
        nursery, means = self._online
        self.half_open += 1
        nursery.start_soon(self._reach, torrent, peer, self._rungs.utp_before_tcp(peer.endpoint, means), self._ended)
        return True

    def abandon(self, torrent: WantsPeers) -> None:
        """Break off all attempts for a torrent, which wants nobody any more.  Its connections stay."""
        for scope, wanting in self._attempts.items():
            if wanting is torrent:
                scope.cancel()

    async def _keep_dialling(self, nursery: trio.Nursery, means: Means, room: Callable[[], int]) -> None:
        while True:
            while self.half_open < (most := min(self._config.max_half_open, room())):
                pair = self._next(hearsay=self.half_open < most - most // KEPT_FREE)
                if pair is None:
                    break
                self.half_open += 1
                torrent, peer = pair
                rungs = self._rungs.to(
                    peer, means, torrent.punching, torrent.relaying_to(peer), torrent.turned_to(peer)
                )
                nursery.start_soon(self._reach, torrent, peer, rungs, self._ended)
            count = len(self._torrents())
            await trio.sleep(count * LOOK_EACH)
            with trio.move_on_after(max(IDLE_LOOK, count * IDLE_LOOK_EACH)):
                await self._woken.wait()
            self._woken = trio.Event()

    def _next(self, *, hearsay: bool) -> tuple[WantsPeers, KnownPeer] | None:
        """The next torrent in turn that wants somebody, and whom."""
        torrents = self._torrents()
        for step in range(len(torrents)):
            torrent = torrents[(self._turn + step) % len(torrents)]
            if (peer := torrent.next_to_dial(hearsay=hearsay)) is not None:
                self._turn = (self._turn + step + 1) % len(torrents)
                return torrent, peer
        return None

    def _ended(self, reached: bool) -> None:
        self.half_open -= 1
        self._woken.set()

    async def _reach(
        self, torrent: WantsPeers, peer: KnownPeer, rungs: Sequence[Rung], ended: Callable[[bool], None]
    ) -> None:
        """``ended`` is told when the attempt is over, and whether hands have been shaken."""
        started = trio.current_time()
        judged, reached = False, None
        scope = trio.CancelScope()
        self._attempts[scope] = torrent
        try:
            with scope:
                reached = await self._shaken_link(torrent, peer, rungs)
                judged = True
        finally:  # and no `except trio.Cancelled`: the nursery of `climb` wraps it in a group
            del self._attempts[scope]
            ended(reached is not None)
            if not judged:
                torrent.dial_abandoned(peer)
        if reached is not None:
            link, theirs = reached
            await torrent.run_connection(link, theirs, peer, trio.current_time() - started)

    async def _shaken_link(
        self, torrent: WantsPeers, peer: KnownPeer, rungs: Sequence[Rung]
    ) -> tuple[Link, Handshake] | None:
        """A link with hands shaken.  A peer that hangs up on every handshake over one path is tried over those left:
        a libtorrent without TCP listens for it all the same, and resets who connects."""
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

        def failed(failure: Failure) -> None:
            torrent.rung_failed(peer, failure)

        def aside(link: Link) -> None:
            self._take_aside(torrent, peer, link)

        failures: list[Failure] = []
        for crypto_provide in self._encryption.offers(obfuscated_before=peer.obfuscated):
            try:
                link = await climb(rungs, failed, aside)
            except UnreachableError as error:
                return [*failures, *error.failures]
            self._got_out(link)
            shaken = await self._shake(torrent, peer, link, crypto_provide)
            if not isinstance(shaken, Failure):
                return shaken
            torrent.rung_failed(peer, shaken)
            failures.append(shaken)
            if shaken.reason not in HUNG_UP or trio.current_time() > last_start:
                break
            rungs = [rung for rung in rungs if rung.path == link.path]
        return failures

    def _take_aside(self, torrent: WantsPeers, peer: KnownPeer, link: Link) -> None:
        """A relay leads to the peer: that connection stands beside the attempts, which go on."""
        if self._online is None:
            link.stream.abort()
        else:
            self._online[0].start_soon(self._run_aside, torrent, peer, link)

    async def _run_aside(self, torrent: WantsPeers, peer: KnownPeer, link: Link) -> None:
        started, shaken = trio.current_time(), None
        scope = trio.CancelScope()
        self._attempts[scope] = torrent
        try:
            with scope:
                crypto_provide = RC4  # the relay is not to read along
                if link.path == "turn":  # a server that the user has chosen, and peers that may not be ours
                    crypto_provide = self._encryption.offers(obfuscated_before=peer.obfuscated)[0]
                shaken = await self._shake(torrent, peer, link, crypto_provide)
        finally:
            del self._attempts[scope]
        if isinstance(shaken, Failure):
            torrent.rung_failed(peer, shaken)
            if link.relay is not None and (relaying := torrent.relaying_to(peer)) is not None:
                relaying.trust.failed(link.relay, trio.current_time())
        elif shaken is not None:
            await torrent.run_connection(*shaken, peer, trio.current_time() - started)

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
