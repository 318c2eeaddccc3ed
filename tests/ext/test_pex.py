"""Peer exchange: the codec as deployed clients write it, who is told what and when, floods."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.bencode import Encodable, decode_untrusted, encode
from dht.compact import encode_peers
from swarm.endpoint import Endpoint, normalise_host, parse_endpoint
from swarm.errors import RemoteProtocolError
from swarm.ext.extension import Extension
from swarm.ext.pex import (
    ASK_AGAIN_AFTER,
    FIRST_AFTER,
    FLOOD,
    INTERVAL,
    MAX_ENTRIES,
    MAX_HEARD,
    MAX_IN_A_ROW,
    MAX_PAYLOAD,
    MAX_TOLD,
    REACHABLE,
    SEED,
    SUPPORTS_HOLEPUNCH,
    SUPPORTS_UTP,
    Pex,
    PexMessage,
    PexPeer,
    parse_pex_untrusted,
)
from swarm.wire.extended import ExtendedHandshake
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

HANDSHAKE = ExtendedHandshake(m={"ut_pex": 1})

# libtorrent 2.1.1 on loopback, to a peer that listens on port 7001: the list names the receiver itself.
LIBTORRENT_FULL = (
    b"d5:added12:\x7f\0\0\x01\x1bY\x7f\0\0\x01\x1bZ7:added.f2:\0\0"
    b"6:added618:" + bytes(15) + b"\x01\x1b[8:added6.f1:\x007:dropped0:8:dropped60:e"
)


def v4(number: int) -> Endpoint:
    return Endpoint(f"10.0.{number >> 8}.{number & 255}", 6881)


def v6(number: int) -> Endpoint:
    return Endpoint(f"2001:db8::{number + 1:x}", 6881)


class Side:
    """A torrent: whom it is connected to, and what it was told."""

    def __init__(self, *connected: Endpoint) -> None:
        self.connected: dict[Endpoint, int] = dict.fromkeys(connected, 0)
        self.asked: list[object] = []
        self.told: list[tuple[tuple[PexPeer, ...], tuple[Endpoint, ...]]] = []

    def peers_to_tell(self, to: object) -> Mapping[Endpoint, int]:
        self.asked.append(to)
        return self.connected

    def peers_told(self, added: Sequence[PexPeer], dropped: Sequence[Endpoint]) -> None:
        self.told.append((tuple(added), tuple(dropped)))


class End:
    """One end of a connection on which time passes a second at a time."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.said: list[tuple[float, PexMessage]] = []
        self.now = 0.0
        self.pex = Pex(self._say, side, "the receiver", random.Random(1))
        self.pex.handshake_received(HANDSHAKE, 0.0)

    def _say(self, payload: bytes) -> None:
        self.said.append((self.now, parse_pex_untrusted(payload)))

    def run(self, until: float) -> list[tuple[float, PexMessage]]:
        """Tick until then; what was said meanwhile and when."""
        before = len(self.said)
        while self.now < until:
            self.now += 0.5
            self.pex.tick(self.now)
        return self.said[before:]


def added(*endpoints: Endpoint) -> tuple[PexPeer, ...]:
    return tuple(PexPeer(endpoint, 0) for endpoint in endpoints)


# -- the codec -----------------------------------------------------------------------------------------------------


def test_both_families_in_one_message() -> None:
    message = PexMessage(
        (PexPeer(v4(1), SEED | SUPPORTS_UTP), PexPeer(v6(1), REACHABLE), PexPeer(v4(2), SUPPORTS_HOLEPUNCH)),
        (v6(2), v4(3)),
    )
    assert decode_untrusted(message.encode()) == {
        b"added": bytes.fromhex("0a0000011ae10a0000021ae1"),
        b"added.f": bytes([0x06, 0x08]),
        b"added6": bytes.fromhex("20010db8000000000000000000000002") + b"\x1a\xe1",
        b"added6.f": bytes([0x10]),
        b"dropped": bytes.fromhex("0a0000031ae1"),
        b"dropped6": bytes.fromhex("20010db8000000000000000000000003") + b"\x1a\xe1",
    }
    assert parse_pex_untrusted(message.encode()) == PexMessage(
        (message.added[0], message.added[2], message.added[1]), (v4(3), v6(2))
    )


