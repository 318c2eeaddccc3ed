"""Hands events to whoever listens.  A listener that does not keep up loses the newest and is told how many.

What happens before anybody can listen, while the node opens, is kept for the first who does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from swarm.events import Event, Warned

MAX_UNHEARD = 100
"""Events kept for the first listener; what comes beyond is lost if nobody listens."""


class EventBus:
    """``clock`` stamps each event with the time at which it was emitted."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._listeners: dict[trio.MemorySendChannel[tuple[float, Event]], int] = {}  # and what each has missed
        self._unheard: list[tuple[float, Event]] | None = []  # None once somebody has listened

    def emit(self, event: Event) -> None:
        """State a fact; never blocks."""
        stamped = (self._clock(), event)
        if self._unheard is not None and len(self._unheard) < MAX_UNHEARD:
            self._unheard.append(stamped)
        for channel, missed in self._listeners.items():
            try:
                if missed:
                    channel.send_nowait((stamped[0], Warned(f"{missed} events were not shown: too many at once")))
                    self._listeners[channel] = 0
                channel.send_nowait(stamped)
            except trio.WouldBlock:
                self._listeners[channel] += 1
            except trio.BrokenResourceError:
                continue  # the listener closed its end early

    @asynccontextmanager
    async def subscribe(self, capacity: int) -> AsyncIterator[AsyncIterator[tuple[float, Event]]]:
        """Events from now on, in order, and for the first listener those before.

        At most ``capacity`` wait unread, what comes beyond is dropped and counted.
        """
        send, receive = trio.open_memory_channel[tuple[float, Event]](capacity)
        unheard, self._unheard = self._unheard, None
        for stamped in (unheard or [])[:capacity]:
            send.send_nowait(stamped)
        self._listeners[send] = 0
        with send, receive:
            try:
                yield receive
            finally:
                del self._listeners[send]
