"""The connectivity grid on kernel NATs: can a leech behind one NAT fetch from a seed behind another, how soon, and how?

    tracker, rendezvous (public)  ---  seed (behind its NAT)  ---  leech (behind its NAT)

The rendezvous is a peer that knows both and has nothing to share: a leech of 4,000 bytes a second, with pieces so large
that it does not complete one in the minute that a cell may take.  It and the seed are up, announced and connected to
each other before the leech starts, and the seed's router has opened its port if it can.  Nodes are commands, ours or
libtorrent's, that listen on one port and tell the same lines of JSON.  A rendezvous may also relay (`--relay-serve`);
then two more peers first prove to it that strangers get through (`tests.netlab.provers`), and leave.  All have IPv4
alone or, where the kinds are of KINDS_IPV6, IPv6 alone.  There is no DHT or LSD; the tracker answers once in half an
hour, so that whoever came early learns of who comes late from peers or not at all.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from swarm.endpoint import Endpoint
from swarm.torrent.create import create
from tests.needs import need_module
from tests.netlab.commands import COMMANDS, PORT
from tests.netlab.coturn import Coturn
from tests.netlab.lab import Lab, Machine, wait_for_gateway
from tests.netlab.provers import Provers
from tests.netlab.routers import GATEWAYS
from tests.netlab.told import Line, Teller, statistics_of
from tests.nodes import make_sample

KINDS = (
    "open",
    "fullcone",
    "restricted",
    "cone",
    "symseq",
    "symrand",
    "udpblock",
    "upnp",
    "natpmp",
    "cgn",
    "cgnsym",
)  # fmt: skip

KINDS_IPV6 = ("v6open", "v6fw", "v6pin", "v6upnp")
"""In the open; behind a stateful firewall; behind one whose miniupnpd opens pinholes, by PCP or by UPnP."""

SAME = "same"
"""For a leech on the LAN of its seed."""

SIZE = 2 << 20  # bytes that the leech fetches
PIECE_LENGTH = 512 << 10

TRACKER_PORT = 6969
LIMIT = 60.0
"""Seconds from the leech's start to completion, else the cell has failed.

For a libtorrent leech behind udpblock and a seed behind restricted that is too short, whoever the seed is.  The leech's
TCP dial ends at 19.5 s, when it asks for a rendezvous; only then the seed hears of it, and opens its NAT.  But
libtorrent tries µTP alone now, and has used up both fast reconnects that it allows itself for one peer (µTP to TCP
before, µTP again in the punch): the TCP dial that would get through comes (failcount + 1) × min_reconnect_time = 180 s
later.  With that setting at 8 instead of 60 s the pair was complete after 50.7 s, with our seed and with libtorrent's.
"""

RENDEZVOUS_RATE = 4000
"""Bytes per second, each way: with such pieces it has none within two minutes."""

QUIET = 5.0
"""Seconds after the leech's start in which no other cell is set up."""

READY_LIMIT = 30.0
"""Seconds in which rendezvous and seed are to be announced and connected."""

FLUSH_LIMIT = 5.0
"""Seconds that libtorrent may take to write what it calls complete."""

MAPPED_LIMIT = 6.0
"""Seconds in which a seed may open its port; a node that has not by then does not."""

SETTLE = 3.0
"""Seconds between rendezvous and seed being connected and the leech's start.  A second after they met, peers tell each
other by PEX whom they know, and then once a minute; a leech that was in time for that first message would be flattered.
"""

NO_LOCK: AbstractContextManager[object] = nullcontext()

TRACKER = """
import random, sys, trio
from swarm.discover.embedded_tracker import EmbeddedTracker
from swarm.endpoint import Endpoint
from swarm.net.real import RealNetwork

async def main():
    tracker = EmbeddedTracker(random.Random(1), interval=1800, min_interval=1800)
    async with trio.open_nursery() as nursery:
        await nursery.start(tracker.serve, RealNetwork(), Endpoint(sys.argv[1], int(sys.argv[2])))
        print("ready")

trio.run(main)
"""


