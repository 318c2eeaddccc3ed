"""What strangers can do to a node: forge, flood, amplify, lie, crash it.  And what they cannot."""

from __future__ import annotations

import gc
import random
import tracemalloc
from types import FunctionType, ModuleType

import pytest

from dht import bencode
from dht.config import DhtConfig
from dht.datagram import Address, Path
from dht.krpc import PING_SIZE, encode_query, ping_arguments
from dht.limits import MAX_REMEMBERED, Blacklist, Memory, Rate, RatePerHost
from dht.node import MAX_OUTBOX, MAX_QUERY, STRIKES, DhtNode
from dht.nodeid import make_node_id, random_id_sharing
from dht.results import PeersFound
from tests.dht.test_node import LOCAL, PING, TARGET, THEIR_ID, THEM, Bench, host, query
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases


def crowded(*, peers: int = 300, ipv6: bool = False) -> Bench:
    """A node with a full table and many peers for TARGET, no limits on rates."""
    bench = Bench(DhtConfig(datagrams_per_second_per_host=None, answer_bytes_per_second=None), ipv6=ipv6)
    rng = random.Random(1)
    own = int.from_bytes(bench.node.node_id, "big")
    for number in range(100):
        address = (f"2001:db8:{number:x}::1" if ipv6 else host(number), 7)
        bench.node.table.answered(random_id_sharing(own, number % 6, rng), address, 0.0)
    for number in range(peers):
        bench.node.server.store.announce(TARGET, (f"2001:db8:{number:x}::2" if ipv6 else host(1000 + number), 80), 0.0)
    return bench


QUERIES = [
    PING,
    query(b"find_node", target=TARGET),
    query(b"find_node", target=TARGET, want=[b"n4", b"n6"]),
    query(b"get_peers", info_hash=TARGET),
    query(b"get_peers", info_hash=bytes(20)),
    query(b"get_peers", info_hash=TARGET, want=[b"n4", b"n6"]),
    query(b"announce_peer", info_hash=TARGET, port=1, token=b"x"),
    query(b"vote"),
    b"d1:ade1:q1:x1:t0:1:y1:qe",
]


@pytest.mark.parametrize("datagram", QUERIES)
@pytest.mark.parametrize("ipv6", [False, True])
def test_an_unproved_address_is_sent_at_most_four_times_what_came_from_it(datagram: bytes, ipv6: bool) -> None:
    bench = crowded(ipv6=ipv6)
    bench.node.lend(crowded(ipv6=not ipv6).node)
    remote = ("2001:db8:ffff::9", 5) if ipv6 else THEM
    answers = bench.receive(datagram, remote)
    assert sum(map(len, answers)) <= 4 * len(datagram)


@pytest.mark.parametrize("datagram", QUERIES)
@pytest.mark.parametrize("ipv6", [False, True])
def test_the_ping_to_a_newcomer_is_counted_too(datagram: bytes, ipv6: bool) -> None:
    bench = Bench(ipv6=ipv6)
    remote = ("2001:db8:ffff::9", 5) if ipv6 else THEM
    for number in range(7):
        bench.node.table.answered(bytes([number]) * 20, (f"2001:db8:{number}::1" if ipv6 else host(number), 7), 0.0)
    for number in range(300):
        bench.node.server.store.announce(TARGET, (f"2001:db8:{number:x}::2" if ipv6 else host(1000 + number), 80), 0.0)
    bench.node.receive_batch([memoryview(datagram)], Path(LOCAL, remote), 0.0)
    sent = bench.sent()
    for bench.now in (1.0, 2.0, 20.0):
        bench.node.handle_deadline(bench.now)
        sent += bench.sent()
    assert all(path.remote == remote for _, path in sent)
    if b"1:q" in datagram and b"vote" not in datagram and b"2:id20" in datagram:
        assert any(b"1:q4:ping" in answer for answer, _ in sent)
    assert sum(len(answer) for answer, _ in sent) <= 4 * len(datagram)


def test_a_ping_of_ours_is_as_large_as_we_reckon() -> None:
    assert len(encode_query(bytes(4), b"ping", ping_arguments(bytes(20)), read_only=True)) == PING_SIZE


