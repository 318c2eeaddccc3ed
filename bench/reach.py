"""Who reaches whom, how soon and how: every pair of NATs, seed × leech, on kernel NATs.  Needs root.

    python -m bench.reach [--worlds ours-ours,lt-lt] [--relay | --turn] [--kinds open,cone | --ipv6]
                          [--pairs cone:symrand,...]

A world is SEED-LEECH, or SEED-LEECH-RENDEZVOUS, each "ours" or "lt" (libtorrent); the rendezvous is libtorrent's unless
both others are ours.  In the world ours-ours-relay, which `--relay` asks for, the rendezvous relays; with `--turn` each
of ours has a TURN server (coturn), which is written "turn" instead of "ours".  A cell is what
`tests.netlab.grid` describes: seconds from the start of the leech's process to 2 MiB complete.  Each is added to the
file of results as soon as it is measured, and what is there already is not measured again; `--show` measures nothing.
Prints a matrix for each world, then what it adds up to, beside libtorrent with itself; asserts nothing.  All in one:

    python -m bench.reach --worlds ours-ours,ours-ours-relay,lt-lt

All 121 pairs in four worlds take more than an hour: run it in a `git worktree`, where nobody edits what is measured.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from itertools import product
from pathlib import Path

from bench.reach_results import Cell, Record, add_record, read_records
from bench.reach_table import report
from tests.netlab.grid import KINDS, KINDS_IPV6, LIMIT, SAME, Unready, World, measure

RELAY_WORLD = "ours-ours-relay"
TURN_WORLDS = ("turn-turn", "turn-lt", "lt-turn")
WORLDS = "ours-ours,ours-lt,lt-ours,lt-lt"


def main() -> None:
    options = parse_options()
    records = read_records(options.results)
    if not options.show:
        known = {record.cell for record in records if record.unready is None}
        cells = [cell for cell in wanted(options) if cell not in known]
        for record in measured(cells, options):
            records.append(record)
            add_record(options.results, record)
            print(record, flush=True)
    print(report(records, options.worlds, (*options.kinds, SAME), markdown=options.markdown))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--worlds", type=worlds_of, default=worlds_of(WORLDS), metavar="W,...", help=f"default: {WORLDS}"
    )
    parser.add_argument(
        "--relay", dest="worlds", action="store_const", const=(RELAY_WORLD,), help=f"the same as --worlds {RELAY_WORLD}"
    )
    parser.add_argument(
        "--turn", dest="worlds", action="store_const", const=TURN_WORLDS, help=f"the same as {','.join(TURN_WORLDS)}"
    )
    parser.add_argument("--kinds", type=kinds_of, default=KINDS, metavar="K,...", help=f"all of {', '.join(KINDS)}")
    parser.add_argument(
        "--ipv6", dest="kinds", action="store_const", const=KINDS_IPV6, help=f"the kinds {', '.join(KINDS_IPV6)}"
    )
    parser.add_argument("--pairs", type=pairs_of, metavar="S:L,...", help=f"only these; L may be {SAME}: on one LAN")
    parser.add_argument("--runs", type=int, default=1, help="times each cell is measured")
    parser.add_argument("--jobs", type=int, default=4, help="cells at once; not in their first seconds")
    parser.add_argument("--limit", type=float, default=LIMIT, metavar="S", help="seconds until a cell has failed")
    parser.add_argument("--results", type=Path, default=Path("bench/out/reach.jsonl"), metavar="FILE")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="keep what the nodes told in DIR/WORLD/SEED-LEECH-RUN")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    parser.add_argument("--markdown", action="store_true", help="the matrices as Markdown")
    return parser.parse_args()


def worlds_of(text: str) -> tuple[str, ...]:
    for world in text.split(","):
        World.parse(world)
    return tuple(text.split(","))


def kinds_of(text: str) -> tuple[str, ...]:
    kinds = tuple(text.split(","))
    if not (set(kinds) <= set(KINDS) or set(kinds) <= set(KINDS_IPV6)):
        raise ValueError(f"{text}: of {', '.join(KINDS)}, or of {', '.join(KINDS_IPV6)}")
    return kinds


def pairs_of(text: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for pair in text.split(","):
        seed, leech = pair.split(":")
        kinds_of(seed if leech == SAME else f"{seed},{leech}")
        pairs.append((seed, leech))
    return tuple(pairs)


def wanted(options: argparse.Namespace) -> Iterator[Cell]:
    """Pair by pair in all worlds, so that a moment in which the machine is slow hits all of them."""
    pairs: Iterable[tuple[str, str]] = options.pairs or product(options.kinds, repeat=2)
    for run, (seed, leech), world in product(range(options.runs), pairs, options.worlds):
        yield Cell(world, seed, leech, run)


def measured(cells: list[Cell], options: argparse.Namespace) -> Iterator[Record]:
    """As they are done.  An interrupt leaves once the cells under way have ended, and keeps nothing of them."""
    revision, quiet = git_revision(), threading.Lock()
    with ThreadPoolExecutor(options.jobs) as pool:
        futures: list[Future[Record]] = [pool.submit(measure_one, cell, revision, quiet, options) for cell in cells]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def measure_one(cell: Cell, revision: str, quiet: threading.Lock, options: argparse.Namespace) -> Record:
    logs = options.logs and options.logs / cell.world / f"{cell.seed}-{cell.leech}-{cell.run}"
    try:
        world = World.parse(cell.world)
        outcome = measure(cell.seed, cell.leech, world, limit=options.limit, quiet=quiet, logs=logs)
    except Unready as error:
        return Record(cell, revision, os.getloadavg()[0], unready=str(error))
    return Record(
        cell,
        revision,
        os.getloadavg()[0],
        seconds=outcome.seconds,
        first_piece=outcome.first_piece,
        path=outcome.way and outcome.way.path,
        direction=outcome.way and outcome.way.direction,
        why=outcome.why,
        seed_mapped=outcome.seed_mapped,
    )


def git_revision() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