def test_what_there_is_nothing_of_is_left_out() -> None:
    assert PexMessage().encode() == b"de"
    assert set(decode_untrusted(PexMessage(added(v6(1))).encode())) == {b"added6", b"added6.f"}  # type: ignore[arg-type]


@pytest.mark.parametrize("flags", [None, b"", b"\x01", b"\x01\x02\x03", 7])
def test_flags_that_are_missing_or_not_one_each_count_as_none(flags: bytes | int | None) -> None:
    said: dict[bytes, bytes | int] = {b"added": encode_peers([v4(1), v4(2)])}
    if flags is not None:
        said[b"added.f"] = flags
    assert parse_pex_untrusted(encode(said)).added == added(v4(1), v4(2))


def test_an_entry_cut_short_is_left_out_and_the_flags_of_the_others_hold() -> None:
    said = {b"added": encode_peers([v4(1), v4(2)]) + b"\x0a\0\0", b"added.f": b"\x01\x02", b"dropped6": b"\0" * 17}
    assert parse_pex_untrusted(encode(said)) == PexMessage((PexPeer(v4(1), 1), PexPeer(v4(2), 2)))


def test_values_of_a_wrong_type_count_as_not_there() -> None:
    said: dict[bytes, Encodable] = {b"added": 5, b"added6": [b"x"], b"dropped": {}, b"added.f": b"\1", b"dropped6": -1}
    assert parse_pex_untrusted(encode(said)) == PexMessage()


def test_keys_out_of_order_are_read() -> None:
    assert parse_pex_untrusted(b"d7:dropped6:\x0a\0\0\x01\x1a\xe15:added0:e").dropped == (v4(1),)


def test_a_peer_said_twice_is_taken_once_and_one_added_and_dropped_is_added() -> None:
    said = {b"added": encode_peers([v4(1), v4(1)]), b"added.f": b"\x01\x02", b"dropped": encode_peers([v4(1)] * 2)}
    assert parse_pex_untrusted(encode(said)) == PexMessage((PexPeer(v4(1), 1),))


def test_an_ipv4_address_in_ipv6_clothes_is_an_ipv4_address() -> None:
    said = {b"added6": bytes(10) + b"\xff\xff\x0a\0\0\x01\x1a\xe1"}
    assert parse_pex_untrusted(encode(said)).added == added(v4(1))


def test_what_libtorrent_sends() -> None:
    """Recorded from libtorrent 2.1.1 on loopback: its whole list, then the changes; it always writes all six keys."""
    assert parse_pex_untrusted(LIBTORRENT_FULL) == PexMessage(
        added(*map(parse_endpoint, ("127.0.0.1:7001", "127.0.0.1:7002", "[::1]:7003")))
    )


@pytest.mark.parametrize(
    "payload", [b"", b"le", b"i1e", b"0:", b"d", b"d5:added7:abcdeee", b"dee", b"d5:added0:5:added0:e"]
)
def test_what_is_no_dictionary_is_refused(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="bad-pex"):
        parse_pex_untrusted(payload)


def test_too_long_a_message_is_refused_and_too_many_entries_are_cut() -> None:
    with pytest.raises(RemoteProtocolError, match="bad-pex"):
        parse_pex_untrusted(encode({b"added": bytes(MAX_PAYLOAD)}))
    many = [v4(number) for number in range(MAX_ENTRIES + 5)]
    assert parse_pex_untrusted(encode({b"added": encode_peers(many)})).added == added(*many[:MAX_ENTRIES])


