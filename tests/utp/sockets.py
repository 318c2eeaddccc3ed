"""Datagram sockets in memory for `open_utp`: a wire with delay and loss, under trio's clock."""

from __future__ import annotations

import heapq
import random
from typing import NamedTuple

import trio

from utp.path import Address, Outgoing, Path


class Received(NamedTuple):
    data: memoryview
    segment_size: int
    path: Path


class Wire:
    """Connects the sockets made by `socket`; ``loss`` may be changed while it runs."""

    def __init__(self, seed: int = 0, *, delay: float = 0.0, loss: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.delay = delay
        self.loss = loss
        self._sockets: dict[Address, WireSocket] = {}

    def socket(self, address: Address) -> WireSocket:
        made = self._sockets[address] = WireSocket(self, address)
        return made

    def send(self, origin: Address, outgoing: Outgoing) -> None:
        data = b"".join(outgoing.buffers)
        to = self._sockets.get(outgoing.path.remote)
        for start in range(0, len(data), outgoing.segment_size):
            if to is not None and self.rng.random() >= self.loss:
                to.deliver(data[start : start + outgoing.segment_size], origin, trio.current_time() + self.delay)


class WireSocket:
    def __init__(self, wire: Wire, address: Address) -> None:
        self._wire = wire
        self._address = address
        self._waiting: list[tuple[float, int, bytes, Address]] = []
        self._sequence = 0
        self._news = trio.Event()
        self.full = False

    def deliver(self, datagram: bytes, origin: Address, when: float) -> None:
        self._sequence += 1
        heapq.heappush(self._waiting, (when, self._sequence, datagram, origin))
        self._news.set()

    def receive_nowait(self) -> list[Received]:
        now = trio.current_time()
        received = []
        while self._waiting and self._waiting[0][0] <= now:
            _, _, datagram, origin = heapq.heappop(self._waiting)
            received.append(Received(memoryview(datagram), len(datagram), Path(self._address, origin)))
        return received

    def send_nowait(self, outgoing: Outgoing) -> None:
        if self.full:
            raise BlockingIOError
        self._wire.send(self._address, outgoing)

    async def wait_readable(self) -> None:
        while True:
            self._news = trio.Event()
            if not self._waiting:
                await self._news.wait()
            elif self._waiting[0][0] > trio.current_time():
                with trio.move_on_at(self._waiting[0][0]):
                    await self._news.wait()
            else:
                return

    async def wait_writable(self) -> None:
        while self.full:  # a test sets it
            await trio.sleep(0.01)
