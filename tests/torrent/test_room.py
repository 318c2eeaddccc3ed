"""Who gives way to whom when all places are taken."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

from swarm.endpoint import Endpoint
from swarm.peer import PeerConnection
from swarm.priority import peer_priority
from swarm.torrent.room import SHARE, TRIAL, of_no_use, who_makes_room

OURS = Endpoint("198.51.100.1", 6881)
MOST = 80


@dataclass(eq=False)
class Placed:
    """As much of a connection as matters here."""

    endpoint: Endpoint
    connected_at: float = 0.0
    rate_down: float = 0.0
    rate_up: float = 0.0
    bytes_down: int = 0
    bytes_up: int = 0
    closing: bool = False
    freight: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(circuits={}))
    identity: SimpleNamespace = field(init=False)

    def __post_init__(self) -> None:
        self.identity = SimpleNamespace(endpoint=self.endpoint)


def at(number: int, port: int = 6881) -> Endpoint:
    return Endpoint(f"203.0.{number // 250}.{number % 250 + 1}", port)


def chosen(peers: list[Placed], newcomer: Endpoint, now: float, *, ours: Endpoint | None = OURS) -> Placed | None:
    def priority(endpoint: Endpoint) -> int | None:
        return None if ours is None else peer_priority(ours, endpoint)

    connections = cast("list[PeerConnection]", peers)
    return cast("Placed | None", who_makes_room(connections, newcomer, now, most=MOST, priority=priority))


def test_an_address_that_holds_all_places_gives_one_of_no_use_to_another_address_at_once() -> None:
    peers = [Placed(at(0, port), rate_down=1000.0) for port in range(1, MOST)] + [Placed(at(0, MOST))]
    assert chosen(peers, at(1), 0.0) is peers[-1]
    assert chosen(peers, at(0, 5000), 0.0) is None


def test_a_share_of_the_places_is_safe_and_what_is_being_closed_does_not_count() -> None:
    share = [Placed(at(0, port)) for port in range(1, MOST // SHARE + 1)]
    others = [Placed(at(number)) for number in range(1, MOST - len(share) + 1)]
    assert chosen(share + others, at(200), TRIAL - 1) is None
    one_more = Placed(at(0, 9999))
    assert chosen([*share, one_more, *others], at(200), 0.0) in (*share, one_more)
    one_more.closing = True
    assert chosen([*share, one_more, *others], at(200), 0.0) is None


def test_an_ipv6_network_is_one_address_and_loopback_none() -> None:
    network = [Placed(Endpoint(f"2001:db8::{number:x}", 1)) for number in range(1, MOST + 1)]
    assert chosen(network, Endpoint("2001:db8:1::1", 1), 0.0, ours=None) in network
    assert chosen(network, Endpoint("2001:db8::ffff", 1), 0.0, ours=None) is None
    machine = [Placed(Endpoint("127.0.0.1", port)) for port in range(1, MOST + 1)]
    assert chosen(machine, at(1), 0.0) is None


def test_of_those_without_use_the_lowest_priority_gives_way_to_a_higher_one_only() -> None:
    peers = sorted((Placed(at(number)) for number in range(MOST)), key=lambda peer: peer_priority(OURS, peer.endpoint))
    lowest, highest = peers[0], peers[-1]
    assert chosen(peers[:-1], highest.endpoint, TRIAL) is lowest
    assert chosen(peers[1:], lowest.endpoint, TRIAL) is None
    assert chosen(peers[:-1], highest.endpoint, TRIAL - 1) is None, "they are on trial"
    assert chosen(peers[:-1], highest.endpoint, TRIAL, ours=None) is None, "nobody knows the order"


def test_who_moves_blocks_or_is_on_trial_is_of_use() -> None:
    idle, was_good = Placed(at(1)), Placed(at(2), bytes_down=1 << 20)
    peers = [was_good, Placed(at(3), rate_up=2.0), Placed(at(4), connected_at=1.0), Placed(at(5), closing=True), idle]
    assert of_no_use(cast("list[PeerConnection]", peers), TRIAL) == [idle, was_good]
