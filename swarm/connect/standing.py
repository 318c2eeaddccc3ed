"""Where a node stands: which ports gateways have opened for it, how its NATs behave, and what to tell others of itself.

Runs the gateway mapper and STUN while the node is online, hands every report about ourselves to the NAT probe of its
address family, and draws the conclusions that others need: the port to announce, our outside address, advice.
Detects nothing itself (`swarm.connect.natprobe`, `swarm.net.nat_discovery`), opens nothing itself (`swarm.gateway`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import trio

from dht.results import AddressObserved, Result
from swarm.config import Config
from swarm.connect.nat_tests import NatTests, Tests
from swarm.connect.natprobe import NatProbe
from swarm.connect.own_addresses import FAMILIES, Family, OwnAddresses, own_addresses
from swarm.connect.report import Behaviour, NatReport
from swarm.connect.strangers import Strangers
from swarm.connect.stun_asking import StunAsking
from swarm.connect.votes import Source
from swarm.endpoint import Endpoint
from swarm.events import Emit, Event, PortMapped, PortMappingFailed, PortMappingLost, Warned
from swarm.ext.punch_message import Terms
from swarm.ext.reach_message import TRANSPORTS, Probe, Seen
from swarm.ext.reach_message import Transport as TestedTransport
from swarm.gateway.mapper import Mapper
from swarm.gateway.method import Transport
from swarm.gateway.report import LeaseReport, is_behind_another_nat
from swarm.net.nat_discovery import Binds, NatObservations
from swarm.net.network import Network

LOST_PATIENCE = 30.0
"""Seconds for which a port that the gateway has lost is announced on: mostly it is open again at once."""

ADVICE_AFTER = 10.0
"""Seconds online without an open port or a peer that came in, after which the user is told what can be done."""


MAX_INSIDE = 4
"""Addresses of ours in our own network that a peer is told whom we are to meet through NATs."""


class Whereabouts(NamedTuple):
    """Where strangers find us by one address family.  ``host`` is None while it is not known."""

    host: str | None
    port: int


class Standing:
    """Where one node stands.  Families are 4 and 6.

    ``asks_gateways`` is False where there are none: on loopback.  ``miniupnpc`` permits that library (`Mapper`).
    ``learnt`` is called when an outside address or port becomes known or another; ``moved`` when what others were told
    before is not true any more, with whether the *port* has changed: nobody sees that for himself.
    """

    def __init__(
        self,
        config: Config,
        network: Network,
        *,
        rng: random.Random,
        emit: Emit,
        asks_gateways: bool,
        miniupnpc: bool,
        learnt: Callable[[], None],
        moved: Callable[[bool], None],
    ) -> None:
        self._config = config
        self._network = network
        self._rng = rng
        self._emit = emit
        self._asks_gateways = asks_gateways and config.mapping and (config.tcp or config.utp or config.dht)
        self._miniupnpc = miniupnpc
        self._learnt = learnt
        self._moved = moved
        self._probes = {4: NatProbe(ipv6=False), 6: NatProbe(ipv6=True)}
        self.strangers = Strangers(rng, nat=self._probe_for, is_own=self.is_own)
        self.nat_tests = NatTests(
            network,
            rng,
            self._probes[4],
            translated=lambda: self._own.public[4] is None,
            forwarded=lambda: self._mapper is not None and self._mapper.external_port("udp", 4) is not None,
        )
        self._transports = {"tcp": config.tcp, "utp": config.utp}  # that anybody could dial us by
        self._mapper: Mapper | None = None
        self._ping: Callable[[], object] = lambda: None
        self._scope = trio.CancelScope()
        self.port = 0
        """That we listen on, 0 while offline."""
        self._own = OwnAddresses()
        self._seen_at: dict[Family, str] = {}  # our addresses as most see them, until most see another
        self._mapped: dict[Family, int] = {}  # outside ports, also those that were lost a moment ago
        self._tested: dict[Family, int] = {}  # the same, as they were when strangers' coming in was first looked at
        self._where = dict.fromkeys(FAMILIES, Whereabouts(None, 0))
        self._lost = trio.Event()
        self._stun = StunAsking(network, config.stun, emit, own=self._inside_endpoints, found=self._stun_says)
        self._met = False

    # -- life -------------------------------------------------------------------------------------------------------

    def online(self, port: int) -> None:
        """We listen on ``port`` from now on.  Call it before anything is told to anybody."""
        self.port = port
        self._mapped = {}
        self._look_at_addresses()
        self._where = {family: Whereabouts(self._host(family), self._outside_port(family)) for family in FAMILIES}
        self._learnt()

    def offline(self) -> None:
        """We listen no more."""
        self.port = 0
        self._mapper = None

    async def run(
        self, stun: Mapping[Family, Binds], tests: Mapping[Family, Tests], ping: Callable[[], object] = lambda: None
    ) -> None:
        """Have our port opened and our NAT tested, until cancelled or `stop`; then close what was opened.

        ``stun`` and ``tests`` are those of our UDP sockets; ``ping`` sends something to somebody over IPv4.  Closing
        takes a second at most (`swarm.gateway.mapper.RELEASE_LIMIT`).
        """
        self._ping = ping
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                if self._asks_gateways:
                    self._mapper = self._make_mapper()
                    nursery.start_soon(self._mapper.run)
                    nursery.start_soon(self._forget_lost)
                    nursery.start_soon(self._advise)
                if self._config.stun:
                    nursery.start_soon(self._stun.run, stun)
                nursery.start_soon(self.nat_tests.run, tests, lambda: self._stun.servers, ping)

    def stop(self) -> None:
        """End `run`.  What is announced stays as it was, so that goodbyes name the port that was announced."""
        self._scope.cancel()

    def may_be_cut_off(self) -> None:
        """Peers that were there are silent, or gone: it may be our router that has restarted."""
        if self._mapper is not None:
            self._mapper.look()

    def network_changed(self) -> None:
        """Addresses or routes have changed."""
        self._look_at_addresses()
        self._stun.network_changed()
        self._look()

    # -- what is told -----------------------------------------------------------------------------------------------

    def dht_fact(self, result: Result) -> None:
        """Something that our DHT node of one family learnt about ourselves."""
        if isinstance(result, AddressObserved):
            external = Endpoint(*result.observed)
            probe = self._probe_for(external)
            probe.observed(Endpoint(*result.reporter), external, trio.current_time(), source="dht")
            self._heed(probe)

    def address_seen(self, reporter_host: str, external_host: str, source: Source) -> None:
        """Somebody at ``reporter_host`` says at which address he sees us."""
        probe = self._probe_for(Endpoint(reporter_host, 0))
        probe.address_seen(reporter_host, external_host, trio.current_time(), source=source)
        self._heed(probe)

    def seen(self, by: Endpoint, seen: Seen, now: float) -> None:
        """A peer tells where it sees us (`sw_reach`): over µTP that is our one UDP socket."""
        probe = self._probe_for(by)
        if seen.transport == "utp":
            probe.observed(by, seen.endpoint, now, source="reach")
        else:
            probe.address_seen(by.host, seen.endpoint.host, now, source="reach")
        self._heed(probe)

    def udp_sending(self, remote: Endpoint, now: float) -> None:
        """A run of datagrams leaves by our one UDP socket: a `swarm.net.mux.Notice`."""
        self.strangers.udp_sending(remote, now)
        self.nat_tests.sending(remote, now)

    def peer_came_in(self, remote: Endpoint) -> None:
        """A peer has connected to us."""
        self._met = self._met or remote.address.is_global

    # -- what is known ----------------------------------------------------------------------------------------------

    def port_to_announce(self, *, ipv6: bool) -> int:
        """What strangers reach us on by this family, as far as can be known; 0 while offline.

        That is ``--announce-port``, else what a gateway has opened, else our own.
        """
        return self._where[_family(ipv6)].port if self.port else 0

    def port_for(self, remote: Endpoint) -> int:
        """What a peer that is at ``remote`` reaches us on: a neighbour on our own port; 0 while offline."""
        return self.port_to_announce(ipv6=remote.is_ipv6) if remote.address.is_global else self.port

    def implied_port(self, *, ipv6: bool) -> bool:
        """Whether strangers had better use the port that our datagrams come from (BEP 5) than `port_to_announce`."""
        return self._config.utp and self._config.announce_port is None and _family(ipv6) not in self._mapped

    def external_host(self, *, ipv6: bool) -> str | None:
        """The address at which strangers see us; None while it is not known."""
        return self._where[_family(ipv6)].host

    def is_own(self, host: str) -> bool:
        """Whether an address is ours, inside or outside."""
        outside = (*(where.host for where in self._where.values()), *self._seen_at.values())
        return host in outside or self._own.has(host)

    def is_neighbour(self, host: str) -> bool:
        """Whether an address is in a private network that we are on."""
        return self._own.is_neighbour(host)

    def is_at(self, endpoint: Endpoint) -> bool:
        """Whether that is where others find or see us, as far as known.

        A port that nobody has opened is ours if somebody sees us there; only before anybody has said so the NAT is
        taken to keep it.  A neighbour behind the same NAT may well listen on the same port.
        """
        family = _family(endpoint.is_ipv6)
        host, port = self._where[family]
        if endpoint.host != host:
            return False
        if host == self._own.public[family] or family in self._mapped or self._config.announce_port is not None:
            return endpoint.port == port
        samples = self._probes[family].samples(trio.current_time())
        seen = {sample.external.port for sample in samples if sample.external.host == host}
        return endpoint.port in (seen or {port})

    def probe_through(self, helper: Endpoint, transport: TestedTransport, seen: Seen) -> Probe | None:
        """What to ask now of a peer at ``helper``, who says that he sees us at ``seen``; None if nothing."""
        now, strangers = trio.current_time(), self.strangers.probe
        if not self.port or not self._transports[transport] or seen.endpoint.is_ipv6 is not helper.is_ipv6:
            return None
        if not strangers.may_ask(helper, transport, now):
            return None
        endpoint = self._front_door(transport, seen, now)
        return strangers.probe(helper, transport, endpoint, now) if endpoint is not None else None

    def own_endpoints(self) -> list[Endpoint]:
        """Where we are by each family whose outside address is known."""
        return [Endpoint(host, port) for host, port in self._where.values() if host is not None and port]

    def own_address(self, ipv6: bool) -> str | None:
        """An address of ours that anybody can send to, on the port that peers of the *other* family are told.

        None while we know none, as behind a NAT in which nothing was opened.
        """
        family = _family(ipv6)
        host, port = self._where[family]
        reachable = self._own.public[family] is not None or family in self._mapped
        return host if reachable and port == self.port_to_announce(ipv6=not ipv6) else None

    def is_open(self) -> bool:
        """Whether strangers reach any port of ours, so that we can measure the NATs of others."""
        return self._own.public[4] is not None

    def is_hidden(self) -> bool:
        """Whether nobody on the internet is known to be able to dial us by IPv4."""
        now, strangers = trio.current_time(), self.strangers.probe
        reached = any(strangers.verdict(transport, now, ipv6=False) for transport in TRANSPORTS)
        return self._own.public[4] is None and 4 not in self._mapped and not reached

    def mapping(self, ipv6: bool) -> Behaviour:
        """How the NAT in front of us maps, as far as known."""
        return self.report(6 if ipv6 else 4).mapping

    def report(self, family: Family) -> NatReport:
        """What is known of the NATs before us."""
        probe = self._probes[family]
        if family == 4:
            self._heed_gateway()
        now = trio.current_time()
        report = probe.report(now)
        evidence = report.evidence + self.strangers.probe.evidence(now, ipv6=family == 6)
        opened = self._where[family]
        if not report.external and family in self._mapped and opened.host is not None:
            outside = Endpoint(opened.host, opened.port)
            evidence += (f"Only the router has said so far that {outside} leads to us.",)
            return replace(report, external=(outside,), evidence=evidence)
        return replace(report, evidence=evidence)

    def has_family(self, family: Family) -> bool:
        """Whether an interface of ours has an address by which anybody but neighbours could be reached."""
        return self._own.lead_out(family)

    def terms(self) -> Terms:
        """What we say of ourselves to whom we are to meet through NATs: where we are in our own network, in case that
        is theirs, too; and how our NAT maps."""
        report, port = self.report(4), self.port
        inside = tuple(Endpoint(host, port) for host in self._own.inside[:MAX_INSIDE]) if port else ()
        return Terms(
            udp=inside if self._config.utp else (),
            tcp=inside if self._config.tcp else (),
            mapping=report.mapping,
            step=report.port_step,
        )

    def leases(self) -> tuple[LeaseReport, ...] | None:
        """What gateways have opened or refused; None where none is asked."""
        return None if self._mapper is None else self._mapper.statistics()

    def advice(self) -> list[str]:
        """Sentences that tell the user how to become reachable; none where nothing is known to be closed."""
        if self._mapper is None or self._config.announce_port is not None:
            return []
        return list(self._mapper.advice())

    # -- the mapper -------------------------------------------------------------------------------------------------

    def _make_mapper(self) -> Mapper:
        transports: list[Transport] = ["udp"] if self._config.utp or self._config.dht else []
        if self._config.tcp:
            transports.append("tcp")
        return Mapper(
            self._network,
            self.port,
            transports=transports,
            wanted_port=self._config.announce_port,
            emit=self._note,
            rng=self._rng,
            miniupnpc=self._miniupnpc,
        )

    def _note(self, event: Event) -> None:
        self._emit(event)
        if isinstance(event, PortMapped):
            self._look()
        elif isinstance(event, PortMappingLost):
            if event.reason == "network-changed":  # it was another network's
                self._mapped = {}
                self._look()
            else:
                self._lost.set()
        elif isinstance(event, PortMappingFailed) and self._mapper is not None and self._mapper.addressless:
            self._heed_gateway()
            self._ping()  # who answers sees us somewhere: has the gateway's line been down, or has another an address?

    async def _forget_lost(self) -> None:
        while True:
            await self._lost.wait()
            await trio.sleep(LOST_PATIENCE)
            self._lost = trio.Event()
            self._mapped = {}
            self._look()

    async def _advise(self) -> None:
        await trio.sleep(ADVICE_AFTER)
        if not (self._met or self._mapped or self._own.public[4]) and (sentences := self.advice()):
            self._emit(Warned(" ".join(sentences)))

    def _heed_gateway(self) -> None:
        """What our gateway says of its outside address."""
        addressless = None if self._mapper is None else self._mapper.addressless
        self._probes[4].gateway_says(self._gateway_outside(), trio.current_time(), addressless=addressless)

    def _gateway_outside(self) -> str | None:
        """The outside address of our gateway by its own word: of several a public one."""
        hosts = [host for _, host in self._mapper.outside_hosts()] if self._mapper is not None else []
        return min(hosts, key=lambda host: is_behind_another_nat(host) is not False, default=None)

    # -- conclusions ------------------------------------------------------------------------------------------------

    def _probe_for(self, endpoint: Endpoint) -> NatProbe:
        return self._probes[_family(endpoint.is_ipv6)]

    def _look_at_addresses(self) -> None:
        """What was known of a family's NATs holds as long as its addresses do."""
        now, before = trio.current_time(), self._own
        self._own = own_addresses(self._network)
        for family, addresses in self._own.by_family.items():
            if before.by_family[family] not in (frozenset(), addresses):
                self._probes[family].network_changed(now)
                self.strangers.probe.network_changed(now)
                self.nat_tests.network_changed()
            self._probes[family].bound(self.port, sorted(addresses), now)

    def _inside_endpoints(self, family: Family) -> list[Endpoint]:
        return [Endpoint(host, self.port) for host in self._own.by_family[family]]

    def _stun_says(self, family: Family, observations: NatObservations) -> None:
        probe = self._probes[family]
        probe.stun_says(observations, trio.current_time())
        self._heed(probe)

    def _heed(self, probe: NatProbe) -> None:
        """Has it found out where we are?"""
        for changed in probe.take_results():
            self._seen_at[_family(":" in changed.new)] = changed.new
            if changed.old is not None:
                self.nat_tests.network_changed()
            self._look()

    def _look(self) -> None:
        """See where strangers find us now; say so if that has changed."""
        if not self.port:
            return
        if self._mapper is not None:
            self._mapped |= self._open_ports(self._mapper)
        if self._mapped != self._tested:  # whether strangers got in by other ports says nothing of these
            self._tested = dict(self._mapped)
            self.strangers.probe.network_changed(trio.current_time())
        before = self._where
        self._where = {family: Whereabouts(self._host(family), self._outside_port(family)) for family in FAMILIES}
        if self._where == before:
            return
        self._learnt()
        pairs = [(before[family], self._where[family]) for family in FAMILIES]
        port_moved = any(old.port != new.port for old, new in pairs)
        if port_moved or any(old.host != new.host and None not in (old.host, new.host) for old, new in pairs):
            self.strangers.probe.network_changed(trio.current_time())
            self._moved(port_moved)

    def _open_ports(self, mapper: Mapper) -> dict[Family, int]:
        """The outside ports that are open, one for each family: UDP's, where µTP is on."""
        order: tuple[Transport, ...] = ("udp", "tcp") if self._config.utp else ("tcp", "udp")
        found: dict[Family, int] = {}
        for family in FAMILIES:
            ports = [mapper.external_port(transport, family) for transport in order]
            for port in ports:
                if port is not None:
                    found.setdefault(family, port)
        return found

    def _front_door(self, transport: TestedTransport, seen: Seen, now: float) -> Endpoint | None:
        """Where strangers would dial us, at the address where a peer sees us; None while the port is not known."""
        family, host = _family(seen.endpoint.is_ipv6), seen.endpoint.host
        translated = transport == "utp" and self.implied_port(ipv6=family == 6) and host != self._own.public[family]
        if not translated:
            return Endpoint(host, self.port_to_announce(ipv6=family == 6))
        external = self._probes[family].external(now)
        if external is not None and external.host == host:
            return external
        return seen.endpoint if seen.transport == "utp" else None

    def _outside_port(self, family: Family) -> int:
        return self._config.announce_port or self._mapped.get(family) or self.port

    def _host(self, family: Family) -> str | None:
        """Our own address if it is a public one, else where others see us, else what the gateway says."""
        host = self._own.public[family] or self._seen_at.get(family)
        if host is None and family == 4:
            outside = self._gateway_outside()
            host = outside if outside is not None and is_behind_another_nat(outside) is False else None
        return host


def _family(ipv6: bool) -> Family:
    return 6 if ipv6 else 4
