"""The UDP tracker core (BEP 15): what is sent when, and which datagrams count."""

from __future__ import annotations

import random
import struct

import pytest

from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError
from swarm.net.network import Outgoing, Path
from swarm.net.udp_tracker import UdpTracker, UdpTrackerResult
from swarm.wire.tracker import AnnounceFailure, AnnounceReply, AnnounceRequest, ScrapeEntry
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

SERVER = Endpoint("192.0.2.1", 6969)
SERVER6 = Endpoint("2001:db8::1", 6969)
PATH, PATH6 = Path(None, SERVER), Path(None, SERVER6)
HASH = b"h" * 20
REQUEST = AnnounceRequest(info_hash=HASH, peer_id=b"p" * 20, port=6881, uploaded=0, downloaded=0, left=1)
PEER = bytes((192, 0, 2, 9, 0x1A, 0xE1))


@pytest.fixture
def core() -> UdpTracker:
    return UdpTracker(random.Random(1))


def sent(core: UdpTracker, now: float, remote: Endpoint = SERVER) -> list[tuple[int, int, int]]:
    """The (connection id, action, transaction id) of each datagram, all of them to ``remote``."""
    outgoing = core.datagrams_to_send(now)
    assert all(each.path == Path(None, remote) and each.segment_size == len(each.buffers[0]) for each in outgoing)
    return [struct.unpack_from(">QII", bytes(each.buffers[0])) for each in outgoing]


def receive(core: UdpTracker, datagram: bytes, now: float, path: Path = PATH) -> bool:
    """As the mux does: ask first."""
    wanted = core.wants(memoryview(datagram), path)
    if wanted:
        core.receive_batch([memoryview(datagram)], path, now)
    return wanted


def connected(transaction_id: int, connection_id: int = 77) -> bytes:
    return struct.pack(">IIQ", 0, transaction_id, connection_id)


def announced(transaction_id: int, peers: bytes = PEER) -> bytes:
    return struct.pack(">IIIII", 1, transaction_id, 900, 2, 3) + peers


def failed(transaction_id: int, message: bytes) -> bytes:
    return struct.pack(">II", 3, transaction_id) + message


def connect(core: UdpTracker, now: float) -> int:
    """Answer the connect that is under way; the transaction id of the request that follows."""
    [(_, action, transaction_id)] = sent(core, now)
    assert action == 0
    assert receive(core, connected(transaction_id), now)
    [(connection_id, action, transaction_id)] = sent(core, now)
    assert connection_id == 77
    return transaction_id


def test_a_connect_an_announce_and_the_reply(core: UdpTracker) -> None:
    handle = core.announce(REQUEST, SERVER, b"/announce", 0.0)
    [(protocol_id, action, connecting)] = sent(core, 0.0)
    assert (protocol_id, action) == (0x41727101980, 0)
    assert core.next_deadline() == 15.0
    assert receive(core, connected(connecting), 1.0)
    [outgoing] = core.datagrams_to_send(1.0)
    packet = bytes(outgoing.buffers[0])
    connection_id, action, transaction_id = struct.unpack_from(">QII", packet)
    assert (connection_id, action, packet[98:]) == (77, 1, b"\x02\x09/announce\x00")
    assert core.take_results() == []
    assert receive(core, announced(transaction_id), 2.0)
    reply = AnnounceReply(interval=900.0, peers=(Endpoint("192.0.2.9", 6881),), seeders=3, leechers=2)
    assert core.take_results() == [UdpTrackerResult(handle, reply)]
    assert core.take_results() == []
    assert core.next_deadline() is None


def test_a_connection_id_serves_for_sixty_seconds(core: UdpTracker) -> None:
    core.announce(REQUEST, SERVER, b"", 0.0)
    receive(core, announced(connect(core, 1.0)), 1.0)
    core.announce(REQUEST, SERVER, b"", 60.9)
    [(connection_id, action, transaction_id)] = sent(core, 60.9)
    assert (connection_id, action) == (77, 1)
    receive(core, announced(transaction_id), 60.9)
    core.announce(REQUEST, SERVER, b"", 61.0)
    assert [action for _, action, _ in sent(core, 61.0)] == [0]


