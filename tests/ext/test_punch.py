"""sw_punch: messages, the extension's limits, and what the introducer's desk does and refuses."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.bencode import decode_untrusted, encode
from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError
from swarm.events import PathName
from swarm.ext.punch import MESSAGES_BURST, OFFERED_BURST, OFFERED_SECONDS, Punch
from swarm.ext.punch_desk import LEAD, MAX_SESSIONS, PAIR_BURST, SESSION_SECONDS, SOURCE_BURST, Observation, PunchDesk
from swarm.ext.punch_message import (
    MAX_CANDIDATES,
    MAX_DELAY,
    MAX_NEIGHBOURS,
    MAX_PAYLOAD,
    MAX_PORTS,
    Answer,
    Answered,
    Go,
    Measure,
    Offer,
    Offered,
    PunchMessage,
    Refusal,
    Terms,
    parse_punch_message_untrusted,
    usable,
)
from swarm.wire.extended import ExtendedHandshake
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

SESSION = bytes(range(16))
NONCE = bytes(range(16, 32))
HERE, THERE, RELAY = (Endpoint(f"20.0.{number}.7", 6881) for number in (1, 2, 3))
SIXTH = Endpoint("2a0e::7", 6881)
TERMS = Terms((HERE, SIXTH), (THERE,), (RELAY,), "address-and-port-dependent", -2, 40)
MEETING = replace(TERMS, relayed=())
MESSAGES: tuple[PunchMessage, ...] = (
    Offer(SESSION, THERE, TERMS),
    Offer(SESSION, SIXTH),
    Offered(SESSION, HERE, TERMS),
    Answer(SESSION, Terms(mapping="endpoint-independent", step=0)),
    Answered(SESSION, SIXTH, TERMS),
    Measure(SESSION, NONCE, (1, 65535, 4000)),
    Go(SESSION, 12, 100, (4000, 4001), (6881,)),
    Refusal(SESSION, "not-connected"),
)


# ---- messages


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_what_is_encoded_is_read_back(message: PunchMessage) -> None:
    assert parse_punch_message_untrusted(message.encode()) == message
    assert len(message.encode()) < 300


def test_the_bytes_of_a_go() -> None:
    expected = b"d2:ini12e3:rtti100e1:s16:" + SESSION + b"1:t2:go4:they2:\x1a\xe11:vi1e3:you4:\x0f\xa0\x0f\xa1e"
    assert Go(SESSION, 12, 100, (4000, 4001), (6881,)).encode() == expected


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_truncation_is_refused(message: PunchMessage) -> None:
    encoded = message.encode()
    for end in range(len(encoded)):
        with pytest.raises(RemoteProtocolError, match="bad-punch-message"):
            parse_punch_message_untrusted(encoded[:end])


def changed(message: PunchMessage, **keys: object) -> bytes:
    said = decode_untrusted(message.encode())
    assert isinstance(said, dict)
    for key, value in keys.items():
        said[key.encode()] = value  # type: ignore[assignment]
    return encode(said)


def test_unknown_keys_versions_and_types_are_ignored() -> None:
    go = MESSAGES[6]
    assert parse_punch_message_untrusted(changed(go, zz=b"new")) == go
    assert parse_punch_message_untrusted(changed(go, v=2)) is None
    assert parse_punch_message_untrusted(changed(go, t=b"wait")) is None


@pytest.mark.parametrize(
    ("number", "keys"),
    [
        (0, {"s": SESSION[1:]}),
        (0, {"s": 5}),
        (0, {"to": b"12345"}),
        (0, {"to": 1}),
        (0, {"v": b"1"}),
        (0, {"t": 1}),
        (0, {"u": b"1234567"}),
        (0, {"u": bytes(6 * MAX_CANDIDATES + 6)}),
        (0, {"x6": bytes(17)}),
        (0, {"st": 65}),
        (0, {"st": b"1"}),
        (0, {"rtt": -1}),
        (2, {"fr": b""}),
        (5, {"n": NONCE + b"x"}),
        (5, {"p": b""}),
        (5, {"p": b"\0\0"}),
        (5, {"p": b"abc"}),
        (5, {"p": b"ab" * (MAX_PORTS + 1)}),
        (6, {"in": MAX_DELAY + 1}),
        (6, {"in": -1}),
        (6, {"you": []}),
        (6, {"they": b"\0\1\0\0"}),
        (7, {"r": 3}),
        (7, {"zz": bytes(MAX_PAYLOAD)}),
    ],
)
def test_what_is_out_of_bounds_is_refused(number: int, keys: dict[str, object]) -> None:
    with pytest.raises(RemoteProtocolError, match="bad-punch-message"):
        parse_punch_message_untrusted(changed(MESSAGES[number], **keys))


@pytest.mark.parametrize("payload", [b"", b"i1e", b"le", b"de", b"d1:vi1ee", MESSAGES[0].encode() + b"x"])
def test_no_message_at_all_is_refused(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="bad-punch-message"):
        parse_punch_message_untrusted(payload)


@pytest.mark.parametrize("reason", [b"", b"Has Spaces", b"\xff", b"x" * 41])
def test_a_reason_that_is_no_slug_is_read_as_failed(reason: bytes) -> None:
    assert parse_punch_message_untrusted(changed(MESSAGES[7], r=reason)) == Refusal(SESSION, "failed")


def test_a_mapping_without_a_name_is_read_as_unknown() -> None:
    message = parse_punch_message_untrusted(changed(MESSAGES[0], m=b"magic"))
    assert isinstance(message, Offer)
    assert message.terms.mapping == "unknown"


def try_to_parse(payload: bytes) -> None:
    try:
        message = parse_punch_message_untrusted(payload)
    except RemoteProtocolError as error:
        assert error.reason == "bad-punch-message"
    else:
        assert message is None or parse_punch_message_untrusted(message.encode()) == message


@given(st.binary(max_size=400))
def test_any_bytes_give_a_message_or_the_error(payload: bytes) -> None:
    try_to_parse(payload)


def test_random_and_damaged_messages_give_a_message_or_the_error() -> None:
    seed = fuzz_seed()
    print(f"SWARM_FUZZ_SEED={seed}")
    rng = random.Random(seed)
    for payload in random_bytes_cases(rng, 300, fuzz_count() // 2):
        try_to_parse(payload)
    for payload in mutations(rng, [message.encode() for message in MESSAGES], fuzz_count() // 2):
        try_to_parse(payload)


def test_candidates_lead_to_the_peer_that_named_them_or_into_the_lan_that_we_share() -> None:
    lan, loopback, third = Endpoint("192.168.1.5", 1), Endpoint("127.0.0.1", 1), Endpoint("20.9.9.9", 1)
    other_port, nowhere = Endpoint(HERE.host, 1), Endpoint(HERE.host, 0)
    named = (HERE, other_port, nowhere, lan, loopback, third)
    terms = Terms(udp=named, tcp=named, relayed=(third, lan, Endpoint("224.0.0.1", 5)))
    stranger = usable(terms, HERE.host, THERE.host, is_neighbour)
    assert (stranger.udp, stranger.tcp, stranger.relayed) == ((HERE, other_port), (HERE, other_port), (third,))
    assert usable(terms, HERE.host, None, is_neighbour).udp == (HERE, other_port)
    assert usable(terms, HERE.host, HERE.host, is_neighbour).udp == (HERE, other_port, lan)
    assert usable(terms, HERE.host, HERE.host, lambda host: False).udp == (HERE, other_port)


def test_an_introducer_that_names_our_own_address_points_at_few_hosts_of_our_network() -> None:
    inside = tuple(Endpoint(f"192.168.1.{number}", 80) for number in range(1, 9))
    elsewhere = tuple(Endpoint(f"10.0.0.{number}", 80) for number in range(1, 9))
    heard = usable(Terms(udp=elsewhere + inside, tcp=inside), HERE.host, HERE.host, is_neighbour)
    assert (heard.udp, heard.tcp) == (inside[:MAX_NEIGHBOURS], inside[:MAX_NEIGHBOURS])


def is_neighbour(host: str) -> bool:
    return host.startswith("192.168.1.")


# ---- the extension


@dataclass
class Located:
    observed: Endpoint
    listens: Endpoint | None = None
    path: PathName = "utp"
    sees_us_at: str | None = None


@dataclass
class Side:
    told: list[PunchMessage] = field(default_factory=list)
    closed: int = 0

    def punch_told(self, by: Punch, message: PunchMessage, now: float) -> None:
        self.told.append(message)

    def punch_closed(self, by: Punch) -> None:
        self.closed += 1


def test_messages_reach_the_side_and_unknown_ones_are_counted() -> None:
    side, said = Side(), list[bytes]()
    punch = Punch(said.append, side, Located(HERE))
    punch.receive_untrusted(MESSAGES[6].encode(), 0.0)
    punch.receive_untrusted(changed(MESSAGES[6], v=9), 0.0)
    punch.tell(MESSAGES[7])
    punch.tick(1.0)
    punch.closed()
    assert (side.told, side.closed, said) == ([MESSAGES[6]], 1, [MESSAGES[7].encode()])
    assert punch.ignored == {"unknown-type": 1}


def test_support_follows_the_handshake() -> None:
    punch = Punch(lambda payload: None, Side(), Located(HERE))
    assert not punch.supported
    for ext_id, supported in ((3, True), (0, False)):
        punch.handshake_received(ExtendedHandshake(m={Punch.NAME: ext_id}), 0.0)
        assert punch.supported is supported


def test_an_introducer_calls_us_to_so_many_meetings_and_hears_that_more_are_too_many() -> None:
    side, said = Side(), list[bytes]()
    punch = Punch(said.append, side, Located(HERE))
    for _ in range(OFFERED_BURST + 3):
        punch.receive_untrusted(MESSAGES[2].encode(), 0.0)
    assert (len(side.told), punch.ignored["too-many-offered"]) == (OFFERED_BURST, 3)
    assert said == [Refusal(SESSION, "too-many-offered").encode()] * 3
    punch.receive_untrusted(MESSAGES[2].encode(), OFFERED_SECONDS)
    assert len(side.told) == OFFERED_BURST + 1


def test_a_flood_of_messages_is_rationed() -> None:
    side = Side()
    punch = Punch(lambda payload: None, side, Located(HERE))
    for _ in range(MESSAGES_BURST + 5):
        punch.receive_untrusted(MESSAGES[7].encode(), 0.0)
    assert (len(side.told), punch.ignored["too-many-messages"]) == (MESSAGES_BURST, 5)


# ---- the desk


class FakePorts:
    """The introducer's further ports, which see what the test says."""

    def __init__(self) -> None:
        self.room = True
        self.ends: list[Mapping[bytes, str]] = []
        self.opened: Callable[[tuple[int, ...]], None] = lambda ports: None
        self.done: Callable[[Mapping[bytes, Observation]], None] = lambda seen: None

    def observe(
        self,
        ends: Mapping[bytes, str],
        opened: Callable[[tuple[int, ...]], None],
        done: Callable[[Mapping[bytes, Observation]], None],
    ) -> bool:
        self.ends.append(ends)
        self.opened, self.done = opened, done
        return self.room


