"""The walk towards a target: whom it asks, when it stops, and what Sybils and poison can do to it."""

from __future__ import annotations

import random

from dht.compact import Node
from dht.datagram import Address
from dht.lookup import ALPHA, DISBELIEVED_AFTER, MAX_CANDIDATES, MAX_UNFIT_ASKED, Candidate, Lookup
from dht.nodeid import fits_address, make_node_id
from dht.table import K

TARGET = bytes(20)


def local(distance: int) -> Node:
    """A node on a private network, exempt from all rules against Sybils, so far from the target."""
    return distance.to_bytes(20, "big"), (f"10.0.{distance // 256 % 256}.{distance % 256}", 1 + distance % 65535)


def ask_all(lookup: Lookup) -> list[Candidate]:
    asked = []
    while (candidate := lookup.next_candidate()) is not None:
        lookup.asked(candidate)
        asked.append(candidate)
    return asked


def distances(candidates: list[Candidate]) -> list[int]:
    return [candidate.distance for candidate in candidates]


def answer(lookup: Lookup, candidate: Candidate, nodes: list[Node] | None = None, token: bytes = b"") -> None:
    assert candidate.node_id is not None
    lookup.answered(candidate, candidate.node_id, nodes or [], token)


def test_the_closest_are_asked_first_and_three_at_a_time() -> None:
    lookup = Lookup(TARGET)
    lookup.add(local(distance) for distance in (50, 10, 40, 20, 30))
    first = ask_all(lookup)
    assert distances(first) == [10, 20, 30]
    assert ALPHA == 3
    answer(lookup, first[0], [local(5)])
    assert distances(ask_all(lookup)) == [5]
    assert not lookup.done


def test_it_stops_when_the_eight_closest_have_answered() -> None:
    lookup = Lookup(TARGET)
    lookup.add(local(distance) for distance in range(1, 30))
    asked = 0
    while not lookup.done:
        for candidate in ask_all(lookup):
            asked += 1
            answer(lookup, candidate, token=b"t%d" % candidate.distance)
    assert asked == K
    assert distances(lookup.closest()) == list(range(1, 9))
    assert [candidate.token for candidate in lookup.closest()][:2] == [b"t1", b"t2"]


def test_silence_frees_the_place_and_a_late_answer_still_counts() -> None:
    lookup = Lookup(TARGET)
    lookup.add(local(distance) for distance in range(1, 30))
    first = ask_all(lookup)
    lookup.fell_silent(first[0])
    fourth = ask_all(lookup)
    assert distances(fourth) == [4]
    answer(lookup, first[0], [local(0xFFF)])
    waiting = [*first[1:], *fourth]
    while not lookup.done:
        for candidate in waiting:
            answer(lookup, candidate)
        waiting = ask_all(lookup)
    assert distances(lookup.closest())[0] == 1


def test_in_a_tiny_network_the_silent_are_asked_twice_and_then_it_ends() -> None:
    lookup = Lookup(TARGET)
    lookup.add([local(1), local(2)])
    asked = []
    while not lookup.done:
        for candidate in ask_all(lookup):
            asked.append(candidate.distance)
            lookup.fell_silent(candidate)
    assert sorted(asked) == [1, 1, 2, 2]
    assert lookup.closest() == []


def test_an_error_is_an_end_for_that_node() -> None:
    lookup = Lookup(TARGET)
    lookup.add([local(1)])
    (candidate,) = ask_all(lookup)
    lookup.refused(candidate)
    assert lookup.done
    assert lookup.closest() == []


def test_routers_are_asked_first_and_never_counted() -> None:
    lookup = Lookup(TARGET)
    lookup.add([local(1)])
    lookup.add_address(("10.9.9.9", 9))
    router, other = ask_all(lookup)
    assert (router.node_id, other.distance) == (None, 1)
    assert not lookup.entered
    lookup.answered(router, b"r" * 20, [local(3)])
    assert lookup.entered
    answer(lookup, other)
    (third,) = ask_all(lookup)
    answer(lookup, third)
    assert lookup.done
    assert distances(lookup.closest()) == [1, 3]


def test_an_answer_under_another_id_counts_for_that_id_only() -> None:
    lookup = Lookup(TARGET)
    lookup.add([local(1)])
    (candidate,) = ask_all(lookup)
    lookup.answered(candidate, local(77)[0], [local(2)], b"token")
    remaining = ask_all(lookup)
    assert distances(remaining) == [77]
    lookup.answered(candidate, local(78)[0], [])  # the same answer again changes nothing
    answer(lookup, remaining[0])
    assert distances(lookup.closest()) == [77]


def public(rng: random.Random) -> str:
    return f"{rng.randrange(11, 100)}.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(256)}"


def honest(rng: random.Random, count: int) -> list[Node]:
    found = []
    for _ in range(count):
        address = (public(rng), 1)
        found.append((make_node_id(address[0], rng), address))
    return found


