"""Who is dialled when, what is refused, and that nobody can fill the list with lies."""

from __future__ import annotations

import random

import pytest

from swarm.endpoint import Endpoint
from swarm.knownpeer import MAX_RECENT, KnownPeer
from swarm.peerlist import (
    CUT_OFF_AFTER,
    FIRST_BACKOFF,
    FIRST_BACKOFF_MANUAL,
    IN_A_TURN,
    MAX_BACKOFF,
    MAX_INTRODUCERS,
    MAX_OWN,
    MAX_PER_HOST,
    MAX_PER_INTRODUCER,
    RECONNECT_AFTER,
    SEED,
    PeerList,
)
from swarm.priority import peer_priority


def new_list(seed: int = 1, max_peers: int = 2000) -> PeerList:
    return PeerList(rng=random.Random(seed), max_peers=max_peers)


def at(number: int, port: int = 6881) -> Endpoint:
    return Endpoint(f"198.{18 + number // 65536}.{number // 256 % 256}.{number % 256}", port)


def added(peers: PeerList, endpoint: Endpoint, now: float = 0.0) -> KnownPeer:
    peer = peers.add(endpoint, "tracker", now)
    assert peer is not None
    return peer


# -- taking in --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "endpoint",
    [
        Endpoint("198.18.0.1", 0),
        Endpoint("0.0.0.0", 6881),
        Endpoint("224.0.0.1", 6881),
        Endpoint("255.255.255.255", 6881),
        Endpoint("::", 6881),
        Endpoint("ff02::1", 6881),
    ],
    ids=str,
)
def test_endpoints_that_nobody_can_be_at_are_refused(endpoint: Endpoint) -> None:
    peers = new_list()
    assert peers.add(endpoint, "pex", 0.0) is None
    assert (len(peers), peers.refused["not-dialable"]) == (0, 1)


def test_what_several_sources_say_of_a_peer_is_joined() -> None:
    peers = new_list()
    first = peers.add(at(1), "tracker", 0.0)
    again = peers.add(at(1), "pex", 1.0, introducer=at(9), flags=0x04, peer_id=b"x" * 20)
    peers.add(at(1), "pex", 2.0, introducer=at(8), flags=0x08)
    assert first is again is peers.get(at(1))
    assert first is not None
    assert first.sources == {"tracker", "pex"}
    assert (first.introducers, first.flags, first.peer_id) == ([at(9), at(8)], 0x0C, b"x" * 20)
    assert (first.discovered_at, len(peers), at(1) in peers) == (0.0, 1, True)


def test_introducers_are_bounded_and_the_latest_kept() -> None:
    peers = new_list()
    for number in range(20):
        peers.add(at(1), "pex", 0.0, introducer=at(100 + number))
    peer = peers.get(at(1))
    assert peer is not None
    assert peer.introducers == [at(100 + number) for number in range(20 - MAX_INTRODUCERS, 20)]


def test_one_liar_cannot_fill_the_list() -> None:
    peers = new_list()
    for number in range(5000):
        peers.add(at(number), "pex", 0.0, introducer=at(60_000))
    assert len(peers) == MAX_PER_INTRODUCER
    assert peers.add(at(5001), "pex", 0.0, introducer=at(60_001)) is not None


@pytest.mark.parametrize("host", ["198.18.0.1", "2001:db8::{}"])
def test_one_address_cannot_fill_the_list(host: str) -> None:
    peers = new_list()
    for number in range(1, 200):
        peers.add(Endpoint(host.format(f"{number:x}"), number), "tracker", 0.0)
    assert len(peers) == MAX_PER_HOST


def test_loopback_may_hold_a_whole_swarm() -> None:
    peers = new_list()
    for port in range(1, 200):
        peers.add(Endpoint("127.0.0.1", port), "lsd", 0.0)
    assert len(peers) == 199


def test_a_full_list_forgets_what_failed_and_never_what_is_connected_or_was() -> None:
    peers = new_list(max_peers=100)
    kept = [added(peers, at(number)) for number in range(2)]
    for peer in kept:
        peers.connected(peer, "tcp")
    peers.disconnected(kept[1], 1.0)
    for number in range(2, 100):
        added(peers, at(number))
    assert peers.add(at(200), "tracker", 0.0) is None, "hearsay does not push out what was not tried"
    now = 2.0
    while (peer := peers.next_to_dial(now)) is not None:
        peers.failed(peer, "tcp", "refused", now)
    for number in range(200, 1000):
        peers.add(at(number), "tracker", 3.0)
        assert len(peers) <= 100
    assert all(peers.get(peer.endpoint) is peer for peer in kept)
    assert at(200) in peers


