"""Hostile packets: no crash, no memory, and the stream's bytes stay exact or the connection ends."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from tests.fuzzing import fuzz_count, fuzz_seed
from tests.utp.packets import packet
from tests.utp.pair import Link, Pair
from tests.utp.solo import PATH, Solo, data_run
from utp.config import UtpConfig
from utp.connection import Connection
from utp.errors import RemoteProtocolError
from utp.path import Path
from utp.wire import MAX_EXTENSIONS, decode_untrusted


def test_acknowledgements_of_what_was_never_sent_are_ignored() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    connection.send(bytes(100))
    solo.sent()
    solo.feed(packet("STATE", 100, 5000, 1002), packet("DATA", 100, 5000, 30_000, b"x"))
    assert connection.unread == 0
    solo.feed(packet("STATE", 100, 5000, 1000, sack=(1 << 1024) - 1))
    assert connection.connected
    solo.feed(packet("STATE", 100, 5000, 1001))
    assert solo.wait(2) == []


def test_a_selective_ack_of_255_bytes_costs_nothing() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    connection.send(bytes(5000))
    solo.sent()
    plain = bytes(packet("STATE", 100, 5000, 1000))
    solo.feed(memoryview(plain[:1] + b"\x01" + plain[2:] + b"\x00\xff" + b"\xff" * 255))
    assert connection.connected
    assert len(solo.sent()) == 1  # all others arrived: the first is lost


def test_far_sequence_numbers_are_not_kept() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    for ahead in range(1, 60_000, 7):
        solo.feed(packet("DATA", 100, 5000 + ahead, 1000, bytes(1400)))
    kept = connection._channel.receiver
    assert kept.early_mask.bit_length() <= UtpConfig().reorder_packets
    assert kept.unread + kept._early_bytes <= 2 * UtpConfig().receive_buffer


def test_one_byte_packets_do_not_cost_an_object_each() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    tracemalloc.start()
    for seq in range(8_000):
        solo.feed(*data_run(100, 5000 + seq, 1000, [b"x"]))
    solo.sent()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert connection.unread == 8_000
    assert used < 200_000


def test_short_and_strange_datagrams_are_counted() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    run = data_run(100, 5000, 1000, [b"a", b"b"])
    solo.feed(
        memoryview(b""), memoryview(b"\x01\x00"), run[0], memoryview(bytes(run[1])[:12]), memoryview(b"\xff" * 40)
    )
    assert connection.receive(10) == b"a"
    assert solo.endpoint.statistics().malformed == 4


def test_answers_to_strangers_are_bounded() -> None:
    solo = Solo(*range(5000))
    for port in range(3000):
        solo.feed(packet("DATA", port, 1, 1), path=PATH._replace(remote=("198.51.100.1", port)))
    assert len(solo.sent()) <= 300
    assert len(solo.endpoint._strangers) <= UtpConfig().memory_entries


def random_packet(rng: random.Random, connection: Connection, near_seq: int, near_ack: int) -> bytes:
    """A forgery that has the ids right and the rest more or less.

    Data is forged far outside the window only: who can name the next sequence number can put bytes into any stream
    that is not encrypted.
    """
    kind = rng.choice(("STATE", "STATE", "STATE", "SYN", "RESET", "DATA", "FIN"))
    near = kind in ("STATE", "SYN") and rng.random() < 0.5
    data = bytearray(
        packet(
            kind,
            rng.choice((connection.recv_id, connection.recv_id, connection.send_id, rng.randrange(1 << 16))),
            near_seq + (rng.randrange(-3, 40) if near else rng.randrange(2_000, 60_000)),
            rng.choice((near_ack + rng.randrange(-10, 40), rng.randrange(1 << 16))) if near else near_ack + 20_000,
            rng.randbytes(rng.randrange(20)),
            wnd_size=rng.choice((0, 1, 1 << 20, (1 << 32) - 1)),
            sack=rng.getrandbits(rng.choice((1, 32, 1024))),
            timestamp=rng.getrandbits(32),
            difference=rng.choice((0, 0x7FFFFFFF, rng.getrandbits(32))),
        )
    )
    if rng.random() < 0.3:
        data[rng.choice((1, 2, 3, *range(4, 16), *range(18, len(data))))] ^= 1 << rng.randrange(8)
    return bytes(data)


def attack(seed: int, forgeries: int) -> int:
    """Two ends exchange data while somebody who sees the ids throws packets at them; the streams that ended.

    Acknowledging what never arrived such a third party can stop a stream; it can change no byte of it.
    """
    rng = random.Random(seed)
    config = UtpConfig(receive_buffer=64 << 10, send_buffer=32 << 10, max_timeouts=4)
    pair = Pair(seed, config=config, there=Link(loss=0.02), back=Link(loss=0.02))
    a, b = pair.open()
    streams = {a: rng.randbytes(400_000), b: rng.randbytes(200_000)}
    pair.a.write(a, streams[a], shutdown=True)
    pair.b.write(b, streams[b], shutdown=True)
    for _ in range(forgeries):
        side, connection = rng.choice(((pair.a, a), (pair.b, b)))
        receiver, flight = connection._channel.receiver, connection._channel.sender.flight
        pair.inject(side, random_packet(rng, connection, receiver.next_seq, flight.first_seq))
        pair.run(rng.choice((0, 0.001, 0.02)))
        assert receiver.unread + receiver._early_bytes <= 2 * config.receive_buffer, seed
        assert len(flight) <= config.max_packets_in_flight, seed
        assert 0 <= flight.pipe <= flight.size, seed
    pair.run(200)
    complete = 0
    for side, connection, other in ((pair.a, a, b), (pair.b, b, a)):
        got = bytes(side.received.get(connection, b""))
        assert streams[other].startswith(got), seed
        complete += got == streams[other]
    return complete


def test_fuzz_of_a_live_pair_neither_crashes_nor_grows_nor_changes_a_byte() -> None:
    seed = fuzz_seed()
    complete = sum(attack(seed + round, 60) for round in range(max(fuzz_count() // 200, 1)))
    assert complete, "no stream survived: then the rest was shown of dead ones only"


@pytest.mark.parametrize("kind", ["far acks", "old acks", "wild timestamps", "random bytes"])
def test_forgeries_that_are_recognisable_leave_the_stream_exact(kind: str) -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    pair = Pair(seed)
    a, b = pair.open()
    data = rng.randbytes(200_000)
    pair.a.write(a, data, shutdown=True)
    while not b.at_eof:
        for side, connection in ((pair.a, a), (pair.b, b)):
            seq_nr, next_seq = connection._channel.receiver.next_seq, connection._channel.sender.flight.next_seq
            match kind:
                case "far acks":
                    ack_nr = next_seq + rng.randrange(0, 60_000)
                    forged = packet("STATE", connection.recv_id, seq_nr, ack_nr, sack=rng.getrandbits(64))
                case "old acks":
                    forged = packet(
                        "STATE", connection.recv_id, seq_nr, next_seq - 1000 - rng.randrange(1000), wnd_size=0
                    )
                case "wild timestamps":
                    ack_nr = connection._channel.sender.flight.first_seq - 1
                    forged = packet(
                        "STATE", connection.recv_id, seq_nr, ack_nr,
                        timestamp=rng.getrandbits(32), difference=rng.getrandbits(32),
                    )  # fmt: skip
                case _:
                    forged = memoryview(bytes((rng.choice((1, 17, 33)),)) + rng.randbytes(rng.randrange(60)))
            pair.inject(side, bytes(forged))
        pair.run(0.01)
        assert pair.now < 400, seed
    assert pair.b.received[b] == data, seed


def from_address(number: int) -> Path:
    return Path(None, (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 6881))


def test_a_flood_of_syns_costs_a_bounded_number_of_connections_and_deadlines() -> None:
    solo = Solo(*range(3000))
    for number in range(3000):
        solo.feed(packet("SYN", 7, 1, 0), path=from_address(number))
        solo.sent()
    assert solo.endpoint.statistics().connections == UtpConfig().max_half_open
    assert len(solo.endpoint._deadlines) <= 2 * UtpConfig().max_half_open + 65


def test_one_host_cannot_push_out_the_half_open_connections_of_others() -> None:
    solo = Solo(*range(2000), config=UtpConfig(max_half_open=10))
    solo.feed(packet("SYN", 7, 1, 0), path=from_address(1))
    for number in range(100):
        solo.feed(packet("SYN", number, 1, 0), path=from_address(2))
    solo.sent()
    solo.feed(packet("DATA", 8, 2, 0 - 1, b"hello"), path=from_address(1))
    assert [connection.path.remote for connection in solo.accepted] == [from_address(1).remote]


def test_only_the_exact_number_of_our_answer_proves_an_address() -> None:
    solo = Solo(500)
    solo.feed(packet("SYN", 7, 1, 0))
    solo.sent()
    for ack_nr in (*range(300, 499), *range(500, 600)):
        solo.feed(packet("DATA", 8, 2, ack_nr, b"forged"))
    assert solo.accepted == []
    solo.feed(packet("DATA", 8, 2, 499, b"mine"))
    assert [connection.receive(10) for connection in solo.accepted] == [b"mine"]


def test_a_chain_of_empty_extensions_is_not_followed_to_its_end() -> None:
    plain = bytes(packet("STATE", 100, 5000, 1000))
    chain = plain[:1] + b"\x05" + plain[2:]
    assert decode_untrusted(memoryview(chain + b"\5\0" * (MAX_EXTENSIONS - 1) + b"\0\0")).payload == b""
    with pytest.raises(RemoteProtocolError):
        decode_untrusted(memoryview(chain + b"\5\0" * MAX_EXTENSIONS + b"\0\0"))


def test_a_dead_connection_keeps_nothing_that_cannot_be_read() -> None:
    solo = Solo(100, 1000)
    connection = solo.connected()
    solo.feed(packet("DATA", 100, 5000, 1000, b"readable"))
    solo.feed(*[packet("DATA", 100, 5002 + ahead, 1000, bytes(1400)) for ahead in range(500)])
    solo.sent()
    receiver = connection._channel.receiver
    assert receiver._early_bytes == 700_000
    solo.feed(packet("RESET", 100, 5002, 1001))
    assert connection.error is not None
    assert (receiver._early, receiver._early_bytes, receiver.unread) == (None, 0, 8)
    connection.close(solo.now)
    assert receiver.unread == 0


def test_a_peer_that_never_reads_costs_one_send_buffer() -> None:
    config = UtpConfig(mtu_probing=False)
    solo = Solo(100, 1000, config=config)
    connection = solo.connected()
    solo.feed(packet("STATE", 100, 5000, 1000, wnd_size=0))
    offered = sum(connection.send(bytes(10_000)) for _ in range(100))
    assert offered == config.send_buffer
    sent = solo.wait(60)
    assert 0 < len(sent) < 30
    assert {text.split(" ")[-1] for text in sent if "DATA" in text} == {"+1"}