def test_requests_to_one_server_share_a_connect(core: UdpTracker) -> None:
    core.announce(REQUEST, SERVER, b"", 0.0)
    core.announce(REQUEST, SERVER, b"", 0.5)
    core.scrape([HASH], SERVER, 1.0)
    [(_, _, connecting)] = sent(core, 1.0)
    receive(core, connected(connecting), 2.0)
    assert sorted(action for _, action, _ in sent(core, 2.0)) == [1, 1, 2]


def test_two_servers_have_a_connection_each(core: UdpTracker) -> None:
    core.announce(REQUEST, SERVER, b"", 0.0)
    core.announce(REQUEST, Endpoint(SERVER.host, 7070), b"", 0.0)
    remotes = [outgoing.path.remote for outgoing in core.datagrams_to_send(0.0)]
    assert remotes == [SERVER, Endpoint(SERVER.host, 7070)]


def timeline(core: UdpTracker, end: float) -> list[tuple[float, int]]:
    """Run the deadlines of a server that stays silent: when was which action sent?"""
    trace: list[tuple[float, int]] = []
    while (deadline := core.next_deadline()) is not None and deadline <= end:
        core.handle_deadline(deadline)
        trace += [(deadline, action) for _, action, _ in sent(core, deadline)]
    return trace


def test_a_connect_is_repeated_at_the_times_of_the_bep(core: UdpTracker) -> None:
    core.announce(REQUEST, SERVER, b"", 0.0)
    [(_, _, first)] = sent(core, 0.0)
    assert timeline(core, 400.0) == [(15.0, 0), (45.0, 0), (105.0, 0), (225.0, 0), (345.0, 0)]
    core.handle_deadline(465.0)
    [(_, _, last)] = sent(core, 465.0)
    assert first == last, "a late answer to an earlier copy still counts"


def test_an_announce_is_repeated_and_reconnected_at_the_times_of_the_bep(core: UdpTracker) -> None:
    core.announce(REQUEST, SERVER, b"", 0.0)
    [(_, _, connecting)] = sent(core, 0.0)
    receive(core, connected(connecting), 1.0)
    core.datagrams_to_send(2.0)
    assert timeline(core, 250.0) == [(16.0, 1), (46.0, 1), (106.0, 0), (226.0, 0)]


def test_nothing_is_due_before_its_time(core: UdpTracker) -> None:
    core.announce(REQUEST, SERVER, b"", 0.0)
    sent(core, 0.0)
    core.handle_deadline(14.9)
    assert core.datagrams_to_send(14.9) == []


@pytest.mark.parametrize(
    "path", [Path(None, Endpoint("192.0.2.2", 6969)), Path(None, Endpoint("192.0.2.1", 6970)), PATH6]
)
def test_a_reply_from_another_address_does_not_count(core: UdpTracker, path: Path) -> None:
    core.announce(REQUEST, SERVER, b"", 0.0)
    [(_, _, connecting)] = sent(core, 0.0)
    assert not core.wants(connected(connecting), path)
    core.receive_batch([connected(connecting), b""], path, 0.0)
    assert core.ignored == 2
    core.handle_deadline(15.0)
    transaction_id = connect(core, 15.0)
    assert not core.wants(announced(transaction_id), path)
    assert core.wants(announced(transaction_id), PATH)


def test_a_wrong_transaction_id_does_not_count(core: UdpTracker) -> None:
    core.announce(REQUEST, SERVER, b"", 0.0)
    transaction_id = connect(core, 0.0)
    assert not receive(core, announced(transaction_id ^ 1), 1.0)
    assert core.take_results() == []


