"""sw_reach: messages, the extension, helpers and diallers, and what the asker may conclude."""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.bencode import decode_untrusted, encode
from swarm.connect.reachability import (
    FAILURES,
    HELPER_PAUSE,
    NOTICE_PAUSE,
    UNABLE_PAUSE,
    VERDICT_AGE,
    ReachabilityProbe,
)
from swarm.connect.sent_to import MAX_UNINVITED, QUIET, SentTo
from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError
from swarm.events import PathName
from swarm.ext.extension import Extension, Say
from swarm.ext.reach import ASKED_BURST, ASKED_SECONDS, IDLE_BURST, SEEN_BURST, Reach, ReachAllowances
from swarm.ext.reach_desk import (
    DIALLER_SECONDS,
    DIALS_BURST,
    HELPS_BURST,
    MAX_DIALLERS,
    MAX_ERRANDS,
    PROBE_SECONDS,
    Acquaintance,
    ReachDesk,
    ReachLimits,
)
from swarm.ext.reach_message import (
    IDLE_NONCE_SIZE,
    MAX_PAYLOAD,
    NONCE_SIZE,
    OUTCOMES,
    TRANSPORTS,
    Forward,
    Idle,
    Outcome,
    Probe,
    ProbeResult,
    ReachMessage,
    Seen,
    Transport,
    dial_back_peer_id,
    nonce_of,
    parse_reach_message_untrusted,
)
from swarm.simnet.nat import Dependence, Nat, NatBehaviour
from swarm.stats.snapshot import Reachability
from swarm.wire.extended import ExtendedHandshake
from swarm.wire.handshake import Handshake, make_peer_id
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases

V4, V6 = Endpoint("20.1.2.3", 6881), Endpoint("2a0e::1", 6881)
NONCE = b"0123456789ab"
MESSAGES: list[ReachMessage] = [
    message
    for endpoint in (V4, V6)
    for transport in TRANSPORTS
    for message in (
        Seen(transport, endpoint),
        Probe(transport, endpoint, NONCE),
        Forward(transport, endpoint, NONCE),
    )
] + [ProbeResult(NONCE, outcome) for outcome in ("connected", "timed-out", "refused", "not-yours")]
MESSAGES.append(Idle(b"8 bytes!"))

# ---- messages


def test_the_layout_is_what_the_docstring_says() -> None:
    compact = bytes.fromhex("14010203 1ae1")
    assert Seen("utp", V4).encode() == b"d2:ep6:" + compact + b"3:net3:utp1:t4:seen1:vi1ee"
    assert Probe("tcp", V4, NONCE).encode() == (
        b"d2:ep6:" + compact + b"1:n12:" + NONCE + b"3:net3:tcp1:t5:probe1:vi1ee"
    )
    assert ProbeResult(NONCE, "timed-out").encode() == b"d1:n12:" + NONCE + b"1:r9:timed-out1:t6:result1:vi1ee"


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_every_message_is_read_back(message: ReachMessage) -> None:
    for made in (bytes, bytearray, memoryview):
        assert parse_reach_message_untrusted(made(message.encode())) == message
    assert len(message.encode()) < 100


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_truncations_trailing_bytes_and_missing_keys_are_refused(message: ReachMessage) -> None:
    whole = message.encode()
    said = decode_untrusted(whole)
    assert isinstance(said, dict)
    less = [encode({key: value for key, value in said.items() if key != missing}) for missing in said]
    for payload in [*(whole[:length] for length in range(len(whole))), whole + b"e", whole + b"\x00", *less]:
        with pytest.raises(RemoteProtocolError, match="bad-reach-message"):
            parse_reach_message_untrusted(payload)


def said(**changes: Any) -> bytes:
    known: dict[bytes, Any] = {
        b"v": 1,
        b"t": b"probe",
        b"net": b"tcp",
        b"ep": bytes.fromhex("140102031ae1"),
        b"n": NONCE,
    }
    return encode({**known, **{key.encode(): value for key, value in changes.items()}})


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"le",
        b"i1e",
        said(v=b"1"),
        said(t=1),
        said(net=b"quic"),
        said(net=1),
        said(ep=b"12345"),
        said(ep=[]),
        said(n=NONCE[1:]),
        said(n=NONCE + b"c"),
        said(n=5),
        said(t=b"result", r=5),
        said(more=b"x" * MAX_PAYLOAD),
    ],
)
def test_what_is_malformed_is_refused(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="bad-reach-message"):
        parse_reach_message_untrusted(payload)


def test_what_is_to_come_is_ignored() -> None:
    assert parse_reach_message_untrusted(said(more=[b"x"], zz={})) == Probe("tcp", V4, NONCE)
    assert parse_reach_message_untrusted(said(v=2, net=b"quic")) is None
    assert parse_reach_message_untrusted(said(t=b"dance")) is None
    assert parse_reach_message_untrusted(said(t=b"result", r=b"out-of-coffee")) == ProbeResult(NONCE, "failed")
    assert parse_reach_message_untrusted(said(t=b"result", r=b"\xff")) == ProbeResult(NONCE, "failed")


