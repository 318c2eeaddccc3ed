"""A daemon with a hundred torrents whose trackers hang, lie, redirect for ever and tell of other torrents.

It goes on answering, and the good trackers hear of every torrent as if there were no others.
"""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from dht.bencode import encode
from dht.compact import encode_peers
from swarm.discover.embedded_tracker import EmbeddedTracker
from swarm.endpoint import Endpoint
from swarm.net.real import RealNetwork
from swarm.torrent.create import create
from tests.interop.daemons import Daemon

pytestmark = pytest.mark.interop

COUNT = 100
ON_TIME = 20.0
"""Seconds within which every torrent is announced to its good tracker: 15 is the time of those with nothing else."""

LIST = ["id", "name", "status", "totalSize", "percentDone", "rateUpload", "trackerStats", "errorString", "peers"]

Serve = Callable[[trio.SocketStream], Awaitable[None]]


async def hangs(stream: trio.SocketStream) -> None:
    await stream.receive_some(65536)
    await trio.sleep_forever()


async def drips(stream: trio.SocketStream) -> None:
    """An answer that goes on for ever, a byte at a time."""
    await stream.receive_some(65536)
    await stream.send_all(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        await stream.send_all(b"x")
        await trio.sleep(0.2)


async def floods(stream: trio.SocketStream) -> None:
    await stream.receive_some(65536)
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10485760\r\n\r\n")
    for _ in range(160):
        await stream.send_all(bytes(65536))


async def redirects(stream: trio.SocketStream) -> None:
    request = await stream.receive_some(65536)
    path = bytes(request).split(b" ")[1].partition(b"?")[0]
    await stream.send_all(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: %bx?a\r\n\r\n" % path)


async def breaks(stream: trio.SocketStream) -> None:
    await stream.receive_some(65536)


def answers(**reply: object) -> Serve:
    body = encode({name.replace("_", " ").encode(): value for name, value in reply.items()})  # type: ignore[misc]

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    return serve


def crowd(count: int) -> bytes:
    dice = random.Random(1)
    return encode_peers([Endpoint(f"127.1.{dice.randrange(256)}.{dice.randrange(1, 255)}", 9) for _ in range(count)])


PRIVATE = encode_peers([Endpoint(host, 6881) for host in ("10.0.0.1", "192.168.1.1", "169.254.1.1", "224.0.0.1")])

BAD: dict[str, Serve] = {
    "hangs": hangs,
    "drips": drips,
    "floods": floods,
    "redirects": redirects,
    "breaks": breaks,
    "says interval 0": answers(interval=0, min_interval=0, peers=b""),
    "says intervals below 0": answers(interval=-5, min_interval=-(1 << 62), peers=PRIVATE),
    "says intervals beyond": answers(interval=1 << 62, min_interval=1 << 62, peers=b""),
    "names a crowd": answers(interval=1800, peers=crowd(150_000)),
    "names private addresses": answers(interval=1800, peers=PRIVATE * 50),
    "is about something else": answers(files={b"x" * 20: {b"complete": 1}}),
    "is no dictionary of a tracker": answers(),
}


@asynccontextmanager
async def bad_trackers(names: dict[str, Serve], asked: Counter[str]) -> AsyncIterator[dict[str, str]]:
    """Their URLs."""
    async with trio.open_nursery() as nursery:
        urls = {}
        for name, serve in names.items():

            async def handle(stream: trio.SocketStream, name: str = name, serve: Serve = serve) -> None:
                asked[name] += 1
                try:
                    await serve(stream)
                except trio.BrokenResourceError:  # it has heard enough
                    pass

            listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
            urls[name] = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/announce"
        yield urls
        nursery.cancel_scope.cancel()


async def test_bad_trackers_keep_neither_the_user_nor_good_ones_waiting(tmp_path: Path) -> None:
    daemon, tracker, asked = Daemon(tmp_path), EmbeddedTracker(random.Random(1)), Counter[str]()
    async with bad_trackers(BAD, asked) as urls, trio.open_nursery() as nursery:
        local = await nursery.start(tracker.serve, RealNetwork(), Endpoint("127.0.0.1", 0))
        good = f"http://127.0.0.1:{local.port}/announce"
        files = make_torrents(tmp_path / "data", good, list(urls.values()))
        waits: list[float] = []
        async with daemon.beside("-o", tmp_path / "data"):
            measuring = await nursery.start(_measure, daemon, waits)
            for path in files:
                await trio.to_thread.run_sync(partial(daemon.ask, "torrent-add", filename=str(path)))
            with trio.fail_after(ON_TIME):
                while len(_told(tracker, "started")) < COUNT:
                    await trio.sleep(0.1)
            await trio.sleep(3)  # into whatever follows
            rows = await trio.to_thread.run_sync(daemon.torrents, "trackerStats", "status", "errorString")
            measuring.cancel()
            assert [row["status"] for row in rows] == [6] * COUNT
            assert {row["errorString"] for row in rows} == {""}  # since one of its trackers answers
            ended = trio.current_time()
        assert trio.current_time() - ended < 6
        assert len(_told(tracker, "stopped")) == COUNT
        nursery.cancel_scope.cancel()
    print(f"{len(waits)} answers: median {statistics.median(waits):.3f} s, longest {max(waits):.3f} s; {asked}")
    assert len(waits) > 20
    assert statistics.median(waits) < 0.1
    assert max(waits) < 1.0  # of a machine that is busy with other tests
    assert set(asked) == set(BAD)
    assert max(asked.values()) <= COUNT  # an interval of 0 is not obeyed
    assert "Traceback" not in daemon.log()


def _told(tracker: EmbeddedTracker, event: str) -> set[bytes]:
    return {each.info_hash for each in tracker.announces if each.event == event}


def make_torrents(directory: Path, good: str, bad: list[str]) -> list[Path]:
    """Each has the good tracker, and a bad one in a tier of its own before it."""
    directory.mkdir()
    files = []
    for number in range(COUNT):
        path = directory / f"file-{number}"
        path.write_bytes(number.to_bytes(4, "big") * 4096)
        torrent = path.with_suffix(".torrent")
        torrent.write_bytes(create(path, trackers=[bad[number % len(bad)], good]))
        files.append(torrent)
    return files


async def _measure(daemon: Daemon, waits: list[float], *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    with trio.CancelScope() as scope:
        task_status.started(scope)
        while True:
            waits.append(await trio.to_thread.run_sync(daemon.seconds_to_answer, *LIST))
            await trio.sleep(0.1)
