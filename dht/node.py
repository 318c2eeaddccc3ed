"""`DhtNode`: one node of the mainline DHT for one address family, as a core without I/O (BEP 5, 32, 42, 43).

Datagrams and ``now`` go in; datagrams, results and one next deadline come out.  IPv4 and IPv6 are two nodes, each
lent the other's `DhtNode.closest` to answer ``want`` with.  What is answered is decided in `dht.server`, whom to ask
in `dht.lookup`, which searches run in `dht.searches`, who stays in the table in `dht.table`; here they are wired to
the datagrams and kept fresh.

Knows nothing of torrents: that a private one is never looked up or announced is the caller's business.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from dht import krpc
from dht.address import is_local, is_usable, owner_of
from dht.compact import Node
from dht.config import DhtConfig
from dht.datagram import Address, Outgoing, Path
from dht.errors import LocalProtocolError, RemoteProtocolError
from dht.external import ExternalAddress
from dht.krpc import PING, PING_SIZE, WANT_V4, WANT_V6, Query, Response
from dht.limits import Blacklist, Memory, Rate, RatePerHost
from dht.nodeid import fits_address, make_node_id
from dht.results import (
    AddressObserved,
    NodeIdChanged,
    NodeStatistics,
    OtherFamilyHeard,
    Result,
)
from dht.search import Announcement, Search
from dht.searches import Searches
from dht.server import Server
from dht.state import SavedState
from dht.table import K, RoutingTable
from dht.transactions import Answer, OnAnswer, OnSilence, Transaction, Transactions
from dht.upkeep import Upkeep

MIN_MOVE_PAUSE = 600.0  # seconds between two changes of our id
BURST_SECONDS = 10.0  # of datagrams from one host
ANSWER_BURST_SECONDS = 2.0
VERIFIED_FOR = 600.0  # seconds that an address is taken to receive what we send to it
STRIKES, BANNED_FOR = 3, 1800.0  # garbage for an answer until a host is left alone, and for how many seconds
MAX_RECEIVED = 2048  # bytes of an answer that we wait for; nobody has a reason to send more than 1,024
MAX_QUERY = 512  # bytes of anything else: 2,000 made to be slow to read cost half a millisecond, queries have up to 350
MAX_OUTBOX = 4096  # datagrams that wait to be sent; then answers are dropped
MAX_PINGS = 32  # open at once: queries from forged addresses must not take all places from our searches
MAX_OBSERVATIONS = 1000  # results of that kind that wait to be taken


class DhtNode:
    """A `DatagramCore` (DESIGN §4).

    Call `start` once; it then bootstraps and keeps its table.  Before that, and always, it answers queries.  After
    each call that may have something to send (`get_peers`, `announce`, `add_address`) the owner calls
    `datagrams_to_send`.
    """

    first_bytes = frozenset(b"d")

    def __init__(
        self, config: DhtConfig, rng: random.Random, *, ipv6: bool = False, saved: SavedState | None = None
    ) -> None:
        self.config = config
        self.ipv6 = ipv6
        self.read_only = config.read_only
        self._rng = rng
        self._external = ExternalAddress(config.external_host)
        self.node_id = _first_id(config, rng, saved)
        self.table = RoutingTable(self.node_id)
        self.server = Server(self.table.closest_compact, rng, ipv6=ipv6, amplification=config.amplification)
        self._transactions = Transactions(rng)
        self._routers = frozenset(config.routers)
        self._verified: Memory[Address] = Memory(VERIFIED_FOR)
        self._blacklist = Blacklist(STRIKES, BANNED_FOR)
        per_host, per_second = config.datagrams_per_second_per_host, config.answer_bytes_per_second
        self._per_host = None if per_host is None else RatePerHost(per_host, per_host * BURST_SECONDS)
        self._answers_rate = None if per_second is None else Rate(per_second, per_second * ANSWER_BURST_SECONDS)
        self._outbox: list[Outgoing] = []
        self._results: list[Result] = []
        self._observations = 0
        self._searches = Searches(self, ipv6=ipv6, max_running=config.max_searches, report=self._report)
        self._pinging: set[Address] = set()
        self._next_move = float("-inf")
        self._upkeep = Upkeep(self, self.table, rng, config.routers)
        for _, address in saved.nodes if saved is not None else ():
            self._upkeep.add_seed(address)
        self._sibling: DhtNode | None = None
        self._queries_in = self._queries_out = self._answers = 0
        self._malformed = self._unsolicited = self._limited = 0

    # The core's verbs

    def wants(self, datagram: memoryview, path: Path) -> bool:
        """Whether it starts like a bencoded dictionary; nothing else on the shared socket does."""
        return len(datagram) > 0 and datagram[0] == 0x64

    def receive_batch(self, datagrams: Sequence[memoryview], path: Path, now: float) -> None:
        """Take datagrams of one sender.  What is not understood or comes too fast is counted and dropped."""
        remote = path.remote
        if self._blacklist and self._blacklist.bans(owner_of(remote), now):
            self._limited += len(datagrams)
            return
        for datagram in datagrams:
            # An answer that we wait for must come through a flood in its sender's name; its queries must not with it.
            awaited = self._transactions.awaits(remote)
            if len(datagram) > (MAX_RECEIVED if awaited else MAX_QUERY):
                self._malformed += 1
            elif awaited or self._admits(remote, now):
                self._receive(bytes(datagram), path, now, counted=not awaited)
        if self._searches.may_go_on:
            self._searches.step(now)

    def datagrams_to_send(self, now: float) -> list[Outgoing]:
        """One datagram each; a second call at once returns nothing."""
        self._searches.step(now)
        outbox, self._outbox = self._outbox, []
        return outbox

    def next_deadline(self) -> float | None:
        deadlines = (self._transactions.next_deadline(), self._upkeep.next_deadline())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def handle_deadline(self, now: float) -> None:
        for transaction in self._transactions.take_silent(now):
            self.table.failed(transaction.address)
            transaction.on_silence(transaction, now)
        self._upkeep.handle_deadline(now)
        self._searches.step(now)

    def take_results(self) -> list[Result]:
        results, self._results = self._results, []
        self._observations = 0
        return results

    # What the owner asks for

    def start(self, now: float) -> None:
        """Begin to bootstrap: from the saved nodes, the routers, and the addresses added so far."""
        self._upkeep.start(now)

    def bootstrap(self, routers: Sequence[Address]) -> None:
        """Begin (again) at ``routers``, which replace those of the configuration: their names took time to resolve.

        Before `start` they are only noted.  Addresses of the other family are ignored.
        """
        usable = tuple(address for address in routers if is_usable(address, ipv6=self.ipv6))
        self._routers = frozenset(usable)
        self._upkeep.bootstrap(usable)

    def lend(self, sibling: DhtNode | None) -> None:
        """The node of the other family, if there is one: it is asked for its `closest` nodes and nothing else."""
        self._sibling = sibling
        self.server.other = None if sibling is None else sibling.closest

    def closest(self, target: bytes) -> bytes:
        """The up to 8 nodes we know closest to ``target``, in compact form."""
        return self.table.closest_compact(target)

    def add_address(self, address: Address, now: float) -> None:
        """A node may be there (a PORT message, a torrent's ``nodes``): it is asked, and kept if it answers.

        Addresses of the other family, and those that cannot be a node's, are ignored.
        """
        if is_usable(address, ipv6=self.ipv6):
            self._upkeep.add_seed(address)
            self.ping(address, None, now)

    def refresh(self, now: float) -> bool:
        """Ask the contact that was heard longest ago whether it is there; False if there is nobody to ask.

        For an owner who wants something to be sent now and then, to keep a NAT's mapping alive.
        """
        oldest = min(self.table.contacts(), key=lambda contact: contact.answered_at, default=None)
        return oldest is not None and self.ping(oldest.address, oldest.node_id, now)

    def get_peers(self, info_hash: bytes) -> int:
        """Search for peers; the handle that `PeersFound` and, at the end, `SearchEnded` will carry.

        At most `DhtConfig.max_searches` are under way, the others wait in the order asked.
        """
        return self._searches.request(info_hash, None)

    def announce(self, info_hash: bytes, port: int, *, implied_port: bool = False) -> int:
        """Search for peers and tell the closest nodes that there is one at ``port``.

        With ``implied_port`` they take the port that our datagrams come from, as they see it: right behind a NAT when
        µTP shares the socket.  LocalProtocolError for a port outside 1–65535.
        """
        if not 0 < port < 65536:
            raise LocalProtocolError(f"{port} is not a port")
        return self._searches.request(info_hash, Announcement(port, implied_port))

    def cancel(self, handle: int) -> None:
        """Ask no more for this search and report nothing of it.  Unknown handles are none."""
        self._searches.cancel(handle)

    def saved_state(self) -> SavedState:
        """What to keep for the next run: the contacts that are good come first."""
        contacts = sorted(self.table.contacts(), key=lambda contact: (contact.failures, -contact.answered_at))
        return SavedState(self.node_id, tuple((contact.node_id, contact.address) for contact in contacts))

    def statistics(self) -> NodeStatistics:
        return NodeStatistics(
            nodes=len(self.table),
            queries_in=self._queries_in,
            queries_out=self._queries_out,
            answers=self._answers,
            lookups=self._searches.begun,
            peers_stored=len(self.server.store),
            in_flight=self._transactions.in_flight,
            searches_waiting=self._searches.waiting,
            malformed=self._malformed,
            unsolicited=self._unsolicited,
            limited=self._limited,
        )

    @property
    def external_host(self) -> str | None:
        """Our address by the vote of those who answered us, or by configuration."""
        return self._external.host

    # Seeker: what searches need

    @property
    def may_ask(self) -> bool:
        return self._transactions.in_flight < self.config.max_in_flight

    def ask(
        self,
        address: Address,
        node_id: bytes | None,
        method: bytes,
        arguments: bytes,
        now: float,
        on_answer: OnAnswer,
        on_silence: OnSilence,
    ) -> None:
        transaction = self._transactions.open(address, node_id, now, on_answer, on_silence)
        self._queries_out += 1
        query = krpc.encode_query(transaction.transaction_id, method, arguments, read_only=self.read_only)
        self._send(query, Path(None, address))

    def stepped(self, search: Search) -> None:
        self._searches.stepped(search)

    def nodes_near(self, target: bytes) -> list[Node]:
        return [(contact.node_id, contact.address) for contact in self.table.closest(target, 2 * K)]

    def peers_here(self, info_hash: bytes, now: float) -> list[Address]:
        return self.server.store.peers(info_hash, now)

    def search_over(self, search: Search, now: float) -> None:
        self._upkeep.finished(search, now)

    # Datagrams of others

    def _admits(self, remote: Address, now: float) -> bool:
        """Whether its sender may send one more datagram; counts those that may not."""
        if self._per_host is None:
            return True
        admitted = self._per_host.admits(owner_of(remote), now)
        self._limited += not admitted
        return admitted

    def _receive(self, datagram: bytes, path: Path, now: float, *, counted: bool) -> None:
        remote = path.remote
        try:
            message = krpc.decode_untrusted(datagram)
        except RemoteProtocolError as error:
            self._malformed += 1
            if error.code is not None:
                if counted or self._admits(remote, now):
                    self._refuse(error, path, len(datagram), now)
            elif error.transaction_id is not None and self._transactions.is_pending(error.transaction_id, remote):
                self._lied(remote, now)
            return
        if isinstance(message, Query):
            if counted or self._admits(remote, now):
                self._receive_query(message, path, len(datagram), now)
        else:
            self._receive_answer(message, remote, now)

    def _receive_query(self, query: Query, path: Path, size: int, now: float) -> None:
        remote = path.remote
        self._queries_in += 1
        if query.node_id == self.node_id:
            return
        verified = self._verified.holds(remote, now)
        spent = 0
        if not query.read_only and self.table.asked_us(query.node_id, remote, now):
            # One try only: what an unproved address is sent in all has a bound.
            pinged = self.ping(remote, query.node_id, now, tries=2 if verified else 1)
            spent = PING_SIZE if pinged else 0
        if self.read_only:
            return
        answer, proved = self.server.answer(query, self.node_id, remote, size, now, verified=verified, spent=spent)
        if proved:
            self._verified.add(remote, now)
        self._answer(answer, path, now)

    def _refuse(self, error: RemoteProtocolError, path: Path, size: int, now: float) -> None:
        self._queries_in += 1
        if error.transaction_id is not None and error.code is not None and not self.read_only:
            text = str(error).encode()
            self._answer(self.server.refuse(error.transaction_id, error.code, text, path.remote, size), path, now)

    def _answer(self, answer: bytes | None, path: Path, now: float) -> None:
        if answer is None or len(self._outbox) >= MAX_OUTBOX:
            return
        if self._answers_rate is not None and not self._answers_rate.take(len(answer), now):
            self._limited += 1
            return
        self._answers += 1
        self._send(answer, path)

    def _receive_answer(self, answer: Answer, remote: Address, now: float) -> None:
        transaction = self._transactions.close(answer.transaction_id, remote, now)
        if transaction is None:
            self._unsolicited += 1
            return
        self._verified.add(remote, now)
        if answer.observed is not None:
            self._observed(remote, answer.observed, now)
        if isinstance(answer, Response) and answer.node_id != self.node_id:
            self._note_alive(transaction, answer, now)
        transaction.on_answer(transaction, answer, now)

    def _note_alive(self, transaction: Transaction, answer: Response, now: float) -> None:
        """Into the table with whoever answered; with a router only while we know hardly anybody else."""
        remote = transaction.address
        if remote not in self._routers or len(self.table) < K:
            self.table.answered(answer.node_id, remote, now)
        heard = answer.nodes if self.ipv6 else answer.nodes6
        if heard and self._upkeep.bootstrapping:
            self._results.append(OtherFamilyHeard(tuple(heard[:K])))

    def _lied(self, remote: Address, now: float) -> None:
        if self._blacklist.strike(owner_of(remote), now):
            self.table.remove(remote)

    def _observed(self, reporter: Address, observed: Address, now: float) -> None:
        if (":" in observed[0]) is not self.ipv6:
            return
        if self._observations < MAX_OBSERVATIONS:
            self._observations += 1
            self._results.append(AddressObserved(reporter, observed))
        if not is_local(observed[0]):
            self._external.vote(reporter[0], observed[0])
            host = self._external.host
            if host is not None and now >= self._next_move and not fits_address(self.node_id, host):
                self._move(host, now)

    def _move(self, host: str, now: float) -> None:
        """Take an id that fits our address, and get to know its neighbours."""
        self._next_move = now + MIN_MOVE_PAUSE
        self.node_id = make_node_id(host, self._rng)
        self.table.move(self.node_id)
        self._results.append(NodeIdChanged(self.node_id, host))
        self._upkeep.moved()

    # Our own questions

    def ping(self, address: Address, node_id: bytes | None, now: float, tries: int = 2) -> bool:
        """Ask whether a node is there, unless that is being asked already or too much else is; whether it was asked."""
        if (
            address in self._pinging
            or len(self._pinging) >= MAX_PINGS
            or not self.may_ask
            or self._blacklist.bans(owner_of(address), now)
        ):
            return False
        self._pinging.add(address)

        def on_answer(transaction: Transaction, answer: Answer, at: float) -> None:
            self._pinging.discard(address)

        def on_silence(transaction: Transaction, at: float) -> None:
            self._pinging.discard(address)
            if tries > 1:
                self.ping(address, node_id, at, tries - 1)

        self.ask(address, node_id, PING, krpc.ping_arguments(self.node_id), now, on_answer, on_silence)
        return True

    def look_for(self, target: bytes, *, both_families: bool) -> Search:
        """A find_node search of our own, which reports nothing.

        ``both_families`` asks for nodes of the other family too, if its node knows fewer than 8 (BEP 32).
        """
        lacking = both_families and self._sibling is not None and len(self._sibling.table) < K
        return self._searches.look_for(target, WANT_V4 | WANT_V6 if lacking else 0)

    def expire(self, now: float) -> None:
        self.server.store.expire(now)

    def _report(self, result: Result) -> None:
        self._results.append(result)

    def _send(self, datagram: bytes, path: Path) -> None:
        self._outbox.append(Outgoing((datagram,), len(datagram), path))


def _first_id(config: DhtConfig, rng: random.Random, saved: SavedState | None) -> bytes:
    """The saved id, unless we know that it does not fit our address."""
    host = config.external_host
    if saved is not None and (host is None or fits_address(saved.node_id, host)):
        return saved.node_id
    return make_node_id(host, rng)
