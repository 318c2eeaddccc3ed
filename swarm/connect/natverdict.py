"""What follows from what is known of a NAT: a `NatReport`, in the words of RFC 4787.

What the words claim:

* mapping "endpoint-independent": four networks or more see us, more than half of them at one endpoint.
  "address-and-port-dependent": most of them each see another; unless one host was asked at two ports and saw the same,
  which is "address-dependent".  Without such a pair the former is presumed, as `swarm.net.nat_discovery` does: it is
  the usual one, for reaching strangers both are alike, and the evidence says that it was not tested.
* filtering "endpoint-independent": a packet came in from an address to which nothing had been sent.  It speaks of our
  port as it stands: an opened port (a lease, a manual forward) counts as much as a NAT that filters nothing.
  "address-dependent": strangers are kept out, other ports of known addresses are not.  What is only known to keep
  strangers out is "unknown", unless STUN has told the two apart.
* "none": we are seen at an address and port of our own; and then strangers get in.

Many voices outweigh STUN, which is two addresses of one server.  Asks nobody and remembers nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import gcd

from swarm.connect.report import Behaviour, NatReport
from swarm.connect.votes import MAX_AGE, QUORUM, Sample, Source, Vote, is_global
from swarm.endpoint import Endpoint

MAX_LISTED = 4
"""External endpoints in a report."""

NEAR = 5.0
"""Seconds between two looks whose ports are compared: a busy node opens a dozen mappings a second in between."""

SMALL = 128
"""A distance between ports that shows a sequence.  Two random ports are that close once in 250 times."""

SAME_MOMENT = 0.2
"""Seconds between two answers within which their order need not be that of the questions."""

PAIR_SECONDS = 20.0
"""Seconds between looks from two ports of one host that may differ for its ports' sake: many mappings last 30 s."""


@dataclass(frozen=True, slots=True)
class StunFindings:
    """The last word of STUN."""

    time: float = float("-inf")
    mapping: Behaviour = "unknown"
    filtering: Behaviour = "unknown"
    samples: tuple[Sample, ...] = ()


@dataclass(slots=True)
class Told:
    """What is known of the router, and void with another one."""

    stun: StunFindings = field(default_factory=StunFindings)
    gateway: str | None = None
    """The gateway's outside address, by its own word."""
    addressless: tuple[float, float] | None = None
    """From when to when the gateway has said that it has none."""
    sighted: float | None = None
    """When somebody first saw us where most do, after the gateway had begun to say so."""
    stranger: tuple[float, Endpoint] | None = None
    """Who came in last of those to whose address nothing had been sent, and when."""
    other_port: tuple[float, Endpoint] | None = None
    """Likewise of those to whose address something had been sent, but not to that port."""
    kept_out: float | None = None
    """When strangers last failed to get in."""
    hairpin: bool | None = None
    lifetime: tuple[float, float | None] | None = None
    """Seconds of silence that a UDP mapping was seen to survive, and those that it did not."""


@dataclass(frozen=True, slots=True)
class Known:
    """Everything that a report rests on, at one moment."""

    now: float
    port: int | None
    """Our own."""
    addresses: frozenset[str]
    """Of our interfaces."""
    host: str | None
    """Where most see us."""
    voices: Sequence[Vote]
    looks: Sequence[Vote]
    """With a port, at ``host``; one of each network, in order of time."""
    samples: Sequence[Sample]
    """All with a port, in order of time."""
    told: Told


def judge(known: Known) -> NatReport:
    """The report."""
    evidence = list(_whereabouts(known))
    mapping = _mapping(known, evidence)
    external = _external(known, mapping)
    return NatReport(
        external=external,
        mapping=mapping,
        filtering=_filtering(known, mapping, evidence),
        port_preserving=_port_preserving(known, mapping, external),
        port_step=_port_step(known, mapping, evidence),
        double_nat=_double_nat(known, mapping, evidence),
        hairpin=known.told.hairpin,
        lifetime=None if known.told.lifetime is None else known.told.lifetime[0],
        evidence=(*evidence, *_measured(known.told)),
    )


