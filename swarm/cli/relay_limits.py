"""``--relay-limits``: how much ``--relay-serve`` may cost, as in ``circuits=16,rate=500k,bytes=5G,time=30m``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from swarm.cli.units import parse_duration, parse_rate

if TYPE_CHECKING:
    from swarm.config import RelayLimits  # costs time, and is not needed for a word of help

MAX_CIRCUITS = 1000


def parse_relay_limits(text: str) -> RelayLimits:
    """What is named replaces a default.  ValueError for an unknown name, and for a value that cannot be."""
    from swarm.config import RelayLimits

    limits: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = (each.strip() for each in part.partition("="))
        if not equals or name not in _LIMITS:
            raise ValueError(f"{part.strip()!r} is not one of {', '.join(f'{name}=…' for name in _LIMITS)}")
        field, parse = _LIMITS[name]
        limits[field] = parse(value)
    return RelayLimits(**limits)


def _circuits(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= MAX_CIRCUITS):
        raise ValueError(f"{text!r} is not a number of circuits from 1 to {MAX_CIRCUITS}")
    return int(text)


def _bytes(text: str) -> int:
    try:
        return parse_rate(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number of bytes, as in 500M or 2G (0 is unlimited)") from None


_LIMITS: dict[str, tuple[str, Callable[[str], float]]] = {
    "circuits": ("circuits", _circuits),
    "per-client": ("circuits_per_client", _circuits),
    "rate": ("circuit_rate", parse_rate),
    "total-rate": ("total_rate", parse_rate),
    "bytes": ("circuit_bytes", _bytes),
    "time": ("circuit_seconds", parse_duration),
}
"""By name: the field of `RelayLimits`, and how it is read."""
