"""The page's feed in virtual time: at most a look a second, only while watched, and slow readers skip what is old."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

from swarm.daemon import changes
from swarm.daemon.changes import Changes
from swarm.daemon.feed import INTERVAL, MAX_SHARE, MAX_WATCHERS, SIGN_OF_LIFE, Feed
from swarm.daemon.http import Request
from swarm.daemon.view import View
from tests.daemon.busy import BusySession

GET = Request("GET", "/events", "/events")


class Counting:
    """A state whose one row says how often it was looked at."""

    def __init__(self, cost: float = 0.0) -> None:
        self.looks: list[float] = []
        self.still = False
        self.spent = 0.0
        self.cost = cost

    def look(self) -> dict[str, dict[str, Any]]:
        self.looks.append(trio.current_time())
        self.spent += self.cost
        return {"now": {"looks": 0 if self.still else len(self.looks)}}

    def feed(self) -> Feed:
        return Feed(self.look, lambda: self.spent)


OPENED: list[AsyncGenerator[bytes, None]] = []


@pytest.fixture(autouse=True)
async def all_watchers_leave() -> AsyncIterator[None]:
    """As the server sees to it."""
    yield
    while OPENED:
        await OPENED.pop().aclose()


async def watch(feed: Feed) -> AsyncGenerator[bytes, None]:
    response = await feed.answer(GET)
    assert response.status == 200
    assert dict(response.headers)["Content-Type"] == "text/event-stream"
    assert isinstance(response.body, AsyncGenerator)
    OPENED.append(response.body)
    assert (await anext(response.body)).startswith(b"retry: ")
    return response.body


def told(event: bytes) -> Any:
    assert event.startswith(b"data: ") and event.endswith(b"\n\n") and event.count(b"\n") == 2
    return json.loads(event[6:])


async def test_nobody_looks_while_nobody_watches(autojump_clock: trio.testing.MockClock) -> None:
    counting = Counting()
    feed = counting.feed()
    watcher = await watch(feed)
    for _ in range(3):
        await anext(watcher)
    assert feed.watchers == 1
    await watcher.aclose()
    assert feed.watchers == 0
    await trio.sleep(100)
    assert len(counting.looks) == 3


async def test_all_watchers_share_a_look_a_second(autojump_clock: trio.testing.MockClock) -> None:
    counting = Counting()
    feed = counting.feed()
    watchers = [await watch(feed) for _ in range(5)]
    for _ in range(4):
        events = {await anext(watcher) for watcher in watchers}
        assert len(events) == 1
    assert [later - before for before, later in zip(counting.looks, counting.looks[1:], strict=False)] == [INTERVAL] * 3


async def test_a_slow_reader_skips_to_what_is_new(autojump_clock: trio.testing.MockClock) -> None:
    counting = Counting()
    feed = counting.feed()
    slow, quick = await watch(feed), await watch(feed)
    assert told(await anext(slow)) == {"full": True, "tables": {"now": {"looks": 1}}}
    for _ in range(60):
        await anext(quick)
    assert told(await anext(slow)) == {"full": False, "tables": {"now": {"looks": len(counting.looks)}}}


async def test_dear_looks_are_rarer(autojump_clock: trio.testing.MockClock) -> None:
    counting = Counting(cost=0.2)
    watcher = await watch(counting.feed())
    for _ in range(3):
        await anext(watcher)
    assert counting.looks[2] - counting.looks[1] == pytest.approx(0.2 / MAX_SHARE)


async def test_without_news_there_is_a_sign_of_life(autojump_clock: trio.testing.MockClock) -> None:
    counting = Counting()
    counting.still = True
    watcher = await watch(counting.feed())
    await anext(watcher)
    started = trio.current_time()
    assert await anext(watcher) == b":\n\n"
    assert trio.current_time() - started == pytest.approx(SIGN_OF_LIFE, abs=INTERVAL)


async def test_there_is_room_for_so_many_watchers_and_again_when_one_leaves(
    autojump_clock: trio.testing.MockClock,
) -> None:
    feed = Counting().feed()
    watchers = [await watch(feed) for _ in range(MAX_WATCHERS)]
    assert (await feed.answer(GET)).status == 503
    await watchers[0].aclose()
    await watch(feed)


async def test_an_idle_session_has_nothing_new_to_tell(autojump_clock: trio.testing.MockClock) -> None:
    session = BusySession()
    view = View(lambda: session.entries, session.node.document, session.node.advice, lambda: trio.current_time() + 1e9)
    feed = Feed(view.look, lambda: 0.0)
    watcher = await watch(feed)
    first = told(await anext(watcher))
    assert first["full"] and len(first["tables"]["torrents"]) == 10
    await trio.sleep(0.5)
    seen = [await anext(watcher) for _ in range(2)]
    assert all(event == b":\n\n" or set(told(event)["tables"]) <= {"now"} for event in seen)


async def test_patches_lead_every_reader_to_the_same_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "MAX_GONE", 5)
    rng, kept = random.Random(3), Changes()
    readers: list[tuple[int, dict[str, dict[str, Any]]]] = [(0, {}) for _ in range(5)]
    state: dict[str, dict[str, Any]] = {"a": {}, "b": {}}
    for _ in range(2000):
        state = {table: dict(rows) for table, rows in state.items()}
        for _ in range(rng.randrange(3)):
            rows, row = state[rng.choice("ab")], str(rng.randrange(30))
            if rng.random() < 0.5:
                rows[row] = rng.randrange(5)
            else:
                rows.pop(row, None)
        kept.update(state)
        who = rng.choice([0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4])
        patch = kept.since(readers[who][0])
        theirs: dict[str, dict[str, Any]] = {} if patch.full else readers[who][1]
        for table, changed in patch.tables.items():
            for row, value in changed.items():
                if value is None:
                    theirs.get(table, {}).pop(row, None)  # it may have come and gone unseen
                else:
                    theirs.setdefault(table, {})[row] = value
        readers[who] = (patch.version, theirs)
        assert {table: rows for table, rows in theirs.items() if rows} == {t: rows for t, rows in state.items() if rows}
    assert len(kept._changed) <= sum(map(len, state.values())) + 2 * changes.MAX_GONE + 2
