"""A session without disk, queue or policy: what is asked for is noted, and happens at once if it can."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import trio

from dht.bencode import encode
from swarm.config import Config
from swarm.daemon.entry import Counters, Entry, Times, Wishes
from swarm.daemon.options import Options
from swarm.daemon.session import AlreadyThere, Sums, Totals
from swarm.daemon.state import StateDirectory
from swarm.net.real import RealNetwork
from swarm.stats.snapshot import Reachability
from swarm.torrent.magnet import Magnet
from swarm.torrent.metainfo import Metainfo, parse_torrent_untrusted


class PlainNode:
    """As much of a node as the RPC asks without torrents that run."""

    def __init__(self) -> None:
        self.config = Config(port=51413)
        self.port = 51413
        self.network = RealNetwork()
        self.reachability = Reachability(None, None, None, None)
        self.standing = SimpleNamespace(
            strangers=SimpleNamespace(probe=SimpleNamespace(report=lambda now: self.reachability))
        )

    def document(self) -> dict[str, Any]:
        return {"schema": 1}


class PlainSession:
    def __init__(self, directory: Path) -> None:
        self.node: Any = PlainNode()
        self.options = Options(download_dir=directory)
        self.state = StateDirectory(directory / "state")
        self.entries: dict[int, Entry] = {}
        self.removed: list[tuple[int, float]] = []
        self.calls: list[tuple[Any, ...]] = []
        self.close_requested = trio.Event()

    def find(self, key: int | str | bytes) -> Entry | None:
        if isinstance(key, int):
            return self.entries.get(key)
        return next((e for e in self.entries.values() if key in (e.info_hash, e.info_hash.hex())), None)

    async def add(
        self,
        source: Metainfo | Magnet,
        *,
        directory: Path | None = None,
        paused: bool | None = None,
        wishes: Wishes | None = None,
    ) -> Entry:
        if (known := self.find(source.info_hash)) is not None:
            raise AlreadyThere(known)
        number = max(self.entries, default=0) + 1
        entry = Entry(
            number,
            source,
            directory or self.options.download_dir,
            times=Times(added_at=time.time()),
            wishes=wishes or Wishes(),
            paused=bool(paused),
            counters=Counters(),
        )
        entry.queue_position = len(self.entries)
        self.entries[number] = entry
        return entry

    def _note(self, name: str, entry: Entry, *more: object) -> None:
        self.calls.append((name, entry.id, *more))

    async def start(self, entry: Entry, *, now: bool = False) -> None:
        self._note("start", entry, now)

    async def stop(self, entry: Entry) -> None:
        entry.paused = True
        self._note("stop", entry)

    async def verify(self, entry: Entry) -> None:
        self._note("verify", entry)

    async def reannounce(self, entry: Entry) -> None:
        self._note("reannounce", entry)

    async def remove(self, entry: Entry, *, delete_data: bool = False) -> None:
        self._note("remove", entry, delete_data)
        del self.entries[entry.id]
        self.removed.append((entry.id, time.time()))

    async def set_location(self, entry: Entry, directory: Path, *, move: bool) -> None:
        entry.directory = directory
        self._note("set_location", entry, str(directory), move)

    async def change(self, entry: Entry, **wishes: Any) -> None:
        entry.wishes = replace(entry.wishes, **wishes)

    async def queue_move(self, entries: Iterable[Entry], where: str) -> None:
        self.calls.append(("queue_move", [entry.id for entry in entries], where))

    async def queue_place(self, entry: Entry, position: int) -> None:
        self._note("queue_place", entry, position)

    async def set_options(self, **changes: Any) -> None:
        self.options = replace(self.options, **changes)

    def request_close(self) -> None:
        self.close_requested.set()

    def totals(self) -> Totals:
        return Totals(Sums(1, 2, 3, 4, 5.5), Sums(10, 20, 30, 40, 50.5))


def sample(number: int = 0) -> Metainfo:
    """One of many torrents, of six files of odd sizes each, pad file included."""
    sizes = [(1000 * number + 37 * index**3) % 70_001 for index in range(1, 7)]
    files = [{b"length": size, b"path": [b"folder", b"file %d.mkv" % index]} for index, size in enumerate(sizes)]
    files[2] = {b"length": sizes[2], b"path": [b".pad"], b"attr": b"p"}
    pieces = -(-sum(sizes) // 16_384)
    info = {b"files": files, b"name": b"sample %d" % number, b"piece length": 16_384, b"pieces": bytes(20 * pieces)}
    around = {b"announce": b"http://tracker.example/announce", b"info": info}
    return parse_torrent_untrusted(encode(around))