def test_our_own_endpoints_are_never_taken_in_again() -> None:
    peers = new_list()
    peers.exclude(at(1))
    peers.is_own(added(peers, at(2)))
    assert len(peers) == 0
    assert [peers.add(at(number), "dht", 0.0) for number in (1, 2)] == [None, None]
    assert peers.next_to_dial(0.0) is None


def test_where_we_are_is_asked_each_time_for_it_may_change() -> None:
    ours = {at(1)}
    peers = PeerList(rng=random.Random(1), is_ours=ours.__contains__)
    assert peers.add(at(1), "pex", 0.0) is None
    neighbour = added(peers, at(1, 7))
    ours.clear()
    assert peers.add(at(1), "pex", 0.0) is not None
    ours.update((at(1), at(1, 7)))
    peers.set_our_address(at(1))
    assert len(peers) == 0 and peers.get(neighbour.endpoint) is None


def test_a_banned_address_is_forgotten_with_all_its_ports() -> None:
    peers = new_list()
    dialed = added(peers, at(1, 1))
    assert peers.next_to_dial(0.0) is dialed
    added(peers, at(1, 2))
    other = added(peers, at(2))
    peers.ban(at(1).host)
    assert peers.is_banned(at(1).host)
    assert peers.add(at(1, 3), "tracker", 0.0) is None
    peers.failed(dialed, "tcp", "refused", 0.0)
    assert peers.next_to_dial(0.0) is other
    assert peers.next_to_dial(1e9) is None


# -- the order of dialling --------------------------------------------------------------------------------------------


def test_untried_peers_come_before_retries() -> None:
    peers = new_list()
    first = added(peers, at(1))
    assert peers.next_to_dial(0.0) is first
    peers.failed(first, "tcp", "refused", 0.0)
    second = added(peers, at(2), 1e6)
    assert peers.next_to_dial(1e6) is second
    assert peers.next_to_dial(1e6) is first


def test_a_peer_is_not_handed_out_twice() -> None:
    peers = new_list()
    for number in range(50):
        added(peers, at(number))
    handed = [peers.next_to_dial(0.0) for _ in range(60)]
    assert handed[50:] == [None] * 10
    assert len(set(handed[:50])) == 50


def test_back_off_doubles_up_to_an_hour() -> None:
    peers = new_list()
    peer = added(peers, at(1))
    now = 0.0
    for attempt in range(12):
        assert peers.next_to_dial(now) is peer
        assert (peer.attempts, peer.failures, peer.last_attempt) == (attempt + 1, attempt, now)
        peers.failed(peer, "tcp", "timed-out", now)
        deadline = peers.next_deadline()
        assert deadline is not None
        assert deadline - now == pytest.approx(min(FIRST_BACKOFF * 2**attempt, MAX_BACKOFF), rel=0.11)
        assert peers.next_to_dial(deadline - 0.1) is None
        now = deadline


def test_peers_that_the_user_named_go_first_and_are_retried_soon() -> None:
    peers = new_list()
    for number in range(20):
        added(peers, at(number))
    named = peers.add(at(100), "manual", 0.0)
    assert named is not None
    assert peers.next_to_dial(0.0) is named
    peers.failed(named, "tcp", "refused", 0.0)
    while peers.next_to_dial(0.0) is not None:
        pass
    assert peers.next_to_dial(FIRST_BACKOFF_MANUAL * 1.1) is named


def test_the_rungs_of_one_climb_count_as_one_failure() -> None:
    peers = new_list()
    peer = added(peers, at(1))
    peers.next_to_dial(0.0)
    peers.failed(peer, "utp", "timed-out", 5.0)
    peers.failed(peer, "tcp", "refused", 5.0)
    assert (peer.failures, peer.reasons, peer.last_reason) == (1, {"utp": "timed-out", "tcp": "refused"}, "refused")


def test_among_untried_peers_the_canonical_priority_decides() -> None:
    ours = Endpoint("203.0.113.5", 6881)
    for late in (False, True):
        peers = new_list()
        if not late:
            peers.set_our_address(ours)
        everyone = [added(peers, at(number * 777)) for number in range(40)]
        if late:
            peers.set_our_address(ours)
        order = [peers.next_to_dial(0.0) for _ in everyone]
        assert order == sorted(everyone, key=lambda peer: -peer_priority(ours, peer.endpoint))


def test_ipv6_is_slightly_preferred() -> None:
    peers = new_list()
    for number in range(200):
        added(peers, at(number * 300))
        added(peers, Endpoint(f"2001:db8:{number:x}::1", 6881))
    first = [peers.next_to_dial(0.0) for _ in range(100)]
    share = sum(peer is not None and peer.endpoint.is_ipv6 for peer in first)
    assert 50 < share < 90


