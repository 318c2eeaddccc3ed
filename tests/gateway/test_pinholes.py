"""An IPv6 pinhole is renewed and closed by its number, and opened once (WANIPv6FirewallControl)."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from swarm.gateway.clients.igd import FoundDevice, PinholeClient
from swarm.gateway.igd import Device, Service
from tests.gateway.test_clients import CONTROL, INSIDE, ROUTER, Box, lan

ADDRESS = "2a0e:11::2"
FIREWALL = Service("urn:schemas-upnp-org:service:WANIPv6FirewallControl:1", CONTROL)
FOUND = FoundDevice(ROUTER, Device("box", 2, (), FIREWALL))


@pytest.mark.parametrize(
    ("update", "asked"),
    [
        ({}, ["AddPinhole", "UpdatePinhole", "UpdatePinhole", "DeletePinhole"]),
        (704, ["AddPinhole", "UpdatePinhole", "AddPinhole", "UpdatePinhole", "AddPinhole", "DeletePinhole"]),
    ],
)
async def test_a_pinhole_is_renewed_and_made_again_only_where_it_is_gone(
    autojump_clock: MockClock, update: object, asked: list[str]
) -> None:
    """A gateway has room for few; each renewal would take one more."""
    async with lan() as net:
        box = Box(net, AddPinhole={"UniqueID": 7}, UpdatePinhole=update)
        async with box.client():
            client = PinholeClient(net.host, ADDRESS, FOUND, INSIDE)
            for _ in range(3):
                mapping = await client.map("udp", 6881, 6881, 3600)
                assert (mapping.external_host, mapping.external_port, mapping.lifetime) == (ADDRESS, 6881, 3600)
            await client.unmap(mapping)
            await client.unmap(mapping)
        assert [action for action, _ in box.calls] == asked
