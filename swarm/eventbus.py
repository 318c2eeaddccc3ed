"""Hands events to whoever listens.  A listener that does not keep up loses the newest and is told how many."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from swarm.events import Event, Warned


class EventBus:
    """``clock`` stamps each event with the time at which it was emitted."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._listeners: dict[trio.MemorySendChannel[tuple[float, Event]], int] = {}  # and what each has missed

    def emit(self, event: Event) -> None:
        """State a fact; never blocks."""
        stamped = (self._clock(), event)
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
        """Events from now on, in order; at most ``capacity`` wait unread, what comes beyond is dropped and counted."""
        send, receive = trio.open_memory_channel[tuple[float, Event]](capacity)
        self._listeners[send] = 0
        with send, receive:
            try:
                yield receive
            finally:
                del self._listeners[send]
