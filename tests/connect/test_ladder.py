"""The ladder: head starts, the first link wins, every failure keeps its reason."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from swarm.connect.dial import Link
from swarm.connect.ladder import Failure, Rung, UnreachableError, climb
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError

THERE = Endpoint("192.0.2.1", 6881)


class FakeStream:
    """Enough of a stream for the ladder: it only ever aborts one."""

    def __init__(self) -> None:
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


def link(path: str = "tcp") -> Link:
    return Link(FakeStream(), path)  # type: ignore[arg-type]


def rung(attempt: Callable[[], Awaitable[Link]], *, head_start: float = 1.0, limit: float = 10.0) -> Rung:
    return Rung("tcp", THERE, attempt, head_start, limit)


def succeeds_after(seconds: float, result: Link) -> Callable[[], Awaitable[Link]]:
    async def attempt() -> Link:
        await trio.sleep(seconds)
        return result

    return attempt


def fails_after(seconds: float, reason: str) -> Callable[[], Awaitable[Link]]:
    async def attempt() -> Link:
        await trio.sleep(seconds)
        raise RemoteError(reason)

    return attempt


async def test_the_next_rung_begins_at_once_when_the_last_failed(autojump_clock: trio.testing.MockClock) -> None:
    expected = link()
    won = await climb([rung(fails_after(0.1, "refused")), rung(succeeds_after(0.1, expected))], lambda _: None)
    assert won is expected
    assert trio.current_time() == pytest.approx(0.2)


async def test_the_next_rung_begins_when_the_head_start_is_over(autojump_clock: trio.testing.MockClock) -> None:
    expected = link()
    won = await climb(
        [rung(succeeds_after(9, link()), head_start=0.5), rung(succeeds_after(1, expected))], lambda _: None
    )
    assert won is expected
    assert trio.current_time() == pytest.approx(1.5)


async def test_the_losers_are_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    cancelled = trio.Event()

    async def waits() -> Link:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()
        raise AssertionError

    await climb([rung(waits, head_start=0), rung(succeeds_after(1, link()))], lambda _: None)
    assert cancelled.is_set()


async def test_a_second_link_that_cannot_be_stopped_any_more_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    def finishes_anyway(result: Link) -> Callable[[], Awaitable[Link]]:
        async def attempt() -> Link:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            return result

        return attempt

    links = [link(), link()]
    won = await climb([rung(finishes_anyway(each), head_start=0) for each in links], lambda _: None)
    loser = next(each for each in links if each is not won)
    assert loser.stream.aborted  # type: ignore[attr-defined]
    assert not won.stream.aborted  # type: ignore[attr-defined]


async def test_failures_are_told_as_they_happen_and_kept_in_order(autojump_clock: trio.testing.MockClock) -> None:
    told: list[Failure] = []
    with pytest.raises(UnreachableError) as caught:
        await climb([rung(fails_after(3, "refused"), head_start=1), rung(fails_after(1, "unreachable"))], told.append)
    assert [failure.reason for failure in told] == ["unreachable", "refused"]
    assert caught.value.failures == tuple(told)
    assert [failure.seconds for failure in told] == [pytest.approx(1), pytest.approx(3)]
    assert caught.value.reason == "refused"


async def test_a_rung_is_given_up_at_its_limit(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(UnreachableError, match="timed-out"):
        await climb([rung(succeeds_after(60, link()), limit=5)], lambda _: None)
    assert trio.current_time() == pytest.approx(5)


async def test_no_rung_at_all_is_no_path() -> None:
    with pytest.raises(UnreachableError, match="no-path"):
        await climb([], lambda _: None)
