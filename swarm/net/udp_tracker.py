"""The UDP tracker client as a core without I/O (BEP 15, BEP 41): it hangs off the shared UDP socket.

Knows connection ids, transactions and retransmission.  Does not resolve names, does not choose trackers and sets no
limit to the waiting: who asked gives up by `UdpTracker.cancel`.  The async face is `swarm.net.udp_tracker_service`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError
from swarm.net.network import Buffer, Outgoing, Path
from swarm.wire.tracker import AnnounceFailure, AnnounceReply, AnnounceRequest, ScrapeEntry
from swarm.wire.udp_tracker import (
    ANNOUNCE,
    CONNECT,
    ERROR,
    SCRAPE,
    encode_announce,
    encode_connect,
    encode_scrape,
    parse_announce_untrusted,
    parse_connect_untrusted,
    parse_error_untrusted,
    parse_scrape_untrusted,
    peek_reply,
)

CONNECTION_ID_LIFETIME = 60.0
"""Seconds we may use a connection id after receiving it."""

FIRST_TIMEOUT = 15.0
"""Seconds until the first retransmission; doubled at each."""

MAX_DOUBLINGS = 3
"""The BEP goes on to 8 (over an hour); whoever waits has long asked elsewhere by then."""

Outcome = AnnounceReply | dict[bytes, ScrapeEntry] | AnnounceFailure | RemoteProtocolError


@dataclass(frozen=True, slots=True)
class UdpTrackerResult:
    """What became of the request ``handle``: a reply, the tracker's refusal, or the error that its reply was."""

    handle: int
    outcome: Outcome


