"""Sequence numbers: 16 bits that wrap.

Every comparison is a distance, ``(newer - older) & SEQ_MASK``; one of `HALF` and more means that "newer" lies behind.
"""

from __future__ import annotations

SEQ_MASK = 0xFFFF
HALF = 0x8000
