"""What the ways of opening a port have in common: the `Method` protocol, the `Mapping` it brings, its names.

Opens nothing; the methods themselves are in `swarm.gateway.clients`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from swarm.endpoint import Endpoint

Transport = Literal["tcp", "udp"]
MethodName = Literal["pcp", "nat-pmp", "upnp-igd1", "upnp-igd2", "pinhole"]

ClientName = Literal["swarm", "miniupnpc"]

NO_ADDRESS = "0.0.0.0"
"""The outside address of a gateway that says it has none: miniupnpd where its own is private or a carrier's, by UPnP
with "Connected" beside it; by NAT-PMP, where nothing is beside it, also others while their line is down."""

PERMANENT = float("inf")
"""Lifetime of a mapping that only the gateway's owner, or its restart, ends."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """A port that a gateway has opened.

    ``external_host`` is None where the gateway would not tell its outside address.  ``lifetime`` is in seconds from
    the answer on, `PERMANENT` for ever.
    """

    transport: Transport
    internal: Endpoint
    external_port: int
    external_host: str | None
    lifetime: float

    @property
    def external(self) -> Endpoint:
        """Where strangers reach the port; the host is unspecified ("0.0.0.0") while it is not known."""
        return Endpoint(self.external_host or ("::" if self.internal.is_ipv6 else "0.0.0.0"), self.external_port)


class Method(Protocol):
    """One way of opening ports at one gateway for one of our addresses.

    Every call raises `swarm.errors.RemoteError` when the gateway refuses or does not answer.  Reasons: ``refused``,
    ``unsupported``, ``conflict``, ``permanent-only``, ``out-of-resources``, ``network-failure``, ``address-mismatch``,
    ``bad-request``, ``bad-response``, ``failed``, ``no-gateway``, ``unreachable``, ``timed-out``: the same slugs for
    every method.
    Cancellation leaves the gateway in either state: asking again is harmless.
    """

    @property
    def name(self) -> MethodName: ...

    @property
    def gateway(self) -> str:
        """The gateway's address."""

    @property
    def inside(self) -> str:
        """Our address, to which the gateway is to forward."""

    @property
    def longest_silence(self) -> float:
        """Seconds after which a mapping is asked for again although it lives longer: restarts go unnoticed else."""

    async def map(self, transport: Transport, internal_port: int, external_port: int, lifetime: int) -> Mapping:
        """Open or renew a port for ``lifetime`` seconds; the gateway may choose another port and a shorter life."""

    async def unmap(self, mapping: Mapping) -> None:
        """Close a port again.  One that is not open any more is no error."""

    async def external_host(self) -> str | None:
        """The gateway's outside address; NO_ADDRESS if it says that it has none, None if it will not tell."""

    async def probe(self) -> None:
        """See whether the gateway answers, at the least cost; a restart that shows is handled."""
