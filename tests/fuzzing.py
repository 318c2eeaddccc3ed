"""Inputs for decoders: random bytes and mutations of valid messages, as many as SWARM_FUZZ asks for.

``make test`` runs 2,000 inputs a decoder, CI 100,000, ``make fuzz`` 10,000,000; every run prints its seed on failure
(pytest shows the ``seed`` in the assertion) and ``SWARM_FUZZ_SEED`` replays it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence

DEFAULT_COUNT = 2_000


def fuzz_count() -> int:
    """How many inputs each decoder is to be fed."""
    return int(os.environ.get("SWARM_FUZZ", DEFAULT_COUNT))


def fuzz_seed() -> int:
    """The seed of this run: SWARM_FUZZ_SEED or a fresh one."""
    seed = os.environ.get("SWARM_FUZZ_SEED")
    return int(seed) if seed is not None else random.SystemRandom().getrandbits(32)


def random_bytes_cases(rng: random.Random, max_length: int, count: int) -> Iterator[bytes]:
    """``count`` strings of random bytes, short ones more often."""
    for _ in range(count):
        yield rng.randbytes(min(rng.randrange(max_length + 1), rng.randrange(max_length + 1)))


def mutations(rng: random.Random, valid: Sequence[bytes], count: int) -> Iterator[bytes]:
    """``count`` damaged copies of valid messages: bits flipped, parts cut, doubled, swapped between messages."""
    for _ in range(count):
        data = bytearray(rng.choice(valid))
        for _ in range(rng.randrange(1, 5)):
            _damage(rng, data, valid)
        yield bytes(data)


def _damage(rng: random.Random, data: bytearray, valid: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    match rng.randrange(5):
        case 0 if at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            del data[at : at + rng.randrange(1, 9)]
        case 2:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        case 3:
            other = rng.choice(valid)
            start = rng.randrange(len(other) + 1)
            data[at:at] = other[start : start + rng.randrange(1, 33)]
        case _:
            data[at : at + 1] = rng.choice((b"\x00", b"\xff", b"\x7f", b"-", b"9", b"e", b":"))
