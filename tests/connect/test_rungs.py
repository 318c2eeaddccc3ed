"""In which order a peer is tried, and what a punch sends when."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import pytest
from trio.testing import MockClock

from swarm.config import Config
from swarm.connect.dial import Link
from swarm.connect.rungs import Means, Rungs
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.events import PathName
from swarm.knownpeer import KnownPeer
from utp.errors import ConnectionLost

PEER = Endpoint("198.51.100.7", 6881)


class SilentPort:
    """A `UtpPort` at the other end of which nobody is."""

    def __init__(self) -> None:
        self.dialled: list[tuple[Endpoint, Sequence[float]]] = []

    async def dial(self, remote: Endpoint, *, syn_times: Sequence[float], patience: float) -> None:
        self.dialled.append((remote, syn_times))
        raise ConnectionLost("timed-out")


class Watched:
    """A `Punching`, as far as the rungs of a target ask it."""

    def outcome(self, endpoint: Endpoint, role: str) -> Watched:
        return self

    def watched(self, attempt: Callable[[], Awaitable[Link]]) -> Callable[[], Awaitable[Link]]:
        return attempt


async def test_a_punch_sends_five_syns_around_the_moment_when_the_other_end_does(autojump_clock: MockClock) -> None:
    """One may be lost, or come before the other end has opened its NAT."""
    port: Any = SilentPort()
    punching: Any = Watched()
    nowhere: Any = None
    utp, tcp = Rungs(nowhere, Config()).shots_at(PEER, Means(None, {4: port}), punching)
    assert (utp.path, tcp.path, utp.head_start) == ("utp-punched", "tcp-punched", 0.0)
    with pytest.raises(RemoteError, match="timed-out"):
        await utp.attempt()
    assert port.dialled == [(PEER, (0.0, 0.2, 0.5, 1.0, 2.0))]


@pytest.mark.parametrize(
    ("host", "good_path", "order"),
    [
        ("20.2.0.7", None, ["utp", "tcp"]),
        ("20.2.0.7", "tcp", ["tcp", "utp"]),
        ("10.0.0.7", None, ["tcp", "utp"]),
        ("10.0.0.7", "utp", ["utp", "tcp"]),
    ],
)
def test_what_worked_last_time_goes_first(host: str, good_path: PathName | None, order: list[PathName]) -> None:
    nowhere: Any = None
    peer = KnownPeer(Endpoint(host, 6881), 0.0, good_path=good_path)
    rungs = Rungs(nowhere, Config()).to(peer, Means(None, {4: cast("Any", SilentPort())}), None)
    assert [rung.path for rung in rungs] == order


class Believing:
    """A `Turns` that was told that a server receives everywhere."""

    is_of_use = False

    def is_relayed(self, endpoint: Endpoint) -> bool:
        return True


@pytest.mark.parametrize(
    ("good_path", "failures", "order"),
    [
        (None, 0, ["turn"]),
        (None, 1, ["utp", "tcp"]),
        (None, 2, ["turn"]),
        ("turn", 0, ["turn"]),
        ("tcp", 0, ["tcp", "utp"]),
        ("utp-punched", 0, ["utp", "tcp"]),
    ],
)
def test_that_a_server_receives_for_a_peer_is_believed_every_other_time(
    good_path: PathName | None, failures: int, order: list[PathName]
) -> None:
    """Any stranger can say so of anybody: then there was but one way left to him, for good."""
    nowhere, turns = cast("Any", None), cast("Any", Believing())
    peer = KnownPeer(Endpoint("20.2.0.7", 6881), 0.0, good_path=good_path, failures=failures)
    rungs = Rungs(nowhere, Config()).to(peer, Means(None, {4: cast("Any", SilentPort())}), None, None, turns)
    assert [rung.path for rung in rungs] == order
