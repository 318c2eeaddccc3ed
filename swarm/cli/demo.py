"""``swarm demo``: a tracker, a seed and a download on this machine alone, step by step; what `make demo` runs.

First over real sockets, all bound to 127.0.0.1; then `meet`, twice: the same nodes behind NATs, in the simulated
internet and its virtual time.  Keeps no state, and is gone when it ends.  The only part of the product that may use
`swarm.simnet`.
"""

from __future__ import annotations

import random
import sys
import tempfile
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio
from trio.testing import MockClock

import swarm
from swarm.cli.bars import page_for
from swarm.cli.interrupt import run_interruptible
from swarm.cli.screen import Screen
from swarm.cli.tables import tables
from swarm.cli.units import counted, format_bytes, format_duration, format_rate
from swarm.cli.verify import verify
from swarm.config import Config
from swarm.discover.embedded_tracker import EmbeddedTracker, open_tracker
from swarm.endpoint import Endpoint
from swarm.errors import NoProgressError, StorageError, VerificationError
from swarm.events import (
    ConnectionClosed,
    DialFailed,
    Event,
    PeerConnected,
    PunchAsked,
    PunchConnected,
    RendezvousRelayed,
    StorageFailed,
    TorrentCompleted,
    TrackerAnswered,
)
from swarm.net.real import RealNetwork
from swarm.node import Node, open_node
from swarm.simnet.catalogue import behind
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet, open_internet
from swarm.source import metainfo_of, read_source
from swarm.torrent.disk import run_inline
from swarm.torrent.metainfo import Metainfo
from swarm.torrent.storage import Storage

SAMPLE = "swarm-sample"
LOOPBACK = "127.0.0.1"
PATIENCE = 15.0
"""Seconds until the download is given up."""

QUIET_CONFIG = Config(bind=LOOPBACK, port=0, mapping=False, lsd=False, dht=False, state_directory=None)


TRACKER_PORT, PORT = 6969, 6881
SLOW = 1000
"""Bytes a second of the introducer, who so never has a piece to give."""

HEAD_START = 5.0
"""Seconds for which the seed is there before the leech."""

MEETINGS = (
    ("cone", "Both are behind a cone NAT, which lets in only those it has sent to before."),
    ("symrand", "The leech's NAT takes another random port for everyone it sends to (symmetric)."),
)
"""The leech's kind of NAT; the seed's is a cone.  And what that means."""

FOUND_BY = {
    "tcp-punched": "the hole is there: TCP passes both NATs",
    "utp-punched": "the hole is there: µTP passes both NATs",
    "predicted": "the port that was predicted is the right one",
    "birthday": "one of many ports and one of many guesses fit (birthday)",
}
WAYS = {"tcp-punched": "TCP, punched", "utp-punched": "µTP, punched", "tcp": "TCP", "utp": "µTP"}


def run(options: Namespace) -> int:
    for function, clock in ((_demo, None), (_meetings, MockClock(autojump_threshold=0))):
        if code := run_interruptible(function, clock=clock):
            return code
    print(f"\nAll of it took {format_duration(options.clock())}; nothing is left behind.")
    return 0


async def _demo() -> int:
    samples, metainfo = _sample()
    print("A tracker, a seed and a download on this machine, over real sockets.\n")
    with tempfile.TemporaryDirectory(prefix="swarm-demo-") as name:
        target = Path(name)
        tracker = EmbeddedTracker(random.SystemRandom(), interval=60, min_interval=1)
        async with open_tracker(RealNetwork(), Endpoint(LOOPBACK, 0), tracker) as address:
            url = f"http://{address}/announce"
            _say("tracker", f"listens on {url}")
            tracked = replace(metainfo, trackers=((url,),))
            async with open_node(QUIET_CONFIG) as seed:
                await _seed(seed, tracked, samples, tracker)
                async with open_node(QUIET_CONFIG) as leech:
                    await _download(leech, tracked, target)
        await _verify(metainfo, target)
    return 0


