"""NATs and stateful firewalls as pure tables (RFC 4787 for UDP, RFC 5382 for TCP).

Endpoints and ``now`` go in, endpoints come out.  No packets, no clock, no trio.
One external address per NAT.  TCP differs by its lifetime only: connection states are
not tracked, so a mapping outlives its connection.  Port parity and contiguity (RTP) do not matter to anybody here.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from swarm.endpoint import Endpoint

FIRST_PORT, LAST_PORT = 1024, 65535  # what a NAT allocates from
NEVER = float("inf")

Key = Endpoint | str | None


class Dependence(Enum):
    """On how much of the remote endpoint a mapping or a filter depends (RFC 4787 §4.1, §5)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"

    def key(self, remote: Endpoint) -> Key:
        """The part of ``remote`` that counts: remotes with equal keys are treated alike."""
        match self:
            case Dependence.ENDPOINT_INDEPENDENT:
                return None
            case Dependence.ADDRESS_DEPENDENT:
                return remote.host
            case Dependence.ADDRESS_AND_PORT_DEPENDENT:
                return remote


@dataclass(frozen=True, kw_only=True, slots=True)
class NatBehaviour:
    """How a NAT behaves, in the words of RFC 4787."""

    mapping: Dependence = Dependence.ENDPOINT_INDEPENDENT
    """For which remotes one internal endpoint keeps its external port."""

    filtering: Dependence = Dependence.ADDRESS_AND_PORT_DEPENDENT
    """Who may send to an external port: anyone, addresses sent to, or endpoints sent to."""

    allocation: Literal["preserving", "sequential", "random"] = "preserving"
    """How a new mapping gets its external port.  Sequential ports start anywhere."""

    step: int = 1
    """Distance of sequential ports; also of the ports tried when a preserved port is taken."""

    collision: Literal["sequential", "random"] = "random"
    """What a preserving NAT does when the port is taken by another internal endpoint."""

    udp_lifetime: float = 120.0
    """Seconds that a UDP mapping and its filter live without outbound traffic; 30 s and 10 s exist (RFC 4787 §4.3)."""

    tcp_lifetime: float = 7440.0
    """Seconds likewise for TCP (RFC 5382 §5)."""

    inbound_refresh: bool = False
    """Whether inbound packets extend lifetimes too."""

    hairpin: bool = False
    """Whether inside hosts reach each other by their external endpoints."""

    unsolicited_tcp: Literal["drop", "reset"] = "drop"
    """Whether an uninvited SYN is ignored, as RFC 5382 §4.3 wants, or answered with RST, which ends a punch."""

    def lifetime(self, protocol: str) -> float:
        return self.udp_lifetime if protocol == "udp" else self.tcp_lifetime


@dataclass(frozen=True, kw_only=True, slots=True)
class FirewallBehaviour:
    """A stateful firewall without translation, as IPv6 home routers have (RFC 6092).  Fields as in `NatBehaviour`."""

    filtering: Dependence = Dependence.ADDRESS_AND_PORT_DEPENDENT
    udp_lifetime: float = 120.0
    tcp_lifetime: float = 7440.0
    inbound_refresh: bool = False
    unsolicited_tcp: Literal["drop", "reset"] = "drop"

    def lifetime(self, protocol: str) -> float:
        return self.udp_lifetime if protocol == "udp" else self.tcp_lifetime


class Mapping:
    """One row of a NAT's table: an internal endpoint's external port and the remotes that may use it.

    ``expires`` is in seconds of the caller's clock; ``permitted`` maps filter keys to when they expire.
    """

    __slots__ = ("expires", "external_port", "internal", "key", "permitted", "protocol")

    def __init__(self, protocol: str, internal: Endpoint, key: Key, external_port: int) -> None:
        self.protocol = protocol
        self.internal = internal
        self.key = key
        self.external_port = external_port
        self.expires = 0.0
        self.permitted: dict[Key, float] = {}


class Forward:
    """A port opened on purpose, by the user or through a gateway protocol: anyone may send to it until ``expires``."""

    __slots__ = ("expires", "internal")

    def __init__(self, internal: Endpoint, expires: float) -> None:
        self.internal = internal
        self.expires = expires


