"""TLS over a `Stream` of ours, for https and TURN: what `trio.SSLStream` needs, and whom the system trusts."""

from __future__ import annotations

import functools
import ssl

import trio

from swarm.net.network import Stream


class TrioStream(trio.abc.Stream):
    """Our `Stream` as a `trio.abc.Stream`, which `trio.SSLStream` insists on."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


@functools.cache
def system_trust() -> ssl.SSLContext:
    """Loaded on first use (some 30 ms), not at import."""
    return ssl.create_default_context()


def tls_failure(error: trio.BrokenResourceError) -> str | None:
    """trio wraps TLS alerts and certificate errors; what went wrong, or None for a connection that was just lost."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"certificate refused: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return cause.reason or str(cause)
    return None
