"""Sequence numbers: 16 bits that wrap.  Every comparison is a distance; nothing here keeps state."""

from __future__ import annotations

SEQ_MASK = 0xFFFF
HALF = 0x8000


def distance(older: int, newer: int) -> int:
    """How many steps forward from ``older`` to ``newer``: 0–65535; 0x8000 and more means that it lies behind."""
    return (newer - older) & SEQ_MASK


def signed_distance(older: int, newer: int) -> int:
    """The same, -32768–32767: negative when ``newer`` is in truth the older one."""
    return ((newer - older + HALF) & SEQ_MASK) - HALF
