"""Downloading from Python in one call.  Prints nothing, reads no environment, handles no signals.

    await swarm.download("ubuntu.torrent", "downloads")           # in trio
    swarm.download_sync("ubuntu.torrent", "downloads")            # anywhere else

For more than one torrent, for seeding and for statistics use `swarm.open_node`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from swarm.config import Config
from swarm.endpoint import Endpoint
from swarm.events import Event
from swarm.net.bound import bound
from swarm.net.network import Network
from swarm.net.real import RealNetwork
from swarm.node import Node, lone_exception, open_node
from swarm.source import load_source
from swarm.torrent.magnet import Magnet
from swarm.torrent.metainfo import Metainfo

EVENTS_WAITING = 10_000
"""Events that may wait for ``on_event``; what comes beyond is counted, not kept."""

BOOKMARK_LOST = 1.0
"""Seconds after which a bookmark counts as dropped with the events beyond EVENTS_WAITING."""

Source = str | os.PathLike[str] | Metainfo


@dataclass(frozen=True, slots=True)
class Bookmark(Event):
    """No fact, but a place in the order of events: whoever listens sets ``reached`` when it comes by."""

    reached: trio.Event = field(default_factory=trio.Event)

    async def reach(self, node: Node) -> None:
        """Block until what has happened so far was told to the listener."""
        node.emit(self)
        with trio.move_on_after(BOOKMARK_LOST):
            await self.reached.wait()


async def download(
    source: Source,
    directory: str | os.PathLike[str] = ".",
    *,
    config: Config | None = None,
    select: Collection[int] | None = None,
    peers: Iterable[Endpoint] = (),
    on_event: Callable[[Event], object] | None = None,
    network: Network | None = None,
) -> Path:
    """Fetch one torrent and return the path of what was fetched, ``directory``/name, complete and verified.

    ``source`` is a path, an http(s) URL, a magnet link, an info-hash in hex, or a parsed `swarm.Torrent`.  What is in
    ``directory`` already is verified and kept.  ``config`` is the node's; with its ``state_directory`` set, a later
    call need not hash everything again.  ``select`` are indices of files, None for all; ``peers`` are asked at once.
    ``on_event`` is called for every event, in order.

    Waits for as long as it takes: use `trio.move_on_after`.  Cancelled, it saves and leaves within three seconds, and
    the next call goes on from there.  Raises the errors under `swarm.SwarmError`.
    """
    network = network or RealNetwork()
    loaded: Metainfo | Magnet
    if isinstance(source, Metainfo):
        loaded = source
    else:
        through = bound(network, config.bind if config is not None else None)
        loaded = await load_source(source, through)
    try:
        async with open_node(config, network=network) as node, trio.open_nursery() as nursery:
            if on_event is not None:
                await nursery.start(_pass_on, node, on_event)
            torrent = node.add(loaded, Path(directory), select=select, peers=peers)
            await torrent.wait_complete()
            if on_event is not None:
                await Bookmark().reach(node)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise lone_exception(group) from None
    return Path(directory) / torrent.name


def download_sync(
    source: Source,
    directory: str | os.PathLike[str] = ".",
    *,
    config: Config | None = None,
    select: Collection[int] | None = None,
    peers: Iterable[Endpoint] = (),
    on_event: Callable[[Event], object] | None = None,
    timeout: float | None = None,
) -> Path:
    """`download` in a trio run of its own, for programs without trio; not to be called inside one.

    ``timeout`` is in seconds: then TimeoutError, and a later call goes on from there.
    """

    async def run() -> Path:
        with trio.fail_after(float("inf") if timeout is None else timeout):
            return await download(source, directory, config=config, select=select, peers=peers, on_event=on_event)

    try:
        return trio.run(run)
    except trio.TooSlowError:
        raise TimeoutError(f"the download did not finish within {timeout} seconds") from None


async def _pass_on(
    node: Node, on_event: Callable[[Event], object], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    async with node.events(EVENTS_WAITING) as events:
        task_status.started()
        async for _, event in events:
            if isinstance(event, Bookmark):
                event.reached.set()
            else:
                on_event(event)
