"""Making an allocation (RFC 8656 §7): resolve the server, reach it over UDP, TCP or TLS, follow it to an alternate one.

Does not choose between servers nor try one again: `swarm.connect.turning` does.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.net.happy_eyeballs import interleave_families
from swarm.net.network import Network, Stream
from swarm.net.secured import TrioStream, system_trust, tls_failure
from swarm.net.turn import TurnSocket
from swarm.net.turn_auth import LongTermCredentials
from swarm.net.turn_carrier import Carrier, Datagrams, Frames
from swarm.net.turn_client import LIFETIME, TurnClient
from swarm.wire.turn_uri import TurnServer, TurnTransport

HEAD_START = 1.0
"""Seconds that one way to the server has before the next is tried beside it: UDP may be blocked."""

CONNECT_WITHIN = 10.0
"""Seconds for TCP and TLS to the server."""

MAX_REDIRECTS = 2

MAX_PLACES = 4
"""Addresses of one server that are tried."""

FRESH_SOCKETS = 3
"""Tries with other ports of ours where the server takes us for somebody else (error 437)."""


@asynccontextmanager
async def open_allocation(
    network: Network,
    server: TurnServer,
    rng: random.Random,
    *,
    ipv6: bool = False,
    tls: ssl.SSLContext | None = None,
    lifetime: int = LIFETIME,
) -> AsyncIterator[TurnSocket]:
    """An allocation for as long as the block lasts; then it is given back.

    ``ipv6`` asks for a relayed address of that family, whatever the server is reached by.  ``tls`` replaces the
    system's trust.  RemoteError if it does not come about: "no-address" for a name without one, "refused",
    "unreachable", "tls-failed", "connection-lost", "timed-out" for the way there, and those of
    `swarm.net.turn_client.Ended`.  Once it stands it may still be lost: the socket is closed then, see
    `TurnSocket.error`.
    """

    def make_client(transport: TurnTransport) -> TurnClient:
        credentials = LongTermCredentials(server.username, server.password)
        return TurnClient(credentials, rng, ipv6=ipv6, reliable=transport != "udp", lifetime=lifetime)

    refusal = None
    async with trio.open_nursery() as nursery:
        try:
            socket = await _Opening(network, server, nursery, make_client, tls).run()
        except RemoteError as error:
            refusal = error
        else:
            try:
                yield socket
            finally:
                socket.close()
        nursery.cancel_scope.cancel()
    if refusal is not None:  # raised in there a nursery would wrap it
        raise refusal


class _Opening:
    """One allocation about to be made: over each transport to each address, with head starts (RFC 8305 §5)."""

    def __init__(
        self,
        network: Network,
        server: TurnServer,
        nursery: trio.Nursery,
        make_client: Callable[[TurnTransport], TurnClient],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._network = network
        self._server = server
        self._nursery = nursery
        self._make_client = make_client
        self._tls = tls
        self._made: TurnSocket | None = None
        self._failures: list[RemoteError] = []

    async def run(self) -> TurnSocket:
        """The first that stands; RemoteError: what the server said, or what went wrong first."""
        places = await self._places()
        async with trio.open_nursery() as racing:
            for transport in self._server.transports:
                for place in places:
                    over = trio.Event()
                    racing.start_soon(self._attempt, transport, place, over, racing.cancel_scope)
                    with trio.move_on_after(HEAD_START):
                        await over.wait()
        if self._made is None:
            raise max(self._failures, key=_weight)
        return self._made

    async def _attempt(
        self, transport: TurnTransport, place: Endpoint, over: trio.Event, racing: trio.CancelScope
    ) -> None:
        try:
            socket = await self._allocate(transport, place)
        except RemoteError as error:
            self._failures.append(error)
            if error.reason.startswith("turn-"):  # it has been heard, and says no
                racing.cancel()
        else:
            if self._made is None:
                self._made = socket
                racing.cancel()
            else:
                socket.close()
        finally:
            over.set()

    async def _allocate(self, transport: TurnTransport, place: Endpoint) -> TurnSocket:
        tries = redirects = 0
        while True:
            carrier = await self._reach(transport, place)
            socket = TurnSocket(carrier, self._make_client(transport), self._server)
            self._nursery.start_soon(socket.run)
            try:
                elsewhere = await socket.allocate()
            except RemoteError as error:
                tries += 1
                if error.reason != "turn-mismatch" or tries >= FRESH_SOCKETS:
                    raise
                continue
            except trio.Cancelled:
                socket.close()
                raise
            if elsewhere is None:
                return socket
            socket.close()
            redirects += 1
            if redirects > MAX_REDIRECTS or not _may_lead_to(place, elsewhere):
                raise RemoteError("turn-redirected", "the TURN server sends us on and on, or where it must not")
            place = elsewhere

    async def _places(self) -> list[Endpoint]:
        host = self._server.host
        try:
            resolved = await self._network.resolve(host, self._server.port)
        except OSError as error:
            raise RemoteError("no-address", f"{host}: {error.strerror}") from None
        if not resolved:
            raise RemoteError("no-address", host)
        return interleave_families(resolved)[:MAX_PLACES]

    async def _reach(self, transport: TurnTransport, place: Endpoint) -> Carrier:
        try:
            if transport == "udp":
                local = Endpoint("::" if place.is_ipv6 else "0.0.0.0", 0)
                return Datagrams(await self._network.bind_udp(local), place)
            with trio.fail_after(CONNECT_WITHIN):
                stream = await self._network.dial_tcp(place)
        except ConnectionRefusedError:
            raise RemoteError("refused", f"{place} takes no connections") from None
        except OSError as error:
            raise RemoteError("unreachable", error.strerror or str(error)) from None
        except trio.TooSlowError:
            raise RemoteError("timed-out", f"{place} does not answer") from None
        carried = TrioStream(stream) if transport == "tcp" else await _secured(stream, self._server.host, self._tls)
        return Frames(carried, stream, transport, self._nursery)


def _weight(error: RemoteError) -> int:
    """What the server said counts most, silence least."""
    return 2 if error.reason.startswith("turn-") else int(error.reason != "timed-out")


def _may_lead_to(place: Endpoint, elsewhere: Endpoint) -> bool:
    """A server out there does not choose what we talk to in our own network."""
    return elsewhere.port != 0 and (elsewhere.address.is_global or not place.address.is_global)


async def _secured(stream: Stream, host: str, tls: ssl.SSLContext | None) -> trio.abc.Stream:
    secured = trio.SSLStream(TrioStream(stream), tls or system_trust(), server_hostname=host)
    try:
        with trio.fail_after(CONNECT_WITHIN):
            await secured.do_handshake()
    except trio.BrokenResourceError as error:
        stream.abort()
        raise RemoteError("tls-failed", tls_failure(error) or "the connection was lost") from None
    except trio.TooSlowError:
        stream.abort()
        raise RemoteError("timed-out", "no TLS handshake") from None
    except trio.Cancelled:
        stream.abort()
        raise
    return secured
