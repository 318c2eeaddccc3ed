"""NAT behaviour discovery with STUN (RFC 5780 §4): how a NAT maps and filters, in the words of RFC 4787.

Filtering is tested before mapping: the mapping test sends to the server's other address, and what was sent to may
answer.  For the same reason the verdict on filtering holds only for a socket that has sent nothing to that address
within the lifetime of a NAT's mappings, minutes: ask again later, or from another socket.
Does not test lifetimes and hairpinning (§4.5, §4.6), and keeps nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import trio

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.net.stun import BRISK, Patience, StunAnswer

Behaviour = Literal["endpoint-independent", "address-dependent", "address-and-port-dependent", "none", "unknown"]
"""Of mapping or filtering; "none": addresses are not translated, or nothing is filtered on an address of our own."""


class Observed(NamedTuple):
    """One server's word on where it sees us: evidence of how a NAT maps."""

    server: Endpoint
    mapped: Endpoint


@dataclass(frozen=True, slots=True)
class NatObservations:
    """What was found out, and from what."""

    mapping: Behaviour
    filtering: Behaviour
    evidence: tuple[Observed, ...]
    """In the order of sending, all from one socket: ports in sequence show as such."""
    failures: tuple[tuple[str, str], ...]
    """Tests of the RFC that gave no answer to work with, and why: ("mapping II", "timed-out").

    Silence in a test of filtering is an answer and not listed."""


class Binds(Protocol):
    """A `swarm.net.stun_service.StunService`."""

    async def bind(
        self, server: Endpoint, *, change_ip: bool = False, change_port: bool = False, patience: Patience = ...
    ) -> StunAnswer: ...


async def discover_nat(
    stun: Binds,
    server: Endpoint,
    *,
    second: Endpoint | None = None,
    own: Collection[Endpoint] = (),
    patience: Patience = BRISK,
) -> NatObservations:
    """How the NAT between ``stun``'s socket and ``server`` behaves.

    ``own`` are the endpoints that the socket has on this machine: seen under one of them, there is no NAT.
    ``second``, a server at another address, shows the mapping where ``server`` has no other address itself; filtering
    is unknown then.  Takes three round trips, and ``patience.total`` seconds of listening where a NAT filters.
    Never raises for what servers do; without any answer everything is "unknown".
    """
    tests = _Tests(stun, patience)
    filtering: Behaviour = "unknown"
    first = await tests.map("mapping I", server)
    other = None if first is None else first.other
    if first is not None and other is not None and other.host != server.host and other.port != server.port:
        filtering = await _filtering(tests, server, translated=first.mapped not in own)
        await tests.map("mapping II", Endpoint(other.host, server.port))
        if await tests.map("mapping III", other) is None and filtering not in ("endpoint-independent", "none"):
            filtering = "unknown"  # who does not answer when asked does not show by silence that a NAT filters
    elif second is not None:
        await tests.map("mapping II", second)
    return tests.observations(own, filtering)


def classify_mapping(evidence: Iterable[Observed], own: Collection[Endpoint] = ()) -> Behaviour:
    """How a NAT maps, from what servers (or peers, or DHT nodes) saw of one socket; of one server the last word counts.

    Two at different addresses that see the same endpoint show "endpoint-independent".  If they see different ones, two
    ports of one address tell "address-dependent" from "address-and-port-dependent"; without such a pair it is taken
    for the latter: the former is rare, and for reaching strangers they are alike.
    """
    seen = {each.server: each.mapped for each in evidence}
    mapped = set(seen.values())
    if mapped & set(own):
        return "none"
    if len(mapped) > 1:
        by_address: dict[str, list[Endpoint]] = {}
        for server in seen:
            by_address.setdefault(server.host, []).append(seen[server])
        pairs = [each for each in by_address.values() if len(each) > 1]
        alike = bool(pairs) and all(len(set(each)) == 1 for each in pairs)
        return "address-dependent" if alike else "address-and-port-dependent"
    return "endpoint-independent" if len({server.host for server in seen}) > 1 else "unknown"


async def _filtering(tests: _Tests, server: Endpoint, *, translated: bool) -> Behaviour:
    """RFC 5780 §4.4, tests II and III at once: neither opens anything for the other."""
    heard: dict[bool, bool | None] = {}

    async def run(change_ip: bool) -> None:
        heard[change_ip] = await tests.hears(server, change_ip=change_ip)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, True)
        nursery.start_soon(run, False)
    if heard[True]:
        return "endpoint-independent" if translated else "none"
    if None in heard.values():
        return "unknown"
    return "address-dependent" if heard[False] else "address-and-port-dependent"


class _Tests:
    """Runs binding requests and keeps what came of them."""

    def __init__(self, stun: Binds, patience: Patience) -> None:
        self._stun = stun
        self._patience = patience
        self._evidence: list[Observed] = []
        self._failures: list[tuple[str, str]] = []

    def observations(self, own: Collection[Endpoint], filtering: Behaviour) -> NatObservations:
        mapping = classify_mapping(self._evidence, own)
        return NatObservations(mapping, filtering, tuple(self._evidence), tuple(self._failures))

    async def map(self, name: str, server: Endpoint) -> StunAnswer | None:
        """One plain request; None, noted as a failure, if it is not answered."""
        try:
            answer = await self._stun.bind(server, patience=self._patience)
        except RemoteError as error:
            self._failures.append((name, error.reason))
            return None
        self._evidence.append(Observed(server, answer.mapped))
        return answer

    async def hears(self, server: Endpoint, *, change_ip: bool) -> bool | None:
        """Whether an answer from the server's other port, and other address with ``change_ip``, gets through to us.

        None, noted as a failure, if the server does not send it from there.
        """
        name = "filtering II" if change_ip else "filtering III"
        try:
            answer = await self._stun.bind(server, change_ip=change_ip, change_port=True, patience=self._patience)
        except RemoteError as error:
            if error.reason == "timed-out":
                return False
            self._failures.append((name, error.reason))
            return None
        if answer.source.port == server.port or (answer.source.host != server.host) != change_ip:
            self._failures.append((name, "change-ignored"))
            return None
        return True
