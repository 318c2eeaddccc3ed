"""ut_holepunch (BEP 55): the messages, the extension on one connection, and the relay."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError
from swarm.events import PathName
from swarm.ext.allowance import MAX_REMEMBERED
from swarm.ext.extension import Extension, Say
from swarm.ext.holepunch import (
    ANSWER_SECONDS,
    MAX_PENDING,
    UNASKED_BURST,
    UNASKED_SECONDS,
    Connect,
    ErrorCode,
    Holepunch,
    HolepunchMessage,
    HolepunchSide,
    PunchError,
    Rendezvous,
    may_meet,
    parse_holepunch_untrusted,
)
from swarm.ext.holepunch_relay import (
    PAIR_BURST,
    PAIR_SECONDS,
    SOURCE_BURST,
    SOURCE_SECONDS,
    TARGET_BURST,
    HolepunchRelay,
    Relayable,
    RelayStatistics,
)
from swarm.wire.extended import ExtendedHandshake
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

V4, V6 = Endpoint("20.1.2.3", 6881), Endpoint("2a0e::1", 6881)
MESSAGES: list[HolepunchMessage] = []
for endpoint in (V4, V6):
    MESSAGES += [Rendezvous(endpoint), Connect(endpoint), *(PunchError(endpoint, code) for code in ErrorCode)]

# ---- messages

# What libtorrent 2.1.1 sent on loopback.
LIBTORRENT_RENDEZVOUS = bytes.fromhex("00 00 7f000001 8fa5")
LIBTORRENT_ERROR = bytes.fromhex("02 00 7f000001 bf38 00000002")


def test_what_libtorrent_sends_is_understood() -> None:
    assert parse_holepunch_untrusted(LIBTORRENT_RENDEZVOUS) == Rendezvous(Endpoint("127.0.0.1", 0x8FA5))
    error = PunchError(Endpoint("127.0.0.1", 0xBF38), ErrorCode.NOT_CONNECTED)
    assert parse_holepunch_untrusted(LIBTORRENT_ERROR) == error
    assert error.encode() == LIBTORRENT_ERROR


def test_the_error_code_is_always_sent() -> None:
    assert Rendezvous(V4).encode() == bytes.fromhex("00 00 14010203 1ae1 00000000")
    assert Connect(V6).encode() == bytes.fromhex("01 01 2a0e0000000000000000000000000001 1ae1 00000000")
    assert PunchError(V4, ErrorCode.NO_SELF).encode() == bytes.fromhex("02 00 14010203 1ae1 00000004")


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_every_message_is_read_back(message: HolepunchMessage) -> None:
    for made in (bytes, bytearray, memoryview):
        assert parse_holepunch_untrusted(made(message.encode())) == message


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_every_truncation_but_that_of_the_code_is_refused(message: HolepunchMessage) -> None:
    whole = message.encode()
    without_code = len(whole) - 4
    for length in range(len(whole)):
        if length != without_code:
            with pytest.raises(RemoteProtocolError, match="bad-holepunch"):
                parse_holepunch_untrusted(whole[:length])
    short = parse_holepunch_untrusted(whole[:without_code])
    assert short == (PunchError(message.target, None) if isinstance(message, PunchError) else message)


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_trailing_bytes_are_refused(message: HolepunchMessage) -> None:
    for extra in range(1, 20):
        with pytest.raises(RemoteProtocolError, match="bad-holepunch"):
            parse_holepunch_untrusted(message.encode() + bytes(extra))


def test_an_unknown_message_type_is_ignored_whatever_follows() -> None:
    for payload in (b"\x03", b"\xff\x09", b"\x03" + Rendezvous(V4).encode()[1:]):
        assert parse_holepunch_untrusted(payload) is None


@pytest.mark.parametrize("addr_type", [2, 4, 255])
def test_an_unknown_address_type_is_refused(addr_type: int) -> None:
    for rest in (bytes(6), bytes(10), bytes(18), bytes(22)):
        with pytest.raises(RemoteProtocolError, match="bad-holepunch"):
            parse_holepunch_untrusted(bytes((0, addr_type)) + rest)


@pytest.mark.parametrize("code", [0, 5, 0xFFFFFFFF])
def test_an_error_with_an_unknown_code_is_an_error_all_the_same(code: int) -> None:
    payload = PunchError(V4, ErrorCode.NO_SELF).encode()[:-4] + code.to_bytes(4, "big")
    assert parse_holepunch_untrusted(payload) == PunchError(V4, None)


def test_an_error_code_in_other_messages_means_nothing() -> None:
    assert parse_holepunch_untrusted(Connect(V4).encode()[:-1] + b"\x03") == Connect(V4)


def test_an_error_of_ours_has_a_code() -> None:
    with pytest.raises(ValueError, match="code"):
        PunchError(V4, None).encode()


def test_the_slugs_of_the_codes() -> None:
    assert [code.slug for code in ErrorCode] == ["no-such-peer", "not-connected", "no-support", "no-self"]


def check_decoder(payload: bytes) -> None:
    try:
        message = parse_holepunch_untrusted(payload)
    except RemoteProtocolError:
        return
    if message is None:
        assert payload[0] > 2
    elif not (isinstance(message, PunchError) and message.code is None):
        assert parse_holepunch_untrusted(message.encode()) == message


@given(st.binary(max_size=30))
def test_arbitrary_bytes_are_decoded_or_refused(payload: bytes) -> None:
    check_decoder(payload)


def test_random_bytes_and_damaged_messages_are_decoded_or_refused() -> None:
    seed = fuzz_seed()
    print(f"seed {seed}")
    rng = random.Random(seed)
    for payload in random_bytes_cases(rng, 30, fuzz_count() // 2):
        check_decoder(payload)
    for payload in mutations(rng, [message.encode() for message in MESSAGES], fuzz_count() // 2):
        check_decoder(payload)


# ---- the extension on one connection


class Side:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def rendezvous_asked(self, asker: str, target: Endpoint, now: float) -> None:
        self.told.append(("asked", asker, target, now))

    def connect_told(self, introducer: str, peer: Endpoint, now: float, *, asked: Endpoint | None) -> None:
        self.told.append(("connect", introducer, peer, now, asked))

    def rendezvous_failed(self, introducer: str, target: Endpoint, code: ErrorCode | None, now: float) -> None:
        self.told.append(("failed", introducer, target, code, now))


def to_nobody(payload: bytes) -> None:
    """A `Say` that is not listened to."""


class Connection:
    """One end: the extension, what it said and what its side was told."""

    def __init__(self) -> None:
        self.said: list[bytes] = []
        self.side = Side()
        side: HolepunchSide[str] = self.side
        self.extension = Holepunch(self.said.append, side, "key")
        extension: Extension = self.extension
        extension.handshake_received(ExtendedHandshake(m={"ut_holepunch": 4}), 0.0)

    def receive(self, message: HolepunchMessage, now: float = 0.0) -> None:
        self.extension.receive_untrusted(message.encode(), now)

    @property
    def ignored(self) -> dict[str, int]:
        return dict(self.extension.ignored)


@pytest.fixture
def connection() -> Connection:
    return Connection()


def test_each_of_our_three_sayings(connection: Connection) -> None:
    connection.extension.ask(V4)
    connection.extension.tell(V6)
    connection.extension.refuse(V4, ErrorCode.NO_SUPPORT)
    assert connection.said == [
        Rendezvous(V4).encode(),
        Connect(V6).encode(),
        PunchError(V4, ErrorCode.NO_SUPPORT).encode(),
    ]


def test_a_rendezvous_is_passed_on(connection: Connection) -> None:
    connection.receive(Rendezvous(V4), 3.0)
    assert connection.side.told == [("asked", "key", V4, 3.0)]


def test_a_connect_says_what_it_answers(connection: Connection) -> None:
    seen_elsewhere = Endpoint(V4.host, 40000)
    for target in (V4, V6):
        connection.extension.ask(target)
    connection.receive(Connect(V6), 1.0)
    connection.receive(Connect(seen_elsewhere), 2.0)
    connection.receive(Connect(seen_elsewhere), 3.0)
    assert connection.side.told == [
        ("connect", "key", V6, 1.0, V6),
        ("connect", "key", seen_elsewhere, 2.0, V4),
        ("connect", "key", seen_elsewhere, 3.0, None),
    ]


def test_of_two_targets_at_one_host_the_exact_one_is_answered_then_the_oldest(connection: Connection) -> None:
    targets = [Endpoint(V4.host, port) for port in (1, 2, 3)]
    for target in targets:
        connection.extension.ask(target)
    for port in (3, 9, 9):
        connection.receive(Connect(Endpoint(V4.host, port)))
    assert [told[-1] for told in connection.side.told] == [targets[2], targets[0], targets[1]]


def test_an_error_counts_once_and_only_for_what_was_asked(connection: Connection) -> None:
    error = PunchError(V4, ErrorCode.NOT_CONNECTED)
    connection.receive(error, 1.0)
    connection.extension.ask(V4)
    connection.receive(error, 2.0)
    connection.receive(error, 3.0)
    assert connection.side.told == [("failed", "key", V4, ErrorCode.NOT_CONNECTED, 2.0)]
    assert connection.ignored == {"unasked-error": 2}


def test_what_is_not_answered_is_forgotten(connection: Connection) -> None:
    connection.extension.tick(100.0)
    connection.extension.ask(V4)
    connection.extension.tick(100.0 + ANSWER_SECONDS - 0.1)
    connection.extension.ask(V6)
    connection.extension.tick(100.0 + ANSWER_SECONDS)
    connection.receive(PunchError(V4, ErrorCode.NO_SELF), 131.0)
    connection.receive(PunchError(V6, ErrorCode.NO_SELF), 131.0)
    assert [told[2] for told in connection.side.told] == [V6]


def test_what_is_asked_again_is_remembered_anew(connection: Connection) -> None:
    connection.extension.ask(V4)
    connection.extension.ask(V6)
    connection.extension.tick(20.0)
    connection.extension.ask(V4)
    connection.receive(PunchError(V6, ErrorCode.NO_SELF), ANSWER_SECONDS)
    connection.receive(Connect(V4), 20.0 + ANSWER_SECONDS - 1)
    assert connection.side.told == [("connect", "key", V4, 49.0, V4)]
    assert connection.ignored == {"unasked-error": 1}


def test_targets_without_an_answer_are_bounded(connection: Connection) -> None:
    for number in range(1, 2 * MAX_PENDING + 1):
        connection.extension.ask(Endpoint(V4.host, number))
    for number in range(1, 2 * MAX_PENDING + 1):
        connection.receive(PunchError(Endpoint(V4.host, number), ErrorCode.NO_SUPPORT))
    assert len(connection.said) == 2 * MAX_PENDING
    assert connection.ignored == {"unasked-error": MAX_PENDING}


def test_a_stranger_makes_us_dial_only_so_often(connection: Connection) -> None:
    for number in range(1, 101):
        connection.receive(Connect(Endpoint("20.0.0.1", number)), 0.0)
    assert len(connection.side.told) == UNASKED_BURST
    connection.receive(Connect(V4), UNASKED_SECONDS)
    connection.receive(Connect(V4), UNASKED_SECONDS)
    assert len(connection.side.told) == UNASKED_BURST + 1
    connection.extension.ask(V4)
    connection.receive(Connect(V4), UNASKED_SECONDS)
    assert connection.side.told[-1] == ("connect", "key", V4, UNASKED_SECONDS, V4), "asked for is never too many"
    assert connection.ignored == {"too-many-connects": 100 - UNASKED_BURST + 1}


@pytest.mark.parametrize("host", ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1"])
def test_a_connect_to_where_nobody_can_be_is_ignored(connection: Connection, host: str) -> None:
    connection.receive(Connect(Endpoint(host, 6881)))
    connection.receive(Connect(Endpoint(V4.host, 0)))
    assert connection.side.told == []
    assert connection.ignored == {"not-dialable": 2}


def test_an_unknown_type_is_counted_and_a_bad_message_ends_the_connection(connection: Connection) -> None:
    connection.extension.receive_untrusted(b"\x07", 0.0)
    assert connection.ignored == {"unknown-type": 1}
    with pytest.raises(RemoteProtocolError) as caught:
        connection.extension.receive_untrusted(b"\x00\x00", 0.0)
    assert caught.value.reason == "bad-holepunch"


def test_support_is_what_the_last_handshake_that_names_it_says() -> None:
    extension = Connection().extension
    assert extension.supported
    extension.handshake_received(ExtendedHandshake(m={"ut_pex": 1}), 1.0)
    assert extension.supported
    extension.handshake_received(ExtendedHandshake(m={"ut_holepunch": 0}), 2.0)
    assert not extension.supported
    assert not Holepunch(to_nobody, Side(), "key").supported


def test_nothing_is_remembered_after_the_end(connection: Connection) -> None:
    connection.extension.ask(V4)
    connection.extension.closed()
    assert not connection.extension._asked


# ---- the relay


@dataclass
class Peer:
    """A connection as the relay sees it."""

    observed: Endpoint
    listens: Endpoint | None = None
    path: PathName = "utp"
    speaks_holepunch: bool = True
    is_hidden: bool = False
    said: list[bytes] = field(default_factory=list)

    @property
    def say(self) -> Say:
        return self.said.append

    def heard(self) -> list[HolepunchMessage | None]:
        """What it was told since it was last asked."""
        said, self.said = self.said, []
        return [parse_holepunch_untrusted(each) for each in said]


OWN = Endpoint("20.9.9.9", 6881)
ASKER = Endpoint("20.1.0.1", 50001)
TARGET = Endpoint("20.2.0.1", 50002)


def relay(peers: Iterable[Relayable]) -> HolepunchRelay:
    listed = list(peers)
    return HolepunchRelay(lambda: listed, lambda endpoint: endpoint == OWN)


def errors(made: HolepunchRelay) -> dict[str, int]:
    return dict(made.statistics().errors)


def test_both_are_told_where_the_other_is_seen() -> None:
    asker, target, other = Peer(ASKER), Peer(TARGET), Peer(Endpoint("20.3.0.1", 1))
    made = relay([other, asker, target])
    made.rendezvous_asked(asker, TARGET, 0.0)
    assert asker.heard() == [Connect(TARGET)]
    assert target.heard() == [Connect(ASKER)]
    assert other.heard() == []
    assert made.statistics() == RelayStatistics(1, 1, {})


def test_a_peer_is_found_by_where_it_listens_and_its_udp_mapping_is_told() -> None:
    listens = Endpoint(TARGET.host, 6881)
    asker, target = Peer(ASKER, Endpoint(ASKER.host, 6881)), Peer(TARGET, listens)
    relay([asker, target]).rendezvous_asked(asker, listens, 0.0)
    assert asker.heard() == [Connect(TARGET)]
    assert target.heard() == [Connect(ASKER)]


def test_of_a_peer_seen_over_tcp_the_listening_port_is_told_if_it_is_on_that_host() -> None:
    target = Peer(TARGET, Endpoint(TARGET.host, 6881), "tcp")
    elsewhere = Peer(Endpoint("20.4.0.1", 50004), Endpoint("20.5.0.1", 6881), "tcp")
    silent = Peer(Endpoint("20.6.0.1", 50006), None, "tcp")
    asker = Peer(ASKER, Endpoint(ASKER.host, 6881), "tcp")
    made = relay([asker, target, elsewhere, silent])
    for each in (target, elsewhere, silent):
        made.rendezvous_asked(asker, each.observed, 0.0)
        assert each.heard() == [Connect(Endpoint(ASKER.host, 6881))]
    assert asker.heard() == [
        Connect(Endpoint(TARGET.host, 6881)),
        Connect(elsewhere.observed),
        Connect(silent.observed),
    ]


def test_of_one_that_is_hidden_and_dials_from_its_listening_port_it_is_told_where_that_is_seen() -> None:
    listens = Endpoint(TARGET.host, 6881)
    asker, target = Peer(ASKER), Peer(TARGET, listens, "tcp", is_hidden=True)
    relay([asker, target]).rendezvous_asked(asker, listens, 0.0)
    assert asker.heard() == [Connect(TARGET)]


def test_a_peer_held_twice_is_told_of_over_utp() -> None:
    listens = Endpoint(TARGET.host, 6881)
    over_tcp, over_utp = Peer(Endpoint(TARGET.host, 7), listens, "tcp"), Peer(TARGET, listens, "utp-punched")
    asker = Peer(ASKER)
    relay([over_tcp, over_utp, asker]).rendezvous_asked(asker, listens, 0.0)
    assert asker.heard() == [Connect(TARGET)]
    assert (len(over_tcp.said), len(over_utp.said)) == (0, 1)


def test_of_two_peers_at_one_endpoint_the_one_seen_there_is_meant() -> None:
    listening, seen = Peer(Endpoint(TARGET.host, 1), TARGET), Peer(TARGET)
    asker = Peer(ASKER)
    relay([listening, seen, asker]).rendezvous_asked(asker, TARGET, 0.0)
    assert (len(listening.said), len(seen.said)) == (0, 1)


@pytest.mark.parametrize(
    ("target", "reason", "code"),
    [
        (Endpoint(TARGET.host, 1), "not-connected", ErrorCode.NOT_CONNECTED),
        (Endpoint("20.8.8.8", 6881), "not-connected", ErrorCode.NOT_CONNECTED),
        (Endpoint(TARGET.host, 0), "no-such-peer", ErrorCode.NO_SUCH_PEER),
        (Endpoint("224.0.0.1", 6881), "no-such-peer", ErrorCode.NO_SUCH_PEER),
        (Endpoint("0.0.0.0", 6881), "no-such-peer", ErrorCode.NO_SUCH_PEER),
        (OWN, "no-self", ErrorCode.NO_SELF),
        (ASKER, "no-self", ErrorCode.NO_SELF),
        (Endpoint(ASKER.host, 6881), "no-self", ErrorCode.NO_SELF),
        (Endpoint("127.0.0.1", 631), "not-bridged", ErrorCode.NO_SUCH_PEER),
        (Endpoint("192.168.1.1", 80), "not-bridged", ErrorCode.NO_SUCH_PEER),
        (Endpoint("100.64.0.9", 6881), "not-bridged", ErrorCode.NO_SUCH_PEER),
        (Endpoint("169.254.1.1", 6881), "not-bridged", ErrorCode.NO_SUCH_PEER),
        (V6, "not-bridged", ErrorCode.NO_SUCH_PEER),
    ],
)
def test_what_cannot_be_done_is_answered_and_counted(target: Endpoint, reason: str, code: ErrorCode) -> None:
    asker = Peer(ASKER, Endpoint(ASKER.host, 6881))
    inside = [Peer(Endpoint(host, 6881)) for host in ("192.168.1.1", "127.0.0.1", "100.64.0.9")]
    made = relay([asker, Peer(TARGET), *inside, Peer(V6)])
    made.rendezvous_asked(asker, target, 0.0)
    assert asker.heard() == [PunchError(target, code)]
    assert made.statistics() == RelayStatistics(1, 0, {reason: 1})


def test_neighbours_behind_one_nat_may_listen_on_one_port() -> None:
    listens = Endpoint(TARGET.host, 6881)
    asker, target = Peer(Endpoint(TARGET.host, 1), listens), Peer(TARGET, listens)
    relay([asker, target]).rendezvous_asked(asker, listens, 0.0)
    assert asker.heard() == [Connect(TARGET)]


def test_a_private_peer_is_not_found_by_a_public_address_it_claims() -> None:
    asker, inside = Peer(ASKER), Peer(Endpoint("192.168.1.5", 6881), TARGET)
    made = relay([asker, inside])
    made.rendezvous_asked(asker, TARGET, 0.0)
    assert asker.heard() == [PunchError(TARGET, ErrorCode.NO_SUCH_PEER)]
    assert inside.heard() == []
    assert errors(made) == {"not-bridged": 1}


def test_a_target_without_the_extension_is_not_told() -> None:
    asker, target = Peer(ASKER), Peer(TARGET, speaks_holepunch=False)
    made = relay([asker, target])
    made.rendezvous_asked(asker, TARGET, 0.0)
    assert asker.heard() == [PunchError(TARGET, ErrorCode.NO_SUPPORT)]
    assert target.heard() == []
    assert errors(made) == {"no-support": 1}


def test_an_asker_without_the_extension_is_ignored_silently() -> None:
    asker, target = Peer(ASKER, speaks_holepunch=False), Peer(TARGET)
    made = relay([asker, target])
    made.rendezvous_asked(asker, TARGET, 0.0)
    assert asker.heard() == target.heard() == []
    assert errors(made) == {"asker-without-support": 1}


@pytest.mark.parametrize("path", ["relayed", "turn"])
def test_who_is_not_seen_directly_is_neither_told_nor_found(path: PathName) -> None:
    hidden, asker = Peer(TARGET, path=path), Peer(ASKER)
    made = relay([hidden, asker])
    made.rendezvous_asked(asker, TARGET, 0.0)
    made.rendezvous_asked(hidden, ASKER, 0.0)
    assert asker.heard() == [PunchError(TARGET, ErrorCode.NOT_CONNECTED)]
    assert hidden.heard() == [PunchError(ASKER, ErrorCode.NO_SUCH_PEER)]


@pytest.mark.parametrize(
    ("one", "other"), [("127.0.0.1", "127.0.0.1"), ("192.168.1.2", "10.0.0.2"), ("::1", "::1"), ("2a0e::1", "2a0f::1")]
)
def test_peers_of_one_realm_meet(one: str, other: str) -> None:
    asker, target = Peer(Endpoint(one, 5001)), Peer(Endpoint(other, 5002))
    relay([asker, target]).rendezvous_asked(asker, target.observed, 0.0)
    assert asker.heard() == [Connect(target.observed)]
    assert target.heard() == [Connect(asker.observed)]


@pytest.mark.parametrize(
    ("one", "other"),
    [("20.0.0.1", "10.0.0.1"), ("10.0.0.1", "127.0.0.1"), ("20.0.0.1", "2a0e::1"), ("fe80::1", "fe80::2")],
)
def test_nobody_is_sent_across_a_border(one: str, other: str) -> None:
    ends = Endpoint(one, 1), Endpoint(other, 1)
    assert not may_meet(*ends)
    assert not may_meet(*reversed(ends))


def test_an_honest_peer_that_tries_a_target_four_times_a_minute_is_served() -> None:
    asker, target = Peer(ASKER), Peer(TARGET)
    made = relay([asker, target])
    for now in (0.0, 0.2, 1.0, 3.0, 60.0, 75.0, 90.0, 105.0):
        made.rendezvous_asked(asker, TARGET, now)
    assert made.statistics().connected == 8


def test_a_pair_is_brought_together_only_so_often() -> None:
    asker, target, other = Peer(ASKER), Peer(TARGET), Peer(Endpoint("20.3.0.1", 3))
    made = relay([asker, target, other])
    for _ in range(PAIR_BURST + 3):
        made.rendezvous_asked(asker, TARGET, 0.0)
    assert len(target.heard()) == PAIR_BURST
    assert asker.heard()[PAIR_BURST:] == [PunchError(TARGET, ErrorCode.NOT_CONNECTED)] * 3
    made.rendezvous_asked(asker, other.observed, 0.0)
    made.rendezvous_asked(asker, TARGET, PAIR_SECONDS)
    assert (len(target.heard()), len(other.heard())) == (1, 1)
    assert errors(made) == {"too-many-of-pair": 3}


def test_a_source_is_limited_by_address_whatever_it_asks() -> None:
    askers = [Peer(Endpoint(ASKER.host, port)) for port in (1, 2)]
    made = relay(askers)
    for number in range(100):
        made.rendezvous_asked(askers[number % 2], Endpoint("20.7.0.1", 1 + number), 0.0)
    assert errors(made) == {"not-connected": SOURCE_BURST, "too-many-of-source": 100 - SOURCE_BURST}
    made.rendezvous_asked(askers[0], TARGET, SOURCE_SECONDS)
    assert errors(made)["not-connected"] == SOURCE_BURST + 1


def test_addresses_of_one_ipv6_network_are_one_source() -> None:
    askers = [Peer(Endpoint(f"2a0e:1::{number:x}", 1)) for number in range(1, 101)]
    made = relay(askers)
    for asker in askers:
        made.rendezvous_asked(asker, Endpoint("2a0f::1", 1), 0.0)
    assert errors(made)["too-many-of-source"] == 100 - SOURCE_BURST


def test_a_target_is_told_only_so_often_by_however_many() -> None:
    askers = [Peer(Endpoint(f"20.1.{number}.1", 1)) for number in range(100)]
    target = Peer(TARGET)
    made = relay([*askers, target])
    for asker in askers:
        made.rendezvous_asked(asker, TARGET, 0.0)
    assert len(target.heard()) == TARGET_BURST
    assert errors(made) == {"too-many-of-target": 100 - TARGET_BURST}


def test_what_is_remembered_of_askers_is_bounded() -> None:
    target = Peer(TARGET)
    askers = [Peer(Endpoint(f"20.{1 + number // 250}.{number % 250}.1", 1)) for number in range(2 * MAX_REMEMBERED)]
    made = relay([target])
    for now, asker in enumerate(askers):
        made.rendezvous_asked(asker, TARGET, 100.0 * now)
    for allowances in (made._sources, made._pairs, made._targets):
        assert len(allowances._kept) <= MAX_REMEMBERED
    assert made.statistics().connected == 2 * MAX_REMEMBERED


def test_the_extensions_of_three_nodes_and_the_relay_bring_two_together() -> None:
    """Initiator, relay and target, joined by hand."""
    at_relay = {"initiator": Peer(ASKER), "target": Peer(TARGET, Endpoint(TARGET.host, 6881))}
    made = relay(at_relay.values())

    class RelaySide(Side):
        def rendezvous_asked(self, asker: str, target: Endpoint, now: float) -> None:
            made.rendezvous_asked(at_relay[asker], target, now)

    ends = {"initiator": Connection(), "target": Connection()}
    ends["initiator"].extension.ask(Endpoint(TARGET.host, 6881))
    relays_end = Holepunch(to_nobody, RelaySide(), "initiator")
    for payload in ends["initiator"].said:
        relays_end.receive_untrusted(payload, 1.0)
    for name, end in ends.items():
        for payload in at_relay[name].said:
            end.extension.receive_untrusted(payload, 2.0)
    assert ends["initiator"].side.told == [("connect", "key", TARGET, 2.0, Endpoint(TARGET.host, 6881))]
    assert ends["target"].side.told == [("connect", "key", ASKER, 2.0, None)]