@dataclass(frozen=True)
class World:
    """Which client is at which place: "ours" or "lt"; as rendezvous also "relay", which is ours and relays; else also
    "turn", which is ours and has a TURN server, and "utp" and "tcp", which are ours and know no other transport."""

    seed: str
    leech: str
    rendezvous: str

    @classmethod
    def parse(cls, text: str) -> World:
        """``SEED-LEECH`` or ``SEED-LEECH-RENDEZVOUS``.  Else the rendezvous is libtorrent's unless both are ours.

        ValueError for anything else.
        """
        clients = text.split("-")
        if len(clients) == 2:
            clients.append("lt" if "lt" in clients else "ours")
        if len(clients) != 3 or not set(clients[:2]) <= {"ours", "lt", "turn"} or clients[2] not in COMMANDS:
            raise ValueError(f"{text}: SEED-LEECH or SEED-LEECH-RENDEZVOUS, each ours, turn or lt, the last also relay")
        return cls(*clients)


class Way(NamedTuple):
    """How two peers are connected; the direction as the leech sees it: "out" if it dialled."""

    path: str
    direction: str


@dataclass(frozen=True)
class Outcome:
    """What became of one cell."""

    seconds: float | None
    """From the start of the leech's process to the last byte; None: not within the limit."""

    first_piece: float | None
    """Likewise to the first verified piece; None also if the leech is libtorrent, which does not tell."""

    way: Way | None
    """The last connection of leech and seed, as our node tells it, or libtorrent if there is none of ours; None: there
    was none."""

    why: tuple[str, ...]
    """If it failed, what our leech said last; empty if the leech is libtorrent."""

    seed_mapped: bool | None
    """Whether the seed's router had opened the port when the leech started; None: it cannot."""


class Unready(Exception):
    """A cell could not be set up, so that it says nothing about its pair."""


