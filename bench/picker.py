"""What picking costs: microseconds a call, by number of pieces, with 200 peers connected.  Prints a table.

Run: python bench/picker.py
"""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from time import perf_counter

from swarm.bitfield import Bitfield
from swarm.torrent.openpiece import BLOCK, PieceMemory
from swarm.torrent.picker import Arrival, Picker, Sharing

PEERS = 200
SHAPES = ((1_000, 256 << 10), (10_000, 256 << 10), (10_000, 1 << 20), (100_000, 1 << 20), (10_000, 16 << 10))


def random_bitfield(count: int, rng: random.Random) -> Bitfield:
    bits = rng.getrandbits(count) | rng.getrandbits(count)
    return Bitfield.from_bytes_untrusted((bits << -count % 8).to_bytes((count + 7) // 8, "big"), count)


def microseconds(work: Callable[[], object], times: int) -> float:
    best = float("inf")
    for _ in range(3):
        started = perf_counter()
        for _ in range(times):
            work()
        best = min(best, perf_counter() - started)
    return best / times * 1e6


def measure(count: int, piece_length: int, rng: random.Random) -> list[str]:
    peers = [random_bitfield(count, rng) for _ in range(PEERS)]
    tracemalloc.start()
    picker = Picker(count, piece_length, count * piece_length, Bitfield(count), rng, PieceMemory(48 << 20))
    for theirs in peers:
        picker.peer_joined(theirs)
    memory = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    full = Bitfield.full(count)
    join = microseconds(lambda: (picker.peer_joined(full), picker.peer_left(full)), 20) / 2
    haves = [rng.randrange(count) for _ in range(10_000)]
    has = microseconds(lambda: [picker.peer_has(index) for index in haves], 1) / len(haves)
    interest = microseconds(lambda: picker.is_interesting(peers[0]), 200)
    pick, received = exchange(picker, peers)
    figures = (pick * 32, received, has, join, interest)
    return [f"{count:,}", f"{piece_length >> 10}", *(f"{figure:.2f}" for figure in figures), f"{memory / 1024:.0f}"]


def exchange(picker: Picker, peers: list[Bitfield]) -> tuple[float, float]:
    """Let 8 fast peers fetch up to 60,000 blocks; the time a block costs to pick and to receive (with its copy)."""
    data = bytes(BLOCK)
    pick = received = 0.0
    blocks = 0
    while blocks < 60_000 and picker.wanted_left:
        for peer in range(8):
            started = perf_counter()
            picked = picker.pick(peer, peers[peer], 32, sharing=Sharing.WHOLE)
            pick += perf_counter() - started
            complete = []
            started = perf_counter()
            for index, begin, _ in picked:
                outcome = picker.received(peer, index, begin, data)
                if outcome.complete:
                    complete.append(index)
            received += perf_counter() - started
            assert all(picker.received(peer, *block[:2], data).arrival is Arrival.DUPLICATE for block in picked[:1])
            for index in complete:
                picker.piece_verified(index)
            blocks += len(picked)
        if not picked:
            break
    return pick / blocks * 1e6, received / blocks * 1e6


def main() -> None:
    rng = random.Random(1)
    print(f"{PEERS} peers; microseconds")
    head = ("pieces", "KiB", "pick of 32", "received+copy", "peer_has", "join/leave", "is_interesting", "memory KiB")
    print(" ".join(f"{name:>14}" for name in head))
    for count, piece_length in SHAPES:
        print(" ".join(f"{figure:>14}" for figure in measure(count, piece_length, rng)))


if __name__ == "__main__":
    main()
