"""Which outside port a NAT will give next, and whither each of two ends shoots on the strength of it.

`predict` reads the ports that one socket got towards several remotes, one after the other; `make_plan` says what one
end does when both ends' ports are known to both, so that the two agree without another word.  Pure arithmetic: sends
nothing, knows no time.  No RFC; RFC 4787 §4.2 names the allocations.

Who can meet whom, by how the two NATs map (filtering by address and port is assumed throughout):

    fixed × fixed            each knows where the other is
    fixed × sequential       the one shoots at the other's next `SPRAY` ports, from where it is; the other, at it
    sequential × sequential  both shoot at a row of ports, and every shot moves the shooter's own port on by one step:
                             the initiator's i-th shot goes to the target's i-th next port, the target's j-th to the
                             initiator's (2j-1)-th.  If foreign traffic took ``a`` of the initiator's ports and ``b`` of
                             the target's since they were measured, shot j = a+b+1 of the target and shot
                             i = a+2b+1 of the initiator are two ends of one path, so `DRIFT` bounds what is borne
    fixed × random           birthday: 256 sockets behind the random NAT against a spray of random ports
    else                     None: only a relay helps
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd
from typing import Literal, NamedTuple

from swarm.endpoint import Endpoint

FIRST_PORT, LAST_PORT = 1024, 65535
"""What NATs allocate from; a sequence that runs out at one end goes on at the other."""

MAX_GAP = 64
"""Ports between two samples of a sequence: steps are small, and what others take in a few milliseconds is little."""

MIN_SAMPLES = 3
"""Two ports show a distance, the third that it is no accident."""

SPRAY = 24
"""Ports shot at where the other end's NAT allocates in sequence."""

DRIFT = 12
"""Ports that others may take of each of two sequences between measurement and shot: 100 a second at 120 ms."""

SOCKETS = 256
"""Behind a NAT that allocates at random: with `MAX_PROBES` they miss each other once in 3,000 times."""

MAX_PROBES = 2048
PROBES_PER_SECOND = 200
PROBES_AT_ONCE = 4
"""Of a birthday, on the other side; a few at once, or the processor would wake for each."""

BEFORE_PROBES = 0.1
"""Seconds for the other end to open its sockets."""

BIRTHDAY_SECONDS = 14.0
"""Of shooting: the probes take 10.3."""

PREDICTED_SECONDS = 2.2
"""Of shooting at predicted ports: what has not met then has missed, and is measured anew."""

OPENER_TTL = 5
"""Crosses our NATs and dies before theirs.  One that arrives uninvited may be remembered by the NAT it meets (Linux
does unless told to drop), and then the real mapping gets another port than the predicted one."""

VOLLEYS: tuple[tuple[float, int | None], ...] = (
    (0.0, OPENER_TTL), (0.1, None), (0.2, None), (0.35, None), (0.6, None), (1.0, None), (1.6, None),
)  # fmt: skip
"""Seconds from the agreed moment, and TTL.  Repeats use the mappings that the openers made: they move no port on.  The
two ends are as much apart in time as their ways to the introducer differ there and back: less than the first pause."""

OPENINGS: tuple[tuple[float, int | None], ...] = ((0.0, OPENER_TTL), (5.0, OPENER_TTL), (10.0, OPENER_TTL))
"""Likewise for the 256 sockets: mappings that nobody answers live for 10 s with some NATs."""


class Sample(NamedTuple):
    """``reporter`` saw our socket at ``port`` from packets sent at ``time`` (any clock)."""

    time: float
    reporter: Endpoint
    port: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """``latest`` is the newest port, ``step`` how far apart (and in which direction) new mappings are; 0: all the same.

    ``confidence`` is about the share of the steps that are ours: others take the rest.
    """

    latest: int
    step: int
    confidence: float

    def port(self, number: int) -> int:
        """The ``number``-th port from now, from 1 on."""
        return _wrapped(self.latest + self.step * number)

    def next_ports(self, count: int) -> tuple[int, ...]:
        """``count`` distinct ports, the likeliest first.

        Without foreign traffic the next mapping gets the first; each one taken by others moves it on by one.  Larger
        steps may have been two allocations each time: a third of the ports are those between the steps.
        """
        if not self.step:
            return (self.latest,)
        stride = abs(self.step)
        straight = count if stride == 1 else count - count // 3
        ports = dict.fromkeys(self.port(number) for number in range(1, straight + 1))
        sign, offset = (1 if self.step > 0 else -1), 0
        while len(ports) < count:
            offset += 1
            ports.setdefault(_wrapped(self.latest + sign * offset))
        return tuple(ports)


