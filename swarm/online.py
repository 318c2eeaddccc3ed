"""The online life of a node: what hangs off its sockets, and the tasks that run while it has them.

Ports are opened, and the node is told so, elsewhere (`swarm.ownport`, `swarm.node`).
"""

from __future__ import annotations

import random
from collections.abc import Callable

import trio

from dht.config import DhtConfig
from dht.results import NodeStatistics
from swarm.connect.acceptor import Acceptor
from swarm.connect.relay_host import Datagrams
from swarm.connect.rungs import Means
from swarm.discover.tracker_client import Family, TrackerClient
from swarm.net.listen import OpenPorts
from swarm.net.mux import MuxStatistics
from swarm.net.network import DatagramSocket, Network
from swarm.net.udp_port import UdpPort, UtpPort
from swarm.snapshot import whole_dht
from swarm.torrent.lent import Lent
from utp.config import UtpConfig


class Online:
    """Dials, accepts and announces for all torrents of a node.  ``room`` is how many more connections it takes."""

    def __init__(
        self, lent: Lent, network: Network, rng: random.Random, acceptor: Acceptor, room: Callable[[], int]
    ) -> None:
        self._lent = lent
        self._network = network
        self._rng = rng
        self._acceptor = acceptor
        self._room = room
        self._udp: dict[Family, UdpPort] = {}

    def socket_statistics(self) -> dict[Family, MuxStatistics]:
        """What passed through the UDP sockets since they were opened, by address family; empty while offline."""
        return {family: port.statistics() for family, port in self._udp.items()}

    def dht_statistics(self) -> dict[Family, NodeStatistics]:
        """What our DHT nodes did so far, by address family; empty without the DHT."""
        if self._lent.dht is None:
            return {}
        running = {family: port.dht.statistics() for family, port in self._udp.items() if port.dht is not None}
        return whole_dht(self._lent.dht.statistics(), running)

    def datagrams(self) -> Datagrams:
        """How many the cores of the IPv4 socket sent and received."""
        port = self._udp.get(4)
        cores = port.statistics().cores.values() if port is not None else ()
        return Datagrams(sum(core.datagrams_out for core in cores), sum(core.datagrams_in for core in cores))

    def start(self, ports: OpenPorts, nursery: trio.Nursery) -> None:
        """Use these ports, which are closed by whoever opened them, in tasks of ``nursery``."""
        lent = self._lent
        utp = self._start_udp(ports, nursery)
        for listener in (ports.tcp4, ports.tcp6):
            if listener is not None:
                nursery.start_soon(self._acceptor.serve, listener.accept, "tcp")
        nursery.start_soon(lent.shot_ports.run)
        nursery.start_soon(lent.second_ports.run)
        nursery.start_soon(lent.relay.run)
        nursery.start_soon(lent.turning.run)
        means = Means(ports.port if lent.config.tcp else None, utp)
        nursery.start_soon(lent.dialer.run, means, self._room)
        nursery.start_soon(lent.back_dialer.run, means)

    def ended(self) -> None:
        """The tasks have ended."""
        self._udp = {}

    def _start_udp(self, ports: OpenPorts, nursery: trio.Nursery) -> dict[int, UtpPort]:
        """Run what hangs off the UDP sockets; what there is to dial with over µTP."""
        lent = self._lent
        sockets: tuple[tuple[Family, DatagramSocket | None], ...] = ((4, ports.udp4), (6, ports.udp6))
        opened = {family: self._udp_port(family, socket) for family, socket in sockets if socket is not None}
        self._udp = opened
        for port in opened.values():
            nursery.start_soon(port.run)
            if port.utp is not None:
                nursery.start_soon(self._acceptor.serve, port.utp.accept, "utp")
        lent.announcer.client = TrackerClient(self._network, {family: port.trackers for family, port in opened.items()})
        nursery.start_soon(lent.announcer.run)
        if lent.dht is not None:
            nursery.start_soon(
                lent.dht.run, {family: port.dht for family, port in opened.items() if port.dht is not None}
            )
        if lent.local is not None:
            nursery.start_soon(lent.local.run)
        nursery.start_soon(
            lent.standing.run,
            {family: port.stun for family, port in opened.items() if port.stun is not None},
            {family: port.mapping_tests for family, port in opened.items()},
            opened[4].dht.refresh if 4 in opened and opened[4].dht is not None else lambda: None,
        )
        return {family: port.utp for family, port in opened.items() if port.utp is not None}

    def _udp_port(self, family: Family, socket: DatagramSocket) -> UdpPort:
        config, dht, standing = self._lent.config, self._lent.dht, self._lent.standing
        return UdpPort(
            socket,
            self._rng,
            utp=UtpConfig() if config.utp else None,
            dht=DhtConfig() if dht is not None else None,
            dht_saved=dht.saved(family) if dht is not None else None,
            on_dht_fact=standing.dht_fact,
            stun=bool(config.stun),
            on_received=standing.strangers.udp_received,
            on_sending=standing.udp_sending,
            utp_keepalive=standing.nat_tests.keep_alive,
        )