async def _seed(node: Node, metainfo: Metainfo, samples: Path, tracker: EmbeddedTracker) -> None:
    """Share the sample, and wait until the tracker knows."""
    torrent = node.add(metainfo, samples)
    await torrent.wait_checked()
    statistics = torrent.statistics()
    if statistics.pieces_had != statistics.pieces:
        raise VerificationError(f"the sample in {samples} is damaged")
    with trio.move_on_after(PATIENCE):
        while not tracker.announces:  # noqa: ASYNC110  (the tracker tells nobody)
            await trio.sleep(0.01)
    size = format_bytes(metainfo.total_size)
    _say("seed", f"shares {metainfo.name} ({size} in {counted(statistics.pieces, 'piece')}) on port {node.port}")


async def _download(node: Node, metainfo: Metainfo, target: Path) -> None:
    """Fetch it as any client would: what the tracker says is all that is known of the seed."""
    _say("download", f"knows the .torrent file only, listens on port {node.port}")
    started = trio.current_time()
    async with node.events() as events:
        torrent = node.add(metainfo, target)
        with trio.move_on_after(PATIENCE):
            await _tell_until_complete(events)
    if torrent.statistics().done != metainfo.total_size:
        raise NoProgressError(f"the download did not finish within {PATIENCE:.0f} seconds: {'; '.join(torrent.why())}")
    took = trio.current_time() - started
    downloaded = torrent.statistics().downloaded
    _say(
        "", f"all {counted(metainfo.piece_count, 'piece')} in {format_duration(took)}, {format_rate(downloaded / took)}"
    )


async def _tell_until_complete(events: AsyncIterator[tuple[float, Event]]) -> None:
    async for _, event in events:
        match event:
            case TrackerAnswered():
                _say("", f"the tracker names {counted(event.peers, 'peer')}")
            case PeerConnected():
                way = "connected to" if event.direction == "out" else "was called by"
                _say("", f"{way} {event.endpoint} ({event.client}) over {event.path}")
            case StorageFailed():
                raise StorageError(event.message)
            case TorrentCompleted():
                return


async def _verify(metainfo: Metainfo, target: Path) -> None:
    """Read everything again, as ``swarm verify`` does."""
    good, results = await verify(metainfo, Storage(target, metainfo), Screen(quiet=True))
    if good.count != metainfo.piece_count or any(result.problem for result in results):
        raise VerificationError("what was downloaded does not verify")
    _say("verify", f"{counted(len(results), 'file')} read again from disk: all hashes match")


# -- behind NATs, in the simulated internet ----------------------------------------------------------------------------


@dataclass
class Meeting:
    """What came to pass between nodes, in virtual seconds, and the leech's statistics at its end."""

    names: Mapping[str, str]
    """Who is behind an address that others see."""

    told: list[tuple[float, str, Event]] = field(default_factory=list)
    """When, of whom, and what: each node's in order."""

    started: float = 0.0
    ended: float = 0.0
    complete: bool = False
    document: Mapping[str, Any] = field(default_factory=dict)


async def _meetings() -> int:
    samples, metainfo = _sample()
    page = page_for(sys.stdout)
    print("\nThe same nodes in a simulated internet, with a clock of its own: a seed and a")
    print("leech behind NATs, and an introducer, whom all can reach but who has no data.")
    for number, (kind, meaning) in enumerate(MEETINGS, 1):
        with tempfile.TemporaryDirectory(prefix="swarm-demo-") as name:
            meeting = await meet("cone", kind, metainfo, samples, Path(name), number)
        if not meeting.complete:
            raise NoProgressError(f"the two did not meet within {PATIENCE:.0f} simulated seconds")
        print(f"\n{page.heading(meaning)}\n")
        for line in story(meeting):
            print(page.line(line, 2))
        took = format_duration(meeting.ended - meeting.started)
        print(
            f"\nAll {counted(metainfo.piece_count, 'piece')} in {took} of simulated time; `swarm stats` of the leech:\n"
        )
        for line in tables(meeting.document, page):
            print(line)
    return 0


