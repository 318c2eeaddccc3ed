"""Data without trouble: batches, ACKs, windows, small packets, keep-alives."""

from __future__ import annotations

from tests.utp.packets import cut, packet
from tests.utp.solo import NO_PROBING, Solo, data_run
from utp.config import UtpConfig
from utp.wire import decode_untrusted

MSS = 1452


def test_a_batch_is_answered_by_one_ack() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    solo.feed(*data_run(100, 5000, 1000, [b"x" * 1000] * 60))
    assert solo.sent() == ["STATE 101 1001/5059"]
    assert connection.unread == 60_000


def test_the_fast_path_leaves_at_the_first_packet_that_is_not_next_in_line() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    run = data_run(100, 5000, 1000, [b"a", b"b", b"c"])
    solo.feed(run[0], run[2], run[1], packet("DATA", 100, 5004, 1000, b"e"))
    assert solo.sent() == ["STATE 101 1001/5002 sack 1"]
    assert b"".join(connection.receive(100) for _ in range(3)) == b"abc"


def test_sequence_numbers_wrap_around_in_both_directions() -> None:
    solo = Solo(100, 0xFFFE)
    connection = solo.connected(seq_nr=0xFFFE, peer_seq=0xFFFE)
    solo.feed(*data_run(100, 0xFFFE, 0xFFFE, [b"1", b"2", b"3", b"4"]))
    assert connection.receive(10) == b"1234"
    connection.send(bytes(3 * MSS))
    assert solo.sent() == ["DATA 101 65535/1 +1452", "DATA 101 0/1 +1452", "DATA 101 1/1 +1452"]
    solo.feed(packet("STATE", 100, 2, 1))
    assert solo.wait(3) == []


def test_a_run_is_one_send_of_equal_packets_with_the_rest_at_its_end() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    connection.send(bytes(3 * MSS + 10))
    (run,) = solo.outgoing()
    assert run.segment_size == 1472
    assert [len(datagram) for datagram in cut([run])] == [1472, 1472, 1472, 30]


def test_small_writes_are_one_packet_at_a_time_and_then_joined() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    connection.send(b"one")
    assert solo.sent() == ["DATA 101 1001/4999 +3"]
    connection.send(b"two")
    connection.send(b"three")
    assert solo.sent() == []
    solo.feed(packet("STATE", 100, 5000, 1001))
    assert solo.sent() == ["DATA 101 1002/4999 +8"]


def test_the_other_ends_window_is_never_exceeded_and_its_opening_lets_us_go_on() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    solo.feed(packet("STATE", 100, 5000, 1000, wnd_size=2 * MSS))
    connection.send(bytes(5 * MSS))
    assert len(solo.sent()) == 2
    solo.feed(packet("STATE", 100, 5000, 1002, wnd_size=0))
    assert solo.sent() == []
    solo.feed(packet("STATE", 100, 5000, 1002, wnd_size=3 * MSS))
    assert len(solo.sent()) == 3


def test_a_shut_window_is_asked_with_one_byte_and_keeps_the_connection_alive() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    solo.feed(packet("STATE", 100, 5000, 1000, wnd_size=0))
    solo.sent()
    connection.send(bytes(100))
    assert solo.sent() == []
    probes = 0
    for _ in range(300):
        shown = solo.wait(1)
        probes += len(shown)
        assert all("1001/4999 +1" in line for line in shown)
        if shown:
            solo.feed(packet("STATE", 100, 5000, 1000, wnd_size=0))
    assert probes > 10
    assert connection.connected
    solo.feed(packet("STATE", 100, 5000, 1001, wnd_size=1000))
    assert solo.sent() == ["DATA 101 1002/4999 +99"]


def test_a_one_byte_window_costs_one_small_packet_per_round_trip() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    solo.feed(packet("STATE", 100, 5000, 1000, wnd_size=1))
    connection.send(bytes(MSS))
    assert solo.sent() == ["DATA 101 1001/4999 +1"]
    assert solo.sent() == []


