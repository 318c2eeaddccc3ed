"""The side with many sockets of a birthday: behind a NAT that hands out ports at random, 256 of them are open to the
other end, which tries ports until it has met one (after about 170 tries in the median).  No RFC; hyperdht does so too.

The other side is one socket that knocks, see `swarm.connect.knock` and `swarm.connect.predict`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import groupby

import trio

from swarm.connect.knock import Kind, encode_knock, is_knock
from swarm.connect.predict import Plan, Shot
from swarm.connect.second_port import answer, send
from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.net.network import DatagramSocket, Network, Path

FEWEST = 64
"""Sockets with which it is worth trying, if the system gives us no more: half of the birthdays succeed then."""


async def meet_by_birthday(network: Network, plan: Plan, nonce: bytes, host: str) -> tuple[DatagramSocket, Endpoint]:
    """Open ``plan.sockets`` sockets towards ``host``; the one that heard the other end's knock, and from where.

    The caller owns it and closes it; all the others are closed.  RemoteError("no-ports") if the system has too few.
    Blocks until somebody knocks; cancellation closes all.
    """
    with ExitStack() as stack:
        sockets = await _open(network, plan.sockets, ipv6=":" in host)
        for socket in sockets:
            stack.callback(socket.close)
        party = _Party(sockets, nonce, host)
        winner, endpoint = await party.wait(plan.shots)
        stack.pop_all()
    for socket in sockets:
        if socket is not winner:
            socket.close()
    return winner, endpoint


async def _open(network: Network, count: int, *, ipv6: bool) -> list[DatagramSocket]:
    sockets: list[DatagramSocket] = []
    try:
        for _ in range(count):
            sockets.append(await network.bind_udp(Endpoint("::" if ipv6 else "0.0.0.0", 0)))
    except OSError as error:
        if len(sockets) < FEWEST:
            _close(sockets)
            raise RemoteError("no-ports", str(error)) from error
    except trio.Cancelled:
        _close(sockets)
        raise
    return sockets


def _close(sockets: Sequence[DatagramSocket]) -> None:
    for socket in sockets:
        socket.close()


class _Party:
    """The sockets of one birthday."""

    def __init__(self, sockets: Sequence[DatagramSocket], nonce: bytes, host: str) -> None:
        self._sockets = sockets
        self._nonce = nonce
        self._host = host
        self._met: tuple[DatagramSocket, Endpoint] | None = None
        self._over = trio.Event()

    async def wait(self, shots: Sequence[Shot]) -> tuple[DatagramSocket, Endpoint]:
        async with trio.open_nursery() as nursery:
            for socket in self._sockets:
                nursery.start_soon(self._listen, socket)
            nursery.start_soon(self._knock, shots)
            await self._over.wait()
            nursery.cancel_scope.cancel()
        assert self._met is not None
        return self._met

    async def _knock(self, shots: Sequence[Shot]) -> None:
        started, knock = trio.current_time(), encode_knock(Kind.KNOCK, self._nonce)
        for after, group in groupby(shots, key=lambda shot: shot.after):
            await trio.sleep_until(started + after)
            for _, port, ttl in group:
                path = Path(None, Endpoint(self._host, port))
                for socket in self._sockets:
                    send(socket, knock, path, ttl)

    async def _listen(self, socket: DatagramSocket) -> None:
        while self._met is None:
            await socket.wait_readable()
            for data, segment_size, path in socket.receive_nowait():
                if self._met is None and is_knock(data[:segment_size], self._nonce) and path.remote.host == self._host:
                    self._met = socket, path.remote
                    answer(socket, encode_knock(Kind.HEARD, self._nonce), path)
                    self._over.set()