class Pair:
    """A seed and a leech behind NATs (or one: SAME), a tracker and a rendezvous, in a laboratory of one IP version.

    The machines are there at once, with their gateways; then come `start_others`, `settle` and `start_leech`.  What the
    nodes tell is copied into the laboratory's directory.
    """

    def __init__(self, lab: Lab, seed_kind: str, leech_kind: str, world: World, *, rate: int = 0) -> None:
        """``rate``: bytes a second of seed and leech each way; 0: no limit."""
        if "lt" in (world.seed, world.leech, world.rendezvous):
            need_module("libtorrent")
        self.world = world
        self._rates = {"rendezvous": RENDEZVOUS_RATE, "seed": rate, "leech": rate}
        self.nodes: dict[str, Teller] = {}
        """By name: rendezvous, seed, leech."""
        self.tracker, self.rendezvous = lab.public("tracker"), lab.public("rendezvous")
        self._provers = Provers(lab) if world.rendezvous == "relay" else None
        self.coturn = Coturn(lab) if "turn" in (world.seed, world.leech) else None
        self.seed = lab.behind(seed_kind, "seed")
        self.leech = lab.sibling("leech", self.seed) if leech_kind == SAME else lab.behind(leech_kind, "leech")
        for machine in (self.seed, self.leech):
            if machine.kind in GATEWAYS:
                wait_for_gateway(machine)
        self._directory = lab.directory
        self._sample = make_sample(lab.directory / "seed", SIZE)
        announce = f"http://{Endpoint(self.tracker.address, TRACKER_PORT)}/announce"
        self._torrent = lab.directory / "sample.torrent"
        self._torrent.write_bytes(
            create(lab.directory / "seed/sample.bin", piece_length=PIECE_LENGTH, trackers=[announce])
        )

    def start_others(self) -> None:
        """Start all but the leech; `Unready` if they do not find each other."""
        self.start_tracker()
        if self.coturn is not None:
            self.coturn.start()
        if self._provers is not None:
            self._provers.start(self._torrent)
        self.start("rendezvous", self.rendezvous, self.world.rendezvous)
        self.wait_announced("rendezvous")
        if self._provers is not None:
            proved = _within(READY_LIMIT, self._is_relaying)
            self._provers.end()
            if not proved:
                raise Unready("the rendezvous does not know that it is reachable")
        self.start("seed", self.seed, self.world.seed)
        self.wait_announced("seed")
        seed = self.nodes["seed"].process
        _within(READY_LIMIT, lambda: self.way("seed", self.rendezvous) is not None or seed.poll() is not None)
        if self.way("seed", self.rendezvous) is None:
            raise Unready(f"the seed is not connected to the rendezvous; {self._last_words('seed')}")

    def settle(self) -> bool | None:
        """Block until others than the leech have nothing more to do; whether the seed's port is open, None: it cannot
        be."""
        mapped = None
        if self.seed.kind in GATEWAYS:
            mapped = _within(MAPPED_LIMIT, lambda: _is_mapped(self.seed))
        time.sleep(SETTLE)
        return mapped

    def start_leech(self) -> Teller:
        return self.start("leech", self.leech, self.world.leech)

    def is_complete(self) -> bool:
        """Whether the leech has what the seed has."""
        return self._sample.is_whole_in(self._directory / "leech")

    def way(self, name: str, other: Machine) -> Way | None:
        """How a node is, or else was last, connected to another machine, as it tells itself; None: it never was."""
        last: Line | None = None
        standing: list[Line] = []
        for line in self.nodes[name].lines("peer"):
            if _host(line) not in (other.external, other.address) and not self._is_relayed(line):
                continue
            if line["state"] == "connected":
                standing.append(line)
                last = line
            else:
                standing = [each for each in standing if not _is_end_of(line, each)]
        last = standing[-1] if standing else last
        return None if last is None else Way(last["path"], last["direction"])

    def way_to_seed(self) -> Way | None:
        """As the leech sees it, but told by the seed if that alone is ours."""
        if self.world.leech == "lt" and self.world.seed != "lt":
            way = self.way("seed", self.leech)
            return way and Way(way.path, "in" if way.direction == "out" else "out")
        return self.way("leech", self.seed)

    def _is_relayed(self, line: Line) -> bool:
        """Only seed and leech are ever told to be where the TURN server is."""
        return self.coturn is not None and _host(line) == self.coturn.machine.address

    def why(self) -> tuple[str, ...]:
        """What the leech said last about its lack of progress, and how it ended, if it did."""
        leech = self.nodes["leech"]
        stalled = leech.lines("stalled")
        said = stalled[-1]["reasons"] if stalled else []
        errors = [line["message"] for line in leech.lines("error")]
        ended = [] if leech.process.poll() is None else [self._last_words("leech")]
        return (*said, *errors, *ended)

    def is_open(self) -> bool:
        """Whether the seed's router forwards its port."""
        return _is_mapped(self.seed)

    def relayed_bytes(self) -> int:
        """What a rendezvous that relays has carried so far."""
        carried: int = self._relay_statistics()["bytes"]
        return carried

    def circuits(self) -> int:
        """How many stand at such a rendezvous."""
        standing: int = self._relay_statistics()["circuits"]
        return standing

    def _is_relaying(self) -> bool:
        serving: bool = self._relay_statistics()["serving"]
        return serving

    def _relay_statistics(self) -> dict[str, Any]:
        said = statistics_of(self.nodes["rendezvous"].process, self._directory / "rendezvous.stats")
        relay: dict[str, Any] = said["relay"]
        return relay

    def start_tracker(self) -> None:
        """Without one nobody finds anybody; `start_others` does it, too."""
        arguments = (self.tracker.address, str(TRACKER_PORT))
        process = self.tracker.python("-c", TRACKER, *arguments, log=self._directory / "tracker.log")
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise Unready("the tracker has not started")

    def start(self, name: str, machine: Machine, client: str, *options: str) -> Teller:
        """One node; whoever is called "seed" has everything, all others nothing."""
        directory = self._directory / name
        directory.mkdir(exist_ok=True)
        command = COMMANDS[client](name, machine, self._torrent, directory, self._rates.get(name, 0))
        started = time.monotonic()
        process = machine.start(*command, *options, log=self._directory / f"{name}.log")
        self.nodes[name] = Teller(process, started, self._directory / f"{name}.jsonl")
        return self.nodes[name]

    def wait_announced(self, name: str) -> None:
        """Until a node has told the tracker of itself; `Unready` if it does not."""
        if self.nodes[name].wait_for("tracker", READY_LIMIT) is None:
            raise Unready(f"the {name} has not announced itself; {self._last_words(name)}")

    def _last_words(self, name: str) -> str:
        """How a node ended."""
        code = self.nodes[name].process.poll()
        log = (self._directory / f"{name}.log").read_text().splitlines()
        return "it is still there" if code is None else f"it ended with exit code {code}: {log[-1] if log else ''}"


