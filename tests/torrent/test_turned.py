"""What a torrent asks of its TURN servers in the moment in which the node goes offline."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from trio.testing import MockClock

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.torrent.turned import Turned

RELAYED, OWNER = Endpoint("20.5.0.1", 50000), Endpoint("20.6.0.1", 6881)


class Ending:
    """A `Turning` that has stopped; its allocations are still there, since their tasks have not had their turn."""

    running = False
    configured = True

    def __init__(self, port: Any) -> None:
        self.ports = [port]

    async def port(self, *, ipv6: bool) -> Any:
        return self.ports[0]

    def relayed_for(self, relayed: Endpoint) -> Endpoint:
        return OWNER

    def permit(self, hosts: list[str]) -> None: ...

    def start_soon(self, *task: object) -> None:
        raise AssertionError("not running")


def turned_of(turning: Any) -> Turned:
    standing = SimpleNamespace(is_hidden=lambda: True)
    lent: Any = SimpleNamespace(turning=turning, standing=standing, relay=None)
    admission: Any = SimpleNamespace(public=True, peers=SimpleNamespace(most_useful=lambda count: []))
    meetings: Any = SimpleNamespace(tell_relayed=None)
    turned = Turned(b"i" * 20, lent, [], admission, meetings)  # type: ignore[arg-type]
    turned._introducers = lambda relayed: [OWNER]  # type: ignore[method-assign]
    return turned


async def test_a_torrent_that_looks_once_more_starts_nothing(autojump_clock: MockClock) -> None:
    """It took the node down where the network was lost in the very moment of the look."""
    turned = turned_of(Ending(SimpleNamespace(relayed=RELAYED)))
    turned._wanted_until = 1e9
    turned.tick(1.0)


async def test_a_dial_under_way_tells_nobody_any_more(autojump_clock: MockClock) -> None:
    async def dial(remote: Endpoint, **options: object) -> None:
        raise RemoteError("turn-lost")

    port = SimpleNamespace(relayed=RELAYED, hold=nullcontext, permit=lambda hosts: None, dial=dial)
    with pytest.raises(RemoteError, match="turn-lost"):
        await turned_of(Ending(port)).dial(RELAYED)