def test_a_query_provokes_one_ping_at_most() -> None:
    """Never more while that is open."""
    bench = Bench()
    for _ in range(50):
        bench.node.receive_batch([memoryview(PING)], Path(LOCAL, THEM), 0.0)
    assert sum(b"1:y1:q" in datagram for datagram, _ in bench.sent()) == 1


def returned(bench: Bench) -> dict[bytes, bencode.Value]:
    found = bench.ask(query(b"get_peers", info_hash=TARGET))[b"r"]
    assert isinstance(found, dict)
    return found


def test_a_stranger_still_gets_peers_and_nodes_and_whoever_proves_itself_gets_all_that_fits() -> None:
    bench = crowded()
    unproved = returned(bench)
    assert len(unproved[b"values"]) >= 10  # type: ignore[arg-type]
    assert len(unproved[b"nodes"]) >= 3 * 26  # type: ignore[arg-type]
    token = unproved[b"token"]
    bench.ask(query(b"announce_peer", info_hash=TARGET, port=1, token=token))
    (answer,) = bench.receive(query(b"get_peers", info_hash=TARGET))
    assert 900 < len(answer) <= 1024
    proved = returned(bench)
    assert len(proved[b"values"]) >= 70  # type: ignore[arg-type]
    assert len(proved[b"nodes"]) == 8 * 26  # type: ignore[arg-type]


def test_answering_a_question_of_ours_proves_an_address_too() -> None:
    bench = crowded()
    bench.node.add_address(THEM, 0.0)
    ((question, remote),) = bench.questions()
    bench.reply(question, remote, THEIR_ID)
    (answer,) = bench.receive(query(b"get_peers", info_hash=TARGET))
    assert len(answer) > 900


def test_a_host_that_sends_too_fast_is_not_heard_and_others_are() -> None:
    bench = Bench()
    answered = sum(len(bench.receive(PING)) for _ in range(300))
    assert answered == 100
    assert len(bench.receive(PING, ("192.0.3.1", 1))) == 1
    bench.now = 1.0
    assert sum(len(bench.receive(PING)) for _ in range(50)) == 10
    assert bench.node.statistics().limited == 200 + 40


def test_all_answers_together_have_a_limit() -> None:
    bench = Bench(DhtConfig(answer_bytes_per_second=1000.0))
    sent = sum(len(answer) for number in range(500) for answer in bench.receive(PING, (host(number), 1)))
    assert 1900 <= sent <= 2000
    bench.now = 1.0
    sent = sum(len(answer) for number in range(500) for answer in bench.receive(PING, (host(number), 1)))
    assert 900 <= sent <= 1100


def test_answers_to_our_questions_come_through_a_flood_from_the_same_host() -> None:
    bench = Bench()
    bench.node.add_address(THEM, 0.0)
    ((question, _),) = bench.questions()
    assert sum(len(bench.receive(PING)) for _ in range(300)) == 100
    bench.reply(question, THEM, THEIR_ID)
    assert bench.node.statistics().nodes == 1


def test_forged_answers_are_ignored() -> None:
    bench = Bench()
    bench.node.add_address(THEM, 0.0)
    ((question, remote),) = bench.questions()
    forged = dict(question)
    for transaction_id in (b"", b"aa", bytes(4), question[b"t"] + b"x"):  # type: ignore[operator]
        forged[b"t"] = transaction_id
        bench.reply(forged, remote, b"f" * 20)
    bench.reply(question, ("192.0.2.99", 6881), b"f" * 20)
    bench.reply(question, (remote[0], 1), b"f" * 20)
    assert bench.node.statistics().nodes == 0
    assert bench.node.statistics().unsolicited == 6
    bench.reply(question, remote, THEIR_ID)
    assert bench.node.statistics().nodes == 1


