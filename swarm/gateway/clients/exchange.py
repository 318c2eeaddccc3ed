"""One request and its response over UDP, resent until it is answered.  For PCP and NAT-PMP, which share a port."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import trio

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError, RemoteProtocolError
from swarm.net.network import DatagramSocket, Network, Outgoing, Path

T = TypeVar("T")


async def ask(
    network: Network,
    inside: str,
    server: Endpoint,
    request: bytes,
    waits: Iterable[float],
    accept: Callable[[bytes], T | None],
) -> T:
    """The first response of ``server`` that ``accept`` does not turn down with None or RemoteProtocolError.

    Sent from the address ``inside`` and a fresh port, again after each of ``waits`` seconds.  When they end raises
    RemoteError("timed-out"), and RemoteError("unreachable") when the request cannot be sent.
    """
    try:
        bound = await network.bind_udp(Endpoint(inside, 0))
    except OSError as error:
        raise RemoteError("unreachable", f"{inside}: {error.strerror or error}") from None
    try:
        for wait in waits:
            _send(bound, request, server)
            with trio.move_on_after(wait):
                return await _accepted(bound, server, accept)
    finally:
        bound.close()
    raise RemoteError("timed-out", f"{server} does not answer")


def _send(bound: DatagramSocket, request: bytes, server: Endpoint) -> None:
    try:
        bound.send_nowait(Outgoing([request], len(request), Path(None, server)))
    except BlockingIOError:
        pass  # our own buffer is full: as if it was lost on the way
    except OSError as error:
        raise RemoteError("unreachable", f"{server}: {error.strerror or error}") from None


async def _accepted(bound: DatagramSocket, server: Endpoint, accept: Callable[[bytes], T | None]) -> T:
    while True:
        await bound.wait_readable()
        for received in bound.receive_nowait():
            if received.path.remote != server:
                continue  # RFC 6886 §3.1, RFC 6887 §8.3: from the gateway's own address and port only
            try:
                accepted = accept(bytes(received.data[: received.segment_size]))
            except RemoteProtocolError:
                continue
            if accepted is not None:
                return accepted
