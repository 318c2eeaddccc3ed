"""PCP or NAT-PMP?  Which of them a gateway speaks: they share a port and refuse each other's version (RFC 6887 §9)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import trio

from swarm.errors import RemoteError
from swarm.gateway.clients.natpmp import NatPmpClient
from swarm.gateway.clients.pcp import PcpClient

HEAD_START = 0.25  # seconds before the next protocol is tried as well: a router's answer takes a few milliseconds

PortControl: TypeAlias = PcpClient | NatPmpClient


async def negotiate(
    clients: Sequence[PortControl], failed: Callable[[PortControl, RemoteError], None]
) -> PortControl | None:
    """The first of ``clients`` whose probe the gateway answers; None when all have failed.

    Each begins when one before it has failed, or HEAD_START after it: there are gateways that pass over in silence what
    they do not know.  ``failed`` is told of every failure.
    """
    chosen: PortControl | None = None
    refused = trio.Event()

    async def attempt(client: PortControl, head_start: float) -> None:
        nonlocal chosen
        with trio.move_on_after(head_start):
            await refused.wait()
        try:
            await client.probe()
        except RemoteError as error:
            refused.set()
            failed(client, error)
        else:
            chosen = chosen or client
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for place, client in enumerate(clients):
            nursery.start_soon(attempt, client, place * HEAD_START)
    return chosen
