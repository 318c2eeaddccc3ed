"""What others say of where they see us, bounded and aged: the ballot box of `swarm.connect.natprobe`.

Nothing vouches for one report (the ``ip`` of BEP 42, ``yourip`` of BEP 10, BEP 24, STUN): whoever can be asked can lie.
Hosts are cheap to one who owns a network, so each IPv4 /24 or IPv6 /48 has one voice: what was heard of it last.
Draws no conclusions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Literal, NamedTuple

from swarm.endpoint import Endpoint

Source = Literal["dht", "bep10", "tracker", "stun", "pex", "reach", "introducer"]
"""By which way a report came: an answer of the DHT, an extension handshake, `sw_reach`, and so on."""

MAX_AGE = 600.0
"""Seconds for which a report counts."""

MAX_NETWORKS = 32
"""Networks that have a voice, those heard last; as many again that told the address only.  So a new address has the
majority after seventeen reports, thirty-three at worst."""

MAX_PER_NETWORK = 4
"""Reports kept of one network, the latest of each endpoint in it."""

QUORUM = 4
"""Voices that decide.  hyperdht takes as many; with three, one liar leaves a draw."""


class Sample(NamedTuple):
    """One look at a mapping of our UDP socket."""

    time: float
    """When ``reporter`` was first heard to see us there; of two mappings the one with the lower time is older."""

    reporter: Endpoint
    external: Endpoint


@dataclass(frozen=True, slots=True)
class Vote:
    """A report.  A port of 0 was not told: ``reporter`` is then a host, or saw us by another socket."""

    made: float
    heard: float
    reporter: Endpoint
    external: Endpoint
    source: Source


class Votes:
    """The latest reports.  Times are seconds of the caller's clock and never go back."""

    def __init__(self) -> None:
        self._ports = _Box()  # the reports that told the port: the others, which are more, do not crowd them out
        self._others = _Box()

    def add(self, reporter: Endpoint, external: Endpoint, source: Source, now: float) -> None:
        """Count a report.  Beyond the bounds the one that is longest without another makes room."""
        (self._ports if external.port else self._others).add(reporter, external, source, now)

    def voices(self, now: float) -> list[Vote]:
        """One vote of each network that was heard within MAX_AGE: what it said last."""
        voices: dict[str, Vote] = {}
        for box in (self._others, self._ports):
            for network, votes in box.fresh(now):
                if network not in voices or voices[network].heard <= votes[-1].heard:
                    voices[network] = votes[-1]
        return list(voices.values())

    def looks(self, host: str, now: float) -> list[Vote]:
        """Of each network the last vote with a port that sees us at ``host``, in the order of ``made``."""
        told = ([vote for vote in votes if vote.external.host == host] for _, votes in self._ports.fresh(now))
        return sorted((votes[-1] for votes in told if votes), key=lambda vote: vote.made)

    def samples(self, now: float) -> list[Sample]:
        """Every report with a port, in the order in which the mappings showed."""
        told = [vote for _, votes in self._ports.fresh(now) for vote in votes]
        return [Sample(vote.made, vote.reporter, vote.external) for vote in sorted(told, key=lambda vote: vote.made)]

    def majority(self, now: float) -> str | None:
        """The address that most networks see us at: more than half of them, of QUORUM at least; None without."""
        voices = self.voices(now)
        if len(voices) < QUORUM:
            return None
        host, count = Counter(vote.external.host for vote in voices).most_common(1)[0]
        return host if 2 * count > len(voices) else None

    def keep_only(self, host: str) -> None:
        """Forget the reports of any other address of ours."""
        self._ports.keep_only(host)
        self._others.keep_only(host)

    def clear(self) -> None:
        self._ports, self._others = _Box(), _Box()


class _Box:
    """Reports by network and reporter; at both levels the last heard is the last."""

    def __init__(self) -> None:
        self._networks: dict[str, dict[Endpoint, Vote]] = {}

    def add(self, reporter: Endpoint, external: Endpoint, source: Source, now: float) -> None:
        name = network_of(reporter.host)
        network = self._networks.pop(name, {})
        self._networks[name] = network
        before = network.pop(reporter, None)
        made = before.made if before is not None and before.external == external else now
        network[reporter] = Vote(made, now, reporter, external, source)
        if len(network) > MAX_PER_NETWORK:
            del network[next(iter(network))]
        if len(self._networks) > MAX_NETWORKS:
            del self._networks[next(iter(self._networks))]

    def fresh(self, now: float) -> Iterator[tuple[str, list[Vote]]]:
        """Networks with what they said within MAX_AGE, the last heard last."""
        for name, network in self._networks.items():
            if votes := [vote for vote in network.values() if vote.heard > now - MAX_AGE]:
                yield name, votes

    def keep_only(self, host: str) -> None:
        kept = {
            name: {reporter: vote for reporter, vote in network.items() if vote.external.host == host}
            for name, network in self._networks.items()
        }
        self._networks = {name: network for name, network in kept.items() if network}


@lru_cache(maxsize=1024)
def network_of(host: str) -> str:
    """What one party may own: the /24 of an IPv4 address, the /48 of an IPv6 one."""
    if ":" not in host:
        return host.rpartition(".")[0]
    return str(IPv6Address(int(IPv6Address(host)) >> 80 << 80))


@lru_cache(maxsize=1024)
def is_global(host: str) -> bool:
    """Whether the address is one of the internet at large.  Others see us from inside some NAT, and tell nothing."""
    return ip_address(host).is_global