class Desk:
    """An introducer with connections."""

    def __init__(self, *observed: Endpoint, own: Endpoint = RELAY) -> None:
        self.said: dict[Endpoint, list[PunchMessage]] = {}
        self.ports = FakePorts()
        self.introduces = True
        self.punches = [self.connect(each) for each in observed]
        self.desk = PunchDesk(
            lambda: self.punches,
            is_own=lambda endpoint: endpoint == own,
            observes=self.ports,
            rng=random.Random(1),
            introduces=lambda: self.introduces,
        )

    def connect(self, observed: Endpoint, path: PathName = "utp", *, supported: bool = True) -> Punch:
        heard = self.said[observed] = []

        def say(payload: bytes) -> None:
            message = parse_punch_message_untrusted(payload)
            assert message is not None
            heard.append(message)

        punch = Punch(say, Side(), Located(observed, Endpoint(observed.host, 50000), path))
        punch.supported = supported
        return punch

    def offer(
        self,
        target: Endpoint = THERE,
        *,
        number: int = 0,
        session: bytes = SESSION,
        now: float = 0.0,
        terms: Terms = MEETING,
    ) -> None:
        self.desk.offer_made(self.punches[number], Offer(session, target, terms), now)

    def answer(self, *, number: int = 1, now: float = 0.0) -> None:
        self.desk.answer_made(self.punches[number], Answer(SESSION), now)

    def refused(self, number: int = 0) -> str | None:
        """The reason of the last message to a connection, if it is a refusal."""
        last = self.said[self.punches[number].located.observed][-1]
        return last.reason if isinstance(last, Refusal) else None