hosts = st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str).map(normalise_host)
endpoints = st.builds(Endpoint, hosts, st.integers(0, 65535))


@given(st.dictionaries(endpoints, st.integers(0, 255), max_size=20), st.lists(endpoints, max_size=20, unique=True))
def test_round_trip(newcomers: dict[Endpoint, int], leavers: list[Endpoint]) -> None:
    message = PexMessage(
        tuple(PexPeer(*item) for item in newcomers.items()),
        tuple(endpoint for endpoint in leavers if endpoint not in newcomers),
    )
    read = parse_pex_untrusted(message.encode())
    assert set(read.added) == set(message.added)
    assert set(read.dropped) == set(message.dropped)
    assert parse_pex_untrusted(read.encode()) == read


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=20), st.binary(max_size=20))
def test_whatever_the_strings_are_the_result_is_sound(four: bytes, six: bytes, flags: bytes, flags6: bytes) -> None:
    said = {b"added": four, b"added.f": flags, b"added6": six, b"added6.f": flags6, b"dropped": six, b"dropped6": four}
    read = parse_pex_untrusted(encode(said))
    names = [*(peer.endpoint for peer in read.added), *read.dropped]
    assert len(set(names)) == len(names)
    assert all(0 <= peer.flags <= 255 and 0 <= peer.endpoint.port <= 65535 for peer in read.added)


def test_every_truncation_is_refused() -> None:
    whole = PexMessage(added(v4(1), v6(1)), (v4(2),)).encode()
    for length in range(len(whole)):
        with pytest.raises(RemoteProtocolError, match="bad-pex"):
            parse_pex_untrusted(whole[:length])


def test_random_bytes_and_damaged_messages_parse_or_are_refused() -> None:
    seed = fuzz_seed()
    rng = random.Random(seed)
    valid = [LIBTORRENT_FULL, PexMessage(added(v4(1), v4(2), v6(1)), (v4(3), v6(2))).encode(), b"de"]
    read = 0
    for cases in (random_bytes_cases(rng, 200, fuzz_count()), mutations(rng, valid, fuzz_count())):
        for data in cases:
            try:
                message = parse_pex_untrusted(data)
            except RemoteProtocolError as error:
                assert error.reason == "bad-pex", seed
            else:
                assert parse_pex_untrusted(message.encode()).encode() == message.encode(), seed
                read += 1
    assert read


# -- telling -------------------------------------------------------------------------------------------------------


def test_it_is_an_extension() -> None:
    extension: Extension = End(Side()).pex
    assert Pex.NAME == "ut_pex"
    extension.closed()


def test_the_first_message_goes_out_soon_after_the_handshake_and_says_all() -> None:
    end = End(Side(v4(1), v6(1)))
    end.side.connected[v4(1)] = SEED | REACHABLE
    [(when, message)] = end.run(30)
    assert when == FIRST_AFTER
    assert message == PexMessage((PexPeer(v4(1), SEED | REACHABLE), PexPeer(v6(1), 0)))
    assert end.side.asked == ["the receiver"]


def test_changes_are_told_once_a_minute() -> None:
    end = End(Side(v4(1), v4(2)))
    end.run(10)
    end.side.connected = {v4(2): 0, v4(3): 0}
    assert end.run(200) == [(FIRST_AFTER + INTERVAL, PexMessage(added(v4(3)), (v4(1),)))]
    assert (end.pex.messages_sent, end.pex.added_sent, end.pex.dropped_sent) == (2, 3, 1)


def test_nothing_is_sent_while_there_is_nothing_to_say_and_then_at_once() -> None:
    end = End(Side())
    assert not end.run(30)
    end.side.connected = {v4(1): 0}
    [(when, _)] = end.run(100)
    assert 30 < when <= 30 + ASK_AGAIN_AFTER
    asked = len(end.side.asked)
    end.run(200)
    assert len(end.side.asked) - asked <= 100 / ASK_AGAIN_AFTER