def test_garbage_for_answers_gets_a_host_left_alone() -> None:
    bench = Bench()
    bench.acquaint(THEIR_ID, THEM)
    bench.node.get_peers(TARGET)
    ((question, _),) = bench.questions()
    transaction_id = question[b"t"]
    assert isinstance(transaction_id, bytes)
    for _ in range(STRIKES):
        bench.receive(b"d1:rd2:id2:xxe1:t4:" + transaction_id + b"1:y1:re")
    assert bench.node.statistics().nodes == 0
    assert bench.receive(PING) == []
    bench.now = 1799.0
    assert bench.receive(PING) == []
    bench.now = 1801.0
    assert len(bench.receive(PING)) == 1


def test_garbage_forged_in_the_name_of_a_host_does_not_get_it_banned() -> None:
    bench = Bench()
    bench.acquaint(THEIR_ID, THEM)
    bench.node.get_peers(TARGET)
    assert len(bench.questions()) == 1
    for _ in range(3 * STRIKES):
        bench.receive(b"d1:rd2:id2:xxe1:t4:aaaa1:y1:re")
        bench.receive(b"de")
    assert bench.node.statistics().nodes == 1
    assert len(bench.receive(PING)) == 1


def test_who_names_nodes_that_do_not_answer_us_is_not_banned_for_it() -> None:
    """They may answer him: Sybils that answer who keeps a table would get the honest ones around a target banned."""
    bench = Bench()
    rng = random.Random(1)
    bench.acquaint(THEIR_ID, THEM)
    for _ in range(2 * STRIKES):
        bench.node.get_peers(TARGET)
        ((question, remote),) = bench.questions()
        assert remote == THEM
        hosts = [host(number) for number in range(16)]
        bench.reply(question, THEM, THEIR_ID, nodes=[(make_node_id(name, rng), (name, 1)) for name in hosts])
        for _ in range(40):
            bench.now += 1.0
            bench.node.handle_deadline(bench.now)
            bench.sent()
    assert bench.node.statistics().nodes == 1
    assert len(bench.receive(PING)) == 1


def test_one_64_of_ipv6_is_one_sender() -> None:
    bench = Bench(ipv6=True)
    addresses = [(f"2001:db8:1:2::{number:x}", 1) for number in range(1, 301)]
    assert sum(len(bench.receive(PING, address)) for address in addresses) == 100
    assert len(bench.receive(PING, ("2001:db8:1:3::1", 1))) == 1
    for number, address in enumerate(addresses):
        bench.node.table.answered(bytes([number % 256]) * 20, address, 0.0)
    assert bench.node.statistics().nodes == 1


def test_who_is_banned_is_so_from_its_whole_64() -> None:
    bench = Bench(ipv6=True)
    liar = ("2001:db8:1:2::1", 6881)
    bench.acquaint(THEIR_ID, liar)
    bench.node.get_peers(TARGET)
    ((question, _),) = bench.questions()
    for _ in range(STRIKES):
        bench.receive(b"d1:rd2:id2:xxe1:t4:%b1:y1:re" % question[b"t"], liar)
    assert bench.receive(PING, ("2001:db8:1:2::77", 1)) == []
    assert len(bench.receive(PING, ("2001:db8:1:3::1", 1))) == 1


def test_large_datagrams_that_nobody_asked_for_are_not_even_read() -> None:
    bench = Bench()
    bomb = b"d1:al" + b"i0e" * 670 + b"ee"
    bench.node.receive_batch([memoryview(bomb), memoryview(PING.ljust(MAX_QUERY + 1, b"x"))], Path(LOCAL, THEM), 0.0)
    assert bench.sent() == []
    assert bench.node.statistics().malformed == 2
    token = b"x" * 128
    largest = query(b"announce_peer", info_hash=TARGET, port=1, token=token, implied_port=1, seed=1, name=b"n" * 128)
    assert len(largest) <= MAX_QUERY
    assert len(bench.receive(largest)) == 1


def found_in(bench: Bench, values: list[Address], source: Address = THEM) -> list[Address]:
    """What a search reports when ``source`` gives these peers."""
    bench.acquaint(THEIR_ID, source)
    bench.node.get_peers(TARGET)
    ((question, remote),) = bench.questions()
    bench.reply(question, remote, THEIR_ID, values=values)
    bench.sent()
    return [peer for result in bench.node.take_results() if isinstance(result, PeersFound) for peer in result.peers]