def test_a_meeting_from_offer_to_go_with_what_the_introducer_saw_itself() -> None:
    made = Desk(HERE, THERE)
    made.offer()
    assert made.said[THERE] == [Offered(SESSION, HERE, MEETING)]
    made.answer()
    assert made.said[HERE] == [Answered(SESSION, THERE)]
    (ends,) = made.ports.ends
    assert list(ends.values()) == [HERE.host, THERE.host]
    first, second = ends
    made.ports.opened((1001, 1002))
    assert made.said[HERE][-1] == Measure(SESSION, first, (1001, 1002))
    assert made.said[THERE][-1] == Measure(SESSION, second, (1001, 1002))
    made.ports.done({first: Observation((5, 6), 0.1), second: Observation((7, 7), 0.3)})
    lead = round(1000 * LEAD)
    assert made.said[HERE][-1] == Go(SESSION, lead + 100, 400, (5, 6), (7, 7))  # half of the difference later
    assert made.said[THERE][-1] == Go(SESSION, lead, 400, (7, 7), (5, 6))
    assert made.desk.statistics().gone == 1


def test_ends_that_only_tell_where_they_are_relayed_are_not_measured() -> None:
    made = Desk(HERE, THERE)
    made.offer(terms=TERMS)
    assert made.said[THERE] == [Offered(SESSION, HERE, TERMS)]
    made.answer()
    assert made.said[HERE] == [Answered(SESSION, THERE)]
    assert made.ports.ends == []
    assert not made.desk.refused(made.punches[0], Refusal(SESSION, "cancelled"), 0.0), "nothing is left of it"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (Endpoint("20.0.2.7", 0), "no-such-peer"),
        (Endpoint("224.0.0.1", 6881), "no-such-peer"),
        (RELAY, "no-self"),
        (HERE, "no-self"),
        (Endpoint(HERE.host, 50000), "no-self"),
        (Endpoint("20.0.9.9", 6881), "not-connected"),
        (Endpoint("192.168.1.9", 6881), "not-bridged"),
    ],
)
def test_offers_that_lead_nowhere_are_refused(target: Endpoint, reason: str) -> None:
    made = Desk(HERE, THERE, Endpoint("192.168.1.9", 6881))
    made.offer(target)
    assert made.refused() == reason
    assert made.desk.statistics().refused == {reason: 1}
    assert made.said[THERE] == []