class Shot(NamedTuple):
    """A datagram to ``port`` of the other end, ``after`` seconds."""

    after: float
    port: int
    ttl: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What one end does from the agreed moment on: ``shots`` in the order of sending, from each of ``sockets`` sockets.

    One socket is the measured one; more are fresh ones beside it.  After ``seconds`` it has failed.
    """

    path: Literal["predicted", "birthday"]
    shots: tuple[Shot, ...]
    sockets: int
    seconds: float


def predict(samples: Sequence[Sample]) -> Prediction | None:
    """What one socket's next mapping will be like; None if that cannot be known: ports at random, or too few samples.

    ``samples`` come in the order of sending, each to a remote that the socket had not sent to before.  What a remote
    repeats is left out.  One distance may be out of line where three others, or two before it, agree: a sequence that
    began anew at the other end of its range, or a first port that was preserved.  All may be out of order if they are
    close together.
    """
    fresh = {(sample.reporter, sample.port): sample.port for sample in samples}
    ports = list(fresh.values())
    if len(set(ports)) == 1 and len(ports) > 1:
        hosts = {reporter.host for reporter, _ in fresh}
        return Prediction(ports[-1], 0, 1.0 if len(hosts) > 1 else 0.9)
    if len(ports) < MIN_SAMPLES:
        return None
    return _in_order(ports) or _out_of_order(ports)


def predict_ports(ports: Sequence[int]) -> Prediction | None:
    """As `predict`, for the ports that one introducer saw at as many ports of its own."""
    return predict([Sample(0.0, Endpoint("0.0.0.0", 1 + number), port) for number, port in enumerate(ports)])


def make_plan(ours: Sequence[int], theirs: Sequence[int], *, initiator: bool, rng: random.Random) -> Plan | None:
    """What this end does, from the ports that one introducer saw of both in order; None: it is hopeless."""
    us, them = predict_ports(ours), predict_ports(theirs)
    if us is not None and them is not None:
        return _volleys(_aims(us, them, initiator))
    if us is not None and not us.step:
        return Plan("birthday", _probes(rng), 1, BIRTHDAY_SECONDS)
    if them is not None and not them.step:
        shots = tuple(Shot(after, them.latest, ttl) for after, ttl in OPENINGS)
        return Plan("birthday", shots, SOCKETS, BIRTHDAY_SECONDS)
    return None


def _in_order(ports: Sequence[int]) -> Prediction | None:
    gaps = [after - before for before, after in pairwise(ports)]
    direction = 1 if sum(0 < gap <= MAX_GAP for gap in gaps) > sum(-MAX_GAP <= gap < 0 for gap in gaps) else -1
    regular = [gap * direction for gap in gaps if 0 < gap * direction <= MAX_GAP]
    jumps = sum(abs(gap) > MAX_GAP for gap in gaps)
    if jumps > 1 or len(regular) < 2 or len(regular) + jumps < len(gaps):
        return None
    return _in_steps(ports[-1], direction, regular, len(gaps))


def _out_of_order(ports: Sequence[int]) -> Prediction | None:
    """Close together, but not in order: a packet was lost on its way to the NAT and sent again after the others."""
    if len(set(ports)) < len(ports) or max(ports) - min(ports) > MAX_GAP:
        return None
    rises = sum(1 if after > before else -1 for before, after in pairwise(ports))
    direction = 1 if rises > 0 or (rises == 0 and ports[-1] > ports[0]) else -1
    gaps = [after - before for before, after in pairwise(sorted(ports))]
    return _in_steps(max(ports) if direction > 0 else min(ports), direction, gaps, len(gaps))


def _in_steps(latest: int, direction: int, regular: Sequence[int], gaps: int) -> Prediction:
    step = gcd(*regular)
    return Prediction(latest, step * direction, step * len(regular) / sum(regular) * len(regular) / gaps)


def _aims(us: Prediction, them: Prediction, initiator: bool) -> tuple[int, ...]:
    """The ports to shoot at, each once, in an order that keeps both sequences in step (see the module)."""
    if not us.step or not them.step:
        return them.next_ports(SPRAY)
    if initiator:
        return tuple(them.port(number) for number in range(1, 3 * DRIFT + 2))
    return tuple(them.port(2 * number - 1) for number in range(1, 2 * DRIFT + 2))


def _volleys(aims: tuple[int, ...]) -> Plan:
    shots = tuple(Shot(after, port, ttl) for after, ttl in VOLLEYS for port in aims)
    return Plan("predicted", shots, 1, PREDICTED_SECONDS)


def _probes(rng: random.Random) -> tuple[Shot, ...]:
    ports = rng.sample(range(FIRST_PORT, LAST_PORT + 1), MAX_PROBES)
    return tuple(
        Shot(BEFORE_PROBES + number // PROBES_AT_ONCE * PROBES_AT_ONCE / PROBES_PER_SECOND, port, None)
        for number, port in enumerate(ports)
    )


def _wrapped(port: int) -> int:
    return FIRST_PORT + (port - FIRST_PORT) % (LAST_PORT + 1 - FIRST_PORT)
