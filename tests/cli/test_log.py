"""What the daemon logs of events, and how much of them."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import trio
import trio.testing

from swarm.cli.log import DEBUG_LINES, DEBUG_SECONDS, Log
from swarm.endpoint import Endpoint
from swarm.events import Event, PeerDiscovered, PieceVerified, StorageFailed, TorrentCompleted, Warned

HASH = b"h" * 20
PEER = Endpoint("192.0.2.1", 6881)
FOUND = PeerDiscovered(HASH, PEER, "dht")


@dataclass
class Node:
    """Has had these events."""

    had: Sequence[tuple[float, Event]]
    torrents: Mapping[bytes, Any] = field(default_factory=lambda: {HASH: SimpleNamespace(name="sample")})

    @asynccontextmanager
    async def events(self, capacity: int) -> AsyncIterator[AsyncIterator[tuple[float, Event]]]:
        send, receive = trio.open_memory_channel[tuple[float, Event]](capacity)
        for each in self.had:
            send.send_nowait(each)
        yield receive


async def logged(*events: tuple[float, Event], verbose: bool = False, as_json: bool = False) -> list[str]:
    """The lines, without their times."""
    stream = io.StringIO()
    async with Log(stream, as_json=as_json, verbose=verbose).of(Node(events)):
        await trio.testing.wait_all_tasks_blocked()
    lines = stream.getvalue().splitlines()
    return lines if as_json else [line.partition(" ")[2] for line in lines]


async def test_rare_facts_have_a_sentence_and_the_others_are_for_the_verbose() -> None:
    events: list[tuple[float, Event]] = [
        (1.0, TorrentCompleted(HASH)),
        (2.0, FOUND),
        (3.0, PieceVerified(HASH, 5)),
        (4.0, StorageFailed(HASH, "the disk is full")),
        (5.0, Warned("no name\x1b[2J", None)),
    ]
    sentences = ["info: sample: complete", "error: sample: stopped: the disk is full"]
    told = await logged(*events)
    assert told[:2] == sentences
    assert told[2].startswith("warning: no name")
    assert "\x1b" not in told[2]
    verbose = await logged(*events, verbose=True)
    assert [line for line in verbose if line not in told] == [
        f"debug: PeerDiscovered info_hash={HASH.hex()}, endpoint=192.0.2.1:6881, source=dht"
    ], "pieces have no line"


async def test_every_line_of_json_has_the_fields_of_its_event() -> None:
    (line,) = await logged((1.0, TorrentCompleted(HASH)), as_json=True)
    document = json.loads(line)
    assert (document["level"], document["message"]) == ("info", "sample: complete")
    assert document["fields"] == {"event": "TorrentCompleted", "info_hash": HASH.hex()}


async def test_verbose_does_not_flood() -> None:
    crowd = [(number / 1000, FOUND) for number in range(1000)]
    later = [(DEBUG_SECONDS + 1, FOUND), (DEBUG_SECONDS + 1, TorrentCompleted(HASH))]
    lines = await logged(*crowd, *later, verbose=True)
    assert sum(line.startswith("debug: PeerDiscovered") for line in lines) == DEBUG_LINES + 1
    assert lines[DEBUG_LINES:-2] == [f"debug: {1000 - DEBUG_LINES} more events are left out here"]
    assert lines[-1] == "info: sample: complete"


async def test_what_is_rare_is_told_in_the_thick_of_it() -> None:
    crowd = [(number / 1000, FOUND) for number in range(1000)]
    lines = await logged(*crowd, (1.0, TorrentCompleted(HASH)), verbose=True)
    assert lines[-1] == "info: sample: complete"
