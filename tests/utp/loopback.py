"""µTP of ours on a real socket of this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from swarm.endpoint import Endpoint
from swarm.net.real import RealNetwork
from utp.service import UtpService, open_utp

LOOPBACK = "127.0.0.1"


@asynccontextmanager
async def service(*, offload: bool = True, host: str = LOOPBACK) -> AsyncIterator[tuple[UtpService, int]]:
    """Ours, and the port it listens on."""
    socket = await RealNetwork(offload=offload).bind_udp(Endpoint(host, 0))
    try:
        async with open_utp(socket) as opened:  # type: ignore[arg-type]
            yield opened, socket.local.port
    finally:
        socket.close()
