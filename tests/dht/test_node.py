"""`DhtNode` by its datagrams: every query answered as the BEPs say, every question asked as they want it."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from dht import bencode, krpc
from dht.compact import Node, decode_nodes_untrusted, encode_nodes, encode_peer
from dht.config import DhtConfig
from dht.datagram import Address, Path
from dht.errors import LocalProtocolError, RemoteProtocolError
from dht.node import DhtNode
from dht.nodeid import fits_address, make_node_id
from dht.results import AddressObserved, NodeIdChanged, OtherFamilyHeard, PeersFound, SearchEnded
from dht.state import SavedState, decode_state_untrusted
from dht.transactions import FIRST_TIMEOUT, LATE
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

THEIR_ID, TARGET = b"abcdefghij0123456789", b"mnopqrstuvwxyz123456"
THEM: Address = ("192.0.2.7", 6881)
LOCAL: Address = ("198.51.100.1", 0)
COMPACT = encode_peer(THEM)
VERSION = b"1:v4:SW\x00\x01"

Message = dict[bytes, bencode.Value]


class Bench:
    """A node on the bench: datagrams in, datagrams out."""

    def __init__(self, config: DhtConfig | None = None, *, ipv6: bool = False, saved: SavedState | None = None) -> None:
        self.node = DhtNode(config or DhtConfig(), random.Random(1), ipv6=ipv6, saved=saved)
        self.now = 0.0

    def sent(self) -> list[tuple[bytes, Path]]:
        outgoing = self.node.datagrams_to_send(self.now)
        assert all(run.segment_size == len(b"".join(run.buffers)) <= 1024 for run in outgoing)
        return [(b"".join(run.buffers), run.path) for run in outgoing]

    def receive(self, datagram: bytes, remote: Address = THEM) -> list[bytes]:
        """What the node answers to ``remote``; its own questions are left out."""
        self.node.receive_batch([memoryview(datagram)], Path(LOCAL, remote), self.now)
        answers = []
        for reply, path in self.sent():
            if b"1:y1:q" not in reply:
                assert path == Path(LOCAL, remote)  # from the address that it came to
                answers.append(reply)
        return answers

    def ask(self, datagram: bytes, remote: Address = THEM) -> Message:
        """The one answer, decoded."""
        (answer,) = self.receive(datagram, remote)
        message = bencode.decode_untrusted(answer)
        assert isinstance(message, dict)
        return message

    def questions(self) -> list[tuple[Message, Address]]:
        found = []
        for datagram, path in self.sent():
            message = bencode.decode_untrusted(datagram)
            assert isinstance(message, dict)
            assert message[b"y"] == b"q"
            found.append((message, path.remote))
        return found

    def reply(
        self,
        question: Message,
        remote: Address,
        node_id: bytes,
        *,
        observed: Address | None = None,
        nodes: list[Node] | None = None,
        nodes6: list[Node] | None = None,
        values: list[Address] | None = None,
        token: bytes = b"token",
    ) -> None:
        returned: Message = {b"id": node_id, b"token": token}
        if nodes is not None:
            returned[b"nodes"] = encode_nodes(nodes)
        if nodes6 is not None:
            returned[b"nodes6"] = encode_nodes(nodes6)
        if values is not None:
            returned[b"values"] = [encode_peer(value) for value in values]
        message: Message = {b"r": returned, b"t": question[b"t"], b"y": b"r"}
        if observed is not None:
            message[b"ip"] = encode_peer(observed)
        self.node.receive_batch([memoryview(bencode.encode(message))], Path(LOCAL, remote), self.now)

    def acquaint(self, node_id: bytes, address: Address) -> None:
        """Let the node know one that answers."""
        self.node.add_address(address, self.now)
        ((question, remote),) = self.questions()
        assert remote == address
        self.reply(question, address, node_id)


def query(method: bytes, read_only: bool = False, **arguments: bencode.Encodable) -> bytes:
    message: dict[bytes, bencode.Encodable] = {
        b"a": {b"id": THEIR_ID, **{key.encode(): value for key, value in arguments.items()}},
        b"q": method,
        b"t": b"aa",
        b"y": b"q",
    }
    if read_only:
        message[b"ro"] = 1
    return bencode.encode(message)


PING = query(b"ping")


def host(number: int) -> str:
    return f"{11 + number // 65536}.{number // 256 % 256}.{number % 256}.9"


# BEP 5: the answers, byte for byte


def test_a_ping_is_answered_with_our_id_and_their_address() -> None:
    bench = Bench()
    (answer,) = bench.receive(PING)
    assert answer == b"d2:ip6:" + COMPACT + b"1:rd2:id20:" + bench.node.node_id + b"e1:t2:aa" + VERSION + b"1:y1:re"


def test_find_node_is_answered_with_the_closest_we_know() -> None:
    bench = Bench()
    bench.acquaint(b"n" * 20, (host(1), 7))
    (answer,) = bench.receive(query(b"find_node", target=TARGET))
    nodes = encode_nodes([(b"n" * 20, (host(1), 7))])
    expected = b"d2:ip6:%b1:rd2:id20:%b5:nodes26:%be1:t2:aa%b1:y1:re" % (COMPACT, bench.node.node_id, nodes, VERSION)
    assert answer == expected


def test_an_announced_peer_is_found_and_a_token_is_needed() -> None:
    bench = Bench()
    answer = bench.ask(query(b"get_peers", info_hash=TARGET))
    returned = answer[b"r"]
    assert isinstance(returned, dict)
    assert returned[b"nodes"] == b""
    assert b"values" not in returned
    token = returned[b"token"]
    assert isinstance(token, bytes)
    for bad in (b"", b"12345678", token[:-1]):
        refusal = bench.ask(query(b"announce_peer", info_hash=TARGET, port=80, token=bad))
        assert refusal[b"e"] == [203, b"bad token"]
    stranger = bench.ask(query(b"announce_peer", info_hash=TARGET, port=80, token=token), ("192.0.2.8", 6881))
    assert stranger[b"e"] == [203, b"bad token"]
    accepted = bench.ask(query(b"announce_peer", info_hash=TARGET, port=80, token=token))
    assert accepted[b"r"] == {b"id": bench.node.node_id}
    implied = query(b"announce_peer", info_hash=TARGET, port=81, implied_port=1, token=token)
    assert bench.ask(implied, (THEM[0], 7777))[b"y"] == b"r"
    found = bench.ask(query(b"get_peers", info_hash=TARGET))[b"r"]
    assert isinstance(found, dict)
    assert found[b"values"] == [encode_peer((THEM[0], 80)), encode_peer((THEM[0], 7777))]


@pytest.mark.parametrize(
    "datagram,error",
    [
        (query(b"vote"), [204, b"method unknown"]),
        (query(b"find_node", target=b"short"), [203, b"target is not 20 bytes"]),
        (query(b"announce_peer", info_hash=TARGET, token=b"x", port=0), [203, b"port is not 1 to 65535"]),
    ],
)
def test_bad_queries_get_their_errors(datagram: bytes, error: list[bencode.Value]) -> None:
    answer = Bench().ask(datagram)
    assert answer[b"e"] == error
    assert (answer[b"t"], answer[b"y"], answer[b"ip"]) == (b"aa", b"e", COMPACT)


# BEP 32: want


def v6_node() -> DhtNode:
    bench = Bench(ipv6=True)
    bench.acquaint(b"6" * 20, ("2001:db8::1", 66))
    return bench.node


@pytest.mark.parametrize(
    "want,keys",
    [(None, {b"nodes"}), ([b"n4"], {b"nodes"}), ([b"n6"], {b"nodes6"}), ([b"n4", b"n6"], {b"nodes", b"nodes6"})],
)
def test_nodes_of_the_families_wanted_are_named(want: list[bencode.Encodable] | None, keys: set[bytes]) -> None:
    bench = Bench()
    bench.acquaint(b"n" * 20, (host(1), 7))
    bench.node.lend(v6_node())
    for method, name in ((b"find_node", "target"), (b"get_peers", "info_hash")):
        arguments: dict[str, bencode.Encodable] = {name: TARGET}
        if want is not None:
            arguments["want"] = want
        returned = bench.ask(query(method, **arguments))[b"r"]
        assert isinstance(returned, dict)
        assert set(returned) - {b"id", b"token"} == keys
        if b"nodes6" in keys:
            nodes6 = returned[b"nodes6"]
            assert isinstance(nodes6, bytes)
            assert decode_nodes_untrusted(nodes6, ipv6=True) == [(b"6" * 20, ("2001:db8::1", 66))]


def test_both_families_are_wanted_only_by_a_bootstrap_whose_sibling_knows_nobody() -> None:
    bench = Bench(DhtConfig(routers=((host(1), 7),)))
    bench.node.lend(DhtNode(DhtConfig(), random.Random(2), ipv6=True))
    bench.node.start(0.0)
    ((question, remote),) = bench.questions()
    assert question[b"a"] == {b"id": bench.node.node_id, b"target": bench.node.node_id, b"want": [b"n4", b"n6"]}
    bench.reply(question, remote, b"n" * 20, nodes=[], nodes6=[(b"6" * 20, ("2001:db8::1", 66))])
    assert OtherFamilyHeard(((b"6" * 20, ("2001:db8::1", 66)),)) in bench.node.take_results()
    bench.node.get_peers(TARGET)
    ((question, _),) = bench.questions()
    assert question[b"a"] == {b"id": bench.node.node_id, b"info_hash": TARGET}


# BEP 42: our address, and the id that follows from it


def test_observed_addresses_are_reported_with_their_ports_and_the_id_moves_with_them() -> None:
    bench = Bench()
    before = bench.node.node_id
    for number in range(1, 5):
        bench.node.add_address((host(number), 7), 0.0)
    for number, (question, remote) in enumerate(bench.questions()):
        assert bench.node.node_id == before
        bench.reply(
            question, remote, make_node_id(remote[0], random.Random(number)), observed=("21.75.31.124", 40000 + number)
        )
    results = bench.node.take_results()
    observed = [result for result in results if isinstance(result, AddressObserved)]
    assert observed == [AddressObserved((host(number + 1), 7), ("21.75.31.124", 40000 + number)) for number in range(4)]
    assert bench.node.external_host == "21.75.31.124"
    assert bench.node.node_id != before
    assert fits_address(bench.node.node_id, "21.75.31.124")
    assert NodeIdChanged(bench.node.node_id, "21.75.31.124") in results
    assert bench.node.statistics().nodes == 4


def test_liars_move_the_id_once_in_ten_minutes_at_most() -> None:
    bench = Bench()
    moves = []
    for number in range(1, 241):  # everybody we ask, in turns for this address and for that one
        bench.now = 10.0 * number
        observed = (("21.75.31.124", "203.0.113.9")[number // 20 % 2], 1)
        bench.node.add_address((host(number), 7), bench.now)
        for question, remote in bench.questions():
            bench.reply(question, remote, number.to_bytes(20, "big"), observed=observed)
        moves += [bench.now for result in bench.node.take_results() if isinstance(result, NodeIdChanged)]
    assert 2 <= len(moves) <= 4
    assert all(later - earlier >= 600.0 for earlier, later in pairwise(moves))


def test_few_voices_one_network_and_local_addresses_do_not_move_the_id() -> None:
    bench = Bench()
    before = bench.node.node_id
    for number in range(1, 12):
        address = (f"203.0.113.{number}", 7) if number < 9 else (host(number), 7)
        bench.node.add_address(address, 0.0)
        ((question, remote),) = bench.questions()
        seen = ("10.0.0.9", 1) if number == 11 else ("21.75.31.124", 1)
        bench.reply(question, remote, bytes([number]) * 20, observed=seen)
    assert bench.node.node_id == before
    assert bench.node.external_host is None


def test_a_known_external_address_makes_the_first_id_fit() -> None:
    assert fits_address(Bench(DhtConfig(external_host="21.75.31.124")).node.node_id, "21.75.31.124")
    saved = SavedState(b"x" * 20, ())
    assert Bench(saved=saved).node.node_id == b"x" * 20
    assert Bench(DhtConfig(external_host="21.75.31.124"), saved=saved).node.node_id != b"x" * 20


# BEP 43: read-only nodes


def test_a_read_only_node_says_so_and_answers_nobody() -> None:
    bench = Bench(DhtConfig(read_only=True))
    assert bench.receive(PING) == []
    assert bench.receive(query(b"vote")) == []
    bench.node.add_address((host(1), 7), 0.0)
    assert [question[b"ro"] for question, _ in bench.questions()] == [1]
    bench.node.read_only = False
    assert len(bench.receive(PING)) == 1


def test_read_only_nodes_are_answered_and_not_kept() -> None:
    bench = Bench()
    bench.node.receive_batch([memoryview(query(b"ping", read_only=True))], Path(None, THEM), 0.0)
    assert len(bench.sent()) == 1  # the answer, and no ping back
    bench.node.receive_batch([memoryview(PING)], Path(None, THEM), 0.0)
    ping, answer = bench.sent()
    assert (b"1:y1:r" in answer[0], b"4:ping" in ping[0]) == (True, True)


# Our own questions


def test_a_search_asks_reports_announces_and_ends() -> None:
    bench = Bench()
    bench.acquaint(b"n" * 20, (host(1), 7))
    handle = bench.node.announce(TARGET, 6881, implied_port=True)
    ((question, first),) = bench.questions()
    assert (question[b"q"], question[b"a"]) == (b"get_peers", {b"id": bench.node.node_id, b"info_hash": TARGET})
    second = (host(2), 8)
    second_id = make_node_id(host(2), random.Random(1))
    bench.reply(question, first, b"n" * 20, nodes=[(second_id, second)], values=[("192.0.2.1", 1), ("192.0.2.1", 0)])
    ((question, remote),) = bench.questions()
    assert remote == second
    bench.reply(question, remote, second_id, values=[("192.0.2.1", 1), ("192.0.2.2", 2)], token=b"other")
    announces = {remote: question for question, remote in bench.questions()}
    assert set(announces) == {first, second}
    assert announces[second][b"q"] == b"announce_peer"
    expected = {b"id": bench.node.node_id, b"implied_port": 1, b"info_hash": TARGET, b"port": 6881, b"token": b"other"}
    assert announces[second][b"a"] == expected
    for remote, question in announces.items():
        bench.reply(question, remote, second_id if remote == second else b"n" * 20)
    assert [result for result in bench.node.take_results() if not isinstance(result, AddressObserved)] == [
        PeersFound(handle, (("192.0.2.1", 1),)),
        PeersFound(handle, (("192.0.2.2", 2),)),
        SearchEnded(handle, 4, 2, 2, 2),
    ]


def test_a_search_without_anybody_to_ask_ends_and_knows_what_we_store() -> None:
    bench = Bench()
    token = bench.node.server._tokens.issue(THEM[0], TARGET, 0.0)
    bench.receive(query(b"announce_peer", info_hash=TARGET, port=80, token=token), THEM)
    handle = bench.node.get_peers(TARGET)
    bench.node.handle_deadline(30.0)
    bench.now = 31.0
    bench.sent()
    bench.node.handle_deadline(60.0)
    assert bench.node.take_results() == [PeersFound(handle, ((THEM[0], 80),)), SearchEnded(handle, 0, 0, 0, 0)]


def test_silence_is_noticed_in_time_and_an_unanswered_announce_is_repeated_once() -> None:
    bench = Bench()
    bench.acquaint(b"n" * 20, (host(1), 7))
    handle = bench.node.announce(TARGET, 6881)
    ((question, first),) = bench.questions()
    bench.reply(question, first, b"n" * 20)
    asked = 0
    while bench.questions():
        asked += 1
        deadline = bench.node.next_deadline()
        assert deadline is not None
        bench.now = deadline
        bench.node.handle_deadline(deadline)
    assert asked == 2
    assert SearchEnded(handle, 3, 1, 0, 1) in bench.node.take_results()


def test_no_more_queries_are_in_flight_than_configured() -> None:
    bench = Bench(DhtConfig(max_in_flight=5, max_searches=3))
    for number in range(8):
        bench.acquaint(make_node_id(host(number), random.Random(number)), (host(number), 7))
    handles = [bench.node.get_peers(bytes([number]) * 20) for number in range(30)]
    assert len(bench.questions()) == 5
    assert bench.node.statistics().searches_waiting == 30 - 3
    ended: set[int] = set()
    while len(ended) < 30:
        deadline = bench.node.next_deadline()
        assert deadline is not None
        bench.now = deadline
        bench.node.handle_deadline(deadline)
        assert len(bench.questions()) <= 5
        assert bench.node.statistics().in_flight <= 5
        ended |= {result.handle for result in bench.node.take_results() if isinstance(result, SearchEnded)}
    assert ended == set(handles)


def test_a_cancelled_search_says_nothing_more() -> None:
    bench = Bench()
    bench.acquaint(b"n" * 20, (host(1), 7))
    handle = bench.node.get_peers(TARGET)
    waiting = bench.node.get_peers(TARGET)
    ((question, first), _) = bench.questions()
    bench.node.cancel(handle)
    bench.node.cancel(waiting)
    bench.node.cancel(99)
    bench.reply(question, first, b"n" * 20, values=[("192.0.2.1", 1)])
    bench.node.handle_deadline(100.0)
    assert [result for result in bench.node.take_results() if not isinstance(result, AddressObserved)] == []


def test_a_node_nobody_answers_bootstraps_again_and_less_and_less_often() -> None:
    bench = Bench(DhtConfig(routers=((host(1), 7),)))
    bench.node.start(0.0)
    times: list[float] = []
    while bench.now < 1000.0:
        times += [bench.now for _, remote in bench.questions() if remote == (host(1), 7)]
        deadline = bench.node.next_deadline()
        assert deadline is not None
        bench.now = deadline
        bench.node.handle_deadline(deadline)
    attempts = [
        time for time, before in zip(times, [-9.0, *times], strict=False) if time - before > FIRST_TIMEOUT + 0.1
    ]
    pauses = [later - earlier for earlier, later in pairwise(attempts)]
    assert len(attempts) > 5
    assert pauses[0] < 10 < 200 < pauses[-1] < 320


def test_mistakes_of_the_caller_are_told() -> None:
    node = Bench().node
    for info_hash in (b"", bytes(19), bytes(32)):
        with pytest.raises(LocalProtocolError):
            node.get_peers(info_hash)
    for port in (-1, 0, 65536):
        with pytest.raises(LocalProtocolError):
            node.announce(TARGET, port)
    for address in (("2001:db8::1", 1), ("0.0.0.0", 1), ("192.0.2.1", 0), ("224.0.0.1", 5)):
        node.add_address(address, 0.0)
    assert node.datagrams_to_send(0.0) == []


def test_the_state_survives_and_damage_to_it_is_noticed() -> None:
    bench = Bench()
    bench.acquaint(b"n" * 20, (host(1), 7))
    state = bench.node.saved_state()
    encoded = state.encode()
    assert decode_state_untrusted(encoded) == state == SavedState(bench.node.node_id, ((b"n" * 20, (host(1), 7)),))
    with pytest.raises(RemoteProtocolError):
        decode_state_untrusted(encoded, ipv6=True)
    for length in range(len(encoded)):
        with pytest.raises(RemoteProtocolError):
            decode_state_untrusted(encoded[:length])
    restarted = Bench(saved=state)
    restarted.node.start(0.0)
    assert [remote for _, remote in restarted.questions()] == [(host(1), 7)]


def test_fuzz_damaged_states_raise_nothing_but_the_named_error() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    valid = [SavedState(b"x" * 20, tuple((rng.randbytes(20), (host(number), 1)) for number in range(3))).encode()]
    for data in [*mutations(rng, valid, fuzz_count() // 2), *random_bytes_cases(rng, 100, fuzz_count() // 4)]:
        try:
            decode_state_untrusted(data)
        except RemoteProtocolError:
            pass
        except Exception as error:
            raise AssertionError(f"seed {seed}: {data!r}") from error


def test_late_answers_are_taken_and_later_ones_are_not() -> None:
    for delay, nodes in ((FIRST_TIMEOUT + LATE - 0.1, 1), (FIRST_TIMEOUT + LATE + 0.1, 0)):
        bench = Bench()
        bench.node.add_address(THEM, 0.0)
        ((question, remote),) = bench.questions()
        for step in (FIRST_TIMEOUT, delay):
            bench.now = step
            bench.node.handle_deadline(step)
        bench.reply(question, remote, THEIR_ID)
        assert bench.node.statistics().nodes == nodes


def test_keys_of_krpc_messages_we_send_are_in_order() -> None:
    bench = Bench(DhtConfig(read_only=True))
    bench.acquaint(b"n" * 20, (host(1), 7))
    bench.node.announce(TARGET, 6881, implied_port=True)
    for _ in range(2):
        for datagram, path in bench.sent():
            message = bencode.decode_untrusted(datagram)  # strict about the order
            assert isinstance(message, dict)
            bench.reply(message, path.remote, b"n" * 20)
    assert krpc.VERSION == b"SW\x00\x01"
