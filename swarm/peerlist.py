"""The peers of one torrent that we know of: where they came from, what became of dialling them, who is next.

Bounded against liars: so many peers in all, of one address and of one introducer; a peer that proved useful is never
pushed out by hearsay.  The order of dialling is: peers the user named, peers never tried (IPv6 slightly preferred, then
the canonical priority of BEP 40), then those whose back-off has run out.
Dials nobody, resolves no names and reads no clock.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from heapq import heapify, heappop, heappush
from typing import TypeVar

from swarm.endpoint import Endpoint, is_dialable, normalise_host
from swarm.events import PathName, SourceName
from swarm.knownpeer import HEARSAY, KnownPeer
from swarm.priority import peer_priority

MAX_PEERS = 2000
MAX_PER_HOST = 32
"""Ports of one IPv4 address or IPv6 /64.  Carrier NATs put many peers behind one; loopback is not limited."""

MAX_PER_INTRODUCER = 200
"""Peers that we have by the word of one peer."""

IN_A_TURN = 8
"""Of the peers that one peer has named so many are tried before the next so many of all that have named some."""

MAX_INTRODUCERS = 8
"""Remembered for each peer, the latest: any of them may serve as its rendezvous (BEP 55)."""

HUNG_UP = frozenset({"handshake-closed", "handshake-reset"})
"""How peers answer a handshake that they do not want, now or ever."""

SAYS_LITTLE = ("timed-out", "no-introducer", "no-relay")
"""Reasons that another path's explains better, the more telling first."""

MAX_BANNED = 10_000
MAX_OWN = 256
"""Endpoints remembered as our own, the latest: whoever comes with our peer id adds one each time."""

FIRST_BACKOFF = 30.0
FIRST_BACKOFF_MANUAL = 2.0
MAX_BACKOFF = 3600.0
"""Seconds after the first failure, doubled with each; shorter for peers that the user named."""

CROSSED_BACKOFF, CROSSED_TRIES = 7.0, 5
"""Seconds between the first dials of a peer that hangs up on our handshake: libtorrent does while it dials us itself at
an address where it cannot reach us, which takes it up to 25 s; meanwhile its NAT stays open for us."""

RECONNECT_AFTER = 30.0
"""Seconds until a peer that was connected is dialled again."""

CARRIED_BACKOFF = 60.0
"""Seconds at most between tries of a peer to whom only a relay carries us: any day a router opens or is exchanged, and
the relay is to carry no more than it must."""

CUT_OFF_AFTER = 1.0
"""The same for one whose connection broke without a goodbye: our NAT has a new address or lost its mappings, or his."""

SEED = 0x02
"""PEX flag (BEP 11): a seed is of no use to a seed."""

SEED_PAUSE = 900.0
"""Seconds for which seeds are passed over while we are one."""

IPV6_BONUS = 1 << 31
"""Moves IPv6 peers to the better half of the priorities: often no NAT is in the way."""

VOUCHED_BONUS = 1 << 32
MANUAL_BONUS = 1 << 33
"""Whom more than strangers have named goes first, see HEARSAY; before all, whom the user has."""


_Key = TypeVar("_Key")