def unfit(rng: random.Random, distance: int, host: str | None = None) -> Node:
    node_id = distance.to_bytes(20, "big")
    while fits_address(node_id, host or (host := public(rng))):
        host = None
    return node_id, (host, 1)


def test_ids_that_do_not_fit_their_addresses_cannot_end_a_lookup() -> None:
    rng = random.Random(1)
    lookup = Lookup(TARGET)
    good = honest(rng, 30)
    lookup.add(good)
    lookup.add(unfit(rng, distance) for distance in range(1, 60))
    asked: list[Candidate] = []
    while not lookup.done:
        batch = ask_all(lookup)
        assert sum(not candidate.fit for candidate in batch) <= 1
        for candidate in batch:
            asked.append(candidate)
            answer(lookup, candidate)
    expected = sorted(int.from_bytes(node_id, "big") for node_id, _ in good)[:K]
    assert [candidate.distance for candidate in lookup.closest() if candidate.fit] == expected
    assert sum(not candidate.fit for candidate in asked) <= K


def test_silent_ids_that_do_not_fit_are_not_chased_for_ever() -> None:
    rng = random.Random(2)
    lookup = Lookup(TARGET)
    lookup.add(honest(rng, 30))
    lookup.add(unfit(rng, distance) for distance in range(1, 60))
    chased = 0
    while not lookup.done:
        for candidate in ask_all(lookup):
            if candidate.fit:
                answer(lookup, candidate)
            else:
                chased += 1
                lookup.fell_silent(candidate)
    assert chased <= MAX_UNFIT_ASKED


def test_a_network_counts_once_however_many_nodes_it_has() -> None:
    rng = random.Random(3)
    network = [(make_node_id(f"21.75.31.{last}", rng), (f"21.75.31.{last}", 1)) for last in range(200)]
    goal = min(int.from_bytes(node_id, "big") for node_id, _ in network).to_bytes(20, "big")
    lookup = Lookup(goal)
    lookup.add(honest(rng, 20))
    lookup.add(network)
    while not lookup.done:
        for candidate in ask_all(lookup):
            answer(lookup, candidate)
    closest = lookup.closest()
    assert len(closest) == K
    assert len({candidate.network for candidate in closest}) == K


def test_who_names_only_nodes_that_are_not_there_is_not_believed() -> None:
    lookup = Lookup(TARGET)
    lookup.add(local(distance) for distance in (1000, 1001, 1002, *range(2000, 2020)))
    poisoner, second, third = ask_all(lookup)
    answer(lookup, poisoner, [local(distance) for distance in range(1, 15)])
    answer(lookup, second)
    answer(lookup, third, [local(14)])
    silent = 0
    while not lookup.done:
        for candidate in ask_all(lookup):
            if candidate.distance < 14:
                silent += 1
                lookup.fell_silent(candidate)
            else:
                answer(lookup, candidate)
    assert DISBELIEVED_AFTER <= silent <= DISBELIEVED_AFTER + ALPHA
    assert distances(lookup.closest())[:2] == [14, 1000]  # 14 was named by another, too
    assert [candidate for candidate in lookup.candidates if candidate.lied] == [poisoner]


def test_public_nodes_cannot_make_us_send_into_private_networks() -> None:
    rng = random.Random(4)
    lookup = Lookup(TARGET)
    lookup.add(honest(rng, 1))
    (source,) = ask_all(lookup)
    answer(lookup, source, [local(1), (bytes(20), ("127.0.0.1", 53)), *honest(rng, 1)])
    assert len(lookup.candidates) == 2


def test_we_never_ask_ourselves() -> None:
    lookup = Lookup(TARGET, own_id=local(1)[0])
    lookup.add([local(1), local(2)])
    assert distances(ask_all(lookup)) == [2]


def test_unusable_addresses_and_the_other_family_are_left_out() -> None:
    lookup = Lookup(TARGET)
    bad: list[Address] = [("0.0.0.0", 1), ("224.0.0.1", 1), ("10.0.0.1", 0), ("2001:db8::1", 1)]
    lookup.add((bytes([number] * 20), address) for number, address in enumerate(bad))
    assert lookup.candidates == ()


def test_a_flood_of_names_is_bounded_and_the_closest_are_kept() -> None:
    lookup = Lookup(TARGET)
    lookup.add(local(distance) for distance in range(3 * MAX_CANDIDATES, 0, -1))
    assert len(lookup.candidates) == MAX_CANDIDATES
    assert [candidate.distance for candidate in lookup.candidates] == list(range(1, MAX_CANDIDATES + 1))
    first = ask_all(lookup)
    answer(lookup, first[0], [local(1000 + distance) for distance in range(100)])
    assert len(lookup.candidates) <= MAX_CANDIDATES