def port_step(looks: Sequence[tuple[float, int]]) -> int | None:
    """The distance between the ports of mappings made one after the other, from (time, port) in order of time.

    0 if they are drawn at random; None if it cannot be told, since too few were made close together.  Other mappings
    are made in between and answers overtake each other: distances are multiples of the step, and only answers that are
    well apart tell its sign.  A NAT that goes round at the end of its ports spoils one distance.
    """
    distances = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(looks) if b[0] - a[0] <= NEAR and b[1] != a[1]]
    if len(distances) < 2:
        return None
    small = [(seconds, distance) for seconds, distance in distances if abs(distance) <= SMALL]
    if 10 * len(small) < 6 * len(distances):
        return 0 if 3 * len(small) <= len(distances) else None
    ordered = [distance for seconds, distance in small if seconds >= SAME_MOMENT]
    falls = len(ordered) >= 2 and 4 * sum(distance < 0 for distance in ordered) >= 3 * len(ordered)
    step = gcd(*(distance for _, distance in small))
    return -step if falls else step


def _whereabouts(known: Known) -> Iterator[str]:
    voices = len(known.voices)
    if not voices:
        return
    counts = Counter(vote.source for vote in known.voices)
    sources = ", ".join(f"{SOURCE_WORDS[source]} {count}" for source, count in counts.most_common())
    if known.host is not None:
        agreeing = sum(vote.external.host == known.host for vote in known.voices)
        yield f"{agreeing} of {voices} networks that told us see us at {known.host} ({sources})."
    elif voices < QUORUM:
        yield f"Networks that told us where they see us: {voices} ({sources}); {QUORUM} decide."
    else:
        yield f"{voices} networks told us where they see us ({sources}), and disagree."


def _mapping(known: Known, evidence: list[str]) -> Behaviour:
    looks, stun = len(known.looks), known.told.stun.mapping
    counts = Counter(vote.external for vote in known.looks)
    endpoint, most = counts.most_common(1)[0] if looks else (None, 0)
    agreed = endpoint if looks >= QUORUM and 2 * most > looks else None
    if agreed is not None and agreed.host in known.addresses and agreed.port == known.port:
        evidence.append(f"{agreed} is an address and port of our own: there is no NAT.")
        return "none"
    if agreed is not None:
        evidence.append(f"{most} of {looks} networks see one endpoint, {agreed}.")
        return "endpoint-independent"
    if looks >= QUORUM and 10 * sum(count == 1 for count in counts.values()) >= 6 * looks:
        evidence.append(f"{looks} networks see {len(counts)} endpoints: the mapping depends on who looks.")
        return _dependence(known, evidence)
    if looks >= QUORUM:
        evidence.append(f"{looks} networks see {len(counts)} endpoints: neither one nor each its own.")
    if stun != "unknown":
        evidence.append(f"STUN servers found the mapping to be: {_in_words(stun)}.")
    return stun


def _dependence(known: Known, evidence: list[str]) -> Behaviour:
    """Each sees another endpoint: on which part of the remote one does it depend?"""
    stun = known.told.stun.mapping
    if stun in ("address-dependent", "address-and-port-dependent"):
        evidence.append(f"STUN servers found the mapping to be: {_in_words(stun)}.")
        return stun
    pairs = list(_pairs(known.samples))
    if not pairs:
        evidence.append("Nobody was asked at two ports: that the port counts beside the address is presumed.")
        return "address-and-port-dependent"
    alike = sum(pairs)
    evidence.append(f"Of {len(pairs)} hosts asked at two ports {alike} saw one endpoint from both.")
    return "address-dependent" if 2 * alike > len(pairs) else "address-and-port-dependent"


def _pairs(samples: Sequence[Sample]) -> Iterator[bool]:
    """Of each host asked at two ports: whether both saw us at one endpoint."""
    hosts: dict[str, list[Sample]] = {}
    for sample in samples:
        hosts.setdefault(sample.reporter.host, []).append(sample)
    for looks in hosts.values():
        told = [a.external == b.external for a, b in pairwise(looks) if _is_pair(a, b)]
        if told:
            yield all(told)


def _is_pair(a: Sample, b: Sample) -> bool:
    return a.external == b.external or b.time - a.time <= PAIR_SECONDS


