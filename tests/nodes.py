"""Whole nodes for system tests: something to share, nodes on a simulated internet, and a record of their events.

Nodes run unchanged; only the network, the dice and the way blocking calls are run are passed in.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import trio

from swarm.config import Config
from swarm.endpoint import Endpoint
from swarm.events import Event
from swarm.net.network import Network
from swarm.node import Node, open_node
from swarm.torrent.create import create
from swarm.torrent.disk import run_inline
from swarm.torrent.metainfo import Metainfo, parse_torrent_untrusted
from swarm.torrent.torrent import Torrent

E = TypeVar("E", bound=Event)

PORT = 6881


@dataclass(frozen=True)
class Sample:
    """Something to share: ``content`` lies in ``directory / metainfo.name``."""

    metainfo: Metainfo
    directory: Path
    content: bytes

    def piece(self, index: int) -> bytes:
        start = index * self.metainfo.piece_length
        return self.content[start : start + self.metainfo.piece_size(index)]

    def is_whole_in(self, directory: Path) -> bool:
        return (directory / self.metainfo.name).read_bytes() == self.content


def make_sample(
    directory: Path,
    size: int,
    piece_length: int = 64 << 10,
    *,
    seed: int = 1,
    trackers: Sequence[str] = (),
    private: bool = False,
) -> Sample:
    """A file of ``size`` random bytes and its torrent."""
    directory.mkdir(parents=True, exist_ok=True)
    content = random.Random(seed).randbytes(size)
    (directory / "sample.bin").write_bytes(content)
    torrent = create(directory / "sample.bin", piece_length=piece_length, trackers=trackers, private=private)
    return Sample(parse_torrent_untrusted(torrent), directory, content)


class Recorded:
    """A node, and every event it emitted so far."""

    def __init__(self, node: Node, channel: AsyncIterator[tuple[float, Event]]) -> None:
        assert isinstance(channel, trio.MemoryReceiveChannel)
        self.node = node
        self._channel = channel
        self._events: list[tuple[float, Event]] = []

    @property
    def events(self) -> list[tuple[float, Event]]:
        """All so far, with their times."""
        self.drain()
        return self._events

    def drain(self) -> None:
        """Take over what waits in the channel."""
        while self._channel.statistics().current_buffer_used:
            self._events.append(self._channel.receive_nowait())

    def forget(self) -> None:
        """All so far never happened."""
        self.drain()
        self._events.clear()

    def of(self, kind: type[E], **fields: Any) -> list[E]:
        """The events of a class whose fields have these values, in order."""
        return [
            event
            for _, event in self.events
            if isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items())
        ]

    async def wait_for(self, kind: type[E], **fields: Any) -> E:
        """The first event that fits, past or to come."""
        while True:
            if found := self.of(kind, **fields):
                return found[0]
            self._events.append(await self._channel.receive())


@asynccontextmanager
async def node_on(network: Network, number: int, **config: Any) -> AsyncIterator[Recorded]:
    """A node on ``network`` in virtual time, its dice seeded with ``number``."""
    config = {"port": PORT, "trackers": False, "dht": False, "lsd": False, "mapping": False, **config}
    rng = random.Random(number)
    node_opened = open_node(Config(**config), network=network, rng=rng, runner=run_inline)
    async with node_opened as node, node.events(1_000_000) as channel:
        recorded = Recorded(node, channel)
        try:
            yield recorded
        finally:
            recorded.drain()  # what is still in the channel, before it closes


async def seeding(node: Recorded, sample: Sample, **options: Any) -> Torrent:
    """The sample shared by the node that has it."""
    torrent = node.node.add(sample.metainfo, sample.directory, **options)
    await torrent.wait_checked()
    assert torrent.state == "seeding"
    return torrent


def endpoints(*hosts: str, port: int = PORT) -> list[Endpoint]:
    return [Endpoint(host, port) for host in hosts]


def tasks_below(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    """The task and all that it started, at any depth."""
    yield task
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from tasks_below(child)
