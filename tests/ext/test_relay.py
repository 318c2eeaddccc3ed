"""sw_relay at the relay: who may reserve and connect, what passes, what it costs, and hostile clients."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swarm.config import RelayLimits
from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError
from swarm.ext.relay import MESSAGES_BURST
from swarm.ext.relay_circuit import ACCEPT_WITHIN, WINDOW
from swarm.ext.relay_desk import ASKED_BURST, PASSED_AT_ONCE
from swarm.ext.relay_message import (
    FRAME_COST,
    HEADER,
    MAX_DATA,
    Accept,
    Connect,
    Incoming,
    Opened,
    Refused,
    Reserve,
    Reserved,
    Reset,
    Serve,
    close_frame,
    credit_frame,
    credit_of,
    data_frame,
    eof_frame,
)
from tests.relays import Client, World

FREE = RelayLimits(circuit_rate=0, total_rate=0)


class Ends:
    """The two ends of a circuit without a stream: they keep the frames that come."""

    def __init__(self, world: World, initiator: Client, target: Client) -> None:
        self.world, self.initiator, self.target = world, initiator, target
        initiator.say(Connect(1, target.observed))
        (incoming,) = (each for each in target.told if isinstance(each, Incoming))
        self.number = incoming.circuit
        self.heard = {client: _Sink(client, self.number) for client in (initiator, target)}
        target.say(Accept(self.number))
        assert Opened(1, self.number) in initiator.told

    def grant(self, client: Client, count: int) -> None:
        client.near.relay.tell_frame(credit_frame(self.number, count))
        self.world.pump()

    def send(self, client: Client, data: bytes) -> None:
        self.put(client, data_frame(self.number, data))

    def put(self, client: Client, frame: bytes) -> None:
        client.near.relay.carry(_Sink(client, 0), frame)
        self.world.pump()


class _Sink:
    def __init__(self, client: Client, number: int) -> None:
        self.frames: list[bytes] = []
        self.reasons: list[str] = []
        self.queued = 0
        if number:
            client.near.relay.circuits[number] = self

    @property
    def data(self) -> bytes:
        return b"".join(frame[HEADER:] for frame in self.frames if frame[0] == 0)

    @property
    def credit(self) -> int:
        return sum(credit_of(frame) for frame in self.frames if frame[0] == 1)

    def frame_arrived(self, frame: bytes, now: float) -> bool:
        self.frames.append(frame)
        return True

    def reset_arrived(self, reason: str) -> None:
        self.reasons.append(reason)

    def carrier_closed(self) -> None:
        self.reasons.append("closed")


def joined(limits: RelayLimits = FREE) -> Ends:
    world = World(limits)
    return Ends(world, world.client("20.0.2.1"), world.client("20.0.3.1", reserved=True))


def refusal(client: Client) -> str | None:
    refused = [message.reason for message in client.told if isinstance(message, Refused)]
    return refused[-1] if refused else None


# ---- reserving and connecting


def test_clients_are_told_whether_it_serves() -> None:
    world = World()
    client = world.client("20.0.2.1")
    assert client.told == [Serve(True)]
    world.serving = False
    world.pass_time(2)
    assert client.told == [Serve(True), Serve(False)]
    client.say(Reserve(9))
    assert client.told[-1] == Refused(9, "not-serving")


def test_a_node_that_does_not_serve_says_nothing_of_it() -> None:
    world = World()
    world.serving = False
    world.pass_time(2)
    assert world.client("20.0.2.1").told == []


def test_a_circuit_is_opened_with_the_consent_of_its_target() -> None:
    world = World()
    one, other = world.client("20.0.2.1"), world.client("20.0.3.1", reserved=True)
    assert other.told == [Serve(True), Reserved(7)]
    one.say(Connect(4, other.observed))
    incoming = other.told[-1]
    assert isinstance(incoming, Incoming) and incoming.sender == one.observed
    assert one.told == [Serve(True)]
    other.say(Accept(incoming.circuit))
    assert one.told[-1] == Opened(4, incoming.circuit)
    statistics = world.desk.statistics()
    assert (statistics.asked, statistics.opened, statistics.circuits, statistics.reservations) == (1, 1, 1, 1)


def test_a_target_is_found_by_where_it_listens_too() -> None:
    world = World()
    listens = Endpoint("20.0.3.1", 6881)
    one, other = world.client("20.0.2.1"), world.client("20.0.3.1", 40000, listens=listens, reserved=True)
    one.say(Connect(4, listens))
    assert isinstance(other.told[-1], Incoming)


def test_the_target_says_no_and_the_initiator_learns_why() -> None:
    world = World()
    one, other = world.client("20.0.2.1"), world.client("20.0.3.1", reserved=True)
    one.say(Connect(4, other.observed))
    incoming = other.told[-1]
    assert isinstance(incoming, Incoming)
    other.say(Reset(incoming.circuit, "not-wanted"))
    assert one.told[-1] == Refused(4, "not-wanted")
    assert world.desk.statistics().refused == {"not-wanted": 1}
    assert world.desk.statistics().circuits == 0


def test_a_target_that_never_answers_is_given_up() -> None:
    world = World()
    one, other = world.client("20.0.2.1"), world.client("20.0.3.1", reserved=True)
    one.say(Connect(4, other.observed))
    sink = _Sink(other, next(iter(other.far.relay.circuits)))
    world.pass_time(ACCEPT_WITHIN + 1)
    assert one.told[-1] == Refused(4, "not-accepted") and sink.reasons == ["not-accepted"]
    assert not one.far.relay.circuits and not other.far.relay.circuits


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (Endpoint("20.0.9.9", 1), "not-connected"),
        (Endpoint("20.0.4.1", 4000), "not-reserved"),
        (Endpoint("20.0.5.1", 4000), "not-connected"),
        (Endpoint("20.0.2.1", 4000), "no-self"),
        (Endpoint("20.0.0.1", 6881), "no-self"),
        (Endpoint("10.0.0.5", 4000), "not-bridged"),
        (Endpoint("127.0.0.1", 4000), "not-bridged"),
        (Endpoint("224.0.0.1", 4000), "no-such-peer"),
        (Endpoint("20.0.3.1", 0), "no-such-peer"),
        (Endpoint("0.0.0.0", 80), "no-such-peer"),
        (Endpoint("fe80::1", 4000), "not-connected"),
    ],
)
def test_it_is_no_open_proxy(target: Endpoint, reason: str) -> None:
    world = World()
    asker = world.client("20.0.2.1")
    world.client("20.0.4.1")
    world.client("20.0.5.1", swarm=b"another" + bytes(13), reserved=True)
    for inside in ("10.0.0.5", "127.0.0.1"):
        world.client(inside, reserved=True)
    asker.say(Connect(1, target))
    assert refusal(asker) == reason
    assert world.desk.statistics().circuits == 0
    assert world.desk.statistics().refused == {reason: 1}


@pytest.mark.parametrize("path", ["relayed", "turn"])
def test_who_comes_through_a_relay_is_not_relayed_further(path: str) -> None:
    world = World()
    direct = world.client("20.0.3.1", reserved=True)
    indirect = world.client("20.0.2.1", path=path)  # type: ignore[arg-type]
    indirect.say(Reserve(1))
    assert refusal(indirect) == "not-direct"
    indirect.say(Connect(2, direct.observed))
    assert refusal(indirect) == "no-such-peer"


def test_only_for_the_hopeless_if_that_is_asked() -> None:
    world = World()
    one, other = world.client("20.0.2.1"), world.client("20.0.3.1")
    other.say(Reserve(7, "sequential"))
    one.say(Connect(1, other.observed, "sequential", True))
    assert refusal(one) == "not-hopeless"
    one.say(Connect(2, other.observed, "random", True))
    assert isinstance(other.told[-1], Incoming)


# ---- what passes


def test_data_passes_both_ways_unchanged_and_in_order() -> None:
    ends = joined()
    for client, other in ((ends.initiator, ends.target), (ends.target, ends.initiator)):
        ends.grant(other, WINDOW)
        assert ends.heard[client].credit == WINDOW
        for part in (b"one", b"two", bytes(MAX_DATA)):
            ends.send(client, part)
        assert ends.heard[other].data == b"onetwo" + bytes(MAX_DATA)
    assert ends.world.desk.statistics().bytes == 2 * (6 + MAX_DATA)


def test_half_close_passes_behind_data_and_the_second_one_ends_the_circuit() -> None:
    ends = joined()
    ends.grant(ends.target, WINDOW)
    ends.send(ends.initiator, b"last")
    ends.put(ends.initiator, eof_frame(ends.number))
    assert [frame[0] for frame in ends.heard[ends.target].frames] == [0, 2]
    ends.grant(ends.initiator, WINDOW)
    ends.send(ends.target, b"answer")
    assert ends.heard[ends.initiator].data == b"answer"
    ends.put(ends.target, eof_frame(ends.number))
    assert ends.world.desk.statistics().ended == {"closed": 1}


def test_close_passes_behind_data() -> None:
    ends = joined()
    ends.grant(ends.target, WINDOW)
    ends.target.near.reads = False
    ends.send(ends.initiator, b"last")
    ends.put(ends.initiator, close_frame(ends.number))
    ends.target.near.reads = True
    ends.world.pump()
    assert [frame[0] for frame in ends.heard[ends.target].frames] == [0, 3]
    assert ends.world.desk.statistics().circuits == 0


def test_a_reset_overtakes_data_and_the_other_end_learns_why() -> None:
    ends = joined()
    ends.grant(ends.target, WINDOW)
    ends.target.near.reads = False
    ends.send(ends.initiator, bytes(MAX_DATA))
    ends.initiator.say(Reset(ends.number, "changed-my-mind"))
    ends.target.near.reads = True
    ends.world.pump()
    assert ends.heard[ends.target].reasons == ["changed-my-mind"] and not ends.heard[ends.target].frames
    assert not ends.heard[ends.initiator].reasons
    assert ends.target.far.freight.backlog == 0


def test_who_hangs_up_ends_his_circuits() -> None:
    ends = joined()
    ends.initiator.close()
    ends.world.pump()
    assert ends.heard[ends.target].reasons == ["lost"]
    assert ends.world.desk.statistics().circuits == 0


# ---- limits


class Pump:
    """Sends as much as it may over a circuit, to an end that reads at once."""

    def __init__(self, ends: Ends) -> None:
        self.ends = ends
        self.sent = self.granted = 0

    def go_on(self) -> None:
        ends, source = self.ends, self.ends.heard[self.ends.initiator]
        while source.credit - self.sent >= MAX_DATA + FRAME_COST:
            ends.send(ends.initiator, bytes(MAX_DATA))
            self.sent += MAX_DATA + FRAME_COST
        if (more := self.sent + WINDOW - self.granted) > 0:
            self.granted += more
            ends.grant(ends.target, more)


def test_circuits_keep_to_their_rate_and_share_that_of_all() -> None:
    world = World(RelayLimits(circuit_rate=1 << 20, total_rate=5 << 19))
    pairs = ((f"20.0.2.{number}", f"20.0.3.{number}") for number in range(1, 5))
    pumps = [Pump(Ends(world, world.client(one), world.client(two, reserved=True))) for one, two in pairs]

    def run(pumps: list[Pump], seconds: float) -> list[int]:
        before = [pump.sent for pump in pumps]
        for _ in range(int(seconds * 20)):
            for pump in pumps:
                pump.go_on()
            world.pass_time(0.05)
        return [pump.sent - sent for pump, sent in zip(pumps, before, strict=True)]

    (alone,) = run(pumps[:1], 4)
    assert 0.95 * (4 << 20) <= alone <= 1.1 * (4 << 20)
    moved = run(pumps, 8)
    assert 0.95 * (20 << 20) <= sum(moved) <= 1.1 * (20 << 20)
    assert max(moved) <= 1.1 * min(moved)


@pytest.mark.parametrize(
    ("limits", "seconds", "reason"),
    [(replace(FREE, circuit_seconds=30), 31, "too-long"), (replace(FREE, idle_seconds=20), 21, "idle")],
)
def test_a_circuit_ends_with_its_time(limits: RelayLimits, seconds: float, reason: str) -> None:
    ends = joined(limits)
    ends.world.pass_time(seconds - 3)
    assert not ends.heard[ends.target].reasons
    ends.world.pass_time(4)
    assert ends.heard[ends.target].reasons == ends.heard[ends.initiator].reasons == [reason]


def test_a_circuit_ends_with_its_bytes() -> None:
    ends = joined(replace(FREE, circuit_bytes=20_000))
    ends.grant(ends.target, WINDOW)
    ends.send(ends.initiator, bytes(MAX_DATA))
    assert not ends.heard[ends.target].reasons
    ends.send(ends.initiator, bytes(MAX_DATA))
    assert ends.heard[ends.target].reasons == ends.heard[ends.initiator].reasons == ["too-much"]


def test_so_many_circuits_of_a_client_of_an_address_and_in_all() -> None:
    world = World(RelayLimits(circuits=4, circuits_per_client=2, circuits_per_address=3))
    targets = [world.client(f"20.0.3.{number}", reserved=True) for number in range(1, 9)]
    one, neighbour = world.client("20.0.2.1", 4000), world.client("20.0.2.1", 4001)
    for number in (0, 1, 2):
        one.say(Connect(number, targets[number].observed))
    assert refusal(one) == "too-many-of-client"
    neighbour.say(Connect(1, targets[2].observed))
    neighbour.say(Connect(2, targets[3].observed))
    assert refusal(neighbour) == "too-many-of-address"
    other = world.client("20.0.4.1")
    other.say(Connect(1, targets[4].observed))
    assert refusal(other) is None
    other.say(Connect(1, targets[5].observed))
    assert refusal(other) == "busy"


def test_one_circuit_for_a_pair() -> None:
    world = World()
    one, other = world.client("20.0.2.1", reserved=True), world.client("20.0.3.1", reserved=True)
    one.say(Connect(1, other.observed))
    one.say(Connect(2, other.observed))
    assert refusal(one) == "already"
    other.say(Connect(3, one.observed))
    assert refusal(other) == "already"


# ---- hostile clients


def test_a_thousand_reservations_of_one_address_are_a_few() -> None:
    world = World()
    clients = [world.client("20.0.2.1", 1000 + number, reserved=True) for number in range(1000)]
    assert world.desk.statistics().reservations == RelayLimits().reservations_per_address
    assert refusal(clients[-1]) == "too-many-of-address"
    assert world.client("20.0.3.1", reserved=True).told[-1] == Reserved(7)


def test_a_thousand_reservations_of_many_addresses_are_bounded() -> None:
    world = World()
    for number in range(1000):
        world.client(f"20.1.{number // 250}.{number % 250 + 1}", reserved=True)
    statistics = world.desk.statistics()
    assert statistics.reservations == RelayLimits().reservations == 256
    assert statistics.refused == {"busy": 744}


def test_a_thousand_reservations_over_one_connection_are_one() -> None:
    world = World()
    client = world.client("20.0.2.1")
    for number in range(1000):
        client.say(Reserve(number))
    assert world.desk.statistics().reservations == 1
    assert client.far.relay.ignored["too-many-messages"] == 1000 - MESSAGES_BURST
    assert len(client.told) <= MESSAGES_BURST + 1


def test_circuits_asked_for_without_end_cost_their_targets_little() -> None:
    world = World(RelayLimits(circuits_per_client=1000))
    target = world.client("20.0.3.1", reserved=True)
    askers = [world.client(f"20.1.0.{number}") for number in range(1, 100)]
    for asker in askers:
        asker.say(Connect(1, target.observed))
    assert sum(isinstance(message, Incoming) for message in target.told) <= RelayLimits().circuits_per_address
    for _ in range(100):
        askers[0].say(Connect(2, Endpoint("20.9.9.9", 1)))
    assert world.desk.statistics().refused["too-many-of-source"] >= 64 - ASKED_BURST


def test_more_data_than_was_granted_ends_the_circuit_and_the_connection() -> None:
    ends = joined()
    ends.grant(ends.target, 10_000)
    with pytest.raises(RemoteProtocolError, match="relay-violation"):
        ends.send(ends.initiator, bytes(MAX_DATA))
    assert ends.heard[ends.target].reasons == [] and ends.target.far.small
    ends.world.pump()
    assert ends.heard[ends.target].reasons == ["violation"]
    assert not ends.heard[ends.target].frames
    assert ends.world.desk.statistics().ended == {"violation": 1}


@pytest.mark.parametrize("count", [0, WINDOW + 1, 1 << 31])
def test_more_credit_than_there_may_be_ends_the_circuit_and_the_connection(count: int) -> None:
    ends = joined()
    with pytest.raises(RemoteProtocolError, match="relay-violation"):
        ends.grant(ends.target, count)


def test_nothing_may_be_sent_before_the_target_agrees_nor_after_an_end() -> None:
    world = World(FREE)
    one, other = world.client("20.0.2.1"), world.client("20.0.3.1", reserved=True)
    one.say(Connect(1, other.observed))
    (number,) = one.far.relay.circuits
    with pytest.raises(RemoteProtocolError, match="relay-violation"):
        other.far.relay.receive_untrusted(credit_frame(number, 5000), world.now)
    ends = joined()
    ends.grant(ends.target, WINDOW)
    ends.put(ends.initiator, eof_frame(ends.number))
    with pytest.raises(RemoteProtocolError, match="relay-violation"):
        ends.send(ends.initiator, b"more")


def test_oversize_frames_end_the_connection() -> None:
    ends = joined()
    with pytest.raises(RemoteProtocolError, match="bad-relay-message"):
        ends.put(ends.initiator, data_frame(ends.number, bytes(MAX_DATA + 1)))


def test_a_circuit_of_others_is_none_of_ones_business() -> None:
    ends = joined()
    stranger = ends.world.client("20.0.6.1")
    ends.grant(ends.target, WINDOW)
    before = len(ends.heard[ends.target].frames)
    stranger.near.relay.carry(_Sink(stranger, 0), data_frame(ends.number, b"injected"))
    stranger.say(Reset(ends.number, "not-mine"))
    stranger.say(Accept(ends.number))
    assert len(ends.heard[ends.target].frames) == before and not ends.heard[ends.target].reasons
    assert stranger.far.relay.ignored["unknown-circuit"] == 1


def test_the_initiator_cannot_accept_for_the_target() -> None:
    world = World()
    one, other = world.client("20.0.2.1"), world.client("20.0.3.1", reserved=True)
    one.say(Connect(1, other.observed))
    one.say(Accept(next(iter(one.far.relay.circuits))))
    assert not any(isinstance(message, Opened) for message in one.told)


def test_a_client_that_never_reads_holds_a_window_of_each_circuit_even_with_an_accomplice() -> None:
    ends = joined()
    ends.grant(ends.target, WINDOW)
    ends.target.near.reads = False
    for _ in range(WINDOW // (MAX_DATA + FRAME_COST)):
        ends.send(ends.initiator, bytes(MAX_DATA))
    assert ends.target.far.freight.backlog > WINDOW - 2 * MAX_DATA
    with pytest.raises(RemoteProtocolError, match="relay-violation"):  # it grants what it has not read
        ends.grant(ends.target, WINDOW // 2)


def test_no_further_circuit_leads_to_a_client_that_does_not_read() -> None:
    """Else two accomplices could fill our memory with circuits that are closed with all their data on the way."""
    ends = joined()
    world = ends.world
    ends.grant(ends.target, WINDOW)
    ends.target.near.reads = False
    for _ in range(WINDOW // (MAX_DATA + FRAME_COST)):
        ends.send(ends.initiator, bytes(MAX_DATA))
    ends.send(ends.initiator, bytes(WINDOW % (MAX_DATA + FRAME_COST) - FRAME_COST))
    ends.put(ends.initiator, close_frame(ends.number))
    assert world.desk.statistics().circuits == 0 and ends.target.far.freight.backlog == WINDOW
    other = world.client("20.0.7.1")
    other.say(Connect(1, ends.target.observed))
    assert refusal(other) == "slow-client"


def test_a_slow_circuit_holds_up_no_other_one_nor_small_messages() -> None:
    world = World(FREE)
    sender = world.client("20.0.2.1")
    slow, quick = world.client("20.0.3.1", reserved=True), world.client("20.0.4.1", reserved=True)
    stuck = Ends(world, sender, slow)
    stuck.grant(slow, WINDOW)
    slow.near.reads = False
    for _ in range(WINDOW // (MAX_DATA + FRAME_COST)):
        stuck.send(sender, bytes(MAX_DATA))
    sender.say(Connect(2, quick.observed))
    incoming = quick.told[-1]
    assert isinstance(incoming, Incoming)
    sink = _Sink(quick, incoming.circuit)
    quick.say(Accept(incoming.circuit))
    quick.near.relay.tell_frame(credit_frame(incoming.circuit, WINDOW))
    world.pump()
    sender.near.relay.carry(_Sink(sender, 0), data_frame(incoming.circuit, b"passes"))
    world.pump()
    assert sink.data == b"passes"


def test_credit_is_passed_on_in_turns() -> None:
    ends = joined(RelayLimits())
    ends.grant(ends.target, WINDOW)
    assert ends.heard[ends.initiator].credit == PASSED_AT_ONCE
    ends.world.pass_time(1)
    assert ends.heard[ends.initiator].credit == WINDOW