PRIVATE: list[Address] = [("192.168.1.1", 80), ("127.0.0.1", 22), ("10.0.0.1", 1), ("169.254.169.254", 80), ("::1", 9)]


def test_peers_in_private_networks_are_believed_only_to_who_is_in_one() -> None:
    nowhere: list[Address] = [("0.0.0.0", 1), ("224.0.0.1", 1), ("255.255.255.255", 1), ("ff02::1", 1), (host(1), 0)]
    assert found_in(Bench(), [*PRIVATE, *nowhere, (host(2), 80)]) == [(host(2), 80)]
    assert found_in(Bench(), [*PRIVATE, *nowhere], ("192.168.1.7", 6881)) == PRIVATE


def test_ten_thousand_peers_in_one_answer_are_none() -> None:
    assert found_in(Bench(), [(host(number), 80) for number in range(10_000)]) == []
    assert len(found_in(Bench(), [(host(number), 80) for number in range(200)])) == 200


def remembered(node: DhtNode) -> int:
    """How many objects a node holds, directly and indirectly."""
    seen: dict[int, object] = {}
    waiting: list[object] = [node]
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, type | ModuleType | FunctionType):
            continue
        seen[id(found)] = found
        waiting += gc.get_referents(found)
    return len(seen)


def test_a_flood_from_ever_new_addresses_makes_a_node_forget_and_not_grow() -> None:
    bench = Bench(DhtConfig(answer_bytes_per_second=None))
    rng = random.Random(1)
    sizes = []
    for number in range(3 * MAX_REMEMBERED):
        bench.now = number / 1000
        remote: Address = (host(number * 13), 1 + number % 60_000)
        datagram = query(b"get_peers", info_hash=rng.randbytes(20)).replace(THEIR_ID, rng.randbytes(20))
        bench.node.receive_batch([memoryview(datagram)], Path(LOCAL, remote), bench.now)
        if number % 100 == 0:
            bench.node.handle_deadline(bench.now)
            bench.node.datagrams_to_send(bench.now)
        if number % MAX_REMEMBERED == MAX_REMEMBERED - 1:
            sizes.append(remembered(bench.node))
    assert sizes[0] > MAX_REMEMBERED
    assert sizes[2] < 1.1 * sizes[1] < 1.3 * sizes[0]


def test_a_flood_of_new_names_leaves_room_for_our_own_questions() -> None:
    bench = Bench(DhtConfig(max_in_flight=40))
    for number in range(200):
        datagram = PING.replace(THEIR_ID, number.to_bytes(20, "big"))
        bench.node.receive_batch([memoryview(datagram)], Path(LOCAL, (host(number), 1)), 0.0)
    assert bench.node.statistics().in_flight == 32


def test_our_own_datagrams_coming_back_do_no_harm() -> None:
    bench = Bench()
    bench.node.add_address(THEM, 0.0)
    ((datagram, path),) = bench.sent()
    bench.node.receive_batch([memoryview(datagram)], path, 0.0)
    assert bench.sent() == []
    question = bencode.decode_untrusted(datagram)
    assert isinstance(question, dict)
    bench.reply(question, THEM, bench.node.node_id)
    assert bench.node.statistics().nodes == 0


def test_an_outbox_that_nobody_empties_is_bounded() -> None:
    bench = Bench(DhtConfig(datagrams_per_second_per_host=None, answer_bytes_per_second=None))
    bench.node.receive_batch([memoryview(PING)] * (MAX_OUTBOX + 500), Path(LOCAL, THEM), 0.0)
    assert len(bench.sent()) <= MAX_OUTBOX + 1


def test_floods_from_forged_addresses_leave_bounded_memory() -> None:
    rng = random.Random(1)
    bench = Bench(DhtConfig(answer_bytes_per_second=None))
    tracemalloc.start()
    try:
        for number in range(3_000):
            remote: Address = (host(number * 13), 1 + number % 60_000)
            datagram = query(b"get_peers", info_hash=rng.randbytes(20))
            bench.node.receive_batch([memoryview(datagram)], Path(LOCAL, remote), number / 1000)
            if number % 100 == 0:
                bench.node.datagrams_to_send(number / 1000)
                bench.node.handle_deadline(number / 1000)
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert size < 10 << 20
    assert bench.node.statistics().in_flight <= bench.node.config.max_in_flight


