"""One `DatagramCore` on a socket of its own, for tests that need no mux."""

from __future__ import annotations

import math
from typing import Any

import trio

from swarm.net.network import DatagramSocket


class LoneCore:
    """Feeds ``core`` from ``socket`` and sends what it wants sent; results go to ``deliver``."""

    def __init__(self, socket: DatagramSocket, core: Any) -> None:
        self.socket = socket
        self.core = core
        self.deliver: Any = None
        self._kicked = trio.Event()

    def kick(self) -> None:
        self._flush()
        self._kicked.set()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read)
            nursery.start_soon(self._tick)

    async def _read(self) -> None:
        while True:
            await self.socket.wait_readable()
            for received in self.socket.receive_nowait():
                size = received.segment_size
                datagrams = [received.data[at : at + size] for at in range(0, len(received.data), size)]
                self.core.receive_batch(datagrams, received.path, trio.current_time())
            self.deliver(self.core.take_results())
            self.kick()

    async def _tick(self) -> None:
        while True:
            deadline = self.core.next_deadline()
            with trio.move_on_at(math.inf if deadline is None else deadline):
                await self._kicked.wait()
            self._kicked = trio.Event()
            self.core.handle_deadline(trio.current_time())
            self._flush()

    def _flush(self) -> None:
        for outgoing in self.core.datagrams_to_send(trio.current_time()):
            self.socket.send_nowait(outgoing)
