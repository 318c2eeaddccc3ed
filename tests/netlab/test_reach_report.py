"""What `bench.reach` makes of its measurements: the matrix, the totals, the comparison with libtorrent."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.reach import pairs_of
from bench.reach_results import Cell, Record, add_record, read_records
from bench.reach_table import report
from tests.netlab.grid import World

KINDS = ("open", "cone", "symrand")


def record(
    world: str, seed: str, leech: str, seconds: float | None, path: str = "utp", direction: str = "out", run: int = 0
) -> Record:
    if seconds is None:
        return Record(Cell(world, seed, leech, run), "abc", 1.0, why=("timed out",))
    return Record(Cell(world, seed, leech, run), "abc", 1.0, seconds=seconds, path=path, direction=direction)


RECORDS = [
    record("ours-ours", "open", "cone", 0.5),
    record("ours-ours", "cone", "open", 0.7, direction="in"),
    record("ours-ours", "cone", "cone", 1.0, "utp-punched", "in", run=0),
    record("ours-ours", "cone", "cone", 2.0, "utp-punched", "in", run=1),
    record("ours-ours", "cone", "cone", None, run=2),
    record("ours-ours", "symrand", "cone", None),
    record("ours-ours", "cone", "symrand", 3.0, "birthday"),
    Record(Cell("ours-ours", "symrand", "open", 0), "abc", 1.0, unready="no rendezvous"),
    record("lt-lt", "cone", "cone", 20.0),
    record("lt-lt", "open", "cone", 1.0),
    record("lt-lt", "symrand", "cone", 60.0),
]


def test_a_matrix_as_text_with_what_it_adds_up_to() -> None:
    lines = report(RECORDS, ["ours-ours"], KINDS, markdown=False).splitlines()
    start = lines.index("ours-ours")
    assert lines[start + 2 :] == [
        "         open   cone       symrand",
        "open            0.5u",
        "cone     0.7u<  1.5U< 2/3  3.0b",
        "symrand  ?      FAIL",
        "",
        "reached: 4 of 5 ordered pairs; 2 of 3 unordered ones both ways round, 3 at least one way",
        "birthday: 1, median 3.00 s, worst 3.00 s",
        "direct: 1, median 0.50 s, worst 0.50 s",
        "punched: 1, median 1.50 s, worst 1.50 s",
        "reverse: 1, median 0.70 s, worst 0.70 s",
        "slowest: cone:symrand 3.0b, cone:cone 1.5U< 2/3, cone:open 0.7u<, open:cone 0.5u",
        "measured at abc (7); load of the machine 1.0",
        "",
        "by class     here    median  worst  lt-lt   median  worst  in both  ratio",
        "direct       1 of 1  0.50    0.50   1 of 1  1.00    1.00   1        0.50×",
        "not reached  0 of 1                 1 of 1  60.00   60.00  0",
        "punched      1 of 1  1.50    1.50   1 of 1  20.00   20.00  1        0.07×",
        "all          2 of 3  1.00    1.50   3 of 3  20.00   60.00  2        0.10×",
        "",
        "lt-lt in the same 3 pairs: reached here only 0, there only 1 (symrand:cone)",
        "failures:",
        "  cone:cone: timed out",
        "  symrand:cone: timed out",
        "  symrand:open: not set up: no rendezvous",
    ]


def test_a_matrix_as_markdown_of_the_kinds_that_were_measured() -> None:
    lines = report(RECORDS[:2], ["ours-ours", "lt-lt"], KINDS, markdown=True).splitlines()
    start = lines.index("## ours-ours")
    assert lines[start + 2 : start + 6] == [
        "|  | open | cone |",
        "| --- | --- | --- |",
        "| open |  | 0.5u |",
        "| cone | 0.7u< |  |",
    ]
    assert "## lt-lt" not in lines


@pytest.mark.parametrize(
    ("seed", "leech", "path", "direction", "expected"),
    [
        ("open", "cone", "utp-punched", "out", "direct"),
        ("cone", "open", "tcp", "out", "reverse"),
        ("cone", "symrand", "birthday", "in", "birthday"),
        ("cone", "restricted", "tcp", "out", "punched"),
        ("v6fw", "v6pin", "utp-punched", "in", "reverse"),
        ("open", "cone", "turn", "out", "relayed"),
        ("cone", "same", "utp", "out", "on one LAN"),
    ],
)
def test_the_class_of_a_pair_is_who_could_be_dialled_unless_ports_were_guessed_or_somebody_relayed(
    seed: str, leech: str, path: str, direction: str, expected: str
) -> None:
    assert record("ours-ours", seed, leech, 1.0, path, direction).path_class == expected


def test_a_seed_whose_port_was_not_opened_is_named() -> None:
    closed = Record(Cell("ours-ours", "upnp", "cone", 0), "abc", 1.0, seconds=1.0, path="utp", seed_mapped=False)
    text = report([closed], ["ours-ours"], ("upnp", "cone"), markdown=False)
    assert "the seed's router had not opened its port: 1 (upnp:cone)" in text


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new/reach.jsonl"
    assert read_records(path) == []
    for each in RECORDS:
        add_record(path, each)
    assert read_records(path) == RECORDS


def test_worlds() -> None:
    assert World.parse("ours-ours") == World("ours", "ours", "ours")
    assert World.parse("ours-lt") == World("ours", "lt", "lt")
    assert World.parse("ours-ours-lt") == World("ours", "ours", "lt")
    for text in ("ours", "ours-theirs", "lt-lt-lt-lt"):
        with pytest.raises(ValueError, match="SEED-LEECH"):
            World.parse(text)


def test_pairs() -> None:
    assert pairs_of("open:cone,cone:same") == (("open", "cone"), ("cone", "same"))
    for text in ("open", "open:moon", "same:cone"):
        with pytest.raises(ValueError):
            pairs_of(text)