def test_a_wrong_action_is_ignored_and_the_right_one_still_counts(core: UdpTracker) -> None:
    handle = core.announce(REQUEST, SERVER, b"", 0.0)
    [(_, _, connecting)] = sent(core, 0.0)
    receive(core, announced(connecting), 0.0)
    receive(core, connected(connecting), 0.0)
    [(_, _, transaction_id)] = sent(core, 0.0)
    receive(core, connected(transaction_id), 0.0)
    assert core.ignored == 2
    assert core.take_results() == []
    receive(core, announced(transaction_id), 0.0)
    assert [result.handle for result in core.take_results()] == [handle]


def test_a_second_copy_of_a_reply_in_one_batch_is_ignored(core: UdpTracker) -> None:
    core.announce(REQUEST, SERVER, b"", 0.0)
    reply = announced(connect(core, 0.0))
    core.receive_batch([reply, reply], PATH, 0.0)
    assert (len(core.take_results()), core.ignored) == (1, 1)


def test_the_family_of_the_server_decides_the_form_of_peers(core: UdpTracker) -> None:
    core.announce(REQUEST, SERVER6, b"", 0.0)
    [(_, _, connecting)] = sent(core, 0.0, SERVER6)
    receive(core, connected(connecting), 0.0, PATH6)
    [(_, _, transaction_id)] = sent(core, 0.0, SERVER6)
    receive(core, announced(transaction_id, bytes.fromhex("20010db8" + "00" * 11 + "07" + "1ae1")), 0.0, PATH6)
    [result] = core.take_results()
    assert isinstance(result.outcome, AnnounceReply)
    assert result.outcome.peers == (Endpoint("2001:db8::7", 6881),)


def test_a_refused_connect_fails_all_that_wait_for_it(core: UdpTracker) -> None:
    first = core.announce(REQUEST, SERVER, b"", 0.0)
    second = core.announce(REQUEST, SERVER, b"", 0.0)
    [(_, _, connecting)] = sent(core, 0.0)
    receive(core, failed(connecting, b"go away"), 0.0)
    refusal = AnnounceFailure("go away")
    assert core.take_results() == [UdpTrackerResult(first, refusal), UdpTrackerResult(second, refusal)]


def test_an_error_with_a_fresh_connection_id_is_final(core: UdpTracker) -> None:
    handle = core.announce(REQUEST, SERVER, b"", 0.0)
    receive(core, failed(connect(core, 0.0), b"unregistered torrent\0"), 0.0)
    assert core.take_results() == [UdpTrackerResult(handle, AnnounceFailure("unregistered torrent"))]


def test_an_error_with_a_cached_connection_id_is_tried_once_with_a_fresh_one(core: UdpTracker) -> None:
    core.announce(REQUEST, SERVER, b"", 0.0)
    receive(core, announced(connect(core, 0.0)), 0.0)
    core.take_results()
    handle = core.announce(REQUEST, SERVER, b"", 30.0)
    [(connection_id, _, transaction_id)] = sent(core, 30.0)
    assert connection_id == 77
    receive(core, failed(transaction_id, b"connection id"), 30.0)
    assert core.take_results() == []
    [(_, action, connecting)] = sent(core, 30.0)
    assert action == 0
    receive(core, connected(connecting, 88), 30.0)
    assert sent(core, 30.0) == [(88, 1, transaction_id)]
    receive(core, failed(transaction_id, b"still no"), 30.0)
    assert core.take_results() == [UdpTrackerResult(handle, AnnounceFailure("still no"))]


def test_a_short_reply_fails_its_request(core: UdpTracker) -> None:
    core.announce(REQUEST, SERVER, b"", 0.0)
    receive(core, announced(connect(core, 0.0))[:19], 0.0)
    [result] = core.take_results()
    assert isinstance(result.outcome, RemoteProtocolError)
    core.announce(REQUEST, SERVER6, b"", 0.0)
    [(_, _, connecting)] = sent(core, 0.0, SERVER6)
    receive(core, connected(connecting)[:12], 0.0, PATH6)
    [result] = core.take_results()
    assert isinstance(result.outcome, RemoteProtocolError)


