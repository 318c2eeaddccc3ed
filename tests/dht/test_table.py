"""The routing table: buckets, spares, what good and bad mean, and who may share a bucket."""

from __future__ import annotations

import random

import pytest

from dht.compact import decode_nodes_untrusted
from dht.nodeid import ID_BITS, random_id_sharing, shared_bits
from dht.table import BAD_AFTER, GOOD_FOR, K, RoutingTable

OWN = bytes(20)


def host(number: int) -> str:
    """Public hosts, each in a /24 of its own."""
    return f"{11 + number // 65536}.{number // 256 % 256}.{number % 256}.9"


def filled(bits: int, count: int, *, seed: int = 1, table: RoutingTable | None = None) -> RoutingTable:
    """A table that ``count`` nodes answered, each sharing ``bits`` bits with our id."""
    rng = random.Random(seed)
    table = table or RoutingTable(OWN)
    for number in range(count):
        table.answered(random_id_sharing(0, bits, rng), (host(1000 * bits + number), 1), 0.0)
    return table


def test_the_bucket_of_our_own_id_splits_and_others_do_not() -> None:
    table = filled(0, 20)
    assert (len(table), table.depth) == (K, 2)
    filled(5, 20, table=table)
    assert len(table) == 2 * K
    assert table.depth == 7
    for contact in table.contacts():
        assert shared_bits(0, contact.number) in (0, 5)


def test_a_random_network_fills_as_many_buckets_as_its_size_has_bits() -> None:
    rng = random.Random(1)
    table = RoutingTable(rng.randbytes(20))
    for number in range(4096):
        table.answered(rng.randbytes(20), (host(number), 1), 0.0)
    assert 8 <= table.depth <= 13  # log2(4096 / 8) = 9
    assert 8 * K <= len(table) <= 13 * K


def test_closest_agrees_with_sorting_everything_we_know() -> None:
    rng = random.Random(2)
    own = rng.randbytes(20)
    table = RoutingTable(own)
    for number in range(500):
        table.answered(rng.randbytes(20), (host(number), 1), 0.0)
    targets = [rng.randbytes(20) for _ in range(200)]
    targets += [random_id_sharing(int.from_bytes(own, "big"), bits, rng) for bits in range(0, ID_BITS, 3)] + [own]
    for target in targets:
        goal = int.from_bytes(target, "big")
        expected = sorted(table.contacts(), key=lambda contact: contact.number ^ goal)
        assert table.closest(target) == expected[:K]
        assert table.closest(target, 20) == expected[:20]
        compact = {node_id for node_id, _ in decode_nodes_untrusted(table.closest_compact(target))}
        assert compact == {contact.node_id for contact in expected[:K]}


def test_a_spare_takes_the_place_of_a_contact_that_falls_silent() -> None:
    table = filled(0, 12)
    victim = next(table.contacts())
    for _ in range(BAD_AFTER - 1):
        table.failed(victim.address)
    assert victim in table.contacts()
    table.failed(victim.address)
    assert victim not in table.contacts()
    assert len(table) == K


def test_an_answer_clears_the_failures_before_it() -> None:
    table = filled(0, 12)
    contact = next(table.contacts())
    for _ in range(5):
        table.failed(contact.address)
        table.failed(contact.address)
        table.answered(contact.node_id, contact.address, 1.0)
    assert contact in table.contacts()


def test_an_outage_of_ours_does_not_empty_the_table() -> None:
    table = filled(0, 5)
    addresses = [contact.address for contact in table.contacts()]
    for address in addresses * BAD_AFTER:
        table.failed(address)
    assert len(table) == 0
    assert table.closest_compact(OWN) == b""  # others are not told of them
    assert [contact.address for contact in table.closest(OWN)] != []  # we still know where to begin
    table.answered(next(table.contacts()).node_id, next(table.contacts()).address, 9.0)
    assert len(table) == 1


def test_a_bad_contact_makes_room_for_a_newcomer() -> None:
    table = filled(5, 1, table=filled(0, K))
    victim = next(table.contacts())
    assert not table.asked_us(random_id_sharing(0, 0, random.Random(9)), (host(9), 1), 0.0)
    for _ in range(BAD_AFTER):
        table.failed(victim.address)
    newcomer = random_id_sharing(0, 0, random.Random(9))
    assert table.asked_us(newcomer, (host(9999), 1), 0.0)
    table.answered(newcomer, (host(9999), 1), 0.0)
    assert victim not in table.contacts()
    assert len(table) == K + 1


def test_one_contact_for_each_host_and_for_each_24_in_a_bucket() -> None:
    rng = random.Random(3)
    table = RoutingTable(OWN)
    table.answered(random_id_sharing(0, 0, rng), ("192.0.2.1", 1), 0.0)
    table.answered(random_id_sharing(0, 0, rng), ("192.0.2.1", 2), 0.0)
    table.answered(random_id_sharing(0, 0, rng), ("192.0.2.2", 1), 0.0)
    assert [contact.address for contact in table.contacts()] == [("192.0.2.1", 1)]
    filled(0, K, table=table)
    filled(3, K, table=table)
    table.answered(random_id_sharing(0, 7, rng), ("192.0.2.3", 1), 0.0)  # another bucket
    assert ("192.0.2.3", 1) in [contact.address for contact in table.contacts()]


