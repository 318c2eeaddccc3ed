"""One family's UDP socket with everything that hangs off it: the mux, UDP trackers, µTP, the DHT and STUN.

One port for all of it, because a NAT mapping that one protocol keeps alive is the one that strangers see (DESIGN §5).
Wires cores to their async faces; knows no protocol itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import cast

from dht.config import DhtConfig
from dht.node import DhtNode
from dht.results import Result
from dht.service import DhtService
from dht.state import SavedState
from swarm.endpoint import Endpoint
from swarm.net.mapping_test_service import MappingTestService
from swarm.net.mapping_tests import MappingTests
from swarm.net.mux import DatagramCore, Mux, MuxStatistics, Notice, Priority
from swarm.net.network import DatagramSocket, Stream
from swarm.net.stun import StunClient
from swarm.net.stun_service import StunService
from swarm.net.udp_tracker import UdpTracker
from swarm.net.udp_tracker_service import UdpTrackerService
from utp.config import UtpConfig
from utp.endpoint import UtpEndpoint
from utp.path import Address
from utp.service import UtpService
from utp.stream import UtpStream


class UdpPort:
    """``trackers`` announces over the socket; ``utp`` dials and accepts over it, None where µTP is switched off;
    ``dht`` is the node of this family, which whoever has it starts, None where the DHT is switched off; ``stun`` asks
    STUN servers, None where there are none to ask; ``mapping_tests`` tests the NAT, for us and for peers.

    ``rng`` makes connection and transaction ids, which strangers must not guess: a `random.SystemRandom`.
    ``dht_saved`` is the table to start from; ``on_dht_fact`` is called with what the node learns of ourselves
    (`AddressObserved`, `NodeIdChanged`).  ``on_received`` and ``on_sending`` are those of the `Mux`, ``utp_keepalive``
    is `UtpEndpoint`'s.
    """

    def __init__(
        self,
        socket: DatagramSocket,
        rng: random.Random,
        *,
        utp: UtpConfig | None,
        dht: DhtConfig | None = None,
        dht_saved: SavedState | None = None,
        on_dht_fact: Callable[[Result], None] | None = None,
        stun: bool = False,
        on_received: Notice | None = None,
        on_sending: Notice | None = None,
        utp_keepalive: Callable[[Endpoint], float] | None = None,
    ) -> None:
        self._mux = Mux(socket, on_received=on_received, on_sending=on_sending)
        tracker_core = UdpTracker(rng)
        self.trackers = UdpTrackerService(tracker_core, self._mux.wake)
        self._mux.add(tracker_core, priority=Priority.UDP_TRACKER, name="udp-tracker", on_results=self.trackers.deliver)
        self.utp: UtpPort | None = None
        if utp is not None:
            endpoint = UtpEndpoint(utp, rng, keepalive=cast("Callable[[Address], float] | None", utp_keepalive))
            service = UtpService(endpoint, self._mux.wake, accept_backlog=utp.accept_backlog)
            # The leaf package has shapes of its own, field by field the same (tests/test_architecture.py).
            core = cast(DatagramCore, endpoint)
            self._mux.add(core, priority=Priority.UTP, name="utp", on_results=service.publish)
            self.utp = UtpPort(service)
        self.dht: DhtService | None = None
        if dht is not None:
            node = DhtNode(dht, rng, ipv6=socket.local.is_ipv6, saved=dht_saved)
            self.dht = DhtService(node, self._mux.wake, on_fact=on_dht_fact)
            self._mux.add(cast(DatagramCore, node), priority=Priority.DHT, name="dht", on_results=self.dht.deliver)
        tests = MappingTests(rng)
        self.mapping_tests = MappingTestService(tests, self._mux.wake)
        self._mux.add(tests, priority=Priority.STUN, name="mapping-tests", on_results=self.mapping_tests.deliver)
        self.stun: StunService | None = None
        if stun:  # else it would be asked about every batch for nothing
            client = StunClient(rng)
            self.stun = StunService(client, self._mux.wake)
            self._mux.add(client, priority=Priority.STUN, on_results=self.stun.deliver)

    async def run(self) -> None:
        """Serve until cancelled."""
        await self._mux.run()

    def statistics(self) -> MuxStatistics:
        """Datagrams and bytes in and out by core, unclaimed and dropped."""
        return self._mux.statistics()


class UtpPort:
    """µTP over one UDP socket, as streams of ours."""

    def __init__(self, service: UtpService) -> None:
        self._service = service

    async def dial(
        self, remote: Endpoint, *, syn_times: Sequence[float] | None = None, patience: float | None = None
    ) -> Stream:
        """Connect; the caller must send at once (libutp).  utp.errors.ConnectionLost when it comes to nothing.

        The options are those of `utp.endpoint.UtpEndpoint.connect`.  Cancellation gives the attempt up silently.
        """
        return _as_stream(await self._service.connect(remote, syn_times=syn_times, patience=patience))

    async def accept(self) -> Stream:
        """The next inbound stream."""
        return _as_stream(await self._service.accept())


def _as_stream(stream: UtpStream) -> Stream:
    """Its addresses are `Endpoint` objects that came from our own socket; the leaf package does not know that."""
    return cast(Stream, stream)