class UdpTracker:
    """All our requests to UDP trackers from one socket; a `swarm.net.mux.DatagramCore`.

    Replies count only with a pending transaction id *and* from the very address asked.  A request whose cached
    connection id is refused (our NAT mapping may have changed since) is asked once more with a fresh one.
    """

    first_bytes = frozenset({0})
    """Every reply begins with an action below 256 in four bytes: the mux asks about nothing else."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._servers: dict[Endpoint, _Server] = {}
        self._requests: dict[int, _Request] = {}  # by transaction id, which is also the handle
        self._connects: dict[int, _Server] = {}
        self._outbox: list[Outgoing] = []
        self._results: list[UdpTrackerResult] = []
        self.ignored = 0
        """Datagrams that looked like ours and were not: wrong address, wrong action."""

    def announce(self, request: AnnounceRequest, remote: Endpoint, url_data: bytes, now: float) -> int:
        """Begin to announce; the handle of the result.  ``url_data`` is the path and query of the URL, or empty."""

        def encode(connection_id: int, transaction_id: int) -> bytes:
            return encode_announce(connection_id, transaction_id, request, url_data)

        return self._begin(_Request(remote, ANNOUNCE, encode), now)

    def scrape(self, info_hashes: Sequence[bytes], remote: Endpoint, now: float) -> int:
        """Begin to ask for the counts of up to 74 torrents; the handle of the result."""

        def encode(connection_id: int, transaction_id: int) -> bytes:
            return encode_scrape(connection_id, transaction_id, info_hashes)

        return self._begin(_Request(remote, SCRAPE, encode, info_hashes=tuple(info_hashes)), now)

    def cancel(self, handle: int) -> None:
        """Forget a request: nothing more is sent and no result comes.  Harmless for one that has ended."""
        self._requests.pop(handle, None)
        self._results = [result for result in self._results if result.handle != handle]

    def wants(self, datagram: Buffer, path: Path) -> bool:
        header = peek_reply(memoryview(datagram))
        if header is None:
            return False
        request = self._requests.get(header.transaction_id)
        if request is not None:
            return request.remote == path.remote
        server = self._connects.get(header.transaction_id)
        return server is not None and server.remote == path.remote

    def receive_batch(self, datagrams: Sequence[Buffer], path: Path, now: float) -> None:
        for datagram in datagrams:
            if self.wants(datagram, path):
                self._receive(memoryview(datagram), now)
            else:
                self.ignored += 1

    def datagrams_to_send(self, now: float) -> list[Outgoing]:
        outbox, self._outbox = self._outbox, []
        return outbox

    def next_deadline(self) -> float | None:
        """When the next retransmission is due; None while nothing is asked."""
        if not self._requests:
            return None
        return min(request.deadline for request in self._requests.values())

    def handle_deadline(self, now: float) -> None:
        for transaction_id, request in list(self._requests.items()):
            if request.deadline <= now:
                request.doublings = min(request.doublings + 1, MAX_DOUBLINGS)
                self._send(transaction_id, request, now)

    def take_results(self) -> list[UdpTrackerResult]:
        results, self._results = self._results, []
        return results

    def _begin(self, request: _Request, now: float) -> int:
        self._forget_idle_servers(now)
        transaction_id = self._fresh_transaction_id()
        self._requests[transaction_id] = request
        self._send(transaction_id, request, now)
        return transaction_id

    def _send(self, transaction_id: int, request: _Request, now: float) -> None:
        """The request itself, or first a connect if there is no valid connection id.  Sets the deadline of both."""
        request.deadline = now + FIRST_TIMEOUT * 2**request.doublings
        server = self._servers.get(request.remote)
        if server is None:
            server = self._servers[request.remote] = _Server(request.remote)
        if now < server.valid_until:
            self._put(request.remote, request.encode(server.connection_id, transaction_id))
            request.sent_with = server.connection_id
        else:
            request.sent_with = None
            self._connect(server, now)

    def _connect(self, server: _Server, now: float) -> None:
        """One connect serves all requests to a server; while one is young it is not repeated for the next of them."""
        if server.connecting is not None and now < server.connect_sent + FIRST_TIMEOUT:
            return
        if server.connecting is None:
            server.connecting = self._fresh_transaction_id()
            self._connects[server.connecting] = server
        server.connect_sent = now
        self._put(server.remote, encode_connect(server.connecting))

    def _put(self, remote: Endpoint, datagram: bytes) -> None:
        self._outbox.append(Outgoing((datagram,), len(datagram), Path(None, remote)))

    def _receive(self, datagram: memoryview, now: float) -> None:
        header = peek_reply(datagram)
        assert header is not None, "wants() was asked"
        server = self._connects.get(header.transaction_id)
        if server is not None:
            self._receive_for_connect(server, header.action, datagram, now)
        else:
            self._receive_for_request(header.transaction_id, header.action, datagram, now)

    def _receive_for_connect(self, server: _Server, action: int, datagram: memoryview, now: float) -> None:
        if action not in (CONNECT, ERROR):
            self.ignored += 1
            return
        assert server.connecting is not None
        del self._connects[server.connecting]
        server.connecting = None
        waiting = [(handle, request) for handle, request in self._requests.items() if request.awaits(server)]
        if action == ERROR:
            self._end_all(waiting, parse_error_untrusted(datagram))
            return
        try:
            server.connection_id = parse_connect_untrusted(datagram)
        except RemoteProtocolError as error:
            self._end_all(waiting, error)
            return
        server.valid_until = now + CONNECTION_ID_LIFETIME
        for transaction_id, request in waiting:
            request.connected = True
            self._send(transaction_id, request, now)

    def _receive_for_request(self, transaction_id: int, action: int, datagram: memoryview, now: float) -> None:
        request = self._requests[transaction_id]
        if action == ERROR:
            self._receive_error(transaction_id, request, datagram, now)
            return
        if action != request.action:
            self.ignored += 1
            return
        outcome: Outcome
        try:
            if action == ANNOUNCE:
                outcome = parse_announce_untrusted(datagram, ipv6=request.remote.is_ipv6)
            else:
                outcome = parse_scrape_untrusted(datagram, request.info_hashes)
        except RemoteProtocolError as error:
            outcome = error
        self._end(transaction_id, outcome)

    def _receive_error(self, transaction_id: int, request: _Request, datagram: memoryview, now: float) -> None:
        server = self._servers[request.remote]
        if not request.connected and request.sent_with is not None:
            if request.sent_with == server.connection_id:
                server.valid_until = now
            request.connected = True
            self._send(transaction_id, request, now)
            return
        self._end(transaction_id, parse_error_untrusted(datagram))

    def _end_all(self, ended: Sequence[tuple[int, _Request]], outcome: Outcome) -> None:
        for transaction_id, _ in ended:
            self._end(transaction_id, outcome)

    def _end(self, transaction_id: int, outcome: Outcome) -> None:
        del self._requests[transaction_id]
        self._results.append(UdpTrackerResult(transaction_id, outcome))

    def _fresh_transaction_id(self) -> int:
        while True:
            transaction_id = self._rng.getrandbits(32)
            if transaction_id not in self._requests and transaction_id not in self._connects:
                return transaction_id

    def _forget_idle_servers(self, now: float) -> None:
        asked = {request.remote for request in self._requests.values()}
        for server in list(self._servers.values()):
            if server.remote not in asked and server.valid_until <= now:
                del self._servers[server.remote]
                if server.connecting is not None:
                    del self._connects[server.connecting]


@dataclass(slots=True)
class _Server:
    """One tracker address: its connection id and the connect that is under way."""

    remote: Endpoint
    connection_id: int = 0
    valid_until: float = float("-inf")
    connecting: int | None = None
    connect_sent: float = 0.0


@dataclass(slots=True)
class _Request:
    """One announce or scrape under way."""

    remote: Endpoint
    action: int
    encode: Callable[[int, int], bytes]
    info_hashes: tuple[bytes, ...] = ()
    doublings: int = 0
    deadline: float = 0.0
    sent_with: int | None = None
    """The connection id it last left with; None while it waits for one."""
    connected: bool = False
    """A connection id was obtained for this very request: an error is then final."""

    def awaits(self, server: _Server) -> bool:
        return self.remote == server.remote and self.sent_with is None
