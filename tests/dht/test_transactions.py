"""Pending queries: who may answer, how long is waited, what late answers are worth."""

from __future__ import annotations

import random

import pytest

from dht.transactions import FIRST_TIMEOUT, LATE, MAX_TIMEOUT, MIN_TIMEOUT, RoundTrips, Transaction, Transactions

A, B = ("192.0.2.1", 1), ("192.0.2.2", 2)


def opened(transactions: Transactions, address: tuple[str, int] = A, now: float = 0.0) -> Transaction:
    return transactions.open(address, None, now, lambda *_: None, lambda *_: None)


def test_only_the_very_address_asked_may_answer() -> None:
    transactions = Transactions(random.Random(1))
    transaction = opened(transactions)
    for stranger in (B, (A[0], 2), (B[0], A[1])):
        assert transactions.close(transaction.transaction_id, stranger, 0.1) is None
        assert not transactions.awaits(stranger)
    assert transactions.awaits(A)
    assert transactions.close(b"xxxx", A, 0.1) is None
    assert transactions.close(transaction.transaction_id, A, 0.1) is transaction


def test_an_answer_counts_once() -> None:
    transactions = Transactions(random.Random(1))
    transaction = opened(transactions)
    assert transactions.close(transaction.transaction_id, A, 0.1) is transaction
    assert transactions.close(transaction.transaction_id, A, 0.1) is None
    assert transactions.in_flight == 0
    assert not transactions.awaits(A)


def test_transaction_ids_are_four_random_bytes_that_differ() -> None:
    transactions = Transactions(random.Random(1))
    ids = [opened(transactions).transaction_id for _ in range(500)]
    assert len(set(ids)) == 500
    assert {len(transaction_id) for transaction_id in ids} == {4}
    assert all(len({transaction_id[position] for transaction_id in ids}) > 200 for position in range(4))


def test_a_query_goes_silent_once_and_its_late_answer_is_still_taken() -> None:
    transactions = Transactions(random.Random(1))
    transaction = opened(transactions)
    assert transactions.next_deadline() == FIRST_TIMEOUT
    assert transactions.take_silent(FIRST_TIMEOUT - 0.01) == []
    assert transactions.take_silent(FIRST_TIMEOUT) == [transaction]
    assert transactions.in_flight == 0
    assert transactions.take_silent(FIRST_TIMEOUT + 1) == []
    assert transactions.close(transaction.transaction_id, A, 5.0) is transaction
    assert transactions.in_flight == 0


def test_a_query_expires_for_good() -> None:
    transactions = Transactions(random.Random(1))
    transaction = opened(transactions)
    transactions.take_silent(FIRST_TIMEOUT)
    assert transactions.next_deadline() == FIRST_TIMEOUT + LATE
    assert transactions.take_silent(FIRST_TIMEOUT + LATE) == []
    assert transactions.close(transaction.transaction_id, A, 100.0) is None
    assert not transactions.awaits(A)
    assert transactions.next_deadline() is None


def test_timeouts_follow_the_round_trips_of_the_address_and_else_of_the_network() -> None:
    round_trips = RoundTrips()
    assert round_trips.timeout(A) == FIRST_TIMEOUT
    for _ in range(30):
        round_trips.add(A, 0.4)
    for _ in range(30):
        round_trips.add(B, 0.01)
    assert round_trips.timeout(A) == pytest.approx(0.4, abs=0.01)
    assert round_trips.timeout(B) == MIN_TIMEOUT
    assert MIN_TIMEOUT <= round_trips.timeout(("192.0.2.3", 3)) < 0.4
    round_trips.add(A, 60.0)
    assert round_trips.timeout(A) == MAX_TIMEOUT
