"""An allocation on a TURN server with µTP on it: a small mux, as that of `swarm.connect.shot_port`.

Lives as long as somebody holds it or a connection that is wanted runs over it, and breaks with the allocation: then its
streams do.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import trio

from swarm.connect.dial import Link, dial_utp
from swarm.connect.turn_report import AllocationReport
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.net.mux import DatagramCore, Mux, Priority
from swarm.net.turn import TurnSocket
from swarm.net.udp_port import UtpPort
from utp.config import UtpConfig
from utp.endpoint import UtpEndpoint
from utp.service import UtpService
from utp.stream import UtpStream

IDLE = 30.0
"""Seconds for which an allocation that nobody uses is kept: the next peer may need it, or the same one that broke off.
A new one costs two round trips to the server, and another address that peers have to hear of."""

KNOCK = 12.0
"""Seconds after which an inbound connection counts as use.  Those that nobody here wants are hung up on before, once
hands were to be shaken; peers that had the address go on knocking for minutes."""

LOOK = 1.0

CHANNEL_HEADER = 4
IPV6_EXTRA = 20
"""Bytes that datagrams to the server are longer, and that IPv6 is longer than IPv4."""


class TurnPort:
    """``welcome`` is given inbound links, to be shaken hands with."""

    def __init__(self, socket: TurnSocket, rng: random.Random, welcome: Callable[[Link], None]) -> None:
        self._socket = socket
        self._welcome = welcome
        self._mux = Mux(socket)
        config = _config(over_ipv6=socket.mapped is not None and socket.mapped.is_ipv6, transport=socket.transport)
        self._endpoint = UtpEndpoint(config, rng)
        self._service = UtpService(self._endpoint, self._mux.wake, accept_backlog=config.accept_backlog)
        # The leaf package has shapes of its own, field by field the same (tests/test_architecture.py).
        core = cast(DatagramCore, self._endpoint)
        self._mux.add(core, priority=Priority.UTP, name="utp", on_results=self._service.publish)
        self._streams: dict[UtpStream, float] = {}  # those that stand, and since when
        self._held = 0
        self._idle_since = trio.current_time()
        self.closed = False
        self.relayed = socket.local
        """Where the server receives for us."""

    async def run(self) -> None:
        """Serve until nobody has used it for IDLE seconds, or the allocation is lost: RemoteError says why."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._accept)
                nursery.start_soon(self._close_when_idle)
                await self._serve_socket()
                nursery.cancel_scope.cancel()
        finally:
            self.closed = True
            self._endpoint.abort_all(trio.current_time())
            self._say_last()
            self._mux.close()
        if self._socket.error is not None:
            raise self._socket.error

    def permit(self, hosts: Iterable[str]) -> None:
        """As `TurnSocket.permit`."""
        self._socket.permit(hosts)

    async def dial(self, remote: Endpoint, *, syn_times: Sequence[float], patience: float) -> Link:
        """Connect over µTP from the relayed address; RemoteError as `swarm.connect.dial.dial_utp`."""
        if self.closed:
            raise RemoteError("turn-lost")
        if reason := self._socket.refused.get(remote.host):
            raise RemoteError(reason)
        with self.hold():
            link = await dial_utp(UtpPort(self._service), remote, syn_times=syn_times, patience=patience)
            return self._noted(replace(link, path="turn"))

    @contextmanager
    def hold(self) -> Iterator[None]:
        """It is not closed for want of connections in the block."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    def statistics(self) -> AllocationReport:
        utp = self._mux.statistics().cores["utp"]
        return AllocationReport(
            self.relayed,
            self._socket.transport,
            self._endpoint.statistics().connections,
            utp.bytes_in,
            utp.bytes_out,
            self._socket.dropped,
        )

    async def _serve_socket(self) -> None:
        try:
            await self._mux.run()
        except trio.ClosedResourceError:
            pass  # `TurnSocket.error` says why

    def _say_last(self) -> None:
        """Resets to those connected, and news of the end to whoever waits for these streams."""
        core = cast(DatagramCore, self._endpoint)
        for outgoing in core.datagrams_to_send(trio.current_time()):
            try:
                self._socket.send_nowait(outgoing)
            except OSError:
                break
        self._service.publish(self._endpoint.take_results())

    async def _accept(self) -> None:
        port = UtpPort(self._service)
        while True:
            self._welcome(self._noted(Link(await port.accept(), "turn")))

    def _noted(self, link: Link) -> Link:
        self._streams[cast(UtpStream, link.stream)] = trio.current_time()
        return link

    def _is_used(self, now: float) -> bool:
        self._streams = {stream: since for stream, since in self._streams.items() if not stream.closed}
        return self._held > 0 or any(now - since >= KNOCK for since in self._streams.values())

    async def _close_when_idle(self) -> None:
        while True:
            await trio.sleep(LOOK)
            now = trio.current_time()
            if self._is_used(now):
                self._idle_since = now
            elif now >= self._idle_since + IDLE:
                self.closed = True
                self._mux.close()
                return


def _config(*, over_ipv6: bool, transport: str) -> UtpConfig:
    """µTP whose datagrams still fit with what TURN puts before them."""
    usual = UtpConfig(max_connections=100, max_half_open=32, accept_backlog=16)
    if transport != "udp":
        return usual  # a stream cuts nothing; what the server sends on has no header more
    header = CHANNEL_HEADER + (IPV6_EXTRA if over_ipv6 else 0)
    return replace(
        usual, mtu_ceiling_v4=usual.mtu_ceiling_v4 - header, mtu_ceiling_v6=usual.mtu_ceiling_v6 - CHANNEL_HEADER
    )