def test_a_connected_peer_is_not_dialled_and_returns_later_by_the_path_that_worked() -> None:
    peers = new_list()
    peer = added(peers, at(1))
    peers.next_to_dial(0.0)
    peers.connected(peer, "utp")
    assert peer.busy
    assert peers.next_to_dial(1e6) is None
    peers.disconnected(peer, 1e6, bytes_down=5, bytes_up=7)
    assert (peer.good_path, peer.bytes_down, peer.bytes_up) == ("utp", 5, 7)
    assert peers.next_to_dial(1e6 + RECONNECT_AFTER - 1) is None
    assert peers.next_to_dial(1e6 + RECONNECT_AFTER) is peer


def test_an_inbound_connection_keeps_us_from_dialling_but_shows_no_path() -> None:
    peers = new_list()
    peer = peers.add(at(1), "incoming", 0.0)
    assert peer is not None
    peers.connected(peer, "tcp", inbound=True)
    assert peer.good_path is None
    assert peers.next_to_dial(100.0) is None


def test_of_two_connections_to_a_peer_the_last_counts() -> None:
    peers = new_list()
    peer = added(peers, at(1))
    peers.connected(peer, "tcp")
    peers.connected(peer, "utp")
    peers.disconnected(peer, 10.0)
    assert peers.next_to_dial(1000.0) is None
    peers.disconnected(peer, 2000.0)
    assert peers.next_to_dial(2000.0 + RECONNECT_AFTER) is peer


def test_an_attempt_that_was_broken_off_is_made_again() -> None:
    peers = new_list()
    peer = added(peers, at(1))
    peers.next_to_dial(0.0)
    peers.disconnected(peer, 1.0)
    assert (peer.failures, peers.next_to_dial(1.0 + RECONNECT_AFTER)) == (0, peer)


def test_seeds_are_passed_over_while_seeding() -> None:
    peers = new_list()
    seed = peers.add(at(1), "pex", 0.0, flags=SEED)
    leech = added(peers, at(2))
    assert peers.next_to_dial(0.0, seeding=True) is leech
    assert peers.next_to_dial(0.0, seeding=True) is None
    assert peers.next_to_dial(1e6) is seed


def test_after_a_change_of_network_everybody_is_tried_again() -> None:
    peers = new_list()
    for number in range(10):
        peers.failed(added(peers, at(number)), "tcp", "refused", 0.0)
    while (peer := peers.next_to_dial(0.0)) is not None:
        peers.failed(peer, "tcp", "refused", 0.0)
    peers.retry_all(1.0)
    assert len({peers.next_to_dial(1.0) for _ in range(10)} - {None}) == 10


# -- answers ----------------------------------------------------------------------------------------------------------


def test_why_says_it_in_one_line() -> None:
    peers = new_list()
    assert peers.why() == "0 known"
    everyone = [added(peers, at(number)) for number in range(13)]
    for peer in everyone[:11]:
        peer.dialing = True
    for number, peer in enumerate(everyone[:10]):
        peers.failed(peer, "tcp", "timed-out" if number < 7 else "refused", 1.0)
    peers.connected(everyone[10], "tcp")
    assert (
        peers.why()
        == "13 known, 1 connected, 10 tried: 7 timed out, 3 refused, 2 being tried or waiting for their turn"
    )
    assert peers.reasons() == {"timed-out": 7, "refused": 3}


def test_a_refusal_over_one_path_says_more_than_the_silence_on_another() -> None:
    peers = new_list()
    peer = added(peers, at(1))
    peers.next_to_dial(0.0)
    peers.failed(peer, "tcp", "refused", 0.0)
    peers.failed(peer, "utp", "timed-out", 5.0)
    assert peers.why() == "1 known, 1 tried: 1 refused"


def test_what_happened_to_a_peer_is_remembered_in_a_ring() -> None:
    peers = new_list()
    peer = added(peers, at(1))
    assert peer.recent is None
    for number in range(100):
        peers.failed(peer, "tcp", "refused", float(number))
    assert peer.recent is not None
    assert len(peer.recent) == MAX_RECENT
    assert peer.recent[-1] == (99.0, "refused", "tcp")


def test_the_most_useful_peers_are_those_that_are_or_were_connected() -> None:
    peers = new_list()
    everyone = [added(peers, at(number)) for number in range(6)]
    peers.connected(everyone[4], "tcp")
    for number, when in ((3, 10.0), (5, 20.0)):
        peers.connected(everyone[number], "tcp")
        peers.disconnected(everyone[number], when)
    assert peers.most_useful(3) == [everyone[4], everyone[5], everyone[3]]


