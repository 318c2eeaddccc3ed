"""The trio face of the DHT: searches to iterate over, announces to await, and a node on a socket of its own.

`DhtService` sits beside a `DhtNode` that somebody else's loop drives (in swarm: the mux of the shared UDP socket);
`open_node` brings its own loop, for programs that want a DHT and nothing else.  No protocol is here.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Protocol

import trio

from dht.config import DhtConfig
from dht.datagram import Address, Outgoing
from dht.node import DhtNode
from dht.results import NodeStatistics, OtherFamilyHeard, PeersFound, Result, SearchEnded
from dht.state import SavedState


class DatagramSocket(Protocol):
    """A bound, unconnected UDP socket, or something like it.

    ``receive_nowait`` gives runs ``(data, segment_size, path)`` of equal-sized datagrams from one sender (the last may
    be shorter), an empty sequence when nothing waits; ``send_nowait`` raises BlockingIOError when the buffer is full.
    """

    @property
    def local(self) -> Address: ...

    def receive_nowait(self) -> Sequence[Any]: ...

    def send_nowait(self, outgoing: Any) -> None: ...

    async def wait_readable(self) -> None: ...

    def close(self) -> None: ...


class PeerSearch:
    """Peers as they are found: ``async for peers in search`` gives tuples of addresses, each address once.

    It ends with the search; `ended` then tells what it cost.  Cancelling the iteration, `close` and leaving a ``with``
    block end the search early; one that is merely dropped goes on to its end.
    """

    def __init__(self, service: DhtService, handle: int) -> None:
        self._service = service
        self._handle = handle
        self._batches: deque[tuple[Address, ...]] = deque()
        self._changed = trio.Event()
        self.ended: SearchEnded | None = None
        self._closed = False

    def __aiter__(self) -> PeerSearch:
        return self

    async def __anext__(self) -> tuple[Address, ...]:
        try:
            await trio.lowlevel.checkpoint()
            while not self._batches:
                if self.ended is not None or self._closed:
                    raise StopAsyncIteration
                self._changed = trio.Event()
                await self._changed.wait()
        except trio.Cancelled:
            self.close()
            raise
        return self._batches.popleft()

    def __enter__(self) -> PeerSearch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Search no more.  Safe to call twice, and after the end."""
        self._closed = True
        self._changed.set()
        self._service._forget(self._handle)

    def _take(self, result: PeersFound | SearchEnded) -> None:
        if isinstance(result, PeersFound):
            self._batches.append(result.peers)
        else:
            self.ended = result
        self._changed.set()


