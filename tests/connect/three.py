"""Initiator, target and introducer of ``sw_punch`` on any network, without whole nodes: the extensions are joined by
calls that take their time, the datagrams are real."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
import trio.testing

from swarm.connect.agreement import Agreements
from swarm.connect.dial import Link
from swarm.connect.second_port import SecondPorts
from swarm.connect.shot_port import ShotPorts
from swarm.endpoint import Endpoint
from swarm.events import PathName
from swarm.ext.punch import Punch
from swarm.ext.punch_message import Terms
from swarm.net.network import Network
from swarm.wire.extended import ExtendedHandshake

HELLO, WELCOME = b"hello", b"welcome"
HANDSHAKE = ExtendedHandshake(m={Punch.NAME: 1})


@dataclass
class Located:
    observed: Endpoint
    listens: Endpoint | None = None
    path: PathName = "utp"
    sees_us_at: str | None = None


class Member:
    """One of the three.  ``external`` is where the others see it."""

    def __init__(self, network: Network, external: str, seed: int, terms: Terms | None = None) -> None:
        self.network = network
        self.external = Endpoint(external, 6881)
        self.ports = ShotPorts(network, random.Random(seed))
        self.second_ports = SecondPorts(network)
        self.willing = True
        self.arrived: list[Link] = []
        self.failed: list[str] = []
        self.heard: dict[Endpoint, Terms] = {}
        self.agreements = Agreements(
            self.ports,
            self.second_ports,
            self,
            is_own=lambda endpoint: endpoint == self.external,
            terms=lambda: terms or Terms(),
        )

    def wants(self, peer: Endpoint) -> bool:
        return self.willing

    def terms_heard(self, peer: Endpoint, terms: Terms) -> None:
        self.heard[peer] = terms

    def meeting_begun(self, peer: Endpoint, introducer: Endpoint) -> None:
        pass

    def meeting_arrived(self, link: Link, seconds: float) -> None:
        self.arrived.append(link)
        self.ports.start_soon(self._welcome, link)

    def meeting_failed(self, peer: Endpoint, reason: str, seconds: float) -> None:
        self.failed.append(reason)

    async def _welcome(self, link: Link) -> None:
        assert await link.stream.receive_some() == HELLO
        await link.stream.send_all(WELCOME)


class Three:
    """``introducer`` is connected to both; `join` what takes ``delay`` seconds each way."""

    def __init__(self, initiator: Member, target: Member, introducer: Member, nursery: trio.Nursery) -> None:
        self.initiator, self.target, self.introducer = initiator, target, introducer
        self.nursery = nursery

    def join(self, one: Member, other: Member, delay: float) -> tuple[Punch, Punch]:
        ends: list[Punch] = []
        for number, (here, there) in enumerate(((one, other), (other, one))):
            to = 1 - number
            # Messages keep their order: one task carries them.
            send, receive = trio.open_memory_channel[tuple[float, bytes]](100)

            def say(payload: bytes, send: trio.MemorySendChannel[tuple[float, bytes]] = send) -> None:
                send.send_nowait((trio.current_time() + delay, payload))

            async def carry(receive: trio.MemoryReceiveChannel[tuple[float, bytes]] = receive, to: int = to) -> None:
                async for due, payload in receive:
                    await trio.sleep_until(due)
                    ends[to].receive_untrusted(payload, trio.current_time())

            ends.append(here.agreements.extension(say, Located(there.external)))
            self.nursery.start_soon(carry)
        for end in ends:
            end.handshake_received(HANDSHAKE, 0.0)
        return ends[0], ends[1]

    async def reach(self) -> tuple[Link, float]:
        """As the rung does; a word is exchanged over the stream.  The link, and how long it took."""
        (introducer,) = self.initiator.agreements.introducers(self.target.external)
        started = trio.current_time()
        link = await self.initiator.agreements.reach(introducer, self.target.external)
        await link.stream.send_all(HELLO)
        assert await link.stream.receive_some() == WELCOME
        return link, trio.current_time() - started


@asynccontextmanager
async def three(
    initiator: Member, target: Member, introducer: Member, *, delays: tuple[float, float] = (0.02, 0.03)
) -> AsyncIterator[Three]:
    async with trio.open_nursery() as nursery:
        for member in (initiator, target, introducer):
            nursery.start_soon(member.ports.run)
            nursery.start_soon(member.second_ports.run)
        await trio.testing.wait_all_tasks_blocked()
        made = Three(initiator, target, introducer, nursery)
        for member, delay in zip((initiator, target), delays, strict=True):
            made.join(member, introducer, delay)
        yield made
        nursery.cancel_scope.cancel()
