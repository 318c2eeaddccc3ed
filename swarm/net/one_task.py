"""One task at a time in each direction of a stream, as `trio.abc.Stream` demands."""

from __future__ import annotations

from types import TracebackType

import trio


class OneTask:
    """A block that raises trio.BusyResourceError for a second task inside; ``doing`` what, in its words."""

    __slots__ = ("_busy", "_doing")

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._busy = False

    def __enter__(self) -> None:
        if self._busy:
            raise trio.BusyResourceError(f"another task is {self._doing} this stream")
        self._busy = True

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._busy = False
