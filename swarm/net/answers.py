"""Awaiting what a request/response core on the mux answers: the part that all their async faces share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, Protocol, TypeVar

import trio

HandleT = TypeVar("HandleT", bound=Hashable)
OutcomeT = TypeVar("OutcomeT")
HandleT_co = TypeVar("HandleT_co", bound=Hashable, covariant=True)
OutcomeT_co = TypeVar("OutcomeT_co", covariant=True)


class Result(Protocol[HandleT_co, OutcomeT_co]):
    """What a core hands back: which request, and what came of it; an exception is raised to whoever waits."""

    @property
    def handle(self) -> HandleT_co: ...

    @property
    def outcome(self) -> OutcomeT_co: ...


class Answers(Generic[HandleT, OutcomeT]):
    """``kick`` tells the owner of the socket that the core has something to send, ``cancel`` the core that nobody
    waits for a request any more.  Nothing is queued: a result that nobody waits for is dropped."""

    def __init__(self, kick: Callable[[], None], cancel: Callable[[HandleT], None]) -> None:
        self._kick = kick
        self._cancel = cancel
        self._waiting: dict[HandleT, _Wait[OutcomeT]] = {}

    async def wait(self, handle: HandleT) -> OutcomeT:
        """What comes of a request that the core has just been given.  Cancellation, too, cancels the request."""
        wait = self._waiting[handle] = _Wait()
        try:
            self._kick()
            await wait.done.wait()
        finally:
            del self._waiting[handle]
            self._cancel(handle)
        (outcome,) = wait.outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def deliver(self, results: Iterable[Result[HandleT, OutcomeT]]) -> None:
        """Wake those who wait for ``results``."""
        for result in results:
            wait = self._waiting.get(result.handle)
            if wait is not None:
                wait.outcome = [result.outcome]
                wait.done.set()


class _Wait(Generic[OutcomeT]):
    def __init__(self) -> None:
        self.done = trio.Event()
        self.outcome: list[OutcomeT] = []  # one, once done