def test_whatever_comes_is_a_message_nothing_or_a_protocol_error() -> None:
    seed = fuzz_seed()
    rng, half = random.Random(seed), fuzz_count() // 2
    valid = [message.encode() for message in MESSAGES]
    read = 0
    for payload in (*random_bytes_cases(rng, 100, half), *mutations(rng, valid, half)):
        try:
            message = parse_reach_message_untrusted(payload)
        except RemoteProtocolError:
            continue
        if message is not None:
            assert parse_reach_message_untrusted(message.encode()) == message, seed
            read += 1
    assert read > half // 100, seed


@given(
    st.recursive(st.integers(-3, 3) | st.binary(max_size=20), lambda x: st.lists(x, max_size=3)), st.sampled_from("vtn")
)
def test_any_value_for_any_key(value: object, key: str) -> None:
    for name in (key, "ep", "net", "r"):
        try:
            parse_reach_message_untrusted(said(**{name: value}))
        except RemoteProtocolError as error:
            assert error.reason == "bad-reach-message"


def test_a_nonce_is_presented_as_a_peer_id_that_no_peer_has() -> None:
    peer_id = dial_back_peer_id(NONCE)
    assert Handshake(bytes(20), peer_id).peer_id == peer_id
    assert nonce_of(peer_id) == NONCE
    rng = random.Random(1)
    assert nonce_of(make_peer_id(rng)) is None
    assert nonce_of(b"-LT2110-123456789012") is None
    with pytest.raises(ValueError, match="12 bytes"):
        dial_back_peer_id(NONCE[1:])


# ---- the extension on one connection


@dataclass
class Recorder:
    """A side that writes down what it is told."""

    told: list[tuple[str, object]] = field(default_factory=list)

    def endpoint_seen(self, by: str, seen: Seen, now: float) -> None:
        self.told.append((by, seen))

    def probe_asked(self, asker: str, probe: Probe, now: float) -> None:
        self.told.append((asker, probe))

    def forward_asked(self, helper: str, forward: Forward, now: float) -> None:
        self.told.append((helper, forward))

    def result_told(self, by: str, result: ProbeResult, now: float) -> None:
        self.told.append((by, result))

    def idle_asked(self, asker: str, idle: Idle, now: float) -> None:
        self.told.append((asker, idle))


def test_each_message_goes_where_it_belongs() -> None:
    side, out = Recorder(), list[bytes]()
    reach = Reach(out.append, side, "peer", Seen("utp", V4))
    extension: Extension = reach
    extension.handshake_received(ExtendedHandshake(m={"ut_pex": 1}), 0.0)
    assert (reach.supported, out) == (False, [])
    extension.handshake_received(ExtendedHandshake(m={"sw_reach": 3}), 0.0)
    extension.handshake_received(ExtendedHandshake(m={"sw_reach": 3}), 1.0)
    assert (reach.supported, out) == (True, [Seen("utp", V4).encode()]), "told once"
    reach.ask(Probe("tcp", V4, NONCE))
    reach.forward(Forward("tcp", V4, NONCE))
    reach.tell(NONCE, "busy")
    reach.ask_late_answers(Idle(b"8 bytes!"))
    sent = [parse_reach_message_untrusted(payload) for payload in out[1:]]
    assert sent == [
        Probe("tcp", V4, NONCE),
        Forward("tcp", V4, NONCE),
        ProbeResult(NONCE, "busy"),
        Idle(b"8 bytes!"),
    ]
    for payload in out:
        extension.receive_untrusted(payload, 2.0)
    assert [what for _, what in side.told] == [Seen("utp", V4), *sent]
    extension.tick(3.0)
    extension.closed()
    assert not reach.supported


def test_who_asks_too_often_is_not_heard() -> None:
    side = Recorder()
    reach = Reach(lambda payload: None, side, "peer", None)
    for number in range(50):
        reach.receive_untrusted(Probe("tcp", V4, bytes([number]) * NONCE_SIZE).encode(), 0.0)
        reach.receive_untrusted(Forward("tcp", V4, bytes([number]) * NONCE_SIZE).encode(), 0.0)
        reach.receive_untrusted(Seen("tcp", V4).encode(), 0.0)
        reach.receive_untrusted(Idle(bytes([number]) * IDLE_NONCE_SIZE).encode(), 0.0)
    assert len(side.told) == 2 * ASKED_BURST + SEEN_BURST + IDLE_BURST
    assert reach.ignored == {
        "too-many-probes": 50 - ASKED_BURST,
        "too-many-forwards": 50 - ASKED_BURST,
        "too-many-seen": 50 - SEEN_BURST,
        "too-many-idle": 50 - IDLE_BURST,
    }
    reach.receive_untrusted(Probe("tcp", V4, NONCE).encode(), ASKED_SECONDS)
    reach.receive_untrusted(said(t=b"dance"), ASKED_SECONDS)
    assert side.told[-1] == ("peer", Probe("tcp", V4, NONCE))
    assert reach.ignored["unknown-message"] == 1


