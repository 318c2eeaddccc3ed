"""What `bench.reach` has measured, as JSON lines: one object for each run of each cell."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from tests.netlab.grid import SAME

REACHABLE = {"open", "fullcone", "upnp", "natpmp", "v6open", "v6pin", "v6upnp"}
"""Kinds that let strangers in, or have their port opened."""

CLASSES = {
    "predicted": "predicted",
    "birthday": "birthday",
    "relayed": "relayed",
    "turn": "relayed",
}
"""By path.  Of a pair that met otherwise the class is not taken from its path, which libtorrent does not always tell,
and which says who was first where both had been told to dial: it is "direct" where the seed is REACHABLE, "reverse"
where the leech alone is, else "punched"."""

LETTERS = {
    "utp": "u",
    "tcp": "t",
    "utp-punched": "U",
    "tcp-punched": "T",
    "predicted": "p",
    "birthday": "b",
    "relayed": "r",
    "turn": "n",
}


class Cell(NamedTuple):
    """One run of one pair in one world."""

    world: str
    seed: str
    leech: str
    run: int

    @property
    def pair(self) -> str:
        return f"{self.seed}:{self.leech}"


@dataclass(frozen=True)
class Record:
    """One cell as measured; the fields are those of `tests.netlab.grid.Outcome`.

    ``unready`` says why it could not be set up: such a cell says nothing about its pair.
    """

    cell: Cell
    revision: str
    load: float
    """Of the machine when it was over, as the average of a minute."""
    seconds: float | None = None
    first_piece: float | None = None
    path: str | None = None
    direction: str | None = None
    why: tuple[str, ...] = ()
    seed_mapped: bool | None = None
    unready: str | None = None

    @property
    def letters(self) -> str:
        """``U<``: over a punched µTP link, and it was the seed who dialled."""
        return LETTERS.get(self.path or "", "-") + ("<" if self.direction == "in" else "")

    @property
    def path_class(self) -> str:
        """Of a cell that was reached, as in CLASSES."""
        if self.path in CLASSES:
            return CLASSES[self.path]
        if self.cell.leech == SAME:
            return "on one LAN"
        if self.cell.seed in REACHABLE:
            return "direct"
        return "reverse" if self.cell.leech in REACHABLE else "punched"

    def __str__(self) -> str:
        if self.seconds is not None:
            first = "" if self.first_piece is None else f", first piece {self.first_piece:.2f} s"
            result = f"{self.seconds:6.2f} s {self.letters}{first}"
        else:
            result = f"unready: {self.unready}" if self.unready else f"FAIL {'; '.join(self.why)}"
        return f"{self.cell.world:10} {self.cell.pair:22} {result}"


def read_records(path: Path) -> list[Record]:
    """None if there is no such file yet."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        fields = json.loads(line)
        cell = Cell(**{name: fields.pop(name) for name in Cell._fields})
        records.append(Record(cell, **fields | {"why": tuple(fields["why"])}))
    return records


def add_record(path: Path, record: Record) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = asdict(record)
    del fields["cell"]
    with path.open("a") as file:
        file.write(json.dumps(record.cell._asdict() | fields) + "\n")