def test_local_hosts_are_exempt() -> None:
    rng = random.Random(4)
    table = RoutingTable(OWN)
    for port in range(1, 6):
        table.answered(random_id_sharing(0, 0, rng), ("127.0.0.1", port), 0.0)
    for number in range(1, 4):
        table.answered(random_id_sharing(0, 0, rng), (f"192.168.7.{number}", 1), 0.0)
    assert len(table) == K


def test_an_address_that_answers_under_a_new_id_loses_the_old_one() -> None:
    table = filled(0, 3)
    contact = next(table.contacts())
    table.answered(b"\xff" * 20, contact.address, 1.0)
    assert contact not in table.contacts()
    assert len(table) == 3


def test_our_own_id_never_gets_in() -> None:
    table = RoutingTable(OWN)
    table.answered(OWN, (host(1), 1), 0.0)
    assert len(table) == 0
    assert not table.asked_us(OWN, (host(1), 1), 0.0)


def test_contacts_become_questionable_after_a_quarter_of_an_hour_or_a_failure() -> None:
    table = filled(0, 3)
    first, second, _ = table.contacts()
    assert table.take_questionable(GOOD_FOR - 1) == []
    table.failed(second.address)
    assert table.take_questionable(GOOD_FOR - 1) == [second]
    table.answered(second.node_id, second.address, 100.0)
    table.asked_us(first.node_id, first.address, 200.0)
    third = table.take_questionable(GOOD_FOR)[0]
    assert third not in (first, second)


def test_each_bucket_is_refreshed_once_and_then_when_nothing_changed() -> None:
    table = filled(0, K)
    filled(4, K, table=table)
    depth = table.depth
    assert [table.take_stale_bucket(0.0) for _ in range(depth + 1)] == [*range(depth), None]
    assert table.take_stale_bucket(GOOD_FOR - 1) is None
    contact = next(table.contacts())
    table.answered(contact.node_id, contact.address, 500.0)
    assert table.take_stale_bucket(GOOD_FOR) == 1


def test_moving_keeps_the_contacts_and_sorts_them_anew() -> None:
    rng = random.Random(5)
    table = RoutingTable(OWN)
    for number in range(100):
        table.answered(rng.randbytes(20), (host(number), 1), 0.0)
    target = b"\xff" * 20
    before = {contact.node_id for contact in table.closest(target)}
    table.move(target)
    assert {contact.node_id for contact in table.contacts()} >= before
    assert all(
        shared_bits((1 << ID_BITS) - 1, contact.number) >= table.depth - 1 for contact in table.closest(target, 1)
    )


def test_a_liar_is_removed_and_a_spare_promoted() -> None:
    table = filled(0, K + 1)
    liar = next(table.contacts())
    table.remove(liar.address)
    assert liar not in table.contacts()
    assert len(table) == K


@pytest.mark.parametrize("population", [400, 30])  # with spares, and without
def test_random_use_keeps_the_tables_promises(population: int) -> None:
    seed = random.SystemRandom().getrandbits(32)
    rng = random.Random(seed)
    table = RoutingTable(rng.randbytes(20))
    nodes = [
        (rng.randbytes(20), (f"{rng.randrange(1, 5)}.0.{rng.randrange(60)}.{rng.randrange(4)}", 1))
        for _ in range(population)
    ]
    for step in range(5000):
        node_id, address = rng.choice(nodes)
        match rng.randrange(20):
            case 0:
                table.remove(address)
            case 1 if step % 50 == 0:
                table.move(rng.randbytes(20))
            case number if number < 9:
                table.failed(address)
            case 10:
                table.asked_us(node_id, address, float(step))
            case _:
                table.answered(node_id, address, float(step))
        target = rng.choice(nodes)[0]
        goal = int.from_bytes(target, "big")
        live = sorted((contact.number ^ goal, contact) for contact in table.contacts() if not contact.bad)
        told = {node_id for node_id, _ in decode_nodes_untrusted(table.closest_compact(target))}
        assert told == {contact.node_id for _, contact in live[:K]}, f"seed {seed}"
        if step % 100 == 0:
            contacts = list(table.contacts())
            hosts = [contact.address[0] for contact in contacts]
            assert len(hosts) == len(set(hosts)), f"seed {seed}"
            for bucket in table._buckets:
                assert len(bucket.contacts) <= K, f"seed {seed}"
                assert len({contact.network for contact in bucket.contacts}) == len(bucket.contacts), f"seed {seed}"
            kept = contacts + [spare for bucket in table._buckets for spare in bucket.spares]
            assert set(kept) == set(table._by_owner.values()), f"seed {seed}"
            assert len(kept) == len(table._by_owner), f"seed {seed}"
