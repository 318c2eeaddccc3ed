"""Loss: selective ACKs out and in, fast retransmit, tail probes, the time-out, and what the window does about it."""

from __future__ import annotations

from tests.utp.packets import packet
from tests.utp.solo import NO_PROBING, Solo
from utp.config import UtpConfig
from utp.flight import InFlight

MSS = 1452
WIDE = UtpConfig(mtu_probing=False, slowdowns=False, initial_window=20)


def sending(packets: int) -> tuple[Solo, object]:
    """A connection with packets 1001 … in flight, round trip 0.1 s."""
    solo = Solo(100, 1000, config=WIDE)
    connection = solo.connected()
    connection.send(bytes(packets * MSS))
    assert len(solo.sent()) == packets
    return solo, connection


def test_a_hole_is_reported_and_filled() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    solo.feed(packet("DATA", 100, 5000, 1000, b"0"), packet("DATA", 100, 5002, 1000, b"2"))
    assert solo.sent() == ["STATE 101 1001/5000 sack 1"]
    solo.feed(packet("DATA", 100, 5005, 1000, b"5"))
    assert solo.sent() == ["STATE 101 1001/5000 sack 1001"]
    solo.feed(packet("DATA", 100, 5001, 1000, b"1"))
    assert solo.sent() == ["STATE 101 1001/5002 sack 10"]
    got = b""
    while connection.unread:
        got += connection.receive(10)
    assert got == b"012"


def test_duplicates_are_acknowledged_and_not_delivered_twice() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    for _ in range(2):
        solo.feed(packet("DATA", 100, 5000, 1000, b"0"), packet("DATA", 100, 5002, 1000, b"2"))
        assert solo.sent() == ["STATE 101 1001/5000 sack 1"]
    assert connection.unread == 1


def test_three_later_packets_prove_a_loss() -> None:
    solo, _ = sending(6)
    solo.feed(packet("STATE", 100, 5000, 1000, sack=0b011))
    assert solo.sent() == []
    solo.feed(packet("STATE", 100, 5000, 1000, sack=0b111))
    assert solo.sent() == ["DATA 101 1001/4999 +1452"]
    solo.feed(packet("STATE", 100, 5000, 1000, sack=0b111))
    assert solo.sent() == []


def test_three_repeated_acks_prove_one_too() -> None:
    solo, _ = sending(6)
    solo.feed(*[packet("STATE", 100, 5000, 1000)] * 4)  # the first one sets the window
    assert solo.sent() == ["DATA 101 1001/4999 +1452"]


def test_an_overtaken_packet_is_given_a_quarter_of_a_round_trip() -> None:
    solo, _ = sending(6)
    solo.now += 0.1
    solo.feed(packet("STATE", 100, 5000, 1000, sack=0b1))
    assert solo.wait(0.02) == []
    assert solo.wait(0.02) == ["0.005: DATA 101 1001/4999 +1452"]


def test_a_lost_retransmission_is_noticed_by_what_was_sent_after_it() -> None:
    solo, connection = sending(6)
    solo.feed(packet("STATE", 100, 5000, 1000, sack=0b11111))
    assert solo.sent() == ["DATA 101 1001/4999 +1452"]
    connection.send(bytes(3 * MSS))  # type: ignore[attr-defined]
    assert solo.sent() == [f"DATA 101 {seq}/4999 +1452" for seq in (1007, 1008, 1009)]
    solo.feed(packet("STATE", 100, 5000, 1000, sack=0b11111111))
    assert solo.sent() == ["DATA 101 1001/4999 +1452"]


def test_a_silent_tail_is_probed_with_its_last_packet() -> None:
    solo, _ = sending(5)
    assert solo.wait(0.3) == ["0.2: DATA 101 1005/4999 +1452"]
    solo.feed(packet("STATE", 100, 5000, 1000, sack=0b1000))
    assert solo.wait(0.1) == [f"0.025: DATA 101 {seq}/4999 +1452" for seq in (1001, 1002, 1003, 1004)]


def test_the_time_out_starts_again_from_one_packet_and_doubles() -> None:
    solo, connection = sending(5)
    shown = solo.wait(5)
    assert "0.5: DATA 101 1001/4999 +1452" in shown
    assert "1.5: DATA 101 1001/4999 +1452" in shown
    assert connection.statistics().congestion_window == MSS  # type: ignore[attr-defined]


def test_silence_ends_the_connection() -> None:
    solo, connection = sending(2)
    solo.wait(120)
    assert connection.error is not None  # type: ignore[attr-defined]
    assert connection.error.reason == "timed-out"  # type: ignore[attr-defined]
    assert solo.endpoint.statistics().connections == 0


def test_a_burst_is_repaired_where_the_selective_ack_ends_before_the_last_arrival() -> None:
    """libtorrent tells of 96 packets only: what arrived behind them seems to be on the way and fills the window."""
    solo = Solo(100, 1000, config=UtpConfig(mtu_probing=False, slowdowns=False, initial_window=170))
    connection = solo.connected()
    connection.send(bytes(170 * MSS))
    assert len(solo.sent()) == 170
    missing, rounds = set(range(1001, 1081)), 0
    while missing and rounds < 30:
        rounds += 1
        told = min(missing)
        reach = sum(1 << (seq - told - 1) for seq in range(told + 1, min(told + 97, 1251)) if seq not in missing)
        solo.now += 0.1
        solo.feed(packet("STATE", 100, 5000, told - 1, sack=reach))
        missing -= {int(text.split()[2].partition("/")[0]) for text in solo.sent()}
    assert rounds <= 10, "each repair lets two more leave"
    solo.now += 0.1
    solo.feed(packet("STATE", 100, 5000, 1170))
    assert connection.statistics().round_trip < 0.11, "what was told late did not travel that long"