def test_the_memories_forget_the_oldest() -> None:
    memory: Memory[int] = Memory(10.0)
    rates = RatePerHost(1.0, 1.0)
    for number in range(MAX_REMEMBERED + 10):
        memory.add(number, 0.0)
        assert rates.admits(number, 0.0)
    assert len(memory) == MAX_REMEMBERED
    assert not memory.holds(0, 1.0)
    assert memory.holds(MAX_REMEMBERED, 9.9)
    assert not memory.holds(MAX_REMEMBERED, 10.1)
    assert rates.admits(0, 0.0)
    assert not rates.admits(MAX_REMEMBERED, 0.5)


def test_a_rate_fills_up_to_its_burst_and_no_further() -> None:
    rate = Rate(2.0, 4.0)
    assert [rate.take(1, 0.0) for _ in range(5)] == [True] * 4 + [False]
    assert [rate.take(1, 1.0) for _ in range(3)] == [True, True, False]
    assert [rate.take(1, 100.0) for _ in range(5)] == [True] * 4 + [False]


def test_bans_need_so_many_strikes_and_end() -> None:
    blacklist = Blacklist(2, 10.0)
    assert not blacklist.strike("a", 0.0)
    assert not blacklist.bans("a", 0.0)
    assert blacklist.strike("a", 1.0)
    assert blacklist.bans("a", 10.9)
    assert not blacklist.bans("b", 2.0)
    assert not blacklist.bans("a", 11.1)
    assert not blacklist.strike("b", 0.0)
    assert not blacklist.strike("b", 10.0)  # the first is forgotten
    assert blacklist.strike("b", 19.0)


def test_fuzz_a_node_survives_random_bytes_and_damaged_messages_from_many_addresses() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    node = DhtNode(DhtConfig(datagrams_per_second_per_host=None, answer_bytes_per_second=None), random.Random(seed))
    node.start(0.0)
    node.get_peers(TARGET)
    answers = [
        b"d2:ip6:abcdef1:rd2:id20:%b5:nodes26:%b5:token1:x6:valuesl6:axje.uee1:t4:%b1:y1:re"
        % (rng.randbytes(20), rng.randbytes(26), rng.randbytes(4))
        for _ in range(20)
    ]
    valid = [*QUERIES, *answers, b"d1:eli201e1:xe1:t4:abcd1:y1:ee"]
    cases = [*mutations(rng, valid, fuzz_count()), *random_bytes_cases(rng, 300, fuzz_count() // 4)]
    rng.shuffle(cases)
    now = 0.0
    for number, datagram in enumerate(cases):
        now += rng.random() / 10
        remote = (host(rng.randrange(5000)), 1 + rng.randrange(3))
        pending = list(node._transactions._pending.values())
        if pending and number % 3 == 0:  # now and then one that belongs to a question of ours, damaged or not
            transaction = rng.choice(pending)
            remote = transaction.address
            datagram = datagram.replace(b"1:t4:", b"1:t4:" + transaction.transaction_id, 1)
            datagram = rng.choice(answers).replace(b"1:t4:", b"1:t4:" + transaction.transaction_id)[
                : rng.randrange(40, 300)
            ]
        try:
            node.receive_batch([memoryview(datagram)], Path(None, remote), now)
            node.datagrams_to_send(now)
            node.handle_deadline(now)
            node.take_results()
            if number % 10 == 0:
                node.announce(rng.randbytes(20), 1)
                node.add_address((host(rng.randrange(5000)), 1), now)
        except Exception as error:
            raise AssertionError(f"seed {seed}, case {number}: {datagram!r}") from error
    assert node.statistics().malformed > len(cases) // 10
    assert node.statistics().limited < len(cases) // 2  # most were not merely turned away
