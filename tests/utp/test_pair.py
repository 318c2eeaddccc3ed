"""Two endpoints over a bad network, in virtual time: every byte exactly once, whatever is lost, late or doubled."""

from __future__ import annotations

import random

import pytest

from tests.utp.pair import Link, Pair
from utp.config import UtpConfig
from utp.connection import State

# At 20 % loss each way a packet and its answer come through in two of three cases; ten are enough for every seed.
PATIENT = UtpConfig(syn_times=tuple(0.5 * count for count in range(10)), max_timeouts=10)


def exchange(seed: int, size: int = 256 << 10) -> Pair:
    """Both directions carry ``size`` bytes and a half-close over 20 % loss, reordering and duplicates."""
    rng = random.Random(seed)
    links = [Link(loss=0.2, jitter=0.02, duplicate=0.05) for _ in range(2)]
    pair = Pair(seed, there=links[0], back=links[1], config=PATIENT)
    there, back = rng.randbytes(size), rng.randbytes(size)
    a = pair.connect()
    pair.a.write(a, there, shutdown=True)
    pair.run_until(lambda: len(pair.b.accepted) > 0)
    (b,) = pair.b.accepted
    pair.b.write(b, back, shutdown=True)
    pair.run_until(lambda: a.state is State.CLOSED and b.state is State.CLOSED)
    assert (a.error, b.error) == (None, None), seed
    assert pair.a.received[a] == back, seed
    assert pair.b.received[b] == there, seed
    return pair


@pytest.mark.parametrize("seed", range(25))
def test_every_byte_arrives_once_through_loss_reordering_and_duplicates(seed: int) -> None:
    exchange(seed)


@pytest.mark.soak
def test_a_thousand_seeds_of_loss_reordering_and_duplicates() -> None:
    for seed in range(1000):
        exchange(1_000_000 + seed)


def test_the_same_seed_gives_the_same_packets() -> None:
    def trace() -> list[tuple[float, bytes]]:
        pair = Pair(7, record=True, there=Link(loss=0.1, jitter=0.01), back=Link(loss=0.1))
        a, _ = pair.open()
        pair.a.write(a, bytes(50_000), shutdown=True)
        pair.run(5)
        return pair.a.sent + pair.b.sent

    assert trace() == trace()


def test_eight_megabytes_at_five_percent_loss_take_seconds() -> None:
    pair = Pair(3, there=Link(delay=0.002, loss=0.05), back=Link(delay=0.002, loss=0.05))
    a, b = pair.open()
    start = pair.now
    pair.b.keeping = False
    pair.a.write(a, bytes(8 << 20))
    pair.run_until(lambda: b.statistics().bytes_in == 8 << 20)
    assert pair.now - start < 8


def test_deadlines_do_not_pile_up() -> None:
    pair = Pair(1)
    connections = [pair.open() for _ in range(20)]
    for _ in range(200):
        for a, b in connections:
            a.send(b"ping")
            b.send(b"pong")
        pair.run(0.05)
    assert len(pair.a.endpoint._deadlines) <= 2 * 20 + 64


def test_many_connections_share_one_endpoint() -> None:
    pair = Pair(5, there=Link(loss=0.02), back=Link(loss=0.02))
    rng = random.Random(5)
    data = [rng.randbytes(20_000) for _ in range(100)]
    connections = [pair.open() for _ in data]
    for (a, _), payload in zip(connections, data, strict=True):
        pair.a.write(a, payload, shutdown=True)
    pair.run_until(lambda: all(b.at_eof for _, b in connections))
    assert [bytes(pair.b.received[b]) for _, b in connections] == data