def test_a_hole_wider_than_the_selective_ack_is_repaired_at_a_growing_pace() -> None:
    """libtorrent sends as many bits as packets wait behind the hole: here they are all zero."""
    solo = Solo(100, 1000, config=UtpConfig(mtu_probing=False, slowdowns=False, initial_window=170))
    connection = solo.connected()
    connection.send(bytes(170 * MSS))
    solo.sent()
    missing, rounds = set(range(1001, 1121)), 0
    solo.feed(*[packet("STATE", 100, 5000, 1000, wnd_size=(1 << 20) - n * MSS) for n in range(50)])
    while missing and rounds < 30:
        rounds += 1
        missing -= {int(text.split()[2].partition("/")[0]) for text in solo.sent()}
        solo.now += 0.1
        solo.feed(packet("STATE", 100, 5000, min(missing, default=1171) - 1, wnd_size=(1 << 20) - 50 * MSS))
    assert rounds == 15, "1 + 2 + … + 15 = 120: one more with each ACK, of which there is one in a round"
    assert connection.statistics().packets_retransmitted <= 170


def test_the_window_halves_at_most_once_per_round_trip() -> None:
    solo, connection = sending(20)
    before = connection.statistics().congestion_window  # type: ignore[attr-defined]
    solo.feed(packet("STATE", 100, 5000, 1000, sack=0b1110))
    solo.feed(packet("STATE", 100, 5000, 1000, sack=0b1110111110))
    after = connection.statistics().congestion_window  # type: ignore[attr-defined]
    assert before / 2 <= after < before * 0.8


def test_losses_count_after_any_number_of_packets_without_one() -> None:
    solo = Solo(100, 1000, config=WIDE)
    connection = solo.connected()
    next_seq = 1001
    for _ in range(4000):
        connection.send(bytes(10 * MSS))
        assert len(solo.sent()) == 10
        next_seq += 10
        solo.feed(packet("STATE", 100, 5000, next_seq - 1))
    connection.send(bytes(5 * MSS))
    solo.sent()
    before = connection.statistics().congestion_window
    solo.feed(packet("STATE", 100, 5000, next_seq - 1, sack=0b111))
    assert connection.statistics().congestion_window < 0.6 * before


def test_a_window_that_has_rested_begins_small_again() -> None:
    solo, connection = sending(20)
    connection.send(bytes(MSS))  # type: ignore[attr-defined]  # which the window holds back
    assert solo.sent() == []
    solo.now += 0.05
    solo.feed(packet("STATE", 100, 5000, 1020))
    solo.sent()
    solo.feed(packet("STATE", 100, 5000, 1021))
    window = connection.statistics().congestion_window  # type: ignore[attr-defined]
    solo.now += 10
    connection.send(bytes(40 * MSS))  # type: ignore[attr-defined]
    assert len(solo.sent()) == WIDE.initial_window
    assert window > WIDE.initial_window * MSS


def test_bytes_in_the_pipe_are_counted_right_through_every_change() -> None:
    flight = InFlight(65_530)
    payloads = [memoryview(bytes(size)) for size in (10, 20, 30, 40, 50, 60, 70, 80)]
    flight.sent(payloads, 360, 1.0)
    assert flight.sack(0b11110000) == 260
    assert (flight.pipe, flight.size) == (100, 360)
    assert flight.detect_losses(3) == 0b1111
    assert flight.pipe == 0
    flight.resend_lost()
    assert (flight.peek_lost() or (0,))[0] == 65_531
    flight.resend_lost()
    assert flight.pipe == 30
    assert flight.acknowledge(2) == 30
    assert flight.timed is None  # a packet sent twice times nothing
    assert (flight.pipe, flight.size, len(flight), flight.first_seq) == (0, 330, 6, 65_532)
    flight.lose_all()
    assert flight.acknowledge(6) == 70
    assert (flight.pipe, flight.size, len(flight), flight.next_seq) == (0, 0, 0, 2)


def test_nothing_is_sent_beyond_what_other_clients_keep_for_reordering() -> None:
    solo = Solo(100, 1000, config=UtpConfig(mtu_probing=False, initial_window=10_000, send_buffer=1 << 22))
    connection = solo.connected()
    solo.feed(packet("STATE", 100, 5000, 1000, wnd_size=1 << 30))
    connection.send(bytes(1 << 22))
    assert len(solo.sent()) == NO_PROBING.max_packets_in_flight


def test_an_outage_of_several_time_outs_halves_the_window_once() -> None:
    solo, connection = sending(20)
    before = connection.statistics().congestion_window  # type: ignore[attr-defined]
    solo.wait(4)
    congestion = connection._channel.sender.congestion  # type: ignore[attr-defined]
    assert (congestion.window, congestion.ssthresh) == (MSS, before / 2)


def test_what_goes_again_after_a_time_out_opens_the_window_as_it_arrives() -> None:
    """Also when before the time-out something else than the window held us back."""
    solo, connection = sending(20)
    while connection._channel.sender.timeouts == 0:  # type: ignore[attr-defined]
        solo.wait(0.1)
    sent = []
    for ack_nr in (1001, 1003, 1007):
        solo.now += 0.1
        solo.feed(packet("STATE", 100, 5000, ack_nr))
        sent.append(len(solo.sent()))
    assert sent == [2, 4, 8]
