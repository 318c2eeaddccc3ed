"""INT, TERM and HUP: the first cancels what runs, so that it saves and leaves; a second leaves at once.

The handler is a plain one, not trio's: it works while trio is busy, and a second signal must work whatever hangs.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import trio

SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]  # no SIGHUP on Windows


def run_interruptible(
    function: Callable[..., Awaitable[int]], *arguments: object, restore: Callable[[], object] = lambda: None
) -> int:
    """`trio.run` for a command: what ``function`` returns, or 128 + N when signal N made it leave.

    ``restore`` puts the terminal in order before a second signal ends the process on the spot; it must not block.
    Signals that are ignored (``nohup``, a shell's background jobs) stay so.
    """
    interrupt = _Interrupt(restore)
    before: dict[int, Any] = {}
    try:
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, interrupt.received)
        return trio.run(_supervised, interrupt, function, arguments)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _supervised(
    interrupt: _Interrupt, function: Callable[..., Awaitable[int]], arguments: tuple[object, ...]
) -> int:
    interrupt.token = trio.lowlevel.current_trio_token()
    if interrupt.number:
        interrupt.scope.cancel()
    with interrupt.scope:
        return await function(*arguments)
    return 128 + interrupt.number


class _Interrupt:
    def __init__(self, restore: Callable[[], object]) -> None:
        self.scope = trio.CancelScope()
        self.token: trio.lowlevel.TrioToken | None = None
        self.number = 0
        self._restore = restore

    def received(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            self._restore()
            os._exit(128 + number)
        self.number = number
        if self.token is not None:
            self.token.run_sync_soon(self.scope.cancel)
