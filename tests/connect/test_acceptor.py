"""The acceptor's bound on strangers: who makes room when there are too many."""

from __future__ import annotations

import random

import trio
from trio.testing import MockClock

from swarm.config import Config
from swarm.connect.acceptor import MAX_STRANGERS, Acceptor
from swarm.connect.encrypted import Encryption
from swarm.endpoint import Endpoint
from swarm.events import ConnectionRefused, Event
from swarm.net.network import Stream
from swarm.torrent.disk import run_inline


class SilentStream:
    """A stranger that says nothing."""

    def __init__(self, host: str) -> None:
        self.remote = Endpoint(host, 6881)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    def abort(self) -> None: ...


async def refused_of(hosts: list[str]) -> list[str]:
    """Who is refused when silent strangers connect from these addresses, in this order and at once."""
    events: list[Event] = []
    waiting = [SilentStream(host) for host in reversed(hosts)]

    async def accept() -> Stream:
        await trio.lowlevel.checkpoint()
        if not waiting:
            await trio.sleep_forever()
        return waiting.pop()  # type: ignore[return-value]

    encryption = Encryption("prefer", {}.get, random.Random(1), run_inline)
    acceptor = Acceptor(Config(), lambda _: None, encryption, events.append, lambda: 1)
    with trio.move_on_after(1):
        await acceptor.serve(accept, "tcp")
    assert {event.reason for event in events if isinstance(event, ConnectionRefused)} <= {"too-many-strangers"}
    return [event.endpoint.host for event in events if isinstance(event, ConnectionRefused)]


async def test_a_flood_from_one_ipv4_address_makes_room_itself(autojump_clock: MockClock) -> None:
    honest = [f"192.0.2.{number}" for number in range(10)]
    refused = await refused_of([*honest, *["198.51.100.1"] * 300])
    assert set(refused) == {"198.51.100.1"}
    assert len(refused) == len(honest) + 300 - MAX_STRANGERS


async def test_a_flood_from_all_over_one_ipv6_network_makes_room_itself(autojump_clock: MockClock) -> None:
    honest = [f"2001:db8:0:{number:x}::1" for number in range(10)]
    flood = [f"2001:db8:bad:bad::{number:x}" for number in range(300)]
    assert await refused_of([*honest, *flood]) == flood[: len(honest) + 300 - MAX_STRANGERS]


async def test_a_flood_from_everywhere_puts_the_oldest_out(autojump_clock: MockClock) -> None:
    hosts = [f"10.0.{number >> 8}.{number & 255}" for number in range(300)]
    assert await refused_of(hosts) == hosts[: 300 - MAX_STRANGERS]
