"""The ordered ways to reach a peer, in one place.

A *rung* is one way.  `climb` starts them in order with head starts (happy eyeballs, RFC 8305 §5): the next begins when
the last failed *or* its head start is over; the first direct stream wins and the rest are cancelled and closed.  One
through a relay wins nothing: it is handed over, and the others go on.  Every failure is kept with its reason, so that
"why are we not connected to X?" always has an answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from swarm.connect.dial import Link
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.events import INDIRECT_PATHS, PathName


@dataclass(frozen=True, slots=True)
class Rung:
    """One way to reach one endpoint.

    ``attempt`` returns a link or raises RemoteError; cancelling it closes whatever it opened.  ``head_start`` is how
    many seconds it runs before the next rung begins beside it; ``limit`` is when it is given up.
    """

    path: PathName
    endpoint: Endpoint
    attempt: Callable[[], Awaitable[Link]]
    head_start: float
    limit: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a rung did not reach the peer, and how long it tried."""

    path: PathName
    endpoint: Endpoint
    reason: str
    seconds: float


class UnreachableError(RemoteError):
    """Every rung failed; ``failures`` are in the order in which they did."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__(failures[-1].reason if failures else "no-path")
        self.failures = tuple(failures)


def abandon(link: Link) -> None:
    """What becomes of a link that nobody wants."""
    link.stream.abort()


async def climb(
    rungs: Sequence[Rung], failed: Callable[[Failure], None], aside: Callable[[Link], None] = abandon
) -> Link:
    """The first direct link that any rung makes.

    ``failed`` is told of each failure when it happens, also those before a success; ``aside`` is given the links that
    lead through a relay, at once; where no rung is direct the first of these is returned.  Raises UnreachableError when
    nothing is left.  Cancellation closes every attempt under way.
    """
    direct = any(rung.path not in INDIRECT_PATHS for rung in rungs)
    ascent = _Ascent(failed, aside if direct else None)
    try:
        async with trio.open_nursery() as nursery:
            ascent.cancel = nursery.cancel_scope.cancel
            for rung in rungs:
                over = trio.Event()
                nursery.start_soon(ascent.attempt, rung, over)
                with trio.move_on_after(rung.head_start):
                    await over.wait()
    except BaseException:  # cancelled from outside in the very moment in which a rung won
        if ascent.link is not None:
            ascent.link.stream.abort()
        raise
    if ascent.link is None:
        raise UnreachableError(ascent.failures)
    return ascent.link


class _Ascent:
    """One climb under way."""

    def __init__(self, failed: Callable[[Failure], None], aside: Callable[[Link], None] | None) -> None:
        self.failures: list[Failure] = []
        self.link: Link | None = None
        self.cancel: Callable[[], None] = lambda: None
        self._failed = failed
        self._aside = aside

    async def attempt(self, rung: Rung, over: trio.Event) -> None:
        started = trio.current_time()
        try:
            with trio.fail_after(rung.limit):
                link = await rung.attempt()
        except (RemoteError, trio.TooSlowError) as error:
            reason = error.reason if isinstance(error, RemoteError) else "timed-out"
            failure = Failure(rung.path, rung.endpoint, reason, trio.current_time() - started)
            self.failures.append(failure)
            self._failed(failure)
        else:
            self._arrived(link)
        finally:
            over.set()

    def _arrived(self, link: Link) -> None:
        if link.path in INDIRECT_PATHS and self._aside is not None:
            self._aside(link)
            return
        if self.link is not None:
            link.stream.abort()
            return
        self.link = link
        self.cancel()
