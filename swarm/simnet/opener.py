"""What a simulated gateway's port-opening protocols share: its behaviour, and what they do to its NAT and firewall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from swarm.endpoint import Endpoint
from swarm.simnet.nat import NEVER
from swarm.simnet.router import Router

Protocol = Literal["natpmp", "pcp", "upnp"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GatewayBehaviour:
    """What a gateway speaks and how it disappoints."""

    protocols: frozenset[Protocol]
    """Which protocols answer; the others stay silent (NAT-PMP and PCP refuse each other's version)."""

    refuses: bool = False
    """Whether every request to open a port is "not authorised"."""

    permanent_only: bool = False
    """UPnP: leases other than 0 get error 725."""

    same_port_only: bool = False
    """UPnP: different external and internal ports get error 724."""

    igd_version: Literal[1, 2] = 2
    """UPnP: 1 has no AddAnyPortMapping and no IPv6 firewall control."""

    longest_lease: int = 7200
    """Seconds: NAT-PMP and PCP shorten what is asked to this (a VPN gateway: 60)."""

    capacity: int = 256
    """Forwards and pinholes at most; then "out of resources"."""

    announces: bool = True
    """NAT-PMP and PCP: whether a restart is announced by multicast; the epoch tells of it in any case."""


class Opener:
    """Opens ports of one router.

    ``wan`` is the external address it reports.  Every method takes ``protocol`` "udp" or "tcp" and ``lease`` in
    seconds, 0 for ever.
    """

    def __init__(self, router: Router, behaviour: GatewayBehaviour) -> None:
        if router.nat is None:
            raise ValueError("a router without NAT has no ports to open")
        self.router = router
        self.behaviour = behaviour
        self.nat = router.nat

    @property
    def now(self) -> float:
        return self.router.internet.now

    @property
    def wan(self) -> str:
        return self.router.wan

    @property
    def epoch(self) -> int:
        """Seconds since the router started."""
        return int(self.now - self.router.booted)

    @property
    def full(self) -> bool:
        pinholes = self.router.firewall.pinhole_count(self.now) if self.router.firewall is not None else 0
        return self.nat.forward_count(self.now) + pinholes >= self.behaviour.capacity

    def current(self, protocol: str, internal: Endpoint) -> int | None:
        """The external port that is open for ``internal``."""
        ports = self.nat.forwards_of(protocol, internal, self.now)
        return ports[0] if ports else None

    def open(self, protocol: str, internal: Endpoint, external_port: int, lease: int) -> bool:
        """Open exactly this external port, or renew it; False if another host has it."""
        return self.nat.add_forward(protocol, external_port, internal, self.now, lifetime=lease or NEVER)

    def open_any(self, protocol: str, internal: Endpoint, suggested: int, lease: int) -> int | None:
        """Open ``suggested`` (0: none) or another external port; the one that was opened, None if none is free."""
        port = suggested or internal.port
        if self.open(protocol, internal, port, lease):
            return port
        free = self.nat.free_external_port(protocol, self.now)
        if free is not None:
            self.open(protocol, internal, free, lease)
        return free