def test_who_comes_again_has_no_more_than_before() -> None:
    side, allowances = Recorder(), ReachAllowances()
    for number in range(10):
        for party in ("one", "other"):
            reach = Reach(lambda payload: None, side, party, None, partial(allowances.take, party))
            for count in range(10):
                reach.receive_untrusted(Forward("tcp", V4, bytes([number, count]) * 6).encode(), 0.0)
    assert Counter(party for party, _ in side.told) == {"one": ASKED_BURST, "other": ASKED_BURST}


# ---- a world of peers, with NATs before some of them


@dataclass(eq=False)
class Link:
    """One end of a connection: where it sees the other."""

    observed: Endpoint
    path: PathName
    reach: Reach[Link] = field(init=False)


@dataclass(eq=False)
class Peer:
    """A node: its desk, its conclusions, and what it does on the wire; also the `DialBack` of its desk."""

    world: World
    name: str
    outside: Endpoint
    nat: Nat | None = None
    gets_out: bool = True
    """Whether it has got through to anybody."""
    listens: bool = True
    silent: bool = False
    """Whether it says nothing of what became of its dialling, and does not dial."""

    def __post_init__(self) -> None:
        rng = random.Random(self.name)
        self.links: list[Link] = []
        self.seen: list[tuple[Endpoint, Endpoint]] = []
        self.dialled: list[Endpoint] = []
        self.granted: list[tuple[str, bytes]] = []
        self.reachability = ReachabilityProbe(rng, self.world.now, is_own=self.is_own)
        self.desk = ReachDesk(
            lambda: self.links,
            is_own=self.is_own,
            endpoint_seen=lambda by, seen, now: self.seen.append((by, seen.endpoint)),
            asker=self.reachability,
            dialler=self,
            limits=ReachLimits(),
            rng=rng,
        )

    def is_own(self, host: str) -> bool:
        return host == self.outside.host

    def able(self, transport: Transport, *, ipv6: bool) -> bool:
        return self.gets_out

    def knows(self, host: str, transport: Transport) -> bool:
        return any(link.observed.host == host for link in self.links)

    def dial_back(self, helper: Acquaintance, forward: Forward) -> None:
        if self.silent:
            return
        self.dialled.append(forward.endpoint)
        through = self.world.dial_back(self, forward.endpoint, forward.transport, forward.nonce)
        self.desk.dial_ended(helper, forward.nonce, "connected" if through else "timed-out")

    def grant_late_answers(self, asker: Acquaintance, idle: Idle) -> None:
        self.granted.append((asker.observed.host, idle.nonce))

    def sends(self, transport: Transport, remote: Endpoint) -> Endpoint:
        """Something leaves: where it comes from, as ``remote`` sees it."""
        self.reachability.sent_to[transport].sent(remote, self.world.now)
        if self.nat is None:
            return self.outside
        inside = Endpoint("10.0.0.2", self.outside.port)
        external = self.nat.outbound(transport, inside, remote, self.world.now)
        assert external is not None
        return external

    def lets_in(self, transport: Transport, port: int, remote: Endpoint) -> bool:
        return self.nat is None or self.nat.inbound(transport, port, remote, self.world.now) is not None

    def asks(self, helper: Link, transport: Transport = "utp") -> Probe | None:
        """Ask, if it is time to."""
        probe = self.reachability.probe(helper.observed, transport, self.outside, self.world.now)
        if probe is not None:
            helper.reach.ask(probe)
            self.world.deliver()
        return probe

    def verdict(self, transport: Transport = "utp") -> bool | None:
        return self.reachability.verdict(transport, self.world.now, ipv6=self.outside.is_ipv6)


