"""What `bench.reach` prints: a matrix for each world, what it adds up to, and how it compares with libtorrent."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from bench.reach_results import LETTERS, Record

REFERENCE = "lt-lt"
SIDES = f"by class;here;median;worst;{REFERENCE};median;worst;in both;ratio"
"""The heading of the table beside the reference's; the ratio is that of the medians over the pairs reached in both."""

WORST = 5
"""How many of the slowest pairs are named."""

Pair = tuple[str, str]
"""The seed's NAT and the leech's."""


class Summary:
    """All runs of one pair in one world."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.runs = [record for record in records if record.unready is None]
        self.reached = [record for record in self.runs if record.seconds is not None]
        self.unready = [record.unready for record in records if record.unready is not None]

    @property
    def seconds(self) -> float:
        """Median of the runs that reached; there must be one."""
        return statistics.median(record.seconds for record in self.reached if record.seconds is not None)

    @property
    def path_class(self) -> str:
        """The commonest of the runs that reached."""
        return Counter(record.path_class for record in self.reached).most_common(1)[0][0]

    @property
    def why(self) -> tuple[str, ...]:
        """What the last run that failed said."""
        return next(record.why for record in reversed(self.runs) if record.seconds is None)

    def __str__(self) -> str:
        if not self.runs:
            return "?"
        if not self.reached:
            return "FAIL"
        letters = Counter(record.letters for record in self.reached).most_common(1)[0][0]
        share = "" if len(self.reached) == len(self.runs) else f" {len(self.reached)}/{len(self.runs)}"
        return f"{self.seconds:.1f}{letters}{share}"


def report(records: Iterable[Record], worlds: Sequence[str], kinds: Sequence[str], *, markdown: bool) -> str:
    """Everything, for these worlds and kinds."""
    found = summaries(records, kinds)
    lines = [*legend(), ""]
    for world in worlds:
        pairs = found.get(world, {})
        if pairs:
            shown = [kind for kind in kinds if any(kind in pair for pair in pairs)]
            lines += [f"## {world}" if markdown else world, "", *matrix(pairs, shown, markdown=markdown), ""]
            beside = against_reference(pairs, found.get(REFERENCE, {}), markdown=markdown)
            lines += [*totals(pairs), *beside, *failures(pairs), ""]
    return "\n".join(lines)


def summaries(records: Iterable[Record], kinds: Sequence[str]) -> dict[str, dict[Pair, Summary]]:
    """By world and pair."""
    grouped: dict[str, dict[Pair, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if {record.cell.seed, record.cell.leech} <= set(kinds):
            grouped[record.cell.world][record.cell.seed, record.cell.leech].append(record)
    return {world: {pair: Summary(of) for pair, of in pairs.items()} for world, pairs in grouped.items()}


def legend() -> list[str]:
    letters = ", ".join(f"{letter} {path}" for path, letter in LETTERS.items())
    return [
        "Seconds from the start of the leech's process to 2 MiB complete.  Rows: the seed's NAT; columns: the leech's.",
        f"{letters}; < the seed dialled; ? could not be set up.  libtorrent does not tell of every punch.",
        "direct: strangers get in to the seed; reverse: to the leech alone; punched: to neither.",
    ]


def matrix(pairs: Mapping[Pair, Summary], kinds: Sequence[str], *, markdown: bool) -> list[str]:
    rows = [["", *kinds]]
    for seed in kinds:
        rows.append([seed, *(str(pairs.get((seed, leech), "")) for leech in kinds)])
    return table(rows, markdown=markdown)


def table(rows: list[list[str]], *, markdown: bool) -> list[str]:
    """Lines; the first row is the heading."""
    if markdown:
        rows.insert(1, ["---"] * len(rows[0]))
        return ["| " + " | ".join(row) + " |" for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def totals(pairs: Mapping[Pair, Summary]) -> list[str]:
    measured = {pair: summary for pair, summary in pairs.items() if summary.runs}
    if not measured:
        return ["nothing could be set up"]
    reached = {pair: summary for pair, summary in measured.items() if summary.reached}
    both, either, unordered = unordered_counts(measured)
    lines = [
        f"reached: {len(reached)} of {len(measured)} ordered pairs; "
        f"{both} of {unordered} unordered ones both ways round, {either} at least one way",
    ]
    by_class: dict[str, list[float]] = defaultdict(list)
    for summary in reached.values():
        by_class[summary.path_class].append(summary.seconds)
    for name, seconds in sorted(by_class.items()):
        lines.append(f"{name}: {len(seconds)}, median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s")
    firsts = [run.first_piece for each in reached.values() for run in each.reached if run.first_piece is not None]
    if firsts:
        lines.append(f"first piece: median {statistics.median(firsts):.2f} s, worst {max(firsts):.2f} s")
    slowest = sorted(reached, key=lambda pair: -reached[pair].seconds)[:WORST]
    lines.append("slowest: " + ", ".join(f"{':'.join(pair)} {reached[pair]}" for pair in slowest))
    closed = [pair for pair, summary in measured.items() if any(run.seed_mapped is False for run in summary.runs)]
    if closed:
        lines.append(f"the seed's router had not opened its port: {named(closed)}")
    revisions = Counter(record.revision for summary in measured.values() for record in summary.runs)
    load = statistics.median(record.load for summary in measured.values() for record in summary.runs)
    at = ", ".join(f"{revision} ({count})" for revision, count in revisions.items())
    lines.append(f"measured at {at}; load of the machine {load:.1f}")
    return lines


def unordered_counts(measured: Mapping[Pair, Summary]) -> tuple[int, int, int]:
    """Of the pairs that were measured both ways round: reached both ways, reached at least one way, all of them."""
    both = either = count = 0
    for (seed, leech), summary in measured.items():
        other = measured.get((leech, seed))
        if other is not None and seed <= leech:
            count += 1
            both += bool(summary.reached and other.reached)
            either += bool(summary.reached or other.reached)
    return both, either, count


def against_reference(pairs: Mapping[Pair, Summary], reference: Mapping[Pair, Summary], *, markdown: bool) -> list[str]:
    """Side by side with libtorrent, over the pairs that were measured in both worlds; empty for its own world."""
    common = [pair for pair in pairs if pair in reference and pairs[pair].runs and reference[pair].runs]
    if pairs is reference or not common:
        return []
    more = [pair for pair in common if pairs[pair].reached and not reference[pair].reached]
    fewer = [pair for pair in common if reference[pair].reached and not pairs[pair].reached]
    classes: dict[str, list[Pair]] = defaultdict(list)
    for pair in common:
        classes[pairs[pair].path_class if pairs[pair].reached else "not reached"].append(pair)
    rows = [SIDES.split(";")]
    for name, of in [*sorted(classes.items()), ("all", common)]:
        both = [pair for pair in of if pairs[pair].reached and reference[pair].reached]
        rows.append([name, *reached_of(of, pairs), *reached_of(of, reference), *ratio_of(both, pairs, reference)])
    return [
        "",
        *table(rows, markdown=markdown),
        "",
        f"{REFERENCE} in the same {len(common)} pairs: reached here only {len(more)}, there only {named(fewer)}",
    ]


def reached_of(of: Sequence[Pair], pairs: Mapping[Pair, Summary]) -> list[str]:
    """How many of them were reached, and their median and worst seconds."""
    seconds = [pairs[pair].seconds for pair in of if pairs[pair].reached]
    share = f"{len(seconds)} of {len(of)}"
    return [share, f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}"] if seconds else [share, "", ""]


def ratio_of(both: Sequence[Pair], pairs: Mapping[Pair, Summary], reference: Mapping[Pair, Summary]) -> list[str]:
    """How many, and the ratio of the medians over these."""
    if not both:
        return ["0", ""]
    ours = statistics.median(pairs[pair].seconds for pair in both)
    theirs = statistics.median(reference[pair].seconds for pair in both)
    return [str(len(both)), f"{ours / theirs:.2f}×"]


def named(pairs: Sequence[Pair]) -> str:
    return f"{len(pairs)} ({', '.join(map(':'.join, pairs))})" if pairs else "0"


def failures(pairs: Mapping[Pair, Summary]) -> list[str]:
    """Each pair that failed in some run or could not be set up, with what our leech said."""
    lines = []
    for pair, summary in pairs.items():
        if len(summary.reached) < len(summary.runs):
            lines.append(f"  {':'.join(pair)}: {'; '.join(summary.why) or 'no reason told'}")
        if summary.unready and not summary.runs:
            lines.append(f"  {':'.join(pair)}: not set up: {summary.unready[-1]}")
    return ["failures:", *lines] if lines else []
