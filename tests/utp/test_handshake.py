"""Opening a connection: ids, SYN retries, refusals, and what an acceptor does before it believes anybody."""

from __future__ import annotations

from tests.utp.packets import packet
from tests.utp.solo import NO_PROBING, PATH, Solo
from utp.config import UtpConfig
from utp.connection import State
from utp.path import Path


def test_the_initiator_listens_on_the_id_of_its_syn_and_sends_with_the_next_one() -> None:
    solo = Solo(100, 1000)
    connection = solo.endpoint.connect(PATH, solo.now)
    assert solo.sent() == ["SYN 100 1000/0"]
    solo.feed(packet("STATE", 100, 5000, 1000))
    assert connection.connected
    assert solo.sent() == ["STATE 101 1001/4999"]  # ST_STATE consumed no sequence number: 5000 is their first data
    connection.send(b"hello")
    assert solo.sent() == ["DATA 101 1001/4999 +5"]


def test_the_acceptor_swaps_the_ids_and_consumes_no_sequence_number_for_its_answer() -> None:
    solo = Solo(7000)
    solo.feed(packet("SYN", 300, 40, 0))
    assert solo.sent() == ["STATE 300 7000/40"]
    assert solo.accepted == []
    solo.feed(packet("DATA", 301, 41, 6999, b"hi"))
    (connection,) = solo.accepted
    assert connection.receive(100) == b"hi"
    connection.send(b"there")
    assert solo.sent() == ["DATA 300 7000/41 +5"]


def test_ids_wrap_around() -> None:
    solo = Solo(0xFFFF, 0xFFFF, 9)
    connection = solo.endpoint.connect(PATH, solo.now)
    assert solo.sent() == ["SYN 65535 65535/0"]
    solo.feed(packet("STATE", 0xFFFF, 0, 0xFFFF))
    connection.send(b"x")
    assert solo.sent() == ["DATA 0 0/65535 +1"]
    solo.feed(packet("SYN", 0xFFFF, 0xFFFF, 0))
    assert solo.sent() == ["STATE 65535 9/65535"]


def test_an_initiator_that_says_nothing_yet_still_lets_the_acceptor_speak_first() -> None:
    solo = Solo(7000)
    solo.feed(packet("SYN", 300, 40, 0))
    solo.sent()
    solo.feed(packet("STATE", 301, 41, 6999))
    assert len(solo.accepted) == 1


def test_every_syn_has_an_id_of_its_own_and_the_first_answer_wins() -> None:
    solo = Solo(100, 1000, 200, 2000, 300, 3000, 1)
    connection = solo.endpoint.connect(PATH, solo.now, syn_times=(0, 0.2, 0.5))
    assert solo.sent() == ["SYN 100 1000/0"]
    assert solo.wait(0.6) == ["0.2: SYN 200 2000/0", "0.5: SYN 300 3000/0"]
    solo.feed(packet("STATE", 200, 5000, 2000))
    assert connection.connected
    assert solo.sent() == ["STATE 201 2001/4999"]
    solo.feed(packet("STATE", 100, 6000, 1000), packet("STATE", 100, 6000, 1000))
    assert solo.sent() == ["RESET 100 1/6000"]  # the losing half-open is told, once


def test_low_ttl_openers_carry_their_ttl_and_the_others_do_not() -> None:
    solo = Solo(100, 1000, 200, 2000)
    solo.endpoint.connect(PATH, solo.now, syn_times=(0, 0.2), syn_ttls=(5,))
    assert [run.ttl for run in solo.outgoing()] == [5]
    solo.now += 0.2
    solo.endpoint.handle_deadline(solo.now)
    assert [run.ttl for run in solo.outgoing()] == [None]


def test_an_answer_that_acknowledges_another_number_is_no_answer() -> None:
    solo = Solo(100, 1000)
    connection = solo.endpoint.connect(PATH, solo.now)
    solo.sent()
    solo.feed(packet("STATE", 100, 5000, 999), packet("DATA", 100, 5000, 1000, b"x"))
    assert connection.state is State.SYN_SENT
    assert solo.sent() == []


def test_nobody_answering_is_a_time_out_after_the_last_syn_has_had_its_patience() -> None:
    solo = Solo(100, 1000, 200, 2000)
    connection = solo.endpoint.connect(PATH, solo.now, syn_times=(0, 1), patience=2)
    solo.sent()
    assert solo.wait(2.9) == ["1: SYN 200 2000/0"]
    assert connection.state is State.SYN_SENT
    assert solo.wait(0.2) == []
    assert connection.error is not None
    assert connection.error.reason == "timed-out"
    assert solo.endpoint.statistics().connections == 0


