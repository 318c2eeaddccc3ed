"""Metadata from peers: the codec, serving, and fetching among liars, the silent, the refusing and the slow."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable
from hashlib import sha1

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import RemoteProtocolError
from swarm.ext.extension import Extension
from swarm.ext.metadata import BURST, COPIES_A_MINUTE, MAX_QUEUED, Metadata
from swarm.ext.metadata_assembly import (
    ANSWER_WITHIN,
    FIRST_PAUSE,
    IN_FLIGHT,
    MAX_DEPARTED,
    MAX_HELD,
    MAX_LEFT_BEHIND,
    MAX_METADATA_SIZE,
    MAX_PAUSE,
    REFUSED_PAUSE,
    MetadataAssembly,
)
from swarm.ext.metadata_attempt import Attempt, block_count, block_length
from swarm.ext.metadata_message import (
    BLOCK,
    MAX_HEADER,
    MAX_PIECE,
    MetadataData,
    MetadataMessage,
    MetadataReject,
    MetadataRequest,
    parse_metadata_message_untrusted,
)
from swarm.wire.extended import ExtendedHandshake
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

INFO = random.Random(9).randbytes(8 * BLOCK + 1000)
INFO_HASH = sha1(INFO).digest()
COUNT = 9

INVERTED = bytes(range(255, -1, -1))

parse = parse_metadata_message_untrusted


def block(index: int, info: bytes = INFO) -> bytes:
    return info[index * BLOCK : (index + 1) * BLOCK]


def data(index: int, info: bytes = INFO) -> MetadataData:
    return MetadataData(index, len(info), block(index, info))


def requests(messages: Iterable[MetadataMessage | None]) -> list[int]:
    return [message.piece for message in messages if isinstance(message, MetadataRequest)]


# -- the codec -----------------------------------------------------------------------------------------------------


def test_the_examples_of_bep_9() -> None:
    """Its reject is printed with msg_type 1, against its own text."""
    assert parse(b"d8:msg_typei0e5:piecei0ee") == MetadataRequest(0)
    assert parse(b"d8:msg_typei1e5:piecei0e10:total_sizei34256eexxxxxxxx") == MetadataData(0, 34256, b"xxxxxxxx")
    assert parse(b"d8:msg_typei2e5:piecei0ee") == MetadataReject(0)
    assert MetadataRequest(0).encode() == b"d8:msg_typei0e5:piecei0ee"
    assert MetadataData(0, 34256, b"xxxxxxxx").encode() == b"d8:msg_typei1e5:piecei0e10:total_sizei34256eexxxxxxxx"
    assert MetadataReject(0).encode() == b"d8:msg_typei2e5:piecei0ee"


def test_what_libtorrent_sends() -> None:
    """Recorded from libtorrent 2.1.1 on loopback: it says the total size in its rejects, too."""
    assert parse(b"d8:msg_typei2e5:piecei99e10:total_sizei46065ee") == MetadataReject(99)
    head = b"d8:msg_typei1e5:piecei2e10:total_sizei46065ee"
    assert parse(head + bytes(13297)) == MetadataData(2, 46065, bytes(13297))
    assert block_length(46065, 2) == 13297


def test_an_unknown_message_is_ignored_with_all_that_follows_it() -> None:
    assert parse(b"d8:msg_typei3ee") is None
    assert parse(b"d8:msg_typei99e5:piecei0eesomething") is None


def test_keys_may_be_out_of_order_and_unknown() -> None:
    assert parse(b"d5:piecei4e8:msg_typei0e1:x1:ye") == MetadataRequest(4)
    assert parse(b"d8:msg_typei1e5:piecei4eeb") == MetadataData(4, None, b"b")


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"de", b"i0e", b"le", b"d8:msg_typei0ee", b"d5:piecei0ee", b"d8:msg_type1:05:piecei0ee",
        b"d8:msg_typei0e5:piece1:0e", b"d8:msg_typei-1e5:piecei0ee", b"d8:msg_typei0e5:piecei-1ee",
        b"d8:msg_typei0e5:piecei%dee" % (MAX_PIECE + 1), b"d8:msg_typei0e5:piecei0eex", b"d8:msg_typei2e5:piecei0eex",
        b"d8:msg_typei1e5:piecei0e10:total_sizei9ee", b"d8:msg_typei1e5:piecei0e10:total_sizei0eex",
        b"d8:msg_typei1e5:piecei0e10:total_size1:9ex", b"d8:msg_typei1e5:piecei0ee" + bytes(BLOCK + 1),
        b"d8:msg_typei0e1:x1024:" + bytes(MAX_HEADER) + b"5:piecei0ee", bytes(MAX_HEADER + BLOCK + 1),
        b"d8:msg_typei0e5:piecei0e1:x" + b"l" * 9 + b"e" * 9 + b"e",
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="bad-metadata-message"):
        parse(payload)


messages = (
    st.builds(MetadataRequest, st.integers(0, MAX_PIECE))
    | st.builds(MetadataReject, st.integers(0, MAX_PIECE))
    | st.builds(
        MetadataData, st.integers(0, MAX_PIECE), st.none() | st.integers(1, 2**62), st.binary(min_size=1, max_size=50)
    )
)


@given(messages)
def test_round_trip(message: MetadataMessage) -> None:
    assert parse(message.encode()) == message
    assert parse(memoryview(message.encode())) == message


@pytest.mark.parametrize("message", [MetadataRequest(7), data(8), MetadataReject(12)])
def test_every_truncation_of_the_dictionary_is_refused(message: MetadataMessage) -> None:
    whole = message.encode()
    head = len(whole) - (len(message.block) if isinstance(message, MetadataData) else 0)
    for length in range(head):
        with pytest.raises(RemoteProtocolError, match="bad-metadata-message"):
            parse(whole[:length])


def test_random_bytes_and_damaged_messages_parse_or_are_refused() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    valid = [MetadataRequest(3).encode(), MetadataReject(3).encode(), MetadataData(3, 99999, b"some bytes").encode()]
    read = 0
    for cases in (random_bytes_cases(rng, 200, fuzz_count()), mutations(rng, valid, fuzz_count())):
        for payload in cases:
            try:
                message = parse(payload)
            except RemoteProtocolError as error:
                assert error.reason == "bad-metadata-message", seed
            else:
                assert message is None or parse(message.encode()) == message, seed
                read += 1
    assert read


# -- one connection ------------------------------------------------------------------------------------------------


class Side:
    def __init__(self, info_bytes: bytes | None = None) -> None:
        self.info_bytes = info_bytes


class End:
    """One end of a connection: what it says is kept."""

    def __init__(
        self,
        side: Side,
        assembly: MetadataAssembly | None = None,
        name: str = "peer",
        room: Callable[[], bool] = lambda: True,
    ) -> None:
        self.said: list[MetadataMessage | None] = []
        self.metadata = Metadata(self._say, side, assembly, name, has_room=room)

    def _say(self, payload: bytes) -> None:
        self.said.append(parse(payload))

    def hear(self, message: MetadataMessage, now: float = 0.0) -> list[MetadataMessage | None]:
        """Hand it a message; what it says to that."""
        before = len(self.said)
        self.metadata.receive_untrusted(message.encode(), now)
        return self.said[before:]

    def shake(self, size: int | None, now: float = 0.0) -> list[MetadataMessage | None]:
        before = len(self.said)
        self.metadata.handshake_received(ExtendedHandshake(m={"ut_metadata": 1}, metadata_size=size), now)
        return self.said[before:]

    def tick(self, now: float) -> list[MetadataMessage | None]:
        before = len(self.said)
        self.metadata.tick(now)
        return self.said[before:]


def test_it_is_an_extension() -> None:
    extension: Extension = End(Side()).metadata
    assert Metadata.NAME == "ut_metadata"
    extension.closed()


def test_every_block_is_served() -> None:
    end = End(Side(INFO))
    assert not end.shake(None)
    assert [end.hear(MetadataRequest(index)) for index in range(COUNT)] == [[data(index)] for index in range(COUNT)]
    assert len(block(8)) == 1000
    assert end.metadata.blocks_served == COUNT


@pytest.mark.parametrize("piece", [COUNT, MAX_PIECE])
def test_what_is_out_of_range_is_rejected(piece: int) -> None:
    end = End(Side(INFO))
    assert end.hear(MetadataRequest(piece)) == [MetadataReject(piece)]
    assert end.metadata.requests_rejected == 1


def test_while_there_is_nothing_to_serve_requests_are_rejected() -> None:
    assert End(Side(), None).hear(MetadataRequest(0)) == [MetadataReject(0)]


def test_unknown_messages_and_answers_to_nothing_are_ignored() -> None:
    end = End(Side(INFO))
    end.metadata.receive_untrusted(b"d8:msg_typei9ee", 0.0)
    assert not end.hear(data(0))
    assert not end.hear(MetadataReject(0))


def test_beyond_two_copies_a_minute_requests_are_rejected() -> None:
    end = End(Side(INFO))
    allowed = COPIES_A_MINUTE * COUNT + BURST
    answers = [end.hear(MetadataRequest(index % COUNT))[0] for index in range(allowed + 5)]
    assert [type(answer) for answer in answers] == [MetadataData] * allowed + [MetadataReject] * 5
    later = [type(end.hear(MetadataRequest(index % COUNT), 30.0)[0]) for index in range(COUNT + 1)]
    assert later == [MetadataData] * COUNT + [MetadataReject]


def test_while_the_connection_has_no_room_requests_wait() -> None:
    room = False
    end = End(Side(INFO), room=lambda: room)
    assert not end.hear(MetadataRequest(1)) and not end.hear(MetadataRequest(0)) and not end.tick(1.0)
    room = True
    assert end.tick(2.0) == [data(1), data(0)]
    assert not end.tick(3.0)


def test_more_requests_than_may_wait_are_rejected() -> None:
    info = bytes(MAX_METADATA_SIZE)
    end = End(Side(info), room=lambda: False)
    for index in range(MAX_QUEUED):
        assert not end.hear(MetadataRequest(index))
    assert end.hear(MetadataRequest(0)) == [MetadataReject(0)]
    end.metadata.closed()
    assert not end.tick(1.0)


def test_two_blocks_are_asked_for_at_a_time_until_all_are_there() -> None:
    got: list[bytes] = []
    assembly = MetadataAssembly(INFO_HASH, random.Random(1), on_complete=got.append)
    end = End(Side(), assembly)
    asked = requests(end.shake(len(INFO)))
    assert len(asked) == IN_FLIGHT
    heard = 0
    while asked:
        index = asked.pop(0)
        assert not got
        asked += requests(end.hear(data(index)))
        heard += 1
        assert len(asked) <= IN_FLIGHT
    assert got == [INFO] and heard == COUNT
    assert assembly.complete == INFO and assembly.held == 0


def test_the_same_connection_serves_once_the_metadata_is_there() -> None:
    side = Side()

    def complete(info: bytes) -> None:
        side.info_bytes = info

    end = End(side, MetadataAssembly(INFO_HASH, random.Random(1), on_complete=complete))
    to_answer = end.shake(len(INFO))
    assert end.hear(MetadataRequest(0)) == [MetadataReject(0)]
    while to_answer:
        message = to_answer.pop(0)
        assert isinstance(message, MetadataRequest)
        to_answer += end.hear(data(message.piece))
    assert side.info_bytes == INFO
    assert end.hear(MetadataRequest(3)) == [data(3)]
    assert not end.tick(1.0) and not end.tick(100.0)


def test_metadata_that_is_complete_but_not_to_be_served_is_rejected_and_not_asked_for() -> None:
    assembly = MetadataAssembly(INFO_HASH, random.Random(1))
    assembly.complete = INFO
    end = End(Side(), assembly)
    assert not end.shake(len(INFO))
    assert end.hear(MetadataRequest(0)) == [MetadataReject(0)]


def started(size: int | None = len(INFO), name: str = "peer") -> tuple[End, list[int], MetadataAssembly]:
    """A connection that has asked for its first blocks."""
    assembly = MetadataAssembly(INFO_HASH, random.Random(1))
    end = End(Side(), assembly, name)
    return end, requests(end.shake(size)), assembly


def test_what_was_not_asked_for_and_what_comes_twice_is_ignored() -> None:
    end, asked, assembly = started()
    stranger = next(index for index in range(COUNT) if index not in asked)
    assert not end.hear(data(stranger))
    end.hear(data(asked[0]))
    assert not end.hear(data(asked[0]))
    assert assembly.statistics().blocks_had == 1
    assert not end.hear(MetadataReject(stranger))
    assert assembly.statistics().refused == 0


@pytest.mark.parametrize("size", [MAX_METADATA_SIZE + 1, 1 << 31])
def test_a_size_that_cannot_be_is_ignored_and_counted(size: int) -> None:
    end, asked, assembly = started(size)
    assert not asked and not end.tick(100.0)
    assert assembly.statistics().size_liars == 1
    assert not end.shake(size)
    assert assembly.statistics().size_liars == 1


@pytest.mark.parametrize(
    "lie",
    [
        lambda index: MetadataData(index, len(INFO) + 1, block(index)),
        lambda index: MetadataData(index, len(INFO), b"short"),
        lambda index: MetadataData(index, None, b"short"),
    ],
)
def test_data_that_contradicts_the_size_claimed_ends_the_connection(lie: Callable[[int], MetadataData]) -> None:
    end, asked, _ = started()
    with pytest.raises(RemoteProtocolError, match="bad-metadata"):
        end.hear(lie(asked[0]))


def test_a_peer_without_a_size_is_asked_now_and_then_and_its_data_tells_the_size() -> None:
    end, asked, assembly = started(None)
    assert asked == [0]
    assert assembly.statistics().peers_without == 1
    end.hear(MetadataReject(0), 1.0)
    assert not end.tick(REFUSED_PAUSE)
    assert end.tick(1.0 + REFUSED_PAUSE) == [MetadataRequest(0)]
    more = end.hear(data(0), 70.0)
    assert len(more) == IN_FLIGHT and MetadataRequest(0) not in more
    statistics = assembly.statistics()
    assert (statistics.peers_without, statistics.blocks_had, statistics.blocks_total) == (0, 1, COUNT)


def test_data_without_any_size_ends_the_connection_of_a_peer_that_never_said_one() -> None:
    end, _, _ = started(None)
    with pytest.raises(RemoteProtocolError, match="bad-metadata"):
        end.hear(MetadataData(0, None, block(0)))


def test_who_refuses_is_left_alone_for_a_while() -> None:
    end, asked, assembly = started()
    assert not end.hear(MetadataReject(asked[0]), 1.0)
    assert not end.hear(MetadataReject(asked[1]), 1.0)
    assert assembly.statistics().refused == 1
    assert not end.tick(REFUSED_PAUSE)
    assert len(end.tick(1.0 + REFUSED_PAUSE)) == IN_FLIGHT


def test_who_does_not_answer_is_asked_again_after_longer_and_longer_pauses_until_it_answers() -> None:
    end, asked, assembly = started()
    times = [now for now in range(100_000) if end.tick(float(now))]
    assert [later - now for now, later in itertools.pairwise([0, *times[:5]])] == [
        ANSWER_WITHIN + pause for pause in (FIRST_PAUSE, 16, 32, MAX_PAUSE, MAX_PAUSE)
    ]
    assert assembly.statistics().silent == 1
    assert not end.tick(times[-1] + ANSWER_WITHIN)
    assert end.hear(data(asked[0]), times[-1] + ANSWER_WITHIN)  # late, but welcome, and it is asked for more
    statistics = assembly.statistics()
    assert (statistics.blocks_had, statistics.answered, statistics.silent) == (1, 1, 0)


def test_what_a_lost_connection_was_asked_for_others_are_asked_for() -> None:
    assembly = MetadataAssembly(INFO_HASH, random.Random(1))
    ends = [End(Side(), assembly, name) for name in "ab"]
    first, second = (set(requests(end.shake(len(INFO)))) for end in ends)
    assert not first & second
    ends[0].metadata.closed()
    for index in second:
        ends[1].hear(data(index))
    assert first <= set(requests(ends[1].said))


def test_who_claims_another_size_than_before_is_asked_for_nothing_more() -> None:
    end, asked, assembly = started()
    assert not end.shake(len(INFO), 1.0)  # the same again, in a later handshake
    assert not end.shake(5 * BLOCK, 1.0)
    assert not end.hear(data(asked[0]), 1.0)
    assert not end.shake(len(INFO), 1.0) and not end.tick(500.0)
    statistics = assembly.statistics()
    assert (statistics.blocks_had, statistics.size_liars) == (0, 1)


def test_whatever_bytes_arrive_only_a_remote_protocol_error_comes_of_it() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    end, asked, assembly = started()
    valid = [data(index).encode()[:200] for index in asked] + [
        MetadataReject(asked[0]).encode(),
        b"d8:msg_typei0e5:piecei0ee",
    ]
    refused = 0
    for now, payload in enumerate(mutations(rng, valid, fuzz_count())):
        try:
            end.metadata.receive_untrusted(payload, float(now))
        except RemoteProtocolError as error:
            assert error.reason in ("bad-metadata-message", "bad-metadata"), seed
            refused += 1
            if error.reason == "bad-metadata":
                end.metadata.closed()
                end = End(Side(), assembly)
                end.shake(len(INFO), float(now))
        end.metadata.tick(float(now))
    assert refused and assembly.complete is None


# -- many connections ----------------------------------------------------------------------------------------------

Answer = Callable[[int, float], "list[tuple[float, MetadataMessage]]"]
"""What a peer does when asked for a block at a time: messages and after how many seconds."""


def honest(info: bytes = INFO, delay: float = 0.1) -> Answer:
    return lambda index, now: [(delay, data(index, info))]


def corrupting(*indices: int, info: bytes = INFO, delay: float = 0.1) -> Answer:
    """Tells the truth but for some blocks; for none without indices."""

    def answer(index: int, now: float) -> list[tuple[float, MetadataMessage]]:
        if indices and index not in indices:
            return [(delay, data(index, info))]
        return [(delay, MetadataData(index, len(info), block(index, info).translate(INVERTED)))]

    return answer


def rejecting(until: float = 1e9) -> Answer:
    return lambda index, now: [(0.1, MetadataReject(index) if now < until else data(index))]


def silent(index: int, now: float) -> list[tuple[float, MetadataMessage]]:
    return []


def stalling(after: int, info: bytes = INFO) -> Answer:
    left = after

    def answer(index: int, now: float) -> list[tuple[float, MetadataMessage]]:
        nonlocal left
        left -= 1
        return [(0.1, data(index, info))] if left >= 0 else []

    return answer


class Swarm:
    """Connections of one torrent that misses its metadata, in virtual time."""

    def __init__(self, seed: int = 1, info_hash: bytes = INFO_HASH) -> None:
        self.got: list[bytes] = []
        self.liars: list[object] = []
        self.ended: dict[str, str] = {}
        self.asked: dict[str, int] = {}
        self.bytes = 0
        self.most_held = 0
        self.now = 0.0
        self.assembly = MetadataAssembly(
            info_hash, random.Random(seed), on_complete=self.got.append, on_liar=self.liars.append
        )
        self._ends: dict[str, tuple[Metadata, Answer]] = {}
        self._heap: list[tuple[float, int, str, MetadataMessage]] = []
        self._sequence = 0

    def connect(self, name: str, answer: Answer, size: int | None = len(INFO)) -> None:
        metadata = Metadata(
            lambda payload: self._said(name, payload), Side(), self.assembly, name, has_room=lambda: True
        )
        self._ends[name] = metadata, answer
        self.asked[name] = 0
        metadata.handshake_received(ExtendedHandshake(m={"ut_metadata": 1}, metadata_size=size), self.now)

    def disconnect(self, name: str) -> None:
        self._ends.pop(name)[0].closed()

    def _said(self, name: str, payload: bytes) -> None:
        message = parse(payload)
        assert isinstance(message, MetadataRequest)
        self.asked[name] += 1
        for delay, answer in self._ends[name][1](message.piece, self.now):
            self._sequence += 1
            heapq.heappush(self._heap, (self.now + delay, self._sequence, name, answer))

    def run(self, limit: float) -> float:
        """Until the metadata is there or the time is up; when that was."""
        second = self.now
        while not self.got and self.now < limit:
            second += 1
            self._deliver(second)
            self.now = second
            for metadata, _ in list(self._ends.values()):
                metadata.tick(self.now)
        return self.now

    def _deliver(self, until: float) -> None:
        while self._heap and self._heap[0][0] <= until:
            self.now, _, name, message = heapq.heappop(self._heap)
            if name not in self._ends:
                continue
            payload = message.encode()
            self.bytes += len(payload)
            try:
                self._ends[name][0].receive_untrusted(payload, self.now)
            except RemoteProtocolError as error:
                self.ended[name] = error.reason
                self.disconnect(name)
            self.most_held = max(self.most_held, self.assembly.held)
            if self.got:
                return


def test_blocks_are_spread_over_peers() -> None:
    swarm = Swarm()
    for name in "abc":
        swarm.connect(name, honest())
    assert swarm.run(60) < 2
    assert swarm.got == [INFO]
    assert sum(swarm.asked.values()) == COUNT and min(swarm.asked.values()) >= 2
    swarm.run(100)
    assert swarm.got == [INFO]


def test_one_honest_peer_among_the_useless_is_enough() -> None:
    swarm = Swarm()
    for number in range(5):
        swarm.connect(f"silent {number}", silent)
        swarm.connect(f"rejecting {number}", rejecting())
        swarm.connect(f"stalling {number}", stalling(1))
        swarm.connect(f"without {number}", rejecting(), None)
    swarm.connect("honest", honest())
    assert swarm.run(60) <= 10
    assert swarm.got == [INFO] and not swarm.liars


def test_the_last_block_does_not_wait_for_the_time_out_of_a_peer_that_is_silent() -> None:
    swarm = Swarm()
    swarm.connect("silent", silent)
    swarm.connect("honest", honest())
    assert swarm.run(60) < ANSWER_WITHIN
    assert swarm.got == [INFO]


def test_a_peer_that_gets_the_metadata_later_is_asked_again() -> None:
    swarm = Swarm()
    swarm.connect("late", rejecting(until=70), None)
    assert swarm.run(300) <= 2 * REFUSED_PAUSE + 5
    assert swarm.got == [INFO]


def test_liars_about_the_size_build_alone_and_are_found() -> None:
    swarm = Swarm()
    sizes = [1, BLOCK, len(INFO) - 1, len(INFO) + 1, 40 * BLOCK]
    for size in sizes:
        swarm.connect(f"liar {size}", corrupting(info=bytes(size)), size)
    swarm.connect("honest", honest(delay=0.5))
    swarm.run(60)
    assert swarm.got == [INFO]
    assert set(swarm.liars) == set(swarm.ended) <= {f"liar {size}" for size in sizes}
    assert len(swarm.liars) >= 4  # the largest lie may not have been whole yet
    statistics = swarm.assembly.statistics()
    assert (statistics.size_liars, statistics.hash_failures) == (len(sizes), len(swarm.liars))


def test_a_liar_that_is_alone_is_convicted_at_once_and_the_next_peer_asked() -> None:
    swarm = Swarm()
    swarm.connect("liar", corrupting(4))
    assert swarm.run(5) == 5
    assert swarm.liars == ["liar"] and swarm.ended == {"liar": "bad-metadata"}
    swarm.connect("liar", corrupting(4))  # it comes back under the same name
    swarm.run(10)
    assert swarm.asked["liar"] == 0
    swarm.connect("honest", honest())
    swarm.run(60)
    assert swarm.got == [INFO]


@pytest.mark.parametrize("seed", range(20))
def test_liars_among_the_honest_are_found_and_only_they(seed: int) -> None:
    rng = random.Random(seed)
    swarm = Swarm(seed)
    behaviours = [(f"liar {n}", corrupting(*rng.sample(range(COUNT), rng.randint(1, COUNT)))) for n in range(4)]
    behaviours += [(f"honest {n}", honest(delay=0.05 * rng.randint(1, 20))) for n in range(3)]
    rng.shuffle(behaviours)
    for name, answer in behaviours:
        swarm.connect(name, answer)
    assert swarm.run(120) < 60
    assert swarm.got == [INFO]
    assert all(str(liar).startswith("liar") for liar in swarm.liars)
    assert all(name.startswith("liar") for name in swarm.ended)
    assert swarm.assembly.statistics().liars == len(swarm.liars)


def test_who_sent_the_false_block_of_a_failed_copy_is_named_when_the_true_one_is_known() -> None:
    """The liar goes silent before it could be tested alone."""
    swarm = Swarm()
    swarm.connect("honest", honest())
    lies = 0

    def answer(index: int, now: float) -> list[tuple[float, MetadataMessage]]:
        nonlocal lies
        lies += 1
        return corrupting()(index, now) if lies == 1 else []

    swarm.connect("liar", answer)
    swarm.run(60)
    assert swarm.got == [INFO]
    assert swarm.liars == ["liar"] and not swarm.ended
    assert swarm.assembly.liars == {"liar"}
    assert swarm.assembly.statistics().hash_failures == 1


def test_liars_that_answer_just_often_enough_do_not_keep_the_honest_waiting_for_ever() -> None:
    """Twenty of them, with one false copy in common, so that the honest peer needs a turn for itself."""
    info = random.Random(3).randbytes(200 * BLOCK)
    swarm = Swarm(info_hash=sha1(info).digest())
    for number in range(2):
        swarm.connect(f"liar {number}", corrupting(info=info), len(info))
    swarm.run(40)
    assert swarm.assembly.statistics().hash_failures >= 1
    for number in range(20):
        swarm.connect(f"dripping {number}", corrupting(info=info, delay=7.0), len(info))
    swarm.connect("honest", honest(info), len(info))
    assert swarm.run(400) < 200
    assert swarm.got == [info]


def test_in_a_dispute_not_everybody_is_asked_for_everything_at_once() -> None:
    swarm = Swarm()
    swarm.connect("liar", corrupting(2))
    for number in range(40):
        swarm.connect(f"honest {number}", honest(delay=1.0))
    swarm.run(60)
    assert swarm.got == [INFO]
    assert swarm.liars == ["liar"]
    assert swarm.bytes < 20 * len(INFO)


def test_memory_is_bounded_whatever_is_claimed_and_the_honest_get_through() -> None:
    """Ten liars claim the most there can be and deliver it faster than the honest peer the truth."""
    swarm = Swarm()
    for number in range(10):
        size = MAX_METADATA_SIZE - number
        swarm.connect(f"liar {number}", corrupting(info=bytes(size), delay=0.05), size)
    assert swarm.assembly.held == 0
    swarm.run(20)
    assert MAX_HELD - BLOCK <= swarm.most_held <= MAX_HELD
    assert swarm.bytes < 3 * MAX_HELD  # those whose copy was given up do not fetch it over and over
    swarm.connect("honest", honest(delay=0.9))
    swarm.run(60)
    assert swarm.got == [INFO]
    assert swarm.most_held <= MAX_HELD


def test_memory_that_is_full_does_not_keep_a_large_copy_from_becoming_whole() -> None:
    info = bytes(MAX_METADATA_SIZE)
    swarm = Swarm(info_hash=sha1(info).digest())
    for number in range(1, 5):
        swarm.connect(f"liar {number}", corrupting(info=info[number:], delay=0.02), len(info) - number)
    swarm.run(4)
    swarm.connect("honest", honest(info, delay=0.04), len(info))
    assert swarm.run(200) < 100
    assert swarm.got == [info]
    assert swarm.most_held <= MAX_HELD


def test_connections_that_come_claim_and_go_leave_little_behind() -> None:
    assembly = MetadataAssembly(INFO_HASH, random.Random(1))
    for number in range(1, 2000):
        size = BLOCK + number
        end = End(Side(), assembly, f"peer {number}")
        [first, _] = requests(end.shake(size))
        if number % 2:
            end.hear(MetadataData(first, size, bytes(block_length(size, first))))
        end.metadata.closed()
    assert assembly.held <= MAX_LEFT_BEHIND * BLOCK
    assert len(assembly._attempts) == MAX_LEFT_BEHIND and not assembly._sources
    assert len(assembly._departed) == MAX_DEPARTED


def test_what_was_fetched_survives_the_loss_of_all_connections() -> None:
    swarm = Swarm()
    swarm.connect("first", stalling(5))
    swarm.run(3)
    swarm.disconnect("first")
    swarm.connect("second", honest())
    swarm.run(60)
    assert swarm.got == [INFO]
    assert swarm.asked["second"] == COUNT - 5


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_peers_do_nothing_breaks_and_only_the_truth_completes(draw: st.DataObject) -> None:
    assembly = MetadataAssembly(INFO_HASH, random.Random(1))
    ends: list[End] = []
    now = 0.0
    sizes = st.sampled_from([None, len(INFO), len(INFO), BLOCK, 3 * BLOCK + 5, MAX_METADATA_SIZE])
    for _ in range(draw.draw(st.integers(1, 60))):
        now += draw.draw(st.sampled_from([0.0, 0.1, 1.0, 9.0, 70.0]))
        act = draw.draw(st.integers(0, 6))
        if act == 0 or not ends:
            ends.append(End(Side(), assembly, f"name {draw.draw(st.integers(0, 5))}"))
            ends[-1].shake(draw.draw(sizes), now)
            continue
        end = draw.draw(st.sampled_from(ends))
        index = draw.draw(st.sampled_from(requests(end.said) or [0]))
        try:
            if act == 1:
                end.tick(now)
            elif act == 2:
                end.hear(data(index) if index < COUNT else MetadataReject(index), now)
            elif act == 3:
                end.hear(MetadataData(index, None, bytes(draw.draw(st.sampled_from([1, 5, BLOCK])))), now)
            elif act == 4:
                end.hear(MetadataReject(index), now)
            elif act == 5:
                end.shake(draw.draw(sizes), now)
            else:
                end.metadata.closed()
                ends.remove(end)
        except RemoteProtocolError:
            end.metadata.closed()
            ends.remove(end)
        assert len(assembly._sources) <= len(ends)
        assembly.statistics().why()
    assert assembly.complete in (None, INFO)


# -- what the user is told -----------------------------------------------------------------------------------------


def why(assembly: MetadataAssembly) -> str:
    return assembly.statistics().why()


def test_the_phrase_for_the_user() -> None:
    swarm = Swarm()
    assembly = swarm.assembly
    assert why(assembly) == "no peer to ask"
    for _ in range(2):
        assembly.peer_without("bare")  # one that comes again, and again
    assert why(assembly) == "1 peer does not offer it"
    swarm.connect("without", silent, None)
    assert why(assembly) == "2 peers do not offer it"
    swarm.connect("stalling", stalling(4))
    assert why(assembly) == "asked 1 peer; 2 peers do not offer it; 0 of 9 blocks"
    swarm.connect("rejecting", rejecting())
    swarm.connect("silent", silent)
    swarm.run(9)
    assert why(assembly) == "asked 3 peers: 1 refused, 2 did not answer; 2 peers do not offer it; 4 of 9 blocks"
    swarm.connect("absurd", silent, MAX_METADATA_SIZE + 1)
    swarm.disconnect("rejecting")  # who left is not forgotten
    assert why(assembly) == (
        "asked 3 peers: 1 refused, 2 did not answer; 2 peers do not offer it; 1 peer told lies; 4 of 9 blocks"
    )


def test_a_peer_that_reconnects_is_counted_once() -> None:
    swarm = Swarm()
    for _ in range(3):
        swarm.connect("rejecting", rejecting())
        swarm.run(swarm.now + 2)
        swarm.disconnect("rejecting")
    assert why(swarm.assembly) == "asked 1 peer: 1 refused"


# -- parts ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, MAX_METADATA_SIZE), st.integers(0, 1000))
def test_an_attempt_asks_for_each_block_once(size: int, seed: int) -> None:
    attempt = Attempt(min(size, 40 * BLOCK), random.Random(seed), 0.0)
    chosen = []
    while (index := attempt.choose((), 0.0)) is not None:
        chosen.append(index)
    assert sorted(chosen) == list(range(attempt.count))
    assert sum(block_length(attempt.size, index) for index in chosen) == attempt.size


def test_sizes_and_blocks() -> None:
    assert [block_count(size) for size in (1, BLOCK, BLOCK + 1)] == [1, 1, 2]
    assert [block_length(BLOCK + 1, index) for index in (0, 1)] == [BLOCK, 1]
    assert block_length(BLOCK, 1) == 0
