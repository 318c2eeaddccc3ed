"""UPnP by the C library miniupnpc, for gateways that our own client does not get along with.

An optional dependency, imported on first use.  It opens its own sockets: `--bind` holds only as far as its choice of
an interface goes, and it does not work on simulated networks.  IPv4 only.  Its calls block, so they run in a thread;
when cancelled, the thread is left to end by itself.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Address
from typing import Any, TypeVar
from urllib.parse import urlsplit

import trio

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.gateway.clients.igd import DESCRIPTION, DYNAMIC_PORTS, LONGEST_SILENCE, OTHER_PORTS
from swarm.gateway.method import PERMANENT, Mapping, MethodName, Transport

DISCOVER_DELAY = 300  # milliseconds to wait for answers to its search

T = TypeVar("T")

_REASONS = {
    "ConflictInMappingEntry": "conflict",
    "SamePortValuesRequired": "conflict",
    "OnlyPermanentLeasesSupported": "permanent-only",
    "ActionNotAuthorized": "refused",
    "Action not authorized": "refused",
    "Invalid Args": "bad-request",
    "Action Failed": "failed",
    "Miniupnpc HTTP error": "unreachable",
}


def is_available() -> bool:
    """Whether the library is installed; there are no wheels of it for musl, nor for every Python."""
    return importlib.util.find_spec("miniupnpc") is not None


async def open_miniupnpc(inside: str, rng: random.Random) -> MiniupnpcClient:
    """Search the LAN of our address ``inside``.

    Raises RemoteError: "unsupported" without the library, "no-gateway" if nobody answers.
    """
    if not is_available():
        raise RemoteError("unsupported", "miniupnpc is not installed")
    return await _in_thread(lambda: _select(inside, rng))


def _select(inside: str, rng: random.Random) -> MiniupnpcClient:
    """Finding nothing is an error whose text is "Success" (seen with 2.3.3)."""
    import miniupnpc

    upnp = miniupnpc.UPnP(multicastif=inside, discoverdelay=DISCOVER_DELAY)
    try:
        upnp.discover()
        description_url = upnp.selectigd()
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise RemoteError("no-gateway", f"miniupnpc: {error}") from None
    return MiniupnpcClient(upnp, description_url, inside, rng)


class MiniupnpcClient:
    """See `swarm.gateway.method.Method`; made by `open_miniupnpc`."""

    longest_silence = LONGEST_SILENCE
    name: MethodName = "upnp-igd1"

    def __init__(self, upnp: Any, description_url: str, inside: str, rng: random.Random) -> None:
        self.inside = inside
        self.gateway = urlsplit(description_url).hostname or ""
        self._upnp = upnp
        self._rng = rng
        self._permanent_only = False

    async def map(self, transport: Transport, internal_port: int, external_port: int, lifetime: int) -> Mapping:
        port = external_port or internal_port
        for _ in range(1 + OTHER_PORTS):
            try:
                await self._add(transport, internal_port, port, lifetime)
                break
            except RemoteError as error:
                if error.reason != "conflict":
                    raise
                conflict = error
            port = self._rng.choice(DYNAMIC_PORTS)
        else:
            raise conflict
        internal = Endpoint(self.inside, internal_port)
        lasts = PERMANENT if self._permanent_only else lifetime
        return Mapping(transport, internal, port, await self.external_host(), lasts)

    async def unmap(self, mapping: Mapping) -> None:
        try:
            await _in_thread(lambda: self._upnp.deleteportmapping(mapping.external_port, mapping.transport.upper()))
        except RemoteError as error:
            if "NoSuchEntryInArray" not in error.detail:
                raise

    async def external_host(self) -> str | None:
        text = await _in_thread(self._upnp.externalipaddress)
        try:
            address = IPv4Address(text)
        except AddressValueError:
            return None
        return None if address.is_unspecified else str(address)

    async def probe(self) -> None:
        await _in_thread(self._upnp.externalipaddress)

    async def _add(self, transport: Transport, internal_port: int, port: int, lifetime: int) -> None:
        entry = await _in_thread(lambda: self._upnp.getspecificportmapping(port, transport.upper()))
        if entry is not None and tuple(entry[:2]) != (self.inside, internal_port):
            raise RemoteError("conflict", f"{transport} {port} is forwarded to another host")
        lease = 0 if self._permanent_only else lifetime
        arguments = (port, transport.upper(), self.inside, internal_port, DESCRIPTION, "", lease)
        try:
            await _in_thread(lambda: self._upnp.addportmapping(*arguments))
        except RemoteError as error:
            if error.reason != "permanent-only" or self._permanent_only:
                raise
            self._permanent_only = True
            await self._add(transport, internal_port, port, 0)


async def _in_thread(call: Callable[[], T]) -> T:
    """Run a call of the library, which raises Exception itself with a sentence, and nothing more exact."""

    def run() -> T:
        try:
            return call()
        except Exception as error:
            if type(error) is not Exception:
                raise
            reason = next((reason for words, reason in _REASONS.items() if words in str(error)), "failed")
            raise RemoteError(reason, f"miniupnpc: {error}") from None

    return await trio.to_thread.run_sync(run, abandon_on_cancel=True)