class Nat:
    """The table of one NAT.  ``external`` is its address outside.

    Expired rows count as absent and are removed when met.
    """

    def __init__(self, behaviour: NatBehaviour, external: str, dice: random.Random) -> None:
        self.behaviour = behaviour
        self.external = external
        self._dice = dice
        self._outbound: dict[tuple[str, Endpoint, Key], Mapping] = {}
        self._inbound: dict[tuple[str, int], Mapping] = {}
        self._forwards: dict[tuple[str, int], Forward] = {}
        self._forwarded: dict[tuple[str, Endpoint], int] = {}
        self._last_port = dice.randint(FIRST_PORT, LAST_PORT)

    def outbound(self, protocol: str, internal: Endpoint, remote: Endpoint, now: float) -> Endpoint | None:
        """The external endpoint from which a packet goes on to ``remote``; None if no port is free.

        Makes or refreshes the mapping and lets ``remote`` answer.
        """
        forwarded = self._forward_of(protocol, internal, now)
        if forwarded is not None:
            return Endpoint(self.external, forwarded)
        mapping = self._mapping_for(protocol, internal, remote, now)
        if mapping is None:
            return None
        expires = now + self.behaviour.lifetime(protocol)
        mapping.expires = expires
        mapping.permitted[self.behaviour.filtering.key(remote)] = expires
        return Endpoint(self.external, mapping.external_port)

    def inbound(self, protocol: str, external_port: int, remote: Endpoint, now: float) -> Endpoint | None:
        """The internal endpoint to which a packet from ``remote`` goes; None if it is filtered."""
        forward = self.forward_at(protocol, external_port, now)
        if forward is not None:
            return forward.internal
        mapping = self._inbound.get((protocol, external_port))
        if mapping is None:
            return None
        if mapping.expires <= now:
            self._remove(mapping)
            return None
        key = self.behaviour.filtering.key(remote)
        if mapping.permitted.get(key, 0.0) <= now:
            return None
        if self.behaviour.inbound_refresh:
            mapping.expires = mapping.permitted[key] = now + self.behaviour.lifetime(protocol)
        return mapping.internal

    def forget_mappings(self) -> None:
        """A reboot: every mapping and every forward is gone."""
        self._outbound.clear()
        self._inbound.clear()
        self._forwards.clear()
        self._forwarded.clear()

    def mappings(self, now: float) -> list[Mapping]:
        """The rows that are alive."""
        return [mapping for mapping in self._outbound.values() if mapping.expires > now]

    # ---- forwards

    def add_forward(
        self, protocol: str, external_port: int, internal: Endpoint, now: float, *, lifetime: float = NEVER
    ) -> bool:
        """Open ``external_port`` to everyone, or renew it; False if somebody else has it.

        From then on ``internal`` sends from that port (RFC 6887 §11).  It takes the port over from a mapping of the
        same internal endpoint.
        """
        forward = self.forward_at(protocol, external_port, now)
        if forward is not None and forward.internal != internal:
            return False
        mapping = self._inbound.get((protocol, external_port))
        if mapping is not None and mapping.internal != internal and mapping.expires > now:
            return False
        if mapping is not None:
            self._remove(mapping)
        self._forwards[protocol, external_port] = Forward(internal, now + lifetime)
        self._forwarded[protocol, internal] = external_port
        return True

    def remove_forward(self, protocol: str, external_port: int) -> bool:
        """Close the port; False if it was not open."""
        forward = self._forwards.pop((protocol, external_port), None)
        if forward is None:
            return False
        if self._forwarded.get((protocol, forward.internal)) == external_port:
            del self._forwarded[protocol, forward.internal]
        return True

    def forward_at(self, protocol: str, external_port: int, now: float) -> Forward | None:
        """The forward of an external port, if one is alive."""
        forward = self._forwards.get((protocol, external_port))
        if forward is not None and forward.expires <= now:
            self.remove_forward(protocol, external_port)
            return None
        return forward

    def forwards_of(self, protocol: str, internal: Endpoint, now: float) -> list[int]:
        """The external ports that are forwarded to an internal endpoint."""
        ports = [port for (name, port), f in self._forwards.items() if name == protocol and f.internal == internal]
        return [port for port in ports if self.forward_at(protocol, port, now) is not None]

    def forwards_at(self, protocol: str, host: str, now: float) -> list[int]:
        """The external ports that are forwarded to any port of an inside host."""
        ports = [port for (name, port), f in self._forwards.items() if name == protocol and f.internal.host == host]
        return [port for port in ports if self.forward_at(protocol, port, now) is not None]

    def forward_count(self, now: float) -> int:
        """How many ports are open on purpose."""
        return sum(forward.expires > now for forward in self._forwards.values())

    def free_external_port(self, protocol: str, now: float) -> int | None:
        """A random external port that nobody has."""
        return self._search(self._dice.randint(FIRST_PORT, LAST_PORT), 1, lambda port: self._free(protocol, port, now))

    # ---- allocation

    def _forward_of(self, protocol: str, internal: Endpoint, now: float) -> int | None:
        port = self._forwarded.get((protocol, internal))
        if port is None or self.forward_at(protocol, port, now) is None:
            return None
        return port

    def _mapping_for(self, protocol: str, internal: Endpoint, remote: Endpoint, now: float) -> Mapping | None:
        key = self.behaviour.mapping.key(remote)
        mapping = self._outbound.get((protocol, internal, key))
        if mapping is not None:
            if mapping.expires > now:
                return mapping
            self._remove(mapping)
        port = self._allocate(protocol, internal, now)
        if port is None:
            return None
        mapping = Mapping(protocol, internal, key, port)
        self._outbound[protocol, internal, key] = mapping
        self._inbound[protocol, port] = mapping
        return mapping

    def _allocate(self, protocol: str, internal: Endpoint, now: float) -> int | None:
        def free(port: int) -> bool:
            return self._free(protocol, port, now)

        kind: str = self.behaviour.allocation
        first = self._last_port + self.behaviour.step
        if kind == "preserving":
            if free(internal.port):
                return internal.port
            kind = self.behaviour.collision
            first = internal.port + self.behaviour.step
        if kind == "random":
            return self._search(self._dice.randint(FIRST_PORT, LAST_PORT), 1, free)
        port = self._search(first, self.behaviour.step, free)
        if port is not None:
            self._last_port = port
        return port

    def _search(self, first: int, step: int, free: Callable[[int], bool]) -> int | None:
        """The first free port from ``first`` on, by ``step``, going round; by one if the steps meet none."""
        count = LAST_PORT - FIRST_PORT + 1
        for stride in (step, 1):
            for turn in range(count):
                port = FIRST_PORT + (first + turn * stride - FIRST_PORT) % count
                if free(port):
                    return port
        return None

    def _free(self, protocol: str, port: int, now: float) -> bool:
        if self.forward_at(protocol, port, now) is not None:
            return False
        mapping = self._inbound.get((protocol, port))
        if mapping is None:
            return True
        if mapping.expires > now:
            return False
        self._remove(mapping)
        return True

    def _remove(self, mapping: Mapping) -> None:
        del self._inbound[mapping.protocol, mapping.external_port]
        del self._outbound[mapping.protocol, mapping.internal, mapping.key]