class World:
    """Everybody, and a wire that carries messages in the order in which they were sent."""

    def __init__(self) -> None:
        self.now = 0.0
        self.peers: list[Peer] = []
        self.forged: bytes | None = None
        """The nonce that diallers present instead of the true one."""
        self._wire: deque[tuple[list[Link], int, bytes]] = deque()

    def peer(self, name: str, host: str, behaviour: NatBehaviour | None = None, **more: bool) -> Peer:
        nat = Nat(behaviour, host, random.Random(4)) if behaviour is not None else None
        peer = Peer(self, name, Endpoint(host, 6881), nat, **more)
        self.peers.append(peer)
        return peer

    def link(self, one: Peer, other: Peer, path: PathName = "utp") -> Link:
        """``one`` dials ``other``; its end of the connection."""
        transport: Transport = "tcp" if path == "tcp" else "utp"
        source = one.sends(transport, other.outside)
        other.reachability.came_in(transport, source, self.now)
        other.sends(transport, source)
        ends = [Link(other.outside, path), Link(source, path)]
        for number, at in enumerate((one, other)):
            at.links.append(ends[number])
            seen = Seen(transport, ends[number].observed)
            ends[number].reach = Reach(self._say(ends, 1 - number), at.desk, ends[number], seen)
        for end in ends:
            end.reach.handshake_received(ExtendedHandshake(m={Reach.NAME: 1}), self.now)
        self.deliver()
        return ends[0]

    def deliver(self) -> None:
        while self._wire:
            ends, number, payload = self._wire.popleft()
            ends[number].reach.receive_untrusted(payload, self.now)

    def dial_back(self, dialler: Peer, endpoint: Endpoint, transport: Transport, nonce: bytes) -> bool:
        """Whether it got through."""
        source = dialler.sends(transport, endpoint)
        target = next((peer for peer in self.peers if peer.outside == endpoint), None)
        if target is None or not target.listens or not target.lets_in(transport, endpoint.port, source):
            return False
        target.reachability.came_in(transport, source, self.now)
        target.sends(transport, source)  # the answer, before anything can be read
        presented = nonce_of(dial_back_peer_id(self.forged or nonce))
        assert presented is not None
        target.reachability.dialled_back(presented, source, transport, self.now)
        return True

    def _say(self, ends: list[Link], number: int) -> Say:
        return lambda payload: self._wire.append((ends, number, payload))


CONE = NatBehaviour(filtering=Dependence.ADDRESS_AND_PORT_DEPENDENT)
RESTRICTED = NatBehaviour(filtering=Dependence.ADDRESS_DEPENDENT)
FULLCONE = NatBehaviour(filtering=Dependence.ENDPOINT_INDEPENDENT)


def scene(behaviour: NatBehaviour | None, helpers: int = FAILURES, diallers: int = 1) -> tuple[World, Peer, list[Link]]:
    """An asker that has dialled helpers, each with diallers of its own."""
    world = World()
    asker = world.peer("asker", "20.0.0.1", behaviour)
    links = []
    for number in range(helpers):
        helper = world.peer(f"helper{number}", f"21.{number}.0.1")
        for other in range(diallers):
            world.link(world.peer(f"dialler{number}-{other}", f"22.{number}.{other}.1"), helper)
        links.append(world.link(asker, helper))
    return world, asker, links


def ask_all(world: World, asker: Peer, links: list[Link], transport: Transport = "utp") -> list[bool | None]:
    """Probe through each helper, two seconds apart; the verdicts on the way."""
    verdicts = []
    for link in links:
        world.now += 2.0
        assert asker.asks(link, transport) is not None
        verdicts.append(asker.verdict(transport))
    return verdicts


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("behaviour", [None, FULLCONE])
def test_an_open_port_is_found_at_once(behaviour: NatBehaviour | None, transport: Transport) -> None:
    world, asker, links = scene(behaviour)
    if behaviour is not None and transport == "tcp":
        asker.sends("tcp", Endpoint("20.5.5.5", 1))  # as for an announce: there is a mapping
    assert ask_all(world, asker, links[:1], transport) == [True]
    other: Transport = "tcp" if transport == "utp" else "utp"
    assert asker.verdict(other) is None
    (sentence,) = asker.reachability.evidence(world.now, ipv6=False)
    assert "22.0.0.1:6881" in sentence


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("behaviour", [CONE, RESTRICTED])
def test_a_filter_is_believed_after_three_helpers(behaviour: NatBehaviour, transport: Transport) -> None:
    world, asker, links = scene(behaviour)
    assert ask_all(world, asker, links, transport) == [None, None, False]
    assert "in vain" in asker.reachability.evidence(world.now, ipv6=False)[0]
    assert asker.reachability.report(world.now) == (
        Reachability(utp4=False) if transport == "utp" else Reachability(tcp4=False)
    )


def test_one_helper_alone_leaves_the_verdict_open_whatever_the_nat() -> None:
    for behaviour in (None, FULLCONE, CONE):
        world, asker, links = scene(behaviour, helpers=1, diallers=0)
        assert ask_all(world, asker, links) == [None]
        world, asker, links = scene(CONE, helpers=1, diallers=5)
        for _ in range(20):
            world.now += HELPER_PAUSE
            asker.asks(links[0])
        assert asker.verdict() is None, "the same helper twenty times is one helper"


def test_three_helpers_of_one_network_are_one() -> None:
    world = World()
    asker = world.peer("asker", "20.0.0.1", CONE)
    for number in range(5):
        helper = world.peer(f"helper{number}", f"21.0.0.{number}")
        world.link(world.peer(f"dialler{number}", f"22.{number}.0.1"), helper)
        link = world.link(asker, helper)
        world.now += 2.0
        assert (asker.asks(link) is None) is bool(number)
    assert asker.verdict() is None


