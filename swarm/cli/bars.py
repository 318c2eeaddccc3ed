"""Tables and small bars for a terminal, or for what is none: lines of text, never wider than the page."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TextIO

from swarm.cli.units import columns, printable, shortened

MIN_WIDTH, MAX_WIDTH = 40, 120
"""Columns of a page: a narrower terminal breaks lines, a wider one is not read well."""

GAP = 2
"""Columns between two cells."""

READABLE = 10
"""Columns to which a text may be shortened before others have to be."""

EIGHTHS = " ▏▎▍▌▋▊▉█"

Paint = Literal["", "bold", "dim", "green", "yellow", "red"]
_CODES: dict[Paint, str] = {"bold": "1", "dim": "2", "green": "32", "yellow": "33", "red": "31"}


class Cell(NamedTuple):
    """A text in a table.  What is unprintable in it is escaped where it is shown."""

    text: str
    right: bool = False
    paint: Paint = ""


@dataclass(frozen=True, slots=True)
class Page:
    """How wide, and with what, something may be drawn."""

    width: int
    """Columns."""
    colour: bool = False
    blocks: bool = True
    """Whether block characters can be shown: else bars are made of ``#``."""

    def paint(self, text: str, paint: Paint) -> str:
        return f"\x1b[{_CODES[paint]}m{text}\x1b[0m" if self.colour and paint and text else text

    def heading(self, text: str) -> str:
        return self.paint(text, "bold")

    def bar(self, part: float, whole: float, cells: int) -> str:
        """``cells`` columns, filled as far as ``part`` of ``whole``; something shows of everything above nothing."""
        share = min(1.0, part / whole) if part > 0 and whole > 0 else 0.0
        if not self.blocks:
            return ("#" * max(round(share * cells), 1 if share else 0)).ljust(cells, ".")
        eighths = max(round(share * cells * 8), 1 if share else 0)
        return ("█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()).ljust(cells)

    def line(self, text: str, indent: int = 0, paint: Paint = "") -> str:
        """One line that fits, its middle left out if need be."""
        return " " * indent + self.paint(shortened(printable(text), self.width - indent), paint)

    def sentence(self, text: str, indent: int = 0, hang: int = 0, paint: Paint = "") -> Iterator[str]:
        """As many lines as it takes, those after the first ``hang`` columns further in."""
        room = self.width - indent
        for line in textwrap.wrap(printable(text), room, subsequent_indent=" " * hang) or [""]:
            yield " " * indent + self.paint(shortened(line, room), paint)

    def table(
        self, rows: Sequence[Sequence[Cell]], *, indent: int = 2, flexible: Sequence[int] = (0,)
    ) -> Iterator[str]:
        """Rows of equally many cells, each column as wide as its widest text; those with no text are left out.

        Where a row would not fit, the ``flexible`` columns are shortened, the first of them first.
        """
        shown = [[cell._replace(text=printable(cell.text)) for cell in row] for row in rows]
        widths = [max(columns(cell.text) for cell in column) for column in zip(*shown, strict=True)]
        used = indent + sum(widths) + GAP * (sum(map(bool, widths)) - 1)
        _shrink(widths, used - self.width, flexible)
        for row in shown:
            cells = [self._cell(cell, width) for cell, width in zip(row, widths, strict=True) if width]
            yield (" " * indent + (" " * GAP).join(cells)).rstrip()

    def _cell(self, cell: Cell, width: int) -> str:
        text = shortened(cell.text, width)
        padding = " " * (width - columns(text))
        painted = self.paint(text, cell.paint)
        return padding + painted if cell.right else painted + padding


def _shrink(widths: list[int], excess: int, flexible: Sequence[int]) -> None:
    """Take ``excess`` columns away: from the flexible ones while they stay readable, then from whatever is widest."""
    for column in flexible:
        taken = min(max(0, excess), max(0, widths[column] - READABLE))
        widths[column] -= taken
        excess -= taken
    while excess > 0 and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1
        excess -= 1


def page_for(stream: TextIO) -> Page:
    """What suits ``stream``: colour on a terminal only (and not where NO_COLOR is set), blocks where it can write them.

    The width is COLUMNS or the terminal's, 80 where there is none.
    """
    colour = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    width = min(max(shutil.get_terminal_size().columns, MIN_WIDTH), MAX_WIDTH)
    return Page(width, colour, _can_write(stream, EIGHTHS))


def _can_write(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def listed(words: Iterable[str], nothing: str = "-") -> str:
    return ", ".join(words) or nothing