def test_our_window_shrinks_with_what_is_unread_and_its_opening_is_told() -> None:
    config = UtpConfig(receive_buffer=10_000, mtu_probing=False)
    solo = Solo(100, 1000, config=config)
    connection = solo.connected()
    solo.feed(*data_run(100, 5000, 1000, [bytes(1000)] * 9))
    (state,) = cut(solo.outgoing())
    assert decode_untrusted(memoryview(state)).wnd_size == 1000
    solo.feed(*data_run(100, 5009, 1000, [bytes(1000)] * 3))  # two more than we have room for
    assert solo.sent() == ["STATE 101 1001/5009 sack 1"]
    connection.receive(3000)
    assert solo.sent() == []
    connection.receive(3000)
    connection.receive(3000)
    (state,) = cut(solo.outgoing())
    assert decode_untrusted(memoryview(state)).wnd_size >= 5000


def test_silence_is_broken_before_nat_mappings_end_and_keep_alives_are_answered() -> None:
    solo = Solo(100, 1000)
    solo.connected()
    assert solo.wait(60) == ["25: STATE 101 1001/4998", "50: STATE 101 1001/4998"]
    solo.feed(packet("STATE", 100, 5000, 999))
    assert solo.sent() == ["STATE 101 1001/4999"]
    solo.feed(packet("STATE", 100, 5000, 999))
    assert solo.sent() == []  # not in a loop


def test_an_int_max_timestamp_difference_is_no_delay() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    connection.send(bytes(MSS))
    solo.sent()
    solo.now += 0.05
    solo.feed(packet("STATE", 100, 5000, 1000, difference=5))
    solo.feed(packet("STATE", 100, 5000, 1001, difference=0x7FFFFFFF))
    assert connection.statistics().queueing_delay == 0.0


def test_what_is_sent_as_bytes_is_not_copied_and_what_may_change_is() -> None:
    solo = Solo(100, 1000, config=NO_PROBING)
    connection = solo.connected()
    data = bytes(range(256)) * 4
    connection.send(data)
    (run,) = solo.outgoing()
    payload = run.buffers[1]
    assert isinstance(payload, memoryview)
    assert payload.obj is data
    solo.feed(packet("STATE", 100, 5000, 1001))
    changing = bytearray(data)
    connection.send(changing)
    changing[:] = bytes(len(changing))
    (run,) = solo.outgoing()
    assert bytes(run.buffers[1]) == data


def test_a_short_first_message_shares_no_packet_with_what_follows_it() -> None:
    """Transmission 3.00 would leave a bitfield behind our handshake unread."""
    solo = Solo(100, 1000)
    connection = solo.connected()
    for message in (bytes(68), bytes(30), bytes(9)):
        connection.send(message)
        connection.end_packet()
    assert solo.sent() == ["DATA 101 1001/4999 +68", "DATA 101 1002/4999 +39"]
    connection.send(bytes(10))
    connection.end_packet()
    assert solo.sent() == []  # one small packet at a time
    solo.feed(packet("STATE", 100, 5000, 1002))
    assert solo.sent() == ["DATA 101 1003/4999 +10"]


def test_a_first_message_that_finds_a_small_window_waits_for_room() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    solo.feed(packet("STATE", 100, 5000, 1000, wnd_size=50))
    connection.send(bytes(68))
    connection.end_packet()
    connection.send(bytes(30))
    assert solo.sent() == ["DATA 101 1001/4999 +50"]
    solo.feed(packet("STATE", 100, 5000, 1001))
    assert solo.sent() == ["DATA 101 1002/4999 +18", "DATA 101 1003/4999 +30"]


def test_what_is_longer_than_a_packet_is_not_cut_at_its_end() -> None:
    solo = Solo(100, 1000, config=UtpConfig(mtu_probing=False, slowdowns=False, initial_window=20))
    connection = solo.connected()
    for _ in range(3):
        connection.send(bytes(2000))
        connection.end_packet()
    assert [text.split("+")[1] for text in solo.sent()] == ["1452"] * 4 + ["192"]