class Firewall:
    """The table of a stateful firewall: inside endpoints, and the remotes that may answer them."""

    def __init__(self, behaviour: FirewallBehaviour) -> None:
        self.behaviour = behaviour
        self._permitted: dict[tuple[str, Endpoint, Key], float] = {}
        self._pinholes: dict[tuple[str, Endpoint], float] = {}

    def outbound(self, protocol: str, inside: Endpoint, remote: Endpoint, now: float) -> None:
        """A packet goes out: ``remote`` may answer."""
        key = protocol, inside, self.behaviour.filtering.key(remote)
        self._permitted[key] = now + self.behaviour.lifetime(protocol)

    def inbound(self, protocol: str, inside: Endpoint, remote: Endpoint, now: float) -> bool:
        """Whether a packet may come in."""
        if self._pinholes.get((protocol, inside), 0.0) > now:
            return True
        key = protocol, inside, self.behaviour.filtering.key(remote)
        expires = self._permitted.get(key, 0.0)
        if expires <= now:
            self._permitted.pop(key, None)
            return False
        if self.behaviour.inbound_refresh:
            self._permitted[key] = now + self.behaviour.lifetime(protocol)
        return True

    def add_pinhole(self, protocol: str, inside: Endpoint, now: float, *, lifetime: float = NEVER) -> None:
        """Let anyone send to ``inside``, or renew that."""
        self._pinholes[protocol, inside] = now + lifetime

    def has_pinhole(self, protocol: str, inside: Endpoint, now: float) -> bool:
        return self._pinholes.get((protocol, inside), 0.0) > now

    def pinhole_count(self, now: float) -> int:
        return sum(expires > now for expires in self._pinholes.values())

    def remove_pinhole(self, protocol: str, inside: Endpoint) -> bool:
        """Close it; False if it was not open."""
        return self._pinholes.pop((protocol, inside), None) is not None

    def forget_mappings(self) -> None:
        """A reboot: all state and every pinhole is gone."""
        self._permitted.clear()
        self._pinholes.clear()