class PeerList:
    """The known peers of one torrent.

    ``rng`` orders peers while our own address is not known, and spreads retries.  ``is_ours`` knows where we are, as
    far as the node does; who was met and turned out to be us is remembered here.
    """

    def __init__(
        self,
        *,
        rng: random.Random,
        is_ours: Callable[[Endpoint], bool] = lambda endpoint: False,
        max_peers: int = MAX_PEERS,
    ) -> None:
        self._rng = rng
        self._is_ours = is_ours
        self._max_peers = max_peers
        self._peers: dict[Endpoint, KnownPeer] = {}
        self._hosts: Counter[str] = Counter()
        self._introduced: Counter[Endpoint] = Counter()
        self._banned: dict[str, None] = {}
        self._own: dict[Endpoint, None] = {}
        self._our_address: dict[bool, Endpoint] = {}  # by whether it is IPv6
        self._untried: list[tuple[int, int, KnownPeer]] = []  # heap of (-score, ticket)
        self._later: list[tuple[float, int, int, KnownPeer]] = []  # heap of (due, -score, ticket)
        self._tickets = 0
        self.refused: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._peers)

    def __iter__(self) -> Iterator[KnownPeer]:
        return iter(self._peers.values())

    def __contains__(self, endpoint: object) -> bool:
        return endpoint in self._peers

    def get(self, endpoint: Endpoint) -> KnownPeer | None:
        return self._peers.get(endpoint)

    # -- discovery --------------------------------------------------------------------------------------------------

    def add(
        self,
        endpoint: Endpoint,
        source: SourceName,
        now: float,
        *,
        introducer: Endpoint | None = None,
        flags: int = 0,
        peer_id: bytes | None = None,
    ) -> KnownPeer | None:
        """A source names a peer: the peer, new or known before; None if it is refused (counted in ``refused``).

        Refused are endpoints that nobody can be at (port 0, unspecified, multicast, reserved), our own, banned
        addresses, and what exceeds a bound.
        """
        peer = self._peers.get(endpoint)
        if peer is None:
            reason = self._reason_to_refuse(endpoint, source, introducer)
            if reason is not None:
                self.refused[reason] += 1
                return None
            peer = self._enter(endpoint, source, now, introducer)
        elif peer.is_hearsay and source not in HEARSAY:
            self._vouch(peer, source)
        peer.sources.add(source)
        peer.flags |= flags
        peer.peer_id = peer_id or peer.peer_id
        if introducer is not None:
            if introducer in peer.introducers:
                peer.introducers.remove(introducer)
            peer.introducers.append(introducer)
            del peer.introducers[:-MAX_INTRODUCERS]
        return peer

    def no_longer_introduced(self, endpoint: Endpoint, introducer: Endpoint) -> None:
        """An introducer has lost the peer: it can be no rendezvous any more."""
        peer = self._peers.get(endpoint)
        if peer is not None and introducer in peer.introducers:
            peer.introducers.remove(introducer)

    def keep_only(self, sources: Collection[SourceName]) -> None:
        """Forget everybody whom none of these sources has named."""
        for endpoint in [peer.endpoint for peer in self._peers.values() if peer.sources.isdisjoint(sources)]:
            self._remove(endpoint)

    def is_own(self, peer: KnownPeer) -> None:
        """The peer turned out to be ourselves: forgotten, and never taken in again."""
        self.exclude(peer.endpoint)

    def exclude(self, endpoint: Endpoint) -> None:
        """An endpoint of our own."""
        self._own.pop(endpoint, None)
        self._own[endpoint] = None
        if len(self._own) > MAX_OWN:
            del self._own[next(iter(self._own))]
        self._remove(endpoint)

    def owns(self, endpoint: Endpoint) -> bool:
        """Whether it is known to be our own."""
        return endpoint in self._own or self._is_ours(endpoint)

    def set_our_address(self, ours: Endpoint) -> None:
        """How peers see us, once for each family: the basis of BEP 40's order."""
        self._our_address[ours.is_ipv6] = ours
        for endpoint in [each for each in self._peers if each.host == ours.host and self._is_ours(each)]:
            self._remove(endpoint)
        for peer in self._peers.values():
            peer._score = self._score(peer)
        self._untried = [(-peer._score, ticket, peer) for _, ticket, peer in self._untried if peer._ticket == ticket]
        heapify(self._untried)

    def priority(self, endpoint: Endpoint) -> int | None:
        """BEP 40's order of whom to keep; None while nobody has told us our address of this family."""
        ours = self._our_address.get(endpoint.is_ipv6)
        return None if ours is None else peer_priority(ours, endpoint)

    # -- dialling ---------------------------------------------------------------------------------------------------

    def next_to_dial(self, now: float, *, seeding: bool = False, hearsay: bool = True) -> KnownPeer | None:
        """Somebody worth an attempt now, marked as ``dialing`` until `connected`, `failed` or `disconnected`.

        Without ``hearsay`` nobody whom only strangers have named.
        """
        while (peer := self._pop(now, hearsay)) is not None:
            if seeding and peer.flags & SEED:
                self._schedule(peer, now + SEED_PAUSE)
                continue
            self.dialed(peer, now)
            return peer
        return None

    def dialed(self, peer: KnownPeer, now: float) -> None:
        """It is being dialled although it was not its turn."""
        peer._ticket = 0
        peer.dialing = True
        peer.attempts += 1
        peer.last_attempt = now

    def retry(self, reasons: Collection[str], now: float) -> int:
        """Try those again soon whose last failure over any path was one of these; how many there are."""
        waiting = [
            peer
            for peer in self._peers.values()
            if not peer.busy and peer.failures and not frozenset(reasons).isdisjoint(peer.reasons.values())
        ]
        for peer in waiting:
            peer.reasons.clear()  # so that each new introducer is worth one try
            self._schedule(peer, now)
        return len(waiting)

    def next_deadline(self) -> float | None:
        """When `next_to_dial` has somebody: may be past; None if nobody waits."""
        self._discard_stale()
        if self._untried:
            return float("-inf")
        return self._later[0][0] if self._later else None

    def failed(self, peer: KnownPeer, path: PathName, reason: str, now: float, *, carried: bool = False) -> None:
        """A rung did not reach the peer.  The first failure reported ends the attempt and begins the back-off; those
        of the other rungs only add their reasons.  ``carried``: a relay leads to the peer."""
        peer.reasons[path] = peer.last_reason = reason
        peer.remember(now, reason, path)
        if not peer.dialing:
            return
        peer.dialing = False
        peer.failures += 1
        backoff = min(_backoff(peer), CARRIED_BACKOFF) if carried else _backoff(peer)
        if reason in HUNG_UP and peer.failures <= CROSSED_TRIES:
            backoff = min(backoff, CROSSED_BACKOFF)
        self._schedule(peer, now + backoff * self._rng.uniform(0.9, 1.1))

    def connected(self, peer: KnownPeer, path: PathName, *, inbound: bool = False, obfuscated: bool = False) -> None:
        """A connection to the peer was admitted.  An inbound one says nothing about how to reach it."""
        peer.connections += 1
        peer.dialing = False
        peer.failures = 0
        peer.reasons.clear()
        peer.last_reason = None
        peer._ticket = 0
        if not inbound:
            peer.good_path = path
            peer.obfuscated = obfuscated

    def disconnected(
        self, peer: KnownPeer, now: float, *, bytes_down: int = 0, bytes_up: int = 0, cut_off: bool = False
    ) -> None:
        """A connection ended, or an attempt was broken off without a verdict; ``cut_off`` if nobody wanted the end."""
        if peer.connections:
            peer.connections -= 1
            peer.last_connected = now
        peer.dialing = False
        peer.bytes_down += bytes_down
        peer.bytes_up += bytes_up
        peer.remember(now, "disconnected", peer.good_path)
        if not peer.connections:
            self._schedule(peer, now + (CUT_OFF_AFTER if cut_off else RECONNECT_AFTER))

    def carried(self, peer: KnownPeer, now: float) -> None:
        """A relay leads to the peer from now on: if it was given up for long, it is tried again soon."""
        if peer.failures and not peer.busy:
            self._schedule(peer, now + CARRIED_BACKOFF)

    def retry_these(self, peers: Iterable[KnownPeer], now: float) -> None:
        """Something has changed that concerns these: those that wait for their turn are tried now."""
        for peer in peers:
            if not peer.busy:
                self._schedule(peer, now)

    def relay_lost(self, peer: KnownPeer, now: float, *, bytes_down: int, bytes_up: int, again: bool) -> None:
        """A connection through a relay ended, which never kept the peer from being dialled; ``again``: at once, else
        when its failures allow."""
        peer.bytes_down += bytes_down
        peer.bytes_up += bytes_up
        peer.remember(now, "disconnected", "relayed")
        if not peer.busy and (again or peer.failures):
            self._schedule(peer, now + (CUT_OFF_AFTER if again else _backoff(peer)))

    def retry_all(self, now: float) -> None:
        """Our network changed: what failed before means nothing any more."""
        for peer in self._peers.values():
            if not peer.busy:
                peer.failures = 0
                self._schedule(peer, now)

    # -- bans -------------------------------------------------------------------------------------------------------

    def ban(self, host: str) -> None:
        """Refuse an address from now on and forget its peers.  Closing its connections is the caller's business."""
        host = normalise_host(host)
        self._banned[host] = None
        if len(self._banned) > MAX_BANNED:
            del self._banned[next(iter(self._banned))]
        for endpoint in [endpoint for endpoint in self._peers if endpoint.host == host]:
            self._remove(endpoint)

    def is_banned(self, host: str) -> bool:
        return host in self._banned

    # -- answers ----------------------------------------------------------------------------------------------------

    def most_useful(self, count: int) -> list[KnownPeer]:
        """Those worth remembering over a restart: connected, connected before, untried, by fewest failures."""

        def rank(peer: KnownPeer) -> tuple[bool, float, int]:
            last = peer.last_connected
            return not peer.connections, float("inf") if last is None else -last, peer.failures

        return sorted(self._peers.values(), key=rank)[:count]

    def reasons(self) -> Counter[str]:
        """Why peers that are not connected were not reached the last time."""
        return Counter(
            _most_telling(peer.last_reason, peer.reasons)
            for peer in self._peers.values()
            if peer.last_reason is not None and not peer.connections
        )

    def why(self) -> str:
        """One line for the user: ``12 known, 1 connected, 10 tried: 7 timed out, 3 refused``."""
        connected = sum(peer.connections > 0 for peer in self._peers.values())
        reasons = self.reasons()
        parts = [f"{len(self._peers)} known"]
        if connected:
            parts.append(f"{connected} connected")
        if reasons:
            details = ", ".join(f"{count} {reason.replace('-', ' ')}" for reason, count in reasons.most_common())
            parts.append(f"{reasons.total()} tried: {details}")
        waiting = len(self._peers) - connected - reasons.total()
        if waiting:
            parts.append(f"{waiting} being tried or waiting for their turn")
        return ", ".join(parts)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _reason_to_refuse(self, endpoint: Endpoint, source: SourceName, introducer: Endpoint | None) -> str | None:
        if not is_dialable(endpoint):
            return "not-dialable"
        if self.owns(endpoint):
            return "own"
        if endpoint.host in self._banned:
            return "banned"
        if self._hosts[endpoint.party] >= MAX_PER_HOST and not endpoint.address.is_loopback:
            return "too-many-of-address"
        if introducer is not None and self._introduced[introducer] >= MAX_PER_INTRODUCER:
            return "too-many-of-introducer"
        if len(self._peers) >= self._max_peers and not self._evict(vouched=source not in HEARSAY):
            return "full"
        return None

    def _enter(self, endpoint: Endpoint, source: SourceName, now: float, introducer: Endpoint | None) -> KnownPeer:
        peer = self._peers[endpoint] = KnownPeer(endpoint, now, {source}, _charged_to=introducer)
        self._hosts[endpoint.party] += 1
        if introducer is not None:
            peer._turn = self._introduced[introducer] // IN_A_TURN
            self._introduced[introducer] += 1
        peer._score = self._score(peer)
        self._tickets += 1
        peer._ticket = self._tickets
        heappush(self._untried, (-peer._score, peer._ticket, peer))
        return peer

    def _score(self, peer: KnownPeer) -> int:
        ours = self._our_address.get(peer.endpoint.is_ipv6)
        score = self._rng.getrandbits(32) if ours is None else peer_priority(ours, peer.endpoint)
        if peer.endpoint.is_ipv6:
            score |= IPV6_BONUS
        if peer.is_hearsay:
            score -= peer._turn * VOUCHED_BONUS
        else:
            score |= VOUCHED_BONUS
        return score | MANUAL_BONUS if "manual" in peer.sources else score

    def _vouch(self, peer: KnownPeer, source: SourceName) -> None:
        """It was hearsay, and is not any more."""
        peer.sources.add(source)
        peer._score = self._score(peer)
        if peer._ticket and not peer.attempts:
            self._tickets += 1
            peer._ticket = self._tickets
            heappush(self._untried, (-peer._score, peer._ticket, peer))

    def _evict(self, *, vouched: bool) -> bool:
        """Forget a twentieth of the peers, those that failed most and were never connected; for one that is
        ``vouched`` for else those of whom strangers only have told.  False if there are none."""
        unmet = [peer for peer in self._peers.values() if peer.good_path is None and not peer.busy]
        useless = sorted((peer for peer in unmet if peer.failures), key=lambda peer: -peer.failures)
        if not useless and vouched:
            useless = sorted((peer for peer in unmet if peer.sources <= HEARSAY), key=lambda peer: peer._score)
        for peer in useless[: max(self._max_peers // 20, 1)]:
            self._remove(peer.endpoint)
        return bool(useless)

    def _remove(self, endpoint: Endpoint) -> None:
        peer = self._peers.pop(endpoint, None)
        if peer is None:
            return
        peer._ticket = 0
        _decrement(self._hosts, endpoint.party)
        if peer._charged_to is not None:
            _decrement(self._introduced, peer._charged_to)

    def _schedule(self, peer: KnownPeer, due: float) -> None:
        if self._peers.get(peer.endpoint) is not peer:  # banned or evicted meanwhile
            return
        self._tickets += 1
        peer._ticket = self._tickets
        heappush(self._later, (due, -peer._score, peer._ticket, peer))
        if len(self._later) > 4 * self._max_peers:  # entries that were overtaken
            self._later = [entry for entry in self._later if entry[3]._ticket == entry[2]]
            heapify(self._later)

    def _pop(self, now: float, hearsay: bool) -> KnownPeer | None:
        """The best valid entry that is due, taken from its heap: untried ones first, but all hearsay last."""
        self._discard_stale()
        untried = self._untried[0][-1] if self._untried else None
        later = self._later[0][-1] if self._later and self._later[0][0] <= now else None
        is_untried = untried is not None and (later is None or later.is_hearsay or not untried.is_hearsay)
        peer = untried if is_untried else later
        if peer is None or (peer.is_hearsay and not hearsay):
            return None
        if is_untried:
            heappop(self._untried)
        else:
            heappop(self._later)
        peer._ticket = 0
        return peer

    def _discard_stale(self) -> None:
        while self._untried and self._untried[0][2]._ticket != self._untried[0][1]:
            heappop(self._untried)
        while self._later and self._later[0][3]._ticket != self._later[0][2]:
            heappop(self._later)


def _backoff(peer: KnownPeer) -> float:
    """Seconds to wait after its latest failure."""
    first = FIRST_BACKOFF_MANUAL if "manual" in peer.sources else FIRST_BACKOFF
    return min(first * 2.0 ** min(max(peer.failures - 1, 0), 20), MAX_BACKOFF)


def _most_telling(last: str, by_path: Mapping[PathName, str]) -> str:
    """The last failure, unless that is silence or a want of introducers, and another path had an answer: a port without
    µTP says nothing, which ends seconds after TCP was refused."""
    if last not in SAYS_LITTLE:
        return last
    telling = [reason for reason in by_path.values() if reason not in SAYS_LITTLE]
    return telling[0] if telling else min(by_path.values(), key=SAYS_LITTLE.index, default=last)


def _decrement(counter: Counter[_Key], key: _Key) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