def _external(known: Known, mapping: Behaviour) -> tuple[Endpoint, ...]:
    """Where we are seen; while too few agree on an address, whatever was said."""
    seen = [vote.external for vote in known.looks] or [sample.external for sample in known.samples]
    listed = [endpoint for endpoint, _ in Counter(reversed(seen)).most_common(MAX_LISTED)]
    return tuple(listed[:1] if mapping in ("none", "endpoint-independent") else listed)


def _port_preserving(known: Known, mapping: Behaviour, external: Sequence[Endpoint]) -> bool | None:
    if known.port is None or not external or mapping == "unknown":
        return None
    return mapping in ("none", "endpoint-independent") and external[0].port == known.port


def _port_step(known: Known, mapping: Behaviour, evidence: list[str]) -> int | None:
    if mapping not in ("address-dependent", "address-and-port-dependent"):
        return None
    if len(known.looks) >= QUORUM:
        step = port_step([(vote.made, vote.external.port) for vote in known.looks])
    else:
        step = port_step([(sample.time, sample.external.port) for sample in known.told.stun.samples])
    if step is not None:
        evidence.append(f"New mappings get ports in steps of {step}." if step else "New mappings get random ports.")
    return step


def _filtering(known: Known, mapping: Behaviour, evidence: list[str]) -> Behaviour:
    told, stun = known.told, known.told.stun.filtering
    recent = known.now - MAX_AGE
    if told.stranger is not None and told.stranger[0] > recent:
        evidence.append(f"{told.stranger[1]}, to whose address we had sent nothing, got through to us.")
        return "none" if mapping == "none" else "endpoint-independent"
    kept_out = told.kept_out is not None and told.kept_out > recent
    if kept_out:
        evidence.append("Peers to whose addresses we had sent nothing did not get through to us.")
    if stun != "unknown":
        evidence.append(f"STUN servers found the filtering to be: {_in_words(stun)}.")
    if told.other_port is not None and told.other_port[0] > recent:
        evidence.append(f"{told.other_port[1]} got through to us; we had sent to its address, but not to that port.")
        if kept_out or stun == "address-and-port-dependent":
            return "address-dependent"
    return stun


def _double_nat(known: Known, mapping: Behaviour, evidence: list[str]) -> bool | None:
    gateway = known.told.gateway
    if mapping == "none":
        return False
    if gateway is None:
        return _double_nat_without_address(known, evidence)
    if not is_global(gateway):
        evidence.append(f"The outside address of our gateway, {gateway}, is not public: somebody translates beyond it.")
        return True
    if known.host is None:
        return None
    beyond = known.host != gateway
    evidence.append(
        f"The outside address of our gateway is {gateway}: {'somebody' if beyond else 'nobody'} translates beyond it."
    )
    return beyond


def _double_nat_without_address(known: Known, evidence: list[str]) -> bool | None:
    """Where the gateway says that it has no address, somebody beyond it has ours.

    It may say so while its line is down, too; but not before and after somebody has seen us.
    """
    said, sighted = known.told.addressless, known.told.sighted
    if said is None or sighted is None or known.host is None or known.host in known.addresses:
        return None
    if sighted >= said[1]:
        return None
    evidence.append(
        f"Our gateway says that it has no outside address, and meanwhile we are seen at {known.host}: somebody "
        "translates beyond it."
    )
    return True


def _measured(told: Told) -> Iterator[str]:
    if told.hairpin is not None:
        yield f"A packet to our own outside endpoint {'came back in' if told.hairpin else 'did not come back'}."
    if told.lifetime is not None:
        lasted, gone_after = told.lifetime
        gone = (
            f", and was gone after {gone_after:.0f} s" if gone_after is not None else ", which is as long as we waited"
        )
        yield f"An idle UDP mapping lasted {lasted:.0f} s{gone}."


def _in_words(behaviour: Behaviour) -> str:
    return "none at all" if behaviour == "none" else behaviour


SOURCE_WORDS: dict[Source, str] = {
    "dht": "DHT",
    "bep10": "peers",
    "tracker": "trackers",
    "stun": "STUN",
    "pex": "PEX",
    "reach": "sw_reach",
    "introducer": "introducers",
}
