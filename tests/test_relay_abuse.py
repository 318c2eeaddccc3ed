"""What a relay is not: an eavesdropper, a node that nobody reaches, one whose own limits slow down what it carries."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from swarm.config import Config
from swarm.connect.acceptor import Acceptor
from swarm.connect.dial import Link
from swarm.connect.encrypted import Encryption
from swarm.endpoint import Endpoint
from swarm.events import ConnectionRefused, Event, PathName, PeerConnected
from swarm.net.network import Stream
from swarm.simnet.internet import open_internet
from swarm.torrent.disk import run_inline
from swarm.wire.handshake import Handshake
from tests.nodes import make_sample, node_on
from tests.simnet.grid import known_reachable
from tests.test_relaying import swarm_of

INFO_HASH = b"i" * 20


class PlainStream:
    """Somebody who shakes hands in plaintext."""

    def __init__(self) -> None:
        self.remote = Endpoint("198.51.100.7", 6881)
        self._unread = Handshake(INFO_HASH, b"-XX0000-plain-speech", 0).encode()

    async def receive_some(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._unread:
            await trio.sleep_forever()
        taken, self._unread = self._unread[:max_bytes], self._unread[max_bytes:]
        return taken

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()

    def abort(self) -> None: ...


class Taker:
    """A torrent that lets everybody in."""

    def __init__(self) -> None:
        self.took: list[PathName] = []

    def our_handshake(self) -> Handshake:
        return Handshake(INFO_HASH, b"-SW0000-plain-speech", 0)

    async def run_connection(self, link: Link, theirs: Handshake, known: None, seconds: float) -> None:
        await trio.lowlevel.checkpoint()
        self.took.append(link.path)


@pytest.mark.parametrize(("path", "taken"), [("utp", True), ("relayed", False)])
async def test_who_comes_through_a_relay_in_plaintext_is_refused(
    autojump_clock: MockClock, path: PathName, taken: bool
) -> None:
    """The relay would read along; over other paths our policy allows it."""
    taker, events = Taker(), list[Event]()
    encryption = Encryption("prefer", {}.get, random.Random(1), run_inline)
    acceptor = Acceptor(Config(), lambda info_hash: taker, encryption, events.append, lambda: 1)

    async def nobody() -> Stream:
        await trio.sleep_forever()
        raise AssertionError

    async with trio.open_nursery() as nursery:
        nursery.start_soon(acceptor.serve, nobody, "utp")
        await trio.testing.wait_all_tasks_blocked()
        acceptor.take(Link(PlainStream(), path))  # type: ignore[arg-type]
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    refusals: Sequence[str] = [event.reason for event in events if isinstance(event, ConnectionRefused)]
    assert (taker.took, refusals) == (([path], []) if taken else ([], ["encryption-required"]))


@pytest.mark.parametrize("asked", [True, False])
async def test_a_node_relays_only_if_it_is_asked_to_and_known_to_be_reachable(
    autojump_clock: MockClock, tmp_path: Path, asked: bool
) -> None:
    sample = make_sample(tmp_path, 1 << 16)
    async with open_internet() as internet, node_on(internet.host("h"), 1, relay_serve=asked) as node:
        node.node.add(sample.metainfo, sample.directory)
        await trio.sleep(5)
        assert not node.node.relay.serves()
        relay = node.node.document()["relay"]
        assert relay is None or (asked and relay["serving"] is False)
        known_reachable(node)
        assert node.node.relay.serves() is asked


async def test_what_a_relay_carries_is_not_held_to_the_limits_of_its_own_transfers(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 MiB at 20 kB/s would take 52 s."""
    monkeypatch.setattr("tests.test_relaying.SLOW", 20_000)
    monkeypatch.setattr("tests.test_relaying.SIZE", 1 << 20)
    async with swarm_of(tmp_path, "symrand") as swarm, swarm.leech("symrand") as (node, torrent):
        swarm.relays[0].node.set_rates(20_000, 20_000)
        await node.wait_for(PeerConnected, path="relayed")
        with trio.fail_after(20):
            await torrent.wait_complete()


@pytest.mark.parametrize(("seed", "leech"), [("cone", "symseq"), ("symrand", "cone")])
async def test_a_relay_carries_nothing_between_two_that_can_meet(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: str, leech: str
) -> None:
    """It says no where the NATs of the two are such that they will; they ask again only after seconds in vain."""
    monkeypatch.setattr("tests.test_relaying.SIZE", 1 << 20)
    async with swarm_of(tmp_path, seed) as swarm, swarm.leech(leech) as (_, torrent):
        with trio.fail_after(30):
            await torrent.wait_complete()
        statistics = swarm.relays[0].node.relay.desk.statistics()
        assert not statistics.opened
        assert set(statistics.refused) <= {"not-hopeless", "not-reserved"}