def test_hearsay_keeps_nobody_out_whom_the_user_or_a_tracker_names() -> None:
    """Ten strangers filled the list by peer exchange in ten seconds; a tracker then named peers in vain."""
    peers = new_list(max_peers=40)
    for number in range(40):
        assert peers.add(at(number), "pex", 0.0, introducer=at(1000 + number)) is not None
    assert peers.add(at(100), "dht", 0.0) is None
    assert peers.refused["full"] == 1
    for number, source in enumerate(("manual", "tracker", "resume")):
        assert peers.add(at(200 + number), source, 0.0) is not None
    assert len(peers) <= 40
    vouched = new_list(max_peers=5)
    for number in range(5):
        added(vouched, at(number))
    assert vouched.add(at(9), "manual", 0.0) is None, "trackers' peers do not give way"


def test_of_endpoints_of_our_own_the_latest_are_remembered() -> None:
    """Whoever comes with our peer id adds one each time: 2,000 of them were 2,000 more in memory."""
    peers = new_list()
    for port in range(1, 2 * MAX_OWN):
        peers.exclude(at(1, port))
    peers.exclude(at(1, MAX_OWN))
    assert sum(peers.owns(at(1, port)) for port in range(1, 2 * MAX_OWN)) == MAX_OWN
    assert peers.owns(at(1, MAX_OWN))
    assert peers.add(at(1, 2 * MAX_OWN - 1), "dht", 0.0) is None


def test_random_histories_keep_the_list_bounded_and_hand_out_only_idle_peers() -> None:
    for seed in range(60):
        rng = random.Random(seed)
        peers = new_list(seed, max_peers=40)
        now = 0.0
        connected: list[KnownPeer] = []
        dialing: list[KnownPeer] = []
        for _ in range(300):
            now += rng.random() * 30
            match rng.randrange(6):
                case 0 | 1:
                    peers.add(at(rng.randrange(200)), "pex", now, introducer=at(rng.randrange(300, 303)))
                case 2:
                    peer = peers.next_to_dial(now)
                    if peer is not None:
                        assert peer not in connected, f"seed {seed}"
                        assert peer not in dialing, f"seed {seed}"
                        assert not peers.is_banned(peer.endpoint.host), f"seed {seed}"
                        dialing.append(peer)
                case 3 if dialing:
                    peers.failed(dialing.pop(rng.randrange(len(dialing))), "tcp", "refused", now)
                case 4 if dialing:
                    connected.append(dialing.pop(rng.randrange(len(dialing))))
                    peers.connected(connected[-1], "tcp")
                case 5 if connected and rng.random() < 0.5:
                    peers.disconnected(connected.pop(rng.randrange(len(connected))), now)
                case 5 if rng.random() < 0.2:
                    peers.ban(at(rng.randrange(200)).host)
            assert len(peers) <= 40
            assert all(peer.endpoint in peers or peers.is_banned(peer.endpoint.host) for peer in connected + dialing)
            assert len(peers._later) <= 4 * 40 + 1


def test_whom_more_than_strangers_have_named_goes_before_hearsay() -> None:
    peers = PeerList(rng=random.Random(1))
    for number in range(20):
        peers.add(Endpoint(f"9.9.{number}.9", 1), "pex", 0.0)
    late = peers.get(Endpoint("9.9.7.9", 1))
    named = peers.add(Endpoint("8.8.8.8", 1), "tracker", 0.0)
    peers.add(Endpoint("9.9.7.9", 1), "manual", 0.0)
    assert [peers.next_to_dial(0.0, hearsay=False) for _ in range(3)] == [late, named, None]
    assert named is not None and late is not None
    peers.failed(named, "tcp", "timed-out", 0.0)
    assert peers.next_to_dial(100.0, hearsay=False) is named  # before strangers' that were not tried yet
    assert len({peers.next_to_dial(100.0) for _ in range(19)} - {None}) == 19
    assert peers.next_to_dial(100.0) is None


def test_an_introducer_that_names_many_does_not_keep_those_of_others_waiting() -> None:
    peers = PeerList(rng=random.Random(1))
    for number in range(200):
        peers.add(Endpoint(f"9.9.{number}.9", 1), "pex", 0.0, introducer=Endpoint("1.1.1.1", 1))
    honest = peers.add(Endpoint("8.8.8.8", 1), "pex", 0.0, introducer=Endpoint("2.2.2.2", 1))
    assert honest in [peers.next_to_dial(0.0) for _ in range(IN_A_TURN + 1)]


def test_a_peer_that_was_cut_off_is_dialled_again_at_once() -> None:
    peers = PeerList(rng=random.Random(1))
    peers.add(Endpoint("20.0.0.1", 6881), "tracker", 0.0)
    peer = peers.next_to_dial(0.0)
    assert peer is not None
    peers.connected(peer, "utp")
    peers.disconnected(peer, 100.0, cut_off=True)
    assert peers.next_to_dial(100.0) is None
    assert peers.next_to_dial(100.0 + CUT_OFF_AFTER) is peer
