"""The node's allocations on TURN servers: opened when one is asked for, one for each address family, and closed with
their last use (`swarm.connect.turn_port`).

A server that cannot be reached, or refuses, is told to the user once, and tried again after a while that doubles.
Knows of other peers' relayed addresses, too: what comes from there or goes there is no direct connection.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import trio

from swarm.config import Config
from swarm.connect.dial import Link
from swarm.connect.encrypted import Encryption
from swarm.connect.shake import shake_as_initiator
from swarm.connect.turn_port import TurnPort
from swarm.connect.turn_report import TurnReport
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError, UsageError
from swarm.events import Emit, Warned
from swarm.net.network import Network
from swarm.net.turn_opening import open_allocation
from swarm.stats.fold import count_reason
from swarm.wire.handshake import Handshake
from swarm.wire.turn_uri import TurnServer, parse_turn_uri

FIRST_BACKOFF, MAX_BACKOFF = 15.0, 900.0
"""Seconds until a server that failed is tried again: doubled each time."""

LASTED = 60.0
"""Seconds after which an allocation that was lost counts as one that had worked."""

MAX_RELAYED = 1000
"""Relayed addresses of others that are remembered, the latest."""

SYNS, SYN_PATIENCE = (0.0, 0.3, 1.0, 2.0), 3.0

HANDSHAKE_WITHIN = 10.0


class Turning:
    """All of a node's, while `run` runs.  ``welcome`` is given inbound links; ``opened`` is told of each relayed
    address of ours."""

    def __init__(
        self,
        network: Network,
        servers: Sequence[TurnServer],
        rng: random.Random,
        *,
        emit: Emit,
        encryption: Encryption,
        welcome: Callable[[Link], None],
        opened: Callable[[Endpoint], None],
    ) -> None:
        self._network = network
        self._servers = [_Server(server) for server in servers]
        self._rng = rng
        self._emit = emit
        self._encryption = encryption
        self._welcome = welcome
        self._opened = opened
        self._nursery: trio.Nursery | None = None
        self._ports: dict[bool, TurnPort] = {}  # by whether it is IPv6
        self._opening: dict[bool, trio.Event] = {}
        self._relayed: dict[Endpoint, Endpoint] = {}

    @property
    def configured(self) -> bool:
        """Whether there is any server to ask."""
        return bool(self._servers)

    async def run(self) -> None:
        """Until cancelled; then all allocations are given back."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    @property
    def running(self) -> bool:
        return self._nursery is not None

    def start_soon(self, function: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """A task that ends with `run`; only while that is `running`."""
        assert self._nursery is not None, "not running"
        self._nursery.start_soon(function, *arguments)

    async def port(self, *, ipv6: bool) -> TurnPort:
        """The allocation of this family, opened now if need be.

        RemoteError if no server gives one: "turn-" and why the first did not; at once while all are left alone.
        """
        port = self._ports.get(ipv6)
        if port is not None and not port.closed:
            return port
        if self._nursery is None or not self._servers:
            raise RemoteError("turn-off")
        if ipv6 not in self._opening:
            self._opening[ipv6] = trio.Event()
            self._nursery.start_soon(self._open, ipv6)
        await self._opening[ipv6].wait()
        port = self._ports.get(ipv6)
        if port is None or port.closed:
            raise RemoteError(next((each.slug for each in self._servers if each.error is not None), "turn-lost"))
        return port

    @property
    def ports(self) -> list[TurnPort]:
        """What stands now."""
        return [port for port in self._ports.values() if not port.closed]

    def relayed_endpoints(self) -> tuple[Endpoint, ...]:
        """Where servers receive for us now."""
        return tuple(port.relayed for port in self.ports)

    def permit(self, hosts: Sequence[str]) -> None:
        """Let them in through the allocations that stand."""
        for port in self.ports:
            port.permit(hosts)

    # -- others' relayed addresses ----------------------------------------------------------------------------------

    def learnt(self, relayed: Endpoint, peer: Endpoint) -> None:
        """Somebody who is seen at ``peer`` says that a server receives for him there."""
        self._relayed.pop(relayed, None)
        self._relayed[relayed] = peer
        if len(self._relayed) > MAX_RELAYED:
            del self._relayed[next(iter(self._relayed))]

    def is_relayed(self, endpoint: Endpoint) -> bool:
        return endpoint in self._relayed

    def relayed_for(self, endpoint: Endpoint) -> Endpoint | None:
        """Where whoever is relayed there is seen himself."""
        return self._relayed.get(endpoint)

    def owner_of(self, endpoint: Endpoint) -> Endpoint:
        """Where whoever is connected to us from there is seen himself: there, unless a server receives for him."""
        return self._relayed.get(endpoint, endpoint)

    # -- handshakes -------------------------------------------------------------------------------------------------

    async def shaken(self, port: TurnPort, remote: Endpoint, ours: Handshake) -> tuple[Link, Handshake]:
        """A link to ``remote`` through ``port`` with hands shaken.  RemoteError if it comes to nothing."""
        refusal = RemoteError("no-handshake")
        for crypto_provide in self._encryption.offers(obfuscated_before=False):
            link = await port.dial(remote, syn_times=SYNS, patience=SYN_PATIENCE)
            try:
                with trio.fail_after(HANDSHAKE_WITHIN):
                    return await shake_as_initiator(link, ours, self._encryption, crypto_provide)
            except RemoteError as error:
                link.stream.abort()
                refusal = error
            except trio.TooSlowError:
                link.stream.abort()
                raise RemoteError("handshake-timed-out") from None
            except trio.Cancelled:
                link.stream.abort()
                raise
        raise refusal

    # -- for the user -----------------------------------------------------------------------------------------------

    def statistics(self) -> tuple[TurnReport, ...]:
        now = trio.current_time()
        return tuple(each.report(self.ports, now) for each in self._servers)

    @property
    def is_checked(self) -> bool:
        """Whether every server has been asked so far."""
        return all(each.opened or each.error is not None for each in self._servers)

    async def check(self) -> None:
        """Ask every server for an allocation, and give it back: what comes of it stands in `statistics`."""
        async with trio.open_nursery() as nursery:
            for server in self._servers:
                nursery.start_soon(self._check, server)

    async def _check(self, server: _Server) -> None:
        try:
            async with open_allocation(self._network, server.server, self._rng):
                server.opened += 1
        except RemoteError as error:
            server.failed(error, trio.current_time(), worked=False)

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _open(self, ipv6: bool) -> None:
        """With the first server that gives an allocation, as long as that stands."""
        opening = self._opening[ipv6]
        try:
            for server in self._servers:
                if trio.current_time() >= server.retry_at and await self._serve(server, ipv6, opening):
                    break
        finally:
            self._ports.pop(ipv6, None)
            self._opening.pop(ipv6, None)
            opening.set()

    async def _serve(self, server: _Server, ipv6: bool, opening: trio.Event) -> bool:
        """Whether this server gave one; it has ended by then."""
        began = port = None
        try:
            async with open_allocation(self._network, server.server, self._rng, ipv6=ipv6) as socket:
                began = trio.current_time()
                port = self._ports[ipv6] = TurnPort(socket, self._rng, self._welcome)
                server.works(port)
                self._opened(port.relayed)
                del self._opening[ipv6]
                opening.set()
                failure = await _end_of(port)
        except RemoteError as error:
            failure = error
        if port is not None:
            server.ended(port)
        if failure is not None:
            worked = began is not None and trio.current_time() - began >= LASTED
            if (sentence := server.failed(failure, trio.current_time(), worked=worked)) is not None:
                self._emit(Warned(sentence))
        return began is not None


def turn_servers(config: Config) -> list[TurnServer]:
    """Those that are to be used: none without relays or without µTP.  UsageError for a URI that is none."""
    if not config.relay or not config.utp:
        return []
    try:
        return [parse_turn_uri(uri) for uri in config.turn]
    except ValueError as error:
        raise UsageError(f"a TURN server cannot be understood: {error}") from None


class _Server:
    """What is known of one server."""

    def __init__(self, server: TurnServer) -> None:
        self.server = server
        self.ports: dict[bool, TurnPort] = {}
        self.opened = 0
        self.error: str | None = None
        self.detail = ""
        self.retry_at = float("-inf")
        self._failures: Counter[str] = Counter()
        self._down = self._up = self._dropped = 0  # by allocations that have ended
        self._backoff = FIRST_BACKOFF

    @property
    def slug(self) -> str:
        """Its last error, as one of a rung's reasons."""
        error = self.error or "lost"
        return error if error.startswith("turn-") else f"turn-{error}"

    def works(self, port: TurnPort) -> None:
        self.ports[port.relayed.is_ipv6] = port
        self.opened += 1
        self.error, self.detail = None, ""

    def ended(self, port: TurnPort) -> None:
        """An allocation has."""
        last = port.statistics()
        self._down += last.bytes_down
        self._up += last.bytes_up
        self._dropped += last.dropped

    def report(self, standing: Sequence[TurnPort], now: float) -> TurnReport:
        """With those of the allocations that stand which are this server's."""
        ours = [port.statistics() for port in standing if self.ports.get(port.relayed.is_ipv6) is port]
        return TurnReport(
            server=str(self.server),
            opened=self.opened,
            bytes_down=self._down + sum(each.bytes_down for each in ours),
            bytes_up=self._up + sum(each.bytes_up for each in ours),
            dropped=self._dropped + sum(each.dropped for each in ours),
            failures=dict(self._failures),
            allocations=tuple(ours),
            error=self.error,
            detail=self.detail,
            retry_in=max(self.retry_at - now, 0.0) if self.error is not None else None,
        )

    def failed(self, error: RemoteError, now: float, *, worked: bool) -> str | None:
        """Leave it alone for a while; a sentence for the user if that is news."""
        if worked:
            self._backoff = FIRST_BACKOFF
        news = self._backoff == FIRST_BACKOFF or error.reason != self.error
        self.error, self.detail = error.reason, error.detail
        count_reason(self._failures, error.reason)
        self.retry_at = now + self._backoff
        self._backoff = min(2 * self._backoff, MAX_BACKOFF)
        if not news:
            return None
        return f"TURN server {self.server} is of no use now: {error.detail or error.reason}; it is tried again"


async def _end_of(port: TurnPort) -> RemoteError | None:
    try:
        await port.run()
    except RemoteError as error:
        return error
    return None
