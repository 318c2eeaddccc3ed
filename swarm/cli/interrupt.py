"""INT, TERM and HUP: the first cancels what runs, so that it saves and leaves; a second leaves at once.  USR1 asks.

The handler is a plain one, not trio's: it works while trio is busy, and a second signal must work whatever hangs.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import trio

SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]  # no SIGHUP on Windows
QUESTIONS = [
    getattr(signal, name) for name in ("SIGUSR1", "SIGINFO") if hasattr(signal, name)
]  # SIGINFO is Ctrl-T on a BSD or a Mac


def nothing() -> None:
    """What happens by default."""


def run_interruptible(
    function: Callable[..., Awaitable[int]],
    *arguments: object,
    restore: Callable[[], object] = nothing,
    leaving: Callable[[], object] = nothing,
    asked: Callable[[], object] = nothing,
    clock: trio.abc.Clock | None = None,
) -> int:
    """`trio.run` for a command: what ``function`` returns, or 128 + N when signal N made it leave.

    ``restore`` puts the terminal in order before a second signal ends the process on the spot; it must not block.
    ``leaving`` is called in trio before a first one cancels anything, ``asked`` for each of QUESTIONS; they must not
    block either, nor raise.  ``clock`` is trio's; the demo has a simulated one.
    Signals that are ignored (``nohup``, a shell's background jobs) stay so.
    """
    interrupt = _Interrupt(restore, leaving, asked)
    before: dict[int, Any] = {}
    try:
        for numbers, handler in ((SIGNALS, interrupt.received), (QUESTIONS, interrupt.questioned)):
            for number in numbers:
                if signal.getsignal(number) != signal.SIG_IGN:
                    before[number] = signal.signal(number, handler)
        return trio.run(_supervised, interrupt, function, arguments, clock=clock)
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


async def _supervised(
    interrupt: _Interrupt, function: Callable[..., Awaitable[int]], arguments: tuple[object, ...]
) -> int:
    interrupt.token = trio.lowlevel.current_trio_token()
    if interrupt.number:
        interrupt.scope.cancel()
    if interrupt.kept_question:
        interrupt.asked()
    with interrupt.scope:
        return await function(*arguments)
    return 128 + interrupt.number


class _Interrupt:
    def __init__(
        self, restore: Callable[[], object], leaving: Callable[[], object], asked: Callable[[], object]
    ) -> None:
        self.scope = trio.CancelScope()
        self.token: trio.lowlevel.TrioToken | None = None
        self.number = 0
        self.kept_question = False
        self._restore = restore
        self._leaving = leaving
        self.asked = asked

    def received(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            self._restore()
            os._exit(128 + number)
        self.number = number
        if self.token is not None:
            self.token.run_sync_soon(self._leave)

    def _leave(self) -> None:
        self._leaving()
        self.scope.cancel()

    def questioned(self, number: int, frame: FrameType | None) -> None:
        """Passed on to whoever answers; before trio runs it is kept."""
        if self.token is None:
            self.kept_question = True
        else:
            with suppress(trio.RunFinishedError):  # all is over
                self.token.run_sync_soon(self.asked)
