"""Our command line against another client, with nothing between them but a real opentracker."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.interop.clients import Tracker, opentracker, swarm_command, wait_until
from tests.interop.samples import Kind, Shared

SECONDS = 60.0
NETWORK = ("--bind", "127.0.0.1", "-p", 0, "--no-dht", "--no-lsd", "--no-mapping", "--json")


Events = list[dict[str, Any]]
"""The JSON lines of one run, in order."""


@dataclass(frozen=True)
class Table:
    """What both clients sit at: a tracker, a torrent, and a directory for each."""

    tracker: Tracker
    shared: Shared
    directory: Path

    def our_download(self, *options: object) -> Events:
        """Fetch with our command; it must exit 0 with identical files."""
        target = self.directory / "ours"
        state = self.directory / "state"
        with swarm_command(state, "download", self.shared.torrent, "-o", target, *NETWORK, *options) as process:
            code = process.wait(SECONDS)
        assert code == 0, (state / "log").read_text()
        self.shared.assert_same(target)
        return events_in(state)

    @contextmanager
    def our_seed(self, *options: object) -> Iterator[Events]:
        """Share with our command; told to stop, it leaves within three seconds with 143.  The events are there then."""
        events: Events = []
        state = self.directory / "state"
        with swarm_command(state, "seed", self.shared.torrent, "-o", self.shared.seed, *NETWORK, *options) as process:
            yield events
            process.send_signal(signal.SIGTERM)
            assert process.wait(4) == 143, (state / "log").read_text()
        events += events_in(state)


def events_in(state: Path) -> Events:
    """What a command of ours with ``--json`` has said so far."""
    return [json.loads(line) for line in (state / "log").read_text().splitlines() if line.startswith("{")]


def paths_in(events: Events) -> set[str]:
    """By which paths peers were connected."""
    return {event["path"] for event in events if event["event"] == "peer"}


@contextmanager
def table(directory: Path, kind: Kind) -> Iterator[Table]:
    info_hash = kind.info_hash(directory)
    with opentracker(info_hash.hex()) as tracker:
        yield Table(tracker, kind.share(directory, getattr(tracker, kind.scheme)), directory)


Seed = Callable[[Shared], AbstractContextManager[object]]
"""Runs the other client with all the data."""

Leech = Callable[[Shared, Path], AbstractContextManager[Callable[[], bool]]]
"""Runs the other client with none, in a directory; says whether it is complete."""


def seeds_to_us(directory: Path, kind: Kind, seed: Seed, *options: str) -> Events:
    """The other client seeds; we come second, hear of it from the tracker and fetch everything."""
    with table(directory, kind) as at, seed(at.shared):
        at.tracker.wait_announced(at.shared.info_hash)
        events = at.our_download(*options)
        # The tracker's answer to our "completed" may come after that.
        assert [event["event"] for event in events].count("done") == 1
        return events


def leeches_from_us(directory: Path, kind: Kind, leech: Leech, *options: str, makes_empty_files: bool = True) -> Events:
    """The other client wants everything; we come second, hear of it from the tracker and dial it."""
    theirs = directory / "theirs"
    with table(directory, kind) as at, leech(at.shared, theirs) as is_complete:
        at.tracker.wait_announced(at.shared.info_hash)
        with at.our_seed(*options) as events:
            wait_until(is_complete, SECONDS, "the other client is complete")
        at.shared.assert_same(theirs, empty_files=makes_empty_files)
        return events


class Meetings:
    """All that one client does with us, begun at once: Transmission thinks about whom to serve every ten seconds only,
    and aria2 takes three to leave.  Each test waits for its own."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        directory: Path,
        kinds: Sequence[Kind],
        seed: Seed,
        leech: Leech,
        *options: str,
        makes_empty_files: bool = True,
    ) -> None:
        self._seeding: dict[Kind, Future[Events]] = {}
        self._leeching: dict[Kind, Future[Events]] = {}
        for number, kind in enumerate(kinds):
            for name in ("seeds", "leeches"):
                (directory / f"{name}{number}").mkdir()
            self._seeding[kind] = pool.submit(seeds_to_us, directory / f"seeds{number}", kind, seed, *options)
            self._leeching[kind] = pool.submit(
                leeches_from_us,
                directory / f"leeches{number}",
                kind,
                leech,
                *options,
                makes_empty_files=makes_empty_files,
            )

    def seeds_to_us(self, kind: Kind) -> Events:
        return self._seeding[kind].result()

    def leeches_from_us(self, kind: Kind) -> Events:
        return self._leeching[kind].result()
