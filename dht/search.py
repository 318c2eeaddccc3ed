"""`Search`: one lookup carried out: find_node or get_peers along the way, announce_peer at its end (BEP 5).

Knows no socket and no table: it asks by way of its `Asker`, the node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dht import krpc
from dht.address import is_local, is_usable
from dht.datagram import Address
from dht.krpc import ANNOUNCE_PEER, FIND_NODE, GET_PEERS, Response
from dht.lookup import Candidate, Lookup, State
from dht.transactions import Answer, OnAnswer, OnSilence, Transaction

MAX_PEERS = 10_000  # distinct peers that one search reports
ANNOUNCE_TRIES = 2


class Asker(Protocol):
    """What a search needs of the node."""

    @property
    def node_id(self) -> bytes: ...

    @property
    def may_ask(self) -> bool:
        """Whether one more query may be in flight."""

    def ask(
        self,
        address: Address,
        node_id: bytes | None,
        method: bytes,
        arguments: bytes,
        now: float,
        on_answer: OnAnswer,
        on_silence: OnSilence,
    ) -> None: ...

    def stepped(self, search: Search) -> None:
        """An outcome came in: call `Search.step` soon."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What to announce at the end: a port, or the source port as others see it (``implied_port``)."""

    port: int
    implied_port: bool


OnPeers = Callable[["Search", list[Address]], None]


class Search:
    """A `Lookup` with its queries.

    ``on_peers`` is called with peers not reported before.  ``announcement`` makes it a get_peers that ends in
    announce_peer to the closest nodes that gave a token; ``info_hash`` False makes it a find_node.
    """

    def __init__(
        self,
        asker: Asker,
        handle: int,
        lookup: Lookup,
        *,
        peers_wanted: bool,
        announcement: Announcement | None = None,
        want: int = 0,
        on_peers: OnPeers | None = None,
    ) -> None:
        self._asker = asker
        self.handle = handle
        self.lookup = lookup
        self._method = GET_PEERS if peers_wanted else FIND_NODE
        self._want = want
        self._announcement = announcement
        self._on_peers = on_peers
        self._found: set[Address] = set()
        self._to_announce: list[Candidate] | None = None
        self._announcing = 0
        self.queries = 0
        self.answers = 0
        self.acknowledged: set[Address] = set()
        self.hops = 0

    @property
    def reporting(self) -> bool:
        """Whether somebody waits for what it finds."""
        return self._on_peers is not None

    def step(self, now: float) -> bool:
        """Ask as much as may be asked now; True when all is over."""
        while self._asker.may_ask:
            candidate = self.lookup.next_candidate()
            if candidate is None:
                if not self._may_insist():
                    break
                self.lookup.thorough = True
            else:
                self._ask(candidate, now)
        if self._to_announce is None:
            if not self.lookup.done:
                return False
            self._to_announce = self._storers()
        while self._to_announce and self._asker.may_ask:
            self._announce(self._to_announce.pop(), now, 1)
        return not self._to_announce and self._announcing == 0

    def found(self, peers: list[Address]) -> None:
        """Report those of ``peers`` that were not reported yet."""
        fresh = [peer for peer in dict.fromkeys(peers) if peer not in self._found]
        fresh = fresh[: MAX_PEERS - len(self._found)]
        if fresh and self._on_peers is not None:
            self._found.update(fresh)
            self._on_peers(self, fresh)

    def _may_insist(self) -> bool:
        """A search for peers that would end without any tries those again that did not answer."""
        return self._method == GET_PEERS and not self._found and not self.lookup.thorough and self.lookup.done

    def _ask(self, candidate: Candidate, now: float) -> None:
        def on_answer(transaction: Transaction, answer: Answer, at: float) -> None:
            self._answered(candidate, answer)

        def on_silence(transaction: Transaction, at: float) -> None:
            self.lookup.fell_silent(candidate)
            self._asker.stepped(self)

        own = self._asker.node_id
        target = self.lookup.target
        if self._method == GET_PEERS:
            arguments = krpc.get_peers_arguments(own, target, self._want)
        else:
            arguments = krpc.find_node_arguments(own, target, self._want)
        self.lookup.asked(candidate)
        self.queries += 1
        self._asker.ask(candidate.address, candidate.node_id, self._method, arguments, now, on_answer, on_silence)

    def _answered(self, candidate: Candidate, answer: Answer) -> None:
        if isinstance(answer, Response):
            self.answers += candidate.state is not State.ANSWERED
            ipv6 = ":" in candidate.address[0]
            self.lookup.answered(candidate, answer.node_id, answer.nodes6 if ipv6 else answer.nodes, answer.token)
            self.hops = max(self.hops, candidate.depth)
            self.found(_dialable(answer.values, candidate.address))
        else:
            self.lookup.refused(candidate)
        self._asker.stepped(self)

    def _storers(self) -> list[Candidate]:
        """Where to announce, farthest first."""
        if self._announcement is None:
            return []
        return [candidate for candidate in reversed(self.lookup.closest()) if candidate.token]

    def _announce(self, candidate: Candidate, now: float, attempt: int) -> None:
        assert self._announcement is not None
        settled = False

        def on_answer(transaction: Transaction, answer: Answer, at: float) -> None:
            nonlocal settled
            if isinstance(answer, Response):
                self.acknowledged.add(candidate.address)
            if not settled:
                settled = True
                self._announcing -= 1
            self._asker.stepped(self)

        def on_silence(transaction: Transaction, at: float) -> None:
            nonlocal settled
            settled = True
            self._announcing -= 1
            if attempt < ANNOUNCE_TRIES:
                self._announce(candidate, at, attempt + 1)
            self._asker.stepped(self)

        arguments = krpc.announce_peer_arguments(
            self._asker.node_id,
            self.lookup.target,
            self._announcement.port,
            candidate.token,
            implied_port=self._announcement.implied_port,
        )
        self._announcing += 1
        self.queries += 1
        self._asker.ask(candidate.address, candidate.node_id, ANNOUNCE_PEER, arguments, now, on_answer, on_silence)


def _dialable(peers: list[Address], source: Address) -> list[Address]:
    """Without those where no peer can be; private ones count only when a node in a private network names them."""
    may_be_local = is_local(source[0])
    return [peer for peer in peers if is_usable(peer, ipv6=":" in peer[0]) and (may_be_local or not is_local(peer[0]))]
