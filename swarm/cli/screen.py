"""Standard error as a person sees it: lines, and on a terminal one line more that is rewritten in place."""

from __future__ import annotations

import shutil
import sys
from typing import TextIO

from swarm.cli.units import shortened

CLEAR = "\r\x1b[K"


class Screen:
    """Where progress goes.  ``quiet`` shows nothing at all; ``stream`` is standard error as it is now."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None, terminal: bool | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self.quiet = quiet
        self.terminal = self._stream.isatty() if terminal is None else terminal
        """Whether `status` shows anything."""
        self._status = ""

    @property
    def width(self) -> int:
        """Columns that a status may have: one is left free, or some terminals begin a new line."""
        return max(10, shutil.get_terminal_size().columns - 1)

    def line(self, text: str, *, always: bool = False) -> None:
        """One line of printable text for good, above the status; ``always`` means also when quiet."""
        if always or not self.quiet:
            self._write(f"{CLEAR if self._status else ''}{text}\n{self._status}")

    def status(self, text: str) -> None:
        """Replace the status; nothing where there is no terminal."""
        if self.terminal and not self.quiet:
            self._status = shortened(text, self.width)
            self._write(CLEAR + self._status)

    def clear(self) -> None:
        """Take the status away; safe in a signal handler."""
        if self._status:
            self._status = ""
            self._write(CLEAR)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
