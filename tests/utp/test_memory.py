"""What a connection costs when nothing happens, and what is kept of those that ended."""

from __future__ import annotations

import tracemalloc

from tests.utp.pair import Pair
from utp.config import UtpConfig
from utp.memory import Memory
from utp.stream import UtpStream

IDLE_LIMIT = 30 << 10  # bytes for one end of one idle connection, its stream included


def test_an_idle_connection_is_small() -> None:
    pair = Pair(1)
    pair.open()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    connections = [pair.open() for _ in range(200)]
    streams = []
    for a, b in connections:
        pair.a.write(a, b"x" * 68)
        pair.b.write(b, b"y" * 68)
        streams += [UtpStream(a, pair.flush), UtpStream(b, pair.flush)]
    pair.run(30)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pair.a.endpoint.statistics().connections == 201
    print(f"{(after - before) / 400:.0f} bytes for one end of an idle connection")
    assert (after - before) / 400 < IDLE_LIMIT


def test_ended_connections_leave_nothing_behind_but_a_bounded_memory() -> None:
    pair = Pair(1, config=UtpConfig(memory_entries=10))
    for _ in range(50):
        a, b = pair.open()
        pair.a.write(a, b"bye", shutdown=True)
        pair.b.write(b, b"bye", shutdown=True)
        pair.run(0.2)
    assert pair.a.endpoint.statistics().connections == 0
    assert len(pair.a.endpoint._farewells) == 10
    pair.run(60)
    pair.a.endpoint.handle_deadline(pair.now)
    assert len(pair.a.endpoint._farewells) == 0
    assert len(pair.a.endpoint._deadlines) <= 64


def test_memory_forgets_the_oldest_and_what_is_over() -> None:
    memory: Memory[int, str] = Memory(2, 10.0)
    for key in (1, 2, 3):
        memory.remember(key, str(key), 0.0)
    assert [memory.recall(key, 5.0) for key in (1, 2, 3)] == [None, "2", "3"]
    assert memory.recall(2, 10.0) is None
    memory.expire(10.0)
    assert len(memory) == 0
