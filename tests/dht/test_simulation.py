"""Whole networks under virtual time: lookups find what was announced, through loss, death, NATs, Sybils and poison.

The figures are printed (``pytest -s``).  Small networks by default, the full ones under ``soak``.
"""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import dataclass

import pytest

from dht import bencode
from dht.compact import Node, decode_nodes_untrusted, encode_nodes
from dht.datagram import Address
from dht.nodeid import fits_address, make_node_id
from tests.dht.simulation import Host, Outcome, Simulation, Tamper, alive, announce, get_peers, grown, reply_with_nodes

HARSH = {"loss": 0.2, "dead": 0.1, "natted": 0.3}
SEED = 1


def report(name: str, size: int, outcomes: list[Outcome]) -> None:
    hops = statistics.mean(outcome.ended.hops for outcome in outcomes)
    queries = statistics.mean(outcome.ended.queries for outcome in outcomes)
    answers = statistics.mean(outcome.ended.answers for outcome in outcomes)
    seconds = statistics.median(outcome.seconds for outcome in outcomes)
    print(
        f"\n{name}, {size} nodes: {hops:.1f} hops, {queries:.1f} queries, {answers:.1f} answers, "
        f"{seconds:.2f} s; log2(n) = {math.log2(size):.1f}"
    )


def tried(simulation: Simulation, hosts: list[Host], tries: int, name: str) -> int:
    """How many of ``tries`` searches, each from a random node for what another one announced, found it."""
    jobs = []
    for _ in range(tries):
        announcer, searcher = simulation.rng.sample(hosts, 2)
        jobs.append((announcer, searcher, simulation.rng.randbytes(20)))
    announced = announce(simulation, [(announcer, info_hash) for announcer, _, info_hash in jobs])
    report(f"{name}, announce", len(hosts), announced)
    searched = get_peers(simulation, [(searcher, info_hash) for _, searcher, info_hash in jobs])
    report(f"{name}, get_peers", len(hosts), searched)
    found = [(job[0].address[0], 6881) in outcome.peers for job, outcome in zip(jobs, searched, strict=True)]
    print(f"{sum(found)} of {tries} searches found the peer")
    return sum(found)


def test_in_a_sound_network_every_search_succeeds() -> None:
    simulation = grown(SEED, 100)
    assert tried(simulation, alive(simulation), 50, "sound") == 50


def test_searches_succeed_through_loss_death_and_nats() -> None:
    simulation = grown(SEED, 150, **HARSH)
    assert tried(simulation, alive(simulation), 100, "harsh") >= 97


@pytest.mark.soak
def test_99_of_100_searches_succeed_in_a_harsh_network_of_1000() -> None:
    simulation = grown(SEED, 1000, **HARSH)
    assert tried(simulation, alive(simulation), 200, "harsh") >= 198


def test_tables_know_their_neighbourhood() -> None:
    simulation = grown(SEED, 100)
    hosts = alive(simulation)
    known = []
    for host in hosts:
        assert host.node is not None
        own = int.from_bytes(host.node.node_id, "big")
        others = [int.from_bytes(other.node.node_id, "big") for other in hosts if other is not host and other.node]
        closest = sorted(others, key=lambda number: number ^ own)[:8]
        contacts = {contact.number for contact in host.node.table.contacts()}
        known.append(sum(number in contacts for number in closest))
    assert statistics.mean(known) > 7.5


@dataclass
class Harm:
    """What the attackers got to do."""

    sybil_answers: int = 0
    poisoned: int = 0