def test_a_helper_that_dials_itself_proves_nothing() -> None:
    world, asker, links = scene(RESTRICTED, helpers=1, diallers=0)
    probe = asker.reachability.probe(links[0].observed, "utp", asker.outside, world.now)
    assert probe is not None
    helper = world.peers[1]
    assert world.dial_back(helper, asker.outside, "utp", probe.nonce), "the filter lets in whom we sent to"
    assert asker.verdict() is None
    world, asker, links = scene(None, helpers=2, diallers=0)
    probe = asker.reachability.probe(links[0].observed, "utp", asker.outside, world.now)
    assert probe is not None
    assert world.dial_back(world.peers[2], asker.outside, "utp", probe.nonce), "a friend of the helper, whom we know"
    assert asker.verdict() is None


def test_a_forged_nonce_proves_nothing() -> None:
    world, asker, links = scene(None)
    world.forged = NONCE
    assert ask_all(world, asker, links) == [None] * 3


@pytest.mark.parametrize(
    ("by", "transport", "later", "counts"),
    [
        (Endpoint("23.0.0.1", 5), "utp", PROBE_SECONDS - 1, True),
        (Endpoint("23.0.0.1", 5), "utp", PROBE_SECONDS, False),
        (Endpoint("23.0.0.1", 5), "tcp", 1.0, False),
        (V6, "utp", 1.0, False),
        (V4, "utp", 1.0, False),  # the helper
        (Endpoint("10.0.0.9", 5), "utp", 1.0, False),
    ],
)
def test_a_nonce_is_good_once_in_time_and_for_what_was_asked(
    by: Endpoint, transport: Transport, later: float, counts: bool
) -> None:
    asker = World().peer("asker", "20.0.0.1").reachability
    probe = asker.probe(V4, "utp", Endpoint("20.0.0.1", 6881), 0.0)
    assert probe is not None
    asker.came_in(transport, by, later)
    assert asker.dialled_back(probe.nonce, by, transport, later) is counts
    assert (asker.verdict("utp", later, ipv6=False) is True) is counts
    stranger = Endpoint("24.0.0.1", 5)
    asker.came_in("utp", stranger, 2.0)
    assert not asker.dialled_back(probe.nonce, stranger, "utp", 2.0), "a nonce is good once"


def test_a_liar_that_says_connected_proves_nothing_and_one_that_says_in_vain_is_one_of_three() -> None:
    world, asker, links = scene(None, helpers=4, diallers=0)
    outcomes: list[Outcome] = ["connected", "timed-out", "refused", "timed-out"]
    for link, outcome in zip(links, outcomes, strict=True):
        world.now += 2.0
        probe = asker.reachability.probe(link.observed, "utp", asker.outside, world.now)
        assert probe is not None
        assert asker.verdict() is None
        asker.reachability.answered(Endpoint("9.9.9.9", 9), probe.nonce, "timed-out", world.now)
        asker.reachability.answered(link.observed, NONCE, "timed-out", world.now)
        asker.reachability.answered(link.observed, probe.nonce, outcome, world.now)
    assert asker.verdict() is False


def test_a_dialler_that_cannot_dial_makes_room_for_another() -> None:
    world, asker, links = scene(None, helpers=1, diallers=2)
    unable = next(peer for peer in world.peers if peer.name == "dialler0-0")
    unable.gets_out = False
    for _ in range(6):  # whichever is asked first
        world.now += 1000.0
        assert asker.asks(links[0])
        assert asker.verdict()
        asker.reachability.network_changed(world.now)
    assert unable.dialled == []


def test_diallers_that_say_nothing_are_passed_over() -> None:
    world, asker, links = scene(None, helpers=1, diallers=MAX_DIALLERS)
    helper, *diallers = world.peers[1:]
    for dialler in diallers:
        dialler.silent = True
    began = world.now
    assert asker.asks(links[0]) is not None
    while not helper.desk.statistics().refused:
        world.now += 1.0
        helper.desk.tick(world.now)
        world.deliver()
    assert helper.desk.statistics().refused == {"no-dialler": 1}
    assert world.now - began == MAX_DIALLERS * DIALLER_SECONDS < PROBE_SECONDS, "within the patience of the asker"


def test_behind_a_silent_dialler_another_one_gets_his_turn() -> None:
    world, asker, links = scene(None, helpers=1, diallers=2)
    helper, *diallers = world.peers[1:]
    for first in diallers:
        world.now += UNABLE_PAUSE
        diallers[0].silent, diallers[1].silent = first is diallers[0], first is diallers[1]
        asker.asks(links[0])
        world.now += DIALLER_SECONDS
        helper.desk.tick(world.now)
        world.deliver()
        assert asker.verdict()
        asker.reachability.network_changed(world.now)


