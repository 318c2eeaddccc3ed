"""Makes runs of whole nodes repeat: seeds trio's scheduler, which shuffles ready tasks on purpose.

trio has a private switch for exactly this (Hypothesis uses it too); nothing public does the same.  If it vanishes,
`seeded_scheduler` raises AttributeError instead of pretending.
Besides this a replay needs: every die of the node seeded, no threads (inline disk runner), links with distinct delays.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import trio._core._run as trio_run

SWITCH = "_ALLOW_DETERMINISTIC_SCHEDULING"
DICE = "_r"


@contextmanager
def seeded_scheduler(seed: int) -> Iterator[None]:
    """Let every trio run that begins inside schedule by ``seed``; put all back afterwards.

    Must be entered before `trio.run`.  AttributeError if this trio has no such switch.
    """
    switch_before, dice_before = getattr(trio_run, SWITCH), getattr(trio_run, DICE)
    setattr(trio_run, SWITCH, True)
    setattr(trio_run, DICE, random.Random(seed))
    try:
        yield
    finally:
        setattr(trio_run, SWITCH, switch_before)
        setattr(trio_run, DICE, dice_before)