def test_a_target_is_found_by_where_it_listens() -> None:
    made = Desk(HERE, THERE)
    made.offer(Endpoint(THERE.host, 50000))
    assert made.said[THERE] == [Offered(SESSION, HERE, MEETING)]


def test_neighbours_behind_one_nat_may_listen_on_one_port() -> None:
    neighbour = Endpoint(HERE.host, 777)
    made = Desk(HERE, neighbour)
    made.offer(Endpoint(HERE.host, 50000))
    assert made.said[neighbour] == [Offered(SESSION, HERE, MEETING)]


def test_peers_that_cannot_take_part_are_not_brought_together() -> None:
    made = Desk(HERE)
    made.punches.append(made.connect(THERE, supported=False))
    made.offer()
    assert made.refused() == "no-support"
    made.punches[1] = made.connect(THERE, "relayed")
    made.offer()
    assert made.refused() == "not-connected"
    made.punches[0] = made.connect(HERE, "turn")
    made.punches[1] = made.connect(THERE)
    made.offer()
    assert made.refused() == "not-bridged"
    made.introduces = False
    made.offer()
    assert made.refused() == "no-introducer"


def test_offers_are_rationed_by_source_pair_and_meetings_under_way() -> None:
    made = Desk(HERE, THERE, *(Endpoint(f"20.1.{number}.1", 1) for number in range(40)))
    for number in range(PAIR_BURST + 1):
        made.offer(session=bytes([number]) * 16)
    assert made.refused() == "too-many-of-pair"
    for number in range(SOURCE_BURST):
        made.offer(Endpoint(f"20.1.{number}.1", 1), session=bytes([100 + number]) * 16)
    assert made.refused() == "too-many-of-source"
    for number in range(MAX_SESSIONS):
        made.offer(Endpoint(f"20.1.{number}.1", 1), number=number + 10, session=bytes([200 + number]) * 16)
    assert made.refused(MAX_SESSIONS + 9) == "busy"