def test_a_helper_that_says_nothing_at_all_is_asked_again_after_half_a_minute() -> None:
    world, asker, links = scene(None, helpers=1, diallers=0)
    assert asker.reachability.probe(links[0].observed, "utp", asker.outside, world.now)  # it is lost
    world.now += UNABLE_PAUSE - 1
    assert asker.asks(links[0]) is None
    world.now += 1
    assert asker.asks(links[0]) is not None


def test_who_is_asked_in_vain_again_and_again_is_asked_ever_less() -> None:
    world, asker, links = scene(None, helpers=1, diallers=0)
    asked = []
    for _ in range(3 * int(HELPER_PAUSE)):
        world.now += 1.0
        if asker.asks(links[0]) is not None:
            asked.append(world.now)
    pauses = [later - earlier for earlier, later in pairwise(asked)]
    assert pauses == [30, 60, 120, 240, 480, 600]


def test_a_helper_that_has_had_us_dialled_is_not_asked_again_for_ten_minutes() -> None:
    world, asker, links = scene(CONE, helpers=1)
    assert asker.asks(links[0]) is not None
    world.now += HELPER_PAUSE - 1
    assert asker.asks(links[0]) is None
    world.now += 1
    assert asker.asks(links[0]) is not None


def test_late_answers_are_given_to_whom_we_see_ourselves() -> None:
    world, asker, links = scene(CONE, helpers=1)
    links[0].reach.ask_late_answers(Idle(b"8 bytes!"))
    relayed = world.link(asker, world.peers[1], "relayed")
    relayed.reach.ask_late_answers(Idle(b"8 others"))
    world.deliver()
    assert world.peers[1].granted == [("20.0.0.1", b"8 bytes!")]


def test_a_helper_that_sent_somebody_whom_we_have_met_is_asked_again_soon() -> None:
    world, asker, links = scene(None, helpers=1)
    asker.sends("utp", Endpoint("22.0.0.1", 6881))  # the dialler, who has not heard it
    assert ask_all(world, asker, links) == [None]
    world.now += UNABLE_PAUSE - 1
    assert asker.asks(links[0]) is None
    world.now += 1
    assert asker.asks(links[0]) is not None


def test_who_cannot_dial_does_not_count_against_us() -> None:
    world, asker, links = scene(CONE, helpers=4)
    for peer in world.peers:
        peer.gets_out = not peer.name.startswith("dialler")
    assert ask_all(world, asker, links) == [None] * 4
    world.now += UNABLE_PAUSE
    assert asker.asks(links[0]), "it may have found somebody by now"


def test_an_acquaintance_does_not_dial() -> None:
    world, asker, links = scene(None, helpers=1)
    world.link(asker, next(peer for peer in world.peers if peer.name.startswith("dialler")))
    assert ask_all(world, asker, links) == [None]
    assert all(peer.dialled == [] for peer in world.peers)


def test_a_dialler_is_not_at_the_askers_address_nor_at_the_helpers_and_best_of_another_region() -> None:
    world = World()
    asker, helper = world.peer("asker", "20.0.0.1"), world.peer("helper", "21.0.0.1")
    link = world.link(asker, helper)
    for host in ("20.0.0.1", "21.0.0.1", "10.0.0.9", "127.0.0.1"):
        world.link(world.peer(f"at {host}", host), helper)
    asker.asks(link)
    assert helper.desk.statistics().refused == {"no-dialler": 1}
    near, far = world.peer("near", "20.0.9.1"), world.peer("far", "24.0.0.1")
    relayed = world.peer("relayed", "25.0.0.1")
    world.link(relayed, helper, "relayed")
    world.link(far, helper)
    world.link(near, helper)
    world.now += UNABLE_PAUSE
    asker.asks(link)
    assert (len(far.dialled), near.dialled, relayed.dialled) == (1, [], [])
    far.gets_out = False
    world.now += 1000.0
    asker.asks(link)
    assert len(near.dialled) == 1


# ---- what an attacker might want


@pytest.mark.parametrize("endpoint", [Endpoint("8.8.8.8", 53), Endpoint("10.0.0.1", 80), Endpoint("20.0.0.1", 0), V6])
def test_nobody_has_anything_dialled_but_at_his_own_address(endpoint: Endpoint) -> None:
    world, _, links = scene(None)
    links[0].reach.ask(Probe("tcp", endpoint, NONCE))
    world.deliver()
    assert [peer.desk.statistics().refused for peer in world.peers if peer.name == "helper0"] == [{"not-yours": 1}]
    assert all(peer.dialled == [] for peer in world.peers)


def test_nobody_behind_a_relay_has_anything_dialled() -> None:
    world, asker, _ = scene(None)
    link = world.link(asker, world.peers[1], "relayed")
    link.reach.ask(Probe("utp", asker.outside, NONCE))
    world.deliver()
    assert all(peer.dialled == [] for peer in world.peers)
    assert asker.seen.count((world.peers[1].outside, asker.outside)) == 1, "nor is told where a relay is"


