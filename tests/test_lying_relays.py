"""Relays that spoil or hold back what they carry, beside an honest one: whole nodes in the simulated internet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from swarm.connect.relay_trust import FORGIVEN_AFTER, MAX_REMEMBERED, RelayTrust
from swarm.endpoint import Endpoint
from swarm.events import ConnectionClosed, PieceFailed
from swarm.ext import relay_desk
from swarm.ext.relay_desk import RelayDesk
from swarm.ext.relay_message import DATA, HEADER
from tests.test_relaying import swarm_of

AFTER = 600_000
"""Bytes that a circuit carries honestly."""

Dishonest = Callable[[bytes], bytes | None]


def one_lies(monkeypatch: pytest.MonkeyPatch, does: Dishonest) -> list[RelayDesk]:
    """The relay whose circuit is the first to have carried so much ``does`` to each further frame of data; None: it
    swallows it, without a word.  The list is to hold it."""
    liars: list[RelayDesk] = []
    honest = relay_desk._Half.frame_arrived

    def frame_arrived(half: relay_desk._Half, frame: bytes, now: float) -> bool:
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

    monkeypatch.setattr(relay_desk._Half, "frame_arrived", frame_arrived)
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
        await trio.sleep(60)
        assert swarm.relays[0].node.relay.desk.statistics().circuits == 1
        assert not node.of(ConnectionClosed, path="relayed", reason="stalled")


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
