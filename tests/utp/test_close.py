"""Endings: FIN in both orders, half-close, resets real and forged, and what is remembered afterwards."""

from __future__ import annotations

import pytest

from tests.utp.packets import packet
from tests.utp.solo import Solo, data_run
from utp.connection import Connection, State
from utp.errors import LocalProtocolError


def test_a_fin_follows_the_data_and_consumes_a_sequence_number() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    connection.send(b"bye")
    connection.shutdown()
    assert solo.sent() == ["DATA 101 1001/4999 +3", "FIN 101 1002/4999"]
    with pytest.raises(LocalProtocolError):
        connection.send(b"more")
    solo.feed(packet("STATE", 100, 5000, 1002))
    assert connection.connected


def test_after_our_fin_the_other_end_may_go_on_sending() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    connection.shutdown()
    solo.sent()
    solo.feed(packet("STATE", 100, 5000, 1001))
    solo.feed(packet("DATA", 100, 5000, 1001, b"still here"))
    assert connection.receive(100) == b"still here"
    assert solo.sent() == ["STATE 101 1002/5000"]
    solo.feed(packet("FIN", 100, 5001, 1001))
    assert connection.at_eof
    assert connection.state is State.CLOSED
    assert connection.error is None
    assert solo.sent() == ["STATE 101 1002/5001"]


def test_their_fin_leaves_us_free_to_send() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    solo.feed(packet("DATA", 100, 5000, 1000, b"last"), packet("FIN", 100, 5001, 1000))
    assert not connection.at_eof
    assert connection.receive(10) == b"last"
    assert connection.at_eof
    connection.send(b"mine")
    connection.shutdown()
    assert solo.sent() == ["DATA 101 1001/5001 +4", "FIN 101 1002/5001"]
    solo.feed(packet("STATE", 100, 5002, 1002))
    assert connection.state is State.CLOSED


def test_a_fin_ahead_of_its_data_ends_nothing_before_the_data_is_here() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    solo.feed(packet("FIN", 100, 5002, 1000), packet("DATA", 100, 5000, 1000, b"a"))
    assert connection.receive(10) == b"a"
    assert not connection.at_eof
    solo.feed(packet("DATA", 100, 5003, 1000, b"after the end"), packet("DATA", 100, 5001, 1000, b"b"))
    assert connection.receive(100) == b"b"
    assert connection.at_eof
    assert solo.sent() == ["STATE 101 1001/5002"]


def test_a_fin_may_carry_data() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    solo.feed(packet("FIN", 100, 5000, 1000, b"goodbye"))
    assert connection.receive(10) == b"goodbye"
    assert connection.at_eof


def finished(solo: Solo) -> Connection:
    connection = solo.connected()
    connection.shutdown()
    solo.sent()
    solo.feed(packet("FIN", 100, 5000, 1001))
    assert connection.state is State.CLOSED
    assert solo.sent() == ["STATE 101 1002/5000"]
    return connection


def test_stragglers_of_a_finished_connection_are_answered_for_a_while() -> None:
    solo = Solo(100, 1000, 55)
    finished(solo)
    solo.now += 20
    solo.feed(packet("FIN", 100, 5000, 1001))
    assert solo.sent() == ["STATE 101 1002/5000"]
    solo.feed(packet("STATE", 100, 5001, 1001))
    assert solo.sent() == []
    solo.now += 20
    solo.feed(packet("FIN", 100, 5000, 1001))
    assert solo.sent() == ["RESET 100 55/5000"]


def test_a_reset_ends_a_connection_with_either_id() -> None:
    for id in (100, 101):
        solo = Solo(100, 1000)
        connection = solo.connected()
        solo.feed(packet("RESET", id, 1, 1000))
        assert connection.error is not None
        assert connection.error.reason == "reset"
        assert solo.sent() == []


def test_a_forged_reset_that_names_no_packet_of_ours_is_ignored() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    solo.feed(packet("RESET", 100, 1, 30_000), packet("RESET", 99, 1, 1000), packet("RESET", 102, 1, 1000))
    assert connection.connected


def test_abort_tells_the_other_end_once() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    connection.send(b"never mind")
    connection.abort(solo.now)
    connection.abort(solo.now)
    assert solo.sent() == ["RESET 101 1001/4999"]


def test_close_delivers_what_was_queued_drops_what_comes_in_and_then_resets_a_talker() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    connection.send(b"x")
    connection.close(solo.now)
    assert solo.sent() == ["DATA 101 1001/4999 +1", "FIN 101 1002/4999"]
    solo.feed(*data_run(100, 5000, 1000, [b"unwanted"]))
    assert solo.sent() == ["STATE 101 1003/5000"]
    assert connection.unread == 0
    solo.feed(packet("STATE", 100, 5001, 1002))
    solo.feed(*data_run(100, 5001, 1002, [b"still unwanted"]))
    assert solo.sent() == ["RESET 101 1003/5001"]
    assert solo.endpoint.statistics().connections == 0


def test_a_closed_connection_waits_only_so_long_for_the_others_fin() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    connection.close(solo.now)
    solo.sent()
    solo.feed(packet("STATE", 100, 5000, 1001))
    assert solo.wait(9.9) == []
    assert connection.connected
    solo.wait(0.2)
    assert connection.state is State.CLOSED
    assert connection.error is None


def test_libutp_forgetting_us_before_our_fin_arrived_is_no_failure() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    solo.feed(packet("FIN", 100, 5000, 1000))
    connection.shutdown()
    solo.sent()
    solo.feed(packet("RESET", 101, 1, 1001))
    assert connection.state is State.CLOSED
    assert connection.error is None