@pytest.mark.parametrize("endpoint", [Endpoint("10.0.0.1", 80), Endpoint("127.0.0.1", 80), Endpoint("22.0.0.1", 5), V6])
def test_a_lying_helper_makes_nobody_knock_inside(endpoint: Endpoint) -> None:
    world, _, _ = scene(None)
    dialler = next(peer for peer in world.peers if peer.name == "dialler0-0")
    dialler.desk.forward_asked(dialler.links[0], Forward("tcp", endpoint, NONCE), world.now)
    assert (dialler.dialled, dialler.desk.statistics().refused) == ([], {"failed": 1})


def test_one_probe_is_one_dial_and_dials_are_rationed() -> None:
    world, asker, links = scene(None, helpers=1, diallers=MAX_DIALLERS)
    for number in range(200):
        links[0].reach.ask(Probe("utp", asker.outside, bytes([number]) * NONCE_SIZE))
    world.deliver()
    assert sum(len(peer.dialled) for peer in world.peers) == ASKED_BURST
    helper, dialler = world.peers[1], world.peers[2]
    helper_link, dialler_link = helper.links[-1], dialler.links[0]
    for number in range(200):
        nonce = number.to_bytes(NONCE_SIZE, "big")
        helper.desk.probe_asked(helper_link, Probe("utp", asker.outside, nonce), world.now)
        dialler.desk.forward_asked(dialler_link, Forward("utp", asker.outside, nonce), world.now)
    assert helper.desk.statistics().helped == HELPS_BURST
    assert dialler.desk.statistics().dialled == DIALS_BURST


def test_a_nonce_under_way_is_not_taken_twice_and_errands_are_forgotten() -> None:
    world, _, _ = scene(None, helpers=1)
    helper, dialler = world.peers[1], world.peers[2]
    link, other = helper.links[-1], helper.links[0]
    probe = Probe("utp", link.observed, NONCE)
    for now in (0.0, 1.0, PROBE_SECONDS):
        helper.desk.probe_asked(link, probe, now)
    assert helper.desk.statistics().refused == {"busy": 1}
    assert helper.desk.statistics().helped == 2
    for number in range(2 * MAX_ERRANDS):
        now = 1000.0 + number / 10
        asked = Probe("utp", link.observed, number.to_bytes(NONCE_SIZE, "big"))
        helper.desk.probe_asked(link, asked, now)
    assert len(helper.desk._errands) <= MAX_ERRANDS
    assert dialler.dialled == []
    helper.desk.result_told(link, ProbeResult(NONCE, "timed-out"), 0.0)
    helper.desk.result_told(other, ProbeResult(b"x" * NONCE_SIZE, "timed-out"), 0.0)


def test_nobody_but_its_dialler_ends_an_errand() -> None:
    world, _, _ = scene(CONE, helpers=1, diallers=0)
    helper = world.peers[1]
    for number in range(2):
        world.link(world.peer(f"silent{number}", f"24.{number}.0.1"), helper)
    asker_link, *others = helper.links
    heard: list[Outcome] = []
    asker_link.reach.tell = lambda nonce, outcome: heard.append(outcome)  # type: ignore[method-assign]
    asked: list[Link] = []
    for link in others:
        link.reach.forward = lambda forward, link=link: asked.append(link)  # type: ignore[misc, method-assign]
    helper.desk.probe_asked(asker_link, Probe("utp", asker_link.observed, NONCE), world.now)
    (dialler,) = asked
    for link in helper.links:
        if link is not dialler:
            helper.desk.result_told(link, ProbeResult(NONCE, "timed-out"), world.now)
    assert heard == []
    helper.desk.result_told(dialler, ProbeResult(NONCE, "timed-out"), world.now)
    helper.desk.result_told(dialler, ProbeResult(NONCE, "timed-out"), world.now)
    assert heard == ["timed-out"]


# ---- arrivals, and what was sent


def test_a_stranger_that_comes_by_himself_proves_it_but_not_in_the_first_ten_minutes() -> None:
    asker = World().peer("asker", "20.0.0.1")
    probe = asker.reachability
    assert probe.came_in("tcp", V4, 1.0) is None
    assert probe.came_in("utp", V4, QUIET) == "host"
    assert probe.report(QUIET) == Reachability(utp4=True)
    assert probe.came_in("tcp", V6, QUIET) == "host"
    assert probe.report(QUIET) == Reachability(utp4=True, tcp6=True)
    assert probe.report(QUIET + VERDICT_AGE) == Reachability()
    probe.came_in("tcp", V4, QUIET)
    probe.network_changed(QUIET)
    assert probe.report(QUIET) == Reachability()


