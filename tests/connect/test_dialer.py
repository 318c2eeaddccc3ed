"""The dialer's accounts: what becomes of attempts that end without a verdict."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from swarm.config import Config
from swarm.connect.dial import Link, dial_utp
from swarm.connect.dialer import Dialer
from swarm.connect.encrypted import Encryption
from swarm.connect.ladder import Failure
from swarm.connect.punching import Outcome
from swarm.connect.rungs import Means
from swarm.connect.shots import MAX_SHOTS, SHOTS_BURST, SHOTS_SECONDS
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.events import PunchRole
from swarm.knownpeer import KnownPeer
from swarm.net.udp_port import UtpPort
from swarm.torrent.disk import run_inline
from swarm.wire.handshake import Handshake
from utp.config import UtpConfig
from utp.endpoint import UtpEndpoint
from utp.service import UtpService

PEER = Endpoint("192.0.2.1", 6881)


class Unanswered:
    """A network on which every attempt to connect hangs."""

    async def dial_tcp(self, remote: Endpoint, *, local: Endpoint | None = None) -> object:
        await trio.sleep_forever()
        raise AssertionError


class OnePeer:
    """A torrent with one peer to dial, and what it was told of it."""

    def __init__(self) -> None:
        self.punching = None
        self.waiting = [KnownPeer(PEER, 0.0)]
        self.told: list[str] = []

    def next_to_dial(self, *, hearsay: bool) -> KnownPeer | None:
        if self.waiting and (hearsay or not self.waiting[-1].is_hearsay):
            return self.waiting.pop()
        return None

    def relaying_to(self, peer: KnownPeer) -> None:
        return None

    def turned_to(self, peer: KnownPeer) -> None:
        return None

    def our_handshake(self) -> Handshake:
        return Handshake(b"i" * 20, b"p" * 20)

    def dial_abandoned(self, peer: KnownPeer) -> None:
        self.told.append("abandoned")

    def dial_failed(self, peer: KnownPeer, failures: Sequence[Failure]) -> None:
        self.told.append("failed")

    def rung_failed(self, peer: KnownPeer, failure: Failure) -> None:
        self.told.append(failure.reason)

    async def run_connection(self, link: Link, theirs: Handshake, known: KnownPeer | None, seconds: float) -> None:
        raise AssertionError("nobody answers")


@pytest.mark.parametrize("seconds,told", [(5, ["abandoned"]), (15, ["timed-out", "failed"])])
async def test_an_attempt_that_is_broken_off_while_it_climbs_is_given_back(
    autojump_clock: MockClock, seconds: float, told: list[str]
) -> None:
    """Otherwise the peer counts as being dialled for ever, and a node whose bind comes back never dials it again."""
    torrent = OnePeer()
    encryption = Encryption("prefer", {}.get, random.Random(1), run_inline)
    dialer = Dialer(Unanswered(), Config(dial_timeout=10.0), lambda: [torrent], encryption)  # type: ignore[arg-type]
    with trio.move_on_after(seconds):
        await dialer.run(Means(None, {}), lambda: 1)
    assert torrent.told == told
    assert dialer.half_open == 0


class HangsUp:
    """A network on which whoever is dialled connects, and hangs up on us, after so many seconds each."""

    def __init__(self, seconds: float) -> None:
        self.dialled = 0
        self.remote = PEER
        self._seconds = seconds

    async def dial_tcp(self, remote: Endpoint, *, local: Endpoint | None = None) -> object:
        self.dialled += 1
        await trio.sleep(self._seconds)
        return self

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep(self._seconds)
        return b""

    def abort(self) -> None: ...


@pytest.mark.parametrize("seconds,dials", [(0.1, 2), (4.9, 2), (5.1, 1)])
async def test_only_who_hangs_up_soon_is_asked_in_the_other_way_at_once(
    autojump_clock: MockClock, seconds: float, dials: int
) -> None:
    torrent, network = OnePeer(), HangsUp(seconds)
    encryption = Encryption("prefer", {}.get, random.Random(1), run_inline)
    dialer = Dialer(network, Config(), lambda: [torrent], encryption)  # type: ignore[arg-type]
    with trio.move_on_after(60):
        await dialer.run(Means(None, {}), lambda: 1)
    assert torrent.told == ["handshake-closed"] * dials + ["failed"]
    assert network.dialled == dials


async def test_a_utp_port_that_strangers_have_filled_is_a_reason_and_no_crash() -> None:
    endpoint = UtpEndpoint(UtpConfig(max_connections=0), random.Random(1))
    port = UtpPort(UtpService(endpoint, lambda: None))
    with pytest.raises(RemoteError) as caught:
        await dial_utp(port, PEER)
    assert caught.value.reason == "too-many-connections"


class NeverMet:
    """What the dialer needs of a torrent's punching here; whoever is shot at does not answer."""

    def __init__(self) -> None:
        self.predict = None
        self.missed_by: list[str] = []

    def outcome(self, endpoint: Endpoint, role: PunchRole) -> Outcome:
        return Outcome(self, endpoint, role)  # type: ignore[arg-type]

    def missed(self, outcome: Outcome, reason: str) -> None:
        self.missed_by.append(reason)


