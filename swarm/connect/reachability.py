"""Do strangers reach us?  What `sw_reach` and uninvited arrivals prove, by transport and address family.

True: somebody came in to whom nothing had been sent, by himself or because a helper had us dialled (the nonce of a
probe arrived).  False: helpers of three networks had us dialled, by peers that do get through to others, in vain.
None: anything less; so with one helper alone, who has nobody to do the dialling, it stays None.  A helper that dials
us itself proves nothing, as we have sent to it.

Starts no probe by itself and sends nothing.  What a peer is asked is `swarm.ext.reach`'s.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from swarm.connect.sent_to import QUIET, Novelty, SentTo
from swarm.connect.votes import is_global, network_of
from swarm.endpoint import Endpoint
from swarm.ext.reach_desk import PROBE_SECONDS
from swarm.ext.reach_message import NONCE_SIZE, TRANSPORTS, Outcome, Probe, Transport
from swarm.stats.snapshot import Reachability

FAILURES = 3
"""Networks whose helpers must have had us dialled in vain."""

VERDICT_AGE = 3600.0
"""Seconds for which evidence counts."""

RECHECK = {None: 2.0, False: 300.0, True: 900.0}
"""Seconds between two probes, by what is known; while we are reachable, from the last proof of it."""

HELPER_PAUSE = 600.0
"""Seconds until helpers of the same network are asked again, if they had us dialled."""

UNABLE_PAUSE = 30.0
"""Likewise, at first, if the helper had nobody to dial, or somebody whom we have met, or says nothing; twice as long
each time that it is so again, HELPER_PAUSE at most."""

NOTICE_PAUSE = 60.0
"""Seconds: the DHT brings strangers all the time, and to look at one takes as long as to answer him, 10 µs."""

MAX_ASKED = 300
"""Networks remembered whose helpers were asked: as many as can be within HELPER_PAUSE."""

MAX_PENDING = 16
"""Probes under way; the oldest is forgotten."""

IN_VAIN: frozenset[Outcome] = frozenset({"timed-out", "refused"})


class ReachabilityProbe:
    """What is known of our being reachable; one for a node.

    ``sent_to`` is to be told of every datagram that leaves ("utp" is all of UDP), of every TCP endpoint we dial, and of
    that again every few minutes while the connection stands: so long NATs let its address in.
    ``is_own`` knows our own addresses, inside and outside: neighbours behind our own NAT prove nothing.  ``rng`` makes
    nonces, which must not be guessed: a `random.SystemRandom`.

    An earlier run may have sent from the same port to whom this one knows nothing of, so that in the first ten minutes
    after ``now`` mere arrivals do not count, only nonces, whose dialler is picked by chance.
    """

    def __init__(self, rng: random.Random, now: float, *, is_own: Callable[[str], bool]) -> None:
        self.sent_to: Mapping[Transport, SentTo] = {transport: SentTo() for transport in TRANSPORTS}
        self._rng = rng
        self._is_own = is_own
        self._started = now
        self._facts = {(transport, ipv6): _Facts() for transport in TRANSPORTS for ipv6 in (False, True)}
        self._pending: dict[bytes, _Pending] = {}  # by nonce, the oldest first

    def came_in(self, transport: Transport, remote: Endpoint, now: float) -> Novelty | None:
        """Something came in, of which nothing has been answered yet: what about it was uninvited, if it counts.

        To be asked of every run of datagrams (all of UDP is "utp") and of every accepted TCP connection, first of all:
        an answer hides who spoke first.  Of those that count one in NOTICE_PAUSE is told.
        """
        novelty = self.sent_to[transport].heard(remote, now)
        if novelty is None or now - self._started < QUIET:
            return None
        noticed = self._facts[transport, remote.is_ipv6].noticed
        if now - noticed.get(novelty, float("-inf")) < NOTICE_PAUSE or not self._is_outside(remote.host):
            return None
        noticed[novelty] = now
        if novelty == "host":
            self._prove(transport, remote, now)
        return novelty

    def may_ask(self, helper: Endpoint, transport: Transport, now: float) -> bool:
        """Whether a probe is due, and the peer that we see at ``helper`` one to ask."""
        facts = self._facts[transport, helper.is_ipv6]
        if now < facts.next_probe(now) or not facts.may_ask(network_of(helper.host), now):
            return False
        return self._is_outside(helper.host)

    def probe(self, helper: Endpoint, transport: Transport, endpoint: Endpoint, now: float) -> Probe | None:
        """What to ask of the peer that we see at ``helper``, about ``endpoint`` of ours; None if not `may_ask`.

        ``endpoint`` is at the address at which that peer sees us, else it refuses.  ValueError for another family.
        """
        if helper.is_ipv6 is not endpoint.is_ipv6:
            raise ValueError(f"{helper} cannot have {endpoint} dialled")
        if not self.may_ask(helper, transport, now):
            return None
        facts = self._facts[transport, helper.is_ipv6]
        facts.probed = now
        facts.asking(network_of(helper.host), now)
        nonce = self._rng.randbytes(NONCE_SIZE)
        self._pending[nonce] = _Pending(helper, transport, now)
        if len(self._pending) > MAX_PENDING:
            del self._pending[next(iter(self._pending))]
        return Probe(transport, endpoint, nonce)

    def dialled_back(self, nonce: bytes, remote: Endpoint, transport: Transport, now: float) -> bool:
        """A connection presents a nonce: whether that proves anything.  A nonce is good once."""
        pending = self._pending.get(nonce)
        if pending is None:
            return False
        del self._pending[nonce]
        if pending.since + PROBE_SECONDS <= now:
            return False
        asked = (pending.transport, pending.helper.is_ipv6) == (transport, remote.is_ipv6)
        stranger = remote.host != pending.helper.host and self.sent_to[transport].uninvited(remote.host, now)
        if not asked or not stranger or not self._is_outside(remote.host):
            facts = self._facts[pending.transport, pending.helper.is_ipv6]
            facts.unable(network_of(pending.helper.host), now)  # he may find another dialler
            return False
        self._facts[pending.transport, pending.helper.is_ipv6].able(network_of(pending.helper.host), now)
        self._prove(transport, remote, now)
        return True

    def answered(self, helper: Endpoint, nonce: bytes, outcome: Outcome, now: float) -> None:
        """A helper says what became of a probe: an `swarm.ext.reach_desk.Asker`.  Nobody may have asked it."""
        pending = self._pending.get(nonce)
        if pending is None or pending.helper != helper or outcome == "connected":
            return
        del self._pending[nonce]
        facts, network = self._facts[pending.transport, helper.is_ipv6], network_of(helper.host)
        if outcome not in IN_VAIN:
            facts.unable(network, now)
        elif pending.since + PROBE_SECONDS > now:
            facts.able(network, now)
            facts.fail(network, now)

    def network_changed(self, now: float) -> None:
        """Another network, another lease: nothing that was proved holds."""
        self._pending.clear()
        self._facts = {key: _Facts() for key in self._facts}

    def verdict(self, transport: Transport, now: float, *, ipv6: bool) -> bool | None:
        """Whether strangers reach us; None if that is not known."""
        return self._facts[transport, ipv6].verdict(now)

    def report(self, now: float) -> Reachability:
        """All four verdicts."""
        return Reachability(
            tcp4=self.verdict("tcp", now, ipv6=False),
            utp4=self.verdict("utp", now, ipv6=False),
            tcp6=self.verdict("tcp", now, ipv6=True),
            utp6=self.verdict("utp", now, ipv6=True),
        )

    def evidence(self, now: float, *, ipv6: bool) -> tuple[str, ...]:
        """A sentence for each verdict there is of one address family."""
        return tuple(self._sentences(now, ipv6))

    def _sentences(self, now: float, ipv6: bool) -> Iterator[str]:
        for transport in TRANSPORTS:
            way = f"{'TCP' if transport == 'tcp' else 'UDP'} over {'IPv6' if ipv6 else 'IPv4'}"
            facts = self._facts[transport, ipv6]
            verdict = facts.verdict(now)
            if verdict:
                yield f"{way} reaches us: {facts.prover}, to which we had sent nothing, came in."
            elif verdict is not None:
                count = len(facts.recent_failures(now))
                yield f"{way} does not reach us: {count} peers each had us dialled by a stranger, in vain."

    def _prove(self, transport: Transport, by: Endpoint, now: float) -> None:
        facts = self._facts[transport, by.is_ipv6]
        facts.proved, facts.prover = now, by
        facts.failures.clear()

    def _is_outside(self, host: str) -> bool:
        return is_global(host) and not self._is_own(host)


class _Pending(NamedTuple):
    """A probe under way."""

    helper: Endpoint
    transport: Transport
    since: float


@dataclass(slots=True)
class _Facts:
    """Of one transport and family."""

    proved: float = float("-inf")
    prover: Endpoint | None = None
    failures: dict[str, float] = field(default_factory=dict)
    """By the helper's network, since the last proof."""
    noticed: dict[Novelty, float] = field(default_factory=dict)
    """When something uninvited was told of last."""
    probed: float = float("-inf")
    asked: dict[str, _Asked] = field(default_factory=dict)
    """By the helper's network; the longest not asked first."""

    def verdict(self, now: float) -> bool | None:
        if len(self.recent_failures(now)) >= FAILURES:
            return False
        return True if now - self.proved < VERDICT_AGE else None

    def fail(self, network: str, now: float) -> None:
        self.failures = {each: self.failures[each] for each in self.recent_failures(now)}
        self.failures[network] = now

    def recent_failures(self, now: float) -> list[str]:
        return [network for network, time in self.failures.items() if now - time < VERDICT_AGE]

    def next_probe(self, now: float) -> float:
        verdict = self.verdict(now)
        return max(self.probed, self.proved if verdict else self.probed) + RECHECK[verdict]

    def may_ask(self, network: str, now: float) -> bool:
        asked = self.asked.get(network)
        return asked is None or asked.again <= now

    def asking(self, network: str, now: float) -> None:
        """It is asked now; until it has said something that helps, its next turn is after a longer pause each time."""
        before = self.asked.pop(network, None)
        pause = UNABLE_PAUSE if before is None else min(2 * before.pause, HELPER_PAUSE)
        self.asked[network] = _Asked(now + pause, pause)
        if len(self.asked) > MAX_ASKED:
            del self.asked[next(iter(self.asked))]

    def unable(self, network: str, now: float) -> None:
        if (asked := self.asked.get(network)) is not None:
            asked.again = now + asked.pause

    def able(self, network: str, now: float) -> None:
        if (asked := self.asked.get(network)) is not None:
            asked.again, asked.pause = now + HELPER_PAUSE, UNABLE_PAUSE / 2


@dataclass(slots=True)
class _Asked:
    """Helpers of one network: when they may be asked again, and the pause if they cannot help now."""

    again: float
    pause: float