def test_peers_that_came_and_went_between_messages_are_never_mentioned() -> None:
    end = End(Side(v4(1)))
    end.run(10)
    end.side.connected[v4(2)] = 0
    end.run(20)
    del end.side.connected[v4(2)]
    del end.side.connected[v4(1)]
    end.run(30)
    end.side.connected[v4(1)] = 0
    assert not end.run(200)


def test_before_the_handshake_and_after_the_end_nothing_is_said() -> None:
    said: list[bytes] = []
    pex = Pex(said.append, Side(v4(1)), None, random.Random(1))
    pex.tick(100.0)
    pex.handshake_received(HANDSHAKE, 100.0)
    pex.closed()
    pex.tick(200.0)
    assert not said


def test_a_later_handshake_does_not_start_the_minute_anew() -> None:
    end = End(Side(v4(1)))
    end.run(10)
    end.side.connected[v4(2)] = 0
    end.pex.handshake_received(HANDSHAKE, 10.0)
    assert [when for when, _ in end.run(100)] == [FIRST_AFTER + INTERVAL]


def test_more_than_fit_are_spread_over_messages_until_all_are_told() -> None:
    everybody = [v4(number) for number in range(80)] + [v6(number) for number in range(40)]
    end = End(Side(*everybody))
    messages = [message for _, message in end.run(400)]
    assert [len(message.added) for message in messages] == [MAX_TOLD, MAX_TOLD, 20]
    assert sorted(peer.endpoint for message in messages for peer in message.added) == sorted(everybody)
    end.side.connected.clear()
    messages = [message for _, message in end.run(800)]
    assert [len(message.dropped) for message in messages] == [MAX_TOLD, MAX_TOLD, 20]
    assert sorted(endpoint for message in messages for endpoint in message.dropped) == sorted(everybody)


def test_who_is_told_first_is_a_matter_of_chance() -> None:
    """Each of 200 is among the first 50 of a connection as often as any other: 25 of 100 times, within 5 sigma."""
    side = Side(*map(v4, range(200)))
    times = dict.fromkeys(side.connected, 0)
    for seed in range(100):
        said: list[bytes] = []
        pex = Pex(said.append, side, None, random.Random(seed))
        pex.handshake_received(HANDSHAKE, 0.0)
        pex.tick(FIRST_AFTER)
        for peer in parse_pex_untrusted(said[0]).added:
            times[peer.endpoint] += 1
    assert min(times.values()) > 25 - 22 and max(times.values()) < 25 + 22


@given(st.lists(st.sets(st.integers(0, 120), max_size=120), min_size=1, max_size=8), st.integers(0, 1000))
def test_what_the_receiver_knows_becomes_what_is(phases: list[set[int]], seed: int) -> None:
    """However peers come and go: messages keep to the limits, none repeats itself, the picture comes out right."""
    side = Side()
    picture: set[Endpoint] = set()
    last = -INTERVAL

    def say(payload: bytes) -> None:
        nonlocal last
        message = parse_pex_untrusted(payload)
        newcomers = {peer.endpoint for peer in message.added}
        assert now - last >= INTERVAL
        assert len(newcomers) <= MAX_TOLD and len(message.dropped) <= MAX_TOLD
        assert newcomers or message.dropped
        assert not newcomers & picture and set(message.dropped) <= picture
        picture.difference_update(message.dropped)
        picture.update(newcomers)
        last = now

    pex = Pex(say, side, None, random.Random(seed))
    pex.handshake_received(HANDSHAKE, 0.0)
    now = 0.0
    for phase in phases:
        side.connected = dict.fromkeys((v4(number) if number % 2 else v6(number) for number in phase), 0)
        for _ in range(40):
            now += 1.0
            pex.tick(now)
    for _ in range(5 * 60):
        now += 1.0
        pex.tick(now)
    assert picture == set(side.connected)


