"""Keeps our listening port reachable from outside: the gateway mapper.

Runs a `swarm.gateway.session.Session` on every LAN and starts it anew when the network changes.  Learns nothing about
NATs that do not cooperate: that is `swarm.connect`'s.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from ipaddress import ip_address
from typing import TypeGuard

import trio

from swarm.endpoint import Endpoint
from swarm.events import Emit
from swarm.gateway.keeper import Period
from swarm.gateway.lans import Lan, find_lans
from swarm.gateway.method import Transport
from swarm.gateway.report import LeaseReport, advice, is_behind_another_nat
from swarm.gateway.session import Session, Terms
from swarm.gateway.suspend import seconds_suspended
from swarm.net.network import Network

RELEASE_LIMIT = 1.0  # seconds for closing all ports on the way out
SETTLE = 0.2  # seconds: addresses and routes of one change come in bunches
TICK = 5.0  # seconds between looks at the clock
LOOK_SPACING = (
    20.0  # seconds between looks at the epoch that others ask for: in a poor swarm peers are silent all the time
)
JUMP = 10.0  # seconds that a tick must be late by to count as a suspension

_BEST_FIRST = ("pcp", "nat-pmp", "upnp-igd2", "upnp-igd1", "pinhole")


class Mapper:
    """Opens ``port`` at every gateway that lets us, for each of ``transports``.

    ``wanted_port`` is the outside port to ask for, when it is not to be the same.  ``miniupnpc`` permits that library
    as a fall-back: its sockets are its own, so not on a simulated or bound network.  ``suspended`` tells how many
    seconds the machine has slept.  ValueError without transports.
    """

    def __init__(
        self,
        network: Network,
        port: int,
        *,
        transports: Collection[Transport] = ("udp", "tcp"),
        wanted_port: int | None = None,
        emit: Emit,
        rng: random.Random,
        miniupnpc: bool = False,
        suspended: Callable[[], float] = seconds_suspended,
    ) -> None:
        if not transports:
            raise ValueError("nothing to map")
        self._network = network
        self._suspended = suspended
        self._sessions: dict[str, Session] = {}  # by interface
        self._look_again = 0.0
        self._terms = Terms(
            network=network,
            port=port,
            wanted_port=port if wanted_port is None else wanted_port,
            transports=tuple(sorted(transports, reverse=True)),  # UDP first: it carries more of what we do
            clock=self._clock,
            rng=rng,
            emit=emit,
            miniupnpc=miniupnpc,
        )

    async def run(self) -> None:
        """Keep the ports open until cancelled; then close them, for which at most RELEASE_LIMIT seconds are taken."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_network, nursery)
                nursery.start_soon(self._watch_clock)
        finally:
            with trio.move_on_after(RELEASE_LIMIT, shield=True):
                async with trio.open_nursery() as nursery:
                    for session in self._sessions.values():
                        nursery.start_soon(session.release)

    def look(self) -> None:
        """The router may have restarted: ask for its epoch, at most once in LOOK_SPACING seconds."""
        now = trio.current_time()
        if now >= self._look_again:
            self._look_again = now + LOOK_SPACING
            for session in self._sessions.values():
                for keeper in session.keepers:
                    keeper.look()

    def statistics(self) -> tuple[LeaseReport, ...]:
        """Every lease, and every method that was tried in vain, as they are now."""
        return tuple(report for session in self._sessions.values() for report in session.reports())

    def external(self, transport: Transport, family: int) -> Endpoint | None:
        """Where strangers reach our port: of several the one most worth announcing.  ``family`` is 4 or 6.

        That is one with a public address, then one at a default router (anybody on the LAN may say that he is an IGD),
        then one by the better method.
        """
        routers = {host for session in self._sessions.values() for host in session.lan.gateways_v4}
        held = [
            (
                is_behind_another_nat(report.external.host) is True,
                report.gateway not in routers,
                _BEST_FIRST.index(report.method),
                report.external,
            )
            for report in self.statistics()
            if report.external is not None
            and report.transport == transport
            and report.internal.is_ipv6 == (family == 6)
        ]
        return min(held)[-1] if held else None

    def external_port(self, transport: Transport, family: int) -> int | None:
        """The port to announce; None while none is open, or only at a gateway that is itself behind another NAT."""
        external = self.external(transport, family)
        return None if external is None or is_behind_another_nat(external.host) else external.port

    @property
    def double_nat(self) -> bool | None:
        """Whether our gateway is itself behind a NAT; None while no gateway has told its outside address."""
        verdicts = {is_behind_another_nat(host) for _, host in self.outside_hosts()} - {None}
        return None if not verdicts else False not in verdicts

    def advice(self) -> tuple[str, ...]:
        """Sentences that tell the user how to forward the port by hand; none when everything is open."""
        lans = [session.lan for session in self._sessions.values()]
        routers = [(gateway, lan.ipv4) for lan in lans for gateway in lan.gateways_v4 if _is_translated(lan.ipv4)]
        firewalled = [host for lan in lans for host in lan.ipv6]
        return advice(
            self._terms.port, self._terms.transports, routers, firewalled, self.outside_hosts(), self.statistics()
        )

    def outside_hosts(self) -> list[tuple[str, str]]:
        """(gateway, its outside IPv4 address) of those that have told it, whether they opened a port or not."""
        return [pair for session in self._sessions.values() for pair in session.outside_hosts()]

    @property
    def addressless(self) -> Period | None:
        """From when to when our only router has said that it has no outside address; None if it does not say so.

        Others on the LAN, an old router that only serves the wireless say, may have none.
        """
        sessions = self._sessions.values()
        routers = {gateway for session in sessions for gateway in session.lan.gateways_v4}
        said = [period for session in sessions for gateway, period in session.addressless() if routers == {gateway}]
        return None if not said or self.outside_hosts() else max(said, key=lambda period: period[1] - period[0])

    def _clock(self) -> float:
        return trio.current_time() + self._suspended()

    async def _watch_network(self, nursery: trio.Nursery) -> None:
        while True:
            self._follow(find_lans(self._network), nursery)
            await self._network.wait_address_change()
            await trio.sleep(SETTLE)

    def _follow(self, lans: Collection[Lan], nursery: trio.Nursery) -> None:
        """Start where a LAN is new or has changed, stop where it is gone, look again where it is as it was."""
        found = {lan.interface: lan for lan in lans}
        for interface, session in list(self._sessions.items()):
            if found.get(interface) == session.lan:
                session.check()
            else:
                session.stop("network-changed")
                del self._sessions[interface]
        for interface, lan in found.items():
            if interface not in self._sessions:
                session = self._sessions[interface] = Session(lan, self._terms)
                nursery.start_soon(session.run)

    async def _watch_clock(self) -> None:
        """After a suspension leases may be over, and the gateway another."""
        while True:
            before = self._clock()
            await trio.sleep(TICK)
            if self._clock() - before > TICK + JUMP:
                for session in self._sessions.values():
                    session.check()


def _is_translated(inside: str | None) -> TypeGuard[str]:
    """Whether an address of ours is private, so that a port needs to be forwarded to it."""
    return inside is not None and not ip_address(inside).is_global
