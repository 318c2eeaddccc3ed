"""Simulated gateways: routers whose hosts may open ports by NAT-PMP, PCP or UPnP.

NAT-PMP and PCP are in `natpmp`, UPnP is in `upnp`, its actions in `igd`.  All run on the router's ``inside`` host
through ordinary simulated sockets, so clients meet them as on a real LAN.
"""

from __future__ import annotations

import trio

from swarm.simnet.internet import Internet
from swarm.simnet.natpmp import serve_port_control
from swarm.simnet.opener import GatewayBehaviour, Opener
from swarm.simnet.router import Router
from swarm.simnet.upnp import serve_upnp


def open_gateway(internet: Internet, router: Router, behaviour: GatewayBehaviour) -> None:
    """Let ``router`` be a gateway from now on, while ``internet`` is open.  ValueError for a router without NAT."""
    internet.start_soon(_serve, Opener(router, behaviour))


async def _serve(opener: Opener) -> None:
    async with trio.open_nursery() as nursery:
        if opener.behaviour.protocols & {"natpmp", "pcp"}:
            nursery.start_soon(serve_port_control, opener)
        if "upnp" in opener.behaviour.protocols:
            nursery.start_soon(serve_upnp, opener)