def test_a_session_of_somebody_else_cannot_be_taken_over() -> None:
    made = Desk(HERE, THERE, Endpoint("20.0.5.5", 1))
    made.offer()
    made.offer(Endpoint("20.0.5.5", 1))
    assert made.refused() == "busy"
    made.answer(number=2)
    made.answer(number=0)
    assert made.ports.ends == []
    assert not made.desk.refused(made.punches[2], Refusal(SESSION, "spite"), 0.0)
    made.answer()
    assert len(made.ports.ends) == 1
    made.answer()
    assert len(made.ports.ends) == 1


@pytest.mark.parametrize(("by", "told"), [(0, 1), (1, 0)])
def test_a_refusal_is_passed_on_and_ends_the_meeting(by: int, told: int) -> None:
    made = Desk(HERE, THERE)
    made.offer()
    assert made.desk.refused(made.punches[by], Refusal(SESSION, "busy"), 0.0)
    assert made.refused(told) == "busy"
    assert not made.desk.refused(made.punches[by], Refusal(SESSION, "busy"), 0.0)


def test_a_connection_that_ends_takes_its_meetings_with_it() -> None:
    made = Desk(HERE, THERE)
    made.offer()
    made.answer()
    made.desk.closed(made.punches[1])
    assert made.refused() == "not-connected"
    before = len(made.said[HERE])
    made.ports.opened((1, 2))
    made.ports.done({})
    assert len(made.said[HERE]) == before


def test_who_was_not_seen_is_not_sent_off() -> None:
    made = Desk(HERE, THERE)
    made.offer()
    made.answer()
    first = next(iter(made.ports.ends[0]))
    made.ports.done({first: Observation((1, 2, 3), 0.1)})
    assert made.refused(0) == made.refused(1) == "not-measured"


def test_without_room_to_measure_both_are_told() -> None:
    made = Desk(HERE, THERE)
    made.ports.room = False
    made.offer()
    made.answer()
    assert made.refused(0) == made.refused(1) == "busy"


def test_a_meeting_that_is_not_answered_is_forgotten() -> None:
    made = Desk(HERE, THERE)
    made.offer()
    made.answer(now=SESSION_SECONDS)
    assert made.ports.ends == []