def sybils_around(simulation: Simulation, target: bytes, count: int, victims: list[Host], harm: Harm) -> list[Host]:
    """``count`` nodes at addresses of their own, eight in each /24, with ids next to ``target``.

    They answer every query with each other and introduce themselves to everybody they can.  Their ids do not fit
    their addresses but by chance: to own 200 addresses that do is what BEP 42 makes dear.
    """
    rng = simulation.rng
    gang: list[Node] = []
    networks = [simulation.address()[0].rpartition(".")[0] for _ in range(count // 8)]
    hosts = []

    def answer(own: bytes, datagram: bytes, sender: Address) -> bytes | None:
        query = bencode.decode_untrusted(datagram, strict_order=False)
        assert isinstance(query, dict)
        if query.get(b"y") != b"q":
            return None
        harm.sybil_answers += 1
        return reply_with_nodes(query, own, rng.sample(gang, 8))

    for number in range(count):
        node_id = target[:8] + rng.randbytes(12)
        address = (f"{networks[number % len(networks)]}.{number // len(networks) + 1}", 6881)
        gang.append((node_id, address))
        hosts.append(simulation.add_stranger(lambda data, sender, own=node_id: answer(own, data, sender), address))
    for host, (node_id, _) in zip(hosts, gang, strict=True):
        query = {b"a": {b"id": node_id, b"target": target}, b"q": b"find_node", b"t": b"tt", b"y": b"q"}
        for victim in rng.sample(victims, min(30, len(victims))):
            simulation.send(host, bencode.encode(query), victim.address)
    simulation.run(20.0)
    return hosts


def poison(rng: random.Random, target: bytes, share: float, harm: Harm) -> Tamper:
    """A tamper function: so many of all answers with nodes name eight next to the target that do not exist.

    Half of them claim addresses that the target's prefix fits: claiming costs nothing, BEP 42 does not stop it.
    """
    octets = [21, 75, 31, 124]
    claimable = []
    while len(claimable) < 64:
        host = f"{octets[0] & 3 | rng.randrange(3, 50) << 2}.{octets[1] & 15 | rng.randrange(16) << 4}.31.{octets[3]}"
        node_id = target[:8] + rng.randbytes(11) + target[-1:]
        if fits_address(node_id, host):
            claimable.append((node_id, (host, 6881)))

    def tamper(host: Host, datagram: bytes) -> bytes:
        if b"5:nodes" not in datagram or rng.random() >= share:
            return datagram
        message = bencode.decode_untrusted(datagram)
        assert isinstance(message, dict)
        returned = message.get(b"r")
        if not isinstance(returned, dict) or not returned.get(b"nodes"):
            return datagram
        compact = returned[b"nodes"]
        assert isinstance(compact, bytes)
        fakes = [
            *rng.sample(claimable, 4),
            *((target[:8] + rng.randbytes(12), (f"8.8.{rng.randrange(256)}.8", 1)) for _ in range(4)),
        ]
        returned[b"nodes"] = encode_nodes(fakes[: len(decode_nodes_untrusted(compact))])
        harm.poisoned += 1
        return bencode.encode(message)

    return tamper


def attacked(size: int, tries: int) -> int:
    simulation = grown(SEED, size, **HARSH)
    hosts = alive(simulation)
    # The target has the prefix that fits 21.75.31.124: the poisoner's claims are as good as they can be.
    target = make_node_id("21.75.31.124", simulation.rng)
    harm = Harm()
    sybils_around(simulation, target, 200, hosts, harm)
    simulation.tamper = poison(simulation.rng, target, 0.2, harm)
    harm.sybil_answers = found = 0
    rounds = 10
    for number in range(rounds):
        info_hash = target[:10] + number.to_bytes(2, "big") + target[12:]
        announcer = simulation.rng.choice(hosts)
        announce(simulation, [(announcer, info_hash)])
        searched = get_peers(
            simulation, [(searcher, info_hash) for searcher in simulation.rng.sample(hosts, tries // rounds)]
        )
        report("attacked", size, searched)
        found += sum((announcer.address[0], 6881) in outcome.peers for outcome in searched)
    print(
        f"{found} of {tries} searches found the peer among 200 Sybils ({harm.sybil_answers} answers) and poison", end=""
    )
    print(f" ({harm.poisoned} replies)")
    assert harm.sybil_answers > 2 * tries, "the Sybils were hardly asked"
    assert harm.poisoned > tries, "hardly a reply was poisoned"
    return found


def test_searches_succeed_among_sybils_and_poison() -> None:
    assert attacked(120, 60) >= 57


@pytest.mark.soak
def test_95_of_100_searches_succeed_among_200_sybils_and_poison_in_a_network_of_1000() -> None:
    assert attacked(1000, 200) >= 190
