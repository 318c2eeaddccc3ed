"""`Lookup`: which node to ask next on the way to a target, and when to stop (BEP 5, Kademlia §2.3; BEP 42).

It stops when the k closest nodes have answered.  Against those who crowd around a target (Sybils) or name nodes that
do not exist (poison):

* a node counts among the k only if its id fits its address (BEP 42), and one for each /24 (IPv6: /64);
* others are asked too, one at a time and 2k at most, for much of the network never adopted BEP 42;
* who has named six nodes in vain, and few that answered, is not believed: what nobody else names is not asked.

That costs him nothing beyond this lookup: nodes that answer those who keep a table and not those who search would get
whoever knows them banned, the honest neighbours of a target first.

Sends nothing and knows no time: `dht.search` asks, and says what came of it.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Hashable, Iterable, Iterator
from enum import Enum, auto

from dht.address import is_local, is_usable, neighbourhood_of
from dht.compact import Node
from dht.datagram import Address
from dht.nodeid import ID_BITS, fits_address, number
from dht.table import K

ALPHA = 3  # questions at a time
MAX_CANDIDATES = 200
MAX_PER_NETWORK = 2  # candidates of one /24 or /64 that wait to be asked
MAX_UNFIT = 64  # candidates whose ids do not fit their addresses
MAX_UNFIT_ASKED = 2 * K
MAX_NAMED = 2 * K  # nodes of one answer that are looked at
MAX_TRIES = 2
DISBELIEVED_AFTER = 6


class State(Enum):
    FRESH = auto()
    ASKED = auto()
    SILENT = auto()  # a late answer still counts, and it may be asked once more at the end
    ANSWERED = auto()
    REFUSED = auto()  # an error, or an answer under another id


class Candidate:
    """A node that may be asked.

    ``sources`` are those who named it, none if it comes from our own table; ``depth`` counts the hops to it.
    """

    __slots__ = (
        "address",
        "depth",
        "distance",
        "false_names",
        "fit",
        "network",
        "node_id",
        "sources",
        "state",
        "token",
        "tries",
    )

    def __init__(self, node_id: bytes | None, address: Address, distance: int, source: Candidate | None) -> None:
        self.node_id = node_id
        self.address = address
        self.distance = distance
        self.fit = node_id is None or fits_address(node_id, address[0])
        self.network = neighbourhood_of(address)
        self.sources = [] if source is None else [source]
        self.depth: int = 1 if source is None else source.depth + 1
        self.state = State.FRESH
        self.token = b""
        self.tries = 0
        self.false_names = 0  # nodes it named that did not answer, less two for each that did

    @property
    def lied(self) -> bool:
        return self.false_names >= DISBELIEVED_AFTER

    @property
    def believed(self) -> bool:
        return not self.sources or not all(source.lied for source in self.sources)


class Lookup:
    """One walk towards ``target``.

    The owner asks the candidate that `next_candidate` gives until it gives None, and reports each outcome by
    `answered`, `fell_silent` or `refused`; then asks again.  It is over when `done`.
    """

    def __init__(self, target: bytes, *, ipv6: bool = False, own_id: bytes = b"") -> None:
        self.target = target
        self.thorough = False
        """Whether to ask the silent once more even though k others answered; in any case where not so many did."""
        self._goal = number(target)
        self._ipv6 = ipv6
        self._own_id = own_id
        self._entries: list[Candidate] = []  # known by their addresses only
        self._order: list[Candidate] = []  # by distance
        self._by_id: dict[bytes, Candidate] = {}
        self._by_address: dict[Address, Candidate] = {}
        self._per_network: dict[Hashable, int] = {}
        self._unfit = self._unfit_asked = 0
        self._in_flight = self._unfit_in_flight = 0
        self._doubted = False  # somebody named nodes in vain, so that `Candidate.believed` has to be asked

    @property
    def done(self) -> bool:
        return self._in_flight == 0 and self.next_candidate() is None

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All that are remembered, closest first."""
        return tuple(self._order)

    def add(self, nodes: Iterable[Node], source: Candidate | None = None) -> None:
        """Nodes from our table, or those that ``source`` named; unusable and surplus ones are left out.

        Private addresses count only when they are named from one: a stranger must not make us send into our LAN.
        """
        may_be_local = source is None or is_local(source.address[0])
        for node_id, address in nodes:
            known = self._by_id.get(node_id)
            if known is not None:
                if known.address == address and known.sources and source is not None:
                    known.sources.append(source)
            elif (
                node_id != self._own_id
                and address not in self._by_address
                and is_usable(address, ipv6=self._ipv6)
                and (may_be_local or not is_local(address[0]))
            ):
                self._insert(Candidate(node_id, address, int.from_bytes(node_id, "big") ^ self._goal, source))

    def add_address(self, address: Address) -> None:
        """A node of which only the address is known, a router: asked first, and twice if need be, but never counted."""
        if address not in self._by_address and is_usable(address, ipv6=self._ipv6):
            self._by_address[address] = entry = Candidate(None, address, 1 << ID_BITS, None)
            self._entries.append(entry)

    @property
    def entered(self) -> bool:
        """Whether one of the addresses answered."""
        return any(entry.state is State.ANSWERED for entry in self._entries)

    def next_candidate(self) -> Candidate | None:
        """Whom to ask now, or None: it is over, or answers are to be waited for."""
        if self._in_flight >= ALPHA:
            return None
        for entry in self._entries:
            if entry.state is State.FRESH or (entry.state is State.SILENT and entry.tries < MAX_TRIES):
                return entry
        answered = 0
        waiting = False
        for candidate in self._window():
            if candidate.state is State.ANSWERED:
                answered += 1
            elif candidate.state is State.ASKED:
                waiting = True
            elif candidate.fit or self._may_ask_unfit():
                return candidate
            else:
                waiting = waiting or self._unfit_in_flight > 0
        if waiting or (answered >= K and not self.thorough):
            return None
        return self._to_retry()

    def asked(self, candidate: Candidate) -> None:
        """A query to ``candidate`` has left."""
        candidate.state = State.ASKED
        candidate.tries += 1
        self._in_flight += 1
        if not candidate.fit:
            self._unfit_in_flight += 1
            self._unfit_asked += 1

    def answered(self, candidate: Candidate, node_id: bytes, nodes: Iterable[Node], token: bytes = b"") -> None:
        """``candidate`` answered, perhaps late, as ``node_id``, and named ``nodes``.

        An answer under another id than the one asked for proves the one who named it wrong; the node itself is a
        candidate under its own id, for it lives.
        """
        if candidate.state is State.REFUSED:
            return
        self._land(candidate)
        if candidate.node_id not in (None, node_id):
            self._disappoint(candidate)
            candidate.state = State.REFUSED
            del self._by_address[candidate.address]
            self._per_network[candidate.network] -= 1
            self.add([(node_id, candidate.address)])
            return
        candidate.state = State.ANSWERED
        candidate.token = token
        for source in candidate.sources:
            source.false_names -= 2
        self.add(list(nodes)[:MAX_NAMED], candidate)

    def fell_silent(self, candidate: Candidate) -> None:
        self._land(candidate)
        if candidate.state is State.ASKED:
            candidate.state = State.SILENT
            self._disappoint(candidate)

    def refused(self, candidate: Candidate) -> None:
        """``candidate`` answered with an error: it lives, but is of no use."""
        self._land(candidate)
        if candidate.state is not State.ANSWERED:
            candidate.state = State.REFUSED

    def closest(self) -> list[Candidate]:
        """Who answered: the k closest whose ids fit, and those that do not but are closer than the k-th."""
        return [candidate for candidate in self._window() if candidate.state is State.ANSWERED]

    def _window(self) -> Iterator[Candidate]:
        """The candidates on which the end depends, closest first: k that fit, and k at most that do not."""
        fit = unfit = 0
        networks: set[tuple[Hashable, bool]] = set()
        for candidate in self._order:
            state = candidate.state
            if state is State.SILENT or state is State.REFUSED or (self._doubted and not candidate.believed):
                continue
            key = (candidate.network, candidate.fit)
            if key in networks:
                continue
            if not candidate.fit:
                unfit += 1
                if unfit > K:
                    continue
            networks.add(key)
            yield candidate
            if candidate.fit:
                fit += 1
                if fit == K:
                    return

    def _may_ask_unfit(self) -> bool:
        return self._unfit_in_flight == 0 and self._unfit_asked < MAX_UNFIT_ASKED

    def _to_retry(self) -> Candidate | None:
        """A packet may have been lost: a second try for the silent, as long as they are closer than the k-th answer."""
        answered = 0
        for candidate in self._order:
            answered += candidate.state is State.ANSWERED and candidate.fit
            if answered >= K:
                return None
            if candidate.state is State.SILENT and candidate.tries < MAX_TRIES and candidate.believed and candidate.fit:
                return candidate
        return None

    def _insert(self, candidate: Candidate) -> None:
        if not candidate.fit:
            if self._unfit >= MAX_UNFIT:
                return
            self._unfit += 1
        waiting = self._per_network.get(candidate.network, 0)
        if waiting >= MAX_PER_NETWORK:
            return
        self._per_network[candidate.network] = waiting + 1
        insort(self._order, candidate, key=lambda other: other.distance)
        self._by_address[candidate.address] = candidate
        assert candidate.node_id is not None
        self._by_id[candidate.node_id] = candidate
        if len(self._order) > MAX_CANDIDATES:
            self._forget_farthest()

    def _forget_farthest(self) -> None:
        for position in range(len(self._order) - 1, -1, -1):
            candidate = self._order[position]
            if candidate.state is State.FRESH:
                del self._order[position]
                del self._by_address[candidate.address]
                assert candidate.node_id is not None
                del self._by_id[candidate.node_id]
                self._per_network[candidate.network] -= 1
                self._unfit -= not candidate.fit
                return

    def _land(self, candidate: Candidate) -> None:
        if candidate.state is State.ASKED:
            self._in_flight -= 1
            self._unfit_in_flight -= not candidate.fit

    def _disappoint(self, candidate: Candidate) -> None:
        if candidate.tries == 1:
            for source in candidate.sources:
                source.false_names += 1
                self._doubted = True