def test_a_scrape_is_answered_by_hash(core: UdpTracker) -> None:
    handle = core.scrape([HASH], SERVER, 0.0)
    transaction_id = connect(core, 0.0)
    receive(core, struct.pack(">IIIII", 2, transaction_id, 5, 6, 7), 0.0)
    assert core.take_results() == [UdpTrackerResult(handle, {HASH: ScrapeEntry(5, 6, 7)})]


def test_a_cancelled_request_is_forgotten(core: UdpTracker) -> None:
    handle = core.announce(REQUEST, SERVER, b"", 0.0)
    transaction_id = connect(core, 0.0)
    core.cancel(handle)
    assert not core.wants(announced(transaction_id), PATH)
    assert core.next_deadline() is None
    handle = core.announce(REQUEST, SERVER, b"", 1.0)
    [(_, _, transaction_id)] = sent(core, 1.0)
    receive(core, announced(transaction_id), 1.0)
    core.cancel(handle)
    assert core.take_results() == []
    core.cancel(handle)


def test_a_connect_answered_after_all_have_given_up_still_serves_the_next(core: UdpTracker) -> None:
    handle = core.announce(REQUEST, SERVER, b"", 0.0)
    [(_, _, connecting)] = sent(core, 0.0)
    core.cancel(handle)
    assert receive(core, connected(connecting), 1.0)
    assert core.datagrams_to_send(1.0) == []
    core.announce(REQUEST, SERVER, b"", 2.0)
    assert [action for _, action, _ in sent(core, 2.0)] == [1]


def test_servers_that_are_not_asked_any_more_are_forgotten(core: UdpTracker) -> None:
    for number in range(1000):
        core.cancel(core.announce(REQUEST, Endpoint("192.0.2.1", 1 + number), b"", number * 100.0))
    core.datagrams_to_send(0.0)
    assert len(core._servers) <= 2
    assert len(core._connects) <= 2


def test_transaction_ids_are_drawn_at_random() -> None:
    rng = random.Random(2)
    core = UdpTracker(rng)
    handles = [core.announce(REQUEST, SERVER, b"", 0.0) for _ in range(100)]
    assert len(set(handles)) == 100
    assert max(handles) > 2**31


def test_other_protocols_datagrams_are_not_wanted(core: UdpTracker) -> None:
    core.announce(REQUEST, SERVER, b"", 0.0)
    [(_, _, connecting)] = sent(core, 0.0)
    utp = b"\x21\x00" + connecting.to_bytes(4, "big") + bytes(14)
    for datagram in (b"", b"d1:y1:qe", utp, connected(connecting)[:7], struct.pack(">IIQ", 4, connecting, 1)):
        assert not core.wants(datagram, PATH)


def test_random_bytes_and_damaged_replies_never_disturb_the_core() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    print(f"seed {seed}")
    core = UdpTracker(random.Random(seed))
    now = 0.0

    def feed(datagram: bytes) -> None:
        nonlocal now
        now += rng.choice((0.0, 0.1, 20.0))
        core.receive_batch([datagram], PATH, now)
        if (deadline := core.next_deadline()) is not None and deadline <= now:
            core.handle_deadline(now)
        assert all(isinstance(outgoing, Outgoing) for outgoing in core.datagrams_to_send(now))
        core.take_results()

    for datagram in random_bytes_cases(rng, 60, fuzz_count() // 4):
        feed(datagram)
    for _ in range(fuzz_count() // 10 + 1):
        handle = core.announce(REQUEST, SERVER, b"/x", now)
        ids = [transaction_id for _, _, transaction_id in sent(core, now)] + [handle]
        valid = [message for each in ids for message in (connected(each), announced(each), failed(each, b"no"))]
        for datagram in mutations(rng, valid, 10):
            feed(datagram)
        core.cancel(handle)
    assert core.next_deadline() is None
