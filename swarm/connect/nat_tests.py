"""What a node finds out about its NAT by tests of its own: hairpinning, and how long an idle UDP mapping lasts.

Once for each network, and only while it is known that a NAT translates our IPv4 addresses.  Hairpinning is tested where
everybody sees us at one endpoint, else there is none that others could be told.  The lifetime is measured through the
STUN servers of the configuration if there are any that can (RESPONSE-PORT), otherwise by two peers of ours, one after
the other, that we have dialled and that are in different networks; see `swarm.connect.lifetime`.  Liars among them are
not believed far: one alone may make us keep mappings alive more often than needed, not less.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import trio

from swarm.connect.lifetime import Lifetime, by_peer, by_stun, measure_lifetime
from swarm.connect.natprobe import NatProbe
from swarm.connect.votes import is_global, network_of
from swarm.endpoint import Endpoint
from swarm.net.mapping_tests import NONCE_SIZE
from swarm.net.network import Network
from swarm.stats.snapshot import Family

LOOK = 2.0
"""Seconds between looks whether a NAT is known by now."""

DEFAULT_KEEP_ALIVE = 25.0
"""Seconds between two packets over a mapping: many last for 30 s, and one packet may be late."""

SHARE = 0.8
"""Of the measured lifetime, after which a mapping is refreshed."""

WORDS = 2
"""Networks whose peers have measured, before a longer lifetime than the usual one is believed; a STUN server of the
user's is believed at once."""

UNTRANSLATED = 110.0
"""Seconds likewise where no NAT is known to be: as BitTorrent itself does, whose peers hang up after two minutes."""

MAX_HELPERS = 6
"""Peers asked in one network."""


Known = TypeVar("Known")


class Tests(Protocol):
    """A `swarm.net.mapping_test_service.MappingTestService`."""

    async def hairpin(self, outside: Endpoint) -> bool: ...

    def grant(self, nonce: bytes, host: str) -> bool: ...


class Helper(NamedTuple):
    """A peer of ours that we have dialled at ``endpoint``; ``ask`` tells it the nonce of a measurement."""

    endpoint: Endpoint
    ask: Callable[[bytes], None]