def test_of_many_strangers_one_a_minute_is_looked_at_and_all_are_remembered() -> None:
    probe = World().peer("asker", "20.0.0.1").reachability
    others = [Endpoint(f"21.0.0.{number}", 6881) for number in range(3)]
    told = [probe.came_in("utp", other, QUIET + number) for number, other in enumerate(others)]
    assert told == ["host", None, None]
    assert all(probe.sent_to["utp"].uninvited(other.host, QUIET + 3) for other in others)
    assert probe.came_in("utp", V4, QUIET + NOTICE_PAUSE) == "host"


@pytest.mark.parametrize("host", ["10.0.0.3", "127.0.0.1", "20.0.0.1", "fe80::1"])
def test_a_neighbour_that_comes_proves_nothing(host: str) -> None:
    asker = World().peer("asker", "20.0.0.1")
    assert asker.reachability.came_in("tcp", Endpoint(host, 5), 2 * QUIET) is None
    assert asker.reachability.report(2 * QUIET) == Reachability()


def test_whoever_was_sent_to_proves_nothing_for_ten_minutes() -> None:
    asker = World().peer("asker", "20.0.0.1")
    asker.reachability.sent_to["tcp"].sent(V4, 1000.0)
    assert asker.reachability.came_in("tcp", V4, 1001.0) is None
    assert asker.reachability.came_in("tcp", Endpoint(V4.host, 9), 1001.0) == "port"
    assert asker.reachability.report(1001.0) == Reachability()
    assert asker.reachability.came_in("tcp", V4, 1000.0 + QUIET) == "host"


def test_strangers_and_failures_in_turn() -> None:
    world, asker, links = scene(CONE)
    assert ask_all(world, asker, links)[-1] is False
    assert asker.asks(links[0]) is None, "a verdict is looked at again after a while"
    world.now += 1000.0
    asker.reachability.came_in("utp", Endpoint("23.0.0.1", 5), world.now)
    assert asker.verdict() is True, "somebody has opened the port"
    assert asker.asks(links[0]) is None
    world.now += 1000.0
    for link in links:
        assert asker.asks(link) is not None
        world.now += 1000.0
    assert asker.verdict() is False, "and closed it"
    world.now += VERDICT_AGE
    assert asker.verdict() is None


def test_peers_of_the_other_family_are_no_helpers() -> None:
    asker = World().peer("asker", "20.0.0.1")
    with pytest.raises(ValueError, match="cannot have"):
        asker.reachability.probe(V6, "tcp", V4, 0.0)
    assert asker.reachability.probe(Endpoint("10.0.0.1", 5), "tcp", V4, 0.0) is None, "a neighbour sees no NAT"
    assert asker.reachability.probe(V6, "tcp", V6, 0.0) is not None


def test_what_was_sent_is_never_forgotten_early() -> None:
    memory = SentTo()
    for number in range(200_000):
        memory.sent(Endpoint(f"30.{number >> 16}.{number >> 8 & 255}.{number & 255}", 6881), 0.0)
    for number in range(0, 200_000, 997):
        remote = Endpoint(f"30.{number >> 16}.{number >> 8 & 255}.{number & 255}", 6881)
        assert memory.quiet_for(remote.host, 10.0) == 10.0
        assert memory.heard(remote, 10.0) is None
    fresh = SentTo()
    assert fresh.quiet_for(V4.host, 10.0) == float("inf")
    for number in range(5_000):
        fresh.sent(Endpoint(f"30.0.{number >> 8}.{number & 255}", 6881), 0.0)
    strangers = sum(
        fresh.heard(Endpoint(f"31.0.{number >> 8}.{number & 255}", 6881), 1.0) == "host" for number in range(1000)
    )
    assert 890 < strangers < 960, "one in thirteen shares a bucket"


def test_who_spoke_first_is_known_after_the_answer() -> None:
    memory = SentTo()
    assert memory.heard(V4, 0.0) == "host"
    memory.sent(V4, 0.0)
    assert memory.heard(V4, 1.0) is None
    assert memory.uninvited(V4.host, 1.0)
    assert not memory.uninvited(V4.host, QUIET)
    for number in range(2 * MAX_UNINVITED):
        memory.heard(Endpoint(f"31.0.{number >> 8}.{number & 255}", 1), 1.0)
    assert not memory.uninvited(V4.host, 1.0), "memory is bounded"


@pytest.mark.parametrize("order", [("tcp", "utp"), ("utp", "tcp")])
def test_one_dialler_is_enough_for_both_transports(order: tuple[Transport, Transport]) -> None:
    world, asker, links = scene(None, helpers=2, diallers=0)
    dialler = world.peer("dialler", "22.0.0.1")
    for helper in world.peers[1:3]:
        world.link(dialler, helper)
    for transport, link in zip(order, links, strict=True):
        world.now += 2.0
        assert asker.asks(link, transport)
    assert asker.reachability.report(world.now) == Reachability(tcp4=True, utp4=True)


def test_outcomes_are_slugs() -> None:
    assert all(outcome == outcome.lower() and " " not in outcome for outcome in OUTCOMES)
