"""`Circuit`: a byte stream to a peer through a third one (``sw_relay``), as one of its two ends has it.

It runs over the connection to the relay and breaks with it.  What may be sent is what the other end has granted and
the relay has passed on; what is received is granted anew once it has been read, so that no more than WINDOW waits on
the way and here.  Encryption and handshakes are those of any stream (`swarm.connect.shake`).
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Iterator
from typing import Protocol

import trio

from swarm.endpoint import Endpoint
from swarm.ext import relay_message
from swarm.ext.freight import Lane, Receives
from swarm.ext.relay_circuit import WINDOW
from swarm.ext.relay_message import (
    FRAME_COST,
    HEADER,
    MAX_DATA,
    RelayMessage,
    Reset,
    close_frame,
    cost_of,
    credit_frame,
    credit_of,
    data_frame,
    eof_frame,
)
from swarm.net.network import Buffer
from swarm.net.one_task import OneTask

GRANTED_AT_ONCE = WINDOW // 4
"""Credit that is granted in one message."""

LEAST_CREDIT = 2 << 10
"""Less is not used but for what is shorter: small frames cost as much work as large ones."""

RECEIVE_SIZE = 64 << 10
"""The most bytes that receive_some gives when it is not told."""


class Carrier(Protocol):
    """The connection to the relay; a `swarm.ext.relay.Relay`."""

    @property
    def circuits(self) -> dict[int, Receives]: ...

    def tell(self, message: RelayMessage) -> None: ...

    def tell_frame(self, frame: bytes) -> None: ...

    def carry(self, lane: Lane, frame: bytes, cost: int = 0) -> None: ...

    def drop(self, lane: Lane) -> None: ...


class Circuit(trio.abc.HalfCloseableStream):
    """A `swarm.net.network.Stream`, the circuit ``number`` of ``carrier``; it enters itself there.

    trio.BrokenResourceError, with the reason, when either end or the relay has reset it; trio.ClosedResourceError after
    our own close, trio.BusyResourceError for two tasks in one direction.
    """

    def __init__(self, carrier: Carrier, number: int, remote: Endpoint) -> None:
        """``remote`` is where the other end is, by our own knowledge or the relay's word."""
        self._carrier = carrier
        self._number = number
        self._remote = remote
        self.queued = 0
        """As `Lane`: what waits on the connection to the relay."""
        self._credit = 0
        self._granted = WINDOW  # that the other end may still use
        self._owed = 0  # to be granted anew
        self._arrived: deque[memoryview] = deque()
        self._broken: str | None = None
        self._closed = self._shut = False
        self._ended = self._deaf = False  # the other end: sends no more; reads no more
        self._news = trio.lowlevel.ParkingLot()
        self._sending, self._receiving = OneTask("sending on"), OneTask("receiving from")
        carrier.circuits[number] = self
        carrier.tell_frame(credit_frame(number, WINDOW))

    @property
    def local(self) -> None:
        """No address of ours leads here."""

    @property
    def remote(self) -> Endpoint:
        return self._remote

    # -- receiving --------------------------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        limit = RECEIVE_SIZE if max_bytes is None else operator.index(max_bytes)
        if limit < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._receiving:
            await self._wait_readable()
            return b"".join(self._take(limit))

    async def receive_into(self, buffer: memoryview) -> int:
        """Fill the front of ``buffer`` with what is there; the count, 0 after the other end's half-close."""
        with self._receiving:
            await self._wait_readable()
            count = 0
            for part in self._take(len(buffer)):
                buffer[count : count + len(part)] = part
                count += len(part)
            return count

    async def _wait_readable(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._is_readable():
            await self._news.park()

    def _is_readable(self) -> bool:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._broken is not None:
            raise trio.BrokenResourceError(self._broken)
        return bool(self._arrived) or self._ended

    def _take(self, limit: int) -> Iterator[memoryview]:
        """At most ``limit`` bytes of what has arrived."""
        while limit and self._arrived:
            part = self._arrived.popleft()
            if len(part) > limit:
                self._arrived.appendleft(part[limit:])
                part = part[:limit]
            else:
                self._owed += FRAME_COST
            limit -= len(part)
            self._owed += len(part)
            yield part
        if self._owed >= GRANTED_AT_ONCE and not self._ended:
            self._carrier.tell_frame(credit_frame(self._number, self._owed))
            self._granted += self._owed
            self._owed = 0

    # -- sending ----------------------------------------------------------------------------------------------------

    async def send_all(self, data: Buffer) -> None:
        """Returns when all bytes have left for the relay or wait to; cancelled, a part may have been sent."""
        with self._sending:
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            rest = memoryview(data).cast("B")
            while rest:
                await self._wait_credit(min(FRAME_COST + len(rest), LEAST_CREDIT))
                part = rest[: min(self._credit - FRAME_COST, MAX_DATA)]
                rest = rest[len(part) :]
                frame = data_frame(self._number, part)
                cost = cost_of(frame)
                self._credit -= cost
                self._carrier.carry(self, frame, cost)

    async def wait_send_all_might_not_block(self) -> None:
        with self._sending:
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            await self._wait_credit(LEAST_CREDIT)

    async def send_eof(self) -> None:
        with self._sending:
            await trio.lowlevel.checkpoint()
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed")
            if not self._shut:
                self._check_sendable()
                self._shut = True
                self._carrier.carry(self, eof_frame(self._number))

    async def _wait_credit(self, count: int) -> None:
        while self._credit < count:
            await self._news.park()
            self._check_sendable()

    def _check_sendable(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._shut:
            raise trio.ClosedResourceError("this stream's sending side was closed")
        if self._broken is not None or self._deaf:
            raise trio.BrokenResourceError(self._broken or "closed")

    # -- closing ----------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close without waiting: what was accepted is still delivered, as long as the connection to the relay is."""
        if not self._closed:
            self._leave()
            if self._broken is None and not self._deaf:
                self._carrier.carry(self, close_frame(self._number))
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Reset the circuit; nothing more is delivered."""
        self._reset("aborted")

    def _reset(self, reason: str) -> None:
        if self._closed or self._broken is not None:
            self._leave()
            return
        self._leave()
        self._carrier.drop(self)
        self._carrier.tell(Reset(self._number, reason))

    def _leave(self) -> None:
        self._closed = True
        self._arrived.clear()
        self._carrier.circuits.pop(self._number, None)
        self._news.unpark_all()

    # -- Receives ---------------------------------------------------------------------------------------------------

    def frame_arrived(self, frame: bytes, now: float) -> bool:
        match frame[0]:
            case relay_message.DATA:
                if self._ended or cost_of(frame) > self._granted:
                    return False
                self._granted -= cost_of(frame)
                self._arrived.append(memoryview(frame)[HEADER:])
            case relay_message.CREDIT:
                self._credit += credit_of(frame)
                if self._credit > WINDOW:
                    return False
            case relay_message.EOF:
                self._ended = True
            case relay_message.CLOSE:
                self._ended = self._deaf = True
                self._carrier.drop(self)
        self._news.unpark_all()
        return True

    def reset_arrived(self, reason: str) -> None:
        self._break(reason)
        self._carrier.drop(self)

    def carrier_closed(self) -> None:
        self._break("relay-lost")

    def _break(self, reason: str) -> None:
        self._broken = reason
        self._arrived.clear()
        self._carrier.circuits.pop(self._number, None)
        self._news.unpark_all()
