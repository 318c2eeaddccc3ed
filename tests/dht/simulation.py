"""A network of `DhtNode` cores under virtual time, without trio: loss, latency, dead nodes, NATs, Sybils, poison."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from dht import bencode
from dht.address import is_local
from dht.compact import encode_nodes
from dht.config import DhtConfig
from dht.datagram import Address, Outgoing, Path
from dht.node import DhtNode
from dht.results import PeersFound, Result, SearchEnded

NAT_LIFETIME = 120.0  # seconds that a NAT remembers whom its host has sent to
JOINING = 100.0  # seconds that it takes a large network to join
JOIN_PAUSE = 0.1  # seconds between two joins in a smaller one
MIN_LATENCY, MAX_LATENCY = 0.01, 0.12  # seconds one way

Tamper = Callable[["Host", bytes], bytes]


@dataclass(eq=False)
class Host:
    """An address with a node, or with whatever ``stranger`` does with a datagram, or dead (neither)."""

    address: Address
    node: DhtNode | None = None
    stranger: Callable[[bytes, Address], bytes | None] | None = None
    natted: bool = False
    sent_to: dict[Address, float] = field(default_factory=dict)
    wakes_at: float = float("inf")
    results: list[Result] = field(default_factory=list)


class Simulation:
    """Hosts and the datagrams under way between them.

    ``tamper`` may replace a datagram as it leaves.  Nothing happens outside of `run` and `touch`.
    """

    def __init__(self, seed: int, *, loss: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.loss = loss
        self.now = 1000.0
        self.hosts: dict[Address, Host] = {}
        self.tamper: Tamper | None = None
        self.on_results: Callable[[Host], None] | None = None
        self.datagrams = 0
        self._events: list[tuple[float, int, Host, bytes | None, Address | None]] = []
        self._sequence = 0

    def address(self) -> Address:
        """An unused public IPv4 address."""
        while True:
            octets = [self.rng.randrange(1, 224), *(self.rng.randrange(256) for _ in range(3))]
            address = (".".join(map(str, octets)), self.rng.randrange(1024, 65536))
            if address not in self.hosts and not is_local(address[0]):
                return address

    def add_node(self, routers: tuple[Address, ...] = (), *, natted: bool = False, knows_itself: bool = True) -> Host:
        """A node that may bootstrap from ``routers``; it starts with `touch` after `DhtNode.start`."""
        address = self.address()
        config = DhtConfig(routers=routers, external_host=address[0] if knows_itself else None)
        node = DhtNode(config, random.Random(self.rng.getrandbits(64)))
        host = self.hosts[address] = Host(address, node, natted=natted)
        return host

    def add_stranger(self, stranger: Callable[[bytes, Address], bytes | None], address: Address | None = None) -> Host:
        address = address or self.address()
        host = self.hosts[address] = Host(address, stranger=stranger)
        return host

    def touch(self, host: Host) -> None:
        """Send what the host's node has to send and note its deadline: after every call on the node."""
        assert host.node is not None
        for outgoing in host.node.datagrams_to_send(self.now):
            self._post(host, outgoing)
        host.results += host.node.take_results()
        if host.results and self.on_results is not None:
            self.on_results(host)
        deadline = host.node.next_deadline()
        if deadline is not None and deadline < host.wakes_at:
            host.wakes_at = deadline
            self._push(deadline, host, None, None)

    def send(self, host: Host, datagram: bytes, to: Address) -> None:
        """A datagram from ``host`` that no node made."""
        self._post(host, Outgoing((datagram,), len(datagram), Path(None, to)))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass, at most until the condition holds."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end and not until():
            self.now, _, host, datagram, sender = heapq.heappop(self._events)
            if datagram is None:
                self._wake(host)
            else:
                assert sender is not None
                self._deliver(host, datagram, sender)
        if not until():
            self.now = end

    def _wake(self, host: Host) -> None:
        if host.node is None or host.wakes_at > self.now:
            return
        host.wakes_at = float("inf")
        host.node.handle_deadline(self.now)
        self.touch(host)

    def _deliver(self, host: Host, datagram: bytes, sender: Address) -> None:
        if host.natted and self.now - host.sent_to.get(sender, float("-inf")) > NAT_LIFETIME:
            return
        if host.node is not None:
            host.node.receive_batch([memoryview(datagram)], Path(None, sender), self.now)
            self.touch(host)
        elif host.stranger is not None:
            answer = host.stranger(datagram, sender)
            if answer is not None:
                self.send(host, answer, sender)

    def _post(self, host: Host, outgoing: Outgoing) -> None:
        self.datagrams += 1
        remote = outgoing.path.remote
        if host.natted:
            host.sent_to[remote] = self.now
        target = self.hosts.get(remote)
        if target is None or self.rng.random() < self.loss:
            return
        datagram = b"".join(outgoing.buffers)
        assert len(datagram) == outgoing.segment_size <= 1024
        if self.tamper is not None:
            datagram = self.tamper(host, datagram)
        latency = self.rng.uniform(MIN_LATENCY, MAX_LATENCY)
        self._push(self.now + latency, target, datagram, host.address)

    def _push(self, when: float, host: Host, datagram: bytes | None, sender: Address | None) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (when, self._sequence, host, datagram, sender))