# -- being told ----------------------------------------------------------------------------------------------------


def test_what_is_heard_is_passed_on() -> None:
    end = End(Side())
    end.pex.receive_untrusted(PexMessage((PexPeer(v4(1), SEED),), (v6(1),)).encode(), 5.0)
    end.pex.receive_untrusted(b"de", 70.0)
    assert end.side.told == [((PexPeer(v4(1), SEED),), (v6(1),))]
    assert (end.pex.messages_received, end.pex.added_received, end.pex.dropped_received) == (2, 1, 1)
    assert (end.pex.early, end.pex.long) == (0, 0)


def test_messages_of_some_minutes_may_arrive_together() -> None:
    """As libtorrent allows: a link that stood still delivers at once what was sent in time."""
    end = End(Side())
    for number in range(MAX_IN_A_ROW):
        end.pex.receive_untrusted(PexMessage(added(v4(number))).encode(), 1.0)
    assert len(end.side.told) == MAX_IN_A_ROW
    assert end.pex.early == MAX_IN_A_ROW - 1
    assert end.pex.messages_ignored == 0


def test_more_messages_are_ignored_and_counted_until_a_minute_has_passed() -> None:
    end = End(Side())
    for number in range(MAX_IN_A_ROW + 3):
        end.pex.receive_untrusted(PexMessage(added(v4(number))).encode(), 1.0)
    assert (len(end.side.told), end.pex.messages_ignored) == (MAX_IN_A_ROW, 3)
    end.pex.receive_untrusted(PexMessage(added(v4(99))).encode(), 1.0 + INTERVAL)
    assert end.side.told[-1] == (added(v4(99)), ())


def test_a_flood_ends_the_connection() -> None:
    end = End(Side())
    for number in range(FLOOD):
        end.pex.receive_untrusted(b"de", number / FLOOD)
    with pytest.raises(RemoteProtocolError, match="pex-flood"):
        end.pex.receive_untrusted(b"de", 1.0)


def test_a_message_every_minute_is_never_early_nor_too_much() -> None:
    end = End(Side())
    for minute in range(200):
        end.pex.receive_untrusted(PexMessage(added(v4(minute))).encode(), 60.0 * minute + (minute % 7) / 2)
    assert (len(end.side.told), end.pex.early, end.pex.messages_ignored) == (200, 0, 0)


def test_too_many_entries_are_cut_and_counted_but_the_first_message_may_be_long() -> None:
    end = End(Side())
    many = [v4(number) for number in range(MAX_HEARD + 30)]
    end.pex.receive_untrusted(PexMessage(added(*many[:100])).encode(), 0.0)
    assert (len(end.side.told[0][0]), end.pex.long, end.pex.entries_ignored) == (100, 0, 0)
    end.pex.receive_untrusted(PexMessage(added(*many), tuple(v6(n) for n in range(51))).encode(), 60.0)
    assert (len(end.side.told[1][0]), len(end.side.told[1][1])) == (MAX_HEARD, 51)
    assert (end.pex.long, end.pex.entries_ignored) == (1, 30)


def test_two_ends_learn_each_others_peers() -> None:
    left, right = Side(v4(1), v6(2)), Side(v4(3))
    ends: list[Pex] = []
    now = 0.0
    ends.append(Pex(lambda payload: ends[1].receive_untrusted(payload, now), left, "right", random.Random(1)))
    ends.append(Pex(lambda payload: ends[0].receive_untrusted(payload, now), right, "left", random.Random(2)))
    for end in ends:
        end.handshake_received(HANDSHAKE, now)
    while now < 200:
        now += 1.0
        if now == 80:
            left.connected = {v4(1): 0, v4(4): SEED}
        for end in ends:
            end.tick(now)
    assert left.told == [(added(v4(3)), ())]
    assert right.told == [(added(v4(1), v6(2)), ()), ((PexPeer(v4(4), SEED),), (v6(2),))]
