"""The port that a node holds, for TCP and UDP alike, and the address of ``--bind`` on which it is held.

The number stays the same for the node's whole life, and from run to run unless another one is asked for: a manual
forward leads to it.  What is done with the sockets is the node's business.
"""

from __future__ import annotations

import errno
import random

import trio

from swarm.config import Config
from swarm.errors import SwarmError
from swarm.events import Emit, NetworkLost, NetworkRestored, PortBound, Warned
from swarm.net.bound import BoundNetwork
from swarm.net.listen import OpenPorts, following_ports, open_ports
from swarm.net.network import Network
from swarm.state import keep_port, kept_port

ADDRESS_LOOK = 2.0
"""Seconds between looks for a lost bind, in case no notice of a change comes."""

NOT_THERE = (errno.EADDRNOTAVAIL, errno.ENODEV)
"""What opening a port says while the address or the interface of a bind is missing."""


class OwnPort:
    """Opens it, and opens it again when a lost bind is back.  ``network`` is bound where the configuration says so."""

    def __init__(self, config: Config, network: Network, rng: random.Random, emit: Emit) -> None:
        self._config = config
        self._network = network
        self._bound = network if isinstance(network, BoundNetwork) else None
        self._rng = rng
        self._emit = emit
        self._wanted: int | None = None

    async def open(self) -> OpenPorts | None:
        """The sockets, or None where the bind is not there.  SwarmError if the port that was asked for is taken."""
        asked = self._config.port
        wanted = self._wanted
        if wanted is None:
            wanted = asked if asked is not None else kept_port(self._config.state_directory, self._rng)
        candidates = following_ports(wanted) if asked is None else [wanted]
        try:
            ports = await open_ports(self._network, candidates, tcp=self._config.tcp)
        except OSError as error:
            if self._bound is not None and (error.errno in NOT_THERE or not self._bound.available()):
                self._emit(NetworkLost(self._bound.bind))
                return None
            raise SwarmError(f"cannot open a port: {error.strerror}") from error
        if asked is None and self._wanted is None:
            self._keep(wanted)
        self._wanted = wanted or ports.port
        self._tell(ports)
        return ports

    async def wait_lost(self) -> None:
        """Block until the bind is gone; for ever without one."""
        if self._bound is None:
            await trio.sleep_forever()
        else:
            while self._bound.available():
                await self._next_look()
            self._emit(NetworkLost(self._bound.bind))

    async def wait_back(self) -> None:
        """Block until the bind is there again."""
        assert self._bound is not None
        # Look only after a change or a while: an interface may be up and have no address that a port opens on.
        await self._next_look()
        while not self._bound.available():
            await self._next_look()
        self._emit(NetworkRestored(self._bound.bind))

    async def _next_look(self) -> None:
        with trio.move_on_after(ADDRESS_LOOK):
            await self._network.wait_address_change()

    def _keep(self, port: int) -> None:
        try:
            keep_port(self._config.state_directory, port)
        except OSError as error:
            self._emit(Warned(f"cannot remember the port {port}: {error.strerror}"))

    def _tell(self, ports: OpenPorts) -> None:
        wanted = self._wanted if self._wanted != ports.port else None
        for opened in (ports.udp4, ports.udp6):
            if opened is not None:
                self._emit(PortBound("udp", opened.local, wanted))
        for listener in (ports.tcp4, ports.tcp6):
            if listener is not None:
                self._emit(PortBound("tcp", listener.local, wanted))
