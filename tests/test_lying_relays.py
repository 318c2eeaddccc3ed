"""Relays that spoil or hold back what they carry, beside an honest one; strangers that lie about TURN servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from swarm.connect.relay_trust import FORGIVEN_AFTER, MAX_REMEMBERED, RelayTrust
from swarm.endpoint import Endpoint
from swarm.events import ConnectionClosed, PathName, PieceFailed
from swarm.ext import relay_circuit
from swarm.ext.relay_desk import RelayDesk
from swarm.ext.relay_message import DATA, HEADER
from swarm.identity import Culprit, Identity
from swarm.simnet.internet import open_internet
from swarm.wire.handshake import Handshake
from tests.nodes import PORT, make_sample, node_on, seeding
from tests.test_relaying import swarm_of

AFTER = 300_000
"""Bytes that a circuit carries honestly."""

Dishonest = Callable[[bytes], bytes | None]


def one_lies(monkeypatch: pytest.MonkeyPatch, does: Dishonest) -> list[RelayDesk]:
    """The relay whose circuit is the first to have carried so much ``does`` to each further frame of data; None: it
    swallows it, without a word.  The list is to hold it."""
    monkeypatch.setattr("tests.test_relaying.SIZE", 1 << 20)
    liars: list[RelayDesk] = []
    honest = relay_circuit.Half.frame_arrived

    def frame_arrived(half: relay_circuit.Half, frame: bytes, now: float) -> bool:
        circuit = half.circuit
        if frame[0] == DATA and circuit.bytes > AFTER:
            if not liars:
                liars.append(circuit.desk)
            if circuit.desk is liars[0]:
                changed = does(frame)
                if changed is None:
                    circuit.moved_at = now
                    return True
                frame = changed
        return honest(half, frame, now)

    monkeypatch.setattr(relay_circuit.Half, "frame_arrived", frame_arrived)
    return liars


def spoil(frame: bytes) -> bytes:
    """One bit of what is long enough to be data of a block."""
    if len(frame) < HEADER + 5000:
        return frame
    middle = len(frame) // 2
    return frame[:middle] + bytes([frame[middle] ^ 1]) + frame[middle + 1 :]


async def test_a_relay_that_spoils_a_block_does_not_get_the_honest_seed_banned(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was condemned by its peer id, over whichever relay it came: the download ended for good."""
    liars = one_lies(monkeypatch, spoil)
    async with swarm_of(tmp_path, "symrand", relays=2) as swarm, swarm.leech("symrand") as (node, torrent):
        with trio.fail_after(60):
            await torrent.wait_complete()
        assert node.of(PieceFailed) and node.of(ConnectionClosed, path="relayed", reason="bad-data")
        assert swarm.sample.is_whole_in(tmp_path / "leech")
    assert len(liars) == 1


async def test_a_relay_that_passes_nothing_on_is_left_for_another_one(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was kept for 150 s and chosen again then, without an end."""
    liars = one_lies(monkeypatch, lambda frame: None)
    async with swarm_of(tmp_path, "symrand", relays=2) as swarm, swarm.leech("symrand") as (node, torrent):
        with trio.fail_after(90):
            await torrent.wait_complete()
        assert node.of(ConnectionClosed, path="relayed", reason="stalled")
        (honest,) = [each for each in swarm.relays if each.node.relay.desk is not liars[0]]
        assert honest.node.relay.desk.statistics().opened >= 1


async def test_the_only_relay_is_waited_for(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is slow may be the peer: blocks that are on their way are not thrown away for nothing."""
    one_lies(monkeypatch, lambda frame: None)
    async with swarm_of(tmp_path, "symrand") as swarm, swarm.leech("symrand") as (node, _):
        await trio.sleep(45)
        assert swarm.relays[0].node.relay.desk.statistics().circuits == 1
        assert not node.of(ConnectionClosed, path="relayed", reason="stalled")


async def test_who_says_that_a_turn_server_receives_at_another_ones_address_does_not_hide_him(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """One message of a stranger, and of the ways to the seed only µTP was left, which this one does not speak."""
    sample = make_sample(tmp_path / "seed", 1 << 16)
    async with open_internet() as internet:
        host = internet.host("seed")
        seed = Endpoint(host.ipv4, PORT)
        async with node_on(host, 1, utp=False) as sharing, node_on(internet.host("leech"), 2) as node:
            await seeding(sharing, sample)
            node.node.turning.learnt(seed, Endpoint("20.9.9.9", 1))
            torrent = node.node.add(sample.metainfo, tmp_path / "leech", peers=[seed])
            with trio.fail_after(40):
                await torrent.wait_complete()


@pytest.mark.parametrize(
    ("path", "relay", "culprit"),
    [
        ("tcp", None, Culprit("20.2.0.7", None)),
        ("turn", None, Culprit("20.2.0.7", None)),
        ("relayed", Endpoint("20.3.0.7", 1), Culprit("20.2.0.7", b"p" * 20, "20.3.0.7")),
    ],
)
def test_who_is_to_blame(path: PathName, relay: Endpoint | None, culprit: Culprit) -> None:
    """Who says of himself that he comes through a TURN server, which nobody checks, is at that address all the same; he
    got away with bad data by taking another peer id."""
    identity = Identity(Endpoint("20.2.0.7", 6881), path, "in", Handshake(bytes(20), b"p" * 20, 0), relay=relay)
    assert identity.culprit == culprit


def test_relays_that_failed_are_remembered_for_ten_minutes_whatever_port_they_come_by() -> None:
    trust = RelayTrust()
    trust.failed(Endpoint("198.51.100.1", 1), 100.0)
    assert trust.has_failed(Endpoint("198.51.100.1", 2), 101.0)
    assert trust.failed_at(Endpoint("198.51.100.1", 2), 101.0) == 100.0
    assert not trust.has_failed(Endpoint("198.51.100.2", 1), 101.0)
    assert not trust.has_failed(Endpoint("198.51.100.1", 1), 100.0 + FORGIVEN_AFTER)
    for number in range(MAX_REMEMBERED):
        trust.failed(Endpoint(f"203.0.113.{number}", 1), 102.0)
    assert not trust.has_failed(Endpoint("198.51.100.1", 1), 103.0)
