"""What people type and read: rates, durations, sizes, selections (shared interface "Commands").

Parsers raise ValueError with one sentence; whoever calls them knows which option, variable or key it was.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

RATE_FACTORS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}
TIME_FACTORS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SIZE_FACTORS = {"": 1, "kib": 1 << 10, "mib": 1 << 20}
MAX_NUMBER = 10**15  # bytes per second, seconds, files: beyond all of them somebody mistyped
MAX_DURATION = 10 * 365 * 86400.0  # seconds

_NUMBER = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([A-Za-z]*)")
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
_DECIMAL_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")

Selection = tuple[tuple[int, int], ...]
"""First and last number of each range, counted from 1."""


def parse_rate(text: str) -> int:
    """Bytes per second: ``500``, ``800k``, ``1.5M``, ``2G``; 0 is unlimited."""
    rate = int(_number(text, RATE_FACTORS, "a rate: bytes per second, as in 500k, 1.5M or 2G (0 is unlimited)"))
    if rate == 0 and text.strip("0."):
        raise ValueError(f"{text!r} is less than one byte per second (0 is unlimited)")
    return rate


def parse_duration(text: str) -> float:
    """Seconds, more than none: ``30``, ``90s``, ``5m``, ``2h``, ``1d``."""
    seconds = _number(text, TIME_FACTORS, "a time: seconds, or as in 90s, 5m or 2h")
    if not 0 < seconds <= MAX_DURATION:
        raise ValueError(f"{text!r} is not a time that can be waited")
    return seconds


def parse_size(text: str) -> int:
    """Whole bytes: ``262144``, ``256KiB``, ``1MiB``."""
    size = _number(text, SIZE_FACTORS, "a size: bytes, or as in 256KiB or 1MiB")
    if size != int(size):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size)


def parse_ratio(text: str) -> float:
    """How much is given back for what was taken: ``1``, ``1.5``."""
    ratio = _number(text, {"": 1.0}, "a ratio: a number such as 1.5")
    if not ratio:
        raise ValueError("a ratio is more than 0")
    return ratio


def parse_port(text: str) -> int:
    """0 to 65535; 0 is any."""
    if not (text.isascii() and text.isdecimal() and int(text[:6]) <= 65535):
        raise ValueError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def parse_outside_port(text: str) -> int:
    """1 to 65535."""
    port = parse_port(text)
    if port == 0:
        raise ValueError("a port told to others is from 1 to 65535")
    return port


def parse_selection(text: str) -> Selection:
    """File numbers, counted from 1 as ``swarm show`` lists them: ``1,3-5``."""
    ranges = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{text!r} is not a list of file numbers such as 1,3-5")
        first, last = int(match[1]), int(match[2] or match[1])
        if first == 0:
            raise ValueError("files are numbered from 1, as 'swarm show' lists them")
        if last < first:
            raise ValueError(f"{part.strip()!r} runs backwards")
        ranges.append((first, last))
    return tuple(ranges)


def parse_boolean(text: str) -> bool:
    """``1``, ``true``, ``yes``, ``on`` and their opposites."""
    word = text.strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def _number(text: str, factors: dict[str, float] | dict[str, int], what: str) -> float:
    match = _NUMBER.fullmatch(text.strip())
    factor = None if match is None else factors.get(match[2].lower())
    if match is None or factor is None:
        raise ValueError(f"{text!r} is not {what}")
    number = float(match[1]) * factor
    if number > MAX_NUMBER:
        raise ValueError(f"{text!r} is too much")
    return number


def format_bytes(count: float) -> str:
    """``0 B``, ``999 B``, ``1.05 MB``: three digits and a unit, in powers of 1000 as rates are."""
    unit = 0
    while count >= 999.5 and unit < len(_DECIMAL_UNITS) - 1:
        count /= 1000
        unit += 1
    return f"{_digits(count) if unit else f'{count:.0f}'} {_DECIMAL_UNITS[unit]}"


def format_part(part: int, whole: int) -> str:
    """``0.42 of 1.05 MB``: both in the unit of the whole."""
    unit, scale = 0, 1
    while whole / scale >= 999.5 and unit < len(_DECIMAL_UNITS) - 1:
        scale *= 1000
        unit += 1
    if unit == 0:
        return f"{part} of {whole} B"
    places = len(_digits(whole / scale).partition(".")[2])
    return f"{part / scale:.{places}f} of {_digits(whole / scale)} {_DECIMAL_UNITS[unit]}"


def format_rate(rate: float) -> str:
    return f"{format_bytes(rate)}/s"


def format_binary(count: int) -> str:
    """``16 KiB``, ``1 MiB``; plain bytes where it does not come out even."""
    for name, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count and count % size == 0:
            return f"{count // size:,} {name}"
    return f"{count:,} bytes"


def format_duration(seconds: float) -> str:
    """``25 ms``, ``0.3 s``, ``42 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for size, name, smaller, smaller_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {name}" + (f" {rest} {smaller_name}" if rest else "")
    raise AssertionError


def format_percent(part: int, whole: int) -> str:
    """``42.1 %``, rounded down, so that 100.0 % is said of the whole only."""
    per_mille = 1000 if whole == 0 else part * 1000 // whole
    return f"{per_mille // 10}.{per_mille % 10} %"


def counted(count: int, noun: str) -> str:
    """``1 piece``, ``2 pieces``, ``1,000 pieces``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def printable(text: str) -> str:
    """``text`` with everything escaped that a terminal would obey instead of show, line breaks included."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def columns(text: str) -> int:
    """The cells of a terminal that printable ``text`` takes."""
    if text.isascii():
        return len(text)
    return sum(_cells(char) for char in text)


def shortened(text: str, width: int) -> str:
    """Printable ``text`` in at most ``width`` columns, its middle left out if need be."""
    if columns(text) <= width:
        return text
    if width < 2:
        return ""
    tail = _fitting(reversed(text), (width - 1) // 2)[::-1]
    return _fitting(iter(text), width - 1 - columns(tail)) + "…" + tail


def _fitting(chars: Iterable[str], width: int) -> str:
    taken = ""
    for char in chars:
        width -= _cells(char)
        if width < 0:
            break
        taken += char
    return taken


def _cells(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _digits(number: float) -> str:
    return f"{number:.2f}" if number < 9.995 else f"{number:.1f}" if number < 99.95 else f"{number:.0f}"