async def meet(
    seed_kind: str, leech_kind: str, metainfo: Metainfo, samples: Path, target: Path, number: int
) -> Meeting:
    """A leech fetches the sample from a seed, each behind a kind of NAT of `swarm.simnet.catalogue`.

    To be run in virtual time; ``number`` seeds the dice.
    """
    async with open_internet(seed=number) as internet:
        tracker, introducer = internet.host("tracker"), internet.host("introducer")
        seed, leech = behind(internet, seed_kind, "seed"), behind(internet, leech_kind, "leech")
        hosts = tracker, introducer, seed, leech
        meeting = Meeting({_outside(internet, host): host.name for host in hosts})
        local = Endpoint(tracker.ipv4, TRACKER_PORT)
        tracked = replace(metainfo, trackers=((f"http://{local}/announce",),))
        async with (
            open_tracker(tracker, local, EmbeddedTracker(random.Random(number))),
            _simulated(introducer, meeting, number, download_rate=SLOW) as node,
            _simulated(seed, meeting, number) as seeding,
        ):
            node.add(tracked, target / "introducer")
            await trio.sleep(1)  # so that the seed, which nobody can dial, is told of the introducer
            seeding.add(tracked, samples)
            await trio.sleep(HEAD_START)
            meeting.started = trio.current_time()
            async with _simulated(leech, meeting, number) as leeching:
                torrent = leeching.add(tracked, target / "leech")
                with trio.move_on_after(PATIENCE):
                    await torrent.wait_complete()
                    meeting.complete = True
                meeting.ended = trio.current_time()
                meeting.document = leeching.document()
                await trio.sleep(0.1)  # until the last of it is told
    return meeting


@asynccontextmanager
async def _simulated(host: Host, meeting: Meeting, number: int, *, download_rate: int = 0) -> AsyncIterator[Node]:
    config = Config(port=PORT, lsd=False, dht=False, download_rate=download_rate)
    rng = random.Random(f"{host.name} {number}")
    async with (
        open_node(config, network=host, rng=rng, runner=run_inline) as node,
        node.events() as events,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_note, events, host.name, meeting)
        yield node
        nursery.cancel_scope.cancel()


async def _note(events: AsyncIterator[tuple[float, Event]], who: str, meeting: Meeting) -> None:
    async for when, event in events:
        meeting.told.append((when, who, event))


def _outside(internet: Internet, host: Host) -> str:
    router = internet.routers.get(f"{host.name}-home")
    return host.ipv4 if router is None else router.wan


def story(meeting: Meeting) -> Iterator[str]:
    """The meeting in plain words, a line for each fact that tells how the two found each other."""
    told: set[str] = set()
    for when, who, event in sorted(meeting.told, key=lambda told: told[0]):
        if meeting.started <= when <= meeting.ended and (what := _fact(who, event, meeting.names)) is not None:
            again = ", again" if what in told else ""
            told.add(what)
            yield f"{when - meeting.started:5.2f} s  {who:10}  {what}{again}"


def _fact(who: str, event: Event, names: Mapping[str, str]) -> str | None:
    match event:
        case TrackerAnswered() if who == "leech":
            return f"the tracker names {counted(event.peers, 'peer')}"
        case DialFailed(path="tcp" | "utp") if who == "leech":
            return (
                f"cannot reach the {names[event.endpoint.host]} by {WAYS[event.path]}: {event.reason.replace('-', ' ')}"
            )
        case PunchAsked(role="initiator"):
            return f"asks the {names[event.introducer.host]} to be introduced to the {names[event.endpoint.host]}"
        case RendezvousRelayed():
            return f"tells the {names[event.initiator.host]} and the {names[event.target.host]} of each other"
        case PunchConnected() if who == "leech":
            return FOUND_BY.get(event.path)
        case PeerConnected() if who == "leech":
            way = "connected to" if event.direction == "out" else "was called by"
            return f"{way} the {names[event.endpoint.host]}: {WAYS.get(event.path, event.path)}"
        case ConnectionClosed() if who == "leech":
            return f"closed one of them again ({WAYS.get(event.path, event.path)}): {event.reason.replace('-', ' ')}"
        case TorrentCompleted():
            return "has everything"
    return None


def _sample() -> tuple[Path, Metainfo]:
    """What is shared, and where it lies."""
    samples = samples_directory()
    torrent_file = samples / f"{SAMPLE}.torrent"
    return samples, metainfo_of(torrent_file, read_source(torrent_file))


def samples_directory() -> Path:
    """Where the sample is: inside an installed package, or beside it in a checkout."""
    package = Path(swarm.__file__).resolve().parent
    for directory in (package / "samples", package.parent / "torrents"):
        if (directory / f"{SAMPLE}.torrent").is_file():
            return directory
    raise StorageError(f"the sample that belongs to this installation is not in {package}")


def _say(who: str, what: str) -> None:
    print(f"  {who:9} {what}", flush=True)