class NatTests:
    """One for a node.  ``probe`` is that of IPv4; ``translated`` tells whether we have no public address there,
    ``forwarded`` whether a gateway has opened our UDP port.
    """

    def __init__(
        self,
        network: Network,
        rng: random.Random,
        probe: NatProbe,
        *,
        translated: Callable[[], bool],
        forwarded: Callable[[], bool],
    ) -> None:
        self._network = network
        self._rng = rng
        self._probe = probe
        self._translated = translated
        self._forwarded = forwarded
        self._tests: Mapping[Family, Tests] = {}
        self._wanted: trio.Event | None = None  # while a helper is waited for
        self._helper: Helper | None = None
        self._measured: dict[str, Lifetime] = {}  # by whose network
        self._asked: set[str] = set()
        self._by_server = False
        self._under_way = trio.CancelScope()
        self._sent_at: float | None = None  # through our NAT, over the one UDP socket; None: never

    async def run(
        self, tests: Mapping[Family, Tests], stun_servers: Callable[[], Sequence[Endpoint]], ping: Callable[[], object]
    ) -> None:
        """Test once, and again after each `network_changed`, and keep our one port's mapping alive, until cancelled.

        ``tests`` are those of our UDP sockets, by address family; ``stun_servers`` those whose addresses are known.
        ``ping`` sends something to somebody over IPv4.
        """
        self._tests = tests
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_mapping, ping)
                while True:
                    with trio.CancelScope() as self._under_way:
                        await self._test(tests.get(4), stun_servers)
                        await trio.sleep_forever()
        finally:
            self._tests = {}
            self._wanted = None

    def sending(self, remote: Endpoint, now: float) -> None:
        """A run of datagrams leaves by our one UDP socket: a `swarm.net.mux.Notice`."""
        host = remote[0]  # the DHT, a leaf package, names endpoints by plain tuples
        if ":" not in host and is_global(host):
            self._sent_at = now

    def network_changed(self) -> None:
        """Another network, or another address: what is being measured is nobody's any more."""
        self._measured = {}
        self._asked = set()
        self._by_server = False
        self._under_way.cancel()

    @property
    def wants_helper(self) -> bool:
        """Whether there is something to ask a peer for."""
        return self._wanted is not None and self._helper is None

    def offer(self, helper: Helper) -> None:
        """A peer is connected that may be asked; it is if we want one, and nobody in its network has been."""
        network = network_of(helper.endpoint.host)
        if self._wanted is None or self._helper is not None or network in self._asked:
            return
        if helper.endpoint.is_ipv6 or not is_global(helper.endpoint.host):
            return
        self._asked.add(network)
        self._helper = helper
        self._wanted.set()

    def grant(self, nonce: bytes, host: str) -> bool:
        """A peer at ``host`` measures and wants our late answers; False where we have no socket for them."""
        tests = self._tests.get(6 if ":" in host else 4)
        return tests is not None and tests.grant(nonce, host)

    def keep_alive(self, remote: Endpoint) -> float:
        """Seconds of silence after which something is to be sent to ``remote``, lest our NAT forget the mapping."""
        translated = not remote.is_ipv6 and self._translated() and is_global(remote.host)
        return self._pause() if translated else UNTRANSLATED

    def _pause(self) -> float:
        lasted = min((each.lasted for each in self._measured.values()), default=None)
        if lasted is None:
            return DEFAULT_KEEP_ALIVE
        certain = self._by_server or len(self._measured) >= WORDS
        return min(SHARE * lasted, UNTRANSLATED if certain else DEFAULT_KEEP_ALIVE)

    async def _keep_mapping(self, ping: Callable[[], object]) -> None:
        """Where all see us at one endpoint strangers may reach us there, as long as our NAT remembers it."""
        while True:
            now, pause = trio.current_time(), self._pause()
            if self._sent_at is not None and now >= self._sent_at + pause:
                self._sent_at = now
                if self._translated() and not self._forwarded() and not self._depends():
                    ping()
            await trio.sleep_until(max((now if self._sent_at is None else self._sent_at) + pause, now + 1.0))

    def _depends(self) -> bool:
        """Whether a mapping that is kept is another one than strangers would need."""
        mapping = self._probe.report(trio.current_time()).mapping
        return mapping in ("address-dependent", "address-and-port-dependent")

    async def _test(self, tests: Tests | None, stun_servers: Callable[[], Sequence[Endpoint]]) -> None:
        if tests is None:
            return
        await self._known(lambda: self._is_behind_nat() or None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._test_hairpin, tests)
            nursery.start_soon(self._measure_lifetime, stun_servers)

    async def _known(self, look: Callable[[], Known | None]) -> Known:
        """What ``look`` gives, as soon as it gives something."""
        while True:
            known = look()
            if known is not None:
                return known
            await trio.sleep(LOOK)

    def _is_behind_nat(self) -> bool:
        mapping = self._probe.report(trio.current_time()).mapping
        return self._translated() and mapping not in ("none", "unknown")

    async def _test_hairpin(self, tests: Tests) -> None:
        outside = await self._known(lambda: self._probe.external(trio.current_time()))
        self._probe.hairpin_says(await tests.hairpin(outside), trio.current_time())

    async def _measure_lifetime(self, stun_servers: Callable[[], Sequence[Endpoint]]) -> None:
        for server in stun_servers():
            found = await measure_lifetime(by_stun(self._network, server, self._rng))
            if found is not None:
                self._by_server = True
                self._note(server, found)
                return
        while len(self._measured) < WORDS and len(self._asked) < MAX_HELPERS:
            helper = await self._next_helper()
            nonce = self._rng.randbytes(NONCE_SIZE)
            helper.ask(nonce)
            found = await measure_lifetime(by_peer(self._network, helper.endpoint, nonce))
            if found is not None:
                self._note(helper.endpoint, found)

    async def _next_helper(self) -> Helper:
        self._helper, self._wanted = None, trio.Event()
        try:
            await self._wanted.wait()
        finally:
            self._wanted = None
        helper, self._helper = self._helper, None
        assert helper is not None
        return helper

    def _note(self, by: Endpoint, found: Lifetime) -> None:
        self._measured[network_of(by.host)] = found
        shortest = min(self._measured.values(), key=lambda each: (each.lasted, each.gone_after or math.inf))
        self._probe.lifetime_says(shortest.lasted, shortest.gone_after, trio.current_time())