class Told(NeverMet):
    def __init__(self) -> None:
        super().__init__()
        self.met_by: list[Link] = []

    def met(self, outcome: Outcome, link: Link) -> None:
        self.met_by.append(link)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("second", [0, 1])
async def test_a_punch_by_two_transports_counts_once(first: int, second: int, autojump_clock: MockClock) -> None:
    """Whether none, either or both of them get through."""
    punching, link = Told(), Link(object(), "tcp-punched")  # type: ignore[arg-type]
    outcome = punching.outcome(PEER, "initiator")

    async def attempt(seconds: float, gets_through: int) -> Link:
        await trio.sleep(seconds)
        if not gets_through:
            raise RemoteError("timed-out")
        return link

    async def climb(watched: Callable[[], Awaitable[Link]]) -> None:
        with contextlib.suppress(RemoteError):
            await watched()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(climb, outcome.watched(lambda: attempt(1, first)))
        nursery.start_soon(climb, outcome.watched(lambda: attempt(2, second)))
    assert len(punching.met_by) == min(1, first + second)
    assert len(punching.missed_by) == (not first and not second)


async def test_shots_that_come_to_nothing_are_few_and_leave_room_for_dials_of_our_own(
    autojump_clock: MockClock,
) -> None:
    """Introducers may name whom they like: of 70 liars it took all attempts of the node, 160 victims a minute."""
    torrent = OnePeer()
    torrent.waiting.clear()
    torrent.punching = NeverMet()  # type: ignore[assignment]
    encryption = Encryption("prefer", {}.get, random.Random(1), run_inline)
    dialer = Dialer(Unanswered(), Config(dial_timeout=1.0), lambda: [torrent], encryption)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dialer.run, Means(None, {}), lambda: 1)
        await trio.testing.wait_all_tasks_blocked()
        shots = 0
        for _ in range(600):  # a minute
            for liar in range(10):
                introducer = Endpoint(f"21.0.0.{liar}", 6881)
                shots += sum(dialer.shoot(torrent, KnownPeer(PEER, 0.0), PEER, introducer) for _shot in range(20))
            assert dialer.shots.under_way <= MAX_SHOTS and dialer.half_open == 0
            await trio.sleep(0.1)
        assert 50 <= shots <= SHOTS_BURST + 60 / SHOTS_SECONDS
        nursery.cancel_scope.cancel()
    assert dialer.shots.under_way == 0


async def test_attempts_for_a_torrent_that_has_gone_are_broken_off(autojump_clock: MockClock) -> None:
    gone, other = OnePeer(), OnePeer()
    encryption = Encryption("prefer", {}.get, random.Random(1), run_inline)
    dialer = Dialer(Unanswered(), Config(), lambda: [gone, other], encryption)  # type: ignore[arg-type]
    with trio.move_on_after(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dialer.run, Means(None, {}), lambda: 2)
            await trio.sleep(1)
            assert dialer.half_open == 2
            dialer.abandon(gone)
            await trio.testing.wait_all_tasks_blocked()
            assert dialer.half_open == 1
            assert (gone.told, other.told) == (["abandoned"], [])


async def test_strangers_inventions_do_not_take_all_attempts(autojump_clock: MockClock) -> None:
    """Eight liars that told of 1,200 silent peers kept one that a tracker named waiting for 267 s."""
    torrent = OnePeer()
    torrent.waiting = [KnownPeer(Endpoint(f"192.0.2.{number}", 1), 0.0, {"pex"}) for number in range(1, 100)]
    encryption = Encryption("prefer", {}.get, random.Random(1), run_inline)
    dialer = Dialer(Unanswered(), Config(), lambda: [torrent], encryption)  # type: ignore[arg-type]
    with trio.move_on_after(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dialer.run, Means(None, {}), lambda: 400)
            await trio.sleep(1)
            assert dialer.half_open == 30
            torrent.waiting += [KnownPeer(Endpoint(f"192.0.2.{number}", 2), 0.0, {"tracker"}) for number in range(1, 8)]
            dialer.wake()
            await trio.testing.wait_all_tasks_blocked()
            assert dialer.half_open == 37
