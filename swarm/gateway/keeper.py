"""Keeps our ports open by one method at one gateway: asks, renews, asks again, closes in the end.

When to ask is `swarm.gateway.lease`, how is the method; which methods to use is `swarm.gateway.session`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import trio

from swarm.errors import RemoteError
from swarm.gateway.clients.pcp import PcpRefusal
from swarm.gateway.lease import Change, Lease
from swarm.gateway.method import NO_ADDRESS, PERMANENT, Mapping, Method

LIFETIME = 3600  # seconds asked for: long enough for a slow gateway, short enough not to litter it after a crash
ANSWER_LIMIT = 10.0  # seconds a gateway on our own LAN has for one request, resent meanwhile
PROBE_INTERVAL = 60.0  # seconds between looks at the epoch, where there is one: announcements get lost
STRIKES = 3  # requests or probes running without an answer: the gateway is gone
GONE = frozenset({"timed-out", "unreachable", "unsupported", "no-gateway"})

Period: TypeAlias = tuple[float, float]
"""From one trio time to another: the clock of those that see us, other than that of leases (`Mapper`)."""

Report = Callable[[Method, Lease, Change, str], None]
"""Told of every change: the method, the lease, what happened, and why if it was lost or failed."""


class Keeper:
    """``leases`` in the order in which they are asked for; each one's outside port is suggested for the next.

    All listeners of one node are announced under one port number, so TCP and UDP had better get the same.
    """

    def __init__(self, method: Method, leases: Sequence[Lease], *, clock: Callable[[], float], report: Report) -> None:
        self.method = method
        self.leases = tuple(leases)
        self.outside_host: str | None = None
        """The gateway's outside address, as far as it has told it; NO_ADDRESS if it says that it has none."""
        self.addressless: Period | None = None
        """From when to when the gateway has said, without a word to the contrary, that it has no outside address."""
        self._clock = clock
        self._report = report
        self._wake = trio.Event()
        self._strikes = 0
        self._next_probe = clock() + PROBE_INTERVAL

    @property
    def held(self) -> bool:
        """Whether every port is open."""
        return all(lease.held for lease in self.leases)

    async def run(self) -> None:
        """Keep on; returns only when the gateway is gone."""
        while self._strikes < STRIKES:
            self._expire()
            now = self._clock()
            due = next((lease for lease in self.leases if lease.is_due(now)), None)
            if due is not None:
                await self._request(due)
            elif now >= self._probe_time():
                await self._probe()
            else:
                await self._sleep(min(self._probe_time(), *(lease.next_deadline() for lease in self.leases)) - now)

    def forget(self) -> None:
        """The gateway has lost its state: ask for everything again."""
        self._lose("gateway-restarted")
        self._wake.set()

    def check(self) -> None:
        """Something has changed: see at once whether the ports are still open."""
        for lease in self.leases:
            lease.check(self._clock())
        self._strikes = 0
        self._wake.set()

    def look(self) -> None:
        """Look at the epoch now, where there is one."""
        self._next_probe = min(self._next_probe, self._clock())
        self._wake.set()

    async def release(self) -> None:
        """Close what was opened, without caring for the answer.  The caller bounds the time."""
        async with trio.open_nursery() as nursery:
            for lease in self.leases:
                mapping = lease.release()
                if mapping is not None:
                    nursery.start_soon(_close, self.method, mapping)

    async def _sleep(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._wake.wait()
        self._wake = trio.Event()

    def _lose(self, reason: str) -> None:
        for lease in self.leases:
            if lease.forget(self._clock()) == "lost":
                self._report(self.method, lease, "lost", reason)

    def _expire(self) -> None:
        now = self._clock()
        for lease in self.leases:
            if lease.handle_deadline(now) == "lost":
                self._report(self.method, lease, "lost", lease.error or "expired")

    async def _request(self, lease: Lease) -> None:
        try:
            with trio.move_on_after(ANSWER_LIMIT) as scope:
                mapping = await self.method.map(lease.transport, lease.internal.port, lease.wanted_port, LIFETIME)
            if scope.cancelled_caught:
                raise RemoteError("timed-out", f"{self.method.gateway} does not answer")
        except RemoteError as error:
            self._count(error)
            retry_in = error.retry_in if isinstance(error, PcpRefusal) else 0.0
            self._report(self.method, lease, lease.failed(error.reason, self._clock(), retry_in), str(error))
            if self._strikes == 0 and self.outside_host in (None, NO_ADDRESS):
                await self._ask_outside_host()
            return
        self._strikes = 0
        self._note_outside_host(mapping.external_host)
        change = lease.granted(mapping, self._clock())
        for other in self.leases:
            if other.mapping is None:
                other.wanted_port = mapping.external_port
        self._report(self.method, lease, change, "")

    async def _ask_outside_host(self) -> None:
        """A gateway behind a carrier's NAT may refuse to map (miniupnpd does) but shows why by its address."""
        try:
            with trio.move_on_after(ANSWER_LIMIT):
                self._note_outside_host(await self.method.external_host())
        except RemoteError as error:
            self._count(error)

    def _note_outside_host(self, host: str | None) -> None:
        self.outside_host, now = host, trio.current_time()
        if host != NO_ADDRESS:
            self.addressless = None
        elif self.addressless is not None:
            self.addressless = self.addressless[0], now
        else:
            self.addressless = now, now
            for lease in self.leases:  # its line may be down at the moment: what it says again soon tells more
                lease.check(self._clock())

    async def _probe(self) -> None:
        self._next_probe = self._clock() + PROBE_INTERVAL
        try:
            with trio.move_on_after(ANSWER_LIMIT):
                await self.method.probe()
        except RemoteError as error:
            self._count(error)

    def _probe_time(self) -> float:
        """Methods without an epoch are renewed often enough to need no probe."""
        return self._next_probe if self.method.longest_silence == PERMANENT else PERMANENT

    def _count(self, error: RemoteError) -> None:
        """A gateway that is gone has taken the ports with it, however long their leases were."""
        self._strikes = self._strikes + 1 if error.reason in GONE else 0
        if self._strikes >= STRIKES:
            self._lose(error.reason)


async def _close(method: Method, mapping: Mapping) -> None:
    try:
        await method.unmap(mapping)
    except RemoteError:
        pass  # on the way out nothing can be done about it: the lease ends by itself