def measure(
    seed_kind: str,
    leech_kind: str,
    world: World,
    *,
    limit: float = LIMIT,
    quiet: AbstractContextManager[object] = NO_LOCK,
    logs: Path | None = None,
) -> Outcome:
    """One cell, in a laboratory of its own.  Both kinds are of KINDS, or both of KINDS_IPV6.

    `Unready` if it cannot be set up.  Where several are measured at once they share a lock ``quiet``: none is set up
    while the leech of another is in its first seconds; nodes that only wait for each other do not disturb.  ``logs``, a
    directory, gets what the nodes told and their standard error.
    """
    ipv6 = seed_kind in KINDS_IPV6
    with Lab(ipv4=not ipv6, ipv6=ipv6) as lab:
        try:
            with quiet:
                pair = Pair(lab, seed_kind, leech_kind, world)
                pair.start_others()
            return _measured(pair, limit, quiet)
        except Unready as error:
            unready = error  # and the laboratory is cleaned up like one that worked
        finally:
            if logs is not None:
                _keep_logs(lab.directory, logs)
    raise unready


def _measured(pair: Pair, limit: float, quiet: AbstractContextManager[object]) -> Outcome:
    mapped = pair.settle()
    with quiet:
        leech = pair.start_leech()
        leech.wait_for("done", min(limit, QUIET))
    seconds = leech.wait_for("done", limit)
    why = pair.why() if seconds is None else ()
    way = pair.way_to_seed()
    first_piece = leech.wait_for("piece", 0.0)
    if seconds is not None:
        assert _within(FLUSH_LIMIT, pair.is_complete), "the leech calls damaged data complete"
    return Outcome(seconds, first_piece, way, why, mapped)


def _host(line: Line) -> str:
    host: str = line["endpoint"].rpartition(":")[0]
    return host.strip("[]")  # libtorrent puts none around IPv6


def _is_end_of(lost: Line, connected: Line) -> bool:
    """libtorrent has one connection to an endpoint, and does not say how it was when it is over."""
    return all(lost.get(key, connected[key]) == connected[key] for key in ("endpoint", "path", "direction"))


def _is_mapped(machine: Machine) -> bool:
    """Whether the machine's router forwards the port, or lets it through, for TCP and UDP."""
    assert machine.router is not None
    chain = "miniupnpd" if machine.kind in KINDS_IPV6 else "prerouting_miniupnpd"
    forwarded = machine.router.run("nft", "list", "chain", "inet", "lab", chain)
    return forwarded.count(f"dport {PORT} ") >= 2


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Whether it became true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def _keep_logs(directory: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        if path.suffix in (".jsonl", ".log"):
            shutil.copy(path, target)
