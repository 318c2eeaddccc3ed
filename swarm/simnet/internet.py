"""A simulated internet in one process: one delivery heap, links, switches, hosts, routers, names.

Time is trio's: under `trio.testing.MockClock(autojump_threshold=0)` hours pass in milliseconds, under the real clock
the same topology runs in real time.  Events happen in the order (time, sequence number), and all dice are one seeded
`random.Random`: the same calls at the same times give the same packet trace.  Whole nodes also need the scheduler
seeded: `swarm.simnet.replay`.

The topology is a tree: hosts and routers hang by links off the core; routers have a switched LAN of their own.
Not simulated: routing protocols, ICMP, fragmentation, ARP, IPv6 neighbour discovery and link-local addresses.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import trio

from swarm.endpoint import normalise_host
from swarm.simnet.host import Host
from swarm.simnet.link import Line, Link
from swarm.simnet.nat import FirewallBehaviour, NatBehaviour
from swarm.simnet.packet import Packet
from swarm.simnet.router import Router
from swarm.simnet.switch import Port, Switch

CORE_HOPS = 8  # how much TTL the way through the core costs: an opener with TTL 5 dies in it
EVENTS_PER_TURN = 4096  # then other tasks may run, in real time


class TraceEntry(NamedTuple):
    """One line of the packet trace.

    ``what``: "sent", "delivered" (to a host), or the reason of a drop; ``where`` names the host, line or router.
    """

    time: float
    what: str
    where: str
    packet: str


class Internet:
    """The simulated world.  Make one with `open_internet`, which also runs it.

    ``dropped`` counts vanished packets by reason: "lost", "queue-full", "too-big", "link-down", "dropped" (a line's
    ``drop_if``), "ttl-expired", "no-route", "filtered" (NAT or firewall), "blocked", "no-mapping", "not-here" (an
    address the host has lost), "no-socket", "receive-buffer-full", "backlog-full".
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        core_hops: int = CORE_HOPS,
        delays: tuple[float, float] = (0.005, 0.025),
        coalesce: float = 0.0,
        trace: bool = False,
    ) -> None:
        self.dice = random.Random(seed)
        self.names: dict[str, list[str]] = {}
        self.hosts: dict[str, Host] = {}
        self.routers: dict[str, Router] = {}
        self.dropped: Counter[str] = Counter()
        self.trace: list[TraceEntry] | None = [] if trace else None
        self.core = Switch(self, "core", hops=core_hops)
        self._delays = delays
        self._coalesce = coalesce
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._sequence = 0
        self._event_time: float | None = None
        self._sleep = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._ipv4_given = 0
        self._ipv6_given = 0
        self._lans_given = 0

    # ---- building

    def host(
        self,
        name: str,
        *addresses: str,
        link: Link | None = None,
        down: Link | None = None,
        router: Router | None = None,
        interface: str = "eth0",
    ) -> Host:
        """A host named ``name`` on the core, or on the LAN of ``router``.

        Without ``addresses`` it gets one IPv4 address that fits the place.  ``link`` is its line towards the network,
        ``down`` the other direction (default: the same).  ValueError for an address or a name already in use.
        """
        if name in self.hosts:
            raise ValueError(f"there is a host {name!r} already")
        switch = router.lan if router is not None else self.core
        if not addresses:
            addresses = (router.free_lan_address() if router is not None else self.free_ipv4(),)
        host = Host(self, name)
        host.attach(switch, *addresses, link=link, down=down, interface=interface)
        self.hosts[name] = host
        return host

    def router(
        self,
        name: str,
        nat: NatBehaviour | None = None,
        *,
        firewall: FirewallBehaviour | None = None,
        blocks: frozenset[str] = frozenset(),
        wan: str | None = None,
        lan: str | None = None,
        link: Link | None = None,
        down: Link | None = None,
        behind: Router | None = None,
    ) -> Router:
        """A router on the core, or on the LAN of the router ``behind`` (a carrier's, say).

        ``nat`` translates its IPv4 hosts (None: they have public addresses of their own); ``firewall`` guards what is
        not translated; ``blocks`` names protocols ("udp", "tcp") that it lets through in neither direction.
        ``lan`` is its own address inside, of which the first three bytes are the LAN's network.
        """
        if name in self.routers:
            raise ValueError(f"there is a router {name!r} already")
        if wan is None:
            wan = behind.free_lan_address() if behind is not None else self.free_ipv4()
        self._lans_given += 1
        if lan is None:
            lan = f"10.{self._lans_given >> 8 & 255}.{self._lans_given & 255}.1"
        parent = behind.lan if behind is not None else self.core
        router = Router(self, name, parent, wan, lan, nat=nat, firewall=firewall, blocks=blocks, link=link, down=down)
        self.routers[name] = router
        return router

    def name(self, name: str, *addresses: str) -> None:
        """Let ``name`` resolve to ``addresses``, in that order; without any, let it be unknown again."""
        if addresses:
            self.names[name] = [normalise_host(address) for address in addresses]
        else:
            self.names.pop(name, None)

    def free_ipv4(self) -> str:
        """A public IPv4 address nobody has: each of the first 256 in a /16 of its own, each of 65,536 in a /24."""
        n = self._ipv4_given
        self._ipv4_given += 1
        return f"20.{n & 255}.{n >> 8 & 255}.{10 + (n >> 16)}"

    def free_ipv6(self) -> str:
        """A public IPv6 address nobody has, in a /32 of its own."""
        self._ipv6_given += 1
        return f"2a0e:{self._ipv6_given:x}::10"

    def draw_delay(self) -> float:
        """Seconds for a link that does not say its own."""
        low, high = self._delays
        return low + (high - low) * self.dice.random()

    def port(self, switch: Switch, name: str, link: Link | None, down: Link | None) -> Port:
        """A place on a switch, with a line in each direction; a drawn delay is the same in both."""
        link = link if link is not None else switch.default_link()
        up_line = Line(self, f"{name} up", link)
        down_line = Line(self, f"{name} down", down if down is not None else link)
        if down is None:
            down_line.delay = up_line.delay
        return Port(name, switch, up_line, down_line)

    # ---- time

    @property
    def now(self) -> float:
        """Seconds: the time of the event at work, otherwise trio's."""
        return trio.current_time() if self._event_time is None else self._event_time

    def call_later(self, delay: float, function: Callable[[Any], None], argument: Any) -> None:
        """Call ``function(argument)`` when ``delay`` seconds have passed.  It cannot be revoked."""
        event_time = self._event_time
        heap = self._heap
        when = (trio.current_time() if event_time is None else event_time) + delay
        self._sequence += 1
        heapq.heappush(heap, (when, self._sequence, function, argument))
        if event_time is None and heap[0][1] == self._sequence:
            self._sleep.deadline = when + self._coalesce

    async def run(self) -> None:
        """Deliver for ever.  Exactly one task does this."""
        while True:
            self._deliver_due(trio.current_time())
            if self._heap and self._heap[0][0] <= trio.current_time():
                await trio.lowlevel.checkpoint()
                continue
            with trio.CancelScope() as self._sleep:
                if self._heap:
                    self._sleep.deadline = self._heap[0][0] + self._coalesce
                await trio.sleep_forever()

    def start_soon(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Run a service of the simulated internet (a gateway's, say) as long as it is open."""
        if self._nursery is None:
            raise RuntimeError("this internet is not open: use open_internet")
        self._nursery.start_soon(function, *arguments)

    def _deliver_due(self, now: float) -> None:
        heap = self._heap
        pop = heapq.heappop
        try:
            for _ in range(EVENTS_PER_TURN):
                if not heap or heap[0][0] > now:
                    break
                self._event_time, _, function, argument = pop(heap)
                function(argument)
        finally:
            self._event_time = None

    # ---- watching

    def drop(self, packet: Packet, reason: str, where: str) -> None:
        """Count and trace a packet (or each of a run) that goes no further."""
        self.dropped[reason] += packet.count
        self.note(packet, reason, where)

    def note(self, packet: Packet, what: str, where: str) -> None:
        """Add a line to the trace, if one is kept."""
        if self.trace is not None:
            self.trace.append(TraceEntry(self.now, what, where, packet.describe()))


@asynccontextmanager
async def open_internet(
    seed: int = 0,
    *,
    core_hops: int = CORE_HOPS,
    delays: tuple[float, float] = (0.005, 0.025),
    coalesce: float = 0.0,
    trace: bool = False,
) -> AsyncIterator[Internet]:
    """A running `Internet`; it stops, with whatever is under way, when the block ends.

    ``core_hops`` is what crossing the core costs a packet of its TTL, ``delays`` the range in seconds from which
    links draw theirs, ``trace`` whether ``internet.trace`` records every packet.  Whatever is due within ``coalesce``
    seconds of the earliest event is handed over at once, as network cards coalesce interrupts: packets are up to that
    much late, and a busy internet needs fewer turns of the clock.
    """
    internet = Internet(seed, core_hops=core_hops, delays=delays, coalesce=coalesce, trace=trace)
    async with trio.open_nursery() as nursery:
        internet._nursery = nursery
        nursery.start_soon(internet.run)
        try:
            yield internet
        finally:
            internet._nursery = None
            nursery.cancel_scope.cancel()