@dataclass(frozen=True)
class Outcome:
    """What a search came to."""

    peers: frozenset[Address]
    ended: SearchEnded
    seconds: float


def grown(seed: int, size: int, *, loss: float = 0.0, dead: float = 0.0, natted: float = 0.0) -> Simulation:
    """A network of ``size`` nodes that all bootstrapped from one of three routers; then ``dead`` of them died."""
    simulation = Simulation(seed)
    routers = [simulation.add_node()]
    routers += [simulation.add_node((routers[0].address,)) for _ in range(2)]
    hosts = list(routers)
    for host in routers:
        _node(host).start(simulation.now)
        simulation.touch(host)
    simulation.run(10.0)
    simulation.loss = loss
    for _ in range(size - len(routers)):
        router = simulation.rng.choice(routers)
        hosts.append(simulation.add_node((router.address,), natted=simulation.rng.random() < natted))
    for host in hosts[len(routers) :]:
        _node(host).start(simulation.now)
        simulation.touch(host)
        simulation.run(min(JOIN_PAUSE, JOINING / size))
    simulation.run(60.0)
    for host in simulation.rng.sample(hosts[3:], int(size * dead)):
        host.node = None
    for host in hosts:
        host.results.clear()
    return simulation


def alive(simulation: Simulation) -> list[Host]:
    return [host for host in simulation.hosts.values() if host.node is not None]


def announce(simulation: Simulation, jobs: list[tuple[Host, bytes]], port: int = 6881) -> list[Outcome]:
    """Each host announces its info-hash, all at the same time."""
    return _finish(simulation, [(host, _node(host).announce(what, port)) for host, what in jobs])


def get_peers(simulation: Simulation, jobs: list[tuple[Host, bytes]]) -> list[Outcome]:
    """Each host searches for its info-hash, all at the same time."""
    return _finish(simulation, [(host, _node(host).get_peers(what)) for host, what in jobs])


def _node(host: Host) -> DhtNode:
    assert host.node is not None
    return host.node


def _finish(simulation: Simulation, searches: list[tuple[Host, int]]) -> list[Outcome]:
    started = simulation.now
    waiting = dict.fromkeys(searches)
    peers: dict[tuple[Host, int], list[Address]] = {search: [] for search in searches}
    outcomes: dict[tuple[Host, int], Outcome] = {}

    def take(host: Host) -> None:
        for result in host.results:
            if isinstance(result, PeersFound):
                peers[host, result.handle] += result.peers
            elif isinstance(result, SearchEnded):
                found = peers[host, result.handle]
                assert len(set(found)) == len(found), "a peer was reported twice"
                del waiting[host, result.handle]
                outcomes[host, result.handle] = Outcome(frozenset(found), result, simulation.now - started)
        host.results.clear()

    for host, _ in searches:
        simulation.touch(host)
    simulation.on_results = take
    simulation.run(600.0, until=lambda: not waiting)
    simulation.on_results = None
    assert not waiting, "a search did not end in ten minutes"
    return [outcomes[search] for search in searches]


def reply_with_nodes(query: dict[bytes, bencode.Value], node_id: bytes, nodes: list[tuple[bytes, Address]]) -> bytes:
    """An answer to any query that names ``nodes`` and gives a token."""
    return bencode.encode(
        {
            b"r": {b"id": node_id, b"nodes": encode_nodes(nodes), b"token": b"12345678"},
            b"t": query[b"t"],
            b"y": b"r",
        }
    )