def test_a_reset_that_names_our_syn_refuses_the_connection_with_either_id() -> None:
    for id in (100, 101):
        solo = Solo(100, 1000)
        connection = solo.endpoint.connect(PATH, solo.now)
        solo.sent()
        solo.feed(packet("RESET", id, 1, 999))
        assert connection.state is State.SYN_SENT  # forged: it acknowledges nothing of ours
        solo.feed(packet("RESET", id, 1, 1000))
        assert connection.error is not None
        assert connection.error.reason == "refused"


def test_giving_up_while_connecting_is_silent_and_late_answers_are_reset_once() -> None:
    solo = Solo(100, 1000, 200, 2000, 8, 9)
    connection = solo.endpoint.connect(PATH, solo.now, syn_times=(0, 0.1))
    solo.sent()
    solo.wait(0.2)
    connection.abort(solo.now)
    assert solo.sent() == []
    for _ in range(3):
        solo.feed(packet("STATE", 100, 5000, 1000), packet("STATE", 200, 6000, 2000))
    assert solo.sent() == ["RESET 100 8/5000", "RESET 200 9/6000"]


def test_the_same_syn_again_is_answered_again_and_opens_nothing() -> None:
    solo = Solo(7000)
    solo.feed(packet("SYN", 300, 40, 0), packet("SYN", 300, 40, 0))
    assert solo.sent() == ["STATE 300 7000/40"]
    solo.feed(packet("SYN", 300, 40, 0))
    assert solo.sent() == ["STATE 300 7000/40"]
    solo.feed(packet("SYN", 300, 99, 0))  # another connection would need another id
    assert solo.sent() == []
    assert solo.endpoint.statistics().connections == 1


def test_an_answer_that_leads_to_nothing_is_repeated_a_few_times_and_then_forgotten() -> None:
    solo = Solo(7000)
    solo.feed(packet("SYN", 300, 40, 0))
    solo.sent()
    assert solo.wait(30) == [f"{at}: STATE 300 7000/40" for at in (3, 6, 9)]
    assert solo.endpoint.statistics().connections == 0
    assert solo.accepted == []


def test_an_initiator_confirms_when_the_acceptor_repeats_itself() -> None:
    solo = Solo(100, 1000)
    solo.connected()
    solo.now += 3
    solo.feed(packet("STATE", 100, 5000, 1000))
    assert solo.sent() == ["STATE 101 1001/4999"]


def test_a_flood_of_syns_keeps_the_newest_half_open_and_the_accepted_ones() -> None:
    config = UtpConfig(max_half_open=10)
    solo = Solo(*range(1000, 2000), config=config)
    solo.feed(packet("SYN", 1, 40, 0))
    solo.feed(packet("DATA", 2, 41, 999, b"real"))
    for id in range(10, 900, 2):
        solo.feed(packet("SYN", id, 40, 0), path=Path(None, ("198.51.100.7", id)))
        solo.sent()
    statistics = solo.endpoint.statistics()
    assert statistics.half_open == 10
    assert statistics.connections == 11
    assert statistics.half_open_evicted == 435
    assert solo.accepted[0].connected


def test_beyond_the_limit_of_connections_a_syn_is_ignored() -> None:
    solo = Solo(1, 2, config=UtpConfig(max_connections=1))
    solo.feed(packet("SYN", 1, 40, 0), packet("SYN", 5, 40, 0))
    assert solo.sent() == ["STATE 1 1/40"]


def test_packets_of_unknown_connections_are_reset_once() -> None:
    solo = Solo(1, 2)
    for _ in range(5):
        solo.feed(packet("DATA", 77, 40, 0, b"x"), packet("STATE", 78, 41, 0))
    assert solo.sent() == ["RESET 77 1/40", "RESET 78 2/41"]
    solo.feed(packet("RESET", 99, 40, 0))
    assert solo.sent() == []
    assert solo.endpoint.statistics().strays == 10


def test_the_answer_leaves_from_the_address_the_syn_came_to() -> None:
    solo = Solo(7000, config=NO_PROBING)
    path = Path(("192.0.2.77", 6881), ("198.51.100.1", 5))
    solo.feed(packet("SYN", 300, 40, 0), path=path)
    (run,) = solo.outgoing()
    assert run.path == path