class DhtService:
    """Searches and announces on ``node``.

    ``wake`` tells the loop that drives the node that it has something to send; the loop hands the node's results to
    `deliver`.  What is none of the service's business (`AddressObserved`, `NodeIdChanged`) goes on to ``on_fact``.
    """

    def __init__(
        self,
        node: DhtNode,
        wake: Callable[[], None],
        *,
        on_fact: Callable[[Result], None] | None = None,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.node = node
        self._wake = wake
        self._on_fact = on_fact
        self._clock = clock
        self._searches: dict[int, PeerSearch] = {}
        self._sibling: DhtService | None = None

    def start(self) -> None:
        """Begin to bootstrap."""
        self.node.start(self._clock())
        self._wake()

    def bootstrap(self, routers: Sequence[Address]) -> None:
        """Begin (again) at ``routers``; see `DhtNode.bootstrap`."""
        self.node.bootstrap(routers)
        self._wake()

    def pair_with(self, other: DhtService) -> None:
        """Let the nodes of the two families tell others, and each other, of each other's nodes (BEP 32)."""
        for service, sibling in ((self, other), (other, self)):
            service._sibling = sibling
            service.node.lend(sibling.node)

    def get_peers(self, info_hash: bytes, port: int | None = None, *, implied_port: bool = False) -> PeerSearch:
        """Search for peers; with ``port`` announce one there to the closest nodes at the end.

        Queues behind `DhtConfig.max_searches` others.  ``implied_port`` as in `announce`.  LocalProtocolError for an
        info-hash that is not 20 bytes or a port that is none.
        """
        if port is None:
            handle = self.node.get_peers(info_hash)
        else:
            handle = self.node.announce(info_hash, port, implied_port=implied_port)
        search = self._searches[handle] = PeerSearch(self, handle)
        self._wake()
        return search

    async def announce(self, info_hash: bytes, port: int, implied_port: bool = False) -> int:
        """Announce a peer at ``port`` and return by how many nodes it was stored, 0 to about 8.

        With ``implied_port`` they store the port that our datagrams come from.  Nodes forget after some 30 minutes:
        announce again every 15.  Cancellation ends it; some nodes may have stored it by then.
        """
        search = self.get_peers(info_hash, port, implied_port=implied_port)
        async for _ in search:
            pass
        assert search.ended is not None
        return search.ended.announced

    def add_address(self, address: Address) -> None:
        """There may be a node: from a PORT message, or resolved from a torrent's ``nodes``.  It is asked."""
        self.node.add_address(address, self._clock())
        self._wake()

    def refresh(self) -> bool:
        """As `DhtNode.refresh`."""
        asked = self.node.refresh(self._clock())
        self._wake()
        return asked

    def deliver(self, results: Iterable[Result]) -> None:
        """Hand over what `DhtNode.take_results` gave.  Synchronous: whoever waits runs later."""
        for result in results:
            if isinstance(result, PeersFound | SearchEnded):
                search = self._searches.get(result.handle)
                if search is not None:
                    search._take(result)
                    if search.ended is not None:
                        del self._searches[result.handle]
            elif isinstance(result, OtherFamilyHeard):
                if self._sibling is not None:
                    for _, address in result.nodes:
                        self._sibling.add_address(address)
            elif self._on_fact is not None:
                self._on_fact(result)

    def saved_state(self) -> SavedState:
        """What to keep for the next run."""
        return self.node.saved_state()

    def statistics(self) -> NodeStatistics:
        return self.node.statistics()

    def _forget(self, handle: int) -> None:
        if self._searches.pop(handle, None) is not None:
            self.node.cancel(handle)


@asynccontextmanager
async def open_node(
    socket: DatagramSocket,
    config: DhtConfig | None = None,
    *,
    saved: SavedState | None = None,
    rng: random.Random | None = None,
    on_fact: Callable[[Result], None] | None = None,
) -> AsyncIterator[DhtService]:
    """A node on ``socket``, of the family that it is bound in, bootstrapping while the block runs.

    ``socket`` is closed at the end.  Datagrams that find its send buffer full are lost, as they might be later.
    """
    node = DhtNode(config or DhtConfig(), rng or random.SystemRandom(), ipv6=":" in socket.local[0], saved=saved)
    loop = _Loop(socket, node)
    service = loop.service = DhtService(node, loop.wake, on_fact=on_fact)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.read)
            nursery.start_soon(loop.keep_time)
            service.start()
            yield service
            nursery.cancel_scope.cancel()
    finally:
        socket.close()


class _Loop:
    """Drives a node that has a socket to itself: one task that reads, one that keeps time."""

    service: DhtService

    def __init__(self, socket: DatagramSocket, node: DhtNode) -> None:
        self._socket = socket
        self._node = node
        self._woken = trio.Event()
        self._timer = trio.CancelScope()

    def wake(self) -> None:
        self._woken.set()

    async def read(self) -> None:
        while True:
            await self._socket.wait_readable()
            received = self._socket.receive_nowait()
            now = trio.current_time()
            for data, segment_size, path in received:
                if len(data) > segment_size:
                    run = [data[start : start + segment_size] for start in range(0, len(data), segment_size)]
                    self._node.receive_batch(run, path, now)
                else:
                    self._node.receive_batch((data,), path, now)
            self._pass(now)

    async def keep_time(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._timer.deadline) as self._timer:
                await self._woken.wait()
            self._timer = trio.CancelScope()
            self._woken = trio.Event()
            self._pass(trio.current_time())

    def _pass(self, now: float) -> None:
        deadline = self._node.next_deadline()
        if deadline is not None and deadline <= now:
            self._node.handle_deadline(now)
        for outgoing in self._node.datagrams_to_send(now):
            self._send(outgoing)
        results = self._node.take_results()
        if results:
            self.service.deliver(results)
        deadline = self._node.next_deadline()
        self._timer.deadline = float("inf") if deadline is None else deadline  # no task has to wake up for that

    def _send(self, outgoing: Outgoing) -> None:
        try:
            self._socket.send_nowait(outgoing)
        except OSError:
            pass  # a full buffer or a route that is gone: the query falls silent, the asker asks again
