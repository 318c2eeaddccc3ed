"""NatProbe: what follows from what is told, who is outvoted, and what is forgotten."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.connect.natprobe import ExternalAddressChanged, NatProbe
from swarm.connect.natverdict import MAX_LISTED, SMALL, port_step
from swarm.connect.report import Behaviour, NatReport
from swarm.connect.votes import MAX_AGE, MAX_NETWORKS, MAX_PER_NETWORK, QUORUM, Sample, Source
from swarm.endpoint import Endpoint
from swarm.net.nat_discovery import NatObservations, Observed
from swarm.simnet.nat import Dependence, Nat, NatBehaviour

INSIDE = Endpoint("10.0.0.2", 6881)
OUTSIDE = "20.9.0.1"
EI: Behaviour = "endpoint-independent"
AD: Behaviour = "address-dependent"
APD: Behaviour = "address-and-port-dependent"


def reporter(number: int, port: int = 6881) -> Endpoint:
    """A host in a /24 of its own."""
    return Endpoint(f"21.{number >> 8}.{number & 255}.7", port)


def ready(ipv6: bool = False, addresses: Iterable[str] = (INSIDE.host,)) -> NatProbe:
    probe = NatProbe(ipv6=ipv6)
    probe.bound(INSIDE.port, list(addresses), 0.0)
    return probe


def see(probe: NatProbe, ports: Iterable[int], host: str = OUTSIDE, start: float = 0.0, first: int = 0) -> None:
    """Reports of one network each, a tenth of a second apart."""
    for number, port in enumerate(ports):
        probe.observed(reporter(first + number), Endpoint(host, port), start + number / 10, source="dht")


def through(nat: Nat, probe: NatProbe, reporters: Iterable[Endpoint], start: float = 0.0) -> None:
    """What these hosts see of packets that go out through ``nat``."""
    for number, remote in enumerate(reporters):
        now = start + number / 10
        external = nat.outbound("udp", INSIDE, remote, now)
        assert external is not None
        probe.observed(remote, external, now, source="dht")


def stun(mapping: Behaviour, filtering: Behaviour, *ports: int) -> NatObservations:
    seen = [Observed(Endpoint(f"22.0.{n}.1", 3478), Endpoint(OUTSIDE, port)) for n, port in enumerate(ports)]
    return NatObservations(mapping, filtering, tuple(seen), ())


# ---- the truth table


@pytest.mark.parametrize(
    ("ports", "mapping", "step"),
    [
        ([], "unknown", None),
        ([6881] * 3, "unknown", None),
        ([5, 6, 7], "unknown", None),
        ([6881] * 4, EI, None),
        ([6881, 6881, 9, 6881], EI, None),
        ([6881, 6881, 9, 9], "unknown", None),
        ([6881, 6881, 9, 10], "unknown", None),
        ([7001, 7002, 7003, 7004], APD, 1),
        ([7001, 7005, 7009, 7013], APD, 4),
        ([7001, 7003, 7009, 7011], APD, 2),  # others opened mappings in between
        ([7003, 7001, 7007, 7005], APD, 2),  # answers overtook each other
        ([65534, 65535, 1024, 1025], APD, 1),  # the ports went round
        ([7001, 40312, 2210, 61007], APD, 0),
        ([7001, 7002, 40312, 9000], APD, 0),  # two of them close by chance
    ],
)
def test_four_looks_decide(ports: list[int], mapping: Behaviour, step: int | None) -> None:
    probe = ready()
    see(probe, ports)
    report = probe.report(1.0)
    assert (report.mapping, report.port_step) == (mapping, step)
    assert report.filtering == "unknown"


@pytest.mark.parametrize("dependence", Dependence)
@pytest.mark.parametrize(
    ("allocation", "steps"),
    [("preserving", 1), ("sequential", 1), ("sequential", 3), ("sequential", 20), ("random", 1)],
)
@pytest.mark.parametrize("two_ports", [False, True])
def test_the_words_are_what_the_nat_was_made_to_do(
    dependence: Dependence, allocation: str, steps: int, two_ports: bool
) -> None:
    behaviour = NatBehaviour(mapping=dependence, allocation=allocation, step=steps, collision="sequential")  # type: ignore[arg-type]
    nat, probe = Nat(behaviour, OUTSIDE, random.Random(7)), ready()
    asked = [reporter(n // 2, 1 + n % 2) for n in range(12)] if two_ports else [reporter(n) for n in range(6)]
    through(nat, probe, asked)
    report = probe.report(2.0)
    tested = dependence is Dependence.ENDPOINT_INDEPENDENT or two_ports
    assert report.mapping == (dependence.value if tested else APD), report
    assert any("presumed" in line for line in report.evidence) is not tested
    if dependence is Dependence.ENDPOINT_INDEPENDENT:
        assert report.port_preserving is (allocation == "preserving")
        assert (report.external, report.port_step) == ((probe.external(2.0),), None)
    else:
        assert report.port_preserving is False
        assert probe.external(2.0) is None
        assert len(report.external) == MAX_LISTED
        in_between = 2 if two_ports and dependence is Dependence.ADDRESS_AND_PORT_DEPENDENT else 1
        assert report.port_step == (0 if allocation == "random" else steps * in_between)


@pytest.mark.parametrize(("ipv6", "ours"), [(False, "20.4.4.4"), (True, "2a0e::4")])
def test_who_is_seen_at_his_own_address_has_no_nat(ipv6: bool, ours: str) -> None:
    probe = ready(ipv6, [INSIDE.host, "fd00::2", ours])
    for number in range(4):
        remote = Endpoint(f"2a0f:0:{number}::1", 1) if ipv6 else reporter(number)
        probe.observed(remote, Endpoint(ours, INSIDE.port), 0.0, source="dht")
    report = probe.report(0.0)
    assert (report.mapping, report.double_nat, report.port_preserving) == ("none", False, True)
    assert probe.external(0.0) == Endpoint(ours, INSIDE.port)
    probe.unsolicited(Endpoint("2a0f:1::1", 1) if ipv6 else reporter(99), False, 0.0)
    assert probe.report(0.0).filtering == "none"


def test_another_port_at_our_own_address_is_a_translation_all_the_same() -> None:
    probe = ready(addresses=["20.4.4.4"])
    see(probe, [9000] * 4, "20.4.4.4")
    assert (probe.report(1.0).mapping, probe.report(1.0).port_preserving) == (EI, False)


@pytest.mark.parametrize(
    ("gateway", "seen", "double"),
    [
        (None, OUTSIDE, None),
        (OUTSIDE, OUTSIDE, False),
        ("20.9.0.2", OUTSIDE, True),
        ("192.168.1.2", OUTSIDE, True),
        ("100.64.0.2", None, True),
        (OUTSIDE, None, None),
    ],
)
def test_the_gateways_word_against_ours_shows_double_nat(
    gateway: str | None, seen: str | None, double: bool | None
) -> None:
    probe = ready()
    probe.gateway_says(gateway, 0.0)
    if seen is not None:
        see(probe, [6881] * 4, seen)
    assert probe.report(1.0).double_nat is double
    probe.gateway_says(None, 1.0)
    assert probe.report(1.0).double_nat is None


@pytest.mark.parametrize(
    ("seen", "again", "double"),
    [
        (OUTSIDE, 2.0, True),
        (OUTSIDE, 7.0, None),
        (OUTSIDE, None, None),
        ("20.4.4.4", 2.0, None),
        (None, 2.0, None),
    ],
)
def test_where_the_gateway_has_no_address_who_is_seen_meanwhile_is_behind_another(
    seen: str | None, again: float | None, double: bool | None
) -> None:
    probe = ready(addresses=[INSIDE.host, "20.4.4.4"])
    if seen is not None:
        see(probe, [9000] * 4, seen)
    probe.gateway_says(None, 1.0, addressless=(1.0, 1.0))
    assert probe.report(1.0).double_nat is None, "its line may be down"
    if again is not None:
        see(probe, [9000], OUTSIDE if seen is None else seen, start=again)
    probe.gateway_says(None, 8.0, addressless=(1.0, 5.0))
    assert probe.report(8.0).double_nat is double
    assert any("has no outside address" in sentence for sentence in probe.report(8.0).evidence) is (double is True)
    probe.gateway_says(None, 9.0, addressless=(9.0, 9.0))
    assert probe.report(9.0).double_nat is None, "it has told another thing meanwhile"
    probe.gateway_says(OUTSIDE, 10.0)
    assert probe.report(10.0).double_nat is (None if seen is None else seen != OUTSIDE)


@pytest.mark.parametrize(
    ("told", "host", "port", "kept_out", "filtering"),
    [
        ("unknown", False, False, False, "unknown"),
        ("unknown", True, False, False, EI),
        ("unknown", False, True, False, "unknown"),
        ("unknown", False, False, True, "unknown"),
        ("unknown", False, True, True, AD),
        (APD, False, False, False, APD),
        (APD, True, False, False, EI),
        (APD, False, True, False, AD),
        (AD, False, True, True, AD),
        (EI, False, False, False, EI),
    ],
)
def test_filtering_is_told_by_who_gets_in(
    told: Behaviour, host: bool, port: bool, kept_out: bool, filtering: Behaviour
) -> None:
    probe = ready()
    probe.stun_says(stun("unknown", told), 0.0)
    if host:
        probe.unsolicited(reporter(1), False, 0.0)
    if port:
        probe.unsolicited(reporter(2), True, 0.0)
    if kept_out:
        probe.strangers_kept_out(0.0)
    assert probe.report(1.0).filtering == filtering
    assert bool(probe.report(1.0).evidence) is (host or port or kept_out or told != "unknown")
    assert probe.report(MAX_AGE).filtering == told, "who got in, or did not, ages"


@pytest.mark.parametrize("host", ["10.0.0.9", "127.0.0.1", OUTSIDE, "20.4.4.4", "2a0e::1"])
def test_neighbours_are_not_filtered_and_prove_nothing(host: str) -> None:
    probe = ready(addresses=["20.4.4.4"])
    see(probe, [6881] * 4)
    probe.unsolicited(Endpoint(host, 5), False, 1.0)
    assert probe.report(1.0).filtering == "unknown"


# ---- STUN


def test_stun_decides_where_too_few_have_spoken() -> None:
    probe = ready()
    probe.stun_says(stun(EI, AD, 6881, 6881), 0.0)
    report = probe.report(0.0)
    assert (report.mapping, report.filtering, report.port_preserving) == (EI, AD, True)
    assert probe.external(0.0) == Endpoint(OUTSIDE, 6881)
    assert probe.take_results() == [ExternalAddressChanged(None, OUTSIDE)]
    probe.stun_says(NatObservations("unknown", "unknown", (), (("mapping I", "timed-out"),)), 1.0)
    assert (probe.report(1.0).mapping, probe.report(1.0).filtering) == (EI, AD), "no answer takes nothing back"


def test_stun_tells_the_step_by_three_looks() -> None:
    probe = ready()
    probe.stun_says(stun(APD, APD, 7000, 7002, 7004), 0.0)
    assert (probe.report(0.0).mapping, probe.report(0.0).port_step) == (APD, 2)
    assert [sample.external.port for sample in probe.samples(0.0)] == [7000, 7002, 7004]


def test_many_voices_outweigh_stun_which_tells_what_they_cannot() -> None:
    probe = ready()
    probe.stun_says(stun(AD, AD, 7001, 7002), 0.0)
    see(probe, [6881] * 8)
    assert probe.report(1.0).mapping == EI
    other = ready()
    other.stun_says(stun(AD, AD, 7001, 7002), 0.0)
    see(other, [7003, 7004, 7005, 7006])
    assert other.report(1.0).mapping == AD


def test_without_translation_stun_says_none() -> None:
    probe = ready(addresses=[OUTSIDE])
    probe.stun_says(stun("none", "none", 6881, 6881), 0.0)
    assert (probe.report(0.0).mapping, probe.report(0.0).filtering) == ("none", "none")


# ---- liars, and reports that mean nothing


@pytest.mark.parametrize("lie", ["address", "port", "ports"])
def test_four_lies_in_ten_from_few_networks_move_nothing(lie: str) -> None:
    probe, rng = ready(), random.Random(3)
    for number in range(200):
        if rng.random() < 0.4:
            liar = Endpoint(f"66.6.{number % 3}.{number}", 1 + number)
            host = "66.1.1.1" if lie == "address" else OUTSIDE
            port = rng.randrange(1024, 65536) if lie == "ports" else 4444
            probe.observed(liar, Endpoint(host, port), number / 10, source="dht")
        else:
            see(probe, [6881], start=number / 10, first=number)
        if number > 20:
            report = probe.report(number / 10)
            assert (report.mapping, report.external) == (EI, (Endpoint(OUTSIDE, 6881),)), number
    assert probe.take_results() == [ExternalAddressChanged(None, OUTSIDE)]


def test_four_lies_in_ten_do_not_make_a_symmetric_nat_look_endpoint_independent() -> None:
    nat = Nat(
        NatBehaviour(mapping=Dependence.ADDRESS_AND_PORT_DEPENDENT, allocation="sequential"), OUTSIDE, random.Random(2)
    )
    probe = ready()
    for number in range(60):
        through(nat, probe, [reporter(number)], number / 10)
        if number % 3 < 2:
            probe.observed(Endpoint(f"66.6.{number % 3}.9", 1), Endpoint(OUTSIDE, 4444), number / 10, source="dht")
    assert (probe.report(6.0).mapping, probe.report(6.0).port_step) == (APD, 1)


def test_one_network_has_one_voice() -> None:
    probe = ready()
    for number in range(50):
        probe.observed(Endpoint(f"21.0.0.{number}", 1), Endpoint(OUTSIDE, 6881), 0.0, source="dht")
    assert (probe.report(0.0).mapping, probe.external_host(0.0)) == ("unknown", None)
    six = ready(ipv6=True)
    for number in range(50):
        six.observed(Endpoint(f"2a0f:0:1:{number:x}::1", 1), Endpoint("2a0e::9", 6881), 0.0, source="dht")
    assert six.external_host(0.0) is None


@pytest.mark.parametrize(
    ("by", "where"),
    [
        ("10.0.0.7", Endpoint("10.0.0.2", 6881)),
        ("10.0.0.7", Endpoint(OUTSIDE, 6881)),
        ("21.0.0.1", Endpoint("10.0.0.2", 6881)),
        ("100.64.0.1", Endpoint(OUTSIDE, 6881)),
        ("21.0.0.1", Endpoint(OUTSIDE, 0)),
        ("21.0.0.1", Endpoint("2a0e::1", 6881)),
        ("2a0e::1", Endpoint(OUTSIDE, 6881)),
        ("fe80::1%eth0", Endpoint("fe80::2", 6881)),
    ],
)
def test_who_is_on_our_side_or_talks_of_the_other_family_has_no_vote(by: str, where: Endpoint) -> None:
    probe = ready()
    probe.observed(Endpoint(by, 1), where, 0.0, source="dht")
    if where.port:
        probe.address_seen(by, where.host, 0.0, source="bep10")
    assert probe.report(0.0) == NatReport()
    assert probe.samples(0.0) == []


def test_a_neighbour_behind_our_own_nat_has_no_vote() -> None:
    probe = ready()
    see(probe, [6881] * 4)
    before = probe.samples(1.0)
    probe.observed(Endpoint(OUTSIDE, 7000), Endpoint("20.8.8.8", 1), 1.0, source="bep10")
    assert probe.samples(1.0) == before


# ---- the address alone


def test_votes_without_a_port_agree_on_the_address_only() -> None:
    probe = ready()
    sources: list[Source] = ["bep10", "tracker", "pex", "bep10"]
    for number, source in enumerate(sources):
        assert probe.external_host(0.0) is None
        probe.address_seen(reporter(number).host, OUTSIDE, 0.0, source=source)
    assert (probe.external_host(0.0), probe.external(0.0)) == (OUTSIDE, None)
    report = probe.report(0.0)
    assert replace(report, evidence=()) == NatReport()
    assert report.evidence == (f"4 of 4 networks that told us see us at {OUTSIDE} (peers 2, trackers 1, PEX 1).",)


def test_votes_without_a_port_do_not_crowd_out_those_with_one() -> None:
    probe = ready()
    see(probe, [6881] * 4)
    for number in range(500):
        probe.address_seen(reporter(1000 + number).host, OUTSIDE, 1.0, source="bep10")
    assert probe.external(1.0) == Endpoint(OUTSIDE, 6881)


# ---- time


def test_reports_age_and_are_refreshed() -> None:
    probe = ready()
    see(probe, [6881] * 4)
    assert probe.report(MAX_AGE - 1).mapping == EI
    assert replace(probe.report(MAX_AGE + 1), evidence=()) == NatReport()
    see(probe, [6881] * 4, start=MAX_AGE)
    assert probe.report(MAX_AGE + 1).mapping == EI
    assert probe.take_results() == [ExternalAddressChanged(None, OUTSIDE)]


def test_a_new_majority_is_a_new_address_and_the_old_routers_behaviour_is_forgotten() -> None:
    probe = ready()
    see(probe, [6881] * 8)
    probe.stun_says(stun(EI, APD, 6881), 1.0)
    probe.hairpin_says(True, 1.0)
    probe.lifetime_says(30.0, 60.0, 1.0)
    assert probe.take_results() == [ExternalAddressChanged(None, OUTSIDE)]
    for number in range(40):
        see(probe, [9000], "20.9.0.2", 2.0, 100 + number)
        if number < 8:
            assert probe.take_results() == []
    assert probe.take_results() == [ExternalAddressChanged(OUTSIDE, "20.9.0.2")]
    report = probe.report(3.0)
    assert (report.external, report.filtering, report.hairpin, report.lifetime) == (
        (Endpoint("20.9.0.2", 9000),),
        "unknown",
        None,
        None,
    )


@pytest.mark.parametrize(
    ("said", "double"), [(OUTSIDE, None), ("20.9.0.2", False), ("20.9.0.3", True), ("100.64.0.2", True)]
)
def test_with_the_old_address_goes_the_gateways_word_for_it(said: str, double: bool | None) -> None:
    probe = ready()
    see(probe, [6881] * 8)
    probe.gateway_says(said, 1.0)
    see(probe, [6881] * 16, "20.9.0.2", 2.0, 100)
    assert probe.external_host(4.0) == "20.9.0.2"
    assert probe.report(4.0).double_nat is double


def test_after_a_change_of_network_an_old_address_found_again_is_no_change() -> None:
    probe = ready()
    see(probe, [6881] * 4)
    probe.take_results()
    probe.network_changed(1.0)
    assert probe.report(1.0) == NatReport()
    see(probe, [6881] * 4, start=1.0)
    assert probe.take_results() == []
    probe.network_changed(2.0)
    see(probe, [6881] * 4, "20.9.0.5", 2.0)
    assert probe.take_results() == [ExternalAddressChanged(OUTSIDE, "20.9.0.5")]


def test_another_socket_is_another_beginning() -> None:
    probe = ready()
    see(probe, [6881] * 4)
    probe.bound(INSIDE.port, ["10.0.0.3"], 1.0)
    assert probe.report(1.0).mapping == EI
    probe.bound(7000, ["10.0.0.3"], 1.0)
    assert probe.report(1.0) == NatReport()


def test_what_was_measured_is_reported_in_a_sentence() -> None:
    probe = ready()
    probe.hairpin_says(False, 0.0)
    probe.lifetime_says(27.0, 57.0, 0.0)
    report = probe.report(0.0)
    assert (report.hairpin, report.lifetime) == (False, 27.0)
    assert report.evidence == (
        "A packet to our own outside endpoint did not come back.",
        "An idle UDP mapping lasted 27 s, and was gone after 57 s.",
    )
    probe.lifetime_says(290.0, None, 0.0)
    assert probe.report(0.0).evidence[1] == "An idle UDP mapping lasted 290 s, which is as long as we waited."


def test_the_evidence_reads_like_this() -> None:
    probe = ready()
    see(probe, [7001, 7002, 7003, 7004])
    probe.gateway_says("100.64.0.2", 1.0)
    assert probe.report(1.0).evidence == (
        "4 of 4 networks that told us see us at 20.9.0.1 (DHT 4).",
        "4 networks see 4 endpoints: the mapping depends on who looks.",
        "Nobody was asked at two ports: that the port counts beside the address is presumed.",
        "New mappings get ports in steps of 1.",
        "The outside address of our gateway, 100.64.0.2, is not public: somebody translates beyond it.",
    )


# ---- samples, steps, bounds


def test_samples_are_in_the_order_in_which_the_mappings_showed() -> None:
    probe = ready()
    see(probe, [5, 6, 7])
    probe.observed(reporter(0), Endpoint(OUTSIDE, 5), 9.0, source="reach")
    probe.observed(reporter(1), Endpoint(OUTSIDE, 60), 9.0, source="reach")
    ports = [(sample.time, sample.external.port) for sample in probe.samples(9.0)]
    assert ports == [(0.0, 5), (0.2, 7), (9.0, 60)], "a mapping seen again is as old as it was"
    assert probe.samples(9.0)[0] == Sample(0.0, reporter(0), Endpoint(OUTSIDE, 5))


@pytest.mark.parametrize(
    ("looks", "step"),
    [
        ([], None),
        ([(0, 1), (0, 2)], None),
        ([(0, 1), (10, 2), (20, 3)], None),
        ([(0, 9), (1, 7), (2, 5), (3, 3)], -2),
        ([(0, 9), (0.1, 7), (0.15, 5), (0.17, 3)], 2),
        ([(0, 1), (1, 1 + SMALL), (2, 1 + 2 * SMALL)], SMALL),
        ([(0, 1), (1, 2 + SMALL), (2, 3 + 2 * SMALL)], 0),
        ([(0, 100), (1, 101), (2, 9000), (3, 30000), (4, 30001)], None),
    ],
)
def test_steps(looks: list[tuple[float, int]], step: int | None) -> None:
    assert port_step(looks) == step


def test_random_ports_are_hardly_ever_taken_for_a_sequence() -> None:
    rng = random.Random(11)
    taken = [port_step([(n / 10, rng.randrange(1024, 65536)) for n in range(4)]) for _ in range(20_000)]
    assert sum(step != 0 for step in taken) < 0.015 * len(taken)
    assert sum(bool(step) for step in taken) < 10


def test_memory_is_bounded_whoever_talks() -> None:
    probe = ready()
    for number in range(5_000):
        probe.observed(reporter(number % 500, 1 + number), Endpoint(OUTSIDE, 1 + number), 0.0, source="dht")
    assert len(probe.samples(0.0)) <= MAX_NETWORKS * MAX_PER_NETWORK
    for number in range(5_000):
        probe.observed(Endpoint("30.0.0.1", 1 + number), Endpoint(OUTSIDE, 1 + number), 0.0, source="dht")
    assert len([sample for sample in probe.samples(0.0) if sample.reporter.host == "30.0.0.1"]) == MAX_PER_NETWORK


HOSTS = st.sampled_from(["20.9.0.1", "20.9.0.2", "10.0.0.2", "21.0.0.1", "21.0.1.1", "21.0.2.1", "21.0.3.1", "2a0e::1"])
ENDPOINTS = st.builds(Endpoint, HOSTS, st.integers(0, 65535))


@given(st.lists(st.tuples(ENDPOINTS, ENDPOINTS, st.floats(0, 700)), max_size=40), st.booleans())
def test_whatever_is_told_makes_a_report(told: list[tuple[Endpoint, Endpoint, float]], ipv6: bool) -> None:
    probe, now = ready(ipv6), 0.0
    for by, where, seconds in told:
        now += seconds
        probe.observed(by, where, now, source="dht")
        probe.address_seen(where.host, by.host, now, source="bep10")
        probe.unsolicited(by, bool(where.port % 2), now)
        report = probe.report(now)
        voices = {each.reporter.host.rpartition(".")[0] for each in probe.samples(now)}
        assert report.mapping == "unknown" or len(voices) >= QUORUM
        assert all(endpoint.is_ipv6 is ipv6 for endpoint in report.external)
