"""A gateway that restarts while a peer downloads through the port that it had opened: whole nodes, simulated.

Its mappings are gone and its epoch begins anew; NAT-PMP and PCP gateways announce that, but announcements get lost.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import trio
from trio.testing import MockClock

from swarm.events import PeerConnected, PortMapped, PortMappingLost
from tests.nodes import PORT
from tests.test_faults import TCP, UTP, longest_gap
from tests.test_mapping import home, seed

RATE = 10_000
"""Bytes a second: a block takes 1.6 s."""

PAUSE = 5.0
"""Seconds without a byte, at most: a block's time, the silence after which somebody speaks, and a round trip or two."""

AGAIN = 5.0
"""Seconds until the ports are open again: sooner than the next look at the epoch is due anyway, a minute later."""


@pytest.mark.parametrize("config", [UTP, TCP], ids=["utp", "tcp"])
@pytest.mark.parametrize("port", ["same", "another"])
@pytest.mark.parametrize("announced", [True, False], ids=["announced", "unannounced"])
@pytest.mark.parametrize("protocol", ["pcp", "natpmp"])
async def test_a_transfer_through_an_opened_port_survives_the_gateways_restart(
    autojump_clock: MockClock,
    tmp_path: Path,
    protocol: Literal["pcp", "natpmp"],
    announced: bool,
    port: str,
    config: dict[str, bool],
) -> None:
    """Where somebody in the house has taken the port meanwhile another one is opened, and the tracker is told at once;
    the transfer goes on over a connection from there."""
    async with home(tmp_path, protocol, announces=announced) as place, seed(place, **config) as node:
        await trio.sleep(10)
        async with place.stranger("leech", 2, download_rate=RATE, **config) as leech:
            await leech.wait_for(PeerConnected)
            (torrent,) = leech.node.torrents.values()
            await trio.sleep(8)
            assert 0 < torrent.statistics().downloaded < place.sample.metainfo.total_size
            node.forget()
            restarted = trio.current_time()
            place.router.reboot()
            if port == "another":
                place.take_port(PORT)
            with trio.fail_after(60):
                assert await longest_gap(torrent) < PAUSE
            assert {event.reason for event in node.of(PortMappingLost)} == {"gateway-restarted"}
            mapped = [(time, event.external.port) for time, event in node.events if isinstance(event, PortMapped)]
            assert max(time for time, _ in mapped) < restarted + AGAIN
            (now_open,) = {number for _, number in mapped}
            assert (now_open == PORT) is (port == "same")
            assert [each.port for each in place.told_tracker()] == ([PORT] if port == "same" else [PORT, now_open])
            reconnected = leech.of(PeerConnected)[1:]
            assert [each.endpoint.port for each in reconnected] == ([] if port == "same" else [now_open])
