"""The NATs of the connectivity matrix by name, and one function that puts a host behind one.

`open`: no NAT.  `fullcone`, `restricted`, `cone`: endpoint-independent mapping with ports preserved, and filtering that
is endpoint-independent, address-dependent, address-and-port-dependent.  `symseq`, `symrand`: mapping and filtering by
address and port, ports in sequence or at random.  `udpblock`: cone for TCP, no UDP.  `upnp`, `natpmp`, `pcp`: cone with
a gateway that speaks that protocol.  `cgn`, `cgnsym`: cone behind a carrier's cone or symrand.
Hosts with IPv6 alone: `v6open`, `v6fw`: behind a stateful firewall (RFC 6092), `v6pin`: whose router opens pinholes by
PCP.
`tests/netlab` has the same on kernel NATs.
"""

from __future__ import annotations

from dataclasses import dataclass

from swarm.simnet.gateway import open_gateway
from swarm.simnet.host import Host
from swarm.simnet.internet import Internet
from swarm.simnet.nat import Dependence, FirewallBehaviour, NatBehaviour
from swarm.simnet.opener import GatewayBehaviour

FULLCONE = NatBehaviour(filtering=Dependence.ENDPOINT_INDEPENDENT)
RESTRICTED = NatBehaviour(filtering=Dependence.ADDRESS_DEPENDENT)
CONE = NatBehaviour(filtering=Dependence.ADDRESS_AND_PORT_DEPENDENT)
SYMSEQ = NatBehaviour(mapping=Dependence.ADDRESS_AND_PORT_DEPENDENT, allocation="sequential")
SYMRAND = NatBehaviour(mapping=Dependence.ADDRESS_AND_PORT_DEPENDENT, allocation="random")
FIREWALL = FirewallBehaviour()
CARRIER_LAN = "100.64.{}.1"  # RFC 6598


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What stands between a host and the internet."""

    home: NatBehaviour | None = None
    """The router at home; None: the host has a public address."""

    carrier: NatBehaviour | None = None
    """The carrier's NAT outside the home's; None: the home router has a public address."""

    blocks: frozenset[str] = frozenset()
    """Protocols the home router lets through in neither direction."""

    gateway: GatewayBehaviour | None = None
    """How the home router opens ports; None: it does not."""

    ipv6: bool = False
    """The host has IPv6 and nothing else; a home router guards that with a firewall."""


KINDS: dict[str, Kind] = {
    "open": Kind(),
    "fullcone": Kind(home=FULLCONE),
    "restricted": Kind(home=RESTRICTED),
    "cone": Kind(home=CONE),
    "symseq": Kind(home=SYMSEQ),
    "symrand": Kind(home=SYMRAND),
    "udpblock": Kind(home=CONE, blocks=frozenset({"udp"})),
    "upnp": Kind(home=CONE, gateway=GatewayBehaviour(protocols=frozenset({"upnp"}))),
    "natpmp": Kind(home=CONE, gateway=GatewayBehaviour(protocols=frozenset({"natpmp"}))),
    "pcp": Kind(home=CONE, gateway=GatewayBehaviour(protocols=frozenset({"pcp"}))),
    "cgn": Kind(home=CONE, carrier=CONE),
    "cgnsym": Kind(home=CONE, carrier=SYMRAND),
    "v6open": Kind(ipv6=True),
    "v6fw": Kind(home=CONE, ipv6=True),
    "v6pin": Kind(home=CONE, gateway=GatewayBehaviour(protocols=frozenset({"pcp"})), ipv6=True),
}


def behind(internet: Internet, kind: str, name: str | None = None) -> Host:
    """A new host behind routers of its own of this kind; KeyError for an unknown one.

    It is named ``name`` (default: the kind and a number), its home router ``NAME-home``, the carrier's NAT
    ``NAME-carrier``.
    """
    what = KINDS[kind]
    if name is None:
        name = f"{kind}{len(internet.hosts)}"
    if what.home is None:
        return internet.host(name, *([internet.free_ipv6()] if what.ipv6 else []))
    carrier = None
    if what.carrier is not None:
        lan = CARRIER_LAN.format(len(internet.routers) % 64)
        carrier = internet.router(f"{name}-carrier", what.carrier, lan=lan)
    firewall = FIREWALL if what.ipv6 else None
    home = internet.router(f"{name}-home", what.home, firewall=firewall, blocks=what.blocks, behind=carrier)
    addresses = []
    if what.ipv6:
        network = internet.free_ipv6().rpartition("::")[0]
        home.add_lan_ipv6(f"{network}::1")
        addresses.append(f"{network}::10")
    if what.gateway is not None:
        open_gateway(internet, home, what.gateway)
    return internet.host(name, *addresses, router=home)
