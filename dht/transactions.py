"""`Transactions`: our queries that wait for an answer, and how long to wait for whom (BEP 5 has neither).

A query goes silent after a time-out that follows the round trips seen so far; its answer is still taken until it
expires, because the lookup that moved on loses nothing by it.  Sends nothing.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass

from dht.datagram import Address
from dht.krpc import Error, Response

TRANSACTION_ID_SIZE = 4  # bytes, random: with the address asked they are all that a spoofer has to guess
FIRST_TIMEOUT = 1.0  # seconds, before any round trip was seen
MIN_TIMEOUT, MAX_TIMEOUT = 0.25, 3.0
LATE = 8.0  # seconds after a query went silent that its answer is still taken
MAX_REMEMBERED = 2048  # round trips of so many addresses

Answer = Response | Error
OnAnswer = Callable[["Transaction", Answer, float], None]
OnSilence = Callable[["Transaction", float], None]


@dataclass(slots=True, eq=False)
class Transaction:
    """One query of ours.  ``on_answer`` is called once at most, ``on_silence`` before it or not at all."""

    transaction_id: bytes
    address: Address
    node_id: bytes | None  # who should answer, where that is known
    sent_at: float
    silent_at: float
    on_answer: OnAnswer
    on_silence: OnSilence
    silent: bool = False


class RoundTrips:
    """Time-outs from round trips: of the very address where it is known, else of the network as a whole (RFC 6298)."""

    def __init__(self) -> None:
        self._all: _Estimate | None = None
        self._by_address: dict[Address, _Estimate] = {}

    def timeout(self, address: Address) -> float:
        """Seconds to wait for an answer from ``address``."""
        estimate = self._by_address.get(address) or self._all
        if estimate is None:
            return FIRST_TIMEOUT
        return min(max(estimate.mean + 4 * estimate.deviation, MIN_TIMEOUT), MAX_TIMEOUT)

    def add(self, address: Address, seconds: float) -> None:
        known = self._by_address.pop(address, None)
        self._by_address[address] = _next(known, seconds, 1 / 4)
        if len(self._by_address) > MAX_REMEMBERED:
            del self._by_address[next(iter(self._by_address))]
        self._all = _next(self._all, seconds, 1 / 8)


class Transactions:
    """The table of pending queries.  ``in_flight`` counts those that are not silent: the bound to respect."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._pending: dict[bytes, Transaction] = {}
        self._addresses: dict[Address, int] = {}
        self._timers: list[tuple[float, int, Transaction]] = []
        self._sequence = 0
        self.round_trips = RoundTrips()
        self.in_flight = 0

    def open(
        self, address: Address, node_id: bytes | None, now: float, on_answer: OnAnswer, on_silence: OnSilence
    ) -> Transaction:
        """Expect an answer from ``address``; the query is to leave now with the transaction's id."""
        transaction_id = self._rng.randbytes(TRANSACTION_ID_SIZE)
        while transaction_id in self._pending:
            transaction_id = self._rng.randbytes(TRANSACTION_ID_SIZE)
        silent_at = now + self.round_trips.timeout(address)
        transaction = Transaction(transaction_id, address, node_id, now, silent_at, on_answer, on_silence)
        self._pending[transaction_id] = transaction
        self._addresses[address] = self._addresses.get(address, 0) + 1
        self.in_flight += 1
        self._set_timer(silent_at, transaction)
        return transaction

    def awaits(self, address: Address) -> bool:
        """Whether an answer from ``address`` could be one to a question of ours."""
        return address in self._addresses

    def is_pending(self, transaction_id: bytes, address: Address) -> bool:
        """Whether this very address was asked with this id."""
        transaction = self._pending.get(transaction_id)
        return transaction is not None and transaction.address == address

    def close(self, transaction_id: bytes, address: Address, now: float) -> Transaction | None:
        """The query that an answer with this id from this very address belongs to; it is pending no longer."""
        transaction = self._pending.get(transaction_id)
        if transaction is None or transaction.address != address:
            return None
        self._remove(transaction)
        self.round_trips.add(address, now - transaction.sent_at)
        return transaction

    def next_deadline(self) -> float | None:
        return self._timers[0][0] if self._timers else None

    def take_silent(self, now: float) -> list[Transaction]:
        """Those that have just gone silent; the ones that expired are dropped without a word."""
        fallen_silent = []
        while self._timers and self._timers[0][0] <= now:
            transaction = heapq.heappop(self._timers)[2]
            if self._pending.get(transaction.transaction_id) is not transaction:
                continue
            if transaction.silent:
                self._remove(transaction)
            else:
                transaction.silent = True
                self.in_flight -= 1
                fallen_silent.append(transaction)
                self._set_timer(now + LATE, transaction)
        return fallen_silent

    def _set_timer(self, when: float, transaction: Transaction) -> None:
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, transaction))

    def _remove(self, transaction: Transaction) -> None:
        del self._pending[transaction.transaction_id]
        self.in_flight -= not transaction.silent
        left = self._addresses[transaction.address] - 1
        if left:
            self._addresses[transaction.address] = left
        else:
            del self._addresses[transaction.address]


@dataclass(slots=True)
class _Estimate:
    mean: float
    deviation: float


def _next(estimate: _Estimate | None, seconds: float, weight: float) -> _Estimate:
    if estimate is None:
        return _Estimate(seconds, seconds / 2)
    deviation = estimate.deviation + (abs(seconds - estimate.mean) - estimate.deviation) * weight
    return _Estimate(estimate.mean + (seconds - estimate.mean) * weight, deviation)
